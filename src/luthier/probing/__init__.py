"""Tests that a training pipeline, a recipe or a loop of one's own, can be put through before it is tuned."""

from luthier.diagnosis.batch_size import BatchSizeRow
from luthier.diagnosis.checks import CheckReport, CheckRow
from luthier.probing.batch_size import BatchSizeResult, find_batch_size, find_batch_size_for
from luthier.probing.check import check
from luthier.probing.loop import check_loop
from luthier.probing.lr_range import LRRangeResult, Snapshot, lr_range_test

__all__ = [
    "BatchSizeResult",
    "BatchSizeRow",
    "CheckReport",
    "CheckRow",
    "LRRangeResult",
    "Snapshot",
    "check",
    "check_loop",
    "find_batch_size",
    "find_batch_size_for",
    "lr_range_test",
]
