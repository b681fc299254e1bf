"""Whether a study goes on with what it was trained by: what has moved is told from another function of its name."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.core.errors import UserError
from luthier.core.events import plain

Target = Mapping[str, Any]
"""How to find what is trained, as :func:`luthier.target.describe` has it."""


def changed(name: str, old: Target | None, new: Target | None) -> str:
    """That a study goes on with another target than its log names, in a sentence; empty where it is the same, or where
    either cannot be told.

    A file that is not there any more has moved; one that is there, and reads otherwise, holds another function.

    Raises:
        UserError: trainings of another function would be mixed with those of the study.
    """
    if old is None or new is None or _same(old, new):
        return ""
    before, after = _file(old), _file(new)
    moved = before is None or after is None or before == after or not os.path.isfile(before) or _alike(before, after)
    if old.keys().isdisjoint(new) or not moved:
        raise UserError(
            f"The storage already holds a study {name!r} of another function: {shown(old)} there, {shown(new)} here.",
            "Use another name= (--name) or storage= (--storage); or say that it is to go on with this one: "
            "luthier resume STUDY --target FILE.py:NAME.",
        )
    return f"The study {name!r} goes on with {shown(new)}; so far it was trained by {shown(old)}."


def shown(target: Target) -> str:
    """A target as users write it."""
    if "reference" in target:
        file, _, function = str(target["reference"]).rpartition(":")
        near = os.path.relpath(file)
        return f"{file if near.startswith('..') else near}:{function}"
    return shlex.join(target["script"]["command"]) if "script" in target else "a recipe"


def _same(old: Target, new: Target) -> bool:
    """Whether two descriptions lead to the same; a file and its study may have moved together."""
    return any(key in new and plain(old[key]) == plain(new[key]) for key in old)


def _file(target: Target) -> str | None:
    """The file that holds what is trained; of a command, its first word that has a file's ending."""
    if "reference" in target:
        return str(target["reference"]).rpartition(":")[0]
    held = target.get("script")
    if held is None:
        return None
    named = (word for word in held["command"] if not word.startswith("-") and Path(word).suffix)
    return next((str(Path(held["cwd"]) / word) for word in named), None)


def _alike(one: str, other: str) -> bool:
    """Whether two files read the same."""
    try:
        return Path(one).read_bytes() == Path(other).read_bytes()
    except OSError:
        return False
