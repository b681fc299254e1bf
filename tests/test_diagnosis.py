import math
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import luthier as lt
from luthier.core import events as ev
from luthier.core.errors import UserError
from luthier.core.history import Entry, fold
from luthier.core.study import Objective, Study
from luthier.diagnosis import (
    KINDS,
    Curves,
    Series,
    dead,
    diagnose,
    diagnose_curves,
    diagnose_study,
    diverged,
    from_trial,
    hopeless,
)
from luthier.diagnosis.confidence import CERTAIN, UNMEASURED, confidence, measured
from luthier.diagnosis.rules import RULES
from luthier.diagnosis.signals import breakpoint_of, median_filter, noise, smooth, thin, trend
from luthier.diagnosis.trial import schedule_factor

LOG10 = math.log(10)


def wiggle(n, size, seed=0):
    return size * np.random.default_rng(seed).standard_normal(n)


def fall(n=30, end=0.1, start=2.2, speed=6.0, size=0.004, seed=0):
    """A healthy loss: exponential, with a little noise."""
    t = np.linspace(0, 1, n)
    return end + (start - end) * np.exp(-speed * t) + wiggle(n, size, seed)


def accuracy(loss, floor=0.0):
    """An accuracy that goes with a loss of ten classes."""
    return np.clip(1.0 - 0.9 * (np.asarray(loss) - floor) / LOG10, 0.0, 1.0)


def kinds(diagnosis):
    return [f.kind for f in diagnosis]


def read(train=None, val=None, **rest):
    rest.setdefault("classes", 10)
    return diagnose(train_loss=train, val_loss=val, **rest)


def healthy(n=30, **rest):
    train, val = fall(n), fall(n, end=0.15, seed=1)
    rest.setdefault("learning_rate", list(1e-3 * (1 + np.cos(np.linspace(0, np.pi, n))) / 2 + 1e-9))
    return read(train, val, val_metric=accuracy(val), train_metric=accuracy(train), n_val=2000, **rest)


def rising(n=40, low=0.3, by=0.5, seed=2):
    """A validation loss that turns at ``low`` of its length."""
    t = np.linspace(0, 1, n)
    return 0.5 + 1.6 * np.exp(-15 * t) + np.maximum(t - low, 0) * by / (1 - low) + wiggle(n, 0.003, seed)


def test_a_healthy_training_is_told_to_be_healthy():
    found = healthy()
    assert kinds(found) == ["healthy"]
    assert found.first is None
    assert "nothing stands against it" in str(found)


@pytest.mark.parametrize("n", [5, 6, 8, 12])
@pytest.mark.parametrize("seed", range(5))
def test_short_curves_raise_no_alarm(n, seed):
    train, val = fall(n, seed=seed, speed=4), fall(n, end=0.2, speed=4, seed=seed + 9)
    for found in (read(train, val), read(train), read(None, val), diagnose(val_metric=accuracy(val)),
                  diagnose(train_loss=train, val_loss=val)):  # fmt: skip
        assert not [f for f in found if f.severity in ("critical", "warning")], str(found)


# -- each rule on a curve that shows it, and on its closest healthy neighbour ------------------------------------------
def sorted_steps(pattern):
    t = np.arange(25 * 30)
    return 0.3 + 2 * np.exp(-t / 150) + 0.1 * pattern * np.sin(2 * np.pi * (t % 25) / 25) + wiggle(len(t), 0.02)


def over(n=30, at=12, jump=6.0):
    loss = fall(n)
    loss[at:] = loss[at:] + np.linspace(0.5 * jump, jump, n - at)
    return loss


def with_spikes(count):
    loss = fall(60)
    for k in range(count):
        loss[15 + 9 * k] += 1.0
    return loss


def bouncing(size):
    return fall(40, size=size), fall(40, end=0.2, size=1.5 * size, seed=3)


