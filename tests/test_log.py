"""The log: events as text, the fold, the stores."""

from __future__ import annotations

import json
import math
import multiprocessing
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import drive, log_of
from hypothesis import given
from hypothesis import strategies as st

import luthier as lt
from luthier.core import events as ev
from luthier.core.errors import Conflict, StorageError, UserError
from luthier.core.history import Entry, fold, start
from luthier.core.metrics import guess_direction
from luthier.core.rows import Rows
from luthier.core.study import Budget, Objective, Study
from luthier.core.trial import Status
from luthier.run.book import Book
from luthier.run.memory import MemoryStore
from luthier.store import SqlStore, files_beside, locate, open_store, study_names
from luthier.strategies import build


def study(**changes) -> Study:
    given = {
        "name": "s",
        "space": lt.Space(lr=lt.Float(0.0, 1.0)),
        "objective": Objective("val_loss", True),
        "max_epochs": 9,
        "budget": Budget(90),
    }
    return Study(**{**given, **changes})


def started(trial: int, until: int = 9, **more) -> ev.Started:
    return ev.Started(trial, {"lr": 0.5}, seed=trial, until=until, horizon=9, why="because", **more)


def history_of(*events: ev.Event, **changes):
    every = (ev.Created(study(**changes)), *events)
    return fold(Entry(float(i), e) for i, e in enumerate(every))


EVERY_EVENT = [
    ev.Created(study(target={"reference": "a.py:f"}, probes=("sanity",))),
    ev.Opened("0.1"),
    ev.StageOpened("learning rate", "first things first", 40.0),
    started(0, notes={"arm": "winner", "pair": 1}),
    ev.Reported(0, 1, {"val_loss": 0.5, "odd": float("nan"), "big": float("inf")}, 0.25),
    ev.Requeued(0, "killed", blame=True),
    ev.Ended(0, 3, checkpoint="checkpoints/trial-00000/epoch-00003.ckpt"),
    ev.Resumed(0, 9, "rank 1"),
    ev.Stopped(0, 4, "hopeless"),
    started(1),
    ev.Failed(1, "raised", "ValueError: x", "Traceback"),
    ev.StageClosed("learning rate", "0.5", "a table", {"lr": 0.5}, {"length": 9}),
    ev.SpaceChanged(lt.Space(lr=lt.Float(0.0, 2.0)), "the best lay at the edge"),
    ev.BudgetChanged(Budget(seconds=60.0)),
    ev.Finished("done"),
    ev.TargetChanged({"reference": "/new/place.py:train"}),
]


@pytest.mark.parametrize("event", EVERY_EVENT, ids=lambda e: type(e).__name__)
def test_every_event_survives_strict_json(event):
    kind, data = ev.encode(event)
    text = json.dumps(data, allow_nan=False)
    again = ev.decode(kind, json.loads(text))
    assert ev.encode(again) == ev.encode(event)
    assert repr(again) == repr(event).replace("(1, )", "(1,)")


def test_a_stored_log_folds_to_the_same_history_as_the_live_one(tmp_path):
    store = SqlStore(locate(tmp_path / "s.db"), "s")
    entries = [Entry(float(i), e) for i, e in enumerate(EVERY_EVENT)]
    store.append(entries[:4], 0)
    store.append(entries[4:], 4)
    assert repr(fold(store.read())) == repr(fold(entries))
    assert len(list(store.read(after=10))) == len(entries) - 10


def event_by_event(entries):
    history = start(entries[0])
    for entry in entries[1:]:
        history = history.then(entry)
    return history


