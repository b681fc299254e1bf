"""The facts of a study. Each is appended to the log once and never edited; the state of a study is their fold.

Four kinds of facts: what was asked (Created, SpaceChanged, BudgetChanged, TargetChanged, Opened), what was asked from
outside (the subclasses of Asked), what was decided (the subclasses of Decision, each with its *why*), and what happened
to a trial (Reported, Ended, Failed, Requeued ...).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from luthier.core.errors import StorageError
from luthier.core.params import Config
from luthier.core.space import Space
from luthier.core.study import Budget, Study


class Event:
    """A fact."""

    __slots__ = ()


class Decision(Event):
    """A fact that a scheduler chose; counting these seeds the next choice."""

    __slots__ = ()


class Asked(Event):
    """What somebody who does not drive the study wishes; its driver sees to it at its next poll.

    Alone of all events it may be appended by others than the driver, and takes no time of the study.
    """

    __slots__ = ()


# -- what was asked ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Created(Event):
    """The study begins."""

    study: Study


@dataclass(frozen=True, slots=True)
class Opened(Event):
    """A driver opened the study: at its start, and again at each resume. The n-th of these makes it driver number n.

    Args:
        beside: others were driving it already, so that no time was spent without a driver.
    """

    version: str
    beside: bool = False


@dataclass(frozen=True, slots=True)
class SpaceChanged(Event):
    """The space from now on: a range was widened, a choice added; a finished study goes on."""

    space: Space
    why: str = ""


@dataclass(frozen=True, slots=True)
class BudgetChanged(Event):
    """The budget from now on; a finished study goes on."""

    budget: Budget


@dataclass(frozen=True, slots=True)
class TargetChanged(Event):
    """Where what is trained is found from now on, as in :class:`luthier.core.study.Study`: it has moved."""

    target: Mapping[str, Any]


# -- what was asked from outside ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StopAsked(Asked):
    """End a trial: a running one soon, a paused one for good."""

    trial: int


@dataclass(frozen=True, slots=True)
class PauseAsked(Asked):
    """Hand out nothing new; what runs is trained as far as it was asked to."""


@dataclass(frozen=True, slots=True)
class ResumeAsked(Asked):
    """Hand out again."""


@dataclass(frozen=True, slots=True)
class ConfigAsked(Asked):
    """Train this configuration next, at full length."""

    config: Config


# -- what was decided --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started(Decision):
    """A new trial, to be trained to ``until`` (or, with ``probe``, to answer a question).

    Args:
        clone: it goes on from the checkpoint that its parent has at this moment.
        instead_of: the trial whose place it takes; a paused one is stopped.
        by_hand: it answers the oldest ConfigAsked that is open, and belongs to no stage.
        driver: where a study may have several at once, the number of the one that runs it.
    """

    trial: int
    config: Config
    seed: int
    until: int
    horizon: int
    why: str
    parent: int | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    probe: str | None = None
    clone: bool = False
    instead_of: int | None = None
    by_hand: bool = False
    driver: int = 0


@dataclass(frozen=True, slots=True)
class Resumed(Decision):
    """A paused trial, to be trained on to ``until`` by ``driver``."""

    trial: int
    until: int
    why: str
    driver: int = 0


@dataclass(frozen=True, slots=True)
class RangeChanged(Decision):
    """The range of one hyperparameter from now on: its best value lay on the edge, or nothing was gained beyond it."""

    name: str
    low: float
    high: float
    why: str


@dataclass(frozen=True, slots=True)
class StageOpened(Decision):
    """The playbook turns to a new question, or again to an old one.

    Args:
        allowance: epochs that may be spent on it; None without a bound.
        seconds: wall-clock time that may be spent on it; None without a bound.
        notes: of a stage that is opened again: what brought it back, for its script; JSON data.
    """

    name: str
    why: str
    allowance: float | None = None
    seconds: float | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StageClosed(Decision):
    """The playbook's answer to the open stage.

    Args:
        verdict: the answer in a sentence with its numbers.
        why: what the answer rests on.
        settled: hyperparameters held at these values from now on.
        numbers: the evidence, for those who come after (later stages, the report).
        skipped: nothing was trained; ``why`` says the reason.
        fatal: no tuning can help; the study ends here.
    """

    name: str
    verdict: str
    why: str
    settled: Config = field(default_factory=dict)
    numbers: Mapping[str, Any] = field(default_factory=dict)
    skipped: bool = False
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class Stopped(Decision):
    """A running trial is ended early at ``epoch``; later reports of it are refused."""

    trial: int
    epoch: int
    why: str


@dataclass(frozen=True, slots=True)
class Finished(Decision):
    """Nothing is left to do."""

    why: str


# -- what happened -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reported(Event):
    """A trial's metrics after an epoch."""

    trial: int
    epoch: int
    metrics: Mapping[str, float]
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Ended(Event):
    """A job came to its end.

    Args:
        epoch: the last epoch it trained.
        complete: the training function returned by itself before the job's last epoch.
        checkpoint: where the trial can go on from, relative to the study's folder of files.
        answer: what a probe found.
        cost: epochs' worth of training that a probe took.
        digest: the checksum of the checkpoint's file; empty where it was not taken.
    """

    trial: int
    epoch: int
    complete: bool = False
    checkpoint: str | None = None
    answer: Mapping[str, Any] | None = None
    cost: float = 0.0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Interrupted(Event):
    """A job was ended on its way because the study was asked to stop; it goes on from here when the study does.

    Args:
        epoch: the last epoch it trained.
        checkpoint: its state then, relative to the study's folder of files; None where nothing was saved.
        digest: the checksum of that file.
    """

    trial: int
    epoch: int
    checkpoint: str | None = None
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Unsaved(Event):
    """The state of a trial could not be saved (the disk is full): it goes on, or later from what was saved before."""

    trial: int
    epoch: int
    why: str


