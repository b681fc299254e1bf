"""How each event changes the history of a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from luthier.core import events as ev
from luthier.core import goals
from luthier.core.errors import StorageError
from luthier.core.params import Float, Int
from luthier.core.records import RangeRecord, StageRecord
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
    return {}


def _space_changed(history: History, event: ev.SpaceChanged) -> Changes:
    if history.asked is None:
        return {"study": replace(history.study, space=event.space)}
    # What stages have widened stays: their trials lie there.
    space = event.space
    for name in {r.name for r in history.ranges} & set(space):
        param, now = space[name], history.space.get(name)
        if isinstance(param, Float | Int) and isinstance(now, Float | Int):
            space = space.with_range(name, min(param.low, now.low), max(param.high, now.high))
    return {"study": replace(history.study, space=space), "asked": event.space}


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
    trial = replace(trial, reports=(*trial.reports, report), loss=loss, spent=trial.spent + step)
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
        replace(
            trial,
            status=Status.DONE if done else Status.PAUSED,
            checkpoint=Checkpoint(event.epoch, event.checkpoint) if event.checkpoint else trial.checkpoint,
            answer=event.answer,
            spent=trial.spent + event.cost,
        ),
    )
    changes["spent"] = history.spent + event.cost
    return changes


def _failed(history: History, event: ev.Failed) -> Changes:
    trial = history.trials[event.trial]
    failure = Failure(event.kind, event.reason, event.detail)
    return _put(history, replace(trial, status=Status.FAILED, failure=failure))


def _requeued(history: History, event: ev.Requeued) -> Changes:
    trial = history.trials[event.trial]
    return _put(history, replace(trial, attempts=trial.attempts + event.blame))


FOLD: dict[type[ev.Event], Callable[[History, Any], Changes]] = {
    ev.Created: _created,
    ev.Opened: _opened,
    ev.SpaceChanged: _space_changed,
    ev.BudgetChanged: _budget_changed,
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
    ev.Failed: _failed,
    ev.Requeued: _requeued,
}
