"""Luthier's own studies, from their log."""

from __future__ import annotations

from pathlib import Path

from luthier.core.history import History
from luthier.core.trial import TrialRecord
from luthier.readers.recording import Recording, series

NAME = "Luthier's studies (.db)"


def can_read(path: Path) -> bool:
    """Whether this is an SQLite file of Luthier's, by its name and its tables."""
    if not path.is_file() or path.suffix != ".db":
        return False
    with path.open("rb") as file:
        return file.read(15) == b"SQLite format 3"


def read(path: Path) -> list[Recording]:
    """Every training of every study in the file; probes are left out.

    Raises:
        StorageError: the file is a database of another program, or of a newer version.
    """
    from luthier import store

    found = []
    names = store.study_names(store.locate(path))
    for name in names:
        log = store.open_store(path, name)
        try:
            history = store.history_of(log)
        finally:
            log.close()
        prefix = f"{name}/" if len(names) > 1 else ""
        found += [r for t in history.trained() if (r := _recording(path, prefix, history, t)) is not None]
    return found


def _recording(path: Path, prefix: str, history: History, trial: TrialRecord) -> Recording | None:
    curves = {name: series((float(e), y) for e, y in trial.curve(name)) for name in trial.metric_names}
    tags = {name: found for name, found in curves.items() if found is not None}
    if not tags:
        return None
    objective = history.objective
    return Recording(
        f"{prefix}trial {trial.id}",
        path,
        tags,
        "epoch",
        length=float(trial.horizon),
        per_epoch=1.0,
        config=trial.config,
        metric=None if objective.metric.endswith("loss") else objective.metric,
        maximize=not objective.minimize,
    )
