"""The state of a study: an immutable fold over its events, and the only thing that a decision sees."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, TypeVar

from luthier.core import events as ev
from luthier.core import goals
from luthier.core.errors import StorageError
from luthier.core.evolve import evolve
from luthier.core.fold import FOLD, Folding
from luthier.core.index import Best, Index, Pace, Ranking, Reached, Sorted, Totals
from luthier.core.params import Config
from luthier.core.records import Entry, Place, RangeRecord, StageRecord
from luthier.core.rows import Rows
from luthier.core.space import Space
from luthier.core.study import Objective, Study
from luthier.core.trial import Status, TrialRecord

__all__ = ["Entry", "History", "Place", "RangeRecord", "StageRecord", "fold", "start"]

T = TypeVar("T")

NO_BEGINNING = "The log does not begin with the creation of a study."


@dataclass(frozen=True, slots=True)
class History:
    """Everything known about a study after some number of events.

    Args:
        study: what was asked, with later changes of space and budget applied.
        trials: every trial ever started, by id.
        stages: the playbook's stages in the order they were opened.
        decisions: how many decisions were taken; with the seed it fixes the next one's generator.
        length: how many events were folded.
        running: ids of the trials that workers hold.
        spent: epochs trained over all trials, probes included.
        finished: why the study ended, or None.
        elapsed: seconds of wall-clock time while a driver had the study open.
        last_at: when the last event was appended.
        asked: the space as the user asked for it last; None as long as no stage has changed a range of it.
        ranges: the changes of ranges, oldest first.
        renewed: how many stages had been opened when the budget was changed last.
        widened: how many trials there were when the user changed the space last.
        paused: somebody asked that nothing new is handed out.
        to_stop: the trials that somebody asked to end; :attr:`stops` are those of them that can be.
        drivers: how many drivers have opened the study so far.
        to_start: the configurations that somebody asked for and that were not started yet, oldest first.
    """

    study: Study
    trials: Rows[TrialRecord] = field(default_factory=Rows)
    stages: tuple[StageRecord, ...] = ()
    decisions: int = 0
    length: int = 0
    running: tuple[int, ...] = ()
    spent: float = 0.0
    finished: str | None = None
    elapsed: float = 0.0
    last_at: float = 0.0
    asked: Space | None = None
    ranges: tuple[RangeRecord, ...] = ()
    renewed: int = 0
    widened: int = 0
    paused: bool = False
    to_stop: tuple[int, ...] = ()
    to_start: tuple[Config, ...] = ()
    drivers: int = 0
    # The answers that ``index`` gave last, handed on from each history to the next. No part of the value.
    _answers: dict[Any, tuple[Rows[TrialRecord], Any]] = field(default_factory=dict, repr=False, compare=False)

    # -- reading ---------------------------------------------------------------------------------------------------
    @property
    def space(self) -> Space:
        """The space as it is now."""
        return self.study.space

    @property
    def asked_space(self) -> Space:
        """The space as the user asked for it, without the ranges that stages have changed since."""
        return self.study.space if self.asked is None else self.asked

    @property
    def objective(self) -> Objective:
        """The metric and its direction; of several objectives the first."""
        return self.study.objective

    def trained(self) -> Iterator[TrialRecord]:
        """The trials that train, oldest first; probes left out."""
        return (t for t in self.trials if t.probe is None)

    def in_stage(self, name: str) -> tuple[TrialRecord, ...]:
        """The trials of the stage ``name``, oldest first; of every time that it was open."""
        return tuple(self.trials[i] for stage in self.stages if stage.name == name for i in stage.trials)

    def stage(self, name: str) -> StageRecord | None:
        """The latest stage called ``name``."""
        return next((s for s in reversed(self.stages) if s.name == name), None)

    @property
    def open_stage(self) -> StageRecord | None:
        """The stage that has no verdict yet."""
        return self.stages[-1] if self.stages and self.stages[-1].open else None

    @property
    def settled(self) -> dict[str, Any]:
        """What the closed stages hold fixed, later ones over earlier."""
        return {k: v for stage in self.stages for k, v in stage.settled.items()}

    @property
    def stops(self) -> tuple[int, ...]:
        """The trials that are to be ended because somebody asked for it."""
        able = (Status.RUNNING, Status.PAUSED)
        return tuple(i for i in self.to_stop if i < len(self.trials) and self.trials[i].status in able)

    def index(self, by: Index[T]) -> T:
        """The answer to a question about all trials, at the price of those that changed since it was asked last.

        A decision that would otherwise sort or sum over every trial asks this way; see :mod:`luthier.core.index`.
        """
        trials, value = self._answers.get(by, (None, None))
        if trials is self.trials:
            return value  # type: ignore[return-value]
        if trials is None or len(trials) > len(self.trials):  # asked for the first time, or of an older history
            trials, value = Rows(), by.empty()
        pairs = tuple(self.trials.changes(trials))
        if any(old is not None and old.config is not new.config for old, new in pairs):
            # Other trials under the same numbers: a history that went another way.
            value, pairs = by.empty(), tuple(self.trials.changes(Rows()))
        value = by.change(value, pairs)  # type: ignore[arg-type]
        self._answers[by] = (self.trials, value)
        return value

    @property
    def n_trained(self) -> int:
        """How many trials :meth:`trained` yields."""
        return len(self.trials) - self.index(Totals()).probes

    @property
    def n_drawn(self) -> int:
        """How many of them the strategy started: those added by hand left out."""
        return self.n_trained - self.index(Totals()).by_hand

    def ranked(self, epoch: int | None = None) -> Ranking:
        """``(loss, id)`` of the trials that train, best first; of a tie the older one.

        Args:
            epoch: only the trials whose result at this epoch is in (:meth:`TrialRecord.reached`), by their loss there,
                infinite where it failed or was stopped on the way; all that have a score, at whatever length, where
                None.
        """
        return self.index(Best() if epoch is None else Reached(self.study.goals, epoch))

    def waiting(self, epoch: int) -> Ranking:
        """Those of ``ranked(epoch)`` that are paused at ``epoch`` and have a finite loss: they could go on."""
        return self.index(Reached(self.study.goals, epoch, waiting=True))

    def foremost(self, epoch: int) -> Place | None:
        """The best of those that could go on from ``epoch``, with its rank among all whose result there is in; None
        where nobody waits. With several objectives they are ranked by non-dominated sorting
        (:func:`luthier.core.goals.ordered`)."""
        waiting = self.waiting(epoch)
        if not waiting:
            return None
        if not self.study.also:
            ranked = self.ranked(epoch)
            return Place(waiting[0][1], ranked.rank(waiting[0]) + 1, len(ranked))
        order, able = self.index(Sorted(self.study.goals, epoch)).order, {i for _, i in waiting}
        rank, trial = next((rank, i) for rank, i in enumerate(order, start=1) if i in able)
        return Place(trial, rank, len(order))

    def loss_at(self, trial: TrialRecord, epoch: int) -> float:
        """The first objective over the reports up to ``epoch``, smaller is better; infinite where there is none, beyond
        every other loss where a constraint is broken."""
        return goals.loss_at(self.study.goals, trial, epoch)

    def final_loss(self, trial: TrialRecord) -> float:
        """The first objective of a trial, smaller is better; infinite for one that failed or never reported, beyond
        every other loss for one that breaks a constraint."""
        return goals.final_loss(trial)

    def score(self, trial: TrialRecord) -> float | None:
        """The objective of a trial in the metric's own units; None for one that failed or never reported."""
        if trial.loss is None or trial.failure is not None or not math.isfinite(trial.loss):
            return None
        return self.objective.score(trial.loss)

    def unreported(self, trial: TrialRecord) -> tuple[str, ...]:
        """The metrics of the study's goals that ``trial`` has not reported; of a clone but the first objective those it
        descends from may have done so."""
        if not self.study.also and not self.study.constraints:
            return (self.objective.metric,) if trial.loss is None else ()
        told = {m for r in trial.reports for m in r.metrics} | (set(trial.before) - {self.objective.metric})
        return tuple(m for m in self.study.goals.metrics if m not in told)

    @property
    def incumbent(self) -> TrialRecord | None:
        """The best trial so far at any length, of several objectives in the first; the older one of a tie."""
        best = self.ranked()
        if not best or not self.study.also:
            return self.trials[best[0][1]] if best else None
        tied = [self.trials[i] for _, i in takewhile(lambda item: item[0] == best[0][0], best)]
        return min(tied, key=lambda t: goals.losses(self.study.goals, t))  # one that nothing dominates

    @property
    def committed(self) -> float:
        """Epochs spent plus those that the running jobs are still going to take."""
        return self.spent + self.index(Totals()).owed

    @property
    def epochs_left(self) -> float:
        """Epochs that may still be handed out; infinite without a bound."""
        return math.inf if self.study.budget.epochs is None else self.study.budget.epochs - self.committed

    @property
    def seconds_left(self) -> float:
        """Wall-clock time that is left; infinite without a bound."""
        return math.inf if self.study.budget.seconds is None else self.study.budget.seconds - self.elapsed

    def pace(self, without: tuple[int, ...] = ()) -> Pace:
        """How long trainings take, by the reports of all trials but ``without``."""
        if not without:
            return self.index(Totals()).pace
        return Totals().change(Totals(), [(None, t) for t in self.trials if t.id not in without]).pace

    # -- folding ---------------------------------------------------------------------------------------------------
    def then(self, entry: Entry) -> History:
        """The history after one more event."""
        fold = FOLD[type(entry.event)]
        changes = fold(self, entry.event)
        if isinstance(entry.event, ev.Asked):
            # Somebody may ask while no driver is there. A pause in which nothing ran is no time spent either.
            rested = self.paused and not self.running and isinstance(entry.event, ev.ResumeAsked)
            changes.update(length=self.length + 1, last_at=max(entry.at, self.last_at) if rested else self.last_at)
            return replace(self, **changes)
        # A driver that was away spent no time; a clock that was set back takes none away.
        away = isinstance(entry.event, ev.Created | ev.Opened | ev.BudgetChanged | ev.SpaceChanged | ev.TargetChanged)
        away = away and not (isinstance(entry.event, ev.Opened) and entry.event.beside)
        passed = 0.0 if away else max(0.0, entry.at - self.last_at)
        changes.update(length=self.length + 1, elapsed=self.elapsed + passed, last_at=entry.at)
        if isinstance(entry.event, ev.Decision):
            changes["decisions"] = self.decisions + 1
        return evolve(self, changes)

    def with_space(self, space: Space) -> History:
        """The same history seen through another space: how a stage shows its searcher only what it may vary."""
        return replace(self, study=replace(self.study, space=space))


def fold(entries: Iterable[Entry]) -> History:
    """The history of a log.

    Raises:
        StorageError: when the log does not begin with the study's creation.
    """
    lines = iter(entries)
    first = next(lines, None)
    if first is None:
        raise StorageError(NO_BEGINNING, "Name a Luthier study.")
    folding = Folding(start(first))
    for entry in lines:
        folding.add(entry)
    return folding.history()


def start(entry: Entry) -> History:
    """The history of a log of one event, the study's creation.

    Raises:
        StorageError: it is another event.
    """
    if not isinstance(entry.event, ev.Created):
        raise StorageError(NO_BEGINNING, "Name a Luthier study.")
    return History(study=entry.event.study, length=1, last_at=entry.at)
