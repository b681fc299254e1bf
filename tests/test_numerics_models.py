"""The Gaussian processes and what is computed with them: slopes, predictions, acquisition, scaling."""

from __future__ import annotations

import math

import numpy as np
import pytest

from luthier.numerics import curve_gp, gp
from luthier.numerics.acquisition import log_expected_improvement, log_probability_below
from luthier.numerics.scaling import Scale
from luthier.numerics.selection import representative


def slope_error(f, at) -> float:
    slope = f(at)[1]
    steps = 1e-5 * np.eye(len(at))
    return float(np.abs(slope - [(f(at + e)[0] - f(at - e)[0]) / 2e-5 for e in steps]).max())


def test_the_slopes_of_the_likelihood_are_those_of_finite_differences():
    rng = np.random.default_rng(0)
    x, y, of = rng.random((20, 4)), rng.normal(size=20), np.array([0, 1, 1, 2])

    def f(p):
        return gp._negative_log_likelihood(x, y, np.exp(p[:3])[of], math.exp(p[3]), of, 3)

    assert slope_error(f, rng.normal(size=4) * 0.3) < 1e-6


def test_the_slopes_of_the_curves_likelihood_are_those_of_finite_differences():
    rng = np.random.default_rng(0)
    seen = curve_gp.Observed(
        np.repeat(rng.random((5, 3)), 4, axis=0), np.tile([0.1, 0.2, 0.5, 1.0], 5), np.repeat(np.arange(5), 4)
    )
    y, of, pairs = rng.normal(size=20), np.array([0, 1, 1]), curve_gp._Pairs.of(seen)

    def f(p):
        return curve_gp._negative_log_likelihood(seen.x, pairs, y, np.exp(p[:2])[of], np.exp(p[2:]), of, 2)

    assert slope_error(f, np.concatenate([[0.2, -0.3], curve_gp.CENTRE + 0.1])) < 1e-4


def test_a_process_is_the_formula_of_the_book():
    # Rasmussen and Williams, equations 2.25 and 2.26, with the inverse written out.
    x, y, at = np.array([[0.0], [0.5], [1.0]]), np.array([1.0, -1.0, 0.5]), np.array([[0.25], [2.0]])

    def k(a, b):
        r = math.sqrt(5) * np.abs(a - b.T) / 0.7
        return (1 + r + r**2 / 3) * np.exp(-r)

    inverse = np.linalg.inv(k(x, x) + 0.01 * np.eye(3))
    mean, sd = gp.condition(x, y, np.array([0.7]), 0.01).predict(at)
    assert mean == pytest.approx(k(at, x) @ inverse @ y)
    assert sd**2 == pytest.approx(1.0 - np.diag(k(at, x) @ inverse @ k(x, at)))


def test_a_process_finds_what_matters_and_predicts():
    rng = np.random.default_rng(1)
    x = rng.random((60, 5))
    y = np.sin(6 * x[:, 0]) + x[:, 1]
    model = gp.fit(x, (y - y.mean()) / y.std())
    at = rng.random((200, 5))
    truth = (np.sin(6 * at[:, 0]) + at[:, 1] - y.mean()) / y.std()
    mean, sd = model.predict(at)
    assert np.sqrt(np.mean((mean - truth) ** 2)) < 0.1
    assert np.mean(np.abs(mean - truth) < 2 * sd + 0.02) > 0.9
    assert max(model.scales[:2]) < min(model.scales[2:])


def test_equal_points_and_equal_targets_are_no_trouble():
    for x in (np.full((12, 3), 0.5), np.zeros((12, 0))):
        mean, sd = gp.fit(x, np.zeros(12)).predict(x[:2])
        assert np.isfinite(mean).all()
        assert np.isfinite(sd).all()


def test_a_curve_is_continued_as_curves_like_it_went():
    t = np.array([0.1, 0.2, 0.4, 0.7, 1.0])
    floors, x = np.linspace(0, 2, 9), np.linspace(0, 1, 9)[:, None]
    full = [(i, s) for i in range(8) for s in t] + [(8, 0.1), (8, 0.2)]  # the last one has only begun
    seen = curve_gp.Observed(
        np.array([x[i] for i, _ in full]), np.array([s for _, s in full]), np.array([i for i, _ in full])
    )
    y = np.array([floors[i] + 2 * math.exp(-5 * s) for i, s in full])
    model = curve_gp.fit(seen, (y - y.mean()) / y.std(), (0,))
    mean, sd = model.predict(curve_gp.Observed(x[[8]], np.array([1.0]), np.array([8])))
    said = mean[0] * y.std() + y.mean()
    assert said == pytest.approx(2.0 + 2 * math.exp(-5), abs=0.25)
    unseen = model.predict(curve_gp.Observed(np.array([[1.5]]), np.array([1.0]), np.array([99])))[1]
    assert sd[0] < unseen[0]


def test_expected_improvement_is_its_integral_and_finite_far_away():
    from scipy.stats import norm

    z = np.array([-5.0, -1.0, 0.0, 0.5, 3.0])
    exact = np.log(norm.pdf(z) + z * norm.cdf(z))
    assert log_expected_improvement(-z, np.ones(5), 0.0) == pytest.approx(exact)
    assert log_expected_improvement(-2 * z, np.full(5, 2.0), 0.0) == pytest.approx(exact + math.log(2))
    far = log_expected_improvement(np.array([29.9, 30.1, 1e3, 1e6]), np.ones(4), 0.0)
    assert np.isfinite(far).all()
    assert (np.diff(far) < 0).all()
    assert log_probability_below(np.zeros(1), np.ones(1), 0.0)[0] == pytest.approx(math.log(0.5))


def test_exploded_losses_are_bad_ones_and_the_good_keep_their_distances():
    losses = [1.0, 1.1, 1.2, 1.3, 1.4]
    scale = Scale.of([*losses, 1e9, math.inf])
    assert np.diff(scale(losses)) == pytest.approx(np.diff(scale(losses))[0])
    assert scale([1e9])[0] == scale([1e30])[0] == scale([math.nan])[0] == scale([math.inf])[0]
    assert scale([1e9])[0] - scale([1.4])[0] < 10 * np.ptp(scale(losses))
    bad = Scale.of(
        [1.0] * 10 + [1.01] * 10 + [1.2, 1.4, 1e4]
    )  # nearly all are good: bad and worse are still told apart
    assert (np.diff(bad([1.0, 1.01, 1.1, 1.2, 1.4, 1e4])) > 0.05).all()
    every = Scale.of([3.0, 1.0, 2.0, 50.0])([3.0, 1.0, 2.0, 50.0])
    assert every.mean() == pytest.approx(0.0, abs=1e-12)
    assert every.std() == pytest.approx(1.0)
    assert Scale.of([math.inf])([math.inf, math.nan]).tolist() == [0.0, 0.0]
    assert Scale.of([2.0, 2.0])([2.0, 2.0]).tolist() == [0.0, 0.0]


def test_the_few_that_stand_for_many_are_the_best_the_latest_and_some_of_each_rank():
    ids = list(np.random.default_rng(0).permutation(1000))
    few = representative(ids, 30, 20, 30)
    assert 70 <= len(few) <= 80
    assert few[:30] == list(range(30))
    assert {ids[i] for i in few} >= set(range(980, 1000))
    rest = [i for i in few if i >= 30 and ids[i] < 980]
    assert max(np.diff(rest)) < 60
    assert representative([3, 1, 2], 1, 1, 1) == [0, 1, 2]
