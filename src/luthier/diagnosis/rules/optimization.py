"""Tier 1: the learning rate, stability, clipping, numbers that are no numbers."""

from __future__ import annotations

import numpy as np

from luthier.diagnosis.curves import Series
from luthier.diagnosis.rules.rule import Evidence, Rank, declare, rule, scaled
from luthier.diagnosis.signals import View, end_level, last, median_filter, noise, risen, smooth, trend

RISING = 4
"""Records in a row that rise at the end of a curve that runs away. Our choice."""
EXPLODED = 4.0
"""A loss of so many times its best has diverged (fastai's and Lightning's range tests stop there)."""
GONE = 0.25
"""And it has lost this part of what was learned. Our choice."""
SPIKE_SIGMAS = 6.0
SPIKE_HEIGHT = 0.1
"""A spike stands out by six robust standard deviations and by a tenth of what was learned. Our choice."""
SPIKE_HEIGHT_STEPS = 0.3
"""The same where the records are single batches, whose losses differ by themselves. Measured on the digits."""
SPIKES = 3
"""So many are an instability (with one or two, a training is healthy enough). Our choice."""
WANDERS_TRAIN = 0.01
WANDERS = 0.02
"""Noise between epochs of the training and of the validation loss, as parts of what was learned, that is too much in
both. Measured on the digits: of 36 healthy trainings none has both, of those at a hundred times the rate all."""
SETTLED = 0.25
"""Part of the training before which a steep fall and a warmup look like noise. Our choice."""
CLEARLY = 1.5
"""Times those that make a warning: estimates from a few records scatter by as much. Our choice."""
WINDOW = 9
"""Records that a noise is estimated from at least; from five or six the estimate is twice too large too often."""
WANDERS_ALONE = 0.05
"""And where only one of them is known. Our choice."""
LINEAR = 0.7
"""Of all that the loss fell on the clock of the optimizer, what the first half does of it: 0.5 is a straight line, and
exponential convergence at any useful rate is above 0.8. Measured on the digits."""
LITTLE = 0.5
"""A training loss that has fallen by less than this part of its reference is far from done. Our choice."""
UPDATE_RATIO = 1e-4
"""Norm of an update over that of the weights; about 1e-3 is healthy (Karpathy 2022, "Neural Networks: Zero to Hero",
lecture 4)."""
CLIPPED = 0.5
"""Part of the updates that are clipped above which clipping is a learning rate in disguise (Google's Tuning
Playbook)."""
SCALE_DROPS = 0.01
"""Part of the records at which a loss scale was lowered. Our choice."""


@rule(
    1,
    Rank.NONFINITE,
    "The loss became NaN or infinite.",
    "Any recorded loss that is NaN or infinite; critical when the last one is.",
)
def non_finite(view: View) -> Evidence | None:
    """An overflow: by its time told apart into data, learning rate and single batches."""
    found: list[tuple[float, str, bool]] = []
    for name in ("train_loss", "val_loss", "val_metric"):
        series = view.curves.all().get(name)
        if series is None or not len(series):
            continue
        bad = ~np.isfinite(series.y)
        if bad.any():
            found.append((float(series.x[int(np.argmax(bad))]), name, bool(bad[-1])))
    if not found:
        return None
    since, name, lasts = min(found)
    lasts = any(ends for _, _, ends in found)
    finite = 0 if view.learned is None else int(np.sum(view.learned.x < since))
    lower = f"Lower the learning rate to {scaled(view, 1 / 3)}; if that fails three times, look elsewhere."
    warm = "Warm the learning rate up, and clip the gradients at the 90th percentile of their norms."
    precision = "Train 50 updates in fp32 or bf16: if they stay finite, the precision is to blame."
    data = "Check inputs and targets for NaN, infinity and huge values."
    if finite == 0:
        return Evidence(
            "critical",
            f"The {name} was never finite.",
            (data, lower, precision),
            name,
            since,
            {"finite_records": 0.0},
        )
    after = "and stayed so" if lasts else "and recovered"
    return Evidence(
        "critical" if lasts else "warning",
        f"The {name} became NaN or infinite at {view.named(since):g}, after {finite} finite records, {after}.",
        (lower, warm, precision, data),
        name,
        since,
        {"finite_records": float(finite)},
    )


