"""Hugging Face Accelerate: a loop over epochs whose state is the accelerator's own.

With ``lt.tune(..., processes=2)`` each trial's processes find one another; every one of them runs the loop.

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
from luthier.run.handle import Trial
from luthier.run.randomness import seed_everything

BUILT = "luthier.pt"
SHUFFLES = "luthier-shuffles.pt"


def epochs(trial: Trial, accelerator: Accelerator) -> Iterator[int]:
    """The epochs to train now, as ``trial.epochs(...)`` has them.

    Whatever the accelerator has prepared or registered is restored before the first epoch and saved after the last, by
    its ``load_state`` and ``save_state``: models, optimizers, schedulers, the scaler, samplers, generators.

    Args:
        trial: what the training function got.
        accelerator: after ``prepare``.

    Raises:
        UserError: nothing was prepared yet, or it was not Luthier that started the processes (``processes=``).
    """
    if accelerator.num_processes != trial.processes:
        raise UserError(
            f"The accelerator sees {accelerator.num_processes} processes, and the trial has {trial.processes}.",
            f"Let Luthier start them: processes={accelerator.num_processes}. With cpu=True Accelerate speaks gloo.",
        )
    things = [*accelerator._optimizers, *(s.scheduler for s in accelerator._schedulers)]
    if not accelerator._models and not things:
        raise UserError("The accelerator has prepared nothing to save.", "Call accelerator.prepare(...) first.")
    mine = [inherit.settings(thing) for thing in things]
    built: list[Any] = mine
    # Of several processes the loaders shuffle by generators of their own, which save_state leaves out.
    held = [getattr(loader, "synchronized_generator", None) for loader in accelerator._dataloaders]
    shuffles = [generator for generator in held if generator is not None]

    def restore(path: Path) -> None:
        nonlocal built
        accelerator.load_state(str(path))
        before = torch.load(path / BUILT, weights_only=True)
        if not trial.cloned:
            built = before
            for generator, state in zip(shuffles, torch.load(path / SHUFFLES, weights_only=True)):
                generator.set_state(state)
            return
        for thing, was, own in zip(things, before, mine):
            thing.load_state_dict(inherit.merged(thing, thing.state_dict(), was, own))
        seed_everything(trial.seed)
        for generator in shuffles:
            generator.manual_seed(trial.seed)

    def save(path: Path) -> None:
        accelerator.save_state(str(path))
        if accelerator.is_main_process:
            torch.save(built, path / BUILT)
            torch.save([generator.get_state() for generator in shuffles], path / SHUFFLES)

    yield from trial.epochs_with(restore, save)
