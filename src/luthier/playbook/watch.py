"""What the trainings of the search show by themselves: which are not worth going on with, and mistakes that no tuning
mends.

Both look at the log alone. A mistake ends the study only on two independent signs, and one training that learns is
enough against it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from luthier import diagnosis
from luthier.contracts import Stop
from luthier.core.events import StageClosed
from luthier.core.history import History, StageRecord
from luthier.core.params import Choice, Constant
from luthier.core.summary import PROOFS
from luthier.core.trial import Status, TrialRecord
from luthier.diagnosis import Curves, Series, diverged, from_trial
from luthier.knowledge import find, optimizer_in, role_of, setting_of
from luthier.playbook.defaults import strong_default

FIRST = 12
"""Trainings that mistakes are looked for in; one that nobody has named by then is left to the stages."""
NOTHING = 0.005
"""A validation loss that never fell below the trivial one by this part of it has learned nothing. With labels shuffled
on the digits it fell by 0.25 % at most. Our choice."""
BY_HEART = 0.9
"""A training loss below this part of the best validation loss was learned by heart. Our choice."""
FLAT = 0.05
"""A metric in [0, 1] that moved by less has not moved. Our choice."""
LUCKY = 0.1
"""A share above chance that shuffled labels may well leave: on the digits up to 0.1. Our choice."""
FELL = 10.0
"""Times that the training loss fell while the metric stayed: it blew up first and collapsed then. Our choice."""
BLEW_UP, STAYED = 5.0, 0.4
"""Without a metric: times the first validation loss that the training loss of the first epoch was, and the part of it
that validation keeps. Our choice; it counts only against a range that is wholly unusual."""
TRIED = 4
"""Trainings, over a decade of rates at least, none of which learns anything, before that is believed. Our choice."""
FEW = 100
"""Updates of the weights up to which a training that learned nothing shows nothing, where their number is known. Our
choice: a PointNet on a thousand sound clouds is at chance after 31, and at twice that after 93."""
ROUNDING = 1e-6
"""A loss that moves by less than this part of itself is single precision's. Our choice."""
BINARY = 0.4
"""Above this a level of chance read off the curves alone is not told from a weak signal; of two classes that are known
it takes :data:`TRIED` trainings."""


def ending(history: History, trial: TrialRecord) -> Stop | None:
    """Whether to end a running training of the search: its loss exploded, or it has learned nothing and does not begin
    to (:func:`luthier.diagnosis.ending`). The strong default is ended for the first reason only."""
    if trial.stage in PROOFS or "arm" in trial.notes:
        return None
    why = diagnosis.ending(history, trial)
    if why is not None and dict(trial.config) == strong_default(history):
        why = diagnosis.ending(history, trial, spare=True)
    return None if why is None else Stop(why)


@dataclass(frozen=True, slots=True)
class Sign:
    """What one training shows.

    Args:
        learns: it learned something, or nothing can be said.
        failed: its loss became non-finite or exploded.
        collapsed: its loss blew up in the first epoch, came back and learned nothing.
        by_heart: the training loss fell, the validation loss did not.
        said: the end of it, in words.
        rate: its learning rate; None where the space has none.
        brief: it is known to have had no more than :data:`FEW` updates.
        still: nothing that it reported ever changed; ``"loss"`` where a loss is among that, ``"metric"`` where none is.
    """

    learns: bool = False
    failed: bool = False
    collapsed: bool = False
    by_heart: bool = False
    said: str = ""
    rate: float | None = None
    brief: bool = False
    still: Literal["", "loss", "metric"] = ""


def mistake(history: History, stage: StageRecord) -> StageClosed | None:
    """The end of an open stage whose trials show a mistake that no tuning mends; None as long as nothing does."""
    if stage.name in PROOFS:
        return None
    ended = [t for t in history.trained() if t.status is not Status.RUNNING and t.stage not in PROOFS]
    broken = next((t for t in ended if t.failure is not None and t.failure.kind == "pipeline"), None)
    if broken is not None and broken.failure is not None:
        return _end(stage, broken.failure.reason, f"trial {broken.id} saw it")
    signs: list[Sign] = []
    for trial in ended[:FIRST]:
        if trial.failure is not None and trial.failure.kind != "nonfinite":
            continue  # what raised or ran out of memory says nothing of rates or labels
        sign = read(history, trial)
        if sign.learns:
            return None
        signs.append(sign)
    for look in (_too_high, _all_failed, _unmoved, _nothing_learned):
        text = look(history, signs)
        if text is not None:
            return _end(stage, text, "; ".join(dict.fromkeys(s.said for s in signs)))
    return None


