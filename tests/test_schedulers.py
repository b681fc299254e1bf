"""Schedulers one by one, by the examples of their papers and literal histories."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import drive, log_of

import luthier as lt
from luthier.contracts import Resume, Start
from luthier.core import events as ev
from luthier.core.errors import UserError
from luthier.core.history import History
from luthier.core.rows import Rows
from luthier.core.study import Objective, Study
from luthier.core.trial import Checkpoint, Report, Status, TrialRecord
from luthier.run.decisions import replay
from luthier.schedule.budget import Within
from luthier.schedule.early import Early
from luthier.schedule.freeze_thaw import CURVES, POINTS, FreezeThaw, observed
from luthier.schedule.full import Full
from luthier.schedule.halving import ASHA, Hyperband, SuccessiveHalving
from luthier.schedule.median import Median
from luthier.search.grid import Grid
from luthier.search.uniform import Random
from luthier.strategies import build, early

SPACE = lt.Space(learning_rate=lt.Float(1e-5, 1e-1, log=True), depth=lt.Int(1, 4))


def record(i, losses, *, config=None, status=Status.PAUSED, length=27, until=None, checkpoint=True) -> TrialRecord:
    """A literal trial that reported ``losses``, one an epoch."""
    reports = tuple(Report(e, {"val_loss": y}) for e, y in enumerate(losses, start=1))
    kept = Checkpoint(len(losses), "c") if checkpoint else None
    config = config or {"learning_rate": 1e-3, "depth": 2}
    goal, best = until or len(losses), min(losses, default=None)
    return TrialRecord(i, config, i, length, goal, status=status, reports=reports, loss=best, checkpoint=kept)


def history_of(trials, length=27, space=SPACE, running=()) -> History:
    study = Study("s", space, Objective("val_loss", True), length)
    return History(study=study, trials=Rows(trials), decisions=len(trials), running=tuple(running))


def jobs(study: lt.AskTell) -> list[tuple[int, int]]:
    """Trial and goal of every job, in order."""
    return [(e.event.trial, e.event.until) for e in log_of(study) if isinstance(e.event, ev.Started | ev.Resumed)]


# -- synchronous successive halving ------------------------------------------------------------------------------------


def test_halving_runs_the_rungs_of_hyperbands_first_bracket_again_and_again():
    # Li et al. 2018, Table 1, s = 4: 81 trials of 1 epoch, 27 of 3, 9 of 9, 3 of 27, 1 of 81.
    scheduler = SuccessiveHalving(Random(), min_epochs=1)
    study = drive(SPACE, scheduler, max_epochs=81, budget="800 epochs")
    order = jobs(study)
    first = [goal for _, goal in order[:121]]
    assert first == [1] * 81 + [3] * 27 + [9] * 9 + [27] * 3 + [81]
    trials = study.history.trials
    for goal, count in ((3, 27), (9, 9), (27, 3), (81, 1)):
        below = [t for t, g in order[:121] if g == goal / 3]
        ranked = sorted(below, key=lambda t: min(r.metrics["val_loss"] for r in trials[t].reports[: goal // 3]))
        assert [t for t, g in order[:121] if g == goal] == ranked[:count]
    assert [goal for _, goal in order[121:125]] == [1] * 4  # the next round


def test_a_free_worker_begins_the_next_round():
    study = lt.AskTell(
        SPACE, minimize="val_loss", max_epochs=9, budget="60 epochs", strategy=SuccessiveHalving(Random(), min_epochs=1)
    )
    out = [study.ask() for _ in range(10)]
    assert [j.until for j in out] == [1] * 10
    assert [study.history.trials[j.trial].notes["bracket"] for j in out] == [0] * 9 + [1]
    for i, job in enumerate(out[:9]):
        study.tell(job, 1, val_loss=float(9 - i))
    assert [(j.trial, j.until) for j in (study.ask(), study.ask(), study.ask())] == [(8, 3), (7, 3), (6, 3)]


@pytest.mark.parametrize("scheduler", [SuccessiveHalving, Hyperband])
def test_a_bracket_goes_on_where_its_trials_were_ended_early(scheduler):
    # The best of each rung is stopped on the way to the next: its place is lost, and nobody waits for it.
    inner = scheduler(Random(), min_epochs=1)

    def ending(history, trial):
        return "asked to" if trial.epoch == 2 and trial.id % 9 == best[0] else None

    best = [4]
    study = drive(SPACE, Early(inner, ending), lambda c, e: 0.1, max_epochs=9, budget="60 epochs")
    stopped = [t for t in study.history.trials if t.status is Status.STOPPED]
    assert all(t.epoch == 2 for t in stopped)
    of_first = [t for t in study.history.trials if t.notes["bracket"] == 0]
    assert max(t.epoch for t in of_first) == 9
    assert replay(log_of(study), Within(Early(inner, ending))) == study.history.decisions


@pytest.mark.parametrize("scheduler", [ASHA, SuccessiveHalving, Hyperband])
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"eta": 0}, "eta must be a whole number of at least 2, got 0"),
        ({"eta": 1}, "eta must be a whole number of at least 2, got 1"),
        ({"eta": 2.5}, "eta must be a whole number of at least 2, got 2.5"),
        ({"min_epochs": 0}, "min_epochs must be a whole number of at least 1, got 0"),
        ({"min_epochs": -1}, "min_epochs must be a whole number of at least 1, got -1"),
    ],
)
def test_rungs_that_cannot_be_are_refused(scheduler, options, problem):
    with pytest.raises(UserError, match=problem):
        scheduler(Random(), **options)


def test_who_was_stopped_on_the_way_to_a_rung_is_the_worst_of_it():
    trials = [record(i, [5.0 - i]) for i in range(3)]
    trials.append(record(3, [0.1], status=Status.STOPPED, until=3))
    ended = [record(4 + i, [3.0, 2.0, 1.0 + i], length=9) for i in range(2)]
    action = ASHA(Random(), min_epochs=1).propose(history_of([*trials, *ended], 9), np.random.default_rng(0))
    assert isinstance(action, Resume)
    assert (action.trial, action.until) == (4, 9)  # three are in the rung at 3, the stopped one last of them


# -- the median rule ---------------------------------------------------------------------------------------------------


def median_case(losses: list[float], others: list[list[float]], **options):
    trials = [record(i, curve, status=Status.DONE) for i, curve in enumerate(others)]
    running = record(len(others), losses, status=Status.RUNNING, until=27)
    rule = Median(Full(Random()), **{"grace": 1, **options})
    return rule.judge(history_of([*trials, running], running=(running.id,)), running.id)


def test_the_median_rule_compares_the_best_so_far_with_running_averages():
    # Averages up to epoch 3 are 2, 3 and 5 (what comes later does not count): the median is 3.
    others = [[3.0, 2.0, 1.0, 0.1], [4.0, 3.0, 2.0], [6.0, 5.0, 4.0, 0.0]]
    stop = median_case([9.0, 3.1, 8.0], others)
    assert stop is not None
    assert "3.1" in stop.why
    assert "of 3 others' averages 3" in stop.why
    assert median_case([9.0, 3.0, 8.0], others) is None  # strictly worse is asked for
    assert median_case([9.0, 2.0, 8.0], others) is None  # its best counts, not its last


def test_the_median_rule_waits_for_the_grace_period_and_for_enough_others():
    others = [[1.0] * 27] * 3
    assert median_case([9.0] * 5, others, grace=6) is None
    assert median_case([9.0] * 6, others, grace=6) is not None
    assert median_case([9.0] * 5, others, grace=None) is None  # a fifth of 27 epochs are 6
    assert median_case([9.0] * 6, others, grace=None) is not None
    assert median_case([9.0] * 6, others[:2]) is None
    assert median_case([9.0] * 6, [*others[:2], [1.0] * 5]) is None  # who did not come that far says nothing


def test_the_median_rule_maximizes_and_works_around_any_scheduler():
    def accuracy(job, epoch):
        return 0.5 + 0.01 * epoch - (0.4 if job.trial >= 4 else 0.1 / (1 + job.trial))

    scheduler = Median(ASHA(Random(), min_epochs=3), grace=2)
    study = lt.AskTell(SPACE, maximize="acc", max_epochs=9, budget="36 epochs", strategy=scheduler)
    while job := study.ask():
        for epoch in range(job.start + 1, job.until + 1):
            if study.tell(job, epoch, acc=accuracy(job, epoch)) == "stop":
                break
    trials = study.history.trials
    assert len(trials) > 6
    assert [t.id for t in trials if t.status is Status.STOPPED][:3] == [4, 5, 6]
    assert all(t.epoch == 2 for t in trials if t.status is Status.STOPPED)
    assert replay(log_of(study), Within(scheduler)) == study.history.decisions


# -- early endings -----------------------------------------------------------------------------------------------------


def test_exploded_and_dead_trainings_are_ended_under_any_scheduler():
    def loss(config, epoch):
        rate = config["learning_rate"]
        return 2.3 * 3.0**epoch if rate > 1e-2 else 2.31 if rate < 1e-4 else 2.3 - 0.05 * epoch

    def outcome(scheduler):
        study = drive(SPACE, scheduler, loss, max_epochs=30, budget="300 epochs")
        return study, {t.stop_why.split(":")[0] for t in study.history.trials if t.status is Status.STOPPED}

    blind, without = outcome(early(Full(Random())))
    told, both = outcome(early(Full(Random()), trivial_loss=2.3))
    assert without == {"diverged"}  # nobody said what knowing nothing gives
    assert both == {"diverged", "dead start"}
    for study in (blind, told):
        good = [t.epoch for t in study.history.trials if 1e-4 <= t.config["learning_rate"] <= 1e-2]
        assert set(good) == {30}
    dead = [[t.epoch for t in s.history.trials if t.config["learning_rate"] < 1e-4] for s in (blind, told)]
    assert set(dead[0]) == {30}
    assert set(dead[1]) == {6}  # a fifth of the training
    halved, whys = outcome(early(ASHA(Random(), min_epochs=10), trivial_loss=2.3))
    assert whys == {"diverged", "dead start"}
    assert max(t.epoch for t in halved.history.trials) == 30


# -- freeze-thaw -------------------------------------------------------------------------------------------------------


def falling(floor: float, epochs: int, speed: float = 0.3, begin: float = 2.3) -> list[float]:
    return [floor + (begin - floor) * math.exp(-speed * e) for e in range(1, epochs + 1)]


def choices(trials, *, searcher=None, n=12, length=27, space=SPACE) -> list:
    history = history_of(trials, length, space)
    scheduler = FreezeThaw(searcher or Random(), step=3, initial=0)
    return [scheduler.propose(history, np.random.default_rng(i)) for i in range(n)]


class Nothing:
    """A searcher that has nothing left: only the paused trials compete."""

    name = "nothing"

    def suggest(self, history, rng):
        return None


def test_freeze_thaw_resumes_the_curve_whose_continuation_is_better():
    # The second is worse now and falls steadily; the first is better now and has long been flat.
    flat = [1.0 - 0.001 * e for e in range(1, 13)]
    steep = [2.0 - 0.075 * e for e in range(1, 13)]
    done = [
        record(2, falling(0.9, 27), config={"learning_rate": 2e-3, "depth": 2}, status=Status.DONE),
        record(3, falling(1.2, 27, 0.1), config={"learning_rate": 3e-4, "depth": 3}, status=Status.DONE),
    ]
    trials = [
        record(0, flat, config={"learning_rate": 1e-3, "depth": 1}),
        record(1, steep, config={"learning_rate": 1e-4, "depth": 4}),
        *done,
    ]
    taken = [a.trial for a in choices(trials, searcher=Nothing())]
    assert taken.count(1) > taken.count(0)


def test_freeze_thaw_resumes_the_better_of_two_like_curves_a_few_epochs_at_a_time():
    trials = [
        record(0, falling(0.5, 6), config={"learning_rate": 1e-3, "depth": 1}),
        record(1, falling(1.5, 6), config={"learning_rate": 1e-5, "depth": 4}),
    ]
    actions = choices(trials, searcher=Nothing())
    assert {(a.trial, a.until) for a in actions} == {(0, 9)}
    assert "most likely" in actions[0].why
    assert "of 2 paused and 0 new" in actions[0].why


def test_freeze_thaw_starts_something_new_where_nothing_paused_can_win():
    # Everything so far is hopeless at low rates, and less so the higher the rate.
    rates = [1e-5, 2e-5, 5e-5, 1e-4, 2e-4]
    trials = [
        record(i, falling(2.2 - 0.25 * i, 27, 0.5), config={"learning_rate": r, "depth": 2}, status=Status.DONE)
        for i, r in enumerate(rates)
    ]
    trials.append(record(5, falling(2.25, 6, 0.5), config={"learning_rate": 1e-5, "depth": 2}))
    actions = choices(trials)
    new = [a for a in actions if isinstance(a, Start)]
    assert len(new) > len(actions) / 2
    assert np.median([a.config["learning_rate"] for a in new]) > 2e-4
    assert all(a.until == 3 for a in new)


def test_an_exploded_loss_does_not_ruin_the_model():
    trials = [
        record(0, falling(0.5, 6), config={"learning_rate": 1e-3, "depth": 1}),
        record(1, falling(1.5, 6), config={"learning_rate": 1e-5, "depth": 4}),
    ]
    wild = [
        record(2, [2.3, 1e3, 1e9], config={"learning_rate": 1e-1, "depth": 2}),
        record(3, [1e12], config={"learning_rate": 8e-2, "depth": 1}, status=Status.STOPPED),
    ]
    assert {a.trial for a in choices([*trials, *wild], searcher=Nothing())} == {0}
    taken = choices([*trials, *wild])
    assert sum(isinstance(a, Resume) and a.trial == 0 for a in taken) >= 9


def test_a_trial_without_a_checkpoint_is_resumed_once_and_to_the_end():
    action = choices([record(0, falling(0.5, 6), checkpoint=False), record(1, falling(1.5, 6))], searcher=Nothing())[0]
    assert (action.trial, action.until) == (0, 27)


def test_the_model_sees_a_bounded_part_of_any_history():
    rng = np.random.default_rng(0)
    many = [record(i, falling(rng.random(), int(rng.choice([3, 27]))), config=SPACE.sample(rng)) for i in range(900)]
    curves = observed(history_of(many))
    assert len(curves) <= CURVES
    assert sum(len(c.points) for c in curves) <= POINTS
    few = observed(history_of(many[:20]))
    assert len(few) == 20
    for curve in few:
        assert len(curve.points) <= 8
        assert curve.points[0][0] == 1
        assert curve.points[-1][0] == len(curve.trial.reports)


def test_freeze_thaw_with_a_grid_ends_when_it_is_used_up():
    small = lt.Space(learning_rate=lt.Choice(1e-4, 1e-3), depth=lt.Choice(1, 2))
    study = drive(small, FreezeThaw(Grid(), initial=4), max_epochs=4, budget=None)
    assert study.history.finished == "every configuration was tried to the end"
    assert {t.status for t in study.history.trials} == {Status.DONE}


@pytest.mark.parametrize("failed", [False, True])
def test_freeze_thaw_waits_for_the_objective_where_another_metric_comes_first(failed):
    study = lt.AskTell(SPACE, minimize="val_loss", max_epochs=20, budget="10 trials", strategy="freeze_thaw")
    first, *others = [study.ask() for _ in range(3)]
    if failed:
        study.fail(others[0], "asked to")
    study.tell(first, 1, train_loss=1.0)
    told = study.ask()
    assert (told.start, told.until) == (0, 2)
    study.tell(first, 2, val_loss=1.0)
    assert study.ask()
    assert replay(log_of(study), build("freeze_thaw")) == study.history.decisions


def test_freeze_thaw_spends_its_epochs_on_good_curves():
    study = drive(SPACE, "freeze_thaw", max_epochs=20, budget="6 trials")
    trials = list(study.history.trials)
    off = {t.id: abs(math.log10(t.config["learning_rate"]) + 3) for t in trials}
    long = [off[t.id] for t in trials if t.epoch >= 10]
    short = [off[t.id] for t in trials if t.epoch <= 4]
    assert long
    assert len(short) > 4
    assert np.mean(long) < 0.5 * np.mean(short)


# -- a metric that comes now and then ----------------------------------------------------------------------------------


def seldom(every: int, *, last: bool = False, name: str = "val_loss", beside: str | None = "train_loss"):
    """A training that validates every so many epochs, and with ``last`` after the last one of each job."""

    def train(trial):
        for epoch in trial.epochs():
            told = {} if beside is None else {beside: 1.0 / epoch}
            if epoch % every == 0 or (last and epoch == trial.until):
                told[name] = float(next(iter(trial.config.values()))) + 1.0 / epoch
            if told:
                trial.report(told)

    return train


def tuned(train, strategy, space=SPACE, **more):
    asked = {"minimize": "val_loss", "max_epochs": 30, "budget": "6 trials", "workers": 0, "quiet": True, **more}
    return lt.tune(train, space, strategy=strategy, **asked)


@pytest.mark.parametrize("beside", ["train_loss", "loss", "val_auc", None])
@pytest.mark.parametrize("strategy", ["asha", "halving", "hyperband", "freeze_thaw", "pbt", "expert"])
def test_who_validates_too_seldom_is_told_so_at_the_first_rung(strategy, beside, tmp_path):
    told = r"'val_loss' was never reported within \d of 30 epochs, after which the strategy compares trials: trial 0 "
    with pytest.raises(UserError, match=told) as error:
        tuned(seldom(7, beside=beside), strategy, storage=tmp_path / "s.db")
    assert "Report it after each epoch, or at least after the last one of a job (trial.until)" in error.value.mend
    assert "min_epochs=5" in error.value.mend
    assert "Did you mean" not in error.value.mend
    assert list(tmp_path.glob("s.db*")) == []


def test_the_playbook_says_so_at_its_first_short_training_and_goes_on_once_it_is_mended(tmp_path):
    asked = {"storage": tmp_path / "s.db", "name": "s", "max_epochs": 9}
    with pytest.raises(UserError, match=r"never reported within 2 of 9 epochs.*: trial 0 .* train_loss\."):
        tuned(seldom(5), "playbook", **asked)
    asked["space"] = lt.Space(width=lt.Int(1, 4))  # without a learning rate the first training is a whole one
    with pytest.raises(UserError, match=r"never reported within 2 of 9 epochs.*: trial 1 .* train_loss\."):
        tuned(seldom(5), "playbook", **asked)
    result = tuned(seldom(5, last=True), "playbook", **asked)
    assert result.history.finished is not None
    assert [t.id for t in result.trials() if t.failure is not None] == [1]
    assert result.best_config == {"width": 1}


WAITING = [ASHA(Random(), min_epochs=5), Hyperband(Random(), min_epochs=5)]


@pytest.mark.parametrize("strategy", [*WAITING, "asha", "random"])
def test_who_waits_for_the_validation_or_validates_at_the_end_of_a_job_has_a_study(strategy):
    result = tuned(seldom(5, last=strategy == "asha"), strategy)
    assert max(t.epoch for t in result.trials()) == 30
    assert {t.failure for t in result.trials()} == {None}


@pytest.mark.parametrize(
    ("reported", "guessed"),
    [("val_los", True), ("valid_loss", True), ("train_loss", False), ("loss", False), ("val_loss2", False)],
)
@pytest.mark.parametrize("strategy", ["asha", "random"])
def test_only_what_may_be_meant_is_suggested(strategy, reported, guessed):
    with pytest.raises(UserError, match="'val_loss' was never reported") as error:
        tuned(seldom(1, name=reported), strategy)
    assert (f"Did you mean {reported!r}?" in error.value.mend) == guessed


def test_a_single_trial_without_its_metric_at_a_rung_fails_alone():
    def train(trial):
        for epoch in trial.epochs():
            trial.report({"train_loss" if trial.id == 2 else "val_loss": 1.0 / epoch})

    failed = [t for t in tuned(train, "asha").trials() if t.failure is not None]
    assert [(t.id, t.failure.kind) for t in failed] == [(2, "silent")]