FLAT = 2.3 + wiggle(30, 0.002)
SLOW = 2.3 - 0.02 * np.arange(30) + wiggle(30, 0.002)
CONSTANT = {"learning_rate": 1e-3}
GROWING = fall(40, end=0.4, speed=1.2, size=0.002)
CASES = {
    "non_finite": (
        lambda: read([*fall(20), math.nan], [*fall(20), math.nan]),
        lambda: read(fall(21), fall(21, seed=1)),
    ),
    "diverged": (lambda: read(over(), over(jump=8.0)), lambda: read(fall(), fall(seed=1))),
    "spikes": (lambda: read(with_spikes(4)), lambda: read(with_spikes(0))),
    "oscillating": (lambda: read(*bouncing(0.2)), lambda: read(*bouncing(0.005))),
    "rate_too_low": (lambda: read(SLOW, SLOW + 0.01, **CONSTANT), lambda: read(fall(), fall(seed=1), **CONSTANT)),
    "dead_start": (lambda: read(FLAT, FLAT), lambda: read(SLOW, SLOW)),
    "plateau": (
        lambda: read(fall(40, speed=40), fall(40, end=0.2, speed=40, seed=1), **CONSTANT),
        lambda: read(GROWING, GROWING + 0.02, **CONSTANT),
    ),
    "still_improving": (
        lambda: read(GROWING, GROWING + 0.02, **CONSTANT),
        lambda: read(GROWING, GROWING + 0.02, learning_rate=list(np.linspace(1e-3, 1e-6, 40))),
    ),
    "overfitting": (
        lambda: read(fall(40, end=0.01), rising()),
        lambda: read(fall(40, end=0.01), rising(by=0.0)),
    ),
    "overfitting_loss_only": (
        lambda: read(fall(40, end=0.01), rising(), val_metric=accuracy(fall(40, end=0.5))),
        lambda: read(fall(40, end=0.01), rising(), val_metric=accuracy(rising(by=1.0))),
    ),
    "gap_without_rise": (
        lambda: read(fall(40, end=0.01), fall(40, end=1.0, seed=1)),
        lambda: read(fall(40, end=0.1), fall(40, end=0.15, seed=1)),
    ),
    "underfitting": (
        lambda: read(fall(40, end=1.5, speed=20), fall(40, end=1.52, speed=20, seed=1)),
        lambda: read(fall(40, end=0.2, speed=20), fall(40, end=0.22, speed=20, seed=1)),
    ),
    "val_better_than_train": (
        lambda: read(fall(end=0.8), fall(end=0.3, seed=1)),
        lambda: read(fall(end=0.8), fall(end=0.3, seed=1), config={"dropout": 0.5}),
    ),
    "val_at_chance": (
        lambda: read(fall(), 2.31 + np.linspace(0, 2, 30)),
        lambda: read(fall(), fall(end=0.6, seed=1)),
    ),
    "loss_against_metric": (
        lambda: read(fall(), fall(seed=1), val_metric=1.0 - accuracy(fall(seed=1))),
        lambda: read(fall(), fall(seed=1), val_metric=accuracy(fall(seed=1))),
    ),
    "noisy_validation": (
        lambda: read(fall(), fall(seed=1), val_metric=0.8 * accuracy(fall()) + wiggle(30, 0.04, 5), n_val=150),
        lambda: read(fall(), fall(seed=1), val_metric=0.9 * accuracy(fall()) + wiggle(30, 0.003), n_val=15000),
    ),
    "sawtooth": (
        lambda: read(sorted_steps(1.0), fall(30, seed=1)),
        lambda: read(sorted_steps(0.0), fall(30, seed=1)),
    ),
    "too_good_too_early": (
        lambda: read(fall(end=1e-4, speed=200, size=0), fall(end=1e-4, start=1.0, speed=300, size=0)),
        lambda: read(fall(), fall(seed=1)),
    ),
    "over_clipping": (
        lambda: read(fall(), clipped=[0.9] * 30),
        lambda: read(fall(), clipped=[0.9] * 10 + [0.2] * 20),
    ),
    "loss_scale_trouble": (
        lambda: read(fall(), loss_scale=list(65536.0 * 0.5 ** np.arange(30))),
        lambda: read(fall(), loss_scale=[65536.0, 32768.0, 16384.0] + [16384.0] * 27),
    ),
    "should_stop": (
        lambda: read(fall(40, end=0.01), rising(low=0.1, by=1.0), max_epochs=100, **CONSTANT),
        lambda: read(fall(40, end=0.01), rising(by=0.0), max_epochs=100, **CONSTANT),
    ),
    "healthy": (healthy, lambda: read(FLAT, FLAT)),
}


