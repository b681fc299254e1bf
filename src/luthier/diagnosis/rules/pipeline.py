"""Tier 0: the data, the labels, the metric and the code around the training."""

from __future__ import annotations

import itertools
import math

import numpy as np

from luthier.diagnosis.curves import Array, Series
from luthier.diagnosis.rules.rule import Evidence, Rank, declare, rule, scaled
from luthier.diagnosis.signals import DEAD_MARGIN, View, end_level, noise, smooth, thin, trend

LEARNED_SOME = 0.7
"""A loss that was once below this part of its start has learned something, whatever came later. Our choice."""
SOON = 0.095
"""A tenth of the training, and a record less: nothing is said of learning before. Measured on TaskSet."""
LEARNS = 0.1
"""The training loss is clearly below the trivial one when it is by this part of it. Our choice."""
BATCH_PARTS = 20
"""Parts of a series of single batches, of each of which the median counts. Our choice."""
NEARLY = 0.03
"""A validation loss that ends above the trivial one and was never better by more than this part of it. Our choice."""
CHANCE_SE = 3.0
"""Standard errors of a share within which a metric is at chance, and ten more for one that is not. Our choice."""
BETTER = 0.1
"""Part of the training loss by which validation must be lower before that is strange. Our choice."""
TOO_GOOD = 0.01
EARLY = 0.1
"""A validation loss below a hundredth of the trivial one in the first tenth of the training. Our choice: the digits and
MNIST reach a few hundredths."""
PERFECT = 0.9995
"""A share this close to 1 is perfect. Our choice."""
TOOTH_CORRELATION = 0.5
"""Correlation of the detrended updates of one epoch with those of the next. Our choice."""
SOLVED = 0.02
"""A share that begins with a smaller error has nowhere to go. Our choice."""
UNRELATED = 0.2
"""A rank correlation below this is none. Our choice."""
REGULARIZERS = ("dropout", "drop_path", "mixup", "augmentation", "label_smoothing", "weight_noise")
"""Hyperparameters that make the training loss larger than what the same weights reach in evaluation."""


@rule(
    0,
    Rank.DATA,
    "The training learns, and on validation data the model knows no more than nothing.",
    "The training loss is 10 % below the trivial one, and the validation loss has never been below it by 0.7 %, or by "
    "3 % and ends above it, or the final validation metric is within 3 standard errors of chance or worse (our "
    "choice).",
)
def val_at_chance(view: View) -> Evidence | None:
    """Labels of one side shuffled or mapped otherwise, other preprocessing, wrong mode of evaluation."""
    ref, paired = view.trivial, view.paired
    if view.judged is None or len(view.judged) < 3:
        return None
    # What was learned by then: both must have had the time.
    learns = ref is not None and view.train is not None and view.best_train < (1.0 - LEARNS) * ref
    if not learns or view.seen < SOON or (paired is None and view.val_error is None):
        return None
    assert ref is not None
    numbers = {"best_train_loss": view.best_train, "trivial_loss": ref}
    at_chance, told = False, ""
    if view.val is not None:
        best = float(smooth(view.val.y).min())
        numbers["best_val_loss"] = best
        now = end_level(view.val.y)
        at_chance = best > (1.0 - DEAD_MARGIN) * ref or (best > (1.0 - NEARLY) * ref and now > ref)
        told = f"the validation loss was never below {best:.3g}, where knowing nothing gives {ref:.3g}"
    chance = view.curves.trivial_metric
    if view.val_error is not None and view.shares and chance is not None and not at_chance:
        error = chance if not view.curves.maximize else 1.0 - chance
        now = end_level(view.val_error.y)
        margin = CHANCE_SE * math.sqrt(chance * (1.0 - chance) / (view.curves.n_val or 500))
        at_chance = now > error - margin
        numbers |= {"val_error": now, "chance_error": error}
        told = f"the validation metric is at chance ({1 - now if view.curves.maximize else now:.3g})"
    if not at_chance:
        return None
    return Evidence(
        "critical",
        f"The training loss fell to {view.best_train:.3g}, but {told}.",
        (
            "Check that training and validation use the same label mapping, and that labels and inputs stay in step.",
            "Check that validation gets the same preprocessing and normalization as training.",
            "Evaluate on training samples with the code of validation: it must reproduce the training metric.",
        ),
        view.judged_name,
        numbers=numbers,
    )


