"""Small models that are honest starting points: rows of numbers, images, point clouds, sequences and text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from luthier.core.errors import UserError, nearest
from luthier.recipe.data import Data

DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "mlp": {"depth": 2, "width": 128, "dropout": 0.0},
    "cnn": {"depth": 3, "width": 32, "dropout": 0.0, "kernel_size": 3, "drop_path": 0.0},
    "pointnet": {"depth": 3, "width": 64, "dropout": 0.0},
    "transformer": {"depth": 2, "width": 128, "heads": 4, "dropout": 0.0, "drop_path": 0.0},
}
"""What each built-in model listens to, and where it begins."""

ModelSource = str | Callable[[dict[str, Any]], nn.Module]
"""A built-in model's name, or a function from the configuration to a module."""

POOLED = 4
"""How much wider than the others PointNet's last shared layer is: it alone holds the cloud. Qi et al. 2017 have 1024 to
64, for 40 classes of objects; this is for smaller ones."""
MLP_RATIO = 4
"""The transformer's hidden layer to its width (Vaswani et al. 2017, section 3.3: 2048 to 512)."""
LEAK = 1e-3
"""Part of the logits' spread that a later token may change in an earlier one: kernels round, and round differently."""
INIT_STD = 0.02
"""Of the transformer's weights (Radford et al. 2018, section 4.1), whatever their width."""


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


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016, section 3): in training, zero a sample's branch with probability ``rate``.

    What is kept is divided by ``1 - rate``, as in dropout, so that the mean stays and evaluation changes nothing.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """``branch``, of shape ``(batch, ...)``, with whole samples dropped."""
        if not self.training or self.rate == 0.0:
            return branch
        kept = torch.empty(len(branch), *[1] * (branch.ndim - 1), dtype=branch.dtype, device=branch.device)
        return branch * kept.bernoulli_(1.0 - self.rate).div_(1.0 - self.rate)


def drop_path_rates(last: float, blocks: int) -> list[float]:
    """Rates that rise linearly to ``last`` at the last of ``blocks`` blocks (Huang et al. 2016, equation 4)."""
    return [last * (k + 1) / blocks for k in range(blocks)]


