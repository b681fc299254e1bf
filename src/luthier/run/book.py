"""The log and its fold in one hand: takes decisions, hears reports, and appends what became of both."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from luthier.contracts import Action, Done, Job, Resume, Scheduler, Start, Stop, Store, Wait
from luthier.core import events as ev
from luthier.core.errors import Conflict, RunError, UserError, nearest
from luthier.core.history import Entry, History, start
from luthier.core.study import Study, guess_direction
from luthier.core.trial import Status, TrialRecord

RETRIES = 3
"""How often a trial whose failure may have passed is tried in all."""

TRANSIENT = ("killed", "oom-killed", "hung")
"""Kinds of failures that another attempt may not meet again: others on the machine may have been the cause."""

HEARD = (ev.Reported, ev.Ended, ev.Interrupted, ev.Unsaved, ev.CheckpointLost, ev.Failed, ev.Requeued)
"""What workers and pools say."""
LISTENS = 0.5
"""Seconds between two looks at what others have appended."""
BY_HAND = "added by hand"
STOPPED_BY_HAND = "stopped by hand"


class Book:
    """One study's log, open for writing.

    Args:
        store: where the log is kept.
        history: its fold so far.
        clock: seconds since 1970; stamps the entries. Where None it is :func:`steady`.
    """

    def __init__(self, store: Store, history: History, *, clock: Callable[[], float] | None = None) -> None:
        self._store = store
        self._clock = clock or steady()
        self._held: list[Entry] | None = None
        self._recent: deque[ev.Event] = deque(maxlen=1000)
        self._listened = -math.inf
        self.history = history

    @classmethod
    def create(cls, store: Store, study: Study, *, clock: Callable[[], float] | None = None) -> Book:
        """Begin a new log with ``study``."""
        clock = clock or steady()
        first = Entry(clock(), ev.Created(study))
        store.append([first], 0)
        return cls(store, start(first), clock=clock)

    @classmethod
    def open(cls, store: Store, *, clock: Callable[[], float] | None = None) -> Book | None:
        """Go on with the log that ``store`` holds; None when it holds none."""
        history = store.fold()
        return None if history is None else cls(store, history, clock=clock)

    # -- writing ---------------------------------------------------------------------------------------------------
    def append(self, *events: ev.Event) -> None:
        """Append events in one transaction; durable when this returns, within :meth:`together` when that ends.

        Raises:
            Conflict: another driver has the study.
        """
        while True:
            entries, history = [], self.history
            for event in events:
                entry = Entry(self._clock(), event)
                entries.append(entry)
                history = history.then(entry)
            try:
                return self._commit(entries, history)
            except Conflict:
                self._read_on()

    def _commit(self, entries: list[Entry], history: History) -> None:
        if self._held is None:
            self._store.append(entries, self.history.length)
        else:
            self._held.extend(entries)
        self._recent.extend(e.event for e in entries)
        self.history = history

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is appended within becomes durable when this ends, in one transaction and with one sync; also where an
        error ends it. What others have asked meanwhile comes before it."""
        before, self._held = self.history, []
        try:
            yield
        finally:
            held, self._held = self._held, None
            after, self.history = self.history, before
            while True:
                try:
                    self._store.append(held, self.history.length)
                    break
                except Conflict:
                    self._read_on()
            if self.history is before:
                self.history = after
            else:
                for entry in held:
                    self.history = self.history.then(entry)

    def _read_on(self, *, needed: bool = True) -> None:
        """Take in what others have appended: what was asked from outside.

        Raises:
            Conflict: something else, so that another driver has the study; or nothing although something is
                ``needed``, to explain why an entry was refused.
        """
        entries = list(self._store.read(self.history.length))
        if any(not isinstance(e.event, ev.Asked) for e in entries) or (needed and not entries):
            raise Conflict(f"Another driver wrote to study {self.history.study.name!r} meanwhile.")
        for entry in entries:
            self.history = self.history.then(entry)
            self._recent.append(entry.event)

    def obey(self) -> tuple[ev.Stopped, ...]:
        """Look, at most every :data:`LISTENS` seconds, for what was asked from outside, and end what is to end.

        Returns:
            what was appended; who runs these trials must be told.
        """
        if time.monotonic() - self._listened < LISTENS:
            return ()
        self._read_on(needed=False)
        self._listened = time.monotonic()
        stops = []
        while (stop := asked_stop(self.history)) is not None:
            try:
                self._commit([entry := Entry(self._clock(), stop)], self.history.then(entry))
            except Conflict:
                self._read_on()
            else:
                stops.append(stop)
        return tuple(stops)

    def recent(self, since: int) -> list[ev.Event]:
        """The events from number ``since`` on, as far back as the last thousand: for those who watch."""
        count = min(self.history.length - since, len(self._recent))
        return [self._recent[-i] for i in range(count, 0, -1)]

    @property
    def tentative(self) -> bool:
        """Whether nothing was learned yet: no trial reported all the metrics, answered or failed by itself."""
        trials = self.history.trials
        return all(self.history.unreported(t) and t.answer is None and t.failure is None for t in trials)

    # -- deciding --------------------------------------------------------------------------------------------------
    def next(self, scheduler: Scheduler) -> Job | Wait | Done:
        """Ask the scheduler until it hands out a job, wants to wait, or is done; its decisions are in the log then."""
        while True:
            if self.history.finished is not None:
                return Done(self.history.finished)
            if self.history.paused:
                return Wait("paused by hand")
            action = _next_action(self.history, scheduler)
            if isinstance(action, Wait | Done) and self.history.running:
                return Wait(action.why)
            if isinstance(action, Wait):
                raise RunError(
                    f"The strategy waits ({action.why or 'no reason given'}) although nothing runs. "
                    "This is a bug in the strategy: propose() must return Done when there is nothing left."
                )
            event = as_event(action, self.history)
            try:
                self._commit([entry := Entry(self._clock(), event)], self.history.then(entry))
            except Conflict:  # a decision rests on all that was known before it: it is taken anew
                self._read_on()
                continue
            if isinstance(event, ev.Started | ev.Resumed):
                return job_of(self.history, event.trial)
            if isinstance(action, Done):
                return action

    # -- hearing ---------------------------------------------------------------------------------------------------
    def hear(self, event: ev.Event, scheduler: Scheduler) -> tuple[ev.Event, ...]:
        """Take in what a worker says. Returns what was appended: nothing for a report that is late or a repetition.

        Raises:
            UserError: a metric of the study's objectives or constraints was never reported although a trial ended.
        """
        while True:
            try:
                return self._take_in(event, scheduler)
            except Conflict:
                self._read_on()

    def _take_in(self, event: ev.Event, scheduler: Scheduler) -> tuple[ev.Event, ...]:
        assert isinstance(event, HEARD)
        if not 0 <= event.trial < len(self.history.trials):
            return ()
        trial = self.history.trials[event.trial]
        if trial.status is not Status.RUNNING:
            return ()
        if isinstance(event, ev.Reported):
            return self._hear_report(event, trial, scheduler)
        if isinstance(event, ev.Failed) and event.kind in TRANSIENT and trial.attempts < RETRIES:
            event = ev.Requeued(event.trial, f"{event.reason}; attempt {trial.attempts + 1} of {RETRIES}", blame=True)
        if (
            isinstance(event, ev.Failed)
            and event.kind == "silent"
            and all(map(self.history.unreported, self.history.trials))
        ):
            raise UserError(event.reason, event.detail)
        if isinstance(event, ev.Ended) and trial.probe is None:
            missing = self.history.unreported(trial)
            event = self._silent(trial, missing) if missing else event
        self.append(event)
        return (event,)

    def _hear_report(self, event: ev.Reported, trial: TrialRecord, scheduler: Scheduler) -> tuple[ev.Event, ...]:
        if event.epoch <= trial.epoch or event.epoch > trial.until:
            return ()
        events: list[ev.Event] = [event]
        entries = [Entry(self._clock(), event)]
        history = self.history.then(entries[0])
        bad = _nonfinite(event, self.history)
        more: ev.Event | None = None
        if bad is not None:
            reason = f"{bad} is {event.metrics[bad]} at epoch {event.epoch}"
            more = ev.Failed(trial.id, "nonfinite", reason)
        elif (stop := _judgement(history, scheduler, trial.id)) is not None:
            more = ev.Stopped(trial.id, event.epoch, stop.why)
        if more is not None:
            # In one transaction with the report: a crash between the two would leave a report that nobody judged.
            events.append(more)
            entries.append(Entry(self._clock(), more))
            history = history.then(entries[1])
        self._commit(entries, history)
        return tuple(events)

    def _silent(self, trial: TrialRecord, missing: tuple[str, ...]) -> ev.Failed:
        def never(metric: str) -> bool:
            return all(metric not in r.metrics for t in self.history.trained() for r in t.reports)

        metric = next(filter(never, missing), None)
        names = trial.metric_names
        seen = f"it reported {', '.join(names)}" if names else "it reported nothing"
        if metric is not None:
            mend = nearest(metric, names) if names else f"Call trial.report({metric}=...) after each epoch."
            raise UserError(f"The metric {metric!r} was never reported: trial {trial.id} ended and {seen}.", mend)
        return ev.Failed(trial.id, "silent", f"ended without reporting {', '.join(map(repr, missing))}; {seen}")


