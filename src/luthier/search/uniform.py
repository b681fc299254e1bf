"""Random search: every configuration drawn uniformly on the scales of the space.

Bergstra and Bengio, "Random Search for Hyper-Parameter Optimization", JMLR 13 (2012).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from luthier.core.history import History
from luthier.core.params import Config


@dataclass(frozen=True, slots=True)
class Random:
    """Uniform draws."""

    name: ClassVar[str] = "random"

    def suggest(self, history: History, rng: np.random.Generator) -> Config:
        """One draw from ``history.space``."""
        space = history.space
        return space.from_unit(rng.random(len(space.dims)).tolist())
