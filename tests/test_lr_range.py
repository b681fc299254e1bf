import math
import subprocess
import sys

import numpy as np
import pytest

from luthier.core.errors import UserError
from luthier.diagnosis import judge_sanity, suggest_lr

LRS = list(np.geomspace(1e-7, 10, 100))


def curve(best=0.1, start=2.3, noise=0.02, seed=0, lrs=LRS):
    """Flat, then falling over the two decades below ``best``, then exploding: the shape that textbooks draw."""
    rng = np.random.default_rng(seed)
    x = np.log10(np.asarray(lrs) / best)
    fall = 1.8 / (1 + np.exp(-4 * (x + 1)))
    return list(start - fall + np.where(x > 0, 10 ** np.minimum(2 * x, 3) - 1, 0) + noise * rng.standard_normal(len(x)))


def test_a_textbook_curve_gives_a_rate_on_its_slope():
    out = suggest_lr(LRS, [curve(seed=s) for s in range(3)])
    assert out.confidence == "high"
    assert out.center is not None
    assert 0.1 / 30 < out.center < 0.1  # the true slope is centered a decade below 0.1
    assert out.spread_decades == 0.5
    assert out.upper is not None
    assert out.center < out.upper < 3.0
    assert set(out.rules) == {"steep", "fall", "minimum/2"}
    assert f"{out.rules['steep']:.1e}" in out.why


def test_the_suggestion_moves_with_the_curve():
    low = suggest_lr(LRS, [curve(best=1e-3, seed=s) for s in range(3)])
    high = suggest_lr(LRS, [curve(best=1.0, seed=s) for s in range(3)])
    assert low.center is not None
    assert high.center is not None
    assert high.center / low.center == pytest.approx(1000, rel=0.7)


def test_a_plateau_before_the_fall_does_not_drag_the_suggestion_down():
    drifting = [loss - 0.001 * i for i, loss in enumerate(curve(noise=0.0))]  # falls strictly from the first rate on
    calm, drift = suggest_lr(LRS, [curve(noise=0.0)]), suggest_lr(LRS, [drifting])
    assert drift.center == pytest.approx(calm.center, rel=0.2)


@pytest.mark.parametrize("steps", [50, 100, 400])
def test_the_suggestion_does_not_depend_on_the_resolution_of_the_ladder(steps):
    lrs = list(np.geomspace(1e-7, 10, steps))
    out = suggest_lr(lrs, [curve(seed=s, lrs=lrs) for s in range(3)])
    assert out.center == pytest.approx(suggest_lr(LRS, [curve(seed=s) for s in range(3)]).center, rel=0.4)


def test_the_minimum_is_found_where_it_is_and_not_later():
    # A V on the log axis: an exponential average would find its bottom a decade further on.
    v = [list(2.0 + abs(np.log10(np.asarray(LRS) / 1e-2)))]
    assert suggest_lr(LRS, v).rules["minimum/2"] == pytest.approx(5e-3, rel=0.1)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_flat_curve_says_nothing(noise):
    rng = np.random.default_rng(1)
    flat = [list(2.3 + noise * rng.standard_normal(100)) for _ in range(3)]
    out = suggest_lr(LRS, flat)
    assert (out.center, out.confidence, out.upper) == (None, "none", None)
    assert "hardly fell" in out.why
    assert suggest_lr(LRS, flat, prior=(1e-3, 0.5)).spread_decades == 0.5


def test_a_fall_within_the_noise_says_nothing():
    rng = np.random.default_rng(2)
    wild = [list(1.0 - 0.1 * np.linspace(0, 1, 100) + 0.5 * rng.standard_normal(100))]
    assert suggest_lr(LRS, wild).confidence == "none"


def test_a_loss_that_breaks_at_once_says_nothing_but_where():
    out = suggest_lr(LRS, [[2.3, 2.4, 9.0, math.nan]] * 3)
    assert out.center is None
    assert "broke after 3 of 100" in out.why
    assert out.upper == pytest.approx(LRS[3])


def test_nan_cuts_a_repeat_like_a_shorter_one():
    full = [curve(seed=s) for s in range(3)]
    short = [r[:85] for r in full]
    marked = [[*r[:85], math.nan, *r[86:]] for r in full]
    assert suggest_lr(LRS, short) == suggest_lr(LRS, marked)


def test_one_wild_repeat_of_three_is_outvoted():
    calm = suggest_lr(LRS, [curve(seed=s) for s in range(3)])
    wild = suggest_lr(LRS, [curve(seed=0), curve(seed=1), curve(seed=2)[:40]])
    assert calm.center is not None
    assert wild.center == pytest.approx(calm.center, rel=0.5)


