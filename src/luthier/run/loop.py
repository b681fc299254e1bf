"""The loop: free slots get jobs, what workers say goes to the log, until nothing is left. Knows no algorithm."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from luthier.contracts import Done, Executor, Job, Scheduler, Wait
from luthier.core import events as ev
from luthier.core.errors import RunError
from luthier.core.history import History
from luthier.core.index import Borrowed
from luthier.core.lineage import ancestors
from luthier.core.trial import Status
from luthier.run.book import Book, job_of, requeued

HOPELESS = 3
"""A study ends when this many first trials all failed and none ever reported its metric."""


class Observer(Protocol):
    """Somebody who watches: the terminal, a progress bar, a tracker. Must not change anything."""

    def update(self, history: History, events: Sequence[ev.Event]) -> None:
        """New events were appended; ``history`` includes them."""
        ...


def run(
    book: Book, scheduler: Scheduler, executor: Executor, files: Path | None, observers: Sequence[Observer] = ()
) -> None:
    """Drive a study to its end.

    Trials that were running when an earlier driver left are put back first, from their last checkpoints.

    Args:
        files: the study's folder of files, in which superseded checkpoints are deleted; None where there are none.

    Raises:
        UserError: the metric was never reported.
        RunError: the first trials all failed, or the strategy is at fault.
    """
    seen = book.history.length

    def look() -> None:
        nonlocal seen
        if book.history.length > seen:
            fresh = book.recent(seen)
            seen = book.history.length
            for observer in observers:
                observer.update(book.history, fresh)

    def hear(event: ev.Event) -> None:
        for what in book.hear(event, scheduler):
            if isinstance(what, ev.Stopped) or (isinstance(what, ev.Failed) and what.kind == "nonfinite"):
                executor.stop(what.trial)
            elif isinstance(what, ev.Requeued):
                backlog.append(what.trial)
            elif isinstance(what, ev.Ended) and files is not None:
                _drop_old_checkpoints(book.history, what.trial, files)
            elif isinstance(what, ev.Failed):
                _give_up_if_hopeless(book.history)
        look()

    backlog: deque[int] = deque()
    for back in requeued(book.history):
        book.append(back)
        backlog.append(back.trial)
    while True:
        while executor.free > 0:
            job: Job | Wait | Done
            if backlog:
                trial = backlog.popleft()
                if book.history.trials[trial].status is not Status.RUNNING:
                    continue
                job = job_of(book.history, trial)
            else:
                job = book.next(scheduler)
            look()
            if isinstance(job, Done):
                return
            if isinstance(job, Wait):
                break
            executor.submit(job)
        executor.poll(hear, timeout=0.5)
        for stopped in book.obey():
            executor.stop(stopped.trial)
        look()


def _drop_old_checkpoints(history: History, trial_id: int, files: Path) -> None:
    """Delete what nobody goes on from any more, beside a trial's newest checkpoint, the one that it inherited and the
    one of the trial whose place it took; called once the log points to the newest.

    A clone goes on from its ancestor's until it has its own; nobody from a trial that gave up its place.
    """
    trial = history.trials[trial_id]
    if trial.checkpoint is None or trial.checkpoint == trial.inherited:
        return
    left = None if trial.instead_of is None else history.trials[trial.instead_of]
    kin = [*ancestors(history, trial), *(() if left is None else ancestors(history, left))]
    kept = {t.checkpoint.path for t in (trial, *kin) if t.checkpoint is not None and t.id != trial.instead_of}
    kept |= {path for i, path in history.index(Borrowed()).items() if i != trial.instead_of}
    places = [trial.checkpoint, trial.inherited, None if left is None else left.checkpoint]
    # An ancestor may have written its next one already, of which the log has not heard: what is newer stays.
    known = {(files / t.checkpoint.path).parent: Path(t.checkpoint.path).name for t in kin if t.checkpoint is not None}
    for folder in {(files / place.path).parent for place in places if place is not None}:
        for old in folder.glob("*.ckpt"):
            newer = folder in known and old.name > known[folder]
            if old.relative_to(files).as_posix() not in kept and not newer:
                old.unlink(missing_ok=True)


def _give_up_if_hopeless(history: History) -> None:
    ended = (t for t in history.trials if t.status is not Status.RUNNING)
    if any(t.failure is None or t.reports for t in ended):  # as a rule the first of them: a walk of one step
        return
    failures = [t.failure for t in history.trials if t.failure is not None]
    if len(failures) < HOPELESS:
        return
    last = failures[-1]
    raise RunError(f"The first {len(failures)} trials all failed. The last one: {last.reason}\n{last.detail}".rstrip())
