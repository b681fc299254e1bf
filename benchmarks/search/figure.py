"""Regret and rank as the budget is spent, in one figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from search.measure import Regrets
from search.peers import PEERS


def figure(seen: Regrets, methods: Sequence[str]) -> go.Figure:
    """Two panels: mean normalised regret with its 95 % interval (logarithmic), and the mean rank. Peers are dashed."""
    out = make_subplots(1, 2, subplot_titles=("normalised regret", "mean rank"), horizontal_spacing=0.08)
    x = np.arange(1, seen.budget + 1)
    ranks = seen.ranks(methods)
    for i, method in enumerate(methods):
        color = qualitative.Dark24[i % 24]
        line = {"color": color, "dash": "dash" if method in PEERS else "solid"}
        low, high = seen.interval(method)
        band = {"fillcolor": color, "opacity": 0.08, "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
        out.add_scatter(
            x=[*x, *x[::-1]], y=[*high, *np.maximum(low, 1e-4)[::-1]], fill="toself", legendgroup=method,
            row=1, col=1, **band,
        )  # fmt: skip
        out.add_scatter(x=x, y=seen.mean(method), name=method, legendgroup=method, line=line, row=1, col=1)
        out.add_scatter(
            x=x, y=ranks[method], name=method, legendgroup=method, line=line, showlegend=False, row=1, col=2
        )  # fmt: skip
    out.update_yaxes(type="log", row=1, col=1)
    out.update_yaxes(autorange="reversed", row=1, col=2)
    out.update_xaxes(title_text="full trainings")
    out.update_layout(template="plotly_white", width=1200, height=520)
    return out
