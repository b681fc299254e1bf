"""What every picture is drawn with: colours that read on white and on black, axes, labels, dots."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from luthier.view.numbers import Role
from luthier.view.story import clean, number

Spec = dict[str, Any]
# Blue and vermilion stay apart for every kind of colour blindness; both, and the greys, read on white and on black.
COLORS: dict[Role, str] = {
    "ended": "#98a0ab", "failed": "#98a0ab", "plain": "#7d8794", "default": "#d9661f", "winner": "#2b7fc7",
}  # fmt: skip
SEVERITY = {"critical": "#c8443b", "warning": "#c98a13", "hint": "#7d8794", "good": "#3d9a5f"}
VEIL = "rgba(43,127,199,.13)"
INK, GRID, FAINT = "#7b838e", "rgba(128,136,148,.22)", "rgba(128,136,148,.5)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def safe(text: object) -> str:
    """User text for plotly, which reads a little HTML in every label."""
    return html.escape(clean(text, 80), quote=False)


def dots(
    xs: Sequence[float], ys: Sequence[float], trials: Sequence[int], kinds: Sequence[Role],
    low: float, high: float, metric: str,
) -> list[Spec]:  # fmt: skip
    """Scores as dots, a trace per role; one beyond the range sits on the edge as a triangle."""
    bottom, top = padded(low, high)
    rim = (top - bottom) * 0.02
    traces: list[Spec] = []
    for role, color in COLORS.items():
        rows = [(x, y, t) for x, y, t, k in zip(xs, ys, trials, kinds) if k == role]
        if not rows:
            continue
        bright = role in ("winner", "default")
        inside = [bottom <= y <= top for _, y, _ in rows]
        symbols = [
            "circle" if i else "triangle-up" if y > top else "triangle-down" for i, (_, y, _) in zip(inside, rows)
        ]
        marker: Spec = {"color": color, "size": 8 if bright else 6, "opacity": 0.95 if bright else 0.5}
        if not all(inside):
            marker |= {"symbol": symbols, "size": [marker["size"] + (0 if i else 4) for i in inside]}
        traces.append({
            "type": "scatter", "mode": "markers", "x": [digits(r[0]) for r in rows],
            "y": [digits(min(max(r[1], bottom + rim), top - rim)) for r in rows], "customdata": [r[2] for r in rows],
            # The true score: a triangle sits on the edge of the scale.
            "hovertext": [number(r[1]) for r in rows], "cliponaxis": False, "marker": marker,
            "hovertemplate": f"{safe(metric)} <b>%{{hovertext}}</b><br>%{{text}}<extra></extra>",
        })  # fmt: skip
    return traces


def digits(value: float | None) -> float | None:
    """Five digits are enough for a picture; JSON has no NaN."""
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None


def padded(low: float, high: float) -> list[float]:
    """A range with a little room at both ends."""
    pad = (high - low) * 0.08 or abs(high) * 0.05 or 0.5
    return [low - pad, high + pad]


def axis(title: str) -> Spec:
    """An axis with few ticks and no line."""
    return {
        "title": {"text": title, "font": {"size": 12}, "standoff": 8}, "gridcolor": GRID, "zeroline": False,
        "ticks": "", "showline": False, "automargin": True, "nticks": 6, "fixedrange": True,
    }  # fmt: skip


def log(low: float, high: float) -> Spec:
    """A log axis with plain numbers at 1, 2, 5 or at decades, about five of them."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    wide = math.log10(high / low)
    steps = (1, 2, 5) if wide < 1.3 else (1, 3) if wide < 2.2 else (1,)
    ticks = [m * 10.0**d for d in decades[:: max(1, len(decades) // 5)] for m in steps]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{t:.4g}" for t in ticks]}


def layout(title: str, x: str, height: int = 300) -> Spec:
    """A panel with its title and the name of its x axis; ``height`` in pixels."""
    return {
        "title": {"text": f"<b>{safe(title)}</b>", "x": 0, "xref": "container", "xanchor": "left", "yref": "paper",
                  "y": 1, "yanchor": "bottom", "pad": {"b": 12, "l": 2}, "font": {"size": 13}},
        "font": {"family": FONT, "size": 11.5, "color": INK}, "height": height, "showlegend": False,
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "hovermode": "closest",
        "margin": {"l": 44, "r": 16, "t": 38, "b": 38}, "xaxis": {**axis(x), "showgrid": False, "showline": True,
        "linecolor": FAINT}, "yaxis": axis(""), "annotations": [], "shapes": [], "dragmode": False,
        "hoverlabel": {"align": "left", "font": {"family": FONT, "size": 12}},
    }  # fmt: skip


def label(x: float, y: float, text: str, color: str | None, size: int = 12, **more: Any) -> Spec:
    """A text in a panel."""
    return {"x": x, "y": y, "text": text, "showarrow": False, "font": {"color": color, "size": size}, **more}


def rule(x: float, color: str = FAINT, dash: str = "dot", width: float = 1) -> Spec:
    """An upright line."""
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "layer": "below",
            "line": {"color": color, "width": width, "dash": dash}}  # fmt: skip
