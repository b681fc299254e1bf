"""Claims against noise: seed noise, the accept rule, the winner's curse, confirmation, ablation, what to try next."""

from __future__ import annotations

import json
import math
import random
import zlib

import numpy as np
import pytest
from conftest import drive, log_of
from scipy import stats
from test_playbook import SPACE, landscape

import luthier as lt
from luthier import insight
from luthier.cli import app
from luthier.core import events as ev
from luthier.core.history import Entry, fold
from luthier.core.study import Objective, Study
from luthier.core.summary import ABLATION, CONFIRM, carried_text, gain_text, summarize
from luthier.knowledge import tuned_along
from luthier.numerics.noise import SeedNoise, decide, least_sd, pooled_sd, prior_sd
from luthier.numerics.paired import paired_difference, sign_flip_p
from luthier.numerics.selection import best_of, expected_max, shrunk_means
from luthier.playbook.noise import noise_of
from luthier.playbook.playbook import STAGES, Playbook
from luthier.playbook.stages.ablation import grouped
from luthier.result import Result
from luthier.run.decisions import replay
from luthier.search.importance import importance
from luthier.view import story
from luthier.view.closing import closing
from luthier.view.figures import importance_figure, steps_figure, to_plotly
from luthier.view.numbers import roles, steps
from luthier.view.report import render_report

# -- numerics ----------------------------------------------------------------------------------------------------------


def test_pooled_sd_by_hand():
    # Squared deviations 2 + 0.5 over 2 + 1 degrees of freedom; a single value says nothing.
    assert pooled_sd([[1, 2, 3], [10, 11], [7]]) == (pytest.approx(math.sqrt(2.5 / 3)), 3)
    assert pooled_sd([[1.0], []]) == (0.0, 0)


def test_prior_noise_of_shares_and_of_anything_else():
    assert prior_sd(2.0, share=False) == pytest.approx(0.006)
    assert prior_sd(0.9, share=True) == 0.002
    assert prior_sd(0.9, share=True, samples=200) == pytest.approx(0.5 * math.sqrt(2 * 0.09 / 200))


def test_sign_flips_match_scipys_permutation_test():
    rng = np.random.default_rng(0)
    for n in (2, 4, 7):
        d = rng.normal(0.5, 1, n)
        known = stats.permutation_test(
            (d,), lambda x, axis: x.mean(axis=axis), permutation_type="samples", alternative="greater", vectorized=True
        )
        assert sign_flip_p(d) == pytest.approx(known.pvalue)
    assert sign_flip_p([0.1] * 5) == 1 / 32
    assert sign_flip_p([0.0, 0.0]) == 1.0
    with pytest.raises(ValueError, match="1 to 16"):
        sign_flip_p([])


def test_the_paired_interval_is_scipys_and_never_of_no_width():
    new, old = [0.91, 0.93, 0.92, 0.95], [0.90, 0.90, 0.91, 0.90]
    known = stats.ttest_rel(new, old).confidence_interval(0.95)
    found = paired_difference(new, old, noise=0.001)
    assert (found.low, found.high) == (pytest.approx(known.low), pytest.approx(known.high))
    agreeing = paired_difference([0.92, 0.95], [0.91, 0.94], noise=0.01)
    error = 0.01 * math.sqrt(2) * math.sqrt(stats.chi2.ppf(0.05, 1)) / math.sqrt(2)
    assert agreeing.high - agreeing.mean == pytest.approx(stats.t.ppf(0.975, 1) * error)
    assert agreeing.low < agreeing.mean
    assert least_sd(1.0, 4) == pytest.approx(math.sqrt(stats.chi2.ppf(0.05, 4) / 4))


@pytest.mark.parametrize(
    ("gains", "free", "most", "answer"),
    [
        ([0.030], False, 3, "accept"),  # se of one pair is 0.0141
        ([0.020], False, 3, "replicate"),
        ([0.020], True, 3, "accept"),  # costs nothing: one standard error is enough
        ([0.005], False, 3, "reject"),  # below half a standard error
        ([0.005], True, 3, "replicate"),
        ([-0.001], True, 3, "reject"),
        ([0.02, 0.00], False, 3, "replicate"),
        ([0.020], False, 1, "accept"),  # P = Phi(1.41) = 0.92
        ([0.010], False, 1, "reject"),  # P = Phi(0.71) = 0.76
        ([0.02, -0.01, 0.01], False, 3, "reject"),  # t = 0.76 with 2 df: P = 0.74
        ([0.02, 0.00, 0.01], False, 3, "accept"),  # t = 1.73: P = 0.89
    ],
)
def test_the_accept_rule(gains, free, most, answer):
    assert decide(gains, SeedNoise(0.01, 4, "repeats"), free=free, most=most) == answer


