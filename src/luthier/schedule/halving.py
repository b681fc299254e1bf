"""Successive halving: many trials a little, the better ones longer. ASHA, synchronous halving and Hyperband.

ASHA: Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020 (arXiv 1810.05934), Algorithm 2:
the promotion type, in which a trial that reached a rung is paused there and resumed when it ranks in the rung's top
1/eta.
Synchronous: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", AISTATS
2016 (arXiv 1502.07943), in the form of Hyperband's inner loop: a rung is judged when it is complete.
Hyperband: Li et al., JMLR 18 (2018, arXiv 1603.06560), Algorithm 1: brackets of synchronous successive halving that
hedge over how early one dares to judge.

All are functions of the history: a rung's members are the trials that were trained that far. A trial that failed or was
stopped counts as the worst of the rung it was heading for. With several objectives a rung is ranked by non-dominated
sorting (MO-ASHA, see ``core/pareto.py``). Left out: the infinite-horizon variants.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from luthier.contracts import Action, Done, Resume, Searcher, Start, Stop, Wait
from luthier.core.errors import whole
from luthier.core.goals import ranked_at, result_at
from luthier.core.history import History
from luthier.core.index import Changes, grew
from luthier.core.ordered import Ordered
from luthier.core.rows import Rows
from luthier.core.study import Goals
from luthier.core.trial import ENDED, Status, TrialRecord


def rungs(max_epochs: int, min_epochs: int | None = None, eta: int = 3) -> tuple[int, ...]:
    """The epochs at which trials are compared: ``max_epochs / eta^k``, lowest first, down to ``min_epochs``.

    The first look comes at no less than a tenth of the length by default: earlier ranks mislead.
    """
    lowest = max(1, math.ceil(max_epochs / 10)) if min_epochs is None else min(max(1, min_epochs), max_epochs)
    ladder = [max_epochs]
    while (below := round(max_epochs / eta ** len(ladder))) >= lowest and below < ladder[-1]:
        ladder.append(below)
    return tuple(reversed(ladder))


def _check(eta: int, min_epochs: int | None) -> None:
    """Refuse rungs that there cannot be."""
    whole("eta", eta, 2)
    if min_epochs is not None:
        whole("min_epochs", min_epochs, 1)


@dataclass(frozen=True, slots=True)
class ASHA:
    """Asynchronous successive halving with promotion.

    Args:
        searcher: where new trials come from.
        eta: one in ``eta`` is promoted.
        min_epochs: the first rung; a tenth of the length where None.
    """

    searcher: Searcher
    eta: int = 3
    min_epochs: int | None = None

    def __post_init__(self) -> None:
        _check(self.eta, self.min_epochs)

    def propose(self, history: History, rng: np.random.Generator) -> Action:
        """The highest promotion there is, else a new trial for the lowest rung."""
        ladder = rungs(history.study.max_epochs, self.min_epochs, self.eta)
        for here, above in reversed(list(pairwise(ladder))):
            first = history.foremost(here)
            if first is not None and first.rank <= first.among // self.eta:
                why = f"rank {first.rank} of {first.among} at epoch {here}: the top 1/{self.eta} goes on to {above}"
                return Resume(first.trial, above, why)
        config = self.searcher.suggest(history, rng)
        if config is None:
            return _drained(history)
        lowest = ladder[0]
        return Start(
            config, until=lowest, why=f"{self.searcher.name}: a new trial for the first rung, to epoch {lowest}"
        )

    def judge(self, history: History, trial: int) -> Stop | None:
        """Never: a trial is paused at its rung instead."""
        return None


@dataclass(frozen=True, slots=True)
class Bracket:
    """One bracket of Hyperband: ``sizes[i]`` trials are trained to ``epochs[i]``."""

    sizes: tuple[int, ...]
    epochs: tuple[int, ...]


def brackets(max_epochs: int, min_epochs: int = 1, eta: int = 3) -> tuple[Bracket, ...]:
    """Hyperband's brackets, the most aggressive first (Algorithm 1; Table 1 of the paper for R = 81, eta = 3)."""
    s_max = 0
    while min_epochs * eta ** (s_max + 1) <= max_epochs:
        s_max += 1
    table = []
    for s in range(s_max, -1, -1):
        n = math.ceil((s_max + 1) / (s + 1) * eta**s)
        table.append(
            Bracket(
                sizes=tuple(max(1, n // eta**i) for i in range(s + 1)),
                epochs=tuple(max(1, round(max_epochs / eta ** (s - i))) for i in range(s + 1)),
            )
        )
    return tuple(table)


@dataclass(frozen=True, slots=True)
class SuccessiveHalving:
    """Round after round of synchronous successive halving, each Hyperband's most aggressive bracket.

    A free worker that finds a round waiting for its rung starts on the next round.

    Args:
        searcher: where new trials come from.
        eta: one in ``eta`` survives each rung.
        min_epochs: the first rung; a tenth of the length where None.
    """

    searcher: Searcher
    eta: int = 3
    min_epochs: int | None = None

    def __post_init__(self) -> None:
        _check(self.eta, self.min_epochs)

    def propose(self, history: History, rng: np.random.Generator) -> Action:
        """The next step of the earliest round that has one."""
        return _next(_table(history, self.min_epochs, self.eta)[:1], "round", self.searcher, history, rng)

    def judge(self, history: History, trial: int) -> Stop | None:
        """Never: a trial is paused at its rung instead."""
        return None


@dataclass(frozen=True, slots=True)
class Hyperband:
    """Bracket after bracket, over and over while the budget lasts.

    A free worker that finds a bracket waiting for its rung starts on the next bracket; with one worker the order is the
    paper's.

    Args:
        searcher: where new trials come from.
        eta: one in ``eta`` survives each rung.
        min_epochs: the shortest training of the most aggressive bracket; a tenth of the length where None.
    """

    searcher: Searcher
    eta: int = 3
    min_epochs: int | None = None

    def __post_init__(self) -> None:
        _check(self.eta, self.min_epochs)

    def propose(self, history: History, rng: np.random.Generator) -> Action:
        """The next step of the earliest bracket that has one."""
        return _next(_table(history, self.min_epochs, self.eta), "bracket", self.searcher, history, rng)

    def judge(self, history: History, trial: int) -> Stop | None:
        """Never: a trial is paused at its rung instead."""
        return None


def _drained(history: History) -> Action:
    if history.running:
        return Wait("no configuration is left and no promotion is due")
    return Done("every configuration was tried and no promotion is due")


def _table(history: History, min_epochs: int | None, eta: int) -> tuple[Bracket, ...]:
    longest = history.study.max_epochs
    return brackets(longest, max(1, math.ceil(longest / 10)) if min_epochs is None else min_epochs, eta)


def _next(
    table: tuple[Bracket, ...], word: str, searcher: Searcher, history: History, rng: np.random.Generator
) -> Action:
    """The next step of the earliest bracket that has one, those of ``table`` in turn without end."""
    board = history.index(Brackets(table, history.study.goals))
    if board.ready and board.ready[0] < board.filling:
        step = board.groups[board.ready[0]].step
        assert step is not None
        return step
    config = searcher.suggest(history, rng)
    if config is None:
        return _drained(history)
    bracket = table[board.filling % len(table)]
    many = len(board.groups[board.filling].trials) if board.filling < len(board.groups) else 0
    why = (
        f"{searcher.name}: trial {many + 1} of {bracket.sizes[0]} of {word} {board.filling}, "
        f"to epoch {bracket.epochs[0]} first"
    )
    return Start(config, until=bracket.epochs[0], why=why, notes={"bracket": board.filling})


@dataclass(frozen=True, slots=True)
class Group:
    """A bracket as far as it has come: its trials by id, and the promotion that is due in it, if any."""

    trials: Mapping[int, TrialRecord] = field(default_factory=dict)
    step: Resume | None = None


@dataclass(frozen=True, slots=True)
class Board:
    """All brackets begun, the numbers of those with a promotion due, and the first that still takes trials."""

    groups: Rows[Group] = field(default_factory=Rows)
    ready: Ordered[int] = field(default_factory=Ordered)
    filling: int = 0


@dataclass(frozen=True, slots=True)
class Brackets:
    """The index from which brackets are decided: only a bracket in which something changed is judged again."""

    table: tuple[Bracket, ...]
    goals: Goals

    def empty(self) -> Board:
        """No bracket was begun."""
        return Board()

    def change(self, value: Board, changes: Changes) -> Board:
        """With the brackets of the trials that changed judged again."""
        groups, ready, filling = value.groups, value.ready, value.filling
        touched: dict[int, dict[int, TrialRecord]] = {}
        for old, new in changes:
            number = int(new.notes.get("bracket", -1))  # a configuration that was added by hand is in none
            # Bracket n begins after n trials at least: a larger number is no bracket of ours.
            if new.probe is not None or not 0 <= number <= new.id:
                continue
            if old is None or not self._as_before(old, new):
                known = groups[number].trials if number < len(groups) else {}
                touched.setdefault(number, dict(known))[new.id] = new
        for number, trials in sorted(touched.items()):
            while number > len(groups):
                groups = groups.with_item(len(groups), Group())
            step = self._promotion(self.table[number % len(self.table)], list(trials.values()))
            groups = groups.with_item(number, Group(trials, step))
            ready = ready.without(number) if step is None else ready.with_item(number)
        while filling < len(groups) and len(groups[filling].trials) >= self.table[filling % len(self.table)].sizes[0]:
            filling += 1
        return Board(groups, ready, filling)

    def _as_before(self, old: TrialRecord, new: TrialRecord) -> bool:
        """Whether nothing changed on which a promotion depends: where the trial stands, its results at the rungs."""
        if (old.status, old.until) != (new.status, new.until) or not grew(old, new):
            return False
        if old.status not in (Status.RUNNING, Status.PAUSED):
            return len(old.reports) == len(new.reports)
        return all((old.epoch >= epoch) == (new.epoch >= epoch) for epoch in self.table[0].epochs)

    def _promotion(self, bracket: Bracket, mine: Sequence[TrialRecord]) -> Resume | None:
        rung = mine
        for here, above, keep in zip(bracket.epochs, bracket.epochs[1:], bracket.sizes[1:]):
            if not all(t.status in ENDED or t.reached(here) for t in rung):
                return None  # synchronous: the rung is judged when it is complete
            ranked = ranked_at(self.goals, rung, here)
            rung = [t for t in ranked[:keep] if math.isfinite(result_at(self.goals, t, here))]
            for rank, trial in enumerate(rung, start=1):
                if trial.status is Status.PAUSED and trial.until <= here:
                    why = f"rank {rank} of {len(ranked)} at epoch {here}: the best {keep} go on to {above}"
                    return Resume(trial.id, above, why)
        return None
