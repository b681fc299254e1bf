"""The median stopping rule, around any scheduler: who is worse than others were on average is ended.

Golovin et al., "Google Vizier: A Service for Black-Box Optimization", KDD 2017, section 3.2.2: a trial is ended at an
epoch if its best objective so far is strictly worse than the median of the other trials' running averages up to that
epoch. The paper compares with completed trials; here every other trial counts that came that far and did not fail, so
that the rule has something to go by under schedulers that pause. The grace period and the least number of others are
ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from luthier.contracts import Action, Scheduler, Stop
from luthier.core.history import History
from luthier.core.index import Changes, Ranking, mend, same_until
from luthier.core.ordered import Ordered
from luthier.core.study import Objective
from luthier.core.trial import TrialRecord


@dataclass(frozen=True, slots=True)
class Median:
    """What ``inner`` proposes; its trials are ended by the median of the others.

    Args:
        inner: the scheduler that starts and resumes.
        grace: epochs before which none is ended; a fifth of the length, at least 1, where None.
        fewest: others that must have come as far.
    """

    inner: Scheduler
    grace: int | None = None
    fewest: int = 3

    def propose(self, history: History, rng: np.random.Generator) -> Action:
        """The inner proposal."""
        return self.inner.propose(history, rng)

    def judge(self, history: History, trial: int) -> Stop | None:
        """The inner verdict, or a stop when the trial's best is worse than the others' median."""
        verdict = self.inner.judge(history, trial)
        record = history.trials[trial]
        grace = math.ceil(history.study.max_epochs / 5) if self.grace is None else self.grace
        if verdict is not None or record.probe is not None or record.epoch < max(grace, 1):
            return verdict
        means = Means(history.objective, record.epoch)
        best = min(_losses(history.objective, record, record.epoch), default=math.inf)
        others = history.index(means)
        own = means.of(record)
        if own is not None:
            others = others.without((own, trial))
        many = len(others)
        if many < self.fewest:
            return None
        middle = (others[(many - 1) // 2][0] + others[many // 2][0]) / 2
        if best <= middle:
            return None
        score = history.objective.score
        return Stop(
            f"its best up to epoch {record.epoch} is {score(best):.4g}, the median of {many} others' averages "
            f"{score(middle):.4g}"
        )


@dataclass(frozen=True, slots=True)
class Means:
    """The index of the rule: by the mean of its losses up to ``epoch``, every trial that came as far and did not fail."""

    objective: Objective
    epoch: int

    def empty(self) -> Ranking:
        """Nobody."""
        return Ordered()

    def change(self, value: Ranking, changes: Changes) -> Ranking:
        """With the trials where they belong now."""
        fresh = ((old, new) for old, new in changes if old is None or not same_until(self.epoch, old, new))
        return mend(value, fresh, self.of)

    def of(self, trial: TrialRecord) -> float | None:
        """A trial's mean; None where it does not take part."""
        if trial.probe is not None or trial.failure is not None or trial.epoch < self.epoch:
            return None
        losses = _losses(self.objective, trial, self.epoch)
        return fmean(losses) if losses else None


def _losses(objective: Objective, trial: TrialRecord, epoch: int) -> list[float]:
    """What the trial reported of the objective up to ``epoch``, smaller is better."""
    return [objective.loss(y) for x, y in trial.curve(objective.metric) if x <= epoch]
