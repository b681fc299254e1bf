"""A script as a process: what it prints as it prints it, how it ended, and that nothing of it stays behind."""

from __future__ import annotations

import codecs
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

GUARD = Path(__file__).parents[1] / "run" / "guard.py"

TAIL = 4000
"""Bytes of each stream that are kept for a failure's reason."""

PACKAGE = str(Path(__file__).parents[2])


def environment(own: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """The environment of a script: the worker's own, without what makes it a worker, and unbuffered.

    The script may belong to another installation of Python: the folder that Luthier was imported from is no business of
    its own.
    """
    found = {k: v for k, v in own.items() if k != "LUTHIER_WORKER"}
    places = found.get("PYTHONPATH", "").split(os.pathsep)
    if "LUTHIER_WORKER" in own and places[0] == PACKAGE:
        places = places[1:]
    found["PYTHONPATH"] = os.pathsep.join(filter(None, places))
    if not found["PYTHONPATH"]:
        del found["PYTHONPATH"]
    return {"PYTHONUNBUFFERED": "1", **found, **more}


class Process:
    """A running command, with its guard. Use it as a context: whatever happens, it is gone at the end.

    Args:
        command: the words; no shell is involved.
        cwd: where it runs.
        env: its environment, see :func:`environment`.
        log: the file to which all it prints is added.
        grace: seconds between SIGTERM and SIGKILL.

    Raises:
        OSError: the guard cannot be started.
    """

    def __init__(
        self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: IO[bytes], grace: float
    ) -> None:
        self._log = log
        self._grace = grace
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._guard = subprocess.Popen(
            # Isolated and without site-packages: it starts in a few milliseconds and imports nothing of the user's.
            [sys.executable, "-I", "-S", str(GUARD), str(theirs.fileno()), str(grace), *command],
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        self._said = ""
        self._tails = {"stdout": b"", "stderr": b""}
        self._open = selectors.DefaultSelector()
        self._decoders = {n: codecs.getincrementaldecoder("utf-8")("replace") for n in self._tails}
        for name, pipe in (("stdout", self._guard.stdout), ("stderr", self._guard.stderr)):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            self._open.register(pipe, selectors.EVENT_READ, name)
        self._open.register(ours, selectors.EVENT_READ, "guard")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether there may still be something to read."""
        return bool(self._open.get_map())

    def read(self, timeout: float) -> list[tuple[str, str]]:
        """What was printed since, ``("stdout" or "stderr", text)``, after waiting ``timeout`` seconds for the first."""
        out = []
        for key, _ in self._open.select(timeout):
            name = key.data
            if name == "guard":
                try:
                    data = self._socket.recv(4096)
                except ConnectionResetError:  # it ended before it read that it should
                    data = b""
                self._said += data.decode(errors="replace")
                if not data:
                    self._open.unregister(key.fileobj)
                continue
            try:
                data = os.read(key.fd, 65536)
            except BlockingIOError:
                continue
            self._log.write(data)
            self._log.flush()
            text = self._decoders[name].decode(data, final=not data)
            if data:
                self._tails[name] = (self._tails[name] + data)[-TAIL:]
            else:
                self._open.unregister(key.fileobj)
            if text:
                out.append((name, text))
        return out

    def stop(self) -> None:
        """Ask for the end: SIGTERM to all of it now, SIGKILL after the grace time. Returns at once."""
        with suppress(OSError):
            self._socket.sendall(b"stop")

    def close(self) -> None:
        """End it if it runs, and wait until it has gone; what it still says is logged."""
        self.stop()
        while self.running:
            self.read(self._grace + 5.0)
            if self._guard.poll() is not None and not self._open.select(0):
                break
        with suppress(OSError):
            os.killpg(self._guard.pid, signal.SIGKILL)  # nothing is left, unless somebody killed the guard
        self._guard.wait()
        self._open.close()
        self._socket.close()
        for pipe in (self._guard.stdout, self._guard.stderr):
            if pipe is not None:
                pipe.close()

    @property
    def code(self) -> int | None:
        """The exit code once it has ended, negative for a signal; None where that cannot be known."""
        word, _, rest = self._said.partition(" ")
        return int(rest.split()[0]) if word == "exit" and rest.split() else None

    @property
    def unstartable(self) -> str:
        """Why the command could not be started; empty if it was."""
        word, _, rest = self._said.partition(" ")
        return rest.strip() if word == "error" else ""

    def tail(self) -> str:
        """The end of its standard error; of its standard output where it said nothing there."""
        held = self._tails["stderr"].strip() or self._tails["stdout"].strip()
        return held.decode(errors="replace")
