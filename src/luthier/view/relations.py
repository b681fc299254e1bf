"""The numbers of the pictures that set hyperparameters beside each other: all at once, two together, clones in line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from luthier.core.history import History
from luthier.core.lineage import ancestors, lineage
from luthier.core.params import Choice, Constant, Param
from luthier.core.summary import Lesson
from luthier.core.trial import TrialRecord
from luthier.view.numbers import Role, roles, span
from luthier.view.story import number, real, setting, varied

MOST_LINES = 150
MOST_AXES = 10
OFF = -0.12
"""Where a line passes an axis whose hyperparameter its trial does not have."""

Scale = Literal["log", "linear"]


@dataclass(frozen=True, slots=True)
class Axis:
    """An upright axis: its places from 0 to 1 and what they mean.

    Args:
        absent: whether some line has no value here and passes at :data:`OFF`.
    """

    name: str
    ticks: tuple[tuple[float, str], ...]
    absent: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """A trial over all axes.

    Args:
        quality: 0 for the worst of those shown, 1 for the best, by rank.
    """

    trial: int
    role: Role
    score: float
    places: tuple[float, ...]
    quality: float


@dataclass(frozen=True, slots=True)
class Parallel:
    """Trials as lines over their hyperparameters, the score last; worst first, so that the best lie on top."""

    metric: str
    axes: tuple[Axis, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Together:
    """Two hyperparameters against each other, the score as colour; ``low`` to ``high`` is the range worth telling."""

    x: str
    y: str
    x_scale: Scale
    y_scale: Scale
    metric: str
    minimize: bool
    trials: tuple[int, ...]
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    scores: tuple[float, ...]
    best: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """A trial of a population: the epochs that it trained itself, in the row of the member that it is."""

    trial: int
    row: int
    begin: int
    end: int
    kept: bool


@dataclass(frozen=True, slots=True)
class Family:
    """Who goes on from whose weights.

    Args:
        stretches: every trial; ``kept`` are those that made the best weights.
        copies: epoch, row copied from, row copied to, and whether the copy is one of those.
        rows: what each row is called.
    """

    stretches: tuple[Stretch, ...]
    copies: tuple[tuple[int, int, int, bool], ...]
    rows: tuple[str, ...]


def _scored(history: History) -> list[tuple[TrialRecord, float]]:
    return [(t, s) for t in history.trained() if (s := history.score(t)) is not None]


def _few(history: History, found: list[tuple[TrialRecord, float]], most: int) -> list[tuple[TrialRecord, float]]:
    """The trials worst first; of very many ``most``, evenly over their ranks."""
    ordered = sorted(found, key=lambda f: -history.final_loss(f[0]))
    if len(ordered) <= most:
        return ordered
    return [ordered[i * (len(ordered) - 1) // (most - 1)] for i in range(most)]


def parallel(history: History, lesson: Lesson | None = None) -> Parallel | None:
    """All hyperparameters that took several values, of many the most important; None with fewer than two trials."""
    found = _few(history, _scored(history), MOST_LINES)
    moved = [n for n in varied(history) if not isinstance(history.space[n], Constant)]
    if len(found) < 2 or not moved:
        return None
    if lesson is not None and len(moved) > MOST_AXES:
        weight = lesson.importance
        moved = sorted(sorted(moved, key=lambda n: -weight.get(n, 0.0))[:MOST_AXES], key=moved.index)
    moved = moved[:MOST_AXES]
    columns = [_column(n, history.space[n], [t for t, _ in found]) for n in moved]
    objective, role = history.objective, roles(history)
    low, high = span([s for _, s in found], objective.minimize)
    scale = (high - low) or 1.0
    last = tuple(min(max((s - low) / scale, 0.0), 1.0) for _, s in found)
    axes = [axis for axis, _ in columns]
    axes.append(Axis(objective.metric, tuple((p, number(low + p * (high - low))) for p in (0.0, 0.5, 1.0))))
    many = max(1, len(found) - 1)
    lines = tuple(
        Line(t.id, role[t.id], s, (*(places[i] for _, places in columns), last[i]), i / many)
        for i, (t, s) in enumerate(found)
    )
    return Parallel(objective.metric, tuple(axes), lines)


def _column(name: str, param: Param, trials: Sequence[TrialRecord]) -> tuple[Axis, list[float]]:
    """An axis over the values that were seen, and where each trial passes it."""
    absent = any(name not in t.config for t in trials)
    if isinstance(param, Choice):
        seen = {setting(t.config[name]) for t in trials if name in t.config}
        labels = [x for x in dict.fromkeys(map(setting, param.choices)) if x in seen]
        step = max(1, len(labels) - 1)
        at = {x: (i / step if len(labels) > 1 else 0.5) for i, x in enumerate(labels)}
        axis = Axis(name, tuple((p, x) for x, p in at.items()), absent)
        return axis, [at.get(setting(t.config[name]), OFF) if name in t.config else OFF for t in trials]
    values = [real(t.config[name]) for t in trials if name in t.config]
    log = not isinstance(param, Constant) and param.log and min(values) > 0
    ends = [math.log(v) if log else v for v in (min(values), max(values))]
    width = (ends[1] - ends[0]) or 1.0

    def told(place: float) -> str:
        value = ends[0] + place * (ends[1] - ends[0])
        value = math.exp(value) if log else value
        return f"{value:.2g}" if abs(value) < 100 else f"{value:.3g}"

    def place(config_value: object) -> float:
        value = real(config_value)
        return ((math.log(value) if log else value) - ends[0]) / width

    places = [place(t.config[name]) if name in t.config else OFF for t in trials]
    return Axis(name, tuple((p, told(p)) for p in (0.0, 0.5, 1.0)), absent), places


def together(history: History, lesson: Lesson | None = None, names: tuple[str, str] | None = None) -> Together | None:
    """Two hyperparameters against each other: ``names``, else those that the lesson names."""
    pair = names or (lesson.together if lesson is not None else None)
    if pair is None:
        return None
    x, y = pair
    rows = [(t, s) for t, s in _scored(history) if x in t.config and y in t.config]
    rows = [(t, s) for t, s in rows if math.isfinite(real(t.config[x])) and math.isfinite(real(t.config[y]))]
    if len(rows) < 2:
        return None
    rows = _few(history, rows, 4 * MOST_LINES)
    xs, ys = (tuple(real(t.config[n]) for t, _ in rows) for n in pair)
    scores = tuple(s for _, s in rows)
    low, high = span(scores, history.objective.minimize)
    scales: list[Scale] = [
        "log" if getattr(history.space[n], "log", False) and min(v) > 0 else "linear" for n, v in ((x, xs), (y, ys))
    ]
    ids = tuple(t.id for t, _ in rows)
    return Together(
        x, y, scales[0], scales[1], history.objective.metric, history.objective.minimize, ids, xs, ys, scores,
        rows[-1][0].id, low, high,
    )  # fmt: skip


def family(history: History) -> Family | None:
    """Who was copied from whom; None where no trial is a clone."""
    trials = [t for t in history.trained() if t.inherited is not None or "member" in t.notes]
    if not any(t.inherited is not None for t in trials):
        return None
    trials = list({t.id: t for clone in trials for t in (clone, *ancestors(history, clone))}.values())
    places = dict.fromkeys((t.notes.get("population", 0), t.notes.get("member", -1 - t.id)) for t in trials)
    row = {key: i for i, key in enumerate(sorted(places))}
    at = {t.id: row[t.notes.get("population", 0), t.notes.get("member", -1 - t.id)] for t in trials}
    best = history.incumbent
    # Of what the best descends from only the epochs before it was copied made its weights.
    kept = {s.trial: s for s in lineage(history, best.id)} if best is not None else {}
    stretches = []
    for t in sorted(trials, key=lambda t: t.id):
        until = kept[t.id].until_epoch if t.id in kept else t.begin
        parts = ((t.begin, until, True), (until, t.epoch, False))
        stretches += [Stretch(t.id, at[t.id], begin, end, of_best) for begin, end, of_best in parts if end > begin]
    several = len({p for p, _ in row}) > 1
    names = [f"{p + 1}.{m + 1}" if several else f"{m + 1}" for p, m in row]
    return Family(
        tuple(stretches),
        tuple(
            (t.begin, at[t.parent], at[t.id], t.id in kept)
            for t in trials
            if t.inherited is not None and t.parent is not None and t.parent in at
        ),
        tuple(names),
    )
