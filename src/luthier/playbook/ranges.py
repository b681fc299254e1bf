"""Ranges as hints: a best value on the edge widens its range, and what does not work there is taken back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from luthier.core.events import RangeChanged
from luthier.core.history import History
from luthier.core.params import Float, Int
from luthier.core.trial import Status
from luthier.knowledge import find, tier_of
from luthier.knowledge.limits import End, edge_of, widened
from luthier.playbook.plan import Plan
from luthier.playbook.script import settled_config, short, short_length


def taken_back(history: History) -> RangeChanged | None:
    """A range that was widened ends, once the trainings there are over and some failed, at the last value that worked:
    whatever has a score lies in the space."""
    last = history.stages[-1]
    if last.notes.get("again") != "edge" or not last.trials:
        return None
    name, (low, high) = last.notes["name"], last.notes["was"]
    param = history.space[name]
    assert isinstance(param, Float | Int)
    tried = [history.trials[i] for i in last.trials]
    failed = [t for t in tried if t.status is Status.STOPPED or not math.isfinite(history.final_loss(t))]
    for trial in history.trained():
        if name in trial.config and math.isfinite(history.final_loss(trial)):
            value = float(str(history.space.base(name, trial.config)))
            low, high = min(low, value), max(high, value)
    low, high = max(low, param.low), min(high, param.high)
    if not failed or (low == param.low and high == param.high):
        return None
    reason = failed[-1].failure.reason if failed[-1].failure else failed[-1].stop_why or "it was ended early"
    whole = isinstance(param, Int)
    return RangeChanged(
        name,
        round(low) if whole else low,
        round(high) if whole else high,
        f"{name} {short(failed[-1].config[name])} does not work: {reason}",
    )


def wider(history: History, plan: Plan, affords: Callable[[float], bool]) -> RangeChanged | None:
    """A range a step wider where the stage that closed last settled a value on its edge, of an earlier tier first.

    Args:
        affords: whether the stage could pay for so many epochs.
    """
    if history.ranges and history.ranges[-1].after == len(history.stages):
        return None  # one at a time
    config = settled_config(history)
    length = _length(history, config)
    if length is None or not affords(length):
        return None
    for name in sorted(_just_settled(history), key=lambda n: tier_of(n, history.space[n])):
        end = edge_of(history.space, name, config)
        if end is None or not _compared(history, name) or not _pays(history, name, end, plan.widenings):
            continue
        batch = name == find(history.space, "batch_size")
        if batch and end == "lower":
            continue  # more updates flatter a short training, and smaller batches cost time
        param = widened(history.space, name, end, _samples(history) if batch else None)
        if param is not None:
            ends = f"{short(param.low)} to {short(param.high)}"
            why = f"its best value {short(config[name])} lies at the {end} end; {ends} and two trainings there"
            return RangeChanged(name, param.low, param.high, why)
    return None


def _just_settled(history: History) -> list[str]:
    """What the stage that closed last has settled, its trainings beyond other edges included."""
    names: dict[str, None] = {}
    for stage in reversed(history.stages):
        if stage.name != history.stages[-1].name:
            break
        names |= dict.fromkeys(n for n in stage.settled if n in history.space)
        if stage.notes.get("again") != "edge":
            break
    return list(names)


def beyond(history: History) -> Mapping[str, Any] | None:
    """What the script of the two trainings beyond an edge has to know, where a range has just been widened: the
    ``name``, the ``end`` and the range as it ``was``, and how many ``epochs`` to train."""
    if not history.ranges or history.ranges[-1].after != len(history.stages) or not history.ranges[-1].wider:
        return None
    change = history.ranges[-1]
    return {
        "name": change.name,
        "end": "upper" if change.now[1] > change.was[1] else "lower",
        "was": list(change.was),
        "epochs": _length(history, settled_config(history)) or short_length(history),
    }


def _length(history: History, config: Mapping[str, Any]) -> int | None:
    """The shortest training of a configuration, to compare others with; None where it was never trained."""
    return min((t.horizon for t in history.trained() if t.full and dict(t.config) == config), default=None)


def _compared(history: History, name: str) -> bool:
    """Whether a hyperparameter was tried at several values at all."""
    return len({repr(t.config[name]) for t in history.trained() if name in t.config}) > 1


def _pays(history: History, name: str, end: End, most: int) -> bool:
    """Whether an end may be widened once more: not too often, the last time something was gained, nothing failed."""
    tries = [s for s in history.stages if s.notes.get("name") == name and s.notes.get("end") == end]
    if not tries:
        return True
    failed = any(r.name == name and not r.wider for r in history.ranges)
    return len(tries) < most and name in tries[-1].settled and not failed


def _samples(history: History) -> int | None:
    """The number of training samples, where the sanity check told it: no batch is larger."""
    told = next((t.answer.get("n_train") for t in history.trials if t.probe and t.answer), None)
    return int(told) if told else None
