"""Robust statistics of curves, and what the rules share of one training: pure arithmetic on a few hundred points."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from luthier.diagnosis.curves import Array, Curves, Series

MOST = 300
"""Points that a longer series is thinned to, by the medians of equal parts; our choice, for diagnoses within 50 ms."""
TREND_MOST = 60
"""Points that a trend is computed from at most: all pairs are looked at. Our choice."""
SIGNIFICANT = 0.05
"""Two-sided p below which a Mann-Kendall trend counts."""
DECAYED = 0.1
"""A rate below this part of its peak has decayed. Our choice."""
DEAD_MARGIN = 0.0072
"""A loss that never fell below the trivial one by this part of it has learned nothing: 0.005 nats of log 2, measured on
12 TaskSet tasks, where the best of 1000 configurations was never among such at a tenth of its training."""
TAIL, FEW = 0.25, 5
"""The part of the training whose trend is looked at, and records of it below which that says little. Our choice."""
FLOOR = 1e-3
"""Noise is never taken for less than this part of the gap: four digits are what logs commonly keep. Our choice."""


@dataclass(frozen=True, slots=True)
class Trend:
    """A straight line through noise: ``slope`` (Theil-Sen) per unit of x, and Mann-Kendall's two-sided ``p``."""

    slope: float
    p: float

    @property
    def falls(self) -> bool:
        """Significantly."""
        return self.slope < 0 and self.p < SIGNIFICANT

    @property
    def rises(self) -> bool:
        """Significantly."""
        return self.slope > 0 and self.p < SIGNIFICANT


def trend(x: Array, y: Array) -> Trend:
    """The median of all pairwise slopes, and Kendall's test of y against x; no trend below four points."""
    if len(x) < 4:
        return Trend(0.0, 1.0)
    x, y = thin(Series(x, y), TREND_MOST).x, thin(Series(x, y), TREND_MOST).y
    n = len(x)
    i, j = np.triu_indices(n, 1)
    rises = y[j] - y[i]
    score = float(np.sign(rises).sum())
    # Kendall 1975, section 4.9: the score of no trend is close to normal from four points on.
    error = math.sqrt(n * (n - 1) * (2 * n + 5) / 18.0)
    z = max(abs(score) - 1.0, 0.0) / error
    return Trend(float(np.median(rises / (x[j] - x[i]))), math.erfc(z / math.sqrt(2.0)))


def noise(y: Array) -> float:
    """The standard deviation of independent noise on a smooth curve: ``1.4826 MAD(second differences) / sqrt(6)``.

    A trend does not count, and neither do a few jumps. 0 below four points.
    """
    if len(y) < 4:
        return 0.0
    bends = np.diff(y, 2)
    return 1.4826 * float(np.median(np.abs(bends - np.median(bends)))) / math.sqrt(6.0)


def median_filter(y: Array, width: int) -> Array:
    """The running median over ``width`` (odd) points; at the ends the window shrinks to what is symmetric."""
    half = width // 2
    if len(y) <= 2 * half or not half:
        return y
    out = y.copy()
    out[half : len(y) - half] = np.median(np.lib.stride_tricks.sliding_window_view(y, width), axis=1)
    for k in range(1, half):
        out[k], out[-1 - k] = np.median(y[: 2 * k + 1]), np.median(y[-2 * k - 1 :])
    return out


def smooth(y: Array) -> Array:
    """A running median over 3 points, over 5 from 25 points on, over 9 from 100 on."""
    return median_filter(y, 3 if len(y) < 25 else 5 if len(y) < 100 else 9)


def thin(series: Series, most: int = MOST) -> Series:
    """At most ``most`` points: medians of equal parts, each at its last place."""
    n = len(series)
    if n <= most:
        return series
    edges = np.linspace(0, n, most + 1).astype(int)
    width = int(np.diff(edges).min())
    starts = edges[1:] - width
    rows = starts[:, None] + np.arange(width)
    return Series(series.x[edges[1:] - 1], np.median(series.y[rows], axis=1))


def last(series: Series, part: float) -> Series:
    """The last ``part`` of the places that are covered, four points at least where there are so many."""
    if not len(series):
        return series
    from_x = series.x[-1] - part * (series.x[-1] - series.x[0])
    first = min(int(np.searchsorted(series.x, from_x)), max(len(series) - 4, 0))
    return Series(series.x[first:], series.y[first:])


def late_fall(series: Series) -> float:
    """By how much a series fell over its last quarter: the line through its records there, of fewer than five the
    smoothed curve itself. Negative where it rose; 0 below two records."""
    if len(series) < 2:
        return 0.0
    late = last(series, TAIL)
    if len(late) >= FEW:
        return -trend(late.x, late.y).slope * float(late.x[-1] - late.x[0])
    level, quarter = smooth(series.y), TAIL * float(series.x[-1] - series.x[0])
    return float(np.interp(series.x[-1] - quarter, series.x, level) - level[-1])