@pytest.mark.parametrize("strategy", ["playbook", "expert", "hyperband", "pbt", "median"])
def test_opening_at_once_gives_the_same_history_as_event_by_event(tmp_path, space, strategy, monkeypatch):
    study = drive(space, strategy, fail=lambda trial: trial % 7 == 3, constraints={"val_loss": "<= 2.5"})
    entries = list(log_of(study))
    some = entries[len(entries) // 2]
    entries.insert(entries.index(some), Entry(some.at + 100.0, ev.Opened("2")))  # and the clock goes back after it
    slow = event_by_event(entries)
    assert fold(entries) == slow
    monkeypatch.setattr("luthier.store.sql.CHUNK", 7)
    store = SqlStore(locate(tmp_path / "s.db"), "s")
    store.append(entries, 0)
    opened = store.fold()
    assert repr(opened) == repr(slow)  # to the last digit
    assert opened == slow
    assert opened.ranked() == slow.ranked()


def test_reports_of_older_logs_are_read(tmp_path):
    store = SqlStore(locate(tmp_path / "s.db"), "s")
    store.append([Entry(0.0, ev.Created(study())), Entry(1.0, started(0))], 0)
    old = '{"trial": 0, "epoch": 1, "metrics": {"val_loss": 0.5, "odd": "nan"}, "seconds": 0.25}'
    link = sqlite3.connect(tmp_path / "s.db")
    link.execute("INSERT INTO events VALUES (1, 2, 2.0, 'Reported', ?)", (old,))
    link.commit()
    link.close()
    (report,) = store.fold().trials[0].reports
    assert (report.epoch, report.metrics["val_loss"], report.seconds) == (1, 0.5, 0.25)
    assert repr(fold(store.read())) == repr(store.fold())


def test_the_fold_tells_a_trials_story():
    history = history_of(
        started(0, until=3),
        ev.Reported(0, 1, {"val_loss": 3.0}),
        ev.Reported(0, 2, {"val_loss": 1.0}),
        ev.Reported(0, 3, {"val_loss": 2.0}),
        ev.Ended(0, 3, checkpoint="c"),
        started(1),
        ev.Reported(1, 1, {"val_loss": 9.0}),
    )
    first, second = history.trials
    assert (first.status, first.epoch, history.score(first)) == (Status.PAUSED, 3, 1.0)
    assert history.loss_at(first, 1) == 3.0
    assert history.incumbent is first
    assert history.running == (1,)
    assert (history.spent, history.committed, history.epochs_left) == (4, 12, 78)
    assert history.decisions == 2
    last = history_of(
        started(0, until=3),
        ev.Reported(0, 1, {"val_loss": 1.0}),
        ev.Reported(0, 2, {"val_loss": 2.0}),
        objective=Objective("val_loss", True, "last"),
    )
    assert last.score(last.trials[0]) == 2.0
    assert second.status is Status.RUNNING


def test_resuming_without_a_checkpoint_counts_the_epochs_again():
    events = [started(0, until=3), *(ev.Reported(0, e, {"val_loss": 1.0}) for e in (1, 2, 3))]
    kept = history_of(*events, ev.Ended(0, 3, checkpoint="c"), ev.Resumed(0, 9, ""))
    lost = history_of(*events, ev.Ended(0, 3), ev.Resumed(0, 9, ""))
    assert (kept.spent, lost.spent) == (3, 6)


def test_time_away_from_the_study_is_not_spent():
    entries = [
        Entry(100.0, ev.Created(study())),
        Entry(101.0, ev.Opened("1")),
        Entry(105.0, started(0)),
        Entry(8990.0, ev.BudgetChanged(Budget(seconds=60.0))),  # asked before the driver opens the study again
        Entry(9000.0, ev.Opened("1")),
        Entry(9002.0, ev.Reported(0, 1, {"val_loss": 1.0})),
        Entry(8000.0, ev.Reported(0, 2, {"val_loss": 1.0})),  # a clock that was set back
    ]
    assert fold(entries).elapsed == 6.0


def test_a_history_is_not_changed_by_what_comes_after():
    history = history_of(started(0))
    before = repr(history)
    later = history.then(Entry(9.0, ev.Reported(0, 1, {"val_loss": 1.0})))
    assert repr(history) == before
    assert later.trials[0].epoch == 1


def test_rows_behave_like_a_list():
    rows, plain = Rows(), []
    for i in range(300):
        rows = rows.with_item(i, i)
        plain.append(i)
    old = rows
    rows = rows.with_item(130, "x")
    plain[130] = "x"
    assert list(rows) == plain
    assert old[130] == 130
    assert (len(rows), rows[-1], rows[250:252]) == (300, 299, (250, 251))
    with pytest.raises(IndexError):
        rows[300]


# -- the book ----------------------------------------------------------------------------------------------------------


def test_late_and_repeated_reports_are_refused(space):
    asking = lt.AskTell(space, minimize="val_loss", max_epochs=5, strategy="random", budget="2 trials")
    job = asking.ask()
    assert asking.tell(job, 1, val_loss=1.0) == "continue"
    assert asking.tell(job, 1, val_loss=7.0) == "continue"
    assert asking.tell(job, 2, val_loss=float("nan")) == "stop"
    assert asking.tell(job, 3, val_loss=0.1) == "stop"
    (trial,) = asking.history.trials
    assert [r.metrics["val_loss"] for r in trial.reports][:1] == [1.0]
    assert (trial.epoch, trial.status, trial.failure.kind) == (2, Status.FAILED, "nonfinite")


@pytest.mark.parametrize(
    ("metrics", "ends"),
    [
        ({"train_perplexity": math.inf}, False),
        ({"train_rmse": math.inf}, False),
        ({"val_accuracy": math.nan}, False),
        ({"train_perplexity": math.nan}, True),
        ({"train_loss": math.inf}, True),
        ({"val/nll": math.inf}, True),
        ({"latency": math.inf}, True),
    ],
)
def test_what_is_derived_from_a_loss_may_be_infinite(space, metrics, ends):
    asking = lt.AskTell(space, minimize="val_loss", max_epochs=2, strategy="random", constraints={"latency": "<= 9"})
    job = asking.ask()
    assert asking.tell(job, 1, {"val_loss": 1.0, "latency": 1.0, **metrics}) == ("stop" if ends else "continue")
    assert (asking.history.trials[0].failure is not None) == ends
    assert fold(log_of(asking)) == asking.history


def test_metrics_are_named_by_strings(space):
    asking = lt.AskTell(space, minimize="val_loss", max_epochs=2, strategy="random")
    job = asking.ask()
    with pytest.raises(UserError, match=r"A metric is named 0 \(int\), which is no string"):
        asking.tell(job, 1, {0: math.nan, "val_loss": 1.0})
    assert asking.tell(job, 1, val_loss=1.0) == "continue"


@pytest.mark.parametrize(
    ("epoch", "metrics", "told"),
    [
        (1, (0.3,), r"tell\(\) got 0.3: metrics have names here. Write tell\(job, epoch, val_loss=0.3\)."),
        ("1", ({"val_loss": 0.3},), r"The epoch '1' \(str\) is no whole number from 1 on"),
        (1.7, ({"val_loss": 0.3},), r"The epoch 1.7 \(float\) is no whole number from 1 on"),
        (3, ({"val_loss": 0.3},), "trains epochs 1 to 2, got epoch 3"),
    ],
)
def test_what_is_told_in_another_form_is_refused_and_changes_nothing(space, epoch, metrics, told):
    asking = lt.AskTell(space, minimize="val_loss", max_epochs=2, strategy="random")
    job = asking.ask()
    with pytest.raises(UserError, match=told):
        asking.tell(job, epoch, *metrics)
    assert asking.tell(job, 1.0, val_loss=1.0) == "continue"


def test_only_a_job_is_told_of(space):
    asking = lt.AskTell(space, minimize="val_loss", max_epochs=1, strategy="random", budget="1 trial")
    job = asking.ask()
    for call in (lambda j: asking.tell(j, 1, val_loss=1.0), asking.finish, lambda j: asking.fail(j, "it broke")):
        with pytest.raises(UserError, match=r"got Wait\(.*which is no job: ask\(\) had none to hand out"):
            call(asking.ask())
        with pytest.raises(UserError, match=r"got 0 \(int\), which is no job. Give it what ask\(\) answered"):
            call(0)
    assert asking.tell(job, 1, val_loss=1.0) == "stop"
    with pytest.raises(UserError, match=r"got Done\("):
        asking.tell(asking.ask(), 1, val_loss=1.0)


def test_time_in_which_nobody_had_a_study_open_is_not_spent(space, tmp_path):
    asked = {"minimize": "val_loss", "max_epochs": 2, "strategy": "random", "budget": "2h"}
    begun = Book.create(
        SqlStore(locate(tmp_path / "s.db"), "study"),
        lt.AskTell(space, **asked).history.study,
        clock=lambda: time.time() - 86400.0,
    )
    job = begun.next(build("random"))
    begun.hear(ev.Reported(job.trial, 1, {"val_loss": 1.0}, 0.1), build("random"))
    again = lt.AskTell(space, storage=tmp_path / "s.db", **asked)
    assert again.ask().trial == job.trial
    assert again.tell(job, 2, val_loss=1.0) == "stop"
    assert again.history.elapsed < 3600.0
    assert again.ask().trial == 1
    again.close()


def test_a_job_that_is_handed_out_again_takes_the_time_that_it_takes(space, tmp_path, monkeypatch):
    asked = {"minimize": "val_loss", "max_epochs": 2, "strategy": "random", "storage": tmp_path / "s.db"}
    lt.AskTell(space, **asked).ask()
    again = lt.AskTell(space, **asked)
    job = again.ask()
    now = time.perf_counter() + 7.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    again.tell(job, 1, val_loss=1.0)
    assert again.history.trials[0].reports[0].seconds == pytest.approx(7.0, abs=6.9)
    again.close()


def test_a_metric_that_is_never_reported_is_named_with_the_nearest(space):
    asking = lt.AskTell(space, maximize="val_acc", max_epochs=2, strategy="random", budget="2 trials")
    job = asking.ask()
    asking.tell(job, 1, train_loss=1.0, val_accuracy=0.5)
    with pytest.raises(UserError, match=r"'val_acc' was never reported.*val_accuracy.*Did you mean 'val_accuracy'"):
        asking.tell(job, 2, train_loss=1.0, val_accuracy=0.5)


@pytest.mark.parametrize(
    ("asked", "told", "mend"),
    [
        ("holdout_loss", "train/holdout_losses", "Did you mean 'train/holdout_losses'"),
        ("trn_loss", "tst_loss", r"Call trial.report\(trn_loss="),
        ("valLoss", "val_loss", "Did you mean 'val_loss'"),
    ],
)
def test_the_same_of_other_data_is_not_meant(space, asked, told, mend):
    asking = lt.AskTell(space, minimize=asked, max_epochs=1, strategy="random", budget="2 trials")
    with pytest.raises(UserError, match=mend):
        asking.tell(asking.ask(), 1, {told: 1.0})


def test_a_log_that_grew_meanwhile_refuses_the_second_writer(tmp_path):
    url = locate(tmp_path / "s.db")
    one = Book.create(SqlStore(url, "s"), study())
    two = Book.open(SqlStore(url, "s"))
    one.append(ev.Opened("1"))
    with pytest.raises(Conflict):
        two.append(ev.Opened("2"))
    assert [e.event for e in SqlStore(url, "s").read(1)] == [ev.Opened("1")]
    memory = MemoryStore()
    with pytest.raises(Conflict):
        memory.append([Entry(0.0, ev.Opened("1"))], 3)


# -- the database ------------------------------------------------------------------------------------------------------


def _create(url: str, name: str) -> None:
    SqlStore(url, name).append([Entry(0.0, ev.Created(study(name=name)))], 0)


def test_many_processes_may_create_one_file_at_once(tmp_path):
    url = locate(tmp_path / "s.db")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_create, args=(url, f"study {i}")) for i in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [p.exitcode for p in processes] == [0] * 4
    assert sorted(study_names(url)) == [f"study {i}" for i in range(4)]


