"""Several drivers on one study in PostgreSQL: nothing lost, nothing doubled, and who dies is stood in for."""

from __future__ import annotations

import json
import signal
import time
from contextlib import closing

import pytest
import two_drivers
from conftest import bowl

import luthier as lt
from luthier.contracts import Done, Wait
from luthier.core import events as ev
from luthier.core.errors import RunError, UserError
from luthier.run import book as books
from luthier.run.book import Book
from luthier.run.decisions import replay
from luthier.store import SqlStore, locate, open_store
from luthier.strategies import build


@pytest.fixture
def attentive(monkeypatch):
    monkeypatch.setattr(books, "LISTENS", 0.0)
    monkeypatch.setattr(books, "MISSED", 0.0)


def asking(space, database, strategy="random", **more) -> lt.AskTell:
    given = {"minimize": "val_loss", "max_epochs": 4, "budget": "6 trials", **more}
    return lt.AskTell(space, strategy=strategy, storage=database, **given)


def until(condition, seconds: float = 120.0) -> None:
    """Wait for other processes."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


# -- processes ---------------------------------------------------------------------------------------------------------


def test_two_drivers_share_a_study_without_loss_or_double(database, tmp_path):
    both = [two_drivers.start(database, tmp_path, trials=60, workers=2, epochs=2) for _ in range(2)]
    said = [json.loads(d.communicate(timeout=240)[0].splitlines()[-1]) for d in both]
    assert [d.returncode for d in both] == [0, 0]
    found = two_drivers.check(locate(database), trials=60, epochs=2)
    assert found["decisions"] == 61
    assert sum(s["appends"] for s in said) > 60  # each decision is one; reports may come together
    logs = {p.name: p.read_text() for p in (tmp_path / two_drivers.NAME / "logs").iterdir()}
    assert sorted(logs) == [f"worker-{driver}-{worker}.log" for driver in (1, 2) for worker in (0, 1)]
    with closing(open_store(database, two_drivers.NAME)) as log:
        for trial in log.fold().trials:  # in the log of one of its own driver's workers, and nowhere else
            within = [name for name, text in logs.items() if f"--- trial {trial.id}, " in text]
            assert [name.split("-")[1] for name in within] == [str(trial.driver)]


def test_a_living_driver_finishes_what_a_killed_one_had_begun(database, tmp_path):
    gate = tmp_path / "gate"
    both = [two_drivers.start(database, tmp_path, trials=8, workers=2, epochs=2, gate=str(gate)) for _ in range(2)]

    def held() -> dict[int, set[int]]:
        with closing(SqlStore(locate(database), two_drivers.NAME)) as log:
            history = log.fold()
        by: dict[int, set[int]] = {}
        for i in history.running if history is not None else ():
            if history.trials[i].epoch == 1:
                by.setdefault(history.trials[i].driver, set()).add(i)
        return by

    until(lambda: sorted(map(len, held().values())) == [2, 2])  # each has two that wait at the gate
    both[0].send_signal(signal.SIGKILL)
    both[0].communicate()
    gate.touch()
    both[1].communicate(timeout=120)
    assert both[1].returncode == 0
    two_drivers.check(locate(database), trials=8, epochs=2)
    with closing(open_store(database, two_drivers.NAME)) as log:
        back = [e.event for e in log.read() if isinstance(e.event, ev.Requeued)]
        history = log.fold()
    assert len(back) == 2
    assert {b.driver for b in back} == {t.driver for t in history.trials}  # all is the survivor's in the end
    assert not any(b.blame for b in back)


# -- two of them, step by step -----------------------------------------------------------------------------------------


def test_each_holds_its_own_trials_and_both_see_all(space, database, attentive):
    with closing(asking(space, database)) as one, closing(asking(space, database)) as two:
        a, b, c = one.ask(), two.ask(), one.ask()
        assert [j.trial for j in (a, b, c)] == [0, 1, 2]
        assert (one._book.driver, two._book.driver) == (1, 2)
        assert two.tell(a, 1, val_loss=1.0) == "stop"  # not two's to tell
        assert one.tell(a, 1, val_loss=1.0) == "continue"
        assert two.tell(b, 1, val_loss=1.0) == "continue"
        two.ask()
        assert [t.driver for t in two.history.trials] == [1, 2, 1, 2]
        assert [t.epoch for t in two.history.trials] == [1, 1, 0, 0]


def test_verdicts_are_reached_anew_on_what_the_other_one_reported(space, database, attentive):
    """Median stopping compares with the others: reports of both drivers come in turn, and all decisions replay."""
    with (
        closing(asking(space, database, "median", budget="14 trials", max_epochs=6)) as one,
        closing(asking(space, database, "median", budget="14 trials", max_epochs=6)) as two,
    ):
        out: list = []
        ended = False
        while not ended or out:
            for who in (one, two):
                job = who.ask()
                if job:
                    out.append([who, job, job.start])
                ended = isinstance(job, Done)
            for each in list(out):
                who, job, epoch = each
                each[2] = epoch + 1
                if who.tell(job, epoch + 1, val_loss=bowl(job.config, epoch + 1)) == "stop":
                    out.remove(each)
        assert isinstance(one.ask(), Done)
        assert isinstance(two.ask(), Done)
    with closing(open_store(database)) as log:
        entries = list(log.read())
        history = log.fold()
    assert sum(isinstance(e.event, ev.Stopped) for e in entries) > 0
    assert {t.driver for t in history.trials} == {1, 2}
    assert replay(entries, build("median")) == history.decisions


def test_who_has_nothing_to_do_waits_for_the_others_jobs(space, database, attentive):
    with (
        closing(asking(space, database, budget="2 trials")) as one,
        closing(asking(space, database, budget="2 trials")) as two,
    ):
        jobs = [one.ask(), one.ask()]
        waits = two.ask()
        assert isinstance(waits, Wait)
        for job in jobs:
            for epoch in range(1, 5):
                one.tell(job, epoch, val_loss=1.0)
        assert isinstance(two.ask(), Done)
        assert isinstance(one.ask(), Done)
        assert one.history.finished == two.history.finished


def test_what_a_driver_that_left_had_out_is_handed_out_again(space, database, attentive):
    one, two = asking(space, database), asking(space, database)
    job = one.ask()
    one.tell(job, 1, val_loss=1.0)
    assert two.ask().trial == 1
    one.close()
    again = two.ask()
    assert (again.trial, again.config) == (0, job.config)
    two.close()
    with closing(asking(space, database)) as three:  # both are gone
        assert {three.ask().trial, three.ask().trial} == {0, 1}
        assert three._book.driver == 3
        assert three.ask().trial == 2


def test_a_driver_taken_for_dead_gives_up_what_was_taken_over(space, database, attentive):
    with closing(asking(space, database)) as one, closing(asking(space, database)) as two:
        job = one.ask()
        one._store._pen.hang_up()  # its connection is gone, and nothing has been written since
        until(lambda: 1 not in two._store.drivers.living())
        assert two.ask().trial == job.trial
        assert one.tell(job, 1, val_loss=1.0) == "stop"
        assert one.history.trials[0].driver == 2
        assert one.ask().trial == 1
        assert two._store.drivers.living() == {1, 2}


def test_a_driver_holds_on_to_its_place_while_it_has_nothing_to_say(space, database, attentive):
    with closing(asking(space, database)) as one, closing(asking(space, database)) as two:
        job = one.ask()
        one._store._pen.hang_up()
        until(lambda: 1 not in two._store.drivers.living())
        one._book.obey()  # as the loop does twice a second
        assert two._store.drivers.living() == {1, 2}
        assert two.ask().trial != job.trial


def test_time_is_counted_once_however_many_drive(space, database, attentive):
    class Clock:
        def __init__(self, now: float) -> None:
            self.now = now

        def __call__(self) -> float:
            return self.now

    with closing(asking(space, database)) as one, closing(asking(space, database)) as two:
        begin = two.history.elapsed
        early = one._book._clock = Clock(two.history.last_at)
        late = two._book._clock = Clock(two.history.last_at + 50.0)  # its clock is fast
        a, b = one.ask(), two.ask()
        for epoch in (1, 2, 3):
            early.now += 1.0
            late.now += 1.0
            one.tell(a, epoch, val_loss=1.0)
            two.tell(b, epoch, val_loss=1.0)
        one.ask()
        assert one.history.elapsed - begin == pytest.approx(53.0)  # once, and not at each turn


def test_the_floor_lets_a_slow_decision_be_taken(space, database, attentive, monkeypatch):
    """Whatever it decides, the other one has appended meanwhile: until it asks for the floor."""
    with closing(asking(space, database)) as one, closing(asking(space, database)) as two:
        job = one.ask()
        real, tries = books.next_action, []

        def slow(history, scheduler):
            tries.append(len(tries))
            if len(tries) <= books.ATTEMPTS:
                one.tell(job, len(tries) % 4 or 1, val_loss=1.0)
                one._book.append(ev.Unsaved(job.trial, 1, "meanwhile"))
            return real(history, scheduler)

        monkeypatch.setattr(books, "next_action", slow)
        assert two.ask().trial == 1
        assert len(tries) == books.ATTEMPTS + 1


def test_a_mistake_is_removed_only_while_nobody_else_is_there(space, database, tmp_path):
    def broken(trial):
        raise RuntimeError("no GPU today")

    given = {"minimize": "val_loss", "max_epochs": 2, "strategy": "random", "workers": 0, "quiet": True}
    with pytest.raises(UserError, match="never reported"):
        lt.tune(lambda trial: trial.report(odd=1.0), space, storage=database, files=tmp_path / "f", name="s", **given)
    with pytest.raises(UserError, match="holds no study yet"):
        open_store(database)
    with closing(SqlStore(locate(database), "s")) as log:
        study = lt.AskTell(space, minimize="val_loss", max_epochs=2, strategy="random", name="s").history.study
        book = Book.create(log, study)
        book.enter("test")
        with pytest.raises((RunError, UserError)):
            lt.tune(broken, space, storage=database, files=tmp_path / "f", name="s", **given)
        assert log.fold() is not None


def test_two_on_one_file_are_told_that_there_may_be_one(space, tmp_path):
    one = asking(space, tmp_path / "s.db")
    two = asking(space, tmp_path / "s.db")
    assert one._book.driver == two._book.driver == 0
    two.ask()
    with pytest.raises(lt.LuthierError, match="Another driver has taken the study"):
        one.ask()
