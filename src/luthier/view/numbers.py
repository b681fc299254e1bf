"""The numbers behind every picture of a study, as frozen dataclasses; ``figures`` puts the ink to them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from luthier.core import goals
from luthier.core.history import History, StageRecord
from luthier.core.metrics import TEST, VAL
from luthier.core.params import Choice, Constant
from luthier.core.summary import CONFIRM, Ablation, Lesson, in_points, summarize
from luthier.core.trial import Status, TrialRecord
from luthier.view.story import real, setting

Role = Literal["ended", "failed", "plain", "default", "winner"]
"""Drawn in this order, the winner on top; ``ended`` was stopped early."""

_MOST_POINTS = 4_000
_MOST_DOTS = 300
_TRAIN = re.compile(rf"(^|[/_.\-])({'|'.join(sorted(VAL | TEST))})(?=$|[/_.\-])")


@dataclass(frozen=True, slots=True)
class DrawnCurve:
    """One trial's values of one metric."""

    trial: int
    role: Role
    epochs: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class DrawnCurves:
    """All trials' learning curves of ``metric``; ``low`` to ``high`` is the range worth showing.

    Args:
        winner: what the highlighted trial may be called: only ``best`` before fresh seeds were run.
    """

    metric: str
    curves: tuple[DrawnCurve, ...]
    low: float
    high: float
    log: bool
    winner: str = "winner"


@dataclass(frozen=True, slots=True)
class Progress:
    """The best score against what was spent, one point per scored trial, in the order of what was spent.

    Args:
        spent: what the study had spent when the trial ended, or got its score.
        best: the best score up to and including the trial.
        stages: name of each stage and what was spent when it began.
        unit: ``"epochs spent"``, the trials laid end to end by number; or ``"seconds"``, ``"minutes"`` or ``"hours"``.
    """

    metric: str
    minimize: bool
    trials: tuple[int, ...]
    roles: tuple[Role, ...]
    spent: tuple[float, ...]
    scores: tuple[float, ...]
    best: tuple[float, ...]
    stages: tuple[tuple[str, float], ...]
    total: float
    unit: str = "epochs spent"


@dataclass(frozen=True, slots=True)
class Paired:
    """Winner and default on the same fresh seeds; ``gains`` are the differences, positive if the winner is better."""

    metric: str
    seeds: tuple[int, ...]
    default: tuple[float, ...]
    winner: tuple[float, ...]
    gains: tuple[float, ...]
    gain: float
    low: float
    high: float
    better: bool


@dataclass(frozen=True, slots=True)
class Steps:
    """The changes from the default to the winner with their gains and intervals, in percentage points or ``unit``."""

    unit: str
    names: tuple[str, ...]
    gains: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]
    carries: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Swept:
    """One hyperparameter's values against the scores; a choice's values are positions in ``labels``.

    Args:
        prior: values in order and how likely good ones are believed there, on any scale; empty where nothing is.
    """

    name: str
    metric: str
    scale: Literal["log", "linear", "choice"]
    labels: tuple[str, ...]
    trials: tuple[int, ...]
    roles: tuple[Role, ...]
    values: tuple[float, ...]
    scores: tuple[float, ...]
    low: float
    high: float
    prior: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class LrRange:
    """A learning-rate range test: the loss of each repeat, their smoothed median, and the rates read off it, if any."""

    trial: int
    label: str
    rates: tuple[float, ...]
    repeats: tuple[tuple[float, ...], ...]
    median: tuple[float, ...]
    center: float | None
    upper: float | None


@dataclass(frozen=True, slots=True)
class Traded:
    """Two objectives of the trials against each other, the first one upwards.

    Args:
        kinds: ``"winner"`` on the Pareto front, ``"ended"`` where a constraint is broken, else ``"plain"``.
        edge: with two objectives the points of the front from left to right; else empty.
    """

    x_metric: str
    y_metric: str
    x_minimize: bool
    y_minimize: bool
    trials: tuple[int, ...]
    kinds: tuple[Role, ...]
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    edge: tuple[tuple[float, float], ...]


def roles(history: History) -> dict[int, Role]:
    """What each trained trial is in the pictures: winner, default, failed, stopped early or plain."""
    arms = {t.notes.get("arm"): t.config for t in history.in_stage(CONFIRM)}
    confirmation = summarize(history).confirmation
    if confirmation is not None and confirmation.winner.label:
        arms["winner"] = confirmation.winner.config
    incumbent = history.incumbent
    out: dict[int, Role] = {}
    for t in history.trained():
        if t.status is Status.FAILED:
            out[t.id] = "failed"
        elif t.config == arms.get("winner"):
            out[t.id] = "winner"
        elif t.config == arms.get("default"):
            out[t.id] = "default"
        else:
            out[t.id] = "ended" if t.status is Status.STOPPED else "plain"
    if incumbent is not None and "winner" not in out.values():
        out[incumbent.id] = "winner"
    return out


