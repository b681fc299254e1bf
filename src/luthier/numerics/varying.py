"""A Gaussian process over a function that drifts with time, for bandits in a changing world.

The kernel is that of Bogunovic et al., "Time-Varying Gaussian Process Bandit Optimization" (AISTATS 2016): a squared
exponential in ``x`` times ``(1 - drift) ** (|t - t'| / 2)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

JITTER = 1e-8
"""Added to the diagonal, in units of the standardized values: keeps repeated points from making it singular."""
BOUNDS = {"variance": (0.05, 20.0), "length": (0.05, 5.0), "drift": (1e-4, 0.5), "noise": (1e-4, 2.0)}
"""Where the likelihood is maximized, for ``x`` in the unit cube and values of unit variance; judgements of ours, except
that a drift of at most 0.5 is that of PB2's authors' implementation."""


@dataclass(frozen=True, slots=True)
class Varying:
    """A Gaussian process with a squared exponential in space and a geometric forgetting in time.

    Args:
        x: (n, d) points; about the unit cube.
        t: (n,) times.
        y: (n,) values; zero mean and unit variance.
        variance, length, drift, noise: of the kernel ``variance * exp(-|x - x'|^2 / (2 length^2)) * (1 - drift) **
            (|t - t'| / 2)``; ``noise`` is a variance.
    """

    x: Array
    t: Array
    y: Array
    variance: float = 1.0
    length: float = 0.5
    drift: float = 0.1
    noise: float = 0.1

    def kernel(self, x: Array, t: Array) -> Array:
        """(m, n): the covariance of ``m`` points with those that were seen."""
        apart = np.sum((x[:, None, :] - self.x[None, :, :]) ** 2, axis=2)
        late = np.abs(t[:, None] - self.t[None, :])
        out: Array = self.variance * np.exp(-apart / (2.0 * self.length**2)) * (1.0 - self.drift) ** (late / 2.0)
        return out

    def predictor(self) -> Callable[[Array, Array], tuple[Array, Array]]:
        """A function from ``m`` points and times to the mean and the standard deviation, without noise: (m,), (m,)."""
        from scipy.linalg import cho_solve, solve_triangular

        factor = self._factor()
        weights = cho_solve((factor, True), self.y)

        def predict(x: Array, t: Array) -> tuple[Array, Array]:
            across = self.kernel(x, t)
            seen = solve_triangular(factor, across.T, lower=True)
            return across @ weights, np.sqrt(np.maximum(self.variance - np.sum(seen**2, axis=0), 1e-12))

        return predict

    def with_points(self, x: Array, t: Array) -> Varying:
        """The process once ``m`` more points were seen, of whose values nothing is known: only the deviation that it
        then predicts means anything."""
        return replace(
            self,
            x=np.concatenate([self.x, x]),
            t=np.concatenate([self.t, t]),
            y=np.concatenate([self.y, np.zeros(len(t))]),
        )

    def _factor(self) -> Array:
        from scipy.linalg import cholesky

        square = self.kernel(self.x, self.t) + (self.noise + JITTER) * np.eye(len(self.y))
        factor: Array = cholesky(square, lower=True)
        return factor

    def log_likelihood(self) -> float:
        """Of the values under the kernel: Rasmussen and Williams (2006), equation 2.30."""
        return -self._loss(np.log([self.variance, self.length, self.drift, self.noise]))[0]

    def _loss(self, logs: Array) -> tuple[float, Array]:
        """The negative log likelihood and its gradient by the logarithms of the four, equation 5.9."""
        from scipy.linalg import cho_solve

        variance, length, drift, noise = (float(v) for v in np.exp(logs))
        now = replace(self, variance=variance, length=length, drift=drift, noise=noise)
        factor = now._factor()
        alpha = cho_solve((factor, True), self.y)
        value = 0.5 * self.y @ alpha + np.sum(np.log(np.diag(factor))) + 0.5 * len(self.y) * math.log(2.0 * math.pi)
        inner = cho_solve((factor, True), np.eye(len(self.y))) - np.outer(alpha, alpha)
        square = now.kernel(self.x, self.t)
        apart = np.sum((self.x[:, None, :] - self.x[None, :, :]) ** 2, axis=2)
        late = np.abs(self.t[:, None] - self.t[None, :])
        slopes = (square, square * apart / length**2, square * (-drift / (1.0 - drift)) * late / 2.0)
        gradient = [0.5 * float(np.sum(inner * slope)) for slope in slopes]
        return float(value), np.array([*gradient, 0.5 * noise * float(np.trace(inner))])


def fitted(x: Array, t: Array, y: Array) -> Varying:
    """The process with the kernel under which the values are likeliest: L-BFGS from one start, within BOUNDS."""
    from scipy.optimize import minimize

    start = Varying(x, t, y)
    logs = np.log([start.variance, start.length, start.drift, start.noise])
    box = [tuple(np.log(BOUNDS[name])) for name in ("variance", "length", "drift", "noise")]
    found = minimize(start._loss, logs, jac=True, method="L-BFGS-B", bounds=box, options={"maxiter": 50})
    variance, length, drift, noise = (float(v) for v in np.exp(found.x))
    return replace(start, variance=variance, length=length, drift=drift, noise=noise)
