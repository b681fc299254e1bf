"""A compact PyTorch training for small networks: every knob by the name that the task gives it, one epoch a step.

Small networks spend their time in the overhead of the optimizer, so the parameters lie in two flat tensors (those that
decay and those that do not) of which the model's are views; PyTorch's own optimizers then update two tensors a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

import luthier as lt
from search.data import Data
from search.task import Config

DEAD = 10.0
"""The loss that a diverged training reports from then on, and above which a training counts as diverged (x 1000)."""

USUAL: Mapping[str, object] = {
    "optimizer": "adamw", "momentum": 0.9, "beta2": 0.999, "schedule": "constant", "warmup": 0.0,
    "weight_decay": 0.0, "grad_clip": None,
}  # fmt: skip
"""The values of those knobs that a task leaves out of its space."""

Loss = Callable[[nn.Module, Tensor, Tensor, Config, np.random.Generator], Tensor]
Score = Callable[[nn.Module, Tensor, Tensor], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Live:
    """A task of real trainings.

    Args:
        name, space, epochs, metric: as in :class:`search.task.Task`.
        data: makes the data; called at each start, so it caches.
        model: makes the network from a configuration and the generator of its dropout.
        loss: of a batch, to be differentiated.
        score: the validation loss and the metric.
        worst: the metric of a network that learned nothing, which a diverged training reports.
        begin: the configuration of the expert.
        names: the task's names of knobs where they differ from the engine's, ``{"learning_rate": "lr"}``.
        steps: updates in an epoch; where None, an epoch shows every example once.
    """

    name: str
    space: lt.Space
    epochs: int
    metric: str
    data: Callable[[], Data]
    model: Callable[[Config, torch.Generator], nn.Module]
    loss: Loss
    score: Score
    worst: float
    begin: Config
    names: Mapping[str, str] = field(default_factory=dict)
    steps: int | None = None

    @property
    def reference(self) -> None:
        """Nobody knows the best."""
        return

    def start(self, config: Config, seed: int, horizon: int | None = None) -> Training:
        """See :class:`search.task.Task`."""
        return Training(self, config, seed, horizon or self.epochs)

    def expert(self) -> dict[str, object]:
        """See :class:`search.task.Task`."""
        return dict(self.begin)

    def knob(self, config: Config, name: str) -> object:
        """The value of the engine's knob ``name``."""
        return config.get(self.names.get(name, name), USUAL.get(name))


class Training:
    """One training of a :class:`Live` task."""

    def __init__(self, task: Live, config: Config, seed: int, horizon: int) -> None:
        self.task, self.config = task, config
        self.rng = np.random.default_rng((seed, 1))
        dropout = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = task.model(config, dropout)
        self.flat = _flatten(self.model)
        self.optimizer = _optimizer(task, config, self.flat)
        self.batch = int(str(task.knob(config, "batch_size")))
        rows = len(task.data().x)
        self.steps = task.steps or math.ceil(rows / self.batch)
        self.total = horizon * self.steps
        self.done = 0
        self.dead = False

    def step(self) -> dict[str, float]:
        """One epoch; see :class:`search.task.Run`."""
        train = math.nan if self.dead else self._epoch()
        val, metric = DEAD, self.task.worst
        if not self.dead:
            data = self.task.data()
            self.model.eval()
            with torch.no_grad():
                val, metric = self.task.score(self.model, data.x_val, data.y_val)
            self.model.train()
        self.dead = self.dead or not (math.isfinite(val) and math.isfinite(metric))
        if self.dead:
            return {"train_loss": DEAD, "val_loss": DEAD, self.task.metric: self.task.worst}
        return {
            "train_loss": min(train, DEAD),
            "val_loss": min(val, DEAD),
            self.task.metric: min(metric, self.task.worst),
        }

    def _epoch(self) -> float:
        data, task, seen = self.task.data(), self.task, 0.0
        rows = len(data.x)
        order = (
            self.rng.permutation(rows) if task.steps is None else self.rng.integers(rows, size=self.batch * self.steps)
        )
        clip = task.knob(self.config, "grad_clip")
        for i in range(self.steps):
            chosen = torch.as_tensor(order[i * self.batch : (i + 1) * self.batch])
            loss = task.loss(self.model, data.x[chosen], data.y[chosen], self.config, self.rng)
            value = loss.item()
            if not math.isfinite(value) or value > 1000 * DEAD:
                self.dead = True
                return math.nan
            for tensor in self.flat:
                assert tensor.grad is not None
                tensor.grad.zero_()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(self.flat, float(str(clip)))
            self._set_rate()
            self.optimizer.step()
            seen += value
        return seen / self.steps

    def _set_rate(self) -> None:
        knob = self.task.knob
        rate = float(str(knob(self.config, "learning_rate")))
        warmup = float(str(knob(self.config, "warmup")))
        rate *= factor(str(knob(self.config, "schedule")), self.done, self.total, warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.done += 1


def factor(schedule: str, step: int, total: int, warmup: float) -> float:
    """The part of the learning rate at ``step`` (from 0) of ``total``; ``warmup`` is a part of the training."""
    t = min(step / total, 1.0)
    if schedule == "onecycle":  # up for 30 %, from 1/25; Smith & Topin, arXiv 1708.07120
        part = 0.04 + 0.96 * _cosine(1 - t / 0.3) if t < 0.3 else _cosine((t - 0.3) / 0.7)
    elif schedule == "cosine":
        part = _cosine(max(0.0, t - warmup) / (1 - warmup))
    elif schedule == "linear":
        part = 1 - max(0.0, t - warmup) / (1 - warmup)
    elif schedule == "step":
        part = 1.0 if t < 0.5 else 0.1 if t < 0.75 else 0.01
    else:
        part = 1.0
    rise = warmup * total
    return part * (step + 1) / (rise + 1) if step < rise else part


def _cosine(t: float) -> float:
    """From 1 at 0 to 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * t))


def _flatten(model: nn.Module) -> list[Tensor]:
    """Two leaf tensors that hold all parameters: the matrices, which decay, and the vectors, which do not."""
    flat = []
    for decays in (True, False):
        params = [p for p in model.parameters() if (p.dim() > 1) is decays]
        whole = torch.cat([p.detach().reshape(-1) for p in params]) if params else torch.zeros(1)
        whole.grad = torch.zeros_like(whole)
        place = 0
        for p in params:
            size, shape = p.numel(), p.shape
            p.data = whole[place : place + size].view(shape)
            p.grad = whole.grad[place : place + size].view(shape)
            place += size
        flat.append(whole)
    return flat


def _optimizer(task: Live, config: Config, flat: list[Tensor]) -> torch.optim.Optimizer:
    name = str(task.knob(config, "optimizer"))
    momentum = float(str(task.knob(config, "momentum")))
    decay = float(str(task.knob(config, "weight_decay")))
    groups = [{"params": [flat[0]], "weight_decay": decay}, {"params": [flat[1]], "weight_decay": 0.0}]
    if name == "adamw":
        beta2 = float(str(task.knob(config, "beta2")))
        return torch.optim.AdamW(groups, lr=1.0, betas=(momentum, beta2), foreach=False)
    if name == "rmsprop":
        return torch.optim.RMSprop(groups, lr=1.0, momentum=momentum, foreach=False)
    return torch.optim.SGD(groups, lr=1.0, momentum=momentum, foreach=False)
