"""What Optuna's samplers are shown of trials: values, constraints, and the generation where a sampler breeds.

Several objectives are several values, constraints are Optuna's own (their relative excess); a sampler that knows none
sees a trial that breaks them as worse than all that do not. What Optuna would drop, failed trials, it is shown as bad
ones (the worst loss seen), so that it does not propose their like again.

NSGA-II: Deb et al., IEEE Transactions on Evolutionary Computation 6 (2002).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeGuard

from luthier.core import goals
from luthier.core.history import History
from luthier.core.trial import Status

if TYPE_CHECKING:
    import optuna

POPULATION = 20
"""Trials of a generation of ``nsga2``. Optuna's 50 would leave most budgets within the first, random one: on a bowl of
five hyperparameters and two objectives 20 kept level with random search up to 40 trials, and from 100 on was ahead of
50 (hypervolume, 12 seeds)."""

Shown = tuple[list[float], dict[str, float]]
"""The values of a trial and what Optuna calls its constraints: how far each is broken, up to 0 where it is kept."""


def shown(history: History, sampler: optuna.samplers.BaseSampler | None) -> dict[int, Shown]:
    """What to show ``sampler`` of each trial; of those that failed, or have not told everything, the worst that was
    seen."""
    study = history.study
    many = len(study.goals.objectives)
    told: dict[int, Shown] = {}
    for trial in history.trained():
        if not math.isfinite(history.final_loss(trial)):
            continue
        if not study.also and not study.constraints:
            told[trial.id] = [history.final_loss(trial)], {}
        elif (known := goals.point(history, trial)) is not None:
            losses = [o.loss(known.scores[o.metric]) for o in study.goals.objectives]
            told[trial.id] = losses, {str(c): c.excess(known.limits[c.metric]) for c in study.constraints}
    if study.constraints and not isinstance(sampler, _keeping_constraints()):
        # In the size of the losses, so that a model of them is not thrown off: beyond the worst one, by the violation.
        kept = [values for values, broken in told.values() if all(x <= 0 for x in broken.values())]
        edge = [max((values[i] for values in kept), default=0.0) for i in range(many)]
        for i, (values, broken) in told.items():
            violated = sum(x for x in broken.values() if x > 0)
            told[i] = [x + violated for x in edge] if violated else values, {}
    worst = [max((values[i] for values, _ in told.values()), default=0.0) for i in range(many)]
    limits = [broken for _, broken in told.values()] or [{}]
    failed = worst, {name: max(broken[name] for broken in limits) for name in limits[0]}
    return {trial.id: told.get(trial.id, failed) for trial in history.trained()}


def _keeping_constraints() -> tuple[type[optuna.samplers.BaseSampler], ...]:
    """Optuna's samplers that look at constraints."""
    from optuna import samplers

    return samplers.TPESampler, samplers.GPSampler, samplers.NSGAIISampler, samplers.NSGAIIISampler


def generations(history: History, sampler: optuna.samplers.BaseSampler | None) -> list[int]:
    """The generation of each trial, and of the one to come, where the sampler breeds; else nothing.

    A trial belongs to the latest generation of those that were complete before it, to the next one where that is full.
    What ran beside it and is complete now counts as complete then: the history knows no more.
    """
    if not _breeds(sampler):
        return []
    size, latest, many, out = sampler.population_size or POPULATION, 0, 0, []
    for trial in history.trained():
        own = latest + (many >= size)
        out.append(own)
        if trial.status is not Status.RUNNING:
            latest, many = own, 1 if own > latest else many + 1
    return [*out, latest + (many >= size)]


def choose_parents(study: optuna.Study, sampler: optuna.samplers.BaseSampler, born: Sequence[int]) -> None:
    """Let a sampler that breeds choose the parents of each generation in turn, as it would have when that began: it
    keeps them in the study, and finds them there in another order than it chose them.

    Args:
        born: the answer of :func:`generations`.
    """
    if _breeds(sampler):
        begun = born[-1] in born[:-1]
        for generation in range(1, born[-1] + begun):
            sampler.get_parent_population(study, generation)


def _breeds(
    sampler: optuna.samplers.BaseSampler | None,
) -> TypeGuard[optuna.samplers.NSGAIISampler | optuna.samplers.NSGAIIISampler]:
    from optuna import samplers

    return isinstance(sampler, samplers.NSGAIISampler | samplers.NSGAIIISampler)
