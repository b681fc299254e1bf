"""What a worker on a cluster does, whatever carries the words: Ray's actor and Slurm's process are made of it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from luthier.contracts import Job
from luthier.core.events import Event, encode
from luthier.run.perform import TAIL, perform
from luthier.run.vault import vault_of
from luthier.run.worker import MARK


def told(job: Job) -> dict[str, Any]:
    """A job as JSON data."""
    return {**asdict(job), "config": dict(job.config)}


class Trainer:
    """Trains job after job in this process, and says what happens.

    Each job has a ticket, a number of its own: a stop or a park that comes late must not meet the trial's next job.

    Args:
        number: which of the study's workers this is; names its log.
        pickled: the training function or recipe, by cloudpickle.
        path: where the driver looks for modules; what is there on this machine too is looked through last.
        files: the study's folder of files.
        url: where its checkpoints go instead; empty for ``files``.
        say: takes each message, plain data: ``ready`` or ``broken`` once, then the events of the jobs.
    """

    def __init__(
        self,
        number: int,
        pickled: bytes,
        path: Sequence[str],
        files: Path,
        url: str,
        say: Callable[[Mapping[str, Any]], None],
    ) -> None:
        os.environ["LUTHIER_WORKER"] = "1"
        sys.path.extend(p for p in path if p not in sys.path and os.path.exists(p))
        self._files = files
        self._say = say
        self._stopped: set[int] = set()
        self._parked: set[int] = set()
        _write_to(files / "logs" / f"worker-{number}.log")
        try:
            import cloudpickle

            self._target = cloudpickle.loads(pickled)
            self._vault = vault_of(files, url)
        except BaseException as error:
            detail = traceback.format_exc()[-TAIL:]
            say({"say": "broken", "reason": f"{type(error).__name__}: {error}", "detail": detail})
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
