"""Every task by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from search.functions import FUNCTIONS
from search.live import LIVE
from search.task import Task
from search.taskset import tables


def tasks(taskset: Path | None = None) -> dict[str, Callable[[], Task]]:
    """Name -> a function that makes the task anew. The tabulated ones only with the file they are read from."""
    return {**LIVE, **FUNCTIONS, **(tables(taskset) if taskset else {})}
