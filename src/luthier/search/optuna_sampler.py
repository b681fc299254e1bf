"""Any of Optuna's samplers as a searcher; with ``importance`` the one place that knows Optuna.

The sampler is made anew for each suggestion and fed the history as an in-memory Optuna study, so that a suggestion is a
function of the log. Conditional spaces go through Optuna's define-by-run suggestions, parents first. What Optuna
would drop, failed trials, it is shown as bad ones (the worst loss seen), so that it does not propose their like again.

TPE: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011; Watanabe, arXiv 2304.11127.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from luthier.core.errors import SpaceError
from luthier.core.history import History
from luthier.core.params import Config, Constant, Float, Int, Param, Value
from luthier.core.space import Space
from luthier.core.trial import Status, TrialRecord

if TYPE_CHECKING:
    import optuna


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
            study = optuna.create_study(direction="minimize", sampler=self.make(int(rng.integers(2**31))))
            study.add_trials(frozen_trials(history))
            return suggest(study.ask(), history.space)


def tpe(seed: int) -> optuna.samplers.BaseSampler:
    """Optuna's TPE as it comes: ten random trials first, each hyperparameter by itself."""
    import optuna

    return optuna.samplers.TPESampler(seed=seed)


def distributions(space: Space) -> dict[str, optuna.distributions.BaseDistribution]:
    """Optuna's distribution of each hyperparameter but the constants."""
    return {name: _distribution(space[name]) for name in space.dims}


def frozen_trials(history: History) -> list[optuna.trial.FrozenTrial]:
    """The history in Optuna's terms, losses to be minimized."""
    import optuna

    known = distributions(history.space)
    finite = [x for t in history.trained() if math.isfinite(x := history.final_loss(t))]
    worst = max(finite, default=0.0)
    trials = []
    for trial in history.trained():
        params = params_of(history.space, trial)
        running = trial.status is Status.RUNNING
        state = optuna.trial.TrialState.RUNNING if running else optuna.trial.TrialState.COMPLETE
        trials.append(
            optuna.trial.create_trial(
                state=state,
                params=params,
                distributions={k: known[k] for k in params},
                value=None if running else _value(history, trial, worst),
            )
        )
    return trials


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


def _value(history: History, trial: TrialRecord, worst: float) -> float:
    loss = history.final_loss(trial)
    return loss if math.isfinite(loss) else worst


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
