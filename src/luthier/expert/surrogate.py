"""A model of the score over the space, in the coordinates of the prior, that picks the most promising of many draws.

A Gaussian process has to learn what is near and what is far. Here experience says it: each numeric hyperparameter is
measured in standard deviations of its prior, around its prior's center. So a decade of learning rate is two steps and a
tenth of dropout one, a rate beside a larger batch is compared with the rate that belongs there, and of the shape of the
process only one length and one noise are left to fit, which a few trials can tell.

A trial that was not trained to the end counts with what its rung lets expect of it: a line through the trials that
were, shrunk towards little, its residuals as extra noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from luthier.core.goals import INFEASIBLE
from luthier.core.history import History
from luthier.core.params import Choice, Config, Value
from luthier.core.trial import Status, TrialRecord
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
OTHER = 0.55
"""How far two choices lie apart, per choice, in lengths. Our choice."""
FAR = 6.0
"""Standard deviations from the prior's center beyond which all is equally far."""
POINTS = 240
"""Trials that the model sees: the best two thirds of them, the rest the latest."""
LEAST = 8
"""Trials that are needed."""


@dataclass(frozen=True, slots=True)
class Coordinates:
    """The way from configurations to points, by a prior."""

    prior: Prior

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
class Surrogate:
    """The fitted model.

    Args:
        x: points, of shape (n, d), divided by the length.
        factor: the lower Cholesky factor of their covariance.
        weights: its inverse times the targets.
        center, unit: what a target of 0 and a step of 1 are in losses.
        length: of the numeric coordinates.
    """

    x: Array
    factor: Array
    weights: Array
    center: float
    unit: float
    length: float

    def predict(self, at: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the loss at points of shape (m, d)."""
        from scipy.linalg import solve_triangular

        cross = matern52(squared_distances(self.x, at / self.length))
        half = solve_triangular(self.factor, cross, lower=True, check_finite=False)
        sd = np.sqrt(np.maximum(1.0 - (half**2).sum(axis=0), 1e-9))
        return self.center + self.unit * (cross.T @ self.weights), self.unit * sd


def fit(history: History, prior: Prior, ladder: Sequence[int]) -> Surrogate | None:
    """The model of what the trials so far say; None where there are too few."""
    trials = _seen(history, ladder)
    if len(trials) < LEAST:
        return None
    coordinates = Coordinates(prior)
    rung = lines(history, ladder)
    expected = [_expected(history, t, ladder, rung) for t in trials]
    y, extra = np.array([e[0] for e in expected]), np.array([e[1] for e in expected])
    if not np.isfinite(y).all():  # a single rung: failed trials count as the worst that did not fail
        y = np.where(np.isfinite(y), y, y[np.isfinite(y)].max(initial=0.0))
    if float(y.std()) <= 0.0:
        return None
    center, unit = float(np.median(y)), float(y.std())
    x = np.array([coordinates(t.config) for t in trials])
    z, noise = (y - center) / unit, extra / unit**2
    best: tuple[float, Surrogate] | None = None
    for length in LENGTHS:
        scaled = x / (length * max(1, len(history.space.dims)) ** 0.25)
        kernel = matern52(squared_distances(scaled, scaled))
        for least in NOISES:
            covariance = kernel.copy()
            covariance[np.diag_indices(len(x))] += least + noise
            factor = cholesky(covariance)
            weights = solve(factor, z)
            likelihood = -0.5 * float(z @ weights) - float(np.log(np.diag(factor)).sum())
            value = likelihood - 0.5 * ((math.log(length) - USUAL) / AROUND) ** 2
            if best is None or value > best[0]:
                scale = length * max(1, len(history.space.dims)) ** 0.25
                best = value, Surrogate(scaled, factor, weights, center, unit, scale)
    return best[1] if best is not None else None


def most_promising(model: Surrogate, prior: Prior, running: Sequence[Config], candidates: Sequence[Config]) -> int:
    """The number of the candidate with the largest expected improvement on the best that the model believes in.

    Args:
        model: the fitted model.
        prior: whose coordinates it was fitted in.
        running: configurations without a result; they count as if what is expected of them had come true.
        candidates: at least one.
    """
    coordinates = Coordinates(prior)
    best = float(model.predict(model.x * model.length)[0].min())
    if running:
        model = _with(model, np.array([coordinates(c) for c in running]))
    mean, sd = model.predict(np.array([coordinates(c) for c in candidates]))
    return int(np.argmax(log_expected_improvement(mean, sd, best)))


def _with(model: Surrogate, at: Array) -> Surrogate:
    """The model with points believed to be what it expects there (kriging believer: Ginsbourger et al. 2010)."""
    believed = (model.predict(at)[0] - model.center) / model.unit
    x = np.concatenate([model.x, at / model.length])
    known = model.factor @ model.factor.T
    cross = matern52(squared_distances(model.x, at / model.length))
    own = matern52(squared_distances(at / model.length, at / model.length)) + NOISES[1] * np.eye(len(at))
    factor = cholesky(np.block([[known, cross], [cross.T, own]]))
    targets = np.concatenate([known @ model.weights, believed])
    return Surrogate(x, factor, solve(factor, targets), model.center, model.unit, model.length)


def _seen(history: History, ladder: Sequence[int]) -> list[TrialRecord]:
    """The trials that the model sees, at most :data:`POINTS`, by rank."""
    ranked = [i for _, i in history.ranked(ladder[0])]
    if len(ranked) > POINTS:
        best = ranked[: POINTS * 2 // 3]
        late = sorted(set(ranked) - set(best), reverse=True)[: POINTS - len(best)]
        ranked = best + late
    return [history.trials[i] for i in ranked]


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


def lines(history: History, ladder: Sequence[int]) -> list[Line]:
    """The line of each rung, by the trials that were trained to the end; shrunk towards half a step for each."""
    finished = [history.trials[i] for loss, i in history.ranked(ladder[-1]) if math.isfinite(loss)]
    ends = np.array([_loss(history, t, ladder[-1]) for t in finished])
    out = []
    for epoch in ladder[:-1]:
        every = np.array([_loss(history, history.trials[i], epoch) for x, i in history.ranked(epoch) if x < math.inf])
        if not len(every):
            out.append(Line(0.0, 0.0, 1.0, 0.0, 0.0))
            continue
        cap = float(np.median(every)) if len(every) > 4 else float(every.max())
        spread = float(every.var())
        if not len(finished):
            out.append(Line(0.0, 0.0, 1.0, cap, 0.2 * spread))
            continue
        x = np.array([_loss(history, t, epoch) for t in finished])
        mean, level, held = float(np.minimum(x, cap).mean()), float(ends.mean()), 2.0 * max(spread, 1e-12)
        slope = (float((x - mean) @ (ends - level)) + 0.5 * held) / (float((x - mean) @ (x - mean)) + held)
        slope = min(max(slope, 0.05), 1.0)
        left = float((((ends - level) - slope * (x - mean)) ** 2).sum()) + 2.0 * (0.15 * slope) ** 2 * spread
        out.append(Line(mean, level, slope, cap, left / (len(finished) + 2)))
    return out


def _loss(history: History, trial: TrialRecord, epoch: int) -> float:
    """A trial's loss at a rung in the size of the others: where it breaks a constraint, the worst that breaks none and
    ``v / (1 + v)`` of their span for a violation ``v``."""
    loss = history.loss_at(trial, epoch)
    if not INFEASIBLE <= loss < math.inf:
        return loss
    ranked = history.ranked(epoch)
    kept = ranked.rank((INFEASIBLE, -1))
    best, edge = (ranked[0][0], ranked[kept - 1][0]) if kept else (0.0, 0.0)
    return edge + (edge - best or 1.0) * (1.0 - INFEASIBLE / loss)


def _expected(history: History, trial: TrialRecord, ladder: Sequence[int], rung: Sequence[Line]) -> tuple[float, float]:
    """What is to be expected of a trial at full length, and the variance of that."""
    if trial.status not in (Status.FAILED, Status.STOPPED):
        for k in range(len(ladder) - 1, -1, -1):
            loss = _loss(history, trial, ladder[k])
            if trial.epoch >= ladder[k] and math.isfinite(loss):
                return (loss, 0.0) if k == len(ladder) - 1 else (rung[k](loss), rung[k].variance)
    return (rung[0](math.inf), rung[0].variance) if rung else (math.inf, 0.0)
