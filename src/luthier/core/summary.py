"""What a study found, read off its history: the numbers behind ``Result``, the report and ``--json``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.core import goals
from luthier.core.goals import Point
from luthier.core.history import History, StageRecord
from luthier.core.lineage import Segment, lineage
from luthier.core.metrics import is_share
from luthier.core.params import Value
from luthier.core.trial import Status

CONFIRM = "confirm"
"""The name of the stage that trains winner and default on fresh seeds; its numbers are a :class:`Confirmation`."""
ABLATION = "ablation"
"""The name of the stage that walks from the default to the winner; its numbers are an :class:`Ablation`."""
PROOFS = (CONFIRM, ABLATION)
"""Stages that prove what the others found: their trainings are no part of the search. None is ended early, and none
that fails is the sign of a mistake."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One configuration of a confirmation and its scores on the fresh seeds, in the order of the seeds.

    Args:
        label: how its trials are noted: ``"winner"`` for the search's own, ``"default"``, ``"challenger 1"``.
        failed: runs of it that failed; they have no score.
        feasible: most of its runs that have a score meet the constraints.
    """

    config: Mapping[str, Any]
    scores: Sequence[float]
    mean: float
    sd: float
    label: str = ""
    failed: int = 0
    feasible: bool = True


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The winner against the strong default on paired fresh seeds.

    Args:
        gain: mean paired improvement in the metric's units, positive where the winner is better.
        interval: its two-sided 95 % interval (Student's t on the paired differences).
        probability: that the gain is above zero (Student's t posterior under a flat prior).
        better: the winner is kept; otherwise the default is. Keeping asks for a probability of 0.8, a claim (see
            ``proven``) for more: with three pairs an interval above zero is rare even for a large gain.
        p_value: one-sided, exact, of all sign flips of the differences.
        challengers: the other candidates that were trained on the same seeds.
        expected: what the winner's score in the search promised: ``score`` as it was seen, ``tried`` candidates of
            which it was the best, ``expected`` without the flattery of that choice. Empty where it was not seen.
        shrunk: the winner's mean, drawn towards those of the other candidates as far as they differ by noise.
        noise: seed noise of one training: ``sd``, ``df`` and ``source``.
    """

    winner: Arm
    default: Arm
    seeds: Sequence[int]
    gain: float
    interval: Sequence[float]
    probability: float
    better: bool
    p_value: float | None = None
    challengers: Sequence[Arm] = ()
    expected: Mapping[str, float] = field(default_factory=dict)
    shrunk: float | None = None
    noise: Mapping[str, Any] = field(default_factory=dict)

    @property
    def proven(self) -> bool:
        """The whole interval lies above zero."""
        return self.interval[0] > 0

    @property
    def by_constraint(self) -> bool:
        """Whether constraints decided, which one of the two breaks: no gain does then."""
        return self.winner.feasible != self.default.feasible

    @property
    def failed(self) -> int:
        """Runs that failed, of all arms."""
        return sum(arm.failed for arm in (self.winner, self.default, *self.challengers))


@dataclass(frozen=True, slots=True)
class Step:
    """One change on the way from the default to the winner.

    Args:
        names: the hyperparameters that moved together; ``"epochs"`` is the length.
        gain: mean paired improvement in the metric's units over the step before, positive is better.
        interval: its two-sided 95 % interval.
        carries: the whole interval lies above zero.
    """

    names: Sequence[str]
    gain: float
    interval: Sequence[float]
    carries: bool


