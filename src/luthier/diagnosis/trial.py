"""From a trial of a study to the curves that a diagnosis reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from luthier.core.history import History
from luthier.core.index import Answered
from luthier.core.lineage import whole
from luthier.core.metrics import guess_direction
from luthier.core.trial import TrialRecord
from luthier.diagnosis.curves import EXTRA, Curves, Series

RECIPE_SCHEDULE, RECIPE_WARMUP = "cosine", 0.05
"""What Luthier's recipe does where a configuration says nothing; ``tests/test_diagnosis.py`` compares."""


def from_trial(history: History, trial: TrialRecord) -> Curves:
    """What ``trial`` reported, by epoch; its length is its horizon, or where it ended if it ended by itself.

    The metric is the study's objective, unless that is a loss to be minimized: then any reported ``val_...`` that
    grows. The trivial loss is what a sanity probe of the study expected at initialization. The schedule is known for
    Luthier's own recipe.
    The curve of a clone begins with that of the trials it descends from.
    """
    trial = whole(history, trial)
    names = trial.metric_names
    objective = history.objective.metric
    loss = objective if "loss" in objective.lower() and history.objective.minimize else None
    metric = (
        objective if loss is None else next((n for n in names if n.startswith(("val", "eval")) and _grows(n)), None)
    )
    # The name of the same metric in training: val_accuracy is to train_accuracy what valid/f1 is to train/f1.
    twins = (
        []
        if metric is None
        else [metric.replace(v, "train", 1) for v in ("validation", "valid", "eval", "val") if v in metric]
    )
    maximize = True if metric is None else not history.objective.minimize if metric == objective else True

    def series(name: str | None) -> Series | None:
        points = trial.curve(name) if name is not None else ()
        if not points:
            return None
        x, y = [float(e) for e, _ in points], [float(v) for _, v in points]
        if trial.failure is not None and trial.failure.kind == "nonfinite" and math.isfinite(y[-1]):
            x, y = [*x, x[-1] + 1.0], [*y, math.nan]
        return Series.of(y, x)

    asked = history.index(Answered("sanity"))
    sanity = history.trials[asked[-1]].answer if asked else None
    classes = None if sanity is None else sanity.get("classes")
    expected = None if sanity is None else sanity.get("expected_loss")
    return Curves(
        train_loss=series("train_loss"),
        val_loss=series(
            loss
            if loss is not None and loss != "train_loss"
            else next((n for n in ("val_loss", "eval_loss", "valid_loss") if n in names), None)
        ),
        train_metric=series(next((n for n in twins if n in names and n != metric), None)),
        val_metric=series(metric),
        maximize=maximize,
        learning_rate=_rates(history, trial),
        extra={name: s for name in EXTRA if (s := series(name)) is not None},
        length=float(trial.epoch if trial.full else trial.horizon) or None,
        trivial_loss=float(expected) if isinstance(expected, int | float) else None,
        trivial_metric=1.0 / classes if classes and maximize else None,
        config={"seed": trial.seed, **trial.config},
        name=f"trial {trial.id}",
    )


def _grows(name: str) -> bool:
    return guess_direction(name) == "maximize"


def _rates(history: History, trial: TrialRecord) -> Series | None:
    """The learning rate at the end of each reported epoch, where the schedule is known."""
    config = trial.config
    rate = config.get("learning_rate")
    of_recipe = "recipe" in (history.study.target or {}) or bool(history.study.probes)
    name = config.get("schedule", RECIPE_SCHEDULE if of_recipe else None)
    if not isinstance(rate, int | float) or not isinstance(name, str) or not trial.reports or trial.inherited:
        return None
    warmup = _number(config.get("warmup"), RECIPE_WARMUP if of_recipe else 0.0)
    decay = _number(config.get("decay_fraction"), 0.2)
    epochs = [float(report.epoch) for report in trial.reports]
    factors = [schedule_factor(name, e / trial.horizon, warmup, decay) for e in epochs]
    return None if None in factors else _scaled(epochs, factors, float(rate))


def _number(value: Any, default: float) -> float:
    return float(value) if isinstance(value, int | float) else default


def _scaled(epochs: Sequence[float], factors: Sequence[float | None], rate: float) -> Series:
    return Series.of([rate * (f or 0.0) for f in factors], epochs)


def schedule_factor(name: str, done: float, warmup: float = 0.0, decay_fraction: float = 0.2) -> float | None:
    """The factor on the peak rate after the part ``done`` of the training, of the schedules that the recipe has (the
    formulas and their sources: :func:`luthier.recipe.schedules.lr_factor`); None for one that is not known beforehand.
    """
    if name == "onecycle":
        if done < 0.25:
            return 1.0 / 25.0 + (1.0 - 1.0 / 25.0) * 0.5 * (1.0 - math.cos(math.pi * done / 0.25))
        return 0.5 * (1.0 + math.cos(math.pi * min((done - 0.25) / 0.75, 1.0)))
    if done < warmup:
        return done / warmup
    part = min((done - warmup) / max(1.0 - warmup, 1e-12), 1.0)
    shapes: dict[str, Any] = {
        "constant": lambda: 1.0,
        "cosine": lambda: 0.5 * (1.0 + math.cos(math.pi * part)),
        "linear": lambda: 1.0 - part,
        "step": lambda: 0.1 ** ((part >= 0.5) + (part >= 0.75)),
        "wsd": lambda: 1.0 - math.sqrt(min(max((done - (1.0 - decay_fraction)) / decay_fraction, 0.0), 1.0)),
    }
    return float(shapes[name]()) if name in shapes else None
