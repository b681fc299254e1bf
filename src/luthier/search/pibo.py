"""Bayesian optimization that listens to a prior, and less so with every trial.

Hvarfner et al., "piBO: Augmenting Acquisition Functions with User Beliefs for Bayesian Optimization", ICLR 2022 (arXiv
2204.11051), section 4: the acquisition, here the expected improvement, is multiplied by ``prior(x) ** (beta / n)`` for
the n-th proposal of the model. The first trials are drawn from the prior. The model is the Gaussian process of
``numerics/gp.py``, which sees running trials at their predicted mean (Ginsbourger et al. 2010, kriging believer) and
failed ones as bad ones.

The improvement is maximized over draws from the prior and from the whole space and moves around the best trials, and
then around the best of these, not by its slopes: choices and conditions have none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from luthier.core.encode import Encoder
from luthier.core.goals import sized
from luthier.core.history import History
from luthier.core.params import Config
from luthier.core.trial import Status, TrialRecord
from luthier.knowledge.prior import Prior
from luthier.numerics.acquisition import log_expected_improvement
from luthier.numerics.gp import GP, fit
from luthier.numerics.scaling import Scale
from luthier.numerics.selection import representative

Array = NDArray[np.float64]

BEST, LATEST, SPREAD = 80, 48, 64
"""Trials that the model sees: the best ones, for there it must be exact; the latest, so that none is proposed again;
and of the others so many, evenly spaced by rank, so that what is known to be bad stays known. Our choice: a decision
stays under a tenth of a second at any number of trials."""
FROM_PRIOR, UNIFORM, AROUND, NEAR = 32, 384, 192, 24
"""Candidates by where they come from; the last are those of the second round. Our choice."""
ASKED = 32
"""Candidates that do not come from the prior and whose density is looked up: the best by improvement alone. A draw or
a density of a prior takes a quarter of a millisecond, an improvement a hundredth."""
WIDTHS = (0.1, 0.03)
"""Standard deviations of the moves around the best, first and second round, as parts of the scale. Our choice."""
TRIALS = 100
"""Proposals that ``beta`` is meant for where the budget does not tell: the paper's beta is a tenth of them."""


class Belief(Protocol):
    """Where good configurations are believed to be."""

    def sample(self, rng: np.random.Generator) -> Config:
        """A configuration drawn from it."""
        ...

    def log_density(self, config: Config) -> float:
        """The logarithm of its density at ``config``, up to a constant; finite."""
        ...


@dataclass(frozen=True, slots=True)
class PiBO:
    """Expected improvement times a prior that fades.

    Args:
        prior: what is believed; what the knowledge base knows of the space where None.
        initial: trials drawn from the prior before the model is asked; one more than there are dimensions where None.
        beta: how much the prior counts, 0 for not at all; a tenth of the budget, in full-length trainings, where None.
    """

    prior: Belief | None = None
    initial: int | None = None
    beta: float | None = None
    name: ClassVar[str] = "pibo"

    def suggest(self, history: History, rng: np.random.Generator) -> Config:
        """A draw from the prior at first, then the candidate of the largest weighted improvement."""
        space = history.space
        prior: Belief = Prior(space, history.study.max_epochs) if self.prior is None else self.prior
        encoder = Encoder(space)
        trials = [t for t in history.trained() if encoder.holds(t.config)]
        told = [t for t in trials if t.status is not Status.RUNNING]
        initial = len(space.dims) + 1 if self.initial is None else self.initial
        if len(trials) < initial or len(told) < 2 or not space.dims:
            return prior.sample(rng)
        model, best = _model(history, encoder, told)
        weight = exponent(len(trials) - initial + 1, self._beta(history))
        leaders = encoder.units(t.config for t in sorted(told, key=lambda t: (history.final_loss(t), t.id))[:3])

        tried = {tuple(t.config.items()) for t in trials}

        def worth(configs: list[Config], improvement: Array) -> Array:
            # Twice the same teaches less than anything new, whatever a model of much noise says.
            new = np.array([tuple(c.items()) not in tried for c in configs])
            return np.where(new, improvement + weight * np.array([prior.log_density(c) for c in configs]), -np.inf)

        drawn: list[Config] = [prior.sample(rng) for _ in range(FROM_PRIOR)]
        units = np.concatenate(
            [rng.random((UNIFORM, len(space.dims))), encoder.moved(leaders, AROUND, WIDTHS[0], rng)], axis=0
        )
        improvement = _improvement(model, encoder, units, best)
        kept = np.argsort(-improvement, kind="stable")[:ASKED]
        configs = [*drawn, *(space.from_unit(units[i].tolist()) for i in kept)]
        every = np.concatenate([_improvement(model, encoder, encoder.units(drawn), best), improvement[kept]])
        first = worth(configs, every)
        at = int(np.argmax(first))
        near = encoder.moved(encoder.units([configs[at]]), NEAR, WIDTHS[1], rng)
        closer: list[Config] = [space.from_unit(u.tolist()) for u in near]
        second = worth(closer, _improvement(model, encoder, near, best))
        again = int(np.argmax(second))
        return closer[again] if second[again] > first[at] else configs[at]

    def _beta(self, history: History) -> float:
        if self.beta is not None:
            return self.beta
        epochs = history.study.budget.epochs
        return (TRIALS if epochs is None else epochs / history.study.max_epochs) / 10.0


def exponent(n: int, beta: float) -> float:
    """The power of the prior at the ``n``-th proposal, n from 1: ``beta / n`` (section 4.1)."""
    return beta / n


def _model(history: History, encoder: Encoder, told: list[TrialRecord]) -> tuple[GP, float]:
    """The process given all that was told, running trials believed, and the best target."""
    ranked = sorted(told, key=lambda t: (history.final_loss(t), t.id))
    order = [ranked[i] for i in representative([t.id for t in ranked], BEST, LATEST, SPREAD)]
    losses = sized([history.final_loss(t) for t in order])
    y = Scale.of(losses)(losses)
    x = encoder.features(encoder.units(t.config for t in order))
    model = fit(x, y, encoder.groups)
    going = [history.trials[i] for i in history.running]
    running = [t.config for t in going if t.probe is None and encoder.holds(t.config)]
    if running:
        there = encoder.features(encoder.units(running))
        model = model.with_points(np.concatenate([x, there]), np.concatenate([y, model.predict(there)[0]]))
    # By the model's mean rather than by the luckiest loss: a noisy best would never be improved on.
    return model, float(model.predict(model.x)[0].min())


def _improvement(model: GP, encoder: Encoder, units: Array, best: float) -> Array:
    return log_expected_improvement(*model.predict(encoder.features(units)), best)
