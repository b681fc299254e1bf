"""``strategy="expert"``: a portfolio, then asynchronous halving over draws from priors and around the best.

Built from what was measured to help (docs/benchmarks.md), in this order: a prior that knows the roles and the length
of the training; a few strong configurations first; several fidelities, the first look at a tenth of the length (ASHA:
Li et al. 2020, arXiv 1810.05934); draws around the incumbents as the protection against a wrong prior (PriorBand:
Mallik et al. 2023, arXiv 2306.12370), and draws that ignore it. Left out: PriorBand's weights by density ratio, in
whose place each opinion's own record counts (:mod:`luthier.expert.opinions`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from luthier.contracts import Action, Resume, Start, Stop, Wait
from luthier.core.history import History
from luthier.core.params import Choice, Config, Constant
from luthier.core.space import Space
from luthier.core.trial import Status, TrialRecord
from luthier.diagnosis import suggest_lr
from luthier.diagnosis.ending import ending
from luthier.expert.audit import audit
from luthier.expert.evidence import ETA, Tried, explosive, key, leaders
from luthier.expert.expected import evidence
from luthier.expert.opinions import Opinion, opinions, standing
from luthier.expert.portfolio import portfolio
from luthier.knowledge import Prior, find
from luthier.schedule.halving import rungs
from luthier.search.local import PARENTS, moved
from luthier.search.surrogate import BLIND, DRAWS, fit, most_promising

LOCAL = 0.5
"""The part of the draws around the best once one was trained to the end."""
AGAIN = 20
"""Draws before one is taken although it was tried already or is likely to explode."""


@dataclass(frozen=True, slots=True)
class Expert:
    """Experience and a small search: the joint search for anyone who wants no stages. It needs no argument.

    Args:
        centers: ``name -> (center, spread)`` for what you know better than the roles; see
            :class:`luthier.knowledge.Prior`.
        known: whether the roles have a say; False searches without experience.
        model: whether a surrogate chooses among many draws.
    """

    centers: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    known: bool = True
    model: bool = True
    warm: ClassVar[bool] = True
    """It looks at what did best in earlier studies."""

    def propose(self, history: History, rng: np.random.Generator) -> Action:
        """The range test where there is one, the portfolio, the highest promotion, or a new draw."""
        among = self.opinions(history)
        ladder = rungs(history.study.max_epochs, eta=ETA)
        return (
            self._range_test(history, among[0].prior)
            or _opening(history, among, ladder)
            or _promotion(history, ladder)
            or audit(history, ladder, rng)
            or _closing(history, ladder)
            or _draw(history, among, ladder, rng, self.model)
        )

    def opinions(self, history: History) -> tuple[Opinion, ...]:
        """What is believed of a study's space: the roles, the user's centers, the range test's rate where it spoke."""
        study, centers = history.study, dict(self.centers)
        rate = find(study.space, "learning_rate")
        if rate is not None and rate not in centers:
            trial = _first(history)
            if trial is not None and trial.probe == "lr_range" and trial.answer is not None:
                found = suggest_lr(trial.answer["lrs"], trial.answer["losses"])
                if found.center is not None:
                    centers[rate] = found.center, found.spread_decades
        return _opinions(study.space, study.max_epochs, study.samples, tuple(sorted(centers.items())), self.known)

    def _range_test(self, history: History, prior: Prior) -> Action | None:
        """The range test with the likeliest configuration, where the training offers one."""
        rate = find(history.space, "learning_rate")
        searched = rate is not None and not isinstance(history.space[rate], Choice | Constant)
        if not searched or not self.known or "lr_range" not in history.study.probes:
            return None
        first = _first(history)
        if first is None:
            return Start(prior.mode(), until=0, why="which rates can this training stand?", probe="lr_range")
        running = first.probe == "lr_range" and first.status is Status.RUNNING
        return Wait("the range test comes first") if running else None

    def judge(self, history: History, trial: int) -> Stop | None:
        """Ends a training whose loss exploded, or that has learned nothing and does not begin to."""
        why = ending(history, history.trials[trial])
        return Stop(why) if why is not None else None


def _first(history: History) -> TrialRecord | None:
    """The first trial that was not added by hand."""
    return next((t for t in history.trials if not t.by_hand), None)


