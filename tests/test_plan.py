"""The playbook's way through its stages: what sends it back, how ranges grow, what a budget buys."""

from __future__ import annotations

import math
import re

import pytest
from conftest import drive, log_of

import luthier as lt
from luthier.core import events as ev
from luthier.core.history import Entry, StageRecord, fold
from luthier.core.study import Budget, Objective, Study
from luthier.playbook.checklist import checklist
from luthier.playbook.plan import LARGE, MEDIUM, SMALL, plan_of
from luthier.playbook.playbook import STAGES, Playbook
from luthier.playbook.read import read_leading
from luthier.result import Result
from luthier.run.book import Book
from luthier.run.decisions import replay
from luthier.run.memory import MemoryStore
from luthier.strategies import build
from luthier.view.report import render_report
from luthier.view.story import tell

RATE = lt.Float(1e-5, 1e-1, log=True)


def bowl(config, best=-2.5) -> float:
    """How far the rate is from its best, in decades."""
    return abs(math.log10(config["learning_rate"]) - best)


def told(space, metrics, *, budget="24 trials", max_epochs=24, strategy="playbook", reduce="last", **more):
    """A whole study of a training that reports ``metrics(config, epoch, length)``."""
    study = lt.AskTell(
        space, minimize="val_loss", max_epochs=max_epochs, budget=budget, strategy=strategy, reduce=reduce, **more
    )
    while job := study.ask():
        for epoch in range(job.start + 1, job.until + 1):
            if study.tell(job, epoch, metrics(job.config, epoch, job.horizon)) == "stop":
                break
    return study


def opened(study, name):
    """The records of a stage in the order in which they were opened."""
    return [s for s in study.history.stages if s.name == name]


def order(study):
    return [s.name for s in study.history.stages]


# -- what the curves ask for -------------------------------------------------------------------------------------------

MODEL = lt.Space(learning_rate=RATE, width=lt.Int(16, 256, log=True), dropout=lt.Float(0.0, 0.5))


def learns_by_heart(config, epoch, length):
    """Wide is better, but from a fifth of the training on validation gets worse unless dropout holds it."""
    level = 1.0 + bowl(config) + 0.02 * abs(math.log2(config["width"]) - 7) + 0.5 / epoch
    rise = 0.05 * max(0, epoch - 5) * max(0.0, 1.0 - 4.0 * config["dropout"])
    return {"train_loss": 1.5 / (1 + epoch), "val_loss": level + rise}


def test_a_model_that_overfits_is_regularized_before_it_is_made_larger():
    study = told(MODEL, learns_by_heart)
    names = order(study)
    assert names.index("regularization") < names.index("capacity")
    first = opened(study, "regularization")[0]
    assert "a model that overfits is not made larger" in first.why
    assert "rises since" in first.why
    assert study.history.settled["dropout"] >= 0.2
    assert study.history.finished == "every stage has its verdict"
    assert replay(log_of(study), build("playbook")) == study.history.decisions


def test_without_overfitting_capacity_keeps_its_place():
    def sound(config, epoch, length):
        loss = learns_by_heart({**config, "dropout": 0.5}, epoch, length)["val_loss"] + 0.3 * config["dropout"]
        return {"train_loss": loss - 0.01, "val_loss": loss}

    names = order(told(MODEL, sound))
    assert names.index("capacity") < names.index("regularization")


def test_where_regularization_does_not_help_only_smaller_sizes_are_tried():
    def hopeless(config, epoch, length):
        return learns_by_heart({**config, "dropout": 0.0}, epoch, length)

    study = told(MODEL, hopeless)
    tried = {t.config["width"] for t in study.history.in_stage("capacity")}
    assert min(tried) < max(tried) == 63
    assert "smaller sizes only" in opened(study, "capacity")[0].because


def probed(metrics, space, *, epochs=24, trials=24, budget=None):
    """A study of a recipe whose sanity check knows that guessing costs log 10; driven by hand."""
    budget = budget or Budget(trials * epochs)
    study = Study("s", space, Objective("val_loss", True, "last"), epochs, budget=budget, probes=("sanity",))
    book = Book.create(MemoryStore(), study, clock=lambda: 0.0)
    scheduler = build("playbook")
    overfit = {"batch": 32, "steps": 40, "losses": [2.3, 0.001], "accuracy": 1.0}
    answer = {"classes": 10, "expected_loss": math.log(10), "initial_loss": 2.3, "parameters": 1, "overfit": overfit,
              "seconds_per_epoch": 0.1, "finite_inputs": True, "n_train": 200}  # fmt: skip
    while job := book.next(scheduler):
        if job.probe:
            book.hear(ev.Ended(job.trial, 0, complete=True, answer=answer, cost=0.1), scheduler)
            continue
        for epoch in range(1, job.until + 1):
            book.hear(ev.Reported(job.trial, epoch, metrics(job.config, epoch, job.horizon)), scheduler)
        book.hear(ev.Ended(job.trial, job.until), scheduler)
    return book


