"""Tiers 3 and 4: too little capacity, too little regularization."""

from __future__ import annotations

import numpy as np

from luthier.diagnosis.curves import Series
from luthier.diagnosis.rules.rule import Evidence, Rank, rule
from luthier.diagnosis.signals import View, breakpoint_of, end_level, last, smooth, trend

RISE_SIGMAS = 3.0
RISE_PART = 0.02
"""A validation loss has risen when it ends three standard deviations of its noise and 2 % of its lowest above it."""
FEW, STEEP = 8, 0.1
"""With fewer records, as fine-tuning has them, no trend is significant: what counts then is a rise at every record, two
at least, to a tenth above the lowest. Our choice."""
MILD, CLEAR = 2.0, 5.0
"""Generalization loss in percent (Prechelt 1998, "Early Stopping - but when?", section 2), and what matters of it."""
PERSISTS = 0.2
"""Part of the training that a rise must last: a shorter one may be a bump. Our choice."""
GAP_PART = 0.1
"""Validation above training by a tenth of what was learned. Our choice."""
GAP_SHARE = 0.1
"""And in a share, by ten points, at twice the error of training. Our choice."""
EARLY = 0.1
RISE_OF_GAP = 0.25
"""A rise in the first tenth, or of less than a quarter of the gap, does not explain the gap: it was there from the
beginning. Our choice."""
UNFIT = 0.3
"""A training loss that stays above this part of the trivial one has not fitted the training set. Our choice."""
UNFIT_SHARE = 0.1
"""A training error above a tenth has not either."""

REGULARIZE = (
    "Augment the data, or get more.",
    "Raise weight decay threefold; then dropout or drop path.",
    "Smooth the labels (0.1); train a smaller or a pretrained model.",
    "Keep the weights of the best epoch.",
)


def rise(view: View, series: Series, sigma: float) -> tuple[float, float, float] | None:
    """(onset, lowest, end) of a rise of ``series`` that is beyond noise, persists and is significant; else None.

    The onset is the lowest smoothed record, refined by a breakpoint of two straight lines around it.
    """
    if len(series) < FEW:
        return _steep(view, series, sigma)
    level = smooth(series.y)
    low = int(np.argmin(level))
    lowest, now = float(level[low]), end_level(series.y)
    after = len(series) - low
    if now - lowest <= max(RISE_SIGMAS * sigma, RISE_PART * abs(lowest)) or after < 4:
        return None
    if series.x[-1] - series.x[low] < PERSISTS * (series.x[-1] - series.x[0]):
        return None
    if not trend(series.x[low:], series.y[low:]).rises:
        return None
    # As much of the fall before as of the rise after: with more of it, the knee of the fall would be the breakpoint.
    before = np.flatnonzero(level[:low] > lowest + 0.5 * (now - lowest))
    around = slice(int(before[-1]) if len(before) else 0, None)
    onset = breakpoint_of(series.x[around], level[around]) if len(level[around]) >= 5 else float(series.x[low])
    # The two lines meet later than the lowest record where the rise is curved; the lowest record is what one keeps.
    return min(onset, float(series.x[low])), lowest, now


def _steep(view: View, series: Series, sigma: float) -> tuple[float, float, float] | None:
    """The same of a few records."""
    low = int(np.argmin(series.y))
    after, lowest = series.y[low:], float(series.y[low])
    far = float(after[-1]) - lowest > max(RISE_SIGMAS * sigma, STEEP * abs(lowest))
    if view.seen < 0.5 or len(after) < 3 or not far or not bool((np.diff(after) > 0).all()):
        return None
    return float(series.x[low]), lowest, float(after[-1])


def metric_holds(view: View) -> bool:
    """Whether there is a metric, and it ends within 2 standard deviations of its best, or better than at the onset."""
    error = view.val_error
    if error is None or len(error) < 5:
        return False
    level = smooth(error.y)
    margin = max(2.0 * view.error_sigma, RISE_PART * float(np.ptp(error.y)))
    return end_level(error.y) - float(level.min()) <= margin


def train_falls(view: View, since: float) -> bool:
    """Whether the training loss did not rise since then; true where nothing is known of it."""
    if view.train is None:
        return True
    part = view.train.x >= since
    return not trend(view.train.x[part], view.train.y[part]).rises


def wide(view: View) -> bool:
    """Whether the validation error is twice that of training and ten points more."""
    if view.train_error is None or view.val_error is None or not view.shares:
        return False
    train, val = end_level(view.train_error.y), end_level(view.val_error.y)
    return val > max(2.0 * train, train + GAP_SHARE)


_BROKEN = ("val_at_chance", "non_finite", "diverged", "dead_start", "oscillating", "too_good_too_early", "sawtooth")


@rule(
    4,
    Rank.OVERFIT,
    "The model learns the training set by heart: validation gets worse while training gets better.",
    "The validation loss ends 3 sigma and 2 % above its lowest, for a fifth of the training, its trend since is "
    "upwards (Mann-Kendall, p < 0.05) and the training loss does not rise. Onset: two straight lines. A hint up to 5 % "
    "(Prechelt 1998, generalization loss), then a warning. With fewer than eight records: it rises at each of the last "
    "two or more, by a tenth in all (our choice).",
    causes=_BROKEN,
)
def overfitting(view: View) -> Evidence | None:
    """The validation metric, if there is one, gets worse as well."""
    series = view.judged
    if series is None or (metric_holds(view) and view.val is not None):
        return None
    found = rise(view, series, view.sigma)
    if found is None or not train_falls(view, found[0]):
        return None
    onset, lowest, now = found
    loss = 100.0 * (now / lowest - 1.0) if lowest > 0 else 0.0
    return Evidence(
        "warning" if loss > CLEAR else "hint",
        f"The {view.judged_name} rises since {view.named(onset):g}, from {lowest:.3g} to {now:.3g} ({loss:+.0f} %).",
        REGULARIZE,
        view.judged_name,
        onset,
        {"lowest": lowest, "end": now, "generalization_loss": loss},
    )


