"""Whether the trainings of a study have a length of their own, whatever length they are given."""

from __future__ import annotations

from itertools import islice

from luthier.core.history import History
from luthier.core.trial import Status
from luthier.core.words import count, epochs

ENOUGH = 3
"""Trainings that must end at one and the same epoch. Early stopping by patience rarely does. A choice of ours."""
FIRST = 60
"""Trainings that are looked at."""
WELL_BEFORE = 0.75
"""The part of the full length after which an end changes little in what a budget means. A choice of ours."""


def own_length(history: History) -> int | None:
    """The epoch after which no training reports anything although it was given more, as a function does that ignores
    ``trial.epochs``; None where they differ, or where a recipe trains, which stops early by a knob.

    Such a training is charged what it reports.
    """
    if history.study.probes:
        return None
    first = list(islice(history.trained(), FIRST))
    ends = [t.epoch for t in first if t.status is Status.DONE and 0 < t.epoch < t.until]
    if len(ends) < ENOUGH or len(set(ends)) > 1 or ends[0] > WELL_BEFORE * history.study.max_epochs:
        return None
    return None if any(t.epoch > ends[0] for t in first) else ends[0]


def own_length_said(history: History) -> str | None:
    """The same in words, with what the budget means then and how to mend it; None where there is nothing to say."""
    own, study = own_length(history), history.study
    if own is None:
        return None
    paid = study.budget.epochs
    means = f" and the budget of {epochs(paid)} pays for {count(paid // own, 'such training')}" if paid else ""
    return (
        f"Say max_epochs={own} (--max-epochs {own}), unless that is early stopping: no training reports anything after "
        f"epoch {own} of {study.max_epochs}, so it is charged {epochs(own)}{means}."
    )
