"""The state of CMA-ES, worked out of the past.

Optuna's ``CmaEsSampler`` keeps its state in attributes of its trials; a history has none. But the state is a function
of what CMA-ES was told: the trials in their order, a generation at a time, without the first one, which is drawn before
it begins. So the generations are told once more, each by Optuna's own sampler in a study of that generation alone.
With one trial at a time, and as long as the same hyperparameters are in every trial, this is the state that Optuna
would have kept. Where a trial turns up that lacks one of them, Optuna's sampler draws at random from then on; here
CMA-ES is told everything again without it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from luthier.search.optuna_storage import Snapshot, frozen

GENERATION, STATE = "cma:generation", "cma:optimizer"
"""The attributes' names in Optuna 5."""

Point = tuple[tuple[tuple[str, Any], ...], float]
"""Values by name, and the loss."""
Marks = tuple[tuple[str, str], ...]
"""The attributes that hold the state; none before the first generation."""


def recall(past: list[FrozenTrial]) -> list[FrozenTrial]:
    """``past`` with the attributes that CMA-ES would have left."""
    ended = [t for t in past if t.state == TrialState.COMPLETE]
    modelled = _modelled(ended)
    told = ended[1:]
    if not modelled or not told:
        return past
    size = population(len(modelled))
    done = (len(told) - 1) // size  # the generation that is full last is told by the sampler itself
    names = tuple(modelled)
    marks: Marks = ()
    for generation in range(done):
        block = told[generation * size : (generation + 1) * size]
        points = tuple((tuple((n, t.params[n]) for n in names), float(t.value or 0.0)) for t in block)
        marks = _next(marks, generation, points, tuple(modelled.items()))
    now = {t.number for t in told[done * size :]}
    return [_marked(t, done, marks) if t.number in now else t for t in past]


def population(dims: int) -> int:
    """Trials of a generation: ``4 + floor(3 log d)`` (Hansen 2016, table 1)."""
    return 4 + math.floor(3.0 * math.log(dims))


def _modelled(ended: Sequence[FrozenTrial]) -> dict[str, BaseDistribution]:
    """What Optuna's CMA-ES models: numbers that every trial has, in the order of their names."""
    if not ended:
        return {}
    shared = set(ended[0].distributions)
    for trial in ended[1:]:
        shared &= trial.distributions.keys()
    every = ended[0].distributions
    return {
        n: every[n]
        for n in sorted(shared)
        if not isinstance(every[n], CategoricalDistribution) and not every[n].single()
    }


def _marked(trial: FrozenTrial, generation: int, marks: Marks) -> FrozenTrial:
    attributes = {GENERATION: generation, **dict(marks)}
    return frozen(trial.number, trial.state, trial.params, trial.distributions, trial.values, attributes)


@lru_cache(maxsize=2048)
def _next(
    marks: Marks, generation: int, points: tuple[Point, ...], modelled: tuple[tuple[str, BaseDistribution], ...]
) -> Marks:
    """The state after a generation was told. Kept, for the next decision begins with the same generations."""
    distributions = dict(modelled)
    attributes = {GENERATION: generation, **dict(marks)}
    block = [
        frozen(i, TrialState.COMPLETE, dict(values), distributions, [loss], attributes)
        for i, (values, loss) in enumerate(points)
    ]
    # The seed decides what is asked for next, which nobody looks at; the state is what was told.
    sampler = optuna.samplers.CmaEsSampler(seed=0, warn_independent_sampling=False)
    storage = Snapshot(block)
    trial = optuna.create_study(storage=storage, sampler=sampler).ask()
    assert trial.relative_params  # Optuna asks CMA-ES when somebody wants to know
    asked = storage.get_trial(len(block))
    return tuple(sorted((k, v) for k, v in asked.system_attrs.items() if k.startswith(STATE)))