def test_nothing_is_created_before_the_first_event(tmp_path):
    store = SqlStore(locate(tmp_path / "s.db"), "s")
    assert list(store.read()) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda f: f.write_text("not a database, but long enough to have a header of its own" * 9), "not a database"),
        (lambda f: _foreign(f), "database of another program"),
        (lambda f: _newer(f), r"newer Luthier \(schema 99"),
    ],
)
def test_files_that_are_no_study_are_refused(tmp_path, prepare, message):
    file = tmp_path / "s.db"
    prepare(file)
    before = file.read_bytes()
    with pytest.raises(StorageError, match=message):
        SqlStore(locate(file), "s")
    with pytest.raises(StorageError, match=message):
        open_store(file)
    assert file.read_bytes() == before


def _foreign(file: Path) -> None:
    link = sqlite3.connect(file)
    link.execute("CREATE TABLE groceries (x)")
    link.commit()
    link.close()


def _newer(file: Path) -> None:
    _create(locate(file), "s")
    link = sqlite3.connect(file)
    link.execute("UPDATE luthier SET schema = 99")
    link.commit()
    link.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    link.close()


def test_a_missing_study_and_an_unknown_name_are_told(tmp_path):
    with pytest.raises(StorageError, match="There is no study at"):
        open_store(tmp_path / "none.db")
    _create(locate(tmp_path / "s.db"), "alpha")
    _create(locate(tmp_path / "s.db"), "beta")
    with pytest.raises(StorageError, match="holds 2 studies: alpha, beta"):
        open_store(tmp_path / "s.db")
    with pytest.raises(StorageError, match="Did you mean 'alpha'"):
        open_store(tmp_path / "s.db", "alhpa")
    assert open_store(tmp_path / "s.db", "beta").name == "beta"