def test_expected_largest_of_normals():
    assert [round(expected_max(n), 2) for n in (1, 2, 10, 20, 50)] == [0.0, 0.56, 1.54, 1.87, 2.25]


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
def test_shrinkage_reduces_the_winners_curse(spread):
    rng = np.random.default_rng(1)
    raw, shrunk = [], []
    for _ in range(400):
        truth = rng.normal(0, spread, 20)
        seen = truth + rng.normal(0, 1, 20)
        won = int(np.argmax(seen))
        found = best_of(seen, 1.0)
        assert (found.score, found.tried) == (seen[won], 20)
        raw.append(found.score - truth[won])
        shrunk.append(found.expected - truth[won])
    assert abs(np.mean(shrunk)) < 0.5 * np.mean(raw)
    assert np.mean(np.square(shrunk)) < np.mean(np.square(raw))


def test_means_are_drawn_together_as_far_as_they_differ_by_noise():
    rng = np.random.default_rng(2)
    seeds = rng.normal(0, 1, 5)
    apart = [list(level + seeds + rng.normal(0, 0.01, 5)) for level in (0.0, 1.0, 2.0)]
    assert shrunk_means(apart, 0.01) == pytest.approx([np.mean(row) for row in apart], abs=1e-3)
    same = [[1.0, 2.0, 3.0], [3.0, 1.0, 2.3]]
    assert len(set(shrunk_means(same, 0.1))) == 1
    assert shrunk_means([[1.0, 2.0]], 0.1) == [1.5]


# -- studies -----------------------------------------------------------------------------------------------------------

FOUR = lt.Space(
    learning_rate=lt.Float(1e-4, 1e-1, log=True),
    schedule=lt.Choice("constant", "cosine", default="constant"),
    width=lt.Int(16, 256, log=True, default=64),
    dropout=lt.Float(0.0, 0.5, default=0.25),
    mystery=lt.Float(0.0, 1.0, default=0.5),
)


def told(study: lt.AskTell, score, **more) -> lt.AskTell:
    """Drive a study of a validation accuracy that depends on configuration, epoch and seed."""
    while job := study.ask():
        for epoch in range(job.start + 1, job.until + 1):
            study.tell(job, epoch, val_accuracy=score(job.config, epoch, job.seed))
    return study


def draw(*words) -> float:
    """A standard normal that is the same for the same words."""
    return random.Random(zlib.crc32(repr(words).encode())).gauss(0, 1)


ONE_AT_A_TIME = Playbook([stage for stage in STAGES if stage.name != "refinement"], extend=False)
"""Without the joint moves, so that what is changed is known."""


def accuracy(config, epoch, seed) -> float:
    """Rate, schedule and width matter; dropout only on the search's one seed, where it is luck."""
    rate = abs(math.log10(config["learning_rate"]) + 2)
    search = 0.004 * (config["dropout"] < 0.25) if seed == 0 else 0.0
    return (
        0.90
        - 0.03 * min(rate, 3.0)
        + 0.015 * (config["schedule"] == "cosine")
        + 0.01 * math.log2(config["width"] / 64)
        + search
        - 0.05 / epoch
        + 0.0005 * draw(seed, sorted(config.items()))
    )


@pytest.fixture(scope="module")
def four() -> lt.AskTell:
    study = lt.AskTell(FOUR, maximize="val_accuracy", max_epochs=4, budget="60 trials", strategy=ONE_AT_A_TIME, seed=0)
    return told(study, accuracy)


