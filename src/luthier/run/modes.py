"""Whether a training function validates in training mode: what its dropout and batch norm layers see in one epoch."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from luthier.core.errors import UserError


class PipelineError(UserError):
    """The training function itself showed a mistake that makes its results worthless."""


class Modes:
    """Watches PyTorch's dropout and batch norm layers, of whatever model, until :meth:`close`.

    A forward pass without gradients in training mode, with none in evaluation mode in the whole epoch and no training
    step after it, is a validation with dropout on. Activation checkpointing runs such passes too, but before the step.
    """

    def __init__(self) -> None:
        self._noisy: set[str] = set()
        self._quiet = False
        self._hook: Any = None
        torch = sys.modules.get("torch")
        if torch is None or not hasattr(torch, "nn"):
            return
        dropout, norm = torch.nn.modules.dropout._DropoutNd, torch.nn.modules.batchnorm._BatchNorm

        def look(module: Any, _args: Any) -> None:
            if not isinstance(module, (dropout, norm)):
                return
            if torch.is_grad_enabled():
                self._noisy.clear()
            elif not module.training:
                self._quiet = True
            elif isinstance(module, norm) or module.p > 0.0:
                self._noisy.add("batch norm" if isinstance(module, norm) else "dropout")

        # torch.compile() speaks of the hook, which is gone after the epoch.
        warnings.filterwarnings("ignore", r"Using `torch\.compile\(module\)` when there are global hooks")
        self._hook = torch.nn.modules.module.register_module_forward_pre_hook(look)

    def verdict(self) -> None:
        """Say what was seen, at the end of an epoch; nothing more is watched.

        Raises:
            PipelineError: validation ran in training mode.
        """
        self.close()
        if self._noisy and not self._quiet:
            raise PipelineError(
                f"Validation runs in training mode, with {' and '.join(sorted(self._noisy))} at work: "
                "call model.eval() before validating and model.train() before training.",
                "Where that is meant, set trial.watched = False first.",
            )

    def close(self) -> None:
        """Leave PyTorch as it was."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
