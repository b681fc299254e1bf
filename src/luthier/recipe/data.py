"""Data as the training loop wants it: checked once, then cut into batches with nothing in the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from luthier.core.errors import UserError
from luthier.recipe import augment, losses

Task = Literal["classification", "regression", "language"]
Source = Dataset[Any] | Tensor | np.ndarray[Any, Any]
"""A data set, or for language a stream of tokens: whole numbers ``(n,)``."""
Pair = tuple[Source, Source]
"""The training and the validation data set."""

AugmentSource = str | Callable[[Tensor, float, torch.Generator], Tensor] | None
"""A kind of :mod:`luthier.recipe.augment`, or a function ``(batch, strength in [0, 1], generator) -> batch``."""

Alter = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""What happens to a training batch ``(x, y)`` before the model sees it."""

LOOKED_AT = 256
"""Samples of a data set without tensors whose inputs are checked; all of them would cost an epoch of loading."""

READ_AT_ONCE = 1024
"""Samples in a batch where a data set without tensors is only looked through."""

CONTEXT = 64
"""Tokens in a window unless the configuration says otherwise or a stream is shorter."""


def derive_seed(*numbers: int) -> int:
    """A 32-bit seed from a few non-negative numbers, well mixed (NumPy's ``SeedSequence``)."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def shuffled(n: int, *seed: int) -> Tensor:
    """A permutation of ``0..n-1`` that depends on ``seed`` alone."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(derive_seed(*seed)))


