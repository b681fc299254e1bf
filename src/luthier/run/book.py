"""The log and its fold in one hand: takes decisions, hears reports, and appends what became of both."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from luthier.contracts import Done, Job, Scheduler, Store, Wait
from luthier.core import events as ev
from luthier.core.errors import Conflict, RunError, UserError
from luthier.core.history import Entry, History, start
from luthier.core.metrics import guess_direction
from luthier.core.params import Config
from luthier.core.study import Study
from luthier.core.trial import Status, TrialRecord
from luthier.core.words import epochs
from luthier.run.decisions import as_event, asked_stop, job_of, judgement, next_action, unasked
from luthier.run.lock import SEVERAL
from luthier.run.silent import mistake, silence

T = TypeVar("T")

RETRIES = 3
"""How often a trial whose failure may have passed is tried in all."""

TRANSIENT = ("killed", "oom-killed", "hung")
"""Kinds of failures that another attempt may not meet again: others on the machine may have been the cause."""

HEARD = (ev.Reported, ev.Ended, ev.Interrupted, ev.Unsaved, ev.CheckpointLost, ev.Failed, ev.Requeued)
"""What workers and pools say."""
LISTENS = 0.5
"""Seconds between two looks at what others have appended."""
MISSED = 3.0
"""Seconds for which a driver must be missed until others take over its trials: it may only have lost its connection."""
ATTEMPTS = 4
"""How often an append is refused until the other drivers are asked to wait for it."""


class Book:
    """One study's log, open for writing.

    Where the store lets several drivers work on one study, what others append is folded in whenever an append is
    refused and whenever :meth:`obey` looks; what was to be appended is then decided and judged anew, on the longer log.

    Args:
        store: where the log is kept.
        history: its fold so far.
        clock: seconds since 1970; stamps the entries. Where None it is :func:`steady`, by the store's clock where
            several drivers write.

    Attributes:
        driver: this driver's number; 0 where the study has one driver at a time, and before :meth:`enter`.
        taken_in: how many entries of others were read on.
    """

    def __init__(self, store: Store, history: History, *, clock: Callable[[], float] | None = None) -> None:
        self._store = store
        self._drivers = store.drivers
        self._clock = clock or clock_of(store)
        self._held: list[Entry] | None = None
        self._watcher: Callable[[Iterable[ev.Event]], None] | None = None
        self._listened = -math.inf
        self._missed: dict[int, float] = {}
        self.driver = 0
        self.taken_in = 0
        self.history = history

    @classmethod
    def create(cls, store: Store, study: Study, *, clock: Callable[[], float] | None = None) -> Book:
        """Begin a new log with ``study``.

        Raises:
            Conflict: somebody else has begun it.
        """
        clock = clock or clock_of(store)
        first = Entry(clock(), ev.Created(study))
        store.append([first], 0)
        return cls(store, start(first), clock=clock)

    @classmethod
    def open(cls, store: Store, *, clock: Callable[[], float] | None = None) -> Book | None:
        """Go on with the log that ``store`` holds; None when it holds none."""
        history = store.fold()
        return None if history is None else cls(store, history, clock=clock)

    # -- several drivers -------------------------------------------------------------------------------------------
    def enter(self, version: str) -> None:
        """Begin to drive the study, and say so in the log; where several may, under a number of its own."""
        if self._drivers is None:
            self.append(ev.Opened(version))
            return
        self.append(ev.Opened(version, beside=bool(self._drivers.living())))
        self.driver = self.history.drivers
        self._drivers.enter(self.driver)

    def holds(self, trial: int) -> bool:
        """Whether this driver runs a trial: it was not ended, nor taken over by another one that took this for dead."""
        record = self.history.trials[trial]
        return record.status is Status.RUNNING and record.driver == self.driver

    def take_over(self, patience: float = 0.0) -> tuple[ev.Requeued, ...]:
        """Put back the running trials of drivers that are gone: all of them where one drives at a time, to be called
        before anything is handed out.

        Args:
            patience: seconds for which a driver must have been missed: it may only have lost its connection.

        Returns:
            what was appended; this driver owes these trials a job.
        """
        if self._drivers is None:
            back = requeued(self.history)
            self.append(*back)
            return back
        taken: list[ev.Requeued] = []
        gone = self._gone(patience)
        while left := [i for i in self.history.running if self.history.trials[i].driver in gone]:
            event = ev.Requeued(left[0], "the driver that ran it ended", driver=self.driver)
            try:
                self._commit([entry := self._entry(event)], self.history.then(entry))
            except Conflict:
                self._read_on()
            else:
                taken.append(event)
        return tuple(taken)

    def _gone(self, patience: float) -> set[int]:
        """The drivers that have running trials and have not been seen living for so many seconds."""
        assert self._drivers is not None
        living = self._drivers.living()  # which also holds on to this one's own place, where its connection broke
        holders = {self.history.trials[i].driver for i in self.history.running} - {self.driver}
        now = time.monotonic()
        self._missed = {driver: self._missed.get(driver, now) for driver in holders - living}
        return {driver for driver, since in self._missed.items() if now - since >= patience}

    def mistaken(self) -> bool:
        """Whether nothing was learned and nobody else drives the study, so that it may be removed as a mistake."""
        if self._drivers is not None:
            self._read_on(needed=False)
        return self.tentative and (self._drivers is None or self._drivers.living() <= {self.driver})

    # -- writing ---------------------------------------------------------------------------------------------------
    def append(self, *events: ev.Event) -> None:
        """Append events in one transaction; durable when this returns.

        Raises:
            Conflict: another driver has the study, and there may be one alone.
        """

        self._insist(lambda: self._write(events))

    def enqueue(self, configs: Sequence[Config]) -> None:
        """Ask for configurations to be trained next, but for those that somebody has asked for already.

        Raises:
            UserError: the study is finished, or its budget does not pay for them.
        """

        def once() -> None:
            if new := unasked(self.history, configs):
                check_room(self.history, len(new))
                self._write([ev.ConfigAsked(config) for config in new])

        self._insist(once)

    def _write(self, events: Iterable[ev.Event]) -> None:
        entries, history = [], self.history
        for event in events:
            entries.append(self._entry(event, history))
            history = history.then(entries[-1])
        self._commit(entries, history)

    def _insist(self, attempt: Callable[[], T]) -> T:
        """Make an attempt that ends in an append, again on a longer log whenever it is refused."""
        refused = 0
        while True:
            try:
                if self._drivers is None or refused < ATTEMPTS:
                    return attempt()
                # The others are quicker than this decision is taken: they wait for once.
                with self._drivers.floor():
                    self._read_on(needed=False)
                    return attempt()
            except Conflict:
                refused += 1
                self._read_on()

    def _entry(self, event: ev.Event, after: History | None = None) -> Entry:
        """A line for the log. Where several drivers write, none is older than the one before it: the small differences
        of their clocks would add up to time that nobody has spent."""
        at = self._clock()
        if self.driver:
            at = max(at, (after or self.history).last_at)
        return Entry(at, event)

    def _commit(self, entries: list[Entry], history: History) -> None:
        if self._held is None:
            self._store.append(entries, self.history.length)
            self._show(entries)
        else:
            self._held.extend(entries)
        self.history = history

    def watch(self, watcher: Callable[[Iterable[ev.Event]], None]) -> None:
        """Have ``watcher`` told every event from now on, appended or read on, in the order of the log."""
        self._watcher = watcher

    def _show(self, entries: list[Entry]) -> None:
        if self._watcher is not None:
            self._watcher([entry.event for entry in entries])

    def _read_on(self, *, needed: bool = True) -> None:
        """Take in what others have appended: what was asked from outside, and what other drivers did where there may be
        several.

        Raises:
            Conflict: another driver has the study and there may be one alone; or nothing although something is
                ``needed``, to explain why an entry was refused.
        """
        entries = list(self._store.read(self.history.length))
        foreign = self._drivers is None and any(not isinstance(e.event, ev.Asked) for e in entries)
        if foreign or (needed and not entries):
            raise Conflict(
                f"Another driver has taken the study {self.history.study.name!r} over. Nothing that was told before is "
                f"lost; a file has one driver at a time. {SEVERAL}"
            ) from None
        for entry in entries:
            self.history = self.history.then(entry)
        self._show(entries)
        self.taken_in += len(entries)

    def obey(self) -> tuple[ev.Stopped | ev.Requeued, ...]:
        """Look, at most every :data:`LISTENS` seconds, for what others have appended: end what somebody asked to end,
        take over what a driver that is gone has left.

        Returns:
            what was appended; who runs the stopped trials must be told, and the others are owed a job.
        """
        if time.monotonic() - self._listened < LISTENS:
            return ()
        self._read_on(needed=False)
        self._listened = time.monotonic()
        done: list[ev.Stopped | ev.Requeued] = []
        while (stop := asked_stop(self.history, self.driver)) is not None:
            try:
                self._commit([entry := self._entry(stop)], self.history.then(entry))
            except Conflict:
                self._read_on()
            else:
                done.append(stop)
        if self._drivers is not None:
            done += self.take_over(MISSED)
        return tuple(done)

    @property
    def tentative(self) -> bool:
        """Whether nothing was learned yet: no trial reported all the metrics, answered or failed by itself, other than
        by not reporting them."""

        def vain(trial: TrialRecord) -> bool:
            silent = trial.failure is None or trial.failure.kind == "silent"
            return silent and trial.answer is None and bool(self.history.unreported(trial))

        return all(map(vain, self.history.trials))

    # -- deciding --------------------------------------------------------------------------------------------------
    def next(self, scheduler: Scheduler) -> Job | Wait | Done:
        """Ask the scheduler until it hands out a job, wants to wait, or is done; its decisions are in the log then."""
        return self._insist(lambda: self._next(scheduler))

    def _next(self, scheduler: Scheduler) -> Job | Wait | Done:
        while True:
            if self.history.finished is not None:
                return Done(self.history.finished)
            if self.history.paused:
                return Wait("paused by hand")
            action = next_action(self.history, scheduler)
            if isinstance(action, Wait | Done) and self.history.running:
                return Wait(action.why)
            if isinstance(action, Wait):
                raise RunError(
                    f"The strategy waits ({action.why or 'no reason given'}) although nothing runs. "
                    "This is a bug in the strategy: propose() must return Done when there is nothing left."
                )
            event = as_event(action, self.history, self.driver)
            # Where this is refused the decision is taken anew: it rests on all that was known before it.
            self._commit([entry := self._entry(event)], self.history.then(entry))
            if isinstance(event, ev.Started | ev.Resumed):
                return job_of(self.history, event.trial)
            if isinstance(action, Done):
                return action

    # -- hearing ---------------------------------------------------------------------------------------------------
    def hear(self, event: ev.Event, scheduler: Scheduler) -> tuple[ev.Event, ...]:
        """Take in what a worker says. Returns what was appended: nothing for a report that is late or a repetition, or
        about a trial that another driver runs.

        Raises:
            UserError: a metric of the study's objectives or constraints was never reported although a job ended.
        """
        return self.hear_all((event,), scheduler)

    def hear_all(self, events: Iterable[ev.Event], scheduler: Scheduler) -> tuple[ev.Event, ...]:
        """The same for several, which become durable in one transaction, with one sync; also where an error ends it.

        Where others have appended meanwhile all of it is judged anew, for a verdict rests on the log before it.
        """
        said = tuple(events)
        return self._insist(lambda: self._hear_together(said, scheduler))

    def _hear_together(self, events: tuple[ev.Event, ...], scheduler: Scheduler) -> tuple[ev.Event, ...]:
        before, heard = self.history, list[ev.Event]()
        trouble: BaseException | None = None
        self._held = []
        try:
            for event in events:
                heard += self._take_in(event, scheduler)
        except BaseException as error:
            trouble = error
        held, self._held = self._held, None
        after, self.history = self.history, before
        if held:
            self._commit(held, after)
        else:
            self.history = after
        if trouble is not None:
            raise trouble
        return tuple(heard)

    def _take_in(self, event: ev.Event, scheduler: Scheduler) -> tuple[ev.Event, ...]:
        assert isinstance(event, HEARD)
        if not 0 <= event.trial < len(self.history.trials):
            return ()
        trial = self.history.trials[event.trial]
        if not self.holds(event.trial):
            return ()
        if isinstance(event, ev.Reported):
            return self._hear_report(event, trial, scheduler)
        if isinstance(event, ev.Failed) and event.kind in TRANSIENT and trial.attempts < RETRIES:
            why = f"{event.reason}; attempt {trial.attempts + 1} of {RETRIES}"
            event = ev.Requeued(event.trial, why, blame=True, driver=self.driver)
        trouble: UserError | None = None
        if isinstance(event, ev.Failed) and event.kind == "silent":
            if all(map(self.history.unreported, self.history.trials)):
                trouble = UserError(event.reason, event.detail)
        elif isinstance(event, ev.Ended) and trial.probe is None and (missing := self.history.unreported(trial)):
            trouble = mistake(self.history, trial, event, missing)
            event = silence(trial, missing)
        self._commit([entry := self._entry(event)], self.history.then(entry))
        if trouble is not None:  # the trial is over all the same: who mends the function goes on with others
            raise trouble
        return (event,)

    def _hear_report(self, event: ev.Reported, trial: TrialRecord, scheduler: Scheduler) -> tuple[ev.Event, ...]:
        if event.epoch <= trial.epoch or event.epoch > trial.until:
            return ()
        events: list[ev.Event] = [event]
        entries = [self._entry(event)]
        history = self.history.then(entries[0])
        bad = _nonfinite(event, self.history)
        more: ev.Event | None = None
        if bad is not None:
            reason = f"{bad} is {event.metrics[bad]} at epoch {event.epoch}"
            more = ev.Failed(trial.id, "nonfinite", reason)
        elif (stop := judgement(history, scheduler, trial.id)) is not None:
            more = ev.Stopped(trial.id, event.epoch, stop.why)
        if more is not None:
            # In one transaction with the report: a crash between the two would leave a report that nobody judged.
            events.append(more)
            entries.append(self._entry(more, history))
            history = history.then(entries[1])
        self._commit(entries, history)
        return tuple(events)


def steady(now: float | None = None) -> Callable[[], float]:
    """A clock that begins at ``now`` (the machine's time where None) and counts on steadily, whatever that is set to
    later: a study's budget may be in seconds."""
    offset = (time.time() if now is None else now) - time.monotonic()
    return lambda: offset + time.monotonic()


def clock_of(store: Store) -> Callable[[], float]:
    """The clock that stamps the entries of a store."""
    return steady(None if store.drivers is None else store.drivers.now())


def _nonfinite(event: ev.Reported, history: History) -> str | None:
    """The metric that shows that a training has failed, if any: one of the study's or a loss that is not finite, or a
    nan of another one that should fall. What is derived from a loss may well be infinite: a perplexity overflows at the
    beginning of a sound training."""
    for name, value in event.metrics.items():
        if math.isfinite(value):
            continue
        if name in history.study.goals.metrics or _is_loss(name):
            return name
        if math.isnan(value) and guess_direction(name) == "minimize":
            return name
    return None


def _is_loss(name: str) -> bool:
    return any(word.endswith("loss") or word == "nll" for word in re.split(r"[^a-z0-9]+", name.lower()))


def check_room(history: History, many: int) -> None:
    """Refuse configurations that a study will not train.

    Raises:
        UserError: it is finished, or its budget does not pay for ``many`` beside those that wait already.
    """
    if history.finished is not None:
        raise UserError(
            f"The study is finished ({history.finished}); it trains no configuration that is added now.",
            "Give it a larger budget, too.",
        )
    wanted = (many + len(history.to_start)) * history.study.max_epochs
    if wanted > history.epochs_left:
        raise UserError(
            f"The configurations that were enqueued take {epochs(wanted)}, and the budget of {history.study.budget} "
            f"has {max(0.0, history.epochs_left):,.0f} left.",
            "Give a larger budget, or enqueue fewer.",
        )


def requeued(history: History) -> tuple[ev.Requeued, ...]:
    """For every trial that was running when the last driver left: back into the queue."""
    return tuple(ev.Requeued(i, "the previous driver ended while it ran") for i in history.running)