@rule(
    4,
    Rank.OVERFIT,
    "The validation loss rises while the metric holds: the model becomes too sure of itself.",
    "As overfitting, but the metric ends within 2 standard deviations of its best (our choice; Guo et al. 2017, arXiv "
    "1706.04599, on calibration). A warning where the error is twice that of training and ten points more.",
    causes=(*_BROKEN, "loss_against_metric"),
)
def overfitting_loss_only(view: View) -> Evidence | None:
    """Harmless where only the metric counts."""
    if view.val is None or not metric_holds(view):
        return None
    found = rise(view, view.val, view.sigma)
    if found is None or not train_falls(view, found[0]):
        return None
    onset, lowest, now = found
    return Evidence(
        "warning" if wide(view) else "hint",
        f"The validation loss rises since {view.named(onset):g}, from {lowest:.3g} to {now:.3g}; "
        "the metric does not get worse.",
        (
            "Choose the best epoch by the metric, not by the loss.",
            "If probabilities matter: smooth the labels (0.1), or raise weight decay.",
        ),
        "val_loss",
        onset,
        {"lowest": lowest, "end": now},
    )


@rule(
    4,
    Rank.OVERFIT,
    "Training is far better than validation, which does not get worse.",
    "Over the last quarter the validation loss is above the training loss by 5 sigma, a tenth of what was learned "
    "and by half of it, and no rise after the first tenth makes up a quarter of it; a warning where the error is twice "
    "that of training and ten points more (our choice).",
    causes=(*_BROKEN, "overfitting", "overfitting_loss_only"),
)
def gap_without_rise(view: View) -> Evidence | None:
    """More data, augmentation or pretraining close it; regularization may."""
    if view.paired is None or len(view.paired[0]) < 5 or view.seen < 0.5:
        return None
    x, train, val = view.paired
    tail = slice(-max(3, len(x) // 4), None)
    level, now = float(np.median(train[tail])), float(np.median(val[tail]))
    if now - level <= max(5.0 * view.sigma, GAP_PART * view.gap, 0.5 * abs(level)):
        return None
    settled = x > x[0] + EARLY * (x[-1] - x[0])
    risen = rise(view, Series(x[settled], val[settled]), view.sigma)
    if risen is not None and risen[2] - risen[1] > RISE_OF_GAP * (now - level):
        return None
    recorded = view.curves.val_loss
    ends = float(train[-1]), float(val[-1] if recorded is None else recorded.finite.y[-1])
    return Evidence(
        "warning" if wide(view) else "hint",
        f"The validation loss ends at {ends[1]:.3g}, the training loss at {ends[0]:.3g}.",
        REGULARIZE[:3],
        "val_loss",
        numbers={"train_loss": ends[0], "val_loss": ends[1]},
    )


@rule(
    3,
    Rank.UNDERFIT,
    "The model does not even fit the training set.",
    "At the end of the training, its loss no longer falling by much, the training error is above 10 %, or without a "
    "metric the loss above 30 % of the trivial one, and validation is about as good (our choice). A warning above half "
    "of the trivial loss; a hint below, where the task may simply be noisy.",
    causes=("dead_start", "rate_too_low", "over_clipping", "diverged", "non_finite", "oscillating", "val_at_chance"),
)
def underfitting(view: View) -> Evidence | None:
    """First the learning rate, then the length, then the capacity; more regularization makes it worse."""
    series = view.train
    if series is None or view.judged is None or len(series) < 5 or view.seen < 0.95 or view.trivial is None:
        return None
    now = end_level(series.y)
    part = now / view.trivial
    error = None if view.train_error is None or not view.shares else end_level(view.train_error.y)
    if error < UNFIT_SHARE if error is not None else part < UNFIT:
        return None
    tail = last(series, 0.25)
    slope = trend(tail.x, tail.y).slope * float(tail.x[-1] - tail.x[0])
    if -slope > 0.1 * view.gap and view.decays is not True:
        return None  # it is not done
    if view.paired is not None:
        val = float(np.median(view.paired[2][-max(3, len(view.paired[2]) // 10) :]))
        if val - now > max(0.15 * now, 2.0 * view.sigma):
            return None
    numbers = {"train_loss": now, "trivial_loss": view.trivial}
    if error is not None:
        numbers["train_error"] = error
    return Evidence(
        "warning" if part > 0.5 else "hint",
        f"The training loss ends at {now:.3g}, {100 * part:.0f} % of what knowing nothing gives, validation no worse.",
        (
            "Try the learning rate at three times and a third of its value, if that was not done.",
            "Train for longer, if the loss still falls.",
            "Double the width, then the depth.",
            "Take regularization away: dropout, weight decay, augmentation.",
        ),
        "train_loss",
        numbers=numbers,
    )
