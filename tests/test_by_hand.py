"""What is asked of a running study from outside: stop, pause, resume, a configuration added by hand."""

from __future__ import annotations

import threading
import time

import pytest
from conftest import EVERY, bowl, log_of

import luthier as lt
from luthier.contracts import Done
from luthier.core import events as ev
from luthier.core.errors import Conflict, UserError
from luthier.core.history import Entry, fold
from luthier.core.study import Objective, Study
from luthier.core.trial import Status
from luthier.knowledge import default_config
from luthier.run import book as books
from luthier.run.book import Book
from luthier.run.decisions import replay
from luthier.run.memory import MemoryStore
from luthier.strategies import build

BY_HAND = {
    "learning_rate": 0.00123,
    "optimizer": "adamw",
    "depth": 2,
    "width": 64,
    "epochs_frozen": 2,
}


def ask(study: lt.AskTell, event: ev.Asked) -> None:
    """As the dashboard does it: into the log, past the study's own book."""
    store = study._book._store
    store.append([Entry(time.time(), event)], len(tuple(store.read())))


@pytest.fixture(autouse=True)
def _attentive(monkeypatch):
    monkeypatch.setattr(books, "LISTENS", 0.0)


@pytest.mark.parametrize("strategy", EVERY)
def test_every_strategy_bears_what_is_asked_by_hand_and_replays(space, strategy):
    study = lt.AskTell(space, minimize="val_loss", max_epochs=9, budget="14 trials", strategy=strategy, seed=3)
    many = 0
    while job := study.ask():
        many += 1
        if many == 3:
            ask(study, ev.ConfigAsked(BY_HAND))
        if many in (4, 9):
            ask(study, ev.StopAsked(job.trial))
        if many == 7:
            ask(study, ev.StopAsked(0))
        for epoch in range(job.start + 1, job.until + 1):
            if study.tell(job, epoch, val_loss=bowl(job.config, epoch)) == "stop":
                break
        assert many < 500
    history = study.history
    (added,) = [t for t in history.trials if t.by_hand]
    assert dict(added.config) == BY_HAND
    assert (added.why, added.until, added.stage) == ("added by hand", 9, None)
    assert history.to_start == ()
    assert history.stops == ()
    assert any(t.stop_why == "stopped by hand" for t in history.trials)
    assert replay(log_of(study), build(strategy)) == history.decisions
    assert fold(log_of(study)) == history


def test_what_was_added_by_hand_takes_no_place_in_the_experts_portfolio(space):
    def begun(by_hand: int) -> list[dict]:
        study = lt.AskTell(space, minimize="val_loss", max_epochs=9, budget="14 trials", strategy="expert")
        for _ in range(by_hand):
            ask(study, ev.ConfigAsked(BY_HAND))
        jobs = [study.ask() for _ in range(3 + by_hand)]
        return [dict(job.config) for job in jobs[by_hand:]]

    assert begun(1) == begun(0)


def test_a_pause_hands_out_nothing_and_takes_no_time(space):
    study = lt.AskTell(space, minimize="val_loss", max_epochs=3, budget="3 trials", strategy="random")
    job = study.ask()
    ask(study, ev.PauseAsked())
    for epoch in (1, 2, 3):
        study.tell(job, epoch, val_loss=1.0 / epoch)
    assert study.history.trials[0].status is Status.DONE
    waits = study.ask()
    assert not isinstance(waits, Done)
    assert not waits
    assert waits.why == "paused by hand"
    store = study._book._store
    before = study.history.elapsed
    store.append([Entry(study.history.last_at + 1e6, ev.ResumeAsked())], study.history.length)
    store_clock = study.history.last_at + 1e6 + 1.0
    study._book._clock = lambda: store_clock
    assert study.ask().trial == 1
    assert study.history.elapsed == pytest.approx(before + 1.0)


def test_what_is_asked_while_nobody_drives_takes_no_time(space):
    study = lt.AskTell(space, minimize="val_loss", max_epochs=3, budget="3 trials", strategy="random")
    study.ask()
    history = study.history
    later = history.then(Entry(history.last_at + 1e6, ev.PauseAsked()))
    assert (later.elapsed, later.last_at, later.decisions) == (history.elapsed, history.last_at, history.decisions)


def test_a_configuration_by_hand_costs_a_grid_no_cell():
    space = lt.Space(width=lt.Choice(1, 2, 3))
    study = lt.AskTell(space, minimize="val_loss", max_epochs=1, budget="9 trials", strategy="grid")
    seen = []
    while job := study.ask():
        if not seen:
            ask(study, ev.ConfigAsked({"width": 3}))
        seen.append(job.config["width"])
        study.tell(job, 1, val_loss=1.0)
    assert sorted(seen) == [1, 2, 3, 3]
    assert seen[1] == 3


