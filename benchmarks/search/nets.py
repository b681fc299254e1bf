"""The networks of the live tasks. Their dropout draws from a generator of their own, so that paused trainings of one
process do not disturb each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


class Dropout(nn.Module):
    """Dropout from a given generator."""

    def __init__(self, rate: float, generator: torch.Generator) -> None:
        super().__init__()
        self.rate, self.generator = rate, generator

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate <= 0:
            return x
        return x * torch.empty_like(x).bernoulli_(1 - self.rate, generator=self.generator).div_(1 - self.rate)


def mlp(inputs: int, outputs: int, depth: int, width: int, drop: Dropout, act: str = "relu") -> nn.Module:
    """``depth`` hidden layers of ``width``."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(inputs, width), ACTS[act](), drop]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def cnn1d(outputs: int, depth: int, width: int, kernel: int, drop: Dropout) -> nn.Module:
    """``depth`` convolutions with stride 2 over a signal (n, length), then a linear layer."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, -1))]
    channels = 1
    for _ in range(depth):
        layers += [nn.Conv1d(channels, width, kernel, stride=2, padding=kernel // 2), nn.ReLU()]
        channels = width
    length = 40
    for _ in range(depth):
        length = (length + 1) // 2
    return nn.Sequential(*layers, nn.Flatten(), drop, nn.Linear(width * length, outputs))


def cnn2d(outputs: int, depth: int, width: int, drop: Dropout) -> nn.Module:
    """``depth`` convolutions over images (n, 1, 8, 8), halved after the first, then a linear layer."""
    layers: list[nn.Module] = []
    channels = 1
    for i in range(depth):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if i == 0 else []
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), drop, nn.Linear(width * 16, outputs))


class PointNet(nn.Module):
    """The same layers for every point of (n, 3, points), the maximum over them, and an MLP (arXiv 1612.00593)."""

    def __init__(self, outputs: int, depth: int, width: int, drop: Dropout) -> None:
        super().__init__()
        self.point = mlp(3, 2 * width, depth, width, Dropout(0.0, drop.generator))
        self.head = mlp(2 * width, outputs, 1, width, drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.point(x.transpose(1, 2)).amax(1))


class Transformer(nn.Module):
    """A causal transformer, layer norm first, over ``context`` tokens (n, context)."""

    def __init__(self, tokens: int, context: int, layers: int, width: int, heads: int, drop: Dropout) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        self.place = nn.Parameter(0.02 * torch.randn(context, width))
        self.blocks = nn.ModuleList(Block(width, heads, drop) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, tokens)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) + self.place
        for block in self.blocks:
            h = block(h)
        return self.out(self.norm(h))


class Block(nn.Module):
    """Attention and an MLP, each added to what came in."""

    def __init__(self, width: int, heads: int, drop: Dropout) -> None:
        super().__init__()
        self.heads, self.drop = heads, drop
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.back = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.drop(self.back(seen.transpose(1, 2).reshape(n, length, width)))
        return x + self.drop(self.down(F.gelu(self.up(self.norm2(x)))))
