"""Losses made fit for a model: exploded ones capped, the rest around zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

REACH = 2.0
"""Times the distance from best to median that a loss may lie above the median. Our choice: the better half keeps its
shape, and a loss of 1e6 weighs no more than a merely bad one."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps losses to about zero mean and unit variance.

    Args:
        cap: larger losses, and those that are not finite, count as this.
        centre, spread: what is subtracted, and what is divided by, above 0.
    """

    cap: float
    centre: float
    spread: float

    @classmethod
    def of(cls, losses: Sequence[float]) -> Self:
        """The scale by which ``losses``, smaller is better, are told apart best; any scale where none is finite."""
        y = np.asarray(losses, dtype=float)
        finite = y[np.isfinite(y)]
        if not len(finite):
            return cls(0.0, 0.0, 1.0)
        best, middle = float(finite.min()), float(np.median(finite))
        cap = min(float(finite.max()), middle + REACH * (middle - best)) if middle > best else float(finite.max())
        capped = np.where(np.isfinite(y), np.minimum(y, cap), cap)
        spread = float(capped.std())
        return cls(cap, float(capped.mean()), spread if spread > 0.0 else 1.0)

    def __call__(self, losses: Sequence[float] | Array) -> Array:
        """``losses`` on this scale; of the same shape."""
        y = np.asarray(losses, dtype=float)
        return (np.where(np.isfinite(y), np.minimum(y, self.cap), self.cap) - self.centre) / self.spread
