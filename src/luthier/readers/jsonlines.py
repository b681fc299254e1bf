"""JSON lines, one object a line; also one JSON list of objects, or an object of lists as Keras' history is saved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.core.errors import UserError
from luthier.readers.recording import Recording
from luthier.readers.rows import looks_like_training, pair_quietly, recordings

NAME = "JSON lines"
SUFFIXES = (".jsonl", ".ndjson", ".json", ".log", ".txt")
_HEAD = 65_536


def can_read(path: Path) -> bool:
    """Whether the beginning of the file looks like a training's log."""
    if not path.is_file() or path.suffix.lower() not in SUFFIXES:
        return False
    try:
        with path.open(encoding="utf-8-sig") as file:
            head = file.read(_HEAD)
        rows = _rows(head, whole=len(head) < _HEAD)
    except (OSError, UnicodeDecodeError, UserError):
        return False
    columns = list(dict.fromkeys(c for row in rows[:50] for c in row))
    return looks_like_training(columns) or (len(rows) > 1 and bool(pair_quietly(columns)))


def read(path: Path) -> list[Recording]:
    """The trainings in a log.

    Raises:
        UserError: the file cannot be read, or a line in its middle is no JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text.", "Save it as UTF-8.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", "Name a file that is yours to read.") from None
    try:
        return recordings(_rows(text, whole=True), path.stem, path)
    except UserError as error:
        raise UserError(f"{path}: {error.problem}", error.mend) from None


def _rows(text: str, *, whole: bool) -> list[dict[str, Any]]:
    """One flat row for each object. The last line may be torn, as a crash leaves it."""
    if whole and text.lstrip()[:1] in ("[", "{"):
        try:
            data = json.loads(text)
        except ValueError:
            data = None
        if isinstance(data, dict) and (columns := {k: v for k, v in data.items() if isinstance(v, list)}):
            return [dict(zip(columns, cells)) for cells in zip(*columns.values())]
        if isinstance(data, list):
            return [flat(row) for row in data if isinstance(row, dict)]
    rows: list[dict[str, Any]] = []
    lines = [(n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip() and line.strip()[0] != "#"]
    for n, line in lines:
        try:
            row = json.loads(line)
        except ValueError as error:
            if rows and n == lines[-1][0]:
                break
            raise UserError(f"line {n} is no JSON: {error}.", "Write one object a line.") from None
        if not isinstance(row, dict):
            raise UserError(f"line {n} is {line.strip()[:40]!r}, not an object.", "Write one object a line.")
        rows.append(flat(row))
    return rows


def flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by slashes."""
    out: dict[str, Any] = {}
    for key, value in row.items():
        name = f"{prefix}{key}"
        out |= flat(value, f"{name}/") if isinstance(value, dict) else {name: value}
    return out
