"""Mistakes that no tuning mends are named in the first line, after few epochs; without them the same training goes on.

Real PyTorch on the digits, by recipe and by a function of one's own; and what ends a single training early.
"""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys
import time
from collections import Counter

import pytest
import torch
from conftest import drive, log_of
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import luthier as lt
from luthier.core import events as ev
from luthier.core.history import History
from luthier.core.rows import Rows
from luthier.core.study import Budget, Objective, Study
from luthier.core.trial import Report, Status, TrialRecord
from luthier.diagnosis import judge_sanity
from luthier.playbook.watch import ending
from luthier.recipe import Recipe, digits
from luthier.run.book import Book
from luthier.run.decisions import replay
from luthier.run.memory import MemoryStore
from luthier.run.modes import Modes, PipelineError
from luthier.strategies import build
from luthier.view.closing import closing
from luthier.view.console import Console
from luthier.view.report import render_report
from luthier.view.story import tell

EPOCHS, TRIALS = 12, 20
TRAIN, VAL = digits()
X, Y = TRAIN.tensors
VAL_X, VAL_Y = VAL.tensors
SHUFFLED = Y[torch.randperm(len(Y), generator=torch.Generator().manual_seed(0))]
USUAL = (1e-5, 1e-1)


class Stubborn(nn.Sequential):
    """Stays in training mode."""

    def eval(self):
        return self


def net(kind=nn.Sequential, dropout=0.3):
    return kind(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Dropout(dropout), nn.Linear(48, 10))


