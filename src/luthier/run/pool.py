"""Executors on this machine: worker processes that live as long as the study, or the driver's own process."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from luthier.contracts import Job
from luthier.core.errors import RunError, UserError
from luthier.core.events import Ended, Event, Failed, Interrupted, decode
from luthier.run.limits import Limits
from luthier.run.machine import memory, oom_kills
from luthier.run.perform import perform
from luthier.run.search_path import package, search_path
from luthier.run.seat import STARTS, pickle
from luthier.run.vault import vault_of

ROUNDS = 0.1
"""Seconds between two looks at workers that say nothing."""

MESSAGES = 500
"""What is heard of one worker at once."""

STARTUP = 300.0
"""Seconds that a new worker has at least, whatever the timeout: it imports the training function."""

# Threads that spin long while they wait starve each other as soon as a core is shared, with the driver or another
# worker; threads that sleep at once lose as much on idle cores. A tenth of GCC's default spins keeps the idle speed.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class InProcess:
    """Trains in the driver's own process, one job at a time: for debugging, with ``workers=0``.

    Args:
        asked: whether the study was asked to stop.
        url: where checkpoints go; empty for ``files``.
    """

    def __init__(
        self, target: Callable[..., Any], files: Path, asked: Callable[[], bool] = lambda: False, url: str = ""
    ) -> None:
        self._target = target
        self._files = files
        self._vault = vault_of(files, url)
        self._asked = asked
        self._job: Job | None = None
        self._stopped: set[int] = set()

    @property
    def free(self) -> int:
        """One, while no job waits."""
        return int(self._job is None)

    def submit(self, job: Job) -> None:
        """Keep the job for the next poll."""
        self._job = job

    def poll(self, hear: Callable[..., None], timeout: float) -> None:
        """Do the job that waits, to its end; each event is heard as it happens, so that a stop can be obeyed."""
        if self._job is None:
            time.sleep(timeout)  # the study is paused
            return
        job, self._job = self._job, None
        self._stopped.discard(job.trial)
        trouble: list[Exception] = []

        def send(event: Event) -> None:
            # What the driver objects to is no failure of the training function: it passes around it.
            try:
                if not trouble:
                    hear(event)
            except Exception as error:
                trouble.append(error)
                self._stopped.add(job.trial)

        stopped = partial(self._stopped.__contains__, job.trial)
        perform(self._target, job, send=send, stopped=stopped, files=self._files, parked=self._asked, vault=self._vault)
        if trouble:
            raise trouble[0]

    def stop(self, trial: int) -> None:
        """The running trial sees it at its next epoch."""
        self._stopped.add(trial)

    def park(self) -> None:
        """Nothing runs between two polls; the running trial asks ``asked`` itself."""

    def close(self) -> None:
        """Nothing to end."""


class _Worker:
    """A worker process and the driver's end of its socket."""

    def __init__(self, number: int, pickled: bytes, files: Path, threads: int, url: str) -> None:
        ours, theirs = socket.socketpair()
        folder = files / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"worker-{number}.log"
        settings = {**dict.fromkeys(_THREAD_VARIABLES, str(threads)), "GOMP_SPINCOUNT": "30000"}
        environment = {**settings, **os.environ, "LUTHIER_WORKER": "1"}  # what the user set stays
        environment["PYTHONPATH"] = package()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "luthier.run.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                # Ctrl-C in the terminal goes to the driver alone; it ends the workers in order.
                start_new_session=True,
            )
        theirs.close()
        self.number = number
        self.link = Connection(ours.detach())
        self.ear = select.poll()  # Connection.poll() makes an object of this kind each time
        self.ear.register(self.link.fileno(), select.POLLIN)
        self.job: Job | None = None
        self.ready = False
        self.heard = time.monotonic()
        self.verdict: tuple[str, str] | None = None
        self.kills = oom_kills()
        self.tell({"path": search_path(), "files": str(files.resolve()), "url": url})
        self._send(pickled)

    def tell(self, message: dict[str, Any]) -> None:
        self._send(json.dumps(message).encode())

    def _send(self, data: bytes) -> None:
        with suppress(OSError):  # it is dead: the poll that follows finds out how
            self.link.send_bytes(data)

    def obituary(self) -> tuple[str, str]:
        """How the process ended, as a failure's kind and reason."""
        code = self.process.wait()
        if self.verdict is not None:
            return self.verdict
        if code == -signal.SIGKILL and oom_kills() > self.kills:
            return "oom-killed", "its worker was killed by SIGKILL while the system ran out of memory"
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
            return "killed", f"its worker was killed by {name}"
        return "died", f"its worker exited with code {code}"

    def tail(self, size: int = 2000) -> str:
        """The end of what it printed."""
        try:
            return self.log.read_bytes()[-size:].decode(errors="replace")
        except OSError:
            return ""

    def note(self, text: str) -> None:
        """A line of ours in its log."""
        with suppress(OSError), self.log.open("a") as log:
            log.write(f"luthier: {text}\n")

    def kill(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # its data-loader processes go with it
        except (ProcessLookupError, PermissionError):
            self.process.kill()
        self.process.wait()

    def end(self) -> None:
        self.link.close()
        if self.process.poll() is None:
            self.kill()
        self.process.wait()


class LocalPool:
    """Worker processes on this machine.

    A worker that is killed is replaced; what became of its trial is said by a Failed event.

    Args:
        target: the training function or recipe; travels by cloudpickle, so it may live in ``__main__``.
        workers: how many processes.
        files: the study's folder of files (checkpoints, logs).
        threads: processor threads of each worker; cores / workers where None.
        limits: when a worker is taken to hang, or to be too large.
        url: where checkpoints go; empty for ``files``.

    Raises:
        UserError: the target cannot be pickled.
    """

    def __init__(
        self,
        target: Callable[..., Any],
        workers: int,
        files: Path,
        threads: int | None = None,
        limits: Limits | None = None,
        url: str = "",
    ) -> None:
        if not hasattr(socket, "socketpair") or os.name != "posix":  # pragma: no cover
            raise UserError("Worker processes need Linux or macOS.", "Use workers=0 to train in this process.")
        self._pickled = pickle(target)
        self._files = files
        self._url = url
        self._threads = threads or max(1, cores() // workers)
        self._limits = limits or Limits()
        self._early_deaths = 0
        self._rounds = 0.0
        self._ears = select.poll()
        self._workers = [self._hire(n) for n in range(workers)]

    def _hire(self, number: int) -> _Worker:
        worker = _Worker(number, self._pickled, self._files, self._threads, self._url)
        self._ears.register(worker.link.fileno(), select.POLLIN)
        return worker

    @property
    def free(self) -> int:
        """Workers without a job; one that is still importing takes its first job already."""
        return sum(w.job is None for w in self._workers)

    def submit(self, job: Job) -> None:
        """Give the job to a free worker."""
        worker = next(w for w in self._workers if w.job is None)
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
            for place, worker in enumerate(self._workers):
                if rounds or worker.link.fileno() in woken:
                    events += self._visit(place, now)
        finally:
            if events:
                hear(*events)

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
        if busy and worker.job is None and limits.worker_memory is not None:
            held = memory(worker.process.pid)
            if held > limits.worker_memory:
                worker.note(f"replaced between two jobs: it held {held:,} bytes of {limits.worker_memory:,} allowed")
                self._replace(place)
        return events

    def _replace(self, place: int) -> None:
        """A new worker for an old one."""
        old = self._workers[place]
        self._ears.unregister(old.link.fileno())
        old.end()
        self._workers[place] = self._hire(old.number)

    def _drain(self, worker: _Worker) -> list[Event]:
        events: list[Event] = []
        try:
            # Not for ever: what was said is acknowledged only once it has been written down.
            for _ in range(MESSAGES):
                if not worker.ear.poll(0):
                    break
                message = json.loads(worker.link.recv_bytes())
                if message["say"] == "ready":
                    worker.ready = True
                elif message["say"] == "broken":
                    raise RunError(
                        f"A worker could not load the training function: {message['reason']}\n{message['detail']}"
                    )
                else:
                    event = decode(message["say"], message["data"])
                    if isinstance(event, Ended | Failed | Interrupted):
                        worker.job = None
                    events.append(event)
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
        self._replace(place)
        return [Failed(dead.job.trial, kind, reason, dead.tail())] if dead.job else []

    def stop(self, trial: int) -> None:
        """Tell the worker that trains ``trial``; it leaves at its next epoch."""
        for worker in self._workers:
            if worker.job is not None and worker.job.trial == trial:
                worker.tell({"do": "stop", "trial": trial})

    def park(self) -> None:
        """Tell every worker with a job to save it and leave it after its epoch."""
        for worker in self._workers:
            if worker.job is not None:
                worker.tell({"do": "park"})

    def close(self) -> None:
        """End every worker at once."""
        for worker in self._workers:
            worker.end()
