"""What every example needs around the part that matters: options, Fashion-MNIST, and the last words."""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import luthier as lt

FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its files."""


def options(about: str, name: str, budget: str, max_epochs: int, argv: Sequence[str] | None) -> dict[str, Any]:
    """What the command line says, as arguments of ``lt.tune``; ``about`` is the docstring of the example.

    The log is kept in ``--dir``: the same command again goes on where it ended, also with a larger budget.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default=budget, help=f'"12 trials", "10min" (default: {budget})')
    parser.add_argument("--max-epochs", type=int, default=max_epochs, help=f"of a full training ({max_epochs})")
    parser.add_argument("--workers", type=int, default=1, help="processes that train at once; 0: this one (1)")
    parser.add_argument("--dir", type=Path, default=Path(f"luthier-{name}"), help="for the log and the report")
    args = parser.parse_args(argv)
    args.dir.mkdir(parents=True, exist_ok=True)
    return {"budget": args.budget, "max_epochs": args.max_epochs, "workers": args.workers, "storage": args.dir}


def finish(result: lt.Result, baseline: str, folder: Path) -> lt.Result:
    """Print the verdict beside the trivial baseline, and write the report."""
    print(f"\nTrivial baseline: {baseline}\n{result}\nKeep: {result.best_config}")
    print(f"Report: {result.report(folder / 'report.html')}")
    return result


def clothes() -> tuple[Tensor, Tensor]:
    """Fashion-MNIST, 60,000 images (n, 1, 28, 28) in [0, 1] of 10 kinds of clothes, and their labels (n,).

    Where it is not installed (apt-get install dataset-fashion-mnist): scikit-learn's digits, 1797 images 1x8x8.
    """
    if not FASHION.is_dir():
        from sklearn.datasets import load_digits

        print("No Fashion-MNIST here (apt-get install dataset-fashion-mnist): scikit-learn's digits instead.")
        pixels, labels = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(labels))  # writers come in a row
        x = torch.as_tensor(pixels[order] / 16.0, dtype=torch.float32).view(-1, 1, 8, 8)
        return x, torch.as_tensor(labels[order], dtype=torch.int64)
    # The format of MNIST: 16 bytes of header before the pixels, 8 before the labels.
    raw_x = gzip.decompress((FASHION / "train-images-idx3-ubyte.gz").read_bytes())[16:]
    raw_y = gzip.decompress((FASHION / "train-labels-idx1-ubyte.gz").read_bytes())[8:]
    x = torch.tensor(np.frombuffer(raw_x, np.uint8).reshape(-1, 1, 28, 28))
    return x / 255.0, torch.tensor(np.frombuffer(raw_y, np.uint8)).long()
