"""A worker on a cluster whose trials train in several processes: all of them on its node, below it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from luthier.contracts import Job
from luthier.core.errors import RunError
from luthier.core.events import Ended, Event, Failed, Interrupted, encode
from luthier.run.limits import Limits
from luthier.run.machine import core_ids, cores
from luthier.run.pool import LocalPool
from luthier.run.slots import Facts, fixed
from luthier.run.trainer import Station, Trainer

LOOK = 0.2
"""Seconds between looks at whether the trial is to end."""


class Team:
    """What a :class:`~luthier.run.trainer.Trainer` is, by one worker of the local pool and the ranks that it starts.

    So they are guarded, replaced and ended as on one machine: where a trial leaves something behind, new ones start on
    the same node, and when this process dies they do.

    Args:
        station, pickled, say: as for a Trainer.
    """

    def __init__(self, station: Station, pickled: bytes, say: Callable[[Mapping[str, Any]], None]) -> None:
        station.settle()
        self._say = say
        self._stopped: set[int] = set()
        self._parked: set[int] = set()
        self._pool = LocalPool(
            pickled,
            fixed(Facts(core_ids(), cores()), 1, processes=station.processes),
            Path(station.files),
            Limits(timeout=station.timeout),
            url=station.url,
            processes=station.processes,
            first=station.number,
            driver=station.driver,
        )
        say({"say": "ready"})

    def train(self, ticket: int, job: Mapping[str, Any]) -> None:
        """Do a job, to its end."""
        training = Job(**job)
        told: set[Callable[[], None]] = set()
        over = False

        def hear(*events: Event) -> None:
            nonlocal over
            for event in events:
                kind, data = encode(event)
                self._say({"say": kind, "data": data})
                over = over or isinstance(event, Ended | Failed | Interrupted)

        def stop() -> None:
            self._pool.stop(training.trial)

        try:
            self._pool.poll(hear, 0.0)  # who died since the last job is replaced
            self._pool.submit(training)
            while not over:
                self._pool.poll(hear, LOOK)
                for asked, act in ((self._stopped, stop), (self._parked, self._pool.park)):
                    if ticket in asked and act not in told:
                        told.add(act)
                        act()
        except RunError as error:
            self._say({"say": "broken", "why": str(error)})

    def stop(self, ticket: int) -> None:
        """The job leaves at its next epoch. Called from another thread."""
        self._stopped.add(ticket)

    def park(self, ticket: int) -> None:
        """The job saves its state after its epoch, and leaves. Called from another thread."""
        self._parked.add(ticket)


def employ(station: Station, pickled: bytes, say: Callable[[Mapping[str, Any]], None]) -> Trainer | Team:
    """Whoever trains at that station."""
    return (Trainer if station.processes == 1 else Team)(station, pickled, say)
