"""Whether a training is worth going on with: small predicates for ending it early.

Measured with ``benchmarks/dead_starts.py``; see docs/diagnosis.md for what is saved and what is lost.
"""

from __future__ import annotations

import math

import numpy as np

from luthier.diagnosis.curves import Curves, Series
from luthier.diagnosis.signals import DEAD_MARGIN
from luthier.knowledge.roles import role as role_of

FIRST_LOOK = 0.1
SECOND_LOOK = 0.2
"""Parts of the training after which a dead start is believed: of an unusual learning rate, and of any. On 12 TaskSet
tasks, ending all dead starts at 10 % loses 12 % of the ten best configurations of a task, at 20 % 1 %."""
USUAL = 1.0
"""Decades around the center of the optimizer's prior in which a learning rate is usual: two of its spreads."""
EXPLODED = 4.0
"""Times the larger of the first and the trivial loss that a training does not come back from. fastai and Lightning end
a range test at four times the best loss."""


def dead(curves: Curves) -> bool:
    """Whether the best loss so far is no better than the trivial one, a tenth of the training into it or later; up to a
    fifth only if the learning rate is unusual, or not known.

    Needs ``trivial_loss`` and ``length``; False without. The validation loss counts, or else the training loss.
    """
    losses = _losses(curves)
    if losses is None or curves.trivial_loss is None or curves.length is None or curves.seen < FIRST_LOOK - 1e-9:
        return False
    if curves.seen < SECOND_LOOK - 1e-9 and usual(curves):
        return False
    finite = losses.y[np.isfinite(losses.y)]
    return not len(finite) or float(finite.min()) > (1.0 - DEAD_MARGIN) * curves.trivial_loss


def diverged(curves: Curves) -> bool:
    """Whether the last loss is not finite, or the last two are above 4 times the larger of the first and the trivial
    loss, after a tenth of the training."""
    losses = _losses(curves)
    if losses is None or not len(losses):
        return False
    if not math.isfinite(losses.y[-1]):
        return True
    if len(losses) < 3 or (curves.length is not None and curves.seen < FIRST_LOOK - 1e-9):
        return False
    start = float(losses.y[0]) if math.isfinite(losses.y[0]) else math.inf
    return float(losses.y[-2:].min()) > EXPLODED * max(start, curves.trivial_loss or -math.inf)


def hopeless(curves: Curves) -> bool:
    """Whether nothing is to be expected of going on: :func:`dead` or :func:`diverged`."""
    return diverged(curves) or dead(curves)


def usual(curves: Curves) -> bool:
    """Whether the configured learning rate is within a decade of the optimizer's prior; False where it is not known."""
    rate = curves.config.get("learning_rate")
    if not isinstance(rate, int | float) or not rate > 0:
        return False
    role = role_of("learning_rate")
    assert role is not None
    optimizer = curves.config.get("optimizer", "adam")
    center = role.number("center", optimizer if isinstance(optimizer, str) else "adam") or role.number("center", "adam")
    return center is not None and abs(math.log10(rate / center)) <= USUAL


def _losses(curves: Curves) -> Series | None:
    return curves.val_loss if curves.val_loss is not None and len(curves.val_loss) else curves.train_loss
