"""What a run leaves behind: one file of JSON lines for each task, method and seed, complete or not there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


def path_of(folder: Path, task: str, method: str, seed: int) -> Path:
    """Where a run's record lies."""
    return folder / task / f"{method}.{seed}.jsonl"


@dataclass(frozen=True, slots=True)
class Record:
    """A finished run.

    Args:
        task, method, seed: which.
        epochs: the length of a full training.
        trials: the budget, in full trainings.
        reference: the task's own best and median, if it knows them.
        curve: the best value so far after each epoch that was paid, (spent,).
        full: the best value of each training that was trained to its full length.
        winner: the configuration that the best value comes from.
        bill: the last line: epochs, trainings, best, train_cpu, decide_cpu.
    """

    task: str
    method: str
    seed: int
    epochs: int
    trials: int
    reference: tuple[float, float] | None
    curve: np.ndarray
    full: tuple[float, ...]
    winner: dict[str, Any]
    bill: dict[str, Any]


def read(path: Path) -> Record:
    """One record."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    head, bill = lines[0], lines[-1]["bill"]
    values, best, length, configs = [], {}, {}, {}
    for line in lines[1:-1]:
        trial = line["trial"]
        if "epoch" in line:
            values.append(line["value"])
            best[trial] = min(best.get(trial, float("inf")), line["value"])
            length[trial] = line["epoch"]
        else:
            configs[trial] = line["config"]
    full = tuple(best[t] for t in best if length[t] == head["epochs"])
    winner = configs[min(best, key=lambda t: best[t])] if best else {}
    reference = tuple(head["reference"]) if head["reference"] else None
    curve = np.minimum.accumulate(np.array(values, float))
    return Record(
        head["task"], head["method"], head["seed"], head["epochs"], head["trials"], reference, curve, full, winner, bill
    )  # fmt: skip


def read_all(folder: Path) -> Iterator[Record]:
    """Every record in the folder."""
    for path in sorted(folder.glob("*/*.jsonl")):
        yield read(path)
