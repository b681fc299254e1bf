"""Which of many: the winner's curse (the best of many noisy scores is better than it will be again), and the few that
stand for all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from luthier.numerics.noise import least_sd


def expected_max(n: int) -> float:
    """The expected largest of ``n`` standard normals: 0 for one, 1.54 for 10, 1.87 for 20, 2.25 for 50.

    ``n * integral of x phi(x) Phi(x)^(n-1)``, David and Nagaraja, Order Statistics (2003), section 3.1.
    """
    if n < 1:
        raise ValueError(f"the largest of {n} numbers does not exist")
    from scipy.special import ndtr

    x = np.linspace(-9.0, 9.0, 3601)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return float(np.trapezoid(x * n * density * ndtr(x) ** (n - 1), x)) if n > 1 else 0.0


@dataclass(frozen=True, slots=True)
class BestOf:
    """The best of several scores and what to expect of it when it is trained again.

    Args:
        score: as it was seen, larger is better.
        bias: by how much selection flatters it.
        tried: of how many it is the best.
    """

    score: float
    bias: float
    tried: int

    @property
    def expected(self) -> float:
        """The score without the flattery."""
        return self.score - self.bias


def best_of(scores: Sequence[float], noise: float) -> BestOf:
    """The largest of ``scores`` and its expected bias.

    With ``N`` equally good candidates the bias is ``E[max of N normals] * noise``. Where candidates truly differ, only
    the part ``noise / spread`` of the largest deviation is luck (a normal prior of the true scores, normal noise): the
    bias is ``E[max] * noise^2 / max(noise, spread)``. The spread is that of the better half, from the median to the
    84 % quantile: failures and bad candidates say nothing about luck at the top.

    Args:
        scores: larger is better; at least one.
        noise: standard deviation of one score from seed to seed.
    """
    x = np.asarray(scores, dtype=float)
    spread = float(np.quantile(x, 0.8413) - np.median(x))
    bias = expected_max(len(x)) * noise**2 / max(noise, spread) if noise > 0 else 0.0
    return BestOf(float(x.max()), bias, len(x))


def shrunk_means(table: Sequence[Sequence[float]], noise: float) -> list[float]:
    """The means of several candidates, drawn together as far as their differences are noise.

    ``m + w (m_i - m)`` with ``w = tau^2 / (tau^2 + s^2 / n)``, the empirical Bayes estimate under a normal prior
    (Efron and Morris 1973); ``s`` is what remains when the candidates' and the seeds' means are taken out. Where the
    means differ no more than noise explains, all are equal.

    Args:
        table: a row of scores for each candidate, on the same two or more seeds.
        noise: seed noise of a single score; ``s`` counts as no smaller than it plausibly shows.
    """
    x = np.asarray(table, dtype=float)
    k, n = x.shape
    means = x.mean(axis=1)
    if k < 2:
        return [float(m) for m in means]
    rest = x - means[:, None] - x.mean(axis=0)[None, :] + x.mean()
    df = (k - 1) * (n - 1)
    s = max(math.sqrt(float((rest**2).sum()) / df), least_sd(noise, df))
    error = s**2 / n
    tau = max(0.0, float(means.var(ddof=1)) - error)
    weight = tau / (tau + error) if tau > 0 else 0.0
    return [float(means.mean() + weight * (m - means.mean())) for m in means]


def representative(ids: Sequence[int], best: int, latest: int, spread: int) -> list[int]:
    """Positions of those that a model of bounded size sees, ascending; all of them where they are few enough.

    The best, for there it must be exact; the latest, so that nothing is tried again; of the others some evenly spaced
    by rank, so that what is known to be bad stays known.

    Args:
        ids: from best to worst, each growing with time.
        best, latest, spread: how many of each.
    """
    if len(ids) <= best + latest + spread:
        return list(range(len(ids)))
    new = set(sorted(ids)[-latest:]) if latest else set()
    rest = [i for i, which in enumerate(ids) if i >= best and which not in new]
    some = {rest[int(i)] for i in np.linspace(0, len(rest) - 1, spread).round()}
    return [i for i, which in enumerate(ids) if i < best or which in new or i in some]
