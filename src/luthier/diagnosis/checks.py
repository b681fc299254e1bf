"""Judging the checks of a training pipeline: numbers in, one row each out.

The checks are Karpathy's (2019, "A Recipe for Training Neural Networks") and those of any careful audit of data and
checkpoints; the thresholds are our choice unless a source stands beside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from luthier.diagnosis.sanity import LEARNED as LEARNED
from luthier.diagnosis.sanity import judge_sanity

Status = Literal["pass", "warn", "fail", "skipped"]

CLEARLY_WORSE_SE = 5.0
CLEARLY_WORSE_PART = 0.1
"""Training without inputs must end worse by so many standard errors and by this part of what real inputs gained."""
LEAK = 0.9
"""Without inputs nothing can be known but the targets' frequencies: a loss below this part of that floor is a leak."""
SAME = 1e-6
"""Relative difference up to which two losses of the same training count as equal."""
KERNELS = 1e-2
"""Relative difference that a GPU's non-deterministic kernels may well explain."""
FAR_APART = 1e4
"""Between the largest and the smallest gradient norm of a model's weights."""
MODES = 1.5
"""Between the losses of the same batches in training mode without dropout and in evaluation mode."""
MODES_FLOOR = 0.1
"""Differences below this part of the loss at init are no news, whatever their ratio."""
OVERLAP = 0.01
"""Duplicates above this part of the validation set flatter its metrics; below, real data often has a few."""
REPEATED = 0.5
"""The same for language, where texts quote each other and repeat their own formulas."""
IMBALANCE = 10.0
"""Samples of the most frequent class for one of the rarest."""
WAIT = 0.2
"""Part of the time that may be spent waiting for data."""
SCALE = (1e-2, 1e2)
"""Standard deviations of inputs that the usual initializations are made for (theirs is 1: Glorot & Bengio 2010)."""
NAMED = 4
"""Tensors or classes named before the rest is only counted."""


@dataclass(frozen=True, slots=True)
class CheckRow:
    """One check: its name, ``pass``, ``warn``, ``fail`` or ``skipped``, and one clause with the numbers."""

    name: str
    status: Status
    text: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    """All checks of one pipeline; printed, an aligned table."""

    rows: tuple[CheckRow, ...]

    @property
    def ok(self) -> bool:
        """Nothing failed; warnings may stand."""
        return all(row.status != "fail" for row in self.rows)

    def __getitem__(self, name: str) -> CheckRow:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def __str__(self) -> str:
        wide = max((len(row.name) for row in self.rows), default=0)
        return "\n".join(f"{row.status:<7}  {row.name:<{wide}}  {row.text}" for row in self.rows)


def sanity_rows(answer: Mapping[str, Any]) -> tuple[CheckRow, CheckRow]:
    """``initial_loss`` and ``overfit_batch`` of a sanity answer (:func:`luthier.diagnosis.judge_sanity`)."""
    _, initial, overfit, *_ = judge_sanity(answer).checks
    return CheckRow(*initial), CheckRow(*overfit)


def judge_inputs(finite: bool, same: bool, spread: float | None) -> CheckRow:
    """Are the inputs numbers, different from sample to sample, and of a sensible scale?

    Args:
        finite: no NaN or infinity in inputs or targets.
        same: every sample's input is the same.
        spread: the standard deviation over all numbers; None for integers, whose scale means nothing.
    """
    if not finite:
        return CheckRow("inputs", "fail", "the data holds NaN or infinity")
    if same:
        return CheckRow("inputs", "fail", "the inputs are constant: every sample is the same")
    if spread is None:
        return CheckRow("inputs", "pass", "finite, and they differ from sample to sample")
    text = f"finite, standard deviation {spread:.2g}"
    if not SCALE[0] <= spread <= SCALE[1]:
        return CheckRow("inputs", "warn", f"{text}: scale them to about 1")
    return CheckRow("inputs", "pass", text)


