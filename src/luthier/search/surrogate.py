"""A model of the score over the space, in the coordinates of the prior, that picks the most promising of many draws.

A Gaussian process has to learn what is near and what is far. Here experience says it: each numeric hyperparameter is
measured in standard deviations of its prior, around its prior's center. So a decade of learning rate is two steps and a
tenth of dropout one, a rate beside a larger batch is compared with the rate that belongs there, and of the shape of the
process one length, one noise, and what matters less than expected are left to fit, which a few trials can tell.

A training that was looked at early counts with what that lets expect at full length: a line through those that were
looked at both times, shrunk towards little, its residuals as extra noise. The expert's looks are the rungs of halving,
the playbook's are complete short trainings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from luthier.core.params import Choice, Config, Value
from luthier.knowledge import Prior
from luthier.knowledge.prior import Hill
from luthier.numerics.acquisition import log_expected_improvement
from luthier.numerics.gp import cholesky, matern52, solve, squared_distances

Array = NDArray[np.float64]

LENGTHS = (1.0, 1.6, 2.5, 4.0)
"""Lengths that are compared, in standard deviations of the prior; times the fourth root of the dimension."""
USUAL, AROUND = math.log(1.8), 0.6
"""The prior of the length's logarithm."""
NOISES = (0.02, 0.08, 0.3)
"""Variances of the noise of a full training that are compared, with that of the scores as the unit."""
FAINT, PROOF = 0.3, 0.5
"""What a hyperparameter's coordinate is multiplied by where the trainings say that it matters less than the prior has
it, and the log likelihood that this has to gain. Our choice."""
OTHER = 0.55
"""How far two choices lie apart, per choice, in lengths. Our choice."""
FAR = 6.0
"""Standard deviations from the prior's center beyond which all is equally far."""
FITTED = 96
"""Trainings that lengths and noise are fitted to, at most: what a fit takes grows with their cube."""
LEAST = 8
"""Trainings that are needed."""
DRAWS = 16
"""Draws among which the model chooses. Our choice."""
BLIND = 0.25
"""The part of the draws that it does not choose. Our choice."""


@dataclass(frozen=True, slots=True)
class Coordinates:
    """The way from configurations to points, by a prior."""

    prior: Prior

    @property
    def owners(self) -> tuple[str, ...]:
        """Whose each coordinate is: numeric hyperparameters first, then each choice of the others."""
        space, names = self.prior.space, [n for n in self.prior.order if n in self.prior.space.dims]
        numeric = [n for n in names if not isinstance(space[n], Choice)]
        return (*numeric, *(n for n in names if isinstance(p := space[n], Choice) for _ in p.choices))

    def __call__(self, config: Config) -> tuple[float, ...]:
        """Numeric hyperparameters in standard deviations of the prior, choices as one number each; 0 where inactive."""
        numbers: list[float] = []
        choices: list[float] = []
        seen: dict[str, Value] = {}
        space = self.prior.space
        for name in self.prior.order:
            if name in config:
                seen[name] = config[name]
            if name not in space.dims:
                continue
            param = space[name]
            if isinstance(param, Choice):
                choices += [float(name in config and c == config[name]) for c in param.choices]
                continue
            hill = self.prior.marginal(name, seen)
            assert isinstance(hill, Hill)
            at = hill.standard(space.base(name, config)) if name in config else 0.0
            numbers.append(min(max(at, -FAR), FAR))
        return (*numbers, *(c * OTHER for c in choices))


@dataclass(frozen=True, slots=True)
class Observations:
    """What is known of configurations.

    Args:
        configs: n configurations, the same one as often as it was trained.
        losses: what is expected of each at full length, of shape (n,).
        doubts: the variance of that, 0 for what was trained to the end; of shape (n,).
    """

    configs: Sequence[Config]
    losses: Array
    doubts: Array