@rule(
    1,
    Rank.DIVERGENCE,
    "The loss exploded and what was learned is lost.",
    "At the end the training loss (median of the last tenth) is 4 times its best (fastai, Lightning) and has lost 25 % "
    "of what was learned, or is above twice the trivial loss; or it once rose above 4 times the trivial loss; or the "
    "last four records rise to above twice the start. Without "
    "a training loss a validation loss counts that lost it in a jump: a smooth rise is overfitting.",
    causes=("non_finite",),
)
def diverged(view: View) -> Evidence | None:
    """A learning rate above the edge of stability, or a broken batch."""
    series = view.learned
    if series is None or len(series) < 3 or view.learned_name == "val_metric":
        return None
    level = smooth(series.y)
    low = int(np.argmin(level))
    best, now = float(level[low]), end_level(level)
    lost = now - best
    exploded = len(series) >= 5 and lost > max((EXPLODED - 1.0) * abs(best), GONE * view.gap) and now > 0.5 * view.ref
    if view.train is None and exploded:
        # Half of the rise within a tenth of the places after the best is a jump.
        after = level[low:]
        reach = max(2, len(after) // 10)
        exploded = len(after) > reach and float((after[reach:] - after[:-reach]).max()) > 0.5 * lost
    beyond = view.trivial is not None and now > 2.0 * view.trivial
    if not view.stepwise and len(series) >= 5 and bool(np.all(np.diff(series.y[-RISING:]) > 0)):
        last = float(series.y[-1])
        # On its way up at the end: the level over the last records would lag behind.
        if last > risen(max(float(series.y[0]), view.ref), best, 2.0) and last - best > GONE * view.gap:
            beyond, now = True, last
    peak = int(np.argmax(series.y))
    burst = view.trivial is not None and float(series.y[peak]) > EXPLODED * view.trivial
    burst = burst and (view.points >= 5 and (peak > 0 or view.stepwise or float(series.y[0]) > 20.0 * view.ref))
    if not (exploded or beyond or burst):
        return None
    since = float(series.x[low]) if exploded else float(series.x[peak])
    numbers = {"best": best, "end": now, "highest": float(series.y.max())}
    where = f"rose from {best:.3g} to {now:.3g}" if exploded else f"reached {numbers['highest']:.3g}"
    if not exploded and not beyond:
        where += f" and came back to {now:.3g}"
    return Evidence(
        "critical" if exploded or beyond else "warning",
        f"The {view.learned_name} {where}; knowing nothing gives {view.ref:.3g}.",
        (
            f"Lower the learning rate to {scaled(view, 1 / 3)}, then to a tenth.",
            "Warm the learning rate up, and clip the gradients.",
            "Check the scale of inputs and targets, and whether the loss is summed where it should be averaged.",
        ),
        view.learned_name,
        since,
        numbers,
    )


@rule(
    1,
    Rank.INSTABILITY,
    "Sudden rises of the loss that pass.",
    "Records that stand out of the running median over seven by six robust standard deviations and by a tenth of what "
    "was learned (three tenths for single batches); three of them are a warning (thresholds: our choice; ZClip, arXiv "
    "2504.02507, for the cure).",
    causes=("non_finite", "diverged"),
)
def spikes(view: View) -> Evidence | None:
    """Bad batches, a rate at the edge of stability, a second moment that adapts too slowly."""
    series = view.learned
    if series is None or len(series) < 20 or view.learned_name == "val_metric":
        return None
    rest = series.y - median_filter(series.y, 7)
    sigma = 1.4826 * float(np.median(np.abs(rest - np.median(rest))))
    height = SPIKE_HEIGHT_STEPS if view.stepwise else SPIKE_HEIGHT
    high = rest > max(SPIKE_SIGMAS * sigma, height * view.gap)
    high[: max(3, len(series) // 20)] = False  # the first fall is steep
    starts = np.flatnonzero(high & ~np.concatenate([[False], high[:-1]]))
    if not len(starts):
        return None
    first, highest = float(series.x[starts[0]]), float(rest[high].max())
    return Evidence(
        "warning" if len(starts) >= SPIKES else "hint",
        f"The {view.learned_name} jumped {len(starts)} time(s), the first time at {view.named(first):g}, "
        f"by up to {highest:.3g}.",
        (
            "Clip the gradients at the 90th percentile of their norms.",
            "Warm up for longer; with an Adam, lower beta2 to 0.95-0.98.",
            f"Lower the learning rate to {scaled(view, 1 / 3)}.",
        ),
        view.learned_name,
        first,
        {"count": float(len(starts)), "highest": highest, "sigma": sigma},
    )


def wandering(series: Series, gap: float) -> float:
    """The largest noise of ``series`` within any of its last three fifths, as a part of ``gap``; the beginning is left
    out, where a steep fall looks like noise."""
    y = series.y[round(0.3 * len(series)) :]
    if len(y) < WINDOW:
        return 0.0
    width = max(WINDOW, round(0.3 * len(series)))
    starts = np.linspace(0, len(y) - width, 3).astype(int) if len(y) > width else [0]
    return max(noise(y[a : a + width]) for a in starts) / gap


@rule(
    1,
    Rank.INSTABILITY,
    "The loss bounces instead of settling: the learning rate is too large.",
    "Over 30 % of the training, after its first 30 %, the noise between epochs (from second differences) is above 1 % "
    "of what was learned for the training loss and 2 % for the validation loss (measured on the digits); 5 % for one "
    "alone. "
    "A warning from 1.5 times as much on.",
    causes=("non_finite", "diverged", "dead_start"),
)
def oscillating(view: View) -> Evidence | None:
    """The rate that is stable is lower, at least for the greater part of the training."""
    if view.seen < SETTLED:
        return None
    if view.paired is None:
        series = view.learned
        if series is None or view.stepwise or view.learned_name == "val_metric":
            return None
        wild = wandering(series, view.gap)
        much, numbers = wild / WANDERS_ALONE, {"noise": wild}
    else:
        x, train, val = view.paired
        t, v = wandering(Series(x, train), view.gap), wandering(Series(x, val), view.gap)
        wild, numbers = max(t, v), {"train_noise": t, "val_noise": v}
        much = min(t / WANDERS_TRAIN, v / WANDERS)
    if much <= 1.0:
        return None
    return Evidence(
        "warning" if much > CLEARLY else "hint",
        f"From epoch to epoch the loss jumps by {100 * wild:.0f} % of all that was learned.",
        (
            f"Lower the learning rate to {scaled(view, 1 / 3)}.",
            "Let it decay, or average the weights (EMA).",
            "Clip the gradients, or take larger batches.",
        ),
        view.learned_name,
        numbers=numbers,
    )


@rule(
    1,
    Rank.SLOW,
    "The training is too slow: the learning rate is too small.",
    "Half of the training or more is over, the training loss still falls (Mann-Kendall), has fallen by less than half "
    "of its reference, and did less than 70 % of its fall in the first half of the summed learning rate, where a "
    "straight line does 50 % (measured on the digits); or updates are below 1e-4 of the weights (Karpathy 2022).",
    causes=("val_at_chance", "dead_start", "over_clipping"),
)
def rate_too_low(view: View) -> Evidence | None:
    """A straight fall that nothing limits but the size of the steps."""
    series = view.learned
    if series is None or len(series) < 5 or view.seen < 0.5 or view.learned_name == "val_metric":
        return None
    level = smooth(series.y)
    now = end_level(level)
    fell = view.start - now
    ratio = view.curves.extra.get("update_ratio")
    small = ratio is not None and len(ratio.finite) > 0 and float(np.median(ratio.finite.y)) < UPDATE_RATIO
    clear = fell > max(5.0 * noise(series.y), 0.005 * abs(view.ref)) and trend(series.x, series.y).falls
    if not clear or now < (1.0 - LITTLE) * view.ref:
        return None
    clock = view.at_rate(series.x)
    middle = (clock[0] + clock[-1]) / 2.0
    half = view.start - float(np.interp(middle, clock, level))
    straight = half / fell
    if straight > LINEAR and not small:
        return None
    numbers = {"start": view.start, "end": now, "first_half": straight}
    return Evidence(
        "warning",
        f"The {view.learned_name} fell from {view.start:.3g} to {now:.3g} only, almost in a straight line.",
        (
            f"Raise the learning rate to {scaled(view, 3.0)}, then to {scaled(view, 10.0)}.",
            "Run a learning-rate range test (lt.lr_range_test).",
            "Train for longer only once a larger rate has failed.",
        ),
        view.learned_name,
        numbers=numbers,
    )


@rule(
    1,
    Rank.INSTABILITY,
    "Most updates are clipped: the clipping replaces the learning rate.",
    "In the second half of the training more than 50 % of the updates are clipped, in the median (Google's Tuning "
    "Playbook).",
    causes=("non_finite", "diverged"),
)
def over_clipping(view: View) -> Evidence | None:
    """A clipped gradient is a normalized one: its size says nothing any more."""
    series = view.curves.extra.get("clipped")
    if series is None or len(series.finite) < 3:
        return None
    part = float(np.median(last(series.finite, 0.5).y))
    if part <= CLIPPED:
        return None
    return Evidence(
        "warning",
        f"{100 * part:.0f} % of the updates are clipped.",
        (
            "Raise the clipping threshold to the 90th percentile of the gradient norms.",
            f"Lower the learning rate to {scaled(view, 1 / 3)} instead of clipping harder, if the training is "
            f"unstable.",
        ),
        "clipped",
        numbers={"clipped": part},
    )


@rule(
    1,
    Rank.INSTABILITY,
    "Mixed precision keeps running out of range.",
    "The scale of the loss falls below 1, or was lowered at more than 1 % of the records (our choice; PyTorch's scaler "
    "halves it after an overflow and doubles it after 2000 good updates).",
)
def loss_scale_trouble(view: View) -> Evidence | None:
    """Overflows in fp16."""
    series = view.curves.extra.get("loss_scale")
    if series is None or len(series.finite) < 5:
        return None
    scale = series.finite.y
    drops = int(np.sum(np.diff(scale) < 0))
    settling = 17  # halvings from 65536 to 1: a scaler that begins too high may need a few of them
    if scale.min() >= 1.0 and drops <= max(SCALE_DROPS * len(scale), settling):
        return None
    return Evidence(
        "warning",
        f"The loss scale fell to {scale.min():.3g} and was lowered {drops} times.",
        (
            "Use bf16 where the device has it, else fp32 for the layers that overflow.",
            f"Lower the learning rate to {scaled(view, 1 / 3)}.",
        ),
        "loss_scale",
        numbers={"lowest": float(scale.min()), "drops": float(drops)},
    )


declare(
    "edge_of_stability",
    1,
    Rank.INSTABILITY,
    "The best learning rate is the largest that did not fail: stability limits the result, not the rate.",
    "Among trainings that differ in the rate, the best one has the largest rate that did not fail, and at least one "
    "within ten times of it failed (Google's Tuning Playbook).",
)
declare(
    "seed_fragility",
    1,
    Rank.INSTABILITY,
    "The same configuration ends differently with another seed.",
    "Of equal configurations one failed and another did not, or their results differ by a standard deviation of 1.5 %, "
    "five times the typical 0.3 % of 17 AlgoPerf workloads, and of 3 % of what was learned; not where most of them are "
    "too slow or gained a tenth of that in their last quarter (our choice). The best such configuration is named.",
)