def steady() -> Callable[[], float]:
    """A clock that begins at the machine's time and counts on steadily, whatever that is set to later: a study's budget
    may be in seconds."""
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()


def decision_rng(history: History) -> np.random.Generator:
    """The generator of the next decision: a function of the study's seed and the number of decisions so far."""
    return np.random.default_rng((history.study.seed, history.decisions))


def asked_stop(history: History) -> ev.Stopped | None:
    """The end of the first trial that somebody asked to end; None where there is none."""
    return next((ev.Stopped(i, history.trials[i].epoch, STOPPED_BY_HAND) for i in history.stops), None)


def _judgement(history: History, scheduler: Scheduler, trial: int) -> Stop | None:
    """Whether to end a trial: because somebody asked for it, or because the scheduler judges so."""
    return Stop(STOPPED_BY_HAND) if trial in history.stops else scheduler.judge(history, trial)


def _next_action(history: History, scheduler: Scheduler) -> Action:
    """What comes next: the oldest configuration that was added by hand, else what the scheduler proposes."""
    if not history.to_start:
        return scheduler.propose(history, decision_rng(history))
    asked, space = history.to_start[0], history.space
    # The space may have changed since it was asked for; whatever is trained lies in it.
    config = space.complete({n: space.clip(n, v, asked) for n, v in asked.items() if n in space})
    return Start(config, until=history.study.max_epochs, why=BY_HAND, by_hand=True)


