"""CSV and its kin: any separator, comment lines, a byte-order mark, decimal commas."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

from luthier.core.errors import UserError
from luthier.readers.recording import Recording, number
from luthier.readers.rows import looks_like_training, recordings

NAME = "CSV, with a column for each quantity or lines of name, step, value"
SUFFIXES = (".csv", ".tsv", ".txt", ".dat", ".log")


def can_read(path: Path) -> bool:
    """Whether the file has a header that looks like a training's."""
    if not path.is_file() or path.suffix.lower() not in SUFFIXES:
        return False
    try:
        with path.open(encoding="utf-8-sig", errors="strict") as file:
            lines = [file.readline(65_536) for _ in range(40)]
        header = _table([line for line in lines if line])[0]
    except (OSError, UnicodeDecodeError, UserError):
        return False
    return looks_like_training(header)


def read(path: Path) -> list[Recording]:
    """The trainings in a table.

    Raises:
        UserError: the file cannot be read or is no table with a header.
    """
    return recordings(read_rows(path), path.stem, path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The table's rows by the names of its columns.

    Raises:
        UserError: the file cannot be read or is no table with a header.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, body = _table(file.read().splitlines())
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text.", "Save it as UTF-8.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", "Name a file that is yours to read.") from None
    except UserError as error:
        raise UserError(f"{path}: {error.problem}", error.mend) from None
    # A crash leaves the last line short: what is missing there is missing.
    return [dict(zip(header, row)) for row in body]


def rows_of(lines: list[str]) -> list[dict[str, Any]]:
    """The rows of a table's lines by the names of its columns.

    Raises:
        UserError: the lines are no table with a header.
    """
    header, body = _table(lines)
    return [dict(zip(header, row)) for row in body]


def _table(lines: list[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the text; cells are stripped, decimal commas turned into points."""
    said = [line for line in lines if line.strip()]
    comments = [line.lstrip("#% ").strip() for line in said if line.lstrip()[0] in "#%"]
    data = [line for line in said if line.lstrip()[0] not in "#%"]
    if not data:
        raise UserError("there is no line in it.", "Name a file with a header and rows.")
    mark = _separator(data[:20])
    rows = _split(data, mark)
    header = rows[0]
    if all(number(cell) is not None for cell in header):
        # numpy.savetxt puts the header into a comment.
        above = [cells for cells in (_split([c], _separator([c]))[0] for c in comments) if len(cells) == len(header)]
        if not above:
            raise UserError("its first line holds numbers, not names.", "Put the columns' names into the first line.")
        header, body = above[-1], rows
    else:
        body = rows[1:]
    if mark in (";", "\t"):
        body = [[_point(cell) for cell in row] for row in body]
    seen: Counter[str] = Counter()
    names = []
    for name in header:
        names.append(f"{name}.{seen[name]}" if seen[name] else name)  # as pandas tells them apart
        seen[name] += 1
    return names, body


def _split(lines: list[str], mark: str) -> list[list[str]]:
    if mark == " ":
        return [line.split() for line in lines]
    return [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=mark, skipinitialspace=True)]


def _separator(lines: list[str]) -> str:
    """The mark that cuts most lines into the same number of cells, at least two; a comma where there is none."""
    best, most = ",", 0
    for mark in ("\t", ";", ",", "|", " "):
        widths = [len(row) for row in _split(lines, mark)]
        if widths[0] > 1 and widths.count(widths[0]) * 1.0 >= max(1, len(lines) - 1):
            score = 2 if mark != " " else 1
            if score > most:
                best, most = mark, score
    return best


def _point(cell: str) -> str:
    """``0,5`` as ``0.5``."""
    if number(cell) is None and cell.count(",") == 1 and number(cell.replace(",", ".")) is not None:
        return cell.replace(",", ".")
    return cell
