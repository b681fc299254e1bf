"""The loop under random events: reports, late ones, duplicates, kills, failures, restarts. What must hold, holds."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import luthier as lt
from luthier.contracts import Done, Job, Wait
from luthier.core import events as ev
from luthier.core.errors import Conflict
from luthier.core.history import Entry, fold, start
from luthier.core.study import Budget, Objective, Study
from luthier.core.trial import Status
from luthier.run import book as books
from luthier.run.book import RETRIES, Book, requeued
from luthier.run.decisions import job_of, replay
from luthier.run.memory import MemoryStore
from luthier.strategies import build

SPACE = lt.Space(learning_rate=lt.Float(1e-5, 1e-1, log=True), batch_size=lt.Int(8, 256, log=True))
BUDGET = 40
EPOCHS = 9


class Clock:
    """Steady, unless it is set to another time."""

    now = 1000.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


class Machine(RuleBasedStateMachine):
    """Workers say whatever they like, drivers come and go; the book is real, and so is the strategy."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store = MemoryStore()
        self.held: dict[int, int] = {}  # trials that workers hold, and the epoch that each has trained
        self.told: Counter = Counter()  # acknowledged reports
        self.ended = False

    @initialize(
        strategy=st.sampled_from(["random", "asha", "hyperband", "median", "pbt", "halving"]), seed=st.integers(0, 99)
    )
    def begin(self, strategy, seed):
        self.strategy = build(strategy)
        study = Study("s", SPACE, Objective("val_loss", True), EPOCHS, Budget(BUDGET), seed, strategy)
        self.book = Book.create(self.store, study, clock=self.clock)

    def hand_out(self, job):
        assert job.trial not in self.held
        assert 0 <= job.start < job.until <= EPOCHS
        self.held[job.trial] = job.start

    @precondition(lambda self: len(self.held) < 3)
    @rule()
    def ask(self):
        job = self.book.next(self.strategy)
        if isinstance(job, Job):
            assert not self.ended
            self.hand_out(job)
        elif isinstance(job, Done):
            self.ended = True
            assert not self.book.history.running
        else:
            assert isinstance(job, Wait)
            assert self.held

    def hear(self, *events):
        heard = self.book.hear_all(events, self.strategy)
        for what in heard:
            if isinstance(what, ev.Reported):
                self.told[what.trial, what.epoch] += 1
            elif isinstance(what, ev.Requeued):
                self.held[what.trial] = job_of(self.book.history, what.trial).start
            elif isinstance(what, ev.Stopped | ev.Failed | ev.Ended):
                self.held.pop(what.trial, None)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 2), many=st.integers(1, 4), loss=st.floats(0.0, 10.0), again=st.booleans())
    def train(self, which, many, loss, again):
        trial = list(self.held)[which % len(self.held)]
        until = self.book.history.trials[trial].until
        epochs = range(self.held[trial] + 1, min(until, self.held[trial] + many) + 1)
        said = [ev.Reported(trial, e, {"val_loss": loss + 1 / e}, 0.5) for e in epochs]
        self.held[trial] = max([self.held[trial], *epochs])
        if again:  # the network says everything twice
            said = [e for e in said for _ in range(2)]
        if self.held[trial] == until:
            said.append(ev.Ended(trial, until, checkpoint=f"t{trial}/{until}"))
        self.hear(*said)

    @precondition(lambda self: self.held)
    @rule(
        which=st.integers(0, 2),
        kind=st.sampled_from(["killed", "killed", "raised", "oom", "hung", "nan", "early", "unsaved"]),
    )
    def fail(self, which, kind):
        trial = list(self.held)[which % len(self.held)]
        epoch = self.held[trial] + 1
        if kind == "nan":
            self.hear(ev.Reported(trial, epoch, {"val_loss": math.nan}))
        elif kind == "early" and self.book.history.trials[trial].reports:
            self.hear(ev.Ended(trial, self.held[trial], complete=True))
        elif kind == "unsaved":
            self.hear(ev.Unsaved(trial, epoch, "no space left on device"))
        elif kind != "early":
            self.hear(ev.Failed(trial, kind, "it happens"))
            assert self.book.history.trials[trial].attempts <= RETRIES

    @rule(trial=st.integers(-1, 5), epoch=st.integers(-1, 12))
    def nonsense(self, trial, epoch):
        """From a worker that nobody knows, or about a trial that is over."""
        if trial not in self.held:
            before = self.book.history
            self.hear(
                ev.Reported(trial, epoch, {"val_loss": 0.0}), ev.Ended(trial, epoch), ev.Failed(trial, "raised", "late")
            )
            assert self.book.history is before

    @rule(gap=st.integers(-500, 500), saved=st.booleans())
    def driver_dies(self, gap, saved):
        """All processes are killed, some trials saved before; another driver opens the log, under another clock."""
        if saved:
            for trial in list(self.held):
                at = self.book.history.trials[trial].epoch
                self.hear(ev.Interrupted(trial, at, f"t{trial}/{at}" if at else None))
        old = self.book
        self.clock.now += gap
        self.book = Book.open(self.store, clock=self.clock)
        self.book.append(ev.Opened("test"), *requeued(self.book.history))
        self.held = {i: job_of(self.book.history, i).start for i in self.book.history.running}
        if len(old.history.running) > 0:  # the old driver is not quite dead: it can do no harm
            length = self.book.history.length
            try:
                old.append(ev.Opened("ghost"))
            except Conflict:
                pass
            else:
                raise AssertionError("two drivers wrote to one log")
            assert Book.open(self.store).history.length == length

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 2))
    def checkpoint_is_lost(self, which):
        trial = list(self.held)[which % len(self.held)]
        job = job_of(self.book.history, trial)
        if job.checkpoint is not None:
            self.hear(ev.CheckpointLost(trial, job.checkpoint, "damaged"))
            again = job_of(self.book.history, trial)
            self.held[trial] = again.start
            assert again.checkpoint != job.checkpoint
            assert again.start <= job.start  # what was saved at an interruption may be as old as the checkpoint before

    @invariant()
    def the_log_tells_all(self):
        history, entries = self.book.history, self.store.read()
        assert fold(entries) == history
        assert history.spent <= BUDGET
        assert history.committed <= BUDGET
        assert set(history.running) == set(self.held)
        assert {(t.id, r.epoch) for t in history.trials for r in t.reports} == set(self.told)
        assert all(n == 1 for n in self.told.values())
        for trial in history.trials:
            epochs = [r.epoch for r in trial.reports]
            assert epochs == sorted(set(epochs))
            assert trial.status is not Status.RUNNING or history.finished is None
        if self.ended:
            assert history.running == ()

    def teardown(self):
        for _ in range(200):  # left to itself the study ends
            while len(self.held) < 2 and isinstance(job := self.book.next(self.strategy), Job):
                self.hand_out(job)
            if not self.held:
                break
            self.train(0, EPOCHS, 1.0, False)
        self.the_log_tells_all()
        assert self.book.history.finished is not None
        entries = self.store.read()
        slow = start(entries[0])
        for entry in entries[1:]:
            slow = slow.then(entry)
        assert slow == self.book.history
        assert replay(entries, self.strategy) == self.book.history.decisions


