"""The executor on this machine: worker processes that live as long as the study."""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from luthier.contracts import Job
from luthier.core.errors import RunError, UserError
from luthier.core.events import Ended, Event, Failed, Interrupted, Reported, decode
from luthier.run.hired import Hired
from luthier.run.limits import Limits
from luthier.run.machine import memory, peak
from luthier.run.seat import STARTS, pickle
from luthier.run.slots import Measured, Roster, less

ROUNDS = 0.1
"""Seconds between two looks at workers that say nothing."""

MEASURE = 1.0
"""Seconds between two measures of what the workers hold, where their number depends on it."""

MESSAGES = 500
"""What is heard of one worker at once."""

STARTUP = 300.0
"""Seconds that a new worker has at least, whatever the timeout: it imports the training function."""


class LocalPool:
    """Worker processes on this machine.

    A worker that is killed is replaced; what became of its trial is said by a Failed event.

    Args:
        target: the training function or recipe; travels by cloudpickle, so it may live in ``__main__``. Or what
            cloudpickle made of it.
        plan: how many workers, and what each gets; or that by what was measured so far, asked again as it changes.
        files: the study's folder of files (checkpoints, logs).
        limits: when a worker is taken to hang, or to be too large.
        url: where checkpoints go; empty for ``files``.
        processes: how many processes train each trial; the first is the worker, which starts the others.
        first: the number of the first worker; with that of the ``driver``, where there are several, it names its log.
        say: told how many workers there are, and why, whenever that changes.

    Raises:
        UserError: the target cannot be pickled.
    """

    def __init__(
        self,
        target: Callable[..., Any] | bytes,
        plan: Roster | Callable[[Measured], Roster],
        files: Path,
        limits: Limits,
        *,
        url: str = "",
        processes: int = 1,
        first: int = 0,
        driver: int = 0,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        if not hasattr(socket, "socketpair") or os.name != "posix":  # pragma: no cover
            raise UserError("Worker processes need Linux or macOS.", "Use workers=0 to train in this process.")
        self._pickled = target if isinstance(target, bytes) else pickle(target)
        self._files = files
        self._url = url
        self._limits = limits
        self._processes = processes
        self._first = first
        self._driver = driver
        self._say = say
        self._planned = None if isinstance(plan, Roster) else plan
        self._measured = self._planned_for = Measured()
        self._plan = plan if isinstance(plan, Roster) else plan(self._measured)
        self._early_deaths = 0
        self._rounds = self._looked = 0.0
        self._ears = select.poll()
        self._workers: dict[int, Hired] = {}
        say(self._plan.why)
        self._arrange()

    # -- who works -----------------------------------------------------------------------------------------------------

    def _arrange(self) -> None:
        """Workers as planned; who has a job keeps it to its end."""
        for place, slot in enumerate(self._plan.slots):
            if place not in self._workers:
                self._hire(place)
            elif self._workers[place].job is None and self._workers[place].slot != slot:
                self._replace(place)
        for place in [p for p, w in self._workers.items() if p >= len(self._plan.slots) and w.job is None]:
            self._dismiss(place)

    def _hire(self, place: int) -> None:
        worker = Hired(
            self._first + place,
            self._pickled,
            self._files,
            self._plan.slots[place],
            url=self._url,
            processes=self._processes,
            driver=self._driver,
        )
        self._workers[place] = worker
        self._ears.register(worker.link.fileno(), select.POLLIN)

    def _dismiss(self, place: int) -> None:
        worker = self._workers.pop(place)
        self._ears.unregister(worker.link.fileno())
        worker.end()

    def _replace(self, place: int) -> None:
        """A new worker for an old one, where there is still to be one."""
        self._dismiss(place)
        if place < len(self._plan.slots):
            self._hire(place)

    def _replan(self) -> None:
        """Plan anew where something new was measured."""
        if self._planned is None or self._measured == self._planned_for:
            return
        self._planned_for = self._measured
        before, self._plan = self._plan, self._planned(self._measured)
        if self._plan.slots != before.slots:
            self._say(self._plan.why)
            self._arrange()

    # -- what the loop asks --------------------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """Workers without a job; one that is still importing takes its first job already."""
        return sum(w.job is None for p, w in self._workers.items() if p < len(self._plan.slots))

    def submit(self, job: Job) -> None:
        """Give the job to a free worker."""
        worker = next(w for p, w in self._workers.items() if w.job is None and p < len(self._plan.slots))
        worker.job = job
        worker.heard = time.monotonic()
        worker.tell({"do": "train", "job": {**asdict(job), "config": dict(job.config)}})

    def poll(self, hear: Callable[..., None], timeout: float) -> None:
        """Hand on what the workers said, waiting up to ``timeout`` seconds for the first word."""
        woken = {descriptor for descriptor, _ in self._ears.poll(timeout * 1000)}
        now = time.monotonic()
        rounds = now - self._rounds >= ROUNDS
        if rounds:
            self._rounds = now
        events: list[Event] = []
        try:
            for place, worker in list(self._workers.items()):
                if rounds or worker.link.fileno() in woken:
                    events += self._visit(place, now)
            self._measure(events, now)
            self._replan()
        finally:
            if events:
                hear(*events)

    def stop(self, trial: int) -> None:
        """Tell the worker that trains ``trial``; it leaves at its next epoch."""
        for worker in self._workers.values():
            if worker.job is not None and worker.job.trial == trial:
                worker.tell({"do": "stop", "trial": trial})

    def park(self) -> None:
        """Tell every worker with a job to save it and leave it after its epoch."""
        for worker in self._workers.values():
            if worker.job is not None:
                worker.tell({"do": "park"})

    def close(self) -> None:
        """End every worker at once."""
        for place in list(self._workers):
            self._dismiss(place)

    # -- what the workers do -------------------------------------------------------------------------------------------

    def _visit(self, place: int, now: float) -> list[Event]:
        """What a worker said, and how it does: it may hang, have grown too large, or be dead."""
        worker, limits = self._workers[place], self._limits
        busy = worker.job is not None
        events = self._drain(worker)
        if events:
            worker.heard = now
        if worker.job is not None and limits.timeout is not None and worker.verdict is None:
            # A worker that still imports the training function gets the time for it.
            patience = limits.timeout if worker.ready else max(limits.timeout, STARTUP)
            if now - worker.heard > patience:
                worker.verdict = "hung", f"no report for {patience:g} s (timeout)"
                worker.kill()
        if worker.process.poll() is not None:
            return [*events, *self._drain(worker), *self._bury(place)]  # its last words, said before it died
        if busy and worker.job is None:
            self._look_after(place)
        return events

    def _look_after(self, place: int) -> None:
        """A worker has ended its job: is it to take another one?"""
        worker, most = self._workers[place], self._limits.worker_memory
        held = memory(worker.pid) if most is not None and worker.pid is not None else 0
        if most is not None and held > most:
            worker.note(f"replaced between two jobs: it held {held:,} bytes of {most:,} allowed")
            self._replace(place)
        elif worker.spent or place >= len(self._plan.slots) or worker.slot != self._plan.slots[place]:
            self._replace(place)

    def _drain(self, worker: Hired) -> list[Event]:
        events: list[Event] = []
        try:
            # Not for ever: what was said is acknowledged only once it has been written down.
            for _ in range(MESSAGES):
                if not worker.ear.poll(0):
                    break
                message = json.loads(worker.link.recv_bytes())
                if message["say"] == "ready":
                    worker.ready, worker.pid = True, message["pid"]
                elif message["say"] == "broken":
                    raise RunError(message["why"])
                elif message["say"] == "spent":
                    worker.spent = True
                elif message["say"] == "device":
                    self._measured = replace(self._measured, device=max(self._measured.device, message["held"]))
                else:
                    event = decode(message["say"], message["data"])
                    if isinstance(event, Ended | Failed | Interrupted):
                        worker.job = None
                    worker.proved = worker.proved or isinstance(event, Reported)
                    events.append(self._blamed(event, worker) if isinstance(event, Failed) else event)
        except (EOFError, OSError):
            worker.process.wait()  # the other end closed: it is leaving
        return events

    def _bury(self, place: int) -> list[Event]:
        dead = self._workers[place]
        kind, reason = dead.obituary()
        if not dead.ready:
            self._early_deaths += 1
            if self._early_deaths >= STARTS:
                raise RunError(f"Workers die before they are ready ({reason}). The end of {dead.log}:\n{dead.tail()}")
        job = dead.job
        self._replace(place)
        return [] if job is None else [self._blamed(Failed(job.trial, kind, reason, dead.tail()), dead)]

    # -- how many there may be -----------------------------------------------------------------------------------------

    def _measure(self, events: list[Event], now: float) -> None:
        """The most that a worker has held so far, once in a while and at the first report of all."""
        first = not self._measured.memory and any(isinstance(event, Reported) for event in events)
        if self._planned is None or (now - self._looked < MEASURE and not first):
            return
        self._looked = now
        held = [peak(w.pid) for w in self._workers.values() if w.proved and w.pid is not None]
        self._measured = replace(self._measured, memory=max([self._measured.memory, *held]))

    def _blamed(self, failed: Failed, worker: Hired) -> Failed:
        """Where memory ran out that other workers took too, fewer are to run, and the trial is not to blame."""
        if self._planned is None or failed.kind not in ("oom", "oom-killed"):
            return failed
        host = failed.kind == "oom-killed" or any(word in failed.reason for word in ("MemoryError", "CPUAllocator"))
        device = worker.slot.devices is not None and not host
        workers, sharing = len(self._plan.slots), worker.slot.sharing
        if (sharing if device else workers) == 1:
            return failed
        self._measured = less(self._measured, workers, sharing, device=device)
        told = f"{failed.reason}; {'its GPU was shared' if device else 'other workers ran'}, and fewer do from now on"
        return replace(failed, kind="oom-killed", reason=told)
