"""What the log tells the expert: who leads, which rates exploded, what was tried; at the price of what changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from luthier.core.history import History
from luthier.core.index import Changes
from luthier.core.ordered import Ordered
from luthier.core.params import Config
from luthier.core.space import Space
from luthier.core.trial import Status, TrialRecord
from luthier.knowledge import find, optimizer_in

ETA = 3
"""One in three is trained on (ASHA)."""
LEADERS = 3
"""The best trials around which is searched."""


def leaders(history: History, ladder: Sequence[int]) -> list[TrialRecord]:
    """The best three trials: by their results at full length, then those that have come less far."""
    out: list[TrialRecord] = []
    for epoch in reversed(ladder):
        for loss, i in history.ranked(epoch)[: 2 * LEADERS]:
            trial = history.trials[i]
            if len(out) < LEADERS and math.isfinite(loss) and all(trial.config != t.config for t in out):
                out.append(trial)
    return out


def key(config: Config) -> str:
    """A configuration as text, for looking it up."""
    return repr(sorted(config.items()))


@dataclass(frozen=True, slots=True)
class Tried:
    """Every configuration so far."""

    def empty(self) -> Ordered[str]:
        """None."""
        return Ordered()

    def change(self, value: Ordered[str], changes: Changes) -> Ordered[str]:
        """With those of new trials."""
        for old, new in changes:
            if old is None and new.probe is None:
                value = value.with_item(key(new.config))
        return value


@dataclass(frozen=True, slots=True)
class Origins:
    """How many trials came from where (``notes["from"]``)."""

    def empty(self) -> Mapping[str, int]:
        """None."""
        return {}

    def change(self, value: Mapping[str, int], changes: Changes) -> Mapping[str, int]:
        """With those of new trials."""
        counts = dict(value)
        for old, new in changes:
            origin = new.notes.get("from")
            if old is None and isinstance(origin, str):
                counts[origin] = counts.get(origin, 0) + 1
        return counts


Rates = Mapping[str, tuple[Ordered[tuple[float, int]], Ordered[tuple[float, int]]]]
"""By optimizer: the rates that exploded, and those that were stood, each with its trial."""
NO_RATES: tuple[Ordered[tuple[float, int]], Ordered[tuple[float, int]]] = (Ordered(), Ordered())


@dataclass(frozen=True, slots=True)
class Explosions:
    """Which learning rates exploded and which did not, under each optimizer."""

    space: Space

    def empty(self) -> Rates:
        """Nothing is known."""
        return {}

    def change(self, value: Rates, changes: Changes) -> Rates:
        """With the trials that exploded or reported since."""
        rates = dict(value)
        for old, new in changes:
            name = find(self.space, "learning_rate", new.config)
            rate = new.config.get(name) if name is not None else None
            before, after = self._of(old), self._of(new)
            if before == after or not isinstance(rate, int | float):
                continue
            kind = str(optimizer_in(self.space, new.config))
            both = list(rates.get(kind, NO_RATES))
            item = float(rate), new.id
            if before is not None:
                both[before] = both[before].without(item)
            if after is not None:
                both[after] = both[after].with_item(item)
            rates[kind] = (both[0], both[1])
        return rates

    @staticmethod
    def _of(trial: TrialRecord | None) -> int | None:
        """0 for a trial that exploded, 1 for one that did not, None for one that says nothing of rates."""
        if trial is None or trial.probe is not None:
            return None
        if trial.failure is not None:
            return 0 if trial.failure.kind == "nonfinite" else None
        if trial.status is Status.STOPPED:
            return 0 if (trial.stop_why or "").startswith("diverged") else None
        return 1 if trial.loss is not None else None


def explosive(history: History, config: Config) -> bool:
    """Whether the rate of ``config`` is as high as one that exploded, and none as high was ever stood."""
    name = find(history.space, "learning_rate", config)
    rate = config.get(name) if name is not None else None
    if not isinstance(rate, int | float):
        return False
    exploded, stood = history.index(Explosions(history.space)).get(str(optimizer_in(history.space, config)), NO_RATES)
    least = next((r for r, _ in exploded if not len(stood) or r > stood[-1][0]), None)
    return least is not None and rate >= least