def test_three_of_four_changes_carry_the_gain(four):
    found = summarize(four.history)
    assert found.ablation is not None
    carrying = {name for step in found.ablation.steps for name in step.names if step.carries}
    assert carrying == {"learning_rate", "schedule", "width"}
    assert carried_text(found.ablation) == "3 of 4 changes carry it"
    assert "3 of 4 changes carry it" in four.history.stage(ABLATION).verdict
    verdict = story.verdict(four.history)
    assert " points (95 % interval +" in verdict
    assert "5 paired seeds); 3 of 4 changes carry it." in verdict
    assert found.ablation.steps[-1].names == ["dropout"]  # the least last
    whole = sum(step.gain for step in found.ablation.steps)
    assert whole == pytest.approx(found.confirmation.gain, abs=0.002)


def test_the_way_is_trained_between_the_ends_on_the_confirmations_seeds(four):
    runs = four.history.in_stage(ABLATION)
    seeds = summarize(four.history).confirmation.seeds
    assert {t.seed for t in runs} <= set(seeds)
    best, default = four.best_config, summarize(four.history).confirmation.default.config
    for run in runs:
        assert all(run.config[n] in (best[n], default[n]) for n in run.config)
        assert run.config not in (best, default)
    assert replay(log_of(four), ONE_AT_A_TIME) == four.history.decisions


def test_the_budget_is_kept_and_the_way_shortened_to_it():
    steps_taken = []
    for budget in ("14 trials", "30 trials", "40 trials"):
        study = told(lt.AskTell(FOUR, maximize="val_accuracy", max_epochs=4, budget=budget, seed=0), accuracy)
        assert study.history.spent <= study.history.study.budget.epochs
        stage = study.history.stage(ABLATION)
        assert stage.verdict == "skipped" or stage.numbers["steps"]
        steps_taken.append(len(stage.numbers.get("steps", ())))
    assert steps_taken == sorted(steps_taken)


def test_where_nothing_matters_nothing_is_claimed():
    kept = 0
    for seed in range(6):
        study = lt.AskTell(FOUR, maximize="val_accuracy", max_epochs=4, budget="30 trials", seed=seed)
        told(study, lambda config, epoch, seed: 0.9 - 0.05 / epoch + 0.002 * draw(seed, sorted(config.items())))
        found = summarize(study.history)
        if found.confirmation is None or not found.confirmation.better:
            assert study.history.stage(ABLATION).skipped
            assert found.ablation is None
            assert "carry" not in story.verdict(study.history)
        else:
            kept += 1
            if not found.confirmation.proven:
                assert "not yet proven" in story.verdict(study.history)
    assert kept <= 3


def test_the_default_as_winner_claims_nothing():
    study = drive(FOUR, "playbook", lambda config, epoch: 1.0 + 1 / epoch, budget="20 trials", max_epochs=4)
    assert summarize(study.history).confirmation is None
    assert study.history.stage(CONFIRM).verdict == "the strong default is the winner"
    assert study.history.stage(ABLATION).skipped
    assert study.history.finished


def test_noise_is_measured_from_repeats(four):
    found = noise_of(four.history)
    assert found.source == "repeats"
    assert found.df >= 8
    assert 0.0003 < found.sd < 0.002  # one of the repeats is the search run, a lucky one
    early = noise_of(four.history, without=[t.id for t in four.history.trials if t.stage in (CONFIRM, ABLATION)])
    assert early == SeedNoise(0.002, 0, "prior")


def test_repeats_that_agree_to_the_last_digit_leave_the_prior():
    study = drive(SPACE, "playbook", landscape, budget="16 trials", max_epochs=8)
    found = noise_of(study.history)
    assert found.source == "prior"
    assert found.sd == pytest.approx(0.003 * study.best_score)
    low, high = summarize(study.history).confirmation.interval
    assert low < high


def test_a_challenger_that_fresh_seeds_prefer_takes_over():
    def score(config, epoch, seed):
        lucky = 0.005 * (config["mystery"] != 0.5) if seed == 0 else -0.03 * (config["mystery"] != 0.5)
        return accuracy(config, epoch, seed) + lucky

    asked = lt.AskTell(FOUR, maximize="val_accuracy", max_epochs=4, budget="60 trials", strategy=ONE_AT_A_TIME, seed=0)
    study = told(asked, score)
    found = summarize(study.history)
    c = found.confirmation
    assert c.winner.label.startswith("challenger")
    assert found.best_config["mystery"] == 0.5
    assert study.history.trials[found.best_trial].config == found.best_config
    assert "choice proved better than its first" in study.history.stage(CONFIRM).verdict
    assert "widened for the choice" in study.history.stage(CONFIRM).because
    plain = paired_difference(c.winner.scores, c.default.scores)
    assert c.interval[0] < plain.low
    assert roles(study.history)[found.best_trial] == "winner"
    assert "first choice" in closing(study.history)


