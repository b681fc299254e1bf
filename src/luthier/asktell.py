"""The loop in the user's hands: ask for a job, train it anywhere, tell what came of it."""

from __future__ import annotations

import reprlib
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from luthier import __version__
from luthier.configs import enqueued
from luthier.contracts import Done, Job, Scheduler, Store, Wait
from luthier.core import events as ev
from luthier.core.errors import UserError, nearest
from luthier.core.goals import Point
from luthier.core.history import History
from luthier.core.params import Config
from luthier.core.space import Space
from luthier.core.study import Budget
from luthier.core.summary import Summary, summarize
from luthier.request import Names, begin, first_trainings, objectives_from, remove, study_from
from luthier.run.decisions import job_of
from luthier.run.handle import by_name, whole_epoch
from luthier.run.lock import driving
from luthier.run.memory import MemoryStore
from luthier.strategies import build

KINDS = ("raised", "oom", "killed", "hung", "died")
"""What :meth:`AskTell.fail` may say of a failure."""


class AskTell:
    """A study whose training happens elsewhere: on any cluster, in any language.

    >>> study = AskTell(space, minimize="val_loss", max_epochs=30, budget="30 trials", strategy="asha", seed=0)
    >>> while job := study.ask():
    ...     for epoch in range(job.start + 1, job.until + 1):
    ...         if study.tell(job, epoch, val_loss=...) == "stop":
    ...             break
    >>> study.best_config, study.best_score

    Arguments as for :func:`luthier.tune`. With ``storage`` the log is durable: a study that is opened again goes on,
    asks first for the jobs that were never told to the end, and has the budget that is given now. A file has one driver
    at a time, until :meth:`close` or the end of its process. In PostgreSQL several may ask and tell one study at once;
    :meth:`close` hands what is out to the others.

    Raises:
        UserError: a mistake in the arguments, or another process drives the study; nothing was written.
    """

    def __init__(
        self,
        space: Space | Mapping[str, Any],
        *,
        minimize: Names = None,
        maximize: Names = None,
        metric: Names = None,
        constraints: Mapping[str, str] | Sequence[str] | None = None,
        samples: int | None = None,
        warm_start: Sequence[str | Path] = (),
        max_epochs: int = 1,
        budget: str | int | float | Budget | None = None,
        strategy: str | Scheduler = "playbook",
        storage: str | Path | None = None,
        name: str = "study",
        seed: int = 0,
        reduce: str = "best",
        enqueue: Sequence[Config] = (),
    ) -> None:
        study = study_from(
            name=name,
            space=space,
            objectives=objectives_from(minimize, maximize, metric, reduce),
            max_epochs=max_epochs,
            budget=budget,
            strategy=strategy,
            seed=seed,
            constraints=constraints,
            samples=samples,
            warm_start=warm_start,
        )
        self._scheduler = build(strategy)
        configs = enqueued(study.space, enqueue)
        with ExitStack() as stack:
            self._store = _store(storage, name)
            stack.callback(self._store.close)
            files = _files(self._store)
            fresh, begun = files is not None and not files.exists(), False
            if files is not None:
                stack.enter_context(driving(files, name, replaceable=True))
            try:
                self._book, begun = begin(self._store, study)
                self._book.enqueue(first_trainings(self._book.history.study, strategy, configs))
            except UserError:
                if begun and self._book.mistaken():
                    self._store.forget()
                if fresh and files is not None:
                    remove(files)
                raise
            if self._store.drivers is not None or self._book.history.finished is None:
                self._book.enter(__version__)  # the time in which nobody had it open is not spent
            self._owed = [back.trial for back in self._book.take_over()]
            self._open = stack.pop_all()
        self._since: dict[int, float] = {}  # when each trial was handed out or last told: the seconds of its epochs

    def enqueue(self, config: Config) -> None:
        """Have a configuration trained next, at full length; nothing where it was enqueued before.

        Raises:
            UserError: it does not lie in the space; the study is finished, or its budget does not pay for it.
        """
        self._book.enqueue(enqueued(self._book.history.space, [config]))

    def ask(self) -> Job | Wait | Done:
        """The next job. ``Wait`` (jobs are out, tell them first) and ``Done`` are false, each with its ``why``.

        Where several drive one study in PostgreSQL, the jobs that ``Wait`` waits for may be another one's: ask again in
        a while. The jobs of one that ended are handed out to the others.
        """
        while self._owed:
            trial = self._owed.pop(0)
            if self._book.holds(trial):
                return self._handed_out(job_of(self._book.history, trial))
        self._owed += [what.trial for what in self._book.obey() if isinstance(what, ev.Requeued)]
        if self._owed:
            return self.ask()
        job = self._book.next(self._scheduler)
        return self._handed_out(job) if isinstance(job, Job) else job

    def _handed_out(self, job: Job) -> Job:
        self._since[job.trial] = time.perf_counter()
        return job

    def tell(
        self, job: Job, epoch: int, metrics: Mapping[str, float] | None = None, /, **named: float
    ) -> Literal["continue", "stop"]:
        """Report the metrics of an epoch. The job ends by itself at ``job.until``.

        Returns:
            ``"stop"`` when there is nothing more to train in this job: it is over, or the trial was ended early.

        Raises:
            UserError: what is told is no job; no metrics, without names, with names that are no strings, or values that
                are no numbers; an epoch that is none of the job's.
        """
        _checked("tell()", job)
        values = by_name("tell()", () if metrics is None else (metrics,), named, "tell(job, epoch, {})")
        epoch = whole_epoch(epoch)
        try:
            numbers = {k: float(v) for k, v in values.items()}
        except (TypeError, ValueError):
            raise UserError(
                f"tell() got a metric that is no number: {values!r}.", "Tell one number for each name."
            ) from None
        if not 1 <= epoch <= job.until:
            raise UserError(
                f"The job of trial {job.trial} trains epochs {job.start + 1} to {job.until}, got epoch {epoch}.",
                "Tell each epoch once, up to job.until.",
            )
        now = time.perf_counter()
        seconds = round(now - self._since.get(job.trial, now), 6)
        self._since[job.trial] = now
        self._book.hear(ev.Reported(job.trial, epoch, numbers, seconds), self._scheduler)
        if not self._book.holds(job.trial):
            return "stop"
        if epoch >= job.until:
            # Where the state was kept is the caller's business: the job that resumes this trial starts after this
            # epoch.
            self._book.hear(ev.Ended(job.trial, epoch, checkpoint=f"epoch-{epoch}"), self._scheduler)
            return "stop"
        return "continue"

    def finish(self, job: Job) -> None:
        """Say that the trial ended by its own early stopping.

        Raises:
            UserError: what is told is no job.
        """
        _checked("finish()", job)
        epoch = self._book.history.trials[job.trial].epoch
        self._book.hear(ev.Ended(job.trial, epoch, complete=True), self._scheduler)

    def fail(self, job: Job, reason: str, kind: str = "raised") -> None:
        """Say that the trial failed; it is recorded and the study goes on.

        Args:
            kind: ``"raised"`` or ``"died"``; ``"oom"``, out of memory: nothing as large is proposed again; ``"killed"``
                or ``"hung"``: it is tried again, three times in all, and ``ask`` hands the job out once more.

        Raises:
            UserError: another kind, or what is told is no job.
        """
        _checked("fail()", job)
        if kind not in KINDS:
            raise UserError(f"kind={kind!r} is no kind of failure.", nearest(kind, KINDS))
        for event in self._book.hear(ev.Failed(job.trial, kind, str(reason)), self._scheduler):
            if isinstance(event, ev.Requeued):
                self._owed.append(event.trial)

    def close(self) -> None:
        """Let go of the storage, so that others may drive the study; what was told is kept."""
        self._open.close()

    @property
    def history(self) -> History:
        """Everything so far, immutable."""
        return self._book.history

    @property
    def summary(self) -> Summary:
        """What there is to say of it."""
        return summarize(self._book.history)

    @property
    def best_config(self) -> Config | None:
        """The best configuration so far."""
        return self.summary.best_config

    @property
    def best_score(self) -> float | None:
        """Its score."""
        return self.summary.best_score

    @property
    def pareto(self) -> Sequence[Point]:
        """With several objectives the trials that no other dominates, the best in the first objective first."""
        return self.summary.pareto


def _checked(call: str, job: Any) -> None:
    """Refuse what is no job."""
    if isinstance(job, Wait | Done):
        raise UserError(
            f"{call} got {job!r}, which is no job: ask() had none to hand out.",
            "Look first, as in `while job := study.ask()`; after Wait tell what runs, then ask again.",
        )
    if not isinstance(job, Job):
        raise UserError(
            f"{call} got {reprlib.repr(job)} ({type(job).__name__}), which is no job.", "Give it what ask() answered."
        )


def _store(storage: str | Path | None, name: str) -> Store:
    if storage is None:
        return MemoryStore()
    from luthier import store

    return store.SqlStore(store.locate(storage), name)


def _files(store: Store) -> Path | None:
    """The folder of files of a study that has one driver at a time, where it has one."""
    if isinstance(store, MemoryStore) or store.drivers is not None:
        return None
    from luthier.store import SqlStore, files_known

    return files_known(store) if isinstance(store, SqlStore) else None
