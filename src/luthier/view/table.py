"""A study as a table: one row for each trial, or for each report. For pandas, Parquet and CSV."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core import goals
from luthier.core.errors import UserError
from luthier.core.history import History
from luthier.core.params import Choice, Constant, Float, Int, Value
from luthier.core.trial import TrialRecord

MARK = b"luthier.table"
"""Where the metadata of a Parquet file say which table it is."""

PANDAS = {"int": "Int64", "float": "float64", "bool": "boolean", "text": "string"}


@dataclass(frozen=True, slots=True)
class Column:
    """The values of a column, None where a row has none, and what they are: int, float, bool or text."""

    kind: str
    values: list[Any]


Columns = Mapping[str, Column]
"""Columns by name, all of one length."""

_TRIAL: dict[str, tuple[str, Callable[[History, TrialRecord], Any]]] = {
    "trial": ("int", lambda h, t: t.id),
    "status": ("text", lambda h, t: str(t.status)),
    "score": ("float", lambda h, t: h.score(t)),
    "epoch": ("int", lambda h, t: t.epoch),
    "until": ("int", lambda h, t: t.until),
    "spent": ("float", lambda h, t: float(t.spent)),
    "seconds": ("float", lambda h, t: math.fsum(r.seconds for r in t.reports)),
    "started": ("float", lambda h, t: t.jobs[0][1] if t.jobs else None),
    "stage": ("text", lambda h, t: t.stage),
    "parent": ("int", lambda h, t: t.parent),
    "seed": ("int", lambda h, t: t.seed),
    "attempts": ("int", lambda h, t: t.attempts),
    "violation": ("float", lambda h, t: t.violation),
    "by_hand": ("bool", lambda h, t: t.by_hand),
    "why": ("text", lambda h, t: t.why),
    "stop_why": ("text", lambda h, t: t.stop_why),
    "failure": ("text", lambda h, t: t.failure and t.failure.kind),
    "failure_reason": ("text", lambda h, t: t.failure and t.failure.reason),
}


def trials_table(history: History) -> Columns:
    """One row for each trial that trained, in their order.

    ``score`` is in the units of the first objective, None of a trial that failed or never reported; ``metric.NAME`` are
    the values at the epoch that counts, of what was not reported there those that counted with it
    (:func:`luthier.core.goals.value`); ``config.NAME`` the hyperparameters, None where one has no effect.
    ``started`` is how old the study was, ``seconds`` what the epochs took by the reports, ``spent`` the epochs trained.
    """
    trials = list(history.trained())
    table = {name: Column(kind, [of(history, t) for t in trials]) for name, (kind, of) in _TRIAL.items()}
    for name, param in history.space.items():
        table[f"config.{name}"] = _column([t.config.get(name) for t in trials], _kind(param))
    counted = [(t, goals.counted(history.study.goals, t)) for t in trials]
    for name in _metrics(trials):
        values = [None if r is None else goals.value(t, name, r.epoch) for t, r in counted]
        table[f"metric.{name}"] = Column("float", values)
    return table


def reports_table(history: History) -> Columns:
    """One row for each report, by trial and epoch; ``trial`` leads to the rows of :func:`trials_table`."""
    trials = list(history.trained())
    rows = [(t.id, r) for t in trials for r in t.reports]
    table = {
        "trial": Column("int", [i for i, _ in rows]),
        "epoch": Column("int", [r.epoch for _, r in rows]),
        "seconds": Column("float", [r.seconds for _, r in rows]),
    }
    for name in _metrics(trials):
        table[f"metric.{name}"] = Column("float", [r.metrics.get(name) for _, r in rows])
    return table


def _metrics(trials: Iterable[TrialRecord]) -> list[str]:
    return list(dict.fromkeys(name for t in trials for name in t.metric_names))


def _kind(param: Any) -> str:
    if isinstance(param, Float):
        return "float"
    if isinstance(param, Int):
        return "int"
    values: Sequence[Value] = param.choices if isinstance(param, Choice) else (param.value,)
    assert isinstance(param, Choice | Constant)
    kinds = {type(v) for v in values if v is not None}
    if len(kinds) == 1:
        return {bool: "bool", int: "int", float: "float"}.get(kinds.pop(), "text")
    return "float" if kinds == {int, float} else "text"


def _column(values: list[Any], kind: str) -> Column:
    make: dict[str, Callable[[Any], Any]] = {
        "float": float,
        "int": int,
        "bool": bool,
        "text": lambda v: v if isinstance(v, str) else json.dumps(v),
    }
    return Column(kind, [None if v is None else make[kind](v) for v in values])


# -- as others have it -------------------------------------------------------------------------------------------------


def to_pandas(table: Columns) -> Any:
    """The table as a ``pandas.DataFrame``.

    Raises:
        UserError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ModuleNotFoundError:
        raise UserError("A data frame needs pandas.", "pip install 'luthier[parquet]'") from None
    return pd.DataFrame({name: pd.Series(c.values, dtype=PANDAS[c.kind]) for name, c in table.items()})


def write_parquet(table: Columns, path: Path, what: str) -> None:
    """Write the table as a Parquet file.

    Args:
        what: the table's name, for the file's metadata.

    Raises:
        UserError: pyarrow is not installed.
        OSError: the file cannot be written.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise UserError("Parquet files need pyarrow.", "pip install 'luthier[parquet]'") from None
    types = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "text": pa.string()}
    made = pa.table({name: pa.array(c.values, types[c.kind]) for name, c in table.items()})
    pq.write_table(made.replace_schema_metadata({MARK: what.encode()}), path)


def write_csv(table: Columns, path: Path) -> None:
    """Write the table as CSV: empty where there is no value.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*(c.values for c in table.values())))
