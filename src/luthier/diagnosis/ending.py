"""Whether to end a running training early: the one implementation for the playbook and for any scheduler."""

from __future__ import annotations

from dataclasses import replace

from luthier.core.history import History
from luthier.core.trial import TrialRecord
from luthier.diagnosis.early import dead, diverged
from luthier.diagnosis.trial import from_trial

LOOKS = 100
"""Reports of a trial that are judged at most, so that long trainings cost no more than short ones."""


def ending(
    history: History, trial: TrialRecord, *, spare: bool = False, trivial_loss: float | None = None
) -> str | None:
    """Why to end it: its loss exploded (:func:`luthier.diagnosis.diverged`), or nothing was learned and nothing begins
    to be (:func:`luthier.diagnosis.dead`). None where it may go on, and at a report that ends its job anyway.

    Args:
        history: with the trial's latest report.
        trial: one that runs.
        spare: end it for the first reason only.
        trivial_loss: of a model that knows nothing, in the units of the loss; by a sanity probe of the study where
            None. Without either no training counts as dead.
    """
    if trial.probe is not None or len(trial.reports) % max(1, trial.horizon // LOOKS) or trial.epoch >= trial.until:
        return None
    curves = from_trial(history, trial)
    if trivial_loss is not None:
        curves = replace(curves, trivial_loss=trivial_loss)
    losses = curves.val_loss if curves.val_loss is not None else curves.train_loss
    if losses is None or not len(losses):
        return None
    if diverged(curves):
        return f"diverged: the loss is {losses.y[-1]:.3g}, after its first epoch it was {losses.y[0]:.3g}"
    if not spare and dead(curves):
        best = float(losses.finite.y.min())
        return f"dead start: the loss was never below {best:.3g}, knowing nothing gives {curves.trivial_loss:.3g}"
    return None
