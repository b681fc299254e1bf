"""Messages between processes that share nothing but a folder: lines of JSON, appended by one and read by one.

Each read opens the file anew: on a network file system that is what shows what another machine has written.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Outbox:
    """Appends messages to a file, in a thread of its own: who speaks does not wait for the disk.

    What is said meanwhile is written together. If the file cannot be written, this process ends: it is heard no more.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def send(self, message: Mapping[str, Any]) -> None:
        """Soon in the file."""
        self._queue.put(message)

    def close(self) -> None:
        """All is in the file when this returns."""
        self._queue.put(None)
        self._thread.join()

    def _write(self) -> None:
        going_on = True
        while going_on:
            messages = [self._queue.get()]
            while not self._queue.empty():
                messages.append(self._queue.get())
            going_on = None not in messages
            try:
                append(self._path, *(m for m in messages if m is not None))
            except OSError as error:
                print(f"luthier: {self._path} cannot be written ({error}); this worker leaves.", flush=True)
                os._exit(1)


class Inbox:
    """Reads the messages in a file, each once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> list[dict[str, Any]]:
        """What is new; a line that is still being written comes with the next call.

        Raises:
            FileNotFoundError: there is no such file, or no more.
        """
        with self._path.open("rb") as file:
            file.seek(self._offset)
            lines, end, _ = file.read().rpartition(b"\n")
        self._offset += len(lines) + len(end)
        return [json.loads(line) for line in lines.split(b"\n") if line]


def append(path: Path, *messages: Mapping[str, Any]) -> None:
    """Write messages at the end of a file that is there, at once."""
    if messages:
        with path.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write("".join(json.dumps(message) + "\n" for message in messages).encode())
