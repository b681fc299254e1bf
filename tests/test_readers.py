"""Reading curves wherever they were logged: true files of every format, and the names paired without being told."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import luthier as lt
from luthier.core.errors import UserError
from luthier.core.metrics import METRICS, guess_direction
from luthier.readers import Asked, Run, pair, read_runs
from luthier.readers.recording import number, series

DATA = Path(__file__).parent / "data"


def only(path: Path, asked: Asked | None = None, **more: float) -> Run:
    runs, _ = read_runs([path], asked, **more)
    assert len(runs) == 1
    return runs[0]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        ("loss val_loss accuracy val_accuracy", ("loss", "val_loss", "accuracy", "val_accuracy")),  # Keras
        ("train/loss val/loss val/acc", ("train/loss", "val/loss", None, "val/acc")),
        ("Loss/train Loss/valid", ("Loss/train", "Loss/valid", None, None)),
        ("loss/train loss/validation", ("loss/train", "loss/validation", None, None)),
        ("loss eval_loss eval_accuracy", ("loss", "eval_loss", None, "eval_accuracy")),  # Hugging Face
        ("train_loss_step train_loss_epoch val_loss", ("train_loss_epoch", "val_loss", None, None)),  # Lightning
        ("train_loss valid_loss accuracy time", ("train_loss", "valid_loss", None, "accuracy")),  # fastai
        ("trainLoss valLoss trainAcc valAcc", ("trainLoss", "valLoss", "trainAcc", "valAcc")),
        ("training_loss dev_loss dev_f1", ("training_loss", "dev_loss", None, "dev_f1")),
        ("train_loss test_loss val_loss", ("train_loss", "val_loss", None, None)),
        ("train_loss test_loss test_acc", ("train_loss", "test_loss", None, "test_acc")),
        ("total_loss loss_cls loss_box val_total_loss val_loss_cls", ("total_loss", "val_total_loss", None, None)),
        ("total_loss loss_cls loss_box", ("total_loss", None, None, None)),  # detectron2
        ("loss total_loss val_loss", ("total_loss", "val_loss", None, None)),
        ("train/epoch_loss validation/epoch_loss validation/evaluation_loss_vs_iterations train/epoch_accuracy "
         "validation/epoch_accuracy",
         ("train/epoch_loss", "validation/epoch_loss", "train/epoch_accuracy", "validation/epoch_accuracy")),
        ("train_mse val_mse", ("train_mse", "val_mse", None, None)),
        ("train_loss val_loss val_rmse", ("train_loss", "val_loss", None, "val_rmse")),
        ("val_loss/dataloader_idx_0 train_loss", ("train_loss", "val_loss/dataloader_idx_0", None, None)),
        ("train/loss_ce val/loss_ce train/loss_aux val/loss_aux", ("train/loss_ce", "val/loss_ce", None, None)),
        ("loss bbox_mAP mode", ("loss", None, None, "bbox_mAP")),
        ("val_top5 val_top1 train_loss val_loss", ("train_loss", "val_loss", None, "val_top1")),
        ("train_acc val_accuracy train_loss", ("train_loss", None, "train_acc", "val_accuracy")),
        ("mIoU train_loss val_loss", ("train_loss", "val_loss", None, "mIoU")),
        ("zeal ardour", (None, None, None, None)),
    ],
)  # fmt: skip
def test_names_are_paired_as_their_frameworks_write_them(names, taken):
    found = pair(names.split()).taken
    roles = ("train_loss", "val_loss", "train_metric", "val_metric")
    assert tuple(found.get(r) for r in roles) == taken


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("lr", "learning_rate"), ("lr-AdamW/pg1", "learning_rate"), ("train/learning_rate", "learning_rate"),
        ("lr/pg0", "learning_rate"), ("epoch_learning_rate", "learning_rate"), ("grad_norm", "grad_norm"),
        ("grad_2.0_norm_total", "grad_norm"), ("gradient/norm", "grad_norm"), ("loss_scale", "loss_scale"),
        ("amp/scale", "loss_scale"), ("clip_fraction", "clipped"), ("update_ratio", "update_ratio"),
    ],
)  # fmt: skip
def test_what_stands_beside_the_losses_is_known_and_is_no_loss(name, role):
    assert pair(["train_loss", name]).taken == {"train_loss": "train_loss", role: name}


@pytest.mark.parametrize(
    ("metric", "up"),
    [("val_accuracy", True), ("val/mIoU", True), ("val_r2", True), ("val_bleu", True), ("metrics/mAP50-95(B)", True),
     ("val_err", False), ("val_wer", False), ("val_fid", False), ("val_perplexity", False), ("val_top1_error", False)],
)  # fmt: skip
def test_a_metrics_direction_follows_from_its_name(metric, up):
    found = pair(["train_loss", "val_loss", metric])
    assert found.taken["val_metric"] == metric
    assert found.maximize is up


@given(st.lists(st.sampled_from([*METRICS, "neg", "log", "mean", "zeal"]), min_size=1, max_size=4))
def test_a_direction_is_the_one_that_tune_would_take(parts):
    name = f"val_{'_'.join(parts)}"
    told = guess_direction(name)
    if not set(parts) & set(METRICS):
        assert told is None
    elif told is None:
        with pytest.raises(UserError, match="should go up or down, its name does not tell"):
            pair(["train_loss", "val_loss", name])
    else:
        found = pair(["train_loss", "val_loss", name])
        assert (found.taken["val_metric"], found.maximize) == (name, told == "maximize")


SPLITS = st.sampled_from(
    [("train", "val"), ("training", "validation"), ("Train", "Valid"), ("train", "dev"), ("", "eval")]
)
FORMS = st.sampled_from(["{s}_{q}", "{s}/{q}", "{q}/{s}", "{s}.{q}", "metrics/{s}_{q}", "{s}_{q}_epoch"])
WORDS = st.text("abcdefghijkz", min_size=3, max_size=8)


def spelled(form: str, split: str, quantity: str) -> str:
    return form.format(s=split, q=quantity).strip("_/.").replace("/_", "/").replace("//", "/")


@given(SPLITS, FORMS, st.sampled_from(["acc", "accuracy", "f1", "wer"]), st.lists(WORDS, max_size=4), st.randoms())
def test_any_spelling_of_a_split_is_paired_whatever_stands_beside_it(splits, form, metric, others, shuffle):
    wanted = [spelled(form, s, q) for q in ("loss", metric) for s in splits]
    names = [*wanted, *(f"zz{w}" for w in others)]
    shuffle.shuffle(names)
    found = pair(names).taken
    roles = ("train_loss", "val_loss", "train_metric", "val_metric")
    assert [found.get(r) for r in roles] == wanted


@given(st.lists(st.text(min_size=1, max_size=20), max_size=8))
def test_no_names_break_the_pairing_and_no_name_is_taken_twice(names):
    taken = list(pair(names).taken.values())
    assert set(taken) <= set(names)
    assert len(taken) == len(set(taken))


def test_names_that_say_nothing_are_given_by_the_user():
    asked = Asked("fit", "check", "zeal", True)
    assert pair(["fit", "check", "zeal"], asked).taken == {
        "train_loss": "fit", "val_loss": "check", "val_metric": "zeal",
    }  # fmt: skip
    with pytest.raises(UserError, match="Whether 'zeal' should go up or down"):
        pair(["fit", "zeal"], Asked("fit", None, "zeal"))
    with pytest.raises(UserError, match=r"--train-loss 'fti' was not logged\. Did you mean 'fit'"):
        pair(["fit"], Asked("fti"))
    both = pair(["loss", "val_loss", "val_f1", "f1", "val_accuracy"], Asked(metric="f1")).taken
    assert (both["train_metric"], both["val_metric"]) == ("f1", "val_f1")


def test_test_data_stands_in_for_validation_and_that_is_said():
    assert "no test any more" in pair(["train_loss", "test_loss"]).notes[0]


# -- cells and places --------------------------------------------------------------------------------------------------


def test_cells_are_read_as_they_are_written():
    assert number("tensor(0.25, device='cuda:0')") == 0.25
    assert number(" 75.5% ") == 75.5
    assert math.isnan(number("NaN"))
    assert number("-inf") == -math.inf
    assert [number(c) for c in ("", "None", "n/a", "bird", None, True)] == [None] * 6


def test_a_resumed_training_counts_with_what_it_wrote_last():
    resumed = series([(1, 10), (2, 20), (3, 30), (4, 40), (3, 31), (5, 50)])
    assert resumed.x.tolist() == [1, 2, 3, 5]  # place 4 belongs to the life that was lost
    assert resumed.y.tolist() == [10, 20, 31, 50]
    assert series([(2, 1.0), (1, 0.0), (3, 2.0), (0, 5.0), (-1, 4.0), (-2, 7.0)]).x.tolist() == [-2, -1, 0, 1, 2, 3]
    assert series([(5, 1.0), (6, 1.0), (1, 1.0), (2, 1.0)]).x.tolist() == [1, 2, 5, 6]
    assert series([]) is None


@given(st.lists(st.tuples(st.integers(0, 50), st.floats()), min_size=1))
def test_places_always_rise(points):
    found = series(points)
    assert np.all(np.diff(found.x) > 0)


# -- TensorBoard -------------------------------------------------------------------------------------------------------


def events(folder: Path, tags: dict[str, list[tuple[int, float]]]) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for tag, points in tags.items():
            for step, value in points:
                writer.add_scalar(tag, value, step)


def test_tensorboard_runs_in_nested_folders_are_read_with_nan_and_all(tmp_path):
    for lr in ("lr0.1", "sweep/lr0.01"):
        train = [(s, 2.0 / (1 + s)) for s in range(0, 200, 2)]
        val = [(s, 2.1 / (1 + s)) for s in range(0, 200, 20)]
        events(tmp_path / lr, {"train/loss": [*train, (200, math.nan)], "val/loss": val, "val/acc": val, "hist": val})
    runs, notes = read_runs([tmp_path])
    assert [r.curves.name for r in runs] == ["lr0.1", "sweep/lr0.01"]
    assert notes == []
    run = runs[0]
    assert run.taken == {"train_loss": "train/loss", "val_loss": "val/loss", "val_metric": "val/acc"}
    assert (run.curves.unit, len(run.curves.train_loss), len(run.curves.val_loss)) == ("step", 101, 10)
    assert math.isnan(run.curves.train_loss.y[-1])


def test_sibling_writers_and_tensors_as_keras_writes_them_are_one_training(tmp_path):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.scalar.summary_v2 import scalar_pb
    from tensorboard.summary.writer.record_writer import RecordWriter

    for split in ("train", "validation"):
        (tmp_path / "logs" / split).mkdir(parents=True)
        with (tmp_path / "logs" / split / "events.out.tfevents.1.host.1.0.v2").open("wb") as file:
            writer = RecordWriter(file)
            for epoch in range(5):
                for tag in ("epoch_loss", "epoch_accuracy"):
                    summary = scalar_pb(tag, 1.0 / (1 + epoch))
                    writer.write(Event(step=epoch, summary=summary).SerializeToString())
    run = only(tmp_path / "logs")
    assert run.taken["train_loss"] == "train/epoch_loss"
    assert run.taken["val_metric"] == "validation/epoch_accuracy"
    assert run.curves.unit == "epoch"
    assert run.curves.val_loss.x.tolist() == [1, 2, 3, 4, 5]
    assert run.curves.val_loss.y.tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])


def test_add_scalars_and_add_hparams_belong_to_their_training(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "run")) as writer:
        for epoch in range(4):
            writer.add_scalars("Loss", {"train": 1.0 / (1 + epoch), "val": 2.0 / (1 + epoch)}, epoch)
            writer.add_scalar("lr", 0.1, epoch)
        writer.add_hparams({"learning_rate": 0.1, "optimizer": "sgd"}, {"best": 1.0})
    run = only(tmp_path / "run")
    assert run.taken == {"train_loss": "Loss/train", "val_loss": "Loss/val", "learning_rate": "lr"}
    assert run.curves.config == {"learning_rate": 0.1, "optimizer": "sgd"}


def test_steps_and_epochs_on_one_axis(tmp_path):
    train = [(s, 1.0) for s in range(1000)]
    events(tmp_path, {"train/loss": train, "val/loss": [(e, 1.0) for e in range(10)]})
    run = only(tmp_path)
    assert run.curves.unit == "epoch"
    assert run.curves.train_loss.x[-1] == run.curves.val_loss.x[-1] == 10
    assert "counted in steps and validation in epochs" in run.notes[0]


def test_a_torn_or_damaged_event_file_gives_what_stands_before(tmp_path):
    events(tmp_path, {"train/loss": [(s, 1.0) for s in range(50)]})
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-30])
    assert 47 <= len(only(tmp_path).curves.train_loss) < 50
    file.write_bytes(whole[: len(whole) // 2] + b"\xff" * (len(whole) // 2))
    assert 20 < len(only(tmp_path).curves.train_loss) < 50


# -- tables ------------------------------------------------------------------------------------------------------------


def test_a_wide_table_with_everything_that_goes_wrong_in_one(tmp_path):
    text = "\ufeff# made by hand\nepoch; train_loss; val_loss; note; val_acc\n2; 0,8; ; fine; 60%\n"
    text += "1; 1,5; 1,6; ; 50%\n3; nan; inf; ; 70%\n4; 0,5"
    run = only(write(tmp_path / "log.csv", text))
    assert run.curves.train_loss.x.tolist() == [1, 2, 3, 4]
    assert run.curves.train_loss.y.tolist() == pytest.approx([1.5, 0.8, math.nan, 0.5], nan_ok=True)
    assert run.curves.val_loss.x.tolist() == [1, 3]
    assert run.curves.val_loss.y[1] == math.inf
    assert run.curves.val_metric.y.tolist() == pytest.approx([0.5, 0.6, 0.7])
    assert "percent" in run.notes[0]


@pytest.mark.parametrize("mark", [",", ";", "\t", "|", "  "])
def test_any_separator(tmp_path, mark):
    rows = [["epoch", "loss", "val_loss"], *([str(e), str(1 / e), str(2 / e)] for e in range(1, 6))]
    run = only(write(tmp_path / "log.txt", "\n".join(mark.join(r) for r in rows)))
    assert run.curves.val_loss.y.tolist() == pytest.approx([2 / e for e in range(1, 6)])


def test_numpys_header_in_a_comment(tmp_path):
    np.savetxt(tmp_path / "log.txt", np.array([[1, 2.0, 2.1], [2, 1.0, 1.1]]), header="epoch train_loss val_loss")
    assert only(tmp_path / "log.txt").curves.val_loss.y.tolist() == [2.1, 1.1]


def test_the_long_form_and_several_runs_in_one_file(tmp_path):
    both = ((1, "train/loss"), (2, "val/loss"))
    rows = [f"{run},{name},{step},{step * k}" for run in "ab" for step in range(3) for k, name in both]
    write(tmp_path / "all.csv", "run,name,step,value\n" + "\n".join(rows))
    runs, _ = read_runs([tmp_path])
    assert [r.curves.name for r in runs] == ["all/a", "all/b"]
    assert runs[1].curves.val_loss.y.tolist() == [0, 2, 4]


def test_a_row_for_each_split(tmp_path):
    rows = [f"{e},{p},{1 / e}" for e in (1, 2, 3) for p in ("train", "val")]
    run = only(write(tmp_path / "log.csv", "epoch,phase,loss\n" + "\n".join(rows)))
    assert run.taken == {"train_loss": "train/loss", "val_loss": "val/loss"}
    assert run.curves.val_loss.x.tolist() == [1, 2, 3]


def test_batches_counted_anew_in_each_epoch_are_spread_over_it(tmp_path):
    rows = [f"{e},{b},0.5" for e in (0, 1) for b in range(4)]
    run = only(write(tmp_path / "log.csv", "epoch,batch,train_loss\n" + "\n".join(rows)))
    assert run.curves.unit == "epoch"
    assert run.curves.train_loss.x.tolist() == [0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2]


def test_a_table_without_epochs_counts_its_rows(tmp_path):
    run = only(write(tmp_path / "log.csv", "train_loss,val_loss\n3,4\n2,3\n1,2\n"))
    assert run.curves.val_loss.x.tolist() == [1, 2, 3]


def test_tables_of_something_else_are_passed_by(tmp_path):
    write(tmp_path / "data.csv", "sepal,petal\n1,2\n")
    write(tmp_path / "package.json", '{"name": "x", "version": "1"}')
    write(tmp_path / "log.csv", "epoch,loss\n1,2\n2,1\n")
    assert only(tmp_path).curves.name == "log"


# -- JSON --------------------------------------------------------------------------------------------------------------


def test_json_lines_nested_with_a_head_and_a_torn_end(tmp_path):
    lines = [json.dumps({"args": {"lr": 0.1}})]
    lines += [
        json.dumps({"epoch": e, "train": {"loss": 1 / e}, "val": {"loss": 2 / e, "acc": None}}) for e in (1, 2, 3)
    ]
    run = only(write(tmp_path / "log.jsonl", "\n".join([*lines, '{"epoch": 4, "tra'])))
    assert run.taken == {"train_loss": "train/loss", "val_loss": "val/loss"}
    assert run.curves.train_loss.x.tolist() == [1, 2, 3]
    assert run.curves.config == {"args/lr": 0.1}


def test_not_a_number_in_json(tmp_path):
    run = only(write(tmp_path / "log.jsonl", '{"step": 1, "loss": NaN}\n{"step": 2, "loss": "inf"}\n'))
    assert math.isnan(run.curves.train_loss.y[0])
    assert run.curves.train_loss.y[1] == math.inf


def test_a_keras_history(tmp_path):
    run = only(write(tmp_path / "h.json", json.dumps({"loss": [3, 2], "val_loss": [4, 3]})))
    assert run.curves.val_loss.y.tolist() == [4, 3]


# -- libraries ---------------------------------------------------------------------------------------------------------


def test_lightnings_metrics_with_training_and_validation_on_different_rows():
    run = only(DATA / "lightning" / "version_0" / "metrics.csv")
    assert run.taken == {
        "train_loss": "train_loss_epoch", "val_loss": "val_loss", "train_metric": "train_acc",
        "val_metric": "val_acc", "learning_rate": "lr-AdamW",
    }  # fmt: skip
    assert run.curves.unit == "epoch"
    assert run.curves.val_loss.x.tolist() == list(range(1, 13))
    assert run.curves.val_loss.y[0] == pytest.approx(0.6705039)
    assert run.curves.learning_rate.x[-1] <= 12
    assert run.curves.config == {"learning_rate": 0.05, "width": 16}


def test_hugging_faces_state_with_its_planned_length():
    run = only(DATA / "hf")
    assert run.taken["val_loss"] == "eval_loss"
    assert run.taken["val_metric"] == "eval_accuracy"
    assert run.taken["grad_norm"] == "grad_norm"
    assert (run.curves.unit, run.curves.length, len(run.curves.train_loss)) == ("step", 64.0, 16)
    assert run.curves.val_loss.x.tolist() == [16, 32, 48]
    assert only(DATA / "hf", max_epochs=8).curves.length == 128
    assert only(DATA / "hf" / "checkpoint-64" / "trainer_state.json").taken == run.taken


def test_mlflows_file_store():
    runs, _ = read_runs([DATA / "mlruns"])
    assert sorted(r.curves.name for r in runs) == ["lr 0.01", "lr 0.1"]
    run = next(r for r in runs if r.curves.name == "lr 0.1")
    assert run.taken == {"train_loss": "train/loss", "val_loss": "val/loss", "val_metric": "val/accuracy"}
    assert run.curves.config == {"learning_rate": 0.1, "batch_size": 64.0}
    assert run.curves.val_loss.x.tolist() == list(range(1, 13))
    assert run.curves.val_loss.y[0] == pytest.approx(2.4)


def test_luthiers_own_study(tmp_path):
    def train(trial: lt.Trial) -> None:
        for epoch in trial.epochs():
            trial.report(train_loss=1 / epoch, val_loss=2 / epoch, val_accuracy=1 - 1 / epoch)

    lt.tune(train, lt.Space(learning_rate=lt.Float(1e-3, 1e-1)), maximize="val_accuracy", max_epochs=4,
            strategy="random", budget="3 trials", workers=0, quiet=True, storage=f"{tmp_path}/study.db")  # fmt: skip
    runs, _ = read_runs([tmp_path])
    assert [r.curves.name for r in runs] == ["trial 0", "trial 1", "trial 2"]
    assert runs[0].taken == {"train_loss": "train_loss", "val_loss": "val_loss", "val_metric": "val_accuracy"}
    assert runs[0].curves.length == 4
    assert "learning_rate" in runs[0].curves.config


def test_failed_trials_are_read_as_far_as_they_came_and_said_to_have_failed(tmp_path):
    from luthier.diagnosis import Diagnosis, diagnose_curves
    from luthier.view import diagnosed

    def train(trial: lt.Trial) -> None:
        for epoch in trial.epochs():
            if trial.config["learning_rate"] > 0.05 and epoch == 4:
                raise ValueError("broken")
            if trial.config["learning_rate"] < 0.01:
                raise OSError("no data")
            trial.report(train_loss=1 / epoch, val_loss=2 / epoch)

    url = f"sqlite:///{tmp_path}/study.db"
    rates = [{"learning_rate": rate} for rate in (0.02, 0.1, 0.001)]
    lt.tune(train, lt.Space(learning_rate=lt.Float(1e-3, 1e-1)), minimize="val_loss", max_epochs=6, strategy="random",
            budget="3 trials", workers=0, quiet=True, storage=url, name="rates", enqueue=rates)  # fmt: skip
    for place in (tmp_path, url):
        runs, notes = read_runs([place], name="rates")
        ends = {r.curves.name: (r.curves.end, r.failed) for r in runs}
        assert ends["trial 0"] == (6, "")
        assert ends["trial 1"] == (3, "failed after epoch 3 of 6: raised: ValueError: broken")
        assert "trial 2" not in ends
        assert any("failed before its first report: raised: OSError: no data" in note for note in notes)
    readings = [
        diagnosed.Diagnosed(r.curves, diagnose_curves(r.curves), r.path, r.taken, r.notes, r.failed) for r in runs
    ]
    lines = [text for text, _ in diagnosed.tell(Diagnosis(()), readings)]
    assert any("trial 1" in line and "failed after epoch 3 of 6" in line for line in lines)
    assert "failed after epoch 3 of 6" in diagnosed.page(Diagnosis(()), readings)
    with pytest.raises(UserError, match=r"a study called 'rate'. Did you mean 'rates'"):
        read_runs([url], name="rate")
    with pytest.raises(UserError, match="There is no study at sqlite"):
        read_runs([f"sqlite:///{tmp_path}/nothing.db"])


def overfitted(first: int, per_epoch: int = 1) -> str:
    rows = ["epoch,train_loss,val_loss"]
    for e in range(30):
        for b in range(per_epoch):
            val = f"{0.5 + abs(e - 10) * 0.05:.4f}" if b == per_epoch - 1 else ""
            rows.append(f"{e + first},{2 / (e + 1 + b / per_epoch):.4f},{val}")
    return "\n".join(rows)


@pytest.mark.parametrize("per_epoch", [1, 4])
def test_epochs_are_called_as_the_log_calls_them(tmp_path, per_epoch):
    from luthier.diagnosis import diagnose_curves
    from luthier.view.panels import training_panels

    told, panels = [], []
    for first in (0, 1):
        run = only(write(tmp_path / f"from-{first}.csv", overfitted(first, per_epoch)))
        told.append(next(f for f in diagnose_curves(run.curves) if f.kind == "overfitting"))
        panels.append(training_panels(run.curves, [told[-1]], run.taken)[0])
    began = told[0].since
    assert began == told[1].since - 1
    assert 8 <= began <= 10  # smoothed: the lowest is epoch 10
    assert f"rises since {began:g}," in told[0].text
    assert told[0].numbers == told[1].numbers
    assert told[1].text == told[0].text.replace(f"since {began:g},", f"since {began + 1:g},")
    if per_epoch == 1:
        assert (panels[0].first, panels[0].last, panels[0].marks[0][0]) == (0, 29, began)
    else:
        assert (panels[0].unit, panels[0].last, panels[0].marks[0][0]) == ("epochs done", 30, began + 1)
    assert (panels[1].last, panels[1].marks[0][0]) == (30, began + 1)


def test_tensorboards_epochs_from_zero_are_called_so(tmp_path):
    events(
        tmp_path,
        {
            "train/epoch_loss": [(e, 1 / (e + 1)) for e in range(9)],
            "val/loss": [(e, 1.0 if e < 8 else math.nan) for e in range(9)],
        },
    )
    from luthier.diagnosis import diagnose_curves

    found = next(f for f in diagnose_curves(only(tmp_path).curves) if f.kind == "non_finite")
    assert found.since == 8
    assert "infinite at 8," in found.text


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_what_knowing_nothing_would_score(tmp_path):
    path = write(tmp_path / "log.csv", "epoch,train_loss,val_loss,val_acc\n1,2,2,40\n2,1,1,60\n")
    curves = only(path, classes=10, max_epochs=50).curves
    assert curves.trivial_loss == pytest.approx(math.log(10))
    assert curves.trivial_metric == 0.1
    assert curves.length == 50


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("log.csv", "", "there is no line in it"),
        ("log.csv", "1,2\n3,4\n", "its first line holds numbers, not names"),
        ("log.csv", "epoch,loss\n", "holds no numbers. Name a log with at least one record"),
        ("log.csv", "epoch,zeal\n1,2\n2,3\n", "Logged were: zeal."),
        ("log.jsonl", '{"loss": 1}\nnot json\n{"loss": 2}\n', "line 2 is no JSON"),
        ("log.jsonl", "[1]\n[2]\n", "line 1 is '[1]', not an object"),
        ("trainer_state.json", "{}", "is no state of a Trainer"),
        ("notes.md", "hello", "Known are: TensorBoard"),
        ("study.db", "not a database", "no log of a training"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path, name, text, problem):
    with pytest.raises(UserError) as error:
        read_runs([write(tmp_path / name, text)])
    assert problem in str(error.value)


def test_a_folder_without_a_log_says_what_it_has_and_what_is_known(tmp_path):
    with pytest.raises(UserError, match=r"It is empty. Known are: TensorBoard's event files; CSV"):
        read_runs([tmp_path])
    write(tmp_path / "deep" / "a.py", "")
    with pytest.raises(UserError, match=r"It has 1 .py"):
        read_runs([tmp_path])
    with pytest.raises(UserError, match=r"There is nothing at .*dep. Did you mean 'deep'"):
        read_runs([tmp_path / "dep"])


def test_without_the_package_tensorboard_says_how_to_get_it(tmp_path, monkeypatch):
    events(tmp_path, {"train/loss": [(0, 1.0), (1, 0.5)]})
    monkeypatch.setitem(__import__("sys").modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(UserError, match=r"luthier\[tensorboard\]"):
        read_runs([tmp_path])


def test_recordings_without_a_pair_are_told_and_left_out(tmp_path):
    write(tmp_path / "a.csv", "epoch,loss\n1,2\n2,1\n")
    events(tmp_path / "b", {"zeal": [(0, 1.0), (1, 2.0)]})
    runs, notes = read_runs([tmp_path])
    assert len(runs) == 1
    assert notes == ["1 recording left out, without a loss or a metric: zeal"]


def test_a_broken_file_among_sound_ones_is_told_and_left_out(tmp_path):
    write(tmp_path / "a.csv", "epoch,loss\n1,2\n2,1\n")
    write(tmp_path / "hf" / "trainer_state.json", "[]")
    (tmp_path / "tb").mkdir()
    (tmp_path / "tb" / "events.out.tfevents.1.host").write_bytes(b"\x07" * 99)
    runs, notes = read_runs([tmp_path])
    assert len(runs) == 1
    assert len(notes) == 1
    assert "is no state of a Trainer: it has no log_history" in notes[0]
    with pytest.raises(UserError, match="is no state of a Trainer"):
        read_runs([tmp_path / "hf"])
    with pytest.raises(UserError, match="No log of a training was found"):
        read_runs([tmp_path / "tb"])


def test_several_paths_keep_their_names_apart(tmp_path):
    for folder in ("x", "y"):
        write(tmp_path / folder / "log.csv", "epoch,loss\n1,2\n2,1\n")
    runs, _ = read_runs([tmp_path / "x", tmp_path / "y"])
    assert [r.curves.name for r in runs] == ["x/log", "y/log"]


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_every_curve_is_drawn_and_findings_stand_where_they_began(tmp_path):
    import plotly.graph_objects as go

    from luthier.diagnosis import Diagnosis, Finding
    from luthier.view import diagnosed, figures
    from luthier.view.panels import training_panels

    rows = "\n".join(
        f"{s},{2 / (s + 1)},{1 / (s + 1) if s % 100 == 99 else ''},{'nan' if s > 4000 else 3}" for s in range(5000)
    )
    run = only(write(tmp_path / "log.csv", f"step,train_loss,val_loss,grad_norm\n{rows}"))
    found = Finding("bad_thing", "critical", 0.9, "<b>It broke.</b>", ("Mend it.",), 1, 700.0)
    panels = training_panels(run.curves, [found], run.taken)
    assert [p.title for p in panels] == ["Loss", "Gradient norm"]
    assert [len(x) <= 602 for _, _, x, _ in panels[0].lines] == [True, True]
    assert panels[0].marks == ((700.0, "bad thing", "critical"),)
    assert panels[1].marks == ()
    for panel in panels:
        go.Figure(figures.training_figure(panel))  # refuses what plotly does not know
    readings = [diagnosed.Diagnosed(run.curves, Diagnosis((found,)), run.path, run.taken)]
    page = diagnosed.page(Diagnosis(()), readings, ["a <note>"])
    assert "&lt;b&gt;It broke.&lt;/b&gt;" in page
    assert "a &lt;note&gt;" in page
    assert diagnosed.tell(Diagnosis(()), readings)[0][0] == "critical: <b>It broke.</b>"


def test_a_consequence_leaves_the_word_to_its_cause_and_silence_is_no_praise(tmp_path):
    from luthier.diagnosis import Curves, Diagnosis, Finding
    from luthier.view import diagnosed

    cause = Finding("rate", "warning", 0.6, "Too fast.", ("Slow down.",), 1)
    effect = Finding("noise", "critical", 0.9, "Noisy.", ("Average.",), 2, causes=("rate",))
    both = diagnosed.Diagnosed(Curves(name="a"), Diagnosis((effect, cause)), "a", {})
    well = diagnosed.Diagnosed(Curves(name="b"), Diagnosis((Finding("fine", "good", 1.0, "Fine.", (), 0),)), "b", {})
    none = diagnosed.Diagnosed(Curves(name="c"), Diagnosis(()), "c", {})
    assert diagnosed.next_steps(Diagnosis(()), [well, both]) == ["Slow down."]
    assert diagnosed.by_gravity([none, well, both])[0] is both
    assert diagnosed.headline(Diagnosis(()), [well, both])[0] == "critical: a: Noisy."
    assert diagnosed.headline(Diagnosis(()), [none])[0].startswith("nothing can be said")
    assert diagnosed.headline(Diagnosis(()), [none, well])[0] == (
        "good: nothing is wrong with 1 training, and nothing can be said of 1."
    )
