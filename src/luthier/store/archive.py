"""Logs as a Parquet file: all that a study is, without a database. Copied to a store it is a study again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.core.errors import StorageError, UserError
from luthier.store.tables import SCHEMA

Line = tuple[float, str, str]
"""When an event was appended, its kind and its data, JSON text."""

MARK = b"luthier.log"
"""Where the file's metadata keep the version of the tables that its lines come from."""


def is_archive(place: str | Path) -> bool:
    """Whether a place is named as such a file."""
    return str(place).endswith(".parquet")


def write_archive(path: Path, studies: Mapping[str, Sequence[Line]]) -> None:
    """Write the logs of studies, by their names.

    Raises:
        StorageError: there is a file already, or it cannot be written.
    """
    pa, pq = _arrow()
    if path.exists():
        raise StorageError(f"{path} exists already.", "Name another file, or remove it first.")
    columns: list[list[Any]] = [[], [], [], [], []]
    for name, lines in studies.items():
        for seq, line in enumerate(lines):
            for column, value in zip(columns, (name, seq, *line)):
                column.append(value)
    types = (pa.string(), pa.int64(), pa.float64(), pa.string(), pa.string())
    fields = [pa.field(n, t, nullable=False) for n, t in zip(("study", "seq", "at", "kind", "data"), types)]
    table = pa.table(
        [pa.array(c, t) for c, t in zip(columns, types)], schema=pa.schema(fields, metadata={MARK: str(SCHEMA)})
    )
    save(lambda file: pq.write_table(table, file, compression="zstd"), path)


def read_archive(path: Path) -> dict[str, list[Line]]:
    """The logs in such a file, by the studies' names.

    Raises:
        StorageError: no file, none of these, or of a newer version.
    """
    pa, pq = _arrow()
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise StorageError(f"There is no file {path}.", "Name a .parquet file that luthier copy wrote.") from None
    except (pa.ArrowException, OSError) as error:
        raise StorageError(
            f"{path} cannot be read: {' '.join(str(error).split())[:200]}.", "Name another file."
        ) from None
    version = (table.schema.metadata or {}).get(MARK)
    if version is None:
        raise StorageError(
            f"{path} holds no log of Luthier's.",
            "luthier copy writes logs, of which studies can be made again; luthier export writes tables to look at.",
        )
    if int(version) > SCHEMA:
        raise StorageError(
            f"{path} was written by a newer Luthier (schema {int(version)}; this one knows {SCHEMA}).",
            "Upgrade: pip install -U luthier.",
        )
    studies: dict[str, list[Line]] = {}
    for row in zip(*(table.column(name).to_pylist() for name in ("study", "seq", "at", "kind", "data"))):
        lines = studies.setdefault(row[0], [])
        if row[1] != len(lines):
            raise StorageError(f"{path} is damaged: event {len(lines)} of {row[0]!r} is missing.", "Take a copy of it.")
        lines.append(row[2:])
    return studies


def save(write: Any, path: Path) -> None:
    """Have a file written under another name and moved to where it belongs, so that it is there whole or not at all."""
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(half)
        half.replace(path)
    except OSError as error:
        half.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written: {error.strerror or error}.", "Name another place.") from None


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise UserError("Parquet files need pyarrow.", "pip install 'luthier[parquet]'") from None
    return pyarrow, pyarrow.parquet
