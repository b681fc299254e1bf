"""What a trial is worth beyond one number: the epoch that counts, constraints, several objectives, the Pareto front.

One epoch of a trial counts, for every number of it: the best one of the first objective, or the last with
``reduce="last"``. It is that epoch's weights that are judged: scores of several epochs together would be those of no
model at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.core import pareto
from luthier.core.errors import UserError, nearest
from luthier.core.params import Config
from luthier.core.study import Goals
from luthier.core.trial import Report, Status, TrialRecord

if TYPE_CHECKING:
    from luthier.core.history import History

INFEASIBLE = 1e100
"""Losses from here on belong to trials that break a constraint: worse than every other, the less violation the better.
Within range of what stages compute with losses, their squares included."""


@dataclass(frozen=True, slots=True)
class Point:
    """A trial with all its scores, in the metrics' own units.

    Args:
        trial: its number.
        config: its configuration.
        scores: each objective's metric and its score, the first objective first.
        limits: each constrained metric and its value.
        epoch: the epoch that counts.
        feasible: whether every constraint is met.
    """

    trial: int
    config: Config
    scores: Mapping[str, float]
    limits: Mapping[str, float]
    epoch: int
    feasible: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "trial": self.trial,
            "config": dict(self.config),
            "scores": dict(self.scores),
            "limits": dict(self.limits),
            "epoch": self.epoch,
            "feasible": self.feasible,
        }


def counted(goals: Goals, trial: TrialRecord, epoch: float = math.inf) -> Report | None:
    """The report that counts, of those up to ``epoch``; None before the first objective was reported."""
    objective, best, least = goals.first, None, math.inf
    for report in trial.reports:
        if report.epoch > epoch:
            break
        if objective.metric in report.metrics:
            loss = objective.loss(report.metrics[objective.metric])
            if best is None or objective.reduce == "last" or loss < least:
                best, least = report, loss
    return best


def value(trial: TrialRecord, metric: str, at: int, epoch: float = math.inf) -> float | None:
    """``metric`` at epoch ``at``, as far as the reports up to ``epoch`` tell.

    What was not reported at that epoch (a size that is told once, a latency that is measured at the end) counts with
    the last report before it that has it, that of the trials which a clone descends from included, else with the first
    after it.
    """
    found = trial.before.get(metric)
    for report in trial.reports:
        if report.epoch > epoch or (report.epoch > at and found is not None):
            break
        found = report.metrics.get(metric, found)
    return found


def values(goals: Goals, trial: TrialRecord, epoch: float = math.inf) -> dict[str, float]:
    """Every metric of the goals at the epoch that counts, as far as it was reported."""
    report = counted(goals, trial, epoch)
    if report is None:
        return {}
    told = ((m, value(trial, m, report.epoch, epoch)) for m in goals.metrics)
    return {metric: x for metric, x in told if x is not None}


def violation(goals: Goals, trial: TrialRecord, epoch: float = math.inf) -> float:
    """The relative violations of all constraints together; 0 where all are met, as far as it can be told yet."""
    if not goals.constraints:
        return 0.0
    known = values(goals, trial, epoch)
    return sum(max(0.0, c.excess(known[c.metric])) for c in goals.constraints if c.metric in known)


def penalized(loss: float, violation: float) -> float:
    """The loss that a scheduler sees: ``loss`` where nothing is violated, else ``INFEASIBLE`` and more.

    Deb, "An efficient constraint handling method for genetic algorithms", CMAME 186 (2000), section 3: the feasible
    before the infeasible, those by their violation. Equal violations (a latency that the width alone decides) are told
    apart by the loss, in a part of 1e-9 of the violation.
    """
    if not violation or loss == math.inf:
        return loss
    return INFEASIBLE * (1.0 + min(violation, 1e100)) * (1.0 + 1e-9 * loss / (1.0 + abs(loss)))


def final_loss(trial: TrialRecord) -> float:
    """What a trial is judged by in the end; infinite for one that failed or never reported the first objective."""
    if trial.loss is None or trial.failure is not None:
        return math.inf
    return penalized(trial.loss, trial.violation) if trial.violation else trial.loss


def loss_at(goals: Goals, trial: TrialRecord, epoch: float) -> float:
    """The same over the reports up to ``epoch``."""
    if trial.failure is not None:
        return math.inf
    found: float | None = None
    objective = goals.first
    last = objective.reduce == "last"
    for report in trial.reports:
        if report.epoch > epoch:
            break
        if objective.metric in report.metrics:
            loss = objective.loss(report.metrics[objective.metric])
            found = loss if last or found is None else min(found, loss)
    if found is None:
        return math.inf
    return penalized(found, violation(goals, trial, epoch)) if goals.constraints else found


def sized(losses: Sequence[float]) -> list[float]:
    """``losses`` for arithmetic, in their order: those of trials that break a constraint in the size of the others,
    beyond the worst of these by ``v / (1 + v)`` of their span for a violation ``v``."""
    kept = [x for x in losses if x < INFEASIBLE]
    edge = max(kept, default=0.0)
    span = edge - min(kept, default=0.0) or 1.0
    return [edge + span * (1.0 - INFEASIBLE / x) if INFEASIBLE <= x < math.inf else x for x in losses]


def result_at(goals: Goals, trial: TrialRecord, epoch: float) -> float:
    """What a trial is ranked by among those that reached ``epoch``: its loss there, infinite where it failed or was
    stopped on the way."""
    if trial.status is Status.STOPPED and trial.epoch < epoch:
        return math.inf
    return loss_at(goals, trial, epoch)


def losses(goals: Goals, trial: TrialRecord, epoch: float = math.inf) -> tuple[float, ...]:
    """The loss of each objective at the epoch that counts; infinite where it was not reported."""
    known = values(goals, trial, epoch)
    return tuple(o.loss(known.get(o.metric, math.nan)) for o in goals.objectives)


Standing = tuple[float, tuple[float, ...]]
"""A trial's loss, and with several objectives each one's; none where it breaks a constraint or has not told all."""


def standing(goals: Goals, trial: TrialRecord, epoch: float) -> Standing:
    """What a trial is ranked by at ``epoch``."""
    loss = result_at(goals, trial, epoch)
    each = losses(goals, trial, epoch) if len(goals.objectives) > 1 and loss < INFEASIBLE else ()
    return loss, each if all(map(math.isfinite, each)) else ()


def ordered(standings: Mapping[int, Standing]) -> list[int]:
    """Trials by what they are ranked by, best first: how a rung is judged.

    With one objective by the loss, the older of a tie first. With several the feasible in the order of MO-ASHA
    (:func:`luthier.core.pareto.order`), then the infeasible by their violation, then those that failed or were stopped
    on the way.
    """
    ids = sorted(standings)
    sound = [i for i in ids if standings[i][1]]
    rest = [i for i in ids if not standings[i][1]]
    first = [sound[k] for k in pareto.order([standings[i][1] for i in sound])]
    return first + sorted(rest, key=lambda i: standings[i][0])


def ranked_at(goals: Goals, trials: Iterable[TrialRecord], epoch: float) -> list[TrialRecord]:
    """``trials`` by their reports up to ``epoch``, best first; see :func:`ordered`."""
    by_id = {t.id: t for t in trials}
    return [by_id[i] for i in ordered({i: standing(goals, t, epoch) for i, t in by_id.items()})]


def front(history: History) -> list[Point]:
    """The trials that no other dominates, the best in the first objective first, at any length of training.

    Where no trial meets the constraints: those that violate them least. A configuration that was trained several times
    counts once, with the best of them in the first objective.
    """
    goals = history.study.goals
    found = [
        (trial.violation, losses(goals, trial), trial)
        for trial in history.trained()
        if math.isfinite(history.final_loss(trial))
    ]
    found = [row for row in found if all(map(math.isfinite, row[1]))]
    least = min((row[0] for row in found), default=0.0)
    found = [row for row in found if row[0] == least]
    points: dict[str, Point] = {}
    for i in next(iter(pareto.fronts([row[1] for row in found])), []):
        one = point(history, found[i][2])
        if one is not None:
            points.setdefault(repr(sorted(one.config.items())), one)
    return list(points.values())


def point(history: History, trial: TrialRecord) -> Point | None:
    """A trial with all its scores; None for one that failed or has not reported them all."""
    goals = history.study.goals
    report, known = counted(goals, trial), values(goals, trial)
    if report is None or trial.failure is not None or any(m not in known for m in goals.metrics):
        return None
    return Point(
        trial=trial.id,
        config=trial.config,
        scores={o.metric: known[o.metric] for o in goals.objectives},
        limits={c.metric: known[c.metric] for c in goals.constraints},
        epoch=report.epoch,
        feasible=trial.violation == 0.0,
    )


def hypervolume(history: History, reference: Mapping[str, float]) -> float:
    """The volume between the feasible part of the front and ``reference``, one value for each objective's metric.

    Raises:
        UserError: an objective without a value, or a value without an objective.
    """
    objectives = history.study.goals.objectives
    names = [o.metric for o in objectives]
    for name in reference:
        if name not in names:
            raise UserError(f"The reference names {name!r}, which is no objective.", nearest(str(name), names))
    for name in names:
        if name not in reference or not math.isfinite(reference[name]):
            raise UserError(f"The reference has no value for {name!r}.", "Give one that is worse than all that matter.")
    points = [[o.loss(p.scores[o.metric]) for o in objectives] for p in front(history) if p.feasible]
    return pareto.hypervolume(points, [o.loss(reference[o.metric]) for o in objectives])
