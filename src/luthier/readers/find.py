"""Finding the trainings below a path, whatever wrote them, and reading them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, cast

from luthier.core import words
from luthier.core.errors import UserError, nearest
from luthier.readers import jsonlines, lightning, mlflow, study, table, tensorboard, trainer_state
from luthier.readers.assemble import Run, assemble, renamed
from luthier.readers.pairing import Asked
from luthier.readers.recording import Recording

LEFT_OUT = {"__pycache__", "node_modules", "site-packages", "venv", "wandb"}
MOST_NAMES = 30
MOST_WHYS = 3


class Reader(Protocol):
    """A format: one module."""

    NAME: str

    def can_read(self, path: Path) -> bool:
        """Whether ``path`` is one training's file or folder of this format."""
        ...

    def read(self, path: Path) -> list[Recording]:
        """What it holds."""
        ...


FOLDERS = cast("tuple[Reader, ...]", (mlflow, trainer_state, tensorboard))
"""Formats in which a folder is a training. The first that knows a folder has it, with all that lies below."""
FILES = cast("tuple[Reader, ...]", (tensorboard, trainer_state, study, lightning, jsonlines, table))
FORMATS = tuple(r.NAME for r in (tensorboard, table, lightning, jsonlines, trainer_state, mlflow, study))


def read_runs(
    paths: Sequence[str | Path],
    asked: Asked | None = None,
    *,
    classes: int | None = None,
    max_epochs: float | None = None,
    name: str | None = None,
) -> tuple[list[Run], list[str]]:
    """Every training below ``paths``, and what the user should know of how they were read.

    Args:
        paths: files, folders that are searched, or URLs of Luthier's storages.
        asked: names that the user gives.
        classes: of a classification, for the loss of a model that knows nothing.
        max_epochs: the planned length of the trainings.
        name: the study of Luthier's whose trainings alone are read.

    Raises:
        UserError: a path that is not there or holds no training, or an asked name that none of them logged or has.
    """
    broken: list[UserError] = []
    recordings = [found for path in paths for found in _at(path, len(paths) > 1, broken)]
    if name is not None:
        known = list(dict.fromkeys(r.study for r in recordings if r.study))
        recordings = [r for r in recordings if r.study == name]
        if not recordings:
            mend = nearest(name, known) if known else "--name chooses among Luthier's studies; there is none."
            raise UserError(f"There is no training of a study called {name!r}.", mend)
    asked = asked or Asked()
    every = list(dict.fromkeys(tag for r in recordings for tag in r.tags))
    runs, bare = [], []
    problem: UserError | None = None
    for recording in recordings:
        own = asked
        if len(recordings) > 1:  # a name is only wrong where no training has it
            own = replace(
                asked,
                train_loss=_if_logged(asked.train_loss, every, recording),
                val_loss=_if_logged(asked.val_loss, every, recording),
                metric=_if_logged(asked.metric, every, recording),
            )
        try:
            run = assemble(recording, own, classes=classes, max_epochs=max_epochs)
        except UserError as error:
            problem, run = problem or error, None
        if run is None:
            bare.append(recording)
        else:
            runs.append(run)
    if not runs and problem is not None:
        raise problem
    early, bare = [r for r in bare if r.failed and not r.tags], [r for r in bare if r.tags or not r.failed]
    if not runs and early and not bare:
        raise UserError(f"There is no curve to read: {_ended(early)}.", "Mend what makes them fail.")
    if not runs:
        raise UserError(
            f"{words.count(len(bare), 'recording')} held nothing that is surely a loss or a metric. Logged were: "
            f"{_list(every)}.",
            "Say which is which: --train-loss NAME --val-loss NAME --metric NAME with --maximize or --minimize.",
        )
    notes = list(dict.fromkeys(f"left out: {error.problem} {error.mend}" for error in broken))
    if early:
        notes.append(f"left out: {_ended(early)}")
    if bare:
        names = list(dict.fromkeys(tag for r in bare for tag in r.tags))
        notes.append(f"{words.count(len(bare), 'recording')} left out, without a loss or a metric: {_list(names)}")
    return _told_apart(runs), notes


def _ended(failed: Sequence[Recording]) -> str:
    """Trainings without a curve, and why."""
    whys = Counter(r.failed for r in failed)
    return "; ".join(f"{words.count(n, 'training')} {why}" for why, n in whys.most_common(MOST_WHYS))


# -- finding -----------------------------------------------------------------------------------------------------------


