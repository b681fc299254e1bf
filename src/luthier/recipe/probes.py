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

from luthier.diagnosis.lr_range import LADDER_STEPS
from luthier.diagnosis.sanity import LEARNED
from luthier.recipe import models, optimizers
from luthier.recipe.data import Alter, Data, derive_seed
from luthier.recipe.finetune import TrainingPlan
from luthier.recipe.precision import Loss, Stepper, forward

# Karpathy 2019, "A Recipe for Training Neural Networks": verify loss at init; overfit one batch. The numbers are ours.
INIT_BATCHES = 5
ONE_BATCH = 32
ONE_BATCH_TOKENS = 256
"""Of language, where every token is a label to learn; at least one window."""
OVERFIT_RATES = (1e-3, 3e-3, 3e-4)
OVERFIT_STEPS = 300
TIMED_STEPS = 5

LEARN_SAMPLES, LEARN_BATCH, LEARN_ROUNDS = 256, 32, 30
"""Training samples of the learnability check, its batches, and how often it goes round at most: in all half an
epoch. The digits show that they can be learned in the first two rounds."""
LEARN_RATES = (3e-3, 3e-4)
SEEN = 512
"""Validation samples that it looks at."""
LEARNS, LEARNS_SHARE = 0.03, 0.1
"""Validation has learned when its loss is below that of knowing nothing by this part of it, or its accuracy better by
so much and four standard errors: shuffled labels give a cluster of samples one label, which may be the right one."""
BY_HEART, AFTER = 0.9, 5
"""The training samples are learned by heart when their loss is below this part of that of knowing nothing; validation
has so many rounds more to follow."""

# Smith 2017, "Cyclical Learning Rates", section 3.3, with the exponential ladder of fastai's and Lightning's finders.
LADDER_LOW = 1e-7
LADDER_HIGH: Mapping[str, float] = {"sgd": 10.0, "adam": 1.0, "adamw": 1.0, "nadamw": 1.0, "rmsprop": 1.0}
REPEATS = (1, 3)
"""Climbs of the ladder, fewest and most."""
LADDER_EPOCHS = 2
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
    plan: TrainingPlan | None

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
    """Does the pipeline work at all: the loss at init, whether one batch can be learned by heart, whether anything is
    learned that holds for validation, and whether the model has a mode of evaluation.

    Returns:
        ``classes``: of language, tokens; None for regression. ``expected_loss``: of a model that knows nothing,
        log(classes) or the variance of the targets. ``initial_loss``: the mean over a few batches of a fresh model in
        evaluation mode, None if not finite. ``overfit``: ``batch`` samples, ``steps`` taken, thinned ``losses`` (first
        and last included), final ``accuracy`` (None for regression), the ``learning_rate`` that did it or came closest.
        ``parameters``: trainable ones. ``seconds_per_epoch``: from a few timed updates, None where nothing trains.
        ``finite_inputs``: of both data sets. ``n_train``, ``n_val``: samples. ``learnability``: see
        :func:`_learnability`, None where one batch could not be learned, and of language. ``modes``: see
        :func:`_modes`.
        And the cost in epochs of training.
    """
    data = bench.data
    model = bench.model()
    initial = _initial_loss(bench, model)
    overfit, updates = _overfit(bench)
    seconds, timed = _seconds_per_epoch(bench)
    classify = data.task != "regression"
    answer: dict[str, Any] = {
        "classes": data.outputs if classify else None,
        "expected_loss": math.log(data.outputs) if classify else data.variance,
        "initial_loss": initial if math.isfinite(initial) else None,
        "overfit": overfit,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "seconds_per_epoch": seconds,
        "finite_inputs": not data.faults,
        "n_train": len(data.train),
        "n_val": len(data.val),
        "learnability": None,
        "modes": None,
    }
    seen = updates * overfit["batch"] + timed * bench.batch_size
    if not data.faults and overfit["losses"] and _learned(overfit["losses"], overfit["accuracy"]):
        if data.task != "language":
            answer["learnability"] = learned = _learnability(bench)
            seen += learned["updates"] * min(LEARN_BATCH, len(data.train))
        answer["modes"] = _modes(bench)
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


