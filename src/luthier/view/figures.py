"""Every picture of a study: first its numbers (a frozen dataclass), then the ink (a plotly figure as plain data).

The same figures serve notebook and report. Ink carries trial numbers only (``customdata``); what a trial's hover text
says is looked up once per trial (:func:`hover_texts`), by :func:`to_plotly` here and by the page's script there.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from luthier.core.history import History, StageRecord
from luthier.core.params import Choice, Constant
from luthier.core.summary import CONFIRM, summarize
from luthier.core.trial import Status, TrialRecord
from luthier.diagnose.lr_range import debiased_average
from luthier.view.story import clean, number, real, setting, short, varied

Spec = dict[str, Any]
Role = Literal["ended", "failed", "plain", "default", "winner"]
"""Drawn in this order, the winner on top; ``ended`` was stopped early."""

# Blue and vermilion stay apart for every kind of colour blindness; both, and the greys, read on white and on black.
COLORS: dict[Role, str] = {
    "ended": "#98a0ab", "failed": "#98a0ab", "plain": "#7d8794", "default": "#d9661f", "winner": "#2b7fc7",
}  # fmt: skip
INK, GRID, FAINT = "#7b838e", "rgba(128,136,148,.22)", "rgba(128,136,148,.5)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_MOST_POINTS = 5_000
_TRAIN = re.compile(r"(^|[/_.\-])(val|valid|validation|eval|dev|test)(?=$|[/_.\-])")


# -- numbers -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Curve:
    """One trial's values of one metric."""

    trial: int
    role: Role
    epochs: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Curves:
    """All trials' learning curves of ``metric``; ``low`` to ``high`` is the range worth showing."""

    metric: str
    curves: tuple[Curve, ...]
    low: float
    high: float
    log: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """The best score against the epochs spent, one point per scored trial, the trials laid end to end by number.

    Args:
        spent: epochs spent by the study when the trial ended.
        best: the best score up to and including the trial.
        stages: name of each stage and the epochs spent when it began.
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
class Swept:
    """One hyperparameter's values against the scores; a choice's values are positions in ``labels``."""

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


def roles(history: History) -> dict[int, Role]:
    """What each trained trial is in the pictures: winner, default, failed, stopped early or plain."""
    arms = {t.notes.get("arm"): t.config for t in history.in_stage(CONFIRM)}
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


def learning_curves(history: History, metric: str) -> Curves:
    """Every trial's curve of ``metric``, thinned where together they hold too many points to draw."""
    role = roles(history)
    found = [(t, t.curve(metric)) for t in history.trained()]
    found = [(t, points) for t, points in found if points]
    keep = max(6, _MOST_POINTS // max(1, len(found)))
    curves = tuple(
        Curve(t.id, role[t.id], tuple(e for e, _ in few), tuple(v for _, v in few))
        for t, points in found
        for few in [_thin(points, keep)]
    )
    # A diverged trial must not squeeze the others into a line.
    sound = [v for c in curves if c.role not in ("failed", "ended") for v in c.values]
    falls = history.objective.minimize if metric == history.objective.metric else "loss" in metric.lower()
    low, high, log = _range(sound or [v for c in curves for v in c.values], falls)
    return Curves(metric, curves, low, high, log)


def metric_pairs(history: History) -> list[tuple[str, ...]]:
    """The metrics worth drawing, each with its training twin first: the objective's, then the validation loss."""
    names = dict.fromkeys(n for t in history.trained() for n in t.metrics)
    wanted = [history.objective.metric, *(n for n in names if _TRAIN.search(n) and "loss" in n.lower())]
    pairs = [
        tuple(m for m in dict.fromkeys((_TRAIN.sub(r"\1train", n), n)) if m in names) for n in dict.fromkeys(wanted)
    ]
    return [p for p in pairs if p][:2]


def curve_panels(history: History) -> list[Curves]:
    """The learning curves of :func:`metric_pairs`; a training curve shares the range of its validation twin."""
    panels = []
    for pair in metric_pairs(history):
        shown = [learning_curves(history, m) for m in pair]
        low, high = min(c.low for c in shown), max(c.high for c in shown)
        log = all(c.log or c.low > 0 for c in shown) and any(c.log for c in shown)
        panels += [Curves(c.metric, c.curves, low, high, log) for c in shown]
    return panels


def progress(history: History) -> Progress:
    """The incumbent over the epochs spent.

    The history keeps no order between trials that ran side by side, so they are laid end to end.
    """
    role, spent, best = roles(history), 0.0, math.inf
    stages: list[tuple[str, float]] = []
    begins = {s.trials[0]: s.name for s in history.stages if s.trials}
    rows: list[tuple[int, Role, float, float, float]] = []
    for t in history.trials:
        if t.id in begins:
            stages.append((begins[t.id], spent))
        spent += t.spent
        score = history.score(t)
        if t.probe is None and score is not None:
            best = min(best, history.objective.loss(score))
            rows.append((t.id, role[t.id], spent, score, history.objective.score(best)))
    ids, kinds, at, scores, bests = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    objective = history.objective
    return Progress(
        objective.metric, objective.minimize, ids, kinds, at, scores, bests, tuple(stages), max(spent, history.spent)
    )


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


def sweeps(history: History) -> list[Swept]:
    """Each hyperparameter that took more than one value, against the score."""
    role = roles(history)
    scored = [(t, s) for t in history.trained() if (s := history.score(t)) is not None]
    low, high, _ = _range([s for _, s in scored], history.objective.minimize)
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
            ids, kinds, values, scores = zip(*rows, strict=True)
            scale: Literal["log", "linear", "choice"] = "choice" if choice else "linear"
            if not isinstance(param, Choice) and param.log and min(values) > 0:
                scale = "log"
            out.append(Swept(name, history.objective.metric, scale, labels, ids, kinds, values, scores, low, high))
    return out


def lr_ranges(history: History, stage: StageRecord | None = None) -> list[LrRange]:
    """The learning-rate range tests of ``stage``, else of the whole study."""
    ids: Iterable[int] = stage.trials if stage else range(len(history.trials))
    found = ((history.trials[i], stage or _stage_of(history, i)) for i in ids)
    tests = (_lr_range(t, s) for t, s in found if t.probe == "lr_range" and t.answer)
    return [test for test in tests if test is not None]


def _stage_of(history: History, trial: int) -> StageRecord | None:
    return next((s for s in history.stages if trial in s.trials), None)


def _lr_range(trial: TrialRecord, stage: StageRecord | None) -> LrRange | None:
    answer = trial.answer or {}
    try:
        rates = tuple(real(x) for x in answer["lrs"])
        losses = tuple(tuple(real(x) for x in row)[: len(rates)] for row in answer["losses"])
    except (KeyError, TypeError):
        return None  # an answer of another make has no picture
    if not rates or not losses or min(rates) <= 0:
        return None
    columns = [[row[i] for row in losses if i < len(row) and math.isfinite(row[i])] for i in range(len(rates))]
    # A repeat that ended early diverged: where most of them did, there is no middle any more.
    middle = [sorted(c)[len(c) // 2] for c in columns if 2 * len(c) > len(losses)]
    smooth = debiased_average(np.asarray(middle), 0.9).tolist()
    median = (*smooth, *[math.nan] * (len(rates) - len(smooth)))
    numbers = stage.numbers if stage else {}
    each = numbers.get("optimizers")
    own = [n for n in each.values() if n.get("trial") == trial.id] if isinstance(each, Mapping) else []
    hints = [real((own[0] if own else numbers).get(k)) for k in ("center", "upper")]
    center, upper = (x if math.isfinite(x) and x > 0 else None for x in hints)
    return LrRange(trial.id, setting(trial.config.get("optimizer", "")), rates, losses, median, center, upper)


def _thin(points: Sequence[tuple[int, float]], keep: int) -> list[tuple[int, float]]:
    last = len(points) - 1
    if last < keep:
        return list(points)
    return [points[i] for i in sorted({round(i * last / (keep - 1)) for i in range(keep)})]


def _range(values: Iterable[float], falls: bool) -> tuple[float, float, bool]:
    """The range that shows the good end whole and nine tenths of the rest, and whether it asks for a log scale."""
    ordered = sorted(v for v in values if math.isfinite(v))
    if not ordered:
        return 0.0, 1.0, False
    n = len(ordered)
    low, high = ordered[0], ordered[-1]
    if n > 20:
        low, high = (low, ordered[n * 95 // 100]) if falls else (ordered[n * 5 // 100], high)
    return low, high, falls and low > 0 and high / low > 20


# -- ink ---------------------------------------------------------------------------------------------------------------


def safe(text: object) -> str:
    """User text for plotly, which reads a little HTML in every label."""
    return html.escape(clean(text, 80), quote=False)


def hover_texts(history: History) -> dict[int, str]:
    """What the hover box says of each trial besides its numbers: the stage and the hyperparameters that vary."""
    names, out = varied(history), {}
    for t in history.trials:
        words = html.escape(short(t.config, names, limit=9), quote=False).split(", ")
        lines = [", ".join(words[i : i + 3]) for i in range(0, len(words), 3)]
        stage = f" · {safe(t.stage)}" if t.stage else ""
        out[t.id] = f"<b>trial {t.id}</b>{stage}<br>" + "<br>".join(lines)
    return out


def curves_figure(data: Curves) -> Spec:
    """The learning curves of one metric: winner and default in colour and by name, the others in grey."""
    veil = 0.55 if len(data.curves) < 25 else 0.35 if len(data.curves) < 120 else 0.22
    traces, labels = [], []
    for role in COLORS:
        own = [c for c in data.curves if c.role == role]
        if not own:
            continue
        bright = role in ("winner", "default")
        # One trace a role, gaps between the trials: hundreds of curves stay smooth as a few paths.
        gap = (None, None, None)
        rows = [row for c in own for row in (*zip(c.epochs, c.values, [c.trial] * len(c.epochs)), gap)]
        traces.append({
            "type": "scatter", "mode": "lines" if max(len(c.epochs) for c in own) > 1 else "markers",
            "x": [r[0] for r in rows], "y": [_digits(r[1]) for r in rows], "customdata": [r[2] for r in rows],
            "line": {"color": COLORS[role], "width": 2.2 if bright else 1,
                     "dash": "dot" if role in ("failed", "ended") else "solid"},
            "opacity": (0.95 if len(own) < 3 else 0.75) if bright else veil,
            "hovertemplate": f"epoch %{{x}} · {safe(data.metric)} <b>%{{y:.5~g}}</b><br>%{{text}}<extra></extra>",
        })  # fmt: skip
        if bright:
            ends = sorted((c.values[-1], c.epochs[-1]) for c in own if math.isfinite(c.values[-1]))
            if ends:
                labels.append((*ends[len(ends) // 2], role))
    layout = _layout(data.metric, "epoch")
    layout["margin"]["r"] = 58
    pad = (data.high - data.low) * 0.06 or abs(data.high) * 0.05 or 0.5
    low, high = data.low - pad, data.high + pad
    if data.log:
        spread = (math.log10(data.high) - math.log10(data.low)) * 0.05
        low, high = math.log10(data.low) - spread, math.log10(data.high) + spread
    layout["yaxis"].update(range=[low, high], **_log(data.low, data.high) if data.log else {})
    close = len(labels) == 2 and abs(labels[0][0] - labels[1][0]) < 0.12 * (data.high - data.low)
    for y, x, name in sorted(labels):
        at = math.log10(y) if data.log and y > 0 else y
        shift = (9 if (y, x, name) == max(labels) else -9) if close or data.log else 0
        layout["annotations"].append(
            _label(x, min(max(at, low), high), f"<b>{name}</b>", COLORS[name], xanchor="left", xshift=6, yshift=shift)
        )
    return {"data": traces, "layout": layout}


def progress_figure(data: Progress) -> Spec:
    """Every trial's score where it ended, and the best so far as a step line; stages named along the top."""
    low, high, _ = _range(data.scores, data.minimize)
    edge = high if data.minimize else low
    line = {
        "type": "scatter", "mode": "lines", "x": [*data.spent, data.total], "y": [*data.best, *data.best[-1:]],
        "line": {"color": COLORS["winner"], "width": 2.4, "shape": "hv"},
        "hovertemplate": "best after %{x:,.0f} epochs <b>%{y:.5~g}</b><extra></extra>",
    }  # fmt: skip
    dots = _dots(data.spent, data.scores, data.trials, data.roles, low, high, data.metric)
    layout = _layout(f"Best {data.metric} so far", "epochs spent")
    layout["xaxis"].update(range=[-0.01 * data.total, 1.015 * data.total or 1], tickformat=",~g")
    layout["yaxis"]["range"] = _padded(low, high)
    shown_until = -math.inf
    for i, (name, at) in enumerate(data.stages):
        layout["shapes"].append(_rule(x=at))
        # Names that would run into each other are left to the story above.
        width = min(len(name), 18) * 0.0105 * data.total
        following = data.stages[i + 1][1] if i + 1 < len(data.stages) else data.total
        if at >= shown_until and (following - at >= width or i + 1 == len(data.stages)):
            shown_until = at + width
            mark = _label(at, 1, safe(clean(name, 18)), INK, yref="paper", xanchor="left", yanchor="bottom", xshift=2)
            layout["annotations"].append(mark)
    if data.stages:
        layout["margin"]["t"] = 62
        layout["title"]["pad"] = {"b": 24}
    if data.best:
        text = f"<b>{number(data.best[-1])}</b>"
        layout["annotations"].append(
            _label(data.total, min(max(data.best[-1], low), high), text, COLORS["winner"], xanchor="right",
                   yanchor="top" if edge == low else "bottom", yshift=-4 if edge == low else 4)
        )  # fmt: skip
    return {"data": [*dots, *([line] if data.best else [])], "layout": layout}


def paired_figure(data: Paired) -> Spec:
    """Left the scores, a line per seed; right the differences with their mean and 95 % interval against zero."""
    arms = (("default", data.default, 0), ("winner", data.winner, 1))
    traces: list[Spec] = [
        {"type": "scatter", "mode": "lines", "x": [0, 1], "y": [_digits(d), _digits(w)], "hoverinfo": "skip",
         "line": {"color": FAINT, "width": 1.2}}
        for d, w in zip(data.default, data.winner)
    ]  # fmt: skip
    layout = _layout(f"{data.metric} on {len(data.seeds)} fresh seeds", "")
    layout["annotations"].append(
        _label(1, 1, "<b>paired gain</b>", INK, 13, xref="paper", yref="paper", xanchor="right", yanchor="bottom",
               yshift=12)
    )  # fmt: skip
    for name, scores, x in arms:
        color = COLORS[name]  # type: ignore[index]
        mean = sum(scores) / len(scores) if scores else math.nan
        traces.append({
            "type": "scatter", "mode": "markers", "x": [x] * len(scores), "y": [_digits(v) for v in scores],
            "customdata": None, "text": [f"seed {s}" for s in data.seeds], "marker": {"color": color, "size": 9},
            "hovertemplate": f"{name}, %{{text}}<br>{safe(data.metric)} <b>%{{y:.5~g}}</b><extra></extra>",
        })  # fmt: skip
        side: Spec = {"xanchor": "right", "xshift": -12} if x == 0 else {"xanchor": "left", "xshift": 12}
        if math.isfinite(mean):
            layout["shapes"].append({"type": "line", "x0": x - 0.1, "x1": x + 0.1, "y0": mean, "y1": mean,
                                     "line": {"color": color, "width": 3}})  # fmt: skip
            layout["annotations"].append(_label(x, mean, f"<b>{number(mean)}</b>", color, **side))
    spread = {
        "type": "scatter", "mode": "markers", "xaxis": "x2", "yaxis": "y2", "y": [_digits(g) for g in data.gains],
        "x": [0.14 * ((i % 3) - 1) - 0.3 for i in range(len(data.gains))], "text": [f"seed {s}" for s in data.seeds],
        "marker": {"color": FAINT, "size": 7}, "hovertemplate": "%{text}<br>gain <b>%{y:+.4~g}</b><extra></extra>",
    }  # fmt: skip
    reach = {"type": "data", "symmetric": False, "color": COLORS["winner"], "thickness": 2.2, "width": 0,
             "array": [_digits(data.high - data.gain)], "arrayminus": [_digits(data.gain - data.low)]}  # fmt: skip
    mean_gain = {
        "type": "scatter", "mode": "markers", "xaxis": "x2", "yaxis": "y2", "x": [0.35], "y": [_digits(data.gain)],
        "error_y": reach, "marker": {"color": COLORS["winner"], "size": 11, "symbol": "diamond"},
        "hovertemplate": f"mean gain <b>%{{y:+.4~g}}</b><br>95 % interval {number(data.low, sign=True)} to "
        f"{number(data.high, sign=True)}<extra></extra>",
    }  # fmt: skip
    layout["xaxis"].update(domain=[0, 0.62], range=[-0.62, 1.62], tickvals=[0, 1], ticktext=["default", "winner"],
                           showline=False)  # fmt: skip
    layout["yaxis"].update(showticklabels=False, showgrid=False)
    layout["margin"].update(l=8, r=48)
    layout["xaxis2"] = {**_axis(""), "domain": [0.7, 1], "range": [-0.9, 0.9], "showticklabels": False, "ticks": ""}
    zero = {"zeroline": True, "zerolinecolor": INK, "zerolinewidth": 1.2, "side": "right", "anchor": "x2"}
    layout["yaxis2"] = {**_axis(""), **zero, "tickformat": "+.3~g", "nticks": 5}
    return {"data": [*traces, spread, mean_gain], "layout": layout}


def sweep_figure(data: Swept) -> Spec:
    """One hyperparameter against the score."""
    choice = data.scale == "choice"
    # A fixed spread by the trial's number keeps a choice's points apart and the picture the same every time.
    xs = [v + (0.44 * ((t * 0.618034) % 1 - 0.5) if choice else 0) for v, t in zip(data.values, data.trials)]
    layout = _layout(data.name, "", height=210)
    layout["yaxis"]["range"] = _padded(data.low, data.high)
    if choice:
        ticks = [safe(clean(label, 14)) for label in data.labels]
        layout["xaxis"].update(tickvals=list(range(len(ticks))), ticktext=ticks, range=[-0.6, len(ticks) - 0.4])
    elif data.scale == "log":
        layout["xaxis"].update(_log(min(data.values), max(data.values)))
    dots = _dots(xs, data.scores, data.trials, data.roles, data.low, data.high, data.metric)
    return {"data": dots, "layout": layout}


def lr_range_figure(data: LrRange) -> Spec:
    """Loss against learning rate: each repeat faint, their median strong, the suggested range named."""
    seen = sorted(v for v in data.median if math.isfinite(v))
    # The blow-up at the end is the point of the test, but not its scale.
    start = next((v for v in data.median if math.isfinite(v)), 1.0)
    low, high = (seen[0], min(seen[-1], start + 0.6 * (start - seen[0]) or seen[-1])) if seen else (0.0, 1.0)
    rows = [(*data.repeats, data.median)[i] for i in range(len(data.repeats) + 1)]
    traces = [
        {
            "type": "scatter", "mode": "lines", "x": list(data.rates), "y": [_digits(v) for v in values],
            "line": {"color": COLORS["winner"] if strong else FAINT, "width": 2.4 if strong else 1},
            "hoverinfo": "all" if strong else "skip",
            "hovertemplate": "learning rate <b>%{x:.3~g}</b><br>loss %{y:.4~g}<extra></extra>",
        }
        for values, strong in zip(rows, [False] * len(data.repeats) + [True])
    ]  # fmt: skip
    layout = _layout(f"training loss, {data.label}".rstrip(", "), "learning rate", height=250)
    layout["xaxis"].update(_log(data.rates[0], data.rates[-1]))
    layout["yaxis"]["range"] = _padded(low, max(high, low))
    if data.upper is not None:
        beyond = {"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "x0": data.upper, "x1": data.rates[-1],
                  "fillcolor": COLORS["default"], "opacity": 0.1, "line": {"width": 0}, "layer": "below"}  # fmt: skip
        layout["shapes"].append(beyond)
        layout["annotations"].append(_label(math.log10(data.upper), 1, "unstable", COLORS["default"], yref="paper",
                                            xanchor="left", yanchor="top", xshift=4))  # fmt: skip
    if data.center is not None:
        layout["shapes"].append(_rule(x=data.center, color=COLORS["winner"], dash="solid", width=1.6))
        layout["annotations"].append(
            _label(math.log10(data.center), 0, f"<b>{setting(data.center)}</b>", COLORS["winner"], yref="paper",
                   xanchor="right", yanchor="bottom", xshift=-5)
        )  # fmt: skip
    return {"data": traces, "layout": layout}


def _dots(
    xs: Sequence[float], ys: Sequence[float], trials: Sequence[int], kinds: Sequence[Role],
    low: float, high: float, metric: str,
) -> list[Spec]:  # fmt: skip
    """Scores as dots, a trace per role; one beyond the range sits on the edge as an open triangle."""
    bottom, top = _padded(low, high)
    traces: list[Spec] = []
    for role, color in COLORS.items():
        rows = [(x, y, t) for x, y, t, k in zip(xs, ys, trials, kinds) if k == role]
        if not rows:
            continue
        bright = role in ("winner", "default")
        beyond = {True: "triangle-up-open", False: "triangle-down-open"}
        marks = ["circle" if bottom <= y <= top else beyond[y > top] for _, y, _ in rows]
        traces.append({
            "type": "scatter", "mode": "markers", "x": [_digits(r[0]) for r in rows],
            "y": [_digits(min(max(r[1], bottom), top)) for r in rows], "customdata": [r[2] for r in rows],
            "meta": role, "cliponaxis": False,
            "marker": {"color": color, "size": 8 if bright else 6, "opacity": 0.95 if bright else 0.45,
                       "symbol": "circle" if set(marks) == {"circle"} else marks},
            "hovertemplate": f"{safe(metric)} <b>%{{y:.5~g}}</b><br>%{{text}}<extra></extra>",
        })  # fmt: skip
    return traces


def _digits(value: float | None) -> float | None:
    """Five digits are enough for a picture; JSON has no NaN."""
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None


def _padded(low: float, high: float) -> list[float]:
    pad = (high - low) * 0.08 or abs(high) * 0.05 or 0.5
    return [low - pad, high + pad]


def _axis(title: str) -> Spec:
    return {
        "title": {"text": title, "font": {"size": 12}, "standoff": 8}, "gridcolor": GRID, "zeroline": False,
        "ticks": "", "showline": False, "automargin": True, "nticks": 6, "fixedrange": True,
    }  # fmt: skip


def _log(low: float, high: float) -> Spec:
    if low > 0 and high / low < 30:
        return {"type": "log", "tickmode": "auto", "nticks": 6, "tickformat": ".2~g", "dtick": "D2"}
    return {"type": "log", "dtick": 1, "exponentformat": "power"}


def _layout(title: str, x: str, height: int = 300) -> Spec:
    return {
        "title": {"text": f"<b>{safe(title)}</b>", "x": 0, "xref": "container", "xanchor": "left", "yref": "paper",
                  "y": 1, "yanchor": "bottom", "pad": {"b": 12, "l": 2}, "font": {"size": 13}},
        "font": {"family": FONT, "size": 11.5, "color": INK}, "height": height, "showlegend": False,
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "hovermode": "closest",
        "margin": {"l": 44, "r": 16, "t": 38, "b": 38}, "xaxis": {**_axis(x), "showgrid": False, "showline": True,
        "linecolor": FAINT}, "yaxis": _axis(""), "annotations": [], "shapes": [], "dragmode": False,
        "hoverlabel": {"align": "left", "font": {"family": FONT, "size": 12}},
    }  # fmt: skip


def _label(x: float, y: float, text: str, color: str, size: int = 12, **more: Any) -> Spec:
    return {"x": x, "y": y, "text": text, "showarrow": False, "font": {"color": color, "size": size}, **more}


def _rule(x: float, color: str = FAINT, dash: str = "dot", width: float = 1) -> Spec:
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "layer": "below",
            "line": {"color": color, "width": width, "dash": dash}}  # fmt: skip


# -- for notebooks -----------------------------------------------------------------------------------------------------


def _one(make: Callable[[Any], Spec], read: Callable[[History], Any]) -> Callable[[History], list[Spec]]:
    def draw(history: History) -> list[Spec]:
        data = read(history)
        return [make(d) for d in (data if isinstance(data, list) else [data]) if d is not None]

    return draw


FIGURES: Mapping[str, Callable[[History], list[Spec]]] = {
    "curves": _one(curves_figure, curve_panels),
    "progress": _one(progress_figure, progress),
    "paired": _one(paired_figure, paired),
    "sweeps": _one(sweep_figure, sweeps),
    "lr_range": _one(lr_range_figure, lr_ranges),
}
"""Every kind of picture by name: the panels that a history gives, none where it has nothing to show."""


def to_plotly(spec: Spec, history: History | None = None) -> Any:
    """A panel as a ``plotly.graph_objects.Figure``, with hover texts where the history is given."""
    import plotly.graph_objects as go

    texts = hover_texts(history) if history else {}
    data = [
        {**t, "text": [texts.get(i, "") for i in t["customdata"]]} if t.get("customdata") else t for t in spec["data"]
    ]
    return go.Figure(data=data, layout=spec["layout"])