def test_names_of_studies_never_become_paths(tmp_path):
    url = locate(tmp_path / "s.db")
    assert files_beside(url, "digits") == tmp_path / "s.files" / "digits"
    hostile = files_beside(url, "../../etc/passwd")
    assert hostile.parent == tmp_path / "s.files"
    assert files_beside(url, "a/b") != files_beside(url, "a_b")


def test_no_pickle_in_the_database(tmp_path, space):
    asking = lt.AskTell(space, minimize="val_loss", storage=tmp_path / "s.db", strategy="random", budget="3 trials")
    while job := asking.ask():
        asking.tell(job, 1, val_loss=0.5)
    link = sqlite3.connect(tmp_path / "s.db")
    rows = link.execute("SELECT kind, data FROM events").fetchall()
    assert len(rows) == len(list(SqlStore(locate(tmp_path / "s.db"), "study").read()))
    assert all(
        isinstance(json.loads(data), list if kind == "Reported" else dict) and kind in ev.KINDS for kind, data in rows
    )
    assert link.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    link.close()


# -- small values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("val_accuracy", "maximize"), ("val/loss", "minimize"), ("eval_f1_macro", "maximize"), ("ppl", "minimize"),
        ("valid.rmse", "minimize"), ("AUC", "maximize"), ("val_mIoU", "maximize"), ("error_rate", "minimize"),
        ("valloss", "minimize"), ("banana", None), ("", None), ("valAcc", "maximize"), ("accuracy_error", "minimize"),
        ("neg_mean_squared_error", "maximize"), ("neg_log_loss", "maximize"), ("val/neg_brier_score", "maximize"),
        ("neg_root_mean_squared_error", "maximize"), ("neg_mean_poisson_deviance", "maximize"),
        ("log_likelihood", "maximize"), ("negative_log_likelihood", "minimize"), ("negative_recall", None),
        ("brier_score", "minimize"), ("fid_score", "minimize"), ("crps", "minimize"), ("test_score", "maximize"),
        ("f1_score", "maximize"), ("r2_score", "maximize"), ("val_fid", "minimize"), ("val_mape", "minimize"),
        ("smape", "minimize"), ("jaccard", "maximize"), ("top3", "maximize"), ("spearman", "maximize"),
        ("metrics/mAP50-95(B)", "maximize"), ("total cost", "minimize"), ("objective", None),
        ("loss_neg", "minimize"),
    ],
)  # fmt: skip
def test_the_direction_follows_from_a_common_name(metric, direction):
    assert guess_direction(metric) == direction


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("40 trials", Budget(1200)), ("1 trial", Budget(30)), (2, Budget(60)), ("600 epochs", Budget(600)),
        ("2h", Budget(seconds=7200)), ("1h30m", Budget(seconds=5400)), ("90 min", Budget(seconds=5400)),
        ("0.5 trials", Budget(15)), (1_000_000, Budget(30_000_000)), (1234567, Budget(37_037_010)), (2.5, Budget(75)),
        ("1,200 epochs", Budget(1200)), ("1e3 epochs", Budget(1000)), ("40 trials and 2h", Budget(1200, 7200)),
        ("1,000 epochs, 1 day", Budget(1000, 86400)), (np.int64(2), Budget(60)), (Budget(5, 1), Budget(5, 1)),
        ("10 mins 5 secs", Budget(seconds=605)),
    ],
)  # fmt: skip
def test_budgets_are_read(text, budget):
    assert Budget.parse(text, 30) == budget


