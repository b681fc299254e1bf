"""The log in PostgreSQL, and what becomes of it when the server or the connection goes."""

from __future__ import annotations

from test_log import EVERY_EVENT

from luthier.core.history import Entry
from luthier.store import SqlStore, locate


def test_a_log_in_postgres_is_the_log(database):
    store = SqlStore(locate(database), "s")
    entries = [Entry(float(i) + 0.1, e) for i, e in enumerate(EVERY_EVENT)]
    store.append(entries[:4], 0)
    store.append(entries[4:], 4)
    assert repr(list(store.read())) == repr(entries)
