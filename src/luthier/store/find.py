"""Studies that are there already: their names, their logs, their histories."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

import sqlalchemy as sa

from luthier.core.errors import StorageError, nearest
from luthier.core.history import History
from luthier.store.engine import make_engine, readable
from luthier.store.places import file_of, locate, shown
from luthier.store.sql import SqlStore
from luthier.store.tables import studies, version_of


def open_store(place: str | Path, name: str | None = None, durability: str = "process") -> SqlStore:
    """An existing study's log; ``durability`` as for :class:`SqlStore`.

    Raises:
        StorageError: nothing is there, or ``name`` is needed to tell several studies apart.
    """
    url = locate(place)
    file = file_of(url)
    if file is not None and not file.exists():
        raise StorageError(f"There is no study at {shown(place)}.", "Name its folder, its .db file or its URL.")
    names = study_names(url)
    if not names:
        raise StorageError(f"{shown(place)} holds no study yet.", "Run luthier tune or luthier quickstart first.")
    if name is None:
        if len(names) > 1:
            raise StorageError(
                f"{shown(place)} holds {len(names)} studies: {', '.join(names)}.", "Choose one with --name."
            )
        name = names[0]
    if name not in names:
        raise StorageError(f"{shown(place)} holds no study called {name!r}.", nearest(name, names))
    return SqlStore(url, name, durability)


def history_of(log: SqlStore) -> History:
    """The history of a study that must have begun.

    Raises:
        StorageError: not a single event was written, or the file is damaged.
    """
    history = log.fold()
    if history is None:
        raise StorageError(
            f"The study {log.name!r} in {shown(log.url)} has no events yet.", "Start it with luthier tune."
        )
    return history


@contextmanager
def new_name(url: str, name: str) -> Iterator[str]:
    """A name that no study there has, ``name`` or ``name-2``, ``name-3``, ...: of several who ask at once each gets its
    own. It is free again where the block ends with an exception before a first event.
    """
    file = file_of(url)
    taken = study_names(url) if file is None or file.exists() else []
    for i in count(1):
        each = name if i == 1 else f"{name}-{i}"
        if each in taken:
            continue
        with closing(SqlStore(url, each)) as log:
            if not log.claim():
                continue
            try:
                yield each
            except BaseException:
                if not any(log.rows()):
                    log.forget()
                raise
        return


def study_names(url: str) -> list[str]:
    """The names of the studies in a database, oldest first."""
    engine = make_engine(url)
    try:
        with readable(url), engine.connect() as link:
            if version_of(link, url) is None:
                return []
            return list(link.execute(sa.select(studies.c.name).order_by(studies.c.id)).scalars())
    finally:
        engine.dispose()
