"""The commands that drive a study on this machine or on a cluster: ``quickstart``, ``tune`` and ``resume``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from luthier import commands
from luthier import options as opt
from luthier.commands import HERE, STYLE_HELP
from luthier.core.errors import UserError
from luthier.options import SCRIPT
from luthier.run.crew import LOCAL, Crew
from luthier.run.limits import Limits
from luthier.terminal import finish, interruptible, read_space, report_path

QUICKSTART_BUDGET = "30 trials"
QUICKSTART_EPOCHS = 12


def quickstart(
    dir: Annotated[Path, typer.Option("--dir", help="Where the study and its report go.")] = Path("luthier-quickstart"),
    seed: opt.Seed = 0,
    workers: opt.Workers = "2",
    budget: Annotated[str, typer.Option(help="In full-length trainings, epochs or time.")] = QUICKSTART_BUDGET,
    max_epochs: opt.MaxEpochs = QUICKSTART_EPOCHS,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Tune a small convolutional network on real handwritten digits; ends in a report. Two minutes on two cores."""
    from luthier.recipe.digits import digits_recipe

    if dir.exists() and not dir.is_dir():
        raise UserError(f"--dir {str(dir)!r} is a file.", "Name a folder.")
    recipe = digits_recipe()
    _tune(
        recipe,
        None,
        storage=str(dir / "study.db"),
        make_folder=True,
        json=json,
        quiet=quiet,
        crew=Crew(workers),
        max_epochs=max_epochs,
        budget=budget,
        seed=seed,
        strategy="playbook",
        name="quickstart",
    )


