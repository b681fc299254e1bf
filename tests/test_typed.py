"""Spaces from classes, and configurations as objects of those classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ValidationError

import luthier as lt

Rate = Annotated[float, lt.Float(1e-5, 1e-1, log=True)]


class Norm(Enum):
    BATCH = "batch"
    LAYER = "layer"


@dataclass
class Optimizer:
    learning_rate: Rate = 1e-3
    name: Literal["adamw", "sgd"] = "adamw"
    momentum: Annotated[float, lt.Float(0.8, 0.99, when={"name": "sgd"})] = 0.9


@dataclass
class Config:
    width: Annotated[int, lt.Int(16, 512, log=True)]
    optimizer: Optimizer = field(default_factory=Optimizer)
    norm: Norm = Norm.LAYER
    nesterov: bool = False
    compiled: Annotated[bool, lt.Constant(True)] = True
    folder: str = "data"
    layers: tuple[int, ...] = (1, 2)
    made: str = field(init=False, default="here")


def test_a_dataclass_becomes_a_space():
    assert lt.Space.from_config(Config) == lt.Space(
        {
            "width": lt.Int(16, 512, log=True),
            "optimizer.learning_rate": lt.Float(1e-5, 1e-1, log=True, default=1e-3),
            "optimizer.name": lt.Choice("adamw", "sgd", default="adamw"),
            "optimizer.momentum": lt.Float(0.8, 0.99, when={"optimizer.name": "sgd"}, default=0.9),
            "norm": lt.Choice("batch", "layer", default="layer"),
            "nesterov": lt.Choice(True, False, default=False),
            "compiled": lt.Constant(True),
        }
    )


def test_a_configuration_becomes_an_object_again():
    space = lt.Space.from_config(Config)
    config = space.complete({"width": 32, "optimizer.name": "sgd", "optimizer.momentum": 0.95, "norm": "batch"})
    assert lt.typed(Config, config, folder="elsewhere") == Config(
        32, Optimizer(1e-3, "sgd", 0.95), Norm.BATCH, folder="elsewhere"
    )
    without = lt.typed(Config, space.complete({"width": 32}))
    assert without.optimizer == Optimizer()  # what is not active has its default


def test_every_configuration_of_the_space_is_an_object():
    import numpy as np

    space = lt.Space.from_config(Config)
    for seed in range(50):
        config = space.sample(np.random.default_rng(seed))
        made = lt.typed(Config, config)
        assert made.width == config["width"]
        assert made.optimizer.learning_rate == config["optimizer.learning_rate"]
        assert made.norm.value == config["norm"]
        assert made.nesterov is config["nesterov"]


def test_a_study_hands_out_typed_configurations():
    def train(trial):
        config = trial.typed(Config)
        assert isinstance(config.optimizer, Optimizer)
        trial.report(val_loss=config.optimizer.learning_rate * config.width)

    space = lt.Space.from_config(Config)
    result = lt.tune(train, space, minimize="val_loss", max_epochs=1, budget="8 trials", strategy="tpe", workers=0,
                     quiet=True)  # fmt: skip
    assert not [t.failure for t in result.trials() if t.failure]
    best = lt.typed(Config, result.best_config)
    assert best.optimizer.learning_rate * best.width == result.best_score


def test_the_defaults_of_the_fields_are_where_the_playbook_begins():
    from luthier.knowledge import default_config, role_of

    space = lt.Space.from_config(Config)
    assert role_of("optimizer.learning_rate", space["optimizer.learning_rate"]).name == "learning_rate"
    config = default_config(space)
    assert (config["optimizer.learning_rate"], config["norm"]) == (1e-3, "layer")


# -- unions ------------------------------------------------------------------------------------------------------------


@dataclass
class SGD:
    learning_rate: Annotated[float, lt.Float(1e-3, 1.0, log=True)] = 0.1
    momentum: Annotated[float, lt.Float(0.0, 0.99)] = 0.9


@dataclass
class Adam:
    learning_rate: Rate = 1e-3


@dataclass
class Either:
    optimizer: SGD | Adam = field(default_factory=Adam)
    averaging: Adam | None = None


def test_a_union_is_a_choice_with_what_each_of_its_classes_has():
    space = lt.Space.from_config(Either)
    assert list(space) == [
        "optimizer", "optimizer.SGD.learning_rate", "optimizer.SGD.momentum", "optimizer.Adam.learning_rate",
        "averaging", "averaging.Adam.learning_rate",
    ]  # fmt: skip
    assert space["optimizer"] == lt.Choice("SGD", "Adam", default="Adam")
    assert space["optimizer.SGD.momentum"].when == {"optimizer": ("SGD",)}
    config = space.complete({"optimizer": "SGD", "optimizer.SGD.momentum": 0.5, "averaging": None})
    assert lt.typed(Either, config) == Either(SGD(0.1, 0.5), None)
    config = space.complete({"averaging": "Adam", "averaging.Adam.learning_rate": 0.01})
    assert lt.typed(Either, config) == Either(Adam(), Adam(0.01))


# -- pydantic ----------------------------------------------------------------------------------------------------------


class Data(BaseModel):
    batch_size: Annotated[int, lt.Int(16, 256, log=True)] = 64
    shuffle: Annotated[bool, lt.Constant(True)] = True


class Model(BaseModel):
    learning_rate: Rate = 1e-3
    activation: Literal["relu", "gelu"] = "relu"
    data: Data = Data()
    folder: str


def test_a_pydantic_model_works_the_same_way():
    space = lt.Space.from_config(Model)
    assert space == lt.Space(
        {
            "learning_rate": lt.Float(1e-5, 1e-1, log=True, default=1e-3),
            "activation": lt.Choice("relu", "gelu", default="relu"),
            "data.batch_size": lt.Int(16, 256, log=True, default=64),
            "data.shuffle": lt.Constant(True),
        }
    )
    made = lt.typed(Model, space.complete({"data.batch_size": 32}), folder="here")
    assert made == Model(data=Data(batch_size=32), folder="here")
    with pytest.raises(ValidationError):  # pydantic's own checks stay in force
        lt.typed(Model, space.complete({}), folder=3)


# -- mistakes ----------------------------------------------------------------------------------------------------------


@dataclass
class Beyond:
    width: Annotated[int, lt.Int(16, 64)] = 128


@dataclass
class Conditional:
    momentum: Annotated[float, lt.Float(0.8, 0.99, when={"name": "sgd"})]
    name: Literal["adamw", "sgd"] = "adamw"


@dataclass
class Nothing:
    folder: str = "data"


class Plain:
    width: int = 3


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        (Beyond, r"width: 128 is not a whole number in \[16, 64\]"),
        (Conditional, r"'momentum' is not always active \(name\) and has no default"),
        (Nothing, "Nothing has no field to search"),
        (Plain, "Plain is neither a dataclass nor a pydantic model"),
    ],
)
def test_a_class_that_makes_no_space_says_why(cls, said):
    with pytest.raises(lt.UserError, match=said):
        lt.Space.from_config(cls)


def test_what_does_not_fit_the_class_is_named():
    with pytest.raises(lt.UserError, match=r"no field for 'widht'. Did you mean 'width'"):
        lt.typed(Config, {"widht": 32, "width": 16})
    with pytest.raises(lt.UserError, match="needs a value for 'width'"):
        lt.typed(Config, {})
    with pytest.raises(lt.UserError, match=r"no field 'fodler'. Did you mean 'folder'"):
        lt.typed(Config, {"width": 32}, fodler="x")


def test_a_type_that_only_a_function_knows_is_refused():
    @dataclass
    class Inner:
        width: Annotated[int, lt.Int(1, 2)] = 1

    @dataclass
    class Outer:
        inner: Inner

    with pytest.raises(lt.UserError, match=r"cannot be found.*at the top of a module"):
        lt.Space.from_config(Outer)
