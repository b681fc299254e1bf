"""``trainer_state.json``, which the Hugging Face Trainer writes into each checkpoint."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from luthier.core.errors import UserError
from luthier.readers.recording import Recording, number, series

NAME = "Hugging Face's trainer_state.json"
FILE = "trainer_state.json"


def can_read(path: Path) -> bool:
    """Whether this is the file, or a folder of the Trainer's output."""
    return path.name == FILE and path.is_file() if not path.is_dir() else _state_of(path) is not None


def read(path: Path) -> list[Recording]:
    """The training: of a folder, the state that got furthest.

    Raises:
        UserError: the file cannot be read or is no state of a Trainer.
    """
    file = (_state_of(path) or path) if path.is_dir() else path
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}.", f"Name a whole {FILE}.") from None
    log = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(log, list):
        raise UserError(f"{file} is no state of a Trainer: it has no log_history.", f"Name a whole {FILE}.")
    # The last row sums the whole training up.
    rows = [row for row in log if isinstance(row, dict) and "train_runtime" not in row]
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        step = number(row.get("step"))
        for key, value in row.items():
            y = number(value)
            if step is not None and y is not None and key not in ("step", "epoch"):
                points.setdefault(key, []).append((step, y))
    tags = {key: found for key, own in points.items() if (found := series(own)) is not None}
    folder = file.parent
    name = folder.parent.name if folder.name.startswith("checkpoint-") else folder.name
    steps, epochs = state.get("max_steps"), state.get("num_train_epochs")
    config = {"batch_size": state["train_batch_size"]} if state.get("train_batch_size") else {}
    return [
        Recording(
            name,
            file,
            tags,
            "step",
            length=float(steps) if steps else None,
            per_epoch=_per_epoch(rows) or (steps / epochs if steps and epochs else None),
            config=config,
        )
    ]


def _per_epoch(rows: list[dict[str, Any]]) -> float | None:
    last = next((r for r in reversed(rows) if r.get("step") and r.get("epoch")), None)
    return None if last is None else float(last["step"]) / float(last["epoch"])


def _state_of(folder: Path) -> Path | None:
    """The state of an output folder that got furthest: its own, or that of its last checkpoint."""
    own = folder / FILE
    if own.is_file():
        return own
    states = [p for p in folder.glob(f"checkpoint-*/{FILE}") if re.fullmatch(r"checkpoint-\d+", p.parent.name)]
    return max(states, key=lambda p: int(p.parent.name.partition("-")[2]), default=None)
