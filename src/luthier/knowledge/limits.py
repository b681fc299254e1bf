"""Where a range ends and where it may go on: edges, and ranges a step wider."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

from luthier.core.params import Config, Float, Int
from luthier.core.space import Space
from luthier.knowledge.roles import role_of, tier_of

End = Literal["lower", "upper"]

EDGE = 0.02
"""A value within this part of its scale from an end of the range lies on the edge."""
DECADE, DOUBLE = 10.0, 2.0
"""How far a logarithmic range goes on, and one of capacity or of whole numbers on such a scale (Godbole et al., Deep
Learning Tuning Playbook, 2023: widen a range whose best point lies near its boundary)."""
QUARTER = 0.25
"""How far a linear range goes on, in terms of itself. Our choice."""
SHARE = 0.99
"""Largest value that a share may be widened to: dropout, a momentum and their kin must stay below 1."""


def edge_of(space: Space, name: str, config: Config) -> End | None:
    """The end of its range at which ``name`` lies in ``config``; None inside of it, and for what has no range."""
    param = space.get(name)
    if not isinstance(param, Float | Int) or name not in config:
        return None
    value = space.base(name, config)
    at = param.to_unit(value)
    if at <= EDGE or value == param.low:
        return "lower"
    return "upper" if at >= 1 - EDGE or value == param.high else None


def widened(space: Space, name: str, end: End, most: int | None = None) -> Float | Int | None:
    """The range of ``name`` a step further at one end; None where it cannot or need not go on.

    A decade for logarithmic scales, a factor of two for capacity and for whole numbers on such a scale, a quarter of
    itself for linear ones. A share stays below 1, a count above 0, and what is switched off at 0 has no lower.

    Args:
        most: the largest value that makes sense here, such as a batch of the whole data.
    """
    param = space[name]
    if not isinstance(param, Float | Int) or _natural(name, param, end):
        return None
    value = _beyond(name, param, end)
    if end == "upper":
        value = min(value, _cap(name, param), math.inf if most is None else most)
    value = max(1, round(value)) if isinstance(param, Int) else float(f"{value:.6g}")
    if (value >= param.low) if end == "lower" else (value <= param.high):
        return None
    return replace(param, low=value) if end == "lower" else replace(param, high=value)  # type: ignore[arg-type]


def _natural(name: str, param: Float | Int, end: End) -> bool:
    """Whether a range ends by itself: a share at 0 or 1, a count at 1, what is switched off at 0."""
    edge = param.low if end == "lower" else param.high
    if end == "lower":
        return edge <= 0 or (isinstance(param, Int) and edge <= 1)
    return edge == 1 or edge >= _cap(name, param)


def _cap(name: str, param: Float | Int) -> float:
    """The largest value that the role allows: below 1 for a share."""
    known = role_of(name, param)
    if isinstance(param, Int) or known is None or known.high is None or known.log:
        return math.inf
    return SHARE if known.high <= 1 else math.inf


def _beyond(name: str, param: Float | Int, end: End) -> float:
    """The end of the range after one step."""
    capacity = tier_of(name, param) == 3
    if param.log or capacity:
        factor = DOUBLE if capacity or isinstance(param, Int) else DECADE
        return param.low / factor if end == "lower" else param.high * factor
    step = max(QUARTER * (param.high - param.low), 1.0 if isinstance(param, Int) else 0.0)
    if end == "upper":
        return param.high + step
    return max(param.low - step, param.low / 2)