def test_the_search_score_is_told_beside_what_it_promised_and_what_came(four):
    c = summarize(four.history).confirmation
    if c.expected:
        assert c.expected["expected"] < c.expected["score"]
        assert "without the luck of that choice" in four.history.stage(CONFIRM).because
    assert c.noise["source"] == "repeats"
    assert c.shrunk == pytest.approx(c.winner.mean, abs=0.002)
    assert c.p_value == 1 / 32


def test_failures_over_seeds_are_told():
    study = lt.AskTell(FOUR, maximize="val_accuracy", max_epochs=4, budget="20 trials", seed=0)
    while job := study.ask():
        trial = study.history.trials[job.trial]
        if trial.notes.get("arm") == "winner" and trial.notes.get("pair") == 1:
            study.fail(job, "out of memory")
            continue
        for epoch in range(1, job.until + 1):
            study.tell(job, epoch, val_accuracy=accuracy(job.config, epoch, job.seed))
    found = summarize(study.history).confirmation
    assert found.winner.failed == found.failed == 1
    assert "1 of 8 runs failed" in study.history.stage(CONFIRM).verdict
    assert "1 failed" in closing(study.history)


def test_what_was_tuned_together_moves_together():
    space = lt.Space(
        **{name: SPACE[name] for name in SPACE},
        weight_decay=lt.Float(1e-5, 1e-1, log=True),
    )
    assert set(tuned_along(space, "optimizer")) == {"learning_rate", "momentum"}
    assert tuned_along(space, "width") == ()
    assert grouped(space, ["learning_rate", "batch_size", "width"]) == [("learning_rate", "batch_size"), ("width",)]
    assert grouped(space, ["learning_rate", "optimizer", "momentum", "dropout"]) == [
        ("learning_rate", "optimizer", "momentum"),
        ("dropout",),
    ]
    assert grouped(space, ["learning_rate", "width"]) == [("learning_rate",), ("width",)]


def test_gains_are_told_in_points_where_the_metric_is_a_share():
    assert gain_text(0.018, (0.0115, 0.0245), True, "5 paired seeds") == (
        "+1.80 points (95 % interval +1.15 to +2.45, 5 paired seeds)"
    )
    assert gain_text(-0.5, (-2.0, 1.0), False) == "−0.5 (95 % interval −2.0 to +1.0)"


# -- importance --------------------------------------------------------------------------------------------------------


def test_importance_by_distribution_finds_what_matters():
    study = drive(SPACE, "random", landscape, budget="80 trials", max_epochs=2)
    parts = Result(study.history).importance()
    assert sum(parts.values()) == pytest.approx(1.0)
    assert next(iter(parts)) == "learning_rate"
    assert parts["mystery"] < 0.1
    assert "momentum" in parts  # conditional


def test_importance_by_comparison_is_not_fooled_by_the_order_of_the_stages():
    study = drive(SPACE, ONE_AT_A_TIME, landscape, budget="16 trials", max_epochs=8)
    parts = Result(study.history).importance()
    assert sum(parts.values()) == pytest.approx(1.0)
    assert parts.get("mystery", 0.0) == 0.0
    assert list(parts)[:2] == ["learning_rate", "optimizer"]


TIED = lt.Space(
    learning_rate=lt.Float(1e-4, 1e-1, log=True),
    batch_size=lt.Int(8, 256, log=True),
    optimizer=lt.Choice("adamw", "sgd"),
    width=lt.Int(16, 256, log=True),
)
BASE = {"learning_rate": 0.01, "batch_size": 32, "optimizer": "adamw", "width": 64}


