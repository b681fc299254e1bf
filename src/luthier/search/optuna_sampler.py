"""Any of Optuna's samplers as a searcher; with ``importance`` the one place that knows Optuna.

The sampler is made anew for each suggestion and fed the history as an in-memory Optuna study, so that a suggestion is a
function of the log. Conditional spaces go through Optuna's define-by-run suggestions, parents first. What Optuna
would drop, failed trials, it is shown as bad ones (the worst loss seen), so that it does not propose their like again.
Several objectives are several values, constraints are Optuna's own (their relative excess); a sampler that knows none
sees a trial that breaks them as worse than all that do not.

TPE: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011; Watanabe, arXiv 2304.11127.
NSGA-II: Deb et al., IEEE Transactions on Evolutionary Computation 6 (2002).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from luthier.core import goals
from luthier.core.errors import SpaceError, UserError
from luthier.core.history import History
from luthier.core.params import Config, Constant, Float, Int, Param, Value
from luthier.core.space import Space
from luthier.core.trial import Status, TrialRecord

if TYPE_CHECKING:
    import optuna


POPULATION = 20
"""Trials of a generation of ``nsga2``. Optuna's 50 would leave most budgets within the first, random one: on a bowl of
five hyperparameters and two objectives 20 kept level with random search up to 40 trials, and from 100 on was ahead of
50 (hypervolume, 12 seeds)."""


@dataclass(frozen=True, slots=True)
class OptunaSampler:
    """Suggestions by one of Optuna's samplers.

    Args:
        make: given a seed, a new sampler: ``lambda seed: optuna.samplers.GPSampler(seed=seed)``.
        name: what to call it.
    """

    make: Callable[[int], optuna.samplers.BaseSampler]
    name: str = "optuna"

    def suggest(self, history: History, rng: np.random.Generator) -> Config:
        """What the sampler proposes after the trials of ``history``."""
        import optuna

        with quiet():
            sampler = self.make(int(rng.integers(2**31)))
            many = len(history.study.goals.objectives)
            study = optuna.create_study(directions=["minimize"] * many, sampler=sampler)
            study.add_trials(frozen_trials(history, sampler))
            _choose_parents(study, sampler, _generations(history, sampler))
            try:
                return suggest(study.ask(), history.space)
            except ValueError as error:
                if many == 1 or "multi-objective" not in str(error):
                    raise
                raise UserError(
                    f"The sampler {self.name!r} ({type(sampler).__name__}) cannot do several objectives.",
                    "TPESampler, GPSampler, NSGAIISampler and NSGAIIISampler can.",
                ) from None


def tpe(seed: int) -> optuna.samplers.BaseSampler:
    """Optuna's TPE as it comes: ten random trials first, each hyperparameter by itself."""
    import optuna

    return optuna.samplers.TPESampler(seed=seed)


def nsga2(seed: int) -> optuna.samplers.BaseSampler:
    """Optuna's NSGA-II with a small population."""
    import optuna

    return optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)


def distributions(space: Space) -> dict[str, optuna.distributions.BaseDistribution]:
    """Optuna's distribution of each hyperparameter but the constants."""
    return {name: _distribution(space[name]) for name in space.dims}


def frozen_trials(
    history: History, sampler: optuna.samplers.BaseSampler | None = None
) -> list[optuna.trial.FrozenTrial]:
    """The history in Optuna's terms, losses to be minimized, as ``sampler`` wants to see it."""
    import optuna

    known = distributions(history.space)
    shown = _shown(history, penalize=not isinstance(sampler, _keeping_constraints()))
    trials: list[optuna.trial.FrozenTrial] = []
    generations = _generations(history, sampler)
    for trial in history.trained():
        params = params_of(history.space, trial)
        running = trial.status is Status.RUNNING
        values, constraints = shown[trial.id]
        trials.append(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.RUNNING if running else optuna.trial.TrialState.COMPLETE,
                params=params,
                distributions={k: known[k] for k in params},
                values=None if running else values,
                constraints=None if running else constraints,
                system_attrs={f"{type(sampler).__name__}:generation": generations[len(trials)]} if generations else {},
            )
        )
    return trials


Shown = tuple[list[float], dict[str, float]]
"""The values of a trial and what Optuna calls its constraints: how far each is broken, up to 0 where it is kept."""


