"""Tier 2: the schedule, the length of the training and the noise of its validation; and what is well."""

from __future__ import annotations

import numpy as np

from luthier.diagnosis.early import hopeless
from luthier.diagnosis.rules.rule import Evidence, Rank, rule
from luthier.diagnosis.signals import DECAYED, FEW, TAIL, View, end_level, last, late_fall, noise, smooth, trend

PLATEAU_PART = 0.2
PLATEAU_RECORDS = 8
"""No improvement for so long is a plateau: PyTorch's and Keras' default patience is 10 and 10."""
IMPROVES_SIGMAS = 2.0
"""What counts as an improvement, in standard deviations of the noise. Our choice."""
NOISY = 0.03
NOISY_SHARE = 0.015
"""Noise of the validation loss as a part of what was learned, and of a share. Our choice: differences between
configurations that are worth keeping are of that size."""
STRIPS = 3
STRIP = 5
"""Prechelt 1998, "Early Stopping - but when?": UP_3 with strips of five evaluations."""
GENERALIZATION_LOSS = 5.0
"""And GL_5: validation loss 5 % above its lowest (the same, section 2)."""


@rule(
    2,
    Rank.LENGTH,
    "Validation has stopped to improve although the learning rate has not decayed.",
    "For a fifth of the training and eight records the validation loss has not improved by 2 sigma, and it has no "
    "trend; the rate is above a tenth of its peak, or nothing is known of it (our choice).",
    causes=("dead_start", "non_finite", "diverged", "oscillating", "val_at_chance", "underfitting"),
)
def plateau(view: View) -> Evidence | None:
    """Time to let the rate decay, or to stop."""
    series = view.judged
    if series is None or len(series) < PLATEAU_RECORDS + 4 or (view.decays and not view.finished):
        return None
    if view.rate_left is not None and view.rate_left < DECAYED:
        return None
    level = smooth(series.y)
    span = PLATEAU_PART * (view.curves.length or view.curves.end)
    since = min(series.x[-1] - span, series.x[-PLATEAU_RECORDS])
    before, after = level[series.x <= since], level[series.x > since]
    if len(before) < 4 or before.min() - after.min() > IMPROVES_SIGMAS * view.sigma:
        return None
    tail = series.x > since
    if trend(series.x[tail], series.y[tail]).p < 0.05 or after.min() > before.min() + 3.0 * view.sigma:
        return None
    return Evidence(
        "hint",
        f"The {view.judged_name} has not improved since {view.named(since):g}.",
        (
            "Divide the learning rate by three to ten, or use a schedule that decays to zero.",
            "Stop there: the rest of the training is better spent on another configuration.",
        ),
        view.judged_name,
        float(since),
        {"best": float(level.min()), "sigma": view.sigma},
    )


@rule(
    2,
    Rank.LENGTH,
    "Validation still improves: the training is not done.",
    "The best smoothed record is in the last tenth and the trend of the last quarter, or of a longer part where that "
    "has fewer than five records, is significant and above 2 sigma. "
    "A schedule that decays to zero always peaks last (92 % of AlgoPerf's cosine trainings have their best evaluation "
    "in the last quarter), so it never counts as such an improvement.",
    causes=("rate_too_low", "dead_start", "diverged", "non_finite", "oscillating", "val_at_chance"),
)
def still_improving(view: View) -> Evidence | None:
    """Longer would be better, or the training is simply not over."""
    series = view.judged
    if series is None or len(series) < FEW:
        return None
    if view.finished and (view.decays or (view.rate_left is not None and view.rate_left < DECAYED)):
        return None
    level = smooth(series.y)
    span = series.x[-1] - series.x[0]
    if series.x[int(np.argmin(level))] < series.x[-1] - max(0.1 * span, series.x[-1] - series.x[-2]):
        return None
    tail = last(series, TAIL)
    # Four records that happen to fall prove nothing: of so few a longer stretch is judged.
    tail = tail if len(tail) >= FEW else last(series, FEW / len(series) + TAIL)
    found = trend(tail.x, tail.y)
    fell, gain = -found.slope * float(tail.x[-1] - tail.x[0]), late_fall(series)
    if min(fell, gain) <= 0 or fell < IMPROVES_SIGMAS * view.sigma or (len(tail) >= FEW and found.p > 0.05):
        return None
    numbers = {"gain": gain, "sigma": view.sigma}
    if not view.finished:
        return Evidence("good", f"The {view.judged_name} is still improving: let it go on.", (), view.judged_name,
                        numbers=numbers)  # fmt: skip
    unsure = "" if view.decays is False else " If its learning rate decayed to zero, that is no reason to train longer."
    return Evidence(
        "hint",
        f"The {view.judged_name} is still falling at the end, by {gain:.2g} over the last quarter.{unsure}",
        (
            "Train for 1.5 to 2 times as many epochs.",
            "Let the learning rate decay to zero towards the end: the gain of a longer training comes sooner.",
        ),
        view.judged_name,
        numbers=numbers,
    )