def staged(*trials):
    """A history of one stage, a trial for each (changes of :data:`BASE`, accuracy, seed)."""
    study = Study("s", TIED, Objective("val_accuracy", False), 2)
    log = [ev.Created(study), ev.StageOpened("learning rate", "?")]
    for i, (changes, score, seed) in enumerate(trials):
        log += [ev.Started(i, {**BASE, **changes}, seed, 2, 2, "?"), ev.Reported(i, 1, {"val_accuracy": score / 2})]
        log += [ev.Reported(i, 2, {"val_accuracy": score}), ev.Ended(i, 2)]
    return fold(Entry(float(k), event) for k, event in enumerate(log))


def test_a_difference_within_the_noise_is_no_importance():
    repeats = [({}, 0.80, 0), ({}, 0.79, 1), ({}, 0.81, 2), ({"width": 128}, 0.81, 0)]
    only = insight.importance(staged(*repeats))
    assert only.parts == {}
    assert only.why == "no value of width made a difference beyond the noise"
    found = insight.importance(staged(*repeats, ({"learning_rate": 0.001}, 0.5, 0)))
    assert found.parts == {"learning_rate": 1.0, "width": 0.0}


def test_an_effect_of_several_that_were_tuned_together_counts_once():
    # The default's rate is what is wrong with it, whatever else it has.
    rates = [({"learning_rate": r}, s, 0) for r, s in ((0.001, 0.6), (0.003, 0.8), (0.01, 0.9))]
    default = {"learning_rate": 0.001}
    tied = [({**default, "batch_size": 128}, 0.6, 0), ({**default, "optimizer": "sgd"}, 0.6, 0)]
    found = insight.importance(staged(*rates, *tied))
    assert found.parts == pytest.approx({"learning_rate": 1.0, "batch_size": 0.0, "optimizer": 0.0})
    assert found.why == "comparisons of 5 trials that differ in one hyperparameter and what is tuned with it"
    # What nothing tells apart is shared.
    both = insight.importance(staged(*rates[2:], *tied[:1]))
    assert both.parts == pytest.approx({"learning_rate": 0.5, "batch_size": 0.5})
    # A batch size whose rate follows counts for itself, and so does one that was tuned.
    follows = insight.importance(staged(*rates[2:], ({"learning_rate": 0.02, "batch_size": 128}, 0.6, 0)))
    assert follows.parts == pytest.approx({"batch_size": 1.0})
    tuned = [({"learning_rate": r, "batch_size": 128}, 0.5, 0) for r in (0.001, 0.003)]
    assert insight.importance(staged(*rates, *tuned)).parts["batch_size"] > 0.4


def test_a_broken_training_counts_as_a_bad_one():
    fine = [({"width": w}, s, 0) for w, s in ((16, 0.6), (32, 0.7), (64, 0.8), (128, 0.8), (256, 0.8))]
    found = insight.importance(staged(*fine, ({"learning_rate": 0.1}, 0.0, 0)))
    assert found.parts["width"] > 0.15


def test_what_raised_says_nothing_of_importance():
    """A function with a mistake fails whatever the configuration, and three scores are too few."""
    study = drive(SPACE, "random", landscape, budget="4 trials", max_epochs=2, fail=lambda i: 3 <= i < 40)
    found = importance(study.history)
    assert found.parts == {}
    assert found.trials == 0


def test_importance_of_too_few_trials_is_empty_with_a_reason():
    study = drive(SPACE, "random", landscape, budget="10 trials", max_epochs=2, fail=lambda i: i == 3)
    found = importance(study.history)
    assert found.parts == {}
    assert found.why == "it needs 20 comparable trials, there are 10"
    assert "cannot be said: it needs 20" in story.tell(study.history, insight.lesson(study.history))


# -- what to try next --------------------------------------------------------------------------------------------------


def test_a_best_value_on_the_edge_comes_first():
    narrow = lt.Space(learning_rate=lt.Float(1e-5, 1e-3, log=True), width=lt.Int(16, 64, log=True))
    study = drive(
        narrow,
        Playbook(extend=False),
        lambda c, e: 1 - 0.1 * math.log10(c["learning_rate"]) + 1e-4 * c["width"] + 1 / e,
        budget="20 trials",
        max_epochs=4,
    )
    steps_next = Result(study.history).next_steps()
    assert steps_next[0].startswith(
        "Widen the range of learning_rate: its best value 0.001 lies at the upper end; try 0.01"
    )


