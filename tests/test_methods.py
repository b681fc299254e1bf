"""Searchers and schedulers: one suite that every strategy passes, and worked examples from the papers."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from conftest import EVERY, bowl, drive, log_of
from hypothesis import given, settings
from hypothesis import strategies as st

import luthier as lt
from luthier.contracts import Start
from luthier.core import events as ev
from luthier.core.errors import RunError, UserError
from luthier.core.events import encode
from luthier.core.history import Entry, fold
from luthier.core.study import Objective, Study
from luthier.core.trial import Status
from luthier.run.book import Book
from luthier.run.decisions import as_event, next_action, replay
from luthier.run.memory import MemoryStore
from luthier.schedule.full import Full
from luthier.schedule.halving import ASHA, Bracket, Hyperband, brackets, rungs
from luthier.search.grid import Grid, cells_of, grid
from luthier.search.optuna_sampler import OptunaSampler, distributions
from luthier.search.uniform import Random
from luthier.strategies import build


def decisions(study: lt.AskTell) -> list:
    return [encode(e.event) for e in log_of(study) if isinstance(e.event, ev.Decision)]


# -- every strategy ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", EVERY)
def test_every_configuration_is_in_the_space(space, strategy):
    study = drive(space, strategy)
    assert len(study.history.trials) > 3
    for trial in study.history.trained():
        assert space.complete(trial.config) == dict(trial.config)


@pytest.mark.parametrize("strategy", EVERY)
def test_the_seed_fixes_every_decision(space, strategy):
    first, again, other = (drive(space, strategy, seed=s) for s in (1, 1, 2))
    assert decisions(first) == decisions(again)
    if strategy != "grid":  # a grid differs in its trials' seeds alone
        assert decisions(first) != decisions(other)


@pytest.mark.parametrize("strategy", EVERY)
def test_replaying_the_log_recomputes_every_decision(space, strategy):
    study = drive(space, strategy, fail=lambda trial: trial % 4 == 2)
    assert replay(log_of(study), build(strategy)) == study.history.decisions


@pytest.mark.parametrize("strategy", EVERY)
def test_a_replay_notices_a_decision_that_was_tampered_with(space, strategy):
    entries = list(log_of(drive(space, strategy)))
    at = next(i for i, e in enumerate(entries) if isinstance(e.event, ev.Started))
    kind, data = encode(entries[at].event)
    forged = ev.decode(kind, {**data, "config": {**data["config"], "learning_rate": 0.0123}})
    entries[at] = type(entries[at])(entries[at].at, forged)
    with pytest.raises(RunError, match="replayed it is"):
        replay(entries, build(strategy))


@pytest.mark.parametrize("strategy", EVERY)
def test_failures_are_survived_and_never_win(space, strategy):
    study = drive(space, strategy, fail=lambda trial: trial % 3 == 0)
    failed = [t for t in study.history.trials if t.status is Status.FAILED]
    assert failed
    assert study.history.finished
    best = study.history.incumbent
    assert best is not None
    assert best.status is not Status.FAILED


@pytest.mark.parametrize("strategy", EVERY)
def test_parallel_jobs_are_all_told_and_nothing_is_left_running(space, strategy):
    study = lt.AskTell(space, minimize="val_loss", max_epochs=9, budget="10 trials", strategy=strategy)
    out = []
    while True:
        while len(out) < 4 and (job := study.ask()):
            out.append(job)
        if not out:
            break
        job = out.pop(0)
        for epoch in range(job.start + 1, job.until + 1):
            study.tell(job, epoch, val_loss=bowl(job.config, epoch))
    assert study.history.finished
    assert study.history.running == ()
    assert replay(log_of(study), build(strategy)) == study.history.decisions


@pytest.mark.parametrize("strategy", EVERY)
def test_a_space_of_one_constant_is_no_trouble(strategy):
    if strategy in ("pbt", "pb2"):  # they have nothing to do there, and say so
        with pytest.raises(UserError, match="nothing to change while a model trains"):
            lt.AskTell(lt.Space(depth=lt.Constant(1)), minimize="val_loss", max_epochs=9, strategy=strategy)
        return
    study = drive(lt.Space(depth=lt.Constant(1), learning_rate=lt.Constant(1e-3)), strategy, budget="3 trials")
    assert study.best_config == {"depth": 1, "learning_rate": 1e-3}


def test_a_strategy_that_waits_for_nothing_is_caught(space):
    class Stuck:
        def propose(self, history, rng):
            return lt.Wait("for Godot")

        def judge(self, history, trial):
            return None

    with pytest.raises(RunError, match="Godot"):
        lt.AskTell(space, minimize="val_loss", strategy=Stuck()).ask()


def test_unknown_strategies_are_refused(space):
    with pytest.raises(UserError, match=r"no strategy 'rnadom'. Did you mean 'random'"):
        lt.AskTell(space, minimize="val_loss", strategy="rnadom")
    with pytest.raises(UserError, match="is no scheduler"):
        lt.AskTell(space, minimize="val_loss", strategy=object())


# -- searchers ---------------------------------------------------------------------------------------------------------


def test_a_grid_has_every_combination_once_and_skips_inactive_ones(space):
    small = space.fix({"learning_rate": 1e-3, "depth": 1, "width": 16})
    cells = grid(small, 3)
    # adamw: 1; sgd: 3 momenta x (nesterov | no nesterov with 3 dampenings)
    assert len(cells) == 1 + 3 * (1 + 3)
    study = drive(small, "grid", budget=None)
    assert [dict(t.config) for t in study.history.trials] == [dict(c) for c in cells]
    assert Full(Grid(resolution=2)).propose(study.history, np.random.default_rng()).why.startswith("grid")


@st.composite
def widenings(draw):
    """Spaces each of which contains the one before, and after how many trials each takes the place of that one."""
    order, rates = draw(st.permutations(["a", "b", "c", "d"])), [1e-3, 1e-2, 1e-1]
    kinds, tops = (sorted(draw(st.lists(st.integers(1, n), min_size=3, max_size=3))) for n in (4, 3))
    spaces = [
        lt.Space(
            kind=lt.Choice(*draw(st.permutations(order[:k]))),
            size=lt.Int(1, 2, when={"kind": order[0]}),
            batch_size=lt.Choice(16, 64),
            learning_rate=lt.coupled(lt.Float(1e-4, rates[top - 1], log=True), "batch_size"),
        )
        for k, top in zip(kinds, tops)
    ]
    return list(zip(spaces, [*draw(st.lists(st.integers(0, 12), min_size=2, max_size=2)), None]))


@given(widenings(), st.booleans())
@settings(max_examples=80, deadline=None)
def test_a_grid_that_is_widened_trains_every_cell_of_it_and_none_twice(widened, by_hand):
    entries = [Entry(0.0, ev.Created(Study("s", widened[0][0], Objective("loss", True), 1)))]
    history, scheduler, trained = fold(entries), Full(Grid()), []

    def happens(event):
        nonlocal history
        entries.append(Entry(0.0, event))
        history = history.then(entries[-1])

    for space, many in widened:
        if space is not widened[0][0]:
            happens(ev.SpaceChanged(space))
        if by_hand:
            happens(ev.ConfigAsked(space.complete({})))
        while (many is None or many > 0) and isinstance(action := next_action(history, scheduler), Start):
            trained += [] if action.by_hand else [action.config]
            happens(as_event(action, history))
            many = None if many is None else many - 1
    assert sorted(map(repr, trained)) == sorted(set(map(repr, trained)))
    assert {repr(c) for c in grid(widened[-1][0], 3)} <= set(map(repr, trained))
    assert replay(entries, scheduler) == len(history.trials)


@given(widenings())
@settings(max_examples=30, deadline=None)
def test_the_cells_of_a_grid_have_numbers(widened):
    for space, _ in widened:
        cells = cells_of(space, 3)
        assert [cells.number(cells.cell(n)) for n in range(cells.count)] == list(range(cells.count))
        assert cells.number({**cells.cell(0), "kind": "z"}) is None
        assert cells.number({**cells.cell(0), "learning_rate": 0.3}) is None


def test_a_finished_grid_goes_on_in_a_wider_space(tmp_path):
    def configs(*widths, **more):
        space = lt.Space(width=lt.Choice(*widths), depth=lt.Choice(1, 2))
        study = drive(space, "grid", lambda c, e: 1.0, storage=tmp_path / "s.db", max_epochs=1, **more)
        study.close()
        assert study.history.finished == "grid: every configuration was tried"
        return [(t.config["width"], t.config["depth"]) for t in study.history.trials]

    assert configs(16, 32, budget=None) == [(16, 1), (16, 2), (32, 1), (32, 2)]
    assert configs(64, 32, 16, budget=None)[4:] == [(64, 1), (64, 2)]
    assert len(configs(64, 32, 16, budget=None)) == 6


def test_sobol_points_are_spread_better_than_random_ones():
    square = lt.Space(learning_rate=lt.Float(1e-4, 1e-2, log=True), depth=lt.Float(0, 1))

    def empty_cells(strategy: str) -> int:
        study = drive(square, strategy, budget="64 trials", max_epochs=1)
        points = [square.to_unit(t.config) for t in study.history.trials]
        return 64 - len({(int(x * 8), int(y * 8)) for x, y in points})

    assert empty_cells("sobol") == 0
    assert empty_cells("random") > 10


def test_tpe_proposes_what_optuna_alone_proposes():
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = lt.Space(learning_rate=lt.Float(1e-5, 1e-1, log=True), depth=lt.Int(1, 8), act=lt.Choice("relu", "gelu"))
    study = drive(space, "tpe", budget="15 trials", max_epochs=1)
    history = study.history
    seed = 12345
    alone = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    for t in history.trials:
        alone.add_trial(optuna.create_trial(params=dict(t.config), distributions=distributions(space), value=t.loss))
    expected = alone.ask(distributions(space)).params

    class Fixed:
        def integers(self, high):
            return seed

    ours = OptunaSampler(lambda s: optuna.samplers.TPESampler(seed=s), "tpe").suggest(history, Fixed())
    assert dict(ours) == expected


def test_tpe_learns_where_the_good_rates_are():
    space = lt.Space(learning_rate=lt.Float(1e-6, 1.0, log=True), depth=lt.Int(1, 2))
    rates = [t.config["learning_rate"] for t in drive(space, "tpe", budget="40 trials", max_epochs=1).history.trials]
    off = [abs(math.log10(r) + 3) for r in rates]
    assert np.mean(off[-15:]) < 0.6 * 1.5  # uniform draws are 1.5 decades off on average


# -- schedulers --------------------------------------------------------------------------------------------------------


def test_rungs_begin_at_a_tenth_of_the_length():
    assert rungs(81) == (9, 27, 81)
    assert rungs(81, 1) == (1, 3, 9, 27, 81)
    assert rungs(30) == (3, 10, 30)
    assert rungs(1) == (1,)
    assert rungs(2, 1) == (1, 2)


def test_hyperbands_brackets_are_those_of_the_papers_table():
    # Li et al. 2018, Table 1: R = 81, eta = 3.
    assert brackets(81) == (
        Bracket((81, 27, 9, 3, 1), (1, 3, 9, 27, 81)),
        Bracket((34, 11, 3, 1), (3, 9, 27, 81)),
        Bracket((15, 5, 1), (9, 27, 81)),
        Bracket((8, 2), (27, 81)),
        Bracket((5,), (81,)),
    )


def test_hyperband_runs_its_brackets_in_the_papers_order():
    space = lt.Space(learning_rate=lt.Float(1e-5, 1e-1, log=True), depth=lt.Int(1, 4))
    study = drive(space, Hyperband(Random(), min_epochs=1), max_epochs=9, budget="60 epochs")
    jobs = [
        (e.event.until, isinstance(e.event, ev.Resumed))
        for e in log_of(study)
        if isinstance(e.event, ev.Started | ev.Resumed)
    ]
    first = [(1, False)] * 9 + [(3, True)] * 3 + [(9, True)]
    assert jobs[: len(first)] == first
    assert jobs[len(first) : len(first) + 6] == [(3, False)] * 5 + [(9, True)]
    trials = study.history.trials
    best_three = sorted(range(9), key=lambda i: bowl(trials[i].config, 1))[:3]
    assert {i for i in range(9) if trials[i].epoch >= 3} == set(best_three)


def test_asha_promotes_as_in_algorithm_2():
    # Losses by trial number; eta 3, rungs 1, 3, 9. A trial is promoted as soon as it is in its rung's top third.
    losses = [5.0, 4.0, 3.0, 2.0, 6.0, 7.0, 1.0, 8.0, 9.0]
    space = lt.Space(x=lt.Float(0.0, 1.0))
    study = lt.AskTell(space, minimize="loss", max_epochs=9, strategy=ASHA(Random(), min_epochs=1), budget="60 epochs")
    order = []
    for _ in range(13):
        job = study.ask()
        order.append((job.trial, job.start, job.until))
        for epoch in range(job.start + 1, job.until + 1):
            study.tell(job, epoch, loss=losses[job.trial])
    assert order == [
        (0, 0, 1), (1, 0, 1), (2, 0, 1), (2, 1, 3),  # 3 in rung 0: the best goes on
        (3, 0, 1), (3, 1, 3),  # 4 in the rung: its top 1 is now trial 3
        (4, 0, 1), (5, 0, 1),  # 6: the top 2 were promoted already
        (6, 0, 1), (6, 1, 3),  # trial 6 leads: the third in rung 1, whose top 1 goes on at once
        (6, 3, 9),
        (7, 0, 1), (8, 0, 1),  # 9 in the rung: its top 3 (6, 3, 2) were promoted already
    ]  # fmt: skip


def test_asha_spends_most_epochs_on_the_good():
    space = lt.Space(learning_rate=lt.Float(1e-6, 1.0, log=True), depth=lt.Constant(1))
    study = drive(space, "asha", budget="20 trials", max_epochs=27)
    trials = list(study.history.trials)
    lengths = Counter(t.epoch for t in trials)
    assert lengths[3] > lengths[9] > 0
    full = [bowl(t.config, 1) for t in trials if t.epoch == 27]
    stopped = [bowl(t.config, 1) for t in trials if t.epoch == 3]
    assert max(full) < np.median(stopped)
    assert study.history.spent < 20 * 27 + 1


def test_a_trial_that_failed_counts_as_the_worst_of_its_rung(space):
    study = drive(space, "asha", fail=lambda trial: trial in (0, 1))
    assert all(t.epoch == 0 for t in study.history.trials[:2])
    resumed = [e.event.trial for e in log_of(study) if isinstance(e.event, ev.Resumed)]
    assert resumed[0] == 2  # two failures and one score are three members: the one with a score is promoted


@pytest.mark.parametrize("strategy", EVERY)
def test_a_slow_machine_decides_as_a_fast_one(space, strategy):
    def run(seconds_per_event: float) -> list:
        now = [0.0]

        def clock() -> float:
            now[0] += seconds_per_event
            return now[0]

        question = lt.AskTell(
            space, minimize="val_loss", max_epochs=9, budget="6 trials", strategy=strategy
        ).history.study
        book = Book.create(MemoryStore(), question, clock=clock)
        scheduler = build(strategy)
        while job := book.next(scheduler):
            for epoch in range(job.start + 1, job.until + 1):
                report = ev.Reported(job.trial, epoch, {"val_loss": bowl(job.config, epoch)}, seconds_per_event)
                book.hear(report, scheduler)
            book.hear(ev.Ended(job.trial, job.until, checkpoint="c"), scheduler)
        return [encode(e.event) for e in book._store.read() if isinstance(e.event, ev.Decision)]

    assert run(0.001) == run(50.0)


@pytest.mark.parametrize("strategy", ["random", "tpe", "asha", "pbt"])
def test_a_study_whose_trials_all_fail_at_once_ends(strategy):
    space = lt.Space(learning_rate=lt.Float(1e-4, 1e-1, log=True))
    study = lt.AskTell(space, minimize="val_loss", max_epochs=9, budget="9 trials", strategy=strategy)
    while job := study.ask():
        study.fail(job, "out of memory")
    assert "the last 50 trials all failed" in study.history.finished
    assert len(study.history.trials) == 50