def judge_baseline(real: Sequence[float], zeroed: Sequence[float], start: float, floor: float, fits: bool) -> CheckRow:
    """Does training with zeroed inputs end clearly worse?

    Args:
        real: the last batch losses of training.
        zeroed: those of the same training, on the same batches, with every input set to zero.
        start: the loss at init.
        floor: the best loss without any input: the entropy of the labels in nats, or the variance of the targets.
        fits: one batch could be learned by heart, so the model does listen to its inputs; then a missing difference
            only means that so few updates show nothing, and warns.
    """
    name = "input_baseline"
    gaps = np.asarray(zeroed[: len(real)], dtype=float) - np.asarray(real[: len(zeroed)], dtype=float)
    if not len(gaps) or not np.all(np.isfinite(real)):
        return CheckRow(name, "fail", "the training loss is not finite")
    ends = f"loss {np.mean(real):.3g} with the inputs, {np.mean(zeroed):.3g} with zeros in their place"
    if np.mean(zeroed) < LEAK * floor:
        return CheckRow(name, "fail", f"{ends}, below the {floor:.3g} that targets alone allow: the model sees them")
    if not np.all(np.isfinite(gaps)):
        return CheckRow(name, "pass", ends)  # without inputs it diverged, which is clearly worse
    error = float(np.std(gaps, ddof=1) / math.sqrt(len(gaps))) if len(gaps) > 1 else 0.0
    gained = max(start - float(np.mean(real)), 0.0)
    if np.mean(gaps) > max(CLEARLY_WORSE_SE * error, CLEARLY_WORSE_PART * gained, 1e-12):
        return CheckRow(name, "pass", ends)
    if fits:
        return CheckRow(name, "warn", f"{ends}: no clear difference after so few updates")
    return CheckRow(name, "fail", f"{ends}: the model ignores its inputs, or they say nothing")


def judge_rerun(
    first: Sequence[float], second: Sequence[float], other: Sequence[float] | None, exact: bool
) -> CheckRow:
    """Does the same seed give the same losses, and another seed others?

    Args:
        first, second: of two trainings with the same seed.
        other: of one with another seed; None where that need not differ.
        exact: on a CPU, where nothing excuses a difference; a GPU's kernels may.
    """
    name, apart = "deterministic_rerun", difference(first, second)
    if apart > SAME:
        text = f"the same seed gives losses that differ by up to {apart:.1e} of their value"
        if not exact and apart <= KERNELS:
            return CheckRow(name, "warn", f"{text}, as non-deterministic GPU kernels do")
        return CheckRow(name, "fail", f"{text}: look for unseeded random numbers")
    if other is not None and difference(first, other) == 0.0:
        return CheckRow(name, "warn", "another seed gives exactly the same losses: the seed has no effect")
    return CheckRow(name, "pass", f"{len(first)} losses repeat" + (" exactly" if apart == 0.0 else f" to {apart:.0e}"))


def judge_checkpoint(uninterrupted: Sequence[float], resumed: Sequence[float], exact: bool) -> CheckRow:
    """Does a training that was saved, loaded and continued go on as the uninterrupted one?"""
    name, apart = "checkpoint", difference(uninterrupted, resumed)
    if apart <= SAME:
        return CheckRow(name, "pass", "saved, loaded and continued equals uninterrupted")
    text = f"after save and load the losses differ by up to {apart:.1e} of their value"
    if not exact and apart <= KERNELS:
        return CheckRow(name, "warn", f"{text}, as non-deterministic GPU kernels do")
    return CheckRow(name, "fail", f"{text}: the model holds state that its state_dict leaves out")


def difference(a: Sequence[float], b: Sequence[float]) -> float:
    """The largest relative difference; infinite where lengths or non-finite values do not match."""
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if len(x) != len(y):
        return math.inf
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    if np.any(~same & ~(np.isfinite(x) & np.isfinite(y))):
        return math.inf
    x, y = x[~same], y[~same]
    return float(np.max(np.abs(x - y) / np.maximum(np.abs(x), np.abs(y)), initial=0.0))