@pytest.mark.parametrize("strategy", ["halving", "hyperband", "bohb", "priorband"])
def test_a_configuration_by_hand_takes_no_place_in_a_bracket(space, strategy):
    study = lt.AskTell(space, minimize="val_loss", max_epochs=9, budget="30 trials", strategy=strategy)
    ask(study, ev.ConfigAsked(BY_HAND))
    added = study.ask()  # trains all the while
    first = [study.ask() for _ in range(9)]
    assert [j.until for j in first] == [1] * 9
    for job in first:
        study.tell(job, 1, val_loss=bowl(job.config, 1))
    promoted = study.ask()
    best = min(first, key=lambda j: bowl(j.config, 1))
    assert (promoted.trial, promoted.until) == (best.trial, 3)
    assert added.trial in study.history.running
    assert replay(log_of(study), build(strategy)) == study.history.decisions


def test_a_configuration_by_hand_is_trained_also_beyond_the_budget(space):
    study = lt.AskTell(space, minimize="val_loss", max_epochs=3, budget="2 trials", strategy="random")
    jobs = []
    while job := study.ask():
        jobs.append(job)
        if len(jobs) == 2:  # nothing is left for others
            ask(study, ev.ConfigAsked(BY_HAND))
        for epoch in (1, 2, 3):
            study.tell(job, epoch, val_loss=1.0 / epoch)
    assert [(j.trial, j.until) for j in jobs] == [(0, 3), (1, 3), (2, 3)]
    assert dict(jobs[2].config) == BY_HAND
    assert (study.history.spent, study.history.study.budget.epochs) == (9, 6)
    assert replay(log_of(study), build("random")) == study.history.decisions


def trained_all(study: lt.AskTell) -> lt.AskTell:
    while job := study.ask():
        for epoch in range(job.start + 1, job.until + 1):
            if study.tell(job, epoch, val_loss=bowl(job.config, epoch)) == "stop":
                break
    return study


KNOWN = [{"learning_rate": 0.002, "depth": 3}, {"optimizer": "sgd", "nesterov": True}]


@pytest.mark.parametrize("strategy", ["random", "grid", "asha", "pbt", "expert", "playbook"])
def test_what_is_enqueued_is_trained_first_at_full_length(space, strategy):
    study = lt.AskTell(
        space, minimize="val_loss", max_epochs=9, budget="14 trials", strategy=strategy, enqueue=[*KNOWN, KNOWN[0]]
    )
    trained_all(study)
    one, two, *rest = study.history.trials
    assert one.config == {**default_config(space), **KNOWN[0]}
    assert two.config == default_config(space, KNOWN[1])
    assert two.config["momentum"] == 0.9  # the strong default of it, which 0.895 in the middle of the range is not
    assert [t.until for t in (one, two)] == [9, 9]
    assert not any(t.by_hand for t in rest)
    assert study.history.spent <= 14 * 9
    assert replay(log_of(study), build(strategy)) == study.history.decisions


def test_a_study_that_goes_on_trains_no_configuration_twice(space, tmp_path):
    def opened(*configs, budget="4 trials"):
        return lt.AskTell(
            space, minimize="val_loss", max_epochs=2, budget=budget, strategy="random", storage=tmp_path / "a.db",
            enqueue=configs,
        )  # fmt: skip

    first = opened(*KNOWN)
    job = first.ask()
    first.close()
    again = opened(*KNOWN)
    assert again.ask() == job  # the one that was never told to its end
    again.enqueue(KNOWN[1])
    trained_all(again).close()
    more = opened(*KNOWN, {"learning_rate": 0.05}, budget="6 trials")
    history = trained_all(more).history
    more.close()
    added = [t.id for t in history.trials if t.by_hand]
    assert added == [0, 1, 4]
    assert history.trials[4].config["learning_rate"] == 0.05
    assert len(history.trials) == 6
    with pytest.raises(UserError, match=r"The study is finished .*; it trains no configuration that is added now"):
        opened({"learning_rate": 0.06}, budget="6 trials")
    opened(*KNOWN, budget="6 trials").close()  # nothing new, as when a finished script is run again


