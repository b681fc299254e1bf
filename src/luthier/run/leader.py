"""Rank 0 of a trial of several processes: it starts the others, tells them what is decided, hears how they end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from luthier.contracts import Job
from luthier.core.events import Ended, Event, Failed, Interrupted, Reported
from luthier.run.ended import how_it_ended
from luthier.run.machine import oom_kills
from luthier.run.ranks import Verdict, free_port

ROUNDS = 0.2
"""Seconds between looks at ranks that say nothing."""

SETTLE = 1.0
"""Seconds after the first failure of a rank in which a better reason may come: one that dies takes the others along."""

PATIENCE = 60.0
"""Seconds that rank 0 waits for what the others have to give."""

LINGER = 10.0
"""Seconds that the others have to come to their end after rank 0 has; what they still do then counts for nothing. One
may hang for ever: PyTorch's gloo group, ended at the last collective, can wait for a thread that waits for Python."""


@dataclass
class _Rank:
    """A process of rank 1 or more: its end, once it has come, and what it gave."""

    process: subprocess.Popen[bytes]
    link: Connection
    given: dict[str, bytes] = field(default_factory=dict)
    done: bool = False
    clean: bool = True
    failed: Failed | None = None
    at: float = 0.0
    dead: bool = False

    @property
    def over(self) -> bool:
        return self.done or self.failed is not None


