"""Searchers one by one: what Optuna alone would propose, BOHB's model, piBO's prior, configurations as numbers."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np
import pytest
from conftest import drive, log_of

import luthier as lt
from luthier.core.encode import Encoder
from luthier.core.errors import UserError
from luthier.core.history import History
from luthier.core.rows import Rows
from luthier.core.study import Budget, Objective, Study
from luthier.core.trial import Failure, Report, Status, TrialRecord
from luthier.run.decisions import replay
from luthier.schedule.full import Full
from luthier.search import optuna_sampler
from luthier.search.bohb import BOHB, Density, largest_rung, split
from luthier.search.optuna_sampler import OptunaSampler
from luthier.search.pibo import PiBO, exponent
from luthier.strategies import build, check_strategy

FLAT = lt.Space(
    learning_rate=lt.Float(1e-5, 1e-1, log=True),
    depth=lt.Int(1, 8),
    dropout=lt.Float(0.0, 0.5),
    act=lt.Choice("relu", "gelu", "tanh"),
)


def loss(config, epoch=1) -> float:
    return abs(math.log10(config["learning_rate"]) + 3) + 0.1 * config["depth"] + config.get("dropout", 0.0) ** 2


def random(seed: int):
    import optuna

    return optuna.samplers.RandomSampler(seed=seed)


def trial(i: int, config, losses, *, until: int | None = None, status=Status.PAUSED, **more) -> TrialRecord:
    """A literal trial that reported ``losses``, one an epoch."""
    reports = tuple(Report(e, {"val_loss": y}) for e, y in enumerate(losses, start=1))
    best = min(losses, default=None)
    end = len(losses) if until is None else until
    return TrialRecord(i, config, i, 27, end, status=status, reports=reports, loss=best, **more)


def history_of(space, trials, budget=None) -> History:
    study = Study("s", space, Objective("val_loss", True), 27, budget or Budget())
    return History(study=study, trials=Rows(trials), decisions=len(trials))


# -- Optuna's ----------------------------------------------------------------------------------------------------------


def cmaes_recall():
    pytest.importorskip("cmaes")
    from luthier.search.optuna_cmaes import recall

    return recall


@pytest.mark.parametrize(
    ("make", "trials"),
    [(random, 20), (optuna_sampler.tpe, 30), (optuna_sampler.cmaes, 40), (optuna_sampler.gp, 12)],
    ids=["random", "tpe", "cmaes", "gp"],
)
def test_the_adapter_proposes_what_optuna_alone_proposes(make: Callable, trials: int):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    recall = cmaes_recall() if make is optuna_sampler.cmaes else None
    seeds = []

    class Noted:
        """The adapter, which notes the seed of each of its samplers."""

        name = "noted"

        def suggest(self, history, rng):
            def made(seed):
                seeds.append(seed)
                return make(seed)

            return OptunaSampler(made, "noted", recall).suggest(history, rng)

    study = drive(FLAT, Full(Noted()), loss, budget=f"{trials} trials", max_epochs=1)
    alone = optuna.create_study()
    assert len(study.history.trials) == trials
    for ours, seed in zip(study.history.trials, seeds):  # the last seed is the one that the budget refused
        alone.sampler = make(seed)
        theirs = alone.ask()
        config = optuna_sampler.suggest(theirs, FLAT)
        assert config == dict(ours.config)
        alone.tell(theirs, loss(config))


@pytest.mark.parametrize("strategy", ["gp", "cmaes"])
def test_conditions_are_kept_and_nothing_is_said_about_them(space, strategy, caplog):
    if strategy == "cmaes":
        cmaes_recall()
    import optuna

    optuna.logging.enable_propagation()
    try:
        with caplog.at_level(logging.DEBUG):
            study = drive(space, strategy, budget="13 trials", max_epochs=1, fail=lambda i: i == 3)
    finally:
        optuna.logging.disable_propagation()
    assert [r.message for r in caplog.records if r.name.startswith("optuna")] == []
    assert {t.config["optimizer"] for t in study.history.trials} == {"adamw", "sgd"}
    for t in study.history.trials:
        assert space.complete(t.config) == dict(t.config)


def test_cmaes_closes_in_although_its_state_is_worked_out_anew():
    recall = cmaes_recall()
    study = drive(FLAT, "cmaes", loss, budget="80 trials", max_epochs=1)
    off = [loss(t.config) for t in study.history.trials]
    assert np.mean(off[-20:]) < 0.5 * np.mean(off[:20])
    # From the log alone, with nothing kept:
    from luthier.search import optuna_cmaes

    optuna_cmaes._next.cache_clear()
    assert replay(log_of(study)[:300], build("cmaes")) > 40
    past = optuna_sampler.frozen_trials(study.history)
    marked = recall(past)
    assert all(not t.system_attrs for t in past)  # the past itself is left as it is
    assert any(t.system_attrs for t in marked)


def test_a_trial_that_goes_on_is_shown_as_it_is_now():
    before = history_of(FLAT, [trial(0, FLAT.complete({}), [1.0, 0.9])])
    after = history_of(FLAT, [trial(0, FLAT.complete({}), [1.0, 0.9, 0.4])])
    assert [optuna_sampler.frozen_trials(h)[0].value for h in (before, after, before)] == [0.9, 0.4, 0.9]
    failed = trial(1, FLAT.complete({"depth": 2}), [], status=Status.FAILED, failure=Failure("raised", "x"))
    worse = history_of(FLAT, [trial(0, FLAT.complete({}), [3.0]), failed])
    better = history_of(FLAT, [trial(0, FLAT.complete({}), [2.0]), failed])
    assert [optuna_sampler.frozen_trials(h)[1].value for h in (worse, better)] == [3.0, 2.0]


def test_experimental_options_of_optuna_are_no_trouble():
    import optuna

    sampler = OptunaSampler(lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True))
    assert drive(FLAT, Full(sampler), loss, budget="12 trials", max_epochs=1).history.finished


def test_a_sampler_that_counts_in_the_study_is_refused():
    import optuna

    sampler = OptunaSampler(lambda seed: optuna.samplers.QMCSampler(seed=0))
    with pytest.raises(UserError, match=r"first point for ever.*sobol"):
        drive(FLAT, Full(sampler), loss, budget="2 trials", max_epochs=1)


def test_a_missing_package_is_said_with_what_to_install(monkeypatch):
    from luthier import strategies

    monkeypatch.setitem(strategies.NEEDS, "cmaes", ("a_package_that_is_not_there", "cmaes"))
    with pytest.raises(UserError, match=r"needs the package a_package_that_is_not_there.*luthier\[cmaes\]"):
        check_strategy("cmaes")
    with pytest.raises(UserError, match=r"luthier\[cmaes\]"):
        build("cmaes")


# -- configurations as numbers -----------------------------------------------------------------------------------------


def test_features_are_those_of_the_configuration_at_a_point(space):
    encoder, rng = Encoder(space), np.random.default_rng(0)
    units = rng.random((60, len(space.dims)))
    configs = [space.from_unit(u.tolist()) for u in units]
    assert encoder.features(units) == pytest.approx(encoder.features(encoder.units(configs)), abs=1e-9)
    on = encoder.active(units)
    assert [{n for n, a in zip(space.dims, row) if a} for row in on] == [
        {n for n in c if n in space.dims} for c in configs
    ]
    assert len(encoder.groups) == encoder.features(units).shape[1]


def test_two_choices_are_one_apart():
    space = lt.Space(act=lt.Choice("a", "b", "c"), on=lt.Int(0, 1), lr=lt.Float(0.0, 1.0, when={"on": 1}))
    encoder = Encoder(space)
    a, c = encoder.features(encoder.units([{"act": "a", "on": 0}, {"act": "c", "on": 0}]))
    assert np.linalg.norm(a - c) == pytest.approx(1.0)
    assert encoder.active(encoder.units([{"act": "a", "on": 0}, {"act": "a", "on": 1, "lr": 0.3}]))[:, 2].tolist() == [
        False, True,
    ]  # fmt: skip


def test_moves_stay_in_the_cube_and_near():
    encoder, rng = Encoder(FLAT), np.random.default_rng(0)
    start = np.array([[0.02, 0.5, 0.98, 0.5]])
    moved = encoder.moved(start, 500, 0.05, rng)
    assert ((moved >= 0) & (moved <= 1)).all()
    assert np.abs(moved[:, :3] - start[:, :3]).max() < 0.3
    assert 0.3 < np.mean(moved[:, 3] != 0.5) < 0.7


# -- BOHB --------------------------------------------------------------------------------------------------------------


def test_bohb_splits_a_rung_as_equation_3_says():
    trials = [trial(i, {}, [1.0]) for i in range(100)]

    def sizes(n, fewest):
        good, bad = split(trials[:n], 0.15, fewest)
        assert good == trials[: len(good)]
        assert bad == trials[n - len(bad) : n]
        return len(good), len(bad)

    assert sizes(100, 5) == (15, 85)
    assert sizes(20, 5) == (5, 15)  # 15 % of 20 are fewer than N_min
    assert sizes(7, 5) == (5, 5)  # N_min + 2, the fewest there may be: they overlap


def test_bohb_models_the_longest_rung_with_enough_results():
    config = FLAT.complete({})
    short = [trial(i, config, [5.0 - i]) for i in range(7)]
    middle = [trial(7 + i, config, [9.0, 8.0, 1.0 + i]) for i in range(4)]
    failed = trial(11, config, [], until=3, status=Status.FAILED, failure=Failure("raised", "x"))
    rung = largest_rung(history_of(FLAT, [*short, *middle]), 5)
    assert rung is not None
    assert [t.id for t in rung] == [6, 5, 4, 3, 2, 1, 0, 7, 8, 9, 10]  # the first rung, by its losses there
    rung = largest_rung(history_of(FLAT, [*short, *middle, failed]), 5)
    assert rung is not None
    assert [t.id for t in rung] == [7, 8, 9, 10, 11]  # heading for the third epoch, and the worst of it
    assert largest_rung(history_of(FLAT, [*short, *middle]), 12) is None


def test_a_density_is_one_over_the_cube_and_an_inactive_hyperparameter_says_nothing(space):
    rng = np.random.default_rng(0)
    plane = lt.Space(x=lt.Float(0, 1), kind=lt.Choice("a", "b", "c"))
    trials = [trial(i, {"x": 0.5 + 0.05 * i, "kind": "b"}, [1.0]) for i in range(-2, 3)]
    density = Density.of(plane, trials)
    every = Encoder(plane).units(plane.sample(rng) for _ in range(6000))
    assert np.exp(density.log_density(every)).mean() == pytest.approx(1.0, abs=0.08)
    near, far, other = density.log_density(Encoder(plane).units(
        [{"x": 0.5, "kind": "b"}, {"x": 0.95, "kind": "b"}, {"x": 0.5, "kind": "c"}]
    ))  # fmt: skip
    assert near > max(far, other)
    adamw = space.complete({"optimizer": "adamw"})
    same = Density.of(space, [trial(i, adamw, [1.0]) for i in range(5)])
    low, high = (space.complete({"optimizer": "sgd", "momentum": m}) for m in (0.8, 0.99))
    a, b = same.log_density(Encoder(space).units([low, high]))
    assert a == pytest.approx(b)


def test_bohb_draws_one_in_three_at_random_and_the_others_near_the_good():
    rng = np.random.default_rng(0)
    configs = [FLAT.sample(rng) for _ in range(80)]
    history = history_of(FLAT, [trial(i, c, [loss(c)]) for i, c in enumerate(configs)])
    searcher, uniform = BOHB(), BOHB(random=1.0)
    off = [loss(searcher.suggest(history, np.random.default_rng(i))) for i in range(90)]
    model = [loss(BOHB(random=0.0).suggest(history, np.random.default_rng(i))) for i in range(90)]
    chance = [loss(uniform.suggest(history, np.random.default_rng(i))) for i in range(90)]
    assert np.mean(model) < 0.7 * np.mean(chance)
    assert np.mean(model) < np.mean(off) < np.mean(chance)
    alike = sum(
        searcher.suggest(history, np.random.default_rng(i))
        == BOHB(random=0.0).suggest(history, np.random.default_rng(i))
        for i in range(90)
    )
    assert 45 <= alike <= 75  # two in three: the same generator, once with and once without the coin's say


# -- piBO --------------------------------------------------------------------------------------------------------------


class At:
    """A belief that the best rate is within 0.3 decades of a place, with one chance in ten that it is anywhere."""

    def __init__(self, decade: float) -> None:
        self.decade = decade

    def sample(self, rng):
        rate = 10 ** min(max(self.decade + 0.3 * rng.standard_normal(), -5.0), -1.0)
        anywhere = FLAT.sample(rng)
        return anywhere if rng.random() < 0.1 else {**anywhere, "learning_rate": float(rate)}

    def log_density(self, config):
        z = (math.log10(config["learning_rate"]) - self.decade) / 0.3
        return math.log(0.1 / 4 + 0.9 * math.exp(-0.5 * z * z) / (0.3 * math.sqrt(2 * math.pi)))


def rates_after(n: int, prior, beta: float) -> float:
    """The mean distance from the belief, in decades, of what is proposed after ``n`` trials."""
    rng = np.random.default_rng(0)
    configs = [FLAT.sample(rng) for _ in range(n)]
    history = history_of(FLAT, [trial(i, c, [loss(c)], status=Status.DONE) for i, c in enumerate(configs)])
    chosen = [PiBO(prior, beta=beta).suggest(history, np.random.default_rng(i)) for i in range(5)]
    return float(np.mean([abs(math.log10(c["learning_rate"]) - prior.decade) for c in chosen]))


def test_the_prior_decides_at_first_and_fades():
    wrong = At(-1.0)  # the optimum is at -3
    early, late, without = (rates_after(n, wrong, beta) for n, beta in ((8, 10.0), (60, 1.0), (60, 0.0)))
    assert early < 0.7
    assert late > 1.5
    assert without > 1.5


def test_the_exponent_falls_as_beta_over_n():
    assert [exponent(n, 10.0) for n in (1, 2, 10, 100)] == [10.0, 5.0, 1.0, 0.1]
    assert PiBO()._beta(history_of(FLAT, [], Budget(epochs=27 * 40))) == pytest.approx(4.0)  # a tenth of 40 trainings
    assert PiBO()._beta(history_of(FLAT, [])) == 10.0
    assert PiBO(beta=3.0)._beta(history_of(FLAT, [])) == 3.0


def test_the_first_trials_are_drawn_from_the_prior():
    study = drive(FLAT, Full(PiBO(At(-4.5), initial=30)), loss, budget="30 trials", max_epochs=1)
    assert np.mean([math.log10(t.config["learning_rate"]) < -3.5 for t in study.history.trials]) > 0.8


def test_what_runs_is_not_proposed_again():
    rng = np.random.default_rng(0)
    configs = [FLAT.sample(rng) for _ in range(30)]
    done = [trial(i, c, [loss(c)], status=Status.DONE) for i, c in enumerate(configs)]
    searcher = PiBO(At(-3.0), beta=0.0)
    first = searcher.suggest(history_of(FLAT, done), np.random.default_rng(1))
    running = TrialRecord(30, first, 0, 27, 27)
    study = history_of(FLAT, done).study
    second = searcher.suggest(
        History(study=study, trials=Rows([*done, running]), decisions=30, running=(30,)), np.random.default_rng(1)
    )
    assert second != first


def test_pibo_finds_the_good_rates_against_a_wrong_prior():
    study = drive(FLAT, Full(PiBO(At(-4.0), beta=1.0)), loss, budget="25 trials", max_epochs=1)
    off = [abs(math.log10(t.config["learning_rate"]) + 3) for t in study.history.trials]
    assert np.mean(off[:5]) > 0.7
    assert np.mean(off[-8:]) < 0.4
