"""Goals beyond one number: constraints, several objectives, the Pareto front, and early stopping all the same."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import EVERY, log_of
from hypothesis import given, settings
from hypothesis import strategies as st

import luthier as lt
from luthier import store
from luthier.contracts import Start
from luthier.core import goals, pareto
from luthier.core.errors import UserError
from luthier.core.events import encode, plain
from luthier.core.study import Constraint, Study
from luthier.insight import next_steps
from luthier.run.decisions import replay
from luthier.schedule.full import Full
from luthier.schedule.halving import ASHA, Hyperband
from luthier.schedule.median import Median
from luthier.search.grid import Grid
from luthier.search.optuna_sampler import OptunaSampler
from luthier.strategies import NEEDS, SINGLE, STRATEGIES, build
from luthier.view.figures import FIGURES
from luthier.view.report import render_report
from luthier.view.story import ranked, tell, verdict

SLOW = {"gp": "14 trials", "freeze_thaw": "8 trials", "pb2": "10 trials"}
"""Decisions that take long: so many beyond the random ones are enough."""
SEVERAL = [p for p in EVERY if p.values[0] not in SINGLE]
TRADE = lt.Space(
    learning_rate=lt.Float(1e-5, 1e-1, log=True),
    width=lt.Int(16, 512, log=True),
    depth=lt.Int(1, 6),
    act=lt.Choice("a", "b"),
)


def trade(config: Mapping[str, Any], epoch: int) -> dict[str, float]:
    """The wider and deeper, the better and the slower; the best model by far breaks a bound of 8 ms."""
    off = abs(math.log10(config["learning_rate"]) + 3)
    error = 0.1 * off + 2 / config["width"] ** 0.5 + 0.1 / config["depth"] + 0.25 / epoch
    return {"val_error": error, "latency_ms": config["width"] / 16 * config["depth"] ** 0.7}


def drive(
    strategy: Any, told: Any = trade, space: lt.Space = TRADE, stop_at: int | None = None, **asked: Any
) -> lt.AskTell:
    """A study by ask and tell, to its end or to ``stop_at`` trials."""
    asked = {"max_epochs": 9, "budget": "25 trials", "minimize": "val_error", **asked}
    study = lt.AskTell(space, strategy=strategy, **asked)
    while job := study.ask():
        if stop_at is not None and job.trial >= stop_at:
            break
        for epoch in range(job.start + 1, job.until + 1):
            metrics = told(job.config, epoch)
            if metrics is None:
                study.fail(job, "asked to")
                break
            if study.tell(job, epoch, metrics) == "stop":
                break
    return study


def literal(reports: list[list[dict[str, float]]], **asked: Any) -> lt.AskTell:
    """A study of full-length trials with literal reports, epoch by epoch."""
    space = lt.Space(number=lt.Choice(*range(len(reports))))
    asked = {"minimize": "loss", "max_epochs": len(reports[0]), **asked}
    return drive(Numbers(), lambda c, e: reports[c["number"]][e - 1], space, budget=len(reports), **asked)


class Numbers:
    """Trial after trial at full length, in the order of their numbers."""

    def propose(self, history: Any, rng: Any) -> Any:
        n = len(history.trials)
        if n == len(history.space["number"].choices):
            return lt.Done("all")
        return Start({"number": n}, until=history.study.max_epochs, why="the next")

    def judge(self, history: Any, trial: int) -> None:
        return None


# -- dominance ---------------------------------------------------------------------------------------------------------

POINTS = st.integers(2, 4).flatmap(
    lambda m: st.lists(st.tuples(*[st.integers(0, 6).map(float)] * m), min_size=1, max_size=40)
)


@settings(max_examples=150)
@given(POINTS)
def test_fronts_are_those_of_the_definition(points):
    left = set(range(len(points)))
    for front in pareto.fronts(points):
        beaten = {i for i in left if any(pareto.dominates(points[k], points[i]) for k in left)}
        assert set(front) == left - beaten
        assert front == sorted(front, key=lambda i: (points[i], i))
        left -= set(front)
    assert not left


@settings(max_examples=100)
@given(POINTS)
def test_the_order_keeps_the_fronts_and_begins_with_the_best_in_the_first_loss(points):
    order, fronts = pareto.order(points), pareto.fronts(points)
    assert sorted(order) == list(range(len(points)))
    rank = {i: k for k, front in enumerate(fronts) for i in front}
    assert [rank[i] for i in order] == sorted(rank.values())
    assert points[order[0]] == min(points)


def test_within_a_front_the_farthest_come_first_whatever_the_units():
    front = [(0.0, 1000.0), (0.1, 900.0), (0.5, 500.0), (0.9, 20.0), (1.0, 0.0)]
    assert pareto.order(front) == [0, 4, 2, 1, 3]
    assert pareto.order([(x * 1e6, y / 1e6) for x, y in front]) == [0, 4, 2, 1, 3]


@settings(max_examples=60)
@given(st.integers(1, 3).flatmap(lambda m: st.lists(st.tuples(*[st.integers(0, 6)] * m), min_size=1, max_size=12)))
def test_hypervolume_counts_the_cells_that_are_dominated(points):
    sides = len(points[0])
    cells = itertools.product(range(5), repeat=sides)
    covered = sum(any(all(x <= c for x, c in zip(p, cell)) for p in points) for cell in cells)
    assert pareto.hypervolume(points, [5] * sides) == covered


# -- the epoch that counts ---------------------------------------------------------------------------------------------


def test_all_numbers_of_a_trial_are_those_of_one_epoch():
    rows = [[{"loss": 3.0, "ms": 1.0}, {"loss": 1.0, "ms": 5.0}, {"loss": 2.0, "ms": 2.0}]]
    best = literal(rows, minimize=["loss", "ms"], constraints={"ms": "<= 3"})
    assert best.pareto[0].scores == {"loss": 1.0, "ms": 5.0}
    assert (best.pareto[0].epoch, best.pareto[0].feasible, best.summary.feasible) == (2, False, False)
    last = literal(rows, minimize=["loss", "ms"], constraints={"ms": "<= 3"}, reduce="last")
    assert last.pareto[0].scores == {"loss": 2.0, "ms": 2.0}
    assert (last.pareto[0].epoch, last.pareto[0].feasible, last.best_score) == (3, True, 2.0)


def test_what_is_told_once_counts_for_every_epoch():
    first = literal([[{"loss": 2.0, "params": 9.0}, {"loss": 1.0}, {"loss": 3.0}]], constraints={"params": "<= 8"})
    at_the_end = literal([[{"loss": 1.0}, {"loss": 2.0}, {"loss": 3.0, "params": 9.0}]], constraints={"params": "<= 8"})
    assert first.summary.values == at_the_end.summary.values == {"loss": 1.0, "params": 9.0}
    assert first.summary.feasible is at_the_end.summary.feasible is False


def test_while_a_constraint_is_not_told_yet_the_objective_speaks():
    study = lt.AskTell(TRADE, minimize="loss", constraints={"ms": "<= 1"}, max_epochs=3, strategy="random")
    job = study.ask()
    study.tell(job, 1, loss=2.0)
    history = study.history
    assert history.final_loss(history.trials[0]) == history.loss_at(history.trials[0], 1) == 2.0
    study.tell(job, 2, loss=1.0, ms=4.0)
    history = study.history
    assert history.final_loss(history.trials[0]) >= goals.INFEASIBLE
    assert history.loss_at(history.trials[0], 1) == 2.0


# -- constraints -------------------------------------------------------------------------------------------------------


def test_the_feasible_beat_the_infeasible_and_those_go_by_their_violation():
    losses, ms, mb = (
        [1.0, 5.0, 2.0, 9.0, 3.0, 2.5],
        [40.0, 10.0, 21.0, 20.0, 20.5, 21.0],
        [1.0, 1.0, 1.0, 1.0, 2.2, 1.0],
    )
    rows = [[{"loss": a, "ms": b, "mb": c}] for a, b, c in zip(losses, ms, mb)]
    study = literal(rows, constraints={"ms": "<= 20", "mb": "<= 2"})
    # 1 and 3 keep both. 2 and 5 are 5 % too slow, the better of them first; 4 is 2.5 % too slow and 10 % too large.
    assert [t.id for t in ranked(study.history)] == [1, 3, 2, 5, 4, 0]
    assert study.history.trials[4].violation == pytest.approx(0.125)
    assert (study.best_score, study.summary.feasible) == (5.0, True)
    assert [study.history.score(t) for t in study.history.trials] == losses  # scores stay in their units
    assert "infeasible" not in verdict(study.history)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(0, 3000)), min_size=2, max_size=30),
    st.floats(0.5, 900.0),
    st.booleans(),
)
def test_the_scalar_loss_orders_trials_by_the_rules(pairs, bound, upper):
    constraint = Constraint("ms", bound, upper)
    rules = [(max(0.0, constraint.excess(ms)), loss) for loss, ms in pairs]
    assert all((v == 0) == (ms <= bound if upper else ms >= bound) for (v, _), (_, ms) in zip(rules, pairs))
    seen = [goals.penalized(loss, v) for v, loss in rules]
    for (v, loss), one in zip(rules, seen):
        for (w, other), two in zip(rules, seen):
            if v < w * (1 - 1e-8) or (v == w == 0 and loss < other):
                assert one < two


def test_an_infeasible_winner_is_said_to_be_infeasible():
    study = literal([[{"loss": 1.0, "ms": 40.0}], [{"loss": 2.0, "ms": 30.0}]], constraints={"ms": "<= 20"})
    assert (study.best_score, study.summary.feasible) == (2.0, False)
    assert "It is infeasible: ms is 30.00, not <= 20; no trial meets the constraints." in verdict(study.history)
    assert next_steps(study.history)[0].startswith("Widen the space towards ms <= 20, or loosen that")


@pytest.mark.parametrize("strategy", EVERY)
def test_every_strategy_ends_within_the_constraints(strategy):
    budget = SLOW.get(strategy, "25 trials")
    free = drive(strategy, budget=budget)
    assert free.summary.values == {"val_error": pytest.approx(free.best_score)}
    assert trade(free.best_config, 9)["latency_ms"] > 8
    study = drive(strategy, constraints={"latency_ms": "<= 8"}, budget=budget)
    assert study.summary.feasible is True
    assert trade(study.best_config, 9)["latency_ms"] <= 8
    inside = [study.history.score(t) for t in study.history.trained() if t.violation == 0]
    if not study.summary.confirmation:
        assert study.best_score == min(s for s in inside if s is not None)
    assert replay(log_of(study), build(strategy)) == study.history.decisions


def test_early_stopping_promotes_no_infeasible_trial_while_there_are_feasible_ones():
    study = drive("asha", constraints={"latency_ms": "<= 30"}, budget="20 trials")
    first = min(t.until for t in study.history.trained())
    promoted = [t for t in study.history.trained() if t.epoch > first]
    assert len(promoted) > 5
    assert sum(t.violation > 0 for t in study.history.trained()) > 5
    assert not any(t.violation for t in promoted)


def test_the_playbook_keeps_a_winner_that_is_worse_than_a_default_out_of_bounds():
    study = drive("playbook", constraints={"latency_ms": "<= 8"}, budget="60 trials")
    found = study.summary.confirmation
    assert found is not None
    assert (found.winner.feasible, found.default.feasible, found.better) == (True, False, True)
    assert found.gain < 0
    assert "within the constraints; the strong default breaks them" in verdict(study.history)
    assert study.summary.ablation is None  # there is no gain to take apart


def test_a_constraint_on_the_objective_itself_is_allowed():
    study = drive("random", constraints={"val_error": ">= 0.5"}, budget="20 trials")
    assert study.summary.feasible is True
    assert study.best_score >= 0.5


def test_a_population_copies_who_keeps_the_constraints_and_clones_know_what_was_told_once():
    def told(config, epoch):
        seen = trade(config, epoch)
        return seen if epoch == 1 else {"val_error": seen["val_error"]}  # the width tells the latency: said once

    study = drive("pbt", told, constraints={"latency_ms": "<= 8"}, budget="30 trials", seed=1)
    trials = study.history.trials
    clones = [t for t in trials if t.inherited is not None]
    assert len(clones) > 5
    assert not any(t.failure for t in trials)
    assert {t.violation > 0 for t in trials if t.inherited is None} == {True, False}
    for t in clones:
        donor, left = trials[t.parent], trials[t.instead_of]
        assert donor.violation <= left.violation
        assert t.violation == donor.violation
        assert t.before["latency_ms"] == trade(t.config, 1)["latency_ms"]
    assert study.summary.feasible is True


# -- several objectives ------------------------------------------------------------------------------------------------


def brute_front(study: lt.AskTell) -> set[int]:
    """The front by the definition, from the last report of each trial; equal configurations counted once."""
    rows = {t.id: tuple(trade(t.config, t.epoch).values()) for t in study.history.trained() if t.failure is None}
    kept = [i for i in rows if not any(pareto.dominates(other, rows[i]) for other in rows.values())]
    first: dict[str, int] = {}
    for i in sorted(kept, key=lambda i: (rows[i], i)):
        first.setdefault(repr(sorted(study.history.trials[i].config.items())), i)
    return set(first.values())


@pytest.mark.parametrize("strategy", SEVERAL)
def test_every_strategy_finds_a_front(strategy):
    asked = {"minimize": ["val_error", "latency_ms"], "budget": SLOW.get(strategy, "25 trials")}
    study = drive(strategy, lambda c, e: None if c["depth"] == 4 and c["act"] == "b" else trade(c, e), **asked)
    points = study.pareto
    assert len(points) > 2
    assert {p.trial for p in points} == brute_front(study)
    assert [p.scores["val_error"] for p in points] == sorted(p.scores["val_error"] for p in points)
    assert all(p.feasible and p.limits == {} for p in points)
    if not study.summary.confirmation:
        assert (study.best_config, study.best_score) == (points[0].config, points[0].scores["val_error"])
    assert replay(log_of(study), build(strategy)) == study.history.decisions


def test_directions_may_differ_and_the_quality_leads():
    def told(config, epoch):
        seen = trade(config, epoch)
        return {"val_accuracy": 1 - seen.pop("val_error"), **seen, "throughput": 1 / seen["latency_ms"]}

    both = drive("random", told, minimize="latency_ms", maximize="val_accuracy")
    assert str(both.history.study.goals) == "maximize val_accuracy and minimize latency_ms"
    up = drive("random", told, minimize=None, maximize=["val_accuracy", "throughput"])
    assert [p.trial for p in both.pareto] == [p.trial for p in up.pareto]
    assert up.best_score == max(p.scores["val_accuracy"] for p in up.pareto)
    assert (
        drive("random", minimize="val_error", maximize="depth_used", stop_at=0).history.objective.metric == "val_error"
    )


def test_the_best_of_a_tie_in_the_first_objective_is_one_that_nothing_dominates():
    rows = [[{"loss": 1.0, "ms": 9.0}], [{"loss": 1.0, "ms": 5.0}], [{"loss": 2.0, "ms": 6.0}]]
    study = literal(rows, minimize=["loss", "ms"])
    assert [p.trial for p in study.pareto] == [1]
    assert study.history.incumbent.id == 1


def test_without_a_feasible_trial_the_front_is_what_comes_nearest():
    rows = [[{"loss": 1.0, "ms": 30.0}], [{"loss": 3.0, "ms": 25.0}], [{"loss": 2.0, "ms": 25.0}]]
    study = literal(rows, minimize=["loss", "ms"], constraints={"ms": "<= 20"})
    assert [(p.trial, p.feasible) for p in study.pareto] == [(2, False)]
    assert "all infeasible" in tell(study.history)


def test_hypervolume_is_that_of_the_front_in_the_metrics_units():
    rows = [
        [{"acc": 0.9, "ms": 30.0}],
        [{"acc": 0.5, "ms": 10.0}],
        [{"acc": 0.4, "ms": 20.0}],
        [{"acc": 0.8, "ms": 99.0}],
    ]
    result = lt.Result(literal(rows, maximize="acc", minimize="ms").history)
    # From (0, 40): the first covers 0.9 x 10, the second what it has beyond: 0.5 x 20.
    assert result.hypervolume({"acc": 0.0, "ms": 40.0}) == pytest.approx(0.9 * 10 + 0.5 * 20)
    with pytest.raises(UserError, match="no value for 'ms'"):
        result.hypervolume({"acc": 0.0})
    with pytest.raises(UserError, match=r"'mss', which is no objective. Did you mean 'ms'"):
        result.hypervolume({"acc": 0.0, "mss": 40.0})


# -- early stopping ----------------------------------------------------------------------------------------------------

RUNG = {  # number: (loss, ms) at the first rung; the second front is 5, 6, 7
    0: (0.30, 50.0), 1: (0.31, 48.0), 2: (0.40, 30.0), 3: (0.60, 12.0), 4: (0.61, 11.0),
    5: (0.35, 60.0), 6: (0.45, 40.0), 7: (0.70, 20.0), 8: (0.90, 90.0),
}  # fmt: skip


@pytest.mark.parametrize("scheduler", [ASHA(Grid(), 3, 1), Hyperband(Grid(), 3, 1)], ids=["asha", "hyperband"])
def test_a_rung_is_judged_by_non_dominated_sorting_spread_over_the_front(scheduler):
    space = lt.Space(number=lt.Choice(*RUNG))

    def told(config, epoch):
        return dict(zip(("loss", "ms"), RUNG[config["number"]]))

    study = drive(scheduler, told, space, minimize=["loss", "ms"], max_epochs=9, budget="100 epochs")
    promoted = {t.config["number"] for t in study.history.trained() if t.epoch >= 3}
    # The best loss, the fastest, and what lies farthest from both: not the three lowest losses 0, 1, 5.
    assert promoted == {0, 4, 2}
    single = drive(scheduler, told, space, minimize="loss", max_epochs=9, budget="100 epochs")
    first_three = {t.config["number"] for t in single.history.trained() if t.epoch >= 3}
    if isinstance(scheduler, Hyperband):  # a rung that is judged when it is complete
        assert first_three == {0, 1, 5}


def test_a_rung_looks_at_what_was_known_there():
    study = drive("asha", minimize=["val_error", "latency_ms"])
    history, here = study.history, min(t.until for t in study.history.trained())
    members = [t for t in history.trained() if t.epoch >= here]
    losses = [tuple(trade(t.config, here).values()) for t in members]
    expected = [members[i].id for i in pareto.order(losses)]
    assert [t.id for t in goals.ranked_at(history.study.goals, members, here)] == expected
    waiting = [i for i in expected if history.trials[i].status == "paused" and history.trials[i].until == here]
    assert history.foremost(here) == (waiting[0], expected.index(waiting[0]) + 1, len(expected))


# -- Optuna ------------------------------------------------------------------------------------------------------------


def alone(make: Any, many: int, ceiling: float | None, trials: int) -> list[dict[str, Any]]:
    """What Optuna proposes by itself, given the seeds that the decisions of a study of seed 0 draw."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["minimize"] * many)
    out = []
    for n in range(trials):
        study.sampler = make(int(np.random.default_rng((0, n)).integers(2**31)))
        trial = study.ask()
        config = {
            "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True),
            "width": trial.suggest_int("width", 16, 512, log=True),
            "depth": trial.suggest_int("depth", 1, 6),
            "act": trial.suggest_categorical("act", ("a", "b")),
        }
        seen = list(trade(config, 1).values())
        if ceiling is not None:
            trial.set_constraint("ms", (seen[1] - ceiling) / ceiling)
        study.tell(trial, seen[:many])
        out.append(config)
    return out


