"""What a worker on a cluster does, whatever carries the words: Ray's actor and Slurm's process are made of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from luthier.contracts import Job
from luthier.core.events import Event, encode
from luthier.run.perform import perform
from luthier.run.seat import log_of_worker
from luthier.run.vault import vault_of
from luthier.run.worker import MARK, broken


def told(job: Job) -> dict[str, Any]:
    """A job as JSON data."""
    return {**asdict(job), "config": dict(job.config)}


@dataclass(frozen=True, slots=True)
class Station:
    """What a worker on a cluster is told as it begins.

    Args:
        number: which of its driver's workers it is; names its log.
        path: where the driver looks for modules; what is there on this machine too is looked through last.
        files: the study's folder of files.
        url: where its checkpoints go instead; empty for ``files``.
        processes: how many train each trial, all on its node.
        timeout: seconds without a report after which a trial of several processes is taken to hang; of one in a single
            process the driver says so.
        driver: the number of its driver, where a study has several.
    """

    number: int
    path: tuple[str, ...]
    files: str
    url: str = ""
    processes: int = 1
    timeout: float | None = None
    driver: int = 0

    def settle(self) -> None:
        """Make this process a worker: it finds the user's modules, and prints into its log."""
        os.environ["LUTHIER_WORKER"] = "1"
        sys.path.extend(p for p in self.path if p not in sys.path and os.path.exists(p))
        _write_to(log_of_worker(Path(self.files), self.number, self.driver))


class Trainer:
    """Trains job after job in this process, and says what happens.

    Each job has a ticket, a number of its own: a stop or a park that comes late must not meet the trial's next job.

    Args:
        station: what this worker is.
        pickled: the training function or recipe, by cloudpickle.
        say: takes each message, plain data: ``ready`` or ``broken`` once, then the events of the jobs.
    """

    def __init__(self, station: Station, pickled: bytes, say: Callable[[Mapping[str, Any]], None]) -> None:
        station.settle()
        self._files = Path(station.files)
        self._say = say
        self._stopped: set[int] = set()
        self._parked: set[int] = set()
        try:
            import cloudpickle

            self._target = cloudpickle.loads(pickled)
            self._vault = vault_of(self._files, station.url)
        except BaseException as error:
            say(broken(error))
        else:
            say({"say": "ready"})

    def train(self, ticket: int, job: Mapping[str, Any]) -> None:
        """Do a job, as :func:`told` told it, to its end."""

        def send(event: Event) -> None:
            kind, data = encode(event)
            self._say({"say": kind, "data": data})

        print(MARK.format(trial=job["trial"], start=job["start"] + 1, until=job["until"]), flush=True)
        perform(
            self._target,
            Job(**job),
            send=send,
            stopped=lambda: ticket in self._stopped,
            files=self._files,
            parked=lambda: ticket in self._parked,
            vault=self._vault,
        )

    def stop(self, ticket: int) -> None:
        """The job leaves at its next epoch. Called from another thread."""
        self._stopped.add(ticket)

    def park(self, ticket: int) -> None:
        """The job saves its state after its epoch, and leaves. Called from another thread."""
        self._parked.add(ticket)


def _write_to(log: Path) -> None:
    """What this process prints goes to ``log``, where that can be written, else where it went before."""
    with suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            stream.flush()
            os.dup2(handle, number)
        os.close(handle)
