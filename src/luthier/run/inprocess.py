"""The driver's own process as an executor."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from luthier.contracts import Job
from luthier.core.events import Event
from luthier.run.perform import perform
from luthier.run.vault import vault_of


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
