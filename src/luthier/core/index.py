"""What a decision would have to walk all trials for, kept at hand: rankings, sums, and whatever a scheduler defines.

An :class:`Index` says how its value changes when a few trials do. :meth:`luthier.core.history.History.index` remembers
the value it gave last and brings it up to date with the trials that changed since, so that a decision costs what
happened, and not what there is. The value is a function of the trials alone: it never depends on when it was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from luthier.core.ordered import Ordered
from luthier.core.study import Objective
from luthier.core.trial import Status, TrialRecord

T = TypeVar("T")

Changes = Iterable[tuple[TrialRecord | None, TrialRecord]]
"""Of each trial that changed what it was and what it is; it was None where it was not known yet.

What it was need not be an earlier state of what it is: two histories may go different ways from a third (see ``grew``).
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


def loss_at(objective: Objective, trial: TrialRecord, epoch: int) -> float:
    """The objective over the reports up to ``epoch``, smaller is better; infinite where there is none."""
    if trial.failure is not None:
        return math.inf
    found: float | None = None
    last = objective.reduce == "last"
    for report in trial.reports:
        if report.epoch > epoch:
            break
        if objective.metric in report.metrics:
            loss = objective.loss(report.metrics[objective.metric])
            found = loss if last or found is None else min(found, loss)
    return math.inf if found is None else found


def result_at(objective: Objective, trial: TrialRecord, epoch: int) -> float:
    """What a trial is ranked by among those that reached ``epoch``: its loss there, infinite where it failed or was
    stopped on the way."""
    if trial.status is Status.STOPPED and trial.epoch < epoch:
        return math.inf
    return loss_at(objective, trial, epoch)


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
        scored = trial.probe is None and trial.failure is None and trial.loss is not None and math.isfinite(trial.loss)
        return trial.loss if scored else None


@dataclass(frozen=True, slots=True)
class Reached:
    """The trials whose result at ``epoch`` is in (:meth:`TrialRecord.reached`), by their loss there; last
    those that failed, or were stopped on the way there.

    Args:
        waiting: only those that are paused there and have a score, so that they can go on.
    """

    objective: Objective
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
        loss = result_at(self.objective, trial, self.epoch)
        return None if self.waiting and not math.isfinite(loss) else loss


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all trials; itself the index that keeps them.

    Args:
        probes: trials that answer a question instead of training.
        owed: epochs that running jobs are still going to take.
        epochs, nanoseconds: what was trained in all, and how long workers took for it by their reports. Whole numbers,
            so that the sums do not depend on their order.
    """

    probes: int = 0
    owed: int = 0
    epochs: int = 0
    nanoseconds: int = 0

    def empty(self) -> Totals:
        """Nothing."""
        return Totals()

    def change(self, value: Totals, changes: Changes) -> Totals:
        """With what the trials add now, and without what they added before."""
        probes, owed, epochs, nanoseconds = value.probes, value.owed, value.epochs, value.nanoseconds
        for sign, trial in ((s, t) for pair in changes for s, t in zip((-1, 1), pair) if t is not None):
            probes += sign * (trial.probe is not None)
            owed += sign * (max(0, trial.until - trial.epoch) if trial.status is Status.RUNNING else 0)
            epochs += sign * trial.epoch
            nanoseconds += sign * sum(round(r.seconds * 1e9) for r in trial.reports)
        return Totals(probes, owed, epochs, nanoseconds)