def own(labels=Y, evaluates=True, accuracy=True, steps=True, **made):
    """A training function as people write it."""

    def train(trial):
        model = net(**made)
        optimizer = torch.optim.AdamW(model.parameters(), lr=trial.config["learning_rate"])
        for _ in trial.epochs(model=model, optimizer=optimizer):
            model.train()
            total = 0.0
            for batch in torch.randperm(len(X)).split(64):
                loss = F.cross_entropy(model(X[batch]), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                if steps:
                    optimizer.step()
                total += loss.item() * len(batch)
            if evaluates:
                model.eval()
            with torch.no_grad():
                output = model(VAL_X)
            more = {"val_accuracy": (output.argmax(1) == VAL_Y).double().mean()} if accuracy else {}
            trial.report(train_loss=total / len(X), val_loss=F.cross_entropy(output, VAL_Y), **more)

    return train


def tuned(target, rates=USUAL, **more):
    space = lt.Space(learning_rate=lt.Float(*rates, log=True))
    asked = {} if isinstance(target, Recipe) else {"minimize": "val_loss"}
    given = {"max_epochs": EPOCHS, "budget": f"{TRIALS} trials", "workers": 0, "quiet": True}
    return lt.tune(target, space, **{**given, **asked, **more})


def first_lines(result):
    return [text.splitlines()[0] for text in (closing(result.history), tell(result.history))]


MISTAKES = {
    "labels, recipe": (lambda: Recipe("mlp", TensorDataset(X, SHUFFLED), VAL), USUAL, "shuffled", 30),
    "labels, function": (lambda: own(SHUFFLED), USUAL, "shuffled", 36),
    "rate, recipe": (lambda: Recipe(lambda c: net(), TRAIN, VAL), (1, 1000), "learning-rate range 1 to 1e+03", 12),
    "rate, function": (own, (1, 1000), "learning-rate range 1 to 1e+03 is too high", 6),
    "rate, function without accuracy": (lambda: own(accuracy=False), (1, 1000), "learning-rate range 1 to 1e+03", 6),
    "low rate, function": (own, (1e-12, 1e-9), "range 1e-12 to 1e-09 is too low: nothing changes", 36),
    "low rate, recipe": (
        lambda: Recipe(lambda c: net(), TRAIN, VAL),
        (1e-12, 1e-9),
        "range 1e-12 to 1e-09 is too low",
        36,
    ),
    "no step, function": (lambda: own(steps=False), USUAL, "weights are not updated. Is optimizer.step()", 12),
    "mode, recipe": (lambda: Recipe(lambda c: net(Stubborn), TRAIN, VAL), USUAL, "training mode: model.eval()", 6),
    "mode, function": (lambda: own(evaluates=False), USUAL, "training mode, with dropout at work", 1),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_in_the_first_line_after_few_epochs(name):
    target, rates, words, most = MISTAKES[name]
    result = tuned(target(), rates)
    for line in (*first_lines(result), repr(result)):
        assert words in line
    assert result.history.stages[-1].fatal
    assert result.history.spent <= most <= 0.15 * EPOCHS * TRIALS
    assert not any(t.stage == "confirm" for t in result.trials())


@pytest.mark.parametrize("target", [lambda: Recipe(lambda c: net(), TRAIN, VAL), own], ids=["recipe", "function"])
def test_without_the_mistake_the_same_training_goes_through(target):
    result = tuned(target(), budget="10 trials")
    assert not any(s.fatal for s in result.history.stages)
    assert result.history.finished == "every stage has its verdict"
    assert result.best_score is not None
    assert not any(t.failure for t in result.trials())


def test_a_range_far_too_low_is_said_and_ends_nothing():
    result = tuned(own(), (1e-9, 1e-6), budget="6 trials")
    assert not any(s.fatal for s in result.history.stages)
    first = next(s for s in result.history.stages if s.name == "learning rate")
    assert "range 1e-09 to 1e-06 is too low" in first.verdict


def test_a_mistake_is_said_once_on_the_terminal(capsys):
    tuned(own(), (1e-12, 1e-9), quiet=False)
    out = capsys.readouterr().out
    assert out.count("is too low") == out.count("Raise it; usual are 1e-05 to 1e-01") == 1
    assert "  => a mistake that no tuning mends\nfinished:\nThe learning-rate range" in out


def test_on_more_data_the_sanity_check_sees_labels_at_random_and_two_trainings_confirm_it():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(9000, 16, generator=draw), torch.randint(5, (9000,), generator=draw)
    result = tuned(Recipe("mlp", TensorDataset(x[:8000], y[:8000]), TensorDataset(x[8000:], y[8000:])), max_epochs=4)
    checks = {name: (grade, text) for name, grade, text in result.history.stage("sanity").numbers["checks"]}
    assert checks["learnability"][0] == "warn"
    assert "learned by heart, and nothing that holds for validation" in checks["learnability"][1]
    assert "in the sanity check and in 2 trainings validation stays at chance" in first_lines(result)[0]
    assert sum(t.spent for t in result.history.in_stage("sanity")) < 0.3 * 8


def test_a_function_that_draws_its_dropout_itself_has_no_mode_of_evaluation():
    class Always(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(64, 48), nn.Linear(48, 10)

        def forward(self, x):
            return self.b(F.dropout(self.a(x.flatten(1)).relu()))

    verdict = judge_sanity(Recipe(lambda c: Always(), TRAIN, VAL).probe("sanity", {}, 0)[0])
    assert verdict.fatal
    assert "training mode" in verdict.sentence


# -- validation in training mode ---------------------------------------------------------------------------------------


def _epoch(model, *, steps=True, evaluate="eval", checkpointed=False):
    modes = Modes()
    model.train()
    if checkpointed:
        with torch.no_grad():
            model(X[:8])
    if steps:
        model(X[:8]).sum().backward()
    if evaluate:
        model.train(evaluate == "train")
        with torch.no_grad():
            model(VAL_X[:8])
    modes.verdict()


@pytest.mark.parametrize(
    "sound",
    [
        {"evaluate": "eval"},
        {"evaluate": None},
        {"evaluate": None, "checkpointed": True},
        {"evaluate": "eval", "checkpointed": True},
    ],
)
def test_sound_epochs_pass(sound):
    _epoch(net(), **sound)
    _epoch(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)), **sound)


def test_only_what_differs_between_the_modes_counts():
    _epoch(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), evaluate="train")
    _epoch(net(dropout=0.0), evaluate="train")
    with pytest.raises(PipelineError, match="dropout"):
        _epoch(net(), evaluate="train")
    with pytest.raises(PipelineError, match="batch norm"):
        _epoch(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)), evaluate="train")


def test_who_means_it_says_so_and_nothing_is_left_in_pytorch():
    train = own(evaluates=False)

    def meant(trial):
        trial.watched = False
        train(trial)

    result = tuned(meant, max_epochs=2, budget="1 trial")
    assert not any(t.failure for t in result.trials())
    assert not nn.modules.module._global_forward_pre_hooks


# -- single trainings --------------------------------------------------------------------------------------------------

SPACE = lt.Space(learning_rate=lt.Float(1e-5, 1e-1, log=True), width=lt.Int(16, 256, log=True))


def explodes(config, epoch):
    """Fine at first, then gone, above a rate of 2e-3."""
    if config["learning_rate"] > 2e-3:
        return 0.3 if epoch == 2 else 1.0 if epoch < 3 else 40.0
    return 1.0 + abs(math.log10(config["learning_rate"]) + 3.2) + 1.0 / epoch


