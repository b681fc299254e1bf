"""Keeping to the budget, around any scheduler."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from luthier.contracts import Action, Done, Resume, Scheduler, Start, Stop, Wait
from luthier.core.history import History
from luthier.core.words import epochs

IDLE = 50
"""Failures in a row that end a study: a trial that fails at once costs no epochs, and would be followed by
others without end. So many, because a space may fail for the most part."""


@dataclass(frozen=True, slots=True)
class Within:
    """Lets through only what the study's budget can still pay in full; ends running trials when the time is up."""

    inner: Scheduler

    def propose(self, history: History, rng: np.random.Generator) -> Action:
        """The inner proposal, or Done when it does not fit."""
        action = self.inner.propose(history, rng)
        if isinstance(action, Start):
            donor = history.trials[action.parent] if action.clone and action.parent is not None else None
            cost = donor.price(action.until) if donor else action.until
        elif isinstance(action, Resume):
            cost = history.trials[action.trial].price(action.until)
        else:
            return action  # waiting and verdicts are free
        if isinstance(action, Start) and _all_fail(history):
            return Done(f"the last {IDLE} trials all failed before their first report")
        if history.epochs_left <= 0 or cost > history.epochs_left:
            return self._spent(history)
        if math.isfinite(history.seconds_left):
            takes = history.pace().takes(cost)
            if history.seconds_left <= 0 or takes > history.seconds_left:
                return self._spent(history)
        return action

    @staticmethod
    def _spent(history: History) -> Action:
        # A running trial that ends early gives back what it was granted.
        if history.running:
            return Wait("the budget is handed out")
        # Seconds are said only where they count: a why that names the time would differ from run to run.
        timed = f" in {history.elapsed:,.0f} s" if history.study.budget.seconds is not None else ""
        used = f"{epochs(history.spent)}{timed}"
        return Done(f"the budget of {history.study.budget} leaves no room for another training (used {used})")

    def judge(self, history: History, trial: int) -> Stop | None:
        """The inner verdict, or a stop when the wall-clock budget is spent."""
        seconds = history.study.budget.seconds
        if seconds is not None and history.elapsed >= seconds:
            return Stop(f"the time is up: {history.elapsed:,.0f} of {seconds:,.0f} s")
        return self.inner.judge(history, trial)


def _all_fail(history: History) -> bool:
    """Whether the last trials, so many that it is no chance, all failed before their first report."""
    many = len(history.trials)
    last = (history.trials[i] for i in range(many - IDLE, many))
    return many >= IDLE and all(t.failure is not None and not t.reports for t in last)
