"""The smaller records of a study's history: lines of the log, stages, changes of ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from luthier.core import events as ev
from luthier.core.params import Config


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the log: an event and when it was appended (seconds since 1970)."""

    at: float
    event: ev.Event


@dataclass(frozen=True, slots=True)
class StageRecord:
    """A stage of the playbook: what it asked, what it trained and what it concluded."""

    name: str
    why: str
    allowance: float | None = None
    seconds: float | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What brought it back, of a stage that was opened again; empty the first time."""
    opened: float = 0.0
    """``History.elapsed`` when it was opened."""
    trials: tuple[int, ...] = ()
    verdict: str | None = None
    because: str = ""
    settled: Config = field(default_factory=dict)
    numbers: Mapping[str, Any] = field(default_factory=dict)
    skipped: bool = False
    fatal: bool = False

    @property
    def open(self) -> bool:
        """Whether it has no verdict yet."""
        return self.verdict is None


class Place(NamedTuple):
    """Where a trial stands: its rank, from 1, ``among`` so many."""

    trial: int
    rank: int
    among: int


@dataclass(frozen=True, slots=True)
class RangeRecord:
    """A change of one hyperparameter's range that a stage's evidence asked for.

    Args:
        was, now: the range before and after it, both ends inclusive.
        after: how many stages had been opened by then.
    """

    name: str
    was: tuple[float, float]
    now: tuple[float, float]
    why: str
    after: int = 0

    @property
    def wider(self) -> bool:
        """Whether it was widened; else a widening was taken back."""
        return self.now[0] < self.was[0] or self.now[1] > self.was[1]
