"""Population-based training: what may change and by how much, the steps of the paper, the replay of a schedule."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from clones import RATE, adding, history_of, started, study, told, trained, valley
from conftest import drive, log_of

import luthier as lt
from luthier.contracts import Wait
from luthier.core import events as ev
from luthier.core.errors import UserError
from luthier.core.study import Budget, Objective, Study
from luthier.core.trial import Status, TrialRecord
from luthier.run.book import Book
from luthier.run.decisions import replay
from luthier.run.memory import MemoryStore
from luthier.schedule.explore import Perturb, moved, mutable_of
from luthier.schedule.pb2 import PB2
from luthier.schedule.pbt import PBT, extremes, marks_of, size_for
from luthier.schedule.replay import Replay
from luthier.strategies import build

# -- what may change, and by how much ----------------------------------------------------------------------------------


def test_a_rate_is_multiplied_a_dropout_moved_and_whole_numbers_stay_whole():
    rate = lt.Float(1e-4, 1e-1, log=True)
    assert (moved(rate, 0.01, 1.2), moved(rate, 0.01, 0.8)) == (0.012, 0.008)
    assert (moved(rate, 0.09, 1.2), moved(rate, 1.1e-4, 0.8)) == (0.1, 1e-4)  # never out of the range
    dropout = lt.Float(0.0, 0.5)
    assert (moved(dropout, 0.0, 1.2), moved(dropout, 0.0, 0.8)) == (0.05, 0.0)  # zero is no trap
    assert (moved(dropout, 0.25, 1.2), moved(dropout, 0.25, 0.8)) == (0.3, 0.2)  # in the middle, the paper's factors
    crops = lt.Int(1, 64, log=True)
    assert [moved(crops, v, f) for v, f in ((10, 1.2), (2, 1.2), (2, 0.8), (1, 0.8), (64, 1.2))] == [12, 3, 1, 1, 64]
    layers = lt.Int(0, 4)
    assert [moved(layers, v, f) for v, f in ((2, 1.2), (2, 0.8), (0, 0.8), (4, 1.2))] == [3, 1, 0, 4]
    assert all(type(moved(p, 2, 1.2)) is int for p in (crops, layers))


def test_a_quarter_is_drawn_anew_and_nothing_but_the_mutable_moves(space):
    history = history_of(started(0, 3), *trained(0, 0, 3), space=space)
    config = space.complete({"optimizer": "sgd", "learning_rate": 0.01})
    donor = TrialRecord(0, config, 1, 9, 3)
    names = mutable_of(space, None, "PBT")
    assert names == ("learning_rate", "momentum")
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(400):
        new = Perturb().explore(history, donor, names, (3, 6, 9), rng)
        assert space.complete(new) == new
        assert {k: v for k, v in new.items() if k not in names} == {k: v for k, v in config.items() if k not in names}
        rates.append(new["learning_rate"])
    kinds = [sum(r == v for r in rates) / 400 for v in (0.008, 0.012)]
    assert kinds == pytest.approx([0.375, 0.375], abs=0.06)
    assert min(rates) < 1e-4 < 1e-2 < max(rates)  # the others are drawn from the whole range


def test_a_rate_that_follows_the_batch_size_is_moved_at_its_base():
    rate = lt.coupled(lt.Float(1e-4, 1e-1, log=True), "batch_size")
    space = lt.Space(batch_size=lt.Int(16, 256, log=True), learning_rate=rate)
    config = space.assemble({"batch_size": 256, "learning_rate": 0.01})
    history = history_of(space=space)
    donor = TrialRecord(0, config, 1, 9, 3)
    new = Perturb(resample=0.0).explore(history, donor, ("learning_rate",), (3, 9), np.random.default_rng(0))
    assert new["batch_size"] == 256
    factor = new["learning_rate"] / config["learning_rate"]
    assert min(abs(factor - 0.8), abs(factor - 1.2)) < 1e-9


def test_what_shapes_model_or_batch_is_not_mutable():
    fraction = lt.Float(0.0, 0.3)
    space = lt.Space(
        lr=lt.Float(1e-4, 1e-1, log=True), n_layers=lt.Int(1, 4), batch_size=lt.Int(8, 64), warmup=fraction,
        optimizer=lt.Choice("a", "b"), p_drop=fraction, entropy=fraction, wd=fraction, drop_path=fraction,
        epochs=lt.Int(1, 9), seed=lt.Constant(1),
    )  # fmt: skip
    assert mutable_of(space, None, "PBT") == ("lr", "p_drop", "wd")
    assert mutable_of(space, ["entropy", "optimizer"], "PBT") == ("optimizer", "entropy")


@pytest.mark.parametrize("strategy", ["pbt", "pb2", PBT(), PB2()])
def test_a_space_with_nothing_to_change_is_refused_at_once(tmp_path, strategy):
    space = lt.Space(width=lt.Int(8, 64), optimizer=lt.Choice("sgd", "adamw"))
    for make in (
        lambda: lt.AskTell(space, minimize="val_loss", max_epochs=9, strategy=strategy, storage=tmp_path / "s.db"),
        lambda: lt.tune(adding, space, minimize="val_loss", strategy=strategy, storage=tmp_path / "s.db", quiet=True),
    ):
        with pytest.raises(UserError, match=r"nothing to change.*width, optimizer.*mutable=\[\.\.\.\]"):
            make()
    assert list(tmp_path.iterdir()) == []


def test_other_mistakes_are_refused_at_once():
    def ask(strategy, **more):
        return lt.AskTell(RATE, minimize="val_loss", strategy=strategy, **{"max_epochs": 9, **more})

    for make, match in (
        (lambda: ask("pbt", max_epochs=1), "between epochs; max_epochs is 1"),
        (lambda: ask(PBT(mutable=["lerning_rate"])), "Did you mean 'learning_rate'"),
        (lambda: PBT(population=1), "population=1 must be a whole number of at least 2"),
        (lambda: PB2(interval=0), "interval=0"),
        (lambda: PBT(fraction=0.6), "fraction=0.6"),
        (lambda: PBT(mutable="learning_rate"), "must be a list"),
        (lambda: Perturb(factors=(1.1, 1.2)), "one below and one above 1"),
        (lambda: Perturb(resample=2.0), "no probability"),
    ):
        with pytest.raises(UserError, match=match):
            make()


# -- the steps of PBT --------------------------------------------------------------------------------------------------


def test_marks_sizes_and_extremes():
    assert marks_of(30) == tuple(range(3, 31, 3))
    assert marks_of(4) == (1, 2, 3, 4)
    assert marks_of(10, 4) == (4, 8, 10)
    assert marks_of(9, 4) == (4, 9)  # a last interval of less than half joins the one before
    assert marks_of(3, 5) == (3,)
    assert [size_for(n) for n in (1, 2, 4.9, 12, 20, 30, 45, 100, math.inf)] == [2, 2, 4, 12, 20, 15, 15, 20, 8]
    # A fifth, rounded up, and never so many that top and bottom overlap.
    assert [extremes(n) for n in (1, 2, 3, 4, 5, 6, 10, 20)] == [0, 1, 1, 1, 1, 2, 2, 4]


def population(losses, size=5, max_epochs=3, strategy=None, seed=0, **more):
    """Ask and tell a whole population on a script of losses, ``losses[trial][epoch]``; the jobs in order."""
    strategy = strategy or PBT(population=size, interval=1, explorer=Perturb(resample=0.0))
    asked = lt.AskTell(RATE, minimize="val_loss", max_epochs=max_epochs, strategy=strategy, seed=seed, **more)
    order = []
    while job := asked.ask():
        order.append((job.trial, job.start, job.until, job.clone_of))
        for epoch in range(job.start + 1, job.until + 1):
            asked.tell(job, epoch, val_loss=losses[job.trial][epoch])
    return asked, order


def test_the_worst_fifth_copies_the_best_fifth():
    # Five members: one at the bottom, one at the top. By hand, from section 4.1 of the paper: at epoch 1 trial 3 is the
    # worst and copies trial 1; at epoch 2 trial 0 is the worst and copies trial 5, which is the copy and now the best.
    losses = {0: {1: 3.0, 2: 4.0}, 1: {1: 1.0, 2: 1.0, 3: 0.9}, 2: {1: 2.0, 2: 2.0, 3: 2.0}, 3: {1: 9.0},
              4: {1: 5.0, 2: 3.0, 3: 3.0}, 5: {2: 0.5, 3: 0.4}, 6: {3: 0.3}}  # fmt: skip
    asked, order = population(losses)
    assert order == [
        (0, 0, 1, None), (1, 0, 1, None), (2, 0, 1, None), (3, 0, 1, None), (4, 0, 1, None),
        (5, 1, 2, 1), (4, 1, 2, None), (0, 1, 2, None), (2, 1, 2, None), (1, 1, 2, None),
        (6, 2, 3, 5), (4, 2, 3, None), (2, 2, 3, None), (1, 2, 3, None), (5, 2, 3, None),
    ]  # fmt: skip
    trials = asked.history.trials
    rates = [t.config["learning_rate"] for t in trials]
    factors = [rates[5] / rates[1], rates[6] / rates[5]]
    assert all(f == pytest.approx(0.8) or f == pytest.approx(1.2) for f in factors)
    assert (trials[3].status, trials[0].status) == (Status.STOPPED, Status.STOPPED)
    assert "in place of trial 3 (rank 5 of 5 at epoch 1): a copy of trial 1, rank 1 with val_loss 1" in trials[5].why
    assert asked.history.spent == 15
    assert [(s.from_epoch, s.until_epoch, s.trial) for s in asked.summary.schedule] == [(0, 1, 1), (1, 2, 5), (2, 3, 6)]
    assert asked.summary.best_score == 0.3
    assert len({t.seed for t in trials}) == 7


def test_two_members_never_copy_themselves_and_equals_are_left_alone():
    losses = {0: dict.fromkeys(range(1, 4), 1.0), 1: dict.fromkeys(range(1, 4), 1.0)}
    _, order = population(losses, size=2)
    assert all(clone is None for *_, clone in order)
    losses = {0: {1: 2.0}, 1: {1: 1.0, 2: 3.0, 3: 3.0}, 2: {2: 1.0, 3: 1.0}, 3: {3: 1.0}}
    asked, order = population(losses, size=2)
    assert [o for o in order if o[3] is not None] == [(2, 1, 2, 1), (3, 2, 3, 2)]
    assert all(t.parent != t.id for t in asked.history.trials)


def test_members_are_ranked_by_the_weights_that_are_copied_not_by_their_best():
    # Trial 0 was best at epoch 1 and got worse; its weights of epoch 2 are the worst that there are.
    losses = {0: {1: 0.1, 2: 9.0}, 1: {1: 2.0, 2: 2.0, 3: 2.0}, 2: {1: 1.0, 2: 1.0, 3: 1.0}, 3: {3: 1.0}}
    strategy = PBT(population=3, interval=2, explorer=Perturb(resample=0.0))
    losses = {t: {**dict.fromkeys(range(1, 5), 5.0), **e} for t, e in losses.items()}
    asked, order = population(losses, max_epochs=4, strategy=strategy)
    assert (3, 2, 4, 2) in order
    assert asked.history.trials[0].status is Status.STOPPED


def test_members_are_compared_at_equal_epochs_also_when_some_are_ahead():
    scheduler, store = build(PBT(population=4, interval=2, explorer=Perturb(resample=0.0))), MemoryStore()
    book = Book.create(store, study(max_epochs=8))
    first = [book.next(scheduler) for _ in range(4)]
    assert [(j.trial, j.start) for j in first] == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert isinstance(book.next(scheduler), Wait)
    told(book, scheduler, first[0], 4.0)
    assert isinstance(book.next(scheduler), Wait)  # one of four: too few to judge by
    told(book, scheduler, first[1], 5.0)
    told(book, scheduler, first[2], 6.0)
    ahead = [book.next(scheduler) for _ in range(3)]  # three of four: trial 2 is the worst of them
    assert [(j.trial, j.clone_of) for j in ahead] == [(4, 0), (1, None), (0, None)]
    for job, loss in zip(ahead, (0.1, 0.2, 0.3)):
        told(book, scheduler, job, loss)
    # All three are at epoch 4, and nobody goes beyond while trial 3 has not come to epoch 2.
    assert isinstance(book.next(scheduler), Wait)
    # It comes in with 4.5, worse than every loss at epoch 4, but second at epoch 2: it goes its own way.
    told(book, scheduler, first[3], 4.5)
    late = book.next(scheduler)
    assert (late.trial, late.start, late.until, late.clone_of) == (3, 2, 4, None)
    assert "rank 2 of 4 at epoch 2" in [e.event.why for e in store.read() if isinstance(e.event, ev.Resumed)][-1]


def test_a_late_member_at_the_bottom_copies_the_newest_weights_of_the_best():
    scheduler = build(PBT(population=4, interval=2))
    book = Book.create(MemoryStore(), study(max_epochs=8))
    first = [book.next(scheduler) for _ in range(4)]
    for job, loss in zip(first[:3], (1.0, 2.0, 3.0)):
        told(book, scheduler, job, loss)
    for job in [book.next(scheduler) for _ in range(3)]:
        told(book, scheduler, job, 0.5)
    told(book, scheduler, first[3], 9.0)
    late = book.next(scheduler)
    assert (late.clone_of, late.start, late.until) == (0, 4, 6)
    assert book.history.trials[3].status is Status.STOPPED


def test_a_donor_without_a_checkpoint_is_skipped_and_a_study_without_any_is_told_why():
    scheduler = build(PBT(population=4, interval=2))
    book = Book.create(MemoryStore(), study(max_epochs=8))
    jobs = [book.next(scheduler) for _ in range(4)]
    for job, loss in zip(jobs, (1.0, 2.0, 3.0, 4.0)):
        told(book, scheduler, job, loss, checkpoint=None if job.trial == 0 else "c")
    after = [book.next(scheduler) for _ in range(4)]
    assert [(j.trial, j.start, j.clone_of) for j in after] == [(3, 2, None), (2, 2, None), (1, 2, None), (0, 0, None)]
    book = Book.create(MemoryStore(), study(max_epochs=8))
    for job in [book.next(scheduler) for _ in range(4)]:
        told(book, scheduler, job, 1.0, checkpoint=None)
    with pytest.raises(UserError, match=r"saves none.*trial.epochs\(model="):
        book.next(scheduler)


def test_a_member_that_failed_is_a_copy_from_then_on_and_one_without_anybody_begins_anew():
    asked = lt.AskTell(RATE, minimize="val_loss", max_epochs=4, budget="6 trials", strategy="pbt")
    while job := asked.ask():
        if job.trial in (1, 7):
            asked.fail(job, "out of memory")
            continue
        for epoch in range(job.start + 1, job.until + 1):
            asked.tell(job, epoch, val_loss=float(job.trial))
    copies = [t for t in asked.history.trials if t.instead_of in (1, 7)]
    assert [t.begin for t in copies] == [1, copies[1].begin]
    assert all(t.inherited and "it failed" in t.why for t in copies)
    assert asked.history.spent <= 24
    none_left = lt.AskTell(RATE, minimize="val_loss", max_epochs=4, budget="4 trials", strategy="pbt")
    jobs = [none_left.ask() for _ in range(4)]
    for job in jobs:
        none_left.fail(job, "out of memory")
    again = none_left.ask()
    assert (again.trial, again.start, again.clone_of) == (4, 0, None)


def test_the_whole_population_gets_its_first_interval_before_anybody_is_judged():
    asked = drive(RATE, "pbt", valley, budget="8 trials")
    decisions = [e.event for e in log_of(asked) if isinstance(e.event, ev.Decision)]
    assert all(isinstance(d, ev.Started) and not d.clone for d in decisions[:8])
    assert sum(isinstance(d, ev.Started) and not d.clone for d in decisions) == 8
    assert any(isinstance(d, ev.Started) and d.clone for d in decisions[8:])


@pytest.mark.parametrize(
    ("strategy", "budget"),
    [("pbt", "1 trials"), ("pbt", "3 trials"), ("pbt", "50 epochs"), ("pbt", "22 trials"), ("pb2", "50 epochs")],
)
def test_the_budget_is_never_overspent_and_mostly_used(strategy, budget):
    asked = drive(RATE, strategy, valley, budget=budget)
    allowed = Budget.parse(budget, 9).epochs
    assert allowed - 9 < asked.history.spent <= allowed
    assert sum(t.spent for t in asked.history.trials) == asked.history.spent
    assert all(t.epoch <= 9 for t in asked.history.trials)


def test_with_time_alone_populations_follow_each_other_and_a_larger_budget_begins_another():
    now = itertools.count()
    book = Book.create(
        MemoryStore(), Study("s", RATE, Objective("val_loss", True), 3, Budget(seconds=160.0)), clock=lambda: next(now)
    )
    scheduler = build("pbt")
    while job := book.next(scheduler):
        for epoch in range(job.start + 1, job.until + 1):
            book.hear(ev.Reported(job.trial, epoch, {"val_loss": valley(job.config, epoch)}, 1.0), scheduler)
        book.hear(ev.Ended(job.trial, job.until, checkpoint="c"), scheduler)
    numbers = [t.notes["population"] for t in book.history.trials]
    assert max(numbers) > 0
    assert numbers == sorted(numbers)
    asked = drive(RATE, "pbt", valley, budget="5 trials")
    many = len(asked.history.trials)
    asked._book.append(ev.BudgetChanged(Budget(100)))
    assert asked.ask().start == 0
    assert asked.history.trials[many].notes["size"] == 6  # 55 epochs are left
    assert replay(log_of(asked), build("pbt")) == asked.history.decisions


def test_ask_and_tell_says_whose_state_to_copy():
    asked = lt.AskTell(RATE, minimize="val_loss", max_epochs=6, budget="4 trials", strategy="pbt", seed=1)
    kept, clones = {}, 0
    while job := asked.ask():
        whose = job.trial if job.clone_of is None else job.clone_of
        state = kept[whose, job.checkpoint] if job.checkpoint else 0
        assert state == job.start
        clones += job.clone_of is not None
        for epoch in range(job.start + 1, job.until + 1):
            state += 1
            asked.tell(job, epoch, val_loss=valley(job.config, epoch))
        kept[job.trial, f"epoch-{job.until}"] = state
    assert clones > 3


@pytest.mark.parametrize("workers", [0, 2])
def test_weights_go_on_across_workers(workers):
    result = lt.tune(
        adding, RATE, minimize="val_loss", max_epochs=6, budget="5 trials", strategy="pbt", workers=workers, quiet=True
    )
    clones = [t for t in result.trials() if t.inherited]
    assert clones  # how many, depends on which of the workers comes first
    assert all(t.failure is None for t in result.trials())
    assert all(t.reports[0].epoch == t.begin + 1 for t in clones)
    assert all(r.metrics["many"] == r.epoch for t in result.trials() for r in t.reports)
    assert result.history.spent <= 30


def test_an_interrupted_clone_is_asked_for_again(tmp_path):
    def ask():
        return lt.AskTell(
            RATE, minimize="val_loss", max_epochs=6, budget="4 trials", strategy="pbt", storage=tmp_path / "s.db"
        )

    asked = ask()
    while (job := asked.ask()).clone_of is None:
        for epoch in range(job.start + 1, job.until + 1):
            asked.tell(job, epoch, val_loss=valley(job.config, epoch))
    assert ask().ask() == job


# -- the schedule and its replay ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found():
    return lt.tune(
        adding, RATE, minimize="val_loss", max_epochs=10, budget="8 trials", strategy="pbt", workers=0, quiet=True,
        reduce="last", seed=4,
    )  # fmt: skip


def test_the_answer_is_a_schedule(found):
    schedule = found.lineage()
    assert len(schedule) > 1
    assert schedule[0].from_epoch == 0
    assert schedule[-1].until_epoch == 10
    assert schedule[-1].config == found.best_config
    assert [s.until_epoch for s in schedule[:-1]] == [s.from_epoch for s in schedule[1:]]
    assert found.summary.to_dict()["schedule"] == [s.to_dict() for s in schedule]
    assert len(found.lineage(0)) == 1
    assert found.importance() == {}


def test_a_replayed_schedule_is_the_same_training(found):
    for segments in (found.lineage(), [s.to_dict() for s in found.lineage()]):
        again = lt.tune(
            adding, RATE, minimize="val_loss", max_epochs=10, strategy=Replay(segments), workers=0, quiet=True,
            reduce="last",
        )  # fmt: skip
        assert again.best_score == found.best_score
        assert [(s.from_epoch, s.until_epoch, s.config) for s in again.lineage()] == [
            (s.from_epoch, s.until_epoch, s.config) for s in found.lineage()
        ]
        assert again.history.spent == 10
        assert again.history.finished == "the schedule was trained to its end"


def test_a_replay_on_another_seed_is_another_training_of_the_same_schedule(found):
    def score(seed):
        again = lt.tune(
            adding, RATE, minimize="val_loss", max_epochs=10, strategy=Replay(found.lineage(), seed=seed), workers=0,
            quiet=True, reduce="last",
        )  # fmt: skip
        seeds = [t.seed for t in again.trials()]
        assert len(set(seeds)) == len(seeds)
        return again.best_score

    assert score(1) == score(1) != score(2)


def test_a_schedule_that_cannot_be_replayed_is_refused():
    rate = {"learning_rate": 0.01}
    for make, match in (
        (lambda: Replay([]), "no segments"),
        (lambda: Replay([(0, 3, rate), (4, 6, rate)]), "must follow each other from epoch 0, got 0 to 3, 4 to 6"),
        (lambda: Replay([(0, 0, rate)]), "trains no epoch"),
        (lambda: Replay([{"from": 0}]), "is no segment"),
        (lambda: lt.AskTell(RATE, minimize="x", max_epochs=5, strategy=Replay([(0, 9, rate)])), "max_epochs=9"),
        (lambda: lt.AskTell(RATE, minimize="x", max_epochs=9, strategy=Replay([(0, 9, {"lr": 1})])), "'lr' is not in"),
    ):
        with pytest.raises(UserError, match=match):
            make()


def test_a_replay_ends_where_a_segment_fails():
    rate = {"learning_rate": 0.01}
    asked = lt.AskTell(RATE, minimize="val_loss", max_epochs=9, strategy=Replay([(0, 3, rate), (3, 9, rate)]))
    asked.fail(asked.ask(), "out of memory")
    assert not asked.ask()
    assert asked.history.finished == "segment 1 of 2 failed: out of memory"


def test_the_story_tells_the_schedule(found):
    from luthier.view.closing import closing
    from luthier.view.story import tell

    for text in (tell(found.history), closing(found.history)):
        for segment in found.lineage():
            assert f"{segment.from_epoch + 1}–{segment.until_epoch}" in text
            assert f"learning_rate={segment.config['learning_rate']:.3g}" in text
    assert "schedule" not in tell(drive(RATE, "random", valley).history)


def test_the_curve_of_a_clone_begins_with_its_parents():
    from luthier.diagnosis import from_trial

    history = history_of(
        started(0, 3), *trained(0, 0, 3, 5.0), started(1, 9, parent=0, clone=True), *trained(1, 3, 9, 1.0)
    )
    curves = from_trial(history, history.trials[1])
    assert list(curves.val_loss.x) == list(range(1, 10))
    assert list(curves.val_loss.y) == [5.0] * 3 + [1.0] * 6