def test_a_training_that_underfits_goes_back_to_capacity_with_longer_trainings():
    def late(config, epoch, length):
        # Size shows only after ten epochs: on the short trainings of the first look nothing is seen of it.
        size = 0.12 * (math.log2(config["width"]) - 4) if length > 10 else 0.0
        value = 1.9 + 0.2 * min(bowl(config), 2.0) - size + 0.4 * 0.5**epoch
        return {"train_loss": value, "val_loss": value + 0.005}

    book = probed(late, lt.Space(learning_rate=RATE, width=lt.Int(16, 256, log=True, default=32)))
    first, *again = [s for s in book.history.stages if s.name == "capacity"]
    assert first.settled["width"] == 32
    assert again[0].notes["again"] == "underfitting"
    assert "knowing nothing gives" in again[0].why
    assert book.history.settled["width"] > 32
    assert len(again) <= 2 + sum(s.notes["again"] == "edge" for s in again)
    assert replay(list(book._store.read()), build("playbook")) == book.history.decisions


def test_a_pipeline_that_is_broken_holds_tiers_3_to_5_up():
    def apart(config, epoch, length):
        # Learns on the training set, and validation never leaves chance: another preprocessing, say.
        return {"train_loss": 2.3 / (1 + epoch), "val_loss": 2.35 + 0.01 * bowl(config) + 0.001 * (epoch % 3),
                "val_accuracy": 0.5 if epoch < 2 else 0.1, "train_accuracy": 1 - 0.9 / epoch}  # fmt: skip

    space = lt.Space(learning_rate=RATE, width=lt.Int(16, 256, log=True), dropout=lt.Float(0.0, 0.5))
    book = probed(apart, space)
    history = book.history
    if not any(s.fatal for s in history.stages):
        for name in ("capacity", "regularization"):
            record = next(s for s in history.stages if s.name == name)
            assert record.skipped
            assert "the curves ask for something else first" in record.because
        widths = {t.config["width"] for t in history.trained() if t.stage not in ("confirm", "ablation")}
        assert len(widths) == 1


SCHEDULES = lt.Space(learning_rate=RATE, schedule=lt.Choice("constant", "cosine", "linear", default="constant"))


def still_falls(config, epoch, length):
    """With a constant rate it still falls at the end, with one that decays the fall comes to its end."""
    done = epoch / length
    value = 2.0 + bowl(config) - done if config["schedule"] == "constant" else 1.6 + bowl(config) - 1.2 * done**0.2
    return {"train_loss": value, "val_loss": value + 0.01}


def test_a_training_that_still_improves_looks_for_a_schedule_that_decays():
    study = told(SCHEDULES, still_falls)
    first, again = opened(study, "schedule")
    assert first.settled["schedule"] == "constant"
    assert again.notes["again"] == "longer"
    assert "still falling at the end" in again.why
    assert study.history.settled["schedule"] in ("cosine", "linear")


def test_an_unsteady_training_goes_back_to_the_rate():
    space = lt.Space(learning_rate=RATE, width=lt.Int(16, 256, log=True))

    def bounces(config, epoch, length):
        # Fine on short trainings; on long ones it bounces above a rate of 1e-3, more and more.
        rate = config["learning_rate"]
        shake = 0.25 * math.sin(2.3 * epoch) * (rate > 1.5e-3) * (length > 10)
        value = 0.6 + 0.3 * bowl(config) + (0.4 if rate > 1.5e-3 and length > 10 else 0.0) + 2.0 / epoch + shake
        return {"train_loss": value, "val_loss": value + 0.02}

    study = told(space, bounces)
    again = next(s for s in opened(study, "learning rate") if s.notes.get("again") == "steadier")
    assert again.notes["kinds"] == ["oscillating"]
    assert "jumps by" in again.why
    assert again.settled["learning_rate"] < 1.5e-3
    names = order(study)
    assert names.index("capacity") > study.history.stages.index(again)