@pytest.mark.parametrize("kind", CASES)
def test_a_rule_speaks_on_what_it_is_for(kind):
    found = CASES[kind][0]()
    assert found.has(kind), str(found)


@pytest.mark.parametrize("kind", CASES)
def test_a_rule_is_silent_on_the_closest_neighbour(kind):
    found = CASES[kind][1]()
    assert not found.has(kind), str(found)


@pytest.mark.parametrize("many", [3, 4, 5, 7])
def test_a_few_records_that_rise_at_each_are_overfitting(many):
    """As fine-tuning has them: three epochs or four."""
    found = diagnose(
        train_loss=[2.0, 1.2, 0.6, 0.3, 0.15, 0.08, 0.05][:many], val_loss=[1 + 0.2 * i for i in range(many)]
    )
    assert [(f.kind, f.severity) for f in found] == [("overfitting", "warning")]


def test_of_what_a_few_records_do_not_show_little_is_said():
    found = diagnose(train_loss=[2.0, 1.2, 0.6], val_loss=[1.0, 0.9, 1.0])
    (only,) = found
    assert only.kind == "healthy"
    assert "3 records say little more" in only.text
    wavy = diagnose(train_loss=[2.0, 1.2, 0.6, 0.3, 0.2], val_loss=[1.0, 1.2, 1.1, 1.3, 1.25])
    assert not wavy.has("overfitting")


def test_every_kind_is_tested_and_told_of():
    assert set(KINDS) == set(RULES) == set(CASES) | {"edge_of_stability", "no_effect", "seed_fragility"}
    assert all(kind.means.endswith(".") and 0 <= kind.tier <= 5 for kind in KINDS.values())
    known = {cause for rule in RULES.values() for cause in rule.causes}
    assert known <= set(RULES)
    for kind in RULES:
        assert kind not in explaining(kind), kind


def test_the_page_has_every_rule_as_it_is():
    page = (Path(__file__).parents[1] / "docs" / "diagnosis.md").read_text(encoding="utf-8")
    for rule in RULES.values():
        row = f"| `{rule.kind}` | {rule.tier} | {rule.means} | {rule.when} |"
        assert row in page, "run benchmarks/calibrate_diagnosis.py --write"


def explaining(kind):
    """Everything that may explain ``kind``, directly or not."""
    out, todo = set(), list(RULES[kind].causes)
    while todo:
        cause = todo.pop()
        if cause not in out:
            out.add(cause)
            todo += RULES[cause].causes
    return out


# -- order, causes and tiers -------------------------------------------------------------------------------------------
def test_a_cause_stands_before_its_symptom_and_keeps_the_advice():
    found = read([*over(), math.nan], [*over(), math.nan])
    assert kinds(found)[0] == "non_finite"
    later = next(f for f in found if f.kind == "diverged")
    assert later.causes == ("non_finite",)
    assert later.action == ()
    assert "Explained by non_finite" in str(found)


def test_nothing_of_tier_three_to_five_is_advised_while_the_pipeline_or_the_rate_is_broken():
    val = 2.4 + np.linspace(0, 3, 40) + wiggle(40, 0.005)
    found = read(fall(40, end=0.01), val, clipped=[0.9] * 40)
    assert {"val_at_chance", "over_clipping", "overfitting"} <= set(kinds(found))
    assert all(not f.action for f in found if f.tier >= 3)
    assert found.first is not None
    assert found.first.kind == "val_at_chance"
    alone = read(fall(40, end=0.01), rising())
    assert any("Augment" in step for f in alone if f.kind == "overfitting" for step in f.action)


def test_a_hint_of_tier_one_holds_nothing_back():
    train = fall(60, end=0.01)
    train[30] += 1.0
    found = read(train, rising(60))
    assert next(f for f in found if f.kind == "spikes").severity == "hint"
    assert next(f for f in found if f.kind == "overfitting").action