class Leader:
    """Rank 0 of each trial, in the worker's own process.

    Args:
        size: how many processes train the trial, this one among them.
        hello: the search path and the folder of files, as the worker got them.
        pickled: the training function.
        tell: says an event to the driver.
        stopped: whether that trial was ended.
        parked: whether the study is to stop.

    Attributes:
        spent: whether the processes can train nothing more: one has failed, or something of a job is left in them.
    """

    rank = 0
    spent = False

    def __init__(
        self,
        size: int,
        hello: dict[str, Any],
        pickled: bytes,
        tell: Callable[[Event], None],
        stopped: Callable[[int], bool],
        parked: Callable[[], bool],
    ) -> None:
        self.size = size
        self._tell, self._stopped, self._parked = tell, stopped, parked
        self._job: Job | None = None
        self._epoch = 0
        self._verdicts: dict[tuple[int, str], Verdict] = {}
        self._changed = threading.Condition()
        self._told = True
        self._attending: threading.Thread | None = None
        self._kills = oom_kills()
        self._ranks = {rank: self._start(rank) for rank in range(1, size)}
        for other in self._ranks.values():
            other.link.send_bytes(json.dumps(hello).encode())
            other.link.send_bytes(pickled)
        os.environ.update(environment(0, size))

    def _start(self, rank: int) -> _Rank:
        ours, theirs = socket.socketpair()
        process = subprocess.Popen(
            [sys.executable, "-m", "luthier.run.follower", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environment(rank, self.size)},
        )
        theirs.close()
        return _Rank(process, Connection(ours.detach()))

    def begin(self, job: Job) -> None:
        """Have the other ranks train ``job`` too; from now on their ends count."""
        if self._attending is not None:
            self._attending.join()
        self._verdicts.clear()
        for other in self._ranks.values():
            other.done = False
        port = str(free_port())
        os.environ["MASTER_PORT"] = port
        self._job, self._epoch, self._told = job, job.start, False
        self._send({"do": "train", "job": {**asdict(job), "config": dict(job.config)}, "port": port})
        self._attending = threading.Thread(target=self._attend, daemon=True)
        self._attending.start()

    def _send(self, message: dict[str, Any]) -> None:
        for other in self._ranks.values():
            try:
                other.link.send_bytes(json.dumps(message).encode())
            except OSError:
                continue  # it is dead: _attend finds out how

    # -- what a trial asks ---------------------------------------------------------------------------------------------

    def agree(self, epoch: int, question: str) -> Verdict:
        """Decide, and tell the others."""
        assert self._job is not None
        key = (epoch, question)
        if key not in self._verdicts:
            self._verdicts[key] = "stop" if self._stopped(self._job.trial) else "park" if self._parked() else "go"
            self._send({"do": "verdict", "epoch": epoch, "question": question, "verdict": self._verdicts[key]})
        return self._verdicts[key]

    def gather(self, name: str, data: bytes) -> Sequence[bytes | None]:
        """Wait for the others, as long as they train."""
        others = self._ranks.values()
        with self._changed:
            self._changed.wait_for(lambda: all(name in o.given or o.over for o in others), PATIENCE)
            return [data, *(other.given.pop(name, None) for other in others)]

    def share(self, name: str, text: str = "") -> str:
        """Tell the others."""
        self._send({"do": "share", "name": name, "text": text})
        return text

    # -- how it ends ---------------------------------------------------------------------------------------------------

    def say(self, event: Event) -> None:
        """Tell the driver; an end once the other ranks have come to theirs, and with the failure that came first."""
        if not isinstance(event, Ended | Failed | Interrupted):
            if isinstance(event, Reported):
                self._epoch = event.epoch
            self._tell(event)
            return
        now = time.monotonic()
        self._send({"do": "over"})
        with self._changed:
            others = self._ranks.values()
            quick = isinstance(event, Failed)  # the others may hang in what they wait for of this rank
            self._changed.wait_for(lambda: all(o.over for o in others), SETTLE if quick else LINGER)
        self._end(event, now)

    def _end(self, own: Event | None, at: float = 0.0) -> None:
        with self._changed:
            if self._told:
                return
            self._told = True
            failures = [(not o.dead, o.at, rank, o.failed) for rank, o in self._ranks.items() if o.failed is not None]
            if isinstance(own, Failed):
                failures.append((True, at, 0, own))
            others = self._ranks.values()
            self.spent = bool(failures) or leaves_something() or not all(o.done and o.clean for o in others)
            if failures:
                _, _, rank, failed = min(failures, key=lambda f: f[:3])
                own = replace(failed, reason=f"rank {rank}: {failed.reason}")
                if self._parked():  # as in perform(): the signal that asks to leave may take a rank along
                    own = Interrupted(failed.trial, self._epoch)
            assert own is not None
            self._tell(own)

    def _attend(self) -> None:
        """The attending thread: what the other ranks say, and whether they live; ends the job where one fails."""
        links = {other.link: other for other in self._ranks.values()}
        first: float | None = None
        while not self._told and (first is None or time.monotonic() - first < SETTLE):
            for link in wait(list(links), ROUNDS):
                self._hear(links, link)  # type: ignore[arg-type]
            for other in self._ranks.values():
                if other.process.poll() is not None and not other.over and not other.link.poll():
                    self._bury(other)
            if first is None and any(other.failed is not None for other in self._ranks.values()):
                first = time.monotonic()
        if first is not None:
            self._end(None)

    def _hear(self, links: dict[Connection, _Rank], link: Connection) -> None:
        other = links[link]
        try:
            message = json.loads(link.recv_bytes())
            data = link.recv_bytes() if message["say"] == "give" else b""
        except (EOFError, OSError):
            del links[link]
            if not other.over:
                self._bury(other)
            return
        with self._changed:
            if message["say"] == "give":
                other.given[message["name"]] = data
            elif message["say"] == "done":
                other.done, other.clean = True, message["clean"]
            else:
                other.failed, other.at = Failed(**message["failed"]), message["at"]
            self._changed.notify_all()

    def _bury(self, other: _Rank) -> None:
        assert self._job is not None
        kind, reason = how_it_ended(other.process.wait(), "its process", self._kills)
        with self._changed:
            other.failed, other.at, other.dead = Failed(self._job.trial, kind, reason), time.monotonic(), True
            self._changed.notify_all()


def leaves_something() -> bool:
    """Whether the job that just ended left something in this process that the next would stumble over: a process group,
    or libraries that keep theirs in mind."""
    group = sys.modules.get("torch.distributed")
    return bool(group and group.is_available() and group.is_initialized()) or any(m in sys.modules for m in _REMEMBER)


_REMEMBER = ("accelerate.state", "deepspeed", "jax.distributed", "tensorflow", "horovod")


def environment(rank: int, size: int) -> dict[str, str]:
    """What torchrun tells a rank by its environment; MASTER_PORT follows with the job."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
    }
