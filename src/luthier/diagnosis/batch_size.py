"""Choosing a batch size from what doubling it did to speed and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from luthier.core.errors import UserError

GAIN = 0.15
"""A doubling that brings less than this part more samples per second is not worth its longer steps: while a device is
not saturated throughput nearly doubles (Godbole et al. 2023, "Deep Learning Tuning Playbook"). The number is ours."""
MARGIN = 0.1
"""Part of the memory that stays free, for longer samples, validation and fragmentation. Our choice."""


@dataclass(frozen=True, slots=True)
class BatchSizeRow:
    """One batch size, tried.

    Args:
        batch_size: samples in an update.
        samples_per_second: None where it ran out of memory.
        peak_bytes: the most GPU memory held; None on a CPU, or where it ran out.
    """

    batch_size: int
    samples_per_second: float | None
    peak_bytes: int | None = None

    @property
    def out_of_memory(self) -> bool:
        """Whether it did not fit."""
        return self.samples_per_second is None


@dataclass(frozen=True, slots=True)
class BatchSizeChoice:
    """``batch_size``, None where nothing fitted, and ``why`` with the numbers."""

    batch_size: int | None
    why: str


def choose_batch_size(
    rows: Sequence[BatchSizeRow], *, memory: int | None = None, margin: float = MARGIN, gain: float = GAIN
) -> BatchSizeChoice:
    """The batch size before the first step up that gains too little, runs out of memory or eats the margin.

    Args:
        rows: in any order, one for each batch size.
        memory: bytes that the training may hold in all; None leaves ``peak_bytes`` aside.
        margin: the part of ``memory`` to keep free, 0 to 1.
        gain: the part that throughput must grow by at each step up.

    Raises:
        UserError: no rows.
    """
    if not rows:
        raise UserError("There are no measurements to choose a batch size from.", "Try at least one batch size.")
    ordered = sorted(rows, key=lambda row: row.batch_size)
    chosen: BatchSizeRow | None = None
    end = "the largest that was tried"
    for row in ordered:
        if row.samples_per_second is None:
            end = f"{row.batch_size} ran out of memory"
            break
        if memory is not None and row.peak_bytes is not None and row.peak_bytes > (1.0 - margin) * memory:
            end = (
                f"{row.batch_size} holds {row.peak_bytes / 2**30:.3g} GiB of {memory / 2**30:.3g} GiB, "
                f"less than {margin:.0%} free"
            )
            break
        if chosen is not None and not worth_it(chosen, row, gain):
            grew = row.samples_per_second / (chosen.samples_per_second or 1.0) - 1.0
            end = f"{row.batch_size} brings {grew:+.0%} ({row.samples_per_second:.4g} samples/s), below {gain:.0%}"
            break
        chosen = row
    if chosen is None:
        return BatchSizeChoice(None, f"No batch size fits: {end}.")
    return BatchSizeChoice(
        chosen.batch_size, f"Batch size {chosen.batch_size} at {chosen.samples_per_second:.4g} samples/s: {end}."
    )


def worth_it(smaller: BatchSizeRow, larger: BatchSizeRow, gain: float = GAIN) -> bool:
    """Whether the step up brings at least ``gain`` more samples per second; not where either is out of memory."""
    if smaller.samples_per_second is None or larger.samples_per_second is None:
        return False
    return larger.samples_per_second >= (1.0 + gain) * smaller.samples_per_second
