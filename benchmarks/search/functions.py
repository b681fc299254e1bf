"""Functions whose optimum is known, with a learning curve: nothing to know beforehand, everything to search."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import luthier as lt
from search.task import Config

RANDOM = 20_000
"""Random points, for the median."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the unit cube as a training.

    After the part z of a full training a configuration x shows ``at(x, z) + (1 - z) ** speed(x)``: the function's own
    low fidelity, and a curve whose shape differs from configuration to configuration, so that curves cross.

    Args:
        name, epochs: as in :class:`search.task.Task`.
        dims: the number of hyperparameters, ``x1`` and so on, in [0, 1].
        at: the function at a point (dims,) and fidelity in (0, 1].
        optimum: its lowest value at fidelity 1.
    """

    name: str
    epochs: int
    dims: int
    at: Callable[[np.ndarray, float], float]
    optimum: float

    metric = "value"

    @property
    def space(self) -> lt.Space:
        """The unit cube."""
        return lt.Space({f"x{i + 1}": lt.Float(0.0, 1.0) for i in range(self.dims)})

    @property
    def reference(self) -> tuple[float, float]:
        """The optimum, and the median of random points."""
        points = np.random.default_rng(0).random((RANDOM, self.dims))
        return self.optimum, float(np.median([self.at(x, 1.0) for x in points]))

    def expert(self) -> dict[str, object]:
        """The middle: nobody knows more."""
        return dict.fromkeys(self.space, 0.5)

    def start(self, config: Config, seed: int, horizon: int | None = None) -> Curve:
        """The curve of a point; there is nothing random in it, and no schedule."""
        return Curve(self, np.array([float(str(config[name])) for name in self.space]))


class Curve:
    """One point's curve."""

    def __init__(self, function: Function, x: np.ndarray) -> None:
        self._function, self._x, self._epoch = function, x, 0

    def step(self) -> dict[str, float]:
        """See :class:`search.task.Run`."""
        self._epoch += 1
        z = self._epoch / self._function.epochs
        speed = 1 + 4 * (float(self._x.sum()) % 1)  # from 1 to 5, unrelated to the value
        return {"value": self._function.at(self._x, z) + (1 - z) ** speed}


def branin(x: np.ndarray, z: float) -> float:
    """Branin's function (Dixon & Szegö 1978) on the unit square; at low fidelity its valleys lie elsewhere.

    The moved term is that of Perdikaris et al. 2017 (Proc. R. Soc. A 473), here in proportion to 1 - z.
    """
    a, b = 15 * x[0] - 5, 15 * x[1]
    a, b = a + 0.5 * (1 - z), b - 0.5 * (1 - z)
    valley = b - 5.1 / (4 * math.pi**2) * a**2 + 5 / math.pi * a - 6
    return valley**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(a) + 10


_ALPHA = np.array([1.0, 1.2, 3.0, 3.2])
_A = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
_P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def hartmann6(x: np.ndarray, z: float) -> float:
    """Hartmann's function of six variables; the weights of its peaks shrink at low fidelity.

    As in Kandasamy et al. 2017 (arXiv 1703.06240, appendix on synthetic experiments), with one fidelity for all peaks.
    """
    return -float((_ALPHA - 0.1 * (1 - z)) @ np.exp(-(_A * (x - _P) ** 2).sum(1)))


FUNCTIONS = {
    "branin": lambda: Function("branin", 9, 2, branin, 0.397887),
    "hartmann6": lambda: Function("hartmann6", 27, 6, hartmann6, -3.32237),
}
"""By name."""
