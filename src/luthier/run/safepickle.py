"""A pickle that holds data alone: numbers, text, containers, NumPy arrays. Anything else is refused when it is written,
and again when it is read, so that a forged one can run nothing.

What a pickle can do beyond making data it does by calling what it names. Here it may name nothing but the makers of
such data (Python's documentation of ``pickle``, "Restricting Globals").
"""

from __future__ import annotations

import pickle
from typing import IO, Any, cast

from luthier.core.errors import UserError

MAKERS = {
    *(("builtins", name) for name in ("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int",
                                      "list", "range", "set", "slice", "str", "tuple")),
    *(("collections", name) for name in ("Counter", "OrderedDict", "defaultdict", "deque")),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
}  # fmt: skip
"""Module and name of what a pickle may call."""


class Foreign(Exception):
    """A pickle that names something else than data."""


class _Writer(pickle.Pickler):
    def reducer_override(self, thing: Any) -> Any:
        """Called for everything but the simplest data, so for every class and function that the pickle would name."""
        if callable(thing) and hasattr(thing, "__qualname__"):
            place = (getattr(thing, "__module__", None), thing.__qualname__)
            if place not in MAKERS:
                raise UserError(
                    f"A state_dict holds a {place[0]}.{place[1]}, which is not plain data.",
                    "Keep numbers, text, lists, dicts and NumPy arrays in it; or write a file of your own: "
                    "trial.saving().",
                )
        return NotImplemented


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Called for everything that the pickle names."""
        if (module, name) not in MAKERS:
            raise Foreign(f"it names {module[:80]}.{name[:80]}, which is no data; nothing of it was run")
        return super().find_class(module, name)


def dump(content: Any, file: Any) -> None:
    """Write ``content``.

    Raises:
        UserError: it holds something else than data.
    """
    _Writer(cast("IO[bytes]", file)).dump(content)


def load(file: IO[bytes]) -> Any:
    """The inverse of :func:`dump`.

    Raises:
        Foreign: it names something that is no data.
        Exception: it is no pickle; any kind.
    """
    return _Reader(file).load()
