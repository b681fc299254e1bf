"""The optimizers a recipe knows: PyTorch's own classes, with strong defaults and no decay on biases and norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from torch import nn, zeros_like
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer, RMSprop

from luthier.core.errors import UserError, nearest

# PyTorch's defaults, except: rates that suit small models trained from scratch; for decoupled decay the 0.05 of
# Loshchilov & Hutter 2019 (AdamW) and of vision recipes since; 5e-4 of coupled decay for SGD (He et al. 2016 has 1e-4
# for CIFAR-10, Zagoruyko & Komodakis 2016 has 5e-4).
DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "adamw": {"learning_rate": 1e-3, "weight_decay": 0.05, "beta1": 0.9, "beta2": 0.999},
    "nadamw": {"learning_rate": 1e-3, "weight_decay": 0.05, "beta1": 0.9, "beta2": 0.999},
    "sgd": {"learning_rate": 0.05, "weight_decay": 5e-4, "momentum": 0.9, "nesterov": False},
    "adam": {"learning_rate": 1e-3, "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.999},
    "rmsprop": {"learning_rate": 1e-3, "weight_decay": 0.0, "momentum": 0.0, "beta2": 0.99},
}
"""What each optimizer listens to, and where it begins. RMSprop's ``beta2`` is PyTorch's ``alpha``."""

OPTIMIZERS = tuple(DEFAULTS)


def make_optimizer(
    model: nn.Module,
    name: str,
    knobs: Mapping[str, Any],
    multipliers: Mapping[nn.Parameter, float] | None = None,
    *,
    fused: bool = True,
) -> Optimizer:
    """An optimizer over the trainable parameters of ``model``.

    Weight decay falls on weights only: parameters of one dimension (biases, scales and shifts of norms) have none
    (He et al. 2019, "Bag of Tricks", section 3.1). Each group has a ``multiplier``, see :func:`set_rate`.

    Args:
        name: one of :data:`OPTIMIZERS`. ``nadamw`` is PyTorch's NAdam (Dozat 2016) with decoupled decay.
        knobs: overrides of ``DEFAULTS[name]``; what the optimizer does not listen to is left aside.
        multipliers: factors on the learning rate by parameter (1 for those not named).
        fused: one kernel for all parameters, 8 to 25 % off an epoch of a small model on a CPU. SGD's cannot take
            parameters that join later, as unfrozen ones do.

    Raises:
        UserError: for an unknown name, Nesterov's momentum without momentum, or a model with nothing to train.
    """
    if name not in DEFAULTS:
        raise UserError(f"Unknown optimizer {name!r}.", nearest(str(name), OPTIMIZERS))
    knob = {key: float(knobs.get(key, value)) for key, value in DEFAULTS[name].items()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise UserError("The model has no trainable parameters.", "Leave requires_grad on for some of them.")
    lr = knob["learning_rate"]
    grouped: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for p in trainable:
        grouped.setdefault(((multipliers or {}).get(p, 1.0), p.ndim > 1), []).append(p)
    groups = [
        {
            "params": grouped[multiplier, decays],
            "weight_decay": knob["weight_decay"] if decays else 0.0,
            "lr": lr * multiplier,
            "multiplier": multiplier,
        }
        for multiplier, decays in sorted(grouped, reverse=True)
    ]
    if name == "sgd":
        nesterov = bool(knob["nesterov"])
        if nesterov and not knob["momentum"]:
            raise UserError("nesterov=True with momentum=0 has nothing to look ahead by.", "Give it a momentum.")
        return SGD(groups, lr=lr, momentum=knob["momentum"], nesterov=nesterov, fused=fused)
    if name == "rmsprop":
        return RMSprop(groups, lr=lr, momentum=knob["momentum"], alpha=knob["beta2"])
    betas = (knob["beta1"], knob["beta2"])
    if name == "nadamw":
        return NAdam(groups, lr=lr, betas=betas, decoupled_weight_decay=True)
    return (Adam if name == "adam" else AdamW)(groups, lr=lr, betas=betas, fused=fused)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Let the next update be done at ``rate``, times the ``multiplier`` of each group."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["multiplier"]


@final
class Memory:
    """What an optimizer has gathered (momenta, second moments), without its hyperparameters: for checkpoints.

    So a trial that goes on from another one's checkpoint with a changed configuration (population-based training)
    follows its own; under another optimizer it begins to gather anew.
    """

    def __init__(self, optimizer: Optimizer, model: nn.Module) -> None:
        self._optimizer = optimizer
        self._kind = type(optimizer).__name__
        places = {p: i for i, p in enumerate(model.parameters())}
        # The optimizer counts through its groups, which follow the configuration; the model's own order does not.
        self._places = [places[p] for group in optimizer.param_groups for p in group["params"]]

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's kind and its state for each parameter, by its place in the model."""
        state = self._optimizer.state_dict()["state"]
        return {"kind": self._kind, "state": {self._places[i]: gathered for i, gathered in state.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        if state["kind"] == self._kind:
            gathered = {
                i: dict(state["state"][place]) for i, place in enumerate(self._places) if place in state["state"]
            }
            if self._kind == "RMSprop" and self._optimizer.param_groups[0]["momentum"] > 0:
                for one in gathered.values():  # PyTorch asks for what one without momentum has not gathered
                    one.setdefault("momentum_buffer", zeros_like(one["square_avg"]))
            self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": gathered})
