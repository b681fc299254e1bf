"""Keras 3 on PyTorch under Luthier: reports, stops, pauses and goes on."""

from __future__ import annotations

import numpy as np
import pytest
from adapting import Cloned, InParts, curves, whole_and_in_parts

import luthier as lt
from luthier.core.errors import RunError
from luthier.core.trial import Status

keras = pytest.importorskip("keras")
from luthier.integrations.keras import LuthierCallback  # noqa: E402

# Keras turns PyTorch's tensors into arrays in a way that NumPy 2 speaks of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
SPACE = lt.Space(
    learning_rate=lt.Float(1e-4, 1.0, log=True),
    dropout=lt.Float(0.0, 0.5),
    schedule=lt.Choice("none", "plateau", "cosine"),
)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 4)).astype("float32")
Y = (X.sum(1) > 0).astype("int32")


def build(config):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(config["dropout"]),
            keras.layers.Dense(2),
        ]
    )
    rate = config["learning_rate"]
    if config["schedule"] == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, 16)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    return model


def train(trial, **more):
    keras.utils.set_random_seed(trial.seed)
    model = build(trial.config)
    callbacks = [LuthierCallback(trial)]
    if trial.config["schedule"] == "plateau":
        callbacks.append(keras.callbacks.ReduceLROnPlateau(patience=1, min_delta=10.0, factor=0.5, cooldown=0))
    given = {"initial_epoch": trial.start, "epochs": trial.max_epochs, **more}
    model.fit(X[:32], Y[:32], validation_data=(X[32:], Y[32:]), batch_size=8, verbose=0, callbacks=callbacks, **given)
    return model


@pytest.mark.parametrize("schedule", ["none", "cosine"])
def test_a_paused_training_goes_on_as_if_it_had_not_been_paused(schedule):
    config = {"learning_rate": 0.02, "dropout": 0.3, "schedule": schedule}
    whole, parts = whole_and_in_parts(train, SPACE, config, minimize="val_loss")
    assert [set(r) for r in whole] == [{"train_loss", "train_accuracy", "val_loss", "val_accuracy"}] * 4
    assert whole == parts


def test_the_rate_that_a_callback_has_lowered_is_kept():
    rates = []

    def watched(trial):
        rates.append(float(train(trial).optimizer.learning_rate))

    config = {"learning_rate": 0.02, "dropout": 0.0, "schedule": "plateau"}
    curves(lt.tune(watched, SPACE, minimize="val_loss", strategy=InParts((config,), (2, 4)), max_epochs=4, workers=0,
                   quiet=True))  # fmt: skip
    assert rates == pytest.approx([0.01, 0.005])  # halved once in each part


def test_a_stopped_training_ends_and_is_not_saved():
    from luthier.contracts import Stop
    from luthier.schedule.full import Full
    from luthier.search.uniform import Random

    class Impatient(Full):
        def judge(self, history, trial):
            return Stop("seen enough") if history.trials[trial].epoch == 2 else None

    result = lt.tune(train, SPACE, maximize="val_accuracy", strategy=Impatient(Random()), max_epochs=5, workers=0,
                     budget="1 trial", quiet=True)  # fmt: skip
    assert {(t.status, t.epoch, t.checkpoint) for t in result.trials()} == {(Status.STOPPED, 2, None)}


def test_a_clone_trains_under_its_own_rate():
    rates = []

    def watched(trial):
        model = train(trial)
        rates.append(float(model.optimizer.learning_rate))

    first, second = ({"learning_rate": rate, "dropout": 0.0, "schedule": "none"} for rate in (0.1, 0.02))
    curves(lt.tune(watched, SPACE, minimize="val_loss", strategy=Cloned(first, second), max_epochs=2, workers=0,
                   quiet=True))  # fmt: skip
    assert rates == pytest.approx([0.1, 0.02])


@pytest.mark.parametrize(
    ("given", "said"),
    [({"epochs": 7}, "trains 7 epochs, this trial 3"), ({"initial_epoch": 1}, "starts at epoch 1, this trial at 0")],
)
def test_a_fit_that_cannot_work_is_refused(given, said):
    with pytest.raises(RunError, match=said):
        lt.tune(lambda trial: train(trial, **given), SPACE, minimize="val_loss", max_epochs=3, strategy="random",
                workers=0, quiet=True)  # fmt: skip


def test_asha_goes_on_with_the_best(tmp_path):
    result = lt.tune(train, SPACE, minimize="val_loss", max_epochs=4, budget="3 trials", strategy="asha", workers=0,
                     quiet=True, storage=tmp_path / "s.db")  # fmt: skip
    curves(result)
    assert sum(t.spent for t in result.trials()) == sum(t.epoch for t in result.trials())
    assert max(t.epoch for t in result.trials()) == 4
