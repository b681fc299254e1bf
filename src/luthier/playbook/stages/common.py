"""What several stages ask: which optimizers, where the rates lie, what to show."""

from __future__ import annotations

import math
from collections.abc import Sequence

from luthier.core.params import Choice, Config, Constant, Value
from luthier.core.trial import TrialRecord
from luthier.knowledge import find, prior_center, roles
from luthier.playbook.script import Look, number

NEAR = 0.2
"""Two rates closer than this in the natural logarithm (a factor of 1.22) count as the same."""


def optimizers(look: Look) -> list[Value]:
    """The optimizers to ask: the default one first, at most three; [None] where the default has none."""
    name = find(look.space, "optimizer", look.default)
    if name is None:
        return [None]
    param, first = look.space[name], look.default[name]
    if not isinstance(param, Choice):
        return [first]
    order = roles()["optimizer"].prefer

    def rank(choice: Value) -> tuple[bool, int]:
        word = str(choice).lower()
        return choice != first, order.index(word) if word in order else len(order)

    return sorted(param.choices, key=rank)[:3]


def with_optimizer(look: Look, optimizer: Value) -> dict[str, Value]:
    """The change that selects an optimizer; none where the default has no such hyperparameter."""
    name = find(look.space, "optimizer", look.default)
    return {name: optimizer} if name else {}


def rate_of(look: Look, config: Config) -> str | None:
    """The learning rate that a configuration has and that can be searched; None where it has none."""
    name = find(look.space, "learning_rate", config)
    return None if name is None or isinstance(look.space[name], Choice | Constant) else name


def optimizer_of(look: Look, trial: TrialRecord) -> Value:
    """A trial's optimizer; None where the space has none."""
    name = find(look.space, "optimizer")
    return trial.config.get(name) if name else None


def shown(look: Look, rates: Sequence[str], *roles_too: str) -> list[str]:
    """The names worth showing beside rates: the optimizer's, and those with the given roles."""
    names = [find(look.space, "optimizer"), *rates, *(find(look.space, r) for r in roles_too)]
    return [n for n in names if n is not None]


def rate_center(look: Look, rate: str, optimizer: Value) -> tuple[float, float | None, str]:
    """Where to look for the rate: the range test where it spoke, else the prior, else the middle of the scale.

    Returns:
        the center, the largest rate that the test allows (if it spoke), and where this comes from, in words.
    """
    test = look.numbers("range").get("optimizers", {}).get(str(optimizer), {})
    if test.get("center") is not None:
        return float(test["center"]), test.get("upper"), "the range test"
    prior = prior_center(look.space, rate, optimizer)
    if prior is not None:
        return prior, None, "the prior"
    return float(str(look.space[rate].from_unit(0.5))), None, "the middle of the range"


def allowed(
    look: Look,
    rate: str,
    wanted: Sequence[float],
    upper: float | None = None,
    known: Sequence[float] = (),
    around: Config | None = None,
) -> list[float]:
    """``wanted`` rates inside the range (``around`` a configuration) and below ``upper``, two digits each, without
    near-repetitions."""
    out: list[float] = []
    for r in wanted:
        bounded = float(str(look.space.clip(rate, float(f"{min(r, upper or math.inf):.2g}"), around)))
        if all(abs(math.log(bounded / other)) > NEAR for other in (*out, *known)):
            out.append(bounded)
    return out


def beside(look: Look, rate: str, best: TrialRecord, factor: float) -> list[float]:
    """The rates a ``factor`` above and below a trial's, as far as the range allows."""
    at = number(best, rate)
    return allowed(look, rate, [at * factor, at / factor], known=[at], around=best.config)
