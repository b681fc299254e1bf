"""Where a stage looks when it moves several hyperparameters at once: the expert's engine behind a mask.

A stage is a mask over one space, and what every stage before it trained is evidence. Draws are moves of the best by
the priors' scales (:mod:`luthier.search.local`); a model of all trainings so far (:mod:`luthier.search.surrogate`)
takes the most promising. A complete short training counts with what its length lets expect of a longer one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import lru_cache

import numpy as np

from luthier.core.goals import sized
from luthier.core.params import Config, Value
from luthier.core.space import Space
from luthier.core.trial import TrialRecord
from luthier.knowledge import Prior
from luthier.playbook.script import Look, over
from luthier.search.local import PARENTS, moved
from luthier.search.surrogate import BLIND, DRAWS, Line, Observations, fit, most_promising

Items = tuple[tuple[str, Value], ...]
"""A configuration that can be a key."""


def candidates(
    look: Look,
    finals: Sequence[TrialRecord],
    own: Sequence[TrialRecord],
    names: Collection[str],
    many: int,
    number: int,
) -> list[Config]:
    """The next configurations to try near the best of ``finals``.

    Args:
        look: the stage's.
        finals: trainings of the stage's length, whose best three are moved.
        own: what the stage was given so far; with the trainings before the stage that is all the evidence, so that a
            script asks the same at each run.
        names: what may move.
        many: how many are wanted.
        number: of the round, so that each has its own luck.
    """
    study = look.history.study
    best = sorted((t for t in finals if any(n in t.config for n in names)), key=look.loss)[: len(PARENTS)]
    parents, luck = tuple(_items(t.config) for t in best), (study.seed, len(look.history.stages), number)
    about = look.space, study.max_epochs, study.samples
    return [dict(c) for c in _candidates(about, parents, _evidence(look, own), tuple(names), many, luck)]


About = tuple[Space, int, int | None]
"""A space, the length of a full training, and how many samples an epoch has."""


@lru_cache(maxsize=8)
def _prior(space: Space, epochs: int, samples: int | None) -> Prior:
    """Made once for a study: a prior remembers the marginals that it was asked for."""
    return Prior(space, epochs, samples)


Row = tuple[Items, float, float]
"""A configuration, what is expected of it at the stage's length, and the variance of that."""


@lru_cache(maxsize=256)
def _candidates(
    about: About, parents: Sequence[Items], rows: Sequence[Row], names: Sequence[str], many: int, luck: tuple[int, ...]
) -> list[Items]:
    """A function of its arguments alone; remembered, since a script runs from its beginning at each decision."""
    prior, rng = _prior(*about), np.random.default_rng(luck)
    odds = np.array(PARENTS[: len(parents)]) / sum(PARENTS[: len(parents)])
    evidence = Observations([dict(r[0]) for r in rows], np.array([r[1] for r in rows]), np.array([r[2] for r in rows]))
    model = fit(prior, evidence)
    tried = {r[0] for r in rows}
    chosen: list[Config] = []
    for _ in range(many):
        guide, draws = model if rng.random() >= BLIND else None, []
        for _ in range(DRAWS if guide is not None else 1):
            parent = dict(parents[int(rng.choice(len(parents), p=odds))])
            draws.append(rounded(prior.space, moved(prior, parent, rng, only=names)))
        fresh = [d for d in draws if _items(d) not in tried] or draws
        chosen.append(fresh[most_promising(guide, prior, chosen, fresh) if guide is not None else 0])
        tried.add(_items(chosen[-1]))
    return [_items(c) for c in chosen]


def rounded(space: Space, config: Config) -> dict[str, Value]:
    """Three digits are enough, and can be read."""
    return space.complete(
        {n: space.clip(n, float(f"{v:.3g}"), config) if isinstance(v, float) else v for n, v in config.items()}
    )


def _items(config: Config) -> Items:
    return tuple(sorted(config.items()))


def _evidence(look: Look, own: Sequence[TrialRecord]) -> tuple[Row, ...]:
    """All trainings before the stage that came to their end, and those of the stage so far."""
    mine = set(look.stage.trials)
    before = [t for t in look.history.trials if t.id not in mine and t.probe is None and over(t)]
    by_length: dict[int, list[TrialRecord]] = defaultdict(list)
    for trial in {t.id: t for t in [*before, *own]}.values():
        by_length[trial.horizon].append(trial)
    ended: dict[Items, list[float]] = defaultdict(list)
    for config, loss in _told(look, by_length.get(look.length, ())):
        if math.isfinite(loss):
            ended[config].append(loss)
    rows: list[Row] = []
    for length, trials in by_length.items():
        told = _told(look, trials)
        if length == look.length:
            rows += [(config, loss, 0.0) for config, loss in told]
            continue
        finite = [(config, loss) for config, loss in told if math.isfinite(loss)]
        both = np.array([(loss, np.mean(ended[config])) for config, loss in finite if config in ended]).reshape(-1, 2)
        line = Line.through(np.array([loss for _, loss in finite]), both[:, 0], both[:, 1])
        rows += [(config, line(loss), line.variance) for config, loss in told]
    return tuple(rows)


def _told(look: Look, trials: Sequence[TrialRecord]) -> list[tuple[Items, float]]:
    """Configurations with their losses; what breaks a constraint in the size of the rest."""
    return list(zip([_items(t.config) for t in trials], sized([look.loss(t) for t in trials])))
