"""``trial``: what a training function gets. It hands out epochs, takes reports, saves and restores."""

from __future__ import annotations

import math
import pickle
import reprlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from luthier.contracts import Job
from luthier.core.errors import UserError
from luthier.core.events import CheckpointLost, Event, Reported, Unsaved
from luthier.core.params import Value
from luthier.core.typed import typed
from luthier.run import checkpoint
from luthier.run.checkpoint import Stateful
from luthier.run.modes import Modes
from luthier.run.randomness import generators
from luthier.run.ranks import KEEP, NEXT, Alone, Ranks
from luthier.run.vault import Folder, Vault

T = TypeVar("T")


class EndOfTrial(BaseException):
    """Unwinds a training function that loops on its own when its job is over. No error: do not catch it."""


class Trial:
    """One configuration to train, as the training function sees it.

    Attributes:
        config: the active hyperparameters by name.
        id: the trial's number in the study.
        seed: for whatever should differ between repeats; Python's, NumPy's and PyTorch's generators are seeded with it.
        until: the epoch to train to now.
        max_epochs: the length this trial is meant to be trained to: let schedules decay over this many epochs.
        watched: whether the first epoch's validation is looked at for dropout or batch norm in training mode.
        rank, processes: which of how many processes this is, where several train each trial (``processes=`` of
            :func:`luthier.tune`); 0 and 1 elsewhere. All have the same configuration, seed and epochs; what ranks other
            than 0 report is ignored.

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
        vault: Vault | None = None,
        modes: Modes | None = None,
        parked: Callable[[], bool] = lambda: False,
        ranks: Ranks | None = None,
    ) -> None:
        self._ranks: Ranks = ranks or Alone(stopped, parked)
        self.rank, self.processes = self._ranks.rank, self._ranks.size
        self.config: dict[str, Value] = dict(job.config)
        self.id = job.trial
        self.seed = job.seed
        self._start = job.start
        self.until = job.until
        self.max_epochs = job.horizon
        self.watched = True
        self.epoch = 0
        self.saved: str | None = None
        self.digest = ""
        self.interrupted = False
        sources = () if job.checkpoint is None else ((job.checkpoint, job.digest, job.clone_of is not None),)
        self._sources: tuple[tuple[str, str, bool], ...] = (*sources, *job.fallback)
        self._verified = False
        self._send = send
        self._stopped = stopped
        self._files = files
        self._vault = vault or Folder(files)
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
    def start(self) -> int:
        """Epochs already trained, from the checkpoint; 0 for a new trial."""
        self._whole()
        return self._start

    @property
    def should_stop(self) -> bool:
        """Whether this trial was ended by a decision. ``trial.epochs`` looks for you, at the same epoch in all
        processes of the trial; here one may hear of it before the others."""
        return self._stopped()

    def typed(self, config: type[T], **given: Any) -> T:
        """:attr:`config` as an object of the class that the space was made from (``lt.Space.from_config``).

        Args:
            config: a dataclass or pydantic model.
            given: values of fields that are not searched.

        Raises:
            UserError: see :func:`luthier.typed`.
        """
        return typed(config, self.config, **given)

    @property
    def checkpoint(self) -> Path | None:
        """What this trial goes on from, as :meth:`saving` left it, a file or a folder; None at its beginning.

        For frameworks with a format of their own; ``trial.epochs(model=...)`` restores by itself.
        """
        whole = self._whole()
        return None if whole is None else self._vault.bring(whole[0])

    @property
    def cloned(self) -> bool:
        """Whether :attr:`checkpoint` is another trial's, to be trained on under this one's own configuration and seed
        (population-based training)."""
        whole = self._whole()
        return whole is not None and whole[2]

    @contextmanager
    def saving(self) -> Iterator[Path]:
        """A place for the state after the epoch that was reported last, in a format of one's own, a file or a folder.

        It counts once the block ends without an error: a checkpoint is whole or not there. A full disk is recorded, and
        training goes on. Of several processes rank 0's counts; what the others write here is thrown away.

        >>> with trial.saving() as path:
        ...     trainer.save_checkpoint(path)
        """
        if self.rank:
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder) / "state"
            return
        name = self._place()
        with self._unless_full():
            place = self._vault.place(name)
            with checkpoint.writing(place) as path:
                yield path
            digest = checkpoint.digest_of(place)
            self._vault.keep(name)
            self.digest, self.saved = digest, name

    def goes_on(self, metrics: Mapping[str, Any], epoch: int) -> bool:
        """Report the metrics after ``epoch`` (from 1), for loops that a framework runs: whether to train on.

        Where it answers False save the state (:meth:`saving`) if :attr:`to_be_saved` says so: the trial may be resumed.

        Raises:
            UserError: as :meth:`report`.
        """
        self._iterating, before = True, self._iterating
        try:
            self.report(metrics, epoch=epoch)
        finally:
            self._iterating = before
        self.epoch = whole_epoch(epoch)
        if self.epoch >= self.until:
            return False
        verdict = self._ranks.agree(self.epoch, NEXT)
        self.interrupted = verdict == "park"
        return verdict == "go"

    @property
    def to_be_saved(self) -> bool:
        """Whether the state is worth keeping: the job is done or the study interrupted, and the trial not ended."""
        return (self.epoch >= self.until or self.interrupted) and self._ranks.agree(self.epoch, KEEP) != "stop"

    def _place(self) -> str:
        return f"checkpoints/trial-{self.id:05d}/epoch-{self.epoch:05d}.ckpt"

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

        def save() -> None:
            name = self._place()
            drawn = self._ranks.gather(name, pickle.dumps(generators()) if self.processes > 1 else b"")
            if self.rank:
                return
            others = [None if held is None else pickle.loads(held) for held in drawn[1:]]
            with self._unless_full():
                digest = checkpoint.save(self._vault.place(name), self.epoch, stateful, built, others)
                self._vault.keep(name)
                self.digest, self.saved = digest, name

        yield from self._loop(save if stateful else None)

    def epochs_with(self, restore: Callable[[Path], Any], save: Callable[[Path], Any]) -> Iterator[int]:
        """The epochs to train now, as :meth:`epochs`, with the state in a format of one's own.

        Args:
            restore: called before the first epoch of a trial that goes on, with the file or folder that ``save`` wrote.
                Of a clone (:attr:`cloned`) it must see to it that this trial's own configuration holds.
            save: called after the last epoch with a place to write to; it counts once it returns. Both are called in
                each process of the trial, with the same place.

        >>> for epoch in trial.epochs_with(accelerator.load_state, accelerator.save_state):
        """
        if self.checkpoint is not None:
            restore(self.checkpoint)
        self.epoch = self.start

        def keep() -> None:
            name = self._place()
            if self.rank:
                save(Path(self._ranks.share(name)))
                self._ranks.gather(name, b"")
                return
            with self.saving() as path:
                self._ranks.share(name, str(path))
                save(path)
                self._ranks.gather(name, b"")

        yield from self._loop(keep)

    def _loop(self, save: Callable[[], None] | None) -> Iterator[int]:
        first = self.epoch + 1
        self._iterating = True
        self._since = time.perf_counter()
        try:
            for epoch in range(first, self.until + 1):
                verdict = self._ranks.agree(epoch - 1, NEXT)
                if verdict == "stop":
                    return
                if verdict == "park":
                    if save is not None and epoch > first:
                        save()
                    self._leave()
                self.epoch = epoch - 1
                yield epoch
                self.epoch = epoch
            if save is not None and self.to_be_saved:
                save()
        finally:
            self._iterating = False

    def _restore(self, stateful: Mapping[str, Stateful]) -> None:
        """Go on from the best checkpoint that is whole, else from the beginning; what is lost is said."""
        while self._sources:
            path, digest, cloned = self._sources[0]
            try:
                seed = self.seed if cloned else None
                self.epoch = checkpoint.load(self._vault.bring(path), stateful, seed, digest, self.rank)
                break
            except checkpoint.Damaged as error:
                self._send(CheckpointLost(self.id, path, str(error)))
                self._sources = self._sources[1:]
        self._start = self.epoch

    def _whole(self) -> tuple[str, str, bool] | None:
        """The best checkpoint that is what was written; those that are not are said to be lost, once."""
        while self._sources:
            path, digest, _ = self._sources[0]
            try:
                if not self._verified:
                    checkpoint.verify(self._vault.bring(path), digest)
                    self._verified = True
                return self._sources[0]
            except checkpoint.Damaged as error:
                self._send(CheckpointLost(self.id, path, str(error)))
                self._sources = self._sources[1:]
                self._start = int(Path(self._sources[0][0]).stem.partition("-")[2]) if self._sources else 0
        return None

    @contextmanager
    def _unless_full(self) -> Iterator[None]:
        """Where a state cannot be written that is said, and training goes on."""
        try:
            yield
        except OSError as error:
            self._send(Unsaved(self.id, self.epoch, error.strerror or str(error)))

    def _leave(self) -> None:
        self.interrupted = True
        raise EndOfTrial

    def report(
        self, metrics: Mapping[str, Any] | None = None, /, *more: Any, epoch: int | None = None, **named: Any
    ) -> None:
        """Report the metrics of an epoch: numbers or one-element tensors by name.

        Inside ``trial.epochs`` the epoch is known; after it, a training that did not report its last epoch may do so
        still. In a loop of your own each report counts as the next epoch unless ``epoch=`` says otherwise, and once the
        job is over the report does not return: where several processes train a trial so, each must report, and only
        what rank 0 says counts.

        Raises:
            UserError: a metric has no name or is no number, nothing was reported, the epoch is no whole number from 1
                on or was reported before, or validation ran in training mode.
        """
        given = () if metrics is None and not more else (metrics, *more)
        values = by_name("trial.report()", given, named, "trial.report({})")
        over = not self._iterating and self.epoch >= self.until
        number = whole_epoch(epoch) if epoch is not None else self.epoch if over else self.epoch + 1
        if self.rank == 0:
            self._tell(values, number)
        if not self._iterating and not over:
            self.epoch = number
            verdict = "stop" if self.epoch >= self.until else self._ranks.agree(self.epoch, NEXT)
            if verdict == "stop":
                raise EndOfTrial
            if verdict == "park":
                self._leave()

    def _tell(self, values: Mapping[str, Any], epoch: int) -> None:
        if epoch <= self._reported:
            raise UserError(
                f"Epoch {epoch} was reported already.",
                "Pass all metrics of an epoch in one trial.report(...), inside the loop over the epochs: "
                f"{', '.join(map(str, values))} too.",
            )
        if self._modes is not None:
            modes, self._modes = self._modes, None
            modes.verdict() if self.watched else modes.close()
        self._reported = epoch
        now = time.perf_counter()
        self._send(Reported(self.id, epoch, {k: _number(k, v) for k, v in values.items()}, round(now - self._since, 6)))
        self._since = now


def by_name(call: str, given: Sequence[Any], named: Mapping[str, Any], form: str) -> dict[str, Any]:
    """The metrics that were handed to ``call``: a mapping, names, or both.

    Args:
        given: what came without a name, at most one mapping.
        form: how the call is written, with ``{}`` for the metrics.

    Raises:
        UserError: a value without a name, as ``report(value, step)`` of Optuna has it; no metrics, or a name that is no
            string: the log could not keep it.
    """
    if given and not hasattr(given[0], "keys"):
        seen = [reprlib.repr(v) for v in given]
        raise UserError(
            f"{call} got {', '.join(seen)}: metrics have names here.", f"Write {form.format(f'val_loss={seen[0]}')}."
        )
    if len(given) > 1:
        raise UserError(
            f"{call} got {reprlib.repr(given[1])} after the metrics.",
            "Name the epoch where it is not the next one: epoch=1.",
        )
    values = {**(given[0] if given else {}), **named}
    if not values:
        raise UserError(f"{call} got no metrics.", f"Write {form.format('val_loss=0.5')}.")
    for name in values:
        if not isinstance(name, str):
            raise UserError(
                f"A metric is named {name!r} ({type(name).__name__}), which is no string.",
                'Name it as in report({"val_loss": 0.5}).',
            )
    return values


def whole_epoch(epoch: Any) -> int:
    """``epoch`` as an int; ``2.0`` and one-element tensors are taken too.

    Raises:
        UserError: it is no whole number from 1 on.
    """
    try:
        number = math.nan if isinstance(epoch, bool | str | bytes) else float(epoch)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not number.is_integer() or number < 1:
        raise UserError(
            f"The epoch {reprlib.repr(epoch)} ({type(epoch).__name__}) is no whole number from 1 on.",
            "Count epochs as 1, 2, 3, ...",
        )
    return int(number)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(
            f"The metric {name!r} is {value!r} ({type(value).__name__}), not a number.",
            "Report one number for each name.",
        ) from None
