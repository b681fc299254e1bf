"""Connections, and the databases' own errors in words."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from luthier.core.errors import StorageError, UserError
from luthier.store.places import shown

DURABILITY = {"process": "NORMAL", "power": "FULL"}
"""What acknowledged events survive, and SQLite's word for it. A server's database has its own settings."""

PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""When a server that says nothing is taken to be gone, in libpq's terms; what stands in the URL has precedence."""

RESTART = 20.0
"""Seconds for which a server that was there before is tried again: it may be restarting."""

_KEEPALIVE = "SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3"
"""And the other way round: a driver whose machine is gone holds nothing a minute later."""

MENDS = {
    "not a database": "Name a Luthier study, or another file.",
    "unable to open": "Check that the folder exists and is yours to write.",
    "readonly": "Make the file writable, or copy the study elsewhere.",
    "malformed": "Restore a copy of the file.",
    "disk I/O": "The disk is full or failing, or files may not grow further. Mend it, then luthier resume.",
    "locked": "Another program holds the file; close it and try again.",
    "password": "Give the user's password in the URL, in ~/.pgpass or as PGPASSWORD.",
    "does not exist": "Create it first (createdb NAME), or mend the URL.",
    "read-only": "Name the primary server, or a user who may write.",
    "permission denied": "Ask for the right to read and write Luthier's tables, and to create them the first time.",
    "could not translate": "Mend the host in the URL.",
    "failed to resolve": "Mend the host in the URL.",
    "refused": "Start the server, or mend host and port in the URL.",
    "timeout": "Check that the server runs and can be reached from here.",
    "No such file": "Start the server, or mend the path of its socket in the URL.",
    "too many": "Raise max_connections of the server: a driver holds two connections.",
    "closed": "Nothing that was acknowledged is lost. Once the server is back: luthier resume.",
    "terminating": "Nothing that was acknowledged is lost. Once the server is back: luthier resume.",
    "full": "Free some disk space, then run luthier resume.",
}
"""What the database says, and what helps."""


def make_engine(url: str, synchronous: str = DURABILITY["process"]) -> sa.Engine:
    """An engine; nothing is connected yet.

    Raises:
        UserError: the library of this database is not installed.
        StorageError: a URL of nothing that is known.
    """
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() == "postgresql":
            return _postgres(parsed)
        engine = sa.create_engine(url, json_serializer=None)
    except ModuleNotFoundError as error:
        extra = "pip install 'luthier[postgres]'" if "psycopg" in str(error) else f"pip install {error.name}"
        raise UserError(f"The storage {shown(url)!r} needs {error.name}.", extra) from None
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError) as error:
        raise StorageError(
            f"The storage {shown(url)!r} cannot be used: {error}.", 'Write "sqlite:///study.db".'
        ) from None
    if engine.dialect.name == "sqlite":

        @sa.event.listens_for(engine, "connect")
        def _pragmas(raw: Any, _record: Any) -> None:
            raw.execute("PRAGMA busy_timeout=60000")
            raw.execute(f"PRAGMA synchronous={synchronous}")

    return engine


def _postgres(url: sa.URL) -> sa.Engine:
    given = {k: v for k, v in PATIENCE.items() if k not in url.query}
    # Each statement is a transaction of its own, one way to the server and back; those that belong together say so.
    engine = sa.create_engine(
        url, isolation_level="AUTOCOMMIT", pool_pre_ping=True, connect_args={**given, "application_name": "luthier"}
    )

    known = False

    @sa.event.listens_for(engine, "do_connect")
    def _connect(dialect: sa.Dialect, _record: Any, words: Any, named: Any) -> Any:
        nonlocal known
        end = time.monotonic() + (RESTART if known else 0.0)
        while True:
            try:
                link = dialect.connect(*words, **named)
            except dialect.loaded_dbapi.OperationalError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)
            else:
                known = True
                return link

    @sa.event.listens_for(engine, "connect")
    def _keepalive(raw: Any, _record: Any) -> None:
        with raw.cursor() as cursor:
            cursor.execute(_KEEPALIVE)
        raw.commit()

    return engine


class readable:
    """Turns the database's own errors into a StorageError that says what to mend."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, UserError | IntegrityError):
            return
        if isinstance(error, DBAPIError | sqlite3.Error):
            raise told(self.url, error) from error


def told(url: str, error: BaseException) -> StorageError:
    """A database's error as ours."""
    text = " ".join(str(getattr(error, "orig", None) or error).split()).rstrip(".")
    mend = next((m for key, m in MENDS.items() if key in text), "")
    return StorageError(f"{shown(url)}: {text}.", mend)
