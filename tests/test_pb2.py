"""Population-based bandits: the process that forgets, the bound, what is learned from the log."""

from __future__ import annotations

import math

import numpy as np
import pytest
from clones import history_of, started, trained

import luthier as lt
from luthier.core import events as ev
from luthier.numerics.varying import Varying, fitted
from luthier.schedule.pb2 import PB2, intervals, kappa, maximum


def test_the_process_is_the_formula_and_its_likelihood_has_the_right_slope():
    rng = np.random.default_rng(0)
    x, t = rng.random((12, 2)), np.repeat([0.0, 1.0, 4.0], 4)
    y = np.sin(5 * x[:, 0]) + 0.1 * t
    model = Varying(x, t, y, variance=2.0, length=0.4, drift=0.3, noise=0.05)

    def kernel(x1, t1):
        apart = ((x1[:, None] - x[None]) ** 2).sum(2)
        return 2.0 * np.exp(-apart / (2 * 0.4**2)) * 0.7 ** (np.abs(t1[:, None] - t) / 2)

    noisy = kernel(x, t) + 0.05 * np.eye(12)
    new, when = np.array([[0.3, 0.6]]), np.array([5.0])
    across, inverse = kernel(new, when), np.linalg.inv(noisy)
    mean, deviation = model.predictor()(new, when)
    assert mean == pytest.approx((across @ inverse @ y), rel=1e-5)
    assert deviation**2 == pytest.approx(2.0 - np.diag(across @ inverse @ across.T), rel=1e-5)
    likelihood = -0.5 * (y @ inverse @ y + np.linalg.slogdet(noisy)[1] + 12 * math.log(2 * math.pi))
    assert model.log_likelihood() == pytest.approx(likelihood, rel=1e-4)
    logs = np.log([2.0, 0.4, 0.3, 0.05])
    _, slope = model._loss(logs)
    for i in range(4):
        up, down = (model._loss(logs + h * np.eye(4)[i])[0] for h in (1e-5, -1e-5))
        assert slope[i] == pytest.approx((up - down) / 2e-5, rel=1e-3, abs=1e-6)


def test_the_fit_forgets_what_drifts_and_remembers_what_does_not():
    rng = np.random.default_rng(1)
    x = rng.random((60, 1))
    t = np.repeat(np.arange(6.0), 10)
    steady = np.sin(6 * x[:, 0])
    drifting = np.sin(6 * x[:, 0] + 2.0 * t)
    assert fitted(x, t, steady / steady.std()).drift < 0.01
    assert fitted(x, t, drifting / drifting.std()).drift > 0.2


def test_the_bandit_goes_where_the_gain_is_and_spreads_what_is_still_trained():
    rng = np.random.default_rng(2)
    points = rng.random((40, 1))
    x, t = np.column_stack([np.full(40, 0.5), points]), np.repeat(np.arange(4.0), 10)
    y = -((points[:, 0] - 0.7) ** 2)
    model = fitted(x, t, (y - y.mean()) / y.std())
    best = maximum(model, model, 0.5, 4.0, np.array([0.1]), np.random.default_rng(0))
    assert best[0] == pytest.approx(0.7, abs=0.1)
    seen = model.with_points(np.array([[0.5, best[0]]]), np.array([4.0]))
    there = np.array([[0.5, best[0]]]), np.array([4.0])
    assert seen.predictor()(*there)[1] < model.predictor()(*there)[1]
    assert kappa(2) == 0.0
    assert kappa(100) == pytest.approx(math.sqrt(0.2 * math.log(40)))


def test_the_intervals_of_the_model_are_those_of_the_log():
    events = [
        started(0, 3), *trained(0, 0, 3, loss=5.0), ev.Resumed(0, 6, ""), *trained(0, 3, 6, loss=2.0),
        started(1, 9, parent=0, clone=True), *trained(1, 6, 9, loss=1.0),
        started(2, 9, parent=0, clone=True),
    ]  # fmt: skip
    found = intervals(history_of(*events), (3, 6, 9))
    assert [(i.number, i.before, i.gain) for i in found] == [
        (1, 5.0, 1.0),
        (2, 2.0, pytest.approx(1 / 3)),
        (2, 2.0, None),
    ]


def test_pb2_learns_which_rate_pays():
    """The loss falls by how near the rate is to 1e-3, in every interval: what is picked late is nearer than early."""
    space = lt.Space(learning_rate=lt.Float(1e-6, 1.0, log=True))
    asked = lt.AskTell(space, minimize="val_loss", max_epochs=20, budget="6 trials", strategy=PB2(population=6), seed=3)
    losses: dict = {}
    while job := asked.ask():
        loss = losses[job.clone_of if job.clone_of is not None else job.trial, job.start] if job.start else 10.0
        for epoch in range(job.start + 1, job.until + 1):
            loss -= math.exp(-((math.log10(job.config["learning_rate"]) + 3) ** 2) / 2)
            losses[job.trial, epoch] = loss
            asked.tell(job, epoch, val_loss=loss)
    picked = [t for t in asked.history.trials if t.inherited]
    off = [abs(math.log10(t.config["learning_rate"]) + 3) for t in picked if "bandit" in t.why][2:]
    assert len(off) > 6
    assert np.median(off) < 0.5
