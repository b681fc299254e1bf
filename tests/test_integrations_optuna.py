"""Optuna's objectives as they are, its studies as logs and back, Luthier's searchers as its samplers."""

from __future__ import annotations

import math
import warnings

import optuna
import pytest

import luthier as lt
from luthier import cli
from luthier.core.trial import Status
from luthier.integrations._optuna_space import find_space
from luthier.integrations.optuna import LuthierSampler, export_study, import_study, optimize

optuna.logging.set_verbosity(optuna.logging.ERROR)


def pruning(trial):
    """As Optuna's own documentation has it."""
    rate = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    optimizer = trial.suggest_categorical("optimizer", ["Adam", "SGD"])
    momentum = trial.suggest_float("momentum", 0.8, 0.99) if optimizer == "SGD" else 0.9
    layers = trial.suggest_int("n_layers", 1, 3)
    units = [trial.suggest_int(f"n_units_l{i}", 4, 128, log=True) for i in range(layers)]
    loss = math.inf
    for step in range(6):
        loss = abs(math.log10(rate) + 3) + abs(momentum - 0.9) + 0.01 * sum(units) / layers + 1 / (step + 1)
        trial.report(loss, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    trial.set_user_attr("units", sum(units))
    return loss


def best(trial):
    x = trial.suggest_float("x", -3, 3)
    return (x - 1) ** 2


# -- objectives --------------------------------------------------------------------------------------------------------


def test_the_space_is_found_with_its_conditions():
    found = find_space(pruning, count_reports=True)
    assert found.space == lt.Space(
        lr=lt.Float(1e-5, 1e-1, log=True),
        optimizer=lt.Choice("Adam", "SGD"),
        n_layers=lt.Int(1, 3),
        n_units_l0=lt.Int(4, 128, log=True),
        momentum=lt.Float(0.8, 0.99, when={"optimizer": "SGD"}),
        n_units_l1=lt.Int(4, 128, log=True, when={"n_layers": [2, 3]}),
        n_units_l2=lt.Int(4, 128, log=True, when={"n_layers": 3}),
    )
    assert found.reports == 6
    assert found.runs == 4  # as it comes, SGD, two layers, three layers


def test_conditions_nest():
    def objective(trial):
        if trial.suggest_categorical("kind", ["svm", "forest", "net"]) == "svm":
            if trial.suggest_categorical("kernel", ["rbf", "poly"]) == "poly":
                trial.suggest_int("degree", 2, 5)
            trial.suggest_float("gamma", 0.1, 1.0)
        else:
            trial.suggest_int("size", 10, 100)

    space = find_space(objective).space
    assert space["kernel"].when == {"kind": ("svm",)}
    assert space["gamma"].when == {"kind": ("svm",)}
    assert set(space["degree"].when) >= {"kernel"}
    assert space["size"].when == {"kind": ("forest", "net")}
    import numpy as np

    for seed in range(60):  # every configuration has just what the objective asks for
        config = space.sample(np.random.default_rng(seed))
        trial = optuna.trial.FixedTrial(config)
        objective(trial)
        assert set(trial.params) == set(config)


@pytest.mark.parametrize("strategy", ["asha", "tpe", "playbook", "expert", "median"])
def test_an_objective_runs_unchanged_under_every_kind_of_strategy(strategy):
    result = optimize(pruning, 8, strategy=strategy, quiet=True, workers=0)
    assert not [t.failure for t in result.trials() if t.failure]
    assert result.history.study.max_epochs == 6
    longest = max(result.trials(), key=lambda t: t.epoch)
    assert longest.epoch == 6
    if strategy == "asha":
        assert Status.PAUSED in {t.status for t in result.trials()}
    trial = optuna.trial.FixedTrial(result.best_config)
    assert pruning(trial) == pytest.approx(result.best_score)


def test_what_the_objective_returns_counts_and_not_its_last_report():
    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        for step in range(3):
            trial.report(5.0, step)
        return x

    result = optimize(objective, 3, strategy="random", quiet=True, workers=0)
    assert [r.metrics["value"] for r in result.trials()[0].reports][:2] == [5.0, 5.0]
    assert result.best_score == result.best_config["x"]


def test_numbers_among_the_user_attributes_are_metrics():
    result = optimize(pruning, 2, strategy="random", quiet=True, workers=0)
    trial = result.trials()[0]
    assert trial.metrics["units"] == sum(v for k, v in trial.config.items() if k.startswith("n_units"))


def test_steps_stay_on_their_grid():
    def objective(trial):
        rate = trial.suggest_float("rate", 0.0, 1.0, step=0.25)
        width = trial.suggest_int("width", 32, 1024, step=32)
        fine = trial.suggest_float("fine", 0.0, 1.0, step=0.001)
        assert rate * 4 == int(rate * 4)
        assert width % 32 == 0
        assert round(fine * 1000) == pytest.approx(fine * 1000)
        return rate + fine

    result = optimize(objective, 6, strategy="random", quiet=True, workers=0)
    assert not [t.failure for t in result.trials() if t.failure]
    assert isinstance(result.history.space["width"], lt.Choice)
    assert isinstance(result.history.space["fine"], lt.Float)


def test_several_objectives():
    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        return x, 1 - x

    result = optimize(objective, 6, directions=["minimize", "minimize"], strategy="nsga2", quiet=True, workers=0)
    assert len(result.pareto) == 6


def test_an_optuna_objective_trains_in_worker_processes(tmp_path):
    result = optimize(pruning, 4, strategy="asha", storage=tmp_path / "s.db", quiet=True, workers=2)
    assert not [t.failure for t in result.trials() if t.failure]


def test_a_space_of_ones_own_saves_the_probes():
    runs = []

    def objective(trial):
        runs.append(1)
        return best(trial)

    optimize(objective, 3, space=lt.Space(x=lt.Float(-3, 3)), strategy="random", quiet=True, workers=0)
    assert len(runs) == 3
    optimize(
        objective, 3, space=lambda trial: trial.suggest_float("x", -3, 3), strategy="random", quiet=True, workers=0
    )
    assert len(runs) == 6


def dynamic(trial):
    low = trial.suggest_int("low", 1, 3)
    return trial.suggest_int("high", low, 10)


def tangled(trial):
    if trial.suggest_float("x", 0, 1) > 0.5:
        return trial.suggest_float("y", 0, 1)
    return 1.0


@pytest.mark.parametrize(
    ("objective", "said"),
    [(dynamic, "range of 'high' depends on other values"), (lambda trial: 1.0, "asks for no hyperparameter")],
)
def test_a_space_that_cannot_be_expressed_is_refused(objective, said):
    with pytest.raises(lt.UserError, match=f"{said}.*Pass space="):
        optimize(objective, 3, strategy="random", quiet=True, workers=0)


def test_what_the_probes_did_not_find_fails_its_trial_with_the_reason():
    result = optimize(tangled, 8, strategy="random", quiet=True, workers=0)
    failed = [t for t in result.trials() if t.failure]
    assert 0 < len(failed) < len(result.trials())
    assert "asks for 'y', which is not in this configuration" in failed[0].failure.reason


# -- studies -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def study():
    made = optuna.create_study(
        study_name="theirs", sampler=optuna.samplers.RandomSampler(seed=3), pruner=optuna.pruners.MedianPruner(4, 2)
    )

    def objective(trial):
        if trial.number == 2:
            raise ValueError("a shape")
        return pruning(trial)

    made.optimize(objective, n_trials=40, catch=ValueError)
    return made


def test_a_study_becomes_a_log(study, tmp_path):
    place = tmp_path / "imported.db"
    result = import_study(study, place)
    assert result.best_score == study.best_value
    assert result.best_config == study.best_params
    states = {"COMPLETE": Status.DONE, "PRUNED": Status.STOPPED, "FAIL": Status.FAILED}
    assert [t.status for t in result.trials()] == [states[t.state.name] for t in study.trials]
    assert (
        result.trials()[2].failure.reason.endswith("a shape") or "failed in Optuna" in result.trials()[2].failure.reason
    )
    assert len({t.status for t in result.trials()}) == 3
    space = result.history.space
    assert space["momentum"].when == {"optimizer": ("SGD",)}
    assert space["n_units_l1"].when is not None
    result.report(tmp_path / "report.html")
    with pytest.raises(lt.UserError, match="already holds a study 'theirs'"):
        import_study(study, place)


def test_steps_that_round_and_values_enqueued_out_of_range_do_not_stand_in_the_way(tmp_path, capsys):
    def stepped(trial):
        return trial.suggest_float("x", 0, 1, step=0.1) + trial.suggest_float("y", -0.3, 0.3, step=0.1)

    url = f"sqlite:///{tmp_path}/theirs.db"
    made = optuna.create_study(
        study_name="steps", storage=url, sampler=optuna.samplers.RandomSampler(seed=0), direction="minimize"
    )
    made.enqueue_trial({"x": 99.0, "y": 0.1})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's own
        made.optimize(stepped, n_trials=40)
    assert any(t.params["x"] == 0.30000000000000004 for t in made.trials)
    with pytest.warns(UserWarning, match=r"Optuna's trial 0 does not lie in the space: x: 99.0 .* It is left out"):
        result = import_study(made, tmp_path / "ours.db")
    assert len(result.trials()) == 39
    assert {t.config["x"] for t in result.trials()} <= {i / 10 for i in range(11)}
    assert result.best_score == pytest.approx(made.best_value)
    with pytest.raises(lt.UserError, match=r"trial 0 does not lie in the space: x: 99.0"):
        import_study(made, tmp_path / "own.db", space=result.history.space)
    cli.app(["import", url, str(tmp_path / "cli.db")], standalone_mode=False)
    assert "39 trials" in (told := capsys.readouterr().out)
    assert "x: 99.0 is none of" in told
    sampled = optuna.create_study(sampler=LuthierSampler("pibo", seed=0))
    sampled.optimize(stepped, n_trials=8)
    assert len(sampled.trials) == 8


def test_an_imported_study_is_a_warm_start_and_can_go_on(study, tmp_path):
    place = tmp_path / "imported.db"
    imported = import_study(study, place)
    space = imported.history.space
    warm = optimize(pruning, 3, space=space, max_epochs=6, strategy="expert", warm_start=[place], quiet=True, workers=0)
    first = [t.config for t in warm.trials()][:4]
    assert study.best_params in first
    more = optimize(
        pruning, 60, space=space, max_epochs=6, strategy="expert", storage=place, name="theirs", quiet=True, workers=0
    )
    assert len(more.trials()) > 40
    assert more.best_score <= study.best_value


def test_a_log_becomes_a_study():
    result = optimize(pruning, 6, strategy="asha", quiet=True, workers=0)
    storage = optuna.storages.InMemoryStorage()
    exported = export_study(result, storage=storage)
    again = optuna.load_study(study_name="pruning", storage=storage)
    assert len(again.trials) == len(exported.trials) == len(result.trials())
    assert again.best_value == result.best_score
    assert again.best_params == result.best_config
    assert {t.state.name for t in again.trials} == {"COMPLETE", "PRUNED"}
    for ours, theirs in zip(result.trials(), again.trials):
        assert theirs.params == ours.config
        assert theirs.intermediate_values == dict(ours.curve("value"))
        assert theirs.user_attrs["why"] == ours.why
    assert again.metric_names == ["value"]


def test_what_leaves_its_range_and_what_is_constant_is_exported(tmp_path):
    def train(trial):
        if trial.id == 1:
            raise ValueError("no")
        trial.report(val_loss=trial.config["learning_rate"])

    space = lt.Space(
        learning_rate=lt.coupled(lt.Float(1e-4, 1e-2, log=True), "batch_size"),
        batch_size=lt.Int(16, 512, log=True),
        kind=lt.Constant("a"),
    )
    result = lt.tune(train, space, minimize="val_loss", max_epochs=1, budget="8 trials", strategy="random", workers=0,
                     quiet=True, storage=tmp_path / "s.db")  # fmt: skip
    study = export_study(tmp_path / "s.db")
    assert [t.params for t in study.trials] == [t.config for t in result.trials()]
    assert study.trials[1].user_attrs["failure"] == "raised: ValueError: no"


# -- samplers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("searcher", ["pibo", "sobol", "bohb", "priorband", "random"])
def test_a_searcher_samples_for_optuna(searcher):
    def run():
        study = optuna.create_study(sampler=LuthierSampler(searcher, seed=1))
        study.optimize(pruning, n_trials=12)
        return study

    study = run()
    assert [t.params for t in study.trials] == [t.params for t in run().trials]  # fixed by the seed
    assert len({t.params["lr"] for t in study.trials}) > 9


def test_a_space_is_known_from_the_first_trial_on():
    space = find_space(pruning).space
    study = optuna.create_study(sampler=LuthierSampler("sobol", space=space))
    study.optimize(pruning, n_trials=8)
    ours = optimize(pruning, 8, space=space, max_epochs=6, strategy="sobol", quiet=True, workers=0)
    lows = [t.params["lr"] for t in study.trials]
    assert lows == pytest.approx([t.config["lr"] for t in ours.trials()])


def test_a_finished_grid_stops_the_study():
    study = optuna.create_study(sampler=LuthierSampler("grid", space=lt.Space(a=lt.Choice(1, 2), b=lt.Choice(1, 2))))
    study.optimize(lambda t: t.suggest_categorical("a", [1, 2]) + t.suggest_categorical("b", [1, 2]), n_trials=20)
    assert len(study.trials) <= 5


def test_a_strategy_without_a_searcher_is_refused():
    with pytest.raises(lt.UserError, match=r"no searcher of its own.*pibo"):
        LuthierSampler("playbook")
