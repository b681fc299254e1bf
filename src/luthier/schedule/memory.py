"""Learning from trials that ran out of memory, around any scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from luthier.contracts import Action, Done, Scheduler, Start, Stop
from luthier.core.history import History
from luthier.core.index import Changes
from luthier.core.params import Choice, Config, Constant, Int, Value
from luthier.core.space import Space
from luthier.core.trial import ASKED, TrialRecord
from luthier.knowledge.roles import role_of

LARGE = ("batch_size", "context", "width", "depth")
"""Roles that memory grows with, in the order in which they are made smaller: what changes the model least is first."""

OUT_OF_MEMORY = ("oom", "oom-killed")
"""The kinds of failures that say so."""


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The trials that ran out of memory, oldest first: an index (:mod:`luthier.core.index`)."""

    def empty(self) -> tuple[TrialRecord, ...]:
        """None."""
        return ()

    def change(self, value: tuple[TrialRecord, ...], changes: Changes) -> tuple[TrialRecord, ...]:
        """With those that have, without those that have not."""
        for _, new in changes:
            failed = new.failure is not None and new.failure.kind in OUT_OF_MEMORY
            if failed or any(t.id == new.id for t in value):
                rest = [t for t in value if t.id != new.id]
                value = tuple(sorted([*rest, *([new] if failed else [])], key=lambda t: t.id))
        return value


@dataclass(frozen=True, slots=True)
class Fitting:
    """What ``inner`` proposes, made smaller where it is at least as large as one that ran out of memory.

    A configuration is at least as large if it is so in every hyperparameter that memory grows with: batch size,
    context, width, depth, by their roles. A choice among them that is no number must be the same one. A trial that was
    made smaller keeps what was asked for in its notes.

    Args:
        inner: the scheduler that starts and resumes.
    """

    inner: Scheduler

    def propose(self, history: History, rng: np.random.Generator) -> Action:
        """The inner proposal, small enough; Done where the smallest configuration is too large."""
        action = self.inner.propose(history, rng)
        failed = history.index(TooLarge())
        if not failed or not isinstance(action, Start) or action.probe is not None:
            return action
        config, why = action.config, ""
        while (known := next((t for t in failed if as_large(history.space, config, t.config)), None)) is not None:
            smaller = _smaller(history.space, config, known.config, ("batch_size",) if action.clone else LARGE)
            if smaller is None and action.clone:
                break  # a clone's size is its parent's, which was trained
            seen = f"trial {known.id}, which ran out of memory ({_sizes(history, known)})"
            if smaller is None:
                return Done(f"nothing is smaller than {seen}")
            config, why = smaller, f"made smaller than {seen}"
        if not why:
            return action
        notes = {**action.notes, ASKED: dict(action.config)}
        return replace(action, config=config, notes=notes, why=f"{action.why}; {why}")

    def judge(self, history: History, trial: int) -> Stop | None:
        """The inner verdict."""
        return self.inner.judge(history, trial)


def as_large(space: Space, config: Config, failed: Config) -> bool:
    """Whether ``config`` needs at least the memory of ``failed``, as far as their sizes tell.

    Where nothing in the space has a size, only the same configuration does.
    """
    names = [n for n, _ in _large(space) if n in failed]
    if not names:
        return dict(config) == dict(failed)
    return all(n in config and _at_least(config[n], failed[n]) for n in names)


def _at_least(value: Value, other: Value) -> bool:
    if _number(value) and _number(other):
        return float(str(value)) >= float(str(other))
    return value == other


def _number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _large(space: Space) -> Iterator[tuple[str, str]]:
    """The hyperparameters that memory grows with, and their roles."""
    for name, param in space.items():
        known = role_of(name, param)
        if known is not None and known.name in LARGE:
            yield name, known.name


def _smaller(space: Space, config: Config, failed: Config, roles: tuple[str, ...]) -> dict[str, Value] | None:
    """``config`` with one size below that of ``failed``; None where each is at its smallest."""
    for wanted in roles:
        for name, known in _large(space):
            if known != wanted or name not in failed or name not in config or not _number(failed[name]):
                continue
            value = _below(space, name, float(str(failed[name])))
            if value is not None:
                return _with(space, config, name, value)
    return None


def _below(space: Space, name: str, limit: float) -> Value:
    """Half of ``limit``, as far as the range goes, or the next smaller choice; None where nothing is below."""
    param = space[name]
    if isinstance(param, Choice):
        smaller = [c for c in param.choices if _number(c) and float(str(c)) < limit]
        return max(smaller, key=lambda c: float(str(c)), default=None)
    if isinstance(param, Constant) or param.low >= limit:
        return None
    return max(param.low, int(limit / 2)) if isinstance(param, Int) else max(param.low, limit / 2)


def _with(space: Space, config: Config, name: str, value: Value) -> dict[str, Value]:
    """``config`` with another value, and what follows it in its place."""
    changed: dict[str, Value] = {**config, name: value}
    for other in config:
        if name in space.follows(other):
            changed[other] = space.coupled(other, space.base(other, config), changed)
    active = [n for n in space if space.is_active(n, changed)]
    return changed if set(active) == set(config) else space.complete({n: changed[n] for n in active if n in changed})


def _sizes(history: History, trial: TrialRecord) -> str:
    told = (f"{n} {trial.config[n]}" for n, _ in _large(history.space) if n in trial.config)
    return ", ".join(told) or "the same configuration"
