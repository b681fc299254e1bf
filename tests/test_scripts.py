"""Scripts as training functions: real processes, every style, every place where metrics are found, and no orphan."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import luthier as lt
from luthier.contracts import Stop
from luthier.core.errors import RunError, UserError
from luthier.core.trial import Status
from luthier.schedule.full import Full
from luthier.schedule.halving import ASHA, SuccessiveHalving
from luthier.scripts.command import Given, build
from luthier.scripts.files import CsvFile
from luthier.scripts.gather import Gatherer
from luthier.scripts.lines import Expressions, Row, Stream, parse
from luthier.scripts.names import Names
from luthier.scripts.template import Template
from luthier.search.uniform import Random

SPACE = lt.Space(
    lr=lt.Float(1e-4, 1e-1, log=True),
    opt=lt.Choice("sgd", "adam"),
    momentum=lt.Float(0.8, 0.99, when={"opt": "sgd"}),
)
NAMES = Names(["val_loss"])

# A script as people write them, without a word of Luthier in it.
MAIN = """
import argparse, time
p = argparse.ArgumentParser()
p.add_argument("--lr", type=float, default=1e-3)
p.add_argument("--opt", default="sgd", choices=["sgd", "adam"])
p.add_argument("--momentum", type=float)
p.add_argument("--epochs", type=int, default=10)
p.add_argument("--amp", action="store_true")
p.add_argument("--crash", type=float, default=1e9)
args = p.parse_args()
assert (args.momentum is None) == (args.opt == "adam")
for epoch in range(args.epochs):
    print(f"Epoch {epoch}: train loss {1 / (epoch + 1):.4f}, lr {args.lr}")
    if args.lr > args.crash:
        raise RuntimeError("CUDA out of memory")
    print(f"  val loss: {args.lr + 1 / (epoch + 1):.6f}  acc {50 + epoch}%")
    time.sleep(0.002)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "main.py").write_text(MAIN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tune(script, **more):
    given = {"space": SPACE, "minimize": "val_loss", "max_epochs": 4, "strategy": "random", "budget": "3 trials"}
    space = {**given, **more}.pop("space")
    rest = {k: v for k, v in {**given, **more}.items() if k != "space"}
    return lt.tune(script, space, **{"quiet": True, "workers": 0, **rest})


def python(*words):
    return [sys.executable, *words]


# -- tuning ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_script_is_tuned_as_it_is(folder, workers):
    script = lt.Script(python("main.py", "--epochs", "{epochs}"))
    result = tune(script, workers=workers, storage=folder / "s.db")
    assert [t.status for t in result.trials()] == [Status.DONE] * 3
    for trial in result.trials():
        assert [r.epoch for r in trial.reports] == [1, 2, 3, 4]
        assert [r.metrics["train_loss"] for r in trial.reports] == [1.0, 0.5, 0.3333, 0.25]
        assert trial.reports[1].metrics["val_loss"] == pytest.approx(0.5 + trial.config["lr"], abs=1e-6)
        assert trial.reports[3].metrics["accuracy"] == 0.53
    assert result.best_config["lr"] == min(t.config["lr"] for t in result.trials())
    log = (folder / "s.files/main/trials/trial-00000/output.log").read_text()
    assert log.startswith("$ ")
    assert "Epoch 3: train loss 0.2500" in log
    assert result.history.study.name == "main"


def test_the_playbook_tunes_a_script(folder):
    result = tune(lt.Script(python("main.py", "--epochs={epochs}")), strategy="playbook", budget="8 trials")
    assert result.stages
    assert result.best_score < 0.3


def test_a_study_of_a_script_is_resumed_from_its_log_alone(folder, monkeypatch):
    (folder / "space.yaml").write_text(SPACE.to_yaml())
    words = ["tune", "--space", "space.yaml", "--minimize", "val_loss", "--max-epochs", "3", "--strategy", "random"]
    more = ["--budget", "2 trials", "--workers", "0", "--storage", "s.db", "--json"]
    done = inside([*words, *more, "--", *python("main.py", "--lr", "{lr}", "--epochs", "{epochs}")])
    assert done.code == 0, done.err
    assert json.loads(done.out.splitlines()[-1])["trials"] == 2
    away = folder / "elsewhere"
    away.mkdir()
    monkeypatch.chdir(away)  # the script is found from anywhere
    again = inside(["resume", "../s.db", "--workers", "0", "--budget", "3 trials", "--json"])
    assert again.code == 0, again.err
    assert json.loads(again.out.splitlines()[-1])["trials"] == 3


def test_a_paused_script_starts_over_and_the_budget_counts_it(folder):
    script = lt.Script(python("main.py", "--epochs", "{epochs}"))
    result = tune(
        script, strategy=ASHA(Random(), min_epochs=1), max_epochs=9, budget="3 trials", storage=folder / "s.db"
    )
    longest = max(result.trials(), key=lambda t: t.epoch)
    assert longest.epoch >= 3
    assert longest.spent == longest.epoch + 1 + (3 if longest.epoch == 9 else 0)
    assert [r.epoch for r in longest.reports] == list(range(1, longest.epoch + 1))
    # Its schedule was made for the whole length all the time.
    runs = (folder / f"s.files/main/trials/trial-{longest.id:05d}/output.log").read_text()
    assert runs.count("$ ") == runs.count("--epochs 9") > 1


RESUMABLE = """
import argparse, os, time, json
p = argparse.ArgumentParser()
p.add_argument("--lr", type=float); p.add_argument("--out"); p.add_argument("--resume", default="")
p.add_argument("--late", action="store_true")
a = p.parse_args()
first = json.load(open(a.resume))["epoch"] + 1 if a.resume else 0
def save():
    with open(os.path.join(a.out, "last.pt"), "w") as f:
        time.sleep(0.02); json.dump({"epoch": epoch}, f)
for epoch in range(first, 4):
    if not a.late: save()
    print(json.dumps({"epoch": epoch, "val_loss": a.lr + 1 / (epoch + 1), "first": first}), flush=True)
    if a.late: save()
    time.sleep(0.3)
"""


@pytest.mark.parametrize("when", ["", "--late"])
def test_a_script_that_can_resume_goes_on_from_its_checkpoint(folder, when):
    (folder / "long.py").write_text(RESUMABLE)
    words = python("long.py", "--lr={lr}", "--out={out}", *filter(None, [when]))
    script = lt.Script(words, resume="--resume {checkpoint}")
    space = lt.Space(lr=lt.Float(1e-4, 1e-1, log=True))
    strategy = SuccessiveHalving(Random(), min_epochs=2, eta=2)
    result = tune(script, space=space, strategy=strategy, max_epochs=4, budget="2 trials")
    longest = max(result.trials(), key=lambda t: t.epoch)
    assert longest.epoch == longest.spent == 4
    assert longest.reports[-1].metrics["first"] in (2, 3)


def test_strategies_that_copy_weights_are_refused(folder):
    with pytest.raises(UserError, match=r"'pbt' changes hyperparameters within a training.*asha"):
        tune(lt.Script(python("main.py")), strategy="pbt")


def test_a_script_that_fails_is_recorded_with_its_last_words(folder):
    result = tune(lt.Script(python("main.py", "--epochs={epochs}", "--crash=0.002")), budget="6 trials", seed=3)
    failed = [t for t in result.trials() if t.failure]
    assert failed
    assert len(failed) < len(result.trials())
    assert failed[0].failure.kind == "died"
    assert failed[0].failure.reason == "the script exited with code 1: RuntimeError: CUDA out of memory"
    assert "Traceback" in failed[0].failure.detail


def test_a_script_whose_loss_is_not_finite_is_ended_as_diverged(folder):
    code = "import time\nfor e in range(9):\n print(f'epoch {e} val_loss=nan', flush=True)\n time.sleep(0.2)"
    (folder / "nan.py").write_text(code)
    code = "import sys\nif float(sys.argv[1][5:]) > 2e-3: exec(open('nan.py').read())\nelse: print('val_loss=1')"
    (folder / "some.py").write_text(code)
    result = tune(lt.Script(python("some.py")), space=lt.Space(lr=lt.Float(1e-4, 1e-1, log=True)), seed=3)
    kinds = {t.failure.kind for t in result.trials() if t.failure}
    assert kinds == {"nonfinite"}


# -- processes ---------------------------------------------------------------------------------------------------------

FAMILY = """
import os, signal, subprocess, sys, time
kind = sys.argv[1]
child = "import time; time.sleep(60)"
one = subprocess.Popen([sys.executable, "-c", child])
two = subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
if kind == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if kind == "polite":
    def leave(*_):
        open("left", "w").write("yes")
        sys.exit(0)
    signal.signal(signal.SIGTERM, leave)
open("pids.part", "w").write(f"{os.getpid()} {one.pid} {two.pid}")
os.rename("pids.part", "pids")
for epoch in range(1000):
    print(f"epoch={epoch} val_loss={1 / (epoch + 1)}", flush=True)
    time.sleep(0.02)
"""


class Impatient(Full):
    def judge(self, history, trial):
        return Stop("seen enough") if history.trials[trial].epoch >= 3 else None


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def gone(pids, seconds=8.0):
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(alive, pids))


