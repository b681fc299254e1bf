"""Keras 3: a callback for ``model.fit``. Tested on the PyTorch backend; nothing of it is particular to one.

>>> def train(trial):
...     model = build(**trial.config)  # compiled
...     model.fit(x, y, validation_data=val, initial_epoch=trial.start, epochs=trial.max_epochs,
...               callbacks=[LuthierCallback(trial)])
>>> lt.tune(train, space, minimize="val_loss")
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from luthier.core.errors import UserError
from luthier.run import checkpoint as states
from luthier.run.handle import Trial


class LuthierCallback(keras.callbacks.Callback):
    """Reports each epoch of ``model.fit``, ends the training when told, keeps a checkpoint for going on.

    Metrics of the validation keep their names (``val_loss``, ``val_accuracy``); those of training get one that says so,
    ``train_loss`` for Keras's ``loss``, ``train_accuracy`` for ``accuracy``. A checkpoint has the variables of the
    model and its optimizer and the random generators. What other callbacks remember (the patience of an
    ``EarlyStopping``) is not in it. Put this one first, so that none changes the weights before they are saved.

    Args:
        trial: what the training function got. Pass ``initial_epoch=trial.start, epochs=trial.max_epochs``.

    Raises:
        UserError: another length than the trial's, a training that starts at another epoch, or a model that is not
            compiled.
    """

    def __init__(self, trial: Trial) -> None:
        super().__init__()
        self.trial = trial
        self._state: _State | None = None
        self._first = True

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Check the length, restore the state."""
        if self.params.get("epochs") != self.trial.max_epochs:
            raise UserError(
                f"model.fit() trains {self.params.get('epochs')} epochs, this trial {self.trial.max_epochs}.",
                "Pass epochs=trial.max_epochs: the callback ends it where it shall pause.",
            )
        if getattr(self.model, "optimizer", None) is None:
            raise UserError("The model has no optimizer.", "Call model.compile(optimizer=...) first.")
        self._state = _State(self.model, self.trial.cloned)
        if self.trial.checkpoint is not None:
            seed = self.trial.seed if self.trial.cloned else None
            states.load(self.trial.checkpoint, {"keras": self._state}, clone_seed=seed)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Check where the training starts."""
        if self._first and epoch != self.trial.start:
            raise UserError(
                f"model.fit() starts at epoch {epoch}, this trial at {self.trial.start}.",
                "Pass initial_epoch=trial.start.",
            )
        self._first = False

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """End a training that was ended by a decision."""
        if self.trial.should_stop:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Report, and end the training where the job ends."""
        if self.trial.should_stop:
            return
        metrics = {_name(k): float(v) for k, v in (logs or {}).items()}
        if not self.trial.goes_on(metrics, epoch + 1):
            self.model.stop_training = True

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Keep a checkpoint: callbacks that change the rate have done so by now."""
        if self._state is not None and self.trial.to_be_saved and self.trial.epoch > self.trial.start:
            with self.trial.saving() as path:
                states.save(path, self.trial.epoch, {"keras": self._state})


def _name(metric: str) -> str:
    return metric if metric.startswith("val_") or metric in ("learning_rate", "lr") else f"train_{metric}"


class _State:
    """The variables of a compiled model, its random seeds included, and of its optimizer."""

    def __init__(self, model: Any, cloned: bool) -> None:
        if not model.built:
            raise UserError("The model is not built yet.", "Begin it with keras.Input(shape).")
        model.optimizer.build(model.trainable_variables)
        self._model = model
        self._cloned = cloned
        self._rate = _rate(model.optimizer)

    def state_dict(self) -> dict[str, Any]:
        """As arrays, as tensors where PyTorch is there: in its format checkpoints are read without unpickling."""
        return {
            "model": [_plain(v) for v in self._model.variables],
            "optimizer": [_plain(v) for v in self._model.optimizer.variables],
            "rate": self._rate,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Of a clone the own rate holds: what became of the other's is kept as a factor."""
        optimizer = self._model.optimizer
        for variables, values in ((self._model.variables, state["model"]), (optimizer.variables, state["optimizer"])):
            if len(variables) != len(values):
                raise UserError(
                    f"The checkpoint has {len(values)} variables, the model {len(variables)}.",
                    "Build the same model from the same configuration.",
                )
            for variable, value in zip(variables, values):
                variable.assign(value)
        before = state["rate"]
        if self._cloned and self._rate is not None and before:
            optimizer.learning_rate.assign(self._rate * float(_rate(optimizer) or before) / before)
        elif not self._cloned:
            self._rate = before


def _rate(optimizer: Any) -> float | None:
    """The rate as a number; None where a schedule computes it from the number of updates."""
    held = getattr(optimizer, "_learning_rate", None)
    return None if held is None or isinstance(held, keras.optimizers.schedules.LearningRateSchedule) else float(held)


def _plain(variable: Any) -> Any:
    if hasattr(variable.value, "detach"):
        return variable.value.detach().cpu().clone()
    array = np.array(keras.ops.convert_to_numpy(variable.value))
    torch = sys.modules.get("torch")
    return array if torch is None else torch.from_numpy(array)
