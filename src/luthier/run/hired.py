"""A worker process as the driver holds it: below a guard, at the other end of a socket."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from luthier.contracts import Job
from luthier.run.ended import how_it_ended
from luthier.run.machine import oom_kills
from luthier.run.search_path import package, search_path
from luthier.run.seat import log_of_worker
from luthier.run.slots import Slot, environment

GUARD = Path(__file__).with_name("guard.py")


class Hired:
    """A worker process and the driver's ends of its sockets, one to it and one to its guard.

    Args:
        number: which of its driver's it is, and ``driver`` whose: its log is called so.
        pickled: the training function.
        files: the study's folder of files.
        slot: what it gets of the machine.
        url: where checkpoints go; empty for ``files``.
        processes: how many processes train each trial.
    """

    def __init__(
        self,
        number: int,
        pickled: bytes,
        files: Path,
        slot: Slot,
        *,
        url: str = "",
        processes: int = 1,
        driver: int = 0,
    ) -> None:
        ours, theirs = socket.socketpair()
        asking, guarding = socket.socketpair()
        self.log = log_of_worker(files, number, driver)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", str(GUARD), f"{guarding.fileno()},{theirs.fileno()}", "0"),
                    *(sys.executable, "-m", "luthier.run.worker", str(theirs.fileno())),
                ],
                pass_fds=[guarding.fileno(), theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environment(slot, os.environ), "LUTHIER_WORKER": "1", "PYTHONPATH": package()},
                # Ctrl-C in the terminal goes to the driver alone; it ends the workers in order.
                start_new_session=True,
            )
        theirs.close()
        guarding.close()
        self._guard = asking
        self.number = number
        self.slot = slot
        self.link = Connection(ours.detach())
        self.ear = select.poll()  # Connection.poll() makes an object of this kind each time
        self.ear.register(self.link.fileno(), select.POLLIN)
        self.job: Job | None = None
        self.ready = False
        self.pid: int | None = None
        self.proved = self.spent = False
        self.heard = time.monotonic()
        self.verdict: tuple[str, str] | None = None
        self.kills = oom_kills()
        where = {"path": search_path(), "files": str(files.resolve()), "url": url}
        pinned = None if slot.cores is None else sorted(slot.cores)
        self.tell({**where, "processes": processes, "cores": pinned})
        self._send(pickled)

    def tell(self, message: dict[str, Any]) -> None:
        """Send it a message."""
        self._send(json.dumps(message).encode())

    def _send(self, data: bytes) -> None:
        with suppress(OSError):  # it is dead: the poll that follows finds out how
            self.link.send_bytes(data)

    def obituary(self) -> tuple[str, str]:
        """How the process ended, as a failure's kind and reason."""
        code = self.process.wait()  # the guard's own says something where the guard was killed
        with suppress(OSError):
            word, _, told = self._guard.recv(64).decode().partition(" ")
            code = int(told) if word == "exit" else code
        return self.verdict or how_it_ended(code, "its worker", self.kills)

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
        """End it at once with all its processes."""
        with suppress(OSError):
            self._guard.shutdown(socket.SHUT_WR)  # what the guard says of its end can still be read
        self.process.wait()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)  # nothing is left, unless somebody killed the guard

    def end(self) -> None:
        """Let go of it, whether it lives or not."""
        self.link.close()
        self.kill()
        self._guard.close()
