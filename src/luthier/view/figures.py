"""The ink of every picture of a study: its numbers (``numbers``) as a plotly figure, in plain data.

The same figures serve notebook and report. Ink carries trial numbers only (``customdata``); what a trial's hover text
says is looked up once per trial (:func:`hover_texts`), by :func:`to_plotly` here and by the page's script there.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping
from typing import Any

from luthier.core.history import History
from luthier.core.summary import Lesson
from luthier.view import ink, relations, relations_ink
from luthier.view.numbers import (
    DrawnCurves,
    LrRange,
    Paired,
    Progress,
    Steps,
    Swept,
    Traded,
    curve_panels,
    lr_ranges,
    paired,
    progress,
    progress_over_time,
    span,
    sweeps,
    traded,
)
from luthier.view.panels import TrainingPanel, finding_panels
from luthier.view.story import clean, number, setting, short, varied

PRIOR_HEIGHT = 0.42
"""The part of a panel's height that the top of a prior takes."""

# -- ink ---------------------------------------------------------------------------------------------------------------


def hover_texts(history: History) -> dict[int, str]:
    """What the hover box says of each trial besides its numbers: the stage and the hyperparameters that vary."""
    names, out = varied(history), {}
    for t in history.trials:
        words = html.escape(short(t.config, names, limit=9), quote=False).split(", ")
        lines = [", ".join(words[i : i + 3]) for i in range(0, len(words), 3)]
        stage = f" · {ink.safe(t.stage)}" if t.stage else ""
        out[t.id] = f"<b>trial {t.id}</b>{stage}<br>" + "<br>".join(lines)
    return out


