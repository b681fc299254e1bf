"""Spaces: the unit cube, conditions, text, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import luthier as lt
from luthier.core.encode import Encoder
from luthier.core.errors import SpaceError

params = st.one_of(
    st.tuples(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6)).map(lambda t: lt.Float(t[0], t[0] + t[1])),
    st.tuples(st.floats(1e-9, 1e3), st.floats(1.1, 1e6)).map(lambda t: lt.Float(t[0], t[0] * t[1], log=True)),
    st.tuples(st.integers(-1000, 1000), st.integers(1, 10_000)).map(lambda t: lt.Int(t[0], t[0] + t[1])),
    st.tuples(st.integers(1, 1000), st.integers(1, 10_000)).map(lambda t: lt.Int(t[0], t[0] + t[1], log=True)),
    st.lists(st.one_of(st.text(max_size=5), st.booleans(), st.none()), min_size=1, max_size=6, unique=True).map(
        lambda c: lt.Choice(*c)
    ),
)


@given(param=params, u=st.floats(0, 1))
@settings(max_examples=300)
def test_a_value_from_the_unit_interval_is_in_range_and_maps_back_to_itself(param, u):
    value = param.from_unit(u)
    assert param.check(value) == value
    again = param.from_unit(param.to_unit(value))
    assert again == (pytest.approx(value, rel=1e-9, abs=1e-9) if isinstance(value, float) else value)


@given(st.dictionaries(st.text(min_size=1, max_size=8), params, min_size=1, max_size=5))
@settings(max_examples=150)
def test_text_goes_both_ways(named):
    space = lt.Space(named)
    assert lt.Space.from_json(space.to_json()) == space
    assert lt.Space.from_yaml(space.to_yaml()) == space


def test_text_keeps_conditions_roles_and_defaults():
    space = lt.Space(
        opt=lt.Choice("adamw", "sgd", default="sgd"),
        m=lt.Float(0.8, 0.99, when={"opt": ["sgd"]}, role="momentum", default=0.9),
        n=lt.Constant(3, when={"m": 0.9}),
    )
    again = lt.Space.from_yaml(space.to_yaml())
    assert again == space
    assert again["m"].role == "momentum"
    assert again["m"].default == 0.9


def test_conditions_hold_in_every_sample_two_deep(space):
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        config = space.sample(rng)
        sgd = config["optimizer"] == "sgd"
        assert ("momentum" in config) == sgd
        assert ("dampening" in config) == (sgd and config["nesterov"] is False)
        assert config["epochs_frozen"] == 2
        assert list(config) == [n for n in space if n in config]
        seen.add((sgd, "dampening" in config))
    assert seen == {(False, False), (True, False), (True, True)}


KINDS = st.sampled_from([int, float, np.int64, np.float32, np.float64])


@given(st.lists(st.integers(0, 9), min_size=2, max_size=4, unique=True), KINDS, KINDS, st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_condition_holds_in_whatever_type_its_number_is_written(values, held, written, constant):
    parent = lt.Constant(held(values[0])) if constant else lt.Choice(*map(held, values))
    made = lt.Space(x=parent, y=lt.Float(0.0, 1.0, when={"x": [written(values[0])]}))
    for space in (made, lt.Space.from_json(made.to_json()), lt.Space.from_yaml(made.to_yaml())):
        units = np.random.default_rng(0).random((20, len(space.dims)))
        configs = [space.from_unit(u.tolist()) for u in units]
        on = [c["x"] == values[0] for c in configs]
        assert ["y" in c for c in configs] == on
        assert Encoder(space).active(units)[:, -1].tolist() == on


def test_a_condition_on_a_bound_of_a_float_may_be_a_whole_number():
    space = lt.Space(rate=lt.Float(0.0, 1.0), extra=lt.Int(1, 3, when={"rate": 0}))
    assert "extra" in space.from_unit([0.0, 0.5])
    assert "extra" not in space.from_unit([0.1, 0.5])


def test_numbers_of_numpy_are_numbers():
    rates, flag = np.array([0.25, 0.5], dtype=np.float32), np.bool_(True)
    made = lt.Space(
        a=lt.Float(rates[0], rates[1], default=rates[0]),
        b=lt.Int(np.int64(1), np.uint8(4), default=np.int16(2)),
        c=lt.Choice(*np.array([16, 32])),
        d=lt.Choice(np.array([0.1, 0.2])),
        e=lt.Choice(flag, "auto", default=flag),
        f=lt.Constant(np.float64(0.5), when={"c": np.array([16])}),
    )
    assert made == lt.Space(
        a=lt.Float(0.25, 0.5, default=0.25),
        b=lt.Int(1, 4, default=2),
        c=lt.Choice(16, 32),
        d=lt.Choice(0.1, 0.2),
        e=lt.Choice(True, "auto", default=True),
        f=lt.Constant(0.5, when={"c": 16}),
    )
    assert lt.Space.from_dict({"epochs": np.int64(3)}) == lt.Space(epochs=lt.Constant(3))
    asked = {"a": np.float32(0.5), "b": np.int64(3), "c": np.int64(32), "d": np.float64(0.2), "e": np.bool_(True)}
    config = made.complete(asked)
    assert config == {"a": 0.5, "b": 3, "c": 32, "d": 0.2, "e": True}
    assert [type(v) for v in config.values()] == [float, int, int, float, bool]


def test_choices_that_python_finds_equal_keep_their_places():
    choice = lt.Choice(1, 1.0, True, "1")
    back = [choice.from_unit(choice.to_unit(c)) for c in choice.choices]
    assert [(c, type(c)) for c in back] == [(c, type(c)) for c in choice.choices]
    assert lt.Choice(2, 3).check(3.0) == 3
    assert not lt.Choice(1, 2).contains(lt.Choice(True, 2))


def test_numbers_with_an_exponent_are_numbers_in_yaml_as_everywhere():
    space = lt.Space.from_yaml(
        "lr: {type: float, low: 1e-5, high: 1E1, log: true}\ndecay: {type: choice, choices: [0, 1e-4, 2.5e3]}"
    )
    assert space == lt.Space(lr=lt.Float(1e-5, 10.0, log=True), decay=lt.Choice(0, 1e-4, 2500.0))
    words = lt.Space(x=lt.Choice("1e-4", "1e4", "e", "1e"))
    assert lt.Space.from_yaml(words.to_yaml()) == words


def test_log_scales_are_uniform_in_the_logarithm():
    rate = lt.Float(1e-5, 1e-1, log=True)
    assert rate.from_unit(0.5) == 1e-3
    width = lt.Int(16, 512, log=True)
    assert (width.from_unit(0.0), width.from_unit(1.0)) == (16, 512)
    assert abs(width.from_unit(0.5) - 90) < 3


def test_every_integer_of_a_range_has_the_same_share():
    values = [lt.Int(1, 4).from_unit((i + 0.5) / 4000) for i in range(4000)]
    assert [values.count(k) for k in (1, 2, 3, 4)] == [1000] * 4


def test_fixing_values_drops_what_can_no_longer_be_active(space):
    adamw = space.fix({"optimizer": "adamw"})
    assert "momentum" not in adamw
    assert "dampening" not in adamw
    sgd = space.fix({"optimizer": "sgd", "depth": 3})
    assert sgd.dims == ("learning_rate", "momentum", "nesterov", "dampening", "width")
    assert sgd.from_unit([0.5] * 5)["depth"] == 3


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"optimiser": "sgd"}, "'optimiser' is not in the space. Did you mean 'optimizer'"),
        ({"optimizer": "lion"}, "optimizer: 'lion' is none of"),
        ({"learning_rate": 5.0}, r"learning_rate: .*replace\(learning_rate=lt.Constant\(5.0\)\)"),
    ],
)
def test_what_cannot_be_held_is_refused(values, said):
    space = lt.Space(optimizer=lt.Choice("adamw", "sgd"), learning_rate=lt.Float(1e-4, 1.0, log=True))
    with pytest.raises(SpaceError, match=said):
        space.fix(values)
    assert space.replace(learning_rate=lt.Constant(5.0))["learning_rate"].value == 5.0


def test_fixing_drops_what_something_follows_and_it_keeps_its_range():
    space = lt.Space(
        kind=lt.Choice("a", "b"),
        optimizer=lt.Choice("adamw", "sgd", when={"kind": "b"}),
        batch_size=lt.Int(16, 64, when={"kind": "b"}),
        learning_rate=lt.coupled(lt.Float(1e-4, 1e-2, log=True), "batch_size"),
        decay=lt.coupled(lt.Float(1e-4, 1e-2, log=True), "width", by="optimizer"),
        width=lt.Int(16, 64),
    )
    config = {"kind": "a", "learning_rate": 1e-3, "decay": 2e-3, "width": 32}
    fixed = space.fix({"kind": "a"})
    assert fixed.dims == ("learning_rate", "decay", "width")
    assert fixed.complete(config) == space.complete(config) == config
    assert fixed.to_unit(config) == space.to_unit(config)[3:]


def test_one_line_holds_a_choice_fixed_in_a_file():
    whole = """
