"""Plans: what the stages ask for with a small, a medium and a large budget, as data.

The shares and numbers of trials follow the usual advice (Godbole et al., Deep Learning Tuning Playbook, 2023: one
question at a time, many short trainings before few long ones, repeats at the end) as far as our own measurements do not
disagree; where they do, :data:`SMALL` says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from luthier.core.history import History, StageRecord


@dataclass(frozen=True, slots=True)
class Plan:
    """What stages ask for.

    Args:
        name: ``"small"``, ``"medium"`` or ``"large"``.
        patient: the rate of an optimizer is refined although its first run lies behind the best one's, as long as it is
            in the better half.
        strides: steps on in one direction of a hyperparameter, at most.
        schedules: other schedules that are compared, at full length.
        details: warmup, rate and half the length are looked at on trainings of full length.
        both_sides: capacity and regularization are looked at upwards and downwards; else only where the curves point.
        unasked: regularization is looked at although the curves do not ask for it.
        extras: the tiers that the stage ``advanced`` looks at.
        widenings: how often one end of a range is widened.
        remedies: trainings against what makes a training unsteady or slow, at most, each time.
        rounds: rounds of the refinement, at most, each time.
        patience: rounds in a row without a gain beyond the noise after which the refinement stops.
        seeds: fresh seeds of the confirmation, at most.
        challengers: candidates beside the winner that fresh seeds may prefer, at most.
        proof: the part of a budget in epochs that the confirmation may take.
        arms: configurations for which it is kept, as far as that goes; others are confirmed with what is left over.
    """

    name: str
    patient: bool
    strides: int
    schedules: int
    details: bool
    both_sides: bool
    unasked: bool
    extras: tuple[int, ...]
    widenings: int
    remedies: int
    rounds: int
    patience: int
    seeds: int
    challengers: int
    proof: float
    arms: int


SMALL = Plan(
    "small",
    patient=False,
    strides=4,
    schedules=0,
    details=False,
    both_sides=False,
    unasked=False,
    extras=(5,),
    widenings=1,
    remedies=1,
    rounds=40,
    patience=5,
    seeds=5,
    challengers=2,
    proof=0.4,
    arms=2,
)
"""Up to 40 full trainings. On the two tasks of ``benchmarks/against.py``, 30 trainings, four seeds, the medium plan
was as good on one and worse on the other, after 10 as after 30; so the usual bound of about 20 was raised."""
MEDIUM = Plan(
    "medium",
    patient=True,
    strides=4,
    schedules=3,
    details=True,
    both_sides=True,
    unasked=True,
    extras=(1, 2, 5),
    widenings=2,
    remedies=2,
    rounds=40,
    patience=5,
    seeds=5,
    challengers=2,
    proof=0.35,
    arms=4,
)
"""Up to 100 full trainings."""
LARGE = Plan(
    "large",
    patient=True,
    strides=6,
    schedules=7,
    details=True,
    both_sides=True,
    unasked=True,
    extras=(1, 2, 5),
    widenings=2,
    remedies=2,
    rounds=120,
    patience=10,
    seeds=5,
    challengers=4,
    proof=0.3,
    arms=6,
)
"""More than 100 full trainings, and no bound at all."""

BOUNDS = ((40.0, SMALL), (100.0, MEDIUM), (math.inf, LARGE))
"""Full trainings up to which each plan holds."""


def plan_of(history: History, stage: StageRecord) -> Plan:
    """The plan by which ``stage`` goes: by the budget in full trainings; of a wall-clock budget by what it pays for at
    the pace before the stage, of both the smaller. As long as no pace is known, the medium plan.

    A function of what was known when the stage was opened, so that its script asks the same at each run.
    """
    size = trainings(history, stage)
    return MEDIUM if size is None else next(plan for bound, plan in BOUNDS if size <= bound)


def trainings(history: History, stage: StageRecord) -> float | None:
    """How many full trainings the budget pays for; infinite without any bound, None while that is not known."""
    budget, full = history.study.budget, history.study.max_epochs
    by_epochs = math.inf if budget.epochs is None else budget.epochs / full
    if budget.seconds is None:
        return by_epochs
    takes = history.pace(without=stage.trials).takes(full)
    if takes == 0:
        probed = next((t.answer.get("seconds_per_epoch") for t in history.trials if t.probe and t.answer), None)
        takes = float(probed) * full if isinstance(probed, int | float) else 0.0
    if takes == 0:
        return None if math.isinf(by_epochs) else by_epochs
    # Several workers train at once: as many as their reports' seconds go into the time that had passed.
    before = (t for t in history.trials if t.id not in stage.trials)
    busy = sum(r.seconds for t in before for r in t.reports)
    workers = max(1.0, busy / stage.opened) if stage.opened > 0 else 1.0
    return min(by_epochs, budget.seconds * workers / takes)
