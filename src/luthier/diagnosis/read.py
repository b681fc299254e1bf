"""STAND-IN, to be replaced by the rules: says of each training only whether it broke and where it is best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from luthier.diagnosis.curves import Curves
from luthier.diagnosis.finding import Diagnosis, Finding


def diagnose_curves(curves: Curves) -> Diagnosis:
    """A stand-in."""
    found = []
    for name in ("train_loss", "val_loss"):
        series = curves.all().get(name)
        if series is None:
            continue
        bad = np.flatnonzero(~np.isfinite(series.y))
        if len(bad):
            at = float(series.x[bad[0]])
            found.append(Finding("diverged", "critical", 1.0, f"{name} is not finite from {curves.unit} {at:g} on.",
                                 ("Lower the learning rate threefold.",), 1, at, {"at": at}, name))  # fmt: skip
            break
    val = curves.val_loss.finite if curves.val_loss is not None else None
    if not found and val is not None and len(val) > 3:
        low = int(np.argmin(val.y))
        if val.y[-1] > 1.1 * val.y[low] and low < 0.8 * len(val):
            at = float(val.x[low])
            found.append(Finding("overfitting", "warning", 0.8, f"val_loss rises from {curves.unit} {at:g} on.",
                                 ("Stop there, or regularize.",), 4, at, {"low": float(val.y[low])}))  # fmt: skip
    return Diagnosis(tuple(found), curves.name)


def diagnose_study(many: Sequence[Curves]) -> Diagnosis:
    """A stand-in."""
    return Diagnosis(())
