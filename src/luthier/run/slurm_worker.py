"""A worker that is a Slurm job: it finds its orders in a folder, answers there, and knows when to leave.

The folder (``room``) has two files: ``in``, which the driver writes, and ``out``, which this process writes. The
training function lies beside it, and ``driver``, which the driver writes anew every few seconds as long as it lives.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from luthier.run.interrupts import NOTICES, pass_on
from luthier.run.mail import Inbox, Outbox
from luthier.run.team import Team, employ
from luthier.run.trainer import Station, Trainer

LOOK = 0.2
"""Seconds between two looks into ``in``."""

STALE = 60.0
"""Seconds without a sign of the driver after which it is taken to be dead."""

BEATS = 5.0
"""Seconds between two signs of the driver."""

LEAVING = {"say": "leaving"}
"""The last word of a worker that ends in order."""

SIGNALS = (signal.SIGTERM, *NOTICES)
"""What Slurm sends before it takes a node away, and what submitit has it send before the time is over."""


def serve(station: Station, room: str, idle: float) -> None:
    """Train what is asked for, until there was nothing for ``idle`` seconds, or the node is to be left."""
    place = Path(room)
    if (place / "out").stat().st_size:
        return  # Slurm started the job a second time: its orders were another's
    out = Outbox(place / "out")
    jobs: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    trainer = employ(station, (place.parent / "target").read_bytes(), out.send)
    leaving = threading.Event()
    ticket = 0

    def leave(asked: int, frame: FrameType | None) -> None:
        if os.getpid() != me:  # a data loader's process: the epoch that it feeds is to come to its end
            if asked == signal.SIGTERM:
                pass_on(me, asked)
            return
        leaving.set()
        trainer.park(ticket)
        jobs.put(None)

    me = os.getpid()
    for each in SIGNALS:
        signal.signal(each, leave)
    threading.Thread(target=_listen, args=(place, trainer, jobs), daemon=True).start()
    while not leaving.is_set():
        try:
            job = jobs.get(timeout=idle)
        except queue.Empty:
            break
        if job is None or leaving.is_set():
            break
        ticket = job["ticket"]
        if leaving.is_set():  # the signal came too early to know the ticket
            trainer.park(ticket)
        trainer.train(ticket, job["job"])
    out.send(LEAVING)
    out.close()


def _listen(place: Path, trainer: Trainer | Team, jobs: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    """The listening thread: jobs into the queue, stops and parks to the trainer, and out when the driver is gone."""
    inbox, pulse = Inbox(place / "in"), _Pulse(place.parent / "driver")
    while True:
        try:
            messages = inbox.read()
        except FileNotFoundError:  # the driver closed, or another one found this room abandoned
            os._exit(0)
        except OSError:  # the file server is away for a while
            messages = []
        for message in messages:
            if message["do"] == "train":
                jobs.put(message)
            elif message["do"] == "stop":
                trainer.stop(message["ticket"])
            else:
                trainer.park(message["ticket"])
        if pulse.gone():
            os._exit(0)
        time.sleep(LOOK)


class _Pulse:
    """Whether the driver still writes its file: by this machine's clock alone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = b""
        self._since = self._looked = time.monotonic()

    def gone(self) -> bool:
        now = time.monotonic()
        if now - self._looked > BEATS:
            self._looked = now
            try:
                seen = self._path.read_bytes()
            except OSError:
                seen = self._seen
            if seen != self._seen:
                self._seen, self._since = seen, now
        return now - self._since > STALE
