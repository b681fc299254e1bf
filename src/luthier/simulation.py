"""``simulate``: a study of learning curves that are known, on a clock of its own, to compare ways of searching."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.api import DEFAULT_EPOCHS
from luthier.configs import enqueued
from luthier.contracts import Scheduler
from luthier.core import events as ev
from luthier.core.errors import UserError
from luthier.core.history import Entry, History
from luthier.core.params import Config
from luthier.core.space import Space
from luthier.core.study import Budget
from luthier.request import Names, first_trainings, objectives_from, study_from
from luthier.result import Result
from luthier.run.book import Book
from luthier.run.loop import run
from luthier.run.memory import MemoryStore
from luthier.run.simulate import CurveFunction, SimulatedPool, Span, Workers
from luthier.run.table import Table
from luthier.strategies import build


@dataclass(frozen=True, slots=True)
class Moment:
    """A new incumbent: when it was seen, in simulated seconds and in epochs of all trials, its score (in the first
    objective), and whether it meets the constraints."""

    seconds: float
    epochs: float
    score: float
    trial: int
    feasible: bool = True


class SimulatedResult(Result):
    """What a simulated study found, and what its workers did meanwhile.

    Attributes:
        history: as of any study; its clock began at 0.
        log: the entries of which it is the fold.
        seconds: simulated seconds from the start until the last job was over.
        spans: what each worker did, as ``worker, trial, began, ended, outcome``.
        incumbents: every change of the best trial, oldest first.
    """

    def __init__(
        self, history: History, log: Sequence[Entry], pool: SimulatedPool, incumbents: Sequence[Moment]
    ) -> None:
        super().__init__(history)
        self.log = tuple(log)
        self.seconds = pool.now
        self.spans: tuple[Span, ...] = tuple(pool.spans)
        self.incumbents = tuple(incumbents)
        self._pool = pool

    @property
    def busy(self) -> float:
        """The share of the workers' time, from start to end, in which they held a job."""
        return self._pool.busy()

    def busy_until(self, seconds: float) -> float:
        """The same up to a moment: without the end, in which nothing is left to hand out."""
        return self._pool.busy(min(seconds, self.seconds))

    def score_at(self, seconds: float) -> float | None:
        """The best score known at a moment; None before the first."""
        known = [m.score for m in self.incumbents if m.seconds <= seconds]
        return known[-1] if known else None

    def seconds_to(self, score: float) -> float | None:
        """When a trial that meets the constraints was first as good as ``score``; None if none ever was."""
        loss = self.history.objective.loss
        return next((m.seconds for m in self.incumbents if m.feasible and loss(m.score) <= loss(score)), None)


class _Watch:
    """Notes every change of the incumbent."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []
        self._least = math.inf  # the loss of the latest, constraints included

    def update(self, history: History, events: Sequence[ev.Event]) -> None:
        if not any(self._may_change(history, event) for event in events):
            return
        best = history.incumbent
        if best is None:
            return
        score = history.score(best)
        assert score is not None
        self._least = history.final_loss(best)
        moment = Moment(history.elapsed, history.spent, score, best.id, not best.violation)
        last = self.moments[-1] if self.moments else None
        if last is None or (last.score, last.trial, last.feasible) != (score, best.id, moment.feasible):
            self.moments.append(moment)

    def _may_change(self, history: History, event: ev.Event) -> bool:
        if not isinstance(event, ev.Reported | ev.Failed):
            return False
        if not self.moments or event.trial == self.moments[-1].trial:
            return True
        return history.final_loss(history.trials[event.trial]) <= self._least


def simulate(
    curves: CurveFunction | Table,
    space: Space | Mapping[str, Any] | None = None,
    *,
    minimize: Names = None,
    maximize: Names = None,
    metric: Names = None,
    constraints: Mapping[str, str] | Sequence[str] | None = None,
    samples: int | None = None,
    warm_start: Sequence[str | Path] = (),
    max_epochs: int | None = None,
    budget: str | int | float | Budget | None = None,
    strategy: str | Scheduler = "playbook",
    workers: int = 1,
    seconds_per_epoch: float | Callable[[Config], float] = 1.0,
    stragglers: float = 0.0,
    slowdown: float = 10.0,
    failures: float = 0.0,
    name: str = "simulation",
    seed: int = 0,
    reduce: str = "best",
    enqueue: Sequence[Config] = (),
) -> SimulatedResult:
    """Run a study on known curves and simulated workers; nothing is trained, and the seed fixes everything.

    The loop, the log and the strategies are those of :func:`luthier.tune`; only time is simulated. A budget in seconds
    counts simulated ones.

    >>> table = lt.Table.taskset("taskset.npz", "patch32_GRU128_bs128")
    >>> result = lt.simulate(table, minimize="val_loss", budget="2h", strategy="asha", workers=1000, stragglers=0.05)
    >>> result.best_score, result.seconds, result.busy

    Args:
        curves: ``(config, epoch, seed) -> metrics`` (or one number, the metric), or a :class:`luthier.Table`.
        space: what to search; a table brings its own.
        minimize, maximize, metric, constraints, samples, warm_start, budget, strategy, name, seed, reduce, enqueue: as
            for :func:`luthier.tune`.
        max_epochs: the length of a full training; that of the table's curves, or 30, where None.
        workers: how many train at once.
        seconds_per_epoch: simulated seconds of an epoch, or a function of the configuration.
        stragglers: the share of workers that take ``slowdown`` times as long.
        failures: the probability that a job's worker is killed on the way, at a random moment; the trial is tried again
            from its last checkpoint, three times in all, then recorded as failed ("killed").

    Raises:
        UserError: a mistake in what was asked.
        RunError: the first trials all failed, or the strategy is at fault.
    """
    if not callable(curves):
        raise UserError(
            f"simulate() got a {type(curves).__name__} for curves.",
            "Pass a function (config, epoch, seed) -> metrics or a Table.",
        )
    if space is None:
        if not isinstance(curves, Table):
            raise UserError("No search space was given.", "Pass lt.Space(...); only a Table brings its own.")
        space = curves.space
    if max_epochs is None:
        max_epochs = curves.epochs if isinstance(curves, Table) else DEFAULT_EPOCHS
    study = study_from(
        name=name,
        space=space,
        objectives=objectives_from(minimize, maximize, metric, reduce),
        max_epochs=max_epochs,
        budget=budget,
        strategy=strategy,
        seed=seed,
        constraints=constraints,
        samples=samples,
        warm_start=warm_start,
    )
    pool = SimulatedPool(
        curves, study.objective.metric, Workers(workers, seconds_per_epoch, stragglers, slowdown, failures), seed
    )
    store, watch = MemoryStore(), _Watch()
    book = Book.create(store, study, clock=lambda: pool.now)
    book.enqueue(first_trainings(study, strategy, enqueued(study.space, enqueue)))
    run(book, build(strategy), pool, None, [watch])
    return SimulatedResult(book.history, store.read(), pool, watch.moments)
