"""What the driver knows of one worker on a cluster, whoever placed it there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from luthier.contracts import Job
from luthier.core.errors import RunError
from luthier.core.events import Ended, Event, Failed, Interrupted, Requeued, decode

STARTS = 3
"""How often a worker may die before it is ready until the study gives up."""

_tickets = count(1)


def log_of_worker(files: Path, number: int, driver: int = 0) -> Path:
    """Where a worker's trials print.

    Args:
        files: the study's folder of files.
        number: the worker's, from 0.
        driver: the number of its driver, where a study has several: each has workers of the same numbers.
    """
    return files / "logs" / (f"worker-{driver}-{number}.log" if driver else f"worker-{number}.log")


@dataclass(slots=True)
class Seat:
    """A place for a worker: one worker after the other sits there.

    Args:
        number: from 0.
        log: what its workers print; not always within the driver's reach.
    """

    number: int
    log: Path
    job: Job | None = None
    ticket: int = 0
    ready: bool = False
    heard: float = field(default_factory=time.monotonic)

    def take(self, job: Job) -> int:
        """Keep a job as the worker's; returns its ticket."""
        self.job, self.ticket, self.heard = job, next(_tickets), time.monotonic()
        return self.ticket

    def understand(self, message: Mapping[str, Any]) -> Event | None:
        """The event that a message of the worker is; None for one about the worker itself.

        Raises:
            RunError: the training function cannot be loaded there.
        """
        self.heard = time.monotonic()
        if message["say"] == "ready":
            self.ready = True
            return None
        if message["say"] == "broken":
            raise RunError(message["why"])
        event = decode(message["say"], message["data"])
        if isinstance(event, Ended | Failed | Interrupted):
            self.job = None
        return event

    def silent(self, timeout: float | None) -> bool:
        """Whether its job has reported nothing for ``timeout`` seconds; never where that is None."""
        busy = self.ready and self.job is not None
        return busy and timeout is not None and time.monotonic() - self.heard > timeout

    def vacate(self, kind: str, reason: str, detail: str = "") -> Event | None:
        """The worker is gone; what that means for its job, if it had one.

        Args:
            kind: of the failure; empty where neither trial nor worker can be blamed, so that no attempt is counted.
        """
        job, self.job, self.ready = self.job, None, False
        if job is None:
            return None
        detail = "\n".join(filter(None, (detail[:1000], self.tail())))
        return Failed(job.trial, kind, reason, detail) if kind else Requeued(job.trial, reason)

    def tail(self, size: int = 2000) -> str:
        """The end of what its workers printed; empty where the driver cannot read it."""
        try:
            return self.log.read_bytes()[-size:].decode(errors="replace")
        except OSError:
            return ""


def pickle(target: Any) -> bytes:
    """A training function or recipe as bytes; it may live in ``__main__``.

    Raises:
        UserError: it cannot be pickled.
    """
    import cloudpickle

    from luthier.core.errors import UserError

    try:
        return bytes(cloudpickle.dumps(target))
    except Exception as error:
        raise UserError(
            f"The training function cannot be sent to a worker process: {error}.",
            "Create what cannot be pickled (locks, open files, loggers) inside the function, or use workers=0.",
        ) from None
