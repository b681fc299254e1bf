"""The front door for Python: ``tune``."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.configs import enqueued
from luthier.contracts import Attentive, Scheduler, Store
from luthier.core.errors import RunError, StorageError, UserError
from luthier.core.params import Config
from luthier.core.space import Space
from luthier.core.study import Budget, Study
from luthier.request import Names, begin, first_trainings, objectives_from, remove, study_from
from luthier.result import Result
from luthier.run.book import Book
from luthier.run.crew import LOCAL, Crew
from luthier.run.gpus import AskedGpus
from luthier.run.interrupts import Interrupts
from luthier.run.limits import Limits
from luthier.run.lock import driving
from luthier.run.loop import Observer, run
from luthier.run.memory import MemoryStore
from luthier.run.vault import opened
from luthier.strategies import build, check_copies
from luthier.target import beside, describe, refuse_while_importing
from luthier.view.closing import closing
from luthier.view.console import Console

DEFAULT_EPOCHS = 30
FLEETING = 'Without storage= nothing outlives this call; storage="study.db" keeps the study and what train() prints.'


def tune(
    target: Callable[..., Any],
    space: Space | Mapping[str, Any] | None = None,
    *,
    minimize: Names = None,
    maximize: Names = None,
    metric: Names = None,
    constraints: Mapping[str, str] | Sequence[str] | None = None,
    samples: int | None = None,
    warm_start: Sequence[str | Path] = (),
    max_epochs: int = DEFAULT_EPOCHS,
    budget: str | int | float | Budget | None = None,
    strategy: str | Scheduler = "playbook",
    workers: int | str = 1,
    threads: int | None = None,
    gpus: AskedGpus = None,
    processes: int = 1,
    pin: bool = False,
    executor: str = LOCAL,
    resources: Mapping[str, float] | None = None,
    slurm: Mapping[str, Any] | None = None,
    storage: str | Path | None = None,
    name: str | None = None,
    seed: int = 0,
    reduce: str = "best",
    quiet: bool = False,
    observers: Sequence[Observer] = (),
    timeout: str | float | None = None,
    worker_memory: str | int | None = None,
    checkpoint_space: str | int | None = None,
    durability: str = "process",
    files: str | Path | None = None,
    enqueue: Sequence[Config] = (),
) -> Result:
    """Tune a training function or a recipe.

    Args:
        target: ``train(trial)``, or a :class:`luthier.Recipe`.
        space: what to search; a recipe brings one of its own, and a study that is stored already has its own.
        minimize, maximize: the metric to optimize; a recipe brings one. ``metric=`` leaves the direction to the name.
            Each may be a list: with several objectives the first one leads, see ``docs/goals.md``.
        samples: how many samples a training epoch has: so the priors of ``"expert"`` know how many updates a training
            makes. A recipe says it by itself; 4,000 are supposed where nobody does.
        warm_start: earlier studies, ``["study.db"]``: the best of each by this study's metric is moved into its space
            and trained first; ``"expert"`` begins with the three best.
        constraints: bounds on reported metrics, ``{"latency_ms": "<= 20", "params": "<= 1e6"}``. A trial that keeps
            them beats every one that does not.
        max_epochs: the length of a full training.
        budget: ``"40 trials"`` (counted as full-length trainings), ``"600 epochs"``, ``"2h"``. None: what
            it has of a study that is stored already, 20 trials of a new one. A training is charged the epochs that it
            reports: one that ends by itself earlier costs less, and where all do, that is said.
        strategy: ``"playbook"``, another name in :data:`luthier.strategies.STRATEGIES`, or a Scheduler.
        workers: trials that train at once, each in a process of its own; ``"auto"``: as many as cores, GPUs and memory
            bear; 0 trains in this process, for debugging. See ``docs/slots.md``.
        threads: processor threads of each worker; cores / workers where None.
        gpus: deals GPUs to the workers, each of which sees its own only: ``"auto"`` all that there are, a number how
            many, a list which. None: every worker sees what this process sees.
        processes: how many processes train each trial, with the environment that torchrun gives them; 1 or more.
        pin: whether each worker stays on its share of the cores, with its data loaders.
        executor: where they train: ``"local"``, this machine; ``"ray"``, the cluster of ``RAY_ADDRESS`` or a Ray of
            this machine; ``"ray:ADDRESS"``; ``"slurm"``. See ``docs/cluster.md``.
        resources: what each worker on Ray needs, ``{"CPU": 2, "GPU": 1}``; one CPU where None.
        slurm: options of the Slurm jobs, ``{"partition": "gpu", "time": 240, "gpus_per_node": 1}``.
        storage: a folder, a file or a URL for the log; in memory where None. A study found there goes on.
        name: names the study in its storage.
        seed: fixes every decision, and every trial with its config.
        reduce: a trial counts with its ``"best"`` epoch or its ``"last"``.
        quiet: print nothing.
        observers: told of every new event.
        timeout: ``"10 min"``, or seconds: a trial that reports nothing for so long is taken to hang; its worker is
            killed, and the trial tried again, three times in all.
        worker_memory: ``"8 GB"``, or bytes: a worker process that holds more is replaced between two trials.
        checkpoint_space: ``"20 GB"``, or bytes, for all checkpoints of the study; the incumbent's is always kept.
        durability: what a recorded report survives: the death of every ``"process"``, or a loss of ``"power"`` too
            (slower: a sync for all reports that came in together).
        files: the folder for checkpoints and logs; where None the one that was named when the study was trained last,
            else beside the database. A database on a server has nothing beside it: name a folder that all who train can
            reach, or for checkpoints a URL as ``"s3://bucket/folder"``.
        enqueue: configurations to train first, at full length: ``[{"learning_rate": 3e-4}]``. What one leaves out takes
            the strong default. Those that the study was given before are not trained again.

    Ctrl-C and SIGTERM stop a study with ``storage`` once its running trials are saved, a second one at once; the same
    call goes on. See ``docs/lasting.md``. The ``KeyboardInterrupt`` has the :class:`Result` so far as its ``result``;
    in a notebook that is ``sys.last_value.result``.

    Returns:
        the result; ``result.report("report.html")`` writes the page.

    Raises:
        UserError: a mistake in what was asked; nothing was written.
        RunError: the study could not go on; what it recorded is kept.
    """
    refuse_while_importing()
    console = Console(quiet=quiet)
    crew = Crew(workers, threads, gpus, processes, pin, executor, resources, slurm)
    limits = Limits.of(timeout, worker_memory, checkpoint_space)
    study = prepare(
        target,
        space,
        console.say,
        minimize=minimize,
        maximize=maximize,
        metric=metric,
        constraints=constraints,
        samples=samples,
        warm_start=warm_start,
        max_epochs=max_epochs,
        budget=budget,
        strategy=strategy,
        name=name,
        seed=seed,
        reduce=reduce,
        storage=storage,
    )
    if storage is None:
        console.say(FLEETING)
    try:
        result = launch(
            study,
            target,
            strategy,
            storage,
            crew,
            console,
            observers,
            limits=limits,
            durability=durability,
            files=files,
            enqueue=enqueue,
        )
    except KeyboardInterrupt as stop:
        if storage is not None:
            console.say(f"{farewell(stop)} Run the same again to go on.")
        elif (so_far := getattr(stop, "result", None)) is not None and so_far.best_config is not None:
            from luthier.view.story import verdict

            console.say(f"Interrupted. {verdict(so_far.history)} In a notebook: result = sys.last_value.result.")
        raise
    console.say(closing(result.history))
    return result


def launch(
    study: Study,
    target: Callable[..., Any],
    strategy: str | Scheduler,
    storage: str | Path | None,
    crew: Crew,
    console: Console,
    observers: Sequence[Observer] = (),
    *,
    limits: Limits | None = None,
    durability: str = "process",
    files: str | Path | None = None,
    enqueue: Sequence[Config] = (),
) -> Result:
    """Begin a prepared study, or go on with the one that the storage holds under its name."""
    crew.accept(target, kept=storage is not None, limits=limits)
    if storage is None and files is not None:
        raise UserError(
            f"files={str(files)!r} is for a study that is kept, and this one is not.",
            'Write storage="study.db" too, or leave files out.',
        )
    configs = enqueued(study.space, enqueue)
    with ExitStack() as stack:
        store: Store = MemoryStore()
        place, cloud, fresh = None, "", False
        if storage is not None:
            from luthier import store as stores

            url = stores.locate(storage)
            study = replace(study, target=beside(study.target, stores.file_of(url)))
            store = log = stack.enter_context(contextlib.closing(stores.SqlStore(url, study.name, durability)))
            place, cloud = stores.files_needed(log, files), stores.cloud_of(log, files)
            fresh = not place.exists()
            stack.enter_context(driving(place, study.name, log.drivers is not None))
        book, begun = begin(store, study, console.say)
        if storage is not None and files is not None:
            log.keep_files(files)
        try:
            book.enqueue(first_trainings(book.history.study, strategy, configs))
            return drive(book, target, strategy, crew, place, console, observers, limits=limits, cloud=cloud)
        except StorageError:
            raise  # the study is no mistake: its disk is full, or its file damaged
        except (UserError, RunError):
            if begun and book.mistaken():  # a mistyped metric, a function that cannot be loaded: leave nothing behind
                store.forget()
                if fresh and place is not None:
                    remove(place)
            raise


def farewell(stop: KeyboardInterrupt) -> str:
    """What became of the running trials when a study was asked to stop."""
    saved, cut = getattr(stop, "saved", 0), getattr(stop, "cut", 0)
    parts = [f"{saved} running trial{'s' * (saved != 1)} saved"] if saved else []
    parts += [f"{cut} cut short (back to the last checkpoint)"] if cut else []
    return f"Interrupted{': ' if parts else ''}{', '.join(parts)}; nothing recorded is lost."


def drive(
    book: Book,
    target: Callable[..., Any],
    strategy: str | Scheduler,
    crew: Crew,
    files: Path | None,
    console: Console,
    observers: Sequence[Observer] = (),
    *,
    limits: Limits | None = None,
    cloud: str = "",
) -> Result:
    """Run an open study to its end.

    Args:
        files: its folder of files; None where there is none.
        cloud: the URL of its checkpoints; empty for ``files``.
    """
    from luthier import __version__

    if book.history.finished is not None:
        fatal = any(s.fatal for s in book.history.stages)
        why = "by a mistake that no tuning mends" if fatal else book.history.finished
        console.say(
            f"The study {book.history.study.name!r} is finished ({why}); nothing is trained. Use another name or "
            f"storage to tune anew{'.' if fatal else ', or give it a larger budget or a wider space.'}"
        )
    else:
        with ExitStack() as stack:
            interrupts = None
            limits = limits or Limits()
            lasting = files is not None or cloud
            if files is None:
                files = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="luthier-")))
            vault = opened(files, cloud)
            stack.callback(vault.close)
            if lasting:  # without storage there is nothing to go on with: the first Ctrl-C ends it
                interrupts = stack.enter_context(Interrupts(console.say, crew.parting))
            book.enter(__version__)
            if hasattr(target, "for_study"):  # a script, which reads the metrics that are asked for
                target = target.for_study(book.history.study)
            executor = crew.hire(target, files, limits, interrupts or (lambda: False), cloud, console.say, book.driver)
            stack.callback(executor.close)
            if isinstance(executor, Attentive):
                executor.attend(lambda: book.history)
            console.open(book.history)
            stack.callback(lambda: console.close(book.history))
            watchers = [console, *observers]
            try:
                run(book, build(strategy), executor, vault, watchers, interrupts, limits.checkpoint_space)
            except KeyboardInterrupt as stop:
                stop.result = Result(book.history)  # type: ignore[attr-defined]
                raise
    return Result(book.history)


def stored_space(storage: str | Path | None, name: str) -> Space | None:
    """The space that was asked for of the study ``name`` in a storage; None where there is none."""
    if storage is None:
        return None
    from luthier import store as stores

    url = stores.locate(storage)
    file = stores.file_of(url)
    if (file is not None and not file.exists()) or name not in stores.study_names(url):
        return None
    with contextlib.closing(stores.SqlStore(url, name)) as log:
        history = log.fold()
    return None if history is None else history.asked_space


def prepare(
    target: Callable[..., Any],
    space: Space | Mapping[str, Any] | None,
    say: Callable[[str], None],
    *,
    minimize: Names = None,
    maximize: Names = None,
    metric: Names = None,
    constraints: Mapping[str, str] | Sequence[str] | None = None,
    samples: int | None = None,
    warm_start: Sequence[str | Path] = (),
    max_epochs: int = DEFAULT_EPOCHS,
    budget: str | int | float | Budget | None = None,
    strategy: str | Scheduler = "playbook",
    name: str | None = None,
    seed: int = 0,
    reduce: str = "best",
    storage: str | Path | None = None,
) -> Study:
    """The study that the arguments of :func:`tune` ask for, checked; nothing is written.

    Without a space it is that of the target, else that of the study of its name that ``storage`` holds.
    """
    if not callable(target):
        raise UserError(f"tune() got a {type(target).__name__} to train.", "Pass a function train(trial) or a Recipe.")
    own_metric, told = getattr(target, "metric", None), "by its name" if metric else ""
    if own_metric is not None and not (minimize or maximize or metric):
        minimize, maximize = (own_metric, None) if target.minimize else (None, own_metric)  # type: ignore[attr-defined]
        told = "the recipe's own"
    objectives = objectives_from(minimize, maximize, metric, reduce)
    name = name or str(getattr(target, "name", None) or getattr(target, "__name__", "study"))
    if space is None:
        space = target.space() if hasattr(target, "space") else stored_space(storage, name)
    if space is None:
        where = "" if storage is None else f", and the storage has no study {name!r} to take it from"
        raise UserError(
            f"No search space was given{where}.",
            "Pass lt.Space(learning_rate=lt.Float(1e-5, 1e-1, log=True)), or --space FILE; luthier init writes one "
            "for a script.",
        )
    study = study_from(
        name=name,
        space=space,
        objectives=objectives,
        max_epochs=max_epochs,
        budget=budget,
        strategy=strategy,
        seed=seed,
        target=describe(target),
        probes=tuple(getattr(target, "probes", ())),
        constraints=constraints,
        samples=getattr(target, "samples", None) if samples is None else samples,
        warm_start=warm_start,
    )
    if hasattr(target, "accept"):
        target.accept(study.space)
    check_copies(study.strategy, getattr(target, "clones", True))
    if told:
        say(f"{' and '.join(f'{o.direction} {o.metric}' for o in objectives)} ({told})")
    return study