@rule(
    0,
    Rank.DATA,
    "The result is better than any honest training could have it so soon: the target has leaked into the inputs.",
    "In the first tenth of the training the validation loss is below 1 % of the trivial one, or from there on the "
    "validation metric is perfect (our choice).",
)
def too_good_too_early(view: View) -> Evidence | None:
    """A leak of labels into inputs, or a task so easy that nothing is left to tune."""
    horizon = view.curves.length or view.curves.end
    numbers: dict[str, float] = {}
    told, since = "", None
    if view.val is not None and view.trivial is not None and view.trivial > 0:
        early = view.val.y[view.val.x <= max(EARLY * horizon, view.val.x[0])]
        if len(early) and early.min() < TOO_GOOD * view.trivial:
            at = int(np.argmax(view.val.y < TOO_GOOD * view.trivial))
            since = float(view.val.x[at])
            numbers = {"val_loss": float(view.val.y[at]), "trivial_loss": view.trivial}
            told = f"The validation loss was {numbers['val_loss']:.2g} at {view.named(since):g}"
            told += f", of {view.trivial:.3g} at chance"
    if view.val_error is not None and view.shares and not told and len(view.val_error) >= 3:
        after = view.val_error.y[view.val_error.x >= EARLY * horizon]
        if len(after) >= 3 and (after <= 1.0 - PERFECT).all():
            since = float(view.val_error.x[view.val_error.x >= EARLY * horizon][0])
            numbers = {"val_error": float(after.max())}
            told = f"The validation metric is perfect from {view.named(since):g} on"
    if not told:
        return None
    return Evidence(
        "warning",
        f"{told}: either the task is trivial or the inputs tell the target.",
        (
            "Look for the target, or a trace of it, among the inputs.",
            "Look for validation samples that are also in the training set.",
            "Train a linear model: if it is as good, the task needs no tuning.",
        ),
        view.judged_name,
        since,
        numbers,
    )


