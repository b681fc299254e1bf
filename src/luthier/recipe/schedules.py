"""Learning-rate schedules as one pure function of the update's number.

Every schedule is a factor in [0, 1] on the configured (peak) learning rate, so that ``learning_rate`` means the same
under all of them. Nothing but the plateau's drops is remembered: a checkpoint holds no schedule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

from luthier.core.errors import UserError, nearest

SCHEDULES = ("cosine", "linear", "constant", "onecycle", "wsd", "step", "plateau")

# fastai's numbers (fastai/callback/schedule.py, fit_one_cycle: div, div_final, pct_start). PyTorch's OneCycleLR agrees
# on the first, and has 25 * 1e4 and 0.3 for the others.
ONECYCLE_DIV = 25.0
ONECYCLE_DIV_FINAL = 1e5
ONECYCLE_RISE = 0.25

# He et al. 2016, "Deep Residual Learning", section 4.2: divided by 10 at 32k and 48k of 64k iterations.
STEP_AT = (0.5, 0.75)
STEP_FACTOR = 0.1

# Hägele et al. 2024, arXiv 2405.18392, section 3: a cooldown of 10 to 20 % of the updates matches cosine.
DECAY_FRACTION = 0.2

# PyTorch's ReduceLROnPlateau: factor 0.1 and a relative threshold of 1e-4. Its patience is 10, ours half of that, for
# trainings of tens of epochs.
PLATEAU_FACTOR = 0.1
PLATEAU_THRESHOLD = 1e-4
PLATEAU_PATIENCE = 5


def lr_factor(
    step: int,
    total_steps: int,
    schedule: str = "cosine",
    warmup: float = 0.0,
    *,
    decay_fraction: float = DECAY_FRACTION,
    drops: int = 0,
) -> float:
    """The factor on the peak learning rate at an update.

    The first ``w = round(warmup * total_steps)`` updates rise linearly, ``(step + 1) / (w + 1)``, so that no update is
    wasted on a rate of zero (Goyal et al. 2017, section 2.2, gradual warmup); the schedule runs over the others, with
    ``t`` of ``T`` the update's place among them:

    - ``constant``: 1.
    - ``cosine``: ``(1 + cos(pi t / T)) / 2``, down to 0 (Loshchilov & Hutter 2017, SGDR, equation 5, one period).
    - ``linear``: ``1 - t / T``, down to 0 (Bergsma et al. 2025, arXiv 2502.15938).
    - ``step``: 1, 0.1 from half of the way on, 0.01 from three quarters on (He et al. 2016, section 4.2).
    - ``onecycle``: from 1/25 up to 1 over the first quarter and down to 1e-5, both along a cosine (Smith & Topin 2018,
      in fastai's form; the momentum stays as it is). Its rise is its warmup: ``warmup`` has no say.
    - ``wsd``, warmup-stable-decay: 1, then ``1 - sqrt(u)`` with ``u`` from 0 to 1 over the last ``decay_fraction`` of
      all updates, or of what the warmup has left of them (Hu et al. 2024, arXiv 2404.06395, section 4; the form of the
      decay, better than a linear one, is that of Hägele et al. 2024, arXiv 2405.18392, equation 1).
    - ``plateau``: ``0.1 ** drops``, see :class:`Plateau`; during the warmup, that times the rise.

    Args:
        step: updates done before this one, from 0; beyond the end the last value is kept.
        total_steps: updates in the whole training, at least 1.
        schedule: one of :data:`SCHEDULES`.
        warmup: the fraction of ``total_steps`` that rises, in [0, 0.5].
        decay_fraction: the fraction of ``total_steps`` that ``wsd`` decays, in (0, 1].
        drops: of a plateau so far.

    Raises:
        UserError: for an unknown schedule or a fraction out of its range.
    """
    if schedule not in SCHEDULES:
        raise UserError(f"Unknown schedule {schedule!r}.", nearest(schedule, SCHEDULES))
    if not 0.0 <= warmup <= 0.5:
        raise UserError(f"warmup={warmup!r} is not in [0, 0.5].", "It is the fraction of all updates that warm up.")
    if not 0.0 < decay_fraction <= 1.0:
        raise UserError(f"decay_fraction={decay_fraction!r} is not in (0, 1].", "It is a fraction of all updates.")
    if schedule == "onecycle":
        return _onecycle(step, total_steps)
    top = PLATEAU_FACTOR**drops if schedule == "plateau" else 1.0
    rise = round(warmup * total_steps)
    if step < rise:
        return top * (step + 1) / (rise + 1)
    progress = min((step - rise) / max(total_steps - rise, 1), 1.0)
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    if schedule == "linear":
        return 1.0 - progress
    if schedule == "step":
        return float(STEP_FACTOR ** sum(progress >= at for at in STEP_AT))
    if schedule == "wsd":
        start = max(total_steps * (1.0 - decay_fraction), rise)
        return 1.0 - math.sqrt(min(max((step - start) / (total_steps - start), 0.0), 1.0))
    return top


def _onecycle(step: int, total_steps: int) -> float:
    # PyTorch's counting: the peak lies at update pct_start * total - 1, the end at total - 1.
    peak, last = ONECYCLE_RISE * total_steps - 1.0, total_steps - 1.0
    if step <= peak:
        return _cosine_arm(1.0 / ONECYCLE_DIV, 1.0, step / peak if peak > 0 else 1.0)
    top = max(peak, 0.0)
    return _cosine_arm(1.0, 1.0 / ONECYCLE_DIV_FINAL, min((step - top) / max(last - top, 1.0), 1.0))


def _cosine_arm(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * progress))


@final
class Plateau:
    """Counts how often a metric has stopped to get better: PyTorch's ``ReduceLROnPlateau`` as a number.

    After more than ``patience`` epochs in a row that are not better than the best by one part in 10^4, ``drops`` grows
    by one and the count begins anew. PyTorch's own class writes the rate into the optimizer, where a warmup cannot
    reach it, and saves its settings with its state; ``tests/test_schedules.py`` holds this one equal to it.
    """

    def __init__(self, *, minimize: bool, patience: int = PLATEAU_PATIENCE) -> None:
        self._minimize, self._patience = minimize, patience
        self._best = math.inf if minimize else -math.inf
        self._stale = 0
        self.drops = 0
        """How many times the rate is to be divided by ten."""

    def see(self, metric: float) -> None:
        """Take note of an epoch; NaN is never better."""
        margin = -PLATEAU_THRESHOLD if self._minimize else PLATEAU_THRESHOLD
        bar = self._best * (1.0 + margin)
        if (metric < bar) if self._minimize else (metric > bar):
            self._best, self._stale = metric, 0
        else:
            self._stale += 1
        if self._stale > self._patience:
            self.drops, self._stale = self.drops + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """The best metric, the epochs since, and the drops; no settings."""
        return {"best": self._best, "stale": self._stale, "drops": self.drops}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._best, self._stale, self.drops = state["best"], state["stale"], state["drops"]
