"""Comparing two configurations on the same seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Mean of paired differences and its two-sided interval."""

    mean: float
    sd: float
    low: float
    high: float
    pairs: int
    probability: float
    """That the true mean difference is above zero: Student's t posterior under a flat prior."""


def paired_difference(new: Sequence[float], old: Sequence[float], confidence: float = 0.95) -> PairedDifference:
    """Student's t interval of ``new - old`` over pairs; infinite with fewer than two pairs.

    Args:
        new, old: scores of the same length, pair by pair on the same seed.
        confidence: of the two-sided interval, in (0, 1).
    """
    if len(new) != len(old) or not new:
        raise ValueError(f"paired scores must have one length of at least 1, got {len(new)} and {len(old)}")
    d = np.asarray(new, dtype=float) - np.asarray(old, dtype=float)
    n, mean = len(d), float(d.mean())
    if n < 2:
        return PairedDifference(mean, math.nan, -math.inf, math.inf, n, 0.5)
    from scipy.stats import t

    sd = float(d.std(ddof=1))
    error = sd / math.sqrt(n)
    half = float(t.ppf(0.5 + confidence / 2, n - 1)) * error
    # Without any spread the sign is certain (and a difference of exactly nothing is even odds).
    probability = float(t.cdf(mean / error, n - 1)) if error > 0 else 0.5 + 0.5 * float(np.sign(mean))
    return PairedDifference(mean, sd, mean - half, mean + half, n, probability)


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for a single value)."""
    x = np.asarray(values, dtype=float)
    return float(x.mean()), float(x.std(ddof=1)) if len(x) > 1 else 0.0
