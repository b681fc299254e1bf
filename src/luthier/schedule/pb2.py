"""Population-based bandits: PBT whose new hyperparameters are chosen by a model of what they gain.

Parker-Holder et al., "Provably Efficient Online Hyperparameter Optimization with Population-Based Bandits" (NeurIPS
2020, arXiv 2002.02518). Who copies whom is PBT's affair; what the copy goes on with is the maximum of an upper
confidence bound, under a Gaussian process that forgets with time, on the gain in an interval. Picks that still train
count as seen, which lowers the deviation around them and leaves the mean alone (its section 4, batches).

From the authors' implementation (Ray Tune, pb2.py and pb2_utils.py) are: the score before the interval as a further
input; ``kappa = sqrt(0.2 log(0.4 n))``; a drift of at most 0.5. Ours: the optimizer of the bound; 300 points at most,
where theirs has 1000; PBT's own perturbation until there are four points.

Left out: choices are drawn anew with PBT's probability, not by the model (PB2-Mix, Parker-Holder et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from luthier.contracts import Action, Searcher, Stop
from luthier.core.history import History
from luthier.core.params import Choice, Config
from luthier.core.study import Study
from luthier.core.trial import TrialRecord
from luthier.numerics.varying import Array, Varying, fitted
from luthier.schedule.explore import Perturb, changed, mutable_of
from luthier.schedule.pbt import FRACTION, PBT, loss_at

FEWEST = 4
"""Points without which there is no model."""
NEWEST = 300
"""Points of the model: a fit takes time with their third power."""
DRAWS = 500
"""Points at which the bound is looked up before the best of them are improved."""
CLIP = 2.0
"""Standardized gains beyond it are cut off, as in the authors' implementation: one that diverged must not hide the
rest."""


@dataclass(frozen=True, slots=True)
class Interval:
    """What a trial did between two comparisons.

    Args:
        number: which interval of the training, from 0.
        before: its loss at the beginning.
        gain: how much the loss fell, per epoch; None while it is not over.
        config: the hyperparameters that held.
    """

    number: int
    before: float
    gain: float | None
    config: Config


def intervals(history: History, marks: Sequence[int]) -> list[Interval]:
    """The intervals whose beginning was judged, of each training all but the first: those of the newest trials that
    have :data:`NEWEST` of them, oldest trial first."""
    found: list[Interval] = []
    for trial in reversed(history.trials):
        if trial.probe is not None:
            continue
        if len(found) >= NEWEST:
            break
        for number in range(len(marks) - 1, 0, -1):
            start, end = marks[number - 1], marks[number]
            if not trial.begin <= start < trial.until:
                continue
            judged = history.trials[trial.parent] if start == trial.begin and trial.parent is not None else trial
            before = loss_at(history, judged, start)
            if not math.isfinite(before):
                continue
            after = loss_at(history, trial, end)
            over = math.isfinite(after)
            if over or (trial.id in history.running and end >= trial.until):
                found.append(Interval(number, before, (before - after) / (end - start) if over else None, trial.config))
    return found[::-1]


@final
@dataclass(frozen=True, slots=True)
class Bandit:
    """The upper confidence bound on the gain, maximized over what may change."""

    @property
    def name(self) -> str:
        """``chosen by the bandit``."""
        return "chosen by the bandit"

    def explore(
        self, history: History, donor: TrialRecord, names: Sequence[str], marks: Sequence[int], rng: np.random.Generator
    ) -> Config:
        """The donor's configuration with ``names`` where the next interval promises most."""
        space = history.space
        perturbed = Perturb().explore(history, donor, names, marks, rng)
        numbers = [n for n in names if n in donor.config and not isinstance(space[n], Choice)]
        known = intervals(history, marks)
        seen = [i for i in known if i.gain is not None][-NEWEST:]
        if len(seen) < FEWEST or not numbers:
            return perturbed
        assert donor.checkpoint is not None
        start = donor.checkpoint.epoch
        number = next(i for i, mark in enumerate(marks) if mark >= start) + 1
        low, wide = _span([i.before for i in seen])

        def inputs(these: Sequence[Interval]) -> tuple[Array, Array]:
            rows = [[(i.before - low) / wide, *_point(history, i.config, numbers)] for i in these]
            times = [float(i.number) for i in these]
            return np.array(rows).reshape(len(these), len(numbers) + 1), np.array(times)

        gains = np.array([i.gain for i in seen], dtype=float)
        y = np.clip((gains - gains.mean()) / (gains.std() or 1.0), -CLIP, CLIP)
        model = fitted(*inputs(seen), y)
        pending = [i for i in known if i.gain is None]
        before = (loss_at(history, donor, start) - low) / wide
        here = _point(history, donor.config, numbers)
        best = maximum(model, model.with_points(*inputs(pending)), before, float(number), np.array(here), rng)
        # To a thousandth of the range: below that the last digits of a sum, which hang on the machine, would decide.
        values = {n: space[n].from_unit(round(float(u), 3)) for n, u in zip(numbers, best)}
        rest = {n: space.base(n, perturbed) for n in names if n in perturbed and n not in values}
        return changed(space, donor.config, {**rest, **values}, rng)


