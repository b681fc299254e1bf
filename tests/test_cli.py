"""The command line: a mistake is one clear message, exit code 2 and nothing written; the main job ends in a report."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from luthier import __version__
from luthier.options import STRATEGY_HELP
from luthier.playbook.playbook import STAGES
from luthier.store import history_of, open_store
from luthier.strategies import STRATEGIES

JOB = """
import luthier as lt

def train(trial):
    for epoch in trial.epochs():
        trial.report(train_loss=1 / epoch, val_accuracy=1 - trial.config["learning_rate"] - 0.5 / epoch)

not_a_function = 3

def broken(trial):
    raise RuntimeError("no GPU today")
"""
SPACE = "learning_rate: {type: float, low: 1.0e-5, high: 0.1, log: true}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "curves.csv").write_text("epoch,zeal,ardour\n1,2,3\n2,1,2\n")
    (tmp_path / "garbage.db").write_bytes(b"this is not a database " * 100)
    return tmp_path


def luthier(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "luthier.cli", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        timeout=300,
    )


TUNE = ["tune", "job.py:train", "--space", "space.yaml", "--maximize", "val_accuracy", "--max-epochs", "4"]
BAD_SPACES = {
    "empty": ("{}", "search space is empty"),
    "nothing": ("", "A space is a mapping"),
    "backwards": ("lr: {type: float, low: 1.0, high: 0.1}", "lr: Float: low must be below high, got low=1.0, high=0.1"),
    "log": ("lr: {type: float, low: 0.0, high: 0.1, log: true}", "lr: Float: a log scale needs low > 0"),
    "key": ("lr: {type: float, low: 0.0, hihg: 0.1}", "lr: unknown key 'hihg' for type float"),
}


@pytest.mark.parametrize(
    ("words", "problem", "mend"),
    [
        ([*TUNE, "--strategy", "playbok"], "no strategy 'playbok'", "Did you mean 'playbook'?"),
        ([*TUNE, "--budget", "0 trials"], "The budget '0 trials' leaves nothing to spend", "40 trials"),
        ([*TUNE, "--budget", "soon"], "The budget 'soon' cannot be read", "40 trials"),
        ([*TUNE, "--max-epochs", "0"], "max_epochs must be a whole number of at least 1, got 0", "max_epochs=1"),
        ([*TUNE, "--workers", "-1"], "workers must be a whole number of at least 0", ""),
        ([*TUNE, "--seed", "-3"], "seed must be a whole number of at least 0, got -3", ""),
        ([*TUNE, "--reduce", "mean"], "reduce= (--reduce) must be 'best' or 'last', got 'mean'", ""),
        ([*TUNE, "--minimize", "val_accuracy"], "'val_accuracy' is both minimized and maximized", "Keep one"),
        ([*TUNE, "--constraint", "ms about 9"], "The constraint 'ms about 9' cannot be read", "latency_ms <= 20"),
        ([*TUNE, "--enqueue", "learning_rate"], "'learning_rate' gives no hyperparameter a value", "NAME=VALUE"),
        ([*TUNE, "--enqueue", "learning_rate=a"], "learning_rate must be a number, got 'a'", ""),
        ([*TUNE, "--enqueue", "lerning_rate=1"], "'lerning_rate' is not in the space", "'learning_rate'"),
        ([*TUNE, "--enqueue", "none.yaml"], "none.yaml cannot be read", "Name a YAML or JSON file"),
        ([*TUNE, "--enqueue", "learning_rate=0.01", "--budget", "3 epochs"], "take 4 epochs", "larger budget"),
        ([*TUNE, "--fix", "learning_rate=2"], "--fix learning_rate: 2.0 is not in [1e-05, 0.1]", "of its range"),
        (["tune", "job.py:train", "--maximize", "x", "--fix", "a=2"], "there is none", "--space FILE"),
        ([*TUNE, "--storage", "garbage.db"], "not a database", "Name a Luthier study"),
        ([*TUNE, "--storage", "no/such/folder/s.db"], "folder no/such/folder does not exist", "Create it"),
        ([*TUNE, "--storage", "mongodb://x"], "'mongodb://x' cannot be used", "sqlite:///study.db"),
        ([*TUNE, "--worker", "2"], "--worker", "--workers"),
        (["tune", "job.py:train", "--space", "space.yaml"], "No metric was given", "--maximize val_accuracy"),
        ([*TUNE[:4], "--metric", "zeal"], "'zeal' should go up or down", "--minimize zeal"),
        ([*TUNE, "--constraint", "ms 20"], "'ms 20' cannot be read", "latency_ms <= 20"),
        ([*TUNE, "--constraint", "ms <= x"], "'x' on 'ms' is no number", '--constraint "ms <= 20"'),
        (["tune", "job.py:train", "--maximize", "x"], "No search space was given", "lt.Space("),
        (["tune", "job.py:train", "--space", "none.yaml", "--maximize", "x"], "'none.yaml' cannot be read", ""),
        (["tune", "jbo.py:train", "--space", "space.yaml", "--maximize", "x"], "no file 'jbo.py'", "path"),
        (["tune", "job.py:trian", "--space", "space.yaml", "--maximize", "x"], "job.py has no 'trian'", "'train'"),
        (["tune", "job.py:not_a_function", "--maximize", "x"], "is a int, not a function", ""),
        (["tune", "no.such.module:f", "--maximize", "x"], "no.such.module cannot be imported", "Mend it"),
        (["tune", "train", "--maximize", "x"], "'train' names no training function", "train.py:train"),
        (["tune", "job.py:train", "--space", "space.yaml", "--metric", "zeal"], "Whether 'zeal' should go up", ""),
        (["resume", "nowhere"], "There is no study at nowhere", "Name its folder"),
        (["show", "nowhere.db"], "There is no study at nowhere.db", ""),
        (["report", "garbage.db"], "not a database", ""),
        (["quickstart", "--dir", "job.py"], "'job.py' is a file", "Name a folder"),
        (["quickstart", "--budget", "0"], "The budget '0' leaves nothing to spend", ""),
        (["diagnose", "nowhere"], "There is nothing at nowhere", "Known: "),
        (["diagnose", "curves.cvs"], "There is nothing at curves.cvs", "Did you mean 'curves.csv'?"),
        (["diagnose", "space.yaml"], "space.yaml is no log of a training", "Known are: TensorBoard's event files"),
        (["diagnose", "."], "Logged were: ardour, zeal", "--train-loss NAME --val-loss NAME --metric NAME"),
        (["diagnose", "garbage.db"], "garbage.db is no log", ""),
        (["diagnose", "curves.csv", "--metric", "zeal"], "Whether 'zeal' should go up or down", "--maximize"),
        (["diagnose", "curves.csv", "--train-loss", "zael"], "--train-loss 'zael' was not logged", "'zeal'"),
        (["diagnose", "curves.csv", "--train-loss", "zeal", "--classes", "1"], "--classes 1", "at least 2"),
        (["diagnose", "curves.csv", "--train-loss", "zeal", "--max-epochs", "0"], "--max-epochs 0 is no length", ""),
        (["diagnose", "curves.csv", "--train-loss", "zeal", "--html", "."], "--html '.' is a folder", "Name a file"),
        (["diagnose", "sqlite:///nowhere.db"], "There is no study at sqlite:///nowhere.db", "its URL"),
        (["diagnose", "curves.csv", "--train-loss", "zeal", "--name", "x"], "a study called 'x'", "Luthier's studies"),
        (["diagnose"], "PATH", ""),
        (["tnue"], "tnue", ""),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message_with_its_mend_and_nothing_is_written(folder, words, problem, mend):
    before = sorted(p.name for p in folder.iterdir())
    done = luthier(*words, cwd=folder)
    text = " ".join(done.stderr.split())
    assert done.returncode == 2, text
    assert problem in text
    assert mend in text
    assert "Traceback" not in text
    assert done.stdout == ""
    assert [n for n in sorted(p.name for p in folder.iterdir()) if n != "__pycache__"] == before


def test_a_metric_that_is_never_reported_leaves_nothing_behind(folder):
    before = sorted(p.name for p in folder.iterdir())
    done = luthier(*TUNE[:4], "--maximize", "val_acuracy", cwd=folder)
    assert done.returncode == 2
    assert "'val_acuracy' was never reported" in done.stderr
    assert "Did you mean 'val_accuracy'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert [n for n in sorted(p.name for p in folder.iterdir()) if n != "__pycache__"] == before


@pytest.mark.parametrize("name", BAD_SPACES)
def test_a_mistake_in_the_space_file_is_named_with_its_place(folder, name):
    text, problem = BAD_SPACES[name]
    (folder / "bad.yaml").write_text(text)
    done = luthier("tune", "job.py:train", "--space", "bad.yaml", "--maximize", "val_accuracy", cwd=folder)
    assert done.returncode == 2
    assert "bad.yaml: " in done.stderr
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "luthier.db").exists()


def test_a_file_that_cannot_be_imported_is_named_with_its_line(folder):
    (folder / "bad.py").write_text("import os\n\nimport no_such_library\n")
    done = luthier("tune", "bad.py:train", "--maximize", "x", cwd=folder)
    assert done.returncode == 2
    assert "bad.py cannot be imported: ModuleNotFoundError" in done.stderr
    assert "No module named 'no_such_library' (bad.py, line 3)" in done.stderr


UNGUARDED = """
import luthier as lt

