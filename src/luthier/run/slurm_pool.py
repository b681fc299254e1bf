"""An executor on Slurm: workers are Slurm jobs, and when and where each runs is Slurm's to say.

A worker trains job after job as long as its Slurm job lasts; then another one is submitted. Driver and workers speak
through files in the study's folder, which all nodes share; nobody listens to a network. What is asked of Slurm is asked
for all jobs at once, and seldom.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luthier.contracts import Job
from luthier.core.errors import RunError, UserError
from luthier.core.events import Event
from luthier.run.limits import Limits
from luthier.run.machine import alive
from luthier.run.mail import Inbox, append
from luthier.run.search_path import search_path
from luthier.run.seat import STARTS, Seat, log_of_worker, pickle
from luthier.run.slurm_jobs import BLAMELESS, SlurmJobs, cancel_all
from luthier.run.slurm_worker import BEATS, STALE, serve
from luthier.run.trainer import Station, told

LOOKS = 500
"""Files that are looked into in a second, at most."""

LOOK = 0.1
"""Seconds between two looks, at least."""

IDLE = 120.0
"""Seconds that a worker without a job keeps its node, where the user says nothing else."""

REFUSALS, AGAIN = 20, 30.0
"""How often Slurm may refuse a job in the middle of a study, and the seconds until it is asked again."""


@dataclass(slots=True)
class _Desk:
    """A seat, and the Slurm job that serves it: none while nothing needs it, or while Slurm takes none."""

    seat: Seat
    room: Path = Path()
    letters: Inbox | None = None
    slurm: str = ""
    asleep: bool = False
    again: float = 0.0

    @property
    def free(self) -> bool:
        return self.seat.job is None and (self.seat.ready or self.asleep)


class SlurmPool:
    """Workers on Slurm.

    Args:
        target: the training function or recipe; it travels by cloudpickle.
        workers: how many Slurm jobs there are at most.
        files: the study's folder of files, on a disk that this machine and all nodes share.
        url: where checkpoints go instead; empty for ``files``.
        asked: options of the Slurm jobs, and ``idle``: the seconds that a worker without a job keeps its node.
        threads: processor threads of each worker's libraries; as they like where None.
        processes: how many processes train each trial, all of them in its worker's Slurm job.
        limits: when a worker is taken to hang.
        driver: its number, where a study has several; names the workers' logs.

    Raises:
        UserError: submitit or Slurm is missing, an option is wrong, Slurm refuses it, or the target cannot be pickled.
    """

    def __init__(
        self,
        target: Callable[..., Any],
        workers: int,
        files: Path,
        url: str = "",
        *,
        asked: Mapping[str, Any] | None = None,
        threads: int | None = None,
        processes: int = 1,
        limits: Limits | None = None,
        driver: int = 0,
    ) -> None:
        pickled = pickle(target)
        options = dict(asked or {})
        idle = options.pop("idle", IDLE)
        if isinstance(idle, bool) or not isinstance(idle, int | float) or idle <= 0:
            raise UserError(f"slurm: idle={idle!r} is no number of seconds.", 'Write slurm={"idle": 120}.')
        timeout = (limits or Limits()).timeout
        self._timeout = timeout if processes == 1 else None
        self._files = files.resolve()
        _clear(self._files / "slurm")
        self._session = self._files / "slurm" / uuid.uuid4().hex[:12]
        self._jobs = SlurmJobs(self._session / "jobs", options, threads, workers, processes)
        self._session.mkdir(parents=True, exist_ok=True)
        (self._session / "target").write_bytes(pickled)
        self._station = Station(0, tuple(search_path()), str(self._files), url, processes, timeout, driver)
        self._idle = float(idle)
        self._pause = max(LOOK, workers / LOOKS)
        self._deaths = self._refused = self._rooms = 0
        self._closed = threading.Event()
        self._beating = threading.Thread(target=_beat, args=(self._session / "driver", self._closed), daemon=True)
        self._desks = [_Desk(Seat(n, log_of_worker(self._files, n, driver))) for n in range(workers)]
        try:
            self._hire(*self._desks)
        except RuntimeError as error:
            shutil.rmtree(self._session, ignore_errors=True)
            raise UserError(f"Slurm refuses the job: {error}", "Mend slurm={...}.") from None
        self._beating.start()

    def _hire(self, *desks: _Desk) -> None:
        """Submit a Slurm job for each desk."""
        each = []
        for desk in desks:
            self._rooms += 1
            desk.room = self._session / f"{desk.seat.number}-{self._rooms}"
            desk.room.mkdir()
            for name in ("in", "out"):
                (desk.room / name).touch()
            desk.letters, desk.asleep = Inbox(desk.room / "out"), False
            each.append((replace(self._station, number=desk.seat.number), str(desk.room), self._idle))
        for desk, job in zip(desks, self._jobs.submit(serve, each), strict=True):
            desk.slurm = job
        with (self._session / "ids").open("a") as file:
            file.write("".join(f"{desk.slurm}\n" for desk in desks))

    def _hire_again(self, desk: _Desk) -> None:
        """The same in the middle of a study, when Slurm may be away for a while."""
        desk.slurm, desk.letters = "", None
        try:
            self._hire(desk)
            self._refused = 0
            if desk.seat.job is not None:
                self._order(desk, desk.seat.job)
        except RuntimeError as error:
            self._refused += 1
            if self._refused >= REFUSALS:
                raise RunError(f"Slurm refuses jobs: {error}") from None
            desk.letters, desk.again = None, time.monotonic() + AGAIN

    @property
    def free(self) -> int:
        """Workers without a job, and places whose worker left because there was none."""
        return sum(desk.free for desk in self._desks)

    def submit(self, job: Job) -> None:
        """Give the job to a free worker; where none is there, a Slurm job is submitted for it."""
        desk = max((desk for desk in self._desks if desk.free), key=lambda desk: desk.seat.ready)
        desk.seat.take(job)
        if desk.asleep:
            desk.asleep = False
            self._hire_again(desk)
        else:
            self._order(desk, job)

    def _order(self, desk: _Desk, job: Job) -> None:
        append(desk.room / "in", {"do": "train", "ticket": desk.seat.ticket, "job": told(job)})

    def poll(self, hear: Callable[..., None], timeout: float) -> None:
        """Hand on what the workers said, waiting up to ``timeout`` seconds for the first word."""
        deadline, free = time.monotonic() + timeout, self.free
        while True:
            events: list[Event] = []
            try:
                ended = self._jobs.ended()
                for desk in self._desks:
                    events += self._visit(desk, ended.get(desk.slurm))
            finally:
                if events:
                    hear(*events)
            left = deadline - time.monotonic()
            if events or self.free > free or left <= 0:
                return
            time.sleep(min(self._pause, left))

    def _visit(self, desk: _Desk, end: str | None) -> list[Event]:
        """What a worker said, and how it does: it may hang, have left, or be dead."""
        if desk.letters is None:
            if not desk.asleep and time.monotonic() >= desk.again:
                self._hire_again(desk)
            return []
        events: list[Event | None] = []
        left, messages = False, []
        with suppress(OSError):  # a file server that is away for a while
            messages = desk.letters.read()
        for message in messages:
            if message["say"] == "leaving":
                left = True
            else:
                events.append(desk.seat.understand(message))
        if desk.seat.ready:
            self._deaths = 0
        if left:
            events.append(self._dismiss(desk, "", "its Slurm job was over before it began"))
        elif end is not None:
            events.append(self._bury(desk, end))
        elif desk.seat.silent(self._timeout):
            self._jobs.cancel(desk.slurm)
            events.append(self._dismiss(desk, "hung", f"no report for {self._timeout:g} s (timeout)"))
        return [event for event in events if event is not None]

    def _bury(self, desk: _Desk, end: str) -> Event | None:
        """A Slurm job ended without a word."""
        reason = f"its Slurm job {desk.slurm} ended: {end}"
        if not desk.seat.ready and not end.startswith(BLAMELESS):
            self._deaths += 1
            if self._deaths >= STARTS:
                raise RunError(f"Workers die before they are ready ({reason}).\n{self._printed(desk)}".rstrip())
        kind = "oom-killed" if end.startswith("OUT_OF_ME") else "" if end.startswith(BLAMELESS) else "killed"
        return self._dismiss(desk, kind, reason)

    def _dismiss(self, desk: _Desk, kind: str, reason: str) -> Event | None:
        """A worker is gone; the next is submitted when there is a job for it."""
        shutil.rmtree(desk.room, ignore_errors=True)  # whoever is there still leaves
        desk.letters, desk.slurm, desk.asleep = None, "", True
        return desk.seat.vacate(kind, reason)

    def _printed(self, desk: _Desk) -> str:
        """The end of what a worker printed before it had a log."""
        texts = [p.read_text(errors="replace") for p in (self._session / "jobs").glob(f"{desk.slurm}_*.err")]
        return "".join(texts)[-2000:] or desk.seat.tail()

    def stop(self, trial: int) -> None:
        """Tell the worker that trains ``trial``; it leaves at its next epoch."""
        for desk in self._desks:
            if desk.seat.job is not None and desk.seat.job.trial == trial:
                self._tell(desk, "stop")

    def park(self) -> None:
        """Tell every worker with a job to save it and leave it after its epoch."""
        for desk in self._desks:
            if desk.seat.job is not None:
                self._tell(desk, "park")

    def _tell(self, desk: _Desk, what: str) -> None:
        with suppress(OSError):
            append(desk.room / "in", {"do": what, "ticket": desk.seat.ticket})

    def close(self) -> None:
        """Cancel every Slurm job."""
        self._closed.set()
        self._beating.join()
        shutil.rmtree(self._session, ignore_errors=True)  # who finds it gone leaves
        self._jobs.close()
        shutil.rmtree(self._session, ignore_errors=True)  # with what was written meanwhile
        with suppress(OSError):
            self._session.parent.rmdir()


def _beat(path: Path, closed: threading.Event) -> None:
    """The driver's sign of life, for its workers and for a driver after it."""
    me = {"host": socket.gethostname(), "pid": os.getpid()}
    count = 0
    while True:
        with suppress(OSError):  # a file server that is away for a while
            part = path.with_name(".driver.part")
            part.write_text(json.dumps({**me, "count": count}))
            part.replace(path)
        count += 1
        if closed.wait(BEATS):
            return


def _clear(sessions: Path) -> None:
    """Cancel and remove what drivers left that were killed."""
    for session in sessions.glob("*"):
        if _abandoned(session / "driver"):
            with suppress(OSError):
                cancel_all((session / "ids").read_text().split())
            shutil.rmtree(session, ignore_errors=True)


def _abandoned(driver: Path) -> bool:
    try:
        told = json.loads(driver.read_text())
        if told["host"] == socket.gethostname():
            return not alive(told["pid"])
        return time.time() - driver.stat().st_mtime > STALE
    except (OSError, ValueError, KeyError):
        return True
