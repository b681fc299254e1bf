"""Every error that Luthier raises on purpose, drawn as a tree.

LuthierError
├── UserError         what was asked cannot be done; nothing has been written   (exit code 2)
│   ├── SpaceError    a hyperparameter or a search space is malformed
│   └── StorageError  a study file cannot be read, written or found
├── RunError          the study started and could not go on                     (exit code 1)
└── Conflict          somebody else appended to the log first; read, then try again
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral
from typing import Any


class LuthierError(Exception):
    """The root of every error raised on purpose."""


class UserError(LuthierError):
    """A mistake in what was asked for.

    Args:
        problem: what is wrong, naming the thing and the value that was seen.
        mend: how to put it right, as an instruction.
    """

    def __init__(self, problem: str, mend: str = "") -> None:
        self.problem = problem
        self.mend = mend
        super().__init__(f"{problem} {mend}".strip())


class SpaceError(UserError):
    """A hyperparameter or a search space is malformed."""


class StorageError(UserError):
    """A study cannot be found, read or written."""


class RunError(LuthierError):
    """The study started but could not go on; what it recorded is kept."""


class Conflict(LuthierError):
    """The log is longer than the writer believed: somebody else appended first."""


def nearest(word: str, known: Iterable[str]) -> str:
    """``Did you mean 'x'?`` for the closest of ``known``, else the list of what is known."""
    names = sorted(str(k) for k in known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known: {', '.join(names)}." if names else ""


def whole(name: str, value: Any, least: int) -> int:
    """``value`` as an int; refuses anything but a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise UserError(
            f"{name} must be a whole number of at least {least}, got {value!r}.", f"Write {name}={max(least, 1)}."
        )
    return int(value)
