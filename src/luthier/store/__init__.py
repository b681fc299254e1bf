"""Where logs are kept: SQLite, PostgreSQL, and whatever else SQLAlchemy speaks, through three small tables.

The log is append-only. ``append`` says how long it believes the log to be; the primary key ``(study, seq)`` turns a
wrong belief into a :class:`Conflict` and nothing is written. Payloads are JSON text: nothing in the database is ever
unpickled.

SQLite runs in WAL mode. What was committed survives the death of every process; with ``durability="power"`` every
transaction is synced to the disk as well, and survives a loss of power. PostgreSQL lets several drivers work on one
study; how they know of each other stands in :mod:`luthier.store.drivers`.
"""

from luthier.store.copying import copy_studies
from luthier.store.engine import DURABILITY
from luthier.store.find import history_of, new_name, open_store, study_names
from luthier.store.places import (
    cloud_of,
    file_of,
    files_beside,
    files_known,
    files_needed,
    files_of,
    locate,
    shown,
    slug,
)
from luthier.store.sql import CHUNK, SqlStore
from luthier.store.tables import SCHEMA

__all__ = [
    "CHUNK",
    "DURABILITY",
    "SCHEMA",
    "SqlStore",
    "cloud_of",
    "copy_studies",
    "file_of",
    "files_beside",
    "files_known",
    "files_needed",
    "files_of",
    "history_of",
    "locate",
    "new_name",
    "open_store",
    "shown",
    "slug",
    "study_names",
]
