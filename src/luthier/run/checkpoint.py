"""Checkpoints on disk: written to a temporary name, synced and renamed, so that a file is whole or not there.

What is saved is a tree of ``state_dict``s and the random generators. With PyTorch in the process it is PyTorch's own
format, read back with ``weights_only``; otherwise (objects of NumPy or plain Python with ``state_dict``) a pickle of
the user's own.
"""

from __future__ import annotations

import importlib
import os
import pickle
import random
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Stateful(Protocol):
    """What can be saved and restored: a module, an optimizer, a schedule, a data loader with a position."""

    def state_dict(self) -> Any:
        """The state, as plain data and tensors."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Take over a state."""
        ...


def save(path: Path, epoch: int, stateful: Mapping[str, Stateful]) -> None:
    """Write the states of ``stateful`` and of the random generators after ``epoch``."""
    content = {"epoch": epoch, "state": {k: v.state_dict() for k, v in stateful.items()}, "rng": _generators()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    torch = sys.modules.get("torch")
    try:
        with temporary.open("wb") as file:
            if torch is not None:
                torch.save(content, file)
            else:
                pickle.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def load(path: Path, stateful: Mapping[str, Stateful]) -> int:
    """Restore ``stateful`` and the random generators; returns the epoch after which they were saved."""
    if zipfile.is_zipfile(path):  # PyTorch's format
        torch = importlib.import_module("torch")
        content = torch.load(path, map_location="cpu", weights_only=True)
    else:
        with path.open("rb") as file:
            content = pickle.load(file)
    for name, thing in stateful.items():
        if name in content["state"]:
            thing.load_state_dict(content["state"][name])
    _restore_generators(content["rng"])
    return int(content["epoch"])


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and, where it is loaded, PyTorch's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)


def _generators() -> dict[str, Any]:
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (kind, np.asarray(keys).tolist(), int(position), int(has_gauss), float(gauss)),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        state["torch"] = torch.get_rng_state()
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _restore_generators(state: Mapping[str, Any]) -> None:
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, words, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.asarray(words, dtype=np.uint32), position, has_gauss, cached))
    torch = sys.modules.get("torch")
    if torch is not None and "torch" in state:
        torch.set_rng_state(state["torch"])
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