CASES = [*itertools.product(["TPESampler", "NSGAIISampler"], [None, 8.0], [1, 2]), ("GPSampler", 8.0, 2)]


@pytest.mark.parametrize(("name", "ceiling", "many"), CASES)
def test_optunas_samplers_propose_what_they_propose_alone(name, ceiling, many):
    import optuna

    more = {"NSGAIISampler": {"population_size": 6}, "GPSampler": {"n_startup_trials": 7}}.get(name, {})
    trials = 8 if name == "GPSampler" else 24

    def make(seed):
        return getattr(optuna.samplers, name)(seed=seed, **more)

    asked = {"minimize": ["val_error", "latency_ms"][:many], "max_epochs": 1, "budget": trials}
    asked |= {"constraints": {"latency_ms": f"<= {ceiling}"}} if ceiling else {}
    ours = [dict(t.config) for t in drive(Full(OptunaSampler(make, name)), **asked).history.trials]
    assert ours == alone(make, many, ceiling, trials)


def test_a_sampler_that_knows_no_constraints_sees_what_breaks_them_as_worse():
    import optuna

    seen: list[list[float]] = []

    class Watching(optuna.samplers.RandomSampler):
        def before_trial(self, study, trial):
            seen.append([t.value for t in study.trials if t.state.is_finished()])

    scheduler = Full(OptunaSampler(lambda seed: Watching(seed), "watching"))
    study = drive(scheduler, constraints={"latency_ms": "<= 8"}, max_epochs=1, budget="15 trials")
    rows = list(zip(seen[-1], study.history.trials))
    kept = [value for value, t in rows if not t.violation]
    broken = [(t.violation, value) for value, t in rows if t.violation]
    assert kept == [t.loss for _, t in rows if not t.violation]
    assert max(kept) < min(value for _, value in broken) < 1e6
    assert sorted(broken) == sorted(broken, key=lambda pair: pair[1])


