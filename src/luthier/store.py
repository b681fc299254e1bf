"""Where logs are kept: SQLite, and whatever else SQLAlchemy speaks, through three small tables.

The log is append-only. ``append`` says how long it believes the log to be; the primary key ``(study, seq)`` turns a
wrong belief into a :class:`Conflict` and nothing is written. Payloads are JSON text: nothing in the database is ever
unpickled.

SQLite runs in WAL mode. What was committed survives the death of every process; with ``durability="power"`` every
transaction is synced to the disk as well, and survives a loss of power.
"""

from __future__ import annotations

import gc
import hashlib
import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError

from luthier.core.errors import Conflict, StorageError, UserError, nearest
from luthier.core.events import compact, decode
from luthier.core.fold import Folding
from luthier.core.history import Entry, History, start

SCHEMA = 1
"""The version of the tables; a database of a newer one is refused."""

DURABILITY = {"process": "NORMAL", "power": "FULL"}
"""What acknowledged events survive, and SQLite's word for it. A server's database has its own settings."""

_text = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode

CHUNK = 2000
"""Events that are read at once."""

_meta = sa.MetaData()
_info = sa.Table("luthier", _meta, sa.Column("schema", sa.Integer, nullable=False))
_studies = sa.Table(
    "studies",
    _meta,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(200), nullable=False, unique=True),
)
_events = sa.Table(
    "events",
    _meta,
    sa.Column("study", sa.Integer, sa.ForeignKey("studies.id"), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("data", sa.Text, nullable=False),
)


class SqlStore:
    """One study's log in a database. Nothing is created before the first append.

    Args:
        url: an SQLAlchemy URL; see :func:`locate`.
        name: the study's name in this database.
        durability: what survives the death of every ``"process"``, or a loss of ``"power"`` too.

    Raises:
        StorageError: the file is no database, not one of Luthier's, or of a newer version.
        UserError: another durability.
    """

    def __init__(self, url: str, name: str, durability: str = "process") -> None:
        if durability not in DURABILITY:
            raise UserError(f"durability={durability!r} is unknown.", nearest(durability, DURABILITY))
        self.url = url
        self.name = name
        self._file = file_of(url)
        self._engine = _engine(url, DURABILITY[durability])
        self._writer: sa.Connection | None = None
        self._study: int | None = None
        if self._file is not None and not self._file.parent.is_dir():
            raise StorageError(f"The folder {self._file.parent} does not exist.", "Create it first.")
        if self._exists():
            self._study = self._find()

    def _exists(self) -> bool:
        if self._file is not None and (not self._file.exists() or self._file.stat().st_size == 0):
            return False
        with _readable(self.url), self._engine.connect() as link:
            return _check_schema(link, self.url)

    def _find(self) -> int | None:
        with _readable(self.url), self._engine.connect() as link:
            return link.execute(sa.select(_studies.c.id).where(_studies.c.name == self.name)).scalar()

    def _create(self) -> int:
        if self._file is not None:
            # Several drivers may create one file at once: SQLite's own lock lets the first one make the tables.
            with _readable(self.url), sqlite3.connect(self._file, timeout=60, isolation_level=None) as raw:
                raw.execute("PRAGMA journal_mode=WAL")
            raw.close()
        with _readable(self.url), self._engine.connect() as link:
            if self._file is not None:
                link.exec_driver_sql("BEGIN IMMEDIATE")
            _meta.create_all(link, checkfirst=True)
            if link.execute(sa.select(_info.c.schema)).scalar() is None:
                link.execute(_info.insert().values(schema=SCHEMA))
            study = link.execute(sa.select(_studies.c.id).where(_studies.c.name == self.name)).scalar()
            if study is None:
                study = link.execute(_studies.insert().values(name=self.name)).inserted_primary_key[0]  # type: ignore[index]
            link.commit()
        return int(study)

    def append(self, entries: Sequence[Entry], after: int) -> None:
        """Append in one transaction, provided that the log holds exactly ``after`` entries.

        Raises:
            Conflict: it does not; nothing was written.
            StorageError: the disk is full, the file read-only or damaged; nothing was written.
        """
        if not entries:
            return
        if self._study is None:
            self._study = self._create()
        rows = []
        for seq, entry in enumerate(entries, start=after):
            kind, data = compact(entry.event)
            rows.append((self._study, seq, entry.at, kind, _text(data)))
        try:
            with _readable(self.url):
                if self._writer is None:
                    self._writer = self._engine.connect()
                with self._writer.begin():
                    if self._engine.dialect.name == "sqlite":  # a third of the time, for it runs once a report
                        self._writer.exec_driver_sql("INSERT INTO events VALUES (?, ?, ?, ?, ?)", rows)
                    else:
                        names = _events.columns.keys()
                        self._writer.execute(_events.insert(), [dict(zip(names, row)) for row in rows])
        except IntegrityError:
            raise Conflict(
                f"Another driver wrote to the study {self.name!r} meanwhile. Nothing is lost; let one of them go on."
            ) from None

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
                        at, kind, data = lines.pop(0)
                        folding = Folding(start(Entry(at, decode(kind, data))))
                    folding.lines(lines)
        finally:
            if collects:
                gc.enable()
        return None if folding is None else folding.history()

    def _lines(self, after: int) -> Iterator[list[tuple[float, str, Any]]]:
        """When, which kind and the data of the events from number ``after`` on, many at a time."""
        if self._study is None and self._exists():
            self._study = self._find()
        if self._study is None:
            return
        query = (
            sa.select(_events.c.seq, _events.c.at, _events.c.kind, _events.c.data)
            .where(_events.c.study == self._study, _events.c.seq >= after)
            .order_by(_events.c.seq)
        )
        with _readable(self.url), self._engine.connect() as link:
            cursor: Any = link.execute(query).cursor
            while rows := cursor.fetchmany(CHUNK):
                with self._sound():
                    if rows[-1][0] != after + len(rows) - 1:
                        raise ValueError(f"some of the events {after} to {rows[-1][0]} are missing")
                    # One parse for all of them: half the time, and the names of the metrics are shared.
                    datas = json.loads(f"[{','.join([row[3] for row in rows])}]")
                after += len(rows)
                yield [(at, kind, data) for (_, at, kind, _), data in zip(rows, datas)]

    @contextmanager
    def _sound(self) -> Iterator[None]:
        """Whatever cannot be read within was damaged: each event was written whole."""
        try:
            yield
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise StorageError(
                f"{self.url}: the log of study {self.name!r} is damaged ({error}).", "Restore a copy of the file."
            ) from error

    def forget(self) -> None:
        """Remove the study, and an SQLite file that then holds no other."""
        if self._study is None:
            return
        self.close()
        with _readable(self.url), self._engine.begin() as link:
            link.execute(_events.delete().where(_events.c.study == self._study))
            link.execute(_studies.delete().where(_studies.c.id == self._study))
            empty = link.execute(sa.select(_studies.c.id)).first() is None
        self._study = None
        self.close()
        if empty and self._file is not None:
            for suffix in ("", "-wal", "-shm"):
                self._file.with_name(self._file.name + suffix).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the connections."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._engine.dispose()


# -- places ------------------------------------------------------------------------------------------------------------


def locate(place: str | Path) -> str:
    """The URL of a storage named by a folder, a file or a URL. A folder's log is its ``study.db``."""
    text = str(place)
    if "://" in text:
        try:
            sa.make_url(text)
        except (sa.exc.ArgumentError, ValueError):
            raise StorageError(f"{text!r} is no storage URL.", 'Write "sqlite:///study.db".') from None
        return text
    path = Path(text)
    if path.is_dir() or (not path.exists() and path.suffix == ""):
        path = path / "study.db"
    return f"sqlite:///{path}"


def files_beside(url: str, name: str) -> Path | None:
    """The folder for a study's checkpoints and logs: ``study.files/NAME`` beside ``study.db``; None off the disk."""
    file = file_of(url)
    if file is None:
        return None
    return file.parent / f"{file.stem}.files" / slug(name)


def files_of(url: str, name: str, folder: str | Path | None = None) -> Path | None:
    """Where a study's checkpoints and logs go: below ``folder``, beside the database where it is None, None off the
    disk."""
    return files_beside(url, name) if folder is None else Path(folder) / slug(name)


def slug(name: str) -> str:
    """A study's name as the name of a folder: it is the user's text, only harmless characters reach the file system."""
    short = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:60].strip("_")
    return short if short == name else f"{short}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def open_store(place: str | Path, name: str | None = None, durability: str = "process") -> SqlStore:
    """An existing study's log; ``durability`` as for :class:`SqlStore`.

    Raises:
        StorageError: nothing is there, or ``name`` is needed to tell several studies apart.
    """
    url = locate(place)
    file = file_of(url)
    if file is not None and not file.exists():
        raise StorageError(f"There is no study at {place}.", "Name its folder, its .db file or its URL.")
    names = study_names(url)
    if not names:
        raise StorageError(f"{place} holds no study yet.", "Run luthier tune or luthier quickstart first.")
    if name is None:
        if len(names) > 1:
            raise StorageError(f"{place} holds {len(names)} studies: {', '.join(names)}.", "Choose one with --name.")
        name = names[0]
    if name not in names:
        raise StorageError(f"{place} holds no study called {name!r}.", nearest(name, names))
    return SqlStore(url, name, durability)