def test_a_training_that_is_worse_for_being_longer_gets_a_lower_rate():
    def lost(config, epoch, length):
        # A rate that a short training stands, and a long one does not: nothing is learned any more.
        value = 0.6 + 0.3 * bowl(config) + 0.5 / epoch if config["learning_rate"] < 1.5e-3 or length < 10 else 2.3
        return {"train_loss": value, "val_loss": value}

    study = told(lt.Space(learning_rate=RATE, width=lt.Int(16, 256, log=True)), lost)
    again = next(s for s in opened(study, "learning rate") if s.notes.get("again") == "steadier")
    assert "lost_when_longer" in again.notes["kinds"]
    assert again.settled["learning_rate"] < 1.5e-3


@pytest.mark.parametrize(("short", "long", "worse"), [(0.95, 0.93, True), (0.95, 0.948, False), (0.1, 0.095, False)])
def test_how_much_worse_a_longer_training_is_counts_by_the_distance_from_0_or_1(short, long, worse):
    space = lt.Space(learning_rate=RATE)
    log = [ev.Created(Study("s", space, Objective("val_accuracy", False), 4)), ev.StageOpened("learning rate", "?")]
    for i, (epochs, score) in enumerate(((2, short), (4, long))):
        log.append(ev.Started(i, {"learning_rate": 1e-3}, 0, epochs, epochs, "?"))
        log += [ev.Reported(i, e, {"val_accuracy": score}) for e in range(1, epochs + 1)]
        log.append(ev.Ended(i, epochs))
    reading = read_leading(fold(Entry(float(k), event) for k, event in enumerate(log)))
    assert ("lost_when_longer" in reading.findings) is worse


def test_where_short_trainings_show_nothing_longer_ones_are_compared():
    def late(config, epoch, length):
        # Chance until the tenth epoch, give or take what luck gives.
        luck = 1e-4 * math.sin(1e6 * config["learning_rate"] + config["width"])
        value = 2.3 + luck if epoch < 10 else 1.0 + 0.3 * bowl(config) - 0.01 * math.log2(config["width"])
        return {"train_loss": value, "val_loss": value}

    study = told(lt.Space(learning_rate=RATE, width=lt.Int(16, 256, log=True)), late)
    stage = opened(study, "learning rate")[0]
    assert any("6 epochs show nothing yet" in study.history.trials[i].why for i in stage.trials)
    assert "after 12 epochs" in stage.verdict
    assert bowl(stage.settled) < 0.3
    assert {t.horizon for t in study.history.in_stage("capacity")} == {12}


@pytest.mark.parametrize("max_epochs", [1, 2, 4])
def test_one_epoch_is_no_epochs(max_epochs):
    space = lt.Space(
        learning_rate=RATE,
        width=lt.Int(16, 256, log=True),
        dropout=lt.Float(0.0, 0.5),
        schedule=lt.Choice("cosine", "constant"),
    )
    study = told(space, learns_by_heart, max_epochs=max_epochs, budget="30 trials")
    history = study.history
    said = [tell(history), render_report(history).partition("<script")[0], str(Budget(1))]
    said += [f"{s.why} {s.verdict} {s.name}" for s in history.stages] + [t.why for t in history.trials]
    assert [s for text in said for s in re.findall(r".{20}\b1 (?:epoch|trial|training|candidate)s\b", text)] == []
    assert "at the full length of " + ("1 epoch" if max_epochs == 1 else f"{max_epochs} epochs") in " ".join(said)


def test_at_the_edge_of_stability_warmup_makes_room_for_a_larger_rate():
    space = lt.Space(learning_rate=RATE, warmup=lt.Float(0.0, 0.3, default=0.0))

    def explodes(config, epoch, length):
        stands = 2e-3 if config["warmup"] < 0.1 else 1e-1
        if config["learning_rate"] > stands:
            return {"train_loss": math.nan, "val_loss": math.nan}
        value = 1.0 + bowl(config, best=-1.5) + 0.5 / epoch
        return {"train_loss": value, "val_loss": value}

    study = told(space, explodes)
    again = next(s for s in opened(study, "learning rate") if s.notes.get("again") == "steadier")
    assert again.notes["kinds"] == ["edge_of_stability"]
    assert again.settled["warmup"] >= 0.1
    assert again.settled["learning_rate"] > opened(study, "learning rate")[0].settled["learning_rate"]