@pytest.mark.parametrize("kind", ["plain", "deaf", "polite"])
def test_a_stopped_script_is_ended_with_all_its_processes(folder, kind):
    (folder / "family.py").write_text(FAMILY)
    script = lt.Script(python("family.py", kind, "{x}"), grace=0.4)
    result = tune(
        script, space=lt.Space(x=lt.Float(0, 1)), strategy=Impatient(Random()), max_epochs=9, budget="9 epochs"
    )
    assert {(t.status, t.epoch) for t in result.trials()} == {(Status.STOPPED, 3)}
    pids = [int(p) for p in (folder / "pids").read_text().split()]
    assert len(pids) == 3
    assert gone(pids, 0.0)
    assert (folder / "left").exists() == (kind == "polite")


@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_no_script_outlives_a_driver_or_worker_that_was_killed(folder, victim):
    (folder / "family.py").write_text(FAMILY)
    (folder / "space.yaml").write_text("x: {type: float, low: 0.0, high: 1.0}\n")
    words = python("-m", "luthier", "tune", "--space", "space.yaml", "--minimize", "val_loss", "--strategy", "random",
                   "--storage", "s.db", "--max-epochs", "900", "--grace", "0.3", "--",
                   *python("family.py", "deaf", "{x}"))  # fmt: skip
    driver = subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 40
        while not (folder / "pids").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        pids = [int(p) for p in (folder / "pids").read_text().split()]
        assert all(map(alive, pids))
        guard = parent(pids[0])
        os.kill(driver.pid if victim == "driver" else parent(guard), signal.SIGKILL)
        assert gone([*pids, guard])
    finally:
        driver.kill()
        driver.wait()
        later = folder / "pids"
        assert gone([int(p) for p in later.read_text().split()])


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def environment():
    place = str(Path(lt.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": place, "COLUMNS": "200", "NO_COLOR": "1"}


def test_the_script_sees_the_users_own_environment(folder):
    code = """
import json, os
print(json.dumps({
    "val_loss": len(os.environ.get("PYTHONPATH", "")),
    "worker": float("LUTHIER_WORKER" in os.environ),
    "own": float(os.path.isdir(os.environ["LUTHIER_OUT"])),
}))
"""
    (folder / "env.py").write_text(code)
    before = os.environ.pop("PYTHONPATH", None)
    try:
        result = tune(lt.Script(python("env.py", "{lr}"), style="fire"), workers=1, max_epochs=1, budget="1 trial")
    finally:
        if before is not None:
            os.environ["PYTHONPATH"] = before
    assert result.trials()[0].metrics == {"val_loss": 0, "worker": 0, "own": 1}


# -- commands ----------------------------------------------------------------------------------------------------------

CONFIG = {"lr": 1e-05, "opt": "sgd", "amp": True, "ema": False, "note": None}


@pytest.mark.parametrize(
    ("style", "words"),
    [
        ("argparse", ["--opt=sgd", "--amp"]),
        ("words", ["--opt", "sgd", "--amp"]),
        ("fire", ["--opt=sgd", "--amp=True", "--ema=False", "--note=None"]),
        ("hydra", ["opt=sgd", "amp=true", "ema=false", "note=null"]),
    ],
)
def test_what_no_placeholder_names_is_appended_in_the_scripts_own_style(style, words):
    given = Given(CONFIG, special={"out": "/tmp/a b"})
    assert build(["train", "--lr", "{lr}", "--d={out}"], given, style) == [
        "train",
        "--lr",
        "1e-05",
        "--d=/tmp/a b",
        *words,
    ]


def test_placeholders():
    given = Given({"lr": 0.00123456, "a.b": 3}, inactive={"momentum"}, special={"epochs": 9})
    assert build(["{lr:.2g}", "{{x}}", "x{a.b}-{epochs}"], given, "fire") == ["0.0012", "{x}", "x3-9"]
    words = ["t", "--momentum", "{momentum}", "-v", "--m={momentum}", "k={momentum}"]
    assert build(words, Given({}, inactive={"momentum"}), "none") == ["t", "-v"]


def test_templates():
    given = Given({"lr": 1e-05, "opt": "adam", "amp": True, "width": 8}, inactive={"momentum"}, special={"seed": 7})
    text = "# mine\noptim: {lr: {lr}, name: {opt}, m: {momentum}}\nseed: {seed}\namp: {amp}\nmodel: {width: 4}\n"
    made = Template("c.yaml", text)
    keys = made.keys(["lr", "opt", "amp", "width", "momentum"])
    assert keys == {"width": ("model", "width")}
    data = yaml.safe_load(made.render(given, keys))
    assert data["model"] == {"width": 8}
    assert data["optim"] == {"lr": 1e-05, "name": "adam", "m": None}
    assert (data["seed"], data["amp"]) == (7, True)


def test_the_keys_of_a_yaml_or_json_template_are_overridden(folder):
    text = json.dumps({"optim": {"lr": 1.0, "momentum": 0.5}, "net": {"width": 1}, "epochs": 3})
    made = Template("c.json", text)
    keys = made.keys(["optim.lr", "width", "absent", "momentum"])
    assert keys == {"optim.lr": ("optim", "lr"), "width": ("net", "width"), "momentum": ("optim", "momentum")}
    given = Given({"optim.lr": 0.1, "width": 64, "absent": 1}, inactive={"momentum"})
    assert json.loads(made.render(given, keys)) == {
        "optim": {"lr": 0.1, "momentum": 0.5}, "net": {"width": 64}, "epochs": 3}  # fmt: skip
    with pytest.raises(UserError, match=r"'lr' stands in several places: a\.lr, b\.lr"):
        Template("c.yaml", "a: {lr: 1}\nb: {lr: 2}\n").keys(["lr"])


def test_a_script_is_tuned_by_its_configuration_file(folder):
    (folder / "base.yaml").write_text("optim:\n  lr: 0.5\nepochs: 1\nname: kept\n")
    code = """
import sys, yaml
c = yaml.safe_load(open(sys.argv[1]))
assert c["name"] == "kept" and sys.argv[2:] == []
for e in range(c["epochs"]):
    print(f"val_loss: {c['optim']['lr']}")
"""
    (folder / "conf.py").write_text(code)
    space = lt.Space({"optim.lr": lt.Float(1e-5, 1e-1, log=True), "epochs": lt.Constant(2)})
    script = lt.Script(python("conf.py", "{config}"), template="base.yaml", style="none")
    result = tune(script, space=space, storage=folder / "s.db", max_epochs=2)
    for trial in result.trials():
        assert [r.metrics["val_loss"] for r in trial.reports] == [trial.config["optim.lr"]] * 2
    assert (folder / "s.files/conf/trials/trial-00002/base.yaml").exists()
    # The command of the best names its file, which is there once it is asked for.
    command = inside(["best", "s.db", "-f", "command"])
    assert command.out.split()[1:] == ["conf.py", "best/base.yaml"]
    assert "mkdir -p best && luthier best s.db --name conf --format template > best/base.yaml" in command.err
    (folder / "best").mkdir()
    (folder / "best/base.yaml").write_text(inside(["best", "s.db", "-f", "template"]).out)
    assert inside(["best", "s.db", "-f", "command"]).err == ""
    done = subprocess.run(command.out.split(), cwd=folder, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == f"val_loss: {result.best_config['optim.lr']}"


def test_arguments_say_what_they_leave_out(folder):
    space = lt.Space(lr=lt.Float(1e-4, 1e-1, log=True), amp=lt.Choice(False, None))
    script = lt.Script(python("main.py", "--opt=adam", "--epochs={epochs}"))
    result = tune(script, space=space, storage=folder / "s.db", budget="1 trial")
    best = inside(["best", "s.db", "-f", "args"])
    assert best.out.split() == [f"--lr={result.best_config['lr']}"]
    assert "Left out: amp (" in best.err
    fire = inside(["best", "s.db", "-f", "args", "--style", "fire"])
    assert fire.out.split()[1] == f"--amp={result.best_config['amp']}"
    assert fire.err == ""
    assert "read no configuration file" in inside(["best", "s.db", "-f", "template"]).err


# -- metrics -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "values", "epoch", "step"),
    [
        ("step 250: train loss 2.1034, val loss 2.2250", {"train_loss": 2.1034, "val_loss": 2.225}, None, 250),
        ("iter 250: loss 2.2, time 500.32ms, mfu 3.45%", {"train_loss": 2.2}, None, 250),
        ("step 500 | loss 2.1000 | step time 23.40ms", {"train_loss": 2.1}, None, 500),
        ("Epoch [3/10], Step [100/600], Loss: 0.2512", {"train_loss": 0.2512}, 3, 100),
        ("Epoch: [0][  10/5005]\tTime 0.5 ( 0.6)\tLoss 6.9e+00 (7.0e+00)\tAcc@1 0.39 ( 0.10)",
         {"train_loss": 6.9, "accuracy_1": 0.39}, 0, None),
        ("Test set: Average loss: 0.0281, Accuracy: 9905/10000 (99%)",
         {"test_loss": 0.0281, "test_accuracy": 0.9905}, None, None),
        ("test final score: 4/20 = 20.00% correct", {"test_score": 0.2}, None, None),
        ("| end of epoch   1 | time: 12.34s | valid loss  5.38 | valid ppl   217.23",
         {"val_loss": 5.38, "val_perplexity": 217.23}, 1, None),
        ("{'eval_loss': 0.41, 'eval_accuracy': 0.9, 'epoch': 1.0}", {"val_loss": 0.41, "val_accuracy": 0.9}, 1, None),
        ('{"epoch": 3, "train": {"loss": 0.5}, "note": "x", "ms": 7}', {"train_loss": 0.5, "ms": 7}, 3, None),
        ("3s 5ms/step - loss: 0.25 - val_loss: 0.13 - val_accuracy: 0.96",
         {"train_loss": 0.25, "val_loss": 0.13, "val_accuracy": 0.96}, None, None),
        ("05-01 12:33:44,123 INFO epoch=1 val_loss=0.5 lr=1e-3", {"val_loss": 0.5, "learning_rate": 0.001}, 1, None),
        ("train: loss=0.5 acc=81.5% | val: loss=0.6 acc=70.2 %",
         {"train_loss": 0.5, "train_accuracy": 0.815, "val_loss": 0.6, "val_accuracy": 0.702}, None, None),
        ("{'eval_loss': '0.41', 'epoch': '0.5'}", {"val_loss": 0.41}, 0.5, None),
        ("Validation: 100%|####| 10/10 [00:00<00:00]  loss 0.3", {"val_loss": 0.3}, None, None),
        ("val loss: tensor(0.5123, device='cuda:0')", {"val_loss": 0.5123}, None, None),
        ("\x1b[32mval_loss\x1b[0m: \x1b[1m0.5\x1b[0m", {"val_loss": 0.5}, None, None),
        ("Epoch 00003 | Loss(train) 1.94 | Acc(val) 0.77", {"train_loss": 1.94, "val_accuracy": 0.77}, 3, None),
        ("loss 1,234.5", {"train_loss": 1234.5}, None, None),
        ("val_loss: -inf", {"val_loss": float("-inf")}, None, None),
        ("time per epoch: 3.2s", {}, None, None),
        ("Namespace(epochs=10, lr=0.1, loss=3)", {}, None, None),
        ("number of parameters: 12,345", {}, None, None),
        ("best epoch: 5", {}, None, None),
        ("saved to runs/val_loss_3/epoch-7.pt", {}, None, None),
    ],
)  # fmt: skip
def test_what_a_line_tells(line, values, epoch, step):
    row = parse(line, NAMES)
    assert (dict(row.values), row.epoch, row.step) == (values, epoch, step)


def test_a_metric_is_reported_by_the_name_that_was_asked_for():
    names = Names(["valid/acc", "latency_ms"])
    row = parse("Validation accuracy: 91% | train accuracy 95% | latency_ms 3.5", names)
    assert dict(row.values) == {"valid/acc": 0.91, "train/acc": 0.95, "latency_ms": 3.5}
    assert dict(parse("loss: 0.5", Names(["loss"])).values) == {"loss": 0.5}


@pytest.mark.parametrize(
    ("asked", "line", "value"),
    [
        ("mAP@0.5", "epoch 1 mAP@0.5: 0.600 mAP@0.5:0.95: 0.400", 0.6),
        ("mAP@0.5:0.95", "epoch 1 mAP@0.5: 0.600 mAP@0.5:0.95: 0.400", 0.4),
        ("mAP@0.5", "mAP@0.5:0.95: 0.400, mAP@0.5: 0.600", 0.6),
        ("mAP@.5", "mAP@.5:.95 0.4", None),
        ("recall@.5:.75", "{'recall@.5': 0.6, 'recall@.5:.75': 0.4}", 0.4),
        ("mAP@.5", "Class Images mAP@.5 mAP@.5:.95", None),  # a table's heading
        ("mAP@.5:.95", "Class Images P R mAP@.5 mAP@.5:.95: 100%|####| 4/4 [00:01<00:00]", None),
        ("mAP50-95", "mAP50: 0.6, mAP50-95: 0.4", 0.4),
        ("mAP50", "mAP50:95 0.4 mAP50 0.6", 0.6),
        ("mAP@[0.5:0.95]", "mAP_0.5: 0.6 mAP (0.5:0.95) = 0.4", 0.4),
        ("AP", " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 0.361", None),
        ("iou", " Average Precision  (AP) @[ IoU=0.50      | area=   all | maxDets=100 ] = 0.361", None),
        ("AP@[IoU=0.50 | area=all | maxDets=100]", "(AP) @[ IoU=0.50      | area=   all | maxDets=100 ] = 0.3", 0.3),
        ("F1@0.5", "F1@0.5:0.83 acc@1:30.5", 0.83),
        ("acc@1", "F1@0.5:0.83 acc@1:30.5", 30.5),
        ("iou", "IoU=0.50:0.95", None),
        ("accuracy", "Top-1 accuracy: 30 Top 5 accuracy: 60", None),
    ],
)
def test_a_number_in_a_name_is_not_its_value(asked, line, value):
    assert parse(line, Names([asked])).values.get(asked) == value


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        *((asked, " *   Acc@1 30.000 Acc@5 60.000") for asked in ("acc1", "Acc@1", "top1", "top-1 accuracy", "acc_1")),
        *(("acc@1", line) for line in ("top1: 30 top5: 60", "Top 1 accuracy: 30, Top-5 accuracy: 60", "acc/top1=30",
                                      "Accuracy (top-1): 30")),
        *((asked, "loss/train=1 metrics/acc=30 metrics/f1=3") for asked in ("acc", "accuracy", "metrics/acc")),
        ("map50", "metrics/mAP50=30 metrics/mAP50-95=20"),
        *(("err@1", line) for line in ("err1 30", "top1_err=30", "Top-1 error: 30")),
        ("metrics/acc@1", "[2026-01-01 10:00:00,123][train][INFO] - loss/train=0.5 loss/val=0.6 metrics/acc@1=30"),
        ("acc", "acc=30 metrics/acc=10"),  # the very name comes before what means the same
    ],
)  # fmt: skip
def test_a_metric_is_found_however_it_is_spelled(asked, line):
    assert parse(line, Names([asked])).values.get(asked) == 30


