"""The learning-rate range test on any training loop, and the snapshot that makes a test leave no trace."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from luthier.core.errors import UserError
from luthier.diagnosis import LRSuggestion, suggest_lr
from luthier.recipe.data import derive_seed
from luthier.recipe.probes import LADDER_HIGH, LADDER_LOW

OTHER_HIGH = 1.0
"""The top of the ladder for an optimizer that the recipe does not know: nearly all of those are relatives of Adam."""
FEWEST_STEPS = 20
"""Below this, a ladder of seven decades is too coarse to have a shape."""


@final
@dataclass(frozen=True, eq=False)
class LRRangeResult:
    """What a range test measured and what follows from it.

    Args:
        lrs: the ladder, rising; the rate of the parameter group with the largest one.
        losses: for each repeat the raw batch losses, one for each rate; shorter where it diverged.
        ratios: each parameter group's rate as a part of ``lrs``, from 0 to 1.
        suggestion: center, spread, upper bound, confidence, the rules and why (:func:`luthier.diagnosis.suggest_lr`).
    """

    lrs: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]
    ratios: tuple[float, ...]
    suggestion: LRSuggestion

    @property
    def informative(self) -> bool:
        """Whether the test says anything; a flat curve does not."""
        return self.suggestion.center is not None

    def plot(self) -> Any:
        """The repeats, their median and the suggestion, as a ``plotly.graph_objects.Figure``."""
        from luthier.view.figures import lr_range_figure, to_plotly
        from luthier.view.numbers import lr_range

        return to_plotly(
            lr_range_figure(lr_range(self.lrs, self.losses, self.suggestion.center, self.suggestion.upper))
        )

    def __str__(self) -> str:
        center = self.suggestion.center
        if center is None:
            return f"Uninformative. {self.suggestion.why}"
        return f"Learning rate {center:.2g} ({self.suggestion.confidence} confidence). {self.suggestion.why}"


def lr_range_test(
    step: Callable[[], Any],
    model: nn.Module | None = None,
    optimizer: Optimizer | None = None,
    *,
    modules: Sequence[Any] = (),
    low: float | None = None,
    high: float | None = None,
    steps: int = 100,
    repeats: int = 3,
    seed: int = 0,
    prior: tuple[float, float] | None = None,
) -> LRRangeResult:
    """Train briefly while the rate climbs an exponential ladder, a few times over (Smith 2017, section 3.3).

    Afterwards the model (buffers and gradients included), the optimizer, ``modules`` and Python's, NumPy's and
    PyTorch's generators are what they were, bit for bit, also when ``step`` raised. What the test cannot see, such as
    the position of an iterator over the data, moves on. A repeat ends when its loss is not finite, or its debiased
    moving average exceeds ``best + 3 (first - best) + |first| / 2``: fastai's "four times the best" made additive,
    so that it also works for losses near zero.

    Args:
        step: does one update, with the loop's own decay, clipping and precision, and returns its loss before it.
        model: None where everything it trains is in ``optimizer`` and it has no buffers.
        optimizer: the one that ``step`` uses; the ratios between its groups' rates are kept.
        modules: whatever else ``step`` changes and has ``state_dict``: scheduler, gradient scaler, averaged weights.
        low: the ladder's first rate, of the group with the largest one; default 1e-7.
        high: its last; default 10 for SGD, else 1.
        steps: rates on the ladder, at least 20.
        repeats: climbs, each from the same weights, with generators seeded by ``(seed, repeat)``.
        prior: ``(center, spread in decades)`` believed beforehand, drawn on when the rules disagree.

    Raises:
        UserError: no optimizer, a ladder that does not rise, or a ``step`` that returns no number.
    """
    if not isinstance(optimizer, Optimizer):
        raise UserError(
            f"optimizer= is {type(optimizer).__name__}; the test sets its learning rates.",
            "Pass the torch.optim optimizer that step() uses.",
        )
    low = LADDER_LOW if low is None else float(low)
    high = LADDER_HIGH.get(type(optimizer).__name__.lower(), OTHER_HIGH) if high is None else float(high)
    if not 0.0 < low < high < math.inf:
        raise UserError(f"The ladder from low={low:g} to high={high:g} does not rise.", "Take 0 < low < high.")
    if steps < FEWEST_STEPS or repeats < 1:
        raise UserError(
            f"steps={steps}, repeats={repeats} is too little to read.", f"At least {FEWEST_STEPS} steps and 1 repeat."
        )
    lrs = tuple(low * (high / low) ** (i / (steps - 1)) for i in range(steps))
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    top = max(rates)
    ratios = tuple(rate / top if top > 0 else 1.0 for rate in rates)
    before = Snapshot((model, optimizer, *modules))
    losses = []
    try:
        for repeat in range(repeats):
            before.restore()
            seed_all(derive_seed(seed, repeat))
            losses.append(_climb(step, optimizer, lrs, ratios))
    finally:
        before.restore()
    return LRRangeResult(lrs, tuple(losses), ratios, suggest_lr(lrs, losses, prior=prior))


def _climb(
    step: Callable[[], Any], optimizer: Optimizer, lrs: Sequence[float], ratios: Sequence[float]
) -> tuple[float, ...]:
    beta = 0.95 if len(lrs) <= 100 else 0.98
    losses: list[float] = []
    average, first, best = 0.0, math.inf, math.inf
    for i, lr in enumerate(lrs):
        for group, ratio in zip(optimizer.param_groups, ratios):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr * ratio)  # in place: a captured graph holds on to this tensor
            else:
                group["lr"] = lr * ratio
        loss = number(step())
        if not math.isfinite(loss):
            break
        losses.append(loss)
        average = beta * average + (1.0 - beta) * loss
        smooth = average / (1.0 - beta ** (i + 1))
        first = smooth if i == 0 else first
        best = min(best, smooth)
        if smooth > best + 3.0 * (first - best) + 0.5 * abs(first):
            break
    return tuple(losses)


def number(loss: Any) -> float:
    """What ``step`` returned, as a float; raises UserError where it is none."""
    try:
        return float(loss.detach()) if isinstance(loss, Tensor) else float(loss)
    except (TypeError, ValueError, RuntimeError):
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
        raise UserError(f"step() returned {what}, not a number.", "Let it return the loss of its update.") from None


def seed_all(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators with 32 bits."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@final
class Snapshot:
    """Modules, optimizers, whatever has ``state_dict``, and the global generators, to be put back exactly.

    Modules and optimizers are restored in place and keep their tensors' identities; so are buffers that a state_dict
    leaves out, gradients, and the train or eval mode of each module. Copies lie in the host's memory, not the GPU's.

    Raises:
        UserError: something that has no ``state_dict`` and ``load_state_dict``, or lazy parameters not yet shaped.
    """

    def __init__(self, things: Iterable[Any]) -> None:
        self._undo: list[Callable[[], None]] = []
        for thing in things:
            if thing is None:
                continue
            if isinstance(thing, nn.Module):
                self._undo += [_keep_module(module) for module in thing.modules()]
            elif isinstance(thing, Optimizer):
                self._undo.append(_keep_optimizer(thing))
            elif hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict"):
                self._undo.append(_keep_state(thing))
            else:
                raise UserError(
                    f"A {type(thing).__name__} has no state_dict and load_state_dict, so it cannot be restored.",
                    "Pass modules, optimizers, schedulers or scalers.",
                )
        self._undo.append(_keep_generators())  # last: nothing after it may draw

    def restore(self) -> None:
        """Put everything back; as often as wanted."""
        with torch.no_grad():
            for undo in self._undo:
                undo()


def _keep_module(module: nn.Module) -> Callable[[], None]:
    """Of this module alone, without its children."""
    parameters = {k: (p, _keep_tensor(p), _keep_grad(p)) for k, p in module._parameters.items() if p is not None}
    buffers = {k: (b, _keep_tensor(b)) for k, b in module._buffers.items() if b is not None}
    training = module.training
    has_extra = type(module).get_extra_state is not nn.Module.get_extra_state
    extra = copy.deepcopy(module.get_extra_state()) if has_extra else None

    def undo() -> None:
        for name, (parameter, values, grad) in parameters.items():
            module._parameters[name] = parameter
            values()
            grad()
        for name, (buffer, values) in buffers.items():
            module._buffers[name] = buffer  # a forward may have assigned another tensor
            values()
        module.training = training
        if has_extra:
            module.set_extra_state(copy.deepcopy(extra))

    return undo


def _keep_optimizer(optimizer: Optimizer) -> Callable[[], None]:
    """Not by load_state_dict, which casts what it loads and makes new tensors."""
    tensors = [(_keep_tensor(p), _keep_grad(p)) for group in optimizer.param_groups for p in group["params"]]
    groups = [{k: _keep_value(v) for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    state = {p: {k: _keep_value(v) for k, v in s.items()} for p, s in optimizer.state.items()}

    def undo() -> None:
        for values, grad in tensors:
            values()
            grad()
        for group, kept in zip(optimizer.param_groups, groups):
            params = group["params"]
            group.clear()
            group["params"] = params
            group.update({k: value() for k, value in kept.items()})
        optimizer.state.clear()
        for parameter, kept in state.items():
            optimizer.state[parameter] = {k: value() for k, value in kept.items()}

    return undo


def _keep_state(thing: Any) -> Callable[[], None]:
    state = copy.deepcopy(thing.state_dict())

    def undo() -> None:
        thing.load_state_dict(copy.deepcopy(state))

    return undo


def _keep_generators() -> Callable[[], None]:
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None

    def undo() -> None:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)

    return undo


def _keep_tensor(tensor: Tensor) -> Callable[[], Tensor]:
    if is_lazy(tensor):
        raise UserError("The model has lazy parameters without a shape.", "Run one batch through it first.")
    values = tensor.detach().to("cpu", copy=True)

    def undo() -> Tensor:
        tensor.detach().copy_(values)
        return tensor

    return undo


def _keep_grad(tensor: Tensor) -> Callable[[], None]:
    grad = tensor.grad
    values = None if grad is None else _keep_tensor(grad)

    def undo() -> None:
        tensor.grad = None if values is None else values()

    return undo


def _keep_value(value: Any) -> Callable[[], Any]:
    if isinstance(value, Tensor):
        return _keep_tensor(value)
    kept = copy.deepcopy(value)
    return lambda: copy.deepcopy(kept)
