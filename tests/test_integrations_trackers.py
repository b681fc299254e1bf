"""A study mirrored in MLflow, Weights & Biases and TensorBoard, live and afterwards."""

from __future__ import annotations

import sys

import pytest

import luthier as lt
from luthier.core.trial import Status

SPACE = lt.Space(learning_rate=lt.Float(1e-4, 1.0, log=True), kind=lt.Choice("a", "b", None))
STATE = {"DONE": "FINISHED", "PAUSED": "FINISHED", "STOPPED": "KILLED", "FAILED": "FAILED"}


class Weights:
    steps = 0

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


def train(trial):
    weights = Weights()
    for epoch in trial.epochs(weights=weights):
        if trial.id == 1:
            raise ValueError("a shape")
        trial.report(val_loss=trial.config["learning_rate"] + 1 / epoch, train_loss=1 / epoch)


def study(place, *observers, budget="3 trials"):
    return lt.tune(
        train, SPACE, minimize="val_loss", max_epochs=9, budget=budget, strategy="asha", workers=0, quiet=True,
        storage=place, name="it's a study", observers=list(observers),
    )  # fmt: skip


def test_a_tracker_that_fails_ends_nothing(tmp_path):
    from luthier.integrations._tracking import Follower, follow

    calls = []

    class Broken(Follower):
        def on_start(self, run):
            calls.append(run.trial)
            if run.trial == 1:
                raise ConnectionError("no route")

        def on_report(self, run, epoch, metrics):
            calls.append((epoch, dict(metrics)))

        def on_end(self, run, status, why):
            calls.append((str(status), why))

    with pytest.warns(UserWarning, match=r"Broken failed and follows no further \(ConnectionError: no route\)") as said:
        result = study(tmp_path / "s.db", Broken())
    assert len(said) == 1
    assert result.history.finished is not None
    seen = list(calls)
    calls.clear()
    with pytest.raises(lt.UserError, match="no route"):
        follow(tmp_path / "s.db", Broken())
    assert calls[: len(seen)] == seen  # afterwards it sees what it saw live
    with pytest.raises(lt.UserError, match="no study"):
        follow(tmp_path / "none.db", Broken())