@dataclass(frozen=True, slots=True)
class CheckpointLost(Event):
    """A trial's checkpoint is gone: damaged, missing, or deleted to keep within a limit. The trial goes on from what
    was saved before it, or from its beginning.

    Args:
        checkpoint: the file, relative to the study's folder of files.
    """

    trial: int
    checkpoint: str
    why: str


@dataclass(frozen=True, slots=True)
class Failed(Event):
    """A trial raised, died or reported nonsense."""

    trial: int
    kind: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Requeued(Event):
    """A trial whose worker or driver vanished starts its job again from the last checkpoint.

    Args:
        blame: its own worker was killed, so that the trial itself may be the cause; such attempts are limited.
        driver: the number of the one that runs it from now on.
    """

    trial: int
    why: str
    blame: bool = False
    driver: int = 0


# -- text --------------------------------------------------------------------------------------------------------------

KINDS: dict[str, type[Event]] = {
    c.__name__: c
    for c in (
        Created,
        Opened,
        SpaceChanged,
        BudgetChanged,
        TargetChanged,
        StopAsked,
        PauseAsked,
        ResumeAsked,
        ConfigAsked,
        Started,
        Resumed,
        RangeChanged,
        StageOpened,
        StageClosed,
        Stopped,
        Finished,
        Reported,
        Ended,
        Interrupted,
        Unsaved,
        CheckpointLost,
        Failed,
        Requeued,
    )
}


def plain(value: Any) -> Any:
    """``value`` as strict JSON data: numpy scalars become numbers, what is not finite becomes a string."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(float(value))
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)


def numbers(metrics: Mapping[str, Any]) -> Mapping[str, float]:
    """Metrics as they were before they became JSON data: what was not finite is a string there."""
    for value in metrics.values():
        if type(value) is not float:
            return {k: float(v) for k, v in metrics.items()}
    return metrics


_PACK: dict[str, Callable[[Any], Any]] = {
    "study": lambda s: s.to_dict(),
    "space": lambda s: s.to_dict(),
    "budget": lambda b: {"epochs": b.epochs, "seconds": b.seconds},
    "metrics": lambda m: {k: v if math.isfinite(v) else repr(v) for k, v in m.items()},
}
_UNPACK: dict[str, Callable[[Any], Any]] = {
    "study": Study.from_dict,
    "space": Space.from_dict,
    "budget": lambda b: Budget(**b),
}
_UNLESS_SAID = ("driver", "beside")
"""Fields of studies with several drivers at once, left out where they say nothing: older versions do not know them."""

# Fields whose values must be JSON already when the event is made, so that the live history equals the one read back.
_FIELDS = {c: tuple(f.name for f in dataclasses.fields(c)) for c in KINDS.values()}  # type: ignore[arg-type]


def encode(event: Event) -> tuple[str, dict[str, Any]]:
    """The event's kind and its fields as JSON data."""
    kind = type(event)
    data = {}
    for name in _FIELDS[kind]:
        value = getattr(event, name)
        if name in _UNLESS_SAID and not value:
            continue
        data[name] = _PACK[name](value) if name in _PACK else value
    return kind.__name__, data


def compact(event: Event) -> tuple[str, Any]:
    """The same for a log, where a report is a list of its fields: nearly all events are reports."""
    if isinstance(event, Reported):
        return "Reported", [event.trial, event.epoch, _PACK["metrics"](event.metrics), event.seconds]
    return encode(event)


def decode(kind: str, data: Any) -> Event:
    """The inverse of :func:`encode` and of :func:`compact`.

    Raises:
        StorageError: a kind or a field that this version does not know, or a checkpoint outside the study's folder.
    """
    if kind == "Reported":
        trial, epoch, metrics, seconds = data if isinstance(data, list) else fields(data)
        return Reported(trial, epoch, numbers(metrics), seconds)
    make = KINDS.get(kind)
    if make is None or not data.keys() <= set(_FIELDS[make]):
        raise StorageError(
            f"The log has an event {kind!r} that this version of Luthier cannot read: a newer one writes it.",
            "Upgrade: pip install -U luthier.",
        )
    place = data.get("checkpoint")
    if place is not None and not _below(place):
        raise StorageError(
            f"The log names a checkpoint outside the study's folder: {str(place)[:80]!r}.", "Restore a copy of the log."
        )
    return make(**{k: _UNPACK[k](v) if k in _UNPACK else v for k, v in data.items()})


def _below(place: Any) -> bool:
    """Whether a checkpoint's name stays below the study's folder of files: files are read and deleted by it."""
    if not isinstance(place, str) or not 0 < len(place) <= 1000 or "\0" in place or "\\" in place:
        return False
    return not place.startswith("/") and ":" not in place.split("/")[0] and ".." not in place.split("/")


def fields(report: Mapping[str, Any]) -> tuple[int, int, Mapping[str, Any], float]:
    """A report's fields where they lie by name, as in older logs."""
    return report["trial"], report["epoch"], report["metrics"], report.get("seconds", 0.0)
