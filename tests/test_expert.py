"""The expert: priors, opinions, the portfolio, moves around the best, the model, and how the budget ends."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from conftest import bowl, drive, log_of
from hypothesis import given
from hypothesis import strategies as st

import luthier as lt
from luthier.core import events as ev
from luthier.core.errors import SpaceError, UserError
from luthier.core.study import Budget, Objective, Study
from luthier.core.trial import Status
from luthier.expert import Expert
from luthier.expert.audit import audited, stopping_regret
from luthier.expert.evidence import leaders
from luthier.expert.expected import evidence, lines
from luthier.expert.opinions import opinions, standing
from luthier.expert.portfolio import portfolio
from luthier.knowledge import Prior
from luthier.run.book import Book
from luthier.run.decisions import replay
from luthier.run.memory import MemoryStore
from luthier.schedule.halving import ASHA, rungs
from luthier.search.local import moved
from luthier.search.priorband import PriorBand
from luthier.search.surrogate import Line, Observations, fit, most_promising
from luthier.strategies import build


@pytest.fixture
def wide() -> lt.Space:
    """What someone searches who knows nothing but the names."""
    return lt.Space(
        learning_rate=lt.Float(1e-6, 1.0, log=True),
        batch_size=lt.Int(16, 512, log=True),
        optimizer=lt.Choice("adamw", "sgd", "rmsprop"),
        momentum=lt.Float(0.5, 0.99, when={"optimizer": "sgd"}),
        width=lt.Int(16, 256, log=True),
        weight_decay=lt.Float(1e-6, 1e-1, log=True),
        dropout=lt.Float(0.0, 0.5),
        gadget=lt.Float(0.0, 1.0),
    )


def valley(config, epoch):
    """A loss whose best rate lies at 3e-3 under every optimizer, and which likes width and no dropout."""
    off = math.log10(config["learning_rate"] / 3e-3)
    return 0.3 * off * off + 0.2 * config["dropout"] - 0.05 * math.log(config["width"]) + 1.0 + 1.0 / epoch


# -- priors ------------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), epochs=st.sampled_from([1, 20, 500]), known=st.booleans())
def test_draws_of_a_prior_lie_in_the_space(seed, epochs, known):
    space = lt.Space(
        lr=lt.Float(1e-5, 1e-1, log=True),
        opt=lt.Choice("adamw", "sgd"),
        momentum=lt.Float(0.8, 0.99, when={"opt": "sgd"}),
        n_layers=lt.Int(1, 6),
        p_drop=lt.Float(0.0, 0.5, default=0.2),
        warmup=lt.Float(0.0, 0.2),
        beta2=lt.Float(0.9, 0.9999),
        fixed=lt.Constant(3),
    )
    prior = Prior(space, epochs, known=known)
    config = prior.sample(np.random.default_rng(seed))
    assert space.complete(config) == config
    assert math.isfinite(prior.log_density(config))
    near = moved(prior, config, np.random.default_rng(seed + 1))
    assert space.complete(near) == near


@pytest.mark.parametrize("name", ["learning_rate", "momentum", "width", "weight_decay", "dropout", "gadget"])
def test_a_density_is_one_on_average_over_the_unit_scale(wide, name):
    marginal = Prior(wide, 30).marginal(name, {"optimizer": "adamw", "batch_size": 64})
    u = (np.arange(4000) + 0.5) / 4000
    assert np.mean([marginal.density(wide[name].from_unit(x)) for x in u]) == pytest.approx(1.0, abs=0.03)


def test_what_a_prior_draws_most_often_it_finds_most_likely(wide):
    prior, rng = Prior(wide, 30), np.random.default_rng(0)
    own = np.mean([prior.log_density(prior.sample(rng)) for _ in range(200)])
    anywhere = np.mean([prior.log_density(wide.sample(rng)) for _ in range(200)])
    assert own > anywhere + 3.0
    assert prior.log_density(prior.mode()) > own
    assert Prior(wide, 30, known=False).log_density(wide.sample(rng)) == pytest.approx(0.0)


def test_a_short_training_wants_smaller_batches_higher_rates_and_less_regularization(wide):
    short, long = Prior(wide, 10), Prior(wide, 1000)
    assert (short.starved, long.starved) == (pytest.approx(math.log10(4000 / (10 * 4000 / 128))), 0.0)
    less, more = short.mode(), long.mode()
    assert less["batch_size"] < more["batch_size"]
    assert less["learning_rate"] / less["batch_size"] ** 0.5 > more["learning_rate"] / more["batch_size"] ** 0.5
    assert less["width"] > more["width"]
    assert less["weight_decay"] < more["weight_decay"]
    assert less["dropout"] < more["dropout"]
    assert Prior(wide, 10, samples=1_000_000).mode() == more


def test_a_short_training_wants_short_contexts_whatever_size_it_wants():
    space = lt.Space(context=lt.Int(16, 1024, log=True), width=lt.Int(16, 1024, log=True))
    short, long = Prior(space, 3, samples=2000).mode(), Prior(space, 1000, samples=2000).mode()
    assert short["context"] < long["context"]
    assert short["width"] > long["width"]


def test_a_short_training_wants_few_layers_and_short_averages_under_adam_only():
    space = lt.Space(
        optimizer=lt.Choice("adamw", "sgd"), momentum=lt.Float(0.5, 0.99), beta1=lt.Float(0.5, 0.99), depth=lt.Int(1, 8)
    )
    short, long = Prior(space, 10), Prior(space, 1000)
    assert short.mode()["depth"] < long.mode()["depth"]
    for name in ("momentum", "beta1"):
        assert short.mode({"optimizer": "adamw"})[name] < 0.85 < long.mode({"optimizer": "adamw"})[name]
    assert short.mode({"optimizer": "sgd"})["momentum"] == pytest.approx(0.9)


def test_the_rate_follows_the_batch_and_knows_the_optimizer(wide):
    prior = Prior(wide, 1000)
    rate = {b: prior.mode({"optimizer": "adamw", "batch_size": b})["learning_rate"] for b in (64, 256)}
    assert rate[256] == pytest.approx(2 * rate[64])
    sgd = {b: prior.mode({"optimizer": "sgd", "batch_size": b})["learning_rate"] for b in (64, 256)}
    assert sgd[256] == pytest.approx(4 * sgd[64])
    assert sgd[64] > 10 * rate[64]


def test_a_center_given_by_the_user_counts_before_the_roles(wide):
    prior = Prior(wide, 30, centers={"learning_rate": (0.2, 0.1)}, tail=0.02)
    rates = [prior.sample(np.random.default_rng(i))["learning_rate"] for i in range(50)]
    assert 0.1 < np.median(rates) < 0.4
    with pytest.raises(SpaceError, match=r"center for 'lerning_rate'.*learning_rate"):
        Prior(wide, centers={"lerning_rate": (0.1, 1.0)})
    with pytest.raises(SpaceError, match="spread of 'dropout' is 0"):
        Prior(wide, centers={"dropout": (0.1, 0)})


# -- the strategy ------------------------------------------------------------------------------------------------------


def test_the_portfolio_comes_first_and_has_every_optimizer(wide):
    study = drive(wide, "expert", valley, max_epochs=27, budget="6 trials")
    picks = portfolio(opinions(Prior(wide, 27)))
    assert [dict(t.config) for t in study.history.trials[: len(picks)]] == [p.config for p in picks]
    assert {p.config["optimizer"] for p in picks} == {"adamw", "sgd", "rmsprop"}
    assert all("portfolio" in t.why for t in study.history.trials[: len(picks)])
    assert len({repr(p.config) for p in picks}) == len(picks)


def test_it_looks_at_a_tenth_first_and_spends_the_budget_to_the_end(wide):
    study = drive(wide, "expert", valley, max_epochs=30, budget="12 trials")
    history = study.history
    reached = Counter(t.epoch for t in history.trials)
    assert set(reached) == {3, 10, 30}
    assert min(reached[3], reached[30]) >= 5
    assert 360 - 3 < history.spent <= 360


def test_it_is_better_than_random_search_from_the_first_trainings_on(wide):
    def best(strategy, budget, seed):
        return drive(wide, strategy, valley, max_epochs=27, budget=budget, seed=seed).best_score

    for seed in range(3):
        assert best("expert", "4 trials", seed) < best("random", "20 trials", seed)


def test_a_misleading_default_costs_little(wide):
    wrong = wide.replace(learning_rate=lt.Float(1e-6, 1.0, log=True, default=10**-5.5))
    study = drive(wrong, "expert", valley, max_epochs=27, budget="10 trials")
    assert abs(math.log10(study.best_config["learning_rate"] / 3e-3)) < 0.7
    nameless = lt.Space({f"x{i}": p for i, p in enumerate(wrong.fix({"optimizer": "adamw"}).values())})

    def unnamed(config, epoch):
        named = dict(zip(wrong, config.values()))
        return valley({**named, "width": 64, "dropout": 0.0}, epoch)

    study = drive(nameless, "expert", unnamed, max_epochs=27, budget="30 trials")
    assert abs(math.log10(study.best_config["x0"] / 3e-3)) < 1.0


def test_opinions_are_heard_as_they_prove_right(wide):
    wrong = Prior(wide, 27, centers={"learning_rate": (1e-6, 0.2)})
    study = drive(wide, Expert(centers={"learning_rate": (1e-6, 0.2)}), valley, max_epochs=27, budget="12 trials")
    among = opinions(wrong)
    assert [o.name for o in among] == ["prior", "roles", "anywhere"]
    chances = {o.name: a / (a + b) for o, (a, b) in zip(among, standing(among, study.history, 3))}
    assert chances["roles"] > chances["prior"]
    assert [o.name for o in opinions(Prior(wide, 27, known=False))] == ["prior"]


def test_rates_that_exploded_are_not_tried_again():
    space = lt.Space(learning_rate=lt.Float(1e-6, 1.0, log=True), optimizer=lt.Choice("adamw", "sgd"))
    study = lt.AskTell(space, minimize="val_loss", max_epochs=9, budget="25 trials", strategy="expert")
    exploded: list[float] = []
    while job := study.ask():
        rate = job.config["learning_rate"]
        if job.config["optimizer"] == "sgd":
            assert not exploded or rate < min(exploded) or job.start > 0
        for epoch in range(job.start + 1, job.until + 1):
            if rate > 0.02 and job.config["optimizer"] == "sgd":
                exploded.append(rate)
                study.tell(job, epoch, val_loss=math.nan)
                break
            if study.tell(job, epoch, val_loss=abs(math.log10(rate) + 2.5) + 1 / epoch) == "stop":
                break
    assert len(exploded) < 8  # each lower than all before it
    assert sum(t.config["optimizer"] == "sgd" for t in study.history.trials) > 3


def test_parallel_workers_do_not_repeat_each_other(wide):
    study = lt.AskTell(wide, minimize="val_loss", max_epochs=9, budget="20 trials", strategy="expert")
    jobs = [study.ask() for _ in range(40)]
    assert len({repr(sorted(j.config.items())) for j in jobs}) == 40


def test_now_and_then_a_stopped_trial_is_trained_to_the_end(wide):
    study = drive(wide, "expert", valley, max_epochs=27, budget="30 trials")
    full = sum(t.status is Status.DONE for t in study.history.trials)
    assert full >= 10
    sample = audited(study.history)
    assert 1 <= len(sample) <= full // 6
    assert stopping_regret(study.history) == (len(sample), 0.0)  # on this bowl the first look is right
    assert stopping_regret(drive(wide, "random", valley, max_epochs=1, budget="3 trials").history) is None


def test_leaders_are_the_best_at_full_length_first(wide):
    history = drive(wide, "expert", valley, max_epochs=27, budget="10 trials").history
    found = leaders(history, rungs(27))
    assert found[0] is history.trials[history.ranked(27)[0][1]]
    assert all(t.epoch == 27 for t in found)


def test_it_begins_with_the_best_of_earlier_studies(wide, tmp_path):
    old = wide.replace(width=lt.Int(16, 1024, log=True), extra=lt.Float(0.0, 1.0))
    earlier = lt.AskTell(
        old, minimize="val_loss", max_epochs=9, budget="12 trials", strategy="random", storage=tmp_path / "old.db"
    )
    while job := earlier.ask():
        for epoch in range(1, job.until + 1):
            earlier.tell(job, epoch, val_loss=valley(job.config, epoch))
    where = [str(tmp_path / "old.db")]
    study = drive(wide, "expert", valley, budget="3 trials", warm_start=where)
    best = earlier.best_config
    first = study.history.trials[0].config
    assert "earlier" in study.history.trials[0].why
    assert "extra" not in first
    assert first["width"] == min(best["width"], 256)
    assert first["learning_rate"] == best["learning_rate"]
    assert study.best_score <= valley(first, 9)
    assert replay(log_of(study), build("expert")) == study.history.decisions
    for strategy in ("playbook", "tpe"):  # the others train the best of each first
        study = drive(wide, strategy, valley, budget="3 trials", warm_start=where)
        one, *rest = study.history.trials
        assert (one.config, one.until, one.why) == (first, 9, "among the best of an earlier study")
        assert not any(t.by_hand for t in rest)
        assert replay(log_of(study), build(strategy)) == study.history.decisions
    with pytest.raises(UserError, match=r"holds no study"):
        lt.AskTell(wide, minimize="val_loss", strategy="expert", warm_start=[tmp_path / "none.db"])
    with pytest.raises(UserError, match="must be a list"):
        lt.AskTell(wide, minimize="val_loss", strategy="expert", warm_start="old.db")


def test_earlier_studies_are_ranked_by_the_new_question_and_refused_where_they_say_nothing_of_it(tmp_path):
    old = lt.Space(learning_rate=lt.Float(1e-4, 1.0, log=True), momentum=lt.Float(0.5, 0.99))
    place = tmp_path / "old.db"
    earlier = lt.AskTell(
        old, minimize="val_loss", max_epochs=2, budget="9 trials", strategy="random", storage=place, name="old"
    )
    while job := earlier.ask():
        for epoch in (1, 2):
            rate = job.config["learning_rate"]
            earlier.tell(job, epoch, val_loss=rate, val_accuracy=rate, params=1e6)
    rates = [t.config["learning_rate"] for t in earlier.history.trials]

    def first(space=old, **goal):
        study = lt.AskTell(space, **goal, max_epochs=4, budget="9 trials", strategy="expert", warm_start=[place])
        return study.ask().config

    assert first(minimize="val_loss")["learning_rate"] == min(rates)
    assert first(maximize="val_accuracy")["learning_rate"] == max(rates)
    assert first(minimize="valid_loss")["learning_rate"] == min(rates)  # the same under another name
    with pytest.raises(UserError, match=r"old.db says .*'old' never reported 'val_f1' .*, but val_loss, val_accuracy"):
        first(maximize="val_f1")
    with pytest.raises(UserError, match=r"'old' has no hyperparameter in common .*\(learning_rate, momentum there"):
        first(lt.Space(foo=lt.Float(0.0, 1.0)), minimize="val_loss")


def test_how_many_samples_an_epoch_has_moves_the_priors(wide):
    few, many = (
        drive(wide, "expert", valley, budget="1 trials", samples=n).history.trials[0].config for n in (500, 10**6)
    )
    assert few["batch_size"] < many["batch_size"]
    assert few["dropout"] < many["dropout"]
    given = {"minimize": "val_loss", "max_epochs": 9, "budget": "1 trials", "strategy": "expert"}
    simulated = lt.simulate(lambda c, e, seed: valley(c, e), wide, samples=500, **given)
    assert simulated.history.trials[0].config == few


@pytest.mark.parametrize("epochs", [20, 33, 47, 58, 71, 90])
def test_without_checkpoints_only_what_the_rest_of_the_budget_pays_for_is_trained_on(wide, epochs):
    # A worker that keeps nothing trains what is promoted from the start.
    study = Study("s", wide, Objective("val_loss", True), 27, budget=Budget(epochs=float(epochs)))
    book, scheduler = Book.create(MemoryStore(), study, clock=lambda: 0.0), build("expert")
    while job := book.next(scheduler):
        assert job.start == 0
        for epoch in range(1, job.until + 1):
            book.hear(ev.Reported(job.trial, epoch, {"val_loss": valley(job.config, epoch)}), scheduler)
        book.hear(ev.Ended(job.trial, job.until), scheduler)
    assert epochs - 3 < book.history.spent <= epochs  # a first look takes three


# -- the model ---------------------------------------------------------------------------------------------------------


def test_the_model_prefers_what_lies_where_losses_were_low(wide):
    history = drive(wide, ASHA(PriorBand()), valley, max_epochs=27, budget="25 trials").history
    prior = Prior(wide, 27)
    model = fit(prior, evidence(history, rungs(27)))
    base = prior.mode({"optimizer": "adamw", "batch_size": 64})
    candidates = [{**base, "learning_rate": r} for r in (3e-5, 3e-3, 0.3)]
    assert most_promising(model, prior, [], candidates) == 1
    assert most_promising(model, prior, candidates[:1], candidates) == 1
    young = drive(wide, ASHA(PriorBand()), valley, max_epochs=27, budget="1 trials").history
    assert fit(prior, evidence(young, rungs(27))) is None


def test_a_rung_lets_expect_less_difference_than_it_shows(wide):
    history = drive(wide, "expert", lambda c, e: valley(c, e) / e, max_epochs=27, budget="10 trials").history
    first, second = lines(history, rungs(27))
    assert 0 < first.slope < 1
    assert first(1e9) == first(first.cap)  # what is worse than the median is bad and no worse
    assert first.variance >= 0
    assert second.variance < first.variance  # the later the look the more it says


def test_one_loser_that_was_trained_to_the_end_flattens_no_line():
    every = np.array([0.1, 0.2, 0.3, 0.25, 5.0, 4.0])
    looked, ended = np.array([0.1, 0.2, 0.25, 5.0]), np.array([0.05, 0.1, 0.15, 0.2])
    line = Line.through(every, looked, ended)
    assert line.slope == pytest.approx(0.5, abs=0.05)
    assert line == Line.through(every, np.minimum(looked, line.cap), ended)  # as far off as it says itself


# -- PriorBand ---------------------------------------------------------------------------------------------------------


def test_priorband_trusts_the_prior_where_it_is_good_and_the_incumbent_where_it_is_not(wide):
    def share(prior):
        history = drive(wide, ASHA(PriorBand(prior)), valley, max_epochs=27, budget="12 trials").history
        return PriorBand(prior)._share(history, prior, history.incumbent)

    good = Prior(wide, 27, centers={"learning_rate": (3e-3, 0.3)})
    bad = Prior(wide, 27, centers={"learning_rate": (2e-6, 0.2)}, tail=0.01)
    assert share(good) < 0.5 < share(bad)


def test_priorband_begins_with_the_prior_and_anywhere(wide):
    prior = Prior(wide, 27)
    study = drive(wide, ASHA(PriorBand()), valley, max_epochs=27, budget="3 trials")
    assert study.history.incumbent is not None
    density = [prior.log_density(t.config) for t in study.history.trials]
    assert sum(d > 0 for d in density) > len(density) / 4
    assert bowl({"learning_rate": 1e-3, "depth": 0}, 1) == 1.0


def test_a_failure_counts_as_the_worst_score_and_not_as_a_loss_of_zero():
    """Of a metric to be maximized every loss is below zero."""
    space = lt.Space(x=lt.Float(0.0, 1.0), y=lt.Float(0.0, 1.0))
    rng = np.random.default_rng(0)
    configs = [space.sample(rng) for _ in range(12)]
    loss = np.array([-0.93 - 0.02 * c["x"] for c in configs])
    loss[3] = np.inf
    models = [fit(Prior(space, 10), Observations(configs, shifted, np.zeros(12))) for shifted in (loss, loss + 1.0)]
    assert models[0].unit == pytest.approx(models[1].unit)
    assert models[0].unit < 0.01
