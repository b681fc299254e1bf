"""An executor whose workers come and ask: jobs are handed over a counter, and what workers say comes back over it.

Everything here happens in the driver's thread, which owns the log: whoever comes leaves a *visit* in a queue and waits
for its answer. A visit is a generator. What it yields is an event for the log; once that is durable it goes on, and
what it returns is the answer. So nothing is acknowledged that a crash could take back, and no lock is needed.
"""

from __future__ import annotations

import queue
import signal
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from luthier.contracts import Job
from luthier.core import events as ev
from luthier.core.errors import LuthierError
from luthier.core.history import History
from luthier.core.trial import Status, TrialRecord
from luthier.run.decisions import job_of
from luthier.run.interrupts import Interrupted
from luthier.serve.leases import Lease, Leases

Visit = Generator[ev.Event, None, Any]
"""Yields an event, returns the answer; yields nothing where there is nothing to record."""

AGAIN = 3
"""How often a job is handed to the same worker before it counts as lost: the answer may not have reached it."""
REMEMBERED = 10_000
"""Leases that are over, of which a late word is still understood."""
AT_ONCE = 500
"""Visits that are heard in one transaction."""
FAREWELL = 30.0
"""Seconds in which the workers are told that the study is over, at most."""
NOTHING: tuple[ev.Event, ...] = ()
"""What a visit has to record that only reads."""
LATER = object()
"""The answer of a visit that is answered some other time."""
ENDED = "This job has ended."
AWAY = "The server is being stopped. Ask again when it is back."


class Gone(LuthierError):
    """A lease that is over: its worker shall ask anew."""


class Mistaken(LuthierError):
    """What a worker said cannot be."""


class Closing(LuthierError):
    """The server does not listen any more."""


@dataclass(frozen=True, slots=True)
class Later:
    """No job yet."""

    why: str