def test_the_text_has_severity_time_numbers_and_what_to_do():
    text = str(read(fall(40, end=0.01), rising(low=0.3, by=0.5), name="run 7"))
    assert text.startswith("run 7:\n1. WARNING overfitting, since 1")
    assert "%" in text
    assert "-> Augment the data" in text


def test_the_onset_of_overfitting_is_where_the_curve_turns():
    for low in (0.2, 0.4, 0.6):
        found = next(f for f in read(fall(50, end=0.01), rising(50, low=low, by=0.6)) if f.kind == "overfitting")
        assert found.since == pytest.approx(50 * low, abs=6)


def test_nan_in_the_middle_is_a_warning_and_at_the_end_critical():
    passing, ending = fall(), fall()
    passing[10], ending[-1] = math.nan, math.inf
    assert [f.severity for f in read(passing) if f.kind == "non_finite"] == ["warning"]
    assert [f.severity for f in read(ending) if f.kind == "non_finite"] == ["critical"]
    only = read([math.nan] * 5, [math.nan] * 5)
    assert kinds(only) == ["non_finite"]
    assert "never finite" in str(only)


def test_a_collapse_is_told_from_a_rate_that_is_too_small():
    collapsed = read([9.0, 12.0, 4.0] + [2.303] * 20)
    assert "collapsed" in next(f for f in collapsed if f.kind == "dead_start").text


def test_a_schedule_that_decays_always_peaks_last_and_is_not_told_to_go_on():
    decayed = read(GROWING, GROWING + 0.02, learning_rate=list(np.linspace(1e-3, 0, 40)))
    assert not decayed.has("still_improving")
    unknown = next(f for f in read(GROWING, GROWING + 0.02) if f.kind == "still_improving")
    assert "decayed" in unknown.text
    midway = next(f for f in read(GROWING, GROWING + 0.02, max_epochs=80) if f.kind == "still_improving")
    assert midway.severity == "good"


@pytest.mark.parametrize("many", [5, 6, 8, 12, 15, 16, 17, 24, 40])
def test_what_the_last_quarter_gained_is_what_the_curve_shows(many):
    curve = 0.25 + np.exp(-np.arange(many) * 5.0 / many)
    still = next(f for f in diagnose(train_loss=curve - 0.1, val_loss=curve) if f.kind == "still_improving")
    quarter = np.interp(many - 0.25 * (many - 1), np.arange(1, many + 1), curve) - curve[-1]
    assert still.numbers["gain"] == pytest.approx(quarter, rel=0.5)
    assert f"by {still.numbers['gain']:.2g} over the last quarter" in still.text


def test_what_a_short_steep_curve_gained_early_is_not_told_of_its_end():
    val = [1.0, 0.6, 0.45, 0.38, 0.34, 0.31, 0.29, 0.28]
    assert "by 0.025 over the last quarter" in str(diagnose(train_loss=[x - 0.02 for x in val], val_loss=val))


@pytest.mark.parametrize("many", [10, 400])
def test_a_gap_is_told_by_where_the_curves_end_also_while_they_fall(many):
    val, train = (list(np.geomspace(2.0, end, many)) for end in (0.3017, 0.1101))
    found = diagnose(train_loss=train, val_loss=val)
    assert found.has("still_improving")
    gap = next(f for f in found if f.kind == "gap_without_rise")
    assert gap.text == "The validation loss ends at 0.302, the training loss at 0.11."
    assert gap.numbers == pytest.approx({"val_loss": 0.3017, "train_loss": 0.1101})


def test_batches_alone_show_a_dead_start():
    assert read(2.3 + wiggle(2000, 0.3), unit="step").has("dead_start")
    assert not read(fall(2000, size=0.3), unit="step").has("dead_start")
    assert not read(2.3 - np.linspace(0, 0.3, 2000) + wiggle(2000, 0.3), unit="step").has("dead_start")


def test_a_metric_whose_direction_is_wrong_is_seen():
    error = 0.2 + 3 * np.exp(-10 * np.linspace(0, 1, 30))
    assert diagnose(val_loss=error, val_metric=error).has("loss_against_metric")
    assert not diagnose(val_loss=error, val_metric=error, maximize=False).has("loss_against_metric")


