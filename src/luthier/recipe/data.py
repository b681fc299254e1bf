"""Data as the training loop wants it: checked once, then cut into batches with nothing in the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from luthier.core.errors import UserError
from luthier.recipe import augment

Task = Literal["classification", "regression"]
Pair = tuple[Dataset[Any], Dataset[Any]]
"""The training and the validation data set."""

AugmentSource = str | Callable[[Tensor, float, torch.Generator], Tensor] | None
"""A kind of :mod:`luthier.recipe.augment`, or a function ``(batch, strength in [0, 1], generator) -> batch``."""

Alter = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""What happens to a training batch ``(x, y)`` before the model sees it."""

LOOKED_AT = 256
"""Samples of a data set without tensors whose inputs are checked; all of them would cost an epoch of loading."""


def derive_seed(*numbers: int) -> int:
    """A 32-bit seed from a few non-negative numbers, well mixed (NumPy's ``SeedSequence``)."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def shuffled(n: int, *seed: int) -> Tensor:
    """A permutation of ``0..n-1`` that depends on ``seed`` alone."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(derive_seed(*seed)))


@dataclass(frozen=True, eq=False)
class Table:
    """One data set. ``tensors`` holds all inputs and targets where they can be had at once, else None."""

    dataset: Dataset[Any]
    tensors: tuple[Tensor, Tensor] | None
    task: Task

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def to(self, device: torch.device) -> Table:
        """The same table with its tensors, if any, on ``device``."""
        if self.tensors is None:
            return self
        return Table(self.dataset, (self.tensors[0].to(device), self.tensors[1].to(device)), self.task)

    def batches(
        self, size: int, order: Tensor | None = None, *, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs ``(<=size, ...)`` and targets (see :func:`_targets`) in ``order``; the last batch may be smaller."""
        if self.tensors is None:
            # A sampler of our own making: the order is then the same as the one of tensors.
            sampler = None if order is None else order.tolist()
            base = torch.Generator().manual_seed(0)  # the loader draws a seed for its workers; not from the global one
            for x, y in DataLoader(self.dataset, size, sampler=sampler, generator=base):
                yield _inputs(x).to(device), _targets(y, self.task).to(device)
            return
        inputs, targets = self.tensors
        if order is None:
            yield from zip(torch.split(inputs, size), torch.split(targets, size))
            return
        for chosen in torch.split(order.to(inputs.device), size):
            yield inputs[chosen], targets[chosen]


@dataclass(frozen=True, eq=False)
class Data:
    """A training and a validation table, and what is known of both.

    Args:
        targets: all of the training table's, labels ``(n,)`` or numbers ``(n, outputs)``.
        input_shape: of one sample.
        outputs: classes, or numbers to predict.
        variance: of the training targets around their mean, averaged over the outputs; regression only.
        faults: one sentence for each table with NaN or infinity in it.
    """

    train: Table
    val: Table
    targets: Tensor
    task: Task
    input_shape: tuple[int, ...]
    outputs: int
    variance: float
    faults: tuple[str, ...]

    def to(self, device: torch.device) -> Data:
        """The same data with its tensors, if any, on ``device``."""
        return replace(self, train=self.train.to(device), val=self.val.to(device), targets=self.targets.to(device))

    def require_finite(self) -> None:
        """Raises UserError where a sample holds NaN or infinity."""
        if self.faults:
            raise UserError(" ".join(self.faults), "Clean, impute or drop these samples before training.")

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean plain loss of a batch, the one that configurations are compared by: cross-entropy in nats, or
        squared error."""
        if self.task == "classification":
            return F.cross_entropy(output, target)
        return F.mse_loss(output.reshape(target.shape), target)

    def check_output(self, output: Any, target: Tensor) -> None:
        """Raises UserError unless ``output`` has the shape that :meth:`loss` needs."""
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        n = len(target)
        if self.task == "classification":
            fits = (
                isinstance(output, Tensor) and output.ndim == 2 and len(output) == n and output.shape[1] >= self.outputs
            )
            need = f"({n}, {self.outputs}), one logit for each class"
        else:
            fits = isinstance(output, Tensor) and shape in {(n, self.outputs), (n,) if self.outputs == 1 else None}
            need = f"({n}, {self.outputs})"
        if not fits:
            raise UserError(
                f"For {n} samples the model gives {shape}; {self.task} on this data needs {need}.",
                "Mend the model's last layer.",
            )


def prepare(train: Any, val: Any, task: Task) -> Data:
    """Look at both data sets and say what is wrong with them, before anything is trained.

    Raises:
        UserError: no map-style data set of (x, y), an empty one, targets that do not suit ``task``.
    """
    tables, targets, faults = [], [], []
    for name, dataset in (("train", train), ("val", val)):
        if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
            raise UserError(
                f"{name}= is a {type(dataset).__name__}.", "Pass a map-style Dataset, such as TensorDataset(x, y)."
            )
        if len(dataset) == 0:
            raise UserError(f"The {name} data set is empty.", "Check how it was split or filtered.")
        with _naming(name):
            tensors = _tensors(dataset)
            y = _targets(tensors[1] if tensors else _labels(dataset), task)
            if tensors:
                tensors = (_inputs(tensors[0]), y)
            seen = tensors[0] if tensors else _first_inputs(dataset)
        faults += _faults(name, "inputs", seen) + _faults(name, "targets", y)
        tables.append(Table(dataset, tensors, task))
        targets.append(y)
        if name == "train":
            shape = tuple(seen.shape[1:])
    if task == "classification":
        outputs, variance = int(max(y.max() for y in targets)) + 1, 0.0
        if outputs < 2:
            raise UserError("Every label is 0: there is nothing to tell apart.", "Check the labels.")
    else:
        outputs, variance = targets[0].shape[1], float(targets[0].var(dim=0, correction=0).mean())
        if targets[1].shape[1] != outputs:
            raise UserError(f"train has {outputs} targets a sample, val {targets[1].shape[1]}.", "Make them agree.")
    return Data(tables[0], tables[1], targets[0], task, shape, outputs, variance, tuple(faults))


def alteration(kind: AugmentSource, strength: float, mixup: float, outputs: int) -> Alter | None:
    """What happens to each training batch: augmentation, then mixup; None where nothing does.

    Args:
        kind: what augments; None only with ``strength`` 0.
        strength: of the augmentation, in [0, 1]; 0 is off.
        mixup: alpha of the Beta distribution that mixing weights come from; 0 is off.
        outputs: of the model, for the soft targets of mixed labels.
    """
    altered = partial(augment.augment, kind) if isinstance(kind, str) else kind
    if not (strength and altered) and not mixup:
        return None

    def alter(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if strength and altered:
            x = altered(x, strength, generator)
        return augment.mixup(x, y, mixup, generator, outputs) if mixup else (x, y)

    return alter


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Puts the data set's name before the UserErrors raised inside."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{name}: {error.problem}", error.mend) from error.__cause__


def _tensors(dataset: Any) -> tuple[Tensor, Tensor] | None:
    """All inputs and targets at once, for a TensorDataset and any Subset of one (``random_split``)."""
    if isinstance(dataset, TensorDataset):
        if len(dataset.tensors) != 2:
            raise UserError(f"A sample has {len(dataset.tensors)} parts.", "Give TensorDataset(x, y).")
        return dataset.tensors[0], dataset.tensors[1]
    if isinstance(dataset, Subset) and (whole := _tensors(dataset.dataset)) is not None:
        chosen = torch.as_tensor(list(dataset.indices))
        return whole[0][chosen], whole[1][chosen]
    return None


def _labels(dataset: Any) -> Tensor:
    """Every target of a data set without tensors: from torchvision's ``targets``, else in one pass."""
    if hasattr(dataset, "targets") and getattr(dataset, "target_transform", None) is None:
        return torch.as_tensor(dataset.targets)
    try:
        return torch.stack([torch.as_tensor(dataset[i][1]) for i in range(len(dataset))])
    except (TypeError, ValueError, IndexError, KeyError, RuntimeError) as error:
        raise UserError(
            f"Samples cannot be read as (x, y): {error}", "Let dataset[i] give an input and a number."
        ) from error


def _first_inputs(dataset: Any) -> Tensor:
    first = Subset(dataset, range(min(len(dataset), LOOKED_AT)))
    try:
        x, _ = next(iter(DataLoader(first, LOOKED_AT, generator=torch.Generator())))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"Samples cannot be put into a batch: {error}", "Let dataset[i] give tensors of one shape."
        ) from error
    return _inputs(x)


def _inputs(x: Any) -> Tensor:
    """Inputs as they are, but double precision (NumPy's habit) as PyTorch's default float."""
    if not isinstance(x, Tensor):
        raise UserError(f"Inputs are a {type(x).__name__}.", "Let dataset[i] give a tensor as the input.")
    return x.to(torch.get_default_dtype()) if x.dtype == torch.float64 else x


def _targets(y: Tensor, task: Task) -> Tensor:
    """Labels as int64 of shape ``(n,)``; numbers to predict as floats of shape ``(n, outputs)``."""
    if task == "regression":
        return y.to(torch.get_default_dtype()).reshape(len(y), -1)
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise UserError(
            f"Labels are {y.dtype}; classification needs whole numbers 0, 1, 2, ...",
            "Convert them with y.long(), or say task='regression'.",
        )
    if y.ndim != 1:
        raise UserError(f"Labels have the shape {tuple(y.shape)}; one number a sample is needed.", "Try y.argmax(1).")
    if len(y) and int(y.min()) < 0:
        raise UserError(f"The label {int(y.min())} is negative.", "Number the classes from 0.")
    return y.long()


def _faults(name: str, what: str, values: Tensor) -> list[str]:
    bad = len(values) - int(torch.isfinite(values).reshape(len(values), -1).all(dim=1).sum())
    return [f"{name}: {bad} of {len(values)} {what} hold NaN or infinity."] if bad else []
