"""A log in this process's memory, for studies without storage."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.core.errors import Conflict
from luthier.core.history import Entry, History, fold


class MemoryStore:
    """A list."""

    drivers = None

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def append(self, entries: Sequence[Entry], after: int) -> None:
        """Append, provided that the log holds exactly ``after`` entries."""
        if len(self._entries) != after:
            raise Conflict(f"The log holds {len(self._entries)} events, not {after}.")
        self._entries.extend(entries)

    def read(self, after: int = 0) -> Sequence[Entry]:
        """The entries from number ``after`` on."""
        return tuple(self._entries[after:])

    def fold(self) -> History | None:
        """The history of the whole log; None where there is none."""
        return fold(self._entries) if self._entries else None

    def forget(self) -> None:
        """Remove every entry."""
        self._entries.clear()

    def close(self) -> None:
        """Nothing to let go of."""
