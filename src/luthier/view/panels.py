"""The numbers of single trainings, a panel for each quantity: where a finding on it began, and two trials compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from luthier.core.history import History
from luthier.diagnosis.curves import Curves
from luthier.diagnosis.finding import Finding
from luthier.diagnosis.trial import from_trial
from luthier.view.numbers import Role, curve_span
from luthier.view.story import notable

_MOST_DRAWN = 600
_PANELS = (
    ("Loss", ("train_loss", "val_loss")),
    ("Metric", ("train_metric", "val_metric")),
    ("Learning rate", ("learning_rate",)),
    ("Gradient norm", ("grad_norm",)),
    ("Loss scale", ("loss_scale",)),
    ("Clipped updates", ("clipped",)),
    ("Update ratio", ("update_ratio",)),
)


@dataclass(frozen=True, slots=True)
class TrainingPanel:
    """One quantity of one training, and where findings on it began.

    Args:
        lines: name, role (training ``"default"``, validation ``"winner"``), places and values of each curve.
        marks: place, word and severity of each finding.
        first, last: the places that every panel of the training shows.
        labels: what stands at the end of a ``"winner"``'s line, and of any other.
        note: a sentence to stand below.
    """

    title: str
    unit: str
    lines: tuple[tuple[str, Role, tuple[float, ...], tuple[float, ...]], ...]
    marks: tuple[tuple[float, str, str], ...]
    first: float
    last: float
    low: float
    high: float
    log: bool
    labels: tuple[str, str] = ("validation", "training")
    note: str = ""


def compared(history: History, first: int, second: int) -> list[TrainingPanel]:
    """Two trials' curves in one panel a metric; the metrics that either of them reported."""
    trials = [history.trials[i] for i in (first, second)]
    panels = []
    for metric in dict.fromkeys(n for t in trials for n in t.metric_names):
        found = [(t, t.curve(metric)) for t in trials]
        sides: tuple[Role, Role] = ("winner", "default")
        lines = tuple(
            (f"trial {t.id}", side, tuple(float(e) for e, _ in points), tuple(v for _, v in points))
            for side, (t, points) in zip(sides, found)
            if points
        )
        ends = [e for _, _, xs, _ in lines for e in (xs[0], xs[-1])]
        falls = history.objective.minimize if metric == history.objective.metric else "loss" in metric.lower()
        low, high, log = curve_span([v for _, _, _, ys in lines for v in ys], falls)
        names = f"trial {first}", f"trial {second}"
        panels.append(TrainingPanel(metric, "epoch", lines, (), min(ends), max(ends), low, high, log, names))
    return panels


def finding_panels(history: History) -> list[TrainingPanel]:
    """The curve that each of the study's findings worth a line speaks of, with the finding marked where it began."""
    panels = []
    for trial, finding in notable(history):
        curves = from_trial(history, trial)
        title = f"trial {trial.id}: {finding.kind.replace('_', ' ')}"
        panels += [
            replace(p, title=title, note=finding.text)
            for p in training_panels(curves, [finding], {}, only=finding.curve)[:1]
        ]
    return panels


def training_panels(
    curves: Curves, findings: Sequence[Finding], names: Mapping[str, str], only: str | None = None
) -> list[TrainingPanel]:
    """The panels of one training, wherever it was logged.

    Args:
        curves: what is known of it.
        findings: what was found; each is marked on the panel of its curve.
        names: under which name each series was logged.
        only: the panels that show this series alone.
    """
    series, panels = curves.all(), []
    # The log's own epochs on the axis; what lies within them has no name there.
    whole = all(float(x).is_integer() for s in series.values() for x in s.x)
    back = 1.0 if curves.from_zero and whole else 0.0
    unit = "epochs done" if curves.from_zero and not whole else curves.unit
    first = min((float(s.x[0]) for s in series.values() if len(s)), default=0.0)
    for title, roles in _PANELS:
        own = [(r, series[r]) for r in roles if r in series and len(series[r])]
        if not own or (only is not None and only not in roles):
            continue
        lines: list[tuple[str, Role, tuple[float, ...], tuple[float, ...]]] = []
        for role, one in own:
            kept = _thinned(one.y)
            side: Role = "default" if role.startswith("train") else "winner" if role.startswith("val") else "plain"
            lines.append(
                (names.get(role, role), side, tuple((one.x[kept] - back).tolist()), tuple(one.y[kept].tolist()))
            )
        falls = title == "Loss" or (title == "Metric" and not curves.maximize)
        values = [v for _, _, _, ys in lines for v in ys if math.isfinite(v)]
        steep = falls or title == "Gradient norm"
        low, high, log = (
            curve_span(values, True) if steep else (min(values, default=0.0), max(values, default=1.0), False)
        )
        if title == "Metric":
            title = lines[-1][0]
        began = [f for f in findings if f.curve in roles and f.since is not None and f.severity != "good"]
        ahead = float(curves.from_zero) - back
        marks = tuple(((f.since or 0.0) + ahead, f.kind.replace("_", " "), f.severity) for f in began)
        ends = first - back, curves.end - back
        panels.append(TrainingPanel(title, unit, tuple(lines), marks, *ends, low, high, log))
    return panels


def _thinned(y: NDArray[np.float64]) -> NDArray[np.intp]:
    """Which records to draw: all of a short curve, of a long one the lowest and the highest of each stretch."""
    if len(y) <= _MOST_DRAWN:
        return np.arange(len(y))
    kept = {0, len(y) - 1}
    for part in np.array_split(np.arange(len(y)), _MOST_DRAWN // 2):
        filled = np.nan_to_num(y[part], nan=np.inf)
        kept |= {int(part[np.argmin(filled)]), int(part[np.argmax(filled)])}
    return np.array(sorted(kept))
