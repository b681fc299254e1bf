"""Two small real trainings with eleven hyperparameters each, for comparing ways to search."""

from __future__ import annotations

import importlib.util

import numpy as np
import torch
from torch.utils.data import TensorDataset

import luthier as lt

NOISE = 0.2
"""The part of the digits' training labels that is replaced by others, so that regularization has something to do."""


def digits_mlp() -> lt.Recipe:
    """scikit-learn's digits, 1000 to train on with noisy labels and 797 to validate with; 30 epochs."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(labels))
    x = torch.as_tensor(pixels[order] / 16.0, dtype=torch.float32)
    y = torch.as_tensor(labels[order])
    wrong = torch.as_tensor(rng.random(1000) < NOISE)
    y_train = torch.where(wrong, torch.as_tensor(rng.integers(0, 10, 1000)), y[:1000])
    return lt.Recipe("mlp", TensorDataset(x[:1000], y_train), TensorDataset(x[1000:], y[1000:]), name="digits_mlp")


def mnist1d_mlp() -> lt.Recipe:
    """MNIST-1D (Greydanus & Kobak 2020), 4000 to train on and 1000 to validate with; 20 epochs."""
    if importlib.util.find_spec("mnist1d") is None:
        raise SystemExit("pip install mnist1d")
    from mnist1d.data import get_dataset_args, make_dataset

    made = make_dataset(get_dataset_args())
    parts = [(made["x"], made["y"]), (made["x_test"], made["y_test"])]
    sets = [TensorDataset(torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y)) for x, y in parts]
    return lt.Recipe("mlp", *sets, name="mnist1d_mlp")


TASKS = {"digits_mlp": (digits_mlp, 30, (16, 512), (16, 256)), "mnist1d_mlp": (mnist1d_mlp, 20, (32, 512), (16, 128))}
"""By name: the recipe, the epochs of a full training, the ranges of batch size and width."""


def space(name: str, rate: lt.Float | None = None) -> lt.Space:
    """What is searched: wide, as someone would search who knows nothing; ``rate`` in place of the learning rate's."""
    _, _, batch, width = TASKS[name]
    return lt.Space(
        learning_rate=rate or lt.Float(1e-6, 1.0, log=True),
        batch_size=lt.Int(*batch, log=True),
        optimizer=lt.Choice("adamw", "sgd", "rmsprop"),
        momentum=lt.Float(0.5, 0.99, when={"optimizer": "sgd"}),
        schedule=lt.Choice("constant", "cosine", "onecycle", "step"),
        warmup=lt.Float(0.0, 0.2),
        depth=lt.Int(1, 4),
        width=lt.Int(*width, log=True),
        weight_decay=lt.Float(1e-6, 1e-1, log=True),
        dropout=lt.Float(0.0, 0.5),
        label_smoothing=lt.Float(0.0, 0.3),
    )
