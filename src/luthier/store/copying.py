"""Logs from one store to another: event by event the same, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from luthier.core import events as ev
from luthier.core.errors import StorageError, UserError, nearest
from luthier.core.fold import Folding
from luthier.core.history import Entry, History, start
from luthier.store.archive import Line, is_archive, read_archive, write_archive
from luthier.store.find import study_names
from luthier.store.places import file_of, files_beside, files_known, locate, shown, slug
from luthier.store.sql import SqlStore

LOCK = "driver.lock"
"""What of a study's files belongs to its driver, and is not copied."""


@dataclass(frozen=True, slots=True)
class Copied:
    """A study that was copied: its name there, its history, and where its checkpoints were copied to, if they were."""

    name: str
    history: History
    files: Path | None = None


def copy_studies(
    source: str | Path,
    target: str | Path,
    name: str | None = None,
    rename: str | None = None,
    files: Path | None = None,
) -> list[Copied]:
    """Copy studies between databases, and to or from a Parquet file.

    A study that is being driven is copied as far as it has come. Of running trials the copy knows that they run:
    whoever goes on with it starts with those.

    Args:
        source, target: folders, files or URLs; a name ending in ``.parquet`` is a file of logs.
        name: the study to copy; all of them where None.
        rename: what it is to be called there.
        files: also copy checkpoints and logs, to below this folder.

    Raises:
        UserError: a study of that name is there already, or ``rename`` for several.
        StorageError: one of the two cannot be read or written.
    """
    with _sources(source, name) as found:
        if rename is not None and len(found) > 1:
            raise UserError(
                f"{shown(source)} holds {len(found)} studies: {', '.join(found)}.", "Choose one with --name."
            )
        lines = {rename or n: _renamed(_lines(log), rename) for n, log in found.items()}
        histories = {n: _checked(n, source, log) for n, log in lines.items()}
        taken = _taken(target)
        if both := [n for n in lines if n in taken]:
            raise UserError(
                f"{shown(target)} already holds a study {both[0]!r}.", "Give the copy another name with --as."
            )
        if files is not None and (is_archive(source) or is_archive(target)):
            raise UserError("A Parquet file has no checkpoints.", "Leave --files out, or copy between two databases.")
        if is_archive(target):
            write_archive(Path(target), lines)
            return [Copied(n, histories[n]) for n in lines]
        url = locate(target)
        moves = {
            new: None if files is None else _moves(log, files / slug(new), histories[new])
            for new, log in zip(lines, found.values())
        }
        return [Copied(n, histories[n], _put(url, n, lines[n], moves[n], files)) for n in lines]


@contextmanager
def _sources(place: str | Path, name: str | None) -> Iterator[Mapping[str, SqlStore | Sequence[Line]]]:
    """The studies that are to be copied, by their names."""
    held: Mapping[str, Sequence[Line]] = read_archive(Path(place)) if is_archive(place) else {}
    url = "" if held else locate(place)
    file = file_of(url) if url else None
    if file is not None and not file.exists():
        raise StorageError(f"There is no study at {shown(place)}.", "Name its folder, its .db file or its URL.")
    names = list(held) if held else study_names(url)
    if not names or (name is not None and name not in names):
        what = "no study yet" if not names else f"no study called {name!r}"
        raise StorageError(f"{shown(place)} holds {what}.", nearest(name or "", names))
    wanted = names if name is None else [name]
    logs: dict[str, SqlStore] = {}
    try:
        for each in wanted if url else ():
            logs[each] = SqlStore(url, each)
        yield logs or {each: held[each] for each in wanted}
    finally:
        for log in logs.values():
            log.close()


def _lines(log: SqlStore | Sequence[Line]) -> Sequence[Line]:
    if not isinstance(log, SqlStore):
        return log
    return [tuple(row[1:]) for rows in log.rows() for row in rows]


def _renamed(lines: Sequence[Line], name: str | None) -> Sequence[Line]:
    """The same log of a study that is called otherwise."""
    if name is None or not lines:
        return lines
    at, kind, data = lines[0]
    created = ev.decode(kind, json.loads(data))
    if not isinstance(created, ev.Created):
        return lines  # which is told when it is read
    kind, packed = ev.compact(ev.Created(replace(created.study, name=name)))
    return [(at, kind, json.dumps(packed, separators=(",", ":"))), *lines[1:]]


def _checked(name: str, source: str | Path, lines: Sequence[Line]) -> History:
    """The history of a log; refuses what cannot be read here, before anything is written."""
    try:
        read = [(at, kind, json.loads(data)) for at, kind, data in lines]
        if not read:
            raise ValueError("it has no events")
        folding = Folding(start(Entry(read[0][0], ev.decode(*read[0][1:]))))
        folding.lines(read[1:])
        return folding.history()
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise StorageError(f"{shown(source)}: the log of study {name!r} is damaged ({error}).") from error


def _taken(target: str | Path) -> list[str]:
    """The studies that are there already."""
    if is_archive(target):
        return []  # a file that is there is refused whole
    url = locate(target)
    file = file_of(url)
    return [] if file is not None and not file.exists() else study_names(url)


def _put(
    url: str, name: str, lines: Sequence[Line], moves: tuple[Path, Path] | None, files: Path | None
) -> Path | None:
    """Write a study, its files first; where that fails neither is there."""
    place = None if moves is None else moves[1]
    try:
        if moves is not None:
            shutil.copytree(*moves, ignore=shutil.ignore_patterns(LOCK))
        with closing(SqlStore(url, name)) as log:
            log.fill(lines)
            if files is not None and place != files_beside(url, name):
                log.keep_files(files)
    except BaseException as error:
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)
        if isinstance(error, OSError | shutil.Error):
            raise StorageError(
                f"The checkpoints cannot be copied to {place}: {error}.", "Name another folder."
            ) from None
        raise
    return place


def _moves(source: SqlStore | Sequence[Line], target: Path, history: History) -> tuple[Path, Path]:
    """From where to where a study's files are copied."""
    here = files_known(source) if isinstance(source, SqlStore) else None
    held = [p for p in here.iterdir() if p.name != LOCK] if here is not None and here.is_dir() else None
    # Ask and tell leaves the lock of its driver alone: its checkpoints are the caller's.
    if here is None or held is None or (not held and any(t.checkpoint is not None for t in history.trials)):
        raise UserError(f"The study's checkpoints are not here ({here}).", "Leave --files out, or copy where they are.")
    if target.exists():
        raise UserError(f"{target} exists already.", "Name another folder with --files.")
    return here, target
