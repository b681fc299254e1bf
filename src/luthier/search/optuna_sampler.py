"""Any of Optuna's samplers as a searcher; with ``importance`` the one place that knows Optuna.

The sampler is made anew for each suggestion and fed the history as an in-memory Optuna study, so that a suggestion is a
function of the log. Conditional spaces go through Optuna's define-by-run suggestions, parents first. What Optuna
would drop, failed trials, it is shown as bad ones; with several objectives and constraints see ``optuna_goals.py``.
What a sampler cannot model (GP: conditional hyperparameters; CMA-ES: choices as well) it draws at random.

CMA-ES keeps its state in the trials: ``optuna_cmaes.py`` works it out. ``QMCSampler`` counts its proposals in the study
and would begin from the first each time; it is refused, for quasi-random search is Luthier's own ``Sobol``.

TPE: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011; Watanabe, arXiv 2304.11127.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from luthier.core.errors import SpaceError, UserError
from luthier.core.history import History
from luthier.core.params import Config, Constant, Float, Int, Param, Value
from luthier.core.space import Space
from luthier.core.trial import Status, TrialRecord
from luthier.search.optuna_goals import POPULATION, Shown, choose_parents, generations, shown

if TYPE_CHECKING:
    import optuna

Made = dict[int, tuple[TrialRecord, tuple[Shown | None, dict[str, int]], "optuna.trial.FrozenTrial"]]


@dataclass(frozen=True, slots=True)
class OptunaSampler:
    """Suggestions by one of Optuna's samplers.

    Args:
        make: given a seed, a new sampler: ``lambda seed: optuna.samplers.GPSampler(seed=seed)``.
        name: what to call it.
        recall: given the past trials, the same with the attributes in which the sampler keeps its state.
    """

    make: Callable[[int], optuna.samplers.BaseSampler]
    name: str = "optuna"
    recall: Callable[[list[optuna.trial.FrozenTrial]], list[optuna.trial.FrozenTrial]] | None = None

    def suggest(self, history: History, rng: np.random.Generator) -> Config:
        """What the sampler proposes after the trials of ``history``.

        Raises:
            UserError: Optuna's ``QMCSampler``; several objectives, of a sampler that cannot do them.
        """
        import optuna

        from luthier.search.optuna_storage import Snapshot

        with quiet():
            sampler = self.make(int(rng.integers(2**31)))
            many = len(history.study.goals.objectives)
            if isinstance(sampler, optuna.samplers.QMCSampler):
                raise UserError("Optuna's QMCSampler would propose its first point for ever.", 'Use strategy="sobol".')
            cannot = UserError(
                f"The sampler {self.name!r} ({type(sampler).__name__}) cannot do several objectives.",
                "TPESampler, GPSampler, NSGAIISampler and NSGAIIISampler can.",
            )
            if self.recall is not None and many > 1:
                raise cannot  # what keeps its state in one value a trial
            past = frozen_trials(history, sampler)
            storage = Snapshot(past if self.recall is None else self.recall(past))
            study = optuna.create_study(storage=storage, directions=["minimize"] * many, sampler=sampler)
            choose_parents(study, sampler, generations(history, sampler))
            try:
                return suggest(study.ask(), history.space)
            except ValueError as error:
                if many == 1 or "multi-objective" not in str(error):
                    raise
                raise cannot from None


def tpe(seed: int) -> optuna.samplers.BaseSampler:
    """Optuna's TPE as it comes: ten random trials first, each hyperparameter by itself."""
    import optuna

    return optuna.samplers.TPESampler(seed=seed)


def gp(seed: int) -> optuna.samplers.BaseSampler:
    """Optuna's Gaussian process as it comes: ten random trials first, then log expected improvement; needs PyTorch."""
    import optuna

    return optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)


def cmaes(seed: int) -> optuna.samplers.BaseSampler:
    """Optuna's CMA-ES as it comes, over the numbers that every trial has; needs the package ``cmaes``. To be used with
    ``recall=luthier.search.optuna_cmaes.recall``. Hansen, "The CMA Evolution Strategy: A Tutorial" (arXiv 1604.00772).
    """
    import optuna

    return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)


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
    """The history in Optuna's terms, losses to be minimized, as ``sampler`` wants to see it; numbered from 0, probes
    left out."""
    from optuna.trial import TrialState

    from luthier.search.optuna_storage import frozen

    known = distributions(history.space)
    told, born = shown(history, sampler), generations(history, sampler)
    key = f"{type(sampler).__name__}:generation"
    made = _made(history.space.to_json())
    trials = []
    for number, trial in enumerate(history.trained()):
        running = trial.status is Status.RUNNING
        now = None if running else told[trial.id], {key: born[number]} if born else {}
        record, before, it = made.get(number, (None, None, None))
        if it is None or record is not trial or before != now:
            params = params_of(history.space, trial)
            state = TrialState.RUNNING if running else TrialState.COMPLETE
            values, constraints = now[0] or (None, {})
            it = frozen(number, state, dict(params), {k: known[k] for k in params}, values, dict(now[1]))
            for name, excess in constraints.items():
                it.set_constraint(name, excess)
            made[number] = trial, now, it
        trials.append(it)
    return trials


@lru_cache(maxsize=4)
def _made(space: str) -> Made:
    """Optuna's trials by number, for each of the latest spaces. They are what :func:`frozen_trials` would make again of
    the same record, which never changes: it saves time and changes nothing."""
    return {}


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
    """Optuna announces each study, and says of each sampler once what it cannot do and what is experimental; ours are
    made and thrown away by the thousand."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