def test_no_stage_comes_back_more_than_twice_for_what_is_found():
    def never_content(config, epoch, length):
        value = 1.0 + 0.2 * bowl(config) + 2.0 / epoch + 0.3 * math.sin(2.3 * epoch)
        return {"train_loss": value, "val_loss": value + 0.3 + 0.05 * max(0, epoch - 6)}

    for budget in ("24 trials", "60 trials"):
        study = told(MODEL, never_content, budget=budget)
        for name in set(order(study)):
            back = [s for s in opened(study, name) if s.notes.get("again") not in (None, "edge")]
            assert len(back) <= 2, name
        assert study.history.finished


def test_a_larger_model_leads_back_to_the_rate():
    def wants_width(config, epoch, length):
        value = 2.0 + bowl(config, -1.5 - 0.5 * math.log10(config["width"])) - 0.1 * math.log2(config["width"])
        return {"train_loss": value + 0.5 / epoch, "val_loss": value + 0.5 / epoch}

    study = told(lt.Space(learning_rate=RATE, width=lt.Int(16, 256, log=True)), wants_width)
    at = order(study).index("capacity")
    back = next(s for s in study.history.stages[at:] if s.name == "learning rate")
    assert back.notes["again"] == "rates"
    assert "width" in back.why
    assert all(study.history.trials[i].horizon == 6 for i in back.trials)


# -- ranges ------------------------------------------------------------------------------------------------------------

NARROW = lt.Space(learning_rate=lt.Float(1e-5, 1e-3, log=True))


def beyond(config, epoch, length=0):
    """Wants a rate of 4e-3."""
    value = 1.0 + bowl(config, -2.4) + 0.5 / epoch
    return {"train_loss": value, "val_loss": value}


def test_a_best_rate_on_the_edge_widens_the_range_by_a_decade():
    study = told(NARROW, beyond, budget="16 trials")
    history = study.history
    (change,) = history.ranges
    assert (change.name, change.was, change.now) == ("learning_rate", (1e-5, 1e-3), (1e-5, 1e-2))
    edge = next(s for s in opened(study, "learning rate") if s.notes.get("again") == "edge")
    assert len(edge.trials) == 2
    assert all(1e-3 < history.trials[i].config["learning_rate"] <= 1e-2 for i in edge.trials)
    assert history.settled["learning_rate"] > 2e-3
    assert history.asked_space == NARROW
    # The default is what it was in the user's range.
    assert study.summary.confirmation.default.config == {"learning_rate": 1e-3}
    assert replay(log_of(study), build("playbook")) == history.decisions
    kinds = [type(e.event).__name__ for e in log_of(study)]
    assert kinds.count("RangeChanged") == 1


def test_ranges_are_limits_for_who_says_so():
    study = told(NARROW, beyond, budget="16 trials", strategy=Playbook(extend=False))
    assert not study.history.ranges
    assert max(t.config["learning_rate"] for t in study.history.trials) == 1e-3


@pytest.mark.parametrize("fails", ["nan", "raises"])
def test_where_the_training_does_not_stand_it_the_range_shrinks_back(fails):
    study = lt.AskTell(NARROW, minimize="val_loss", max_epochs=12, budget="16 trials")
    while job := study.ask():
        if job.config["learning_rate"] > 1e-3 and fails == "raises":
            study.fail(job, "rate out of bounds")
            continue
        for epoch in range(1, job.until + 1):
            value = math.nan if job.config["learning_rate"] > 1e-3 else beyond(job.config, epoch)["val_loss"]
            if study.tell(job, epoch, val_loss=value) == "stop":
                break
    history = study.history
    wider, back = history.ranges
    assert wider.wider
    assert not back.wider
    assert back.now == (1e-5, 1e-3)
    assert "does not work" in back.why
    assert history.space == NARROW
    assert study.best_config["learning_rate"] == 1e-3
    assert history.finished == "every stage has its verdict"
    assert replay(log_of(study), build("playbook")) == history.decisions


def test_capacity_goes_on_by_a_factor_of_two_and_the_batch_no_further_than_the_data():
    space = lt.Space(learning_rate=RATE, batch_size=lt.Int(16, 128, log=True), depth=lt.Int(1, 4))

    def wants_more(config, epoch, length):
        value = 2.0 + bowl(config) - 0.1 * config["depth"] - 0.2 * math.log2(config["batch_size"] / 16) + 0.5 / epoch
        return {"train_loss": value, "val_loss": value}

    ranges = {r.name: r for r in probed(wants_more, space).history.ranges}
    assert ranges["depth"].now == (1, 8)
    assert ranges["batch_size"].now == (16, 200)  # the sanity check saw 200 samples


