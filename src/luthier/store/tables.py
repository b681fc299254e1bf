"""The tables, their version, and the way from each version to the next."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from luthier.core.errors import StorageError
from luthier.store.places import shown

SCHEMA = 2
"""The version of the tables. An older database is read as it is and brought up to date before the first write; one of a
newer version is refused."""

LOCK = 0x10C7_41E6
"""The number of the lock under which a server's tables are made or changed."""

_meta = sa.MetaData()
info = sa.Table("luthier", _meta, sa.Column("schema", sa.Integer, nullable=False))
studies = sa.Table(
    "studies",
    _meta,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(200), nullable=False, unique=True),
    sa.Column("files", sa.Text),  # where checkpoints and logs were asked to go; since version 2
)
events = sa.Table(
    "events",
    _meta,
    sa.Column("study", sa.Integer, sa.ForeignKey("studies.id"), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("data", sa.Text, nullable=False),
)


def _files(link: sa.Connection) -> None:
    link.exec_driver_sql("ALTER TABLE studies ADD COLUMN files TEXT")


MIGRATIONS: dict[int, Callable[[sa.Connection], None]] = {1: _files}
"""Of each version the step to the next one."""


def version_of(link: sa.Connection, url: str) -> int | None:
    """The version of Luthier's tables; None where there are none.

    Raises:
        StorageError: a database of another program, or of a newer version.
    """
    tables = set(sa.inspect(link).get_table_names())
    if not tables:
        return None
    if not {"luthier", "studies", "events"} <= tables:
        raise StorageError(
            f"{shown(url)} is a database of another program (tables {', '.join(sorted(tables)[:5])}).",
            "Name another file, or a database that is Luthier's own (createdb luthier).",
        )
    version = link.execute(sa.select(info.c.schema)).scalar()
    if version is not None and version > SCHEMA:
        raise StorageError(
            f"{shown(url)} was written by a newer Luthier (schema {version}; this one knows {SCHEMA}).",
            "Upgrade: pip install -U luthier.",
        )
    return version


def prepare(link: sa.Connection, url: str) -> None:
    """Make the tables, or bring them up to date; within a transaction of the caller's that keeps others out."""
    if link.dialect.name == "postgresql":
        link.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
    version = version_of(link, url)
    if version is None:
        _meta.create_all(link, checkfirst=True)
        link.execute(info.insert().values(schema=SCHEMA))
        return
    for step in range(version, SCHEMA):
        MIGRATIONS[step](link)
    if version < SCHEMA:
        link.execute(info.update().values(schema=SCHEMA))
