"""Which weights of a training are judged and kept: their moving average, and those of the best epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn


def ema_decay(decay: float, averaged: int) -> float:
    """``min(decay, (1 + t) / (10 + t))``, ``t`` updates in the average already.

    So an average of few weights forgets the first ones soon, which are those of a barely trained model (TensorFlow's
    ``tf.train.ExponentialMovingAverage`` with ``num_updates``).
    """
    return min(decay, (1.0 + averaged) / (10.0 + averaged))


@final
class Average:
    """An exponential moving average of a model's weights and of the running statistics of its norms.

    The first update copies the weights, each later one does ``average = d * average + (1 - d) * weights`` with ``d`` of
    :func:`ema_decay` (Polyak & Juditsky 1992 for averaging; the exponential form with batch norm's statistics averaged
    too is that of timm's ``ModelEma``). PyTorch's ``AveragedModel`` has the same recurrence, but a decay that depends
    on the update would make it read a counter from the GPU each time, and it copies the module, which not all stand.

    Args:
        decay: in [0, 1); 0 is off, and every method does nothing. ``1 / (1 - decay)`` is its length in updates.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = float(decay)
        self._live = [tensor.detach() for tensor in (*model.parameters(), *model.buffers())] if decay else []
        self._smooth = [i for i, tensor in enumerate(self._live) if tensor.is_floating_point()]
        self._average: list[Tensor] = []
        self._updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now; call it after each update of the optimizer."""
        if not self.decay:
            return
        if not self._average:
            self._average = [tensor.clone() for tensor in self._live]
        else:
            average, live = [self._average[i] for i in self._smooth], [self._live[i] for i in self._smooth]
            # The kernel that torch.optim.swa_utils.get_ema_multi_avg_fn calls: one for all tensors.
            torch._foreach_lerp_(average, live, 1.0 - ema_decay(self.decay, self._updates))
        self._updates += 1

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """Within it the model has the averaged weights, and its own again afterwards, to the bit."""
        if not self._average:
            yield
            return
        own = [self._live[i].clone() for i in self._smooth]
        for i in self._smooth:
            self._live[i].copy_(self._average[i])
        try:
            yield
        finally:
            for i, kept in zip(self._smooth, own):
                self._live[i].copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """Everything, for a checkpoint; the decay is the configuration's."""
        return {"updates": self._updates, "average": [self._average[i].clone() for i in self._smooth if self._average]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; from one without an average a new one begins."""
        if self.decay and state["average"]:
            self._average = [tensor.clone() for tensor in self._live]
            for i, saved in zip(self._smooth, state["average"], strict=True):
                self._average[i].copy_(saved)
            self._updates = state["updates"]


@final
class Best:
    """The best epoch so far: its metric, how long ago it was, and its weights."""

    def __init__(self, model: nn.Module, *, minimize: bool) -> None:
        self._model, self._sign = model, 1.0 if minimize else -1.0
        self.stale = 0
        """Epochs since the best one."""
        self._loss = math.inf
        self._weights: dict[str, Any] = {}

    def see(self, metric: float) -> None:
        """Take note of the model after an epoch; NaN never is the best."""
        if self._sign * metric < self._loss:
            self._loss, self.stale = self._sign * metric, 0
            self._weights = {k: v.detach().clone() for k, v in self._model.state_dict().items()}
        else:
            self.stale += 1

    def restore(self) -> None:
        """Put the best weights, if any, back into the model."""
        if self._weights:
            self._model.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """Everything, for a checkpoint."""
        return {"loss": self._loss, "stale": self.stale, "weights": self._weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._loss, self.stale, self._weights = state["loss"], state["stale"], state["weights"]
