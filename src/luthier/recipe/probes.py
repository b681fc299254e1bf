"""Questions a recipe answers before it is tuned: raw measurements, which :mod:`luthier.diagnosis` judges."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from luthier.recipe import models, optimizers
from luthier.recipe.data import Alter, Data, derive_seed
from luthier.recipe.finetune import Plan
from luthier.recipe.precision import Loss, Stepper, forward

# Karpathy 2019, "A Recipe for Training Neural Networks": verify loss at init; overfit one batch. The numbers are ours.
INIT_BATCHES = 5
ONE_BATCH = 32
ONE_BATCH_TOKENS = 256
"""Of language, where every token is a label to learn; at least one window."""
OVERFIT_RATES = (1e-3, 3e-3, 3e-4)
OVERFIT_STEPS = 300
LEARNED = 0.02
"""One batch counts as learned when its loss falls below this part of its first loss."""
TIMED_STEPS = 5

# Smith 2017, "Cyclical Learning Rates", section 3.3, with the exponential ladder of fastai's and Lightning's finders.
LADDER_LOW = 1e-7
LADDER_HIGH: Mapping[str, float] = {"sgd": 10.0, "adam": 1.0, "adamw": 1.0, "nadamw": 1.0, "rmsprop": 1.0}
LADDER_STEPS = 100
REPEATS = (1, 3)
"""Climbs of the ladder, fewest and most."""
LADDER_EPOCHS = 4
"""The epochs' worth of updates that the climbs should about take, to stay cheap beside the trainings they guide."""
SMOOTHING = 0.95

Answer = tuple[dict[str, Any], float]

FAR = 1000
"""Epochs of the training that a range test stands for: enough that whatever a fine-tuning unfreezes is unfrozen."""


