"""The playbook on functions whose best configuration is known."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
from conftest import drive, log_of

import luthier as lt
from luthier.contracts import Job
from luthier.core import events as ev
from luthier.core.history import Entry, fold
from luthier.core.study import Budget, Objective, Study
from luthier.knowledge import Prior
from luthier.playbook.draws import candidates
from luthier.playbook.playbook import STAGES, Playbook, Stage
from luthier.playbook.script import Look, Verdict
from luthier.run.book import Book
from luthier.run.decisions import replay
from luthier.run.memory import MemoryStore
from luthier.search.local import moved
from luthier.strategies import build
from luthier.view.story import verdict

SPACE = lt.Space(
    learning_rate=lt.Float(1e-5, 1e-1, log=True),
    batch_size=lt.Int(16, 512, log=True),
    optimizer=lt.Choice("adamw", "sgd"),
    momentum=lt.Float(0.8, 0.99, when={"optimizer": "sgd"}),
    schedule=lt.Choice("constant", "cosine"),
    width=lt.Int(16, 256, log=True),
    dropout=lt.Float(0.0, 0.5),
    mystery=lt.Float(0.0, 1.0),
)


def landscape(config, epoch):
    """Best: adamw, rate 6e-3 (less for wider ones), batch 32, cosine, wide, no dropout."""
    return (
        1.0
        + abs(math.log10(config["learning_rate"]) + 2.2 + 0.5 * math.log10(config["width"] / 63))
        * (1.0 if config["optimizer"] == "adamw" else 1.3)
        + 0.1 * abs(math.log2(config["batch_size"]) - 5)
        + (0.0 if config["schedule"] == "cosine" else 0.2)
        + 0.05 * abs(math.log2(config["width"]) - 7)
        + 0.3 * config["dropout"]
        + 0.5 / epoch
    )


@pytest.fixture(scope="module")
def study():
    return drive(SPACE, "playbook", landscape, budget="16 trials", max_epochs=12)


def test_it_finds_what_there_is_to_find(study):
    best = study.best_config
    assert best["optimizer"] == "adamw"
    assert 3e-3 < best["learning_rate"] < 1.3e-2
    assert 16 <= best["batch_size"] <= 45
    assert best["schedule"] == "cosine"
    assert best["dropout"] == 0.0
    assert study.best_score < 0.7 * study.summary.default_score


def test_it_goes_through_the_stages_in_order_within_each_ones_allowance(study):
    names = [s.name for s in study.history.stages]
    assert list(dict.fromkeys(names)) == [stage.name for stage in STAGES]
    for stage in study.history.stages:
        assert stage.verdict
        spent = sum(study.history.trials[i].spent for i in stage.trials)
        assert spent <= stage.allowance
    assert study.history.spent <= 16 * 12


def test_a_function_of_ones_own_is_not_questioned_and_it_says_so(study):
    for name in ("sanity", "range"):
        stage = study.history.stage(name)
        assert stage.skipped
        assert "your own training function" in stage.because


def test_winner_and_default_meet_on_the_same_fresh_seeds(study):
    runs = study.history.in_stage("confirm")
    seeds = {arm: [t.seed for t in runs if t.notes["arm"] == arm] for arm in ("winner", "default")}
    assert len(seeds["winner"]) == 3
    assert seeds["winner"] == seeds["default"]
    before = {t.seed for t in study.history.trials if t.stage != "confirm"}
    assert not before & set(seeds["winner"])
    assert {t.config["learning_rate"] for t in runs if t.notes["arm"] == "default"} == {1e-3}


def test_every_trial_of_a_search_stage_shares_one_seed_and_says_why(study):
    searched = [t for t in study.history.trials if t.stage != "confirm"]
    assert len({t.seed for t in searched}) == 1
    assert all(t.why for t in study.history.trials)


def test_a_screening_run_is_a_complete_short_training(study):
    for trial in study.history.in_stage("learning rate"):
        assert trial.horizon == trial.until == 3


def test_one_scientific_change_at_a_time_until_the_refinement(study):
    settled = study.history.settled
    for name in ("capacity", "regularization", "your own"):
        first, *others = study.history.in_stage(name) or [None]
        for trial in others:
            # The change, and the rate where it follows the width or is looked at again.
            changed = {n for n in trial.config if trial.config[n] != first.config[n]} - {"learning_rate"}
            assert len(changed - set(study.history.stage(name).settled)) <= 1
            assert trial.config["optimizer"] == settled["optimizer"]


def test_the_rate_is_settled_between_the_steps_of_the_ladder():
    space = lt.Space(learning_rate=lt.Float(1e-5, 1e-1, log=True), width=lt.Int(16, 256, log=True))

    def bowl(config, epoch):
        return 1.0 + (math.log10(config["learning_rate"]) + 2.3) ** 2 + 0.5 / epoch

    study = drive(space, "playbook", bowl, budget="10 trials", max_epochs=12)
    tried = {t.config["learning_rate"] for t in study.history.in_stage("learning rate")}
    rate = study.history.stage("learning rate").settled["learning_rate"]
    assert rate not in tried
    assert rate == pytest.approx(10**-2.3, rel=0.1)  # a parabola is found exactly, up to rounding


def test_larger_networks_are_tried_before_regularization_and_only_as_long_as_they_gain():
    def not_too_wide(config, epoch):
        return landscape(config, epoch) + 0.2 * max(0.0, math.log2(config["width"]) - 7) ** 2

    study = drive(SPACE, "playbook", not_too_wide, budget="30 trials", max_epochs=12)
    widths = [t.config["width"] for t in study.history.in_stage("capacity")]
    assert max(widths) > study.history.stage("capacity").settled["width"] >= 100


def test_overfitting_curves_open_regularization():
    def told(config, epoch, overfit):
        rise = 0.08 * max(0, epoch - 3) * (1.0 - 3.0 * config["dropout"]) if overfit else 0.0
        train = 1.5 / (1 + epoch) if overfit else landscape(config, epoch) - 0.01
        return {"train_loss": train, "val_loss": landscape(config, epoch) + rise}

    for overfit in (True, False):
        study = lt.AskTell(SPACE, minimize="val_loss", max_epochs=24, budget="30 trials", seed=0, reduce="last")
        while job := study.ask():
            for epoch in range(job.start + 1, job.until + 1):
                study.tell(job, epoch, **told(job.config, epoch, overfit))
        stage = next(s for s in study.history.stages if s.name == "regularization")
        assert ("the curves ask for it" in stage.because) == overfit
        rates = [t.config["dropout"] for t in study.history.in_stage("regularization")]
        assert (max(rates) > 0.1) == overfit


def test_the_refinement_moves_several_at_once_near_the_best(study):
    runs = study.history.in_stage("refinement")
    moved = [t for t in runs if "several at once" in t.why]
    assert moved
    assert {t.config["optimizer"] for t in moved} == {study.history.settled["optimizer"]}
    assert all(t.horizon in (3, 12) for t in runs)


def test_the_refinement_learns_from_what_every_stage_trained():
    # Twelve trainings before the stage say whether more of the mystery is better.
    space = lt.Space(learning_rate=lt.Float(1e-4, 1e-1, log=True), mystery=lt.Float(0.0, 1.0))

    def ups(slope):
        rows = [({"learning_rate": 1e-3 * 1.5**i, "mystery": 0.3 + 0.03 * (i % 5)}, i) for i in range(12)]
        events = [ev.Created(Study("s", space, Objective("val_loss", True), 8, budget=Budget(160.0)))]
        for config, i in rows:
            loss = 1.0 + 0.01 * abs(i - 6) - slope * config["mystery"]
            events += [ev.Started(i, config, 0, 8, 8, "seen"), ev.Reported(i, 8, {"val_loss": loss}), ev.Ended(i, 8)]
        events.append(ev.StageOpened("refinement", "its turn"))
        look = Look(history := fold([Entry(0.0, e) for e in events]), history.stages[-1])
        finals = [history.trials[6]]
        drawn = [c for k in range(40) for c in candidates(look, finals, [], list(space.dims), 3, k)]
        assert all(space.complete(c) == c for c in drawn)
        moved = [c["mystery"] - finals[0].config["mystery"] for c in drawn]
        return sum(m > 0 for m in moved) / sum(m != 0 for m in moved)

    assert ups(slope=1.0) > 0.75
    assert ups(slope=-1.0) < 0.25


def test_a_mask_holds_the_rest():
    prior, rng = Prior(SPACE, 12), np.random.default_rng(0)
    config = prior.mode()
    drawn = [moved(prior, config, rng, only=["dropout", "width"]) for _ in range(50)]
    changed = {n for new in drawn for n in new if new[n] != config[n]}
    assert changed == {"dropout", "width"}


def test_the_refinement_stops_by_itself_when_nothing_more_is_gained():
    # All that there is to gain is found before it: the landscape is flat around the best.
    def flat(config, epoch):
        return 1.0 + max(0.0, abs(math.log10(config["learning_rate"]) + 2.3) - 1.5) + 0.1 / epoch

    space = lt.Space(learning_rate=lt.Float(1e-5, 1e-1, log=True), dropout=lt.Float(0.0, 0.5))
    study = drive(space, "playbook", flat, budget="60 trials", max_epochs=12)
    assert "what is left to gain lies below it" in study.history.stage("refinement").because
    assert study.history.spent < 0.6 * 60 * 12


def test_when_the_gain_is_noise_the_default_is_kept():
    noisy = _noise_study()
    assert noisy.summary.confirmation is not None
    assert not noisy.summary.confirmation.better
    assert noisy.best_config == noisy.summary.confirmation.default.config
    assert "within the noise" in noisy.history.stage("confirm").verdict


def _noise_study() -> lt.AskTell:
    """Every score is a draw that depends on nothing but seed and configuration."""
    study = lt.AskTell(SPACE, minimize="val_loss", max_epochs=8, budget="20 trials", seed=3)
    while job := study.ask():
        draw = zlib.crc32(f"{job.seed} {sorted(job.config.items())}".encode()) / 2**32
        for epoch in range(job.start + 1, job.until + 1):
            study.tell(job, epoch, val_loss=1.0 + 0.1 * draw + 0.1 / epoch)
    return study


def test_a_failing_neighbourhood_does_not_end_it():
    def fragile(config, epoch):
        return float("nan") if config["learning_rate"] > 2e-3 else landscape(config, epoch)

    study = drive(SPACE, "playbook", fragile, budget="16 trials", max_epochs=12)
    assert study.best_config["learning_rate"] <= 2e-3
    assert study.history.finished == "every stage has its verdict"
    assert replay(log_of(study), build("playbook")) == study.history.decisions


@pytest.mark.parametrize("budget", ["1 epochs", "1 trial", "3 trials", "6 trials", "60 trials"])
def test_any_budget_is_kept_and_ends_with_a_configuration(budget):
    study = drive(SPACE, "playbook", landscape, budget=budget, max_epochs=12)
    assert study.history.spent <= study.history.study.budget.epochs
    assert study.history.finished
    if budget != "1 epochs":
        assert study.best_config is not None


def test_larger_budgets_confirm_on_more_seeds():
    pairs = [
        len(drive(SPACE, "playbook", landscape, budget=b, max_epochs=8).summary.confirmation.seeds)
        for b in ("10 trials", "16 trials", "40 trials")
    ]
    assert pairs == [2, 3, 5]


def _probing(answers) -> Book:
    """A study of a recipe whose probes give ``answers``; driven by hand, since ask and tell have no probes."""
    study = Study("s", SPACE, Objective("val_loss", True), 12, budget=Budget(20 * 12), probes=("sanity", "lr_range"))
    book = Book.create(MemoryStore(), study, clock=lambda: 0.0)
    scheduler = build("playbook")
    while job := book.next(scheduler):
        if job.probe:
            book.hear(ev.Ended(job.trial, 0, complete=True, answer=answers(job), cost=0.1), scheduler)
            continue
        for epoch in range(1, job.until + 1):
            book.hear(ev.Reported(job.trial, epoch, {"val_loss": landscape(job.config, epoch)}), scheduler)
        book.hear(ev.Ended(job.trial, job.until), scheduler)
    return book


def _sane(loss=2.3, final=0.001):
    return {
        "classes": 10, "expected_loss": math.log(10), "initial_loss": loss, "parameters": 1000,
        "overfit": {"batch": 32, "steps": 40, "losses": [2.3, 1.0, final], "accuracy": 1.0 if final < 0.1 else 0.1},
        "seconds_per_epoch": 0.1, "finite_inputs": True,
    }  # fmt: skip


def _valley(best: float):
    lrs = [10 ** (-7 + 8 * i / 99) for i in range(100)]
    losses = [2.3 - 1.8 / (1 + (best / lr) ** 1.5) + 3 * (lr / (best * 20)) ** 2 for lr in lrs]
    return {"lrs": lrs, "losses": [losses] * 3, "batch_size": 64, "updates_per_epoch": 20}


def test_a_pipeline_that_cannot_learn_ends_the_study_with_the_reason():
    book = _probing(lambda job: _sane(final=2.3))
    history = book.history
    assert [s.name for s in history.stages] == ["sanity"]
    assert history.stages[0].fatal
    assert history.finished.startswith("sanity:")
    assert [(t.probe, t.config["width"]) for t in history.trials] == [("sanity", 16), ("sanity", 63)]


def test_sanity_looks_at_the_smallest_model():
    book = _probing(lambda job: _sane() if job.probe == "sanity" else _valley(3e-3))
    first = book.history.trials[0]
    assert (first.probe, first.config["width"]) == ("sanity", 16)


def test_the_range_test_says_where_the_ladder_begins():
    book = _probing(lambda job: _sane() if job.probe == "sanity" else _valley(2e-2))
    history = book.history
    probes = [t for t in history.trials if t.probe == "lr_range"]
    assert [t.config["optimizer"] for t in probes] == ["adamw", "sgd"]
    center = history.stage("range").numbers["optimizers"]["adamw"]["center"]
    first = history.in_stage("learning rate")[1]  # after the strong default, at a smaller batch and the rate for that
    assert "range test" in first.why
    usual = history.trials[first.id - 1].config["batch_size"]
    wanted = center * math.sqrt(first.config["batch_size"] / usual)
    assert first.config["learning_rate"] == pytest.approx(wanted, rel=0.05)
    assert replay(list(book._store.read()), build("playbook")) == history.decisions


def test_a_short_training_begins_with_what_its_length_wants():
    own = {"mystery": lt.Float(0.0, 1.0, default=0.7), "context": lt.Int(16, 256, log=True, default=128)}
    space = lt.Space({**SPACE, "dropout": lt.Float(0.0, 0.5, default=0.3), **own})
    study = drive(space, "playbook", landscape, budget="16 trials", max_epochs=12)
    default, second, *_ = (t for t in study.history.in_stage("learning rate"))
    assert "lacks updates" in second.why
    assert second.config["batch_size"] < default.config["batch_size"]
    assert second.config["dropout"] == 0.0
    assert second.config["context"] < 64  # more updates of as many tokens
    # Capacity has its own turn, and of what no role knows the default is all there is.
    assert {n: second.config[n] for n in ("width", "mystery")} == {n: default.config[n] for n in ("width", "mystery")}
    # It was better, so everything goes on from there although no stage settled the dropout before its turn.
    record = study.history.stage("learning rate")
    assert "dropout" not in record.settled
    assert all(t.config["dropout"] == 0.0 for t in study.history.in_stage("capacity"))
    # What the result is measured against stays the strong default.
    assert study.summary.confirmation.default.config["dropout"] == 0.3


def test_where_the_strong_default_is_better_it_stays():
    def heavy(config, epoch):  # whatever the length: large batches, and dropout
        return landscape(config, epoch) + abs(math.log2(config["batch_size"]) - 8) + 3.0 * (0.5 - config["dropout"])

    space = lt.Space({**SPACE, "dropout": lt.Float(0.0, 0.5, default=0.3)})
    study = drive(space, "playbook", heavy, budget="16 trials", max_epochs=12)
    assert {t.config["dropout"] for t in study.history.in_stage("capacity")} == {0.3}


def test_a_long_training_has_nothing_of_the_kind():
    study = drive(SPACE, "playbook", landscape, budget="12 trials", max_epochs=200)
    assert not any("lacks updates" in t.why for t in study.history.trials)


def test_a_stage_of_ones_own_is_one_small_generator():
    def widths(look: Look):
        tried = yield [look.wish({"width": w}, epochs=2, why=f"width {w}") for w in (32, 128)]
        best = look.best(tried)
        return Verdict(
            f"width {best.config['width']}", look.table(tried, "width"), settled={"width": best.config["width"]}
        )

    playbook = Playbook([Stage("widths", "How wide?", widths)])
    study = drive(SPACE, playbook, landscape, budget="5 trials", max_epochs=12)
    assert [s.name for s in study.history.stages] == ["widths"]
    assert study.history.settled == {"width": 128}
    assert len(study.history.trials) == 2


def test_a_wish_answered_by_an_earlier_stage_costs_nothing():
    def ask(look: Look):
        runs = yield [look.wish({"width": 64}, epochs=3, why="width 64")]
        return Verdict(look.shown(runs[0]))

    study = drive(
        SPACE, Playbook([Stage("one", "?", ask), Stage("two", "?", ask)]), landscape, budget="5 trials", max_epochs=12
    )
    assert len(study.history.trials) == 1
    assert study.history.stage("one").verdict == study.history.stage("two").verdict


def test_a_wall_clock_budget_is_kept():
    now = [0.0]
    study = Study("s", SPACE, Objective("val_loss", True), 12, budget=Budget(seconds=200.0))
    book = Book.create(MemoryStore(), study, clock=lambda: now[0])
    scheduler = build("playbook")
    while job := book.next(scheduler):
        for epoch in range(1, job.until + 1):
            now[0] += 1.0
            book.hear(ev.Reported(job.trial, epoch, {"val_loss": landscape(job.config, epoch)}), scheduler)
            if book.history.trials[job.trial].status != "running":
                break
        else:
            book.hear(ev.Ended(job.trial, job.until), scheduler)
    assert book.history.elapsed <= 201
    assert book.history.finished
    entries = [Entry(e.at, e.event) for e in book._store.read()]
    assert replay(entries, scheduler) > 10


def test_where_no_time_is_left_for_a_second_sanity_check_there_is_a_verdict_all_the_same():
    now = [0.0]
    study = Study("s", SPACE, Objective("val_loss", True), 9, budget=Budget(seconds=60.0), probes=("sanity",))
    book, scheduler = Book.create(MemoryStore(), study, clock=lambda: now[0]), build("playbook")
    job = book.next(scheduler)
    now[0] = 45.0
    book.hear(ev.Failed(job.trial, "raised", "the smallest model is too small"), scheduler)
    book.next(scheduler)
    stage = book.history.stage("sanity")
    assert (stage.skipped, stage.fatal) == (True, False)


@pytest.mark.parametrize(("budget", "trained"), [("3 epochs", 0), ("6 epochs", 1)])
def test_a_budget_for_a_single_training_is_said_to_tune_nothing(budget, trained):
    study = drive(SPACE, "playbook", landscape, budget=budget, max_epochs=12)
    assert len(study.history.trials) == trained
    assert "Nothing was tuned" in verdict(study.history)
    assert "10 trainings of 12 epochs are 120 epochs" in verdict(study.history)


@pytest.mark.parametrize("trials", [1, 2, 3, 5])
def test_whatever_the_budget_the_answer_is_trained_at_full_length(trials):
    history = drive(SPACE, "playbook", landscape, budget=f"{trials} trials", max_epochs=8).history
    assert any(t.full and t.horizon == 8 for t in history.trials)
    assert history.spent <= 8 * trials


def test_a_time_that_does_not_pay_for_the_proof_goes_to_the_search():
    """20 seconds at 2 a training: what would be kept for the proof does not pay for two pairs."""
    now = [0.0]
    study = Study("s", SPACE, Objective("val_loss", True), 8, budget=Budget(seconds=20.0))
    book, scheduler = Book.create(MemoryStore(), study, clock=lambda: now[0]), build("playbook")
    while isinstance(job := book.next(scheduler), Job):
        for epoch in range(1, job.until + 1):
            now[0] += 0.25
            book.hear(ev.Reported(job.trial, epoch, {"val_loss": landscape(job.config, epoch)}, 0.25), scheduler)
        book.hear(ev.Ended(job.trial, job.until), scheduler)
    assert now[0] > 17.0


def test_rates_and_batches_of_a_list_are_searched_like_others():
    space = lt.Space(
        learning_rate=lt.Choice(1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
        batch_size=lt.Choice(16, 32, 64, 128),
        optimizer=lt.Choice("adamw", "sgd"),
    )

    def loss(config, epoch):
        rate = abs(math.log10(config["learning_rate"]) + 2.5)
        return (
            1.0 / epoch + rate + 0.1 * abs(math.log2(config["batch_size"]) - 4) + 0.2 * (config["optimizer"] == "sgd")
        )

    result = drive(space, "playbook", loss, budget="10 trials", max_epochs=8)
    stage = result.history.stage("learning rate")
    assert stage.settled == {"learning_rate": 3e-3, "batch_size": 16, "optimizer": "adamw"}
    assert len(stage.trials) < 4 * 5 * 2  # along the lists, not through all of them


def test_without_a_rate_to_search_optimizers_and_batches_are_compared_all_the_same():
    space = lt.Space(batch_size=lt.Int(16, 128, log=True), optimizer=lt.Choice("adamw", "sgd"))

    def loss(config, epoch):
        return 1.0 / epoch + (config["optimizer"] == "adamw") + 0.1 * math.log2(config["batch_size"])

    history = drive(space, "playbook", loss, budget="10 trials", max_epochs=8).history
    assert history.stage("learning rate").settled == {"batch_size": 16, "optimizer": "sgd"}


def test_what_cannot_be_moved_costs_no_training():
    """The curves ask for no dropout, and there is none: nothing is trained, and no larger budget is asked for."""
    space = lt.Space(learning_rate=lt.Float(1e-4, 1e-1, log=True), dropout=lt.Float(0.0, 0.5, default=0.0))

    def loss(config, epoch):
        return 1.0 / epoch + abs(math.log10(config["learning_rate"]) + 2)

    stage = drive(space, "playbook", loss, budget="9 trials").history.stage("regularization")
    assert stage.skipped
    assert "dropout is 0 already" in stage.because
    assert not stage.numbers.get("unaffordable")


def test_a_model_too_large_for_a_constraint_is_made_smaller_first():
    space = lt.Space(learning_rate=lt.Float(1e-4, 1e-1, log=True), width=lt.Int(8, 128, log=True, default=64))
    study = lt.AskTell(space, minimize="val_loss", constraints=["params <= 300"], budget="12 trials", max_epochs=8)
    while job := study.ask():
        width = job.config["width"]
        loss = abs(math.log10(job.config["learning_rate"]) + 2) - 0.1 * math.log2(width)
        for epoch in range(1, job.until + 1):
            study.tell(job, epoch, val_loss=loss + 1.0 / epoch, params=10.0 * width)
    stage = study.history.stage("capacity")
    assert "smaller sizes first" in stage.because
    assert stage.settled["width"] <= 30


RATES = {
    "under one optimizer": {
        "optimizer": lt.Choice("adamw", "sgd"),
        "learning_rate": lt.Float(1e-4, 1e-1, log=True, when={"optimizer": "sgd"}),
    },
    "one for each optimizer": {
        "optimizer": lt.Choice("adamw", "sgd"),
        "lr_adamw": lt.Float(1e-5, 1e-2, log=True, role="learning_rate", when={"optimizer": "adamw"}),
        "lr_sgd": lt.Float(1e-3, 1.0, log=True, role="learning_rate", when={"optimizer": "sgd"}),
    },
    "under another choice": {
        "mode": lt.Choice("a", "b"),
        "optimizer": lt.Choice("adamw", "sgd", when={"mode": "b"}),
        "batch_size": lt.Int(8, 64, log=True, when={"mode": "b"}),
        "learning_rate": lt.Float(1e-4, 1e-1, log=True, when={"mode": "b"}),
    },
}


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("best", ["first", "second"])
def test_a_rate_may_exist_under_one_choice_only(name, best):
    """What chooses the rate is settled beside the best rate that it has, if it has one."""
    space = lt.Space(RATES[name])
    chooser = next(iter(space))
    wanted = space[chooser].choices[best == "second"]

    def loss(config, epoch):
        rate = next((v for n, v in config.items() if n.startswith(("learning", "lr"))), None)
        off = 0.5 if rate is None else abs(math.log10(rate) + 2)
        return 1.0 + (0.0 if config[chooser] == wanted else 2.0) + off + 0.1 / epoch

    study = drive(space, "playbook", loss, budget="20 trials", max_epochs=8)
    settled = study.best_config
    assert settled[chooser] == wanted
    rate = next((v for n, v in settled.items() if n.startswith(("learning", "lr"))), None)
    assert rate is None or abs(math.log10(rate) + 2) < 0.3


def test_a_loss_below_zero_is_no_explosion():
    """Of a density's: what falls from -1 is better, whatever four times -1 is."""
    study = drive(SPACE, "playbook", lambda c, e: landscape(c, e) - 20.0, budget="16 trials", max_epochs=12)
    assert not any(t.status == "stopped" for t in study.history.trials)
    assert not any(s.fatal for s in study.history.stages)
    whole = drive(SPACE, "early", lambda c, e: -1.0 - 0.1 * math.log(e), budget="8 trials", max_epochs=20)
    assert all(t.status == "done" for t in whole.history.trials)
    risen = drive(SPACE, "early", lambda c, e: -1.0 if e < 3 else 50.0, budget="4 trials", max_epochs=20)
    assert all(t.status == "stopped" for t in risen.history.trials)


def test_a_budget_that_the_probes_ate_is_told_and_is_no_failure():
    study = Study("s", SPACE, Objective("val_loss", True), 12, budget=Budget(12), probes=("sanity", "lr_range"))
    book = Book.create(MemoryStore(), study, clock=lambda: 0.0)
    scheduler = build("playbook")
    while job := book.next(scheduler):
        assert job.probe
        answer = _sane() if job.probe == "sanity" else _valley(3e-3)
        book.hear(ev.Ended(job.trial, 0, complete=True, answer=answer, cost=3.5), scheduler)
    stage = book.history.stage("learning rate")
    assert stage.skipped
    assert not stage.fatal
    assert "no room" in stage.because
