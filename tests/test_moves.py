"""Logs that move: copied between stores event by event, written as tables, given to Optuna and taken from it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from conftest import bowl, drive

import luthier as lt
from luthier.cli import app
from luthier.core.errors import StorageError, UserError
from luthier.core.trial import Status
from luthier.store import SqlStore, files_known, locate, open_store, study_names
from luthier.view.table import trials_table


def luthier(*words: object) -> None:
    """The command line, in this process."""
    app([str(w) for w in words], standalone_mode=False)


def entries(place, name=None) -> list:
    with closing(open_store(place, name)) as log:
        return list(log.read())


def kept(trial) -> None:
    """Trains with a checkpoint."""
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(1, 1)
    for epoch in trial.epochs(model=model):
        trial.report(val_loss=bowl(trial.config, epoch))


@pytest.fixture
def place(tmp_path, space) -> Path:
    """Two studies in a file; of the first one a trial is paused."""
    asked = drive(space, "asha", storage=tmp_path / "s.db", name="first", budget="4 trials", fail=lambda i: i == 2)
    assert {Status.PAUSED, Status.FAILED, Status.DONE} <= {t.status for t in asked.history.trials}
    drive(space, "random", storage=tmp_path / "s.db", name="zweite Studie/2", budget="2 trials", max_epochs=2)
    return tmp_path / "s.db"


def test_a_copy_has_the_same_log_entry_by_entry(place, tmp_path, database, capsys):
    luthier("copy", place, database)
    luthier("copy", database, tmp_path / "logs.parquet")
    luthier("copy", tmp_path / "logs.parquet", tmp_path / "back.db")
    luthier("copy", tmp_path / "back.db", tmp_path / "one.db", "--name", "first", "--as", "premier")
    assert "would start over" in capsys.readouterr().out
    names = study_names(locate(place))
    for copy in (database, tmp_path / "back.db"):
        assert study_names(locate(copy)) == names
        for name in names:
            assert repr(entries(copy, name)) == repr(entries(place, name))
    (first, *rest), (there, *as_well) = entries(place, "first"), entries(tmp_path / "one.db")
    assert there.event.study.name == "premier"
    assert (there.at, rest) == (first.at, as_well)
    with closing(sqlite3.connect(place)) as one, closing(sqlite3.connect(tmp_path / "back.db")) as two:
        query = "SELECT study, seq, at, kind, data FROM events ORDER BY study, seq"
        assert one.execute(query).fetchall() == two.execute(query).fetchall()  # to the last character


def test_nothing_that_is_there_is_overwritten(place, tmp_path):
    luthier("copy", place, tmp_path / "logs.parquet")
    luthier("copy", place, tmp_path / "two.db", "--name", "first")
    before = entries(tmp_path / "two.db")
    for target, message in (
        (tmp_path / "two.db", "already holds a study 'first'.*--as"),
        (tmp_path / "logs.parquet", "exists already"),
        (place, "already holds"),
    ):
        with pytest.raises(UserError, match=message):
            luthier("copy", place, target)
    assert study_names(locate(tmp_path / "two.db")) == ["first"]
    assert entries(tmp_path / "two.db") == before
    luthier("copy", place, place, "--name", "first", "--as", "again")
    assert len(study_names(locate(place))) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.db", "t.db"], "There is no study at nowhere.db"),
        (["nowhere.parquet", "t.db"], "There is no file nowhere.parquet"),
        (["s.db", "t.db", "--name", "frist"], "Did you mean 'first'"),
        (["s.db", "t.db", "--as", "x"], "holds 2 studies.*--name"),
        (["s.db", "t.parquet", "--files", "x"], "has no checkpoints"),
        (["s.db", "t.db", "--name", "first", "--files", "x"], "checkpoints are not here"),
        (["trials.parquet", "t.db"], "holds no log.*luthier export"),
        (["torn.parquet", "t.db"], "torn.parquet cannot be read"),
        (["damaged.db", "t.db"], "the log of study 'first' is damaged"),
    ],
)
def test_what_cannot_be_copied_is_told_and_nothing_is_written(place, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    luthier("export", place, "trials.parquet", "--name", "first")
    Path("torn.parquet").write_bytes(Path("trials.parquet").read_bytes()[:300])
    luthier("copy", place, "damaged.db", "--name", "first")
    with closing(sqlite3.connect("damaged.db")) as link:
        link.execute("UPDATE events SET data = '{' WHERE seq = 5")
        link.commit()
    with pytest.raises(UserError, match=message):
        luthier("copy", *words)
    assert not any(Path(t).exists() for t in ("t.db", "t.parquet", "x"))


def test_checkpoints_move_along_and_the_copy_goes_on_from_them(tmp_path, space, database):
    given = {"minimize": "val_loss", "max_epochs": 9, "strategy": "asha", "workers": 0, "quiet": True, "name": "s"}
    lt.tune(kept, space, storage=tmp_path / "s.db", budget="3 trials", **given)
    luthier("copy", tmp_path / "s.db", database, "--files", tmp_path / "shared")
    with closing(open_store(database)) as log:
        held = [t.checkpoint.path for t in log.fold().trials if t.status is Status.PAUSED]
        assert held
        assert files_known(log) == tmp_path / "shared" / "s"
        assert all((tmp_path / "shared" / "s" / path).is_file() for path in held)
    here = lt.tune(kept, space, storage=tmp_path / "s.db", budget="5 trials", **given)
    there = lt.tune(kept, space, storage=database, budget="5 trials", **given)  # finds the folder by itself
    assert [(t.config, t.status, t.epoch) for t in here.history.trials] == [
        (t.config, t.status, t.epoch) for t in there.history.trials
    ]
    assert here.history.spent == there.history.spent  # no epoch was trained again
    with pytest.raises(UserError, match="exists already"):
        luthier("copy", tmp_path / "s.db", tmp_path / "n.db", "--files", tmp_path / "shared")
    assert not (tmp_path / "n.db").exists()


def test_a_copy_that_fails_leaves_neither_log_nor_files(tmp_path, space, database):
    given = {"minimize": "val_loss", "max_epochs": 2, "strategy": "random", "workers": 0, "quiet": True, "name": "s"}
    lt.tune(kept, space, storage=tmp_path / "s.db", budget="1 trial", **given)
    luthier("copy", tmp_path / "s.db", database, "--as", "other")
    closed = sa.make_url(database).update_query_dict({"options": "-c default_transaction_read_only=on"})
    with pytest.raises(StorageError, match="read-only"):
        luthier("copy", tmp_path / "s.db", closed.render_as_string(), "--files", tmp_path / "shared")
    assert not (tmp_path / "shared" / "s").exists()
    assert study_names(locate(database)) == ["other"]


# -- tables ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_trials_and_reports_are_tables_with_typed_columns(place, tmp_path, ending, capsys):
    pd = pytest.importorskip("pandas")
    read = pd.read_parquet if ending == "parquet" else pd.read_csv
    for what in ("trials", "reports"):
        luthier("export", place, tmp_path / f"{what}.{ending}", "--name", "first", "--format", what)
    with closing(open_store(place, "first")) as log:
        history = log.fold()
    trials, reports = read(tmp_path / f"trials.{ending}"), read(tmp_path / f"reports.{ending}")
    assert f"{len(history.trials)} trials → " in capsys.readouterr().out
    assert trials["trial"].tolist() == [t.id for t in history.trials]
    assert trials["status"].tolist() == [str(t.status) for t in history.trials]
    rate = trials["config.learning_rate"]
    assert rate.dtype == "float64"
    assert rate.tolist() == [t.config["learning_rate"] for t in history.trials]
    assert trials["config.depth"].dtype == "int64"
    assert set(trials["config.optimizer"]) <= {"adamw", "sgd"}
    momentum = dict(zip(trials["trial"], trials["config.momentum"]))
    assert all(pd.isna(momentum[t.id]) == ("momentum" not in t.config) for t in history.trials)
    scores = {t.id: history.score(t) for t in history.trials}
    assert {i: None if pd.isna(s) else s for i, s in zip(trials["trial"], trials["score"])} == pytest.approx(scores)
    assert trials.loc[trials["status"] == "failed", "failure"].tolist() == ["raised"]
    assert len(reports) == sum(len(t.reports) for t in history.trials)
    best = reports.loc[reports["metric.val_loss"].idxmin()]
    assert (best["trial"], best["metric.val_loss"]) == (history.incumbent.id, history.score(history.incumbent))


def test_results_are_data_frames(space):
    pd = pytest.importorskip("pandas")

    def train(trial):
        for epoch in trial.epochs():
            trial.report(val_loss=bowl(trial.config, epoch), odd=1.0)

    result = lt.tune(train, space, minimize="val_loss", max_epochs=3, strategy="random", budget="3 trials", workers=0)
    trials, reports = result.trials_dataframe(), result.reports_dataframe()
    assert isinstance(trials, pd.DataFrame)
    assert trials["score"].min() == result.best_score
    assert trials["parent"].isna().all()
    assert [str(trials[c].dtype) for c in ("trial", "score", "why")] == ["Int64", "float64", "string"]
    assert reports.groupby("trial")["epoch"].max().tolist() == [3, 3, 3]
    assert list(reports.columns) == ["trial", "epoch", "seconds", "metric.val_loss", "metric.odd"]


def test_what_is_told_once_stands_in_the_table_of_trials(space):
    study = lt.AskTell(
        space, minimize="val_loss", constraints={"params": "<= 1e6"}, max_epochs=4, budget="2 trials", strategy="random"
    )
    job, other = study.ask(), study.ask()
    study.tell(job, 1, val_loss=3.0, params=7.0)
    study.tell(job, 2, val_loss=2.0, seen=5.0)
    study.tell(job, 3, val_loss=1.0)
    study.tell(job, 4, val_loss=2.0, seen=6.0, late=8.0)
    study.tell(other, 1, params=9.0)  # no epoch of it counts yet
    table = trials_table(study.history)
    found = {name: table[f"metric.{name}"].values for name in ("val_loss", "params", "seen", "late")}
    assert found == {"val_loss": [1.0, None], "params": [7.0, None], "seen": [5.0, None], "late": [8.0, None]}
    assert study.summary.values == {"val_loss": 1.0, "params": 7.0}


def test_a_table_is_not_overwritten_unawares(place, tmp_path):
    out = tmp_path / "trials.csv"
    luthier("export", place, out, "--name", "first")
    before = out.read_text()
    with pytest.raises(UserError, match=r"exists already.*--force"):
        luthier("export", place, out, "--name", "zweite Studie/2")
    assert out.read_text() == before
    luthier("export", place, out, "--name", "zweite Studie/2", "--force")
    assert out.read_text() != before
    with pytest.raises(UserError, match="no table's name"):
        luthier("export", place, tmp_path / "trials.xlsx", "--name", "first")
    with pytest.raises(UserError, match="Did you mean 'trials'"):
        luthier("export", place, tmp_path / "t.csv", "--name", "first", "--format", "trails")
    with pytest.raises(StorageError, match="cannot be written"):
        luthier("export", place, tmp_path / "none" / "t.csv", "--name", "first")


# -- Optuna ------------------------------------------------------------------------------------------------------------


def test_a_study_goes_to_optuna_and_comes_back(place, tmp_path, capsys):
    optuna = pytest.importorskip("optuna")
    url = f"sqlite:///{tmp_path / 'optuna.sqlite'}"
    luthier("export", place, url, "--format", "optuna", "--name", "first")
    with pytest.raises(UserError, match=r"already holds a study 'first'.*--as"):
        luthier("export", place, url, "--format", "optuna", "--name", "first")
    luthier("export", place, url, "--format", "optuna", "--name", "first", "--as", "other")
    assert sorted(optuna.get_all_study_names(url)) == ["first", "other"]
    with pytest.raises(UserError, match=r"holds 2 studies.*--name"):
        luthier("import", url, tmp_path / "back.db")
    luthier("import", url, tmp_path / "back.db", "--name", "first", "--as", "again")
    with closing(open_store(tmp_path / "back.db")) as log, closing(open_store(place, "first")) as source:
        history, origin = log.fold(), source.fold()
    assert log.name == "again"
    assert history.score(history.incumbent) == origin.score(origin.incumbent)
    assert [t.config for t in history.trials] == [t.config for t in origin.trials]
    capsys.readouterr()
    luthier("ls", tmp_path / "back.db", "--json")
    assert json.loads(capsys.readouterr().out)["studies"][0]["trials"] == len(origin.trials)


def test_what_is_no_study_of_optunas_is_told(tmp_path):
    pytest.importorskip("optuna")
    with pytest.raises(UserError, match="There is no file"):
        luthier("import", f"sqlite:///{tmp_path / 'none.db'}", tmp_path / "t.db")
    with pytest.raises(UserError, match="no storage of Optuna's"):
        luthier("import", tmp_path / "none.db", tmp_path / "t.db")
    assert list(tmp_path.iterdir()) == []


def test_a_copied_study_is_a_warm_start(place, space, database):
    luthier("copy", place, database, "--name", "first")
    asked = lt.AskTell(
        space, minimize="val_loss", max_epochs=9, strategy="expert", warm_start=[database], budget="3 trials"
    )
    with closing(SqlStore(locate(database), "first")) as log:
        best = log.fold().incumbent
    assert asked.history.study.earlier
    assert any(c["learning_rate"] == best.config["learning_rate"] for c in asked.history.study.earlier)
