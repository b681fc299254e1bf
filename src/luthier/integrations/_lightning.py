"""The callback of PyTorch Lightning, for both names under which it is installed; neither is imported here."""

from __future__ import annotations

from typing import Any

from luthier.core.errors import UserError
from luthier.run import inherit, randomness
from luthier.run.handle import Trial


class Reporting:
    """Reports each validation of a Trainer, ends the training when told, keeps a checkpoint for going on.

    >>> trainer = Trainer(max_epochs=trial.max_epochs, callbacks=[LuthierCallback(trial)])
    >>> trainer.fit(model, ckpt_path=trial.checkpoint)

    Everything that the module logs for an epoch is reported under its own name. An epoch of Luthier's is one
    validation: with ``check_val_every_n_epoch=n`` pass ``max_epochs=trial.max_epochs * n``. Schedules then decay over
    the whole training, however often it is paused. A checkpoint is Lightning's own, with the random generators added.

    Args:
        trial: what the training function got.

    Raises:
        UserError: a Trainer whose length is not the trial's, or that validates without regard to epochs.
    """

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self._restored: dict[str, Any] | None = None
        self._loaded: dict[str, Any] | None = None
        self._built: list[Any] = []

    @property
    def state_key(self) -> str:
        """Where its state lies in a checkpoint."""
        return "LuthierCallback"

    # -- state -----------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """The random generators, and what optimizers and schedules were built with."""
        return {"rng": randomness.generators(), "built": self._built}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the generators, before anything draws the order of the data; the rest waits for the optimizers."""
        self._restored = state_dict
        if self.trial.cloned:
            randomness.seed_everything(self.trial.seed)
        else:
            randomness.restore_generators(state_dict["rng"])

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """The checkpoint itself, of which the optimizers are restored after ``on_fit_start``."""
        self._loaded = checkpoint

    # -- Lightning's events ----------------------------------------------------------------------------------------
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Nothing to prepare."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Check the length; restore what Lightning does not."""
        _check(trainer, self.trial)
        things = [*trainer.optimizers, *(c.scheduler for c in trainer.lr_scheduler_configs)]
        mine = [inherit.settings(thing) for thing in things]
        if self._restored is None:
            self._built = mine
        elif not self.trial.cloned:
            self._built = self._restored["built"]
        else:
            _own(things, self._loaded or {}, self._restored["built"], mine)
            self._built = mine

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """End a training that was ended by a decision."""
        if self.trial.should_stop:
            trainer.should_stop = True

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Nothing yet: what training logs for the epoch is known at its end."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Report what was logged for the epoch, and end the training where the job ends."""
        every = _every(trainer)
        trained = trainer.current_epoch + 1
        if trained % every or self.trial.should_stop or not self.trial.start < trained // every <= self.trial.until:
            return
        if not self.trial.goes_on(_metrics(trainer), trained // every):
            trainer.should_stop = True

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep a checkpoint: the schedules have made their step by now."""
        if self.trial.to_be_saved and self.trial.epoch > self.trial.start:
            with self.trial.saving() as path:
                trainer.save_checkpoint(path)


def _metrics(trainer: Any) -> dict[str, float]:
    found = {}
    for name, value in trainer.callback_metrics.items():
        base = name.removesuffix("_epoch").removesuffix("_step")
        if base == name or base not in trainer.callback_metrics:  # log(..., on_step=True, on_epoch=True) has all three
            found[name] = float(value)
    if not found:
        raise UserError(
            "The module logged nothing for this epoch.", 'Call self.log("val_loss", loss) in validation_step.'
        )
    return found


def _every(trainer: Any) -> int:
    return int(trainer.check_val_every_n_epoch or 1) if trainer.enable_validation else 1


def _check(trainer: Any, trial: Trial) -> None:
    if trainer.check_val_every_n_epoch is None and trainer.enable_validation:
        raise UserError(
            "The Trainer validates every few batches, without regard to epochs.",
            "Leave check_val_every_n_epoch at a number of epochs.",
        )
    every = _every(trainer)
    if trainer.max_epochs != trial.max_epochs * every:
        times = f" * {every}" if every > 1 else ""
        raise UserError(
            f"The Trainer trains {trainer.max_epochs} epochs, this trial {trial.max_epochs}{times}.",
            f"Write Trainer(max_epochs=trial.max_epochs{times}): the callback ends it where it shall pause.",
        )


def _own(things: list[Any], loaded: dict[str, Any], built: list[Any], mine: list[Any]) -> None:
    """In a clone its own configuration holds over what the donor's optimizers and schedules were built with."""
    optimizers, schedulers = loaded.get("optimizer_states", []), loaded.get("lr_schedulers", [])
    saved = [*optimizers, *schedulers]
    if not len(things) == len(saved) == len(built):
        return  # another number of optimizers: Lightning says so
    kept = []
    for thing, state, before, own in zip(things, saved, built, mine):
        state = inherit.merged(thing, state, before, own)
        kept.append(state)
        if inherit.is_optimizer(thing):
            thing.load_state_dict(state)  # its schedulers look at the rates
    loaded["optimizer_states"], loaded["lr_schedulers"] = kept[: len(optimizers)], kept[len(optimizers) :]
