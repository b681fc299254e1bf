"""Learning curves from a table: every row a configuration that somebody trained, looked up by nearness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.errors import UserError, nearest
from luthier.core.params import Choice, Config, Float, Value
from luthier.core.space import Space

Array = np.ndarray[Any, np.dtype[np.float64]]


class Table:
    """Recorded curves as a function ``(config, epoch, seed) -> metrics``, for :func:`luthier.simulate`.

    A configuration gets the curve of the nearest row: Euclidean distance in the unit cube of the table's space, two
    different choices one apart. The seed has no say: a table holds one training of each row.

    Args:
        space: the space in which the rows lie; what is outside counts as at its edge.
        configs: one configuration a row.
        curves: of each metric an array of shape (rows, epochs): column ``k`` is what epoch ``k + 1`` reports. Values
            that are not finite are reported as they are: the training diverged.

    Raises:
        UserError: no rows, or curves of another shape.
    """

    def __init__(self, space: Space, configs: Sequence[Config], curves: Mapping[str, Any]) -> None:
        self.space = space
        self.configs = tuple(configs)
        self.curves: dict[str, Array] = {name: np.asarray(c, dtype=np.float64) for name, c in curves.items()}
        shapes = {c.shape for c in self.curves.values()}
        if not self.configs or not shapes:
            raise UserError("The table is empty.", "Give at least one configuration and one metric.")
        if len(shapes) > 1 or len(shape := next(iter(shapes))) != 2 or shape[0] != len(self.configs) or shape[1] < 1:
            seen = ", ".join(f"{name} {c.shape}" for name, c in self.curves.items())
            raise UserError(
                f"The curves of {len(self.configs)} configurations have the shapes {seen}.",
                "Every metric needs an array of shape (rows, epochs).",
            )
        self._choices = np.array([isinstance(space[name], Choice) for name in space.dims], dtype=bool)
        self._points = np.array([self._point(c) for c in self.configs]).reshape(len(self.configs), len(space.dims))
        self._rows: dict[tuple[tuple[str, Value], ...], int] = {}

    @property
    def epochs(self) -> int:
        """The length of its curves."""
        return int(next(iter(self.curves.values())).shape[1])

    def __len__(self) -> int:
        return len(self.configs)

    def __call__(self, config: Config, epoch: int, seed: int = 0) -> dict[str, float]:
        """The metrics that the nearest row reported after ``epoch``, from 1.

        Raises:
            UserError: an epoch beyond the table's, or a hyperparameter that it does not know.
        """
        if not 1 <= epoch <= self.epochs:
            raise UserError(
                f"The table has the epochs 1 to {self.epochs}, epoch {epoch} was asked for.",
                f"Choose max_epochs={self.epochs} or less.",
            )
        row = self.nearest(config)
        return {name: float(c[row, epoch - 1]) for name, c in self.curves.items()}

    def nearest(self, config: Config) -> int:
        """The row nearest to ``config``; the first of several at the same distance."""
        key = tuple(config.items())
        if key not in self._rows:
            apart = np.abs(self._points - self._point(config))
            apart[:, self._choices] = apart[:, self._choices] > 0
            self._rows[key] = int(np.argmin((apart**2).sum(axis=1)))
        return self._rows[key]

    def _point(self, config: Config) -> Array:
        for name in config:
            if name not in self.space:
                raise UserError(f"The table does not know the hyperparameter {name!r}.", nearest(name, self.space))
        return np.asarray(self.space.to_unit(config), dtype=np.float64)

    @classmethod
    def taskset(cls, path: str | Path, task: str | None = None) -> Table:
        """A task of a TaskSet file: ``hyperparameters`` (names), ``TASK.config``, ``TASK.train`` and ``TASK.valid``.

        The metrics are ``train_loss`` and ``val_loss``. The first evaluation, before any training, is left out. The
        space is the range of each column, on a log scale.

        TaskSet: Metz et al., "Using a Thousand Optimization Tasks to Learn Hyperparameter Search Strategies", arXiv
        2002.11887.

        Args:
            path: the ``.npz`` file.
            task: its name; may be left out where the file holds one.

        Raises:
            UserError: no such file or task, or a file of another kind.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                held = {name: file[name] for name in file.files}
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read as an .npz file: {error}.", "Name a TaskSet file.") from None
        tasks = sorted(name.removesuffix(".config") for name in held if name.endswith(".config"))
        if "hyperparameters" not in held or not tasks:
            raise UserError(f"{path} is no TaskSet file: it holds {', '.join(sorted(held)) or 'nothing'}.")
        if task is None:
            if len(tasks) > 1:
                raise UserError(f"{path} holds {len(tasks)} tasks: {', '.join(tasks)}.", "Choose one with task=.")
            task = tasks[0]
        missing = [k for k in (f"{task}.config", f"{task}.train", f"{task}.valid") if k not in held]
        if missing:
            raise UserError(f"{path} holds no {missing[0]!r}.", nearest(task, tasks))
        names, values = [str(n) for n in held["hyperparameters"]], held[f"{task}.config"]
        lows, highs = values.min(axis=0).tolist(), values.max(axis=0).tolist()
        space = Space({n: Float(a, b, log=a > 0) for n, a, b in zip(names, lows, highs)})
        configs = [dict(zip(names, row)) for row in values.tolist()]
        return cls(
            space, configs, {"train_loss": held[f"{task}.train"][:, 1:], "val_loss": held[f"{task}.valid"][:, 1:]}
        )
