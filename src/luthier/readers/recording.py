"""What a reader gets out of a file: named series and what stands beside them, before anything is called a loss."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from luthier.diagnosis.curves import Series, Unit

_MISSING = {"", "none", "null", "na", "n/a", "-", "--"}
_TENSOR = re.compile(r"^tensor\(\s*([^,)\s]+)")


@dataclass(frozen=True, eq=False, slots=True)
class Recording:
    """One training as it was logged.

    Args:
        name: what to call it: its place below the path that was asked for.
        path: the file, folder or storage it was read from.
        tags: every series by the name under which it was logged.
        unit: of ``x`` in every series; None where the format does not tell.
        length: of the whole training as planned, in ``unit``.
        per_epoch: what one epoch is in ``unit``; None where nothing tells.
        config: the hyperparameters that stand beside the curves.
        metric: the name of the metric that the training itself cared for, without a split.
        maximize: that metric's direction, where it was recorded.
        from_zero: the log calls the epoch 0 that is the place 1 here.
        study: the name of Luthier's study that it is of.
        failed: how it ended, of one that did not come to its end: ``"failed after epoch 5 of 10: raised: ..."``.
    """

    name: str
    path: str | Path
    tags: Mapping[str, Series]
    unit: Unit | None = None
    length: float | None = None
    per_epoch: float | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    metric: str | None = None
    maximize: bool | None = None
    from_zero: bool = False
    failed: str = ""
    study: str = ""


def number(text: Any) -> float | None:
    """``text`` as a float, "nan" and "inf" among them; None where the cell is blank or holds no number."""
    if isinstance(text, bool) or text is None:
        return None
    if isinstance(text, int | float):
        return float(text)
    word = str(text).strip()
    if word.lower() in _MISSING:
        return None
    if wrapped := _TENSOR.match(word):  # what print(loss) writes without .item()
        word = wrapped[1]
    try:
        return float(word.removesuffix("%"))
    except ValueError:
        return None


def series(points: Iterable[tuple[float, float]]) -> Series | None:
    """A rising series from records in the order in which they were written; None where there are none.

    A training that was resumed goes back and writes some places again: what it wrote there last counts, and what its
    first life wrote beyond that place never happened. A file that is merely out of order is sorted.
    """
    rows = [p for p in points if math.isfinite(p[0])]
    if not rows:
        return None
    x, y = np.array(rows, dtype=float).T
    back = np.flatnonzero(np.diff(x) < 0) + 1
    if 0 < len(back) <= max(3, len(x) // 20):
        keep = np.ones(len(x), dtype=bool)
        for start, end in zip(back, [*back[1:], len(x)]):
            if np.isin(x[start:end], x[:start][keep[:start]]).any():  # else lines that only stand in the wrong order
                keep[:start] &= x[:start] < x[start]
        x, y = x[keep], y[keep]
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    last = np.append(np.diff(x) > 0, True)
    return Series(x[last], y[last])
