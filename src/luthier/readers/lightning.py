"""Lightning's CSVLogger: ``metrics.csv``, training and validation on different rows, and ``hparams.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from luthier.readers import table
from luthier.readers.recording import Recording
from luthier.readers.rows import recordings

NAME = "Lightning's metrics.csv"


def can_read(path: Path) -> bool:
    """Whether this is the file, by its name and its header."""
    return path.name == "metrics.csv" and table.can_read(path)


def read(path: Path) -> list[Recording]:
    """The training, called after its folder, with the hyperparameters that stand beside it.

    Raises:
        UserError: the file cannot be read.
    """
    return recordings(table.read_rows(path), path.parent.name, path, hparams(path.parent))


def hparams(folder: Path) -> dict[str, Any]:
    """``hparams.yaml`` of a folder; empty where there is none, or where it holds live objects."""
    try:
        found = yaml.safe_load((folder / "hparams.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
