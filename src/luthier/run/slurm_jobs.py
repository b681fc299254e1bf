"""Slurm's jobs, by submitit and Slurm's own commands: submit, ask how they do, cancel."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from getpass import getuser
from pathlib import Path
from typing import Any

from luthier.core.errors import UserError, nearest

GENERAL = ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "stderr_to_stdout")
"""What submitit knows of every cluster; all other options are Slurm's own."""

HOURS = 4
"""How long a job may take where nothing is said; the next one goes on."""

BLAMELESS = ("PREEMPTED", "NODE_FAIL", "CANCELLED", "BOOT_FAIL", "REQUEUED", "RESIZING", "REVOKED")
"""Ends of a Slurm job that say nothing of what it trained."""

ENDED = (*BLAMELESS, "COMPLETED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE", "STOPPED")

ROUNDS = 5.0
"""Seconds between two questions to Slurm: it serves many."""

FORGOTTEN = 60.0
"""Seconds after which a submitted job must be known to Slurm, or has ended."""


class SlurmJobs:
    """Jobs of one study.

    Args:
        folder: where submitit keeps what it submits, and what the jobs print; all nodes must reach it.
        asked: the user's options.
        threads: processor threads of each job's libraries; as they like where None.
        most: how many jobs may run at once.
        processes: how many processes each job starts for a trial; it gets a processor for each where nothing is said.

    Raises:
        UserError: submitit is missing, there is no Slurm, or it knows no such option.
    """

    def __init__(
        self, folder: Path, asked: Mapping[str, Any], threads: int | None, most: int, processes: int = 1
    ) -> None:
        try:
            import submitit
        except ModuleNotFoundError:
            raise UserError("executor='slurm' needs submitit.", "pip install 'luthier[slurm]'") from None
        given = dict(asked)
        cluster = given.pop("cluster", "slurm")
        self._slurm = cluster == "slurm"
        if self._slurm and not shutil.which("sbatch"):
            raise UserError(
                "executor='slurm' needs Slurm: there is no sbatch here.",
                'Start the study on a login node; slurm={"cluster": "local"} tries it out without Slurm.',
            )
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self._executor.update_parameters(**_parameters(given, threads, most, processes))
        except (ValueError, NameError, AssertionError, TypeError) as error:
            raise UserError(f"slurm={dict(asked)!r}: {str(error).splitlines()[0]}") from None
        self._jobs: dict[str, Any] = {}
        self._since: dict[str, float] = {}
        self._asked_at = 0.0

    def submit(self, serve: Callable[..., None], each: Sequence[Sequence[Any]]) -> list[str]:
        """One job for each of ``each``, the arguments of ``serve``; their ids.

        Raises:
            RuntimeError: Slurm refuses them.
        """
        try:
            with self._executor.batch():
                jobs = [self._executor.submit(serve, *arguments) for arguments in each]
        except Exception as error:
            raise RuntimeError(_refusal(error)) from None
        self._jobs |= {job.job_id: job for job in jobs}
        self._since |= {job.job_id: time.monotonic() for job in jobs}
        return [job.job_id for job in jobs]

    def ended(self) -> dict[str, str]:
        """Of the jobs that have ended since the last call the ids, each with how."""
        gone = self._gone_from_slurm() if self._slurm else {i: j.state for i, j in self._jobs.items() if j.done()}
        for each in gone:
            del self._jobs[each], self._since[each]
        return gone

    def _gone_from_slurm(self) -> dict[str, str]:
        if not self._jobs or time.monotonic() - self._asked_at < ROUNDS:
            return {}
        self._asked_at = time.monotonic()
        told = subprocess.run(
            ["squeue", "--array", "--noheader", "--states=all", f"--user={getuser()}", "--format=%i|%T"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        if told.returncode != 0:  # the controller is away for a while
            return {}
        states = dict(line.split("|", 1) for line in told.stdout.splitlines() if "|" in line)
        # One that Slurm has forgotten has ended; one submitted a moment ago it may not show yet.
        old = time.monotonic() - FORGOTTEN
        found = {i: states.get(i, "forgotten by Slurm" if self._since[i] < old else "") for i in self._jobs}
        return {i: state for i, state in found.items() if state.startswith(("forgotten", *ENDED))}

    def cancel(self, *ids: str) -> None:
        """End jobs now."""
        cancel_all(ids) if self._slurm else [self._jobs[i].cancel(check=False) for i in ids if i in self._jobs]

    def close(self) -> None:
        """End all jobs, whose workers have nothing to do any more."""
        if not self._slurm:  # they leave by themselves; submitit would interrupt them noisily
            _wait(lambda: all(job.done() for job in self._jobs.values()))
        self.cancel(*(i for i, job in self._jobs.items() if self._slurm or not job.done()))
        if not self._slurm:
            _wait(lambda: all(job.done() for job in self._jobs.values()))


def _wait(until: Callable[[], bool], patience: float = 5.0) -> None:
    deadline = time.monotonic() + patience
    while not until() and time.monotonic() < deadline:
        time.sleep(0.05)


def cancel_all(ids: Iterable[str]) -> None:
    """``scancel``, if there is one; jobs that have ended are none of its business."""
    if (ids := list(ids)) and shutil.which("scancel"):
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["scancel", *ids], capture_output=True, timeout=60)


def _parameters(given: Mapping[str, Any], threads: int | None, most: int, processes: int) -> dict[str, Any]:
    """What submitit calls the user's options."""
    from submitit import SlurmExecutor

    known = {*GENERAL, *SlurmExecutor._valid_parameters(), "time"}
    for name in given:
        if name not in known:
            raise UserError(f"slurm: {name!r} is no option of a Slurm job.", nearest(name, known))
    for name in ("nodes", "tasks_per_node", "ntasks_per_node"):
        if given.get(name, 1) != 1:
            raise UserError(
                f"slurm: {name}={given[name]!r}: a trial trains on one node, in one task.",
                f"Leave {name} out; processes=2 starts two in it.",
            )
    minutes = given.get("time", given.get("timeout_min", 60 * HOURS))
    if isinstance(minutes, bool) or not isinstance(minutes, int) or minutes < 1:
        raise UserError(f"slurm: time={minutes!r} is no number of minutes.", 'Write slurm={"time": 240}.')
    rest = {k: v for k, v in given.items() if k not in ("time", "timeout_min")}
    own = {"array_parallelism": most, **{k: v for k, v in rest.items() if k not in GENERAL}}
    # A job that Slurm starts again by itself would have its old orders; the driver submits a new one.
    own["additional_parameters"] = {"no_requeue": True, **own.get("additional_parameters", {})}
    if threads is not None:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        own["setup"] = [*own.get("setup", ()), *(f"export {name}={threads}" for name in names)]
    if processes > 1:
        rest.setdefault("cpus_per_task", processes)
    general = {"name": "luthier", **{k: v for k, v in rest.items() if k in GENERAL}, "timeout_min": minutes}
    return {**general, **{f"slurm_{k}": v for k, v in own.items()}}


def _refusal(error: Exception) -> str:
    told = str(getattr(error, "stderr", "") or error).strip().splitlines()
    return told[-1][:300] if told else type(error).__name__
