"""Draws from a prior, from around the incumbent, and from anywhere, in shares that follow the evidence: PriorBand.

Mallik et al., "PriorBand: Practical Hyperparameter Optimization in the Age of Deep Learning", NeurIPS 2023 (arXiv
2306.12370), section 5. At rung r a draw is uniform with probability 1 / (1 + eta^r); the rest is the prior's until the
first bracket is paid and a trial was trained to the end, then shared between prior and incumbent in proportion to how
likely each makes the better third of the trials, weighted by rank. Left out: a searcher is not told at which rung its
trial will begin, so r is 0 throughout, which is the most cautious choice and that of ASHA.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from luthier.core.history import History
from luthier.core.params import Choice, Config
from luthier.core.space import Space
from luthier.core.trial import TrialRecord
from luthier.knowledge import Prior
from luthier.search.local import MOVED, OF_RANGE, moved


@dataclass(frozen=True, slots=True)
class PriorBand:
    """The mixture.

    Args:
        prior: what is believed; what the knowledge base knows of the space where None.
        eta: one in ``eta`` trials counts as good; that of the scheduler around it.
    """

    prior: Prior | None = None
    eta: int = 3
    name: ClassVar[str] = "priorband"

    def suggest(self, history: History, rng: np.random.Generator) -> Config:
        """A draw from one of the three."""
        space = history.space
        prior = Prior(space, history.study.max_epochs) if self.prior is None else self.prior
        anywhere = 1.0 / (1.0 + self.eta**0)
        if rng.random() < anywhere or not space.dims:
            return space.sample(rng)
        full = history.study.max_epochs
        best = history.incumbent
        ready = len(history.ranked(full)) > 0 and history.spent >= self.eta * full
        if best is None or not ready:
            return prior.sample(rng)
        return moved(prior, best.config, rng) if rng.random() < self._share(history, prior, best) else prior.sample(rng)

    def _share(self, history: History, prior: Prior, best: TrialRecord) -> float:
        """The incumbent's part of what is not uniform (section 5.2)."""
        good = [history.trials[i] for _, i in history.ranked()[: max(1, history.n_trained // self.eta)]]
        weights = np.arange(len(good), 0, -1, dtype=float)
        by_prior = weights @ np.exp([prior.log_density(t.config) for t in good])
        near = weights @ np.exp([_log_density_near(history.space, best.config, t.config) for t in good])
        return float(near / (near + by_prior))


def _log_density_near(space: Space, center: Config, config: Config) -> float:
    """The logarithm of the density of ``config`` among the moves of ``center``, on the unit cube."""
    total = 0.0
    for name in space.dims:
        if name not in config or name not in center:
            continue
        param = space[name]
        if isinstance(param, Choice):
            other = MOVED / len(param.choices)
            total += math.log((1.0 - MOVED + other if config[name] == center[name] else other) * len(param.choices))
            continue
        away = (param.to_unit(space.base(name, config)) - param.to_unit(space.base(name, center))) / OF_RANGE
        total += -0.5 * away * away - math.log(OF_RANGE * math.sqrt(2.0 * math.pi))
    return total