def train(trial):
    for epoch in trial.epochs():
        trial.report(val_loss=1 / epoch)

lt.tune(train, lt.Space(x=lt.Float(0, 1)), minimize="val_loss", budget="2 epochs", max_epochs=1, strategy="random",
        quiet=True)
print("tuned")
"""


def test_a_script_without_a_guard_tunes_when_it_is_run_and_is_refused_when_it_is_imported(folder):
    (folder / "my.py").write_text(UNGUARDED)
    alone = subprocess.run([sys.executable, "my.py"], cwd=folder, capture_output=True, text=True, timeout=60)
    assert alone.stdout.strip() == "tuned", alone.stderr
    done = luthier("tune", "my.py:train", "--space", "space.yaml", "--minimize", "val_loss", cwd=folder)
    assert done.returncode == 2
    assert "lt.tune() was called while the file of your training function was imported (my.py)" in done.stderr
    assert 'if __name__ == "__main__":' in done.stderr
    (folder / "other.py").write_text("import luthier as lt\nfrom my import train\n"
                                     "lt.tune(train, lt.Space(x=lt.Float(0, 1)), minimize='val_loss')\n")  # fmt: skip
    nested = subprocess.run([sys.executable, "other.py"], cwd=folder, capture_output=True, text=True, timeout=60)
    assert nested.returncode != 0
    assert "in a worker process" in nested.stderr


def test_a_database_of_a_newer_version_is_refused_everywhere(folder):
    import sqlite3

    assert luthier(*TUNE, "--storage", "s.db", "--budget", "2 trials", cwd=folder).returncode == 0
    link = sqlite3.connect(folder / "s.db")
    link.execute("UPDATE luthier SET schema = 99")
    link.commit()
    link.close()
    for words in ([*TUNE, "--storage", "s.db"], ["resume", "s.db"], ["show", "s.db"], ["report", "s.db"]):
        done = luthier(*words, cwd=folder)
        assert done.returncode == 2, words
        assert "newer Luthier" in done.stderr
        assert "pip install -U luthier" in done.stderr


def test_a_study_that_cannot_go_on_exits_with_1_and_keeps_its_log(folder):
    done = luthier("tune", "job.py:broken", "--space", "space.yaml", "--maximize", "val_accuracy", cwd=folder)
    assert done.returncode == 1
    assert "first 3 trials all failed" in done.stderr
    assert "no GPU today" in done.stderr
    shown = luthier("show", "luthier.db", cwd=folder)
    assert shown.returncode == 0
    assert "no GPU today" in shown.stdout


def test_a_page_of_another_is_left_and_one_of_luthiers_written_anew(folder):
    (folder / "report.html").write_text("<!doctype html><title>My own</title>")
    words = [*TUNE, "--strategy", "random", "--budget", "1 trial", "--storage", "study.db"]
    done = luthier(*words, cwd=folder)
    assert "report.html is no page of Luthier's and stays as it is." in done.stderr
    assert done.stdout.endswith("Report: report.luthier.html\n")
    assert (folder / "report.html").read_text() == "<!doctype html><title>My own</title>"
    (folder / "report.html").unlink()
    for _ in range(2):
        assert luthier("report", "study.db", cwd=folder).stdout == "report.html\n"


def test_tune_show_report_resume(folder):
    done = luthier(*TUNE, "--strategy", "random", "--budget", "5 trials", "--seed", "1", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["trials"] == 5
    assert result["epochs_used"] == 20
    assert result["best_score"] == pytest.approx(1 - result["best_config"]["learning_rate"] - 0.125)
    assert result["stages"] == []
    assert (folder / result["report"]).exists()
    assert len(done.stdout.splitlines()) == 1
    shown = luthier("show", "luthier.db", cwd=folder)
    assert shown.returncode == 0
    assert "val_accuracy" in shown.stdout
    assert luthier("show", ".", cwd=folder).stdout == shown.stdout
    data = json.loads(luthier("show", "luthier.db", "--json", cwd=folder).stdout)
    assert data["best_config"] == result["best_config"]
    written = luthier("report", "luthier.db", "-o", "page.html", cwd=folder)
    assert written.stdout.strip() == "page.html"
    assert (folder / "page.html").stat().st_size < 6_000_000
    for words, problem in (
        (("report", "luthier.db", "-o", "."), "'.' is a folder. Name a file: report.html"),
        (("report", "luthier.db", "-o", "job.py/page.html"), "'job.py/page.html' cannot be written"),
        (("resume", "luthier.db", "--workers", "0", "--timeout", "9"), "workers=0 trains in this process"),
    ):
        refused = luthier(*words, cwd=folder)
        assert refused.returncode == 2, words
        assert problem in " ".join(refused.stderr.split())
    again = luthier("resume", "luthier.db", "--json", cwd=folder)
    assert json.loads(again.stdout.splitlines()[-1])["trials"] == 5
    more = luthier("resume", "luthier.db", "--budget", "7 trials", "--json", cwd=folder)
    assert json.loads(more.stdout.splitlines()[-1])["trials"] == 7


def test_known_good_configurations_are_trained_first_and_values_are_held(folder):
    (folder / "wide.yaml").write_text(
        SPACE
        + "optimizer: {type: choice, choices: [adamw, sgd, none]}\n"
        + "momentum: {type: float, low: 0.5, high: 0.99, when: {optimizer: sgd}}\n"
        + "layers: {type: int, low: 1, high: 4}\n"
    )
    (folder / "known.yaml").write_text("learning_rate: 2e-2\nlayers: 3\noptimizer: none\n")
    words = ["tune", "job.py:train", "--space", "wide.yaml", "--maximize", "val_accuracy", "--max-epochs", "2"]
    words += ["--strategy", "random", "--json"]
    first = "learning_rate=3e-4,optimizer=sgd,momentum=0.7"
    done = luthier(*words, "--enqueue", first, "--enqueue", "known.yaml", "--budget", "3 trials", cwd=folder)
    assert done.returncode == 0, done.stderr
    again = luthier("resume", "--enqueue", first, "--enqueue", "layers=4", "--budget", "4 trials", cwd=folder)
    assert again.returncode == 0, again.stderr
    log = open_store(folder / "luthier.db")
    trials = history_of(log).trials
    log.close()
    assert [t.by_hand for t in trials] == [True, True, False, True]
    assert trials[0].config.items() >= {"learning_rate": 3e-4, "optimizer": "sgd", "momentum": 0.7}.items()
    assert trials[1].config == {"learning_rate": 0.02, "optimizer": "none", "layers": 3}
    assert trials[3].config["layers"] == 4
    held = luthier(*words, "--fix", "optimizer=adamw", "--fix", "layers=2", "--dry-run", cwd=folder)
    shown = json.loads(held.stdout.splitlines()[-1])["commands"]
    assert all(c.keys() == {"learning_rate", "optimizer", "layers"} and c["layers"] == 2 for c in shown)
    planned = luthier(*words[:-1], "--enqueue", first, "--dry-run", cwd=folder)
    assert '"momentum": 0.7' in planned.stdout.splitlines()[0]


def test_another_function_of_the_same_name_goes_on_with_no_study(folder):
    (folder / "other.py").write_text(JOB.replace("0.5 / epoch", "0.9 / epoch"))
    (folder / "twin.py").write_text(JOB)
    words = ["--space", "space.yaml", "--maximize", "val_accuracy", "--max-epochs", "1", "--strategy", "random"]

    def tuned(target, trials, *more):
        return luthier("tune", target, *words, "--budget", f"{trials} trials", *more, cwd=folder)

    def scores(*name):
        found = json.loads(luthier("show", *name, "--json", cwd=folder).stdout)
        return found["trials"], round(found["best_score"] + found["best_config"]["learning_rate"], 6)

    assert tuned("job.py:train", 1).returncode == 0
    mixed = tuned("other.py:train", 2)
    assert mixed.returncode == 2
    assert "a study 'train' of another function: job.py:train there, other.py:train here" in " ".join(
        mixed.stderr.split()
    )
    assert "(--name)" in mixed.stderr
    assert scores() == (1, 0.5)
    assert tuned("other.py:train", 1, "--name", "mine").returncode == 0
    assert scores("luthier.db", "--name", "mine") == (1, 0.1)
    same = tuned("twin.py:train", 2)  # which reads the same
    assert (same.returncode, "goes on with twin.py:train" in same.stdout) == (0, True)
    (folder / "twin.py").rename(folder / "moved.py")
    moved = tuned("moved.py:train", 3)
    assert "The study 'train' goes on with moved.py:train; so far it was trained by twin.py:train." in moved.stdout
    (folder / "job.py").unlink()
    kept = luthier("resume", "--name", "train", "--budget", "4 trials", "--json", cwd=folder)
    assert json.loads(kept.stdout.splitlines()[-1])["trials"] == 4, kept.stderr  # the log knows where it is now
    said = ["resume", "--name", "train", "--target", "other.py:train", "--budget"]
    assert luthier(*said, "5 trials", cwd=folder).returncode == 0
    assert tuned("other.py:train", 6).returncode == 0  # it was said that this one is meant


def test_a_stored_budget_holds_until_another_is_given_and_one_that_is_spent_is_refused(folder):
    words = [*TUNE, "--strategy", "random"]
    first = luthier(*words, "--budget", "3 trials", cwd=folder)
    assert "budget 12 epochs" in first.stdout, first.stderr
    again = luthier(*words, cwd=folder)
    assert "nothing is trained" in again.stdout
    for lower in ([*words, "--budget", "2 trials"], ["resume", "luthier.db", "--budget", "8 epochs"]):
        refused = luthier(*lower, cwd=folder)
        assert refused.returncode == 2
        assert "has spent 12 epochs already, more than the budget of 8 epochs that was asked for." in refused.stderr
        assert "leave budget= (--budget) out: then the study keeps its own, 12 epochs." in refused.stderr
    assert "Used 12 of 12 epochs" in luthier("show", "luthier.db", cwd=folder).stdout
    assert luthier(*words, "--budget", "12 epochs", cwd=folder).returncode == 0


def test_the_direction_that_follows_from_a_name_is_said_aloud(folder):
    words = ["tune", "job.py:train", "--space", "space.yaml", "--metric", "val_accuracy", "--budget", "1 trial"]
    done = luthier(*words, "--max-epochs", "2", "--strategy", "random", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "maximize val_accuracy" in done.stdout + done.stderr


def test_progress_in_a_log_file_has_no_control_characters(folder):
    done = luthier(*TUNE, "--budget", "8 trials", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout
    assert "learning rate" in done.stdout


def test_the_checklist_has_five_tiers_and_marks_what_a_study_settled(folder):
    bare = luthier("checklist", cwd=folder)
    assert bare.returncode == 0
    assert bare.stdout.index("Tier 1") < bare.stdout.index("Tier 5")
    chinese = luthier("checklist", "--lang", "zh", cwd=folder)
    assert "学习率" in chinese.stdout
    assert chinese.stdout.index("一级") < chinese.stdout.index("五级")
    assert luthier("checklist", "--lang", "fr", cwd=folder).returncode == 2
    assert luthier(*TUNE, "--budget", "8 trials", cwd=folder).returncode == 0
    marked = luthier("checklist", "luthier.db", cwd=folder)
    assert marked.returncode == 0, marked.stderr
    assert marked.stdout != bare.stdout
    assert "settled" in marked.stdout


CURVES = "epoch,train_loss,val_loss,val_accuracy\n" + "\n".join(
    f"{e},{2 / e},{2 / e if e < 8 else 0.2 * (e - 6)},{1 - 1 / e}" for e in range(1, 21)
)


def test_diagnose_says_the_most_important_thing_first_and_what_was_taken_for_what(folder):
    (folder / "run.csv").write_text(CURVES)
    done = luthier("diagnose", "run.csv", "--max-epochs", "30", "--html", "page.html", cwd=folder)
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.split(":")[0] in ("critical", "warning", "hint")
    assert "train_loss ← train_loss, val_loss ← val_loss, val_metric ← val_accuracy" in done.stdout
    assert "20 epochs of 30 planned" in done.stdout
    assert "What to try next" in rest
    assert "\x1b" not in done.stdout
    page = (folder / "page.html").read_text()
    assert "val_accuracy" in page
    assert len(page) < 6_000_000
    assert 'src="' not in page.partition("<noscript>")[0]  # loads nothing


def test_diagnose_as_one_object(folder):
    (folder / "runs").mkdir()
    (folder / "runs" / "a.csv").write_text(CURVES)
    (folder / "runs" / "b.csv").write_text("epoch,train_loss,val_loss\n1,2,2\n2,nan,nan\n3,nan,nan\n4,nan,nan\n")
    done = luthier("diagnose", "runs", "--json", "--classes", "10", cwd=folder)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    data = json.loads(line)
    assert {"runs", "findings", "next_steps"} <= set(data)
    assert [r["name"] for r in data["runs"]] == ["a", "b"]
    run = data["runs"][1]
    assert {"name", "path", "taken", "findings"} <= set(run)
    assert run["findings"][0]["severity"] == "critical"
    assert set(run["findings"][0]) >= {"kind", "severity", "confidence", "text", "action", "tier", "since", "numbers"}
    assert data["next_steps"]
    shown = luthier("diagnose", "runs", cwd=folder).stdout
    assert shown.startswith("critical: ")
    assert shown.index("  b ") < shown.index("  a ")  # what matters most first


def test_a_study_that_does_not_know_its_function_goes_on_with_one_that_is_named(folder):
    code = """
