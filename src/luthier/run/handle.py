"""``trial``: what a training function gets. It hands out epochs, takes reports, saves and restores."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from luthier.contracts import Job
from luthier.core.errors import UserError
from luthier.core.events import CheckpointLost, Event, Reported, Unsaved
from luthier.core.params import Value
from luthier.run import checkpoint
from luthier.run.checkpoint import Stateful
from luthier.run.modes import Modes


class EndOfTrial(BaseException):
    """Unwinds a training function that loops on its own when its job is over. No error: do not catch it."""


class Trial:
    """One configuration to train, as the training function sees it.

    Attributes:
        config: the active hyperparameters by name.
        id: the trial's number in the study.
        seed: for whatever should differ between repeats; Python's, NumPy's and PyTorch's generators are seeded with it.
        start: epochs already trained (from the checkpoint); 0 for a new trial.
        until: the epoch to train to now.
        max_epochs: the length this trial is meant to be trained to: let schedules decay over this many epochs.
        watched: whether the first epoch's validation is looked at for dropout or batch norm in training mode.

    >>> def train(trial):
    ...     model, optimizer = build(**trial.config)
    ...     for epoch in trial.epochs(model=model, optimizer=optimizer):
    ...         ...
    ...         trial.report(train_loss=..., val_accuracy=...)
    """

    def __init__(
        self,
        job: Job,
        *,
        send: Callable[[Event], None],
        stopped: Callable[[], bool],
        files: Path,
        modes: Modes | None = None,
        parked: Callable[[], bool] = lambda: False,
    ) -> None:
        self.config: dict[str, Value] = dict(job.config)
        self.id = job.trial
        self.seed = job.seed
        self.start = job.start
        self.until = job.until
        self.max_epochs = job.horizon
        self.watched = True
        self.epoch = 0
        self.saved: str | None = None
        self.digest = ""
        self.interrupted = False
        sources = () if job.checkpoint is None else ((job.checkpoint, job.digest, job.clone_of is not None),)
        self._sources = (*sources, *job.fallback)
        self._parked = parked
        self._send = send
        self._stopped = stopped
        self._files = files
        self._modes = modes
        self._iterating = False
        self._reported = 0
        self._since = time.perf_counter()

    @property
    def folder(self) -> Path:
        """A folder of the trial's own beside the study, for whatever a training writes; it is made when asked for.

        Where the study is kept in memory, it goes when the study ends.
        """
        place = self._files.resolve() / "trials" / f"trial-{self.id:05d}"
        place.mkdir(parents=True, exist_ok=True)
        return place

    @property
    def should_stop(self) -> bool:
        """Whether this trial was ended by a decision. ``trial.epochs`` looks for you."""
        return self._stopped()

    def epochs(self, **stateful: Stateful) -> Iterator[int]:
        """The epochs to train now, from ``start + 1`` to ``until``.

        Pass everything that training changes (``model=``, ``optimizer=``, ``scheduler=``: whatever has ``state_dict``
        and ``load_state_dict``): it is restored before the first epoch of a resumed trial and saved after the last,
        together with the random generators. Without anything to save, a resumed trial starts over at epoch 1.

        A trial that was cloned from another one (population-based training) takes over all of that but two things: its
        own configuration holds, so what its optimizers and schedulers were built with stands over what the other's had
        been built with, see :func:`luthier.run.checkpoint.load`; and the generators begin at its own seed.

        When the study is asked to stop (Ctrl-C, SIGTERM), the trial is saved after its epoch and the training function
        ends here; it goes on from there when the study does.

        Raises:
            UserError: something passed cannot be saved.
        """
        for name, thing in stateful.items():
            if not (hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")):
                raise UserError(
                    f"trial.epochs({name}=...) got a {type(thing).__name__}, which has no state_dict/load_state_dict.",
                    "Pass modules, optimizers and schedulers.",
                )
        built = checkpoint.settings(stateful)
        self._restore(stateful)
        first = self.epoch + 1
        self._iterating = True
        self._since = time.perf_counter()
        try:
            for epoch in range(first, self.until + 1):
                if self._stopped():
                    return
                if self._parked():
                    if epoch > first:
                        self._save(stateful, built)
                    self._leave()
                self.epoch = epoch - 1
                yield epoch
                self.epoch = epoch
            if self.epoch == self.until and not self._stopped():
                self._save(stateful, built)
        finally:
            self._iterating = False

    def _restore(self, stateful: Mapping[str, Stateful]) -> None:
        """Go on from the best checkpoint that is whole, else from the beginning; what is lost is said."""
        for path, digest, cloned in self._sources:
            try:
                seed = self.seed if cloned else None
                self.epoch = checkpoint.load(self._files / path, stateful, clone_seed=seed, digest=digest)
                break
            except checkpoint.Damaged as error:
                self._send(CheckpointLost(self.id, path, str(error)))
        self.start = self.epoch

    def _save(self, stateful: Mapping[str, Stateful], built: Mapping[str, Any]) -> None:
        """Keep the state after this epoch; where it cannot be written that is said, and training goes on."""
        if not stateful:
            return
        name = f"checkpoints/trial-{self.id:05d}/epoch-{self.epoch:05d}.ckpt"
        try:
            self.digest = checkpoint.save(self._files / name, self.epoch, stateful, built)
            self.saved = name
        except OSError as error:
            self._send(Unsaved(self.id, self.epoch, error.strerror or str(error)))

    def _leave(self) -> None:
        self.interrupted = True
        raise EndOfTrial

    def report(self, metrics: Mapping[str, Any] | None = None, /, *, epoch: int | None = None, **named: Any) -> None:
        """Report the metrics of an epoch: numbers or one-element tensors by name.

        Inside ``trial.epochs`` the epoch is known. In a loop of your own each report counts as the next epoch unless
        ``epoch=`` says otherwise, and once the job is over the report does not return.

        Raises:
            UserError: a metric is no number, nothing was reported, or validation ran in training mode.
        """
        values = {**(metrics or {}), **named}
        if not values:
            raise UserError("trial.report() got no metrics.", "Write trial.report(val_loss=0.5).")
        if epoch is None:
            epoch = self.epoch + 1
        if epoch <= self._reported:
            raise UserError(
                f"Epoch {epoch} was reported already.", "Pass all metrics of an epoch in one trial.report(...)."
            )
        if self._modes is not None:
            modes, self._modes = self._modes, None
            modes.verdict() if self.watched else modes.close()
        self._reported = int(epoch)
        now = time.perf_counter()
        self._send(
            Reported(self.id, int(epoch), {k: _number(k, v) for k, v in values.items()}, round(now - self._since, 6))
        )
        self._since = now
        if not self._iterating:
            self.epoch = int(epoch)
            if self.epoch >= self.until or self._stopped():
                raise EndOfTrial
            if self._parked():
                self._leave()


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(
            f"The metric {name!r} is {value!r} ({type(value).__name__}), not a number.",
            "Report one number for each name.",
        ) from None
