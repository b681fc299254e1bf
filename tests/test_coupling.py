"""Hyperparameters that follow the batch size: searched in coupled coordinates, logged as plain values."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import drive, log_of

import luthier as lt
from luthier.core import events as ev
from luthier.core.errors import SpaceError
from luthier.knowledge.coupling import coupled
from luthier.run.decisions import replay
from luthier.strategies import build

SPACE = lt.Space(
    learning_rate=coupled(lt.Float(1e-4, 1e-2, log=True), "batch_size", reference=64, by="optimizer"),
    weight_decay=coupled(lt.Float(1e-3, 1.0, log=True), reference=64, role="weight_decay", by="optimizer"),
    batch_size=lt.Int(16, 256, log=True),
    optimizer=lt.Choice("adamw", "sgd"),
    depth=lt.Int(1, 3),
)


@pytest.mark.parametrize(
    ("optimizer", "batch", "rate", "decay"),
    [("adamw", 64, 1.0, 1.0), ("adamw", 256, 2.0, 2.0), ("adamw", 16, 0.5, 0.5), ("sgd", 256, 4.0, 1.0)],
)
def test_the_plain_value_scales_from_the_reference(optimizer, batch, rate, decay):
    held = SPACE.fix({"optimizer": optimizer, "batch_size": batch})
    config = held.from_unit([0.5, 0.5, 0.5])
    assert config["learning_rate"] == pytest.approx(1e-3 * rate)
    assert config["weight_decay"] == pytest.approx(10**-1.5 * decay)


@pytest.mark.parametrize(
    ("name", "rate", "decay"),
    [
        ("AdamW", 2.0, 2.0), ("SGD", 4.0, 1.0), ("torch.optim.SGD", 4.0, 1.0), ("sgd_momentum", 4.0, 1.0),
        ("Adam", 2.0, 1.0), ("RMSprop", 2.0, 1.0), ("Lion", 2.0, 2.0),
    ],
)  # fmt: skip
def test_an_optimizer_is_known_in_every_spelling(name, rate, decay):
    def factors(space):
        config = space.complete({"optimizer": name, "batch_size": 256, "learning_rate": 1e-3, "weight_decay": 0.1})
        return [config[n] / float(space.base(n, config)) for n in ("learning_rate", "weight_decay")]

    space = SPACE.replace(optimizer=lt.Choice("adamw", "sgd", name))
    for one in (space, lt.Space.from_json(space.to_json()), space.fix({"optimizer": name})):
        assert factors(one) == pytest.approx([rate, decay])


def test_what_the_log_knows_of_exponents_holds_for_it():
    # Spaces in older logs have the exponents of "sgd" and of no other spelling.
    stored = SPACE.to_dict()
    stored["optimizer"]["choices"] = ["adamw", "SGD"]
    space = lt.Space.from_dict(stored)
    follows = space["learning_rate"].follows
    assert follows.factor({"optimizer": "SGD", "batch_size": 256}) == 2.0
    assert space.to_dict() == stored


def test_points_of_the_unit_cube_come_back():
    rng = np.random.default_rng(0)
    for _ in range(100):
        config = SPACE.from_unit(rng.random(5).tolist())
        assert SPACE.from_unit(SPACE.to_unit(config)) == pytest.approx(config)
        assert SPACE.complete(config) == config


def test_text_keeps_the_coupling():
    assert lt.Space.from_yaml(SPACE.to_yaml()) == SPACE
    assert lt.Space.from_json(SPACE.to_json())["learning_rate"].follows == SPACE["learning_rate"].follows


@pytest.mark.parametrize("strategy", ["random", "grid", "sobol", "tpe", "asha", "playbook"])
def test_every_strategy_searches_the_base_and_logs_plain_values(strategy):
    def loss(config, epoch):  # the best base rate is 1e-3 at every batch size
        base = SPACE.base("learning_rate", config)
        return abs(np.log10(float(base)) + 3) + 1 / epoch

    study = drive(SPACE, strategy, loss, budget="12 trials")
    for trial in study.history.trained():
        base = SPACE.base("learning_rate", trial.config)
        assert 1e-4 * (1 - 1e-9) <= base <= 1e-2 * (1 + 1e-9)
    assert any(SPACE.base("learning_rate", t.config) != t.config["learning_rate"] for t in study.history.trained())
    assert replay(log_of(study), build(strategy)) == study.history.decisions
    for entry in log_of(study):
        json.dumps(ev.encode(entry.event)[1], allow_nan=False)


@pytest.mark.parametrize("extend", [False, True])
@pytest.mark.parametrize(("top", "small"), [(1e-2, True), (1e-2, False), (1e-4, True), (1e-4, False)])
def test_the_playbook_keeps_to_the_range_at_its_edges(top, small, extend):
    # The best base rate is the first or last of its range, and the best batch far from the reference.
    decay = coupled(lt.Float(5e-3, 1.0, log=True, default=0.05), role="weight_decay", by="optimizer")
    space = SPACE.replace(weight_decay=decay)

    def loss(config, epoch):
        base, batch = float(space.base("learning_rate", config)), config["batch_size"]
        return abs(np.log(base / top)) + (np.log(batch) if small else -np.log(batch)) + 1 / epoch + 10

    study = drive(space, lt.Playbook(extend=extend), loss, budget="30 trials")
    assert extend or study.history.space == space
    for trial in study.history.trained():
        for name in ("learning_rate", "weight_decay"):
            low, high = study.history.space[name].low, study.history.space[name].high
            assert low * (1 - 1e-6) <= space.base(name, trial.config) <= high * (1 + 1e-6)
    assert space.base("learning_rate", study.best_config) == pytest.approx(top, rel=0.3)
    extreme = study.best_config["batch_size"]
    assert extreme < 32 if small else extreme > 128
    seen = [tuple(t.config.values()) for t in study.history.trained() if t.seed == study.history.trials[1].seed]
    assert len(set(seen)) > 0.7 * len(seen)


def test_what_follows_moves_along_when_the_playbook_changes_the_batch():
    decay = coupled(lt.Float(5e-3, 1.0, log=True, default=0.05), role="weight_decay", by="optimizer")
    space = lt.Space(
        learning_rate=lt.Float(1e-4, 1e-2, log=True), batch_size=lt.Int(16, 256, log=True, default=64),
        optimizer=lt.Choice("adamw"), weight_decay=decay,
    )  # fmt: skip
    study = drive(space, "playbook", lambda config, epoch: 1 / epoch + config["batch_size"], budget="20 trials")
    # From two starts, the strong default and what so short a training wants: from each the decay follows the batch.
    asked = [t for t in study.history.in_stage("learning rate") if t.config["batch_size"] != 64]
    assert len({t.config["batch_size"] for t in asked}) > 1
    per_root = [t.config["weight_decay"] / t.config["batch_size"] ** 0.5 for t in asked]
    assert per_root == pytest.approx([per_root[0]] * len(per_root), rel=1e-6)


def test_mistakes_are_named():
    with pytest.raises(SpaceError, match="'lr' follows 'bs', which is not in the space"):
        lt.Space(lr=coupled(lt.Float(1e-4, 1e-2), "bs"))
    with pytest.raises(SpaceError, match="Only a Float can follow"):
        coupled(lt.Int(1, 2))
    with pytest.raises(SpaceError, match="no rule for role 'dropout'"):
        coupled(lt.Float(0, 1), role="dropout")
    with pytest.raises(SpaceError, match="reference must be above 0"):
        coupled(lt.Float(0, 1), reference=0)
    with pytest.raises(SpaceError, match=r"follows: .* cannot be read"):
        lt.Space.from_yaml("lr: {type: float, low: 0.1, high: 1.0, follows: {nmae: bs}}")