def judge_gradients(
    norms: Mapping[str, Sequence[float]], weights: Sequence[str], frozen: Sequence[str], looks: int
) -> CheckRow:
    """Does every trainable tensor get a gradient, finite and not zero?

    Args:
        norms: for each trainable tensor its gradient norms, one for each update in which it got any gradient. A tensor
            counts as dead only if all are zero: behind a layer that starts at zero the first ones are by design.
        weights: the names among them whose norms are comparable: no biases, whose gradient a norm may cancel.
        frozen: the tensors that do not require a gradient.
        looks: the updates that were watched.
    """
    name = "gradient_flow"
    bad = [k for k, values in norms.items() if not all(map(math.isfinite, values))]
    dead = [k for k, values in norms.items() if k not in bad and not any(values)]
    if not norms:
        return CheckRow(name, "fail", f"nothing is trainable: all {len(frozen)} tensors are frozen")
    if bad:
        return CheckRow(name, "fail", f"the gradient is not finite in {_some(bad)}")
    if dead:
        return CheckRow(name, "fail", f"no gradient reaches {_some(dead)} in {looks} updates")
    if frozen:
        return CheckRow(name, "warn", f"{len(frozen)} of {len(frozen) + len(norms)} tensors frozen: {_some(frozen)}")
    sizes = {k: max(norms[k]) for k in norms if k in weights} or {k: max(values) for k, values in norms.items()}
    low, high = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    text = f"all {len(norms)} tensors, norms {sizes[low]:.1e} ({low}) to {sizes[high]:.1e} ({high})"
    if sizes[high] > FAR_APART * sizes[low]:
        return CheckRow(name, "warn", f"{text}: vanishing or exploding on the way")
    return CheckRow(name, "pass", text)


def judge_modes(train: float, evaluation: float, start: float) -> CheckRow:
    """Is the loss of the same batches the same in training mode without dropout and in evaluation mode?

    Args:
        train, evaluation: the losses in the two modes after some updates.
        start: the loss at init.
    """
    name = "train_eval"
    text = f"loss {train:.3g} in training mode, {evaluation:.3g} in evaluation mode"
    if not (math.isfinite(train) and math.isfinite(evaluation)):
        return CheckRow(name, "fail", text)
    apart = abs(evaluation - train) > MODES_FLOOR * abs(start)
    if apart and evaluation > MODES * train:
        cause = "look at running statistics and at what is done only in training"
        return CheckRow(name, "fail", f"{text}: {cause}")
    if apart and train > MODES * evaluation:
        return CheckRow(name, "warn", f"{text}: something beside nn.Dropout disturbs the training")
    return CheckRow(name, "pass", text)


def judge_overlap(
    shared: int, validation: int, looked: tuple[int, int], of: tuple[int, int], most: float = OVERLAP
) -> CheckRow:
    """Are validation samples also in the training set?

    Args:
        shared: validation inputs that occur in the training set, byte for byte.
        validation: validation inputs that were looked at.
        looked, of: samples of the training and the validation set that were looked at, and in all.
        most: the part of the validation set that may be shared.
    """
    text = f"{shared} of {validation} validation inputs occur in the training set"
    if looked != of:
        text += f" (looked at {looked[0]} of {of[0]} and {looked[1]} of {of[1]})"
    if shared > most * validation:
        return CheckRow("overlap", "fail", f"{text}: split again, duplicates together")
    return CheckRow("overlap", "warn" if shared else "pass", text)


def judge_balance(train: Sequence[int], val: Sequence[int]) -> CheckRow:
    """Does every class occur, and about as often as the others?

    Args:
        train, val: samples of each class.
    """
    name = "class_balance"
    unseen = [str(k) for k, (a, b) in enumerate(zip(train, val)) if not a and b]
    if unseen:
        return CheckRow(
            name, "fail", f"the training set has no sample of class {_some(unseen)}, the validation set has"
        )
    seen = [n for n in train if n]
    most = max(seen) / sum(train)
    text = f"{min(seen)} to {max(seen)} training samples a class; always the most frequent one: accuracy {most:.3g}"
    unasked = [str(k) for k, (a, b) in enumerate(zip(train, val)) if a and not b]
    if unasked:
        return CheckRow(name, "warn", f"{text}; the validation set has no sample of class {_some(unasked)}")
    if max(seen) > IMBALANCE * min(seen):
        return CheckRow(name, "warn", f"{text}: accuracy will hide the rare ones")
    return CheckRow(name, "pass", text)


def judge_throughput(samples: int, seconds: float, waited: float) -> CheckRow:
    """Is the device kept busy?

    Args:
        samples: trained in ``seconds``, of which ``waited`` went into getting the batches.
    """
    share = waited / max(seconds, 1e-12)
    text = f"{samples / max(seconds, 1e-12):.3g} samples/s, {share:.0%} of the time waiting for data"
    if share > WAIT:
        return CheckRow("throughput", "warn", f"{text}: load in the background, or cache")
    return CheckRow("throughput", "pass", text)


def _some(names: Sequence[str]) -> str:
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
