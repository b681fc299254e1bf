"""From rows, of a CSV file or of JSON lines, to recordings: which column is the axis, and what shape the table has.

Known shapes: a column for each quantity; a row for each quantity (``name, step, value``); a row for each split
(``epoch, phase, loss``); several trainings in one file (``run, epoch, loss``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from luthier.core.errors import UserError
from luthier.core.metrics import SPLITS
from luthier.diagnosis.curves import Series, Unit
from luthier.readers.pairing import ROLES, pair
from luthier.readers.recording import Recording, number, series

Row = Mapping[str, Any]
# fmt: off
_EPOCH = ("epoch", "epochs")
_STEP = ("step", "steps", "global_step", "globalstep", "_step", "trainer/global_step", "iteration", "iterations",
         "iter", "iters", "it", "update", "updates", "num_updates", "batch")
_WEAK = {"it", "update", "updates", "batch"}
TAG = ("name", "tag", "metric", "key", "variable")
_VALUE = ("value", "val")
_RUN = ("run", "run_id", "run_name", "run_uuid", "trial", "trial_id", "experiment")
PHASE = ("phase", "split", "mode", "subset", "stage", "dataset")
_IGNORED = ("timestamp", "time", "date", "wall_time", "walltime", "unnamed:_0", "index", "_runtime", "_timestamp", "")
# fmt: on


def plain(column: str) -> str:
    """A column's name as the lists above write it."""
    return re.sub(r"\s+", "_", column.strip().lower())


def looks_like_training(columns: Sequence[str]) -> bool:
    """Whether a table with these columns may be a training's: it counts epochs or steps; batches, with a loss."""
    known = {plain(c) for c in columns}
    axes = known & {*_EPOCH, *_STEP}
    return bool(axes) and len(known) > 1 and bool(axes - _WEAK or pair_quietly(columns))


def recordings(rows: Sequence[Row], name: str, path: Path, config: Mapping[str, Any] | None = None) -> list[Recording]:
    """The trainings that a table holds; none where it holds no numbers.

    Args:
        rows: in the order in which they were written; a missing cell may be absent, None or blank.
        name: of the training; of several, the prefix of their names.
        path: of the file.
        config: what is known of the hyperparameters.
    """
    columns = {plain(c): c for c in dict.fromkeys(c for row in rows for c in row)}
    run = _find(columns, _RUN)
    if run is not None and len(own := list(dict.fromkeys(str(r[run]) for r in rows if _there(r.get(run))))) > 1:
        found = []
        for each in own:
            part = [{k: v for k, v in r.items() if k != run} for r in rows if str(r.get(run)) == each]
            found += recordings(part, f"{name}/{each}" if name else each, path, config)
        return found
    epoch, step = _find(columns, _EPOCH), _find(columns, _STEP)
    rows, head = _after_head(rows, epoch, step)
    tag, value = _find(columns, TAG), _find(columns, _VALUE)
    if value is not None and (tag is not None or set(columns) <= {*_STEP, *_EPOCH, *_IGNORED, *_VALUE}):
        # TensorBoard's own download has no column for the tag: the file is called after it.
        rows = [_one(r, epoch, step, str(r.get(tag)) if tag else name.split("-tag-")[-1], value) for r in rows]
    elif (phase := _find(columns, PHASE)) is not None and _is_phase(rows, phase):
        axes = (epoch, step)
        rows = [{k if k in axes else f"{r.get(phase)}/{k}": v for k, v in r.items() if k != phase} for r in rows]
    tags, unit, per_epoch, from_zero = _series(rows, epoch, step)
    if not tags:
        return []
    known = {**(config or {}), **head}
    return [Recording(name, path, tags, unit, per_epoch=per_epoch, config=known, from_zero=from_zero)]


# -- shapes ------------------------------------------------------------------------------------------------------------


def _find(columns: Mapping[str, str], names: Sequence[str]) -> str | None:
    return next((columns[n] for n in names if n in columns), None)


def _there(value: Any) -> bool:
    return value is not None and str(value).strip() != ""


def _after_head(rows: Sequence[Row], epoch: str | None, step: str | None) -> tuple[Sequence[Row], dict[str, Any]]:
    """Leading rows without a place, such as the arguments that a script logs first, are the configuration."""
    axes = [a for a in (epoch, step) if a is not None]
    if not axes:
        return rows, {}
    first = next((i for i, r in enumerate(rows) if any(_there(r.get(a)) for a in axes)), 0)
    return rows[first:], {k: v for r in rows[:first] for k, v in r.items()}


