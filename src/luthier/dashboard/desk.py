"""A study that is watched: its log read on as it grows, and what is expensive to compute kept until it changes."""

from __future__ import annotations

import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luthier import __version__, store
from luthier.core import events as ev
from luthier.core.errors import StorageError, UserError
from luthier.core.history import Entry, History, fold
from luthier.view.console import event_line

REMEMBERED = 400
"""Histories that are kept, so that whoever asks for what changed since an event gets just that."""
SAID = 60
"""Lines of what happened that are kept."""
QUICK = 0.2
"""Seconds that a request waits for what has to be made anew, where an older answer is there."""


class _Kept:
    """An answer, how old it is, and how long it took."""

    def __init__(self) -> None:
        self.seq, self.due, self.took = -1, 0.0, 0.0
        self.value: Any = None
        self._lock = threading.Lock()

    def make(self, make: Callable[[History], Any], history: History) -> None:
        """Make it anew; who comes meanwhile waits for the same."""
        with self._lock:
            if self.seq == history.length:
                return
            began = time.monotonic()
            self.due = math.inf  # nobody else begins meanwhile
            try:
                value = make(history)
            finally:
                self.took = time.monotonic() - began
                self.due = time.monotonic() + max(0.5, 20 * self.took)
            self.seq, self.value = history.length, value


class Desk:
    """One study's log, open for reading.

    Args:
        log: where it is kept.
        place: what the user called it.

    Raises:
        StorageError: the log cannot be read, or a newer version writes it.
    """

    def __init__(self, log: store.SqlStore, place: str) -> None:
        self.log = log
        self.place = place
        self.files: Path | None = store.files_known(log)
        self.said: deque[tuple[float, str]] = deque(maxlen=SAID)
        self.problem: str | None = None
        self._lock = threading.Lock()
        self._kept: dict[Any, _Kept] = {}
        entries = list(log.read())
        if not entries:
            raise StorageError(f"{place} holds a study without a single event.", "Start it with luthier tune.")
        for entry in entries:
            self._refuse_newer(entry)
        self.history = fold(entries)
        self._past: dict[int, History] = {self.history.length: self.history}
        for entry in entries[-5 * SAID :]:
            self._tell(entry)

    def _refuse_newer(self, entry: Entry) -> None:
        if isinstance(entry.event, ev.Opened) and _numbers(entry.event.version) > _numbers(__version__):
            raise StorageError(
                f"{self.place} is being written by Luthier {entry.event.version}; this is {__version__}.",
                "Upgrade: pip install -U luthier.",
            )

    def _tell(self, entry: Entry) -> None:
        line = event_line(self.history, entry.event)
        if line is not None:
            self.said.append((entry.at, line.strip()))

    def look(self) -> History:
        """The history with all that was appended meanwhile."""
        with self._lock:
            try:
                fresh = list(self.log.read(self.history.length))
                for entry in fresh:
                    self._refuse_newer(entry)
            except UserError as error:
                self.problem = str(error)
                return self.history
            self.problem = None
            for entry in fresh:
                self.history = self.history.then(entry)
                self._tell(entry)
            if fresh:
                self._past[self.history.length] = self.history
                while len(self._past) > REMEMBERED:
                    del self._past[next(iter(self._past))]
            return self.history

    def at(self, seq: int) -> History | None:
        """The history of ``seq`` events, where it is remembered."""
        return self._past.get(seq)

    def keep(self, key: Any, make: Callable[[History], Any]) -> Any:
        """What ``make`` says of the history.

        Of a study that goes on it may be a little old, the older the longer it takes to make: the training has the
        processors first. What takes long is made anew in the background.
        """
        with self._lock:
            kept = self._kept.setdefault(key, _Kept())
        history = self.history
        if kept.seq == history.length or (kept.seq >= 0 and time.monotonic() < kept.due):
            return kept.value
        if kept.seq >= 0 and kept.took > QUICK:
            threading.Thread(target=kept.make, args=(make, history), daemon=True).start()
            return kept.value
        kept.make(make, history)
        return kept.value

    def close(self) -> None:
        """Let go of the database."""
        self.log.close()


def open_desks(places: list[str], name: str | None = None) -> list[Desk]:
    """The studies at ``places``: files, folders or URLs. Of a folder its ``study.db``, else every study file in it.

    Raises:
        StorageError: no study at one of them, or none called ``name``.
    """
    desks: list[Desk] = []
    for given in places:
        found, place = [], store.shown(given)
        for url in _urls(given):
            names = store.study_names(url)
            found += [Desk(store.SqlStore(url, n), place) for n in names if name is None or n == name]
        if not found:
            what = "no study yet" if name is None else f"no study called {name!r}"
            raise StorageError(f"{place} holds {what}.", "Run luthier tune first, or name another place.")
        desks += found
    return desks


def _urls(place: str) -> list[str]:
    url = store.locate(place)
    file = store.file_of(url)
    if file is None or file.exists():
        return [url]
    folder = Path(place)
    inside = sorted(folder.glob("*.db")) if folder.is_dir() else []
    if not inside:
        raise StorageError(f"There is no study at {place}.", "Name its folder, its .db file or its URL.")
    return [store.locate(f) for f in inside]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version)[:3])
