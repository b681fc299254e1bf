"""One method on one task with one seed: what it trains, what that costs, and the end of its budget."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

import luthier as lt
from search.task import Config, Run, Task

Sink = Callable[[Mapping[str, object]], None]
"""Where the lines of a run's record go."""


class BudgetSpentError(Exception):
    """No epoch is left. A method lets it through."""


class Training:
    """A configuration being trained, by one method."""

    def __init__(self, session: Session, number: int, config: Config, run: Run) -> None:
        self._session, self._run = session, run
        self.number, self.config = number, dict(config)
        self.epoch = 0
        self.best = float("inf")
        self.metrics: dict[str, float] = {}

    def step(self) -> float:
        """Train one epoch; the task's metric after it.

        Raises:
            BudgetSpentError: no epoch is left in the budget; nothing was trained.
        """
        self.metrics = self._session._pay(self, self._run)
        value = self.metrics[self._session.task.metric]
        self.best = min(self.best, value)
        return value

    def to(self, epoch: int) -> float:
        """Train on until ``epoch`` in all, the task's full length at most; the best metric so far."""
        while self.epoch < min(epoch, self._session.task.epochs):
            self.step()
        return self.best


@dataclass(frozen=True, slots=True)
class Bill:
    """What a run came to.

    Args:
        epochs: trained in all.
        trainings: begun.
        best: the best metric of any epoch.
        train_cpu: CPU seconds of training.
        decide_cpu: CPU seconds of everything else since the first training began.
    """

    epochs: int
    trainings: int
    best: float
    train_cpu: float
    decide_cpu: float


class Session:
    """What a method gets: a task, a seed, and trainings until the budget is spent.

    Every training has a seed of its own unless the method names one, so a configuration that is trained again gives
    another curve. Leaving a training and going on with it later costs nothing.

    Args:
        task: made for this session alone.
        number: of the run among those of one method on one task, from 0.
        trials: the budget, in full trainings: ``trials * task.epochs`` epochs, wherever they are spent.
        sink: gets a line for each training and each epoch.
    """

    def __init__(self, task: Task, number: int, trials: int, sink: Sink) -> None:
        self.task, self.number, self.trials = task, number, trials
        # Another seed on every task: the tabulated ones share their configurations, and a method that drew the same
        # ones on each would be measured once, not six times.
        self.seed = zlib.crc32(f"{task.name} {number}".encode()) >> 1
        self.rng = np.random.default_rng(self.seed)
        self.budget = trials * task.epochs
        self.spent = 0
        self.best = float("inf")
        self._sink = sink
        self._begun = 0
        self._train_cpu = 0.0
        self._cpu: float | None = None

    @property
    def space(self) -> lt.Space:
        """The task's space."""
        return self.task.space

    @property
    def epochs(self) -> int:
        """The length of a full training."""
        return self.task.epochs

    def start(self, config: Config, *, seed: int | None = None, horizon: int | None = None) -> Training:
        """A training of ``config``; it costs nothing until its first step."""
        if self._cpu is None:
            self._cpu = time.process_time()
        number = self._begun
        self._begun += 1
        seed = 100_000 * (self.number + 1) + number if seed is None else seed
        before = time.process_time()
        run = self.task.start(config, seed, horizon)
        self._train_cpu += time.process_time() - before
        self._sink({"trial": number, "config": dict(config), "seed": seed, "horizon": horizon or self.task.epochs})
        return Training(self, number, config, run)

    def _pay(self, training: Training, run: Run) -> dict[str, float]:
        if self.spent >= self.budget:
            raise BudgetSpentError
        if training.epoch >= self.task.epochs:
            raise RuntimeError(f"Training {training.number} is at its full length of {self.task.epochs} epochs.")
        before = time.process_time()
        metrics = run.step()
        self._train_cpu += time.process_time() - before
        self.spent += 1
        training.epoch += 1
        value = metrics[self.task.metric]
        self.best = min(self.best, value)
        self._sink({"trial": training.number, "epoch": training.epoch, "value": float(f"{value:.6g}")})
        return metrics

    def bill(self) -> Bill:
        """What it came to so far."""
        used = 0.0 if self._cpu is None else time.process_time() - self._cpu
        return Bill(self.spent, self._begun, self.best, self._train_cpu, max(0.0, used - self._train_cpu))
