"""Reading a learning-rate range test: from a ladder of rates and its losses to a rate, and how far to trust it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from luthier.core.errors import UserError

Curve = np.ndarray[tuple[int], np.dtype[np.float64]]

FLAT_DROP = 0.05
"""A smoothed loss that falls by less than this part of its start says nothing. Our choice."""
FLAT_SIGMAS = 4.0
"""Nor does one that falls by less than this many standard deviations of the noise. Our choice."""
LEFT_OUT_FIRST = 0.1
LEFT_OUT_LAST = 5
"""What fastai's finder cuts off: a tenth at the start, five points at the end (fastai/callback/schedule.py)."""
PLATEAU = 0.05
"""The valley begins where this part of the whole fall is done. Our choice, measured on the digits: a smoothed plateau
drifts down so steadily that the longest decreasing subsequence begins on it, decades too early."""
SHORTEST = 8
"""Points that must remain for a curve to have a shape."""


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

    One rule alone is easily fooled by the noise of single batches, so three are asked, on the median of the repeats'
    smoothed losses S: ``steep``, the most negative dS/dlog(rate) (on a linear axis the tiny rates would win);
    ``valley``, the middle of the middle third of the longest decreasing subsequence (fastai's default), after the
    plateau; and ``minimum/10``. How far they disagree is the measure of trust.

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
    beta = 0.95 if len(ladder) <= 100 else 0.98  # fastai's and Lightning's 0.98 remembers half of a short ladder
    raw = _common([_until_nonfinite(r) for r in losses], len(ladder))
    smooth = _common([debiased_average(_until_nonfinite(r), beta) for r in losses], len(ladder))
    broke = len(smooth) < len(ladder)  # half of the repeats or more ended early
    edge = float(ladder[len(smooth)]) if broke else None

    first = math.floor(LEFT_OUT_FIRST * len(smooth))
    rates, curve = ladder[first : len(smooth) - LEFT_OUT_LAST], smooth[first : len(smooth) - LEFT_OUT_LAST]
    if len(curve) < SHORTEST:
        why = f"The loss broke after {len(smooth)} of {len(ladder)} rates: too few to read."
        return LRSuggestion(None, nothing, edge, "none", {}, why)

    low = int(np.argmin(curve))
    start, bottom = float(curve[0]), float(curve[low])
    drop, noise = start - bottom, _noise(raw[: first + low + 1])
    if drop < FLAT_DROP * max(abs(start), 1e-8) or drop < FLAT_SIGMAS * noise:
        why = (
            f"The loss hardly fell, from {start:.3g} to {bottom:.3g} (noise {noise:.2g}), at any rate up to "
            f"{rates[-1]:.2g}: the test says nothing about the learning rate."
        )
        return LRSuggestion(None, nothing, edge, "none", {}, why)

    fell = int(np.flatnonzero(curve[: low + 1] >= start - PLATEAU * drop)[-1])
    slope = np.gradient(curve[: low + 1], np.log10(rates[: low + 1])) if low else np.zeros(1)
    rules = {
        "steep": float(rates[int(np.argmin(slope))]),
        "valley": float(rates[fell + _valley(curve[fell:])]),
        "minimum/10": float(rates[low]) / 10.0,
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
    """Center, spread in decades and confidence from the rules' disagreement. The spreads are our choice."""
    apart = max(rules.values()) / min(rules.values())
    if apart <= 10.0:
        return math.exp(sum(map(math.log, rules.values())) / len(rules)), 0.35, "high"
    if apart <= 100.0:
        return rules["valley"], 0.5, "medium"
    if prior is None:
        return rules["valley"], 0.7, "low"
    # The product of two normal densities over log10(rate).
    trust_valley, trust_prior = 0.7**-2, prior[1] ** -2
    mean = (trust_valley * math.log10(rules["valley"]) + trust_prior * math.log10(prior[0])) / (
        trust_valley + trust_prior
    )
    return 10.0**mean, 0.7, "low"


def debiased_average(values: Curve, beta: float) -> Curve:
    """The exponential moving average with memory ``beta``, divided by ``1 - beta**t`` (Kingma & Ba 2015, section 3)."""
    out = np.empty_like(values)
    average = 0.0
    for t, value in enumerate(values):
        average = beta * average + (1.0 - beta) * value
        out[t] = average / (1.0 - beta ** (t + 1))
    return out


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


def _valley(curve: Curve) -> int:
    """The middle of the middle third of the longest strictly decreasing subsequence (fastai's ``valley``)."""
    length, start = np.ones(len(curve), dtype=int), np.arange(len(curve))
    for i in range(1, len(curve)):
        for j in np.flatnonzero(curve[:i] > curve[i]):
            if length[j] + 1 > length[i]:
                length[i], start[i] = length[j] + 1, start[j]
    end = int(np.argmax(length))
    third = (end - int(start[end])) / 3.0
    return int(start[end]) + int(third) + int(third / 2.0)
