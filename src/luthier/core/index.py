"""What a decision would have to walk all trials for, kept at hand: rankings, sums, and whatever a scheduler defines.

An :class:`Index` says how its value changes when a few trials do. :meth:`luthier.core.history.History.index` remembers
the value it gave last and brings it up to date with the trials that changed since, so that a decision costs what
happened, and not what there is. The value is a function of the trials alone: it never depends on when it was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from luthier.core.goals import Standing, final_loss, ordered, result_at, standing
from luthier.core.ordered import Ordered
from luthier.core.study import Goals
from luthier.core.trial import Status, TrialRecord

T = TypeVar("T")

Changes = Iterable[tuple[TrialRecord | None, TrialRecord]]
"""Of each trial that changed what it was and what it is; it was None where it was not known yet.

What it was is the same trial, with the same configuration, but need not be an earlier state of what it is: two
histories may go different ways from a third (see ``grew``).
"""

Ranking = Ordered[tuple[float, int]]
"""``(loss, trial)``, the best first; of a tie the older one."""


class Index(Protocol[T]):
    """A question about all trials: frozen and hashable (equal indices share an answer), its answer immutable.

    The answer must be the same whatever the order of the changes that led to it: so sums are of whole numbers.
    """

    def empty(self) -> T:
        """The answer where there are no trials."""
        ...

    def change(self, value: T, changes: Changes) -> T:
        """The answer after ``changes``, given that it was ``value`` before."""
        ...


def mend(ranking: Ranking, changes: Changes, loss: Callable[[TrialRecord], float | None]) -> Ranking:
    """A ranking after ``changes``: ``loss`` is what a trial is ranked by, None where it does not take part."""
    for old, new in changes:
        before = None if old is None else loss(old)
        after = loss(new)
        if before == after:
            continue
        if before is not None and old is not None:
            ranking = ranking.without((before, old.id))
        if after is not None:
            ranking = ranking.with_item((after, new.id))
    return ranking


def grew(old: TrialRecord, new: TrialRecord) -> bool:
    """Whether ``new`` has all the reports of ``old``, and perhaps more."""
    many = len(old.reports)
    return not many or (len(new.reports) >= many and new.reports[many - 1] is old.reports[many - 1])


def same_until(epoch: int, old: TrialRecord, new: TrialRecord) -> bool:
    """Whether both are known to have the same reports up to ``epoch``, and to have failed both or neither."""
    return old.epoch >= epoch and grew(old, new) and (old.failure is None) == (new.failure is None)


@dataclass(frozen=True, slots=True)
class Best:
    """The trials that have a score, by their loss at whatever length."""

    def empty(self) -> Ranking:
        """Nobody."""
        return Ordered()

    def change(self, value: Ranking, changes: Changes) -> Ranking:
        """With the trials where they belong now."""
        return mend(value, changes, self._loss)

    @staticmethod
    def _loss(trial: TrialRecord) -> float | None:
        loss = final_loss(trial) if trial.probe is None else math.inf
        return loss if math.isfinite(loss) else None


@dataclass(frozen=True, slots=True)
class Reached:
    """The trials whose result at ``epoch`` is in (:meth:`TrialRecord.reached`), by their loss there; last
    those that failed, or were stopped on the way there.

    Args:
        waiting: only those that are paused there and have a score, so that they can go on.
    """

    goals: Goals
    epoch: int
    waiting: bool = False

    def empty(self) -> Ranking:
        """Nobody."""
        return Ordered()

    def change(self, value: Ranking, changes: Changes) -> Ranking:
        """With the trials where they belong now."""
        return mend(value, (pair for pair in changes if self._matters(*pair)), self._loss)

    def _matters(self, old: TrialRecord | None, new: TrialRecord) -> bool:
        if old is None or not self._takes(old):
            return self._takes(new)
        # A result that is in stays as it is, unless the trial fails; no need to look at all reports again.
        return not (same_until(self.epoch, old, new) and self._takes(new))

    def _takes(self, trial: TrialRecord) -> bool:
        if trial.probe is not None or not trial.reached(self.epoch):
            return False
        return not self.waiting or (trial.status is Status.PAUSED and trial.until <= self.epoch)

    def _loss(self, trial: TrialRecord) -> float | None:
        if not self._takes(trial):
            return None
        loss = result_at(self.goals, trial, self.epoch)
        return None if self.waiting and not math.isfinite(loss) else loss


@dataclass(frozen=True, slots=True)
class Rung:
    """The trials of a rung by what they are ranked by, and their order, best first."""

    standings: Mapping[int, Standing] = field(default_factory=dict)
    order: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Sorted:
    """What :class:`Reached` is with several objectives, where a trial's place depends on all others: sorted anew when
    one of them changes."""

    goals: Goals
    epoch: int

    def empty(self) -> Rung:
        """Nobody."""
        return Rung()

    def change(self, value: Rung, changes: Changes) -> Rung:
        """With the trials where they belong now."""
        new = {
            trial.id: standing(self.goals, trial, self.epoch)
            if trial.probe is None and trial.reached(self.epoch)
            else None
            for _, trial in changes
        }
        if all(value.standings.get(i) == it for i, it in new.items()):
            return value
        standings = {i: it for i, it in {**value.standings, **new}.items() if it is not None}
        return Rung(standings, tuple(ordered(standings)))


@dataclass(frozen=True, slots=True)
class Borrowed:
    """The clones that have no checkpoint of their own yet, and the path of the one that they would begin from."""

    def empty(self) -> Mapping[int, str]:
        """Nobody."""
        return {}

    def change(self, value: Mapping[int, str], changes: Changes) -> Mapping[int, str]:
        """With the new clones, without those that have their own by now."""
        for old, new in changes:
            path = new.inherited.path if new.inherited is not None and new.checkpoint == new.inherited else None
            if path is not None:
                value = {**value, new.id: path}
            elif old is not None and old.inherited is not None:
                value = {i: p for i, p in value.items() if i != new.id}
        return value


@dataclass(frozen=True, slots=True)
class Answered:
    """The trials that have answered a probe, oldest first.

    Args:
        probe: the name of the question.
    """

    probe: str

    def empty(self) -> Ordered[int]:
        """Nobody."""
        return Ordered()

    def change(self, value: Ordered[int], changes: Changes) -> Ordered[int]:
        """With those that have, without those that have not."""
        for _, new in changes:
            if new.probe == self.probe and new.answer:
                value = value.with_item(new.id)
            elif value:
                value = value.without(new.id)
        return value


@dataclass(frozen=True, slots=True)
class Pace:
    """How long trainings take.

    Args:
        start: seconds until the first epoch begins: a script that imports, data that are read.
        epoch: seconds of each epoch.
    """

    start: float = 0.0
    epoch: float = 0.0

    def takes(self, epochs: float) -> float:
        """Seconds of a training of so many epochs."""
        return self.start + epochs * self.epoch if epochs > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all trials; itself the index that keeps them.

    Args:
        probes: trials that answer a question instead of training.
        owed: epochs that running jobs are still going to take.
        epochs, nanoseconds: what was trained in all, and how long workers took for it by their reports. Whole numbers,
            so that the sums do not depend on their order.
        firsts, first_epochs, first_nanoseconds: how many trials have reported, and the same sums over their first
            reports, in which the start is.
        by_hand: trials whose configuration was added by hand.
    """

    probes: int = 0
    owed: int = 0
    epochs: int = 0
    nanoseconds: int = 0
    firsts: int = 0
    first_epochs: int = 0
    first_nanoseconds: int = 0
    by_hand: int = 0

    @property
    def pace(self) -> Pace:
        """What the reports tell: an epoch takes what it takes after the first report of a trial, and what that took
        beyond an epoch's time was the start. No time at all before the first report."""
        if not self.epochs:
            return Pace()
        later = self.epochs - self.first_epochs
        if not later:
            return Pace(0.0, self.nanoseconds / 1e9 / self.epochs)
        epoch = (self.nanoseconds - self.first_nanoseconds) / 1e9 / later
        return Pace(max(0.0, (self.first_nanoseconds / 1e9 - self.first_epochs * epoch) / self.firsts), epoch)

    def empty(self) -> Totals:
        """Nothing."""
        return Totals()

    def change(self, value: Totals, changes: Changes) -> Totals:
        """With what the trials add now, and without what they added before."""
        probes, owed, epochs, nanoseconds = value.probes, value.owed, value.epochs, value.nanoseconds
        firsts, first_epochs, first_nanoseconds = value.firsts, value.first_epochs, value.first_nanoseconds
        by_hand = value.by_hand
        for sign, trial in ((s, t) for pair in changes for s, t in zip((-1, 1), pair) if t is not None):
            probes += sign * (trial.probe is not None)
            by_hand += sign * trial.by_hand
            owed += sign * (max(0, trial.until - trial.epoch) if trial.status is Status.RUNNING else 0)
            epochs += sign * (trial.epoch - trial.begin)
            nanoseconds += sign * sum(round(r.seconds * 1e9) for r in trial.reports)
            if trial.reports:
                first = trial.reports[0]
                firsts += sign
                first_epochs += sign * (first.epoch - trial.begin)
                first_nanoseconds += sign * round(first.seconds * 1e9)
        return Totals(probes, owed, epochs, nanoseconds, firsts, first_epochs, first_nanoseconds, by_hand)
