"""MLflow's file store: ``mlruns/EXPERIMENT/RUN/metrics/NAME``, lines of time, value and step."""

from __future__ import annotations

from pathlib import Path

import yaml

from luthier.core.errors import UserError
from luthier.readers.recording import Recording, number, series

NAME = "MLflow's file store (mlruns)"


def can_read(path: Path) -> bool:
    """Whether the folder is that of a run."""
    return (path / "metrics").is_dir() and (path / "meta.yaml").is_file()


def read(path: Path) -> list[Recording]:
    """The run; none where it was deleted or logged nothing.

    Raises:
        UserError: its files cannot be read.
    """
    try:
        meta = yaml.safe_load((path / "meta.yaml").read_text(encoding="utf-8")) or {}
        if meta.get("lifecycle_stage") == "deleted":
            return []
        tags = {}
        for name, text in _files(path / "metrics"):
            points = []
            for line in text.splitlines():
                # Newer versions append the data set's name.
                _, value, step = [*line.split(" "), "", "", ""][:3]
                y, x = number(value), number(step)
                if y is not None:
                    points.append((x if x is not None else 0.0, y))
            if (found := series(points)) is not None:
                tags[name] = found
        config = {name: _value(text) for name, text in _files(path / "params")}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError) as error:
        raise UserError(f"The MLflow run {path} cannot be read: {error}.", "Name a whole mlruns folder.") from None
    name = str(meta.get("run_name") or path.name)
    return [Recording(name, path, tags, config=config)] if tags else []


def _files(folder: Path) -> list[tuple[str, str]]:
    """Name below ``folder`` and text of each file; a slash in a metric's name made a folder of it."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    return [(p.relative_to(folder).as_posix(), p.read_text(encoding="utf-8")) for p in files]


def _value(text: str) -> float | str:
    found = number(text)
    return text.strip() if found is None else found