def _end(stage: StageRecord, text: str, why: str) -> StageClosed:
    return StageClosed(stage.name, text, why, fatal=True)


def read(history: History, trial: TrialRecord) -> Sign:
    """What a training that ended shows."""
    name = find(history.space, "learning_rate", trial.config)
    given = trial.config.get(name) if name else None
    rate = float(given) if isinstance(given, int | float) else None
    at = f"rate {rate:.2g}: " if rate is not None else ""
    curves = from_trial(history, trial)
    if trial.failure is not None or diverged(curves):
        return Sign(failed=True, rate=rate, said=f"{at}{trial.failure.reason if trial.failure else 'diverged'}")
    if still := _still(curves):
        value = next(s for s in (curves.val_loss, curves.val_metric, curves.train_loss) if s is not None).finite.y[0]
        return Sign(still=still, rate=rate, said=f"{at}{value:.3g} after every epoch")
    val, train = curves.val_loss, curves.train_loss
    if val is None or not len(val.finite):
        return Sign(learns=True)
    share = curves.val_metric if curves.maximize and _is_share(curves.val_metric) else None
    best = float(val.finite.y.min())
    said = f"{at}validation loss {best:.3g}"
    if share is not None:
        said += f", {trial_metric(history, trial)} {float(share.finite.y[-1]):.2g}"
    collapsed = _collapsed(curves, val, share)
    if not (collapsed or _at_chance(curves, best, share)):
        return Sign(learns=True)
    by_heart = train is not None and len(train.finite) > 0 and float(train.finite.y[-1]) < BY_HEART * best
    updates = _updates(history, trial)
    brief = updates is not None and updates <= FEW
    return Sign(collapsed=collapsed, by_heart=by_heart, said=said, rate=rate, brief=brief)


def _still(curves: Curves) -> Literal["", "loss", "metric"]:
    """Whether validation, or training where there is none, says the same after every epoch, but for rounding. A
    training loss may move without an update: by dropout, and by the order of its batches."""
    validation = [s for s in (curves.val_loss, curves.val_metric) if s is not None]
    told = [s.finite.y for s in validation or (curves.train_loss,) if s is not None]
    if not told or any(len(y) < 2 or float(np.ptp(y)) > ROUNDING * float(np.abs(y).max()) for y in told):
        return ""
    return "metric" if curves.val_loss is None and validation else "loss"


def _updates(history: History, trial: TrialRecord) -> float | None:
    """How often its weights were updated, where the sanity check told the number of samples."""
    samples = next((t.answer.get("n_train") for t in history.trials if t.probe == "sanity" and t.answer), None)
    name = find(history.space, "batch_size")
    batch = trial.config.get(name) if name is not None else None
    return trial.epoch * samples / batch if samples and isinstance(batch, int | float) else None


def trial_metric(history: History, trial: TrialRecord) -> str:
    """What the validation metric of a training is called."""
    metric = history.objective.metric
    names = (metric, *trial.metric_names)
    return next((n for n in names if n.startswith("val") and "loss" not in n), metric)


def _is_share(series: Series | None) -> bool:
    """Whether a metric is a share, such as an accuracy."""
    return (
        series is not None and len(series.finite) > 0 and bool(((series.finite.y >= 0) & (series.finite.y <= 1)).all())
    )


