"""How far to trust each kind of finding: as measured by ``benchmarks/calibrate_diagnosis.py``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

FEWEST = 10
"""Findings that must have been counted before their precision stands for itself. Our choice."""
UNMEASURED = 0.5
"""The confidence of a kind with fewer, below what any rule that is worth having reaches. Our choice."""


@cache
def measured() -> Mapping[str, Any]:
    """The content of ``calibration.json``: ``kinds`` maps a kind to rows of ``seen``, ``true``, ``false``, "
    "``missed``."""
    text = resources.files(__package__).joinpath("calibration.json").read_text(encoding="utf-8")
    data: Mapping[str, Any] = json.loads(text)
    return data


def confidence(kind: str, seen: float) -> float:
    """The part of the findings of ``kind`` that were true where ``seen`` of the training was over, in [0, 1].

    (true + 1) / (true + false + 2), the mean of the posterior under a flat prior, at the largest part that was measured
    and is over; :data:`UNMEASURED` with fewer than :data:`FEWEST` findings. What is true by definition is 1.
    """
    if kind in CERTAIN:
        return 1.0
    rows = [row for row in measured()["kinds"].get(kind, ()) if row["seen"] <= seen + 1e-6]
    if not rows:
        return UNMEASURED
    row = max(rows, key=lambda r: float(r["seen"]))
    true, false = row["true"], row["false"]
    return UNMEASURED if true + false < FEWEST else round((true + 1) / (true + false + 2), 2)


CERTAIN = ("non_finite", "over_clipping")
"""Kinds that say what was recorded and nothing more."""
