"""Simulated studies: the clock, the stragglers, the failures, and that nothing else differs from a real study."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import EVERY, bowl, drive, log_of

import luthier as lt
from luthier.contracts import Start
from luthier.core import events as ev
from luthier.core.errors import RunError, UserError
from luthier.core.events import encode
from luthier.run.decisions import replay
from luthier.strategies import build


def curve(config, epoch, seed):
    return {"val_loss": bowl(config, epoch)}


def simulate(space, **changes) -> lt.SimulatedResult:
    given = {"minimize": "val_loss", "max_epochs": 9, "budget": "12 trials", "strategy": "random"}
    return lt.simulate(curve, space, **{**given, **changes})


def decisions(log) -> list:
    return [encode(e.event) for e in log if isinstance(e.event, ev.Decision)]


# -- the same as elsewhere -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", EVERY)
def test_one_worker_decides_as_ask_and_tell_does(space, strategy):
    simulated = simulate(space, strategy=strategy)
    told = drive(space, strategy)
    assert decisions(simulated.log) == decisions(log_of(told))
    assert [t.metrics for t in simulated.trials()] == [t.metrics for t in told.history.trained()]
    assert (simulated.best_config, simulated.best_score) == (told.best_config, told.best_score)


@pytest.mark.parametrize("strategy", ["random", "asha", "hyperband"])
def test_the_seed_fixes_everything_and_the_log_can_be_replayed(space, strategy):
    given = {"strategy": strategy, "workers": 8, "stragglers": 0.25, "failures": 0.2, "budget": "30 trials"}
    first, again, other = (simulate(space, seed=seed, **given) for seed in (1, 1, 2))
    assert first.log == again.log
    assert first.spans == again.spans
    assert first.spans != other.spans
    assert replay(first.log, build(strategy)) == first.history.decisions


def test_constraints_and_several_objectives_are_simulated_too(space):
    def told(config, epoch, seed):
        return {"val_loss": bowl(config, epoch), "width": config["width"]}

    given = {"minimize": ["val_loss", "width"], "constraints": {"width": "<= 60"}, "budget": "20 trials"}
    result = lt.simulate(told, space, strategy="asha", max_epochs=9, workers=4, **given)
    assert len(result.pareto) > 1
    assert all(p.scores["width"] <= 60 for p in result.pareto)
    first = next(m for m in result.incumbents if m.feasible)
    assert not any(m.feasible for m in result.incumbents[: result.incumbents.index(first)])
    assert result.incumbents[-1].score == result.best_score
    assert result.seconds_to(first.score) == first.seconds


# -- time ------------------------------------------------------------------------------------------------------------


def test_the_clock_counts_epochs_of_workers_side_by_side(space):
    alone = simulate(space, budget="4 trials", seconds_per_epoch=10.0)
    assert alone.seconds == alone.history.elapsed == 4 * 9 * 10.0
    assert alone.busy == 1.0
    four = simulate(space, budget="4 trials", workers=4, seconds_per_epoch=10.0)
    assert four.seconds == 90.0
    assert four.busy == 1.0
    assert {t.metrics["val_loss"] for t in four.trials()} == {t.metrics["val_loss"] for t in alone.trials()}
    assert {r.seconds for t in four.trials() for r in t.reports} == {10.0}


def test_workers_without_work_are_idle(space):
    result = simulate(space, budget="4 trials", workers=8)
    assert result.busy == 0.5
    uneven = simulate(space, budget="5 trials", workers=4)  # one of four goes on alone
    assert (uneven.seconds, uneven.busy, uneven.busy_until(9.0)) == (18.0, 5 / 8, 1.0)


def test_an_epoch_may_take_as_long_as_its_configuration_wants(space):
    result = simulate(space, budget="6 trials", seconds_per_epoch=lambda config: 2.0 * config["depth"])
    for span in result.spans:
        assert span.ended - span.began == 9 * 2.0 * result.history.trials[span.trial].config["depth"]


def test_a_budget_of_time_counts_simulated_seconds(space):
    result = simulate(space, budget="2h", workers=3, seconds_per_epoch=100.0)
    assert len(result.history.trials) == 3 * 8  # of 900 s each
    assert result.seconds == 7200.0
    # A slow trial is ended when the time is up: by the mean pace it would have fitted.
    slow = simulate(space, budget="1000 s", workers=2, stragglers=0.5, slowdown=4.0, seconds_per_epoch=30.0)
    stopped = [t for t in slow.trials() if t.stop_why]
    assert [t.stop_why.startswith("the time is up") for t in stopped] == [True]
    assert 1000.0 <= slow.seconds <= 1120.0
    assert [s.outcome for s in slow.spans].count("stopped") == 1


def test_incumbents_come_in_the_order_of_simulated_time(space):
    result = simulate(space, strategy="asha", budget="40 trials", workers=5)
    at = [(m.seconds, m.epochs) for m in result.incumbents]
    assert at == sorted(at)
    scores = [m.score for m in result.incumbents]
    assert scores == sorted(scores, reverse=True)
    last = result.incumbents[-1]
    assert (last.score, last.trial) == (result.best_score, result.history.incumbent.id)
    assert result.score_at(0.5) is None
    assert result.score_at(result.seconds) == last.score
    second = result.incumbents[1]
    assert result.seconds_to(second.score) == second.seconds
    assert result.seconds_to(second.score + 1e-9) == second.seconds
    assert result.seconds_to(-100.0) is None
    assert result.score_at(second.seconds - 1e-9) == result.incumbents[0].score


# -- stragglers and failures -----------------------------------------------------------------------------------------


def test_stragglers_are_slow_by_the_factor_and_as_many_as_asked_for(space):
    result = simulate(space, budget="400 trials", workers=20, stragglers=0.1, slowdown=5.0)
    took = {s.worker: (s.ended - s.began) / 9 for s in result.spans}
    assert sorted(took.values()) == pytest.approx([1.0] * 18 + [5.0] * 2)


def test_asynchronous_halving_keeps_workers_busy_where_a_barrier_would_not(space):
    class Barrier:
        """Waves of ten: the next begins when the last of the one before has ended."""

        def propose(self, history, rng):
            if history.running and len(history.trials) % 10 == 0:
                return lt.Wait("for the wave")
            return Start(history.space.sample(rng), until=9, why="a wave")

        def judge(self, history, trial):
            return None

    given = {"workers": 10, "stragglers": 0.1, "slowdown": 10.0, "budget": "200 trials"}
    asha = simulate(space, strategy="asha", **given)
    waves = simulate(space, strategy=Barrier(), **given)
    handed_out = max(s.began for s in asha.spans)
    assert asha.busy_until(handed_out) > 0.95
    assert waves.busy < 0.3  # nine of ten wait for the slow one
    assert asha.seconds < waves.seconds / 3


def test_killed_jobs_are_tried_again_and_then_recorded(space):
    result = simulate(space, budget="300 trials", strategy="asha", workers=10, failures=0.3)
    killed = [s for s in result.spans if s.outcome == "killed"]
    assert 0.2 < len(killed) / len(result.spans) < 0.4
    assert len({round(s.ended - s.began, 6) for s in killed}) > 0.9 * len(
        killed
    )  # at any moment, not at an epoch's end
    requeued = [e.event for e in result.log if isinstance(e.event, ev.Requeued)]
    failed = [t for t in result.trials() if t.failure is not None]
    assert len(requeued) + len(failed) == len(killed)
    assert {t.failure.kind for t in failed} == {"killed"}
    assert {t.attempts for t in failed} == {3}
    assert any(t.attempts > 1 and t.full for t in result.trials())
    assert result.history.running == ()


def test_a_job_that_was_killed_goes_on_from_its_checkpoint(space):
    result = simulate(space, budget="60 trials", strategy="asha", failures=0.3, workers=1)
    by_trial: dict[int, list] = {}
    for span in result.spans:
        by_trial.setdefault(span.trial, []).append(span)
    resumed = [spans for spans in by_trial.values() if [s.outcome for s in spans[:3]] == ["ended", "killed", "ended"]]
    assert resumed
    for first, _, again in (spans[:3] for spans in resumed):
        assert first.ended - first.began == pytest.approx(1.0)
        assert again.ended - again.began == pytest.approx(2.0)  # epochs 2 and 3, the first not again


def test_a_study_in_which_every_job_dies_says_so(space):
    with pytest.raises(RunError, match=r"first 3 trials all failed.*was killed in epoch 1"):
        simulate(space, failures=1.0, max_epochs=1)


def test_curves_that_explode_or_raise_are_data(space):
    def explodes(config, epoch, seed):
        if config["depth"] == 4:
            raise ValueError("too deep")
        return math.nan if config["depth"] == 3 and epoch > 2 else bowl(config, epoch)

    result = lt.simulate(explodes, space, minimize="val_loss", max_epochs=9, budget="30 trials", strategy="random")
    kinds = {t.config["depth"]: t.failure.kind if t.failure else None for t in result.trials()}
    assert kinds == {1: None, 2: None, 3: "nonfinite", 4: "raised"}
    assert "ValueError: too deep" in {t.failure.reason for t in result.trials() if t.failure}
    assert {s.ended - s.began for s in result.spans if s.outcome == "stopped"} == {3.0}


# -- tables ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def table() -> lt.Table:
    space = lt.Space(learning_rate=lt.Float(1e-4, 1e-1, log=True), optimizer=lt.Choice("a", "b", "c"))
    rows = [{"learning_rate": r, "optimizer": o} for o in ("a", "b") for r in (1e-4, 1e-3, 1e-2, 1e-1)]
    curves = np.arange(8)[:, None] + 1.0 / np.arange(1, 6)
    return lt.Table(space, rows, {"val_loss": curves, "val_accuracy": -curves})


def test_a_table_answers_with_the_nearest_row_on_its_scales(table):
    assert table({"learning_rate": 1e-3, "optimizer": "a"}, 1) == {"val_loss": 2.0, "val_accuracy": -2.0}
    assert table({"learning_rate": 2.9e-3, "optimizer": "a"}, 5)["val_loss"] == 1.2  # nearest on the log scale
    assert table({"learning_rate": 3.2e-3, "optimizer": "a"}, 5)["val_loss"] == 2.2
    assert table({"learning_rate": 3.2e-3, "optimizer": "b"}, 5)["val_loss"] == 6.2
    # A choice that no row has is equally far from all: "b" is no nearer to "c" than "a" is.
    assert table({"learning_rate": 1e-1, "optimizer": "c"}, 1)["val_loss"] == 4.0
    assert table({"learning_rate": 5.0, "optimizer": "a"}, 1)["val_loss"] == 4.0  # beyond the edge


def test_a_table_brings_its_space_and_its_length(table):
    result = lt.simulate(table, minimize="val_loss", budget="20 trials", strategy="random", workers=4)
    assert result.history.study.max_epochs == 5
    assert result.best_config["optimizer"] in ("a", "c")
    assert result.best_score == 0.2
    wider = table.space.replace(dropout=lt.Float(0.0, 0.5))
    with pytest.raises(UserError, match="does not know the hyperparameter 'dropout'"):
        lt.simulate(table, wider, minimize="val_loss", budget="2 trials", strategy="random")
    with pytest.raises(UserError, match="epochs 1 to 5, epoch 6 was asked for"):
        lt.simulate(table, minimize="val_loss", max_epochs=9, budget="2 trials", strategy="random")


def test_a_taskset_file_is_read(tmp_path):
    rng = np.random.default_rng(0)
    configs = np.stack([10 ** rng.uniform(-4, -1, 30), rng.uniform(-1, 1, 30)], axis=1)
    train, valid = rng.random((2, 30, 8)).astype(np.float32)
    valid[3, 5:] = np.nan
    path = tmp_path / "tasks.npz"
    np.savez(
        path,
        hyperparameters=np.array(["learning_rate", "shift"]),
        **{"one.config": configs, "one.train": train, "one.valid": valid},
    )
    table = lt.Table.taskset(path)
    assert (len(table), table.epochs) == (30, 7)  # the evaluation before training is left out
    assert table.space["learning_rate"] == lt.Float(configs[:, 0].min(), configs[:, 0].max(), log=True)
    assert not table.space["shift"].log
    row = {"learning_rate": configs[7, 0], "shift": configs[7, 1]}
    assert table(row, 1) == {"train_loss": train[7, 1], "val_loss": valid[7, 1]}
    assert math.isnan(table({"learning_rate": configs[3, 0], "shift": configs[3, 1]}, 5)["val_loss"])
    result = lt.simulate(table, minimize="val_loss", budget="20 trials", strategy="asha", workers=4)
    assert result.best_score < 0.2
    with pytest.raises(UserError, match=r"no 'two.config'"):
        lt.Table.taskset(path, "two")
    with pytest.raises(UserError, match=r"cannot be read"):
        lt.Table.taskset(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(UserError, match="is no TaskSet file: it holds x"):
        lt.Table.taskset(tmp_path / "other.npz")


def test_malformed_tables_are_refused(table):
    with pytest.raises(UserError, match="The table is empty"):
        lt.Table(table.space, [], {"val_loss": np.zeros((0, 3))})
    with pytest.raises(UserError, match=r"curves of 8 configurations have the shapes val_loss \(7, 3\)"):
        lt.Table(table.space, table.configs, {"val_loss": np.zeros((7, 3))})


# -- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"workers": 0}, "workers must be a whole number of at least 1, got 0"),
        ({"workers": 2.5}, "workers must be a whole number"),
        ({"stragglers": 1.5}, "stragglers must be a number from 0 to 1, got 1.5"),
        ({"failures": -0.1}, "failures must be a number from 0 to 1, got -0.1"),
        ({"failures": math.nan}, "failures must be a number from 0 to 1, got nan"),
        ({"slowdown": 0.5}, "slowdown must be a number from 1"),
        ({"seconds_per_epoch": 0.0}, "seconds_per_epoch must be a number above 0, got 0.0"),
        ({"seconds_per_epoch": lambda config: -1}, "seconds_per_epoch must be a number above 0, got -1 for {"),
        ({"minimize": None}, "No metric was given"),
        ({"strategy": "ahsa"}, "no strategy 'ahsa'"),
    ],
)
def test_mistakes_are_named(space, wrong, said):
    with pytest.raises(UserError, match=said):
        simulate(space, **wrong)


def test_curves_must_be_callable_and_need_a_space(space):
    with pytest.raises(UserError, match=r"got a list for curves"):
        lt.simulate([1.0], space, minimize="val_loss")
    with pytest.raises(UserError, match="No search space was given"):
        lt.simulate(curve, minimize="val_loss")
    with pytest.raises(UserError, match="metric 'val_los' was never reported"):
        simulate(space, minimize="val_los")
