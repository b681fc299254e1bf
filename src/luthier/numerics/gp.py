"""An exact Gaussian process of a few hundred points: Matern-5/2, a length-scale for each group of columns.

Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), chapters 2 and 5. The prior of the lengths
grows with the dimension: Hvarfner, Hellsten and Nardi, "Vanilla Bayesian Optimization Performs Great in High
Dimensions" (arXiv 2402.02229), section 4. The hyperparameters are those of the largest posterior density (MAP).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LENGTH_MEAN, LENGTH_SD = math.sqrt(2.0), math.sqrt(3.0)
"""The log of a length-scale is normal with mean ``sqrt(2) + log(d) / 2`` and this standard deviation."""
NOISE_MEAN, NOISE_SD = -4.0, 1.0
"""The log of the noise variance is normal, for targets of unit variance; the same paper's."""
LEAST, MOST = 1e-6, 1.0
"""Bounds of the noise variance."""
STEPS = 20
"""Iterations of L-BFGS; after that many it is close."""
FITTED = 128
"""Points that the hyperparameters are fitted to: the cost of a step grows with their cube, and so many fix them."""
JITTERS = (0.0, 1e-8, 1e-6, 1e-4, 1e-2)
"""Added to the diagonal, one after the other, until the matrix can be factorized."""
ROOT5 = math.sqrt(5.0)


