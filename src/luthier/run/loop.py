"""The loop: free slots get jobs, what workers say goes to the log, until nothing is left. Knows no algorithm."""

from __future__ import annotations

import time
import traceback
import warnings
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from luthier.contracts import Done, Executor, Job, Scheduler, Wait
from luthier.core import events as ev
from luthier.core.errors import RunError, UserError
from luthier.core.history import History
from luthier.core.trial import Status, TrialRecord
from luthier.run.book import Book
from luthier.run.decisions import job_of
from luthier.run.interrupts import GRACE, Interrupted, Interrupts
from luthier.run.retention import drop_old, keep_within
from luthier.run.vault import Vault

HOPELESS = 3
"""A study ends when this many first trials all failed, before their first report or by a misuse of Luthier."""


class Observer(Protocol):
    """Somebody who watches: the terminal, a progress bar, a tracker. Must not change anything."""

    def update(self, history: History, events: Sequence[ev.Event]) -> None:
        """New events were appended; ``history`` includes them."""
        ...


def run(
    book: Book,
    scheduler: Scheduler,
    executor: Executor,
    vault: Vault | None,
    observers: Sequence[Observer] = (),
    interrupts: Interrupts | None = None,
    limit: int | None = None,
) -> None:
    """Drive a study to its end.

    Trials that were running when an earlier driver left are put back first, from their last checkpoints. Where several
    drivers work on the study, this goes on until all of it is done, and takes over the trials of those that end.

    Args:
        vault: where its checkpoints are kept, and superseded ones deleted; None where there are none.
        limit: bytes that its checkpoints may take.
        interrupts: once somebody asks, no more jobs are handed out, and the running ones are saved.

    Raises:
        Interrupted: somebody asked.
        UserError: the metric was never reported.
        RunError: the first trials all failed, or the strategy is at fault.
    """
    taken_in = book.taken_in
    news: list[ev.Event] = []
    book.watch(news.extend)
    watching = list(observers)

    def look() -> None:
        if not news:
            return
        fresh = tuple(news)
        news.clear()
        for observer in tuple(watching):
            try:
                observer.update(book.history, fresh)
            except Exception as error:  # who watches may miss the rest, never end hours of training
                watching.remove(observer)
                _warn_of(observer, error)

    def hear(*events: ev.Event) -> None:
        for what in book.hear_all(events, scheduler):
            if isinstance(what, ev.Ended | ev.Failed | ev.Requeued | ev.Interrupted | ev.Stopped):
                out.discard(what.trial)
            if isinstance(what, ev.Stopped) or (isinstance(what, ev.Failed) and what.kind == "nonfinite"):
                executor.stop(what.trial)
            elif isinstance(what, ev.Interrupted):
                backlog.append(what.trial)
                if asked():
                    saved.add(what.trial)
            elif isinstance(what, ev.Requeued):
                backlog.append(what.trial)
            elif isinstance(what, ev.Ended) and vault is not None:
                drop_old(book.history, what.trial, vault)
                if limit is not None:
                    keep_within(book, vault, limit)
            elif isinstance(what, ev.Failed):
                _give_up_if_hopeless(book.history)
        let_go()
        look()

    def let_go(obeyed: bool = False) -> None:
        nonlocal taken_in
        if book.taken_in == taken_in and not obeyed:  # what ends a job behind the executor's back comes from others
            return
        taken_in = book.taken_in
        for trial in [i for i in out if not book.holds(i)]:  # stopped by hand, or taken over by another driver
            out.discard(trial)
            executor.stop(trial)

    asked = interrupts or Interrupts()
    out: set[int] = set()
    saved: set[int] = set()
    backlog: deque[int] = deque()
    backlog.extend(back.trial for back in book.take_over())
    while not asked():
        while executor.free > 0 and not asked():
            job: Job | Wait | Done
            if backlog:
                trial = backlog.popleft()
                if not book.holds(trial):
                    continue
                job = job_of(book.history, trial)
            else:
                job = book.next(scheduler)
            look()
            if isinstance(job, Done):
                return
            if isinstance(job, Wait):
                break
            out.add(job.trial)
            executor.submit(job)
        executor.poll(hear, timeout=0.5)
        obeyed = book.obey()
        backlog.extend(what.trial for what in obeyed if isinstance(what, ev.Requeued))
        let_go(bool(obeyed))
        look()
    executor.park()
    patience = time.monotonic() + GRACE
    while out and time.monotonic() < patience:
        executor.poll(hear, timeout=0.2)
        let_go()
    assert asked.signal is not None
    raise Interrupted(asked.signal, len(saved), len(out))


def _warn_of(observer: Observer, error: Exception) -> None:
    where = traceback.extract_tb(error.__traceback__)[-1]
    warnings.warn(
        f"The observer {type(observer).__name__} failed and is told no more ({type(error).__name__}: {error}; "
        f"{where.filename}:{where.lineno}). The study goes on.",
        stacklevel=2,
    )


def _give_up_if_hopeless(history: History) -> None:
    ended = (t for t in history.trials if t.status is not Status.RUNNING)
    if not all(map(_in_vain, ended)):  # as a rule the first of them is not: a walk of one step
        return
    failures = [t.failure for t in history.trials if t.failure is not None]
    if len(failures) < HOPELESS:
        return
    last = failures[-1]
    raise RunError(f"The first {len(failures)} trials all failed. The last one: {last.reason}\n{last.detail}".rstrip())


def _in_vain(trial: TrialRecord) -> bool:
    """Whether a trial failed and every other one will: it reported nothing, or its function misuses Luthier, which may
    show at its end only."""
    failure = trial.failure
    return failure is not None and (not trial.reports or failure.reason.startswith(f"{UserError.__name__}: "))