# -- MLflow ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("live", [True, False])
def test_mlflow_has_a_run_for_each_trial(tmp_path, live, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    from luthier.integrations.mlflow import MLflowTracker, export

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the quickest store; MLflow itself wants a database by now
    uri = (tmp_path / "mlruns").as_uri()
    place = tmp_path / "s.db"
    result = study(place, *([MLflowTracker("digits", tracking_uri=uri)] if live else []))
    if not live:
        export(place, "digits", tracking_uri=uri)
        export(place, "digits", tracking_uri=uri)  # twice is once
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("digits").experiment_id
    runs = client.search_runs([experiment])
    parent = next(r for r in runs if "mlflow.parentRunId" not in r.data.tags)
    assert parent.data.metrics["best_score"] == result.best_score
    assert parent.info.status == "FINISHED"
    mine = {int(r.data.tags["luthier.trial"]): r for r in runs if r is not parent}
    assert sorted(mine) == [t.id for t in result.trials()]
    for trial in result.trials():
        run = mine[trial.id]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.params == {k: str(v) for k, v in trial.config.items()}
        assert run.data.tags["luthier.why"] == trial.why
        assert run.data.tags["luthier.status"] == str(trial.status)
        assert run.info.status == STATE[trial.status.name]
        if trial.failure:
            assert run.data.tags["luthier.ended"] == "raised: ValueError: a shape"
        history = client.get_metric_history(run.info.run_id, "val_loss")
        assert [(m.step, m.value) for m in history] == list(trial.curve("val_loss"))


# -- TensorBoard -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("live", [True, False])
def test_tensorboard_has_a_folder_for_each_trial(tmp_path, live):
    pytest.importorskip("tensorboard")
    from luthier.integrations.tensorboard import TensorBoardTracker, export
    from luthier.readers.find import read_runs

    place = tmp_path / "s.db"
    result = study(place, *([TensorBoardTracker(tmp_path / "runs")] if live else []))
    if not live:
        export(place, tmp_path / "runs")
    folders = sorted((tmp_path / "runs" / "it_s_a_study").iterdir())
    assert [f.name for f in folders] == [f"trial-{t.id:05d}" for t in result.trials()]
    runs, _ = read_runs([tmp_path / "runs"])  # as luthier diagnose reads them
    told = [t for t in result.trials() if t.reports]
    assert len(runs) == len(told)
    for run, trial in zip(runs, told):
        assert list(run.curves.val_loss.y) == pytest.approx([v for _, v in trial.curve("val_loss")])
        assert list(run.curves.val_loss.x) == [e for e, _ in trial.curve("val_loss")]
        assert run.curves.config["learning_rate"] == pytest.approx(trial.config["learning_rate"])
    assert max(t.epoch for t in told) == 9
    assert Status.PAUSED in {t.status for t in told}


def test_tensorboards_own_reader_finds_hyperparameters_and_reasons(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from luthier.integrations.tensorboard import TensorBoardTracker

    result = study(tmp_path / "s.db", TensorBoardTracker(tmp_path / "runs"))
    trial = result.trials()[1]
    seen = EventAccumulator(str(tmp_path / "runs" / "it_s_a_study" / f"trial-{trial.id:05d}"))
    seen.Reload()
    assert {"_hparams_/session_start_info", "_hparams_/session_end_info"} <= set(seen.summary_metadata)
    text = {tag: seen.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in ("luthier/why", "luthier/status")}
    assert text == {"luthier/why": trial.why, "luthier/status": "failed: raised: ValueError: a shape"}


# -- Weights & Biases --------------------------------------------------------------------------------------------------


def test_wandb_has_a_run_for_each_trial(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name in ("WANDB_SILENT", "WANDB_DISABLE_GIT", "WANDB_DISABLE_CODE"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    from luthier.integrations.wandb import WandbTracker

    result = study(tmp_path / "s.db", WandbTracker("digits", mode="offline", dir=str(tmp_path)), budget="1 trial")
    found = {}
    for file in sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb")):
        for record in _records(file):
            own = found.setdefault(
                file.stem.rpartition("-")[2], {"config": {}, "reports": {}, "summary": {}, "runs": 0}
            )
            kind = record.WhichOneof("record_type")
            if kind == "run":
                own["runs"] += 1
                own["group"] = record.run.run_group
                own["config"].update({u.key or ".".join(u.nested_key): u.value_json for u in record.run.config.update})
            elif kind == "history":
                row = {i.key or ".".join(i.nested_key): float(i.value_json) for i in record.history.item}
                own["reports"][int(row["epoch"])] = row["val_loss"]
            elif kind == "summary":
                own["summary"].update({u.key or ".".join(u.nested_key): u.value_json for u in record.summary.update})
    assert sorted(map(int, found)) == [t.id for t in result.trials()]
    for trial in result.trials():
        own = found[str(trial.id)]
        assert own["group"] == "it's a study"
        assert float(own["config"]["learning_rate"]) == trial.config["learning_rate"]
        assert own["reports"] == dict(trial.curve("val_loss"))
        assert str(trial.status) in str(own["summary"])


def _records(file):
    """The records of a run's file: LevelDB's log format after a header of seven bytes, each a message of W&B's."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the rest of a block is padding
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts, at = parts + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def test_the_libraries_are_imported_only_where_they_are_used():
    code = "import luthier.integrations, luthier, sys; lt = luthier; lt.tune; print(sorted(set(sys.modules) & {"
    code += "'mlflow', 'wandb', 'tensorboard', 'keras', 'lightning', 'transformers', 'sklearn', 'optuna', 'torch'}))"
    import subprocess

    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