def test_a_sampler_for_one_objective_says_so():
    import optuna

    class Single(optuna.samplers.RandomSampler):
        def infer_relative_search_space(self, study, trial):
            self._raise_error_if_multi_objective(study)
            return {}

    with pytest.raises(UserError, match=r"sampler 'mine' \(Single\) cannot do several objectives. TPESampler"):
        drive(Full(OptunaSampler(lambda seed: Single(seed), "mine")), minimize=["val_error", "latency_ms"])


@pytest.mark.parametrize("strategy", sorted(SINGLE))
def test_a_strategy_for_one_objective_says_so(strategy):
    pytest.importorskip(NEEDS[strategy][0])
    with pytest.raises(UserError, match=f"{strategy!r} cannot do several objectives .val_error, latency_ms.*'nsga2'"):
        drive(strategy, minimize=["val_error", "latency_ms"])
    inner = STRATEGIES[strategy]().searcher  # by itself, with any scheduler
    with pytest.raises(UserError, match=r"cannot do several objectives\. TPESampler"):
        drive(ASHA(inner), minimize=["val_error", "latency_ms"])


# -- models and rules that do arithmetic with losses -------------------------------------------------------------------


@settings(max_examples=100)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.sampled_from([0.0, 0.0, 0.1, 0.5])), min_size=1, max_size=20))
def test_losses_for_arithmetic_keep_their_order_and_their_size(pairs):
    seen = goals.sized([goals.penalized(loss, v) for loss, v in pairs])
    kept = [loss for loss, v in pairs if v == 0]
    assert [x for x, (_, v) in zip(seen, pairs) if v == 0] == kept
    worst, span = max(kept, default=0.0), max(kept, default=0.0) - min(kept, default=0.0) or 1.0
    assert [x for x, (_, v) in zip(seen, pairs) if v] == pytest.approx(
        [worst + v / (1 + v) * span for _, v in pairs if v]
    )