@dataclass(frozen=True, slots=True)
class Surrogate:
    """The fitted model.

    Args:
        x: points, of shape (n, d), times ``scale``.
        factor: the lower Cholesky factor of their covariance.
        weights: its inverse times the targets.
        center, unit: what a target of 0 and a step of 1 are in losses.
        scale: what a point is multiplied by, so that a length is 1; of shape (d,).
    """

    x: Array
    factor: Array
    weights: Array
    center: float
    unit: float
    scale: Array

    def predict(self, at: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the loss at points of shape (m, d)."""
        from scipy.linalg import solve_triangular

        cross = matern52(squared_distances(self.x, at * self.scale))
        half = solve_triangular(self.factor, cross, lower=True, check_finite=False)
        sd = np.sqrt(np.maximum(1.0 - (half**2).sum(axis=0), 1e-9))
        return self.center + self.unit * (cross.T @ self.weights), self.unit * sd


def fit(prior: Prior, evidence: Observations) -> Surrogate | None:
    """The model of what the trainings so far say; None where there are too few, or all are alike.

    Args:
        prior: whose coordinates are taken.
        evidence: the trainings. Losses that are not finite count as the worst that is.
    """
    if len(evidence.configs) < LEAST:
        return None
    coordinates, y, extra = Coordinates(prior), evidence.losses, evidence.doubts
    finite = np.isfinite(y)
    if not finite.any():
        return None
    y = np.where(finite, y, y[finite].max())
    if float(y.std()) <= 0.0:
        return None
    center, unit = float(np.median(y)), float(y.std())
    x = np.array([coordinates(c) for c in evidence.configs])
    z, noise = (y - center) / unit, extra / unit**2
    owners = np.array(coordinates.owners)
    size = max(1, len(prior.space.dims)) ** 0.25

    def fitted(length: float, least: float, relevance: Array, at: NDArray[np.intp]) -> tuple[float, Surrogate]:
        scale = relevance / (length * size)
        scaled = x[at] * scale
        covariance = matern52(squared_distances(scaled, scaled))
        covariance[np.diag_indices(len(at))] += least + noise[at]
        factor = cholesky(covariance)
        weights = solve(factor, z[at])
        likelihood = -0.5 * float(z[at] @ weights) - float(np.log(np.diag(factor)).sum())
        value = likelihood - 0.5 * ((math.log(length) - USUAL) / AROUND) ** 2
        return value, Surrogate(scaled, factor, weights, center, unit, scale)

    some = np.unique(np.linspace(0, len(x) - 1, min(len(x), FITTED)).astype(np.intp))
    length, least, relevance = LENGTHS[0], NOISES[1], np.ones(x.shape[1])
    best, model = fitted(length, least, relevance, some)
    for other in LENGTHS[1:]:
        value, tried = fitted(other, least, relevance, some)
        if value > best:
            best, model, length = value, tried, other
    for name in prior.space.dims:
        less = np.where(owners == name, relevance * FAINT, relevance)
        value, tried = fitted(length, least, less, some)
        if value > best + PROOF:
            best, model, relevance = value, tried, less
    for calm in (NOISES[0], NOISES[2]):
        value, tried = fitted(length, calm, relevance, some)
        if value > best:
            best, model, least = value, tried, calm
    return model if len(some) == len(x) else fitted(length, least, relevance, np.arange(len(x), dtype=np.intp))[1]


def most_promising(model: Surrogate, prior: Prior, running: Sequence[Config], candidates: Sequence[Config]) -> int:
    """The number of the candidate with the largest expected improvement on the best that the model believes in.

    Args:
        model: the fitted model.
        prior: whose coordinates it was fitted in.
        running: configurations without a result; they count as if what is expected of them had come true.
        candidates: at least one.
    """
    coordinates = Coordinates(prior)
    best = float(model.predict(model.x / model.scale)[0].min())
    if running:
        model = _with(model, np.array([coordinates(c) for c in running]))
    mean, sd = model.predict(np.array([coordinates(c) for c in candidates]))
    return int(np.argmax(log_expected_improvement(mean, sd, best)))


def _with(model: Surrogate, at: Array) -> Surrogate:
    """The model with points believed to be what it expects there (kriging believer: Ginsbourger et al. 2010)."""
    believed = (model.predict(at)[0] - model.center) / model.unit
    x = np.concatenate([model.x, at * model.scale])
    known = model.factor @ model.factor.T
    cross = matern52(squared_distances(model.x, at * model.scale))
    own = matern52(squared_distances(at * model.scale, at * model.scale)) + NOISES[1] * np.eye(len(at))
    factor = cholesky(np.block([[known, cross], [cross.T, own]]))
    targets = np.concatenate([known @ model.weights, believed])
    return Surrogate(x, factor, solve(factor, targets), model.center, model.unit, model.scale)


@dataclass(frozen=True, slots=True)
class Line:
    """What a result at a rung lets expect at full length: ``level + slope * (min(loss, cap) - mean)``.

    Args:
        cap: the rung's median; what is worse is bad and no worse.
        variance: of what the line leaves open.
    """

    mean: float
    level: float
    slope: float
    cap: float
    variance: float

    def __call__(self, loss: float) -> float:
        """What is expected at full length."""
        return self.level + self.slope * (min(loss, self.cap) - self.mean)

    @classmethod
    def through(cls, every: Array, looked: Array, ended: Array) -> Self:
        """The line, shrunk towards half a step for each step.

        Args:
            every: the finite losses of all that were looked at, of shape (m,).
            looked: those of the ones that were trained to the end, of shape (n,).
            ended: their losses there, of shape (n,).
        """
        if not len(every):
            return cls(0.0, 0.0, 1.0, 0.0, 0.0)
        cap = float(np.median(every)) if len(every) > 4 else float(every.max())
        spread = float(every.var())
        if not len(looked):
            return cls(0.0, 0.0, 1.0, cap, 0.2 * spread)
        capped = np.minimum(looked, cap)
        mean, level, held = float(capped.mean()), float(ended.mean()), 2.0 * max(spread, 1e-12)
        off = capped - mean
        slope = (float(off @ (ended - level)) + 0.5 * held) / (float(off @ off) + held)
        slope = min(max(slope, 0.05), 1.0)
        left = float((((ended - level) - slope * off) ** 2).sum()) + 2.0 * (0.15 * slope) ** 2 * spread
        return cls(mean, level, slope, cap, left / (len(looked) + 2))