@dataclass(frozen=True, eq=False)
class Tools:
    """What trains one model: its optimizer and updates, the loss, what is done to batches, what is frozen when."""

    model: nn.Module
    optimizer: Optimizer
    stepper: Stepper
    loss: Loss
    alter: Alter | None
    plan: Plan | None

    def train_mode(self, epoch: int) -> None:
        """Make the model ready for an epoch: training mode, with what is frozen in it held still."""
        self.model.train()
        if self.plan is not None:
            self.plan.apply(self.model, epoch)

    def loss_of(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of a training batch, altered if it is to be, with the outputs and the targets that it is of."""
        if self.alter is not None:
            x, y = self.alter(x, y, generator)
        output = forward(self.model, x, self.stepper.precision)
        if self.alter is not None and y.ndim == output.ndim > 1 and y.shape[1] < output.shape[1]:
            y = F.pad(y, (0, output.shape[1] - y.shape[1]))  # a model may have more logits than there are classes
        return self.loss(output, y), output, y


@dataclass(frozen=True, eq=False)
class Bench:
    """What a training or a probe works on: how to build the model, the checked knobs, the data, a seed, and the maker
    of :class:`Tools` for a model that is to be trained for so many epochs.
    """

    source: models.ModelSource
    config: Mapping[str, Any]
    knobs: Mapping[str, Any]
    data: Data
    batch_size: int
    device: torch.device
    seed: int
    tools: Callable[[Bench, nn.Module, int], Tools]

    @property
    def accumulate(self) -> int:
        """Batches in an update; the last one of an epoch may have fewer."""
        return int(self.knobs["accumulate"])

    @property
    def batches_per_epoch(self) -> int:
        """Batches in an epoch, the last and smaller one included."""
        return math.ceil(len(self.data.train) / self.batch_size)

    @property
    def updates_per_epoch(self) -> int:
        """Updates of the weights in an epoch."""
        return math.ceil(self.batches_per_epoch / self.accumulate)

    def model(self, *seed: int) -> nn.Module:
        """A fresh model; the generators for its dropout are seeded as well."""
        torch.manual_seed(derive_seed(self.seed, *seed) if seed else self.seed)
        return models.make_model(self.source, self.config, self.data, self.device)

    def batches(self, size: int, *seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches without end, shuffled anew each time round."""
        epoch = 0
        while True:
            order = self.data.train.order(self.seed, epoch, *seed)
            yield from self.data.train.batches(size, order, device=self.device)
            epoch += 1


@contextmanager
def generators_kept() -> Iterator[None]:
    """Leaves Python's, NumPy's and PyTorch's global generators as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def sanity(bench: Bench) -> Answer:
    """Does the pipeline work at all: the loss at init, and whether one batch can be learned by heart.

    Returns:
        ``classes``: of language, tokens; None for regression. ``expected_loss``: of a model that knows nothing,
        log(classes) or the variance of the targets. ``initial_loss``: the mean over a few batches of a fresh model in
        evaluation mode, None if not finite. ``overfit``: ``batch`` samples, ``steps`` taken, thinned ``losses`` (first
        and last included), final ``accuracy`` (None for regression), the ``learning_rate`` that did it or came closest.
        ``parameters``: trainable ones. ``seconds_per_epoch``: from a few timed updates, None where nothing trains.
        ``finite_inputs``: of both data sets. ``n_val``: validation samples.
        And the cost in epochs of training.
    """
    data = bench.data
    model = bench.model()
    initial = _initial_loss(bench, model)
    overfit, updates = _overfit(bench)
    seconds, timed = _seconds_per_epoch(bench)
    classify = data.task != "regression"
    answer = {
        "classes": data.outputs if classify else None,
        "expected_loss": math.log(data.outputs) if classify else data.variance,
        "initial_loss": initial if math.isfinite(initial) else None,
        "overfit": overfit,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "seconds_per_epoch": seconds,
        "finite_inputs": not data.faults,
        "n_val": len(data.val),
    }
    seen = updates * overfit["batch"] + timed * bench.batch_size
    return answer, seen / len(data.train)


def _initial_loss(bench: Bench, model: nn.Module) -> float:
    model.eval()
    losses = []
    with torch.no_grad():
        for (x, y), _ in zip(bench.batches(bench.batch_size), range(min(INIT_BATCHES, bench.updates_per_epoch))):
            losses.append(float(bench.data.loss(model(x), y)))
    return sum(losses) / len(losses)


def _overfit(bench: Bench) -> tuple[dict[str, Any], int]:
    """The first rate that learns one batch by heart, else the one that came closest; and the updates over all rates."""
    x, y = next(bench.batches(ONE_BATCH))
    if bench.data.task == "language":
        # Windows that begin alike and go on differently cannot be told apart, nor be learned by heart.
        begins = x[:, 0].tolist()
        apart = [i for i, token in enumerate(begins) if token not in begins[:i]]
        chosen = apart[: max(1, ONE_BATCH_TOKENS // x.shape[1])]
        x, y = x[chosen], y[chosen]
    attempts, updates = [], 0
    for rate in OVERFIT_RATES:
        losses, accuracy = _fit_one_batch(bench, x, y, rate)
        updates += len(losses) - 1
        attempts.append((losses, accuracy, rate))
        if _learned(losses, accuracy) or not math.isfinite(losses[0]) or len(losses) == 1:
            break
    losses, accuracy, rate = min(attempts, key=lambda a: (not _learned(a[0], a[1]), a[0][-1]))
    stride = max(len(losses) // 30, 1)
    thinned = losses[:-1:stride] + losses[-1:]
    return {
        "batch": len(y),
        "steps": len(losses) - 1,
        "losses": [loss for loss in thinned if math.isfinite(loss)],
        "accuracy": accuracy,
        "learning_rate": rate,
    }, updates


def _fit_one_batch(bench: Bench, x: Tensor, y: Tensor, rate: float) -> tuple[list[float], float | None]:
    """The loss before each update and after the last one, in training mode without dropout; and the final accuracy."""
    model = bench.model()
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    model.train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = AdamW(trainable, lr=rate, weight_decay=0.0) if trainable else None
    losses: list[float] = []
    accuracy: float | None = None
    while True:
        output = model(x)
        loss = bench.data.loss(output, y)
        losses.append(float(loss.detach()))
        if bench.data.task != "regression":
            accuracy = float((output.argmax(1) == y).double().mean())
        over = len(losses) > OVERFIT_STEPS or _learned(losses, accuracy) or not math.isfinite(losses[-1])
        if over or optimizer is None or not loss.requires_grad:  # nothing trains: one look is the whole story
            return losses, accuracy
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _learned(losses: list[float], accuracy: float | None) -> bool:
    return accuracy == 1.0 or losses[-1] < LEARNED * losses[0]


def _seconds_per_epoch(bench: Bench) -> tuple[float | None, int]:
    """Seconds for an epoch of updates, extrapolated from the fastest of a few; None where nothing trains."""
    model = bench.model()
    if not any(p.requires_grad for p in model.parameters()):
        return None, 0
    tools = bench.tools(bench, model, FAR)
    tools.train_mode(FAR)
    batches = bench.batches(bench.batch_size)
    generator = torch.Generator().manual_seed(derive_seed(bench.seed, 2))
    seconds = []
    for _ in range(TIMED_STEPS):
        begin = time.perf_counter()
        loss = _update(tools, batches, generator, 1)
        if loss is None:
            return None, 0
        seconds.append(time.perf_counter() - begin)
    return min(seconds) * bench.batches_per_epoch, TIMED_STEPS


def _update(
    tools: Tools, batches: Iterator[tuple[Tensor, Tensor]], generator: torch.Generator, accumulate: int
) -> float | None:
    """One update; the loss before it, or None where the loss does not depend on the parameters."""
    losses = []
    for _ in range(accumulate):
        loss, _, _ = tools.loss_of(*next(batches), generator)
        if not loss.requires_grad:
            return None
        tools.stepper.backward(loss / accumulate if accumulate > 1 else loss)
        losses.append(loss.detach())
    tools.stepper.step()
    return float(torch.stack(losses).mean())


def lr_range(bench: Bench) -> Answer:
    """Train briefly while the rate climbs an exponential ladder, a few times from different seeds.

    Everything else is the configuration's own: optimizer, weight decay, dropout, batch size and accumulation, loss,
    augmentation, clipping and precision; of a fine-tuning, what is trained in the end. A repeat ends when its loss is
    not finite, or its debiased moving average exceeds ``best + 3 (first - best) + |first| / 2``: fastai's "four times
    the best" made additive, so that it also works for losses near zero.

    Returns:
        ``lrs``: the ladder; ``losses``: for each repeat the raw batch losses, shorter where it diverged;
        ``batch_size``; ``updates_per_epoch``. And the cost in epochs of training.
    """
    bench.data.require_finite()
    top = LADDER_HIGH[bench.knobs["optimizer"]]
    lrs = [LADDER_LOW * (top / LADDER_LOW) ** (i / (LADDER_STEPS - 1)) for i in range(LADDER_STEPS)]
    affordable = round(LADDER_EPOCHS * bench.updates_per_epoch / LADDER_STEPS)
    repeats = [_climb(bench, lrs, repeat) for repeat in range(min(max(affordable, REPEATS[0]), REPEATS[1]))]
    answer = {
        "lrs": lrs,
        "losses": repeats,
        "batch_size": bench.batch_size,
        "updates_per_epoch": bench.updates_per_epoch,
    }
    return answer, sum(map(len, repeats)) / bench.updates_per_epoch


def _climb(bench: Bench, lrs: list[float], repeat: int) -> list[float]:
    model = bench.model(repeat)
    tools = bench.tools(bench, model, FAR)
    tools.train_mode(FAR)
    batches = bench.batches(bench.batch_size, repeat)
    generator = torch.Generator().manual_seed(derive_seed(bench.seed, repeat, 2))
    losses: list[float] = []
    average, first, best = 0.0, math.inf, math.inf
    for i, lr in enumerate(lrs):
        optimizers.set_rate(tools.optimizer, lr)
        loss = _update(tools, batches, generator, bench.accumulate)
        if loss is None or not math.isfinite(loss):
            break
        losses.append(loss)
        average = SMOOTHING * average + (1.0 - SMOOTHING) * loss
        smooth = average / (1.0 - SMOOTHING ** (i + 1))
        first = smooth if i == 0 else first
        best = min(best, smooth)
        if smooth > best + 3.0 * (first - best) + 0.5 * abs(first):
            break
    return losses
