"""Losses made fit for a model: the good ones as they are, bad ones drawn together, exploded ones capped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

EXPLODED = 30.0
"""Times the median distance from the best loss: what lies beyond has no say in the unit. Our choice."""
KNEE = 3.0
"""Units above the best up to which losses keep their distances; beyond, their logarithm counts. Our choice. The unit
is a mean and not the median, which is next to nothing once most trials are good: noise would be taken for a signal."""
WORST = 6.0
"""Where the logarithm ends, 60 units above the best: what is worse counts alike. Our choice."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps losses, smaller is better, to about zero mean and unit variance; monotone.

    Args:
        best: the smallest loss.
        unit: the mean distance from it, of the losses that did not explode, above 0.
        worst: what a loss that is not finite counts as, in units.
        centre, spread: the mean and standard deviation of the losses in units.
    """

    best: float
    unit: float
    worst: float
    centre: float
    spread: float

    @classmethod
    def of(cls, losses: Sequence[float]) -> Self:
        """The scale by which ``losses`` are told apart best; where none is finite, one that finds all alike."""
        y = np.asarray(losses, dtype=float)
        finite = y[np.isfinite(y)]
        if not len(finite):
            return cls(0.0, 1.0, 0.0, 0.0, 1.0)
        above = finite - finite.min()
        usual = above[above <= EXPLODED * np.median(above)]
        unit = float(usual.mean()) or float(above.mean()) or 1.0
        bare = cls(float(finite.min()), unit, float(_bent(above / unit).max()), 0.0, 1.0)
        mapped = bare(y)
        return cls(bare.best, unit, bare.worst, float(mapped.mean()), float(mapped.std()) or 1.0)

    def __call__(self, losses: Sequence[float] | Array) -> Array:
        """``losses`` on this scale; of the same shape."""
        y = np.asarray(losses, dtype=float)
        known = np.isfinite(y)
        units = np.where(known, _bent((np.where(known, y, self.best) - self.best) / self.unit), self.worst)
        out: Array = (units - self.centre) / self.spread
        return out


def _bent(units: Array) -> Array:
    far = KNEE + np.log(np.maximum(units, KNEE) / KNEE)
    out: Array = np.minimum(np.where(units > KNEE, far, units), WORST)
    return out