@pytest.mark.parametrize(
    "line",
    [
        "train | acc=30",
        "[train] loss/train=1 acc=30",
        "train: acc 30 val_loss 2 val_acc 3",
        "train: val_loss 2 acc 30 val_acc 3",
        "train: loss 1 acc 30, val_loss 2",
    ],
)
def test_a_training_metric_is_taken_for_no_other(line):
    row = parse(line, Names(["acc"]))
    assert row.values["train_accuracy"] == 30
    assert "acc" not in row.values


@pytest.mark.parametrize(
    ("asked", "mend"),
    [
        ("val_accuracy", "Did you mean 'accuracy_1' or 'accuracy_5'"),
        ("val_acc@1", "Did you mean 'accuracy_1', which does not say on which data it is"),
        ("f1", "Did you mean 'val_f1'"),
        ("val_loss", "Known: accuracy_1, accuracy_5, val_f1."),  # and not the training's
    ],
)
def test_a_metric_that_was_not_said_is_asked_for_by_another_name(folder, asked, mend):
    (folder / "im.py").write_text("print('epoch 1 loss 2.5\\n * Acc@1 30.0 Acc@5 60.0 val_f1 0.3')\n" * 2)
    with pytest.raises(UserError, match=f"{asked!r} was never reported: the script's output told .*{mend}"):
        tune(lt.Script(python("im.py")), minimize=None, metric=asked, max_epochs=1)