@dataclass(frozen=True, slots=True)
class GP:
    """A fitted process with mean zero and unit signal variance.

    Args:
        x: the points, of shape (n, d).
        scales: the length-scale of each column, of shape (d,).
        noise: the noise variance.
        factor: the lower Cholesky factor of the covariance, of shape (n, n).
        weights: the inverse covariance times the targets, of shape (n,).
    """

    x: Array
    scales: Array
    noise: float
    factor: Array
    weights: Array

    def predict(self, at: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the noiseless function at points of shape (m, d); each of shape (m,)."""
        from scipy.linalg import solve_triangular

        cross = matern52(squared_distances(self.x / self.scales, at / self.scales))
        mean = cross.T @ self.weights
        half = solve_triangular(self.factor, cross, lower=True, check_finite=False)
        return mean, np.sqrt(np.maximum(1.0 - (half**2).sum(axis=0), 1e-12))

    def with_points(self, x: Array, y: Array) -> GP:
        """The same hyperparameters on other points."""
        return condition(x, y, self.scales, self.noise)


def condition(x: Array, y: Array, scales: Array, noise: float) -> GP:
    """The process with given hyperparameters on points (n, d) and targets (n,)."""
    scaled = x / scales
    covariance = matern52(squared_distances(scaled, scaled))
    covariance[np.diag_indices(len(x))] += noise
    factor = cholesky(covariance)
    return GP(x, scales, noise, factor, solve(factor, y))


def fit(x: Array, y: Array, groups: Sequence[int] | None = None, most: int = FITTED) -> GP:
    """The process whose hyperparameters fit best.

    Args:
        x: points, of shape (n, d), columns of about unit range.
        y: targets, of shape (n,), of about zero mean and unit variance.
        groups: a number from 0 for each column; columns of one group share a length-scale. Each its own where None.
        most: of more points than that, so many, evenly spaced in the order given, decide the hyperparameters.
    """
    from scipy.optimize import minimize

    some = np.linspace(0, len(x) - 1, min(len(x), most)).round().astype(int)
    seen, told = x[some], y[some]

    of = np.arange(x.shape[1]) if groups is None else np.asarray(groups, dtype=int)
    many = int(of.max()) + 1 if len(of) else 0
    centre = np.append(np.full(many, LENGTH_MEAN + 0.5 * math.log(max(many, 1))), NOISE_MEAN)
    width = np.append(np.full(many, LENGTH_SD), NOISE_SD)
    # Below the prior's centre, where no length would matter and the slopes vanish.
    start = np.append(np.full(many, 0.5 * math.log(max(many, 1))), NOISE_MEAN)

    def loss(theta: Array) -> tuple[float, Array]:
        value, slope = _negative_log_likelihood(seen, told, np.exp(theta[:-1])[of], math.exp(theta[-1]), of, many)
        away = (theta - centre) / width
        return value + 0.5 * float(away @ away), slope + away / width

    bounds = [(math.log(1e-2), math.log(1e3))] * many + [(math.log(LEAST), math.log(MOST))]
    found: Any = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS})
    best = np.asarray(found.x, dtype=float)
    return condition(x, y, np.exp(best[:-1])[of], math.exp(best[-1]))


def _negative_log_likelihood(
    x: Array, y: Array, scales: Array, noise: float, of: NDArray[np.int64], many: int
) -> tuple[float, Array]:
    """Rasmussen and Williams, equations 2.30 and 5.9, and the slopes for the logarithms of lengths and noise."""
    scaled = x / scales
    r = np.sqrt(squared_distances(scaled, scaled))
    decay = np.exp(-ROOT5 * r)
    covariance = (1.0 + ROOT5 * r + 5.0 / 3.0 * r * r) * decay
    covariance[np.diag_indices(len(x))] += noise
    factor = cholesky(covariance)
    weights = solve(factor, y)
    value = 0.5 * float(y @ weights) + float(np.log(np.diag(factor)).sum()) + 0.5 * len(x) * math.log(2.0 * math.pi)
    inner = inverse(factor) - np.outer(weights, weights)
    # dk/d(log l_j) = 5/3 (1 + sqrt(5) r) exp(-sqrt(5) r) (x_j - x'_j)^2 / l_j^2, summed by matrix products.
    outer = inner * (5.0 / 3.0 * (1.0 + ROOT5 * r) * decay)
    by_column = outer.sum(axis=1) @ scaled**2 - np.einsum("ij,ij->j", scaled, outer @ scaled)
    slope = np.zeros(many + 1)
    np.add.at(slope, of, by_column)
    slope[-1] = 0.5 * noise * float(np.trace(inner))
    return value, slope


# -- matrices ----------------------------------------------------------------------------------------------------------


def squared_distances(a: Array, b: Array) -> Array:
    """Between the rows of (n, d) and (m, d): of shape (n, m)."""
    d = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2.0 * (a @ b.T)
    out: Array = np.maximum(d, 0.0)
    return out


def matern52(squared: Array) -> Array:
    """The Matern kernel with nu = 5/2 of squared distances in length-scales."""
    r = np.sqrt(squared)
    out: Array = (1.0 + ROOT5 * r + 5.0 / 3.0 * squared) * np.exp(-ROOT5 * r)
    return out


def cholesky(matrix: Array) -> Array:
    """The lower factor of a covariance, with as little added to its diagonal as it takes.

    Raises:
        numpy.linalg.LinAlgError: it is no covariance at all: not finite, or far from positive.
    """
    from scipy.linalg import cholesky as factorize

    for jitter in JITTERS:
        try:
            raised = matrix if jitter == 0.0 else matrix + jitter * float(np.diag(matrix).mean()) * np.eye(len(matrix))
            factor: Array = np.asarray(factorize(raised, lower=True, check_finite=False))
        except np.linalg.LinAlgError:
            continue
        if np.isfinite(factor).all():
            return factor
    raise np.linalg.LinAlgError("the covariance cannot be factorized, even with 1 % added to its diagonal")


def solve(factor: Array, y: Array) -> Array:
    """The inverse of the covariance with that lower factor, times ``y``."""
    from scipy.linalg import cho_solve

    return np.asarray(cho_solve((factor, True), y, check_finite=False))


def inverse(factor: Array) -> Array:
    """The inverse of the covariance with that lower factor."""
    from scipy.linalg.lapack import dpotri

    half: Array = np.asarray(dpotri(factor, lower=1)[0])
    low: Array = np.tril(half)
    return low + np.tril(half, -1).T
