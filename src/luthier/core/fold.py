"""How each event changes the history of a study, one at a time or a whole log at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from luthier.core import events as ev
from luthier.core import goals
from luthier.core.errors import StorageError
from luthier.core.evolve import evolve
from luthier.core.params import Float, Int
from luthier.core.records import Entry, RangeRecord, StageRecord
from luthier.core.trial import Checkpoint, Failure, Report, Status, TrialRecord

if TYPE_CHECKING:
    from luthier.core.history import History

Changes = dict[str, Any]


def _put(history: History, trial: TrialRecord) -> Changes:
    changes: Changes = {"trials": history.trials.with_item(trial.id, trial)}
    known = trial.id < len(history.trials)
    if known and history.trials[trial.id].status is trial.status:
        return changes  # nearly always: a report
    held = history.running
    if (trial.status is Status.RUNNING) != (trial.id in held):
        at = len(held) if trial.status is Status.RUNNING else held.index(trial.id)
        changes["running"] = (*held, trial.id) if at == len(held) else (*held[:at], *held[at + 1 :])
    return changes


def _created(history: History, event: ev.Created) -> Changes:
    raise StorageError("The log creates its study twice.", "The file is damaged; restore a copy.")


def _opened(history: History, event: ev.Opened) -> Changes:
    return {"drivers": history.drivers + 1}


def _space_changed(history: History, event: ev.SpaceChanged) -> Changes:
    changes: Changes = {"finished": None, "widened": len(history.trials)}
    if history.asked is None:
        return {**changes, "study": replace(history.study, space=event.space)}
    # What stages have widened stays: their trials lie there.
    space = event.space
    for name in {r.name for r in history.ranges} & set(space):
        param, now = space[name], history.space.get(name)
        if isinstance(param, Float | Int) and isinstance(now, Float | Int):
            space = space.with_range(name, min(param.low, now.low), max(param.high, now.high))
    return {**changes, "study": replace(history.study, space=space), "asked": event.space}


def _range_changed(history: History, event: ev.RangeChanged) -> Changes:
    param = history.space[event.name]
    assert isinstance(param, Float | Int)
    record = RangeRecord(
        event.name, (param.low, param.high), (event.low, event.high), event.why, after=len(history.stages)
    )
    return {
        "study": replace(history.study, space=history.space.with_range(event.name, event.low, event.high)),
        "asked": history.asked_space,
        "ranges": (*history.ranges, record),
    }


def _target_changed(history: History, event: ev.TargetChanged) -> Changes:
    return {"study": replace(history.study, target=event.target)}


def _budget_changed(history: History, event: ev.BudgetChanged) -> Changes:
    return {
        "study": replace(history.study, budget=event.budget),
        "finished": None,
        "renewed": len(history.stages),
    }


def _told_before(history: History, donor: TrialRecord) -> Mapping[str, float]:
    """What a clone of ``donor`` knows of the study's metrics: the latest values up to the checkpoint."""
    told = dict(donor.before)
    for report in donor.reports:
        if donor.checkpoint is not None and report.epoch <= donor.checkpoint.epoch:
            told.update({m: report.metrics[m] for m in history.study.goals.metrics if m in report.metrics})
    return told


def _started(history: History, event: ev.Started) -> Changes:
    stage = None if event.by_hand else history.open_stage
    donor = history.trials[event.parent] if event.clone and event.parent is not None else None
    inherited = donor.checkpoint if donor is not None else None
    trial = TrialRecord(
        id=event.trial,
        config=event.config,
        seed=event.seed,
        horizon=event.horizon,
        until=event.until,
        why=event.why,
        stage=stage.name if stage else None,
        parent=event.parent,
        inherited=inherited,
        before=_told_before(history, donor) if donor is not None else {},
        checkpoint=inherited,
        instead_of=event.instead_of,
        notes=event.notes,
        probe=event.probe,
        by_hand=event.by_hand,
        jobs=((inherited.epoch if inherited else 0, history.elapsed),),
        driver=event.driver,
    )
    changes = _put(history, trial)
    if event.by_hand:
        changes["to_start"] = history.to_start[1:]
    if event.instead_of is not None:
        left = history.trials[event.instead_of]
        if left.status is Status.PAUSED:
            left = replace(left, status=Status.STOPPED, stop_why=f"trial {trial.id} takes its place: {event.why}")
            changes["trials"] = changes["trials"].with_item(left.id, left)
    if stage:
        changes["stages"] = (*history.stages[:-1], replace(stage, trials=(*stage.trials, trial.id)))
    return changes


def _resumed(history: History, event: ev.Resumed) -> Changes:
    trial = history.trials[event.trial]
    begin = trial.checkpoint.epoch if trial.checkpoint else 0
    again = trial.epoch - begin
    changes = _put(
        history,
        replace(
            trial,
            status=Status.RUNNING,
            until=event.until,
            attempts=1,
            driver=event.driver,
            spent=trial.spent + again,
            jobs=(*trial.jobs, (trial.epoch, history.elapsed)),
        ),
    )
    changes["spent"] = history.spent + again
    return changes