def test_expressions_with_named_groups():
    read = Expressions([r"e(?P<epoch>\d+)", r"V=(?P<val_loss>[\d.]+)", r"<(?P<name>\w+) (?P<value>[\d.]+)>"]).parse
    row = read("e3 V=0.25 <quality 0.5> loss=9", NAMES)
    assert (dict(row.values), row.epoch) == ({"val_loss": 0.25, "quality": 0.5}, 3)


def fed(text, names=NAMES, epochs=9, **options):
    stream, gatherer = Stream(names, epochs), Gatherer(names, **options)
    out = []
    for piece in [text[i : i + 7] for i in range(0, len(text), 7)]:
        for row in stream.feed(piece):
            out += gatherer.feed(row)
    for row in stream.end():
        out += gatherer.feed(row)
    return [*out, *gatherer.finish()]


def test_epochs_are_those_that_the_script_says_counted_from_one():
    text = "".join(f"Epoch {e}\nloss: {e}.5\nloss: {e}.25\nval loss: {e}\nval loss: {e}.125\n" for e in range(3))
    assert fed(text) == [(e + 1, {"train_loss": e + 0.25, "val_loss": e + 0.125}) for e in range(3)]
    from_one = "".join(f"epoch {e}: val_loss={e}\n" for e in (1, 2, 5))
    assert fed(from_one) == [(e, {"val_loss": e}) for e in (1, 2, 5)]
    halves = "{'loss': 3, 'epoch': 0.5}\n{'eval_loss': 2, 'epoch': 1.0}\n{'eval_loss': 1, 'epoch': 2.0}\n"
    assert fed(halves) == [(1, {"train_loss": 3, "val_loss": 2}), (2, {"val_loss": 1})]


