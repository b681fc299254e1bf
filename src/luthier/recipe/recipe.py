"""The recipe: a complete PyTorch training, every knob of it a hyperparameter.

>>> recipe = Recipe("mlp", train_set, val_set)
>>> lt.tune(recipe, budget="20 trials", max_epochs=15)
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol, final

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from luthier.core.errors import SpaceError, UserError, nearest
from luthier.core.params import Choice, Constant, Float, Int, Param
from luthier.core.space import Space
from luthier.recipe import models, optimizers, probes, schedules
from luthier.recipe.data import Data, Pair, Task, derive_seed, prepare, shuffled

METRICS: Mapping[Task, tuple[str, ...]] = {
    "classification": ("val_accuracy", "val_loss", "train_accuracy", "train_loss"),
    "regression": ("val_loss", "train_loss"),
}
"""What is reported, by task; the first is the default metric."""

KNOBS: Mapping[str, Param] = {
    "learning_rate": Float(1e-12, 1e3),
    "batch_size": Int(1, 2**24),
    "optimizer": Choice(*optimizers.OPTIMIZERS),
    "momentum": Float(0.0, 0.9999),
    "beta1": Float(0.0, 0.9999),
    "beta2": Float(0.0, 0.999999),
    "weight_decay": Float(0.0, 1e3),
    "schedule": Choice(*schedules.SCHEDULES),
    "warmup": Float(0.0, 0.5),
    "depth": Int(1, 1000),
    "width": Int(1, 2**20),
    "dropout": Float(0.0, 0.99),
}
"""Every knob and the values that make sense at all; what is worth searching is :meth:`Recipe.space`."""

MODEL_KNOBS = ("depth", "width", "dropout")
DEFAULT_BATCH = 64
DEFAULT_WARMUP = 0.05
CHECK_EVERY = 50
"""Updates between looks at the running loss; each look makes a GPU wait."""


EVALUATED = 2**16
"""Numbers in a batch of evaluation, at least; and at least four batches of training, which without a backward pass fit
into the same memory."""


class Handle(Protocol):
    """What a recipe needs of ``trial`` (see :class:`luthier.Trial`)."""

    config: dict[str, Any]
    seed: int
    max_epochs: int

    def epochs(self, **stateful: Any) -> Iterator[int]:
        """The epochs to train; restores ``stateful`` before the first and saves it after the last."""
        ...

    def report(self, **metrics: float) -> None:
        """Take an epoch's metrics."""
        ...


