"""Where to look: several opinions on where good configurations lie, each heard as often as it proved right.

A prior helps more than any searcher does, and misleads as strongly where it is wrong. So there are up to three
opinions: what the user said (``default=``, centers), what the roles say, and nothing at all. Which one the next draw
comes from is a Thompson sample (Chapelle and Li, "An Empirical Evaluation of Thompson Sampling", NeurIPS 2011) over
how often a draw of each ended in the better third of the first rung.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from luthier.core.history import History
from luthier.expert.evidence import Origins
from luthier.knowledge import Prior

TRUST: Mapping[str, tuple[float, float]] = {"prior": (3.0, 1.0), "roles": (2.0, 2.0), "anywhere": (0.5, 4.0)}
"""Successes and failures that each opinion is credited with before its first draw. Our choice."""
GOOD = 1 / 3
"""A draw was right when it ranks in this part of all draws at the first rung; moves of the best do not count."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """A prior by name."""

    name: str
    prior: Prior


def opinions(prior: Prior) -> tuple[Opinion, ...]:
    """The opinions that differ, the most particular first."""
    out = [Opinion("prior", prior)]
    said = prior.centers or (prior.defaults and any(prior.space[n].default is not None for n in prior.space.dims))
    if prior.known and said:
        out.append(Opinion("roles", replace(prior, centers={}, defaults=False)))
    if prior.known or said:
        out.append(Opinion("anywhere", replace(prior, centers={}, defaults=False, known=False)))
    return tuple(out)


def standing(among: Sequence[Opinion], history: History, epoch: int) -> list[tuple[float, float]]:
    """How often each opinion was right and wrong so far, with what it is credited with: a beta distribution each.

    Args:
        among: the opinions.
        history: the study.
        epoch: of the first rung, at which a draw is judged.
    """
    names = {o.name for o in among}
    draws = [origin for _, i in history.ranked(epoch) if (origin := history.trials[i].notes.get("from")) in names]
    right = Counter(draws[: max(1, round(GOOD * len(draws)))])
    begun = history.index(Origins())
    out = []
    for opinion in among:
        more, less = TRUST[opinion.name]
        good = right[opinion.name]
        out.append((more + good, less + max(0, begun.get(opinion.name, 0) - good)))
    return out
