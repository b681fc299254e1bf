"""Ending trainings that are not worth going on with, around any scheduler.

What is not worth it is handed in: ``luthier.strategies.early`` gives it the predicates of the diagnosis, exploded and
dead losses, which the playbook goes by as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from luthier.contracts import Action, Scheduler, Stop
from luthier.core.history import History
from luthier.core.trial import TrialRecord


@dataclass(frozen=True, slots=True)
class Early:
    """What ``inner`` proposes; its trials are ended when ``ending`` says so.

    Args:
        inner: the scheduler that starts and resumes.
        ending: given the history and a running trial, why to end it, or None. Pure, like every decision.
    """

    inner: Scheduler
    ending: Callable[[History, TrialRecord], str | None]

    def propose(self, history: History, rng: np.random.Generator) -> Action:
        """The inner proposal."""
        return self.inner.propose(history, rng)

    def judge(self, history: History, trial: int) -> Stop | None:
        """The inner verdict, or what ``ending`` says."""
        verdict = self.inner.judge(history, trial)
        if verdict is None and (why := self.ending(history, history.trials[trial])) is not None:
            return Stop(why)
        return verdict