def test_what_ends_by_nature_and_what_has_no_range_is_left_alone():
    space = lt.Space(
        learning_rate=RATE,
        optimizer=lt.Choice("adamw", "sgd"),
        depth=lt.Constant(2),
        dropout=lt.Float(0.0, 0.9),
        mystery=lt.Float(0.0, 1.0),
    )

    def ends(config, epoch, length):
        value = 2.0 + bowl(config) + config["dropout"] - config["mystery"] + 0.5 / epoch
        return {"train_loss": value, "val_loss": value}

    study = told(space, ends)
    assert study.history.settled["dropout"] == 0.0
    assert study.history.settled["mystery"] == 1.0
    assert not study.history.ranges


def test_a_study_resumes_with_the_users_space_and_keeps_what_was_widened(tmp_path):
    place = f"sqlite:///{tmp_path / 'study.db'}"
    given = {"minimize": "val_loss", "max_epochs": 12, "storage": place}

    def work(study, jobs=10_000):
        for _ in range(jobs):
            job = study.ask()
            if not job:
                break
            for epoch in range(job.start + 1, job.until + 1):
                study.tell(job, epoch, beyond(job.config, epoch))
        return study

    first = lt.AskTell(NARROW, budget="16 trials", **given)
    while not first.history.ranges:
        work(first, 1)
    again = work(lt.AskTell(NARROW, budget="16 trials", **given), 1)
    kinds = [type(e.event).__name__ for e in again._book._store.read()]
    assert "SpaceChanged" not in kinds
    assert again.history.space["learning_rate"].high == 1e-2
    # What the user widens joins what the stages have widened.
    wider = lt.Space(learning_rate=lt.Float(1e-6, 1e-3, log=True))
    third = work(lt.AskTell(wider, budget="16 trials", **given))
    assert (third.history.space["learning_rate"].low, third.history.space["learning_rate"].high) == (1e-6, 1e-2)
    assert third.history.asked_space == wider
    assert replay(list(third._book._store.read()), build("playbook")) == third.history.decisions


# -- budgets -----------------------------------------------------------------------------------------------------------


def test_the_plan_follows_the_budget():
    def plan(budget, *trials):
        study = Study("s", NARROW, Objective("val_loss", True), 10, budget=budget)
        book = Book.create(MemoryStore(), study, clock=lambda: 0.0)
        for seconds in trials:
            book.append(ev.Started(len(book.history.trials), {"learning_rate": 1e-3}, 0, 10, 10, "test"))
            for epoch in range(1, 11):
                book.append(ev.Reported(len(book.history.trials) - 1, epoch, {"val_loss": 1.0}, seconds))
        return plan_of(book.history, StageRecord("next", "", opened=10.0 * sum(trials)))

    assert plan(Budget(400)) is SMALL
    assert plan(Budget(410)) is MEDIUM
    assert plan(Budget(1010)) is LARGE
    assert plan(Budget()) is LARGE
    # A wall-clock budget by what it pays for at the pace that was seen; before any, the plan between.
    assert plan(Budget(seconds=3600.0)) is MEDIUM
    assert plan(Budget(seconds=3600.0), 10.0) is SMALL
    assert plan(Budget(seconds=3600.0), 5.0) is MEDIUM
    assert plan(Budget(seconds=3600.0), 1.0) is LARGE
    assert plan(Budget(100, 3600.0), 1.0) is SMALL


SPACE = lt.Space(
    learning_rate=RATE,
    schedule=lt.Choice("constant", "cosine", "linear", "onecycle", "step"),
    width=lt.Int(16, 256, log=True),
    dropout=lt.Float(0.0, 0.5),
)


def smooth(config, epoch):
    return (
        1.0
        + 0.3 * bowl(config) ** 2
        + 0.02 * abs(math.log2(config["width"]) - 6)
        + 0.1 * config["dropout"]
        + 0.5 / epoch
    )


