"""What the trials at the rungs let expect of full trainings, for the model that chooses among draws."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from luthier.core.goals import INFEASIBLE
from luthier.core.history import History
from luthier.core.trial import Status, TrialRecord
from luthier.search.surrogate import Line, Observations

POINTS = 240
"""Trials that the model sees: the best two thirds of them, the rest the latest."""


def evidence(history: History, ladder: Sequence[int]) -> Observations:
    """All trials that reached the first rung, at most :data:`POINTS`."""
    trials = _seen(history, ladder)
    through = lines(history, ladder)
    expected = [_expected(history, t, ladder, through) for t in trials]
    losses, doubts = np.array([e[0] for e in expected]), np.array([e[1] for e in expected])
    return Observations([t.config for t in trials], losses, doubts)


def _seen(history: History, ladder: Sequence[int]) -> list[TrialRecord]:
    """The trials that the model sees, at most :data:`POINTS`, by rank."""
    ranked = [i for _, i in history.ranked(ladder[0])]
    if len(ranked) > POINTS:
        best = ranked[: POINTS * 2 // 3]
        late = sorted(set(ranked) - set(best), reverse=True)[: POINTS - len(best)]
        ranked = best + late
    return [history.trials[i] for i in ranked]


def lines(history: History, ladder: Sequence[int]) -> list[Line]:
    """The line of each rung below the last, by the trials that were trained to the end."""
    finished = [history.trials[i] for loss, i in history.ranked(ladder[-1]) if math.isfinite(loss)]
    ended = np.array([_loss(history, t, ladder[-1]) for t in finished])
    out = []
    for epoch in ladder[:-1]:
        every = np.array([_loss(history, history.trials[i], epoch) for x, i in history.ranked(epoch) if x < math.inf])
        out.append(Line.through(every, np.array([_loss(history, t, epoch) for t in finished]), ended))
    return out


def _loss(history: History, trial: TrialRecord, epoch: int) -> float:
    """A trial's loss at a rung in the size of the others: where it breaks a constraint, the worst that breaks none and
    ``v / (1 + v)`` of their span for a violation ``v``."""
    loss = history.loss_at(trial, epoch)
    if not INFEASIBLE <= loss < math.inf:
        return loss
    ranked = history.ranked(epoch)
    kept = ranked.rank((INFEASIBLE, -1))
    best, edge = (ranked[0][0], ranked[kept - 1][0]) if kept else (0.0, 0.0)
    return edge + (edge - best or 1.0) * (1.0 - INFEASIBLE / loss)


def _expected(history: History, trial: TrialRecord, ladder: Sequence[int], rung: Sequence[Line]) -> tuple[float, float]:
    """What is to be expected of a trial at full length, and the variance of that."""
    if trial.status not in (Status.FAILED, Status.STOPPED):
        for k in range(len(ladder) - 1, -1, -1):
            loss = _loss(history, trial, ladder[k])
            if trial.epoch >= ladder[k] and math.isfinite(loss):
                return (loss, 0.0) if k == len(ladder) - 1 else (rung[k](loss), rung[k].variance)
    return (rung[0](math.inf), rung[0].variance) if rung else (math.inf, 0.0)
