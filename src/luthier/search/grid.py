"""Grid search: every combination of a few levels, the first hyperparameter of the space varying slowest.

Cells have numbers, and the n-th trial takes the n-th of them. In a space that was changed they have others: from then
on the cells that were tried before are passed over.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

import numpy as np

from luthier.core.errors import SpaceError, whole
from luthier.core.history import History
from luthier.core.index import Changes
from luthier.core.ordered import Ordered
from luthier.core.params import Choice, Config, Float, Value
from luthier.core.space import Space


@dataclass(frozen=True, slots=True)
class Grid:
    """Every combination once.

    Args:
        resolution: levels of each Float and Int, at least 1, evenly spaced on its scale, ends included; a Choice has
            all of its own.
    """

    resolution: int = 3
    name: ClassVar[str] = "grid"

    def __post_init__(self) -> None:
        whole("resolution", self.resolution, 1)

    def suggest(self, history: History, rng: np.random.Generator) -> Config | None:
        """The next combination; None when all were started."""
        cells, number = cells_of(history.space, self.resolution), history.n_drawn
        if history.widened:
            number = history.index(Before(history.space, self.resolution, history.widened)).next(number)
        return cells.cell(number) if number < cells.count else None


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
    _known: dict[tuple[int, tuple[int, ...]], Sequence[tuple[tuple[int, ...] | None, int]]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def count(self) -> int:
        """How many cells there are."""
        return self._below(0, ())

    def cell(self, number: int) -> Config:
        """The cell with this number, from 0."""
        chosen: tuple[int, ...] = ()
        known: tuple[int, ...] = ()
        for place in range(len(self.levels)):
            for level, (after, below) in enumerate(self._steps(place, known)):
                if number < below and after is not None:
                    chosen, known = (*chosen, level), after
                    break
                number -= below
            else:
                raise IndexError(number)
        return self.space.assemble(dict(zip(self.space, (v[k] for v, k in zip(self.levels, chosen)))))

    def number(self, config: Config) -> int | None:
        """The number of the cell with this configuration; None where there is none."""
        number = 0
        known: tuple[int, ...] = ()
        for place, name in enumerate(self.space):
            level, steps = self._level(place, name, config), self._steps(place, known)
            after = None if level is None else steps[level][0]
            if after is None:
                return None
            number, known = number + sum(below for _, below in steps[:level]), after
        return number if self.cell(number).keys() == config.keys() else None

    def _level(self, place: int, name: str, config: Config) -> int | None:
        """The level at which a name stands in ``config``, the first where it is inactive; None where at none."""
        if name not in config:
            return 0
        value, param = self.space.base(name, config), self.space[name]
        if isinstance(param, Choice):
            try:
                return param.index(value)
            except SpaceError:
                return None
        # What follows another was scaled and rounded on its way into the configuration.
        scaled, levels = isinstance(param, Float) and bool(self.space.follows(name)), enumerate(self.levels[place])
        return next((k for k, v in levels if v == value or (scaled and _near(v, value))), None)

    def _below(self, place: int, known: tuple[int, ...]) -> int:
        """How many cells there are, given the levels ``known`` of the places kept before ``place``."""
        return 1 if place == len(self.levels) else sum(below for _, below in self._steps(place, known))

    def _steps(self, place: int, known: tuple[int, ...]) -> Sequence[tuple[tuple[int, ...] | None, int]]:
        """Of each level at ``place`` the levels to keep after it, and how many cells there are then."""
        if (place, known) not in self._known:
            kept = [self._after(place, known, level) for level in range(len(self.levels[place]))]
            self._known[place, known] = [(k, 0 if k is None else self._below(place + 1, k)) for k in kept]
        return self._known[place, known]

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


@dataclass(frozen=True, slots=True)
class Passed:
    """What a grid did before its space was changed.

    Args:
        cells: the numbers that those of its trials have now which are cells of the new grid, smallest first.
        drawn: how many trials it had.
    """

    cells: Ordered[int] = field(default_factory=Ordered)
    drawn: int = 0

    def next(self, drawn: int) -> int:
        """The number of the cell for the next trial, ``drawn`` being how many there were in all."""
        number = drawn - self.drawn
        return number + bisect_right(range(len(self.cells)), number, key=lambda i: self.cells[i] - i)


@dataclass(frozen=True, slots=True)
class Before:
    """The index of it (:mod:`luthier.core.index`): the first ``many`` trials in the grid of ``space``."""

    space: Space
    resolution: int
    many: int

    def empty(self) -> Passed:
        """Nothing."""
        return Passed()

    def change(self, value: Passed, changes: Changes) -> Passed:
        """With the new ones of those trials, what was added by hand left out."""
        for old, new in changes:
            if old is None and new.id < self.many and new.probe is None and not new.by_hand:
                number = cells_of(self.space, self.resolution).number(new.config)
                cells = value.cells if number is None else value.cells.with_item(number)
                value = Passed(cells, value.drawn + 1)
        return value


def _near(level: Value, value: Value) -> bool:
    return math.isclose(float(str(level)), float(str(value)), rel_tol=1e-9)


def _family(space: Space, name: str) -> set[str]:
    """``name`` and every hyperparameter that decides whether it is active."""
    param = space[name]
    parents = [*(param.when or {}), *(space.follows(name) if isinstance(param, Float) else ())]
    return {name}.union(*(_family(space, parent) for parent in parents))
