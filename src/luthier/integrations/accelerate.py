"""Hugging Face Accelerate: a loop over epochs whose state is the accelerator's own.

>>> accelerator = Accelerator()
>>> model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
>>> for epoch in epochs(trial, accelerator):
...     ...
...     trial.report(val_loss=...)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from luthier.core.errors import UserError
from luthier.run import inherit
from luthier.run.checkpoint import seed_everything
from luthier.run.handle import Trial

BUILT = "luthier.pt"


def epochs(trial: Trial, accelerator: Accelerator) -> Iterator[int]:
    """The epochs to train now, as ``trial.epochs(...)`` has them.

    Whatever the accelerator has prepared or registered is restored before the first epoch and saved after the last, by
    its ``load_state`` and ``save_state``: models, optimizers, schedulers, the scaler, samplers, generators.

    Args:
        trial: what the training function got.
        accelerator: after ``prepare``.

    Raises:
        UserError: nothing was prepared yet, or several processes train one trial.
    """
    if accelerator.num_processes > 1:
        raise UserError(
            f"{accelerator.num_processes} processes train one trial.", "Train each trial in one process: workers=N."
        )
    things = [*accelerator._optimizers, *(s.scheduler for s in accelerator._schedulers)]
    if not accelerator._models and not things:
        raise UserError("The accelerator has prepared nothing to save.", "Call accelerator.prepare(...) first.")
    mine = [inherit.settings(thing) for thing in things]
    built: list[Any] = mine

    def restore(path: Path) -> None:
        nonlocal built
        accelerator.load_state(str(path))
        before = torch.load(path / BUILT, weights_only=True)
        if not trial.cloned:
            built = before
            return
        for thing, was, own in zip(things, before, mine):
            thing.load_state_dict(inherit.merged(thing, thing.state_dict(), was, own))
        seed_everything(trial.seed)

    def save(path: Path) -> None:
        accelerator.save_state(str(path))
        torch.save(built, path / BUILT)

    yield from trial.epochs_with(restore, save)