def _at_chance(curves: Curves, best: float, share: Series | None) -> bool:
    """Whether validation never left what knowing nothing gives, in loss and metric.

    Where nothing is known of the classes, the two must agree with each other: who guesses evenly among C classes has a
    loss of log C and is right once in C times.
    """
    if curves.trivial_loss is not None:
        if best < (1.0 - NOTHING) * curves.trivial_loss:
            return False
        if share is None or curves.trivial_metric is None:
            return True
        chance = curves.trivial_metric
    else:
        if share is None or best <= 0.0:
            return False
        chance = math.exp(-best)
        if chance > BINARY:
            return False
    now = float(np.median(share.finite.y[len(share.finite) // 2 :]))
    # Shuffled labels give a cluster of samples one label, which may be the right one; and there is counting noise, of
    # 500 samples where their number is not known.
    return now < chance + min(chance, LUCKY) + 3.0 * math.sqrt(chance * (1.0 - chance) / 500.0)


def _collapsed(curves: Curves, val: Series, share: Series | None) -> bool:
    """Whether the loss blew up in the first epoch and nothing was learned after it."""
    train = curves.train_loss
    if train is None or not len(train.finite):
        return False
    first, low = float(train.finite.y[0]), float(train.finite.y.min())
    if share is None:
        begin = float(val.finite.y[0])
        return first > BLEW_UP * begin > 0.0 and float(val.finite.y.min()) > STAYED * begin
    y = share.finite.y
    return first > FELL * max(low, 0.0) and abs(float(y[-1] - y[0])) < FLAT and float(y.max()) < BINARY


# -- mistakes ----------------------------------------------------------------------------------------------------------


def rate_range(history: History) -> tuple[float, float] | None:
    """The ends of the learning rate's range as it was asked for; None where the space does not search one, or where
    each optimizer has its own."""
    space = history.asked_space
    name = find(space, "learning_rate")
    param = space[name] if name is not None else None
    several = find(space, "learning_rate", [n for n in space if n != name]) is not None
    if param is None or (param.when and several) or isinstance(param, Choice | Constant):
        return None
    return float(param.low), float(param.high)


def usual(history: History) -> tuple[float, float] | None:
    """The smallest and largest rates that the knowledge base has for any optimizer of the space."""
    name = find(history.space, "learning_rate")
    known = role_of(name, history.space[name]) if name is not None else None
    if name is None or known is None or not known.counts(history.space[name].role or name):
        return None
    setting = setting_of(history.space)
    chooser = find(history.space, "optimizer")
    param = history.space[chooser] if chooser is not None else None
    default = optimizer_in(history.space, strong_default(history))
    among = list(param.choices) if isinstance(param, Choice) else [default]
    lows = [x for o in among if (x := known.number("low", o, setting)) is not None]
    highs = [x for o in among if (x := known.number("high", o, setting)) is not None]
    return (min(lows), max(highs)) if lows and highs else None


def _lowest_tried(history: History, signs: Sequence[Sign]) -> bool:
    """Whether the trainings came down to the range's lower end."""
    ends, rates = rate_range(history), [s.rate for s in signs if s.rate is not None]
    return ends is not None and bool(rates) and min(rates) <= 1.5 * ends[0]


def _too_high(history: History, signs: Sequence[Sign]) -> str | None:
    """The whole range lies above what is usual, and its lowest rate fails as all others do."""
    ends, known = rate_range(history), usual(history)
    wild = any(s.failed or s.collapsed for s in signs)
    if ends is None or known is None or len(signs) < 2 or not wild or ends[0] < known[1]:
        return None
    if not _lowest_tried(history, signs):
        return None
    return (
        f"The learning-rate range {ends[0]:.3g} to {ends[1]:.3g} is too high: every training failed or collapsed, the "
        f"one at {min(s.rate for s in signs if s.rate is not None):.2g} too. Lower it; usual are {known[0]:.0e} to "
        f"{known[1]:.0e}."
    )


def _all_failed(history: History, signs: Sequence[Sign]) -> str | None:
    """Every training became non-finite or exploded, down to the lowest rate."""
    ends = rate_range(history)
    if ends is None or len(signs) < 3 or not all(s.failed for s in signs) or not _lowest_tried(history, signs):
        return None
    return (
        f"Every training failed, the one with the lowest learning rate of the range, {ends[0]:.2g}, too: lower the "
        f"range; or the inputs are far from a standard deviation of 1."
    )


def _unmoved(history: History, signs: Sequence[Sign]) -> str | None:
    """Nothing ever changes; a metric alone may stay by rounding, so that takes more trainings. Where the whole range
    lies below what is usual, up to its highest rate, it is the range that is to blame."""
    told = {s.still for s in signs}
    if "" in told or len(signs) < (3 if told == {"loss"} else TRIED):
        return None
    ends, known = rate_range(history), usual(history)
    if ends is not None and known is not None and ends[1] <= known[0]:
        highest = max((s.rate for s in signs if s.rate is not None), default=0.0)
        if highest * 1.5 < ends[1]:
            return None
        return (
            f"The learning-rate range {ends[0]:.3g} to {ends[1]:.3g} is too low: nothing changes from epoch to epoch "
            f"in any of {len(signs)} trainings, at {highest:.2g} neither. Raise it; usual are {known[0]:.0e} to "
            f"{known[1]:.0e}. If it stays so with those, the weights are not updated."
        )
    what, why = f"{history.objective.metric} does not change", "nothing is learned, or the weights are not updated"
    if told == {"loss"}:
        what, why = "The loss does not change", "the weights are not updated"
    return (
        f"{what} from epoch to epoch in any of {len(signs)} trainings ({signs[0].said}): {why}. Is optimizer.step() "
        "called, on the parameters of the model that is validated, and are they neither frozen nor detached?"
    )


def _nothing_learned(history: History, signs: Sequence[Sign]) -> str | None:
    """Validation stays at chance at every rate: what is learned, if anything, is learned by heart."""
    if len(signs) < 2 or any(s.failed or s.collapsed for s in signs):
        return None
    rates = [s.rate for s in signs if s.rate is not None]
    enough = len(signs) >= TRIED and bool(rates) and max(rates) > 8.0 * min(rates)
    cause = "the training labels do not belong to their inputs (shuffled?)"
    end = f"({signs[0].said})"
    if _unlearnable(history) and (enough or not _binary(history)):
        return (
            f"{_sentence(cause)}, or validation is prepared in another way: in the sanity check and in "
            f"{len(signs)} trainings validation stays at chance {end}."
        )
    ends, known = rate_range(history), usual(history)
    if any(s.by_heart for s in signs) and (enough or not _binary(history)):
        return (
            f"{_sentence(cause)}, or validation is prepared in another way: the training loss falls while validation "
            f"stays at chance in all {len(signs)} trainings {end}."
        )
    if not enough or ends is None or all(s.brief for s in signs) or (known is not None and ends[1] <= known[0]):
        return None
    return (
        f"{_sentence(cause)}, or the inputs say nothing: nothing is learned at any of {len(signs)} learning rates from "
        f"{min(rates):.2g} to {max(rates):.2g} {end}."
    )


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _unlearnable(history: History) -> bool:
    """Whether the sanity check learned training labels by heart and nothing of validation."""
    record = history.stage("sanity")
    checks = record.numbers.get("checks", ()) if record is not None else ()
    return any(check[0] == "learnability" and check[1] == "warn" for check in checks)


def _binary(history: History) -> bool:
    """Whether the sanity check found two classes: a weak signal looks much like none then."""
    return any(t.answer is not None and t.probe == "sanity" and t.answer.get("classes") == 2 for t in history.trials)


def with_hint(history: History, closing: StageClosed) -> StageClosed:
    """A stage's verdict on the learning rate, with a word on a range beside all that is usual: wholly below it, or
    wholly above it where its lowest rate is the best."""
    name, ends, known = find(history.space, "learning_rate"), rate_range(history), usual(history)
    said = any(name in stage.settled for stage in history.stages if not stage.open)
    if name is None or name not in closing.settled or said or ends is None or known is None or closing.fatal:
        return closing
    lowest = float(str(closing.settled[name])) <= 1.5 * ends[0]
    word = "low" if ends[1] <= known[0] else "high" if ends[0] >= known[1] and lowest else None
    if word is None:
        return closing
    hint = (
        f"the learning-rate range {ends[0]:.2g} to {ends[1]:.2g} is too {word}, usual are {known[0]:.0e} to "
        f"{known[1]:.0e}: {'raise' if word == 'low' else 'lower'} it"
    )
    return replace(closing, verdict=f"{closing.verdict}; {hint}")
