"""Comparing two configurations on the same seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from luthier.numerics.noise import above_zero, least_sd, reach

MOST_FLIPS = 16
"""Pairs up to which all sign flips are counted: 65,536 of them."""


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


def paired_difference(
    new: Sequence[float], old: Sequence[float], confidence: float = 0.95, noise: float = 0.0
) -> PairedDifference:
    """Student's t interval of ``new - old`` over pairs; infinite with fewer than two pairs.

    Args:
        new, old: scores of the same length, pair by pair on the same seed.
        confidence: of the two-sided interval, in (0, 1).
        noise: seed noise of a single score. The differences' spread counts as no smaller than what this noise
            plausibly shows (:func:`luthier.numerics.noise.least_sd`), so that few pairs that agree prove nothing.
    """
    if len(new) != len(old) or not new:
        raise ValueError(f"paired scores must have one length of at least 1, got {len(new)} and {len(old)}")
    d = np.asarray(new, dtype=float) - np.asarray(old, dtype=float)
    n, mean = len(d), float(d.mean())
    if n < 2:
        return PairedDifference(mean, math.nan, -math.inf, math.inf, n, 0.5)
    sd = max(float(d.std(ddof=1)), least_sd(noise * math.sqrt(2), n - 1))
    error = sd / math.sqrt(n)
    half = reach(error, n - 1, confidence)
    return PairedDifference(mean, sd, mean - half, mean + half, n, above_zero(mean, error, n - 1))


def sign_flip_p(differences: Sequence[float]) -> float:
    """One-sided exact p-value of a positive mean: the part of all sign flips whose mean is at least the one seen.

    If no configuration were better, each difference could as well have had the other sign (Fisher's randomization
    test). Its smallest value with n pairs is 2^-n: 1/32 with five.

    Args:
        differences: 1 to 16 of them.
    """
    d = np.asarray(differences, dtype=float)
    if not 1 <= len(d) <= MOST_FLIPS:
        raise ValueError(f"sign flips need 1 to {MOST_FLIPS} differences, got {len(d)}")
    flips = np.array(list(product((1.0, -1.0), repeat=len(d)))) @ d
    # A flip that only rounding tells from the sample counts as its equal.
    return float(np.mean(flips >= d.sum() - 1e-9 * np.abs(d).sum()))


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for a single value)."""
    x = np.asarray(values, dtype=float)
    return float(x.mean()), float(x.std(ddof=1)) if len(x) > 1 else 0.0
