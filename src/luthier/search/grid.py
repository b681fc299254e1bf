"""Grid search: every combination of a few levels, the first hyperparameter of the space varying slowest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

import numpy as np

from luthier.core.history import History
from luthier.core.params import Config, Float, Value
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
        cells = cells_of(history.space, self.resolution)
        started = history.n_drawn
        return cells.cell(started) if started < cells.count else None


def grid(space: Space, resolution: int) -> tuple[Config, ...]:
    """All cells of the grid. An inactive hyperparameter makes no cells of its own."""
    cells = cells_of(space, resolution)
    return tuple(cells.cell(n) for n in range(cells.count))


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of a grid by number, without a list of them: a grid of 20 hyperparameters has billions.

    A cell is a choice of levels in which whatever is inactive stands at its first one. The number of cells below a
    prefix of the names depends on few of them: those that decide whether a name is active of which not all is known
    yet. So counting costs little, and the n-th cell is found name by name.

    Args:
        space: the space.
        levels: of each name, in the space's order, the values it takes.
        kept: of each prefix, the places in it on which what follows depends.
        decided: of each place, the places of which it is known there whether they are active.
    """

    space: Space
    levels: tuple[Sequence[Value], ...]
    kept: tuple[tuple[int, ...], ...]
    decided: tuple[tuple[int, ...], ...]
    _counts: dict[tuple[int, tuple[int, ...]], int] = field(default_factory=dict, repr=False, compare=False)

    @property
    def count(self) -> int:
        """How many cells there are."""
        return self._below(0, ())

    def cell(self, number: int) -> Config:
        """The cell with this number, from 0."""
        chosen: tuple[int, ...] = ()
        known: tuple[int, ...] = ()
        for place in range(len(self.levels)):
            for level in range(len(self.levels[place])):
                after = self._after(place, known, level)
                below = 0 if after is None else self._below(place + 1, after)
                if number < below and after is not None:
                    break
                number -= below
            else:
                raise IndexError(number)
            chosen, known = (*chosen, level), after
        return self.space.assemble(dict(zip(self.space, (v[k] for v, k in zip(self.levels, chosen)))))

    def _below(self, place: int, known: tuple[int, ...]) -> int:
        """How many cells there are, given the levels ``known`` of the places kept before ``place``."""
        if place == len(self.levels):
            return 1
        if (place, known) not in self._counts:
            steps = (self._after(place, known, level) for level in range(len(self.levels[place])))
            self._counts[place, known] = sum(self._below(place + 1, after) for after in steps if after is not None)
        return self._counts[place, known]

    def _after(self, place: int, known: tuple[int, ...], level: int) -> tuple[int, ...] | None:
        """The levels to keep after ``place`` takes ``level``; None where something inactive is not at its first one."""
        at = dict(zip(self.kept[place], known)) | {place: level}
        names = tuple(self.space)
        bases = {names[p]: self.levels[p][k] for p, k in at.items()}
        config: dict[str, Value] = {}
        for name in self.space.parents_first:
            if name in bases and self.space.is_active(name, config):
                config[name] = self.space.coupled(name, bases[name], config)
        if any(at[p] > 0 and names[p] not in config for p in self.decided[place]):
            return None
        return tuple(at[p] for p in self.kept[place + 1])


@lru_cache(maxsize=8)
def cells_of(space: Space, resolution: int) -> Cells:
    """The grid of a space."""
    places = {name: place for place, name in enumerate(space)}
    involved = {places[name]: {places[n] for n in _family(space, name)} for name in space}
    kept = tuple(
        tuple(sorted({q for family in involved.values() if max(family) >= p for q in family if q < p}))
        for p in range(len(space) + 1)
    )
    decided = tuple(tuple(q for q, family in involved.items() if max(family) == p) for p in range(len(space)))
    return Cells(space, tuple(space[name].levels(resolution) for name in space), kept, decided)


def _family(space: Space, name: str) -> set[str]:
    """``name`` and every hyperparameter that decides whether it is active."""
    param = space[name]
    parents = [*(param.when or {}), *(space.follows(name) if isinstance(param, Float) else ())]
    return {name}.union(*(_family(space, parent) for parent in parents))
