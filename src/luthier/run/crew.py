"""Who trains, and on what: what the user writes, as a value that becomes an executor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import UserError, whole
from luthier.run.limits import Limits

if TYPE_CHECKING:
    from luthier.contracts import Executor


@dataclass(frozen=True, slots=True)
class Crew:
    """Who trains the jobs of a study.

    Args:
        workers: how many train at once; 0 trains in the driver's own process.
        threads: processor threads of each worker; cores / workers where None.

    Raises:
        UserError: a number that is none, or too small.
    """

    workers: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        whole("workers", self.workers, 0)
        if self.threads is not None:
            whole("threads", self.threads, 1)

    def accept(self, target: Callable[..., Any]) -> None:
        """Refuse a target that this crew cannot train.

        Raises:
            UserError: a script whose trials would all write to one place at once.
        """
        if self.workers > 1 and (place := getattr(target, "shared", "")):
            raise UserError(
                f"{place!r} is one place for all trials, and {self.workers} of them would write there at once.",
                "Give each its own: {out} in the command and in the path is a folder of the trial's; or use one "
                "worker.",
            )

    def hire(self, target: Callable[..., Any], files: Path, limits: Limits, asked: Callable[[], bool]) -> Executor:
        """The executor; its processes start now, and ``close`` ends them.

        Args:
            target: the training function or recipe.
            files: the study's folder of files (checkpoints, logs).
            asked: whether the study was asked to stop.
        """
        from luthier.run.pool import InProcess, LocalPool  # the command line loads no NumPy to show its help

        if self.workers == 0:
            return InProcess(target, files, asked)
        return LocalPool(target, self.workers, files, self.threads, limits)
