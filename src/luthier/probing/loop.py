"""The checks that a training loop of one's own allows: all they need is ``step()`` and what it changes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from luthier.core.errors import UserError
from luthier.diagnosis import checks
from luthier.diagnosis.checks import CheckReport, CheckRow
from luthier.probing.check import WATCHED, gradient_row, no_dropout, sound, watched
from luthier.probing.lr_range import Snapshot, number, seed_all
from luthier.recipe.probes import OVERFIT_STEPS

UPDATES = 10
"""To see whether a loop repeats."""


def check_loop(
    step: Callable[..., Any] | None = None,
    model: nn.Module | None = None,
    optimizer: Optimizer | None = None,
    *,
    loss_at_init: float | Tensor | None = None,
    classes: int | None = None,
    batch: Any = None,
    modules: Sequence[Any] = (),
    seed: int = 0,
) -> CheckReport:
    """The checks that a training loop of one's own allows; what cannot be checked is ``skipped`` and says why.

    Everything given is restored bit for bit, as by :func:`lr_range_test`. Rows: ``initial_loss``, ``gradient_flow``,
    ``deterministic_rerun``, ``overfit_batch``.

    Args:
        step: does one update and returns its loss; ``step(batch)`` where ``batch`` is given.
        model, optimizer, modules: everything that ``step`` changes.
        loss_at_init: of the untrained model on some batches, in evaluation mode.
        classes: how many; with ``loss_at_init``, which should be about log(classes).
        batch: a small one (8 to 32 samples), which ``step`` should be able to learn by heart at its learning rate.

    Raises:
        UserError: a ``step`` that returns no number or does not take ``batch``, or something that cannot be restored.
    """
    if classes is not None and classes < 2:
        raise UserError(f"classes={classes} leaves nothing to tell apart.", "Give the number of classes, at least 2.")
    if step is not None and batch is not None and not _takes_argument(step):
        raise UserError("batch= is given but step() takes none.", "Write def step(batch), or leave batch= out.")
    answer: dict[str, Any] = {
        "finite_inputs": True,
        "classes": classes,
        "expected_loss": math.log(classes or 2),
        "initial_loss": None,
    }
    answer |= {"parameters": sum(p.numel() for p in model.parameters() if p.requires_grad) if model else 1}
    answer |= {"overfit": {"batch": _size(batch), "steps": 0, "losses": [1.0], "accuracy": None}}
    rows: list[CheckRow] = []
    if loss_at_init is None or classes is None:
        rows.append(CheckRow("initial_loss", "skipped", "needs loss_at_init= and classes="))
    else:
        rows.append(checks.sanity_rows({**answer, "initial_loss": number(loss_at_init)})[0])
    if step is None:
        names = ("gradient_flow", "deterministic_rerun", "overfit_batch")
        return CheckReport((*rows, *(CheckRow(name, "skipped", "needs step=") for name in names)))

    def one() -> float:
        return number(step() if batch is None else step(batch))

    scaled = any(isinstance(thing, torch.amp.GradScaler) for thing in modules)
    before = Snapshot((model, optimizer, *modules))
    try:
        rows.append(_gradients(one, model, scaled, seed))
        rows.append(_rerun(one, model, optimizer, before, batch is not None, seed))
        if batch is None:
            rows.append(CheckRow("overfit_batch", "skipped", "needs a step that takes a batch, and batch="))
        else:
            before.restore()
            losses = _overfit(one, model, seed)
            fit = {"batch": _size(batch), "steps": len(losses) - 1, "losses": losses, "accuracy": None}
            rows.append(checks.sanity_rows({**answer, "overfit": fit})[1])
    finally:
        before.restore()
    return CheckReport(tuple(rows))


def _gradients(one: Callable[[], float], model: nn.Module | None, scaled: bool, seed: int) -> CheckRow:
    if model is None:
        return CheckRow("gradient_flow", "skipped", "needs model=")
    seed_all(seed)
    with watched(model) as norms:
        for _ in range(WATCHED):
            if sound(norms):
                one()
    return gradient_row(model, norms, scaled)


def _rerun(
    one: Callable[[], float],
    model: nn.Module | None,
    optimizer: Optimizer | None,
    before: Snapshot,
    same_batch: bool,
    seed: int,
) -> CheckRow:
    if model is None and optimizer is None:
        return CheckRow("deterministic_rerun", "skipped", "needs model= or optimizer= to begin again")
    runs = []
    for _ in range(2):
        before.restore()
        seed_all(seed)
        runs.append([one() for _ in range(UPDATES)])
    tensor = next((p for g in optimizer.param_groups for p in g["params"]), None) if optimizer else None
    tensor = next(model.parameters(), None) if model and tensor is None else tensor
    row = checks.judge_rerun(runs[0], runs[1], None, exact=tensor is None or tensor.device.type == "cpu")
    if row.status == "fail" and not same_batch:
        # The step may draw from an iterator, which nothing can wind back.
        return CheckRow(row.name, "warn", f"{row.text}, or a step that goes on to other batches")
    return row


def _overfit(one: Callable[[], float], model: nn.Module | None, seed: int) -> list[float]:
    seed_all(seed)
    losses: list[float] = []
    with no_dropout(model):
        while len(losses) <= OVERFIT_STEPS and (not losses or math.isfinite(losses[-1])):
            losses.append(one())
            if losses[-1] < checks.LEARNED * losses[0]:
                break
    return losses if all(map(math.isfinite, losses)) else losses[:-1]


def _takes_argument(step: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(step).parameters.values()
    except (TypeError, ValueError):
        return True  # a builtin or C function: let the call say so
    kinds = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    )
    return any(parameter.kind in kinds for parameter in parameters)


def _size(batch: Any) -> int:
    first = batch[0] if isinstance(batch, tuple | list) and batch else batch
    return len(first) if hasattr(first, "__len__") and (not isinstance(first, Tensor) or first.ndim) else 1