import luthier as lt
study = lt.AskTell(lt.Space.from_yaml(open("space.yaml").read()), maximize="val_accuracy", max_epochs=2,
                   budget="4 trials", strategy="random", storage="told.db")
job = study.ask()
for epoch in (1, 2):
    study.tell(job, epoch, val_accuracy=0.1)
"""
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=300)
    lost = luthier("resume", "told.db", cwd=folder)
    assert lost.returncode == 2
    assert "it was asked and told" in lost.stderr
    assert "luthier resume STUDY --target FILE.py:NAME" in lost.stderr
    done = luthier("resume", "told.db", "--target", "job.py:train", "--workers", "0", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["trials"] == 4


FILES = """
import luthier as lt
from luthier.target import load

if __name__ == "__main__":
    for file in ("a/train.py", "b/train.py", "a/train.v2.py", "a/queue.py", "a/train.py"):
        result = lt.tune(load(f"{file}:train"), lt.Space(x=lt.Float(0, 1)), minimize="val_loss", max_epochs=1,
                         budget="1 trial", strategy="random", workers=1, quiet=True)
        print(result.best_score)
"""


def test_a_function_is_that_of_the_file_that_was_named(tmp_path):
    """Also where another module has its name, or it has none that a module can have; in worker processes too."""
    job = "{more}\nclass Loss:\n    def of(self): return {loss}\ndef train(trial): trial.report(val_loss=Loss().of())\n"
    for place, more, loss in (
        ("a/train.py", "from mine import one", "one"),
        ("b/train.py", "", "2"),
        ("a/train.v2.py", "import mine", "mine.one + 2"),
        ("a/queue.py", "", "4"),  # as a module of Python's
        ("a/mine.py", "one = 1", "0"),
        ("c/train.py", "", "5"),
    ):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(job.format(more=more, loss=loss))
    (tmp_path / "all.py").write_text(FILES)
    done = subprocess.run([sys.executable, "all.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["1.0", "2.0", "3.0", "4.0", "1.0"], done.stderr
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "c"), os.environ.get("PYTHONPATH", "")])}
    (tmp_path / "space.yaml").write_text(SPACE)
    words = ["tune", "b/train.py:train", "--space", "space.yaml", "--minimize", "val_loss", "--max-epochs", "1",
             "--budget", "1 trial", "--strategy", "random", "--json"]  # fmt: skip
    other = subprocess.run([sys.executable, "-m", "luthier.cli", *words], cwd=tmp_path, capture_output=True, text=True,
                           env=environment, timeout=300)  # fmt: skip
    assert json.loads(other.stdout.splitlines()[-1])["best_score"] == 2, other.stderr


@pytest.mark.parametrize(
    "command", [[], ["tune"], ["quickstart"], ["resume"], ["show"], ["checklist"], ["report"], ["diagnose"]]
)
def test_help_fits_a_screen(folder, command):
    done = luthier(*command, "--help", cwd=folder)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) <= 60


def test_the_version_and_a_command_without_words(folder):
    assert luthier("--version", cwd=folder).stdout == f"luthier {__version__}\n"
    bare = luthier(cwd=folder)
    assert "Usage" in bare.stdout
    assert (bare.returncode, bare.stderr) == (2, "")


def test_a_study_without_a_name_is_the_one_that_tune_keeps(folder):
    for command in ("show", "best", "report", "resume", "dashboard"):
        done = luthier(command, cwd=folder)
        assert (done.returncode, done.stdout) == (2, ""), command
        assert "There is no study at luthier.db." in done.stderr
    assert luthier(*TUNE, "--strategy", "random", "--budget", "2 trials", "-w", "0", cwd=folder).returncode == 0
    assert "Best val_accuracy" in luthier("show", cwd=folder).stdout
    assert luthier("best", "--format", "json", cwd=folder).stdout.startswith("{")


def test_the_help_names_every_strategy():
    assert re.findall(r"\w+", STRATEGY_HELP.replace(" or ", " ")) == list(STRATEGIES)


def test_importing_luthier_loads_nothing_heavy():
    code = (
        "import sys, luthier as lt; lt.Space; lt.AskTell; lt.tune; lt.knowledge;"
        "print([m for m in ('torch', 'optuna', 'plotly', 'sqlalchemy', 'scipy', 'rich') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_quickstart_ends_with_the_evidence(tmp_path):
    place = str(tmp_path / "q")
    words = ["quickstart", "--json", "--seed", "1", "--dir", place, "--budget", "16 trials", "--max-epochs", "6"]
    done = luthier(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert {"best_config", "best_score", "default_score", "epochs_used", "trials", "stages", "report"} <= set(result)
    names = [s["name"] for s in result["stages"]]
    assert list(dict.fromkeys(names)) == [stage.name for stage in STAGES]
    assert all(s["verdict"] and s["why"] for s in result["stages"])
    assert result["best_score"] > 0.9
    assert result["best_score"] >= result["default_score"]
    assert result["epochs_used"] <= 96
    page = Path(result["report"]).read_text()
    assert "val_accuracy" in page
    assert len(page) < 6_000_000
    again = luthier("resume", place, "--json", cwd=tmp_path)
    assert json.loads(again.stdout.splitlines()[-1])["best_config"] == result["best_config"]