@lru_cache(maxsize=8)
def _opinions(
    space: Space, epochs: int, samples: int | None, centers: tuple[tuple[str, tuple[float, float]], ...], known: bool
) -> tuple[Opinion, ...]:
    """Made once for a study: a prior remembers the marginals that it was asked for."""
    return opinions(Prior(space, epochs, samples, centers=dict(centers), known=known))


def _opening(history: History, among: Sequence[Opinion], ladder: Sequence[int]) -> Start | None:
    """The next configuration of the portfolio."""
    picks = portfolio(among, history.study.earlier)
    begun = history.n_drawn
    if begun >= len(picks):
        return None
    pick = picks[begun]
    why = f"portfolio, {begun + 1} of {len(picks)}: {pick.why}"
    return Start(pick.config, until=ladder[0], why=why, notes={"from": pick.opinion})


def _promotion(history: History, ladder: Sequence[int]) -> Resume | None:
    """The best of the waiting trials that rank in the top third of their rung, highest rung first.

    The first of two at a rung goes on at once: until one was trained to the end there is nothing to compare with.
    """
    for here, above in reversed(list(pairwise(ladder))):
        waiting, ranked = history.waiting(here), history.ranked(here)
        if not waiting or history.trials[waiting[0][1]].price(above) > history.epochs_left:
            continue
        rank = ranked.rank(waiting[0])
        nobody = not len(history.ranked(above)) and all(history.trials[i].until <= here for i in history.running)
        if rank < len(ranked) // ETA or (nobody and rank == 0 and len(ranked) > 1):
            why = f"rank {rank + 1} of {len(ranked)} at epoch {here}: it goes on to {above}"
            return Resume(waiting[0][1], above, why)
    return None


def _closing(history: History, ladder: Sequence[int]) -> Resume | None:
    """With less than a full training left: the best of the paused trials that it suffices for, to the end."""
    full, left = history.study.max_epochs, history.epochs_left
    if left >= full:
        return None
    for here in reversed(ladder[:-1]):
        waiting = history.waiting(here)
        if waiting and history.trials[waiting[0][1]].price(full) <= left:
            return Resume(waiting[0][1], full, f"the rest of the budget takes the best at epoch {here} to the end")
    return None


def _draw(
    history: History, among: Sequence[Opinion], ladder: Sequence[int], rng: np.random.Generator, model: bool
) -> Start:
    """A new configuration: the most promising of many draws, or one draw, so that the model is not believed blindly."""
    prior = among[0].prior
    fitted = fit(prior, evidence(history, ladder)) if model and rng.random() >= BLIND else None
    drawn = _draws(history, among, ladder, rng)
    draws = [next(drawn) for _ in range(DRAWS if fitted is not None else 1)]
    at = 0
    if fitted is not None:
        known = {i for _, i in history.ranked(ladder[0])}
        running = [history.trials[i].config for i in history.running if i not in known]
        at = most_promising(fitted, prior, running, [d.config for d in draws])
    draw = draws[at]
    chosen = f"the most promising of {DRAWS} draws, " if fitted is not None else ""
    return Start(draw.config, ladder[0], f"{chosen}{draw.why}; to epoch {ladder[0]} first", notes=draw.notes)


@dataclass(frozen=True, slots=True)
class Draw:
    """A configuration, and where it comes from."""

    config: Config
    why: str
    notes: Mapping[str, Any]


def _draws(
    history: History, among: Sequence[Opinion], ladder: Sequence[int], rng: np.random.Generator
) -> Iterator[Draw]:
    """Moves of the best and draws from the opinions, without end; new, and of no rate that is known to explode."""
    best, tried = leaders(history, ladder), history.index(Tried())
    near = bool(best) and best[0].epoch >= ladder[-1] and bool(history.space.dims)
    odds = np.array(PARENTS[: len(best)]) / sum(PARENTS[: len(best)] or (1.0,))
    records = standing(among, history, ladder[0])
    while True:
        for _ in range(AGAIN):
            if near and rng.random() < LOCAL:
                parent = best[int(rng.choice(len(best), p=odds))]
                config = moved(among[0].prior, parent.config, rng)
                draw = Draw(config, f"near trial {parent.id}", {"from": "local", "near": parent.id})
            else:
                opinion = among[int(np.argmax([rng.beta(right, wrong) for right, wrong in records]))]
                draw = Draw(opinion.prior.sample(rng), f"drawn from {opinion.name}", {"from": opinion.name})
            if key(draw.config) not in tried and not explosive(history, draw.config):
                break
        yield draw