def _learnability(bench: Bench) -> dict[str, Any]:
    """Train briefly on a few samples and look at validation, until it shows that something was learned.

    Returns:
        ``floor``: the validation loss of knowing only the training targets' frequencies; ``chance``: the accuracy of
        always saying the most frequent class, None for regression. ``val_loss``, ``val_accuracy``: the best that were
        seen of ``samples`` validation samples. ``train_loss``: the lowest mean of a round. ``updates`` in all;
        ``learns``: validation got better than knowing nothing; ``by_heart``: the training samples were learned.
    """
    data = bench.data
    train = next(bench.batches(min(LEARN_SAMPLES, max(1, len(data.train) // 2)), 3))
    order = data.val.order(bench.seed, 3)[:SEEN]
    val = next(data.val.batches(SEEN, order, device=bench.device))
    floor, chance = _knowing_nothing(data, val[1])
    best: dict[str, Any] = {"val_loss": math.inf, "val_accuracy": None, "train_loss": math.inf}
    updates, learns, by_heart = 0, False, 0
    rounds = min(LEARN_ROUNDS, max(1, len(data.train) // (2 * len(train[1]))))
    for rate in LEARN_RATES:
        model = bench.model()
        optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
        generator = torch.Generator().manual_seed(derive_seed(bench.seed, 3))
        level = math.inf
        for done in range(1, rounds + 1):
            model.train()
            total = 0.0
            order = torch.randperm(len(train[1]), generator=generator).to(bench.device)
            for chosen in torch.split(order, LEARN_BATCH):
                loss = data.loss(model(train[0][chosen]), train[1][chosen])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total += float(loss.detach()) * len(chosen)
                updates += 1
            level = total / len(order)
            if not math.isfinite(level):
                break
            _see(model, data, val, best)
            best["train_loss"] = min(best["train_loss"], level)
            learns = best["val_loss"] < (1.0 - LEARNS) * floor or _above(best["val_accuracy"], chance, len(val[1]))
            by_heart += level < BY_HEART * floor
            if learns or by_heart > AFTER or (level > floor and done > rounds // 2):
                break
        rounds -= done
        if learns or by_heart or level < floor or not rounds:
            break
    finite = {k: v if v is None or math.isfinite(v) else None for k, v in best.items()}
    return {**finite, "floor": floor, "chance": chance, "samples": len(val[1]), "updates": updates,
            "learns": learns, "by_heart": by_heart > 0}  # fmt: skip


def _see(model: nn.Module, data: Data, val: tuple[Tensor, Tensor], best: dict[str, Any]) -> None:
    """Keep the best loss and accuracy on ``val``."""
    model.eval()
    with torch.no_grad():
        output = model(val[0])
        loss = float(data.loss(output, val[1]))
        best["val_loss"] = min(best["val_loss"], loss) if math.isfinite(loss) else best["val_loss"]
        if data.task == "classification":
            best["val_accuracy"] = max(best["val_accuracy"] or 0.0, float((output.argmax(1) == val[1]).double().mean()))


def _knowing_nothing(data: Data, y: Tensor) -> tuple[float, float | None]:
    """Loss and accuracy on ``y`` of a model that knows nothing but the training targets."""
    if data.task == "regression":
        center = data.targets.double().mean(0)
        return float(((y.double() - center) ** 2).mean()), None
    counts = torch.bincount(data.targets.flatten(), minlength=data.outputs).double()
    shares = (counts + 1.0) / (counts + 1.0).sum()
    return float(-shares[y].log().mean()), float((y == counts.argmax()).double().mean())


def _above(accuracy: float | None, chance: float | None, n: int) -> bool:
    """Whether an accuracy of ``n`` samples is better than chance clearly."""
    return accuracy is not None and chance is not None and accuracy > chance + LEARNS_SHARE + 4.0 * math.sqrt(0.25 / n)


def _modes(bench: Bench) -> dict[str, Any]:
    """Whether ``model.eval()`` turns off what belongs to training.

    Returns:
        ``still_training``: kinds of dropout and batch norm layers that it leaves in training mode. ``differs``: the
        mean difference between two evaluations of the same batch, in standard deviations of the outputs.
    """
    model = bench.model()
    x, _ = next(bench.batches(min(bench.batch_size, ONE_BATCH)))
    model.eval()
    kinds = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
    still = sorted({type(m).__name__ for m in model.modules() if isinstance(m, kinds) and m.training})
    with torch.no_grad():
        first, second = model(x), model(x)
    scale = float(first.double().std()) if first.numel() > 1 else 0.0
    apart = float((first.double() - second.double()).abs().mean())
    return {"still_training": still, "differs": apart / scale if scale > 0.0 and math.isfinite(apart) else 0.0}


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