@pytest.mark.parametrize("strategy", ["pibo", "freeze_thaw", "bohb"])
def test_models_learn_where_the_constraints_are_kept(strategy):
    study = drive(strategy, constraints={"latency_ms": "<= 8"}, budget="40 trials", max_epochs=3)
    trials = list(study.history.trained())
    inside = [t.violation == 0 for t in trials]
    assert np.mean(inside[len(inside) // 2 :]) > 1.5 * np.mean(
        [trade(TRADE.from_unit(u), 1)["latency_ms"] <= 8 for u in np.random.default_rng(0).random((500, 4)).tolist()]
    )


def ended_by_the_median(rows: list[dict[str, float]], **asked: Any) -> set[int]:
    scheduler = Median(Numbers(), grace=1)
    space = lt.Space(number=lt.Choice(*range(len(rows))))
    asked = {"minimize": "loss", "max_epochs": 3, **asked}
    study = drive(scheduler, lambda c, e: rows[c["number"]], space, budget=len(rows), **asked)
    return {t.id for t in study.history.trials if t.stop_why}


def test_the_median_rule_knows_the_goals():
    rows = [{"loss": 1.0, "ms": 9.0}] * 3 + [{"loss": 2.0, "ms": 5.0}, {"loss": 2.0, "ms": 9.5}]
    assert ended_by_the_median(rows) == {3, 4}
    assert ended_by_the_median(rows, minimize=["loss", "ms"]) == {4}  # the other is the fastest
    assert ended_by_the_median(rows, constraints={"ms": "<= 6"}) == {4}  # the only one within the bounds goes on
    late = [*rows[:3], {"loss": 0.5, "ms": 9.5}]
    assert ended_by_the_median(late) == set()
    assert ended_by_the_median(late, constraints={"ms": "<= 9"}) == {3}  # the best, and out of bounds


# -- the log -----------------------------------------------------------------------------------------------------------


def test_a_killed_study_goes_on_with_all_its_goals(tmp_path):
    asked = {"minimize": ["val_error", "latency_ms"], "constraints": {"latency_ms": "<= 30"}, "budget": "10 trials"}
    whole = drive("asha", storage=tmp_path / "a.db", **asked)
    drive("asha", storage=tmp_path / "b.db", stop_at=9, **asked)
    resumed = drive("asha", storage=tmp_path / "b.db", **asked)
    assert [plain(p.to_dict()) for p in resumed.pareto] == [plain(p.to_dict()) for p in whole.pareto]
    assert [dict(t.config) for t in resumed.history.trials] == [dict(t.config) for t in whole.history.trials]
    with pytest.raises(UserError, match="another goal"):
        drive("asha", storage=tmp_path / "b.db", **{**asked, "constraints": {"latency_ms": "<= 31"}})
    with pytest.raises(UserError, match="another goal"):
        drive("asha", storage=tmp_path / "b.db", **{**asked, "minimize": ["val_error"]})


def test_logs_without_goals_are_read_as_they_were():
    study = drive("random", budget="2 trials").history.study
    data = study.to_dict()
    assert data.pop("also") == data.pop("constraints") == []
    assert Study.from_dict(data) == study
    asked = drive("random", budget="2 trials", maximize="acc", constraints={"acc": ">= 0.5"}, stop_at=0).history.study
    assert Study.from_dict(json.loads(json.dumps(encode_study(asked)))) == asked


def encode_study(study: Study) -> dict[str, Any]:
    from luthier.core.events import Created

    return encode(Created(study))[1]["study"]


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"minimize": []}, "No metric was given"),
        ({"minimize": None, "metric": "val_loss", "maximize": "acc"}, "Both metric= and a direction"),
        ({"maximize": "val_error"}, "'val_error' is both minimized and maximized. Keep one"),
        ({"minimize": ["a", "a"]}, "minimize= names 'a' twice"),
        ({"minimize": ["a", 3]}, r"minimize= must name a metric or several, got \['a', 3\]"),
        ({"constraints": {"ms": 20}}, "'ms' is 20, which says no direction. Write constraints={'ms': \"<= 20\"}"),
        ({"constraints": {"ms": "about 20"}}, "'about 20' on 'ms' cannot be read"),
        ({"constraints": {"ms": "< 20"}}, "'< 20' on 'ms' cannot be read"),
        ({"constraints": {"ms": "<= fast"}}, "bound 'fast' on 'ms' is no number"),
        ({"constraints": {"ms": "<= nan"}}, "bound 'nan' on 'ms' is not finite"),
        ({"constraints": {"": "<= 1"}}, "must be a non-empty string"),
        ({"constraints": "ms <= 20"}, "constraints= got 'ms <= 20'"),
        ({"constraints": ["ms"]}, "The constraint 'ms' cannot be read"),
        ({"constraints": [5]}, "The constraint 5 cannot be read"),
        ({"constraints": [("ms", "<= 20")]}, "The constraint .'ms', '<= 20'. cannot be read"),
        ({"constraints": ["ms <= 20", "ms <= 30"]}, "two bounds of one kind"),
        ({"constraints": ["ms >= 30", "ms <= 20"]}, "No value of 'ms' keeps both ms <= 20 and ms >= 30"),
    ],
)
def test_nonsense_is_refused(asked, problem):
    with pytest.raises(UserError, match=problem.replace("(", r"\(").replace("{", r"\{")):
        lt.AskTell(TRADE, **{"minimize": "val_error", "strategy": "random", **asked})