@dataclass(frozen=True, slots=True)
class Over:
    """The study is over."""

    why: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether to train on; ``keep``: the state is worth keeping, for the trial may be resumed."""

    go_on: bool
    keep: bool = False
    why: str = ""


@dataclass(slots=True)
class _Waiting:
    worker: str
    until: float
    answer: Future[Any]


class Counter:
    """Hands jobs to those who ask.

    Args:
        files: the study's folder of files.
        lease: seconds without a word after which a worker is taken to have vanished.
        asked: whether the study was asked to stop.
        stay: go on answering when the study is over, until asked to stop.
        closed: called when nobody is answered any more.
    """

    def __init__(
        self,
        files: Path,
        lease: float,
        asked: Callable[[], bool] = lambda: False,
        stay: bool = False,
        closed: Callable[[], None] = lambda: None,
    ) -> None:
        self._lease = lease
        self._asked = asked
        self._stay = stay
        self._when_closed = closed
        self._leases = Leases(files, time.monotonic())
        self._visits: queue.SimpleQueue[tuple[Visit, Future[Any]]] = queue.SimpleQueue()
        self._waiting: deque[_Waiting] = deque()
        self._ready: deque[int] = deque()
        # Those of an earlier server: their trials are put back when the loop begins, and go on where they are.
        self._left: set[int] = set()
        self._over: OrderedDict[str, str] = OrderedDict()
        self._known: dict[str, float] = {}
        self._finished: str | None = None
        self._closed: BaseException | None = None
        self._trouble: BaseException | None = None
        self._leaving = False

    def attend(self, history: Callable[[], History]) -> None:
        """Look at the study: the leases of an earlier server whose trials have ended are over."""
        self._history = history
        for held in self._leases:
            if self._running(held.trial):
                self._left.add(held.trial)
            else:
                self._close(held, ENDED)

    # -- what the loop asks of an executor -------------------------------------------------------------------------
    @property
    def free(self) -> int:
        """Workers that wait for a job, and jobs that workers of an earlier server still hold."""
        waiting = sum(not asker.answer.cancelled() for asker in self._waiting)
        return max(0, waiting - len(self._ready) + sum(map(self._running, self._left)))

    def submit(self, job: Job) -> None:
        """Give the job to who has waited longest, or leave it with who holds it."""
        self._left.discard(job.trial)
        if self._leases.of_trial(job.trial) is None and job.trial not in self._ready:
            self._ready.append(job.trial)
            self._hand_out()

    def poll(self, hear: Callable[..., None], timeout: float) -> None:
        """Hear those who came, waiting up to ``timeout`` seconds for the first, and end leases of who vanished.

        Raises:
            LuthierError: what the driver objects to; those who were being heard get it as their answer.
        """
        if self._leaving:
            self.park()
        came = self._arrivals(timeout)
        heard = [(visit, answer, told) for visit, answer in came if (told := self._step(visit, answer)) is not None]
        lost = self._vanished()  # who has just come has not
        events = [*lost, *(event for _, _, event in heard)]
        if events:
            try:
                hear(*events)
            except BaseException as error:
                self._trouble = error
                for _, answer, _ in heard:
                    _refuse(answer, error)
                raise
        for visit, answer, _ in heard:
            self._step(visit, answer)
        self._hand_out()
        self._send_away()

    def stop(self, trial: int) -> None:
        """The worker learns of it from the answer to its next word. A trial that runs on all the same was taken over by
        another driver: then the lease is over."""
        lease = self._leases.of_trial(trial)
        if lease is not None and self._running(trial):
            self._close(lease, f"The lease on trial {trial} is over: another driver has taken it over.")

    def park(self) -> NoReturn:
        """The server leaves, and the workers do not: they go on when it is back.

        Raises:
            Interrupted: always.
        """
        raise Interrupted(getattr(self._asked, "signal", None) or signal.SIGINT)

    def leave(self) -> None:
        """Have the study stop as Ctrl-C does; from any thread."""
        self._leaving = True

    def close(self) -> None:
        """Say to the workers that the study is over, if it is, else that the server is; then answer nobody any more."""
        finished = self._history().finished if self._trouble is None else None
        if finished is not None:
            self._farewell(finished)
        self._closed = self._trouble or Closing(AWAY)
        for answer in (*(w.answer for w in self._waiting), *(answer for _, answer in self._arrivals(0.0))):
            _refuse(answer, self._closed)
        self._waiting.clear()
        self._when_closed()

    def _farewell(self, why: str) -> None:
        """Tell that the study is over until all have heard it who have asked lately, or as long as one shall stay."""
        self._finished = why
        end = time.monotonic() + FAREWELL
        while not self._asked() and not self._leaving:
            self._send_away()
            recent = time.monotonic() - self._lease
            told = not any(asked > recent for asked in self._known.values())
            if not self._stay and (told or time.monotonic() >= end):
                return
            self.poll(lambda *events: None, 0.5)

    # -- in the driver's thread ------------------------------------------------------------------------------------
    def _arrivals(self, timeout: float) -> list[tuple[Visit, Future[Any]]]:
        came = []
        with suppress(queue.Empty):
            came.append(self._visits.get(timeout=timeout) if timeout else self._visits.get_nowait())
            while len(came) < AT_ONCE:
                came.append(self._visits.get_nowait())
        return came

    def _step(self, visit: Visit, answer: Future[Any]) -> ev.Event | None:
        """What the visit has to record; one that has nothing more is answered."""
        try:
            return next(visit)
        except StopIteration as done:
            _tell(answer, done.value)
        except Exception as error:
            _refuse(answer, error)
        return None

    def _vanished(self) -> list[ev.Event]:
        """What is to be said of the trials whose workers were not heard of for too long."""
        now = time.monotonic()
        lost = [lease for lease in self._leases if now - lease.heard > self._lease]
        told = [self._lose(lease, "hung", f"its worker was not heard of for {self._lease:g} s") for lease in lost]
        return [event for event in told if event is not None]

    def _lose(self, lease: Lease, kind: str, why: str) -> ev.Failed | None:
        """End a lease whose worker is gone; the failure of its trial, if that was still running."""
        self._close(lease, f"The lease on trial {lease.trial} is over: {why}.")
        return ev.Failed(lease.trial, kind, why) if self._running(lease.trial) else None

    def _hand_out(self) -> None:
        while self._ready and self._waiting:
            if not self._running(self._ready[0]):  # stopped by hand meanwhile
                self._ready.popleft()
                continue
            asker = self._waiting.popleft()
            if not asker.answer.set_running_or_notify_cancel():
                continue
            trial = self._ready.popleft()
            lease = self._leases.grant(trial, asker.worker, time.monotonic())
            _tell(asker.answer, (lease.id, job_of(self._history(), trial)))

    def _send_away(self) -> None:
        """Answer those who have waited as long as they wanted, or for nothing."""
        now, still = time.monotonic(), deque[_Waiting]()
        for asker in self._waiting:
            if asker.answer.cancelled():
                continue
            if self._finished is not None:
                self._known.pop(asker.worker, None)
                _tell(asker.answer, Over(self._finished))
            elif now >= asker.until:
                paused = self._history().paused
                _tell(asker.answer, Later("paused by hand" if paused else "what runs must be told first"))
            else:
                still.append(asker)
        self._waiting = still

    def _close(self, lease: Lease, why: str) -> None:
        if self._leases.get(lease.id) is None:
            return
        self._leases.drop(lease)
        self._left.discard(lease.trial)
        self._over[lease.id] = why
        while len(self._over) > REMEMBERED:
            self._over.popitem(last=False)

    def _trial(self, number: int) -> TrialRecord | None:
        trials = self._history().trials
        return trials[number] if 0 <= number < len(trials) else None

    def _running(self, number: int) -> bool:
        trial = self._trial(number)
        return trial is not None and trial.status is Status.RUNNING

    def _of(self, lease: str) -> tuple[Lease, TrialRecord]:
        """A lease and its trial; its worker was heard of.

        Raises:
            Gone: it is over, or was never given.
        """
        found = self._leases.get(lease)
        trial = None if found is None else self._trial(found.trial)
        if found is None or trial is None:
            raise Gone(self._over.get(lease, "This lease is not known: its job is over, or was never handed out."))
        found.heard, found.handed = time.monotonic(), 0
        return found, trial

    def _answer(self, number: int) -> Answer:
        trial = self._history().trials[number]
        if trial.status is Status.RUNNING:
            if trial.epoch < trial.until:
                return Answer(go_on=True)
            return Answer(go_on=False, keep=True, why="the job is done")
        return Answer(go_on=False, why=trial.stop_why or (trial.failure.reason if trial.failure else "it has ended"))

    # -- visits ----------------------------------------------------------------------------------------------------
    def visit(self, visit: Visit, answer: Future[Any] | None = None) -> Future[Any]:
        """Leave a visit, from any thread; the answer comes when the driver gets to it."""
        answer = answer or Future()
        if self._closed is not None:
            _refuse(answer, self._closed)
        else:
            self._visits.put((visit, answer))
        return answer

    def asks(self, worker: str, wait: float, answer: Future[Any]) -> Visit:
        """A worker asks for a job: ``answer`` gets ``(lease, job)``, :class:`Later` or :class:`Over`.

        Who asks again without a word about the job that it has gets that once more: the answer may have been lost. Who
        trained it to its end has ended it; whose process broke off begins anew, and the trial is put back.
        """
        mine = self._leases.of_worker(worker)
        if mine is not None and self._running(mine.trial):
            if 0 < mine.handed < AGAIN:
                mine.handed, mine.heard = mine.handed + 1, time.monotonic()
                return mine.id, job_of(self._history(), mine.trial)
            trial = self._history().trials[mine.trial]
            if trial.reports and trial.epoch >= trial.until:
                yield ev.Ended(trial.id, trial.epoch)
                self._close(mine, ENDED)
            elif lost := self._lose(mine, "killed", "its worker asked anew without having ended it"):
                yield lost
        elif mine is not None:
            self._close(mine, ENDED)
        for asker in self._waiting:
            if asker.worker == worker:  # what it asked before does not reach it any more
                asker.answer.cancel()
        self._known[worker] = time.monotonic()
        self._waiting.append(_Waiting(worker, time.monotonic() + wait, answer))
        return LATER

    def reports(self, lease: str, epoch: int, metrics: dict[str, float], seconds: float | None) -> Visit:
        """The metrics after an epoch: an :class:`Answer`."""
        found, trial = self._of(lease)
        if epoch > trial.until:
            raise Mistaken(f"The job of trial {trial.id} trains to epoch {trial.until}; this is epoch {epoch}.")
        took = round(found.heard - found.since, 6) if seconds is None else seconds
        found.since = found.heard
        yield ev.Reported(trial.id, epoch, metrics, took)
        return self._answer(trial.id)

    def beats(self, lease: str) -> Visit:
        """A sign of life: an :class:`Answer`."""
        yield from NOTHING
        return self._answer(self._of(lease)[1].id)

    def ends(self, lease: str, event: Callable[[TrialRecord], ev.Event]) -> Visit:
        """The job is over in the way of ``event``, ``Ended``, ``Interrupted`` or ``Failed``; once more is no harm."""
        if self._over.get(lease) == ENDED:
            return
        found, trial = self._of(lease)
        if trial.status is Status.RUNNING:
            said = event(trial)
            yield said
            if isinstance(said, ev.Interrupted):
                self._known.pop(found.worker, None)
        self._close(found, ENDED)

    def tells(self, lease: str, event: Callable[[TrialRecord], ev.Event]) -> Visit:
        """Something went wrong with the job's checkpoints; it goes on."""
        _, trial = self._of(lease)
        yield event(trial)

    def looks(self, lease: str) -> Visit:
        """The trial of a lease, which is running, and the job as it is now.

        Raises:
            Gone: it is not running any more.
        """
        yield from NOTHING
        _, trial = self._of(lease)
        if trial.status is not Status.RUNNING:
            raise Gone(f"Trial {trial.id} has ended.")
        return trial, job_of(self._history(), trial.id)

    def reads(self, question: Callable[[History], Any]) -> Visit:
        """Something that the log tells."""
        yield from NOTHING
        return question(self._history())


def _tell(answer: Future[Any], value: Any) -> None:
    if value is not LATER:
        with suppress(InvalidStateError):  # who asked went away
            answer.set_result(value)


def _refuse(answer: Future[Any], error: BaseException) -> None:
    with suppress(InvalidStateError):
        answer.set_exception(error if isinstance(error, Exception) else Closing(AWAY))
