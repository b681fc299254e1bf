"""One configuration being trained, as the log tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from luthier.core.params import Config


class Status(StrEnum):
    """Where a trial stands."""

    RUNNING = "running"
    """A worker holds a job for it, or will again after a restart."""
    PAUSED = "paused"
    """Trained as far as it was asked to; can be resumed."""
    DONE = "done"
    """Trained to the end of its length, or ended by its own early stopping."""
    STOPPED = "stopped"
    """Ended early by a decision."""
    FAILED = "failed"
    """Raised, died or reported nonsense; see ``failure``."""


ASKED = "asked"
"""Where a trial's notes keep the configuration that was asked for, if it is trained under another one."""
ENDED = (Status.FAILED, Status.STOPPED, Status.DONE)
"""No longer to be resumed."""


class Report(NamedTuple):
    """What a trial reported after an epoch.

    Args:
        epoch: epochs trained so far, from 1.
        metrics: every named number.
        seconds: how long this epoch took, as the worker saw it.
    """

    epoch: int
    metrics: Mapping[str, float]
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a trial failed.

    Args:
        kind: ``raised``, ``nonfinite``, ``killed`` (by a signal), ``died`` (left by itself), ``silent`` (ended
            without reporting the metric), ``pipeline`` (validation ran in training mode), ``oom`` (out of memory, of
            the host or a device), ``oom-killed`` (the system killed it for that) or ``hung`` (no report for too long).
        reason: one line.
        detail: the tail of the traceback or of the worker's output.
    """

    kind: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a trial can go on from: ``path`` is relative to the study's folder of files, ``digest`` its checksum."""

    epoch: int
    path: str
    digest: str = ""


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """A trial's whole story so far; immutable, rebuilt by each event.

    Args:
        id: its number in the study, from 0.
        config: the active hyperparameters.
        seed: seeds initialization, data order and dropout.
        horizon: the length it is meant to be trained to; its schedule decays over this many epochs.
        until: the epoch to which the latest job trains it.
        why: the reason it was started, in plain words.
        stage: the playbook's stage it belongs to, if any.
        notes: what its scheduler wants to remember of it (bracket, pair, ...).
        probe: the name of the question it answers instead of training (``"sanity"``, ``"lr_range"``), if any.
        answer: the probe's answer, plain data.
        loss: the objective over all reports, turned so that smaller is better; None before the metric was reported.
        violation: by how much the constraints are broken at the epoch that counts, in parts of their bounds; 0 where
            they are met, and where nothing is told yet.
        inherited: of a clone, the checkpoint of its parent that it began from; ``checkpoint`` until it has its own.
        before: of a clone, the latest values of the metrics that the study judges by, from those it descends from.
        instead_of: the trial whose place it took, if any.
        saved: where the running job can go on from, if it was interrupted on its way.
        troubles: what went wrong with its checkpoints, a sentence each.
        spent: epochs trained, counted again where a trial without a checkpoint had to start over.
        by_hand: somebody added its configuration by hand.
        jobs: of each time that it was handed out the epoch it went on from, and how old the study was then, in seconds.
        driver: the number of the driver that had it last; 0 where a study has one at a time.
    """

    id: int
    config: Config
    seed: int
    horizon: int
    until: int
    why: str = ""
    stage: str | None = None
    parent: int | None = None
    inherited: Checkpoint | None = None
    before: Mapping[str, float] = field(default_factory=dict)
    instead_of: int | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    probe: str | None = None
    answer: Mapping[str, Any] | None = None
    status: Status = Status.RUNNING
    reports: tuple[Report, ...] = ()
    checkpoint: Checkpoint | None = None
    saved: Checkpoint | None = None
    troubles: tuple[str, ...] = ()
    failure: Failure | None = None
    stop_why: str | None = None
    attempts: int = 1
    loss: float | None = None
    violation: float = 0.0
    spent: float = 0.0
    by_hand: bool = False
    jobs: tuple[tuple[int, float], ...] = ()
    driver: int = 0

    @property
    def begin(self) -> int:
        """Epochs that it inherited: where a clone began; 0 for every other trial."""
        return self.inherited.epoch if self.inherited else 0

    @property
    def epoch(self) -> int:
        """The last reported epoch; before the first, what it inherited."""
        return self.reports[-1].epoch if self.reports else self.begin

    @property
    def metrics(self) -> Mapping[str, float]:
        """The metrics of the last report."""
        return self.reports[-1].metrics if self.reports else {}

    @property
    def full(self) -> bool:
        """Trained to the end of its own length, or ended by its own early stopping."""
        return self.status is Status.DONE and self.probe is None

    @property
    def exploded(self) -> bool:
        """Its loss became NaN or infinite, or it was ended early because it diverged."""
        nonfinite = self.failure is not None and self.failure.kind == "nonfinite"
        return nonfinite or (self.status is Status.STOPPED and (self.stop_why or "").startswith("diverged"))

    def price(self, until: int) -> int:
        """Epochs to be trained to take it to ``until``: from its checkpoint, without one from the start."""
        return until - (self.checkpoint.epoch if self.checkpoint else 0)

    def reached(self, epoch: int) -> bool:
        """Whether its result at ``epoch`` is in: trained that far, or ended for good on the way there.

        Once it is, what the trial does later does not change it, unless it fails.
        """
        if self.status in ENDED:
            return self.until >= epoch
        return self.epoch >= epoch and (self.status is Status.PAUSED or self.until > epoch)

    def curve(self, metric: str) -> tuple[tuple[int, float], ...]:
        """``(epoch, value)`` for every report that names ``metric``."""
        return tuple((r.epoch, r.metrics[metric]) for r in self.reports if metric in r.metrics)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Every metric it reported, in order of first appearance."""
        return tuple(dict.fromkeys(name for r in self.reports for name in r.metrics))