def test_rules_that_disagree_lean_on_the_prior():
    # An early small cliff, then a slow fall to the end: steep and minimum/2 lie many decades apart.
    x = np.arange(100)
    split = [list(3.0 - 0.5 / (1 + np.exp(-2.0 * (x - 25))) - 0.004 * np.maximum(x - 30, 0))]
    alone = suggest_lr(LRS, split)
    assert alone.confidence == "low"
    assert alone.center == pytest.approx(math.sqrt(alone.rules["fall"] * alone.rules["minimum/2"]))
    led = suggest_lr(LRS, split, prior=(1e-6, 0.1))
    assert led.confidence == "low"
    assert led.center == pytest.approx(1e-6, rel=0.5)  # a prior of a tenth of a decade outweighs the test's 0.7
    assert led.spread_decades == 0.7


def test_pure_noise_is_rarely_taken_for_a_fall():
    rng = np.random.default_rng(3)
    said = [suggest_lr(LRS, [list(2.3 + 0.3 * rng.standard_normal(100))]).center is not None for _ in range(200)]
    assert sum(said) <= 10


@pytest.mark.parametrize(
    ("lrs", "losses"), [([1e-3, 1e-4], [[1.0, 1.0]]), ([0.0, 1.0], [[1.0]]), (LRS, []), (LRS, [[1.0] * 101])]
)
def test_what_is_no_range_test_is_named(lrs, losses):
    with pytest.raises(UserError):
        suggest_lr(lrs, losses)


# -- sanity ------------------------------------------------------------------------------------------------------------


def answer(**changes):
    overfit = {"batch": 32, "steps": 40, "losses": [2.31, 1.0, 0.3], "accuracy": 1.0}
    return {
        "classes": 10,
        "expected_loss": math.log(10),
        "initial_loss": 2.31,
        "overfit": overfit | changes.pop("overfit", {}),
        "parameters": 1000,
        "seconds_per_epoch": 0.1,
        "finite_inputs": True,
        **changes,
    }


def grades(verdict):
    return {name: grade for name, grade, _ in verdict.checks}


def test_a_sound_pipeline():
    verdict = judge_sanity(answer())
    assert (verdict.ok, verdict.fatal) == (True, False)
    assert verdict.sentence == "Loss at init 2.31 (log 10 = 2.30); one batch of 32 learned by heart in 40 steps."


@pytest.mark.parametrize(
    ("loss", "grade"), [(2.5, "pass"), (2.9, "pass"), (3.1, "warn"), (1.5, "warn"), (3.4, "fail"), (0.7, "fail")]
)
def test_loss_at_init(loss, grade):
    verdict = judge_sanity(answer(initial_loss=loss))
    assert grades(verdict)["initial_loss"] == grade
    assert verdict.ok == (grade != "fail")
    assert not verdict.fatal


def test_targets_that_are_not_scaled():
    verdict = judge_sanity(
        answer(classes=None, expected_loss=4.0, initial_loss=104.0, overfit={"accuracy": None, "losses": [104.0, 0.5]})
    )
    assert grades(verdict) == {"finite_inputs": "pass", "initial_loss": "fail", "overfit_batch": "pass"}
    assert "scale the targets" in verdict.sentence
    assert not verdict.fatal


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"overfit": {"accuracy": 0.6, "losses": [2.3, 1.9], "steps": 300}}, "accuracy 60%"),
        ({"overfit": {"accuracy": None, "losses": [1.0, 0.021], "steps": 300}}, "loss 1 to 0.021"),
        ({"overfit": {"accuracy": 0.1, "losses": [2.3], "steps": 0}}, "does not depend on the parameters"),
        ({"overfit": {"accuracy": 0.1, "losses": [2.3], "steps": 0}, "parameters": 0}, "no trainable parameters"),
        ({"overfit": {"accuracy": 0.1, "losses": [], "steps": 0}, "initial_loss": None}, "not finite"),
        ({"finite_inputs": False}, "The data holds NaN"),
    ],
)
def test_what_no_tuning_can_mend_is_fatal(changes, says):
    verdict = judge_sanity(answer(**changes))
    assert (verdict.ok, verdict.fatal) == (False, True)
    assert says in verdict.sentence


def test_the_room_is_light():
    code = "import sys, luthier.diagnosis; print([m for m in ('torch', 'scipy', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