# -- properties --------------------------------------------------------------------------------------------------------
SHAPES = st.sampled_from(["healthy", "overfitting", "slow", "flat", "bouncing", "diverged"])


def shape(name, seed):
    n = 36
    return {
        "healthy": lambda: (fall(n, seed=seed), fall(n, end=0.15, seed=seed + 1)),
        "overfitting": lambda: (fall(n, end=0.01, seed=seed), rising(n, seed=seed)),
        "slow": lambda: (2.3 - 0.02 * np.arange(n) + wiggle(n, 0.002, seed), 2.31 - 0.02 * np.arange(n)),
        "flat": lambda: (2.3 + wiggle(n, 0.002, seed), 2.3 + wiggle(n, 0.002, seed + 1)),
        "bouncing": lambda: bouncing(0.2),
        "diverged": lambda: (over(n), over(n, jump=8.0)),
    }[name]()


def curves(train, val, x=None, scale=1.0, trivial=LOG10, **rest):
    x = np.arange(1.0, len(train) + 1) if x is None else x
    return Curves(Series.of(scale * train, x), Series.of(scale * val, x), trivial_loss=scale * trivial, **rest)


@settings(max_examples=40)
@given(SHAPES, st.integers(0, 50), st.integers(-20, 20))
def test_the_scale_of_a_loss_changes_nothing(name, seed, power):
    pair = shape(name, seed)
    assert kinds(diagnose_curves(curves(*pair))) == kinds(diagnose_curves(curves(*pair, scale=2.0**power)))


@settings(max_examples=40)
@given(SHAPES, st.integers(0, 50), st.integers(-8, 12))
def test_the_unit_of_time_changes_nothing(name, seed, power):
    train, val = shape(name, seed)
    x = np.arange(1.0, len(train) + 1)
    plain = diagnose_curves(curves(train, val, x, length=float(x[-1]), unit="step"))
    stretched = diagnose_curves(curves(train, val, 2.0**power * x, length=2.0**power * x[-1], unit="step"))
    assert kinds(plain) == kinds(stretched)


@settings(max_examples=25)
@given(SHAPES, st.integers(0, 50), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_a_loss_that_ends_non_finite_is_first_of_all_that(name, seed, value):
    train, val = shape(name, seed)
    found = diagnose_curves(curves(np.append(train, value), np.append(val, value)))
    assert found.has("non_finite")
    assert next(f for f in found if f.kind == "non_finite").severity == "critical"
    assert not found.has("healthy")


@settings(max_examples=25)
@given(st.permutations(range(5)))
def test_the_order_of_trainings_does_not_matter(order):
    runs = [curves(*shape(name, 3), name=name) for name in ("healthy", "overfitting", "flat", "diverged", "slow")]
    assert kinds(diagnose_study([runs[k] for k in order])) == kinds(diagnose_study(runs))


@settings(max_examples=60)
@given(
    st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(math.nan), st.just(math.inf)), min_size=1, max_size=60),
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60),
)
@pytest.mark.filterwarnings("error")
def test_any_numbers_can_be_read(train, val):
    for found in (
        diagnose(train_loss=train, val_loss=val, val_metric=val, train_metric=val),
        diagnose(train_loss=train, classes=3),
        diagnose(val_loss=train, max_epochs=100),
        diagnose(val_metric=val),
    ):
        assert str(found)
        assert all(0.0 <= f.confidence <= 1.0 for f in found)


@pytest.mark.parametrize("part", [0.05, 0.1, 0.25, 0.5, 0.9])
def test_a_prefix_of_a_healthy_training_raises_no_alarm(part):
    train, val = fall(60), fall(60, end=0.15, seed=1)
    whole = curves(train, val, length=60.0, config={"schedule": "cosine"})
    found = diagnose_curves(whole.prefix(part))
    assert not [f for f in found if f.severity in ("critical", "warning")], str(found)


