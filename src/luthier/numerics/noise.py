"""How much scores differ from seed to seed, and what a gain is worth beside that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Decision = Literal["accept", "reject", "replicate"]

RELATIVE = 0.003
"""Seed noise before any was measured, as a part of the score: the median over 17 repeated AlgoPerf workloads."""
POINTS = 0.002
"""The same for a share in [0, 1], such as an accuracy: 0.2 percentage points."""
ACCEPT = 0.8
"""Where no more seeds are to be had, a gain is taken when it is this probable: P(A > B) of 0.75 to 0.8 serves for
decisions, Bouthillier et al., "Accounting for Variance in Machine Learning Benchmarks" (arXiv 2103.03098)."""
BELIEVED = 0.01
"""A gain below this part of the loss, or of a share's distance from 0 or 1, is luck, whatever the noise is taken for.
Our choice: with 0.3 %, the median noise of repeated AlgoPerf runs, short trainings of small networks sent the search
after chance."""
RARE = 0.05
"""A sample's spread below this quantile of its distribution is taken for luck."""


@dataclass(frozen=True, slots=True)
class SeedNoise:
    """How much the scores of one configuration differ from seed to seed.

    Args:
        sd: standard deviation of a single training's score, in the metric's units, above 0.
        df: degrees of freedom behind it; 0 where it is only the prior.
        source: ``"repeats"`` where it was measured, else ``"prior"``.
    """

    sd: float
    df: int
    source: Literal["repeats", "prior"]


def pooled_sd(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """The standard deviation within groups that may differ in their means, and its degrees of freedom.

    Groups of fewer than two values say nothing. (0, 0) where no group says anything.
    """
    told = [np.asarray(g, dtype=float) for g in groups if len(g) > 1]
    df = sum(len(g) - 1 for g in told)
    if not df:
        return 0.0, 0
    return math.sqrt(sum(float(((g - g.mean()) ** 2).sum()) for g in told) / df), df


def prior_sd(score: float, share: bool, samples: int | None = None) -> float:
    """Seed noise of a metric that was never repeated.

    Args:
        score: a typical score.
        share: it is a share in [0, 1].
        samples: how many validation samples it was counted on, if known. Half of the binomial error of a difference
            counts: both trainings see the same samples.
    """
    if not share:
        return max(RELATIVE * abs(score), 1e-12)
    counting = 0.5 * math.sqrt(2 * max(0.0, score * (1 - score)) / samples) if samples else 0.0
    return max(POINTS, counting)


def believable(score: float, sd: float, share: bool, part: float = BELIEVED) -> float:
    """The difference from a score, or from the loss that it is, that a change has to exceed to be believed.

    Args:
        score: of what is to be changed; its sign does not count.
        sd: the noise that it has to exceed in any case.
        share: it is a share in [0, 1].
        part: of the score, or of a share's distance from 0 or 1.
    """
    size = abs(score)
    return max(part * (min(size, 1.0 - size) if share else size), sd)


def least_sd(sd: float, df: int) -> float:
    """The smallest spread that a sample with ``df`` degrees of freedom plausibly shows where the true one is ``sd``.

    Its 5 % quantile, ``sd * sqrt(chi2(0.05, df) / df)``: two pairs that happen to agree do not prove a gain.
    """
    from scipy.stats import chi2

    return sd * math.sqrt(float(chi2.ppf(RARE, df)) / df)


def decide(gains: Sequence[float], noise: SeedNoise, *, free: bool = False, most: int = 3) -> Decision:
    """What to do with a change that gained ``gains``: keep it, drop it, or train both once more on another seed.

    With the mean gain ``d`` and its standard error ``se`` (from the gains where there are two or more, else
    ``noise.sd * sqrt(2)``): accept above ``2 se``, and above ``se`` what costs nothing; reject below zero, and below
    ``se / 2`` what costs something; else replicate. With ``most`` pairs there is no more replicating: accept where
    the gain is probable (0.8).

    Args:
        gains: of the change over what stands, a seed each, the same for both; positive is better. At least one.
        noise: see :func:`luthier.playbook.noise.noise_of`.
        free: the change costs neither time nor complexity.
        most: pairs that may be trained, at least 1.

    Raises:
        ValueError: without gains.
    """
    if not gains:
        raise ValueError("a decision needs at least one gain")
    n, d = len(gains), float(np.mean(gains))
    sd, df = noise.sd * math.sqrt(2), noise.df
    if n > 1:
        sd, df = max(float(np.std(gains, ddof=1)), least_sd(sd, n - 1)), n - 1
    se = sd / math.sqrt(n)
    if d > 2 * se or (free and d > se):
        return "accept"
    if d < 0 or (not free and d < se / 2):
        return "reject"
    if n < most:
        return "replicate"
    return "accept" if above_zero(d, se, df) >= ACCEPT else "reject"


def above_zero(mean: float, error: float, df: int) -> float:
    """The probability that a mean with standard ``error`` is truly above zero: Student's t posterior under a flat
    prior, the normal one where ``df`` is 0. Without any error the sign is certain, and nothing is even odds."""
    if error <= 0:
        return 0.5 + 0.5 * float(np.sign(mean))
    from scipy.stats import norm, t

    return float(t.cdf(mean / error, df) if df else norm.cdf(mean / error))


def reach(error: float, df: int, confidence: float = 0.95) -> float:
    """Half the width of a two-sided interval around a mean with standard ``error``; normal where ``df`` is 0."""
    from scipy.stats import norm, t

    at = 0.5 + confidence / 2
    return float(t.ppf(at, df) if df else norm.ppf(at)) * error