def test_an_epoch_may_be_said_after_its_metrics():
    text = "".join(f"loss: {e}\nval loss: {e}.5\nEpoch {e} done\n" for e in (1, 2, 3))
    assert fed(text) == [(e, {"train_loss": e, "val_loss": e + 0.5}) for e in (1, 2, 3)]


def test_a_name_like_the_metric_is_no_mistake_where_it_means_something_else():
    def mistyped(asked, said):
        gatherer = Gatherer(Names([asked]))
        for _ in range(3):
            gatherer.feed(Row({said: 1.0}))
        return gatherer.mistyped()

    assert mistyped("val_los", "val_loss")
    assert not mistyped("val_loss", "vae_loss")
    assert not mistyped("val_loss", "test_loss")
    assert not mistyped("val_accuracy_1", "val_accuracy_5")


def test_a_summary_at_the_end_changes_nothing():
    text = "epoch 1 val_loss 3\nepoch 2 val_loss 4\nBest: epoch 1 val_loss 3\n"
    assert fed(text) == [(1, {"val_loss": 3}), (2, {"val_loss": 4})]


def test_without_epochs_each_evaluation_is_one():
    assert fed("loss=3\nval_loss=1 acc=0.5\nloss=2\nval_loss=0.5\n") == [
        (1, {"train_loss": 3, "val_loss": 1, "accuracy": 0.5}),
        (2, {"train_loss": 2, "val_loss": 0.5}),
    ]
    steps = "step 0: val loss 9\nstep 250: val loss 2\niter 251: loss 3\nstep 500: val loss 1\n"
    assert fed(steps) == [(1, {"val_loss": 2}), (2, {"train_loss": 3, "val_loss": 1})]
    assert fed("step 0 val_loss=3\nstep 1 val_loss=2\nstep 2 val_loss=1\n") == [
        (e, {"val_loss": 4 - e}) for e in (1, 2, 3)
    ]
    best = "step 0 val_loss=9\nval_loss 9 is the best so far\nstep 500 val_loss=3\nval_loss 3 is the best so far\n"
    assert fed(best) == [(1, {"val_loss": 3})]
    assert fed("step 0 val_loss=3\n") == [(1, {"val_loss": 3})]