def test_a_hundred_thousand_steps_are_read_in_no_time():
    steps = fall(100_000, size=0.1)
    diagnose(train_loss=steps, val_loss=fall(200), classes=10)  # what is compiled and cached at first use
    begin = time.perf_counter()
    found = diagnose(train_loss=steps, val_loss=fall(200), val_metric=accuracy(fall(200)), classes=10)
    assert time.perf_counter() - begin < 0.5  # 50 ms on an idle machine
    assert not [f for f in found if f.severity in ("critical", "warning")]


# -- bad inputs --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "no curve"),
        ({"train_loss": "abc"}, "not a list of numbers"),
        ({"train_loss": [[1.0, 2.0]]}, "shape"),
        ({"train_loss": [1.0], "classes": 1}, "classes=1"),
        ({"val_loss": [2.0, 1.0], "val_epochs": [2.0, 1.0]}, "do not rise"),
    ],
)
def test_what_cannot_be_read_is_said(given, says):
    with pytest.raises(UserError, match=says):
        diagnose(**given)


def test_empty_and_single_records_say_nothing():
    assert len(diagnose(train_loss=[])) == 0
    assert len(diagnose(train_loss=[1.0], val_loss=[1.0])) == 0
    assert "Nothing can be said" in str(diagnose(train_loss=[1.0]))
    with pytest.raises(UserError):
        diagnose_study([])


# -- several trainings -------------------------------------------------------------------------------------------------
def test_a_configuration_that_fails_with_one_seed_only_is_fragile():
    good = [curves(fall(seed=s), fall(seed=s + 9), config={"learning_rate": 0.01, "seed": s}) for s in range(3)]
    bad = curves(FLAT, FLAT, config={"learning_rate": 0.01, "seed": 4})
    assert diagnose_study([*good, bad]).has("seed_fragility")
    assert not diagnose_study(good).has("seed_fragility")


def seeds(config, *losses, **metric):
    """Trainings of one configuration, a seed each."""
    return [
        Curves(train_loss=Series.of(loss), val_loss=Series.of(loss), length=len(loss), config={**config, "seed": s},
               **{k: Series.of(curves[s]) for k, curves in metric.items()})
        for s, loss in enumerate(losses)
    ]  # fmt: skip


def test_seeds_of_a_slow_training_are_not_told_to_go_slower_still():
    """The default of a proof, whose rate is too low: how far each came by then is no result."""
    slow = seeds({"learning_rate": 1e-5}, *([2.3 - k * i for i in range(8)] for k in (0.05, 0.08, 0.12)))
    steep = seeds({"learning_rate": 1e-4}, *([2.3 - k * i**2 for i in range(8)] for k in (0.02, 0.03, 0.04)))
    calm = seeds({"learning_rate": 1e-2}, *(list(fall(8, seed=s, size=0.001)) for s in range(3)))
    assert diagnose_study(slow).has("rate_too_low")
    assert not diagnose_study(slow).has("seed_fragility")
    assert not diagnose_study([*slow, *steep, *calm]).has("seed_fragility")


def test_of_fragile_configurations_the_best_is_named_by_where_its_curves_end():
    def group(rate, *ends):
        accuracies = [[0.1, 0.3, *np.linspace(end - 0.02, end, 10)] for end in ends]
        losses = [[2.3, 1.5, *np.linspace(1.02, 1.0, 10)] for _ in ends]
        return seeds({"learning_rate": rate}, *losses, val_metric=accuracies)

    for trainings in ([*group(1e-1, 0.5, 0.7, 0.9), *group(1e-3, 0.85, 0.9, 0.95)], group(1e-3, 0.85, 0.9, 0.95)):
        fragile = next(f for f in diagnose_study(trainings) if f.kind == "seed_fragility")
        assert fragile.text == "3 seeds of one configuration end at 0.9 +- 0.05."
        assert fragile.curve == "val_metric"


def test_the_edge_of_stability_needs_a_larger_rate_that_failed():
    def at(rate, end):
        return curves(fall(end=end), fall(end=end, seed=1), config={"learning_rate": rate})

    broken = curves(FLAT, FLAT, config={"learning_rate": 0.3})
    found = diagnose_study([at(0.01, 0.5), at(0.03, 0.3), at(0.1, 0.2), broken])
    assert next(f for f in found if f.kind == "edge_of_stability").numbers == {"best_rate": 0.1, "failed_rate": 0.3}
    assert not diagnose_study([at(0.01, 0.5), at(0.03, 0.3), at(0.1, 0.2)]).has("edge_of_stability")
    assert not diagnose_study([at(0.01, 0.2), at(0.03, 0.1), at(0.1, 0.2), broken]).has("edge_of_stability")


