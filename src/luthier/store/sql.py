"""A study's log in a database's tables."""

from __future__ import annotations

import gc
import json
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from luthier.core.errors import Conflict, StorageError, UserError, nearest
from luthier.core.events import compact, decode
from luthier.core.fold import Folding
from luthier.core.history import Entry, History, start
from luthier.store import tables
from luthier.store.drivers import GONE, PostgresDrivers, append_together
from luthier.store.engine import DURABILITY, make_engine, readable, told
from luthier.store.pen import Pen, broken
from luthier.store.places import file_of, is_url, shown
from luthier.store.tables import SCHEMA, events, studies

_text = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode

TAKEN = (IntegrityError, sqlite3.IntegrityError)
"""What a database says of a line that is there already."""

CHUNK = 2000
"""Events that are read at once."""

Row = tuple[int, int, float, str, str]
"""A line of the log as it lies in the table: study, seq, at, kind, data."""


class SqlStore:
    """One study's log in a database. Nothing is created before the first append.

    Args:
        url: an SQLAlchemy URL; see :func:`locate`.
        name: the study's name in this database.
        durability: what survives the death of every ``"process"``, or a loss of ``"power"`` too.

    Attributes:
        drivers: of a database on a server, how those who drive the study know of each other; None of a file, which has
            one driver at a time.

    Raises:
        StorageError: the database cannot be read, is not one of Luthier's, or of a newer version.
        UserError: another durability, or a library that is not installed.
    """

    def __init__(self, url: str, name: str, durability: str = "process") -> None:
        if durability not in DURABILITY:
            raise UserError(f"durability={durability!r} is unknown.", nearest(durability, DURABILITY))
        self.url = url
        self.name = name
        self._file = file_of(url)
        self._engine = make_engine(url, DURABILITY[durability])
        self._study: int | None = None
        self._version: int | None = None
        if self._file is not None and not self._file.parent.is_dir():
            raise StorageError(f"The folder {self._file.parent} does not exist.", "Create it first.")
        on_server = self._engine.dialect.name == "postgresql"
        self.drivers = PostgresDrivers(self._ask, self._room) if on_server else None
        self._pen = Pen(self._engine, self.drivers.hold if self.drivers is not None else lambda link: None)
        try:
            self._look()
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"SqlStore({shown(self.url)!r}, {self.name!r})"

    def _look(self) -> int | None:
        """The study's number; None where it, the tables or the file are not there yet."""
        if self._study is None and (self._file is None or (self._file.exists() and self._file.stat().st_size > 0)):
            with readable(self.url), self._engine.connect() as link:
                self._version = tables.version_of(link, self.url)
                if self._version is not None:
                    self._study = link.execute(sa.select(studies.c.id).where(studies.c.name == self.name)).scalar()
        return self._study

    def number(self) -> int:
        """The study's number in this database, made where it has none yet, in tables of today's version."""
        if self._study is None or self._version != SCHEMA:
            self._study, _ = self._create()
            self._version = SCHEMA
        return self._study

    def claim(self) -> bool:
        """Make the study, still without an event; False where there is one of this name already."""
        self._study, mine = self._create()
        self._version = SCHEMA
        return mine

    def _create(self) -> tuple[int, bool]:
        """The study's number, and whether it was made now: one alone makes it, of however many who try at once."""
        if self._file is not None:
            # Several drivers may create one file at once: SQLite's own lock lets the first one make the tables.
            with readable(self.url), sqlite3.connect(self._file, timeout=60, isolation_level=None) as raw:
                raw.execute("PRAGMA journal_mode=WAL")
            raw.close()
        with readable(self.url), self._transaction() as link:
            tables.prepare(link, self.url)
            study = link.execute(sa.select(studies.c.id).where(studies.c.name == self.name)).scalar()
            mine = study is None
            if mine:
                study = link.execute(studies.insert().values(name=self.name)).inserted_primary_key[0]  # type: ignore[index]
        return int(study or 0), mine

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """Several statements that count together or not at all, while nobody else changes the tables."""
        with self._engine.connect() as link:
            if self._engine.dialect.name == "postgresql":
                link = link.execution_options(isolation_level="READ COMMITTED")
            if self._file is not None:
                link.exec_driver_sql("BEGIN IMMEDIATE")
            yield link
            link.commit()

    @property
    def files(self) -> str | None:
        """The folder that was named for checkpoints and logs when the study was last driven; None where none was."""
        if self._look() is None or (self._version or 0) < 2:
            return None
        with readable(self.url), self._engine.connect() as link:
            return link.execute(sa.select(studies.c.files).where(studies.c.id == self._study)).scalar()

    def keep_files(self, place: str | Path) -> None:
        """Note the folder, which is made, or the URL that was named, for whoever goes on with the study or looks at it.

        Raises:
            StorageError: it cannot be made.
        """
        if not is_url(place):
            folder = Path(place)
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                mend = "Name another one."
                raise StorageError(f"The folder {folder} cannot be made: {error.strerror}.", mend) from None
            place = folder.resolve()
        study = self.number()
        with readable(self.url), self._transaction() as link:
            link.execute(studies.update().where(studies.c.id == study).values(files=str(place)))

    # -- writing -------------------------------------------------------------------------------------------------------
    def append(self, entries: Sequence[Entry], after: int) -> None:
        """Append in one transaction, provided that the log holds exactly ``after`` entries.

        A connection that broke is opened once more, and it is looked up whether the entries had arrived.

        Raises:
            Conflict: it does not; nothing was written.
            StorageError: the disk is full, the file read-only or damaged, the server gone; nothing was written, but for
                a server that is gone, which may have taken them: the next driver reads what is there.
        """
        if not entries:
            return
        study = self.number()
        rows: list[Row] = []
        for seq, entry in enumerate(entries, start=after):
            kind, data = compact(entry.event)
            rows.append((study, seq, entry.at, kind, _text(data)))
        try:
            self._write(rows)
            return
        except TAKEN as error:
            raise self._refused(error) from None
        except (DBAPIError, sqlite3.Error) as error:
            if not broken(error):
                raise told(self.url, error) from error
        try:
            self._pen.hang_up()
            if not self._arrived(rows):
                self._write(rows)
        except TAKEN as error:
            # Ours may have been on the way still, or another driver was first.
            if not self._arrived(rows):
                raise self._refused(error) from None
        except (DBAPIError, sqlite3.Error) as error:
            raise told(self.url, error) from error

    def fill(self, lines: Sequence[tuple[float, str, str]]) -> None:
        """Write a whole log at once, in a study that has none: when, which kind, and the data as JSON text.

        Raises:
            StorageError: it has one; or it cannot be written, then there is no study.
        """
        study = self.number()
        try:
            with readable(self.url), self._transaction() as link:
                for at in range(0, len(lines), CHUNK):
                    rows = [(study, at + i, *line) for i, line in enumerate(lines[at : at + CHUNK])]
                    if self.drivers is not None:
                        append_together(link, self._room(), rows)
                    else:
                        link.execute(events.insert(), [dict(zip(events.columns.keys(), row)) for row in rows])
        except TAKEN:
            raise StorageError(
                f"{shown(self.url)} already holds a study {self.name!r}.", "Choose another name."
            ) from None
        except BaseException:
            if not any(self.rows()):
                self.forget()
            raise

    def _write(self, rows: list[Row]) -> None:
        link = self._pen.link()
        if self.drivers is not None:
            append_together(link, self._room(), rows)
            return
        if self._file is not None:  # half of the time, for it runs once a report
            raw: Any = link.connection.dbapi_connection
            with raw:
                raw.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?)", rows)
            return
        with link.begin():
            names = events.columns.keys()
            link.execute(events.insert(), [dict(zip(names, row)) for row in rows])

    def _refused(self, error: Exception) -> Exception:
        if getattr(getattr(error, "orig", None), "sqlstate", "") == "23503":
            return StorageError(
                f"The study {self.name!r} was removed from {shown(self.url)} meanwhile.", "Start it anew."
            )
        return Conflict(
            f"Another driver wrote to the study {self.name!r} meanwhile. Nothing is lost; let one of them go on."
        )

    def _arrived(self, rows: list[Row]) -> bool:
        """Whether exactly these rows are in the log."""
        query = sa.select(events).where(events.c.study == self._study, events.c.seq.between(rows[0][1], rows[-1][1]))
        return [tuple(row) for row in self._pen.link().execute(query.order_by(events.c.seq))] == rows

    def _ask(self, statement: Any, values: dict[str, Any]) -> list[Any]:
        with readable(self.url):
            return self._pen.ask(statement, values)

    def _room(self) -> int:
        """The number under which the study's locks are held: others may be in the same database, in another schema."""
        name = f"luthier {self._engine.dialect.default_schema_name} {self.number()}"
        return zlib.crc32(name.encode()) & 0x7FFF_FFFF

    # -- reading -------------------------------------------------------------------------------------------------------
    def read(self, after: int = 0) -> Iterator[Entry]:
        """The entries from number ``after`` on, in order.

        Raises:
            StorageError: the file is damaged.
        """
        for lines in self._lines(after):
            with self._sound():
                entries = [Entry(at, decode(kind, data)) for at, kind, data in lines]
            yield from entries

    def fold(self) -> History | None:
        """The history of the whole log, as :func:`luthier.core.history.fold` makes it of :meth:`read`, but many times
        faster; None where there is none.

        Raises:
            StorageError: the file is damaged.
        """
        folding: Folding | None = None
        # A million small objects that all stay: to look for garbage among them again and again takes longer than to
        # make them.
        collects = gc.isenabled()
        gc.disable()
        try:
            for lines in self._lines(0):
                with self._sound():
                    if folding is None:
                        at, kind, data = next(lines)
                        folding = Folding(start(Entry(at, decode(kind, data))))
                    folding.lines(lines)
        finally:
            if collects:
                gc.enable()
        return None if folding is None else folding.history()

    def _lines(self, after: int) -> Iterator[Iterator[tuple[float, str, Any]]]:
        """When, which kind and the data of the events from number ``after`` on, many at a time."""
        for rows in self.rows(after):
            with self._sound():
                seqs, ats, kinds, texts = zip(*rows)
                if seqs[-1] != after + len(rows) - 1:
                    raise ValueError(f"some of the events {after} to {seqs[-1]} are missing")
                datas = _parsed(kinds, texts)
            after += len(rows)
            yield zip(ats, kinds, datas)

    def rows(self, after: int = 0) -> Iterator[Sequence[Any]]:
        """The log's lines as they lie there, ``(seq, at, kind, data)``, from number ``after`` on, many at a time."""
        if self._look() is None:
            return
        query = (
            sa.select(events.c.seq, events.c.at, events.c.kind, events.c.data)
            .where(events.c.study == self._study, events.c.seq >= sa.bindparam("after"))
            .order_by(events.c.seq)
            .limit(CHUNK)
        )
        with readable(self.url), self._engine.connect() as link:
            while rows := link.execute(query, {"after": after}).cursor.fetchall():
                yield rows
                if len(rows) < CHUNK:
                    return
                after = rows[-1][0] + 1

    @contextmanager
    def _sound(self) -> Iterator[None]:
        """Whatever cannot be read within was damaged: each event was written whole."""
        try:
            yield
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise StorageError(
                f"{shown(self.url)}: the log of study {self.name!r} is damaged ({error}).",
                "Restore a copy of the file.",
            ) from error

    def forget(self) -> None:
        """Remove the study, and an SQLite file that then holds no other."""
        if self._study is None:
            return
        self.close()
        with readable(self.url), self._transaction() as link:
            link.execute(events.delete().where(events.c.study == self._study))
            link.execute(studies.delete().where(studies.c.id == self._study))
            empty = link.execute(sa.select(studies.c.id)).first() is None
        self._study = None
        self.close()
        if empty and self._file is not None:
            for suffix in ("", "-wal", "-shm"):
                self._file.with_name(self._file.name + suffix).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the connections."""
        if self.drivers is not None:
            self._pen.last(GONE)
        self._pen.close()
        self._engine.dispose()


def _parsed(kinds: Sequence[str], texts: Sequence[str]) -> list[Any]:
    """The data of some lines. Those of the reports, nearly all, in one parse, in which the names of the metrics are
    shared; the others by a parser that knows whole numbers of any size."""
    told = iter(_reports([text for kind, text in zip(kinds, texts) if kind == "Reported"]))
    return [next(told) if kind == "Reported" else json.loads(text) for kind, text in zip(kinds, texts)]


def _reports(texts: Sequence[str]) -> list[Any]:
    whole = f"[{','.join(texts)}]"
    try:
        found: list[Any] = orjson.loads(whole)
    except ValueError:  # half a character in the name of a metric, say
        found = json.loads(whole)
    return found
