"""What a study found, read off its history: the numbers behind ``Result``, the report and ``--json``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.core.history import History
from luthier.core.trial import Status, TrialRecord

CONFIRM = "confirm"
"""The name of the stage that trains winner and default on fresh seeds; its numbers are a :class:`Confirmation`."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One configuration of a confirmation and its scores on the fresh seeds, in the order of the seeds."""

    config: Mapping[str, Any]
    scores: Sequence[float]
    mean: float
    sd: float


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The winner against the strong default on paired fresh seeds.

    Args:
        gain: mean paired improvement in the metric's units, positive where the winner is better.
        interval: its two-sided 95 % interval (Student's t on the paired differences).
        probability: that the gain is above zero (Student's t posterior under a flat prior).
        better: the winner is kept; otherwise the default is. Keeping asks for a probability of 0.8, a claim (see
            ``proven``) for more: with three pairs an interval above zero is rare even for a large gain.
    """

    winner: Arm
    default: Arm
    seeds: Sequence[int]
    gain: float
    interval: Sequence[float]
    probability: float
    better: bool

    @property
    def proven(self) -> bool:
        """The whole interval lies above zero."""
        return self.interval[0] > 0


@dataclass(frozen=True, slots=True)
class Summary:
    """What there is to say of a study at any moment.

    Args:
        best_config, best_score: the kept configuration and its score: the mean over fresh seeds where they were run,
            else the incumbent's own (best-of-many, so optimistic).
        best_epochs: the length it was trained to.
        default_score: the strong default's mean on the same fresh seeds, if they were run.
        epochs_used: epochs trained over all trials, probes included.
        trials: how many trials trained (probes not counted).
        failed: how many of them failed.
        stages: ``name``, ``verdict``, ``why``, ``skipped`` and ``epochs`` (spent) of each stage.
    """

    best_config: Mapping[str, Any] | None
    best_score: float | None
    best_epochs: int | None
    best_trial: int | None
    default_score: float | None
    epochs_used: float
    trials: int
    failed: int
    confirmation: Confirmation | None = None
    stages: Sequence[Mapping[str, Any]] = field(default_factory=tuple)

    def to_dict(self) -> dict[str, Any]:
        """The plain data that ``--json`` prints."""
        return {
            "best_config": dict(self.best_config) if self.best_config is not None else None,
            "best_score": self.best_score,
            "best_epochs": self.best_epochs,
            "default_score": self.default_score,
            "epochs_used": round(self.epochs_used, 2),
            "trials": self.trials,
            "failed": self.failed,
            "stages": [dict(s) for s in self.stages],
        }


def summarize(history: History) -> Summary:
    """The summary of a history, finished or not."""
    trained = list(history.trained())
    confirmation = _confirmation(history)
    config, score, epochs, trial = _best(history, trained, confirmation)
    return Summary(
        best_config=config,
        best_score=score,
        best_epochs=epochs,
        best_trial=trial,
        default_score=confirmation.default.mean if confirmation else None,
        epochs_used=history.spent,
        trials=len(trained),
        failed=sum(t.status is Status.FAILED for t in trained),
        confirmation=confirmation,
        stages=tuple(
            {
                "name": s.name,
                "verdict": s.verdict,
                "why": s.because or s.why,
                "skipped": s.skipped,
                "epochs": round(sum(history.trials[i].spent for i in s.trials), 2),
            }
            for s in history.stages
        ),
    )


def _confirmation(history: History) -> Confirmation | None:
    stage = history.stage(CONFIRM)
    if stage is None or stage.open or not stage.numbers.get("winner"):
        return None
    n = stage.numbers
    return Confirmation(
        winner=Arm(**n["winner"]),
        default=Arm(**n["default"]),
        seeds=n["seeds"],
        gain=n["gain"],
        interval=n["interval"],
        probability=n["probability"],
        better=n["better"],
    )


def _best(
    history: History, trained: Sequence[TrialRecord], confirmation: Confirmation | None
) -> tuple[Mapping[str, Any] | None, float | None, int | None, int | None]:
    if confirmation:
        arm = confirmation.winner if confirmation.better else confirmation.default
        role = "winner" if confirmation.better else "default"
        runs = [t for t in history.in_stage(CONFIRM) if t.notes.get("arm") == role]
        best = min(runs, key=history.final_loss, default=None)
        return arm.config, arm.mean, best.horizon if best else None, best.id if best else None
    best = history.incumbent
    if best is None or not math.isfinite(history.final_loss(best)):
        return None, None, None, None
    return best.config, history.score(best), best.horizon, best.id