def test_what_all_trainings_have_is_told_of_all():
    found = diagnose_study([curves(FLAT, FLAT, config={"learning_rate": 10.0**-k}) for k in range(4)])
    assert found.first is not None
    assert found.first.kind == "dead_start"
    assert found.first.text.startswith("Every training failed; 4 of 4 trainings.")


def test_a_validation_set_that_cannot_rank_the_best_is_told():
    runs = [
        curves(fall(), fall(seed=k), val_metric=Series.of(np.full(30, 0.9 + 0.001 * k)), n_val=200, name=str(k))
        for k in range(4)
    ]
    assert "counting 200 samples" in next(f for f in diagnose_study(runs) if f.kind == "noisy_validation").text


# -- ending early ------------------------------------------------------------------------------------------------------
def test_dead_is_said_after_a_fifth_and_not_of_what_falls():
    flat = curves(FLAT + 0.01, FLAT + 0.01, length=30.0)
    assert not dead(flat.prefix(0.1))
    assert dead(flat.prefix(0.25))
    assert hopeless(flat)
    slow = 2.31 - 0.0002 * np.arange(30)
    assert not dead(curves(slow, slow, length=30.0).prefix(0.5))
    assert dead(curves(slow, slow, length=30.0).prefix(0.75))
    assert not dead(curves(SLOW, SLOW, length=30.0))
    assert not dead(Curves(val_loss=Series.of(FLAT), length=30.0))  # without a trivial loss nothing is known


def test_diverged_is_said_of_what_does_not_come_back():
    assert diverged(curves(over(jump=20.0), over(jump=20.0)))
    assert diverged(curves(np.append(fall(), math.nan), np.append(fall(), math.nan)))
    assert not diverged(curves(fall(), fall()))
    assert not diverged(Curves())


# -- from a study ------------------------------------------------------------------------------------------------------
def history(metric="val_accuracy", minimize=False, config=None, reports=(), failure=None, target=None):
    space = lt.Space(learning_rate=lt.Float(1e-5, 1e-1, log=True))
    study = Study("s", space, Objective(metric, minimize), 10, target=target)
    log = [ev.Created(study), ev.Started(0, config or {"learning_rate": 0.01}, 1, 10, 10, "why")]
    log += [ev.Reported(0, k, metrics, 0.1) for k, metrics in enumerate(reports, 1)]
    if failure:
        log.append(ev.Failed(0, failure, "why"))
    return fold([Entry(float(k), event) for k, event in enumerate(log)])


def test_a_trial_becomes_curves():
    rows = [{"train_loss": 2.0 / k, "val_loss": 2.1 / k, "train_accuracy": 0.1 * k, "val_accuracy": 0.09 * k,
             "clipped": 0.5} for k in range(1, 6)]  # fmt: skip
    told = history(reports=rows, target={"recipe": "digits", "model": "mlp"})
    found = from_trial(told, told.trials[0])
    assert sorted(found.all()) == ["clipped", "learning_rate", "train_loss", "train_metric", "val_loss", "val_metric"]
    assert found.maximize
    assert found.length == 10.0
    assert found.config == {"learning_rate": 0.01, "seed": 1}
    assert found.seen == 0.5
    assert found.learning_rate is not None
    assert np.all(np.diff(found.learning_rate.y) < 0)


def test_a_trial_of_another_objective_and_a_failed_one():
    told = history("rmse", True, reports=[{"rmse": 3.0}, {"rmse": 2.0}])
    found = from_trial(told, told.trials[0])
    assert (found.maximize, found.val_loss, found.learning_rate) == (False, None, None)
    told = history("val_loss", True, reports=[{"val_loss": 3.0}], failure="nonfinite")
    found = from_trial(told, told.trials[0])
    assert found.val_loss is not None
    assert math.isnan(found.val_loss.y[-1])
    assert found.val_metric is None
    assert diagnose_curves(found).has("non_finite")


