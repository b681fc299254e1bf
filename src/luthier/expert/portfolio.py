"""What to try before anything is known of this training: a handful of strong configurations.

A list of a few good configurations beats tuning from nothing while trials are few (Medapati et al. 2025, arXiv
2503.03986). Ours is written for the space at hand: the prior's most likely configuration under each optimizer, the
rate of the first a step up and down, and what a long training would want.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from luthier.core.params import Choice, Config, Constant
from luthier.expert.opinions import Opinion
from luthier.knowledge import default_config, find
from luthier.knowledge.prior import LONG

STEP = 3.0
"""The factor between the rates of the portfolio."""
MOST = 7
"""Configurations at most."""


@dataclass(frozen=True, slots=True)
class Pick:
    """A configuration of the portfolio, whose opinion it is, and why it is in it."""

    config: Config
    opinion: str
    why: str


def portfolio(among: Sequence[Opinion], earlier: Sequence[Config] = ()) -> list[Pick]:
    """The configurations to begin with, all different, at most :data:`MOST` beside the ``earlier`` ones.

    Args:
        among: the opinions, the most particular first.
        earlier: what did best in earlier studies of the same space.
    """
    out: list[Pick] = [Pick(c, "earlier", "among the best of an earlier study") for c in earlier]
    for pick in _picks(among):
        if all(pick.config != other.config for other in out):
            out.append(pick)
        if len(out) >= MOST + len(earlier):
            break
    return out


def _picks(among: Sequence[Opinion]) -> Iterator[Pick]:
    own = among[0]
    space = own.prior.space
    best = own.prior.mode()
    yield Pick(best, own.name, "what experience expects to be best")
    for other in among[1:]:
        if other.name == "roles":
            yield Pick(other.prior.mode(), other.name, "what the roles alone would say")
    if own.name == "anywhere" or not (own.prior.known or own.prior.centers):
        return
    optimizer, rate = find(space, "optimizer"), find(space, "learning_rate", best)
    param = space[optimizer] if optimizer is not None else None
    if optimizer is not None and isinstance(param, Choice):
        for choice in (c for c in param.choices if c != best.get(optimizer)):
            yield Pick(own.prior.mode({optimizer: choice}), own.name, f"the same with {choice}")
    if rate is not None and not isinstance(space[rate], Choice | Constant):
        for factor, word in ((STEP, "higher"), (1.0 / STEP, "lower")):
            moved = space.clip(rate, float(f"{float(str(best[rate])) * factor:.3g}"), best)
            yield Pick({**best, rate: moved}, own.name, f"the same with a {word} rate")
    yield Pick(replace(own.prior, epochs=LONG).mode(), own.name, "what a longer training would want")
    yield Pick(default_config(space), own.name, "the strong default")