def trial_seed(study_seed: int, trial: int) -> int:
    """The seed of trial number ``trial`` where its scheduler named none: below 2**31, as every library accepts."""
    return int(np.random.SeedSequence((study_seed, 0x7121A1, trial)).generate_state(1)[0] >> 1)


def as_event(action: Action, history: History) -> ev.Event:
    """The decision that an action becomes in the log."""
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
        )
    if isinstance(action, Resume):
        return ev.Resumed(action.trial, action.until, action.why)
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
            verdict = _judgement(before, scheduler, event.trial)
            again: ev.Event | None = ev.Stopped(event.trial, event.epoch, verdict.why) if verdict else None
        elif isinstance(event, ev.Decision):
            again = as_event(_next_action(before, scheduler), before)
        else:
            continue
        # Through JSON and back, as the log went: -0.0, tuples and numpy numbers must not tell the two apart.
        if again is None or ev.plain(ev.encode(again)) != ev.plain(ev.encode(event)):
            raise RunError(f"Decision {before.decisions} was {event}, replayed it is {again}.")
        checked += 1
    return checked


def _nonfinite(event: ev.Reported, history: History) -> str | None:
    for name, value in event.metrics.items():
        if not math.isfinite(value) and (name in history.study.goals.metrics or guess_direction(name) == "minimize"):
            return name
    return None


def requeued(history: History) -> tuple[ev.Requeued, ...]:
    """For every trial that was running when the last driver left: back into the queue."""
    return tuple(ev.Requeued(i, "the previous driver ended while it ran") for i in history.running)