@pytest.mark.parametrize("asked", [{"constraints": {"latency": "<= 8"}}, {"minimize": ["val_error", "latency"]}])
def test_a_metric_that_is_never_reported_is_an_error_and_leaves_nothing(asked, tmp_path):
    def train(trial):
        for epoch in trial.epochs():
            trial.report(trade(trial.config, epoch))

    asked = {"minimize": "val_error", **asked}
    with pytest.raises(UserError, match=r"'latency' was never reported.*Did you mean 'latency_ms'"):
        lt.tune(
            train, TRADE, **asked, strategy="random", workers=0, quiet=True, storage=tmp_path / "s.db", max_epochs=2
        )
    assert store.study_names(store.locate(tmp_path / "s.db")) == []


def test_a_single_trial_that_does_not_report_a_constraint_fails():
    study = drive("random", lambda c, e: {"val_error": 1.0} if c["depth"] == 3 else trade(c, e),
                  constraints={"latency_ms": "<= 8"}, budget="12 trials", seed=1)  # fmt: skip
    silent = [t for t in study.history.trials if t.failure is not None]
    assert {t.config["depth"] for t in silent} == {3}
    assert silent[0].failure.kind == "silent"
    assert "'latency_ms'" in silent[0].failure.reason


def test_a_constraint_that_is_no_number_fails_the_trial():
    study = drive("random", lambda c, e: {**trade(c, e), "latency_ms": math.nan if c["act"] == "a" else 1.0},
                  constraints={"latency_ms": "<= 8"}, budget="8 trials")  # fmt: skip
    assert {t.failure.kind for t in study.history.trials if t.failure} == {"nonfinite"}
    assert study.best_config["act"] == "b"


