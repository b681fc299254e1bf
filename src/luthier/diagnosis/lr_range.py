"""Reading a learning-rate range test: from a ladder of rates and its losses to a rate, and how far to trust it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from luthier.core.errors import UserError

Curve = np.ndarray[tuple[int], np.dtype[np.float64]]

FLAT_DROP = 0.02
"""A loss that falls by less than this part of its start says nothing. Our choice."""
FLAT_SIGMAS = 4.0
"""Nor does one that falls by less than this many standard deviations of what the smoothing leaves of the noise. Our
choice."""
SMOOTHING_DECADES = 0.2
"""The standard deviation of the smoothing. Centered: an exponential average, as fastai and Lightning take it, lags a
hundred-step ladder by more than a decade, and so finds every feature of the curve at too large a rate."""
START_DECADES = 2.0
"""The loss at the start is the mean over the first so many decades, where no rate does anything yet."""
FALLEN = 0.9
"""``fall`` is the rate at which this part of the whole fall is done."""
BELOW_MINIMUM = 2.0
"""How far below the rate of the smallest loss a training of full length wants to be. Measured, like the choice of the
rules, on 24 trainings of 96 to 1500 updates (digits and MNIST-1D; MLP, CNN, transformer; AdamW, SGD, RMSProp): the best
rate of a sweep lay 2.1 times below the minimum on average, and a factor of 3.2 either way was one standard deviation of
what remained, with this rule as with each of the others."""
SHORTEST = 8
"""Points that must remain for a curve to have a shape."""
LADDER_STEPS = 100
"""Rates of a ladder, an update at each."""


@dataclass(frozen=True, slots=True)
class LRSuggestion:
    """What a range test says of the learning rate.

    Args:
        center: where to search; None when the test said nothing.
        spread_decades: the standard deviation of log10(rate) around ``center``; the prior's, or 1, without a center.
        upper: the rate above which training broke or is close to it; None when nothing was seen of it.
        confidence: how well the rules agree: within a factor of 10, of 100, worse, or no rule applies.
        rules: the rate that each rule picked.
        why: one sentence with the numbers.
    """

    center: float | None
    spread_decades: float
    upper: float | None
    confidence: Literal["high", "medium", "low", "none"]
    rules: dict[str, float] = field(default_factory=dict)
    why: str = ""


def suggest_lr(
    lrs: Sequence[float],
    losses: Sequence[Sequence[float]],
    *,
    prior: tuple[float, float] | None = None,
) -> LRSuggestion:
    """The learning rate that a range test points to (Smith 2017, "Cyclical Learning Rates", section 3.3).

    One rule alone is easily fooled, so three are asked, on the centered smooth S of the repeats' median: ``steep``, the
    most negative dS/dlog(rate) (on a linear axis the tiny rates would win); ``fall``, where nine tenths of the whole
    fall are done; and ``minimum/2``. The center is the geometric mean of the last two. How far all three disagree is
    the measure of trust.

    Args:
        lrs: the ladder, rising, all positive.
        losses: raw batch losses for each repeat, one for each rate; a repeat that diverged may be shorter or hold NaN.
        prior: ``(center, spread_decades)`` believed beforehand; drawn on when the rules disagree.

    Raises:
        UserError: no repeat, a ladder that does not rise, or more losses than rates.
    """
    ladder = np.asarray(lrs, dtype=float)
    if len(ladder) < 2 or ladder[0] <= 0 or not np.all(np.diff(ladder) > 0):
        raise UserError("The learning rates of a range test must be positive and rise.", "Give the ladder in order.")
    if not losses or max(map(len, losses)) > len(ladder):
        raise UserError(
            f"A range test needs repeats of at most {len(ladder)} losses, one for each rate.",
            "Give the raw batch losses.",
        )
    nothing = prior[1] if prior else 1.0
    raw = _common([_until_nonfinite(r) for r in losses], len(ladder))
    edge = float(ladder[len(raw)]) if len(raw) < len(ladder) else None  # half of the repeats or more ended there
    if len(raw) < SHORTEST:
        why = f"The loss broke after {len(raw)} of {len(ladder)} rates: too few to read."
        return LRSuggestion(None, nothing, edge, "none", {}, why)

    rates = ladder[: len(raw)]
    decades = np.log10(rates / rates[0])
    curve, left = _smoothed(raw, decades)
    low = int(np.argmin(curve))
    at_first = decades <= min(START_DECADES, decades[low] / 2)
    start, bottom = float(raw[at_first].mean()), float(curve[low])
    drop = start - bottom
    noise = _noise(raw[: max(low + 1, len(raw) // 2)]) * math.hypot(left, 1 / math.sqrt(int(at_first.sum())))
    if low < 2 or drop < FLAT_DROP * max(abs(start), 1e-8) or drop < FLAT_SIGMAS * noise:
        why = (
            f"The loss hardly fell, from {start:.3g} to {bottom:.3g} (noise {noise:.2g}), at any rate up to "
            f"{rates[-1]:.2g}: the test says nothing about the learning rate."
        )
        return LRSuggestion(None, nothing, edge, "none", {}, why)

    fell = int(np.flatnonzero(curve[: low + 1] <= start - FALLEN * drop)[0])
    slope = np.gradient(curve[: low + 1], decades[: low + 1])
    rules = {
        "steep": float(rates[int(np.argmin(slope))]),
        "fall": float(rates[fell]),
        "minimum/2": float(rates[low]) / BELOW_MINIMUM,
    }
    rises = np.flatnonzero(curve[low:] > bottom + 0.1 * drop)
    diverged = float(rates[low + rises[0]]) if len(rises) else edge
    upper = min(3.0 * float(rates[low]), diverged or math.inf)
    center, spread, confidence = _settle(rules, prior)
    center = min(center, upper)
    said = ", ".join(f"{name} {rate:.1e}" for name, rate in rules.items())
    apart = max(rules.values()) / min(rules.values())
    rose = f" and rose from {diverged:.1e} on" if diverged else ""
    why = (
        f"The loss fell from {start:.3g} to {bottom:.3g} at {rates[low]:.1e}{rose}; "
        f"the rules ({said}) agree to a factor of {apart:.2g}."
    )
    return LRSuggestion(center, spread, upper, confidence, rules, why)


def _settle(
    rules: dict[str, float], prior: tuple[float, float] | None
) -> tuple[float, float, Literal["high", "medium", "low"]]:
    """Center, spread in decades and confidence from the rules' disagreement.

    Half a decade is what was measured (see ``BELOW_MINIMUM``); that a worse agreement deserves more is our choice.
    """
    apart = max(rules.values()) / min(rules.values())
    center = math.sqrt(rules["fall"] * rules["minimum/2"])
    if apart <= 10.0:
        return center, 0.5, "high"
    if apart <= 100.0:
        return center, 0.6, "medium"
    if prior is None:
        return center, 0.7, "low"
    # The product of two normal densities over log10(rate).
    trust_test, trust_prior = 0.7**-2, prior[1] ** -2
    mean = (trust_test * math.log10(center) + trust_prior * math.log10(prior[0])) / (trust_test + trust_prior)
    return 10.0**mean, 0.7, "low"


def _smoothed(values: Curve, decades: Curve) -> tuple[Curve, float]:
    """The average with normal weights over neighbours on the log axis; and the part of the noise that it leaves.

    The weights are renormalized at the ends. Of independent noise a middle point keeps the norm of its weights.
    """
    width = max(SMOOTHING_DECADES, float(decades[1] - decades[0]))
    weights = np.exp(-0.5 * ((decades[:, None] - decades[None]) / width) ** 2)
    weights /= weights.sum(1, keepdims=True)
    return weights @ values, float(np.linalg.norm(weights[len(values) // 2]))


def _until_nonfinite(values: Sequence[float]) -> Curve:
    array = np.asarray(values, dtype=float)
    bad = np.flatnonzero(~np.isfinite(array))
    return array[: bad[0]] if len(bad) else array


def _common(repeats: Sequence[Curve], n: int) -> Curve:
    """The median over the repeats at each of ``n`` rates, as far as more than half of them went."""
    # Where a repeat ended it diverged, so infinity is its honest loss there.
    padded = np.stack([np.append(r, np.full(n - len(r), np.inf)) for r in repeats])
    median = np.median(padded, axis=0)
    return _until_nonfinite(median.tolist())


def _noise(raw: Curve) -> float:
    """The noise of a curve, blind to its trend: the spread of its steps over sqrt(2) (von Neumann 1941), by the MAD."""
    steps = np.diff(raw)
    if not len(steps):
        return 0.0
    return float(1.4826 * np.median(np.abs(steps - np.median(steps))) / math.sqrt(2.0))
