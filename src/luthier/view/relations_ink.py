"""The ink of the pictures that set hyperparameters beside each other."""

from __future__ import annotations

import math

from luthier.view import ink
from luthier.view.ink import safe
from luthier.view.relations import OFF, Family, Parallel, Together
from luthier.view.story import clean, number

# From grey, which steps back on white and on black, to the blue of what is best.
_SHADES = ("#a9afb8", "#94a5b8", "#7a9bbc", "#5c8fc0", "#3f86c4", "#2b7fc7")
_SCALE = [[0, "#b4a08f"], [0.5, "#9aa6b4"], [1, "#1f77c4"]]


def parallel_figure(data: Parallel) -> ink.Spec:
    """A line a trial over upright axes, the better the bluer; one trace a shade, so that hundreds stay smooth."""
    traces: list[ink.Spec] = []
    top = len(_SHADES) - 1
    for shade, color in enumerate(_SHADES):
        own = [x for x in data.lines if min(int(x.quality * len(_SHADES)), top) == shade]
        if not own:
            continue
        gap = (None, None, None)
        rows = [r for x in own for r in (*((i, p, x.trial) for i, p in enumerate(x.places)), gap)]
        traces.append({
            "type": "scatter", "mode": "lines", "x": [r[0] for r in rows],
            "y": [None if r[1] is None else round(r[1], 3) for r in rows], "customdata": [r[2] for r in rows],
            "line": {"color": color, "width": 1.6 if shade == top else 1}, "opacity": 0.3 + 0.1 * shade,
            "hovertemplate": "%{text}<extra></extra>",
        })  # fmt: skip
    layout = ink.layout("hyperparameters and score of every trial", "", height=330)
    last = len(data.axes) - 1
    layout["xaxis"].update(
        range=[-0.35, last + 0.35], tickvals=list(range(last + 1)), showline=False, side="top",
        ticktext=[f"<b>{safe(clean(a.name, 18))}</b>" if i == last else safe(clean(a.name, 18))
                  for i, a in enumerate(data.axes)],
    )  # fmt: skip
    lowest = OFF - 0.08 if any(a.absent for a in data.axes) else -0.06
    layout["yaxis"].update(range=[lowest, 1.06], showgrid=False, showticklabels=False)
    layout["margin"].update(l=30, r=30, t=64, b=14)
    layout["meta"] = {"width": 84 * len(data.axes)}
    layout["title"]["pad"] = {"b": 34, "l": 2}
    for i, axis in enumerate(data.axes):
        rule = {"type": "line", "x0": i, "x1": i, "y0": 0, "y1": 1, "line": {"color": ink.FAINT, "width": 1}}
        layout["shapes"].append(rule)
        step = max(1, math.ceil(len(axis.ticks) / 8))
        ticks = [*axis.ticks[::step], *([(OFF, "–")] if axis.absent else [])]
        layout["annotations"] += [
            ink.label(i, p, safe(clean(text, 10)), None, 10, xanchor="left", xshift=3, bgcolor="rgba(128,128,128,.12)")
            for p, text in ticks
        ]
    return {"data": traces, "layout": layout}


def together_figure(data: Together) -> ink.Spec:
    """Two hyperparameters against each other; blue is good, the best ringed."""
    layout = ink.layout(f"{clean(data.y, 30)} against {clean(data.x, 30)}", safe(data.x))
    for key, scale, values in (("xaxis", data.x_scale, data.xs), ("yaxis", data.y_scale, data.ys)):
        low, high = min(values), max(values)
        if scale == "log" and low > 0 and high > low:
            pad = 0.06 * math.log10(high / low)
            layout[key].update(ink.log(low, high))
            layout[key]["range"] = [math.log10(low) - pad, math.log10(high) + pad]
        else:
            layout[key]["range"] = ink.padded(low, high)
    layout["margin"]["r"] = 8
    at = data.trials.index(data.best)
    marker = {
        "size": 9, "opacity": 0.85, "color": [ink.digits(min(max(s, data.low), data.high)) for s in data.scores],
        "colorscale": _SCALE, "reversescale": data.minimize, "showscale": True, "cmin": data.low, "cmax": data.high,
        "colorbar": {"thickness": 9, "outlinewidth": 0, "nticks": 5, "len": 0.9, "tickfont": {"size": 10},
                     "title": {"text": safe(clean(data.metric, 20)), "side": "right", "font": {"size": 11}}},
    }  # fmt: skip
    dots = {
        "type": "scatter", "mode": "markers", "x": [ink.digits(v) for v in data.xs],
        "y": [ink.digits(v) for v in data.ys], "customdata": list(data.trials), "marker": marker,
        "hovertext": [number(s) for s in data.scores],
        "hovertemplate": f"{safe(data.metric)} <b>%{{hovertext}}</b><br>%{{text}}<extra></extra>",
    }  # fmt: skip
    ring = {
        "type": "scatter", "mode": "markers", "x": [ink.digits(data.xs[at])], "y": [ink.digits(data.ys[at])],
        "hoverinfo": "skip", "marker": {"size": 17, "symbol": "circle-open", "color": ink.COLORS["winner"],
                                        "line": {"width": 2}},
    }  # fmt: skip
    return {"data": [dots, ring], "layout": layout}


def family_figure(data: Family) -> ink.Spec:
    """A row a member, upright lines where one copied another; what made the best weights in colour."""
    traces: list[ink.Spec] = []
    for kept in (False, True):
        color = ink.COLORS["winner" if kept else "plain"]
        rows: list[tuple[float | None, float | None, int | None]] = []
        for s in data.stretches:
            if s.kept is kept:
                rows += [(s.begin, s.row, s.trial), (s.end, s.row, s.trial), (None, None, None)]
        links: list[tuple[float | None, float | None]] = []
        for epoch, old, new, of_best in data.copies:
            if of_best is kept:
                links += [(epoch, old), (epoch, new), (None, None)]
        if links:
            traces.append({
                "type": "scatter", "mode": "lines", "x": [x for x, _ in links], "y": [y for _, y in links],
                "line": {"color": color, "width": 1.4, "dash": "dot"}, "opacity": 0.9 if kept else 0.5,
                "hoverinfo": "skip",
            })  # fmt: skip
        if rows:
            traces.append({
                "type": "scatter", "mode": "lines+markers", "x": [r[0] for r in rows], "y": [r[1] for r in rows],
                "customdata": [r[2] for r in rows], "line": {"color": color, "width": 2.6 if kept else 1.6},
                "marker": {"size": 5}, "opacity": 1 if kept else 0.6,
                "hovertemplate": "epoch %{x}<br>%{text}<extra></extra>",
            })  # fmt: skip
    many = len(data.rows)
    layout = ink.layout("lineage of the population", "epoch", height=min(620, 96 + 24 * many))
    step = max(1, many // 16)
    layout["yaxis"].update(
        tickvals=list(range(0, many, step)), ticktext=list(data.rows[::step]), range=[many - 0.4, -0.6], showgrid=False,
        title={"text": "member", "font": {"size": 12}}, nticks=many,
    )  # fmt: skip
    return {"data": traces, "layout": layout}
