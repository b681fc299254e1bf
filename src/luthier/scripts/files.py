"""Metrics that a script writes into files while it runs: a table that grows, or TensorBoard's events."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.core.errors import UserError
from luthier.core.metrics import SPLITS
from luthier.readers import table, tensorboard
from luthier.readers.recording import number
from luthier.readers.rows import PHASE, TAG
from luthier.readers.rows import plain as column
from luthier.scripts.lines import Row, row_of
from luthier.scripts.names import Names

_PATIENCE = 20.0
"""A file is not read again before so many times what the last reading took."""


class _Polled:
    """A place that is looked at now and then, and read only if it changed."""

    def __init__(self) -> None:
        self._stamp: object = None
        self._next = 0.0

    def due(self, stamp: object, final: bool) -> bool:
        if stamp == self._stamp or (not final and time.monotonic() < self._next):
            return False
        self._stamp = stamp
        return True

    def took(self, since: float) -> None:
        now = time.monotonic()
        self._next = now + _PATIENCE * (now - since)


class CsvFile:
    """A CSV file that a script writes: its rows as they are completed.

    Columns for each quantity, or lines of ``name, value``; a column ``phase`` tells training from validation. What was
    in the file before the script began is left out: a file that it adds to is read from there on.
    """

    def __init__(self, path: Path, names: Names) -> None:
        self._path = path
        self._names = names
        self._polled = _Polled()
        self._before = self._size()
        self._done = len(self._lines(self._text(final=True))) if self._before else 0

    def read(self, *, final: bool = False) -> list[Row]:
        """The rows that are new; with ``final`` a last line without a newline too.

        Raises:
            UserError: the file is no table with a header.
        """
        try:
            status = self._path.stat()
        except OSError:
            return []
        if not self._polled.due((status.st_mtime_ns, status.st_size, final), final):
            return []
        since = time.monotonic()
        if status.st_size < self._before:
            self._before, self._done = 0, 0  # written anew
        lines = self._lines(self._text(final=final))
        rows: list[Row] = []
        if len(lines) > max(1, self._done):
            try:
                found = table.rows_of(lines)
            except UserError as error:
                raise UserError(f"{self._path}: {error.problem}", error.mend) from None
            # The header is a line too.
            rows = [self._row(r) for r in found[max(0, self._done - (len(lines) - len(found))) :]]
            self._done = len(lines)
        self._polled.took(since)
        return rows

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def _text(self, *, final: bool) -> str:
        text = self._path.read_bytes().decode("utf-8-sig", errors="replace")
        return text if final else text[: text.rfind("\n") + 1]

    def _lines(self, text: str) -> list[str]:
        return [line for line in text.splitlines() if line.strip()]

    def _row(self, cells: Mapping[str, Any]) -> Row:
        columns = {column(c): c for c in cells}
        tag = next((columns[t] for t in TAG if t in columns), None)
        if tag is not None and "value" in columns and number(cells[tag]) is None:
            rest = {k: v for k, v in cells.items() if k not in (tag, columns["value"])}
            return row_of({**rest, str(cells[tag]): cells[columns["value"]]}, self._names)
        phase = next((columns[p] for p in PHASE if p in columns), None)
        said = str(cells[phase]).strip().lower() if phase is not None else ""
        if phase is not None and said in SPLITS:
            axes = {"epoch", "step", "global_step", "iteration"}
            cells = {k if column(k) in axes else f"{said}/{k}": v for k, v in cells.items() if k != phase}
        return row_of(cells, self._names)


class Events:
    """TensorBoard's event files below a folder: what was logged at one step is a row."""

    def __init__(self, folder: Path, names: Names) -> None:
        self._folder = folder
        self._names = names
        self._polled = _Polled()
        self._old = set(self._files())
        self._taken: dict[str, int] = {}

    def read(self, *, final: bool = False) -> list[Row]:
        """The steps that are new.

        Raises:
            UserError: the package tensorboard is missing, or a file cannot be read.
        """
        files = [f for f in self._files() if f not in self._old]
        stamp = tuple((f, f.stat().st_size) for f in files)
        if not files or not self._polled.due(stamp, final):
            return []
        since = time.monotonic()
        steps: dict[float, dict[str, float]] = {}
        for folder in dict.fromkeys(f.parent for f in files):
            prefix = "" if folder == self._folder else folder.relative_to(self._folder).as_posix()
            own = [f for f in files if f.parent == folder]
            for tag, points in tensorboard.scalars(own).items():
                name = tensorboard.named(tag, prefix) if "/" not in prefix else tag
                for step, value in points[self._taken.get(f"{prefix}:{tag}", 0) :]:
                    steps.setdefault(step, {})[name] = value
                self._taken[f"{prefix}:{tag}"] = len(points)
        self._polled.took(since)
        return [row_of({"step": s, **steps[s]}, self._names) for s in sorted(steps) if math.isfinite(s)]

    def _files(self) -> list[Path]:
        return sorted(p for p in self._folder.rglob("*tfevents*") if p.is_file())