@final
class Recipe:
    """A training of ``model`` on ``train``, judged on ``val``. Call it with a trial to train; tune it to search.

    Given ``(config, seed)`` it is deterministic, and on a CPU a resumed training equals an uninterrupted one bit for
    bit: weights come from ``seed``, the order of the data and the dropout of epoch ``e`` from ``(seed, e)`` alone.

    Args:
        model: ``"mlp"``, ``"cnn"`` or a function ``config -> torch.nn.Module``.
        train, val: map-style data sets of ``(x, y)``. Tensors (TensorDataset, also split) are read without a loader.
        task: ``"classification"`` (cross-entropy; reports losses and accuracies) or ``"regression"`` (squared error).
        data: in place of ``train`` and ``val``, a function that gives both; it is called where the training runs.
        metric: what makes the best epoch; ``val_accuracy``, or ``val_loss`` for regression.
        patience: end after so many epochs without a better metric. None (default) trains to the end, as decaying
            schedules want it; the best epoch's weights are kept in any case.
        device: ``"auto"`` (CUDA if there is one) or a PyTorch device.
        name: what studies of it are called.
        space: what to search, in place of :meth:`space`'s default.
        builtin: how to make this recipe again, as plain data for the log; only recipes that come with Luthier have it.

    Raises:
        UserError: for whatever of it can be seen to be wrong at once.
    """

    probes = ("sanity", "lr_range")
    """The questions that :meth:`probe` answers."""

    def __init__(
        self,
        model: models.ModelSource,
        train: Any = None,
        val: Any = None,
        task: Task = "classification",
        *,
        data: Callable[[], Pair] | None = None,
        metric: str | None = None,
        patience: int | None = None,
        device: str = "auto",
        name: str = "recipe",
        space: Space | None = None,
        builtin: Mapping[str, str] | None = None,
    ) -> None:
        if task not in METRICS:
            raise UserError(f"Unknown task {task!r}.", nearest(str(task), METRICS))
        if metric is not None and metric not in METRICS[task]:
            raise UserError(f"Unknown metric {metric!r} for {task}.", nearest(metric, METRICS[task]))
        if patience is not None and patience < 1:
            raise UserError(f"patience={patience!r} must be at least 1.", "Leave it out to train to the end.")
        if (data is None) == (train is None and val is None):
            raise UserError("A recipe needs either train= and val=, or data=.", "Recipe('mlp', train_set, val_set).")
        models.check_source(model)
        self.model = model
        self.task: Task = task
        self.metric = metric or METRICS[task][0]
        self.patience = patience
        self.device = device
        self.name = name
        self.builtin = builtin
        self._train, self._val, self._source, self._space = train, val, data, space
        _device(device)
        if data is None:
            _ = self._data  # what is wrong with it is better said now than by a worker

    @property
    def minimize(self) -> bool:
        """Whether a smaller :attr:`metric` is better."""
        return self.metric.endswith("loss")

    def space(self) -> Space:
        """What is worth searching, for data of this size.

        Ranges are the unions over the optimizers: rates 1e-5..1e-2 for AdamW (AlgoPerf searches 1e-4..1e-2) and 1e-3..1
        for SGD; weight decay 5e-3..1 decoupled (AlgoPerf) and 1e-5..1e-2 coupled. A batch holds at most an eighth of
        the data.
        """
        return self._space or default_space(len(self._data.train), self.model)

    def __call__(self, trial: Handle) -> nn.Module:
        """Train ``trial``, report each epoch, and return the model with its best epoch's weights.

        Raises:
            UserError: a bad value or name in the config, or a model or data that do not fit; before any training.
        """
        knobs = settings(trial.config, self.model)
        self._data.require_finite()
        device = _device(self.device)
        data = self._data.to(device)
        batch_size = _batch_size(knobs, len(data.train))
        torch.manual_seed(trial.seed)
        model = models.make_model(self.model, trial.config, data, device)
        optimizer = optimizers.make_optimizer(model, knobs["optimizer"], knobs)
        updates = math.ceil(len(data.train) / batch_size)
        scheduler: LRScheduler | None = None
        best = Best(model, minimize=self.minimize)
        for epoch in trial.epochs(model=model, optimizer=optimizers.Memory(optimizer), best=best):
            # Asked before the epoch, so that a trial paused right at its end stops as the uninterrupted one does.
            if self.patience is not None and best.stale >= self.patience:
                break
            scheduler = scheduler or schedules.make_scheduler(
                optimizer, trial.max_epochs * updates, knobs["schedule"], knobs["warmup"], done=(epoch - 1) * updates
            )
            _seed_all(derive_seed(trial.seed, epoch, 1), device)  # dropout, and whatever a data set draws
            order = shuffled(len(data.train), trial.seed, epoch)
            metrics = _train_epoch(model, optimizer, scheduler, data, batch_size, order, device)
            if not math.isfinite(metrics["train_loss"]):
                trial.report(**dict.fromkeys(METRICS[self.task], math.nan))
                break
            metrics |= evaluate(model, data, batch_size, device)
            best.see(metrics[self.metric])
            trial.report(**metrics)
        best.restore()
        return model

    def probe(self, name: str, config: Mapping[str, Any], seed: int) -> tuple[dict[str, Any], float]:
        """Answer ``"sanity"`` or ``"lr_range"`` for ``config``: plain data, and the epochs' worth of updates it took.

        Raises:
            UserError: an unknown probe, or what a training would raise.
        """
        if name not in self.probes:
            raise UserError(f"Unknown probe {name!r}.", nearest(name, self.probes))
        knobs = settings(config, self.model)
        device = _device(self.device)
        data = self._data.to(device)
        batch_size = _batch_size(knobs, len(data.train))
        bench = probes.Bench(self.model, config, knobs, data, batch_size, device, seed)
        with probes.generators_kept():
            return probes.sanity(bench) if name == "sanity" else probes.lr_range(bench)

    @cached_property
    def _data(self) -> Data:
        train, val = self._source() if self._source is not None else (self._train, self._val)
        return prepare(train, val, self.task)

    def __getstate__(self) -> dict[str, Any]:
        # The prepared data is made again where the recipe arrives; with data= nothing but the function travels.
        return {k: v for k, v in self.__dict__.items() if k != "_data"}


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