def test_a_training_that_explodes_is_ended_counts_as_bad_and_is_not_asked_for_again():
    study = drive(SPACE, "playbook", explodes, budget="16 trials", max_epochs=40)
    history = study.history
    stopped = [t for t in history.trials if t.status is Status.STOPPED]
    assert stopped
    for trial in stopped:
        assert trial.config["learning_rate"] > 2e-3
        assert trial.epoch < trial.until
        assert trial.stop_why.startswith("diverged: the loss is 40, after its first epoch it was 1")
        assert trial.stage != "confirm"
    # At its best it beat everything: what counts is what became of it.
    assert history.stage("learning rate").settled["learning_rate"] <= 2e-3
    asked = Counter((tuple(sorted(t.config.items())), t.horizon) for t in stopped)
    assert max(asked.values()) == 1
    assert history.finished == "every stage has its verdict"
    assert replay(log_of(study), build("playbook")) == history.decisions


def _with_probe(loss, epochs=40):
    """A study whose sanity probe says that knowing nothing costs log 10; ``loss(job, epoch)`` gives the metrics."""
    study = Study("s", SPACE, Objective("val_loss", True), epochs, budget=Budget(16 * epochs), probes=("sanity",))
    book = Book.create(MemoryStore(), study, clock=lambda: 0.0)
    scheduler = build("playbook")
    overfit = {"batch": 32, "steps": 40, "losses": [2.3, 0.001], "accuracy": 1.0}
    answer = {"classes": 10, "expected_loss": math.log(10), "initial_loss": 2.3, "parameters": 1, "overfit": overfit,
              "seconds_per_epoch": 0.1, "finite_inputs": True}  # fmt: skip
    while job := book.next(scheduler):
        if job.probe:
            book.hear(ev.Ended(job.trial, 0, complete=True, answer=answer, cost=0.1), scheduler)
            continue
        for epoch in range(1, job.until + 1):
            book.hear(ev.Reported(job.trial, epoch, loss(job, epoch)), scheduler)
            if book.history.trials[job.trial].status is not Status.RUNNING:
                break
        book.hear(ev.Ended(job.trial, job.until), scheduler)
    return book


def test_a_dead_start_is_ended_but_not_the_strong_default():
    def loss(job, epoch):
        # The default crawls, and so does whatever is wide.
        learns = job.config["learning_rate"] != 1e-3 and job.config["width"] < 100
        value = 2.3 / (1 + 0.2 * epoch) if learns else 2.31 + 0.001 * (epoch % 3)
        return {"train_loss": value, "val_loss": value}

    book = _with_probe(loss)
    first, *others = [t for t in book.history.trials if t.probe is None]
    assert first.status is Status.DONE
    stopped = [t for t in others if t.status is Status.STOPPED]
    assert stopped
    assert all(t.stop_why.startswith("dead start") for t in stopped)
    assert not any(t.stage == "confirm" for t in stopped)
    assert not any(s.fatal for s in book.history.stages)
    assert replay(list(book._store.read()), build("playbook")) == book.history.decisions


def test_a_confirmation_is_never_judged():
    reports = tuple(Report(e, {"val_loss": 1.0 if e < 3 else 50.0}) for e in range(1, 11))
    study = Study("s", SPACE, Objective("val_loss", True), 40)
    for stage, notes, ends in (
        ("learning rate", {}, True),
        ("confirm", {"arm": "winner", "pair": 0}, False),
        ("ablation", {}, False),
    ):
        trial = TrialRecord(0, {"learning_rate": 1e-3}, 0, 40, 40, stage=stage, notes=notes, reports=reports)
        history = History(study=study, trials=Rows([trial]))
        assert (ending(history, trial) is not None) is ends


