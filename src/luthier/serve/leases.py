"""Who holds which trial: leases, each in a small file, so that they outlive the server."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

FOLDER = "leases"
"""Where they lie in the study's folder of files."""


@dataclass(slots=True)
class Lease:
    """A job in a worker's hands.

    Args:
        id: what the worker shows; nobody guesses it.
        trial: the trial that it trains.
        worker: the worker's name.
        heard: when the worker was heard of last, by a steady clock.
        since: when it got the job or reported last, by the same clock.
        handed: how often the job was handed out without a word about it since; 0 once there was one.
    """

    id: str
    trial: int
    worker: str
    heard: float
    since: float
    handed: int = 1


class Leases:
    """The leases of a study.

    Args:
        files: the study's folder of files.
        now: the time, by a steady clock; those of an earlier server count from here.
    """

    def __init__(self, files: Path, now: float) -> None:
        self._folder = files / FOLDER
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._folder.chmod(0o700)  # who can read a lease could speak for its worker
        self._held: dict[str, Lease] = {}
        self._trials: dict[int, Lease] = {}
        for place in sorted(self._folder.glob("trial-*.json")):
            with suppress(OSError, ValueError, KeyError, TypeError):  # cut off: its trial is put back
                told = json.loads(place.read_text(encoding="utf-8"))
                self._put(Lease(str(told["lease"]), int(told["trial"]), str(told["worker"]), now, now))

    def __iter__(self) -> Iterator[Lease]:
        return iter(tuple(self._held.values()))

    def get(self, lease: str) -> Lease | None:
        """The lease of this id."""
        return self._held.get(lease)

    def of_trial(self, trial: int) -> Lease | None:
        """The lease on a trial."""
        return self._trials.get(trial)

    def of_worker(self, worker: str) -> Lease | None:
        """The lease that a worker has."""
        return next((lease for lease in self._held.values() if lease.worker == worker), None)

    def grant(self, trial: int, worker: str, now: float) -> Lease:
        """A new lease, on the disk when this returns; where that is full it does not outlive the server."""
        lease = Lease(secrets.token_urlsafe(18), trial, worker, now, now)
        place = self._place(trial)
        written = place.with_suffix(".part")
        with suppress(OSError):
            written.write_text(json.dumps({"lease": lease.id, "trial": trial, "worker": worker}), encoding="utf-8")
            os.replace(written, place)
        self._put(lease)
        return lease

    def drop(self, lease: Lease) -> None:
        """The lease is over."""
        del self._held[lease.id], self._trials[lease.trial]
        with suppress(OSError):
            self._place(lease.trial).unlink(missing_ok=True)

    def _put(self, lease: Lease) -> None:
        self._held[lease.id] = self._trials[lease.trial] = lease

    def _place(self, trial: int) -> Path:
        return self._folder / f"trial-{trial:05d}.json"