@rule(
    0,
    Rank.DATA,
    "Validation is better than training, and no regularization is known that would explain it.",
    "At the end the validation loss is below the training loss, the one of the next epoch included, by 3 sigma and 10 "
    "% (our choice); known dropout, mixup, augmentation or label smoothing explain it.",
)
def val_better_than_train(view: View) -> Evidence | None:
    """Leak, easier or duplicated validation data; harmless under dropout and augmentation."""
    if view.paired is None or len(view.paired[0]) < 5 or view.seen < 0.2:
        return None
    _, train, val = view.paired
    # A training loss is the mean over an epoch in which the weights still got better: half an epoch of lag.
    level = np.concatenate([(train[:-1] + train[1:]) / 2.0, train[-1:]])
    level, late = level[len(level) // 2 :], val[len(val) // 2 :]
    now, then = float(np.median(late)), float(np.median(level))
    sigma = max(view.sigma, noise(train[len(train) // 2 :]))
    if now > then - 3.0 * sigma or now > then - BETTER * abs(then) or then - now < 0.01 * view.gap:
        return None
    config = view.curves.config
    if any(float(config.get(name) or 0.0) > 0.0 for name in REGULARIZERS if name in config):
        return None
    return Evidence(
        "warning" if config and now < 0.75 * then else "hint",
        f"The validation loss ({now:.3g}) is below the training loss ({then:.3g}).",
        (
            "Nothing, if dropout, augmentation or label smoothing are on: compare in evaluation mode without them.",
            "Look for validation samples in the training set, near-duplicates included.",
            "Check that the split is random: the validation part may simply be easier.",
        ),
        "val_loss",
        numbers={"val_loss": now, "train_loss": then},
    )


@rule(
    0,
    Rank.DATA,
    "The loss gets better and the metric does not follow.",
    "The validation loss falls by 20 % of what was learned and by 5 sigma, while the metric's rank correlation with it "
    "is below 0.2 and the metric improves by less than 2 standard deviations (our choice).",
    causes=("val_at_chance", "dead_start", "diverged", "non_finite"),
)
def loss_against_metric(view: View) -> Evidence | None:
    """A metric of something else, a wrong direction or threshold, or one class predicted for everything."""
    error, val = view.val_error, view.val
    if error is None or val is None or len(error) < 5 or len(val) < 5:
        return None
    loss = np.interp(error.x, val.x, val.y)
    low = int(np.argmin(smooth(loss)))
    if low < 4:
        return None
    fall = float(loss[0] - smooth(loss)[low])
    if fall < 0.2 * view.gap or fall < 5.0 * view.sigma:
        return None
    part = error.y[: low + 1]
    follows = _rank_correlation(loss[: low + 1], part)
    spread = max(view.error_sigma, view.counting)
    gained = float(part[0] - smooth(part)[-1])
    if follows > UNRELATED or gained > 2.0 * spread or (view.shares and part[0] < SOLVED):
        return None
    return Evidence(
        "critical" if follows < -0.5 else "warning",
        f"The validation loss fell by {fall:.3g} while the metric did not get better (rank correlation {follows:.2f}).",
        (
            "Check the metric's code on a few samples by hand: its axis, its threshold, and whether larger is better.",
            "Count the predicted classes: with one class only, weight the classes or use a focal loss.",
        ),
        "val_metric",
        numbers={"rank_correlation": follows, "loss_fall": fall, "metric_gain": gained},
    )


def _rank_correlation(a: Array, b: Array) -> float:
    def ranks(y: Array) -> Array:
        _, inverse, counts = np.unique(y, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]

    x, y = ranks(a) - ranks(a).mean(), ranks(b) - ranks(b).mean()
    size = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / size if size else 0.0


@rule(
    0,
    Rank.DATA,
    "The training loss repeats the same pattern in every epoch: the data come in a fixed order.",
    "With each epoch's level and slope taken out, the losses of its updates correlate by more than 0.5 with those of "
    "the next epoch, in the median (Google's Tuning Playbook takes periodicity for the sign of a bug; threshold: "
    "ours).",
)
def sawtooth(view: View) -> Evidence | None:
    """Unshuffled data, or an error at the boundary of epochs."""
    series = view.raw_train
    if series is None or view.curves.unit != "epoch" or not view.stepwise:
        return None
    per_epoch = round(1.0 / float(np.median(np.diff(series.x)))) if len(series) > 8 else 0
    if per_epoch < 8 or len(series) < 4 * per_epoch:
        return None
    y = series.y[per_epoch : len(series) // per_epoch * per_epoch]  # the first epoch is a fall of its own
    table = y.reshape(-1, per_epoch)[-20:]
    rest = table - table.mean(axis=1, keepdims=True)
    # Learning by heart lowers the loss at each boundary and leaves a slope within the epoch: that is taken out.
    t = np.linspace(-1.0, 1.0, per_epoch)
    rest = rest - np.outer(rest @ t / float(t @ t), t)
    # Each epoch on its own scale: a loss that falls by decades would else be judged by its first epochs alone.
    size = rest.std(axis=1, keepdims=True)
    kept = size[:, 0] > 1e-3 * np.abs(table.mean(axis=1))
    if kept.sum() < 3:
        return None
    rest = rest[kept] / size[kept]
    pairs = [float(np.mean(a * b)) for a, b in itertools.pairwise(rest)]
    repeats = float(np.median(pairs))
    if repeats < TOOTH_CORRELATION:
        return None
    return Evidence(
        "critical",
        f"Every epoch of {per_epoch} updates has the same pattern of losses (correlation {repeats:.2f}).",
        (
            "Shuffle the training data anew in every epoch.",
            "Look for what happens at the boundary of epochs: an evaluation that changes the model, a loader that "
            "repeats.",
        ),
        "train_loss",
        numbers={"correlation": repeats, "updates_per_epoch": float(per_epoch)},
    )


@rule(
    0,
    Rank.DEAD,
    "The training has learned nothing: the loss has never left that of knowing only the targets' frequencies.",
    "From a tenth of the training on, the best smoothed loss is above 99.3 % of the trivial one (0.005 nats of log 2, "
    "measured on TaskSet). Without a known trivial loss: over five records or more the loss fell by less than 1 % of "
    "its start or 3 sigma, and never below 70 % of it. Of the losses of batches alone the median of the later half "
    "counts, within its noise.",
    causes=("non_finite", "val_at_chance"),
)
def dead_start(view: View) -> Evidence | None:
    """A rate far too small or so large that the weights collapsed, dead units, frozen weights, labels at random."""
    series = view.learned
    if series is None or len(series) < 3 or view.seen < SOON or view.learned_name == "val_metric":
        return None
    best = stuck_at(view, series)
    if best is None:
        return None
    now = end_level(series.y)
    numbers = {"loss": now, "best": best, "reference": view.ref}
    highest = float(series.y.max())
    if view.trivial is not None and highest > 1.5 * view.trivial:
        numbers["highest"] = highest
        text = f"The loss went up to {highest:.3g} and stays at {now:.3g}: the weights have collapsed."
        action = (
            f"Lower the learning rate tenfold, to {scaled(view, 0.1)}, and warm it up.",
            "Scale the inputs to a standard deviation of 1; clip the gradients.",
            "Check the initialization.",
        )
    else:
        of = f", where knowing nothing gives {view.ref:.3g}" if view.trivial is not None else ""
        text = f"The loss has never been below {numbers['best']:.3g}{of}: nothing is learned."
        action = (
            "Overfit a single batch (lt.check): if that fails, look for frozen or detached weights and wrong labels.",
            f"Try a learning rate ten times larger ({scaled(view, 10.0)}) and one ten times smaller.",
            "Check the initialization, and that the inputs have a standard deviation of about 1.",
        )
    return Evidence("critical" if view.seen >= 0.2 else "warning", text, action, view.learned_name, numbers=numbers)


def stuck_at(view: View, series: Series) -> float | None:
    """The best level of a loss that has learned nothing; None where it has learned something."""
    if view.stepwise and view.paired is None:
        # Single batches are too noisy to be held against a margin: long medians are, with their noise.
        level = thin(series, BATCH_PARTS).y
    else:
        level = smooth(view.paired[1] if view.stepwise and view.paired is not None else series.y)
    best, late = float(level.min()), float(np.median(level[len(level) // 2 :]))
    falls = trend(series.x, series.y).falls
    if view.trivial is not None:
        bar = (1.0 - DEAD_MARGIN) * view.trivial
        batches = view.stepwise and view.paired is None
        return best if (late > bar - noise(level) and not falls if batches else best > bar) else None
    # Wandering noise reaches below its start as well: a fall must also show in the second half's median.
    sigma, start = noise(series.y), view.start
    if 0.0 < best < LEARNED_SOME * start:
        return None  # what came later may look like noise, a divergence does
    flat = start - late < max(0.01 * abs(start), 3.0 * sigma) and start - best < max(0.03 * abs(start), 4.0 * sigma)
    return best if len(series) >= 5 and flat and not falls else None


declare(
    "no_effect",
    0,
    Rank.DATA,
    "A hyperparameter changes nothing, as if the training did not read it.",
    "All trainings that differ in one hyperparameter alone, with the same seed and length, have the same curves to the "
    "last digit.",
)
