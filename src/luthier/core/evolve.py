"""Copies of frozen records with some fields changed, at a third of the price of ``dataclasses.replace``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar

T = TypeVar("T")


def evolve(old: T, changes: Mapping[str, Any]) -> T:
    """``old`` with ``changes``: for slotted dataclasses that check nothing when they are made."""
    kind: Any = type(old)
    values, setters = _parts(kind)
    new: T = object.__new__(kind)
    for put, value in zip(setters.values(), values(old)):
        put(new, value)
    for name, value in changes.items():
        setters[name](new, value)
    return new


@cache
def _parts(kind: Any) -> tuple[Any, dict[str, Any]]:
    """How to read all fields of a class, and how to set each: through its slots, which know of no freezing."""
    names = [f.name for f in fields(kind)]
    return attrgetter(*names), {name: kind.__dict__[name].__set__ for name in names}
