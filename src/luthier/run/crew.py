"""Who trains, and on what: what the user writes, as a value that becomes an executor."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import UserError, nearest, whole
from luthier.run.gpus import AskedGpus, discover, wanted
from luthier.run.interrupts import SAVED
from luthier.run.limits import Limits
from luthier.run.machine import core_ids, cores, room
from luthier.run.slots import Facts, Measured, Roster, auto, fixed

if TYPE_CHECKING:
    from luthier.contracts import Executor

LOCAL = "local"
EXECUTORS = (LOCAL, "ray", "slurm")
EXAMPLES = {"resources": "CPU=2,GPU=1", "slurm": "partition=gpu,time=60"}


@dataclass(frozen=True, slots=True)
class Crew:
    """Who trains the jobs of a study.

    Args:
        workers: how many train at once; 0 trains in the driver's own process; ``"auto"``: as many as the machine bears.
        threads: processor threads of each process; its share of the cores where None.
        gpus: which GPUs the workers are dealt: ``"auto"`` for all, how many, or which; None deals none.
        processes: how many processes train each trial, all on one node.
        pin: whether each worker is kept to its own share of the cores.
        executor: ``"local"``, ``"ray"``, ``"ray:ADDRESS"`` or ``"slurm"``.
        resources: what a worker on Ray needs, ``{"CPU": 2, "GPU": 1}`` or ``"CPU=2,GPU=1"``.
        slurm: options of the Slurm jobs, ``{"partition": "gpu", "time": 60}`` or ``"partition=gpu,time=60"``.
        elsewhere: makes the executor of workers that come from elsewhere, of the study's folder of files and whether it
            was asked to stop; workers and threads are theirs then.

    Raises:
        UserError: a number that is none, or too small; an unknown executor; what does not go together.
    """

    workers: int | str = 1
    threads: int | None = None
    gpus: AskedGpus = None
    processes: int = 1
    pin: bool = False
    executor: str = LOCAL
    resources: Mapping[str, float] | str | None = None
    slurm: Mapping[str, Any] | str | None = None
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
        self._check_local()
        self._check_cluster()

    def _check_local(self) -> None:
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

    def _check_cluster(self) -> None:
        if self.kind not in EXECUTORS:
            raise UserError(f"executor={self.executor!r} is unknown.", nearest(self.kind, EXECUTORS))
        if self.kind != LOCAL and self.workers == 0:
            raise UserError(f"workers=0 trains in this process, not on {self.kind}.", "Write workers=1, or more.")
        for name, given, kind in (("resources", self.resources, "ray"), ("slurm", self.slurm, "slurm")):
            if given is not None and self.kind != kind:
                raise UserError(
                    f"{name}={given!r} is for executor={kind!r}, this one is {self.executor!r}.",
                    f"Write executor={kind!r}, or leave {name} out.",
                )
        here = {"gpus": self.gpus is not None, "pin": self.pin}
        here |= {'workers="auto"': self.workers == "auto"}
        if self.kind != LOCAL and (said := next((name for name, given in here.items() if given), None)):
            raise UserError(
                f"{said} is for the workers of this machine, not for executor={self.executor!r}.",
                'Say what a worker needs: resources={"GPU": 1} on Ray, slurm={"gpus_per_node": 1} on Slurm.',
            )
        has = {
            "resources: GPU": amounts("resources", self.resources).get("GPU", 0),
            "slurm: gpus_per_node": options("slurm", self.slurm).get("gpus_per_node", 0),
        }
        for name, count in has.items():
            if isinstance(count, int | float) and 0 < count < self.processes:
                raise UserError(
                    f"{name}={count:g}: {self.processes} processes of a trial cannot have one each.",
                    f"Ask for {self.processes}, or for fewer processes.",
                )

    @property
    def parting(self) -> str:
        """What becomes of the running trials when the study is asked to stop."""
        return SAVED if self.elsewhere is None else "what runs stays with its workers"

    @property
    def kind(self) -> str:
        """``local``, ``ray`` or ``slurm``."""
        return self.executor.partition(":")[0]

    @property
    def address(self) -> str:
        """Of the Ray cluster: what stands behind ``ray:``; empty where nothing does."""
        found = self.executor.partition(":")[2]
        return self.executor if found.startswith("//") else found

    def accept(self, target: Callable[..., Any], *, kept: bool = True, limits: Limits | None = None) -> None:
        """Refuse what this crew cannot train.

        Args:
            kept: whether the study has a storage, and with it a folder of files.
            limits: what the study may take, where that is bounded.

        Raises:
            UserError: a script whose trials would all write to one place at once, a target that trains in one process
                only, Slurm without a shared folder, or a limit on workers that are not there.
        """
        if self.workers == 0 and limits is not None:
            ends = {"timeout": limits.timeout, "worker_memory": limits.worker_memory}
            if name := next((n for n, given in ends.items() if given is not None), None):
                raise UserError(
                    f"workers=0 trains in this process, which {name}= cannot end.",
                    f"Use workers=1, or leave {name} out.",
                )
        if self.kind == "slurm" and not kept:
            raise UserError(
                "executor='slurm' needs a folder that all nodes share.", 'Write storage="study.db" in such a folder.'
            )
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
        url: str = "",
        say: Callable[[str], None] = lambda text: None,
        driver: int = 0,
    ) -> Executor:
        """The executor; its processes start now, and ``close`` ends them.

        Args:
            target: the training function or recipe.
            files: the study's folder of files (checkpoints, logs).
            asked: whether the study was asked to stop.
            url: where checkpoints go instead; empty for ``files``.
            say: told what the workers get of the machine, where that is not what they always get.
            driver: the number of who drives the study, where several may: their workers' logs are told apart by it.

        Raises:
            UserError: GPUs that are not there.
        """
        if self.elsewhere is not None:
            if url:
                raise UserError(f"files={url!r}: workers that come from elsewhere share a folder.", "Name a folder.")
            return self.elsewhere(files, asked)
        if self.kind != LOCAL:
            return self._hire_on_cluster(target, files, limits, url, driver)
        from luthier.run.inprocess import InProcess  # the command line loads no NumPy to show its help
        from luthier.run.pool import LocalPool

        if self.workers == 0:
            return InProcess(target, files, asked, url)
        plan = self._plan()
        plain = self == Crew(self.workers, self.threads) and self.workers != "auto"
        return LocalPool(
            target,
            plan,
            files,
            limits,
            url=url,
            processes=self.processes,
            driver=driver,
            say=(lambda text: None) if plain else say,
        )

    def _plan(self) -> Roster | Callable[[Measured], Roster]:
        """What each worker gets of this machine."""
        gpus = None if self.gpus is None else discover(self.gpus, os.environ)
        facts = Facts(core_ids(), cores(), room(), gpus)
        if isinstance(self.workers, int):
            return fixed(facts, self.workers, threads=self.threads, processes=self.processes, pin=self.pin)
        return partial(auto, facts, threads=self.threads, processes=self.processes)

    def _hire_on_cluster(
        self, target: Callable[..., Any], files: Path, limits: Limits, url: str, driver: int
    ) -> Executor:
        assert isinstance(self.workers, int)
        if limits.worker_memory is not None:
            raise UserError(
                f"worker_memory is for workers of this machine; {self.kind} sees to the memory of its own.",
                'Write resources={"memory": BYTES}, or slurm={"mem_gb": 16}.',
            )
        if self.kind == "ray":
            from luthier.run.ray_pool import RayPool

            return RayPool(
                target,
                self.workers,
                files,
                url,
                address=self.address,
                resources=amounts("resources", self.resources),
                threads=self.threads,
                processes=self.processes,
                limits=limits,
                driver=driver,
            )
        from luthier.run.slurm_pool import SlurmPool

        asked = options("slurm", self.slurm)
        return SlurmPool(
            target,
            self.workers,
            files,
            url,
            asked=asked,
            threads=self.threads,
            processes=self.processes,
            limits=limits,
            driver=driver,
        )


def amounts(name: str, given: Mapping[str, Any] | str | None) -> dict[str, float]:
    """What a worker needs, by name: numbers above 0 or 0.

    Raises:
        UserError: anything else.
    """
    found = options(name, given)
    for key, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise UserError(f"{name}: {key} is {value!r}, which is no amount.", f'Write {name}={{"{key}": 1}}.')
    return found


def options(name: str, given: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """``{"partition": "gpu", "time": 60}`` as it is, and read from ``"partition=gpu,time=60"``.

    Raises:
        UserError: neither of the two.
    """
    if given is None:
        return {}
    if not isinstance(given, str):
        return dict(given)
    found: dict[str, Any] = {}
    for part in given.split(","):
        key, sign, value = (x.strip() for x in part.partition("="))
        if not key or not sign or not value:
            raise UserError(f"{name}: {part!r} is no NAME=VALUE.", f"Write them as in {EXAMPLES[name]}.")
        found[key] = _number(value)
    return found


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text
