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
from torch import Tensor, nn
from torch.nn import functional as F

from luthier.core.errors import UserError, nearest
from luthier.core.params import Choice, Constant
from luthier.core.space import Space
from luthier.recipe import augment as augmenting
from luthier.recipe import finetune, losses, models, optimizers, probes, schedules
from luthier.recipe.averaging import Average, Best
from luthier.recipe.data import AugmentSource, Data, Pair, Task, alteration, derive_seed, prepare
from luthier.recipe.knobs import FINETUNE_KNOBS, batch_of, default_space, language_space, settings
from luthier.recipe.precision import Stepper, check_precision, forward
from luthier.recipe.probes import Bench, Tools

METRICS: Mapping[Task, tuple[str, ...]] = {
    "classification": ("val_accuracy", "val_loss", "train_accuracy", "train_loss"),
    "regression": ("val_loss", "val_mae", "train_loss"),
    "language": ("val_loss", "val_accuracy", "train_loss", "train_accuracy"),
}
"""What is reported, by task; the first is the default metric."""

CHECK_EVERY = 50
"""Updates between looks at the running loss; each look makes a GPU wait."""

EVALUATED = 2**16
"""Numbers in a batch of evaluation, at least; and at least four batches of training, which without a backward pass fit
into the same memory. Of language it is the logits that are counted, of which there are many for each input."""


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
    bit: weights come from ``seed``, the order of the data, the dropout and the augmentation of epoch ``e`` from
    ``(seed, e)`` alone.

    ``val_loss`` is the plain loss of the task, cross-entropy in nats or squared error, whatever is trained on, so that
    it can be compared between configurations (label smoothing and class weights change a loss's floor); ``train_loss``
    is what is trained on. With ``ema`` the averaged weights are judged and kept; with ``grad_clip`` the fraction of
    updates that it touched is reported as ``clipped``. ``params`` is how many numbers the model holds, a size to bound
    or to trade: ``constraints={"params": "<= 1e6"}``.

    With ``task="language"`` the model predicts each token from those before it. A stream of tokens is cut into windows
    as long as the knob ``context`` says, 64 by default; an epoch is about the whole stream whatever the context, in
    windows that do not overlap, shuffled, from an offset that depends on ``(seed, epoch)``; ``batch_size`` counts
    windows. Losses are nats a token, accuracies the share of next tokens that are the likeliest. The vocabulary is one
    more than the largest token. A function as the model finds the context in its configuration, and gives ``(batch,
    vocabulary, length)`` or ``(batch, length, vocabulary)``, the latter also as ``.logits`` of Hugging Face's models.

    Args:
        model: a built-in model's name (``"mlp"``, ``"cnn"``, ...) or a function ``config -> torch.nn.Module``.
        train, val: map-style data sets of ``(x, y)``. Tensors (TensorDataset, also split) are read without a loader.
            For language streams, whole numbers ``(n,)``, or data sets of windows, ``y`` being the next tokens of ``x``.
        task: ``"classification"`` (reports losses and accuracies), ``"regression"`` (losses and the mean absolute
            error) or ``"language"`` (losses and accuracies).
        data: in place of ``train`` and ``val``, a function that gives both; it is called where the training runs.
        augment: ``"image"``, ``"points"`` or a function ``(batch, strength, generator) -> batch``, whose strength in
            [0, 1] is the knob ``augmentation``. None (default) leaves the inputs as they are.
        groups: for fine-tuning, parts of the model from input to head, or a function from the model to them: see
            :data:`luthier.recipe.finetune.Groups`. None (default) takes the order of definition.
        metric: what makes the best epoch; ``val_accuracy``, or ``val_loss`` for regression and language.
        patience: end after so many epochs without a better metric, unless the knob ``patience`` says otherwise. None
            (default) trains to the end, as decaying schedules want it; the best epoch's weights are kept in any case.
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
        augment: AugmentSource = None,
        groups: finetune.Groups = None,
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
        if not (augment is None or callable(augment) or augment in augmenting.KINDS):
            mend = (
                nearest(str(augment), augmenting.KINDS) + " Or give a function (batch, strength, generator) -> batch."
            )
            raise UserError(f"Unknown augmentation {augment!r}.", mend)
        if augment is not None and task == "language":
            raise UserError(f"augment={augment!r}, but tokens cannot be augmented.", "Leave it out for language.")
        models.check_source(model)
        if isinstance(model, str) and task == "language" and model != "transformer":
            raise UserError(f"The {model} predicts no token after each token.", "Use 'transformer' or a function.")
        self.model = model
        self.task: Task = task
        self.augment = augment
        self.groups = groups
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
        return not self.metric.endswith("accuracy")

    @property
    def samples(self) -> int | None:
        """How many samples a training epoch has; None where they are only loaded by the workers (``data=``)."""
        return len(self._data.train) if self._source is None else None

    def space(self) -> Space:
        """What is worth searching, for data of this size: :func:`luthier.recipe.knobs.default_space`, or
        :func:`luthier.recipe.knobs.language_space`."""
        if self._space is not None:
            return self._space
        if self.task == "language":
            streams = self._data.streams
            tokens = None if streams is None else (len(streams[0]), len(streams[1]))
            return language_space(tokens, len(self._data.train), self.model)
        return default_space(len(self._data.train), self.model, self.augment)

    def accept(self, space: Space) -> None:
        """Say what of a search space this recipe cannot train, before any training.

        Raises:
            UserError: a name that is no knob of it, a range that reaches beyond what a knob may be, or batches larger
                than the data; with ``data=`` those are seen where the data is read.
        """
        for name, param in space.items():
            if isinstance(param, Choice):
                values: tuple[Any, ...] = param.choices
            elif isinstance(param, Constant):
                values = (param.value,)
            else:
                values = (param.low, param.high)
            for value in values:
                knobs = settings({name: value}, self.model, self.task, self.augment)
                if name == "batch_size" and self._source is None and self.task != "language":
                    batch_of(knobs, len(self._data.train))

    def __call__(self, trial: Handle) -> nn.Module:
        """Train ``trial``, report each epoch, and return the model with its best epoch's weights.

        Raises:
            UserError: a bad value or name in the config, or a model or data that do not fit; before any training.
        """
        knobs = settings(trial.config, self.model, self.task, self.augment)
        self._data.require_finite()
        bench = self._bench(knobs, trial.config, trial.seed)
        model = bench.model()
        tools = self._tools(bench, model, trial.max_epochs)
        average, best = Average(model, knobs["ema"]), Best(model, minimize=self.minimize)
        plateau = schedules.Plateau(minimize=self.minimize, patience=int(knobs["plateau_patience"]))
        patience = self.patience if knobs["patience"] is None else int(knobs["patience"])
        state: dict[str, Any] = {
            "model": model,
            "optimizer": optimizers.Memory(tools.optimizer, model),
            "scaler": tools.stepper,
        }
        for epoch in trial.epochs(**state, best=best, average=average, plateau=plateau):
            # Asked before the epoch, so that a trial paused right at its end stops as the uninterrupted one does.
            if patience is not None and best.stale >= patience:
                break
            _seed_all(derive_seed(trial.seed, epoch, 1), bench.device)  # dropout, and whatever a data set draws
            metrics = _train_epoch(bench, tools, average, epoch, trial.max_epochs, plateau.drops)
            if not math.isfinite(metrics["train_loss"]):
                trial.report(**dict.fromkeys(METRICS[self.task], math.nan))
                break
            with average.applied():
                metrics |= evaluate(model, bench.data, bench.batch_size, knobs["precision"])
                best.see(metrics[self.metric])
            plateau.see(metrics[self.metric])
            trial.report(**metrics, params=float(sum(p.numel() for p in model.parameters())))
        best.restore()
        return models.as_it_was(model)

    def probe(self, name: str, config: Mapping[str, Any], seed: int) -> tuple[dict[str, Any], float]:
        """Answer ``"sanity"`` or ``"lr_range"`` for ``config``: plain data, and the epochs' worth of updates it took.

        Raises:
            UserError: an unknown probe, or what a training would raise.
        """
        if name not in self.probes:
            raise UserError(f"Unknown probe {name!r}.", nearest(name, self.probes))
        bench = self._bench(settings(config, self.model, self.task, self.augment), config, seed)
        with probes.generators_kept():
            return probes.sanity(bench) if name == "sanity" else probes.lr_range(bench)

    def _bench(self, knobs: Mapping[str, Any], config: Mapping[str, Any], seed: int) -> Bench:
        device = _device(self.device)
        check_precision(knobs["precision"], device)
        data = self._data.to(device)
        samples = "training samples"
        if self.task == "language":
            data = data.windowed(knobs["context"])
            samples = f"windows of {data.labels_each} tokens"
            config = {**config, "context": data.labels_each}
        size = batch_of(knobs, len(data.train), samples)
        return Bench(self.model, config, knobs, data, size, device, seed, self._tools)

    def _tools(self, bench: Bench, model: nn.Module, max_epochs: int) -> Tools:
        """What trains ``model``, as the configuration has it."""
        knobs, data = bench.knobs, bench.data
        plan, multipliers = None, {}
        if self.groups is not None or any(key in knobs for key in FINETUNE_KNOBS):
            plan = finetune.plan(model, self.groups, knobs, max_epochs)
            multipliers = {p: plan.multiplier(i) for i, group in enumerate(plan.groups) for p in group}
        optimizer = optimizers.make_optimizer(model, knobs["optimizer"], knobs, multipliers, fused=plan is None)
        return Tools(
            model,
            optimizer,
            Stepper(optimizer, knobs["precision"], knobs["grad_clip"], bench.device),
            losses.make_loss(self.task, knobs, data.targets, data.outputs),
            alteration(self.augment, knobs["augmentation"], knobs["mixup"], data.outputs),
            plan,
        )

    @cached_property
    def _data(self) -> Data:
        train, val = self._source() if self._source is not None else (self._train, self._val)
        return prepare(train, val, self.task)

    def __getstate__(self) -> dict[str, Any]:
        # The prepared data is made again where the recipe arrives; with data= nothing but the function travels.
        return {k: v for k, v in self.__dict__.items() if k != "_data"}


def _train_epoch(
    bench: Bench, tools: Tools, average: Average, epoch: int, max_epochs: int, drops: int
) -> dict[str, float]:
    """One pass; the means over its batches, each weighted by its size. Ends early once the loss is not finite."""
    data, knobs, device, stepper = bench.data, bench.knobs, bench.device, tools.stepper
    order = data.train.order(bench.seed, epoch)
    shares = _shares(bench, order)
    update, of = (epoch - 1) * bench.updates_per_epoch, max_epochs * bench.updates_per_epoch
    generator = torch.Generator().manual_seed(derive_seed(bench.seed, epoch, 2))
    tools.train_mode(epoch)
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    hits = torch.zeros((), dtype=torch.int64, device=device)
    classify = data.task != "regression"
    stepper.clipped.zero_()
    for step, (x, y) in enumerate(data.train.batches(bench.batch_size, order, device=device), 1):
        n = len(y)
        loss, output, y = tools.loss_of(x, y, generator)
        stepper.backward(loss if shares is None else loss * shares[step - 1])
        if step % bench.accumulate == 0 or step == bench.batches_per_epoch:
            factor = schedules.lr_factor(
                update, of, knobs["schedule"], knobs["warmup"], decay_fraction=knobs["decay_fraction"], drops=drops
            )
            optimizers.set_rate(tools.optimizer, knobs["learning_rate"] * factor)
            stepper.step()
            average.update()
            update += 1
        loss_sum.add_(loss.detach(), alpha=n)
        if classify:
            # Of mixed labels the heavier one counts.
            hits += (output.argmax(1) == (y.argmax(1) if y.is_floating_point() else y)).sum()
        if step % CHECK_EVERY == 0 and not loss_sum.isfinite():
            break
    means = {"train_loss": float(loss_sum) / len(order)}
    if classify:
        means["train_accuracy"] = int(hits) / (len(order) * data.labels_each)
    if stepper.grad_clip:
        means["clipped"] = int(stepper.clipped) / bench.updates_per_epoch
    return means


def _shares(bench: Bench, order: Tensor) -> list[Tensor] | None:
    """Each batch's part in the mean of its update; None where every batch is an update of its own."""
    if bench.accumulate == 1:
        return None
    weights = torch.ones(len(order), device=bench.device)
    if bench.knobs.get("class_weights") == "balanced" and not bench.knobs["mixup"]:
        # PyTorch's weighted mean is divided by the weights of the batch, not by their number.
        targets = bench.data.targets[order.to(bench.device)]
        weights = losses.balanced_weights(targets, bench.data.outputs)[targets]
    sums = [
        torch.stack([batch.sum() for batch in torch.split(update, bench.batch_size)])
        for update in torch.split(weights, bench.batch_size * bench.accumulate)
    ]
    return [share for batches in sums for share in batches / batches.sum()]


def evaluate(model: nn.Module, data: Data, batch_size: int, precision: str = "fp32") -> dict[str, float]:
    """The plain loss over the whole validation set as ``val_loss``, in evaluation mode; and ``val_accuracy`` in [0, 1],
    or ``val_mae``, the mean absolute error over all outputs.
    """
    model.eval()
    device = data.targets.device
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    other = torch.zeros((), dtype=torch.float64, device=device)
    classify = data.task != "regression"
    numbers = math.prod(data.input_shape) * (data.outputs if data.task == "language" else 1)
    with torch.no_grad():
        for x, y in data.val.batches(max(4 * batch_size, EVALUATED // numbers), device=device):
            output = forward(model, x, precision)
            loss_sum.add_(data.loss(output, y), alpha=len(y))
            if classify:
                other += (output.argmax(1) == y).sum()
            else:
                other.add_(F.l1_loss(output.reshape(y.shape), y), alpha=len(y))
    name = "val_accuracy" if classify else "val_mae"
    return {"val_loss": float(loss_sum) / len(data.val), name: float(other) / (len(data.val) * data.labels_each)}


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
