"""Quasi-random search: Owen-scrambled Sobol points, which cover the space more evenly than random draws.

Owen, "Scrambling Sobol' and Niederreiter-Xing points", Journal of Complexity 14 (1998); SciPy's implementation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from luthier.core.history import History
from luthier.core.params import Config

_BLOCK = 256
"""Points made at once: a power of two, as the sequence likes it."""


@dataclass(frozen=True, slots=True)
class Sobol:
    """Point number *n* of one scrambled sequence for the *n*-th trial; the study's seed scrambles it."""

    name: ClassVar[str] = "sobol"

    def suggest(self, history: History, rng: np.random.Generator) -> Config:
        """The next point of the sequence."""
        block, at = divmod(history.n_drawn, _BLOCK)
        d = len(history.space.dims)
        if d == 0:
            return history.space.from_unit([])
        return history.space.from_unit(_points(d, history.study.seed, block)[at].tolist())


@lru_cache(maxsize=4)
def _points(d: int, seed: int, block: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    from scipy.stats import qmc

    sequence = qmc.Sobol(d, scramble=True, rng=seed)
    if block:
        sequence.fast_forward(block * _BLOCK)
    points: np.ndarray[tuple[int, int], np.dtype[np.float64]] = sequence.random(_BLOCK)
    return points
