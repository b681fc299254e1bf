"""A Gaussian process over learning curves: how a loss goes on, given how it and others went so far.

Swersky, Snoek and Adams, "Freeze-Thaw Bayesian Optimization" (arXiv 1406.3896), section 3: exponential decays with
rates from a gamma density mix to the kernel ``(beta / (t + t' + beta)) ** alpha`` (equation 6), which forgets with
training, so that what remains is the asymptote. Here, over points x and times t in (0, 1]::

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

STEPS = 10
"""Iterations of L-BFGS for the hyperparameters."""
FITTED = 100
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
    space = matern52(squared_distances(seen.x / scales, seen.x / scales))
    factor = cholesky(_covariance(_Pairs.of(seen), space, theta)[0])
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
    pairs = _Pairs.of(part)
    centre = np.concatenate([np.full(many, math.log(0.7 * math.sqrt(max(many, 1)))), CENTRE])
    width = np.concatenate([np.full(many, LENGTH_SD), WIDTH])

    def loss(point: Array) -> tuple[float, Array]:
        value, slope = _negative_log_likelihood(
            part.x, pairs, told, np.exp(point[:many])[of], np.exp(point[many:]), of, many
        )
        away = (point - centre) / width
        return value + 0.5 * float(away @ away), slope + away / width

    bounds = [(c - 4.0 * w, c + 4.0 * w) for c, w in zip(centre, width, strict=True)]
    found: Any = minimize(loss, centre, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS})
    best = np.asarray(found.x, dtype=float)
    return condition(seen, y, np.exp(best[:many])[of], np.exp(best[many:]))


@dataclass(frozen=True, slots=True)
class _Pairs:
    """What two observations each have to do with each other, whatever the hyperparameters.

    Args:
        sums: ``t + t'`` of the different times, which are few, of shape (k, k).
        at: where each pair is found in it.
        same: 1 where both are of one curve, of shape (n, n).
    """

    sums: Array
    at: tuple[Ints, Ints]
    same: Array

    @classmethod
    def of(cls, seen: Observed) -> _Pairs:
        times, row = np.unique(seen.t, return_inverse=True)
        same = (seen.curve[:, None] == seen.curve[None, :]).astype(float)
        return cls(times[:, None] + times[None, :], (row[:, None], row[None, :]), same)


def _covariance(pairs: _Pairs, space: Array, theta: Array) -> tuple[Array, Array]:
    """The covariance, and the kernel over t alone; each of shape (n, n)."""
    s_f, s_g, s_h, s_n, alpha, beta = theta
    time = ((beta / (pairs.sums + beta)) ** alpha)[pairs.at]
    covariance = s_f * space + time * (s_g * space + s_h * pairs.same)
    covariance[np.diag_indices(len(covariance))] += s_n
    return covariance, time


def _decay(a: Array, b: Array, alpha: float, beta: float) -> Array:
    """Equation 6 for every pair of times, computed once for each pair of different ones."""
    rows, row = np.unique(a, return_inverse=True)
    columns, column = np.unique(b, return_inverse=True)
    table = (beta / (rows[:, None] + columns[None, :] + beta)) ** alpha
    out: Array = table[row[:, None], column[None, :]]
    return out


def _negative_log_likelihood(
    x: Array, pairs: _Pairs, y: Array, scales: Array, theta: Array, of: Ints, many: int
) -> tuple[float, Array]:
    """And its slopes for the logarithms of the lengths and of ``theta`` (Rasmussen and Williams, equation 5.9)."""
    s_f, s_g, s_h, s_n, alpha, beta = theta
    scaled = x / scales
    squared = squared_distances(scaled, scaled)
    r = np.sqrt(squared)
    near = np.exp(-ROOT5 * r)
    space = (1.0 + ROOT5 * r + 5.0 / 3.0 * squared) * near
    covariance, time = _covariance(pairs, space, theta)
    factor = cholesky(covariance)
    weights = solve(factor, y)
    value = 0.5 * float(y @ weights) + float(np.log(np.diag(factor)).sum()) + 0.5 * len(y) * math.log(2.0 * math.pi)
    inner = inverse(factor) - np.outer(weights, weights)
    slope = np.zeros(many + len(theta))
    outer = inner * (s_f + s_g * time) * (5.0 / 3.0 * (1.0 + ROOT5 * r) * near)
    by_column = outer.sum(axis=1) @ scaled**2 - np.einsum("ij,ij->j", scaled, outer @ scaled)
    np.add.at(slope, of, by_column)
    here, late = inner * space, inner * time
    falling = late * (s_g * space + s_h * pairs.same)
    shape = pairs.sums / (pairs.sums + beta)
    slope[many:] = 0.5 * np.array(
        [
            s_f * here.sum(),
            s_g * (here * time).sum(),
            s_h * (late * pairs.same).sum(),
            s_n * np.trace(inner),
            alpha * (falling * np.log1p(-shape)[pairs.at]).sum(),
            alpha * (falling * shape[pairs.at]).sum(),
        ]
    )
    return value, slope
