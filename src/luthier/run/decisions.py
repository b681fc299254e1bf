"""Decisions as functions of the log: what comes next, whether a trial ends, the job that follows; and their replay."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from luthier.contracts import Action, Done, Job, Resume, Scheduler, Start, Stop
from luthier.core import events as ev
from luthier.core.errors import RunError
from luthier.core.history import Entry, History, start
from luthier.core.params import Config
from luthier.core.trial import ASKED, Status

BY_HAND = "added by hand"
EARLIER = "among the best of an earlier study"
STOPPED_BY_HAND = "stopped by hand"


def decision_rng(history: History) -> np.random.Generator:
    """The generator of the next decision: a function of the study's seed and the number of decisions so far."""
    return np.random.default_rng((history.study.seed, history.decisions))


def asked_stop(history: History, driver: int) -> ev.Stopped | None:
    """The end of the first trial that somebody asked to end, of those that ``driver`` may end: its own and paused ones;
    None where there is none."""
    asked = (history.trials[i] for i in history.stops)
    mine = (t for t in asked if t.status is Status.PAUSED or t.driver == driver)
    return next((ev.Stopped(t.id, t.epoch, STOPPED_BY_HAND) for t in mine), None)


def judgement(history: History, scheduler: Scheduler, trial: int) -> Stop | None:
    """Whether to end a trial: because somebody asked for it, or because the scheduler judges so."""
    return Stop(STOPPED_BY_HAND) if trial in history.stops else scheduler.judge(history, trial)


def next_action(history: History, scheduler: Scheduler) -> Action:
    """What comes next: the oldest configuration that was added by hand, while there is time; else what the scheduler
    proposes."""
    if not history.to_start or history.seconds_left <= 0:
        return scheduler.propose(history, decision_rng(history))
    asked, space = history.to_start[0], history.space
    # The space may have changed since it was asked for; whatever is trained lies in it.
    config = space.complete({n: space.clip(n, v, asked) for n, v in asked.items() if n in space})
    notes = {} if config == dict(asked) else {ASKED: dict(asked)}
    why = EARLIER if asked in history.study.earlier else BY_HAND
    return Start(config, until=history.study.max_epochs, why=why, by_hand=True, notes=notes)


def unasked(history: History, configs: Iterable[Config]) -> list[Config]:
    """Those of ``configs`` that nobody has asked for yet, each once."""
    asked = [*history.to_start, *(t.notes.get(ASKED, t.config) for t in history.trials if t.by_hand)]
    new: list[Config] = []
    for config in configs:
        if config not in asked and config not in new:
            new.append(config)
    return new


def trial_seed(study_seed: int, trial: int) -> int:
    """The seed of trial number ``trial`` where its scheduler named none: below 2**31, as every library accepts."""
    return int(np.random.SeedSequence((study_seed, 0x7121A1, trial)).generate_state(1)[0] >> 1)


def as_event(action: Action, history: History, driver: int = 0) -> ev.Event:
    """The decision that an action becomes in the log; ``driver`` is the one who takes it."""
    if isinstance(action, Start):
        trial = len(history.trials)
        if action.clone:
            _require_checkpoint(action, history)
        return ev.Started(
            trial=trial,
            config=ev.plain(action.config),
            seed=trial_seed(history.study.seed, trial) if action.seed is None else action.seed,
            until=action.until,
            horizon=history.study.max_epochs if action.horizon is None else action.horizon,
            why=action.why,
            parent=action.parent,
            notes=ev.plain(action.notes),
            probe=action.probe,
            clone=action.clone,
            by_hand=action.by_hand,
            instead_of=action.instead_of,
            driver=driver,
        )
    if isinstance(action, Resume):
        return ev.Resumed(action.trial, action.until, action.why, driver)
    if isinstance(action, ev.StageOpened):
        return replace(action, notes=ev.plain(action.notes))
    if isinstance(action, ev.RangeChanged):
        return action
    if isinstance(action, ev.StageClosed):
        return replace(action, settled=ev.plain(action.settled), numbers=ev.plain(action.numbers))
    if isinstance(action, Done):
        return ev.Finished(action.why)
    raise RunError(f"The strategy proposed {action!r}, which is no action.")


def _require_checkpoint(action: Start, history: History) -> None:
    """Refuse a clone of nothing, or one that would begin where its job ends."""
    parent = action.parent
    kept = history.trials[parent].checkpoint if parent is not None and 0 <= parent < len(history.trials) else None
    if kept is None:
        raise RunError(f"The strategy clones trial {parent}, which has no checkpoint. This is a bug in the strategy.")
    if action.until <= kept.epoch:
        raise RunError(
            f"The strategy clones trial {parent} from epoch {kept.epoch} and trains it to epoch {action.until}. "
            "This is a bug in the strategy."
        )


def job_of(history: History, trial_id: int) -> Job:
    """The job that a running trial is owed: from its last checkpoint, its own or inherited, to where it was sent."""
    trial = history.trials[trial_id]
    begin = trial.saved or trial.checkpoint
    before = trial.checkpoint if trial.saved is not None else None
    return Job(
        trial=trial.id,
        config=trial.config,
        seed=trial.seed,
        start=begin.epoch if begin else 0,
        until=trial.until,
        horizon=trial.horizon,
        checkpoint=begin.path if begin else None,
        probe=trial.probe,
        clone_of=trial.parent if begin is not None and begin == trial.inherited else None,
        digest=begin.digest if begin else "",
        fallback=() if before is None else ((before.path, before.digest, before == trial.inherited),),
    )


def replay(entries: Iterable[Entry], scheduler: Scheduler) -> int:
    """Take every decision of a log again from what was known before it.

    Returns:
        how many decisions were recomputed.

    Raises:
        RunError: one came out different; the message shows both.
    """
    lines = list(entries)
    history = start(lines[0])
    checked = 0
    for entry in lines[1:]:
        event, before = entry.event, history
        history = history.then(entry)
        if isinstance(event, ev.Stopped):
            verdict = judgement(before, scheduler, event.trial)
            again: ev.Event | None = ev.Stopped(event.trial, event.epoch, verdict.why) if verdict else None
        elif isinstance(event, ev.Decision):
            again = as_event(next_action(before, scheduler), before, getattr(event, "driver", 0))
        else:
            continue
        # Through JSON and back, as the log went: -0.0, tuples and numpy numbers must not tell the two apart.
        if again is None or ev.plain(ev.encode(again)) != ev.plain(ev.encode(event)):
            raise RunError(f"Decision {before.decisions} was {event}, replayed it is {again}.")
        checked += 1
    return checked
