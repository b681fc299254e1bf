"""What a rule is: one small function from a training to evidence, and a few words about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from luthier.diagnosis.finding import Severity
from luthier.diagnosis.signals import View


class Rank(IntEnum):
    """What comes first when several rules speak: the cause before its symptom."""

    DATA = 0
    NONFINITE = 1
    DEAD = 2
    DIVERGENCE = 3
    INSTABILITY = 4
    SLOW = 5
    UNDERFIT = 6
    OVERFIT = 7
    LENGTH = 8
    NOISE = 9
    GOOD = 10


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a rule saw; the fields are those of :class:`luthier.diagnosis.Finding`."""

    severity: Severity
    text: str
    action: tuple[str, ...]
    curve: str
    since: float | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)


Judge = Callable[[View], Evidence | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """A kind of finding.

    Args:
        kind: its name.
        tier: where the cause lies: 0 the pipeline, 1 optimization, 2 schedule and length, 3 capacity,
            4 regularization, 5 advanced.
        rank: its place when several speak.
        means: what it says, in one sentence.
        when: the condition with its thresholds, and their origin.
        causes: kinds that explain this one where both are found.
        judge: the rule; None for what only several trainings together can show.
    """

    kind: str
    tier: int
    rank: Rank
    means: str
    when: str
    causes: tuple[str, ...] = ()
    judge: Judge | None = None


RULES: dict[str, Rule] = {}
"""Every rule by its kind, in the order of definition."""


def rule(tier: int, rank: Rank, means: str, when: str, causes: tuple[str, ...] = ()) -> Callable[[Judge], Judge]:
    """Make a function a rule; its name is the kind."""

    def register(judge: Judge) -> Judge:
        kind = judge.__name__
        RULES[kind] = Rule(kind, tier, rank, means, when, causes, judge)
        return judge

    return register


def declare(kind: str, tier: int, rank: Rank, means: str, when: str, causes: tuple[str, ...] = ()) -> None:
    """A kind that one training alone cannot show."""
    RULES[kind] = Rule(kind, tier, rank, means, when, causes)


def scaled(view: View, factor: float) -> str:
    """``0.003`` or ``a third of it``: the peak learning rate times ``factor``, as a number where it is known."""
    words = {1 / 3: "a third of it", 3.0: "three times of it", 10.0: "ten times of it", 0.1: "a tenth of it"}
    return f"{view.rate * factor:.2g}" if view.rate is not None else words[factor]