def settings(config: Mapping[str, Any], model: models.ModelSource) -> dict[str, Any]:
    """``config`` checked, with the defaults of what it leaves out; ``batch_size`` may stay None.

    With a function as the model, depth, width, dropout and names that the recipe does not know are the function's own.

    Raises:
        UserError: an unknown name, or a value out of its range.
    """
    own = MODEL_KNOBS if callable(model) else ()
    for key, value in config.items():
        if key not in KNOBS and not callable(model):
            raise UserError(f"Unknown hyperparameter {key!r}.", nearest(key, KNOBS))
        if key not in KNOBS or key in own:
            continue
        knob = KNOBS[key]
        try:
            knob.check(value)
        except SpaceError as error:
            mend = nearest(str(value), map(str, knob.choices)) if isinstance(knob, Choice) else "Narrow its range."
            raise UserError(f"{key}: {error.problem}", mend) from None
    name = str(config.get("optimizer", "adamw"))
    return {
        "batch_size": None,
        "optimizer": name,
        "schedule": "cosine",
        "warmup": DEFAULT_WARMUP,
        **optimizers.DEFAULTS[name],
        **{key: value for key, value in config.items() if key in KNOBS},
    }


def default_space(n_train: int, model: models.ModelSource) -> Space:
    """See :meth:`Recipe.space`."""
    largest = min(512, max(n_train // 8, 1))
    smallest = min(16, max(largest // 4, 1))
    default = min(DEFAULT_BATCH, largest)
    params: dict[str, Param] = {
        "learning_rate": Float(1e-5, 1.0, log=True, default=1e-3),
        "batch_size": Int(smallest, largest, log=True, default=default) if smallest < largest else Constant(largest),
        "optimizer": Choice("adamw", "sgd", default="adamw"),
        "momentum": Float(0.8, 0.99, when={"optimizer": "sgd"}, default=0.9),
        "schedule": Choice(*schedules.SCHEDULES, default="cosine"),
        # One-cycle rises by itself.
        "warmup": Float(0.0, 0.1, when={"schedule": ["cosine", "constant", "step"]}, default=DEFAULT_WARMUP),
        "weight_decay": Float(1e-5, 1.0, log=True, default=0.05),
    }
    if model == "mlp":
        params |= {"depth": Int(1, 4, default=2), "width": Int(32, 512, log=True, default=128)}
    elif model == "cnn":
        params |= {"depth": Int(2, 6, default=3), "width": Int(8, 64, log=True, default=32)}
    if isinstance(model, str):
        params["dropout"] = Float(0.0, 0.5, default=0.0)
    return Space(params)


def _train_epoch(
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    data: Data,
    batch_size: int,
    order: torch.Tensor,
    device: torch.device,
) -> dict[str, float]:
    """One pass; the means over its batches, each weighted by its size. Ends early once the loss is not finite."""
    model.train()
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    hits = torch.zeros((), dtype=torch.int64, device=device)
    classify = data.task == "classification"
    for step, (x, y) in enumerate(data.train.batches(batch_size, order, device=device), 1):
        optimizer.zero_grad()
        output = model(x)
        loss = data.loss(output, y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        loss_sum.add_(loss.detach(), alpha=len(y))
        if classify:
            hits += (output.argmax(1) == y).sum()
        if step % CHECK_EVERY == 0 and not loss_sum.isfinite():
            break
    return _means("train", loss_sum, hits, len(order), classify)


def evaluate(model: nn.Module, data: Data, batch_size: int, device: torch.device) -> dict[str, float]:
    """``val_loss`` and, for classification, ``val_accuracy`` over the whole validation set, in evaluation mode."""
    model.eval()
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    hits = torch.zeros((), dtype=torch.int64, device=device)
    classify = data.task == "classification"
    with torch.no_grad():
        for x, y in data.val.batches(max(4 * batch_size, EVALUATED // math.prod(data.input_shape)), device=device):
            output = model(x)
            loss_sum.add_(data.loss(output, y), alpha=len(y))
            if classify:
                hits += (output.argmax(1) == y).sum()
    return _means("val", loss_sum, hits, len(data.val), classify)


def _means(split: str, loss_sum: torch.Tensor, hits: torch.Tensor, n: int, classify: bool) -> dict[str, float]:
    out = {f"{split}_loss": float(loss_sum) / n}
    if classify:
        out[f"{split}_accuracy"] = int(hits) / n
    return out


def _batch_size(knobs: Mapping[str, Any], n_train: int) -> int:
    asked = knobs["batch_size"]
    if asked is not None and asked > n_train:
        raise UserError(
            f"batch_size={asked} is more than the {n_train} training samples.", f"Use at most {n_train // 8 or 1}."
        )
    return int(min(DEFAULT_BATCH, n_train) if asked is None else asked)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UserError(f"Unknown device {name!r}: {error}", "Use 'auto', 'cpu', 'cuda' or 'mps'.") from None


def _seed_all(seed: int, device: torch.device) -> None:
    random.seed(seed)
    np.random.seed(seed)
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)  # without a look at every other device, a hundred times as long
    else:
        torch.manual_seed(seed)
