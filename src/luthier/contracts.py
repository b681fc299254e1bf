"""The four things that can be replaced (Searcher, Scheduler, Executor, Store) and the actions they speak in.

A decision is a pure function of the log: ``suggest``, ``propose`` and ``judge`` get a :class:`History` and a
generator made from the study's seed and the number of decisions so far, and keep no state of their own. So a killed
study resumes as if nothing had happened, and every choice can be replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from luthier.core.events import RangeChanged, StageClosed, StageOpened
from luthier.core.history import Entry, History
from luthier.core.params import Config
from luthier.core.study import Study

# -- actions: what a scheduler may ask for -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Train a new trial.

    Args:
        config: the hyperparameters.
        until: the epoch to train to in this job.
        why: the reason in plain words; it goes to the log.
        horizon: the length its schedule decays over; the study's ``max_epochs`` where None.
        seed: the trial's seed; derived from the study's seed and the trial's number where None.
        parent: the trial it descends from.
        clone: it goes on from the parent's checkpoint, as that is now, under ``config``; a parent with one is needed.
        instead_of: the paused or failed trial whose place it takes; a paused one is stopped with this.
        notes: what the scheduler wants to find again in ``TrialRecord.notes``; JSON data.
        probe: ask the target this question instead of training.
        by_hand: somebody asked for this configuration; no strategy sets it.
    """

    config: Config
    until: int
    why: str
    horizon: int | None = None
    seed: int | None = None
    parent: int | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    probe: str | None = None
    clone: bool = False
    instead_of: int | None = None
    by_hand: bool = False


@dataclass(frozen=True, slots=True)
class Resume:
    """Train a paused trial on to ``until``."""

    trial: int
    until: int
    why: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be handed out until a running job ends. False, so ``while job := study.ask()`` ends here too."""

    why: str = ""

    def __bool__(self) -> Literal[False]:
        return False


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is left to do. False, like :class:`Wait`."""

    why: str

    def __bool__(self) -> Literal[False]:
        return False


Action = Start | Resume | StageOpened | StageClosed | RangeChanged | Wait | Done
"""What a scheduler may propose. Of its stages and ranges it speaks in the log's own events."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A judge's verdict: end this trial now."""

    why: str


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker holds: train ``trial`` from epoch ``start`` to epoch ``until``.

    Args:
        checkpoint: the file to go on from, relative to the study's folder of files; None from the beginning.
        probe: answer this question instead of training.
        clone_of: the other trial whose checkpoint that is: take its weights and what its optimizer gathered, and train
            them on under this job's ``config`` and ``seed``. None for a trial's own checkpoint.
        digest: the checksum of ``checkpoint``; empty where it is not known.
        fallback: where ``checkpoint`` is damaged or missing, what to go on from instead, the best first, as ``(path,
            digest, cloned)``; after the last of them the trial starts over.
    """

    trial: int
    config: Config
    seed: int
    start: int
    until: int
    horizon: int
    checkpoint: str | None = None
    probe: str | None = None
    clone_of: int | None = None
    digest: str = ""
    fallback: Sequence[tuple[str, str, bool]] = ()


# -- what can be replaced ----------------------------------------------------------------------------------------------


@runtime_checkable
class Searcher(Protocol):
    """Where to look."""

    @property
    def name(self) -> str:
        """What to call it in a why."""
        ...

    def suggest(self, history: History, rng: np.random.Generator) -> Config | None:
        """A configuration of ``history.space`` to try next; None when there is none left (a finished grid)."""
        ...


@runtime_checkable
class Scheduler(Protocol):
    """Who trains, and how long."""

    def propose(self, history: History, rng: np.random.Generator) -> Action:
        """The next thing to do. Asked again with the same history it must answer the same."""
        ...

    def judge(self, history: History, trial: int) -> Stop | None:
        """Whether to end ``trial`` early, asked after each of its reports."""
        ...


@runtime_checkable
class Particular(Protocol):
    """A scheduler that does not suit every study."""

    def accept(self, study: Study) -> None:
        """Say what of a study it cannot work with; asked before anything is written.

        Raises:
            UserError: what is wrong, and how to mend it.
        """
        ...


class Executor(Protocol):
    """Where jobs run. Knows no algorithm."""

    @property
    def free(self) -> int:
        """How many more jobs can be taken now."""
        ...

    def submit(self, job: Job) -> None:
        """Take a job."""
        ...

    def poll(self, hear: Callable[..., None], timeout: float) -> None:
        """Hand what happened (Reported, Ended, Failed) to ``hear``, waiting up to ``timeout`` seconds for the first.

        ``hear(*events)`` takes any number of events, in their order, and what it is given at once becomes durable at
        once, with one sync. It may call :meth:`stop`.
        """
        ...

    def stop(self, trial: int) -> None:
        """End the job of ``trial`` soon; its later reports will be refused."""
        ...

    def park(self) -> None:
        """Have every job save its state and end after its epoch; what became of each is said by ``Interrupted``."""
        ...

    def close(self) -> None:
        """End every job and every process."""
        ...


class Drivers(Protocol):
    """Where several may drive one study at once: who of them lives."""

    def now(self) -> float:
        """The time, in seconds since 1970, the same for all."""
        ...

    def enter(self, driver: int) -> None:
        """Live as number ``driver`` until the process or its connection ends."""
        ...

    def living(self) -> frozenset[int]:
        """The numbers of those that live."""
        ...

    def floor(self) -> AbstractContextManager[None]:
        """Nobody else appends within."""
        ...


@runtime_checkable
class Attentive(Protocol):
    """An executor that looks into the study: its workers ask how that stands."""

    def attend(self, history: Callable[[], History]) -> None:
        """Be told, before the first job, where to look; only ever in the driver's thread."""
        ...


class Store(Protocol):
    """Where one study's log is kept."""

    @property
    def drivers(self) -> Drivers | None:
        """How its drivers know of each other; None where there is one at a time."""
        ...

    def append(self, entries: Sequence[Entry], after: int) -> None:
        """Append, provided that the log holds exactly ``after`` entries; all or nothing.

        Raises:
            Conflict: somebody else appended first; nothing was written.
        """
        ...

    def read(self, after: int = 0) -> Iterable[Entry]:
        """The entries from number ``after`` on."""
        ...

    def fold(self) -> History | None:
        """The history of the whole log, as :func:`luthier.core.history.fold` makes it of what ``read`` yields; None
        where there is none."""
        ...

    def forget(self) -> None:
        """Remove the log: for a study that turned out to be a mistake before anything was learned."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...