@dataclass(frozen=True, slots=True)
class Ablation:
    """The way from the strong default to the winner, one change at a time, on ``seeds`` of the confirmation."""

    steps: Sequence[Step]
    seeds: Sequence[int]

    @property
    def carrying(self) -> int:
        """How many of the changes carry the gain."""
        return sum(step.carries for step in self.steps)


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a study teaches beyond its answer.

    Args:
        importance: name to the part that it decided, largest first, together 1; empty where nothing can be said.
        rests_on: what the importances rest on, or why there are none.
        next_steps: what to try with more budget, most promising first.
        priors: of each hyperparameter values in order and how likely good ones are believed to be there, before any
            trial: the density on the scale that is searched, 1 everywhere for what nobody knows.
        together: two hyperparameters to look at together, the batch size and the learning rate where both are searched.
    """

    importance: Mapping[str, float] = field(default_factory=dict)
    rests_on: str = ""
    next_steps: Sequence[str] = ()
    priors: Mapping[str, Sequence[tuple[Value, float]]] = field(default_factory=dict)
    together: tuple[str, str] | None = None


def scored(history: History) -> int:
    """How many trials have a score."""
    return sum(history.score(t) is not None for t in history.trained())


def exploded(history: History) -> tuple[int, int] | None:
    """Of how many trainings the loss became NaN or infinite or diverged, and of how many, where it is half or more of
    them and two at least: the rates that are searched are too high then."""
    trained = list(history.trained())
    lost = sum(t.exploded for t in trained)
    return (lost, len(trained)) if lost >= max(2, len(trained) / 2) else None


def exploded_text(history: History) -> str | None:
    """The same in words."""
    found = exploded(history)
    return None if found is None else f"{found[0]} of {found[1]} trainings diverged or became NaN"


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
        pareto: with several objectives the trials that no other dominates, the best in the first objective first, which
            is ``best_config`` where no fresh seeds were run; empty with one objective.
        feasible: whether the kept configuration meets the constraints; None where none were asked or none has a score.
        values: every objective's and constrained metric's value of ``best_trial`` at the epoch that counts.
        schedule: the configurations that trained ``best_trial``, one after the other; several where it is a clone of
            another trial, as in population-based training, and then ``best_config`` is only the last of them.
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
    ablation: Ablation | None = None
    stages: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    pareto: Sequence[Point] = ()
    feasible: bool | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    schedule: Sequence[Segment] = ()

    def to_dict(self) -> dict[str, Any]:
        """The plain data that ``--json`` prints."""
        more: dict[str, Any] = {} if self.feasible is None else {"feasible": self.feasible}
        if self.pareto:
            more["pareto"] = [p.to_dict() for p in self.pareto]
        if more:
            more["values"] = dict(self.values)
        return {
            "best_config": dict(self.best_config) if self.best_config is not None else None,
            "best_score": self.best_score,
            "best_epochs": self.best_epochs,
            "default_score": self.default_score,
            "epochs_used": round(self.epochs_used, 2),
            "trials": self.trials,
            "failed": self.failed,
            "stages": [dict(s) for s in self.stages],
            **more,
            **({"schedule": [s.to_dict() for s in self.schedule]} if len(self.schedule) > 1 else {}),
        }


def summarize(history: History) -> Summary:
    """The summary of a history, finished or not."""
    trained = list(history.trained())
    confirmation = _confirmation(history)
    config, score, epochs, trial = _best(history, confirmation)
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
        ablation=_ablation(history),
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
        pareto=tuple(goals.front(history)) if history.study.also else (),
        feasible=_feasible(history, confirmation, trial),
        values=goals.values(history.study.goals, history.trials[trial]) if trial is not None else {},
        schedule=lineage(history, trial) if trial is not None else (),
    )


def _feasible(history: History, c: Confirmation | None, best: int | None) -> bool | None:
    if best is None or not history.study.constraints:
        return None
    if c is not None:
        return c.winner.feasible if c.better else c.default.feasible
    return history.trials[best].violation == 0.0


def in_points(history: History) -> bool:
    """Whether gains are told in percentage points: the metric is a share by its name, every score lies in [0, 1]."""
    scores = [history.score(t) for t in history.trained()]
    return is_share(history.objective.metric) and all(s is None or 0.0 <= s <= 1.0 for s in scores)


def gain_text(gain: float, interval: Sequence[float], points: bool, note: str = "") -> str:
    """A gain and its interval: ``+1.8 points (95 % interval +1.1 to +2.4, 5 paired seeds)``.

    Args:
        points: the metric is a share, its gain is told in percentage points.
        note: what it rests on.
    """
    told, reach = gain_parts(gain, interval, points)
    return f"{told} (95 % interval {reach}{', ' if note else ''}{note})"


def gain_parts(gain: float, interval: Sequence[float], points: bool) -> tuple[str, str]:
    """A gain and its interval as text, with two digits of half the interval: what lies below them is noise."""
    scale = 100.0 if points else 1.0
    low, high = (x * scale for x in interval)
    sized = (high - low) / 2 if math.isfinite(high - low) and high > low else abs(gain * scale)
    decimals = 2
    if sized > 0 and math.isfinite(sized):
        decimals = min(8, max(1 if points else 0, 1 - math.floor(math.log10(sized))))

    def told(value: float) -> str:
        return f"{value:+,.{decimals}f}".replace("-", "−") if math.isfinite(value) else repr(value)

    return f"{told(gain * scale)}{' points' if points else ''}", f"{told(low)} to {told(high)}"


def seeds_text(many: int) -> str:
    """``5 paired seeds``."""
    return f"{many} paired seed{'s' if many != 1 else ''}"


def carried_text(ablation: Ablation) -> str:
    """``3 of 4 changes carry it``; empty where there was only one change."""
    total, own = len(ablation.steps), ablation.carrying
    if total < 2:
        return ""
    if own == total:
        return f"all {total} changes carry it"
    return f"{own or 'none'} of {total} changes carr{'ies' if own == 1 else 'y'} it"


def proof_of(history: History) -> StageRecord | None:
    """The latest stage that trained winner and default on fresh seeds and has its verdict; None before it."""
    proofs = (s for s in reversed(history.stages) if s.name == CONFIRM and not s.open)
    return next((s for s in proofs if s.numbers.get("winner")), None)


def _confirmation(history: History) -> Confirmation | None:
    stage = proof_of(history)
    if stage is None:
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
        p_value=n.get("p_value"),
        challengers=tuple(Arm(**arm) for arm in n.get("challengers", ())),
        expected=n.get("expected") or {},
        shrunk=n.get("shrunk"),
        noise=n.get("noise") or {},
    )


def _ablation(history: History) -> Ablation | None:
    stage, proof = history.stage(ABLATION), proof_of(history)
    if stage is None or stage.open or proof is None or not stage.numbers.get("steps"):
        return None
    if history.stages.index(stage) < history.stages.index(proof):
        return None  # it took an earlier winner apart
    return Ablation(tuple(Step(**step) for step in stage.numbers["steps"]), stage.numbers["seeds"])


def _best(
    history: History, confirmation: Confirmation | None
) -> tuple[Mapping[str, Any] | None, float | None, int | None, int | None]:
    if confirmation:
        arm, role = (confirmation.winner, "winner") if confirmation.better else (confirmation.default, "default")
        proof = proof_of(history)
        proven = [history.trials[i] for i in proof.trials] if proof is not None else []
        runs = [t for t in proven if t.notes.get("arm") == (arm.label or role)]
        best = min(runs, key=history.final_loss, default=None)
        return arm.config, arm.mean, best.horizon if best else None, best.id if best else None
    best = history.incumbent
    if best is None or not math.isfinite(history.final_loss(best)):
        return None, None, None, None
    return best.config, history.score(best), best.horizon, best.id
