"""What the tests of the integrations share: schedulers that pause and clone, and how to compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import luthier as lt
from luthier.contracts import Done, Resume, Start


@dataclass(frozen=True)
class InParts:
    """One configuration after the other, each paused at the epochs of ``parts``."""

    configs: tuple[Mapping[str, Any], ...]
    parts: tuple[int, ...]
    seed: int = 11

    def propose(self, history, rng):
        for i, config in enumerate(self.configs):
            if i == len(history.trials):
                return Start(config, until=self.parts[0], why="first part", seed=self.seed)
            trial = history.trials[i]
            later = [p for p in self.parts if p > trial.until]
            if later and trial.status == "paused":
                return Resume(i, later[0], "next part")
        return Done("all parts")

    def judge(self, history, trial):
        return None


@dataclass(frozen=True)
class Cloned:
    """A trial to epoch 1, and a clone of it under another configuration to the end."""

    first: Mapping[str, Any]
    second: Mapping[str, Any]

    def propose(self, history, rng):
        if not history.trials:
            return Start(self.first, until=1, why="the donor", seed=1)
        if len(history.trials) == 1:
            return Start(self.second, until=history.study.max_epochs, why="the clone", parent=0, clone=True, seed=2)
        return Done("cloned")

    def judge(self, history, trial):
        return None


def curves(result: lt.Result) -> list[list[Mapping[str, float]]]:
    """The metrics of every report of every trial; failures are shown."""
    for trial in result.trials():
        assert trial.failure is None, f"{trial.failure.reason}\n{trial.failure.detail}"
    return [[dict(r.metrics) for r in t.reports] for t in result.trials()]


def whole_and_in_parts(train, space, config, *, epochs=4, parts=(1, 3, 4), **more):
    """The curve of one configuration trained at once, and trained with pauses."""
    asked = {"max_epochs": epochs, "workers": 0, "quiet": True, **more}
    once = lt.tune(train, space, strategy=InParts((config,), (epochs,)), **asked)
    parted = lt.tune(train, space, strategy=InParts((config,), parts), **asked)
    (one,), (other,) = curves(once), curves(parted)
    assert parted.trials()[0].spent == epochs  # nothing was trained twice
    return one, other
