"""BOHB's model: where good trials are denser than bad ones, on the longest trainings that tell enough.

Falkner, Klein and Hutter, "BOHB: Robust and Efficient Hyperparameter Optimization at Scale", ICML 2018 (arXiv
1807.01774), section 4 and Algorithm 2. With it Hyperband is BOHB. The searcher reads the rungs off the history: the
epochs at which trials were left standing. A failed trial counts as the worst of every rung that it was heading for.
With several objectives the good ones are the first by non-dominated sorting (``core/goals.py: ordered``), our choice.

Numbers have Gaussian kernels, choices those of Aitchison and Aitken (1976), each hyperparameter a bandwidth of its own.
An inactive hyperparameter says nothing: its kernel is 1, the uniform density. (The paper leaves that open; its authors'
code fills the gap with values of other trials.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from luthier.core.encode import Encoder
from luthier.core.goals import ranked_at
from luthier.core.history import History
from luthier.core.params import Choice, Config
from luthier.core.space import Space
from luthier.core.trial import Status, TrialRecord
from luthier.search.uniform import Random

Array = NDArray[np.float64]

NARROWEST = 1e-3
"""The smallest bandwidth, as a part of the scale; the authors' code has the same."""


@dataclass(frozen=True, slots=True)
class BOHB:
    """Proposals of the largest ratio of two kernel densities; the constants are the paper's.

    Args:
        quantile: part of a rung that counts as good.
        random: part of the proposals that are uniform draws.
        samples: draws among which the best ratio is chosen.
        widened: times the bandwidth that the draws spread over, to explore.
        fewest: observations that each density needs at least; one more than there are dimensions where None.
    """

    quantile: float = 0.15
    random: float = 1.0 / 3.0
    samples: int = 64
    widened: float = 3.0
    fewest: int | None = None
    name: ClassVar[str] = "bohb"

    def suggest(self, history: History, rng: np.random.Generator) -> Config:
        """A uniform draw where nothing can be modelled yet, and by chance; else the draw of the largest ratio."""
        space = history.space
        fewest = len(space.dims) + 1 if self.fewest is None else self.fewest
        ranked = None if rng.random() < self.random or not space.dims else largest_rung(history, fewest + 2)
        if ranked is None:
            return Random().suggest(history, rng)
        good, bad = split(ranked, self.quantile, fewest)
        better, worse = Density.of(space, good), Density.of(space, bad)
        drawn = [space.from_unit(u.tolist()) for u in better.draws(self.samples, self.widened, rng)]
        units = better.encoder.units(drawn)  # once more from the values: whole numbers and choices were rounded
        return drawn[int(np.argmax(better.log_density(units) - worse.log_density(units)))]


def largest_rung(history: History, fewest: int) -> list[TrialRecord] | None:
    """The trials of the longest rung that has ``fewest`` results, best first; None where none has.

    The paper asks for N_min + 2 (Algorithm 2, line 3).
    """
    holds = Encoder(history.space).holds
    ended = [t for t in history.trained() if (t.status is not Status.RUNNING or t.reports) and holds(t.config)]
    standing = {t.epoch for t in ended if t.status in (Status.PAUSED, Status.DONE, Status.STOPPED) and t.epoch}
    for rung in sorted(standing, reverse=True):
        members = [t for t in ended if t.epoch >= rung or (t.status is Status.FAILED and t.until >= rung)]
        if len(members) >= fewest:
            return ranked_at(history.study.goals, members, rung)
    return None


def split(ranked: list[TrialRecord], quantile: float, fewest: int) -> tuple[list[TrialRecord], list[TrialRecord]]:
    """The good and the bad of a rung, best first (equation 3): ``max(fewest, quantile * n)`` and ``max(fewest, n -
    good)`` trials, which overlap as long as there are few."""
    good = max(fewest, int(quantile * len(ranked)))
    bad = max(fewest, len(ranked) - good)
    return ranked[:good], ranked[-bad:]


@dataclass(frozen=True, slots=True)
class Density:
    """A product-kernel density on the unit cube of a space.

    Args:
        encoder: of the space.
        units: the points it is made of, of shape (n, dims).
        active: which of their coordinates count, of the same shape.
        widths: a bandwidth for each dimension: a standard deviation, or the chance of another choice.
    """

    encoder: Encoder
    units: Array
    active: NDArray[np.bool_]
    widths: Array

    @classmethod
    def of(cls, space: Space, trials: list[TrialRecord]) -> Density:
        """Of the configurations of ``trials``, bandwidths by the normal reference rule (Silverman 1986, section 3.4.2):
        1.06 sd n^(-1 / (4 + d)); for a choice among c values the part n^(-1 / (4 + d)) of (c - 1) / c, our choice."""
        encoder = Encoder(space)
        units = encoder.units(t.config for t in trials)
        active = encoder.active(units)
        widths = []
        for j, name in enumerate(space.dims):
            param, values = space[name], units[active[:, j], j]
            shrink = max(len(values), 1) ** (-1.0 / (4.0 + len(space.dims)))
            if isinstance(param, Choice):
                widths.append((len(param.choices) - 1) / len(param.choices) * shrink)
            else:
                spread = float(values.std()) if len(values) > 1 else math.sqrt(1.0 / 12.0)
                widths.append(max(NARROWEST, 1.06 * spread * shrink))
        return cls(encoder, units, active, np.array(widths))

    def log_density(self, at: Array) -> Array:
        """The logarithm of the density at the points of configurations, of shape (m, dims): of shape (m,)."""
        space, on = self.encoder.space, self.encoder.active(at)
        total = np.zeros((len(at), len(self.units)))
        for j, name in enumerate(space.dims):
            param, width = space[name], float(self.widths[j])
            if isinstance(param, Choice):
                many = len(param.choices)
                if many == 1:
                    continue
                same = np.abs(at[:, j, None] - self.units[None, :, j]) < 0.5 / many
                kernel = np.log(np.where(same, 1.0 - width, width / (many - 1)) * many)
            else:
                z = (at[:, j, None] - self.units[None, :, j]) / width
                kernel = -0.5 * z * z - math.log(width * math.sqrt(2.0 * math.pi))
            total += np.where(on[:, j, None] & self.active[None, :, j], kernel, 0.0)
        top = total.max(axis=1, keepdims=True)
        out: Array = top[:, 0] + np.log(np.exp(total - top).mean(axis=1))
        return out

    def draws(self, many: int, widened: float, rng: np.random.Generator) -> Array:
        """``many`` points near those that it is made of, with ``widened`` bandwidths: of shape (many, dims).

        A number is drawn from a normal cut off at the ends of its scale, by inversion. What is inactive at the chosen
        point is drawn uniformly.
        """
        from scipy.special import ndtr, ndtri

        chosen = rng.integers(len(self.units), size=many)
        out = self.units[chosen].copy()
        for j, name in enumerate(self.encoder.space.dims):
            param, width = self.encoder.space[name], float(self.widths[j])
            u = rng.random(many)
            if isinstance(param, Choice):
                away = rng.random(many) < min(1.0, widened * width)
                drawn = np.where(away, u, out[:, j])
            else:
                sd = widened * width
                low, high = ndtr(-out[:, j] / sd), ndtr((1.0 - out[:, j]) / sd)
                drawn = np.clip(out[:, j] + sd * ndtri(low + u * (high - low)), 0.0, 1.0)
            out[:, j] = np.where(self.active[chosen, j], drawn, u)
        return out