def test_larger_plans_ask_more_and_prove_more():
    small, medium, large = (drive(SPACE, "playbook", smooth, budget=f"{n} trials", max_epochs=4) for n in (20, 60, 120))
    tried = [len({t.config["schedule"] for t in s.history.in_stage("schedule")}) for s in (small, medium, large)]
    assert tried == [1, 4, 5]
    proofs = [s.summary.confirmation for s in (small, medium, large)]
    assert [len(c.seeds) for c in proofs] == [4, 5, 5]
    arms = [2 + len(c.challengers) for c in proofs]
    assert arms[0] <= arms[1] <= arms[2] == 6
    for study in (small, medium, large):
        assert study.history.spent <= study.history.study.budget.epochs


def test_a_larger_budget_goes_on_with_a_finished_study_and_proves_anew(tmp_path):
    place = f"sqlite:///{tmp_path / 'study.db'}"
    given = {"minimize": "val_loss", "max_epochs": 8, "storage": place}
    space = lt.Space({**SPACE, **{f"x{i}": lt.Float(0.0, 1.0) for i in range(4)}})

    def hard(config, epoch):  # more than a small budget finds
        return smooth(config, epoch) + sum((config[f"x{i}"] - 0.1 - 0.23 * i) ** 2 for i in range(4))

    def work(budget):
        study = lt.AskTell(space, budget=budget, **given)
        while job := study.ask():
            for epoch in range(job.start + 1, job.until + 1):
                study.tell(job, epoch, val_loss=hard(job.config, epoch))
        return study

    first = work("12 trials")
    stages, best = len(first.history.stages), first.summary.confirmation
    assert work("12 trials").history.length == first.history.length  # nothing more to do
    more = work("40 trials")
    new = [s.name for s in more.history.stages[stages:]]
    assert "refinement" in new
    assert new.index("confirm") > new.index("refinement")
    assert all(
        "the budget has grown" in s.why for s in more.history.stages[stages:] if s.notes.get("again") == "budget"
    )
    proof = more.summary.confirmation
    assert not set(proof.seeds) & set(best.seeds)
    assert more.best_score < first.best_score
    assert more.history.spent <= 40 * 8
    assert replay(list(more._book._store.read()), build("playbook")) == more.history.decisions


# -- what is said ------------------------------------------------------------------------------------------------------


def test_a_short_playbook_knows_what_mattered():
    study = drive(NARROW, "playbook", lambda c, e: beyond(c, e)["val_loss"], budget="3 trials", max_epochs=8)
    assert Result(study.history).importance() == {"learning_rate": 1.0}
    assert "only learning_rate was compared" in tell(study.history, lesson_of(study))


def lesson_of(study):
    from luthier import insight

    return insight.lesson(study.history)


def test_what_was_never_tried_at_another_value_is_not_called_settled():
    apart = Playbook([s for s in STAGES if s.name != "refinement"])
    study = drive(SPACE, apart, smooth, budget="8 trials", max_epochs=8)
    assert "schedule" in study.history.settled
    rows = {r.name: r for r in checklist(study.history) if r.name}
    tried = {n for n in SPACE if len({t.config[n] for t in study.history.trained()}) > 1}
    assert "learning_rate" in tried
    assert "schedule" not in tried
    assert rows["learning_rate"].state == "settled"
    assert rows["schedule"].state == "skipped"
    assert rows["schedule"].why == "kept at its default, no other value was tried"
    assert rows["schedule"].value == "cosine"


def test_show_names_each_configuration_once():
    study = drive(SPACE, "playbook", smooth, budget="20 trials", max_epochs=8)
    lines = tell(study.history).split("Best 5 configurations")[1].strip().split("\n\n")[0].splitlines()
    assert len({line.split(maxsplit=2)[2].split("  (")[0] for line in lines}) == 5
    assert "trials of it)" in lines[0]


def test_a_hyperparameter_that_the_training_ignores_is_suspected():
    space = lt.Space(learning_rate=RATE, drop_out=lt.Float(0.0, 0.5), width=lt.Int(16, 256, log=True))

    def misspelt(config, epoch):  # reads "dropout", which is not there
        return smooth({"dropout": 0.1, **config}, epoch)

    result = Result(drive(space, "playbook", misspelt, budget="24 trials", max_epochs=8).history)
    finding = next(f for f in result.diagnosis() if f.kind == "no_effect")
    assert "Changing drop_out changed nothing" in finding.text
    assert set(finding.numbers) == {"drop_out"}
    assert result.next_steps()[0].startswith("Check that the training reads drop_out")


def test_stages_of_the_default_plan_may_come_back_and_the_proof_may_not():
    assert {s.name for s in STAGES if not s.again} == {"sanity", "range", "confirm", "ablation"}