def test_judging_long_trainings_stays_cheap():
    study = Study("s", SPACE, Objective("val_loss", True), 1000)
    spent = []
    for n in range(1, 1001, 37):
        reports = tuple(Report(e, {"train_loss": 2.31, "val_loss": 2.31, "val_accuracy": 0.1}) for e in range(1, n + 1))
        trial = TrialRecord(0, {"learning_rate": 1e-3}, 0, 1000, 1000, reports=reports)
        history = History(study=study, trials=Rows([trial]))
        begin = time.perf_counter()
        ending(history, trial)
        spent.append(time.perf_counter() - begin)
    assert sorted(spent)[len(spent) // 2] < 1e-3


# -- no false alarms ---------------------------------------------------------------------------------------------------


def test_one_training_that_learns_is_enough_against_an_alarm():
    def loss(job, epoch):
        learns = job.config["learning_rate"] < 5e-4
        value = 2.31 if not learns else 2.3 / (1 + 0.1 * epoch)
        return {"train_loss": value, "val_loss": value, "val_accuracy": 0.1 if not learns else 0.5}

    assert not any(s.fatal for s in _with_probe(loss).history.stages)


def test_a_loss_alone_of_a_function_of_ones_own_alarms_nobody():
    study = drive(SPACE, "playbook", lambda config, epoch: 2.303 + 1e-4 * (epoch % 3), budget="8 trials", max_epochs=12)
    assert not any(s.fatal for s in study.history.stages)


# -- what is shown of single trials ------------------------------------------------------------------------------------


def test_the_findings_of_single_trials_are_in_the_story_the_report_and_the_console():
    def loss(job, epoch):
        learns = job.config["learning_rate"] > 2e-3
        value = 2.3 / (1 + 0.2 * epoch) if learns else 2.31 + 0.001 * (epoch % 3)
        return {"train_loss": value, "val_loss": value}

    book = _with_probe(loss)
    story = tell(book.history)
    section = story[story.index("\nFindings") :].split("\n\n")[0]
    assert "dead_start: The loss has never been below 2.31, where knowing nothing gives 2.3" in section
    assert len(section.splitlines()) <= 9
    assert '<span class="finding">dead_start' in render_report(book.history)
    ended = next(e.event for e in book._store.read() if isinstance(e.event, ev.Ended) and e.event.trial > 0)
    said = io.StringIO()
    Console(stream=said).update(book.history, [ended])
    assert "; dead_start: " in said.getvalue()


# -- the command line --------------------------------------------------------------------------------------------------

JOB = """
import luthier as lt

def train(trial):
    for epoch in trial.epochs():
        trial.report(train_loss=2.31, val_loss=2.303 + 0.001 * epoch, val_accuracy=0.1)
"""


def test_the_command_line_exits_with_1_and_says_why_first(tmp_path):
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "space.yaml").write_text("learning_rate: {type: float, low: 1.0e-5, high: 0.1, log: true}\n")

    def luthier(*words):
        return subprocess.run(
            [sys.executable, "-m", "luthier.cli", *words],
            cwd=tmp_path, capture_output=True, text=True, timeout=100, env={**os.environ, "NO_COLOR": "1"},
        )  # fmt: skip

    made = luthier("tune", "job.py:train", "--space", "space.yaml", "--minimize", "val_loss", "--max-epochs", "8", "-q")
    assert made.returncode == 1
    assert "shuffled" in made.stdout.splitlines()[0]
    assert "shuffled" in made.stderr
    loud = luthier("resume", "luthier.db")
    assert (loud.stdout + loud.stderr).count("shuffled") <= 2
    shown = luthier("show", "luthier.db")
    assert shown.returncode == 0
    assert "shuffled" in shown.stdout.splitlines()[0]


@pytest.mark.parametrize(
    ("breaks", "lost", "held"),
    [(3e-5, 6, "2.68e-05"), (1e-6, 8, None), (1e-1, 1, None)],
)
def test_where_half_of_the_trainings_explode_that_is_said_and_one_number_of_scores(breaks, lost, held):
    space = lt.Space(learning_rate=lt.Float(1e-5, 1.0, log=True))
    study = lt.AskTell(space, minimize="val_loss", max_epochs=2, budget="8 trials", strategy="random", seed=3)
    while job := study.ask():
        for epoch in (1, 2):
            nan = job.config["learning_rate"] > breaks and epoch == 2
            if study.tell(job, epoch, val_loss=math.nan if nan else 1.0 + job.config["learning_rate"]) == "stop":
                break
    steps, closed = lt.Result(study.history).next_steps(), closing(study.history)
    said = f"{lost} of 8 trainings diverged or became NaN"
    assert (said in closed) == any(said in step for step in steps) == (lost > 1)
    if lost > 1:
        assert f"{said}: lower the upper end of the learning rate's range, or clip gradients." in closed
        more = f", the largest learning_rate that gave a score is {held}." if held else "."
        assert f"Lower the upper end of learning_rate's range, 1, or clip gradients: {said}{more}" in steps
    if lost < 8:
        assert f"best of {8 - lost}:" in closed
        assert any(f"the best of {8 - lost} trials is" in step for step in steps)


def test_the_names_of_the_stages_that_are_not_judged_are_those_of_the_playbook():
    from luthier.core.summary import PROOFS
    from luthier.playbook.playbook import STAGES

    assert set(PROOFS) <= {stage.name for stage in STAGES}
