"""The connection that writes: kept open, and opened once more where it broke."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError


class Pen:
    """One connection of an engine, opened when it is needed.

    Args:
        engine: of the database.
        opened: told of each new connection.
    """

    def __init__(self, engine: sa.Engine, opened: Callable[[sa.Connection], None]) -> None:
        self._engine = engine
        self._opened = opened
        self._link: sa.Connection | None = None

    def link(self) -> sa.Connection:
        """The connection."""
        if self._link is None:
            self._link = self._engine.connect()
            self._opened(self._link)
        return self._link

    def ask(self, statement: Any, values: dict[str, Any]) -> list[Any]:
        """The rows that a statement gives, asked again by a new connection where the old one broke."""
        try:
            return list(self.link().execute(statement, values))
        except DBAPIError as error:
            if not broken(error):
                raise
        self.hang_up()
        return list(self.link().execute(statement, values))

    def last(self, statement: Any) -> None:
        """A last word, if there is anybody to say it to."""
        if self._link is not None:
            with suppress(DBAPIError):
                self._link.execute(statement)

    def hang_up(self) -> None:
        """Let go of a connection that is no good any more."""
        if self._link is not None:
            self._link.invalidate()
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        if self._link is not None:
            self._link.close()
            self._link = None


def broken(error: Exception) -> bool:
    """Whether the connection is gone, so that it is not known what became of the last statement."""
    return isinstance(error, DBAPIError) and error.connection_invalidated
