"""Running out of memory: told apart from other failures, and nothing as large is tried again."""

from __future__ import annotations

import pytest
from conftest import EVERY, drive, log_of

import luthier as lt
from luthier.core.errors import UserError
from luthier.run.decisions import replay
from luthier.run.perform import out_of_memory
from luthier.schedule.memory import as_large
from luthier.strategies import build

SPACE = lt.Space(
    learning_rate=lt.coupled(lt.Float(1e-4, 1e-1, log=True), "batch_size"),
    batch_size=lt.Int(16, 1024, log=True),
    width=lt.Int(16, 512, log=True),
    optimizer=lt.Choice("adamw", "sgd"),
)


def loss(config, epoch):
    return 1.0 / epoch + abs(config["learning_rate"] - 0.01) + 1.0 / config["width"]


def ask(strategy, space=SPACE, memory=20_000, budget="14 trials", seed=0):
    """A study on a machine that holds ``memory`` batch size x width."""
    study = lt.AskTell(space, minimize="val_loss", max_epochs=9, budget=budget, strategy=strategy, seed=seed)
    while job := study.ask():
        if job.config.get("batch_size", 64) * job.config.get("width", 64) > memory:
            study.fail(job, "CUDA out of memory", kind="oom")
            continue
        for epoch in range(job.start + 1, job.until + 1):
            if study.tell(job, epoch, val_loss=loss(job.config, epoch)) == "stop":
                break
    return study


@pytest.mark.parametrize("strategy", EVERY)
def test_nothing_as_large_as_what_ran_out_of_memory_is_proposed_again(strategy):
    trials = 6 if strategy == "gp" else 12
    study = ask(strategy, budget=f"{trials} trials")
    history = study.history
    failed = []
    for trial in history.trained():
        assert not [f.id for f in failed if as_large(SPACE, trial.config, f.config)]
        failed += [trial] if trial.failure else []
    assert history.finished
    assert study.best_config is not None
    assert history.spent <= trials * 9
    assert replay(log_of(study), build(strategy)) == history.decisions


def test_a_trial_that_was_made_smaller_says_why_and_keeps_what_was_asked():
    study = ask("random", budget="20 trials")
    assert any(t.failure for t in study.history.trained())
    smaller = [t for t in study.history.trained() if "asked" in t.notes]
    assert smaller
    for trial in smaller:
        asked = trial.notes["asked"]
        assert "which ran out of memory (batch_size " in trial.why
        assert trial.config["batch_size"] < asked["batch_size"]
        assert trial.config["width"] == asked["width"]  # the model is the same
        bases = [SPACE.base("learning_rate", c) for c in (trial.config, asked)]
        assert bases[0] == pytest.approx(bases[1])  # and the rate has followed the batch


def test_where_the_batch_cannot_shrink_the_model_does_and_in_the_end_the_study_says_so():
    space = lt.Space(width=lt.Choice(64, 128, 256), learning_rate=lt.Float(1e-4, 1e-1, log=True))
    study = ask("random", space, memory=64 * 130)
    assert {t.config["width"] for t in study.history.trained() if not t.failure} == {64, 128}
    assert sum(t.failure is not None for t in study.history.trained()) <= 1
    nothing = ask("random", space, memory=64)
    assert len(nothing.history.trials) <= 3
    assert "nothing is smaller than trial" in nothing.history.finished


def test_a_choice_that_is_no_number_must_be_the_same():
    space = lt.Space(width=lt.Choice("small", "large"), batch_size=lt.Int(8, 64))
    large, small = {"width": "large", "batch_size": 32}, {"width": "small", "batch_size": 64}
    assert as_large(space, {**large, "batch_size": 33}, large)
    assert not as_large(space, small, large)
    plain = lt.Space(dropout=lt.Float(0.0, 1.0))
    assert as_large(plain, {"dropout": 0.5}, {"dropout": 0.5})
    assert not as_large(plain, {"dropout": 0.4}, {"dropout": 0.5})


class OutOfMemoryError(RuntimeError):
    """As PyTorch calls its own."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (ValueError("ran out of memory jokes"), False),
        (RuntimeError("shape mismatch"), False),
    ],
)
def test_errors_of_memory_are_known_by_their_names(error, expected):
    assert out_of_memory(error) is expected


def test_what_a_training_function_raises_is_recorded_as_such():
    def train(trial):
        for _ in trial.epochs():
            if trial.config["batch_size"] * trial.config["width"] > 20_000:
                raise MemoryError("cannot allocate the activations")
            trial.report(val_loss=1.0 / trial.config["width"])

    result = lt.tune(train, SPACE, minimize="val_loss", max_epochs=2, budget="12 trials", strategy="random", workers=0,
                     quiet=True)  # fmt: skip
    failed = [t for t in result.trials() if t.failure]
    assert {t.failure.kind for t in failed} == {"oom"}
    assert "MemoryError: cannot allocate the activations" in failed[0].failure.reason
    assert len(failed) <= 4


def test_ask_and_tell_says_which_failure_it_was(space):
    study = lt.AskTell(space, minimize="val_loss", max_epochs=3, strategy="random", budget="2 trials")
    job = study.ask()
    with pytest.raises(UserError, match=r"'ooom' is no kind of failure.*'oom'"):
        study.fail(job, "?", kind="ooom")
    for attempt in (2, 3):
        study.fail(job, "preempted", kind="killed")
        assert study.history.trials[0].attempts == attempt
        job = study.ask()
        assert (job.trial, job.start) == (0, 0)
    study.fail(job, "preempted", kind="killed")
    assert study.history.trials[0].failure.kind == "killed"
    assert drive(space, "random").history.finished
