"""Whether a training is worth going on with: small predicates for ending it early.

``benchmarks/dead_starts.py`` measures on TaskSet what is saved and what is lost; docs/diagnosis.md has the numbers.
"""

from __future__ import annotations

import math

import numpy as np

from luthier.diagnosis.curves import Curves, Series
from luthier.diagnosis.signals import DEAD_MARGIN, risen, thin

FIRST_LOOK = 0.2
"""Part of the training after which a dead start is believed. At a tenth, 12 % of the ten best configurations of 12
TaskSet tasks still look dead, at a fifth 1 %."""
LAST_LOOK = 0.7
"""Until then a loss that falls, however slowly, is let go on. Chosen on the six TaskSet tasks of dead_starts.py."""
FALLS = -1.0
"""Mann-Kendall's z below which a loss may be falling: a low bar, for a late start must not be lost. Chosen likewise."""
EXPLODED = 4.0
"""Times the larger of the first and the trivial loss that a training does not come back from. fastai's and Lightning's
range tests end at four times the best loss."""
FEWEST = 5
"""Records that a verdict needs. Our choice."""


def dead(curves: Curves) -> bool:
    """Whether the best loss so far is no better than the trivial one, a fifth of the training into it or later, while
    neither loss falls; from 70 % on even then.

    Needs ``trivial_loss`` and ``length``, and five records; False without. The validation loss counts, or else the
    training loss.
    """
    losses = _losses(curves)
    if losses is None or curves.trivial_loss is None or curves.length is None or len(losses) < FEWEST:
        return False
    learned = float(losses.finite.y.min(initial=math.inf)) <= (1.0 - DEAD_MARGIN) * curves.trivial_loss
    if learned or curves.seen < FIRST_LOOK - 1e-6:
        return False
    series = (curves.val_loss, curves.train_loss)
    return curves.seen >= LAST_LOOK or not any(falling(one) for one in series if one is not None)


def diverged(curves: Curves) -> bool:
    """Whether the last loss is not finite, or the last two are above 4 times the larger of the first and the trivial
    loss, a fifth of the training into it or later, or with an unknown length after five records.

    Of a loss that may be negative (a density's): higher above that one by 3 times its size, or what was learned."""
    losses = _losses(curves)
    if losses is None or not len(losses):
        return False
    if not math.isfinite(losses.y[-1]):
        return True
    if len(losses) < FEWEST or (curves.length is not None and curves.seen < FIRST_LOOK - 1e-6):
        return False
    if not math.isfinite(losses.y[0]):
        return False
    start = max(float(losses.y[0]), curves.trivial_loss or -math.inf)
    return float(losses.y[-2:].min()) > risen(start, float(losses.finite.y.min()), EXPLODED)


def hopeless(curves: Curves) -> bool:
    """Whether nothing is to be expected of going on: :func:`dead` or :func:`diverged`."""
    return diverged(curves) or dead(curves)


def falling(series: Series) -> bool:
    """Whether more pairs of records fall than chance would have it, by one standard deviation (Mann-Kendall)."""
    y = thin(series.finite, 60).y
    n = len(y)
    if n < FEWEST:
        return False
    i, j = np.triu_indices(n, 1)
    return float(np.sign(y[j] - y[i]).sum()) < FALLS * math.sqrt(n * (n - 1) * (2 * n + 5) / 18.0)


def _losses(curves: Curves) -> Series | None:
    return curves.val_loss if curves.val_loss is not None and len(curves.val_loss) else curves.train_loss
