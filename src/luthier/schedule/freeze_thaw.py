"""Freeze-thaw: a few epochs at a time, to whichever trial, paused or new, is most likely worth them.

Swersky, Snoek and Adams, "Freeze-Thaw Bayesian Optimization" (arXiv 1406.3896): a Gaussian process over configuration
and epoch (``numerics/curve_gp.py``) predicts how every curve goes on. What is worth most is decided as in ifBO,
Rakotoarison et al., "In-Context Freeze-Thaw Bayesian Optimization", ICML 2024 (arXiv 2404.16795), section 4.2,
MFPI-random: draw a horizon ``h`` from 1 to the full length and a target that is better than the best by a part
``10^U(-4, -1)`` of what may still be gained, and take the trial that is most probable to be below the target ``h``
epochs later.

ifBO measures what may be gained from the best to the optimum, which is not known here: three times the mean distance of
all losses from the best stands for it. Left out: ifBO's pretrained transformer; the first paper's entropy search and
its sampling of the process's hyperparameters, which are fitted here; a logarithm of the losses; that an epoch of one
configuration may cost more than one of another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from luthier.contracts import Action, Done, Resume, Searcher, Start, Stop, Wait
from luthier.core.encode import Encoder
from luthier.core.goals import penalized, sized
from luthier.core.history import History
from luthier.core.params import Config
from luthier.core.trial import Status, TrialRecord
from luthier.numerics.acquisition import log_probability_below
from luthier.numerics.curve_gp import CurveGP, Observed, condition, fit
from luthier.numerics.scaling import KNEE, Scale
from luthier.numerics.selection import representative

Array = NDArray[np.float64]

POINTS, CURVES = 480, 240
"""Observations and curves that the process sees at most: its cost grows with the cube of the observations."""
PER_CURVE = 8
"""Observations of a curve at most, at epochs evenly spaced by logarithm, the last one among them."""
UNIFORM, AROUND, WIDTH = 256, 128, 0.1
"""New configurations that compete at each decision: uniform draws, and moves around the best three. Our choice."""
PARTS = (-4.0, -1.0)
"""Decimal logarithms of the least and largest part of the possible gain that a target asks for (ifBO, section 4.2)."""


@dataclass(frozen=True, slots=True)
class FreezeThaw:
    """Resume the paused trial, or start the new one, that is most likely to beat a random target.

    Args:
        searcher: where the first trials come from, and one candidate of each decision.
        step: epochs that a trial is trained for at a time; a tenth of the length, at least 2, where None.
        initial: trials before the model is asked; one more than there are dimensions, at most 10, where None.
    """

    searcher: Searcher
    step: int | None = None
    initial: int | None = None

    def propose(self, history: History, rng: np.random.Generator) -> Action:
        """The next step of the most promising trial."""
        trials = list(history.trained())
        initial = min(10, len(history.space.dims) + 1) if self.initial is None else self.initial
        config = self.searcher.suggest(history, rng)
        if len(trials) < initial and config is not None:
            return self._start(history, config, f"{self.searcher.name}: one of the first {initial} trials")
        curves = observed(history) if any(t.reports for t in trials) else []
        if not curves:  # the first reports may be of other metrics than the objective
            if config is None:
                return _drained(history)
            return self._start(history, config, f"{self.searcher.name}: nothing was reported yet")
        return self._most_promising(history, curves, config, rng)

    def judge(self, history: History, trial: int) -> Stop | None:
        """Never: a trial is paused after a few epochs instead."""
        return None

    def _most_promising(
        self, history: History, curves: list[Curve], config: Config | None, rng: np.random.Generator
    ) -> Action:
        space, length = history.space, history.study.max_epochs
        encoder = Encoder(space)
        scale = Scale.of([y for c in curves for _, y in c.points])
        model = believed(history, encoder, curves, scale)
        paused = [c.trial for c in curves if c.trial.status is Status.PAUSED and c.trial.epoch < length]
        ranked = sorted(curves, key=lambda c: (c.best, c.trial.id))
        horizon = int(rng.integers(1, length + 1))
        aim = scale.best - 10.0 ** rng.uniform(*PARTS) * KNEE * scale.unit
        target = float(scale([aim])[0])

        old = encoder.units(t.config for t in paused)
        new = np.zeros((0, len(space.dims)))
        if config is not None:
            leaders = encoder.units(c.trial.config for c in ranked[:3])
            new = np.concatenate(
                [
                    encoder.units([config]),
                    rng.random((UNIFORM, len(space.dims))),
                    encoder.moved(leaders, AROUND, WIDTH, rng),
                ]
            )
        if not len(old) + len(new):
            return _drained(history)
        until = np.array([min(t.epoch + horizon, length) for t in paused] + [min(horizon, length)] * len(new))
        # A curve of its own for each new one: numbers that no trial has.
        which = np.array([t.id for t in paused] + [-1 - i for i in range(len(new))], dtype=np.int64)
        at = Observed(encoder.features(np.concatenate([old, new])), until / length, which)
        chance = log_probability_below(*model.predict(at), target)
        first = int(np.argmax(chance))
        score, odds = history.objective.score(aim), math.exp(chance[first])
        reach = "come closer to the constraints" if ranked[0].trial.violation else f"reach {score:.4g}"
        why = f"most likely ({odds:.2g}) to {reach} by epoch {until[first]}, of {len(old)} paused and {len(new)} new"
        if first < len(paused):
            trial = paused[first]
            # Without a checkpoint it starts over: once, then.
            end = length if trial.checkpoint is None else min(trial.epoch + self._step(length), length)
            return Resume(trial.id, end, why)
        point = new[first - len(paused)]
        chosen = config if first == len(paused) and config is not None else space.from_unit(point.tolist())
        return self._start(history, chosen, why)

    def _start(self, history: History, config: Config, why: str) -> Start:
        length = history.study.max_epochs
        return Start(config, until=min(self._step(length), length), why=why)

    def _step(self, length: int) -> int:
        return max(2, round(length / 10)) if self.step is None else self.step


@dataclass(frozen=True, slots=True)
class Curve:
    """What is known of a trial's objective.

    Args:
        trial: the trial.
        points: ``(epoch, loss)``, smaller is better; the best up to each epoch where the best epoch counts. A failure
            is an infinite loss at the epoch that was not reached; one that breaks a constraint has losses beyond those
            of all that break none.
    """

    trial: TrialRecord
    points: tuple[tuple[int, float], ...]

    @property
    def best(self) -> float:
        """Its best loss."""
        return min(y for _, y in self.points)


def observed(history: History) -> list[Curve]:
    """The curves that the model sees, by trial: at most :data:`CURVES` of at most :data:`PER_CURVE` points."""
    objective, holds = history.objective, Encoder(history.space).holds
    curves = []
    for trial in history.trained():
        if not holds(trial.config):
            continue
        points = [(e, penalized(objective.loss(y), trial.violation)) for e, y in trial.curve(objective.metric)]
        if objective.reduce == "best":
            low = math.inf
            points = [(e, low := min(low, y)) for e, y in points]
        if trial.failure is not None:
            points = [*_thinned(points, PER_CURVE - 1), (max(trial.epoch + 1, 1), math.inf)]
        if points:
            curves.append(Curve(trial, tuple(points)))
    order = sorted(curves, key=lambda c: (history.final_loss(c.trial), c.trial.id))
    half = CURVES // 2
    kept = representative([c.trial.id for c in order], half, half // 2, half // 2)
    few = max(2, min(PER_CURVE, POINTS // max(len(kept), 1)))
    chosen = sorted((order[i] for i in kept), key=lambda c: c.trial.id)
    thinned = [(c.trial, _thinned(list(c.points), few)) for c in chosen]
    losses = iter(sized([y for _, points in thinned for _, y in points]))
    return [Curve(trial, tuple((e, next(losses)) for e, _ in points)) for trial, points in thinned]


def _thinned(points: list[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """At most ``most`` of the points, evenly spaced by the logarithm of their number, first and last among them."""
    if len(points) <= most:
        return points
    places = np.unique(np.geomspace(1, len(points), most).round().astype(int)) - 1
    return [points[i] for i in places]


def believed(history: History, encoder: Encoder, curves: list[Curve], scale: Scale) -> CurveGP:
    """The process given all curves; running trials are taken to reach what is predicted of them."""
    length = history.study.max_epochs
    seen = _rows(encoder, [(c.trial, e) for c in curves for e, _ in c.points], length)
    y = scale([loss for c in curves for _, loss in c.points])
    model = fit(seen, y, encoder.groups)
    going = [history.trials[i] for i in history.running]
    running = [t for t in going if t.probe is None and encoder.holds(t.config)]
    if running:
        there = _rows(encoder, [(t, t.until) for t in running], length)
        hoped = np.concatenate([y, model.predict(there)[0]])
        model = condition(seen.and_also(there), hoped, model.scales, model.theta)
    return model


def _rows(encoder: Encoder, wanted: list[tuple[TrialRecord, int]], length: int) -> Observed:
    trials = {t.id: t for t, _ in wanted}
    place = {i: k for k, i in enumerate(trials)}
    features = encoder.features(encoder.units(t.config for t in trials.values()))
    return Observed(
        features[[place[t.id] for t, _ in wanted]],
        np.array([min(e, length) / length for _, e in wanted]),
        np.array([t.id for t, _ in wanted], dtype=np.int64),
    )


def _drained(history: History) -> Action:
    if history.running:
        return Wait("no configuration is left and no trial is paused")
    return Done("every configuration was tried to the end")