@dataclass(frozen=True, eq=False)
class SampleTable:
    """One data set.

    Args:
        tensors: all inputs and targets where they can be had at once, else None.
        stride: between the samples of an epoch. Above 1 the samples overlap, and an epoch takes those that do not, from
            a place that moves from epoch to epoch.
    """

    dataset: Dataset[Any]
    tensors: tuple[Tensor, Tensor] | None
    task: Task
    stride: int = 1

    def __len__(self) -> int:
        """Samples in an epoch."""
        return max(1, len(self.dataset) // self.stride)  # type: ignore[arg-type]

    def order(self, *seed: int) -> Tensor:
        """The samples of an epoch, shuffled; depends on ``seed`` alone."""
        n = len(self)
        order = shuffled(n, *seed)
        if self.stride == 1:
            return order
        places = len(self.dataset) - (n - 1) * self.stride  # type: ignore[arg-type]
        return derive_seed(*seed, 3) % places + self.stride * order

    def to(self, device: torch.device) -> SampleTable:
        """The same table with its tensors, if any, on ``device``."""
        if self.tensors is None:
            return self
        return replace(self, tensors=(self.tensors[0].to(device), self.tensors[1].to(device)))

    def batches(
        self, size: int, order: Tensor | None = None, *, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs ``(<=size, ...)`` and targets (see :func:`_targets`) in ``order``; the last batch may be smaller."""
        if self.tensors is None:
            # A sampler of our own making: the order is then the same as the one of tensors.
            sampler = None if order is None else order.tolist()
            base = torch.Generator().manual_seed(0)  # the loader draws a seed for its workers; not from the global one
            for x, y in DataLoader(self.dataset, size, sampler=sampler, generator=base):
                yield _inputs(x, self.task).to(device), _targets(y, self.task).to(device)
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
        targets: all of the training table's, labels ``(n,)``, numbers ``(n, outputs)`` or the next tokens ``(n,
            length)``; of streams the whole training stream.
        input_shape: of one sample.
        outputs: classes, numbers to predict, or tokens in the vocabulary.
        variance: of the training targets around their mean, averaged over the outputs; regression only.
        faults: one sentence for each table with NaN or infinity in it.
        tokens: gives how many different tokens inputs of whole numbers have; looked for when first asked.
        streams: for language, what both tables are cut from; None where they came as data sets.
    """

    train: SampleTable
    val: SampleTable
    targets: Tensor
    task: Task
    input_shape: tuple[int, ...]
    outputs: int
    variance: float
    faults: tuple[str, ...]
    tokens: Callable[[], int]
    streams: tuple[Tensor, Tensor] | None = None

    @property
    def labels_each(self) -> int:
        """Labels of one sample: the tokens of a window, else one."""
        return self.input_shape[0] if self.task == "language" else 1

    def to(self, device: torch.device) -> Data:
        """The same data with its tensors, if any, on ``device``."""
        if self.streams is not None:
            # The streams, not the windows: those overlap, and moved they would no longer share their memory.
            train, val = (stream.to(device) for stream in self.streams)
            return replace(self, streams=(train, val), targets=train).windowed(self.labels_each)
        return replace(self, train=self.train.to(device), val=self.val.to(device), targets=self.targets.to(device))

    def windowed(self, context: int | None) -> Data:
        """The same streams in windows of ``context`` tokens; None leaves them as they are.

        An epoch of training takes windows that do not overlap, as many whatever its offset; validation takes all from
        the stream's beginning.

        Raises:
            UserError: a context longer than a stream, or any where the data came as windows.
        """
        if context is None:
            return self
        if self.streams is None:
            raise UserError(
                f"context={context}, but the data come in windows of {self.labels_each} tokens.",
                "Take it out of the space, or give train= and val= as streams of tokens.",
            )
        for name, stream in zip(("training", "validation"), self.streams):
            if context >= len(stream):
                raise UserError(
                    f"context={context} is too long for the {name} stream of {len(stream)} tokens.",
                    f"Use at most {len(stream) - 1}: the last token has no next one.",
                )
        train, val = self.streams
        return replace(
            self, train=_windows(train, context, 1), val=_windows(val, context, context), input_shape=(context,)
        )

    def first(self, samples: int) -> Data:
        """The same data with at most the first ``samples`` of each table."""
        if self.streams is not None:
            context = self.labels_each
            text, held = self.streams[0][: (samples + 1) * context], self.streams[1][: samples * context + 1]
            return replace(self, streams=(text, held), targets=text).windowed(context)
        train, val = (_first(table, samples) for table in (self.train, self.val))
        return replace(self, train=train, val=val, targets=self.targets[:samples])

    def require_finite(self) -> None:
        """Raises UserError where a sample holds NaN or infinity."""
        if self.faults:
            raise UserError(" ".join(self.faults), "Clean, impute or drop these samples before training.")

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean plain loss of a batch, the one that configurations are compared by: cross-entropy in nats (of
        language, a token), or squared error."""
        if self.task != "regression":
            return F.cross_entropy(*losses.flat(output, target))
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
        elif self.task == "language":
            length = target.shape[1]
            fits = (
                isinstance(output, Tensor)
                and output.ndim == 3
                and (output.shape[0], output.shape[2]) == (n, length)
                and output.shape[1] >= self.outputs
            )
            need = f"({n}, {self.outputs}, {length}) or ({n}, {length}, {self.outputs}), a logit for each token"
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
        UserError: no map-style data set of (x, y) or, for language, stream of tokens; an empty one; targets that do not
            suit ``task``.
    """
    if task == "language" and any(isinstance(source, Tensor | np.ndarray) for source in (train, val)):
        return _prepare_streams(train, val)
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
                tensors = (_inputs(tensors[0], task), y)
            seen = tensors[0] if tensors else _first_inputs(dataset, task)
        faults += _faults(name, "inputs", seen) + _faults(name, "targets", y)
        tables.append(SampleTable(dataset, tensors, task))
        targets.append(y)
        if task == "language":
            _check_windows(name, seen, y)
        if name == "train":
            shape = tuple(seen.shape[1:])
        elif task == "language" and tuple(seen.shape[1:]) != shape:
            raise UserError(f"train has windows of {shape[0]} tokens, val of {seen.shape[1]}.", "Cut them alike.")
    tokens = cache(lambda: max(map(_tokens, tables)))
    if task == "language":
        outputs, variance = max(tokens(), *(int(y.max()) + 1 for y in targets)), 0.0
        if outputs < 2:
            raise UserError("Every token is 0: there is nothing to predict.", "Check how the text was encoded.")
        tokens = cache(lambda: outputs)
    elif task == "classification":
        outputs, variance = int(max(y.max() for y in targets)) + 1, 0.0
        if outputs < 2:
            raise UserError("Every label is 0: there is nothing to tell apart.", "Check the labels.")
    else:
        outputs, variance = targets[0].shape[1], float(targets[0].var(dim=0, correction=0).mean())
        if targets[1].shape[1] != outputs:
            raise UserError(f"train has {outputs} targets a sample, val {targets[1].shape[1]}.", "Make them agree.")
    return Data(tables[0], tables[1], targets[0], task, shape, outputs, variance, tuple(faults), tokens)


def _prepare_streams(train: Any, val: Any) -> Data:
    streams = []
    for name, source in (("train", train), ("val", val)):
        if not isinstance(source, Tensor | np.ndarray):
            raise UserError(
                f"{name}= is a {type(source).__name__}, the other one a stream of tokens.", "Give two of one kind."
            )
        stream = torch.as_tensor(source)
        if stream.ndim != 1:
            raise UserError(
                f"{name}= is a tensor of shape {tuple(stream.shape)}; a stream of tokens has one dimension.",
                "Flatten it, or give windows as TensorDataset(x, y), y the next tokens.",
            )
        if len(stream) < 2:
            raise UserError(
                f"The {name} stream has {len(stream)} token{'s' * (len(stream) != 1)}.",
                "Two are the least, the second to be predicted from the first.",
            )
        with _naming(name):
            streams.append(_whole(stream))
    outputs = max(int(stream.max()) for stream in streams) + 1
    if outputs < 2:
        raise UserError("Every token is 0: there is nothing to predict.", "Check how the text was encoded.")
    first, second = streams
    context = min(CONTEXT, len(first) - 1, len(second) - 1)
    tables = _windows(first, context, 1), _windows(second, context, context)
    return Data(*tables, first, "language", (context,), outputs, 0.0, (), lambda: outputs, (first, second))


def _windows(stream: Tensor, context: int, step: int) -> SampleTable:
    """Windows of a stream that begin ``step`` tokens apart, without a copy; of those that overlap an epoch takes some
    that do not."""
    x, y = (part.unfold(0, context, step) for part in (stream[:-1], stream[1:]))
    return SampleTable(TensorDataset(x, y), (x, y), "language", context // step)


def _check_windows(name: str, x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or x.shape[1:] != y.shape[1:] or not x.shape[1]:
        raise UserError(
            f"{name}: inputs have the shape {tuple(x.shape[1:])} each, targets {tuple(y.shape[1:])}; windows of one "
            "length are needed.",
            "Let dataset[i] give tokens[i:i+n], tokens[i+1:i+n+1].",
        )
    if torch.equal(x, y[: len(x)]):
        raise UserError(
            f"{name}: the targets are the inputs themselves, not the next tokens.",
            "Let dataset[i] give tokens[i:i+n], tokens[i+1:i+n+1].",
        )


def _whole(x: Tensor) -> Tensor:
    """Tokens as int64."""
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise UserError(f"Tokens are {x.dtype}; whole numbers 0, 1, 2, ... are needed.", "Encode the text first.")
    x = x.long()
    if x.numel() and int(x.min()) < 0:
        raise UserError(f"The token {int(x.min())} is negative.", "Number the tokens from 0.")
    return x


def _tokens(table: SampleTable) -> int:
    """One more than the largest token of a table's inputs, read in one pass if need be."""
    largest = 0
    for part, _ in table.batches(len(table) if table.tensors else READ_AT_ONCE, device=torch.device("cpu")):
        largest = max(largest, int(_whole(part).max()))
    return largest + 1


def _first(table: SampleTable, samples: int) -> SampleTable:
    n = min(samples, len(table))
    tensors = None if table.tensors is None else (table.tensors[0][:n], table.tensors[1][:n])
    return replace(table, dataset=Subset(table.dataset, range(n)), tensors=tensors)


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
            f"Samples cannot be read as (x, y): {error}", "Let dataset[i] give an input and a target, all of one shape."
        ) from error


def _first_inputs(dataset: Any, task: Task) -> Tensor:
    first = Subset(dataset, range(min(len(dataset), LOOKED_AT)))
    try:
        x, _ = next(iter(DataLoader(first, LOOKED_AT, generator=torch.Generator())))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"Samples cannot be put into a batch: {error}", "Let dataset[i] give tensors of one shape."
        ) from error
    return _inputs(x, task)


def _inputs(x: Any, task: Task) -> Tensor:
    """Inputs as they are, but double precision (NumPy's habit) as PyTorch's default float, and tokens as int64."""
    if not isinstance(x, Tensor):
        raise UserError(f"Inputs are a {type(x).__name__}.", "Let dataset[i] give a tensor as the input.")
    if task == "language":
        return _whole(x)
    return x.to(torch.get_default_dtype()) if x.dtype == torch.float64 else x


def _targets(y: Tensor, task: Task) -> Tensor:
    """Labels as int64 of shape ``(n,)``, next tokens ``(n, length)``; numbers to predict as floats ``(n, outputs)``."""
    if task == "regression":
        return y.to(torch.get_default_dtype()).reshape(len(y), -1)
    if task == "language":
        return _whole(y)
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
