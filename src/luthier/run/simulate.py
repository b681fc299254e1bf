"""Simulated workers: an executor on a clock of its own that replays learning curves, with stragglers and failures.

A thousand workers cost no more than their events. The loop, the book and the strategy are those of real runs.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from luthier.contracts import Job
from luthier.core.errors import UserError
from luthier.core.events import Ended, Failed, Reported
from luthier.core.params import Config

CurveFunction = Callable[[Config, int, int], Mapping[str, float] | float]
"""``(config, epoch, seed) -> metrics`` of that epoch, from 1; a bare number is the study's metric."""

Outcome = Literal["ended", "stopped", "killed", "raised"]


@dataclass(frozen=True, slots=True)
class Workers:
    """Who trains, and how well.

    Args:
        many: how many workers, at least 1.
        seconds_per_epoch: simulated seconds of an epoch on a healthy worker, or a function of the configuration.
        stragglers: the share of workers that are slow, in [0, 1]; which ones is drawn once.
        slowdown: how many times longer they take, at least 1.
        failures: the probability, in [0, 1], that a job's worker is killed before its end, at a moment that is uniform
            over the job's length. The trial is tried again from its last checkpoint, like a real one.

    Raises:
        UserError: a value out of its range.
    """

    many: int = 1
    seconds_per_epoch: float | Callable[[Config], float] = 1.0
    stragglers: float = 0.0
    slowdown: float = 10.0
    failures: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.many, bool) or not isinstance(self.many, int) or self.many < 1:
            raise UserError(
                f"workers must be a whole number of at least 1, got {self.many!r}.", "Write workers=1000, say."
            )
        for name, low, high in (("stragglers", 0.0, 1.0), ("failures", 0.0, 1.0), ("slowdown", 1.0, 1e9)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise UserError(f"{name} must be a number from {low:g} to {high:g}, got {value!r}.")
        if not callable(self.seconds_per_epoch):
            _pace(self.seconds_per_epoch, "")

    def pace(self, config: Config) -> float:
        """Seconds of an epoch of ``config`` on a healthy worker."""
        given = self.seconds_per_epoch
        return _pace(given(config), f" for {dict(config)}") if callable(given) else float(given)


def _pace(value: float, of: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 < value < math.inf:
        raise UserError(f"seconds_per_epoch must be a number above 0, got {value!r}{of}.", "Write 1.0, say.")
    return float(value)


@dataclass(frozen=True, slots=True)
class Span:
    """What a worker did: it held ``trial`` from ``began`` to ``ended``, in simulated seconds."""

    worker: int
    trial: int
    began: float
    ended: float
    outcome: Outcome


@dataclass(slots=True)
class _Held:
    """A job in a worker's hands."""

    job: Job
    began: float
    pace: float
    dies_after: float
    """Epochs of this job until its worker is killed; infinite for most."""
    epoch: int

    @property
    def due(self) -> float:
        """When the next thing happens to it. Counted from the job's begin, so that no rounding adds up."""
        return self.began + self.pace * min(self.epoch + 1 - self.job.start, self.dies_after)

    @property
    def dying(self) -> bool:
        """Whether that is its worker's death."""
        return self.epoch + 1 - self.job.start > self.dies_after


class SimulatedPool:
    """An executor whose workers replay ``curves``. Deterministic in the seed.

    Attributes:
        now: the simulated time, in seconds from 0; the clock of the book.
        spans: what every worker did so far.

    Args:
        curves: the metrics of each epoch.
        metric: what a bare number is called.
        workers: who trains.
        seed: draws the stragglers and the failures.
    """

    def __init__(self, curves: CurveFunction, metric: str, workers: Workers, seed: int = 0) -> None:
        self.now = 0.0
        self.spans: list[Span] = []
        self._curves = curves
        self._metric = metric
        self._workers = workers
        self._rng = np.random.default_rng((seed, 0x51A1))
        slow = self._rng.permutation(workers.many)[: round(workers.stragglers * workers.many)]
        self._slow = frozenset(slow.tolist())
        self._idle = list(range(workers.many))  # a heap: the first free worker gets the job
        self._held: dict[int, _Held] = {}
        self._due: list[tuple[float, int, int]] = []  # a heap of (when, turn, worker)
        self._turn = 0
        self._stopped: set[int] = set()

    @property
    def slow(self) -> frozenset[int]:
        """The numbers of the workers that are slow."""
        return self._slow

    @property
    def free(self) -> int:
        """Workers without a job."""
        return len(self._idle)

    def submit(self, job: Job) -> None:
        """Give the job to a free worker.

        Raises:
            UserError: the pace of its configuration is no number above zero.
        """
        worker = heapq.heappop(self._idle)
        pace = self._workers.pace(job.config) * (self._workers.slowdown if worker in self._slow else 1.0)
        # Both draws always: the n-th job meets the same fate whatever became of the others.
        fate, when = self._rng.random(2).tolist()
        dies_after = when * (job.until - job.start) if fate < self._workers.failures else math.inf
        self._stopped.discard(job.trial)
        self._held[worker] = _Held(job, self.now, pace, dies_after, job.start)
        self._plan(worker)

    def poll(self, hear: Callable[..., None], timeout: float) -> None:
        """Let the clock jump to the next thing that happens, and say it. ``timeout`` has no meaning here."""
        if not self._due:
            return
        self.now, _, worker = heapq.heappop(self._due)
        held = self._held[worker]
        job = held.job
        if job.trial in self._stopped:
            self._release(worker, "stopped")
        elif held.dying:
            self._release(worker, "killed")
            hear(Failed(job.trial, "killed", f"simulated worker {worker} was killed in epoch {held.epoch + 1}"))
        else:
            held.epoch += 1
            metrics = self._metrics(job, held.epoch)
            if isinstance(metrics, Failed):
                self._release(worker, "raised")
                hear(metrics)
                return
            hear(Reported(job.trial, held.epoch, metrics, held.pace))
            if job.trial in self._stopped:
                self._release(worker, "stopped")
            elif held.epoch < job.until:
                self._plan(worker)
            else:
                self._release(worker, "ended")
                hear(Ended(job.trial, held.epoch, checkpoint=f"epoch-{held.epoch}"))

    def stop(self, trial: int) -> None:
        """End the job of ``trial``: at once where its report is being heard, else at its next epoch."""
        self._stopped.add(trial)

    def park(self) -> None:
        """Simulated jobs are not saved: the study that asks again has them anew."""
        self._due.clear()

    def close(self) -> None:
        """Nothing to end."""

    def busy(self, until: float | None = None) -> float:
        """The share of all workers' time, from 0 to ``until`` (now where None), in which they held a job."""
        end = self.now if until is None else until
        if end <= 0:
            return 0.0
        held = math.fsum(min(stop, end) - begin for begin, stop in self._times() if begin < end)
        return held / (end * self._workers.many)

    def _times(self) -> Iterator[tuple[float, float]]:
        yield from ((s.began, s.ended) for s in self.spans)
        yield from ((h.began, self.now) for h in self._held.values())

    def _metrics(self, job: Job, epoch: int) -> dict[str, float] | Failed:
        try:
            told = self._curves(job.config, epoch, job.seed)
            named = told if isinstance(told, Mapping) else {self._metric: told}
            return {name: float(value) for name, value in named.items()}
        except UserError:
            raise  # the curves themselves are at fault: a table that is too short
        except Exception as error:
            return Failed(job.trial, "raised", f"{type(error).__name__}: {error}"[:500])

    def _plan(self, worker: int) -> None:
        self._turn += 1
        heapq.heappush(self._due, (self._held[worker].due, self._turn, worker))

    def _release(self, worker: int, outcome: Outcome) -> None:
        held = self._held.pop(worker)
        self.spans.append(Span(worker, held.job.trial, held.began, self.now, outcome))
        heapq.heappush(self._idle, worker)