@pytest.mark.parametrize(
    ("configs", "said"),
    [
        ({"learning_rate": 0.01}, r"enqueue= must be a list of configurations, got \{'learning_rate': 0.01\}"),
        ([KNOWN[0], {"learning_rat": 0.01}], r"Configuration 2 of 2 .*'learning_rat' is not in .*'learning_rate'"),
        ([{"learning_rate": 3.0}], r"enqueue: learning_rate: 3.0 is not in \[1e-05, 0.1\]"),
        ([{"optimizer": "adam"}], r"enqueue: optimizer: 'adam' is none of \['adamw', 'sgd'\]"),
        ([{"optimizer": "adamw", "momentum": 0.9}], r"momentum has no effect .*It needs optimizer is sgd"),
        ([{}], "The configuration is empty"),
        ([{"depth": d} for d in (1, 2, 3, 4)], r"take 8 epochs, and the budget of 6 epochs has 6 left"),
    ],
)  # fmt: skip
def test_what_cannot_be_enqueued_is_refused_before_anything_is_written(space, tmp_path, configs, said):
    place = tmp_path / "study.db"
    asked = {"minimize": "val_loss", "max_epochs": 2, "budget": "3 trials", "strategy": "random", "storage": place}
    with pytest.raises(UserError, match=said):
        lt.AskTell(space, **asked, enqueue=configs)
    with pytest.raises(UserError, match=said):
        lt.tune(lambda trial: None, space, **asked, workers=0, quiet=True, enqueue=configs)
    assert list(tmp_path.iterdir()) == []


def test_time_that_is_up_starts_nothing_that_was_enqueued(space):
    many = [{"depth": d} for d in (1, 2, 3)]
    study = lt.AskTell(space, minimize="val_loss", max_epochs=2, budget="60 s", strategy="random", enqueue=many)
    job = study.ask()
    later = study.history.last_at + 61
    study._book._clock = lambda: later
    assert study.tell(job, 1, val_loss=1.0) == "stop"
    assert isinstance(study.ask(), Done)
    assert len(study.history.trials) == 1
    assert len(study.history.to_start) == 2  # for a larger budget


def test_a_known_good_configuration_that_the_stages_do_not_reach_is_proven():
    known = {"learning_rate": 0.05, "dropout": 0.43, "width": 31}
    space = lt.Space(
        learning_rate=lt.Float(1e-5, 1e-1, log=True), dropout=lt.Float(0.0, 0.5), width=lt.Int(16, 256, log=True)
    )

    def loss(job, epoch):
        apart = sum(abs(space[n].to_unit(job.config[n]) - space[n].to_unit(v)) for n, v in known.items())
        luck = (job.seed % 97) / 97 * 0.02
        here = 0.3 if job.horizon == 9 else 2.0  # a short training does not show it
        return (here if apart < 0.05 else 1.0 + 0.1 * apart) + 1.0 / epoch + luck

    study = lt.AskTell(space, minimize="val_loss", max_epochs=9, budget="30 trials", enqueue=[known])
    while job := study.ask():
        for epoch in range(job.start + 1, job.until + 1):
            if study.tell(job, epoch, val_loss=loss(job, epoch)) == "stop":
                break
    assert study.best_config == known
    assert study.summary.confirmation.proven
    assert replay(log_of(study), build("playbook")) == study.history.decisions


SMALL = lt.Space(
    optimizer=lt.Choice("adamw", "sgd"),
    learning_rate=lt.Float(1e-5, 1.0, log=True),
    momentum=lt.Float(0.8, 0.99, when={"optimizer": "sgd"}),
    dropout=lt.Float(0.0, 0.5),
    width=lt.Int(16, 256, log=True),
)
FOUND = {"optimizer": "sgd", "learning_rate": 0.3, "momentum": 0.95, "dropout": 0.4, "width": 200}
POOR = {"optimizer": "adamw", "learning_rate": 1e-5, "dropout": 0.5, "width": 16}


def landscape(job, epoch) -> float:
    """Best near ``FOUND``."""
    config = {"momentum": 0.8, **job.config}
    apart = sum(abs(SMALL[n].to_unit(config[n]) - SMALL[n].to_unit(v)) for n, v in FOUND.items() if n != "optimizer")
    return apart + (config["optimizer"] != "sgd") + 1.0 / epoch


def played(space=SMALL, budget="24 trials", workers=1, **more) -> lt.AskTell:
    study = lt.AskTell(space, minimize="val_loss", max_epochs=12, budget=budget, **more)
    out: list = []
    while True:
        while len(out) < workers and (job := study.ask()):
            out.append([job, job.start])
        if not out:
            break
        for each in list(out):
            each[1] += 1
            if study.tell(each[0], each[1], val_loss=landscape(each[0], each[1])) == "stop":
                out.remove(each)
    assert replay(log_of(study), build("playbook")) == study.history.decisions
    assert study.history.spent <= study.history.study.budget.epochs
    return study


