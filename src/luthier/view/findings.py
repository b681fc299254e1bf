"""What the curves of single trials say, for whoever shows trials: the most important finding of each."""

from __future__ import annotations

from luthier.core.history import History
from luthier.core.trial import Status, TrialRecord
from luthier.diagnosis import Finding, diagnose_curves, from_trial


def finding_of(history: History, trial: TrialRecord) -> Finding | None:
    """A trial's most important finding where it is critical or a warning; None for one that failed or never reported.

    A warning needs a trial that is over: half a curve misses what the other half will show.
    """
    if trial.probe is not None or trial.failure is not None or not trial.reports:
        return None
    curves = from_trial(history, trial)
    if curves.train_loss is None and curves.val_loss is None and curves.val_metric is None:
        return None
    first = diagnose_curves(curves).first
    serious = first is not None and first.severity in ("critical", "warning")
    if not serious or (trial.status is Status.RUNNING and first is not None and first.severity != "critical"):
        return None
    return first
