"""From a recording and a pairing to the curves of a training: one axis, accuracies as fractions; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from luthier.core.metrics import words
from luthier.diagnosis.curves import EXTRA, Curves, Series, Unit
from luthier.readers.pairing import Asked, Pairing, direction, pair
from luthier.readers.recording import Recording

STEPS_PER_EPOCH = 3.0
"""Where one curve is counted in whole numbers and another goes on this many times further, that one is in steps."""
_FRACTIONS = {"accuracy", "acc", "top1", "top5", "error", "err"}


@dataclass(frozen=True, slots=True)
class Run:
    """A training that was read.

    Args:
        curves: what is known of it.
        path: the file or folder it was read from.
        taken: the name that was taken for each role.
        notes: what the user should know of how it was read.
        failed: how it ended, of one that did not come to its end.
    """

    curves: Curves
    path: str
    taken: Mapping[str, str]
    notes: tuple[str, ...] = ()
    failed: str = ""

    @property
    def said(self) -> str:
        """What was taken for what, in words."""
        return ", ".join(f"{role} ← {name}" for role, name in self.taken.items())


def assemble(
    recording: Recording, asked: Asked | None = None, *, classes: int | None = None, max_epochs: float | None = None
) -> Run | None:
    """The training of a recording; None where nothing in it is a loss or a metric.

    Args:
        recording: what was read.
        asked: the user's own choice of names.
        classes: gives the loss and the accuracy of a model that knows nothing.
        max_epochs: the planned length.

    Raises:
        UserError: see :func:`luthier.readers.pairing.pair`.
    """
    found = pair(recording.tags, asked, metric=recording.metric, maximize=recording.maximize)
    if not found:
        return None
    notes = list(found.notes)
    picked = {role: recording.tags[name] for role, name in found.taken.items()}
    series, unit, from_zero = _one_axis(recording, found, picked, notes)
    length = recording.length
    if max_epochs is not None:
        if unit == "epoch":
            length = max_epochs
        elif recording.per_epoch is not None:
            length = max_epochs * recording.per_epoch
        else:
            notes.append("the curves are in steps and nothing tells how many make an epoch: --max-epochs has no effect")
    end = max((float(s.x[-1]) for s in series.values()), default=0.0)
    word = _fraction_word(found)
    if word and max(_top(series.get("train_metric")), _top(series.get("val_metric"))) > 1.5:
        for role in ("train_metric", "val_metric"):
            if role in series:
                series[role] = Series(series[role].x, series[role].y / 100.0)
        notes.append(f"{found.taken.get('val_metric') or found.taken['train_metric']} is in percent: read as fractions")
    trivial = None
    if classes and word:
        trivial = 1.0 / classes if found.maximize else 1.0 - 1.0 / classes
    curves = Curves(
        train_loss=series.get("train_loss"),
        val_loss=series.get("val_loss"),
        train_metric=series.get("train_metric"),
        val_metric=series.get("val_metric"),
        maximize=found.maximize,
        learning_rate=series.get("learning_rate"),
        extra={role: series[role] for role in EXTRA if role in series},
        length=length if length is None or length >= end else None,
        unit=unit,
        trivial_loss=math.log(classes) if classes else None,
        trivial_metric=trivial,
        config=recording.config,
        name=recording.name,
        from_zero=from_zero,
    )
    return Run(curves, str(recording.path), found.taken, tuple(notes), recording.failed)


def renamed(run: Run, name: str) -> Run:
    """The same training by another name."""
    return replace(run, curves=replace(run.curves, name=name))


# -- the axis ----------------------------------------------------------------------------------------------------------


def _one_axis(
    recording: Recording, found: Pairing, picked: Mapping[str, Series], notes: list[str]
) -> tuple[dict[str, Series], Unit, bool]:
    """Every series on one axis, its unit, and whether the log calls the epoch at the place 1 its epoch 0.

    Where the format does not tell, validation that was recorded at each whole number was counted in epochs (nobody
    validates after every step); training that then goes on much further was counted in steps.
    """
    if recording.unit is not None:
        return dict(picked), recording.unit, recording.from_zero
    vals = [picked[role] for role in ("val_loss", "val_metric") if role in picked]
    longest = max(vals, key=len, default=None)
    if longest is None:
        by_epoch = all("epoch" in words(found.taken[r]) for r in ("train_loss", "train_metric") if r in picked)
        if not by_epoch:
            return dict(picked), "step", False
        shift = _shift(list(picked.values()))
        return {role: Series(s.x + shift, s.y) for role, s in picked.items()}, "epoch", shift > 0
    if len(longest) < 2 or not np.all(np.diff(longest.x) == 1.0):
        return dict(picked), "step", False
    end = float(longest.x[-1])
    shift = _shift(vals)
    out, scaled = {}, []
    for role, own in picked.items():
        last = float(own.x[-1])
        if last > STEPS_PER_EPOCH * max(end, 1.0):
            # Places stay apart: only the scale changes, so that both curves end together.
            out[role] = Series(own.x * ((end + shift) / last), own.y)
            scaled.append(found.taken[role])
        else:
            out[role] = Series(own.x + shift, own.y)
    if scaled:
        names = ", ".join(scaled)
        notes.append(f"{names} is counted in steps and validation in epochs: both were laid to end together")
    return out, "epoch", shift > 0


def _shift(series: Sequence[Series]) -> float:
    """1 where epochs are counted from 0: the first one ends at 1."""
    return 1.0 if min(float(s.x[0]) for s in series) == 0.0 else 0.0


def _fraction_word(found: Pairing) -> bool:
    """Whether the metric is a part of all samples."""
    names = [found.taken[r] for r in ("val_metric", "train_metric") if r in found.taken]
    return bool(names) and direction(names[0]) is not None and bool(
        {w for n in names for w in words(n)} & _FRACTIONS or any(w.endswith("accuracy") for w in words(names[0]))
    )  # fmt: skip


def _top(series: Series | None) -> float:
    finite = series.finite.y if series is not None else np.empty(0)
    return float(finite.max()) if len(finite) else 0.0