def first_look(history):
    return next(s for s in history.stages if s.name == "learning rate")


@pytest.mark.parametrize("workers", [1, 3])
def test_the_playbook_goes_on_from_what_was_enqueued_where_that_is_better_than_the_strong_default(workers):
    history = played(enqueue=[POOR, FOUND] if workers == 1 else [FOUND, POOR], workers=workers).history
    rates = first_look(history)
    assert rates.notes["known"] == FOUND
    trials = [history.trials[i] for i in rates.trials]
    assert trials[0].config == default_config(SMALL)
    beside = next(t for t in trials if t.why.startswith("the best that was added by hand"))
    assert (beside.config, beside.horizon, beside.seed) == (FOUND, trials[0].horizon, trials[0].seed)
    assert rates.settled["optimizer"] == "sgd"
    assert rates.settled["learning_rate"] > 0.1
    assert {n: rates.numbers["start"][n] for n in ("dropout", "width")} == {"dropout": 0.4, "width": 200}
    assert any("sgd" not in t.config.values() and t.config["width"] == 200 for t in trials)  # adamw beside it
    schedule = [history.trials[i] for s in history.stages if s.name == "capacity" for i in s.trials]
    assert all(t.config["dropout"] == 0.4 for t in schedule)
    confirmed = history.stage("confirm")
    assert confirmed.numbers["better"]
    assert {t.config["width"] for t in history.trials if t.notes.get("arm") == "default"} == {63}


def test_what_was_enqueued_and_is_worse_changes_nothing_but_one_short_training():
    plain, given = played().history, played(budget="25 trials", enqueue=[POOR]).history
    ours, theirs = first_look(given), first_look(plain)
    assert ours.notes["known"] == POOR
    assert "known" not in theirs.notes
    asked, before = ([h.trials[i].config for i in s.trials] for h, s in ((given, ours), (plain, theirs)))
    assert asked.count(POOR) == 1
    assert [config for config in asked if config != POOR] == before
    assert (ours.settled, ours.numbers) == (theirs.settled, theirs.numbers)


def test_what_was_enqueued_and_failed_is_no_place_to_begin():
    study = lt.AskTell(SMALL, minimize="val_loss", max_epochs=12, budget="24 trials", enqueue=[FOUND])
    study.fail(study.ask(), "broken")
    while study.history.stage("learning rate") is None:
        job = study.ask()
    assert job.config == default_config(SMALL)
    assert "known" not in study.history.stage("learning rate").notes


def test_the_expert_takes_its_range_test_after_what_was_enqueued(space):
    study = Study("s", space, Objective("val_loss", True), 4, seed=0, strategy="expert", probes=("lr_range",))
    book = Book.create(MemoryStore(), study)
    book.enqueue([BY_HAND])
    expert = build("expert")
    assert book.next(expert).config == BY_HAND
    assert book.next(expert).probe == "lr_range"


def test_another_driver_is_still_a_conflict(space):
    store = MemoryStore()
    study = lt.AskTell(space, minimize="val_loss", max_epochs=2, budget="3 trials", strategy="random")
    study._book = Book.create(store, study.history.study)
    study.ask()
    store.append([Entry(time.time(), ev.Opened("0.1.0"))], study.history.length)
    with pytest.raises(Conflict):
        study.ask()


def test_a_trial_of_a_worker_process_ends_when_asked(tmp_path):
    place = tmp_path / "study.db"

    def train(trial):
        import time

        for epoch in trial.epochs():
            time.sleep(0.02)
            trial.report(val_loss=1.0 / epoch + trial.config["x"])

    def asks():
        from luthier.store import SqlStore, locate

        store = SqlStore(locate(place), "train")
        deadline = time.time() + 20
        while time.time() < deadline:
            entries = list(store.read())
            if any(isinstance(e.event, ev.Reported) for e in entries):
                try:
                    store.append([Entry(time.time(), ev.StopAsked(0))], len(entries))
                    store.append([Entry(time.time(), ev.ConfigAsked({"x": 0.25}))], len(entries) + 1)
                    return
                except Conflict:
                    continue
            time.sleep(0.01)

    thread = threading.Thread(target=asks)
    thread.start()
    result = lt.tune(
        train, {"x": lt.Float(0.0, 1.0)}, minimize="val_loss", max_epochs=60, budget="100 epochs", strategy="random",
        storage=place, quiet=True,
    )  # fmt: skip
    thread.join()
    first, second = result.trials()[:2]
    assert (first.status, first.stop_why) == (Status.STOPPED, "stopped by hand")
    assert first.epoch < 60
    assert second.config == {"x": 0.25}
    assert second.by_hand