def risen(start: float, best: float, times: float) -> float:
    """``times`` a loss ``start``, from which it came down to ``best``. Below zero no multiple of it means a rise:
    there it is as far above it as for a positive one of its size, or of the size of what was learned."""
    return start + (times - 1.0) * max(abs(start), start - best)


def end_level(y: Array) -> float:
    """The median of the last tenth, of three points at least; NaN for nothing."""
    return float(np.median(y[-max(3, len(y) // 10) :])) if len(y) else math.nan


def breakpoint_of(x: Array, y: Array) -> float:
    """Where two straight lines that meet fit best: least squares over a hinge at every inner point (needs five)."""
    best, at = math.inf, float(x[0])
    t = (x - x[0]) / (x[-1] - x[0])
    for k in range(1, len(x) - 2):
        terms = np.column_stack([np.ones_like(t), t, np.maximum(t - t[k], 0.0)])
        rest = y - terms @ np.linalg.lstsq(terms, y, rcond=None)[0]
        error = float(rest @ rest)
        if error < best:
            best, at = error, float(x[k])
    return at


class View:
    """One training as the rules see it: finite, thinned, every curve turned so that smaller is better.

    Everything is computed when it is first asked for, and once.
    """

    def __init__(self, curves: Curves) -> None:
        self.curves = curves

    def named(self, x: float) -> float:
        """What the log calls the place ``x``."""
        return self.curves.named(float(x))

    # -- series ----------------------------------------------------------------------------------------------------
    @cached_property
    def raw_train(self) -> Series | None:
        """The training loss where it is finite, every record."""
        return _finite(self.curves.train_loss)

    @cached_property
    def train(self) -> Series | None:
        """The training loss, thinned."""
        return None if self.raw_train is None else thin(self.raw_train)

    @cached_property
    def val(self) -> Series | None:
        """The validation loss, thinned."""
        series = _finite(self.curves.val_loss)
        return None if series is None else thin(series)

    @cached_property
    def train_error(self) -> Series | None:
        """The training metric, turned: 1 - accuracy for what lies in [0, 1] and grows, else its negative."""
        return self._turned(self.curves.train_metric)

    @cached_property
    def val_error(self) -> Series | None:
        """The validation metric, turned in the same way."""
        return self._turned(self.curves.val_metric)

    def _turned(self, metric: Series | None) -> Series | None:
        series = _finite(metric)
        if series is None:
            return None
        series = thin(series)
        if not self.curves.maximize:
            return series
        return Series(series.x, (1.0 if self.shares else 0.0) - series.y)

    @cached_property
    def shares(self) -> bool:
        """Whether the metric is a share, such as an accuracy: all of it in [0, 1]."""
        metrics = [s for s in (_finite(self.curves.train_metric), _finite(self.curves.val_metric)) if s is not None]
        return bool(metrics) and all(float(s.y.min()) >= 0.0 and float(s.y.max()) <= 1.0 for s in metrics)

    @cached_property
    def judged(self) -> Series | None:
        """The validation loss, or where there is none the turned validation metric."""
        return self.val if self.val is not None else self.val_error

    @cached_property
    def judged_name(self) -> str:
        """What :attr:`judged` is called."""
        return "val_loss" if self.val is not None else "val_metric"

    @cached_property
    def learned(self) -> Series | None:
        """The training loss, or where there is none :attr:`judged`: what shows whether optimization works."""
        return self.train if self.train is not None else self.judged

    @cached_property
    def learned_name(self) -> str:
        """What :attr:`learned` is called."""
        return "train_loss" if self.train is not None else self.judged_name

    @cached_property
    def paired(self) -> tuple[Array, Array, Array] | None:
        """(places, training loss, validation loss) at every validation; a training loss that was recorded more often
        gives the mean since the validation before, as trainings report it."""
        train, val = self.raw_train, self.val
        if train is None or val is None or not len(val):
            return None
        if len(train) < 2 * len(val):
            level = np.interp(val.x, train.x, train.y)
        else:
            cuts = np.searchsorted(train.x, val.x, side="right")
            starts = np.concatenate([[0], cuts[:-1]])
            level = np.array([np.mean(train.y[a:b]) if b > a else math.nan for a, b in zip(starts, cuts)])
        kept = np.isfinite(level) & (val.x >= train.x[0])
        return (val.x[kept], level[kept], val.y[kept]) if kept.any() else None

    @cached_property
    def stepwise(self) -> bool:
        """Whether the training loss holds the noise of batches: recorded far more often than validated, or per step."""
        count = 0 if self.raw_train is None else len(self.raw_train)
        return count >= 4 * max(0 if self.val is None else len(self.val), 5) and (
            self.val is not None or self.curves.unit == "step" or count > MOST
        )

    # -- levels ----------------------------------------------------------------------------------------------------
    @cached_property
    def start(self) -> float:
        """The loss at the beginning: the median of the first five where batches were recorded, else the first."""
        if self.raw_train is not None:
            return float(np.median(self.raw_train.y[:5])) if self.stepwise else float(self.raw_train.y[0])
        return math.nan if self.learned is None else float(self.learned.y[0])

    @cached_property
    def ref(self) -> float:
        """The loss of knowing nothing: the trivial loss where it is known and a loss was recorded, else the start."""
        trivial = self.trivial
        return self.start if trivial is None else trivial

    @cached_property
    def trivial(self) -> float | None:
        """The trivial loss, if known and if there is a loss to compare with it."""
        given = self.curves.trivial_loss
        known = given is not None and math.isfinite(given) and (self.train is not None or self.val is not None)
        return given if known else None

    @cached_property
    def best_train(self) -> float:
        """The lowest smoothed training loss (or :attr:`learned`); NaN without any."""
        return math.nan if self.learned is None else float(smooth(self.learned.y).min())

    @cached_property
    def gap(self) -> float:
        """What was learned: from :attr:`ref` down to :attr:`best_train`; a hundredth of :attr:`ref` at least."""
        return max(self.ref - self.best_train, 0.01 * abs(self.ref), 1e-300)

    @cached_property
    def sigma(self) -> float:
        """The noise of :attr:`judged` over its last half, floored by :attr:`gap` and for shares by counting."""
        if self.judged is None:
            return 0.0
        late = last(self.judged, 0.5).y
        if self.judged is self.val_error:
            return max(noise(late), self.counting, FLOOR * float(np.ptp(self.judged.y)))
        return max(noise(late), FLOOR * self.gap)

    @cached_property
    def counting(self) -> float:
        """The standard error of a share of :attr:`Curves.n_val` samples at its end, sqrt(p (1 - p) / n); 0 if not
        known."""
        if self.val_error is None or not self.shares or not self.curves.n_val:
            return 0.0
        p = min(max(end_level(self.val_error.y), 0.0), 1.0)
        return math.sqrt(p * (1.0 - p) / self.curves.n_val)

    @cached_property
    def error_sigma(self) -> float:
        """The noise of :attr:`val_error` over its last half; 0 without one."""
        if self.val_error is None:
            return 0.0
        y = self.val_error.y
        return max(noise(last(self.val_error, 0.5).y), self.counting, FLOOR * float(np.ptp(y)))

    # -- time and schedule -----------------------------------------------------------------------------------------
    @property
    def seen(self) -> float:
        """The part of the training that is over."""
        return self.curves.seen

    @property
    def finished(self) -> bool:
        """Whether nothing is to come."""
        return self.seen > 0.995

    @cached_property
    def points(self) -> int:
        """Records of :attr:`learned` that are finite, before thinning."""
        series = self.raw_train if self.raw_train is not None else self.judged
        return 0 if series is None else len(series)

    @cached_property
    def rate(self) -> float | None:
        """The peak learning rate, if known."""
        series = _finite(self.curves.learning_rate)
        if series is not None and series.y.max() > 0:
            return float(series.y.max())
        given = self.curves.config.get("learning_rate")
        return float(given) if isinstance(given, int | float) and given > 0 else None

    @cached_property
    def rate_left(self) -> float | None:
        """The rate now as a part of its peak; None where it was not recorded."""
        series = _finite(self.curves.learning_rate)
        if series is None or series.y.max() <= 0:
            return None
        return float(series.y[-1] / series.y.max())

    @cached_property
    def decays(self) -> bool | None:
        """Whether the schedule decays, now or later; None when nothing is known of it."""
        named = self.curves.config.get("schedule")
        if isinstance(named, str) and named != "plateau":
            return named != "constant"
        series = _finite(self.curves.learning_rate)
        if series is None or series.y.max() <= 0:
            return None
        after = series.y[int(np.argmax(series.y)) :]
        return bool(after.min() < 0.5 * series.y.max())

    def at_rate(self, x: Array) -> Array:
        """Progress on the clock of the optimizer: the learning rate summed up to each place of ``x``, or ``x``."""
        series = _finite(self.curves.learning_rate)
        if series is None or len(series) < 2 or series.y.max() <= 0:
            return x
        done = np.cumsum(np.diff(series.x, prepend=0.0) * np.maximum(series.y, 0.0))
        # A part of the first record's stands for what was before it; equal places would divide by nothing.
        clock: Array = (
            np.interp(x, np.concatenate([[0.0], series.x]), np.concatenate([[0.0], done])) + 1e-9 * done[-1] * x
        )
        return clock


def _finite(series: Series | None) -> Series | None:
    if series is None:
        return None
    kept = series.finite
    return kept if len(kept) else None