# -- the front doors ---------------------------------------------------------------------------------------------------

JOB = '''
import numpy as np

import luthier as lt


def blobs(seed, n=300):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    return x, (x[:, 0] * x[:, 1] > 0).astype(float)


def train(trial):
    """Logistic regression on random features: more of them tell the quadrants apart better."""
    rng, (x, y), (vx, vy) = np.random.default_rng(trial.seed), blobs(0), blobs(1)
    a, b = rng.normal(size=(2, trial.config["width"])) * 2, rng.uniform(0, 6.3, trial.config["width"])
    f, vf, w = np.cos(x @ a + b), np.cos(vx @ a + b), np.zeros(trial.config["width"])
    for epoch in trial.epochs():
        for _ in range(20):
            w -= trial.config["learning_rate"] * f.T @ (1 / (1 + np.exp(-f @ w)) - y) / len(y)
        trial.report(val_accuracy=float(np.mean((vf @ w > 0) == vy)), params=float(len(w)))


space = lt.Space(learning_rate=lt.Float(0.01, 10.0, log=True), width=lt.Int(2, 200, log=True))
'''


def luthier(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "luthier.cli", *words], cwd=cwd, capture_output=True, text=True)


def test_a_real_training_traded_against_its_size(tmp_path):
    scope: dict[str, Any] = {}
    exec(JOB, scope)
    asked = {"maximize": "val_accuracy", "minimize": "params", "constraints": {"params": "<= 100"}}
    how = {"max_epochs": 9, "budget": "20 trials", "strategy": "asha", "workers": 0, "quiet": True}
    result = lt.tune(scope["train"], scope["space"], **asked, **how)
    sizes = [p.scores["params"] for p in result.pareto]
    assert result.feasible is True
    assert len(sizes) > 3
    assert sizes == sorted(sizes, reverse=True)  # the best first, and each further one is smaller
    assert max(sizes) <= 100
    assert result.best_score == result.pareto[0].scores["val_accuracy"] > 0.8
    assert result.hypervolume({"val_accuracy": 0.5, "params": 100}) > 0