@given(st.none() | st.integers(1, 10**9), st.none() | st.integers(1, 10**7))
def test_a_budget_is_read_as_it_is_written(epochs, seconds):
    budget = Budget(epochs, seconds)
    if epochs or seconds:
        assert Budget.parse(str(budget), 30) == budget


@pytest.mark.parametrize(
    "text",
    [
        "0 trials", 0, "0", "", "many", "3 bananas", "-1 trials", "1.2.3 trials", "0h", "nan", math.nan, math.inf, -1,
        True, [3], "0.5 epochs 1h", "0 trials and 2h", "10 epochs 0h", "1,5h", "1,20 epochs", "1h30", "500 ms",
        "1 and 2h",
    ],
)  # fmt: skip
def test_budgets_of_nothing_or_nonsense_are_refused(text):
    with pytest.raises(UserError, match="budget"):
        Budget.parse(text, 30)


@pytest.mark.parametrize("budget", [Budget(0, 5), Budget(-5), Budget(0.5), Budget(seconds=0), Budget(9, math.nan)])
def test_a_budget_of_nothing_is_refused_when_it_is_asked_for_and_read_in_a_log(space, budget):
    with pytest.raises(UserError, match=r"(epochs|seconds) must be a"):
        lt.AskTell(space, minimize="val_loss", budget=budget)
    event = ev.BudgetChanged(budget)
    assert repr(ev.decode(*ev.encode(event))) == repr(event)


