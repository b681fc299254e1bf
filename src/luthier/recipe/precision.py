"""Number formats of a training, and the update that has to know of them: scale, unscale, clip, step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from luthier.core.errors import UserError, nearest

Loss = Callable[[Tensor, Tensor], Tensor]
"""The mean loss of a batch from outputs and targets."""

PRECISIONS: Mapping[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What the multiplications are done in; weights, losses and updates are in the model's own format under all of them."""

DEVICES: Mapping[str, tuple[str, ...]] = {"bf16": ("cpu", "cuda"), "fp16": ("cuda",)}
"""Where each of them works."""


def check_precision(precision: str, device: torch.device) -> None:
    """Raises UserError for an unknown precision, or one that ``device`` does not have."""
    if precision not in PRECISIONS:
        raise UserError(f"Unknown precision {precision!r}.", nearest(precision, PRECISIONS))
    if precision in DEVICES and device.type not in DEVICES[precision]:
        where = " and ".join(DEVICES[precision])
        mend = "Use precision='bf16' or 'fp32'." if device.type == "cpu" else "Use precision='fp32'."
        raise UserError(f"precision={precision!r} works on {where}, not on {device.type}.", mend)


def forward(model: nn.Module, x: Tensor, precision: str) -> Tensor:
    """``model(x)`` under autocast; outputs of half the width come back as float32, so that losses are exact."""
    with _autocast(precision, x.device):
        out: Tensor = model(x)
    return out.float() if out.dtype in (torch.bfloat16, torch.float16) else out


def _autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    dtype = PRECISIONS[precision]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


@final
class Stepper:
    """Updates of an optimizer: gradients scaled for fp16, unscaled, clipped, applied.

    fp16 uses PyTorch's ``GradScaler`` with its own numbers (begins at 65536, doubles after 2000 clean updates, halves
    and skips the update when a gradient is not finite). Clipping comes after unscaling, so that ``grad_clip`` means the
    same in all formats.

    Args:
        precision: of :data:`PRECISIONS`.
        grad_clip: the largest global L2 norm of all gradients (Pascanu et al. 2013, "On the difficulty of training
            recurrent neural networks"); 0 is off.
    """

    def __init__(self, optimizer: Optimizer, precision: str, grad_clip: float, device: torch.device) -> None:
        check_precision(precision, device)
        self._optimizer = optimizer
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.precision = precision
        self.grad_clip = float(grad_clip)
        self.clipped = torch.zeros((), dtype=torch.int64, device=device)
        """Updates clipped since it was last set to 0; on the device, so that counting does not make it wait."""
        self._scaler = torch.amp.GradScaler(device.type) if precision == "fp16" else None

    def backward(self, loss: Tensor) -> None:
        """Add ``loss``'s gradients to those that are there."""
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        """Apply the gradients gathered, and drop them."""
        if self.grad_clip:
            if self._scaler is not None:
                self._scaler.unscale_(self._optimizer)
            self.clipped += clip_grad_norm_(self._parameters, self.grad_clip) > self.grad_clip
        if self._scaler is None:
            self._optimizer.step()
        else:
            self._scaler.step(self._optimizer)
            self._scaler.update()
        self._optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """The scale and its history, for a checkpoint; empty without one."""
        return {} if self._scaler is None else self._scaler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; from one without a scale a new one begins."""
        if self._scaler is not None and state:
            self._scaler.load_state_dict(dict(state))
