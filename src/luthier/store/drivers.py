"""Several drivers of one study in PostgreSQL: who of them lives, who has the floor.

A driver holds a lock of the server's under its number for as long as its connection lives. No heartbeat is needed: the
server lets go of it when the process ends, however that ends, and a minute after the machine or the network is gone.
The lock says only who lives. What belongs to whom is in the log, and what may be appended the primary key decides.

Locks are named by two numbers, the study's room and the driver's. Number 0 of a room is the floor: appends share it, a
driver whose appends are refused again and again takes it for itself while it makes one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

_APPEND = sa.text(
    # One statement: one way to the server and back, however many rows.
    "INSERT INTO events (study, seq, at, kind, data) SELECT :study, s, a, k, d "
    "FROM (SELECT pg_advisory_xact_lock_shared(:room, 0)) AS floor, unnest(CAST(:seqs AS int[]), "
    "CAST(:ats AS float8[]), CAST(:kinds AS text[]), CAST(:datas AS text[])) AS t(s, a, k, d)"
)
_HOLD = sa.text("SELECT pg_try_advisory_lock(:room, :driver)")
_LIVING = sa.text(
    "SELECT CAST(objid AS int), pid = pg_backend_pid() FROM pg_locks WHERE locktype = 'advisory' AND granted "
    "AND classid = CAST(:room AS oid) AND objid <> 0 AND objsubid = 2 "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
_NOW = sa.text("SELECT extract(epoch FROM clock_timestamp())")
_TAKE = sa.text("SELECT pg_advisory_lock(:room, 0)")
_LEAVE = sa.text("SELECT pg_advisory_unlock(:room, 0)")
GONE = sa.text("SELECT pg_advisory_unlock_all()")
"""Said before a connection is closed: its locks would end a moment later, with its process at the server."""


def append_together(link: sa.Connection, room: int, rows: list[Any]) -> None:
    """Append the rows of one study, all or nothing."""
    study = rows[0][0]
    _, seqs, ats, kinds, datas = (list(column) for column in zip(*rows))
    link.execute(_APPEND, {"study": study, "room": room, "seqs": seqs, "ats": ats, "kinds": kinds, "datas": datas})


class PostgresDrivers:
    """Who drives a study.

    Args:
        ask: put a statement to the server by the connection that holds this driver's lock.
        room: the study's number among locks.
    """

    def __init__(self, ask: Callable[[Any, dict[str, Any]], list[Any]], room: Callable[[], int]) -> None:
        self._ask = ask
        self._room = room
        self._driver = 0

    def now(self) -> float:
        """The server's time, in seconds since 1970: machines have clocks of their own."""
        return float(self._ask(_NOW, {})[0][0])

    def enter(self, driver: int) -> None:
        """Live as number ``driver``, until the connection or the process ends."""
        self._driver = driver
        self._ask(_HOLD, {"room": self._room(), "driver": driver})

    def hold(self, link: sa.Connection) -> None:
        """Go on living by another connection."""
        if self._driver:
            link.execute(_HOLD, {"room": self._room(), "driver": self._driver})

    def living(self) -> frozenset[int]:
        """The numbers of the drivers that live, this one among them."""
        found = self._ask(_LIVING, {"room": self._room()})
        if self._driver and (self._driver, True) not in {tuple(row) for row in found}:
            # An older connection of ours may have held it until now.
            self._ask(_HOLD, {"room": self._room(), "driver": self._driver})
        return frozenset([n for n, _ in found] + ([self._driver] if self._driver else []))

    @contextmanager
    def floor(self) -> Iterator[None]:
        """Nobody else appends to the study within."""
        self._ask(_TAKE, {"room": self._room()})
        try:
            yield
        finally:
            self._ask(_LEAVE, {"room": self._room()})