def winner_word(history: History) -> str:
    """``winner`` where fresh seeds were run, else ``best``."""
    return "winner" if any(t.notes.get("arm") for t in history.in_stage(CONFIRM)) else "best"


def learning_curves(history: History, metric: str, most: int = _MOST_POINTS) -> DrawnCurves:
    """Every trial's curve of ``metric``, thinned where together they hold more than about ``most`` points."""
    role = roles(history)
    found = [(t, t.curve(metric)) for t in history.trained()]
    found = [(t, points) for t, points in found if points]
    keep = max(6, most // max(1, len(found)))
    curves = tuple(
        DrawnCurve(t.id, role[t.id], tuple(e for e, _ in few), tuple(v for _, v in few))
        for t, points in found
        for few in [points if role[t.id] in ("winner", "default") else _thin(points, keep)]
    )
    # A diverged trial must not squeeze the others into a line.
    sound = [v for c in curves if c.role not in ("failed", "ended") for v in c.values]
    falls = history.objective.minimize if metric == history.objective.metric else "loss" in metric.lower()
    low, high, log = curve_span(sound or [v for c in curves for v in c.values], falls)
    return DrawnCurves(metric, curves, low, high, log, winner_word(history))


def metric_pairs(history: History) -> list[tuple[str, ...]]:
    """The metrics worth drawing, each with its training twin first: the objective's, then the validation loss."""
    names = dict.fromkeys(n for t in history.trained() for n in t.metrics)
    wanted = [history.objective.metric, *(n for n in names if _TRAIN.search(n) and "loss" in n.lower())]
    pairs = [
        tuple(m for m in dict.fromkeys((_TRAIN.sub(r"\1train", n), n)) if m in names) for n in dict.fromkeys(wanted)
    ]
    return [p for p in pairs if p][:2]


def curve_panels(history: History) -> list[DrawnCurves]:
    """The learning curves of :func:`metric_pairs`; a training curve shares the range of its validation twin."""
    return [panel for pair in metric_pairs(history) for panel in pair_panels(history, pair)]


def pair_panels(history: History, pair: Sequence[str], most: int = _MOST_POINTS) -> list[DrawnCurves]:
    """The learning curves of metrics that share one range."""
    shown = [learning_curves(history, m, most) for m in pair]
    low, high = min(c.low for c in shown), max(c.high for c in shown)
    log = all(c.log or c.low > 0 for c in shown) and any(c.log for c in shown)
    return [replace(c, low=low, high=high, log=log) for c in shown]


def progress(history: History) -> Progress:
    """The incumbent over the epochs spent.

    The history keeps no order between trials that ran side by side, so they are laid end to end.
    """
    role, spent, least, best = roles(history), 0.0, math.inf, math.nan
    stages: list[tuple[str, float]] = []
    begins = {s.trials[0]: s.name for s in history.stages if s.trials}
    rows: list[tuple[int, Role, float, float, float]] = []
    for t in history.trials:
        if t.id in begins:
            stages.append((begins[t.id], spent))
        spent += t.spent
        score = history.score(t)
        if t.probe is None and score is not None:
            if history.final_loss(t) < least:  # the feasible before the others
                least, best = history.final_loss(t), score
            rows.append((t.id, role[t.id], spent, score, best))
    rows = _telling(rows)
    ids, kinds, at, scores, bests = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    objective = history.objective
    return Progress(
        objective.metric, objective.minimize, ids, kinds, at, scores, bests, tuple(stages), max(spent, history.spent)
    )


def progress_over_time(history: History) -> Progress | None:
    """The incumbent over the time in which a driver had the study open; None where nothing has a score.

    A trial stands where the epoch that counts was reported: by when its job was handed out, and the seconds that its
    epochs took since.
    """
    role, objective = roles(history), history.objective
    found = sorted((_when(history, t), t.id) for t in history.trained() if history.score(t) is not None)
    if not found:
        return None
    total = max(history.elapsed, found[-1][0])
    unit, scale = ("seconds", 1.0) if total < 180 else ("minutes", 60.0) if total < 3 * 3600 else ("hours", 3600.0)
    least, best = math.inf, math.nan
    rows: list[tuple[int, Role, float, float, float]] = []
    for at, i in found:
        trial = history.trials[i]
        score = history.score(trial)
        assert score is not None
        if history.final_loss(trial) < least:
            least, best = history.final_loss(trial), score
        rows.append((i, role[i], at / scale, score, best))
    ids, kinds, times, scores, bests = zip(*_telling(rows), strict=True)
    stages = tuple((s.name, s.opened / scale) for s in history.stages)
    return Progress(objective.metric, objective.minimize, ids, kinds, times, scores, bests, stages, total / scale, unit)


def _telling(rows: list[tuple[int, Role, float, float, float]]) -> list[tuple[int, Role, float, float, float]]:
    """Of very many scores those that moved the incumbent, the bright ones, and an even sample of the others."""
    step = max(1, len(rows) // _MOST_DOTS)
    before = [math.nan, *(r[4] for r in rows)]
    return [r for i, r in enumerate(rows) if i % step == 0 or r[4] != before[i] or r[1] in ("winner", "default")]


def _when(history: History, trial: TrialRecord) -> float:
    """The study's seconds when the epoch that counts of ``trial`` was reported."""
    metric, objective = history.objective.metric, history.objective
    told = [r for r in trial.reports if metric in r.metrics]
    counts = told[-1] if objective.reduce == "last" else min(told, key=lambda r: objective.loss(r.metrics[metric]))
    begun, since = max(((e, at) for e, at in trial.jobs if e < counts.epoch), default=(0, 0.0))
    return since + sum(r.seconds for r in trial.reports if begun < r.epoch <= counts.epoch)


def paired(history: History) -> Paired | None:
    """Winner against default on paired fresh seeds; None before they were run."""
    c = summarize(history).confirmation
    if c is None:
        return None
    rows = [(s, real(d), real(w)) for s, d, w in zip(c.seeds, c.default.scores, c.winner.scores)]
    rows = [r for r in rows if math.isfinite(r[1]) and math.isfinite(r[2])]
    low, high = (real(x) for x in (*c.interval, math.nan, math.nan)[:2])
    return Paired(
        metric=history.objective.metric,
        seeds=tuple(s for s, _, _ in rows),
        default=tuple(d for _, d, _ in rows),
        winner=tuple(w for _, _, w in rows),
        gains=tuple(history.objective.gain(w, d) for _, d, w in rows),
        gain=real(c.gain),
        low=low,
        high=high,
        better=c.better,
    )


def traded(history: History) -> list[Traded]:
    """The first objective against each further one; nothing with one objective."""
    first, front = history.objective, goals.front(history)
    points = [p for t in history.trained() if (p := goals.point(history, t)) is not None]
    best = {p.trial for p in front}
    kinds: tuple[Role, ...] = tuple("winner" if p.trial in best else "plain" if p.feasible else "ended" for p in points)
    ids, ys = tuple(p.trial for p in points), tuple(p.scores[first.metric] for p in points)
    out = []
    for other in history.study.also if points else ():
        xs = tuple(p.scores[other.metric] for p in points)
        edge = sorted((p.scores[other.metric], p.scores[first.metric]) for p in front)
        drawn = tuple(edge) if len(history.study.also) == 1 else ()
        out.append(Traded(other.metric, first.metric, other.minimize, first.minimize, ids, kinds, xs, ys, drawn))
    return out


def steps(history: History, ablation: Ablation) -> Steps:
    """The way from the default to the winner as it is drawn."""
    points = in_points(history)
    scale = 100.0 if points else 1.0
    return Steps(
        unit="percentage points" if points else history.objective.metric,
        names=tuple(", ".join(s.names) for s in ablation.steps),
        gains=tuple(scale * real(s.gain) for s in ablation.steps),
        lows=tuple(scale * real(s.interval[0]) for s in ablation.steps),
        highs=tuple(scale * real(s.interval[1]) for s in ablation.steps),
        carries=tuple(s.carries for s in ablation.steps),
    )


def sweeps(history: History, lesson: Lesson | None = None) -> list[Swept]:
    """Each hyperparameter that took more than one value, against the score."""
    priors = lesson.priors if lesson is not None else {}
    role = roles(history)
    scored = [(t, s) for t in history.trained() if (s := history.score(t)) is not None]
    low, high = span([s for _, s in scored], history.objective.minimize)
    most = max(160, 4_500 // len(history.space))
    out = []
    for name, param in history.space.items():
        if isinstance(param, Constant):
            continue
        choice = isinstance(param, Choice)
        labels = tuple(dict.fromkeys(map(setting, param.choices))) if isinstance(param, Choice) else ()
        rows: list[tuple[int, Role, float, float]] = []
        for t, score in scored:
            if name not in t.config:
                continue
            value = t.config[name]
            if choice and setting(value) in labels:
                rows.append((t.id, role[t.id], float(labels.index(setting(value))), score))
            elif not choice and math.isfinite(real(value)):
                rows.append((t.id, role[t.id], real(value), score))
        if len({r[2] for r in rows}) > 1:
            ids, kinds, values, scores = zip(*_spread(rows, most), strict=True)
            scale: Literal["log", "linear", "choice"] = "choice" if choice else "linear"
            if not isinstance(param, Choice) and param.log and min(values) > 0:
                scale = "log"
            believed = tuple(
                (float(labels.index(setting(v))) if choice else real(v), d) for v, d in priors.get(name, ())
            )
            shown = tuple(p for p in believed if choice or min(values) <= p[0] <= max(values))
            out.append(
                Swept(name, history.objective.metric, scale, labels, ids, kinds, values, scores, low, high, shown)
            )
    return out


def lr_ranges(history: History, stage: StageRecord | None = None) -> list[LrRange]:
    """The learning-rate range tests of ``stage``, else of the whole study."""
    ids: Iterable[int] = stage.trials if stage else range(len(history.trials))
    found = ((history.trials[i], stage or _stage_of(history, i)) for i in ids)
    tests = (_lr_range(t, s) for t, s in found if t.probe == "lr_range" and t.answer)
    return [test for test in tests if test is not None]


def _stage_of(history: History, trial: int) -> StageRecord | None:
    return next((s for s in history.stages if trial in s.trials), None)


def lr_range(
    rates: Sequence[float],
    losses: Sequence[Sequence[float]],
    center: float | None = None,
    upper: float | None = None,
    label: str = "",
    trial: int = 0,
) -> LrRange:
    """A range test as it is drawn: a ladder of positive ``rates``, and of each repeat at most as many ``losses``."""
    columns = [[row[i] for row in losses if i < len(row) and math.isfinite(row[i])] for i in range(len(rates))]
    # A repeat that ended early diverged: where most of them did, there is no middle any more.
    middle = [sorted(c)[len(c) // 2] for c in columns if 2 * len(c) > len(losses)]
    # A window to both sides: a running average would lag behind and show the fall too far to the right.
    windows = [middle[max(0, i - 2) : i + 3] for i in range(len(middle))]
    smooth = [sum(w) / len(w) for w in windows]
    median = (*smooth, *[math.nan] * (len(rates) - len(smooth)))
    return LrRange(trial, label, tuple(rates), tuple(map(tuple, losses)), median, center, upper)


def _lr_range(trial: TrialRecord, stage: StageRecord | None) -> LrRange | None:
    answer = trial.answer or {}
    try:
        rates = tuple(real(x) for x in answer["lrs"])
        losses = tuple(tuple(real(x) for x in row)[: len(rates)] for row in answer["losses"])
    except (KeyError, TypeError):
        return None  # an answer of another make has no picture
    if not rates or not losses or min(rates) <= 0:
        return None
    numbers = stage.numbers if stage else {}
    each = numbers.get("optimizers")
    own = [n for n in each.values() if n.get("trial") == trial.id] if isinstance(each, Mapping) else []
    hints = [real((own[0] if own else numbers).get(k)) for k in ("center", "upper")]
    center, upper = (x if math.isfinite(x) and x > 0 else None for x in hints)
    return lr_range(rates, losses, center, upper, setting(trial.config.get("optimizer", "")), trial.id)


def _spread(rows: list[tuple[int, Role, float, float]], most: int) -> list[tuple[int, Role, float, float]]:
    """Of very many trials ``most``, evenly over their ranks, so that the best and the shape stay."""
    if len(rows) <= most:
        return rows
    ranks = sorted(rows, key=lambda r: r[3])
    return [ranks[i * (len(ranks) - 1) // (most - 1)] for i in range(most)]


def _thin(points: Sequence[tuple[int, float]], keep: int) -> list[tuple[int, float]]:
    last = len(points) - 1
    if last < keep:
        return list(points)
    return [points[i] for i in sorted({round(i * last / (keep - 1)) for i in range(keep)})]


def span(values: Iterable[float], falls: bool) -> tuple[float, float]:
    """The range of scores worth showing: the good end whole, the bad end as far as it is no outlier (Tukey's fence)."""
    ordered = sorted(v for v in values if math.isfinite(v))
    if not ordered:
        return 0.0, 1.0
    low, high = ordered[0], ordered[-1]
    first, third = ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]
    reach = 3 * (third - first)
    if len(ordered) < 6 or not reach:
        return low, high
    return (low, min(high, third + reach)) if falls else (max(low, first - reach), high)


def curve_span(values: Iterable[float], falls: bool) -> tuple[float, float, bool]:
    """The range of curves worth showing, and whether it asks for a log scale.

    Where the first epochs take most of a linear scale they run off it: what matters is how the curves end.
    """
    ordered = sorted(v for v in values if math.isfinite(v))
    if not ordered:
        return 0.0, 1.0, False
    low, high, n = ordered[0], ordered[-1], len(ordered)
    if n > 20 and falls:
        high = ordered[n * 95 // 100]
    if falls and low > 0 and high / low > 10:
        return low, high, True
    if n > 20:
        low, high = (low, ordered[n * 85 // 100]) if falls else (ordered[n * 15 // 100], high)
    return low, high, False
