"""Small moves around a configuration that did well, their size by the prior.

Mallik et al., "PriorBand: Practical Hyperparameter Optimization in the Age of Deep Learning", NeurIPS 2023 (arXiv
2306.12370), section 4 and appendix: each hyperparameter moves with probability 1/2, a numeric one by a normal of
standard deviation 1/4 of its range. Here a hyperparameter whose prior has a width moves by half of that width: what
is known of its scale is known of the distance that matters, too.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from luthier.core.params import Choice, Config, Constant, Value
from luthier.knowledge import Prior
from luthier.knowledge.prior import Hill

MOVED = 0.5
"""The probability that a hyperparameter moves (PriorBand)."""
OF_RANGE = 0.25
"""A move's standard deviation on the unit scale where no prior knows better (PriorBand)."""
OF_PRIOR = 0.5
"""A move's standard deviation in those of the prior. Our choice."""
PARENTS = (4.0, 2.0, 1.0)
"""The odds of the best three to be moved. Our choice."""


def moved(
    prior: Prior, config: Config, rng: np.random.Generator, reach: float = 1.0, only: Collection[str] | None = None
) -> dict[str, Value]:
    """``config`` with about half of its hyperparameters moved, at least one.

    What becomes active by the move is drawn from the prior; what follows a moved hyperparameter moves along.

    Args:
        prior: the space, and how far is far.
        config: where to begin.
        rng: the decision's generator.
        reach: multiplies the length of the moves.
        only: the names that may move, all of them where None. At least one of them has to be in ``config``.
    """
    space = prior.space
    active = [n for n in space.dims if n in config and (only is None or n in only)]
    chosen = {n for n in active if rng.random() < MOVED} or {active[int(rng.integers(len(active)))]}
    out: dict[str, Value] = {}
    for name in prior.order:
        if not space.is_active(name, out):
            continue
        param = space[name]
        if isinstance(param, Constant):
            base: Value = param.value
        elif name not in config:
            base = prior.marginal(name, out).sample(rng)
        elif name not in chosen:
            base = space.base(name, config)
        elif isinstance(param, Choice):
            base = prior.marginal(name, out).sample(rng) if rng.random() < 0.5 else config[name]
        else:
            hill = prior.marginal(name, out)
            assert isinstance(hill, Hill)
            base = hill.shifted(space.base(name, config), reach * float(rng.standard_normal()), OF_PRIOR, OF_RANGE)
        out[name] = space.coupled(name, base, out)
    return {n: out[n] for n in space if n in out}
