"""What stopping costs: now and then a trial that was left at the first look is trained to the end all the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from luthier.contracts import Resume
from luthier.core.goals import INFEASIBLE
from luthier.core.history import History
from luthier.core.trial import TrialRecord
from luthier.expert.evidence import ETA
from luthier.schedule.halving import rungs

AUDIT = 8
"""Trials trained to the end for each stopped one that is trained to the end, too, to see what stopping costs."""


def audit(history: History, ladder: Sequence[int], rng: np.random.Generator) -> Resume | None:
    """One of the stopped trials, to the end: now and then, to see what stopping costs."""
    full = history.study.max_epochs
    finished = len(history.ranked(full))
    if len(ladder) < 2 or finished < AUDIT or full > history.epochs_left:
        return None
    if len(audited(history)) >= finished // AUDIT or any(history.trials[i].until == full for i in history.running):
        return None
    ranked, waiting = history.ranked(ladder[0]), history.waiting(ladder[0])
    lower = [i for loss, i in waiting if ranked.rank((loss, i)) >= len(ranked) // 2]
    if not lower:
        return None
    return Resume(lower[int(rng.integers(len(lower)))], full, "stopped early; trained to the end to see what that cost")


def audited(history: History) -> list[TrialRecord]:
    """The trials that were trained to the end although they rank in the worse half of the first rung."""
    ladder = rungs(history.study.max_epochs, eta=ETA)
    ranked = history.ranked(ladder[0])
    out = []
    for _, i in history.ranked(history.study.max_epochs):
        trial = history.trials[i]
        at = history.loss_at(trial, ladder[0]), i
        if len(ladder) > 1 and at in ranked and ranked.rank(at) >= len(ranked) // 2:
            out.append(trial)
    return out


def stopping_regret(history: History) -> tuple[int, float] | None:
    """How many audited trials there are, and by how much the best of them beats the best of the others, 0 where it does
    not; None where there is none, or nothing to compare with. Only trials that meet the constraints are compared."""
    sample = audited(history)
    chosen = {t.id for t in sample}
    met = [(loss, i) for loss, i in history.ranked() if loss < INFEASIBLE]
    others, own = [x for x, i in met if i not in chosen], [x for x, i in met if i in chosen]
    if not sample or not others:
        return None
    return len(sample), max(0.0, min(others) - min(own)) if own else 0.0