def tune(
    ctx: typer.Context,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[TARGET | -- COMMAND...]",
            help="FILE.py:NAME or MODULE:NAME of a training function or a Recipe; or after -- a command that trains.",
        ),
    ] = None,
    space: opt.SpaceFile = None,
    fix: opt.Fix = None,
    maximize: opt.Maximize = None,
    minimize: opt.Minimize = None,
    metric: opt.Metric = None,
    constraint: opt.Constraints = None,
    max_epochs: opt.MaxEpochs = 30,
    budget: opt.BudgetText = None,
    strategy: opt.Strategy = "playbook",
    workers: opt.Workers = "1",
    threads: opt.Threads = None,
    gpus: opt.Gpus = None,
    processes: opt.Processes = 1,
    pin: opt.Pin = False,
    executor: opt.Executor = LOCAL,
    resources: opt.Resources = None,
    slurm: opt.Slurm = None,
    storage: Annotated[str, typer.Option(help="A folder, a .db file or a storage URL.")] = HERE,
    name: opt.Name = None,
    seed: opt.Seed = 0,
    reduce: opt.Reduce = "best",
    samples: opt.Samples = None,
    warm_start: opt.WarmStart = None,
    enqueue: opt.Enqueue = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be run first, and run nothing.")] = False,
    style: Annotated[str | None, typer.Option(help=STYLE_HELP, rich_help_panel=SCRIPT)] = None,
    template: Annotated[
        Path | None, typer.Option(help="A configuration file, written anew for each trial.", rich_help_panel=SCRIPT)
    ] = None,
    regex: Annotated[
        list[str] | None, typer.Option(help="What to find in the output, by named groups.", rich_help_panel=SCRIPT)
    ] = None,
    csv: Annotated[
        str | None, typer.Option(help="A table of metrics that the script writes.", rich_help_panel=SCRIPT)
    ] = None,
    tensorboard: Annotated[
        str | None, typer.Option(help="A folder of event files that it writes.", rich_help_panel=SCRIPT)
    ] = None,
    steps_per_epoch: Annotated[
        float | None, typer.Option(help="What an epoch is in the steps that it prints.", rich_help_panel=SCRIPT)
    ] = None,
    resume_flag: Annotated[
        str | None,
        typer.Option(help="Arguments that make it go on: '--resume {checkpoint}'.", rich_help_panel=SCRIPT),
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Its checkpoints, a pattern below {out}.", rich_help_panel=SCRIPT)
    ] = None,
    cwd: Annotated[str | None, typer.Option(help="Where it runs (default: here).", rich_help_panel=SCRIPT)] = None,
    grace: Annotated[
        float | None, typer.Option(help="Seconds from SIGTERM to SIGKILL (default: 10).", rich_help_panel=SCRIPT)
    ] = None,
    timeout: opt.Timeout = None,
    worker_memory: opt.WorkerMemory = None,
    checkpoint_space: opt.CheckpointSpace = None,
    durability: opt.Durability = "process",
    files: opt.Files = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Tune a training function, a Recipe or any training script. An interrupted study goes on with the same command.

    luthier tune --space space.yaml --minimize val_loss -- python main.py --lr {learning_rate}
    """
    options = {
        "style": style,
        "template": template,
        "regex": regex,
        "csv": csv,
        "tensorboard": tensorboard,
        "steps_per_epoch": steps_per_epoch,
        "resume": resume_flag,
        "checkpoint": checkpoint,
        "cwd": cwd,
        "grace": grace,
    }
    _tune(
        commands.target_of(target, ctx.meta.get(commands.AFTER), options),
        read_space(space) if space else None,
        fix=fix or (),
        dry_run=dry_run,
        storage=storage,
        make_folder=False,
        json=json,
        quiet=quiet,
        maximize=maximize,
        minimize=minimize,
        metric=metric,
        constraints=constraint,
        max_epochs=max_epochs,
        budget=budget,
        strategy=strategy,
        crew=Crew(workers, threads, gpus, processes, pin, executor, resources, slurm),
        name=name,
        seed=seed,
        reduce=reduce,
        samples=samples,
        warm_start=warm_start or (),
        enqueue=enqueue or (),
        limits=Limits.of(timeout, worker_memory, checkpoint_space),
        durability=durability,
        files=files,
    )


def resume(
    study: opt.Place = HERE,
    name: opt.Name = None,
    workers: opt.Workers = "1",
    threads: opt.Threads = None,
    gpus: opt.Gpus = None,
    processes: opt.Processes = 1,
    pin: opt.Pin = False,
    executor: opt.Executor = LOCAL,
    resources: opt.Resources = None,
    slurm: opt.Slurm = None,
    budget: Annotated[
        str | None,
        typer.Option(help="A new budget; a finished study goes on with it."),
    ] = None,
    enqueue: opt.Enqueue = None,
    target: Annotated[str | None, typer.Option(help="Where the training function is now, FILE.py:NAME.")] = None,
    timeout: opt.Timeout = None,
    worker_memory: opt.WorkerMemory = None,
    checkpoint_space: opt.CheckpointSpace = None,
    durability: opt.Durability = "process",
    files: opt.Files = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Go on with a study that was interrupted or killed, or whose budget grew."""
    from dataclasses import replace

    from luthier import api, request, store
    from luthier import target as targets
    from luthier.configs import enqueued, read_configs
    from luthier.core.study import Budget
    from luthier.run.book import Book
    from luthier.run.lock import driving
    from luthier.view.console import Console

    crew = Crew(workers, threads, gpus, processes, pin, executor, resources, slurm)
    limits = Limits.of(timeout, worker_memory, checkpoint_space)
    log = store.open_store(study, name, durability)
    with contextlib.closing(log), contextlib.ExitStack() as stack:
        place, cloud = store.files_needed(log, files), store.cloud_of(log, files)
        stack.enter_context(driving(place, log.name, log.drivers is not None))
        book = Book.open(log)
        if book is None:
            raise UserError(
                f"{store.shown(study)} holds a study without a single event.", "Start it again with luthier tune."
            )
        asked = book.history.study
        if asked.strategy == "custom":
            raise UserError(
                "This study was driven by a strategy object, which only its own script can make.",
                "Run that script again: with the same storage it goes on where it stopped.",
            )
        trains = targets.load(target) if target else targets.recall(asked.target, store.file_of(log.url))
        crew.accept(trains, limits=limits)
        if target and log.drivers is None:
            request.retarget(book, targets.beside(targets.describe(trains), store.file_of(log.url)))
        if budget is not None:
            now = replace(asked, space=book.history.asked_space, budget=Budget.parse(budget, asked.max_epochs))
            request.go_on(book, now)
        if enqueue:
            space = book.history.space
            book.enqueue(enqueued(space, read_configs(enqueue, space)))
        if files is not None:
            log.keep_files(files)
        console = Console(json=json, quiet=quiet)
        with interruptible("luthier resume", study):
            result = api.drive(book, trains, asked.strategy, crew, place, console, limits=limits, cloud=cloud)
    finish(result, report_path(log.url), json)


def _tune(
    target: Callable[..., Any],
    space: Any,
    *,
    storage: str,
    make_folder: bool,
    json: bool,
    quiet: bool,
    crew: Crew,
    dry_run: bool = False,
    limits: Limits | None = None,
    durability: str = "process",
    files: str | None = None,
    enqueue: Sequence[str] = (),
    fix: Sequence[str] = (),
    **asked: Any,
) -> None:
    from luthier import api, store
    from luthier.configs import fixed, read_configs
    from luthier.view.console import Console

    console = Console(json=json, quiet=quiet)
    url = store.locate(storage)
    study = api.prepare(target, fixed(space, target, fix), console.say, storage=url, **asked)
    configs = read_configs(enqueue, study.space)
    if dry_run:
        commands.dry_run(study, target, url, json, configs)
        return
    file = store.file_of(url)
    if make_folder and file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    with interruptible("luthier resume", storage):
        result = api.launch(
            study,
            target,
            asked["strategy"],
            url,
            crew,
            console,
            limits=limits,
            durability=durability,
            files=files,
            enqueue=configs,
        )
    finish(result, report_path(url), json)