def test_the_schedules_are_those_of_the_recipe():
    from luthier.recipe import schedules

    for name in ("constant", "cosine", "linear", "step", "onecycle", "wsd"):
        for done in (0.1, 0.3, 0.6, 0.9):
            exact = schedules.lr_factor(int(done * 100_000), 100_000, name, 0.05)
            assert schedule_factor(name, done, 0.05) == pytest.approx(exact, abs=2e-3), (name, done)
    assert schedule_factor("plateau", 0.5) is None


# -- statistics --------------------------------------------------------------------------------------------------------
def test_noise_does_not_see_a_trend_and_measures_what_is_there():
    x = np.linspace(0, 1, 400)
    assert noise(5 * x + wiggle(400, 0.1)) == pytest.approx(0.1, rel=0.2)
    assert noise(x**2) < 1e-5
    assert noise(np.ones(3)) == 0.0


def test_the_trend_agrees_with_scipy():
    from scipy.stats import kendalltau, theilslopes

    x, y = np.arange(40.0), 0.01 * np.arange(40) + wiggle(40, 0.2)
    found = trend(x, y)
    assert found.slope == pytest.approx(theilslopes(y, x).slope)
    assert found.p == pytest.approx(kendalltau(x, y).pvalue, abs=0.02)


def test_small_tools():
    assert breakpoint_of(np.arange(20.0), np.abs(np.arange(20.0) - 12)) == 12.0
    assert list(median_filter(np.array([1.0, 9.0, 2.0, 3.0]), 3)) == [1.0, 2.0, 3.0, 3.0]
    assert len(thin(Series.of(np.arange(1000.0)), 100)) == 100
    assert smooth(np.array([1.0, 9.0, 1.0, 1.0]))[1] == 1.0


def test_confidence_is_what_was_measured():
    assert all(confidence(kind, 1.0) == 1.0 for kind in CERTAIN)
    assert confidence("loss_scale_trouble", 1.0) == UNMEASURED
    for kind, rows in measured()["kinds"].items():
        assert kind in RULES
        assert [row["seen"] for row in rows] == sorted(row["seen"] for row in rows)


def test_diagnose_is_at_the_front_door():
    assert lt.diagnose is diagnose
    assert "diagnose" in lt.__all__


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"train_loss": [1.0] * 9, "val_los": [1.0] * 9}, "no curve 'val_los'. Did you mean 'val_loss'?"),
        ({"train_loss": [1.0] * 9, "val_accuracy": [1.0] * 9}, "Pass it as val_metric="),
        ({"train_loss": 5}, "train_loss=5 is not a list of numbers"),
    ],
)
def test_a_curve_by_another_name_is_refused_and_not_swallowed(given, says):
    with pytest.raises(UserError) as error:
        lt.diagnose(**given)
    assert says in str(error.value)


def test_what_has_learned_and_then_exploded_is_no_dead_start():
    train = [2.3, 1.0, 0.6, 0.4, 0.3, 0.25] + [0.25 * 2 ** (i + 1) for i in range(14)]
    found = lt.diagnose(train_loss=train, val_loss=[1.1 * v for v in train])
    assert found.first.kind == "diverged"
    assert not found.has("dead_start")


def test_a_loss_that_runs_away_at_the_end_has_diverged():
    train = [2.3 - 0.1 * i if i < 6 else 1.8 * 1.5 ** (i - 6) for i in range(10)]
    assert lt.diagnose(train_loss=train, val_loss=[v + 0.1 for v in train]).first.kind == "diverged"


def test_a_short_training_is_no_repeat_of_a_long_one():
    def run(epochs, end):
        losses = [2.3 - (2.3 - end) * i / (epochs - 1) for i in range(epochs)]
        return Curves(train_loss=Series.of(losses), val_loss=Series.of(losses), config={"rate": 1e-3}, length=epochs)

    assert not diagnose_study([run(5, 2.0), run(20, 0.3), run(10, 1.2)]).has("seed_fragility")