def test_a_natural_end_is_no_edge():
    study = drive(FOUR, "playbook", lambda c, e: 1 + c["dropout"] + 1 / e, budget="20 trials", max_epochs=4)
    assert study.best_config["dropout"] == 0.0
    assert not any("dropout" in step for step in Result(study.history).next_steps())


def test_what_was_never_varied_and_never_repeated_is_named():
    study = lt.AskTell(FOUR, minimize="val_loss", max_epochs=2, budget="4 trials", strategy="random")
    while job := study.ask():
        for epoch in (1, 2):
            study.tell(job, epoch, val_loss=1.0 + job.trial + 1 / epoch)
    told_next = Result(study.history).next_steps()
    assert any("5 fresh seeds each" in step for step in told_next)
    one = drive(FOUR, "random", lambda c, e: 1 / e, budget="1 trial", max_epochs=2)
    assert any(s.startswith("Vary learning_rate and schedule") for s in Result(one.history).next_steps())


def test_a_training_that_still_improves_should_go_on_and_idle_changes_go_back(four):
    study = lt.AskTell(FOUR, minimize="val_loss", max_epochs=40, budget="3 trials", strategy="random")
    while job := study.ask():
        for epoch in range(1, job.until + 1):
            study.tell(job, epoch, train_loss=3 - 0.05 * epoch, val_loss=3.1 - 0.05 * epoch)
    assert any(s.startswith("Train for 80 epochs instead of 40") for s in Result(study.history).next_steps())
    assert Result(study.history).findings.has("still_improving")
    idle = [s for s in Result(four.history).next_steps() if s.startswith("Set back what does not carry")]
    assert len(idle) == 1
    assert "dropout" in idle[0]


def test_an_unproven_gain_asks_for_seeds_or_for_larger_levers():
    study = lt.AskTell(FOUR, maximize="val_accuracy", max_epochs=4, budget="30 trials", seed=0)
    told(study, lambda c, e, s: 0.9 - 0.01 / e + 0.004 * draw(s, sorted(c.items())) + 0.002 * (c["width"] > 64))
    c = summarize(study.history).confirmation
    assert c is not None
    assert not c.proven
    assert any("paired seeds" in s for s in Result(study.history).next_steps())


def test_a_study_without_a_score_has_no_findings():
    study = lt.AskTell(FOUR, minimize="val_loss", max_epochs=2, budget="4 trials", strategy="random")
    for _ in range(3):
        study.fail(study.ask(), "out of memory")
    result = Result(study.history)
    assert len(result.findings) == 0
    assert result.next_steps() == ["Mend what makes the trials fail: none has given a score."]
    assert len(result.diagnosis()) == 0


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_show_and_report_tell_what_mattered_and_what_is_next(four):
    lesson = insight.lesson(four.history)
    text = story.tell(four.history, lesson)
    assert "What mattered" in text
    assert "With more budget" in text
    assert lesson.next_steps[0] in text
    page = render_report(four.history, lesson)
    assert 'id="lesson"' in page
    assert 'id="changes"' in page
    assert "From the default to it, change by change" in closing(four.history)
    assert 'id="lesson"' not in render_report(four.history)


def test_figures_of_steps_and_importance_are_plotlys(four):
    ablation = summarize(four.history).ablation
    data = steps(four.history, ablation)
    assert data.unit == "percentage points"
    assert data.gains[0] == pytest.approx(100 * ablation.steps[0].gain)
    assert len(to_plotly(steps_figure(data)).data) == 2
    assert to_plotly(importance_figure({"a": 0.7, "b": 0.3})).data[0].x == (30.0, 70.0)


def test_json_has_the_next_steps(tmp_path):
    from typer.testing import CliRunner

    place = f"sqlite:///{tmp_path / 'study.db'}"
    study = lt.AskTell(FOUR, minimize="val_loss", max_epochs=2, budget="3 trials", strategy="random", storage=place)
    while job := study.ask():
        for epoch in (1, 2):
            study.tell(job, epoch, val_loss=1.0 + 1 / epoch)
    out = CliRunner().invoke(app, ["show", str(tmp_path / "study.db"), "--json"]).stdout
    assert json.loads(out.splitlines()[-1])["next_steps"] == Result(study.history).next_steps()
