"""A Gaussian process over learning curves: how a loss goes on, given how it and others went so far.

Swersky, Snoek and Adams, "Freeze-Thaw Bayesian Optimization" (arXiv 1406.3896), section 3: exponential decays with rates
from a gamma density mix to the kernel ``(beta / (t + t' + beta)) ** alpha`` (equation 6), which forgets with training, so
that what remains is the asymptote. Here, over points x and times t in (0, 1]::

    k = s_f^2 k_x(x, x') + k_t(t, t') (s_g^2 k_x(x, x') + s_h^2 [same curve]) + s_n^2 [same observation]

with Matern-5/2 for k_x. The middle term is not in the paper: it lets the way a loss falls depend on x as well. The
process is exact; the paper's factorization needs independent curves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.numerics.gp import ROOT5, cholesky, inverse, matern52, solve, squared_distances

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

STEPS = 15
"""Iterations of L-BFGS for the hyperparameters."""
FITTED = 120
"""Observations that they are fitted to."""
NAMES = ("s_f^2", "s_g^2", "s_h^2", "s_n^2", "alpha", "beta")
CENTRE = np.log([1.0, 0.5, 0.1, 1e-3, 1.0, 0.5])
WIDTH = np.array([0.75, 1.0, 1.0, 1.5, 0.5, 0.75])
"""Normal priors of the logarithms of :data:`NAMES`, for observations of about unit variance. Our choice."""
LENGTH_SD = 0.8
"""The log of a length-scale is normal around ``log(0.7 sqrt(d))`` with this standard deviation. Our choice, narrower
than Hvarfner et al. 2024: few curves say little about lengths."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Observations of curves, one a row.

    Args:
        x: features, of shape (n, d).
        t: times in (0, 1], of shape (n,).
        curve: the number of the curve that each belongs to, of shape (n,).
    """

    x: Array
    t: Array
    curve: Ints

    def __len__(self) -> int:
        return len(self.t)

    def take(self, rows: Ints) -> Observed:
        """Some of the rows."""
        return Observed(self.x[rows], self.t[rows], self.curve[rows])

    def and_also(self, other: Observed) -> Observed:
        """These rows, then those."""
        return Observed(
            np.concatenate([self.x, other.x]),
            np.concatenate([self.t, other.t]),
            np.concatenate([self.curve, other.curve]),
        )


@dataclass(frozen=True, slots=True)
class CurveGP:
    """A fitted process, mean zero.

    Args:
        seen: what it was given.
        scales: the length-scale of each feature.
        theta: the six variances and shape parameters, in the order of :data:`NAMES`.
        factor, weights: the lower Cholesky factor of the covariance; its inverse times the observations.
    """

    seen: Observed
    scales: Array
    theta: Array
    factor: Array
    weights: Array

    def predict(self, at: Observed) -> tuple[Array, Array]:
        """Mean and standard deviation of the noiseless curves at ``at``; a curve that was not seen yet has a number
        of its own. Each of shape (m,)."""
        from scipy.linalg import solve_triangular

        s_f, s_g, s_h, _, alpha, beta = self.theta
        space = matern52(squared_distances(self.seen.x / self.scales, at.x / self.scales))
        time = _decay(self.seen.t, at.t, alpha, beta)
        same = self.seen.curve[:, None] == at.curve[None, :]
        cross = s_f * space + time * (s_g * space + s_h * same)
        mean = cross.T @ self.weights
        half = solve_triangular(self.factor, cross, lower=True, check_finite=False)
        prior = s_f + (beta / (2.0 * at.t + beta)) ** alpha * (s_g + s_h)
        return mean, np.sqrt(np.maximum(prior - (half**2).sum(axis=0), 1e-10))


def condition(seen: Observed, y: Array, scales: Array, theta: Array) -> CurveGP:
    """The process with given hyperparameters on other observations."""
    covariance = _parts(seen, scales, theta)[0]
    factor = cholesky(covariance)
    return CurveGP(seen, scales, theta, factor, solve(factor, y))


def fit(seen: Observed, y: Array, groups: Sequence[int], most: int = FITTED) -> CurveGP:
    """The process whose hyperparameters are the most probable given ``y``, of shape (n,).

    Args:
        seen: the observations.
        y: their values, of about unit variance.
        groups: a number from 0 for each feature; features of one group share a length-scale.
        most: of more observations than that, so many, evenly spaced in the order given, decide the hyperparameters.
    """
    from scipy.optimize import minimize

    of = np.asarray(groups, dtype=np.int64)
    many = int(of.max()) + 1 if len(of) else 0
    rows = np.unique(np.linspace(0, len(seen) - 1, min(len(seen), most)).round().astype(np.int64))
    part, told = seen.take(rows), y[rows]
    centre = np.concatenate([np.full(many, math.log(0.7 * math.sqrt(max(many, 1)))), CENTRE])
    width = np.concatenate([np.full(many, LENGTH_SD), WIDTH])

    def loss(point: Array) -> tuple[float, Array]:
        value, slope = _negative_log_likelihood(part, told, np.exp(point[:many])[of], np.exp(point[many:]), of, many)
        away = (point - centre) / width
        return value + 0.5 * float(away @ away), slope + away / width

    bounds = [(c - 4.0 * w, c + 4.0 * w) for c, w in zip(centre, width, strict=True)]
    found: Any = minimize(loss, centre, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS})
    best = np.asarray(found.x, dtype=float)
    return condition(seen, y, np.exp(best[:many])[of], np.exp(best[many:]))


def _parts(seen: Observed, scales: Array, theta: Array) -> tuple[Array, Array, Array, Array, Array]:
    """The covariance, and what its slopes are made of: distances and kernel over x, kernel over t, same curve."""
    s_f, s_g, s_h, s_n, alpha, beta = theta
    scaled = seen.x / scales
    squared = squared_distances(scaled, scaled)
    space = matern52(squared)
    time = _decay(seen.t, seen.t, alpha, beta)
    same = (seen.curve[:, None] == seen.curve[None, :]).astype(float)
    covariance = s_f * space + time * (s_g * space + s_h * same)
    covariance[np.diag_indices(len(seen))] += s_n
    return covariance, np.sqrt(squared), space, time, same


def _decay(a: Array, b: Array, alpha: float, beta: float) -> Array:
    """Equation 6 for every pair; computed once for each pair of different times, which are few."""
    rows, row = np.unique(a, return_inverse=True)
    columns, column = np.unique(b, return_inverse=True)
    table = (beta / (rows[:, None] + columns[None, :] + beta)) ** alpha
    out: Array = table[row[:, None], column[None, :]]
    return out


def _negative_log_likelihood(
    seen: Observed, y: Array, scales: Array, theta: Array, of: Ints, many: int
) -> tuple[float, Array]:
    """And its slopes for the logarithms of the lengths and of ``theta`` (Rasmussen and Williams, equation 5.9)."""
    s_f, s_g, s_h, s_n, alpha, beta = theta
    covariance, r, space, time, same = _parts(seen, scales, theta)
    factor = cholesky(covariance)
    weights = solve(factor, y)
    value = 0.5 * float(y @ weights) + float(np.log(np.diag(factor)).sum()) + 0.5 * len(y) * math.log(2.0 * math.pi)
    inner = inverse(factor) - np.outer(weights, weights)
    slope = np.zeros(many + len(theta))
    outer = inner * (s_f + s_g * time) * (5.0 / 3.0 * (1.0 + ROOT5 * r) * np.exp(-ROOT5 * r))
    scaled = seen.x / scales
    by_column = outer.sum(axis=1) @ scaled**2 - np.einsum("ij,ij->j", scaled, outer @ scaled)
    np.add.at(slope, of, by_column)
    falling = time * (s_g * space + s_h * same)
    t = seen.t[:, None] + seen.t[None, :]
    slope[many:] = 0.5 * np.array(
        [
            s_f * (inner * space).sum(),
            s_g * (inner * time * space).sum(),
            s_h * (inner * time * same).sum(),
            s_n * np.trace(inner),
            alpha * (inner * falling * np.log(beta / (t + beta))).sum(),
            alpha * (inner * falling * t / (t + beta)).sum(),
        ]
    )
    return value, slope