def _one(row: Row, epoch: str | None, step: str | None, tag: str, value: str) -> Row:
    return {a: row.get(a) for a in (epoch, step) if a is not None} | {tag: row.get(value)}


def _is_phase(rows: Sequence[Row], phase: str) -> bool:
    seen = {str(r.get(phase)).strip().lower() for r in rows}
    return 0 < len(seen) <= 4 and bool(seen & SPLITS)


def pair_quietly(names: Sequence[str]) -> set[str]:
    """The names that would be taken for losses and metrics."""
    try:
        taken = pair(names).taken
    except UserError:
        return set()
    return {taken[role] for role in ROLES[:4] if role in taken}


# -- the axis ----------------------------------------------------------------------------------------------------------


def _series(
    rows: Sequence[Row], epoch: str | None, step: str | None
) -> tuple[dict[str, Series], Unit | None, float | None, bool]:
    """Every numeric column as a series, what its places are, the length of an epoch in them, and whether epochs were
    counted from 0."""
    columns = dict.fromkeys(c for r in rows for c in r)
    at: dict[str, list[tuple[float | None, float | None, float]]] = {}
    for column in columns:
        if column in (epoch, step) or plain(column) in _IGNORED or column.endswith(("__MIN", "__MAX")):
            continue
        cells = [(i, r, number(r[column])) for i, r in enumerate(rows) if column in r]
        told = [c for c in cells if c[2] is not None]
        if not told or 2 * len(told) < sum(_there(r[column]) for _, r, _ in cells):
            continue  # text
        at[column] = [(*_place(i, r, epoch, step), y) for i, r, y in told if y is not None]
    if not at:
        return {}, None, None, False
    epochs = [e for points in at.values() for e, _, _ in points if e is not None]
    steps = [s for points in at.values() for _, s, _ in points if s is not None]
    shift = 1.0 if epochs and min(epochs) == 0 and all(e.is_integer() for e in epochs) else 0.0
    per_epoch = None
    if epochs and steps and max(epochs) + shift > 0 and (length := (max(steps) + 1) / (max(epochs) + shift)) >= 1:
        per_epoch = length
    once = not steps or all(_once(at[c]) for c in pair_quietly(list(at)) or at)
    restarts = bool(epochs) and any(_restarts(points) for points in at.values())
    built: dict[str, Series | None]
    if epochs and (once or restarts):
        if restarts:
            per_epoch = None
        built = {c: series(_by_epoch(points, shift, per_epoch)) for c, points in at.items()}
        unit: Unit = "epoch"
        per_epoch = 1.0
    else:
        built = {c: series([(s, y) for _, s, y in points if s is not None]) for c, points in at.items()}
        unit = "step"
    return {c: s for c, s in built.items() if s is not None}, unit, per_epoch, unit == "epoch" and shift > 0


def _place(i: int, row: Row, epoch: str | None, step: str | None) -> tuple[float | None, float | None]:
    """Epoch and step of a row; the rows of a table that has neither are taken for epochs."""
    if epoch is None and step is None:
        return float(i + 1), None
    return number(row.get(epoch)) if epoch else None, number(row.get(step)) if step else None


def _once(points: Sequence[tuple[float | None, float | None, float]]) -> bool:
    """Whether there is one record an epoch."""
    epochs = [e for e, _, _ in points if e is not None]
    return bool(epochs) and all(a != b for a, b in pairwise(epochs))


def _restarts(points: Sequence[tuple[float | None, float | None, float]]) -> bool:
    """Whether the steps count from the beginning in each epoch, as a batch number does."""
    pairs = [(e, s) for e, s, _ in points if e is not None and s is not None]
    new = [(a, b) for a, b in pairwise(pairs) if b[0] > a[0]]
    return bool(new) and sum(b[1] <= a[1] for a, b in new) > 0.5 * len(new) and not _once(points)


def _by_epoch(
    points: Sequence[tuple[float | None, float | None, float]], shift: float, per_epoch: float | None
) -> list[tuple[float, float]]:
    """Places in epochs, the first of which ends at 1; several records of one epoch are spread evenly over it."""
    placed = [(e + shift if e is not None else (s + 1) / per_epoch if s is not None and per_epoch else None, y)
              for e, s, y in points]  # fmt: skip
    known = [(x, y) for x, y in placed if x is not None]
    places = [x for x, _ in known]
    if any(b < a for a, b in pairwise(places)):
        return known
    spread = []
    for x, own in groupby(known, key=lambda p: p[0]):
        values = [y for _, y in own]
        spread += [(x - 1 + (i + 1) / len(values) if len(values) > 1 else x, y) for i, y in enumerate(values)]
    return spread