def _stage_opened(history: History, event: ev.StageOpened) -> Changes:
    stage = StageRecord(event.name, event.why, event.allowance, event.seconds, event.notes, opened=history.elapsed)
    return {"stages": (*history.stages, stage)}


def _stage_closed(history: History, event: ev.StageClosed) -> Changes:
    closed = replace(
        history.stages[-1],
        verdict=event.verdict,
        because=event.why,
        settled=event.settled,
        numbers=event.numbers,
        skipped=event.skipped,
        fatal=event.fatal,
    )
    return {"stages": (*history.stages[:-1], closed)}


def _stopped(history: History, event: ev.Stopped) -> Changes:
    trial = history.trials[event.trial]
    return _put(history, replace(trial, status=Status.STOPPED, stop_why=event.why))


def _stop_asked(history: History, event: ev.StopAsked) -> Changes:
    return {"to_stop": tuple(dict.fromkeys((*history.to_stop, event.trial)))}


def _pause_asked(history: History, event: ev.PauseAsked) -> Changes:
    return {"paused": True}


def _resume_asked(history: History, event: ev.ResumeAsked) -> Changes:
    return {"paused": False}


def _config_asked(history: History, event: ev.ConfigAsked) -> Changes:
    return {"to_start": (*history.to_start, event.config)}


def _finished(history: History, event: ev.Finished) -> Changes:
    return {"finished": event.why}


def _reported(history: History, event: ev.Reported) -> Changes:
    trial = history.trials[event.trial]
    objective = history.objective
    loss = trial.loss
    if objective.metric in event.metrics:
        new = objective.loss(event.metrics[objective.metric])
        loss = new if loss is None or objective.reduce == "last" else min(loss, new)
    step = event.epoch - trial.epoch
    report = Report(event.epoch, event.metrics, event.seconds)
    trial = evolve(trial, {"reports": (*trial.reports, report), "loss": loss, "spent": trial.spent + step})
    if history.study.constraints:
        trial = replace(trial, violation=goals.violation(history.study.goals, trial))
    changes = _put(history, trial)
    changes["spent"] = history.spent + step
    return changes


def _ended(history: History, event: ev.Ended) -> Changes:
    trial = history.trials[event.trial]
    done = event.complete or trial.probe is not None or event.epoch >= trial.horizon
    changes = _put(
        history,
        evolve(
            trial,
            {
                "status": Status.DONE if done else Status.PAUSED,
                "checkpoint": _kept(event) or trial.saved or trial.checkpoint,
                "saved": None,
                "answer": event.answer,
                "spent": trial.spent + event.cost,
            },
        ),
    )
    changes["spent"] = history.spent + event.cost
    return changes


def _kept(event: ev.Ended | ev.Interrupted) -> Checkpoint | None:
    return Checkpoint(event.epoch, event.checkpoint, event.digest) if event.checkpoint else None


def _interrupted(history: History, event: ev.Interrupted) -> Changes:
    trial = history.trials[event.trial]
    return _put(history, replace(trial, saved=_kept(event) or trial.saved))


def _unsaved(history: History, event: ev.Unsaved) -> Changes:
    trial = history.trials[event.trial]
    return _put(history, replace(trial, troubles=(*trial.troubles, f"not saved at epoch {event.epoch}: {event.why}")))


def _checkpoint_lost(history: History, event: ev.CheckpointLost) -> Changes:
    trial = history.trials[event.trial]
    troubles = (*trial.troubles, f"{event.checkpoint} is lost: {event.why}")
    if trial.saved is not None and trial.saved.path == event.checkpoint:
        return _put(history, replace(trial, troubles=troubles, saved=None))
    lost = trial.checkpoint is not None and trial.checkpoint.path == event.checkpoint
    return _put(history, replace(trial, troubles=troubles, checkpoint=None if lost else trial.checkpoint))


def _failed(history: History, event: ev.Failed) -> Changes:
    trial = history.trials[event.trial]
    failure = Failure(event.kind, event.reason, event.detail)
    return _put(history, replace(trial, status=Status.FAILED, failure=failure))


def _requeued(history: History, event: ev.Requeued) -> Changes:
    trial = history.trials[event.trial]
    return _put(history, replace(trial, attempts=trial.attempts + event.blame, driver=event.driver))