optimizer: {type: choice, choices: [adamw, sgd, rmsprop]}
beta2: {type: float, low: 0.9, high: 0.999, when: {optimizer: adamw}}
momentum: {type: float, low: 0.8, high: 0.99, when: {optimizer: [sgd, rmsprop]}}
nesterov: {type: choice, choices: [true, false], when: {optimizer: sgd}}
dampening: {type: float, low: 0.0, high: 0.5, when: {nesterov: false}}
"""
    text = whole.replace("{type: choice, choices: [adamw, sgd, rmsprop]}", "sgd")
    assert lt.Space.from_yaml(text) == lt.Space.from_yaml(whole).fix({"optimizer": "sgd"})
    assert list(lt.Space.from_yaml(text.replace("sgd\nbeta2", "adamw\nbeta2"))) == ["optimizer", "beta2"]


def test_complete_fills_in_defaults_and_refuses_what_is_not_there(space):
    config = space.complete({"optimizer": "sgd", "nesterov": False})
    assert set(config) == set(space)
    assert "momentum" not in space.complete({"optimizer": "adamw", "momentum": 0.9})
    with pytest.raises(SpaceError, match=r"'lerning_rate' is not in the space. Did you mean 'learning_rate'"):
        space.complete({"lerning_rate": 0.1})
    with pytest.raises(SpaceError, match="depth: 9 is not a whole number in"):
        space.complete({"depth": 9})


def test_a_wider_space_contains_a_narrower_one():
    narrow = lt.Space(lr=lt.Float(1e-4, 1e-2, log=True), opt=lt.Choice("adamw"))
    wide = lt.Space(lr=lt.Float(1e-5, 1e-1, log=True), opt=lt.Choice("adamw", "sgd"))
    assert wide.contains(narrow)
    assert not narrow.contains(wide)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lt.Space(), "search space is empty"),
        (lambda: lt.Float(1.0, 1.0), "low must be below high, got low=1.0, high=1.0"),
        (lambda: lt.Float(2.0, 1.0), "low must be below high"),
        (lambda: lt.Float(0.0, 1.0, log=True), "log scale needs low > 0, got low=0.0"),
        (lambda: lt.Int(0, 10, log=True), "log scale needs low > 0"),
        (lambda: lt.Float(float("nan"), 1.0), "finite number, got nan"),
        (lambda: lt.Int(1, 2.5), "whole number, got 2.5"),
        (lambda: lt.Choice(), "no choices"),
        (lambda: lt.Choice([1, 2], [3]), "a choice must be a string, number, boolean or None"),
        (lambda: lt.Choice("a", "a"), "names a value twice"),
        (lambda: lt.Space(a=3), "'a' is 3, which is no hyperparameter"),
        (lambda: lt.Space(a=lt.Float(0, 1, when={"b": 1})), "'a' depends on 'b', which is not in the space"),
        (
            lambda: lt.Space(o=lt.Choice("x", "y"), a=lt.Float(0, 1, when={"o": "z"})),
            "'a' is active when 'o' is 'z', but 'z' is none of",
        ),
        (
            lambda: lt.Space(a=lt.Int(1, 3, when={"b": 1}), b=lt.Int(1, 3, when={"a": 1})),
            "Conditions run in a circle: a -> b -> a",
        ),
        (lambda: lt.Space.from_yaml("lr: {type: float, low: 1.0e-5, hihg: 1.0}"), "lr: unknown key 'hihg'.*'high'"),
        (lambda: lt.Space.from_yaml("lr: {type: flaot, low: 0, high: 1}"), "lr: unknown type 'flaot'.*'float'"),
        (lambda: lt.Space.from_yaml("lr: {type: float, low: 0}"), "lr: 'high' is missing"),
        (
            lambda: lt.Space.from_yaml("lr: {type: float, low: '1e-5', high: 1}"),
            "lr: Float: low must be a finite number, got '1e-5'. Write numbers without quotes",
        ),
        (lambda: lt.Int(True, 3), "whole number, got True"),
        (lambda: lt.Float(0, np.inf), "finite number, got inf"),
        (lambda: lt.Choice(np.zeros((2, 2))), "a choice must be a string, number, boolean or None"),
        (
            lambda: lt.Space.from_dict({"a": {"type": "float", "low": 0, "high": 1, "follows": {"nam": "b"}}}),
            "a: follows: {'nam': 'b'} cannot be read",
        ),
        (lambda: lt.Space.from_yaml("- 1\n- 2"), "A space is a mapping"),
        (lambda: lt.Space.from_yaml("a: {b: ["), "not valid YAML"),
        (lambda: lt.Space.from_json("{"), "not valid JSON"),
        (lambda: lt.Float(0.0, 1.0, default=2.0), "2.0 is not in"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(SpaceError, match=message):
        make()


def test_roles_follow_from_common_names_and_can_be_set():
    from luthier.knowledge import role, role_of

    expected = {
        "lr": "learning_rate", "learning_rate": "learning_rate", "bs": "batch_size", "wd": "weight_decay",
        "p_drop": "dropout", "n_layers": "depth", "optimizer.lr": "learning_rate", "batchSize": "batch_size",
        "model/hidden-size": "width", "max_lr": "learning_rate", "scheduler": "schedule",
    }  # fmt: skip
    assert {name: role(name).name for name in expected} == expected
    assert role("flux_capacitance") is None
    assert role_of("alpha_0", lt.Float(0, 1, role="lr")).name == "learning_rate"