def curves_figure(data: DrawnCurves) -> ink.Spec:
    """The learning curves of one metric: winner and default in colour and by name, the others in grey."""
    veil = 0.55 if len(data.curves) < 25 else 0.35 if len(data.curves) < 120 else 0.22
    traces, labels = [], []
    for role in ink.COLORS:
        own = [c for c in data.curves if c.role == role]
        if not own:
            continue
        bright = role in ("winner", "default")
        # One trace a role, gaps between the trials: hundreds of curves stay smooth as a few paths.
        gap = (None, None, None)
        rows = [row for c in own for row in (*zip(c.epochs, c.values, [c.trial] * len(c.epochs)), gap)]
        traces.append({
            "type": "scatter", "mode": "lines" if max(len(c.epochs) for c in own) > 1 else "markers",
            "x": [r[0] for r in rows], "y": [ink.digits(r[1]) for r in rows], "customdata": [r[2] for r in rows],
            "line": {"color": ink.COLORS[role], "width": 2.2 if bright else 1,
                     "dash": "dot" if role in ("failed", "ended") else "solid"},
            "opacity": (0.95 if len(own) < 3 else 0.75) if bright else veil,
            "hovertemplate": f"epoch %{{x}} · {ink.safe(data.metric)} <b>%{{y:.5~g}}</b><br>%{{text}}<extra></extra>",
        })  # fmt: skip
        if bright:
            last = sorted((c.values[-1], c.epochs[-1]) for c in own if math.isfinite(c.values[-1]))
            if last:
                labels.append((*last[len(last) // 2], role))
    layout = ink.layout(data.metric, "epoch")
    layout["margin"]["r"] = 58
    pad = (data.high - data.low) * 0.06 or abs(data.high) * 0.05 or 0.5
    low, high = data.low - pad, data.high + pad
    if data.log:
        spread = (math.log10(data.high) - math.log10(data.low)) * 0.08
        low, high = math.log10(data.low) - spread, math.log10(data.high) + spread
    ends = [e for c in data.curves for e in (c.epochs[0], c.epochs[-1])]
    if ends and min(ends) < max(ends):
        layout["xaxis"]["range"] = [min(ends), max(ends)]
    layout["yaxis"].update(range=[low, high], **ink.log(data.low, data.high) if data.log else {})
    close = len(labels) == 2 and abs(labels[0][0] - labels[1][0]) < 0.12 * (data.high - data.low)
    for y, x, name in sorted(labels):
        at = math.log10(y) if data.log and y > 0 else y
        shift = (9 if (y, x, name) == max(labels) else -9) if close or data.log else 0
        layout["annotations"].append(
            ink.label(
                x,
                min(max(at, low), high),
                f"<b>{data.winner if name == 'winner' else name}</b>",
                ink.COLORS[name],
                xanchor="left",
                xshift=6,
                yshift=shift,
            )
        )
    return {"data": traces, "layout": layout}


def progress_figure(data: Progress) -> ink.Spec:
    """Every trial's score where it ended, and the best so far as a step line; stages named along the top."""
    low, high = span(data.scores, data.minimize)
    line = {
        "type": "scatter", "mode": "lines", "x": [*data.spent, data.total], "y": [*data.best, *data.best[-1:]],
        "line": {"color": ink.COLORS["winner"], "width": 2.4, "shape": "hv"},
        "hovertemplate": f"{data.unit} %{{x:,.4~g}} · best <b>%{{y:.5~g}}</b><extra></extra>",
    }  # fmt: skip
    dots = ink.dots(data.spent, data.scores, data.trials, data.roles, low, high, data.metric)
    layout = ink.layout(f"Best {data.metric} so far", data.unit)
    layout["xaxis"].update(range=[-0.01 * data.total, 1.015 * data.total or 1], tickformat=",~g")
    layout["yaxis"]["range"] = ink.padded(low, high)
    shown_until = -math.inf
    for i, (name, at) in enumerate(data.stages):
        layout["shapes"].append(ink.rule(x=at))
        # Names that would run into each other are left to the story above.
        width = min(len(name), 18) * 0.0105 * data.total
        following = data.stages[i + 1][1] if i + 1 < len(data.stages) else data.total
        if at >= shown_until and (following - at >= width or i + 1 == len(data.stages)):
            shown_until = at + width
            row = 15 * (len(layout["annotations"]) % 2)  # in two rows, for the narrow screen of a phone
            layout["annotations"].append(
                ink.label(at, 1, ink.safe(clean(name, 18)), ink.INK, yref="paper", xanchor="left", yanchor="bottom",
                          xshift=2, yshift=row)
            )  # fmt: skip
    if data.stages:
        layout["margin"]["t"] = 76
        layout["title"]["pad"] = {"b": 40}
    if data.best:
        text = f"<b>{number(data.best[-1])}</b>"
        layout["annotations"].append(
            ink.label(data.total, min(max(data.best[-1], low), high), text, ink.COLORS["winner"], xanchor="right",
                   yanchor="top" if data.minimize else "bottom", yshift=-3 if data.minimize else 3)
        )  # fmt: skip
    return {"data": [*dots, *([line] if data.best else [])], "layout": layout}


def paired_figure(data: Paired) -> ink.Spec:
    """Left the scores, a line per seed; right the differences with their mean and 95 % interval against zero."""
    arms = (("default", data.default, 0), ("winner", data.winner, 1))
    traces: list[ink.Spec] = [
        {"type": "scatter", "mode": "lines", "x": [0, 1], "y": [ink.digits(d), ink.digits(w)], "hoverinfo": "skip",
         "line": {"color": ink.FAINT, "width": 1.2}}
        for d, w in zip(data.default, data.winner)
    ]  # fmt: skip
    layout = ink.layout(data.metric, "")
    layout["annotations"].append(
        ink.label(1, 1, "<b>paired gain</b>", None, 13, xref="paper", yref="paper", xanchor="right", yanchor="bottom",
               yshift=7)
    )  # fmt: skip
    for name, scores, x in arms:
        color = ink.COLORS[name]  # type: ignore[index]
        mean = sum(scores) / len(scores) if scores else math.nan
        traces.append({
            "type": "scatter", "mode": "markers", "x": [x] * len(scores), "y": [ink.digits(v) for v in scores],
            "customdata": None, "text": [f"seed {s}" for s in data.seeds], "marker": {"color": color, "size": 9},
            "hovertemplate": f"{name}, %{{text}}<br>{ink.safe(data.metric)} <b>%{{y:.5~g}}</b><extra></extra>",
        })  # fmt: skip
        side: ink.Spec = {"xanchor": "right", "xshift": -12} if x == 0 else {"xanchor": "left", "xshift": 12}
        if math.isfinite(mean):
            layout["shapes"].append({"type": "line", "x0": x - 0.1, "x1": x + 0.1, "y0": mean, "y1": mean,
                                     "line": {"color": color, "width": 3}})  # fmt: skip
            layout["annotations"].append(ink.label(x, mean, f"<b>{number(mean)}</b>", color, **side))
    spread = {
        "type": "scatter", "mode": "markers", "xaxis": "x2", "yaxis": "y2", "y": [ink.digits(g) for g in data.gains],
        "x": [0.14 * ((i % 3) - 1) - 0.3 for i in range(len(data.gains))], "text": [f"seed {s}" for s in data.seeds],
        "marker": {"color": ink.FAINT, "size": 7}, "hovertemplate": "%{text}<br>gain <b>%{y:+.4~g}</b><extra></extra>",
    }  # fmt: skip
    reach = {"type": "data", "symmetric": False, "color": ink.COLORS["winner"], "thickness": 2.2, "width": 0,
             "array": [ink.digits(data.high - data.gain)],
             "arrayminus": [ink.digits(data.gain - data.low)]}  # fmt: skip
    mean_gain = {
        "type": "scatter", "mode": "markers", "xaxis": "x2", "yaxis": "y2", "x": [0.35], "y": [ink.digits(data.gain)],
        "error_y": reach, "marker": {"color": ink.COLORS["winner"], "size": 11, "symbol": "diamond"},
        "hovertemplate": f"mean gain <b>%{{y:+.4~g}}</b><br>95 % interval {number(data.low, sign=True)} to "
        f"{number(data.high, sign=True)}<extra></extra>",
    }  # fmt: skip
    layout["xaxis"].update(domain=[0, 0.62], range=[-0.62, 1.62], tickvals=[0, 1], ticktext=["default", "winner"],
                           showline=False)  # fmt: skip
    layout["yaxis"].update(showticklabels=False, showgrid=False)
    layout["margin"].update(l=8, r=48)
    layout["xaxis2"] = {
        **ink.axis(""),
        "domain": [0.7, 1],
        "range": [-0.9, 0.9],
        "showticklabels": False,
        "showgrid": False,
    }
    span = [f(v for v in (0.0, data.low, data.high, *data.gains) if math.isfinite(v)) for f in (min, max)]
    zero = {"zeroline": True, "zerolinecolor": ink.INK, "zerolinewidth": 1.2, "side": "right", "anchor": "x2"}
    layout["yaxis2"] = {**ink.axis(""), **zero, "tickformat": "+.3~g", "nticks": 5, "range": ink.padded(*span)}
    return {"data": [*traces, spread, mean_gain], "layout": layout}


def traded_figure(data: Traded) -> ink.Spec:
    """Two objectives against each other: the Pareto front and its edge in colour, what breaks a constraint faint."""
    layout = ink.layout(f"{clean(data.y_metric, 30)} against {clean(data.x_metric, 30)}", ink.safe(data.x_metric))
    low, high = span(data.ys, data.y_minimize)
    layout["yaxis"]["range"] = ink.padded(low, high)
    left, right = span(data.xs, data.x_minimize)
    if left > 0 and right / left > 20:
        layout["xaxis"].update(ink.log(left, right))
        spread = 0.06 * math.log10(right / left)
        layout["xaxis"]["range"] = [math.log10(left) - spread, math.log10(right) + spread]
    else:
        layout["xaxis"]["range"] = ink.padded(left, right)
    step = {
        "type": "scatter", "mode": "lines", "x": [ink.digits(x) for x, _ in data.edge], "hoverinfo": "skip",
        "y": [ink.digits(y) for _, y in data.edge], "opacity": 0.7,
        "line": {"color": ink.COLORS["winner"], "width": 1.6, "shape": "hv" if data.x_minimize else "vh"},
    }  # fmt: skip
    dots = ink.dots(data.xs, data.ys, data.trials, data.kinds, low, high, data.y_metric)
    return {"data": [*([step] if len(data.edge) > 1 else []), *dots], "layout": layout}


def importance_figure(parts: Mapping[str, float]) -> ink.Spec:
    """How much each hyperparameter decided, the largest on top."""
    names = list(parts)[::-1]
    bars = {
        "type": "bar", "orientation": "h", "x": [ink.digits(100 * parts[n]) for n in names],
        "y": list(range(len(names))),
        "text": [f"{parts[n]:.0%}" for n in names], "textposition": "outside", "cliponaxis": False,
        "marker": {"color": ink.COLORS["winner"], "opacity": 0.85}, "hoverinfo": "skip", "width": 0.62,
    }  # fmt: skip
    layout = ink.layout("importance", "", height=70 + 26 * len(names))
    layout["xaxis"].update(showticklabels=False, showline=False, range=[0, 100 * max(parts.values()) * 1.15])
    layout["yaxis"].update(
        tickvals=list(range(len(names))), ticktext=[ink.safe(clean(n, 24)) for n in names], showgrid=False,
        nticks=len(names),
    )  # fmt: skip
    return {"data": [bars], "layout": layout}


def steps_figure(data: Steps) -> ink.Spec:
    """The gain of each change on the way from the default to the winner, the first on top, with 95 % intervals."""
    rows = list(range(len(data.names)))[::-1]
    traces: list[ink.Spec] = []
    for carries, color in ((True, ink.COLORS["winner"]), (False, ink.COLORS["plain"])):
        own = [i for i in range(len(data.names)) if data.carries[i] is carries]
        if own:
            traces.append({
                "type": "scatter", "mode": "markers", "x": [ink.digits(data.gains[i]) for i in own],
                "y": [rows[i] for i in own], "marker": {"color": color, "size": 10, "symbol": "diamond"},
                "error_x": {"type": "data", "symmetric": False, "color": color, "thickness": 2.2, "width": 0,
                            "array": [ink.digits(data.highs[i] - data.gains[i]) for i in own],
                            "arrayminus": [ink.digits(data.gains[i] - data.lows[i]) for i in own]},
                "hovertemplate": "gain <b>%{x:+.4~g}</b><extra></extra>",
            })  # fmt: skip
    layout = ink.layout("gain of each change", ink.safe(data.unit), height=90 + 34 * len(data.names))
    zero = {"showgrid": True, "zeroline": True, "zerolinecolor": ink.INK, "zerolinewidth": 1.2, "tickformat": "+.3~g"}
    layout["xaxis"].update(zero)
    layout["yaxis"].update(
        tickvals=rows, ticktext=[ink.safe(clean(n, 34)) for n in data.names], showgrid=False, nticks=len(rows),
        range=[-0.6, len(rows) - 0.4],
    )  # fmt: skip
    return {"data": traces, "layout": layout}


def training_figure(data: TrainingPanel) -> ink.Spec:
    """One quantity of one training, on training and on validation data, with a rule where each finding began."""
    traces, labels = [], []
    for name, role, xs, ys in data.lines:
        traces.append({
            "type": "scatter", "mode": "lines" if len(xs) > 1 else "markers", "x": list(xs),
            "y": [ink.digits(v) for v in ys], "opacity": 0.9,
            "line": {"color": ink.COLORS[role], "width": 1.6 if len(xs) < 150 else 1},
            "hovertemplate": f"{data.unit} %{{x:.6~g}} · {ink.safe(name)} <b>%{{y:.5~g}}</b><extra></extra>",
        })  # fmt: skip
        last = next(((x, y) for x, y in zip(reversed(xs), reversed(ys)) if math.isfinite(y)), None)
        if last is not None and len(data.lines) > 1:
            labels.append((last[1], last[0], data.labels[role != "winner"], ink.COLORS[role]))
    layout = ink.layout(data.title, data.unit)
    if data.note:
        layout["meta"] = {"note": clean(data.note, 400)}
    layout["margin"]["r"] = 66 if labels else 16
    if data.first < data.last:
        layout["xaxis"]["range"] = [data.first, data.last]
    if data.unit == "epoch" and data.last - data.first <= 6:  # there is no epoch 1.5
        layout["xaxis"].update(tick0=data.first, dtick=1)
    low, high = ink.padded(data.low, data.high)
    if data.log:
        spread = (math.log10(data.high) - math.log10(data.low)) * 0.08
        low, high = math.log10(data.low) - spread, math.log10(data.high) + spread
    layout["yaxis"].update(range=[low, high], **ink.log(data.low, data.high) if data.log else {})
    shown = [math.log10(y) if data.log and y > 0 else y for y, _, _, _ in labels]
    close = len(shown) == 2 and abs(shown[0] - shown[1]) < 0.08 * (high - low)
    for (_, x, name, color), at in zip(labels, shown):
        shift = (8 if at == max(shown) else -8) if close else 0
        layout["annotations"].append(
            ink.label(x, min(max(at, low), high), name, color, 11, xanchor="left", xshift=5, yshift=shift)
        )
    for i, (x, text, severity) in enumerate(data.marks):
        color = ink.SEVERITY[severity]
        layout["shapes"].append(ink.rule(x, color, "dash", 1.4))
        layout["annotations"].append(
            ink.label(
                x, 1, ink.safe(text), color, 11, yref="paper", xanchor="left", yanchor="top", xshift=3, yshift=-13 * i
            )
        )
    return {"data": traces, "layout": layout}


def sweep_figure(data: Swept) -> ink.Spec:
    """One hyperparameter against the score."""
    choice = data.scale == "choice"
    # A fixed spread by the trial's number keeps a choice's points apart and the picture the same every time.
    xs = [v + (0.44 * ((t * 0.618034) % 1 - 0.5) if choice else 0) for v, t in zip(data.values, data.trials)]
    layout = ink.layout(data.name, "", height=210)
    layout["yaxis"]["range"] = ink.padded(data.low, data.high)
    if choice:
        ticks = [ink.safe(clean(label, 14)) for label in data.labels]
        layout["xaxis"].update(tickvals=list(range(len(ticks))), ticktext=ticks, range=[-0.6, len(ticks) - 0.4])
    elif data.scale == "log":
        layout["xaxis"].update(ink.log(min(data.values), max(data.values)))
    dots = ink.dots(xs, data.scores, data.trials, data.roles, data.low, data.high, data.metric)
    return {"data": [*_prior(data), *dots], "layout": layout}


def _prior(data: Swept) -> list[ink.Spec]:
    """What is believed beforehand, faint behind the dots: a hill over a scale, a bar for each choice."""
    top = max((d for _, d in data.prior), default=0.0)
    if not top > 0:
        return []
    low, high = ink.padded(data.low, data.high)
    points = [(x, low + PRIOR_HEIGHT * (high - low) * d / top) for x, d in data.prior]
    if data.scale == "choice":
        bars = [[(x - 0.34, low), (x - 0.34, y), (x + 0.34, y), (x + 0.34, low)] for x, y in points]
    else:
        bars = [[(points[0][0], low), *points, (points[-1][0], low)]]
    gap = (None, None)
    rows = [row for bar in bars for row in (*bar, gap)]
    return [{
        "type": "scatter", "mode": "lines", "fill": "toself", "fillcolor": ink.VEIL, "line": {"width": 0},
        "x": [ink.digits(x) for x, _ in rows], "y": [ink.digits(y) for _, y in rows], "hoverinfo": "skip",
    }]  # fmt: skip


def lr_range_figure(data: LrRange) -> ink.Spec:
    """Loss against learning rate: each repeat faint, their median strong, the suggested range named."""
    seen = sorted(v for v in data.median if math.isfinite(v))
    # The blow-up at the end is the point of the test, but not its scale.
    start = next((v for v in data.median if math.isfinite(v)), 1.0)
    low, high = (seen[0], min(seen[-1], start + 0.6 * (start - seen[0]) or seen[-1])) if seen else (0.0, 1.0)
    rows = [(*data.repeats, data.median)[i] for i in range(len(data.repeats) + 1)]
    traces = [
        {
            "type": "scatter", "mode": "lines", "x": list(data.rates), "y": [ink.digits(v) for v in values],
            "line": {"color": ink.COLORS["winner"] if strong else ink.FAINT, "width": 2.4 if strong else 1},
            "hoverinfo": "all" if strong else "skip",
            "hovertemplate": "learning rate <b>%{x:.3~g}</b><br>loss %{y:.4~g}<extra></extra>",
        }
        for values, strong in zip(rows, [False] * len(data.repeats) + [True])
    ]  # fmt: skip
    layout = ink.layout(f"training loss, {data.label}".rstrip(", "), "learning rate", height=250)
    layout["xaxis"].update(ink.log(data.rates[0], data.rates[-1]))
    layout["yaxis"]["range"] = ink.padded(low, max(high, low))
    if data.upper is not None:
        beyond = {"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "x0": data.upper, "x1": data.rates[-1],
                  "fillcolor": ink.COLORS["default"], "opacity": 0.1, "line": {"width": 0},
                  "layer": "below"}  # fmt: skip
        layout["shapes"].append(beyond)
        layout["annotations"].append(
            ink.label(math.log10(data.rates[-1]), 1, "unstable", ink.COLORS["default"], yref="paper", xanchor="right",
                      yanchor="top", xshift=-4)
        )  # fmt: skip
    if data.center is not None:
        layout["shapes"].append(ink.rule(x=data.center, color=ink.COLORS["winner"], dash="solid", width=1.6))
        layout["annotations"].append(
            ink.label(math.log10(data.center), 0, f"<b>{setting(data.center)}</b>", ink.COLORS["winner"], yref="paper",
                   xanchor="right", yanchor="bottom", xshift=-5)
        )  # fmt: skip
    return {"data": traces, "layout": layout}


# -- for notebooks -----------------------------------------------------------------------------------------------------


Draw = Callable[..., list[ink.Spec]]
"""Called with a history and, where there is one, its lesson."""


def _one(make: Callable[[Any], ink.Spec], read: Callable[..., Any], *, taught: bool = False) -> Draw:
    def draw(history: History, lesson: Lesson | None = None) -> list[ink.Spec]:
        data = read(history, lesson) if taught else read(history)
        return [make(d) for d in (data if isinstance(data, list) else [data]) if d is not None]

    return draw


def _importance(history: History, lesson: Lesson | None = None) -> list[ink.Spec]:
    return [importance_figure(lesson.importance)] if lesson is not None and lesson.importance else []


FIGURES: Mapping[str, Draw] = {
    "curves": _one(curves_figure, curve_panels),
    "progress": _one(progress_figure, progress),
    "time": _one(progress_figure, progress_over_time),
    "findings": _one(training_figure, finding_panels),
    "parallel": _one(relations_ink.parallel_figure, relations.parallel, taught=True),
    "importance": _importance,
    "interaction": _one(relations_ink.together_figure, relations.together, taught=True),
    "lineage": _one(relations_ink.family_figure, relations.family),
    "paired": _one(paired_figure, paired),
    "pareto": _one(traded_figure, traded),
    "sweeps": _one(sweep_figure, sweeps, taught=True),
    "lr_range": _one(lr_range_figure, lr_ranges),
}
"""Every kind of picture by name: the panels that a history gives, none where it has nothing to show."""


def to_plotly(spec: ink.Spec, history: History | None = None) -> Any:
    """A panel as a ``plotly.graph_objects.Figure``, with hover texts where the history is given."""
    import plotly.graph_objects as go

    texts = hover_texts(history) if history else {}
    data = [
        {**t, "text": [texts.get(i, "") for i in t["customdata"]]} if t.get("customdata") else t for t in spec["data"]
    ]
    return go.Figure(data=data, layout=spec["layout"])
