"""Tabulated trainings of TaskSet (Metz et al., arXiv 2002.11887): 1000 configurations of Adam on each task.

The file is a NumPy archive with ``hyperparameters`` (the columns' names) and for each task ``NAME.config`` (rows x 8),
``NAME.train`` and ``NAME.valid`` (rows x 51 losses, the first before any training). A proposal is answered by the
nearest row that the study has not taken yet, so the tables are searched as they are, without a surrogate.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

import luthier as lt
from search.task import Config

COLUMNS = {  # the table's name -> the name in the space; moments as their distance from 1, on a logarithmic scale
    "learning_rate": "learning_rate", "beta1": "one_minus_beta1", "beta2": "one_minus_beta2", "epsilon": "epsilon",
    "l1": "l1", "l2": "l2", "linear_decay": "linear_decay", "exponential_decay": "exponential_decay",
}  # fmt: skip

EXPERT = {"learning_rate": 1e-3, "one_minus_beta1": 0.1, "one_minus_beta2": 1e-3, "epsilon": 1e-8}
"""Adam as it comes; everything else as small as the table has it."""


class TaskSet:
    """One table, as a :class:`search.task.Task`.

    Args:
        name: the task's name in the file.
        units: the configurations in the unit cube (rows, 8).
        space: the ranges that the table spans.
        train, valid: the losses (rows, 51).
    """

    metric = "val_loss"

    def __init__(self, name: str, units: np.ndarray, space: lt.Space, train: np.ndarray, valid: np.ndarray) -> None:
        self.name, self.space, self.epochs = f"taskset_{name}", space, valid.shape[1] - 1
        self._units = units
        self.worst = float(np.nanmax(valid[:, 0]))  # nobody has learned anything yet
        self._train, self._valid = (np.minimum(np.nan_to_num(t, nan=np.inf), self.worst) for t in (train, valid))
        self._free = np.ones(len(units), bool)

    @property
    def reference(self) -> tuple[float, float]:
        """The best loss in the table and the median of the rows' best."""
        best = self._valid[:, 1:].min(1)
        return float(best.min()), float(np.median(best))

    def expert(self) -> dict[str, object]:
        """See :class:`search.task.Task`."""
        lowest = {name: self.space.from_unit([0.0] * len(self.space.dims))[name] for name in self.space}
        return lowest | EXPERT

    def start(self, config: Config, seed: int, horizon: int | None = None) -> Row:
        """The nearest free row's curve; neither seed nor horizon change it. When all are taken, all are free again."""
        if not self._free.any():
            self._free[:] = True
        distance = ((self._units - np.array(self.space.to_unit(config))) ** 2).sum(1)
        row = int(np.argmin(np.where(self._free, distance, np.inf)))
        self._free[row] = False
        return Row(self._train[row, 1:], self._valid[row, 1:])


class Row:
    """One recorded training."""

    def __init__(self, train: np.ndarray, valid: np.ndarray) -> None:
        self._train, self._valid, self._epoch = train, valid, 0

    def step(self) -> dict[str, float]:
        """See :class:`search.task.Run`."""
        at = self._epoch
        self._epoch += 1
        return {"train_loss": float(self._train[at]), "val_loss": float(self._valid[at])}


@functools.cache
def _read(path: Path) -> dict[str, tuple[np.ndarray, lt.Space, np.ndarray, np.ndarray]]:
    with np.load(path) as file:
        columns = [str(name) for name in file["hyperparameters"]]
        if columns != list(COLUMNS):
            raise SystemExit(f"{path}: the columns are {columns}, not {list(COLUMNS)}.")
        out = {}
        for key in file.files:
            if not key.endswith(".config"):
                continue
            name = key.removesuffix(".config")
            table = np.array(file[key], float)
            for i, column in enumerate(columns):
                if column.startswith("beta"):
                    table[:, i] = 1 - table[:, i]
            low, high = table.min(0), table.max(0)
            space = lt.Space(
                {n: lt.Float(float(a), float(b), log=True) for n, a, b in zip(COLUMNS.values(), low, high, strict=True)}
            )
            units = (np.log(table) - np.log(low)) / (np.log(high) - np.log(low))
            out[name] = (units, space, np.array(file[f"{name}.train"]), np.array(file[f"{name}.valid"]))
    return out


def tables(path: Path) -> dict[str, Callable[[], TaskSet]]:
    """Every task of the file, by ``taskset_NAME``."""
    return {f"taskset_{name}": functools.partial(TaskSet, name, *parts) for name, parts in _read(path).items()}
