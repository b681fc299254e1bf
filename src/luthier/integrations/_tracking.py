"""Following a study's log and mirroring each trial as a run of a tracker; what MLflow, W&B and TensorBoard share.

A tracker is a reader: it sees every event after it is in the log, and nothing waits for it or rests on it. So it can
watch a study (``lt.tune(..., observers=[tracker])``) or be shown its log afterwards (``export``), and one that fails
ends nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.core import events as ev
from luthier.core.errors import UserError
from luthier.core.history import Entry, History, start
from luthier.core.params import Value
from luthier.core.summary import Summary, summarize
from luthier.core.trial import Status, TrialRecord


@dataclass(frozen=True, slots=True)
class Run:
    """A trial, as trackers name such things.

    Args:
        study: the study's name.
        trial: its number.
        name: ``trial-00003``.
        config: its hyperparameters.
        tags: stage, seed, why it was started, strategy, parent; as text.
        at: when this became known, in seconds since 1970.
    """

    study: str
    trial: int
    name: str
    config: Mapping[str, Value]
    tags: Mapping[str, str]
    at: float = 0.0


@dataclass
class Follower:
    """Watches a study as an observer. A tracker implements the five methods that begin with ``on_``.

    Whatever they raise is said once, as a warning, and the tracker is left alone from then on; ``export`` makes up for
    it later.
    """

    _broken: bool = field(default=False, init=False, repr=False)
    _open: set[int] = field(default_factory=set, init=False, repr=False)
    _begun: bool = field(default=False, init=False, repr=False)

    # -- to be implemented -----------------------------------------------------------------------------------------
    def on_study(self, history: History) -> None:
        """The study is there."""

    def on_start(self, run: Run) -> None:
        """A trial begins, or goes on after a pause or a restart: its run may exist already."""
        raise NotImplementedError

    def on_report(self, run: Run, epoch: int, metrics: Mapping[str, float]) -> None:
        """An epoch's metrics."""
        raise NotImplementedError

    def on_end(self, run: Run, status: Status, why: str) -> None:
        """A trial is done, paused, stopped or failed, and why."""
        raise NotImplementedError

    def on_finish(self, summary: Summary, at: float) -> None:
        """The study is finished."""

    # -- following -------------------------------------------------------------------------------------------------
    def update(self, history: History, events: Sequence[ev.Event]) -> None:
        """Take in new events; ``history`` includes them."""
        if self._broken:
            return
        try:
            if not self._begun:
                self._begun = True
                self.on_study(history)
            for event in events:
                self._take(history, event)
        except Exception as error:
            self._broken = True
            warnings.warn(
                f"{type(self).__name__} failed and follows no further ({type(error).__name__}: {error}). "
                "The study goes on; export it to the tracker later.",
                stacklevel=2,
            )

    def _take(self, history: History, event: ev.Event) -> None:
        if isinstance(event, ev.Finished):
            self.on_finish(summarize(history), history.last_at)
            return
        number = getattr(event, "trial", None)
        if number is None or history.trials[number].probe is not None:
            return
        trial = history.trials[number]
        run = run_of(history, trial)
        if isinstance(event, ev.Started | ev.Resumed) or number not in self._open:
            self._open.add(number)
            self.on_start(run)  # also of a trial that began before this tracker came
        if isinstance(event, ev.Reported):
            self.on_report(run, event.epoch, event.metrics)
        elif isinstance(event, ev.Ended | ev.Stopped | ev.Failed):
            # Of several events at once the history knows the end: what this one said of the trial is what counts here.
            ended = trial.status if isinstance(event, ev.Ended) else None
            status = ended or (Status.STOPPED if isinstance(event, ev.Stopped) else Status.FAILED)
            self._open.discard(number)
            self.on_end(run, Status.PAUSED if status is Status.RUNNING else status, _reason(trial))


def run_of(history: History, trial: TrialRecord) -> Run:
    """A trial as a run."""
    tags = {
        "study": history.study.name,
        "trial": str(trial.id),
        "strategy": history.study.strategy,
        "stage": trial.stage or "",
        "seed": str(trial.seed),
        "why": trial.why,
        "parent": "" if trial.parent is None else str(trial.parent),
    }
    return Run(
        history.study.name,
        trial.id,
        f"trial-{trial.id:05d}",
        trial.config,
        {k: v for k, v in tags.items() if v},
        history.last_at,
    )


def _reason(trial: TrialRecord) -> str:
    if trial.failure is not None:
        return f"{trial.failure.kind}: {trial.failure.reason}"
    return trial.stop_why or ""


def follow(source: Any, follower: Follower, name: str | None = None) -> None:
    """Show a study's whole log to a tracker, entry by entry, with the times at which things happened.

    Args:
        source: where the study is stored.
        name: of several studies there.

    Raises:
        StorageError: there is no study at ``source``.
        UserError: the tracker failed, with its own words.
    """
    from luthier import store as stores

    if not isinstance(source, str | Path):
        raise UserError(f"export() got a {type(source).__name__}.", "Name where the study is stored: its storage=.")
    log = stores.open_store(source, name)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            _show(log.read(), follower)
    finally:
        log.close()
    if follower._broken:
        own = next(w for w in said if "follows no further" in str(w.message))
        raise UserError(str(own.message), "Mend it, then export again.")


def _show(entries: Any, follower: Follower) -> None:
    history: History | None = None
    for entry in entries:
        assert isinstance(entry, Entry)
        history = start(entry) if history is None else history.then(entry)
        follower.update(history, [entry.event])