def _at(place: str | Path, whole: bool, broken: list[UserError]) -> list[Recording]:
    if "://" not in str(place):
        return _recordings(Path(place), whole, broken)
    found = study.read(str(place))
    if not found:
        raise UserError("No trial of a study there has reported anything yet.", "Wait for the first epoch.")
    return found


def _recordings(path: Path, whole: bool, broken: list[UserError]) -> list[Recording]:
    """What lies at ``path``; ``whole`` keeps its own name in those of the trainings.

    In a folder a file that cannot be read is added to ``broken``, and only raised where nothing else is found.
    """
    if not path.exists():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"There is nothing at {path}.", nearest(path.name, beside) if beside else "Check the path.")
    if path.is_file():
        reader = next((r for r in FILES if r.can_read(path)), None)
        if reader is None:
            # Asked for by name: let the nearest format say what it misses.
            text = {**dict.fromkeys(table.SUFFIXES, table), **dict.fromkeys(jsonlines.SUFFIXES[:3], jsonlines)}
            module = text.get(path.suffix.lower())
            found = module.read(path) if module is not None else []
            if not found:
                raise UserError(f"{path} is no log of a training that Luthier knows.", _known())
            return found
        found = reader.read(path)
        if not found:
            raise UserError(f"{path} ({reader.NAME}) holds no numbers.", "Name a log with at least one record.")
        return found
    before = len(broken)
    found, seen = _walk(path, whole, broken)
    if not found and len(broken) > before:
        raise broken[before]
    if not found:
        kinds = ", ".join(f"{n} {kind}" for kind, n in seen.most_common(6))
        what = f"It has {kinds}." if seen else "It is empty."
        raise UserError(f"No log of a training was found in {path}. {what}", _known())
    return found


def _walk(root: Path, whole: bool, broken: list[UserError]) -> tuple[list[Recording], Counter[str]]:
    """The trainings below a folder, and how many files of each kind it has."""

    def read(reader: Reader, path: Path) -> list[Recording]:
        try:
            return [_placed(r, root, path, whole, reader) for r in reader.read(path)]
        except UserError as error:
            broken.append(error)
            return []

    found: list[Recording] = []
    seen: Counter[str] = Counter()
    for place, below, files in os.walk(root, followlinks=False):
        folder = Path(place)
        below[:] = sorted(d for d in below if not d.startswith(".") and d not in LEFT_OUT)
        seen.update(Path(f).suffix or "file without a suffix" for f in files)
        reader = next((r for r in FOLDERS if r.can_read(folder)), None)
        if reader is not None:
            runs = read(reader, folder)
            found += runs
            if runs and reader is not cast("Reader", tensorboard):
                below.clear()
                continue
            taken = tensorboard.writers(folder)
            below[:] = [d for d in below if d not in taken]
        for name in sorted(files):
            path = folder / name
            if reader is not None and tensorboard.can_read(path):
                continue
            each = next((r for r in FILES if r.can_read(path)), None)
            if each is not None:
                found += read(each, path)
    return found, seen


def _placed(recording: Recording, root: Path, path: Path, whole: bool, reader: Reader) -> Recording:
    """Named by its place below ``root``, unless the format gives names of its own."""
    named = (cast("Reader", mlflow), cast("Reader", study))
    if reader in named:
        return recording
    place, inner = path, ""
    if path.is_file():
        place = path.parent if path.name in ("metrics.csv", trainer_state.FILE) else path.with_suffix("")
        inner = recording.name.partition("/")[2]  # of several trainings in one file
    below = "" if place == root else place.relative_to(root).as_posix()
    parts = [root.resolve().name if whole or not below else "", below, inner]
    return replace(recording, name="/".join(p for p in parts if p))


def _if_logged(name: str | None, every: Sequence[str], recording: Recording) -> str | None:
    """``name``, unless another training of the same batch logged it and this one did not."""
    return None if name in every and name not in recording.tags else name


def _told_apart(runs: list[Run]) -> list[Run]:
    """Names that occur more than once get a number."""
    many = Counter(run.curves.name for run in runs)
    count: Counter[str] = Counter()
    out = []
    for run in runs:
        name = run.curves.name
        count[name] += 1
        out.append(run if many[name] == 1 else renamed(run, f"{name} ({count[name]})"))
    return out


def _known() -> str:
    return f"Known are: {'; '.join(FORMATS)}."


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return (", ".join(sorted(names)[:MOST_NAMES]) or "nothing") + more
