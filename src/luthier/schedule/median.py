"""The median stopping rule, around any scheduler: who is worse than others were on average is ended.

Golovin et al., "Google Vizier: A Service for Black-Box Optimization", KDD 2017, section 3.2.2: a trial is ended at an
epoch if its best objective so far is strictly worse than the median of the other trials' running averages up to that
epoch. The paper compares with completed trials; here every other trial counts that came that far and did not fail, so
that the rule has something to go by under schedulers that pause. The grace period and the least number of others are
ours; so is that a trial which keeps the constraints is better than one that does not, and that with several objectives
it must be worse in each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from luthier.contracts import Action, Scheduler, Stop
from luthier.core.goals import penalized
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
        worse = [self._worse(history, record, objective) for objective in history.study.goals.objectives]
        whys = [why for why in worse if why is not None]
        return Stop("; ".join(whys)) if len(whys) == len(worse) else None

    def _worse(self, history: History, record: TrialRecord, objective: Objective) -> str | None:
        """In what words the trial is worse than the others' median; None where it is not, or nothing can be said."""
        mine = _losses(objective, record, record.epoch)
        means = Means(objective, record.epoch)
        others, own = history.index(means), means.of(record)
        if own is not None:
            others = others.without((own, record.id))
        many = len(others)
        if not mine or many < self.fewest:
            return None
        best = penalized(min(mine), record.violation)
        middle = (others[(many - 1) // 2][0] + others[many // 2][0]) / 2
        if best <= middle:
            return None
        if record.violation:
            return f"up to epoch {record.epoch} it breaks the constraints more than half of {many} others"
        return (
            f"its best {objective.metric} up to epoch {record.epoch} is {objective.score(best):.4g}, the median of "
            f"{many} others' averages {objective.score(middle):.4g}"
        )


@dataclass(frozen=True, slots=True)
class Means:
    """The index of the rule: by the mean of its losses up to ``epoch``, every trial that came as far and did not fail.

    A trial that breaks the constraints ranks behind all that do not.
    """

    objective: Objective
    epoch: int

    def empty(self) -> Ranking:
        """Nobody."""
        return Ordered()

    def change(self, value: Ranking, changes: Changes) -> Ranking:
        """With the trials where they belong now."""
        fresh = ((old, new) for old, new in changes if old is None or not self._stays(old, new))
        return mend(value, fresh, self.of)

    def _stays(self, old: TrialRecord, new: TrialRecord) -> bool:
        return same_until(self.epoch, old, new) and old.violation == new.violation

    def of(self, trial: TrialRecord) -> float | None:
        """A trial's mean; None where it does not take part."""
        if trial.probe is not None or trial.failure is not None or trial.epoch < self.epoch:
            return None
        losses = _losses(self.objective, trial, self.epoch)
        return penalized(fmean(losses), trial.violation) if losses else None


def _losses(objective: Objective, trial: TrialRecord, epoch: int) -> list[float]:
    """What the trial reported of the objective up to ``epoch``, smaller is better."""
    return [objective.loss(y) for x, y in trial.curve(objective.metric) if x <= epoch]
