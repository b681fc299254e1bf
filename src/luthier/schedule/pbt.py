"""Population-based training: members train side by side; at each mark the worst copy the best and change a little.

Jaderberg et al., "Population Based Training of Neural Networks" (2017, arXiv 1711.09846). Of the paper: asynchronous
exploit and explore (Algorithm 1); truncation selection, in which a member of the bottom 20 % copies weights and
hyperparameters of a random member of the top 20 %; perturbation by 0.8 or 1.2, or resampling (section 4.1).

Ours are: comparison at equal epochs only, so that a slow member is not compared with one that trained longer; nobody
copies a member that is no better; ten marks in a training; who keeps the constraints ranks before who does not. Of
several objectives the first one ranks.

Left out: selection by Welch's t-test and by binary tournament; copying weights alone or hyperparameters alone; the mean
of several evaluations; a bound on how much of the population descends from one member. Ranks after a short interval
favour what pays at once, a smaller rate say, over what pays later (arXiv 2506.03225 mends that with subpopulations of
several intervals); nothing is done against it but a small number of marks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np

from luthier.contracts import Action, Done, Resume, Searcher, Start, Stop, Wait
from luthier.core import goals
from luthier.core.errors import UserError
from luthier.core.history import History
from luthier.core.index import Changes
from luthier.core.params import Config
from luthier.core.study import Study
from luthier.core.trial import Status, TrialRecord
from luthier.schedule.explore import Explorer, Perturb, mutable_of

FRACTION = 0.2
"""The part of the population that copies, and that is copied (the paper, section 4.1)."""
MARKS = 10
"""Intervals in a training, where there are as many epochs. A judgement of ours: the metric must have time to move."""
SMALLEST, LARGEST = 4, 20
"""Members of a population for which no number was given. The paper finds 10 and fewer to vary much and 20 to 40 enough
for a consistent gain (section 4.4); below four there is nothing to choose from, and a budget of less than four full
trainings gets as many members as it has trainings, two at least."""
UNCOUNTED = 8
"""Members where only the time is bounded, so that the number of trainings is not known."""
QUORUM = 0.75
"""The part of the population that must have come as far before a member is judged: more would wait for stragglers,
fewer would judge by too few. A judgement of ours."""


def marks_of(max_epochs: int, interval: int | None = None) -> tuple[int, ...]:
    """The epochs at which members are compared; the last is the end.

    Ten even intervals, or every ``interval`` epochs, where what is left of less than half an interval joins the last.
    """
    if interval is None:
        many = min(MARKS, max_epochs)
        return tuple(round(i * max_epochs / many) for i in range(1, many + 1))
    many = max(1, math.floor(max_epochs / interval + 0.5))
    return (*(i * interval for i in range(1, many)), max_epochs)


def size_for(full: float) -> int:
    """Members of the next population where the budget is left for ``full`` full trainings.

    As many populations of at most :data:`LARGEST`, all of one size, as use it up.
    """
    if math.isinf(full):
        return UNCOUNTED
    whole = int(full)
    return min(max(whole // max(1, math.ceil(whole / LARGEST)), 2), LARGEST)


def extremes(members: int, fraction: float = FRACTION) -> int:
    """How many of the members are at the bottom, and as many at the top, so that nobody is both: ``floor(n / 2)``."""
    return min(math.ceil(fraction * members), members // 2)


@dataclass(frozen=True, slots=True)
class Newest:
    """The trials of the newest population, so that a decision need not walk those of all."""

    def empty(self) -> Mapping[int, int]:
        """Nobody."""
        return {}

    def change(self, value: Mapping[int, int], changes: Changes) -> Mapping[int, int]:
        """Trial to population, of the highest population that there is."""
        new = {t.id: t.notes["population"] for old, t in changes if old is None and "population" in t.notes}
        if not new:
            return value
        both = {**value, **new}
        newest = max(both.values())
        return {trial: number for trial, number in both.items() if number == newest}


@dataclass(frozen=True, slots=True)
class Population:
    """A population as the log tells it.

    Args:
        number: from 0; a study with a large budget trains several, one after the other.
        size: members that it has or is going to have.
        members: the trials of each member that was begun, oldest first: a new one whenever it copied another member.
    """

    number: int
    size: int
    members: tuple[tuple[TrialRecord, ...], ...]

    @classmethod
    def latest(cls, history: History) -> Population | None:
        """The newest population; None before the first."""
        newest: Mapping[int, int] = history.index(Newest())
        trials = [history.trials[i] for i in sorted(newest)]
        members: dict[int, list[TrialRecord]] = {}
        for trial in trials:
            members.setdefault(trial.notes["member"], []).append(trial)
        if not trials:
            return None
        notes = trials[-1].notes
        return cls(notes["population"], notes["size"], tuple(tuple(members[m]) for m in sorted(members)))

    @property
    def over(self) -> bool:
        """Whether every member was begun and none can be trained further."""
        return len(self.members) == self.size and all(_over(trials[-1]) for trials in self.members)

    def ranking(self, history: History, mark: int) -> list[TrialRecord]:
        """The trials that were trained to exactly ``mark``, best first; those that failed on the way there are last."""
        ranked = []
        for trials in self.members:
            there = [t for t in trials if _at(history, t, mark) is not None or _failed_before(t, mark)]
            ranked += there[-1:]
        return sorted(ranked, key=lambda t: (rank_at(history, t, mark), t.id))

    def ready(self, mark: int, marks: Sequence[int]) -> bool:
        """Whether a member at ``mark`` can be judged: enough came as far, and nobody is an interval behind that."""
        reached = [_progress(trials[-1]) for trials in self.members]
        before = max((m for m in marks if m < mark), default=0)
        far = sum(epoch >= mark for epoch in reached)
        return far >= math.ceil(QUORUM * self.size) and min(reached) >= before


def loss_at(history: History, trial: TrialRecord, mark: int) -> float:
    """A trial's loss at the epoch ``mark``, not its best until then: the weights of that epoch are what is copied.

    Where not every epoch is judged, the latest one before; infinite where there is none, or it failed on the way there.
    """
    loss = _at(history, trial, mark)
    return math.inf if loss is None or _failed_before(trial, mark) else loss


def rank_at(history: History, trial: TrialRecord, mark: int) -> float:
    """What it is ranked by there: its loss, beyond every other where its weights of that epoch break a constraint."""
    seen = ((c, goals.value(trial, c.metric, mark, mark)) for c in history.study.constraints)
    violation = sum(max(0.0, c.excess(x)) for c, x in seen if x is not None)
    return goals.penalized(loss_at(history, trial, mark), violation)


def _at(history: History, trial: TrialRecord, mark: int) -> float | None:
    if not trial.begin < mark <= _reach(trial):
        return None
    seen = [v for epoch, v in trial.curve(history.objective.metric) if epoch <= mark]
    return history.objective.loss(seen[-1]) if seen else None


def _reach(trial: TrialRecord) -> int:
    """The last epoch that it is known to have trained."""
    saved = trial.checkpoint.epoch if trial.checkpoint is not None else 0
    return trial.until if trial.status is Status.PAUSED else max(trial.epoch, saved)


def _failed_before(trial: TrialRecord, mark: int) -> bool:
    return trial.status is Status.FAILED and trial.until == mark


def _over(trial: TrialRecord) -> bool:
    return trial.status in (Status.DONE, Status.STOPPED)


def _progress(trial: TrialRecord) -> float:
    """How far a member has come; one that is over holds nobody up, nor does one that failed on its way."""
    return math.inf if _over(trial) else trial.until if trial.status is Status.FAILED else _reach(trial)


@final
@dataclass(frozen=True, slots=True)
class PBT:
    """Population-based training.

    Args:
        searcher: where members begin; uniform draws where None, as in the paper.
        explorer: how a copied configuration is changed.
        population: members; the budget in full trainings where None, between :data:`SMALLEST` and :data:`LARGEST`.
        interval: epochs between comparisons; a tenth of the length where None.
        mutable: the hyperparameters that may change while a model trains; by their roles where None, see
            :data:`luthier.schedule.explore.MUTABLE`.
        fraction: the part of the population that copies, and that is copied.

    Raises:
        UserError: an argument out of its range.
    """

    searcher: Searcher | None = None
    explorer: Explorer = field(default_factory=Perturb)
    population: int | None = None
    interval: int | None = None
    mutable: Sequence[str] | None = None
    fraction: float = FRACTION

    def __post_init__(self) -> None:
        for name, value, least in (("population", self.population, 2), ("interval", self.interval, 1)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise UserError(f"{name}={value!r} must be a whole number of at least {least}.", "Or leave it out.")
        if not 0.0 < self.fraction <= 0.5:
            raise UserError(f"fraction={self.fraction!r} is not in (0, 0.5].", "Write fraction=0.2.")
        if isinstance(self.mutable, str):
            raise UserError(f"mutable={self.mutable!r} must be a list of names.", f"Write mutable=[{self.mutable!r}].")

    def accept(self, study: Study) -> None:
        """Refuse a space with nothing to change, and a training without a middle."""
        mutable_of(study.space, self.mutable, type(self).__name__)
        if study.max_epochs < 2:
            raise UserError(
                f"Population-based training changes hyperparameters between epochs; max_epochs is {study.max_epochs}.",
                "Give the training at least 2 epochs, or use strategy='random'.",
            )

    def propose(self, history: History, rng: np.random.Generator) -> Action:
        """Begin the population, then send on who is furthest behind, the worst first: on its own way or a copy's."""
        now = Population.latest(history)
        if now is None or now.over:
            size = self._size(history, now)
            if size is None:
                return Done("the population was trained to the end")
            now = Population(0 if now is None else now.number + 1, size, ())
        if len(now.members) < now.size:
            return self._begin(history, now, len(now.members), rng)
        marks = marks_of(history.study.max_epochs, self.interval)
        waiting = [t[-1] for t in now.members if t[-1].status in (Status.PAUSED, Status.FAILED)]
        for mark in sorted({t.until for t in waiting}):
            if now.ready(mark, marks):
                ranking = now.ranking(history, mark)
                # The worst first: whom they copy then still stands at this mark, and its checkpoint with it.
                here = {t.id for t in waiting if t.until == mark}
                worst = next(t for t in (*reversed(ranking), *waiting) if t.id in here)
                return self._send_on(history, now, worst, ranking, marks, rng)
        return Wait("members are compared when most of the population has come as far")

    def _size(self, history: History, last: Population | None) -> int | None:
        """Members of a population that begins now; None where there is to be none."""
        full = history.epochs_left / history.study.max_epochs
        if last is None:
            return self.population or size_for(full)
        if math.isinf(full) and history.study.budget.seconds is None:
            return None  # without any bound one population is the answer
        return None if full < (self.population or SMALLEST) else self.population or size_for(full)

    def _begin(
        self, history: History, now: Population, member: int, rng: np.random.Generator, after: TrialRecord | None = None
    ) -> Action:
        """A member from scratch."""
        space = history.space
        config: Config | None = self.searcher.suggest(history, rng) if self.searcher else space.sample(rng)
        if config is None:
            return Wait("no configuration is left") if history.running else Done("every configuration was tried")
        first = marks_of(history.study.max_epochs, self.interval)[0]
        why = f"member {member + 1} of {now.size}, to the first comparison at epoch {first}"
        if after is not None:
            why = f"trial {after.id} failed, nobody is there to be copied: {why}"
        left = None if after is None else after.id
        return Start(config, until=first, why=why, notes=_notes(now, member), instead_of=left)

    def _send_on(
        self,
        history: History,
        now: Population,
        trial: TrialRecord,
        ranking: Sequence[TrialRecord],
        marks: Sequence[int],
        rng: np.random.Generator,
    ) -> Action:
        """The next interval of the member whose latest trial stands at a mark, where it was ranked."""
        mark = trial.until
        saved = [t for t in ranking if t.failure is None and t.checkpoint is not None]
        if not saved and any(t.failure is None for t in ranking):
            raise UserError(
                "Population-based training copies checkpoints, and the training function saves none.",
                "Hand what is trained to trial.epochs(model=..., optimizer=...).",
            )
        few = extremes(len(ranking), self.fraction)
        rank = next((i for i, t in enumerate(ranking) if t.id == trial.id), None)
        failed = trial.failure is not None
        own = rank_at(history, trial, mark)
        donors = [t for t in ranking if _can_be_copied(t, mark, marks[-1]) and rank_at(history, t, mark) < own]
        top = [t for t in donors if t in ranking[:few]]
        if failed and not donors:
            return self._begin(history, now, trial.notes["member"], rng, after=trial)
        place = "not judged" if rank is None else f"rank {rank + 1} of {len(ranking)}"
        if not failed and (rank is None or rank < len(ranking) - few or not top):
            until = _next(marks, mark)
            return Resume(trial.id, until, f"{place} at epoch {mark}: it goes on to {until}")
        pool = top or donors[:1]  # of a failed member no place is asked: where the top cannot be copied, the next best
        donor = pool[int(rng.integers(len(pool)))]
        names = mutable_of(history.space, self.mutable, type(self).__name__)
        config = self.explorer.explore(history, donor, names, marks, rng)
        assert donor.checkpoint is not None
        return Start(
            config,
            until=_next(marks, donor.checkpoint.epoch),
            why=f"in place of trial {trial.id} ({'it failed' if failed else place} at epoch {mark}): "
            + _told(history, donor, ranking.index(donor) + 1, mark, config, self.explorer.name),
            parent=donor.id,
            notes=_notes(now, trial.notes["member"]),
            clone=True,
            instead_of=trial.id,
        )

    def judge(self, history: History, trial: int) -> Stop | None:
        """Never: a member is paused at its mark, and gives up its place there."""
        return None


def _notes(now: Population, member: int) -> dict[str, int]:
    return {"member": member, "population": now.number, "size": now.size}


def _next(marks: Sequence[int], epoch: int) -> int:
    return next((m for m in marks if m > epoch), marks[-1])


def _can_be_copied(trial: TrialRecord, mark: int, end: int) -> bool:
    """Whether its checkpoint holds at least what it was ranked for, and leaves something to train."""
    kept = trial.checkpoint
    return kept is not None and mark <= kept.epoch < end and trial.status in (Status.PAUSED, Status.RUNNING)


def _told(history: History, donor: TrialRecord, rank: int, mark: int, config: Config, how: str) -> str:
    score = history.objective.score(loss_at(history, donor, mark))
    moves = [f"{n} {_short(donor.config.get(n))} to {_short(v)}" for n, v in config.items() if donor.config.get(n) != v]
    said = f"a copy of trial {donor.id}, rank {rank} with {history.objective.metric} {score:.4g}"
    return f"{said}, {how}: {', '.join(moves) or 'nothing moved'}"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "none" if value is None else str(value)