def test_a_study_that_is_opened_again_without_a_budget_keeps_its_own(tmp_path, space):
    asked = {"minimize": "val_loss", "max_epochs": 2, "strategy": "random", "storage": tmp_path / "s.db", "name": "s"}

    def train(trial):
        for epoch in trial.epochs():
            trial.report(val_loss=1.0 / epoch)

    def tuned(**more):
        result = lt.tune(train, space, workers=0, quiet=True, **asked, **more)
        return len(result.trials()), result.history.study.budget

    def opened(**more):
        study = lt.AskTell(space, **asked, **more)
        study.close()
        return study.history.study.budget

    assert tuned(budget="30 trials") == (30, Budget(60))  # more than the 20 trials that a new study gets
    assert tuned() == (30, Budget(60))
    assert opened() == Budget(60)
    assert opened(budget="31 trials") == Budget(62)
    assert tuned() == (31, Budget(62))
    for again in (tuned, opened):
        with pytest.raises(UserError, match=r"has spent 62 epochs already, more than the budget of 50 epochs that was"):
            again(budget="25 trials")
    assert tuned() == (31, Budget(62))
    assert tuned(budget=Budget(seconds=3600.0, epochs=64)) == (32, Budget(64, 3600.0))


def test_a_study_that_is_there_goes_on_without_a_space_in_its_own(tmp_path, space, capsys):
    def train(trial):
        for epoch in trial.epochs():
            trial.report(val_loss=1.0 / epoch)

    def tuned(space=None, name=None, **more):
        asked = {"minimize": "val_loss", "max_epochs": 2, "strategy": "random", "storage": tmp_path / "s.db"}
        return lt.tune(train, space, workers=0, quiet=True, name=name, **asked, **more)

    with pytest.raises(UserError, match=r"No search space was given, and the storage has no study 'train'"):
        tuned()
    assert not (tmp_path / "s.db").exists()
    assert len(tuned(space, budget="2 trials").trials()) == 2
    again = tuned(budget="3 trials")
    assert again.history.asked_space == space
    assert len(again.trials()) == 3
    wide = lt.Space(**{**dict(space), "learning_rate": lt.Float(1e-6, 1.0, log=True)})
    tuned(wide)
    assert tuned(budget="4 trials").history.asked_space == wide
    with pytest.raises(UserError, match="has no study 'other'"):
        tuned(name="other")
    assert study_names(locate(tmp_path / "s.db")) == ["train"]


def test_the_budget_is_never_overspent(space):
    for strategy in ("random", "sobol", "grid", "tpe", "asha", "hyperband", "playbook"):
        asking = drive(space, strategy, budget="50 epochs")
        assert asking.history.spent <= 50, strategy
        assert len(log_of(asking)) > 0