def test_steps_become_epochs_where_their_length_is_known():
    steps = "step 0: val loss 9\nstep 250: val loss 2\niter 251: loss 3\nstep 750: val loss 1\n"
    assert fed(steps, steps_per_epoch=250) == [(1, {"val_loss": 2}), (2, {"train_loss": 3}), (3, {"val_loss": 1})]


def test_a_metric_that_is_said_once_at_the_end_is_that_of_the_whole_training():
    assert fed("loss=3\nloss=2\nTest accuracy: 93%\n", Names(["test_accuracy"]), length=9) == [
        (9, {"train_loss": 2, "test_accuracy": 0.93})
    ]
    assert fed("val_loss=3\nval_loss=2\n", length=9) == [(1, {"val_loss": 3}), (2, {"val_loss": 2})]


def test_a_progress_bar_counts_with_what_it_shows_last():
    bar = "".join(f"\rEpoch 1: {i * 10}%|##| {i}/10 [00:01<00:01, loss={5 - i / 10:.1f}]" for i in range(1, 11))
    assert fed(f"{bar}\nEpoch 1 val_loss=0.5\n") == [(1, {"train_loss": 4.0, "val_loss": 0.5})]


def test_a_progress_bar_over_the_epochs_tells_each_of_them():
    def bar(n, loss):
        return f"{n * 10}%|#| {n}/4 [00:01<00:05, val_loss={loss}]"

    # The numbers of an epoch are shown first, and the bar moves on after them.
    shown = [f"{bar(e, 9 - e)}\r{bar(e + 1, 9 - e)}" for e in range(4)]
    assert fed("\r".join(shown) + "\n", epochs=4) == [(e + 1, {"val_loss": 9 - e}) for e in range(4)]


def test_a_quiet_script_has_said_all_of_its_epoch():
    gatherer = Gatherer(NAMES)
    gatherer.feed(Row({"val_loss": 1.0}))
    assert gatherer.settle() == [(1, {"val_loss": 1.0})]
    assert gatherer.settle() == []
    late = Gatherer(NAMES)
    late.feed(Row({"val_loss": 3.0}, step=500))
    assert late.settle() == [(1, {"val_loss": 3.0})]
    assert late.feed(Row({"val_loss": 3.0})) == late.settle() == late.finish() == []  # "the best so far"
    often = Gatherer(NAMES)  # it says its epoch: how often it tells the metric in one is seen in the first
    assert often.feed(Row({"val_loss": 5.0}, epoch=1)) == []
    assert often.settle() == []
    often.feed(Row({"val_loss": 4.0}, epoch=1))
    assert often.feed(Row({"val_loss": 3.0}, epoch=2)) == [(1, {"val_loss": 4.0})]
    assert often.settle() == []
    often.feed(Row({"val_loss": 2.0}, epoch=2))
    assert often.settle() == [(2, {"val_loss": 2.0})]


CSV = """
import sys, time
place, lr = sys.argv[1], float(sys.argv[2])
with open(place, "w") as f:
    f.write("epoch,train_loss,val_loss\\n")
    for e in range(4):
        f.write(f"{e},{1 / (e + 1)},{lr}"); f.flush(); time.sleep(0.15); f.write(f"{e}\\n"); f.flush()
"""


def test_metrics_from_a_table_that_grows(folder):
    (folder / "table.py").write_text(CSV)
    script = lt.Script(python("table.py", "{out}/log.csv", "{lr}"), style="none", csv="{out}/log.csv")
    result = tune(script, space=lt.Space(lr=lt.Float(1e-3, 1e-1)), workers=1, budget="1 trial")
    trial = result.trials()[0]
    seen = [r.metrics["val_loss"] for r in trial.reports]
    assert seen == [float(f"{trial.config['lr']}{e}") for e in range(4)]  # a line is read when it is complete
    assert [r.metrics["train_loss"] for r in trial.reports] == [1, 1 / 2, 1 / 3, 1 / 4]


