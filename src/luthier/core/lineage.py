"""Where a trial's weights come from: the configurations that trained them, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from luthier.core.history import History
from luthier.core.params import Config
from luthier.core.trial import TrialRecord


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a training under one configuration.

    Args:
        from_epoch: epochs trained before it.
        until_epoch: epochs trained after it.
        config: the hyperparameters that held.
        seed: the seed that held; None where it is left to whoever trains.
        trial: the trial that trained it.
    """

    from_epoch: int
    until_epoch: int
    config: Config
    seed: int | None = None
    trial: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data; :meth:`from_dict` reads it back."""
        return {
            "from_epoch": self.from_epoch,
            "until_epoch": self.until_epoch,
            "config": dict(self.config),
            "seed": self.seed,
            "trial": self.trial,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Segment:
        """The inverse of :meth:`to_dict`."""
        return cls(**data)


def ancestors(history: History, trial: TrialRecord) -> Iterator[TrialRecord]:
    """The trials that it descends from by cloning, its parent first."""
    while trial.inherited is not None and trial.parent is not None:
        trial = history.trials[trial.parent]
        yield trial


def lineage(history: History, trial: int) -> tuple[Segment, ...]:
    """The schedule by which the weights of a trial came to be, from epoch 0 to its last reported one.

    One segment for a trial that is no clone. Of each trial that it descends from by cloning, one for the epochs that it
    trained before it was copied.
    """
    segments: list[Segment] = []
    at = history.trials[trial]
    until = at.epoch
    for t in (at, *ancestors(history, at)):
        if until > t.begin:
            segments.append(Segment(t.begin, until, t.config, t.seed, t.id))
        until = t.begin
    return tuple(reversed(segments))


def whole(history: History, trial: TrialRecord) -> TrialRecord:
    """The trial with the reports of those it descends from before its own: the curve of its weights from epoch 1."""
    reports, until = list(trial.reports), trial.begin
    for t in ancestors(history, trial):
        reports = [*(r for r in t.reports if r.epoch <= until), *reports]
        until = t.begin
    return replace(trial, reports=tuple(reports)) if len(reports) > len(trial.reports) else trial
