"""Grid search: every combination of a few levels, the first hyperparameter of the space varying slowest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from luthier.core.history import History
from luthier.core.params import Config, Value
from luthier.core.space import Space


@dataclass(frozen=True, slots=True)
class Grid:
    """Every combination once.

    Args:
        resolution: levels of each Float and Int, evenly spaced on its scale, ends included; a Choice has all of its
            own.
    """

    resolution: int = 3
    name: ClassVar[str] = "grid"

    def suggest(self, history: History, rng: np.random.Generator) -> Config | None:
        """The next combination; None when all were started."""
        cells = grid(history.space, self.resolution)
        started = history.n_trained
        return cells[started] if started < len(cells) else None


@lru_cache(maxsize=8)
def grid(space: Space, resolution: int) -> tuple[Config, ...]:
    """All cells of the grid. An inactive hyperparameter makes no cells of its own."""
    cells: dict[tuple[tuple[str, Value], ...], Config] = {}
    for combination in _combinations(space, resolution):
        active = space.assemble(combination)
        cells.setdefault(tuple(active.items()), active)
    return tuple(cells.values())


def _combinations(space: Space, resolution: int) -> Iterator[dict[str, Value]]:
    def extend(names: list[str], partial: dict[str, Value]) -> Iterator[dict[str, Value]]:
        if not names:
            yield partial
            return
        for level in space[names[0]].levels(resolution):
            yield from extend(names[1:], {**partial, names[0]: level})

    yield from extend(list(space), {})