def history_of(log: SqlStore) -> History:
    """The history of a study that must have begun.

    Raises:
        StorageError: not a single event was written, or the file is damaged.
    """
    history = log.fold()
    if history is None:
        raise StorageError(f"The study {log.name!r} in {log.url} has no events yet.", "Start it with luthier tune.")
    return history


def study_names(url: str) -> list[str]:
    """The names of the studies in a database, oldest first."""
    engine = _engine(url)
    try:
        with _readable(url), engine.connect() as link:
            if not _check_schema(link, url):
                return []
            return list(link.execute(sa.select(_studies.c.name).order_by(_studies.c.id)).scalars())
    finally:
        engine.dispose()


def file_of(url: str) -> Path | None:
    """The file of an SQLite URL; None for any other database."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        return None
    return Path(parsed.database)


def _engine(url: str, synchronous: str = DURABILITY["process"]) -> sa.Engine:
    try:
        engine = sa.create_engine(url, json_serializer=None)
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ModuleNotFoundError) as error:
        raise StorageError(f"The storage {url!r} cannot be used: {error}.", 'Write "sqlite:///study.db".') from None
    if engine.dialect.name == "sqlite":

        @sa.event.listens_for(engine, "connect")
        def _pragmas(raw: Any, _record: Any) -> None:
            raw.execute("PRAGMA busy_timeout=60000")
            raw.execute(f"PRAGMA synchronous={synchronous}")

    return engine


def _check_schema(link: sa.Connection, url: str) -> bool:
    """Whether Luthier's tables are there; refuses foreign and newer ones."""
    tables = set(sa.inspect(link).get_table_names())
    if not tables:
        return False
    if not {"luthier", "studies", "events"} <= tables:
        raise StorageError(
            f"{url} is a database of another program (tables {', '.join(sorted(tables)[:5])}).", "Name another file."
        )
    version = link.execute(sa.select(_info.c.schema)).scalar()
    if version is not None and version > SCHEMA:
        raise StorageError(
            f"{url} was written by a newer Luthier (schema {version}; this one knows {SCHEMA}).",
            "Upgrade: pip install -U luthier.",
        )
    return version is not None


class _readable:
    """Turns the database's own errors into a StorageError that says what to mend."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, UserError | IntegrityError):
            return
        if isinstance(error, (DatabaseError, OperationalError, sqlite3.Error)):
            text = str(getattr(error, "orig", None) or error)
            mends = {
                "not a database": "Name a Luthier study, or another file.",
                "unable to open": "Check that the folder exists and is yours to write.",
                "readonly": "Make the file writable, or copy the study elsewhere.",
                "full": "Free some disk space, then run luthier resume.",
                "malformed": "Restore a copy of the file.",
                "disk I/O": "The disk is full or failing, or files may not grow further. Mend it, then luthier resume.",
                "locked": "Another program holds the file; close it and try again.",
            }
            mend = next((m for key, m in mends.items() if key in text), "")
            raise StorageError(f"{self.url}: {text}.", mend) from error
