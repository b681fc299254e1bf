"""The curves of one training, wherever they were recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import UserError

Array = NDArray[np.float64]

Unit = Literal["epoch", "step"]

EXTRA = ("clipped", "loss_scale", "grad_norm", "update_ratio")
"""What :attr:`Curves.extra` may hold."""


@dataclass(frozen=True, eq=False, slots=True)
class Series:
    """One quantity over the training: ``y[i]`` was recorded at ``x[i]``, in epochs or steps; ``y`` may hold NaN."""

    x: Array
    y: Array

    @classmethod
    def of(cls, y: Sequence[float], x: Sequence[float] | None = None) -> Self:
        """A series of ``y``, at 1, 2, 3, ... unless ``x`` says otherwise.

        Raises:
            UserError: something that is not a list of numbers, or an ``x`` of another length or that does not rise.
        """
        try:
            values = np.asarray(y, dtype=float)
            places = np.arange(1.0, len(values) + 1) if x is None else np.asarray(x, dtype=float)
        except (TypeError, ValueError) as error:
            raise UserError(f"A curve is not a list of numbers: {error}.", "Give one number for each epoch.") from error
        if values.ndim != 1 or values.shape != places.shape:
            raise UserError(
                f"A curve has the shape {values.shape}, its places {places.shape}.",
                "Give two flat lists of one length.",
            )
        if not np.all(np.diff(places) > 0):
            raise UserError("The places of a curve do not rise.", "Sort the records, and keep one for each place.")
        return cls(places, values)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def finite(self) -> Series:
        """Without the records that are NaN or infinite."""
        kept = np.isfinite(self.y)
        return self if kept.all() else Series(self.x[kept], self.y[kept])

    def until(self, x: float) -> Series:
        """What was recorded up to and at ``x``."""
        kept = self.x <= x
        return Series(self.x[kept], self.y[kept])


@dataclass(frozen=True, eq=False, slots=True)
class Curves:
    """What is known of one training. Everything may be missing; the more there is, the more can be said.

    Args:
        train_loss: what was trained on, per update or per epoch.
        val_loss: on data that was not trained on.
        train_metric, val_metric: what is cared for, such as accuracy; ``None`` where it is the loss itself.
        maximize: whether a larger metric is better.
        learning_rate: as it was in effect.
        extra: further series by name: ``grad_norm``, ``clipped`` (fraction of updates in [0, 1]), ``loss_scale``,
            ``update_ratio`` (the norm of an update over the norm of the weights).
        length: of the whole training as planned, in ``unit``; None when unknown: then what is there is all.
        unit: of ``x`` in every series.
        trivial_loss: of a model that knows nothing but the frequencies of the targets: log(classes), or their variance.
        trivial_metric: the same model's metric, such as 1 / classes.
        n_val: samples in the validation set; gives the noise of an accuracy.
        config: the hyperparameters, as far as known.
        name: what to call the training.
        from_zero: the log calls its first epoch 0: what is known at the place 1, at its end, stands there beside a 0.
    """

    train_loss: Series | None = None
    val_loss: Series | None = None
    train_metric: Series | None = None
    val_metric: Series | None = None
    maximize: bool = True
    learning_rate: Series | None = None
    extra: Mapping[str, Series] = field(default_factory=dict)
    length: float | None = None
    unit: Unit = "epoch"
    trivial_loss: float | None = None
    trivial_metric: float | None = None
    n_val: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    from_zero: bool = False

    def named(self, x: float) -> float:
        """What the log calls the place ``x``; of one within an epoch that epoch, where it counts them from 0."""
        return float(max(math.ceil(x - 1e-9) - 1, 0)) if self.from_zero else x

    @property
    def end(self) -> float:
        """The last place of any series; 0 where there is none."""
        ends = [float(series.x[-1]) for series in self.all().values() if len(series)]
        return max(ends, default=0.0)

    @property
    def seen(self) -> float:
        """The part of the planned training that the curves cover, in [0, 1]."""
        return 1.0 if not self.length else min(self.end / self.length, 1.0)

    def all(self) -> dict[str, Series]:
        """Every series that is there, by name."""
        named = {
            "train_loss": self.train_loss,
            "val_loss": self.val_loss,
            "train_metric": self.train_metric,
            "val_metric": self.val_metric,
            "learning_rate": self.learning_rate,
            **self.extra,
        }
        return {name: series for name, series in named.items() if series is not None}

    def prefix(self, part: float) -> Curves:
        """The same training when only ``part`` of it, in (0, 1], was over; ``length`` is kept, or set to what it was.

        Raises:
            UserError: ``part`` outside (0, 1].
        """
        if not 0.0 < part <= 1.0 or math.isnan(part):
            raise UserError(f"part={part!r} is not in (0, 1].")
        length = self.length or self.end

        def cut(series: Series | None) -> Series | None:
            return None if series is None else series.until(part * length)

        return replace(
            self,
            train_loss=cut(self.train_loss),
            val_loss=cut(self.val_loss),
            train_metric=cut(self.train_metric),
            val_metric=cut(self.val_metric),
            learning_rate=cut(self.learning_rate),
            extra={name: series.until(part * length) for name, series in self.extra.items()},
            length=length,
        )