@rule(
    2,
    Rank.NOISE,
    "The validation jumps by more than the differences that one tunes for.",
    "Over the last half the noise of the validation loss is above 3 % of what was learned, or that of a share above "
    "1.5 points (our choice); within 1.3 standard errors of counting, the validation set is too small.",
    causes=("oscillating", "diverged", "non_finite", "dead_start", "spikes", "val_at_chance"),
)
def noisy_validation(view: View) -> Evidence | None:
    """Either few samples, or weights that jump."""
    series = view.val_error if view.val_error is not None and view.shares else view.judged
    if series is None or len(series) < 8 or view.seen < 0.2:
        return None
    share = series is view.val_error
    late = last(series, 0.5)
    size = noise(late.y)
    if size <= (NOISY_SHARE if share else NOISY * view.gap):
        return None
    counted = share and view.counting > 0.0 and size <= 1.3 * view.counting
    wild = size > 3.0 * (NOISY_SHARE if share else NOISY * view.gap)
    told = f", about the {view.counting:.2g} of counting {view.curves.n_val} samples" if counted else ""
    return Evidence(
        "warning" if wild else "hint",
        f"From one evaluation to the next the validation jumps by {size:.2g}{told}.",
        (
            "Take more validation samples."
            if counted
            else "Average the weights (EMA), or let the learning rate decay.",
            "Compare configurations by the mean of the last evaluations and over several seeds.",
        ),
        "val_metric" if share else view.judged_name,
        numbers={"noise": size, "counting": view.counting},
    )


@rule(
    2,
    Rank.LENGTH,
    "Nothing is to be gained by going on with this training.",
    "It is not over, and: it has failed (non-finite, dead, diverged); or the validation loss is 5 % "
    "above its lowest and rose in three successive strips of five evaluations (Prechelt 1998, GL_5 "
    "and UP_3), with no decay of the rate ahead.",
    causes=(),
)
def should_stop(view: View) -> Evidence | None:
    """When to stop, and what to keep."""
    if view.curves.length is None or view.finished:
        return None
    if hopeless(view.curves):
        return Evidence("warning", "The training has failed: stop it.", ("Stop, and start another configuration.",),
                        view.learned_name, float(view.curves.end))  # fmt: skip
    series = view.val
    if series is None or len(series) < STRIPS * STRIP + 1 or view.decays:
        return None
    ends = series.y[::-STRIP][: STRIPS + 1]
    low = int(np.argmin(smooth(series.y)))
    lowest, now = float(smooth(series.y)[low]), end_level(series.y)
    loss = 100.0 * (now / lowest - 1.0) if lowest > 0 else 0.0
    if not (np.all(np.diff(ends[::-1]) > 0) and loss > GENERALIZATION_LOSS) or now - lowest < 3.0 * view.sigma:
        return None
    return Evidence(
        "hint",
        f"The validation loss has risen by {loss:.0f} % since {view.named(series.x[low]):g}, strip after strip.",
        (f"Stop, and keep the weights of {view.named(series.x[low]):g}.",),
        "val_loss",
        float(series.x[low]),
        {"generalization_loss": loss},
    )


def learned_something(view: View) -> bool:
    """Whether the loss fell by a tenth of its reference, or the trivial one was beaten."""
    series = view.learned
    if series is None or len(series) < 3:
        return False
    fell = view.ref - end_level(smooth(series.y))
    return fell > max(3.0 * noise(series.y), 0.02 * abs(view.ref))