def soon(table):
    """A file that was read just now is not read again at once."""
    deadline = time.monotonic() + 5
    while not (rows := table.read()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return [(r.epoch, r.step, dict(r.values)) for r in rows]


def test_a_table_that_was_there_before_is_not_taken_for_this_trials(folder):
    place = folder / "log.csv"
    place.write_text("epoch,val_loss\n1,9\n2,9\n")
    table = CsvFile(place, NAMES)
    assert table.read() == []
    with place.open("a") as file:
        file.write("1,5\n2,")
    assert soon(table) == [(1, None, {"val_loss": 5})]
    place.write_text("epoch,val_loss\n7,1\n")  # written anew
    assert soon(table) == [(7, None, {"val_loss": 1})]


def test_tables_of_other_shapes(folder):
    long, split = CsvFile(folder / "long.csv", NAMES), CsvFile(folder / "split.tsv", NAMES)
    (folder / "long.csv").write_text("name,step,value\ntrain/loss,10,3\nvalid/loss,10,2\n")
    (folder / "split.tsv").write_text("epoch\tphase\tloss\n1\ttrain\t0,5\n1\tval\t0,75\n")
    assert soon(long) == [(None, 10, {"train_loss": 3}), (None, 10, {"val_loss": 2})]
    assert soon(split) == [(1, None, {"train_loss": 0.5}), (1, None, {"val_loss": 0.75})]


def test_a_place_that_all_trials_share_wants_one_worker(folder):
    script = lt.Script(python("main.py"), csv="log.csv")
    with pytest.raises(UserError, match=r"'log.csv' is one place for all trials.*\{out\}"):
        tune(script, workers=2)
    assert lt.Script(python("main.py"), csv="{out}/log.csv").shared == ""


def test_metrics_from_event_files(folder):
    pytest.importorskip("tensorboard")
    (folder / "events.py").write_text("""
import sys, time
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
w = EventFileWriter(sys.argv[1])
for e in range(3):
    for tag, v in (("Loss/train", 1 / (e + 1)), ("Loss/val", 2 / (e + 1))):
        w.add_event(Event(step=e, summary=Summary(value=[Summary.Value(tag=tag, simple_value=v)])))
    w.flush()
    time.sleep(0.1)
""")
    script = lt.Script(python("events.py", "{out}"), style="fire", tensorboard="{out}")
    result = tune(script, budget="1 trial", max_epochs=3, space=lt.Space(x=lt.Float(0, 1)))
    reports = result.trials()[0].reports
    assert [r.epoch for r in reports] == [1, 2, 3]
    assert [r.metrics["val_loss"] for r in reports] == pytest.approx([2, 1, 2 / 3])
    assert [r.metrics["train_loss"] for r in reports] == pytest.approx([1, 1 / 2, 1 / 3])


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "problem", "mend"),
    [
        (["--", "{py}", "main.py", "--lr={lrr}"], "there is no hyperparameter 'lrr'", "Did you mean 'lr'?"),
        (["--", "{py}", "main.py", "--lr={lr"], "has a brace that belongs to no placeholder", "{{ and }}"),
        (["--", "{py}", "main.py", "{config}"], "no hyperparameter 'config'", "needs --template"),
        (["--", "{py}", "main.py", "{steps}"], "no hyperparameter 'steps'", "--steps-per-epoch"),
        (["--style", "none", "--", "{py}", "main.py", "--lr={lr}"], "'opt', 'momentum' would not reach", "{opt}"),
        (["--style", "hidra", "--", "{py}", "main.py"], "no style 'hidra'", "Did you mean 'hydra'?"),
        (["--", "python main.py --lr {lr}"], "it is several words in quotes", "Write them one by one: python main.py"),
        (["--", "python main.py", "--lr={lr}"], "The program 'python main.py' was not found: it is several words", ""),
        (["--", "{py}", "main.py", "--data=..."], "'--data=...' in the command is still to be filled in", ""),
        (["--", "pyhton", "main.py"], "The program 'pyhton' was not found", "Check its spelling"),
        (["--", "./main.py"], "'./main.py' is not executable", "chmod +x"),
        (["--", "{py}", "mian.py"], "There is no script 'mian.py'", "Did you mean 'main.py'?"),
        (["--regex", r"loss ([\d.]+)", "--", "{py}", "main.py"], "has no named group", "(?P<val_loss>"),
        (["--regex", "(", "--", "{py}", "main.py"], "The expression '(' cannot be read", ""),
        (["--template", "bse.yaml", "--", "{py}", "main.py"], "no template 'bse.yaml'", "Did you mean 'base.yaml'?"),
        (["--template", "base.yaml", "--", "{py}", "main.py"], "never names the configuration file", "{config}"),
        (["--regex", "(?P<a>.)", "--csv", "x.csv", "--", "{py}", "main.py"], "from two places at once", "Keep one"),
        (["--csv", "{ou}/x.csv", "--", "{py}", "main.py"], "no hyperparameter 'ou'", "'out'"),
        (["--cwd", "nowhere", "--", "{py}", "main.py"], "'nowhere' to run in does not exist", ""),
        (["--grace", "-1", "--", "{py}", "main.py"], "grace=-1.0 must be a number", ""),
        (["--steps-per-epoch", "0", "--", "{py}", "main.py"], "steps_per_epoch=0.0 must be a number above 0", ""),
        (["--strategy", "pbt", "--", "{py}", "main.py"], "'pbt' changes hyperparameters within", "asha"),
        (["--style", "fire", "main.py:train"], "--style is for a script", "after --"),
        (["main.py:train", "--", "{py}", "main.py"], "Both a target (main.py:train) and a command", ""),
        ([], "Nothing was given to train", "-- python main.py"),
        (["--"], "command of the script is empty", "python main.py"),
        (["--workers", "2", "--csv", "x.csv", "--", "{py}", "main.py"], "'x.csv' is one place for all", "{out}"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_at_once_and_nothing_is_written(folder, words, problem, mend):
    (folder / "space.yaml").write_text(SPACE.to_yaml())
    (folder / "base.yaml").write_text("a: 1\n")
    before = sorted(p.name for p in folder.iterdir())
    done = inside(
        [
            "tune",
            "--space",
            "space.yaml",
            "--minimize",
            "val_loss",
            *(sys.executable if w == "{py}" else w for w in words),
        ]
    )
    assert done.code == 2, done.err
    assert problem in done.err
    assert mend in done.err
    assert done.out == ""
    assert sorted(p.name for p in folder.iterdir()) == before


class Done:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, " ".join(err.split())


def inside(words):
    """The command line within this process: what a mistake says needs no process of its own."""
    import contextlib
    import io

    from luthier import cli

    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["luthier", *words]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as error:
        code = error.code
    finally:
        sys.argv = before
    return Done(code or 0, out.getvalue(), err.getvalue())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistyped_metric_ends_the_study_with_its_first_trial(folder, workers):
    script = lt.Script(python("main.py", "--epochs=100000"))
    with pytest.raises(UserError, match=r"'val_los' was never reported: .*Did you mean 'val_loss'") as e:
        tune(script, minimize="val_los", storage=folder / "s.db", workers=workers, max_epochs=100000)
    assert "train_loss" in str(e.value)
    assert not (folder / "s.db").exists()
    assert not (folder / "s.files").exists()


@pytest.mark.parametrize(
    ("code", "options", "problem"),
    [
        (
            "print('hello'); print('bye')",
            {},
            r"The script printed no metric. Its last lines: hello \| bye Let it print",
        ),
        ("print('x=1')", {"regex": r"loss (?P<val_loss>\d+)"}, r"No line of the script's output fits the expression"),
        ("print('val_loss=1')", {"csv": "{out}/a.csv"}, r"No metric was found in '.*trial-00000/out/a.csv'"),
        ("print('gain: 3')", {}, r"'val_loss' was never reported: the script's output told gain"),
    ],
)
def test_a_script_that_tells_no_metric_ends_the_study_with_its_first_trial(folder, code, options, problem):
    (folder / "mute.py").write_text(code)
    with pytest.raises(UserError, match=problem):
        tune(lt.Script(python("mute.py"), **options), storage=folder / "s.db")
    assert not (folder / "s.db").exists()


def test_a_script_that_always_fails_ends_the_study(folder):
    (folder / "bad.py").write_text("import nothing_like_this")
    with pytest.raises(
        RunError, match=r"(?s)first 3 trials all failed.*exited with code 1: ModuleNotFoundError.*Traceback"
    ):
        tune(lt.Script(python("bad.py")))


def test_a_program_that_only_a_placeholder_names_is_named_when_it_cannot_be_started(folder):
    with pytest.raises(RunError, match=r"'/no/such/[789]' cannot be started: No such file"):
        tune(lt.Script("/no/such/{x}"), space=lt.Space(x=lt.Int(7, 9)))


def test_a_target_is_not_called_by_itself():
    with pytest.raises(UserError, match=r"trained by lt.tune"):
        lt.Script([sys.executable])(None)


# -- the terminal ------------------------------------------------------------------------------------------------------


def test_dry_run_shows_the_first_commands_and_runs_nothing(folder):
    (folder / "space.yaml").write_text(SPACE.to_yaml())
    before = sorted(folder.iterdir())
    words = ["tune", "--space", "space.yaml", "--minimize", "val_loss", "--strategy", "random", "--max-epochs", "7"]
    done = inside([*words, "--dry-run", "--", sys.executable, "main.py", "--lr", "{lr}", "--epochs={epochs}"])
    assert done.code == 0
    assert done.out.count("main.py --lr ") == 3
    assert done.out.count("--epochs=7 --opt=") == 3
    assert sorted(folder.iterdir()) == before
    told = inside([*words, "--dry-run", "--json", "--", sys.executable, "main.py"]).out
    assert len(json.loads(told)["commands"]) == 3
    # What is shown is what is run.
    shown = json.loads(told)["commands"][0]["command"]
    result = tune(lt.Script(python("main.py")), max_epochs=7, budget="1 trial", seed=0)
    assert f"--lr={result.trials()[0].config['lr']}" in shown


def test_studies_are_listed_and_the_best_is_printed_for_the_next_command(folder):
    for name in ("one", "two"):
        tune(lt.Script(python("main.py", "--epochs={epochs}")), storage=folder / "s.db", name=name, budget="2 trials")
    (folder / "other.db").write_bytes(b"SQLite format 3\x00 but broken")
    listed = inside(["ls"])
    assert listed.code == 0
    assert [line.split()[:3] for line in listed.out.splitlines()[1:]] == [
        ["one", "finished", "2"],
        ["two", "finished", "2"],
    ]
    assert {s["study"] for s in json.loads(inside(["ls", "s.db", "--json"]).out)["studies"]} == {"one", "two"}
    assert inside(["ls", "nowhere.db"]).code == 2
    best = json.loads(inside(["best", "s.db", "--name", "one", "--format", "json"]).out)
    assert set(best) <= {"lr", "opt", "momentum"}
    assert yaml.safe_load(inside(["best", "s.db", "--name", "one"]).out) == best
    arguments = inside(["best", "s.db", "--name", "one", "--format", "args"]).out.split()
    assert arguments[0] == f"--lr={best['lr']}"
    hydra = inside(["best", "s.db", "--name", "one", "-f", "args", "--style", "hydra"]).out.split()
    assert hydra[0] == f"lr={best['lr']}"
    command = inside(["best", "s.db", "--name", "one", "--format", "command"]).out.split()
    assert command[1:3] == ["main.py", "--epochs=4"]
    assert subprocess.run(command, cwd=folder, capture_output=True).returncode == 0
    assert "Did you mean 'json'" in inside(["best", "s.db", "--format", "jsn"]).err
    shown = inside(["show", "s.db", "--name", "one"]).out
    assert "Curves of trial" in shown
    assert "val_loss" in shown
    assert "█" in shown


def test_the_shell_completes_strategies(folder):
    environ = {**environment(), "_LUTHIER_COMPLETE": "complete_bash", "COMP_WORDS": "luthier tune --strategy free",
               "COMP_CWORD": "3"}  # fmt: skip
    done = subprocess.run(python("-c", "from luthier.cli import app; app(prog_name='luthier')"), env=environ,
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout.split() == ["freeze_thaw"]


def test_the_documents_commands_have_only_options_that_there_are():
    import re

    import typer

    from luthier.cli import app

    commands = typer.main.get_command(app).commands
    text = (Path(__file__).parents[1] / "docs" / "scripts.md").read_text().replace("\\\n", " ")
    lines = [line for line in re.findall(r"^luthier (.*)$", text, re.MULTILINE) if not line.startswith("--")]
    assert len(lines) > 10
    for line in lines:
        name, *words = re.split(r"\s+", line.partition(" -- ")[0].partition("#")[0])
        known = {flag for option in commands[name].params for flag in option.opts}
        assert {w.partition("=")[0] for w in words if w.startswith("--")} <= known, line


def test_any_training_function_has_a_folder_of_its_own(folder):
    def train(trial):
        (trial.folder / "note.txt").write_text(str(trial.id))
        trial.report(val_loss=1.0)

    lt.tune(train, SPACE, minimize="val_loss", max_epochs=1, budget="2 trials", strategy="random", storage="s.db",
            workers=0, quiet=True)  # fmt: skip
    notes = sorted((folder / "s.files" / "train" / "trials").rglob("note.txt"))
    assert [n.read_text() for n in notes] == ["0", "1"]