class ConvBlock(nn.Module):
    """Convolution, batch norm and ReLU; a ``rate`` makes it residual: its input is added before the ReLU."""

    def __init__(self, channels: int, width: int, kernel_size: int, stride: int, rate: float | None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel_size, stride, padding=kernel_size // 2, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.drop_path = None if rate is None else DropPath(rate)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, h, w)`` to ``(batch, width, ceil(h / stride), ceil(w / stride))``."""
        out: Tensor = self.norm(self.conv(x))
        if self.drop_path is not None:
            out = self.drop_path(out) + x
        return F.relu(out)


class CNN(nn.Module):
    """``depth`` blocks of convolution, batch norm and ReLU, all ``width`` wide, pooled into a linear head.

    Halves the map by stride until its shorter side is about 4, never in the first block, spread evenly over the others.
    Takes images ``(batch, channels, height, width)`` or ``(batch, height, width)``; gives ``(batch, classes)``.

    Stochastic depth needs a way round: with ``drop_path`` above 0 the blocks that keep their input's shape are
    residual. At 0 they are not: over six seeds of eight epochs the plain net learns the digits a little better (98.9 to
    98.8 % right at depth 3, 99.4 to 99.1 % at depth 5) and as fast.

    Args:
        channels: of the input.
        size: the shorter side of the input, in pixels.
        dropout: on the pooled features, before the head.
        kernel_size: of every convolution, in pixels; odd.
        drop_path: the last residual block's rate of stochastic depth, in [0, 1); see :func:`drop_path_rates`.

    Raises:
        UserError: an even ``kernel_size``.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        classes: int,
        depth: int,
        width: int,
        dropout: float,
        kernel_size: int = 3,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise UserError(f"kernel_size={kernel_size} is not an odd number.", "Use 3, 5 or 7.")
        halvings = min(depth - 1, max(int(math.log2(size / 4)), 0) if size >= 4 else 0)
        strided = {1 + k * (depth - 1) // halvings for k in range(halvings)} if halvings else set()
        strides = [2 if i in strided else 1 for i in range(depth)]
        # One that strides or widens has no input to add.
        skips = [i for i in range(1, depth) if strides[i] == 1] if drop_path > 0.0 else []
        rates = dict(zip(skips, drop_path_rates(drop_path, len(skips))))
        blocks = [
            ConvBlock(channels if i == 0 else width, width, kernel_size, strides[i], rates.get(i)) for i in range(depth)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, or predictions, of shape ``(batch, classes)``."""
        x = x.unsqueeze(1) if x.ndim == 3 else x
        out: Tensor = self.head(self.blocks(x.to(torch.get_default_dtype())).mean((2, 3)))
        return out


class PointNet(nn.Module):
    """PointNet without its transforms (Qi et al. 2017): one MLP for every point, the maximum over points, a head.

    ``depth`` shared layers with batch norm and ReLU, ``width`` wide, the last one ``POOLED`` times as wide; a head with
    one hidden layer, without a norm so that a last batch of one cloud can be trained on. Takes ``(batch, points,
    features)``, the coordinates and whatever else is known of a point, in any order of the points; gives ``(batch,
    out_features)``.

    Args:
        features: of a point.
        dropout: before the last layer.
    """

    def __init__(self, features: int, out_features: int, depth: int, width: int, dropout: float) -> None:
        super().__init__()
        pooled = POOLED * width
        layers: list[nn.Module] = []
        for a, b in pairwise([features, *[width] * (depth - 1), pooled]):
            layers += [nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU()]
        self.shared = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Linear(pooled, pooled // 2), nn.ReLU(), nn.Dropout(dropout), nn.Linear(pooled // 2, out_features)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits, or predictions, of shape ``(batch, out_features)``."""
        points: Tensor = self.shared(x.flatten(0, 1).to(torch.get_default_dtype()))
        out: Tensor = self.head(points.view(*x.shape[:2], -1).amax(1))
        return out


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and a GELU MLP, each with dropout, stochastic depth and a residual connection.

    Pre-norm trains without the warmup that post-norm needs (Xiong et al. 2020).
    """

    def __init__(self, width: int, heads: int, dropout: float, rate: float, causal: bool) -> None:
        super().__init__()
        self.heads, self.dropout, self.causal = heads, dropout, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, MLP_RATIO * width), nn.Linear(MLP_RATIO * width, width)
        self.drop, self.drop_path = nn.Dropout(dropout), DropPath(rate)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, length, width)`` to the same shape."""
        # (batch, length, 3 * width) to three of (batch, heads, length, width / heads).
        q, k, v = self.qkv(self.norm1(x)).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(
            q, k, v, dropout_p=self.dropout if self.training else 0.0, is_causal=self.causal
        )
        x = x + self.drop_path(self.drop(self.proj(seen.transpose(1, 2).flatten(2))))
        out: Tensor = x + self.drop_path(self.drop(self.down(F.gelu(self.up(self.norm2(x))))))
        return out


class Transformer(nn.Module):
    """``depth`` pre-norm blocks over embedded tokens or vectors with learned positions, a last norm and a linear head.

    Takes tokens ``(batch, length)`` of whole numbers, or vectors ``(batch, length, features)``. Every position is
    attended to: there is no mask for padding. Gives ``(batch, outputs)`` from the mean over positions, or with
    ``causal`` one prediction for each position that sees no later one, ``(batch, outputs, length)`` with the classes
    second, as ``torch.nn.functional.cross_entropy`` wants them.

    Weights begin as in GPT-2 (Radford et al. 2019, section 2.3; its code): normal with ``INIT_STD``, those that write
    into the residual stream divided by ``sqrt(2 * depth)``; biases at 0.

    Args:
        tokens: the number of different tokens; None for vectors.
        features: of a vector; of no use with tokens.
        length: the longest sequence.
        width: of the residual stream (``d_model``).
        dropout: on embeddings, attention weights and the output of each branch.
        drop_path: the last block's rate of stochastic depth, in [0, 1); see :func:`drop_path_rates`.
        causal: one prediction for each position, from itself and those before it.

    Raises:
        UserError: a ``width`` that ``heads`` does not divide.
    """

    def __init__(
        self,
        tokens: int | None,
        features: int,
        length: int,
        outputs: int,
        depth: int,
        width: int,
        heads: int,
        dropout: float,
        drop_path: float,
        *,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if width % heads:
            fits = [n for n in range(1, width + 1) if width % n == 0]
            near = {max(n for n in fits if n < heads), min((n for n in fits if n > heads), default=width)}
            widths = {n * heads for n in (width // heads, width // heads + 1) if n}
            raise UserError(
                f"heads={heads} does not divide width={width}.",
                f"Use heads={_either(near)}, or width={_either(widths)}.",
            )
        self.embed = nn.Linear(features, width) if tokens is None else nn.Embedding(tokens, width)
        self.positions = nn.Embedding(length, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.Sequential(
            *(TransformerBlock(width, heads, dropout, rate, causal) for rate in drop_path_rates(drop_path, depth))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)
        self.causal = causal
        for name, weight in self.named_parameters():
            if weight.ndim > 1:
                writes = name.endswith(("proj.weight", "down.weight"))
                nn.init.normal_(weight, std=INIT_STD / math.sqrt(2 * depth) if writes else INIT_STD)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, or predictions: ``(batch, outputs)``, or ``(batch, outputs, length)`` if causal."""
        x = x.long() if isinstance(self.embed, nn.Embedding) else x.to(torch.get_default_dtype())
        stream = self.drop(self.embed(x) + self.positions.weight[: x.shape[1]])
        stream = self.norm(self.blocks(stream))
        if self.causal:
            logits: Tensor = self.head(stream)
            return logits.transpose(1, 2)
        out: Tensor = self.head(stream.mean(1))
        return out


def _either(numbers: set[int]) -> str:
    return " or ".join(map(str, sorted(numbers)))


def check_source(source: ModelSource) -> None:
    """Raises UserError unless ``source`` is a built-in model's name or callable."""
    if isinstance(source, str) and source not in DEFAULTS:
        raise UserError(
            f"Unknown model {source!r}.", nearest(source, DEFAULTS) + " Or pass a function config -> module."
        )
    if isinstance(source, nn.Module) or not (isinstance(source, str) or callable(source)):
        raise UserError(
            f"model= is a {type(source).__name__}, which cannot be built afresh for each trial.",
            f"Pass {', '.join(map(repr, DEFAULTS))} or a function: model=lambda config: MyModel(config['width']).",
        )


def make_model(source: ModelSource, config: Mapping[str, Any], data: Data, device: torch.device) -> nn.Module:
    """A fresh model on ``device``, tried on two samples; draws its weights from PyTorch's global generator.

    Args:
        source: a built-in model's name, or a function that gets a copy of ``config``.
        config: for a built-in model, overrides of ``DEFAULTS[source]``.

    Raises:
        UserError: the function gives no module, or the module does not take the inputs or fit the targets.
    """
    x, y = next(data.train.batches(2, torch.arange(min(2, len(data.train))), device=device))
    model = _built_in(source, config, data, x) if isinstance(source, str) else source(dict(config))
    if not isinstance(model, nn.Module):
        raise UserError(f"model(config) returned a {type(model).__name__}.", "Return a torch.nn.Module.")
    model = model.to(device)
    model.eval()
    try:
        with torch.no_grad():
            out = model(x)
            if data.task == "language":
                out = _classes_second(model, x, out)
    except (RuntimeError, ValueError, IndexError) as error:
        raise UserError(
            f"The model cannot take inputs of shape {tuple(x.shape)}: {error}", "Fit its first layers to the data."
        ) from error
    data.check_output(out, y)
    if data.streams is not None and x.shape[1] > 1:
        _require_causal(model, x, out, data.outputs)
    return model


def _classes_second(model: nn.Module, x: Tensor, out: Any) -> Any:
    """``out`` as the losses want it, and ``model`` made to give all of its outputs so until :func:`as_it_was`.

    Hugging Face's models give an object with ``logits``, and these, like many, as ``(batch, length, classes)``.
    """
    logits = getattr(out, "logits", out)
    if not isinstance(logits, Tensor) or logits.ndim != 3:
        return out
    last = logits.shape[2] != x.shape[1]
    if logits.shape[1] == logits.shape[2] == x.shape[1] > 1:
        # As many logits as tokens: the side that follows the length is the length.
        shorter = model(x[:, :-1])
        last = getattr(shorter, "logits", shorter).shape[1] < x.shape[1]
    if last or logits is not out:
        hook = model.register_forward_hook(_second if last else _logits)
        object.__setattr__(model, "_luthier_hook", hook)
    return logits.transpose(1, 2) if last else logits


def _logits(model: nn.Module, args: Any, out: Any) -> Any:
    return getattr(out, "logits", out)


def _second(model: nn.Module, args: Any, out: Any) -> Any:
    return getattr(out, "logits", out).transpose(1, 2)


def as_it_was(model: nn.Module) -> nn.Module:
    """``model`` with outputs of its own shape again."""
    hook = model.__dict__.pop("_luthier_hook", None)
    if hook is not None:
        hook.remove()
    return model


def _require_causal(model: nn.Module, x: Tensor, out: Tensor, tokens: int) -> None:
    """Raises UserError where a prediction depends on tokens that come after the one it is for."""
    changed = x.clone()
    changed[:, -1] = (changed[:, -1] + 1) % tokens
    with torch.no_grad():
        other = model(changed)
    apart = float((other - out)[:, :, :-1].abs().max())
    if apart > LEAK * float((out - out.mean(1, keepdim=True)).abs().max()):
        raise UserError(
            f"The model sees the future: another last token moves earlier predictions by {apart:.2g}.",
            "Mask its attention (is_causal=True), pad its convolutions on the left.",
        )


def _built_in(name: str, config: Mapping[str, Any], data: Data, x: Tensor) -> nn.Module:
    """A built-in model for samples like ``x``."""
    knob = {key: config.get(key, value) for key, value in DEFAULTS[name].items()}
    depth, width, dropout = int(knob["depth"]), int(knob["width"]), float(knob["dropout"])
    shape = data.input_shape
    if name == "mlp":
        return MLP(math.prod(shape), data.outputs, depth, width, dropout)
    if name == "cnn":
        _require(name, "images of shape (channels, height, width) or (height, width)", shape, len(shape) in (2, 3))
        channels = shape[0] if len(shape) == 3 else 1
        extra = int(knob["kernel_size"]), float(knob["drop_path"])
        return CNN(channels, min(shape[-2:]), data.outputs, depth, width, dropout, *extra)
    if name == "pointnet":
        _require(name, "clouds of shape (points, 3 or more)", shape, len(shape) == 2 and shape[1] >= 3)
        return PointNet(shape[1], data.outputs, depth, width, dropout)
    whole = not (x.is_floating_point() or x.is_complex())
    fits = len(shape) == 2 or (len(shape) == 1 and whole)
    _require(name, "vectors of shape (length, features) or whole-number tokens of shape (length,)", shape, fits)
    tokens = data.tokens() if len(shape) == 1 else None
    rest = depth, width, int(knob["heads"]), dropout, float(knob["drop_path"])
    return Transformer(tokens, shape[-1], shape[0], data.outputs, *rest, causal=data.task == "language")


def _require(name: str, need: str, shape: tuple[int, ...], fits: bool) -> None:
    if not fits:
        raise UserError(f"The {name} needs {need}, got {shape}.", "Use model='mlp' or reshape the inputs.")
