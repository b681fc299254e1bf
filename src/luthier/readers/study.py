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


def read(path: str | Path) -> list[Recording]:
    """Every training of every study in a file or at the URL of a storage, the failed ones too; probes are left out.

    Raises:
        StorageError: there is no study, or the database is another program's, or of a newer version.
    """
    from luthier import store

    found = []
    url = store.locate(path)
    file = store.file_of(url)
    names = store.study_names(url) if file is None or file.exists() else []
    each: list[str | None] = [*names]
    for name in each or [None]:  # open_store says what is wrong where there is none
        log = store.open_store(path, name)
        try:
            history = log.fold()
        finally:
            log.close()
        if history is None:  # it is about to begin
            continue
        prefix = f"{log.name}/" if len(names) > 1 else ""
        found += [r for t in history.trained() if (r := _recording(path, prefix, history, t)) is not None]
    return found


def _recording(path: str | Path, prefix: str, history: History, trial: TrialRecord) -> Recording | None:
    from luthier import store

    curves = {name: series((float(e), y) for e, y in trial.curve(name)) for name in trial.metric_names}
    tags = {name: found for name, found in curves.items() if found is not None}
    if not tags and trial.failure is None:
        return None
    objective = history.objective
    return Recording(
        f"{prefix}trial {trial.id}",
        path if isinstance(path, Path) else store.shown(path),
        tags,
        "epoch",
        length=float(trial.epoch if trial.full else trial.horizon),
        per_epoch=1.0,
        config=trial.config,
        metric=None if objective.metric.endswith("loss") else objective.metric,
        maximize=not objective.minimize,
        failed=_failed(trial),
        study=history.study.name,
    )


def _failed(trial: TrialRecord) -> str:
    if trial.failure is None:
        return ""
    when = f"after epoch {trial.epoch} of {trial.horizon}" if trial.epoch else "before its first report"
    return f"failed {when}: {trial.failure.kind}: {trial.failure.reason}"
