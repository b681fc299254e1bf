"""What it means that a job ended without a metric of the study: a mistake in all trainings, or the failure of one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from luthier.core import events as ev
from luthier.core.errors import UserError
from luthier.core.history import History
from luthier.core.metrics import split_of
from luthier.core.trial import TrialRecord

MISTYPED = 0.87
"""From this likeness on (difflib's ratio) a name that is reported is taken for the one asked for although that may
still come: ``val_acuracy`` is, ``val_auc`` is not taken for ``val_acc``. A judgement of ours."""


def silence(trial: TrialRecord, missing: tuple[str, ...]) -> ev.Failed:
    """What to record of a trial whose job ended without the metrics ``missing``."""
    return ev.Failed(trial.id, "silent", f"ended without reporting {', '.join(map(repr, missing))}; {_seen(trial)}")


def mistake(history: History, trial: TrialRecord, ended: ev.Ended, missing: tuple[str, ...]) -> UserError | None:
    """What to tell the user where nobody has reported one of the metrics ``missing`` in as many epochs, so that no
    trial will: it is misspelled, or comes less often than the strategy compares. None where others have."""
    whole = ended.complete or trial.until >= history.study.max_epochs
    metric = next((m for m in missing if not _came(history, m, None if whole else trial.until)), None)
    names, seen = trial.metric_names, _seen(trial)
    if metric is None:
        return None
    if whole:
        return UserError(
            f"The metric {metric!r} was never reported: trial {trial.id} ended and {seen}.",
            meant(metric, names) or f"Call trial.report({metric}=...) after each epoch.",
        )
    guess = meant(metric, names, MISTYPED)
    return UserError(
        f"The metric {metric!r} was never reported within {trial.until} of {history.study.max_epochs} epochs, after "
        f"which the strategy compares trials: trial {trial.id} was trained so far and {seen}.",
        f"{guess}{' ' * bool(guess)}Report it after each epoch, or at least after the last one of a job (trial.until). "
        "Where it comes every 5 epochs, halving, ASHA and Hyperband can wait for it: ASHA(Random(), min_epochs=5).",
    )


def meant(metric: str, names: Iterable[str], likeness: float = 0.6) -> str:
    """``Did you mean 'x'?`` for the closest of the reported ``names``; empty where none is close.

    What is reported beside ``metric`` on purpose is not meant: the same of other data (``train_loss`` for
    ``val_loss``), the same with another number (``top5`` for ``top1``).

    Args:
        likeness: the least one, difflib's ratio.
    """
    able = [n for n in names if _data(n) == (_data(metric) or _data(n)) and _digits(n) == _digits(metric)]
    close = difflib.get_close_matches(metric, able, n=1, cutoff=likeness)
    return f"Did you mean {close[0]!r}?" if close else ""


def _seen(trial: TrialRecord) -> str:
    return f"it reported {', '.join(trial.metric_names)}" if trial.reports else "it reported nothing"


def _came(history: History, metric: str, within: int | None) -> bool:
    """Whether any trial has reported ``metric``, where ``within`` is given in its first so many epochs."""
    reports = (r for t in history.trained() for r in t.reports if within is None or r.epoch <= within)
    return any(metric in r.metrics for r in reports)


def _data(metric: str) -> str:
    """Which data a metric is of, by the words of its name; empty where it does not say."""
    split = split_of(metric)
    return split and ("train" if split == "train" else "held out")


def _digits(metric: str) -> list[str]:
    return re.findall(r"\d+", metric)
