"""Learning-rate schedules as one pure function of the step, driven by PyTorch's ``LambdaLR``.

Every schedule is a factor in [0, 1] on the configured (peak) learning rate, so that ``learning_rate`` means the same
under all of them.
"""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from luthier.core.errors import UserError, nearest

SCHEDULES = ("cosine", "constant", "onecycle", "step")

# fastai's numbers (fastai/callback/schedule.py, fit_one_cycle: div, div_final, pct_start). PyTorch's OneCycleLR agrees
# on the first, and has 25 * 1e4 and 0.3 for the others.
ONECYCLE_DIV = 25.0
ONECYCLE_DIV_FINAL = 1e5
ONECYCLE_RISE = 0.25

# He et al. 2016, "Deep Residual Learning", section 4.2: divided by 10 at 32k and 48k of 64k iterations.
STEP_AT = (0.5, 0.75)
STEP_FACTOR = 0.1


def lr_factor(step: int, total_steps: int, schedule: str = "cosine", warmup: float = 0.0) -> float:
    """The factor on the peak learning rate at an update.

    The first ``w = round(warmup * total_steps)`` updates rise linearly, ``(step + 1) / (w + 1)``, so that no update is
    wasted on a rate of zero (Goyal et al. 2017, section 2.2, gradual warmup); the schedule runs over the others, with
    ``t`` of ``T`` the update's place among them:

    - ``constant``: 1.
    - ``cosine``: ``(1 + cos(pi t / T)) / 2``, down to 0 (Loshchilov & Hutter 2017, SGDR, equation 5, one period).
    - ``step``: 1, 0.1 from half of the way on, 0.01 from three quarters on (He et al. 2016, section 4.2).
    - ``onecycle``: from 1/25 up to 1 over the first quarter and down to 1e-5, both along a cosine (Smith & Topin 2018,
      in fastai's form; the momentum stays as it is). Its rise is its warmup: ``warmup`` has no say.

    Args:
        step: updates done before this one, from 0; beyond the end the last value is kept.
        total_steps: updates in the whole training, at least 1.
        schedule: one of :data:`SCHEDULES`.
        warmup: the fraction of ``total_steps`` that rises, in [0, 0.5].

    Raises:
        UserError: for an unknown schedule or a warmup out of its range.
    """
    if schedule not in SCHEDULES:
        raise UserError(f"Unknown schedule {schedule!r}.", nearest(schedule, SCHEDULES))
    if not 0.0 <= warmup <= 0.5:
        raise UserError(f"warmup={warmup!r} is not in [0, 0.5].", "It is the fraction of all updates that warm up.")
    if schedule == "onecycle":
        return _onecycle(step, total_steps)
    rise = round(warmup * total_steps)
    if step < rise:
        return (step + 1) / (rise + 1)
    progress = min((step - rise) / max(total_steps - rise, 1), 1.0)
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    if schedule == "step":
        return float(STEP_FACTOR ** sum(progress >= at for at in STEP_AT))
    return 1.0


def _onecycle(step: int, total_steps: int) -> float:
    # PyTorch's counting: the peak lies at update pct_start * total - 1, the end at total - 1.
    peak, last = ONECYCLE_RISE * total_steps - 1.0, total_steps - 1.0
    if step <= peak:
        return _cosine_arm(1.0 / ONECYCLE_DIV, 1.0, step / peak if peak > 0 else 1.0)
    top = max(peak, 0.0)
    return _cosine_arm(1.0, 1.0 / ONECYCLE_DIV_FINAL, min((step - top) / max(last - top, 1.0), 1.0))


def _cosine_arm(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * progress))


def make_scheduler(optimizer: Optimizer, total_steps: int, schedule: str, warmup: float, *, done: int = 0) -> LambdaLR:
    """A ``LambdaLR`` over :func:`lr_factor`; call its ``step()`` after each update.

    Args:
        optimizer: with the peak rate in its groups.
        done: updates done before. It is all that a schedule remembers, so a checkpoint need not hold one.
    """
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return LambdaLR(optimizer, lambda step: lr_factor(step, total_steps, schedule, warmup), last_epoch=done - 1)
