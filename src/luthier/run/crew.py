"""Who trains, and on what: what the user writes, as a value that becomes an executor."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import UserError, whole
from luthier.run.gpus import Asked, discover, wanted
from luthier.run.interrupts import SAVED
from luthier.run.limits import Limits
from luthier.run.machine import core_ids, cores, room
from luthier.run.slots import Facts, Measured, Plan, auto, fixed

if TYPE_CHECKING:
    from luthier.contracts import Executor


@dataclass(frozen=True, slots=True)
class Crew:
    """Who trains the jobs of a study.

    Args:
        workers: how many train at once; 0 trains in the driver's own process; ``"auto"``: as many as the machine bears.
        threads: processor threads of each process; its share of the cores where None.
        gpus: which GPUs the workers are dealt: ``"auto"`` for all, how many, or which; None deals none.
        processes: how many processes train each trial.
        pin: whether each worker is kept to its own share of the cores.
        elsewhere: makes the executor of workers that come from elsewhere, of the study's folder of files and whether it
            was asked to stop; workers and threads are theirs then.

    Raises:
        UserError: a number that is none, or too small, or what does not go together.
    """

    workers: int | str = 1
    threads: int | None = None
    gpus: Asked = None
    processes: int = 1
    pin: bool = False
    elsewhere: Callable[[Path, Callable[[], bool]], Executor] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.workers, str) and self.workers != "auto":
            try:
                object.__setattr__(self, "workers", int(self.workers))
            except ValueError:
                raise UserError(
                    f"workers={self.workers!r} is no number of workers.", 'Write a whole number, or "auto".'
                ) from None
        if self.workers != "auto":
            whole("workers", self.workers, 0)
        if self.threads is not None:
            whole("threads", self.threads, 1)
        whole("processes", self.processes, 1)
        if self.gpus is not None:
            wanted(self.gpus)
        if self.workers == 0 and (self.gpus is not None or self.processes > 1 or self.pin):
            raise UserError(
                "workers=0 trains in this process, which has no GPUs, processes or cores to deal.",
                "Use workers=1, or leave gpus, processes and pin out.",
            )
        if self.workers == "auto" and self.pin:
            raise UserError("pin=True wants a number of workers to share the cores among.", "Write workers=4, say.")

    @property
    def parting(self) -> str:
        """What becomes of the running trials when the study is asked to stop."""
        return SAVED if self.elsewhere is None else "what runs stays with its workers"

    def accept(self, target: Callable[..., Any]) -> None:
        """Refuse a target that this crew cannot train.

        Raises:
            UserError: a script whose trials would all write to one place at once, or a target that trains in one
                process only.
        """
        if self.workers not in (0, 1) and (place := getattr(target, "shared", "")):
            raise UserError(
                f"{place!r} is one place for all trials, and {self.workers} of them would write there at once."
                if self.workers != "auto"
                else f"{place!r} is one place for all trials, and several of them would write there at once.",
                "Give each its own: {out} in the command and in the path is a folder of the trial's; or use one "
                "worker.",
            )
        if self.processes > 1 and (hasattr(target, "for_study") or hasattr(target, "probe")):
            script = hasattr(target, "for_study")
            raise UserError(
                f"processes={self.processes}: a {'script' if script else 'recipe'} trains in one process.",
                f"Let the command start them: -- torchrun --nproc-per-node {self.processes} main.py ..."
                if script
                else "Write a training function that calls torch.distributed.",
            )

    def hire(
        self,
        target: Callable[..., Any],
        files: Path,
        limits: Limits,
        asked: Callable[[], bool],
        say: Callable[[str], None] = lambda text: None,
    ) -> Executor:
        """The executor; its processes start now, and ``close`` ends them.

        Args:
            target: the training function or recipe.
            files: the study's folder of files (checkpoints, logs).
            asked: whether the study was asked to stop.
            say: told what the workers get of the machine, where that is not what they always get.

        Raises:
            UserError: GPUs that are not there.
        """
        if self.elsewhere is not None:
            return self.elsewhere(files, asked)
        from luthier.run.inprocess import InProcess  # the command line loads no NumPy to show its help
        from luthier.run.pool import LocalPool

        if self.workers == 0:
            return InProcess(target, files, asked)
        plan = self._plan()
        plain = self == Crew(self.workers, self.threads) and self.workers != "auto"
        return LocalPool(
            target, plan, files, limits, processes=self.processes, say=(lambda text: None) if plain else say
        )

    def _plan(self) -> Plan | Callable[[Measured], Plan]:
        """What each worker gets of this machine."""
        gpus = None if self.gpus is None else discover(self.gpus, os.environ)
        facts = Facts(core_ids(), cores(), room(), gpus)
        if isinstance(self.workers, int):
            return fixed(facts, self.workers, threads=self.threads, processes=self.processes, pin=self.pin)
        return partial(auto, facts, threads=self.threads, processes=self.processes)