# -- several drivers ---------------------------------------------------------------------------------------------------


class Seat:
    """One driver's view of a log that several share; who lives is what the room says."""

    def __init__(self, log: MemoryStore, room: set[int], clock: Clock) -> None:
        self.append, self.read, self.fold, self.forget = log.append, log.read, log.fold, log.forget
        self.drivers, self.room, self.number, self.now = self, room, 0, clock

    def enter(self, driver: int) -> None:
        self.number = driver
        self.room.add(driver)

    def living(self) -> frozenset[int]:
        return frozenset(self.room)

    @contextmanager
    def floor(self):
        yield

    def close(self) -> None:
        self.room.discard(self.number)


class Driver:
    """A driver as its loop is: its book, and what its workers hold."""

    def __init__(self, log: MemoryStore, room: set[int], clock: Clock, study: Study | None) -> None:
        self.seat = Seat(log, room, clock)
        self.book = Book.open(self.seat, clock=clock) if study is None else Book.create(self.seat, study, clock=clock)
        self.book.enter("test")
        self.held: dict[int, int] = {}
        self.owe(self.book.take_over())

    def owe(self, events) -> None:
        for what in events:
            if isinstance(what, ev.Requeued):
                self.held[what.trial] = job_of(self.book.history, what.trial).start

    def look(self) -> None:
        self.book._listened = -math.inf
        self.owe(self.book.obey())
        self.let_go()

    def let_go(self) -> None:
        self.held = {i: epoch for i, epoch in self.held.items() if self.book.holds(i)}