def kappa(points: int) -> float:
    """How many deviations are added to the mean: ``sqrt(0.2 log(0.4 n))``, and 0 for so few points that it is not
    real.
    """
    return math.sqrt(max(0.0, 0.2 * math.log(0.4 * points)))


def maximum(
    model: Varying, crowded: Varying, before: float, time: float, here: Array, rng: np.random.Generator
) -> Array:
    """The point of the unit cube with the largest bound.

    Args:
        model: gives the mean.
        crowded: the same with the points that are still trained; gives the deviation.
        before: the score at the beginning, as the model's first input has it.
        here: (d,) where the donor is: the search looks around it as well as everywhere.
    """
    from scipy.optimize import minimize

    many, mean_of, deviation_of = kappa(len(model.y)), model.predictor(), crowded.predictor()

    def bound(points: Array) -> Array:
        x = np.column_stack([np.full(len(points), before), points])
        t = np.full(len(points), time)
        out: Array = mean_of(x, t)[0] + many * deviation_of(x, t)[1]
        return out

    near = np.clip(here + 0.1 * rng.standard_normal((DRAWS // 5, len(here))), 0.0, 1.0)
    drawn = np.concatenate([rng.random((DRAWS, len(here))), near])
    ranked = drawn[np.argsort(-bound(drawn), kind="stable")]
    box = [(0.0, 1.0)] * len(here)
    tops = [ranked[0]]

    def down(point: Array) -> float:
        return -float(bound(point[None, :])[0])

    for begin in ranked[:3]:
        found = minimize(down, begin, method="L-BFGS-B", bounds=box)
        tops.append(np.clip(np.asarray(found.x, dtype=float), 0.0, 1.0))
    best: Array = tops[int(np.argmax(bound(np.array(tops))))]
    return best


def _point(history: History, config: Config, names: Sequence[str]) -> list[float]:
    space = history.space
    return [space[n].to_unit(space.base(n, config)) if n in config else 0.5 for n in names]


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return low, (high - low) or 1.0


@final
@dataclass(frozen=True, slots=True)
class PB2:
    """Population-based bandits. Arguments as for :class:`luthier.schedule.pbt.PBT`.

    The paper's populations have 4 to 8 members: the model makes more of a few than chance does.
    """

    searcher: Searcher | None = None
    population: int | None = None
    interval: int | None = None
    mutable: Sequence[str] | None = None
    fraction: float = FRACTION

    def __post_init__(self) -> None:
        _ = self._trainer

    @property
    def _trainer(self) -> PBT:
        return PBT(self.searcher, Bandit(), self.population, self.interval, self.mutable, self.fraction)

    def accept(self, study: Study) -> None:
        """As PBT."""
        mutable_of(study.space, self.mutable, "PB2")
        self._trainer.accept(study)

    def propose(self, history: History, rng: np.random.Generator) -> Action:
        """As PBT, with the bandit's choice for a copied configuration."""
        return self._trainer.propose(history, rng)

    def judge(self, history: History, trial: int) -> Stop | None:
        """Never."""
        return None