def _shown(history: History, penalize: bool) -> dict[int, Shown]:
    """What to show of each trial; of those that failed, or have not told everything, the worst that was seen."""
    study = history.study
    told: dict[int, Shown] = {}
    for trial in history.trained():
        if not math.isfinite(history.final_loss(trial)):
            continue
        if not study.also and not study.constraints:
            told[trial.id] = [history.final_loss(trial)], {}
        elif (known := goals.point(history, trial)) is not None:
            losses = [o.loss(known.scores[o.metric]) for o in study.goals.objectives]
            told[trial.id] = losses, {str(c): c.excess(known.limits[c.metric]) for c in study.constraints}
    if penalize and study.constraints:
        # In the size of the losses, so that a model of them is not thrown off: beyond the worst one, by the violation.
        kept = [values for values, broken in told.values() if all(x <= 0 for x in broken.values())]
        edge = [max((values[i] for values in kept), default=0.0) for i in range(len(study.goals.objectives))]
        for i, (values, broken) in told.items():
            violated = sum(x for x in broken.values() if x > 0)
            told[i] = [x + violated for x in edge] if violated else values, {}
    worst = [max((values[i] for values, _ in told.values()), default=0.0) for i in range(len(study.goals.objectives))]
    limits = [broken for _, broken in told.values()] or [{}]
    failed = worst, {name: max(broken[name] for broken in limits) for name in limits[0]}
    return {trial.id: told.get(trial.id, failed) for trial in history.trained()}


def _keeping_constraints() -> tuple[type[optuna.samplers.BaseSampler], ...]:
    """Optuna's samplers that look at constraints."""
    from optuna import samplers

    return samplers.TPESampler, samplers.GPSampler, samplers.NSGAIISampler, samplers.NSGAIIISampler


def _generations(history: History, sampler: optuna.samplers.BaseSampler | None) -> list[int]:
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


def _breeds(
    sampler: optuna.samplers.BaseSampler | None,
) -> TypeGuard[optuna.samplers.NSGAIISampler | optuna.samplers.NSGAIIISampler]:
    from optuna import samplers

    return isinstance(sampler, samplers.NSGAIISampler | samplers.NSGAIIISampler)


def _choose_parents(study: optuna.Study, sampler: optuna.samplers.BaseSampler, generations: Sequence[int]) -> None:
    """Let a sampler that breeds choose the parents of each generation in turn, as it would have when that began: it
    keeps them in the study, and finds them there in another order than it chose them."""
    if _breeds(sampler):
        begun = generations[-1] in generations[:-1]
        for generation in range(1, generations[-1] + begun):
            sampler.get_parent_population(study, generation)


def params_of(space: Space, trial: TrialRecord) -> dict[str, Value]:
    """A trial's searched values, as far as the space still has them."""
    bases = {k: space.base(k, trial.config) for k in space.dims if k in trial.config}
    return {k: v for k, v in bases.items() if _fits(space[k], v)}


def suggest(trial: optuna.trial.Trial, space: Space) -> dict[str, Value]:
    """Let an Optuna trial choose every active hyperparameter, parents first."""
    config: dict[str, Value] = {}
    for name in space.parents_first:
        if not space.is_active(name, config):
            continue
        param = space[name]
        if isinstance(param, Constant):
            config[name] = param.value
        elif isinstance(param, Float):
            value = trial.suggest_float(name, param.low, param.high, log=param.log)
            config[name] = space.coupled(name, min(max(value, param.low), param.high), config)
        elif isinstance(param, Int):
            config[name] = trial.suggest_int(name, param.low, param.high, log=param.log)
        else:
            config[name] = trial.suggest_categorical(name, param.choices)
    return {name: config[name] for name in space if name in config}


def _distribution(param: Param) -> optuna.distributions.BaseDistribution:
    import optuna

    if isinstance(param, Float):
        return optuna.distributions.FloatDistribution(param.low, param.high, log=param.log)
    if isinstance(param, Int):
        return optuna.distributions.IntDistribution(param.low, param.high, log=param.log)
    assert not isinstance(param, Constant)
    return optuna.distributions.CategoricalDistribution(param.choices)


def _fits(param: Param, value: Value) -> bool:
    try:
        param.check(value)
    except SpaceError:
        return False
    return True


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna announces each study at INFO; ours are made and thrown away by the thousand."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