FOLD: dict[type[ev.Event], Callable[[History, Any], Changes]] = {
    ev.Created: _created,
    ev.Opened: _opened,
    ev.SpaceChanged: _space_changed,
    ev.BudgetChanged: _budget_changed,
    ev.TargetChanged: _target_changed,
    ev.StopAsked: _stop_asked,
    ev.PauseAsked: _pause_asked,
    ev.ResumeAsked: _resume_asked,
    ev.ConfigAsked: _config_asked,
    ev.Started: _started,
    ev.Resumed: _resumed,
    ev.RangeChanged: _range_changed,
    ev.StageOpened: _stage_opened,
    ev.StageClosed: _stage_closed,
    ev.Stopped: _stopped,
    ev.Finished: _finished,
    ev.Reported: _reported,
    ev.Ended: _ended,
    ev.Interrupted: _interrupted,
    ev.Unsaved: _unsaved,
    ev.CheckpointLost: _checkpoint_lost,
    ev.Failed: _failed,
    ev.Requeued: _requeued,
}


class _Curve:
    """A trial and the reports of it that came since."""

    __slots__ = ("epoch", "loss", "reports", "spent", "trial")

    def __init__(self, trial: TrialRecord) -> None:
        self.trial = trial
        self.reports: list[Report] = []
        self.epoch, self.loss, self.spent = trial.epoch, trial.loss, trial.spent

    def record(self, history: History) -> TrialRecord:
        """The trial with its reports."""
        reports = (*self.trial.reports, *self.reports)
        trial = evolve(self.trial, {"reports": reports, "loss": self.loss, "spent": self.spent})
        if history.study.constraints:
            trial = replace(trial, violation=goals.violation(history.study.goals, trial))
        return trial


class Folding:
    """Folds a whole log: what ``History.then`` makes of it event by event, many times faster.

    Nearly all events are reports, which change little: a trial's curve and a few sums. They are gathered and become
    part of the history before the next event that could see them.
    """

    def __init__(self, begun: History) -> None:
        self._history = replace(begun)
        self._curves: dict[int, _Curve] = {}
        self._objective = begun.objective
        self._length, self._spent = begun.length, begun.spent
        self._elapsed, self._last_at = begun.elapsed, begun.last_at

    def lines(self, lines: Iterable[tuple[float, str, Any]]) -> None:
        """Events as they lie in a log: when they were appended, their kind, their data."""
        # One loop with few calls: it runs once for each report that was ever made.
        curves, trials = self._curves, self._history.trials
        objective = self._objective
        metric, sign, last = objective.metric, 1.0 if objective.minimize else -1.0, objective.reduce == "last"
        spent, elapsed, last_at, count = self._spent, self._elapsed, self._last_at, self._length
        new, isfinite = tuple.__new__, math.isfinite
        curve: _Curve | None = None
        current = -1  # nearly always the next report is of another epoch of the same trial
        for at, kind, data in lines:
            if kind != "Reported":
                self._spent, self._elapsed, self._last_at, self._length = spent, elapsed, last_at, count
                self._other(Entry(at, ev.decode(kind, data)))
                spent, elapsed, last_at, count = self._spent, self._elapsed, self._last_at, self._length
                trials, current = self._history.trials, -1
                continue
            trial, epoch, metrics, seconds = data if type(data) is list else ev.fields(data)
            if trial != current or curve is None:
                current, curve = trial, curves.get(trial)
                if curve is None:
                    curve = curves[trial] = _Curve(trials[trial])
            for value in metrics.values():
                if type(value) is not float:
                    metrics = ev.numbers(metrics)
                    break
            if metric in metrics:
                score = metrics[metric]
                loss = (score if sign > 0 else -score) if isfinite(score) else math.inf
                if curve.loss is None or loss < curve.loss or last:
                    curve.loss = loss
            step = epoch - curve.epoch
            curve.reports.append(new(Report, (epoch, metrics, seconds)))
            curve.epoch = epoch
            curve.spent += step
            spent += step
            count += 1
            if at > last_at:
                elapsed += at - last_at
            last_at = at
        self._spent, self._elapsed, self._last_at, self._length = spent, elapsed, last_at, count

    def add(self, entry: Entry) -> None:
        """An event."""
        event = entry.event
        if isinstance(event, ev.Reported):
            self.lines([(entry.at, "Reported", [event.trial, event.epoch, event.metrics, event.seconds])])
        else:
            self._other(entry)

    def _other(self, entry: Entry) -> None:
        event = entry.event
        seen = (getattr(event, "trial", None), getattr(event, "parent", None), getattr(event, "instead_of", None))
        self._settle([i for i in seen if i in self._curves])
        self._history = history = self._history.then(entry)
        self._length, self._spent = history.length, history.spent
        self._elapsed, self._last_at = history.elapsed, history.last_at

    def history(self) -> History:
        """The history so far."""
        self._settle(list(self._curves))
        return replace(self._history)

    def _settle(self, trials: list[int]) -> None:
        """Put the reports of some trials, and the sums over all, into the history."""
        rows = self._history.trials
        for i in trials:
            rows = rows.with_item(i, self._curves.pop(i).record(self._history))
        # Nobody else has seen this history yet. A new one for each event would double the time.
        put = partial(object.__setattr__, self._history)
        put("trials", rows)
        put("length", self._length)
        put("spent", self._spent)
        put("elapsed", self._elapsed)
        put("last_at", self._last_at)
