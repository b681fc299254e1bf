"""A process of rank 1 or more: it trains each job along with rank 0, whose decisions it takes over.

``python -m luthier.run.follower FD``: ``FD`` is a socket to rank 0. When that is gone the process leaves at once.
"""

from __future__ import annotations

import io
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from luthier.contracts import Job
from luthier.core.events import Ended, Event, Failed, Interrupted
from luthier.run.handle import EndOfTrial
from luthier.run.interrupts import ignore_notices, pass_on
from luthier.run.leader import leaves_something
from luthier.run.perform import perform
from luthier.run.ranks import NEXT, Verdict
from luthier.run.vault import vault_of


class Follower:
    """A rank that is not 0: asks rank 0.

    Args:
        link: the socket to it.
    """

    def __init__(self, link: Connection) -> None:
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._link = link
        self._changed = threading.Condition()
        self._verdicts: dict[tuple[int, str], Verdict] = {}
        self._shared: dict[str, str] = {}
        self._over = False

    def listen(self) -> None:
        """The listening thread."""
        while True:
            try:
                message = json.loads(self._link.recv_bytes())
            except (EOFError, OSError):
                os._exit(0)
            with self._changed:
                if message["do"] == "train":
                    self._verdicts.clear()
                    self._shared.clear()
                    self._over = False
                    self.jobs.put(message)
                elif message["do"] == "verdict":
                    self._verdicts[message["epoch"], message["question"]] = message["verdict"]
                elif message["do"] == "share":
                    self._shared[message["name"]] = message["text"]
                else:
                    self._over = True
                self._changed.notify_all()

    def tell(self, message: dict[str, Any], data: bytes | None = None) -> None:
        """Say something to rank 0."""
        self._link.send_bytes(json.dumps(message).encode())
        if data is not None:
            self._link.send_bytes(data)

    def agree(self, epoch: int, question: str) -> Verdict:
        """What rank 0 answered; ``"stop"`` once it has ended without."""
        key = (epoch, question)
        with self._changed:
            self._changed.wait_for(lambda: key in self._verdicts or self._over)
            return self._verdicts.get(key, "stop")

    def gather(self, name: str, data: bytes) -> Sequence[bytes | None]:
        """Give it to rank 0."""
        self.tell({"say": "give", "name": name}, data)
        return []

    def share(self, name: str, text: str = "") -> str:
        """What rank 0 said."""
        with self._changed:
            self._changed.wait_for(lambda: name in self._shared or self._over)
            if name not in self._shared:
                raise EndOfTrial
            return self._shared[name]

    def stopped(self) -> bool:
        """Whether rank 0 has ended the trial; it may not have said so yet."""
        return self._over or any(v == "stop" for (_, question), v in self._verdicts.items() if question == NEXT)

    def say(self, event: Event) -> None:
        """Of what happens here only the end counts."""
        if isinstance(event, Failed):
            self.tell({"say": "failed", "failed": asdict(event), "at": time.monotonic()})
        elif isinstance(event, Ended | Interrupted):
            self.tell({"say": "done", "clean": not leaves_something()})


def main(descriptor: int) -> None:
    """Train job after job, until rank 0 is gone."""
    ignore_notices()
    link = Connection(descriptor)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    hello = json.loads(link.recv_bytes())
    sys.path[:] = hello["path"]
    files = Path(hello["files"])
    vault = vault_of(files, hello["url"])
    pickled = link.recv_bytes()
    import cloudpickle

    target = cloudpickle.loads(pickled)
    del pickled
    ranks = Follower(link)
    threading.Thread(target=ranks.listen, daemon=True).start()
    # Slurm sends SIGTERM to every process of a job: rank 0 hears it too, and says when to leave.
    me = os.getpid()
    signal.signal(signal.SIGTERM, lambda number, frame: (pass_on(me, number), None)[1])
    while True:
        message = ranks.jobs.get()
        os.environ["MASTER_PORT"] = message["port"]
        job = Job(**message["job"])
        perform(target, job, send=ranks.say, stopped=ranks.stopped, files=files, vault=vault, ranks=ranks)


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    except (BrokenPipeError, ConnectionResetError):  # rank 0 left while we spoke
        os._exit(0)
