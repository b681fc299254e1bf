"""What a candidate is worth, given what a model believes of it; smaller values are better throughout."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FAR = -30.0
"""Standard deviations below which the improvement's series replaces a difference of nearly equal numbers."""


def log_expected_improvement(mean: Array, sd: Array, best: float) -> Array:
    """The logarithm of the expected improvement on ``best`` of normal beliefs, each of shape (n,): finite where the
    improvement itself would be zero. Ament et al., "Unexpected Improvements to Expected Improvement" (arXiv
    2310.20708), section 4.1.
    """
    from scipy.special import erfcx, ndtr

    z = (best - mean) / sd
    down, up = np.minimum(z, 0.0), np.maximum(z, 0.0)
    # phi(z) + z Phi(z) = phi(z) (1 + z sqrt(pi / 2) erfcx(-z / sqrt(2))), where the bracket goes to 1 / z^2.
    bracket = 1.0 + np.maximum(down, FAR) * math.sqrt(math.pi / 2.0) * erfcx(-np.maximum(down, FAR) / math.sqrt(2.0))
    tail = np.where(down < FAR, -2.0 * np.log(np.maximum(-down, 1.0)), np.log(bracket))
    low = _log_density(down) + tail
    high = np.log(np.exp(_log_density(up)) + up * ndtr(up))
    out: Array = np.log(sd) + np.where(z > 0.0, high, low)
    return out


def _log_density(z: Array) -> Array:
    out: Array = -0.5 * z * z - 0.5 * math.log(2.0 * math.pi)
    return out


def log_probability_below(mean: Array, sd: Array, target: float) -> Array:
    """The logarithm of the probability that normal beliefs, each of shape (n,), lie below ``target``."""
    from scipy.special import log_ndtr

    return np.asarray(log_ndtr((target - mean) / sd))
