"""Configurations as rows of numbers: what a model of the space is trained on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from luthier.core.params import Choice, Config, Constant, Float, Int, Param
from luthier.core.space import Space

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Encoder:
    """Points of a space's unit cube as features, many at once.

    A number keeps its position on its scale, a whole number that of its rounded value. A choice becomes one column a
    value, 0 or sqrt(1/2), so that any two values are 1 apart. An inactive hyperparameter lies in the middle: 0.5, or
    0 in all columns of a choice.

    Args:
        space: the space; its ``dims`` are the columns of a point.
    """

    space: Space

    @property
    def groups(self) -> tuple[int, ...]:
        """The dimension that each feature belongs to, of shape (features,)."""
        return tuple(i for i, p in enumerate(self._params()) for _ in range(_width(p)))

    def holds(self, config: Config) -> bool:
        """Whether :meth:`units` can place ``config``: its choices are ones of the space. Numbers out of range are moved
        onto its bounds."""
        choices = [(n, p.choices) for n, p in self.space.items() if isinstance(p, Choice)]
        return all(n not in config or config[n] in known for n, known in choices)

    def units(self, configs: Iterable[Config]) -> Array:
        """The points of ``configs``, of shape (configs, dims), each in [0, 1]."""
        rows = [self.space.to_unit(c) for c in configs]
        return np.array(rows, dtype=float).reshape(len(rows), len(self.space.dims))

    def features(self, units: Array) -> Array:
        """The features of points of shape (n, dims): of shape (n, features)."""
        active = self.active(units)
        columns = []
        for j, param in enumerate(self._params()):
            u, on = units[:, j], active[:, j]
            if isinstance(param, Choice):
                index = _index(param, u)
                hot = (index[:, None] == np.arange(len(param.choices))) & on[:, None]
                columns.append(hot * np.sqrt(0.5))
            else:
                columns.append(np.where(on, _snapped(param, u), 0.5)[:, None])
        return np.concatenate(columns, axis=1) if columns else np.zeros((len(units), 0))

    def active(self, units: Array) -> NDArray[np.bool_]:
        """Which dimensions are active at points of shape (n, dims): of the same shape."""
        dims = self.space.dims
        column = {name: j for j, name in enumerate(dims)}
        on: dict[str, NDArray[np.bool_]] = {}
        for name in self.space.parents_first:
            mask = np.ones(len(units), dtype=bool)
            for parent, values in (self.space[name].when or {}).items():
                mask &= on[parent]
                above = self.space[parent]
                if isinstance(above, Constant):
                    mask &= any(v == above.value and type(v) is type(above.value) for v in values)
                elif isinstance(above, Choice):
                    wanted = [above.index(v) for v in values]
                    mask &= np.isin(_index(above, units[:, column[parent]]), wanted)
                else:
                    held = np.array([above.from_unit(float(u)) for u in units[:, column[parent]]])
                    mask &= np.isin(held, [float(v) for v in values])
            on[name] = mask
        return np.stack([on[name] for name in dims], axis=1) if dims else np.zeros((len(units), 0), dtype=bool)

    def moved(self, around: Array, many: int, width: float, rng: np.random.Generator) -> Array:
        """``many`` points near those of ``around``, of shape (k, dims), in turn: of shape (many, dims).

        A number moves with probability 1/2, by a normal of that ``width`` that is reflected at the ends of the scale;
        of the choices one is drawn anew with about the same probability. One coordinate at least moves.
        """
        d = len(self.space.dims)
        base = around[np.arange(many) % len(around)]
        choices = np.array([isinstance(p, Choice) for p in self._params()], dtype=bool)
        step = np.abs(base + width * rng.normal(size=(many, d)))
        step = np.where(step > 1.0, 2.0 - step, step)
        step = np.where(choices, rng.random((many, d)), step)
        chance = np.where(choices, 0.5 / max(1, int(choices.sum())), 0.5)
        moves = rng.random((many, d)) < chance
        if d:
            moves[np.arange(many), rng.integers(d, size=many)] |= ~moves.any(axis=1)
        out: Array = np.clip(np.where(moves, step, base), 0.0, 1.0)
        return out

    def _params(self) -> list[Param]:
        return [self.space[name] for name in self.space.dims]


def _width(param: Param) -> int:
    return len(param.choices) if isinstance(param, Choice) else 1


def _index(param: Choice, u: Array) -> NDArray[np.int64]:
    many = len(param.choices)
    return np.minimum((u * many).astype(np.int64), many - 1)


def _snapped(param: Param, u: Array) -> Array:
    """Positions on the scale, those of whole numbers moved to where the value lies that they stand for."""
    if isinstance(param, Float):
        return u
    assert isinstance(param, Int)
    low, high = param.low - 0.5, param.high + 0.5
    if param.log:
        low, high = np.log(low), np.log(high)
    x = low + u * (high - low)
    value = np.clip(np.round(np.exp(x) if param.log else x), param.low, param.high)
    return np.asarray(((np.log(value) if param.log else value) - low) / (high - low))