def test_from_the_terminal(tmp_path):
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "space.yaml").write_text(
        "learning_rate: {type: float, low: 0.01, high: 10.0, log: true}\n"
        "width: {type: int, low: 2, high: 200, log: true}\n"
    )
    goal = ["--maximize", "val_accuracy", "--minimize", "params", "--constraint", "params <= 100"]
    how = ["--max-epochs", "3", "--strategy", "nsga2", "--storage", "s.db"]
    asked = ["tune", "job.py:train", "--space", "space.yaml", *goal, *how]
    done = luthier(*asked, "--budget", "6 trials", "--json", "--workers", "0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["feasible"] is True
    assert found["pareto"][0]["scores"]["val_accuracy"] == found["best_score"]
    assert found["values"] == found["pareto"][0]["scores"]
    assert "maximize val_accuracy and minimize params, with params <= 100" in done.stderr
    more = luthier("resume", "s.db", "--budget", "8 trials", "--workers", "0", "--quiet", cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    told = luthier("show", "s.db", cwd=tmp_path).stdout
    assert "Pareto front (" in told
    assert "8 trials" in told
    page = (tmp_path / "s.report.html").read_text()
    assert "The Pareto front" in page


def test_the_report_draws_the_front_and_marks_what_is_infeasible():
    study = drive("random", minimize=["val_error", "latency_ms"], constraints={"latency_ms": "<= 8"})
    (figure,) = FIGURES["pareto"](study.history)
    drawn = {i for t in figure["data"] if t["mode"] == "markers" and t["marker"]["size"] != 6 for i in t["customdata"]}
    assert {p.trial for p in study.pareto} <= drawn
    edge = next(t for t in figure["data"] if t["mode"] == "lines")
    assert len(edge["x"]) == len(study.pareto)
    page = render_report(study.history)
    assert page.count("done, infeasible") == sum(t.violation > 0 for t in study.history.trained()) > 0
    assert "met</dd>" in page
    assert FIGURES["pareto"](drive("random", budget="2 trials").history) == []
    assert "The Pareto front" not in render_report(drive("random", budget="2 trials").history)