class Drivers(RuleBasedStateMachine):
    """Up to three drivers with a few workers each come, work, are killed, or are taken for dead and go on all the same.
    None waits for another one: each reads on when it is refused."""

    def __init__(self) -> None:
        super().__init__()
        self.log, self.room, self.told, self.clock = MemoryStore(), set[int](), Counter(), Clock()
        self.all: list[Driver] = []

    @initialize(
        strategy=st.sampled_from(["random", "asha", "hyperband", "median", "pbt", "halving"]), seed=st.integers(0, 99)
    )
    def begin(self, strategy, seed):
        self.strategy = build(strategy)
        study = Study("s", SPACE, Objective("val_loss", True), EPOCHS, Budget(BUDGET), seed, strategy)
        self.all = [Driver(self.log, self.room, self.clock, study)]

    def pick(self, which) -> Driver:
        return self.all[which % len(self.all)]

    @precondition(lambda self: len(self.all) < 3)
    @rule()
    def another_one_comes(self):
        self.all.append(Driver(self.log, self.room, self.clock, None))

    @rule(which=st.integers(0, 2))
    def ask(self, which):
        driver = self.pick(which)
        if len(driver.held) >= 2:
            return
        job = driver.book.next(self.strategy)
        driver.let_go()
        if isinstance(job, Job):
            assert job.trial not in driver.held
            assert driver.book.holds(job.trial)
            driver.held[job.trial] = job.start
        elif isinstance(job, Wait):
            assert driver.book.history.running or driver.book.history.paused

    def hear(self, driver: Driver, *events) -> None:
        for what in driver.book.hear_all(events, self.strategy):
            if isinstance(what, ev.Reported):
                self.told[what.trial, what.epoch] += 1
            elif isinstance(what, ev.Requeued):
                driver.owe([what])
            elif isinstance(what, ev.Stopped | ev.Failed | ev.Ended):
                driver.held.pop(what.trial, None)
        driver.let_go()

    @rule(which=st.integers(0, 2), many=st.integers(1, 4), losses=st.tuples(st.floats(0.0, 9.0), st.floats(0.0, 9.0)))
    def train(self, which, many, losses):
        """What all workers of a driver say is heard at once."""
        driver, said = self.pick(which), []
        for i, (trial, at) in enumerate(list(driver.held.items())):
            until = driver.book.history.trials[trial].until
            epochs = range(at + 1, min(until, at + many) + 1)
            said += [ev.Reported(trial, e, {"val_loss": losses[i % 2] + 1 / e}, 0.5) for e in epochs]
            driver.held[trial] = max([at, *epochs])
            if driver.held[trial] == until:
                said.append(ev.Ended(trial, until, checkpoint=f"t{trial}/{until}"))
        self.hear(driver, *said)

    @rule(which=st.integers(0, 2), kind=st.sampled_from(["killed", "raised", "saved", "unsaved"]))
    def fail(self, which, kind):
        driver = self.pick(which)
        if not driver.held:
            return
        trial, at = next(iter(driver.held.items()))
        if kind == "saved":
            self.hear(driver, ev.Interrupted(trial, at, f"t{trial}/{at}" if at else None))
        elif kind == "unsaved":
            self.hear(driver, ev.Unsaved(trial, at, "no space left on device"))
        else:
            self.hear(driver, ev.Failed(trial, kind, "it happens"))

    @rule(trial=st.integers(0, 5), what=st.sampled_from(["stop", "pause", "resume", "resume"]))
    def somebody_asks(self, trial, what):
        entries = self.log.read()
        made = {"stop": ev.StopAsked(trial), "pause": ev.PauseAsked(), "resume": ev.ResumeAsked()}
        self.log.append([Entry(entries[-1].at, made[what])], len(entries))

    @rule(which=st.integers(0, 2))
    def look(self, which):
        self.pick(which).look()

    @precondition(lambda self: len(self.all) > 1)
    @rule(which=st.integers(0, 2))
    def one_is_killed(self, which):
        self.all.remove(dead := self.pick(which))
        dead.seat.close()

    @rule(which=st.integers(0, 2))
    def one_loses_its_connection_for_a_while(self, which):
        """The others look just then, and take over what it has; it goes on, and hears of it when it is refused."""
        lost = self.pick(which)
        self.room.discard(lost.seat.number)
        for other in self.all:
            if other is not lost:
                other.look()
        self.room.add(lost.seat.number)

    @invariant()
    def the_log_tells_all(self):
        if not self.all:
            return
        entries = self.log.read()
        history = fold(entries)
        assert history.committed <= BUDGET
        assert {(t.id, r.epoch) for t in history.trials for r in t.reports} == set(self.told)
        assert all(n == 1 for n in self.told.values())
        assert [e.at for e in entries] == sorted(e.at for e in entries)
        assert history.finished is None or not history.running
        assert len({d.book.driver for d in self.all}) == len(self.all)
        for driver in self.all:
            assert driver.book.history == fold(entries[: driver.book.history.length])

    def teardown(self):
        if not self.all:
            return
        self.somebody_asks(0, "resume")
        for _ in range(300):  # left to themselves they end the study
            for driver in self.all:
                driver.look()
                while len(driver.held) < 2 and isinstance(job := driver.book.next(self.strategy), Job):
                    driver.held[job.trial] = job.start
            for driver in self.all:
                driver.look()
            # All have looked: each running trial is in the hands of one driver that lives.
            history = self.log.fold()
            assert sorted(i for d in self.all for i in d.held) == sorted(history.running)
            if history.finished is not None:
                break
            for which in range(len(self.all)):
                self.train(which, EPOCHS, (1.0, 2.0))
        self.the_log_tells_all()
        for driver in self.all:
            assert isinstance(driver.book.next(self.strategy), Done)
        entries = self.log.read()
        assert replay(entries, self.strategy) == fold(entries).decisions


SETTINGS = settings(
    max_examples=60, stateful_step_count=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
TestMachine = Machine.TestCase
TestMachine.settings = SETTINGS
TestDrivers = Drivers.TestCase
TestDrivers.settings = SETTINGS


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(books, "MISSED", 0.0)
