"""Two small models that are honest starting points: an MLP for rows of numbers, a CNN for images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from luthier.core.errors import UserError, nearest
from luthier.recipe.data import Data

DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "mlp": {"depth": 2, "width": 128, "dropout": 0.0},
    "cnn": {"depth": 3, "width": 32, "dropout": 0.0},
}
"""What each built-in model listens to, and where it begins."""

ModelSource = str | Callable[[dict[str, Any]], nn.Module]
"""A built-in model's name, or a function from the configuration to a module."""


class MLP(nn.Module):
    """``depth`` hidden layers of ``width`` with ReLU and dropout, then a linear head.

    Takes ``(batch, *anything)`` of any number type, flattened to ``(batch, in_features)``; gives
    ``(batch, out_features)``.
    """

    def __init__(self, in_features: int, out_features: int, depth: int, width: int, dropout: float) -> None:
        super().__init__()
        sizes = [in_features, *[width] * depth]
        layers: list[nn.Module] = []
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, or predictions, of shape ``(batch, out_features)``."""
        out: Tensor = self.layers(x.flatten(1).to(torch.get_default_dtype()))
        return out


class CNN(nn.Module):
    """``depth`` blocks of 3x3 convolution, batch norm and ReLU, all ``width`` wide, pooled into a linear head.

    Halves the map by stride until its shorter side is about 4, never in the first block, spread evenly over the others.
    Takes images ``(batch, channels, height, width)`` or ``(batch, height, width)``; gives ``(batch, classes)``.

    Args:
        channels: of the input.
        size: the shorter side of the input, in pixels.
        dropout: on the pooled features, before the head.
    """

    def __init__(self, channels: int, size: int, classes: int, depth: int, width: int, dropout: float) -> None:
        super().__init__()
        halvings = min(depth - 1, max(int(math.log2(size / 4)), 0) if size >= 4 else 0)
        strided = {1 + k * (depth - 1) // halvings for k in range(halvings)} if halvings else set()
        blocks: list[nn.Module] = []
        for i in range(depth):
            stride = 2 if i in strided else 1
            blocks += [nn.Conv2d(channels if i == 0 else width, width, 3, stride, padding=1, bias=False)]
            blocks += [nn.BatchNorm2d(width), nn.ReLU()]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, or predictions, of shape ``(batch, classes)``."""
        x = x.unsqueeze(1) if x.ndim == 3 else x
        out: Tensor = self.head(self.blocks(x.to(torch.get_default_dtype())).mean((2, 3)))
        return out


def check_source(source: ModelSource) -> None:
    """Raises UserError unless ``source`` is a built-in model's name or callable."""
    if isinstance(source, str) and source not in DEFAULTS:
        raise UserError(
            f"Unknown model {source!r}.", nearest(source, DEFAULTS) + " Or pass a function config -> module."
        )
    if isinstance(source, nn.Module) or not (isinstance(source, str) or callable(source)):
        raise UserError(
            f"model= is a {type(source).__name__}, which cannot be built afresh for each trial.",
            "Pass 'mlp', 'cnn' or a function: model=lambda config: MyModel(config['width']).",
        )


def make_model(source: ModelSource, config: Mapping[str, Any], data: Data, device: torch.device) -> nn.Module:
    """A fresh model on ``device``, tried on two samples; draws its weights from PyTorch's global generator.

    Args:
        source: a built-in model's name, or a function that gets a copy of ``config``.
        config: for a built-in model, overrides of ``DEFAULTS[source]``.

    Raises:
        UserError: the function gives no module, or the module does not take the inputs or fit the targets.
    """
    model = _built_in(source, config, data) if isinstance(source, str) else source(dict(config))
    if not isinstance(model, nn.Module):
        raise UserError(f"model(config) returned a {type(model).__name__}.", "Return a torch.nn.Module.")
    model = model.to(device)
    x, y = next(data.train.batches(2, device=device))
    model.eval()
    try:
        with torch.no_grad():
            out = model(x)
    except (RuntimeError, ValueError, IndexError) as error:
        raise UserError(
            f"The model cannot take inputs of shape {tuple(x.shape)}: {error}", "Fit its first layers to the data."
        ) from error
    data.check_output(out, y)
    return model


def _built_in(name: str, config: Mapping[str, Any], data: Data) -> nn.Module:
    knob = {key: config.get(key, value) for key, value in DEFAULTS[name].items()}
    depth, width, dropout = int(knob["depth"]), int(knob["width"]), float(knob["dropout"])
    shape = data.input_shape
    if name == "mlp":
        return MLP(math.prod(shape), data.outputs, depth, width, dropout)
    if len(shape) not in (2, 3):
        raise UserError(
            f"The cnn needs images of shape (channels, height, width) or (height, width), got {shape}.",
            "Use model='mlp' or reshape the inputs.",
        )
    channels = shape[0] if len(shape) == 3 else 1
    return CNN(channels, min(shape[-2:]), data.outputs, depth, width, dropout)
