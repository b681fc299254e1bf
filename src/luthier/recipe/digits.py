"""A recipe that comes with real data: scikit-learn's handwritten digits."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from luthier.core.errors import UserError
from luthier.recipe.data import Pair
from luthier.recipe.recipe import Recipe


def digits() -> Pair:
    """scikit-learn's digits (1797 images 1x8x8 in [0, 1], 10 classes), split 70 to 30, stratified and always alike."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    x = torch.as_tensor(images / 16.0, dtype=torch.float32).reshape(-1, 1, 8, 8)
    y = torch.as_tensor(labels, dtype=torch.int64)
    train, val = train_test_split(np.arange(len(y)), test_size=0.3, stratify=labels, random_state=0)
    return TensorDataset(x[train], y[train]), TensorDataset(x[val], y[val])


def digits_recipe(model: str | Callable[[dict[str, Any]], torch.nn.Module] = "cnn") -> Recipe:
    """A recipe for handwritten digits: real images, and an epoch in a tenth of a second.

    Raises:
        UserError: scikit-learn is not installed.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise UserError(
            "The digits come with scikit-learn, which is not installed.", 'pip install "luthier[quickstart]"'
        )
    if not isinstance(model, str):
        return Recipe(model, data=digits, name="digits")
    return Recipe(model, data=digits, name=f"digits-{model}", builtin={"recipe": "digits", "model": model})
