"""What a task is: something with a space whose trainings can be taken one epoch at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import luthier as lt

Config = Mapping[str, object]


class Run(Protocol):
    """One training. It holds all of its state, so it can be left for others and taken up again at no cost."""

    def step(self) -> dict[str, float]:
        """Train one epoch; the metrics after it, the task's own among them. A dead run goes on with its worst ones."""
        ...


class Task(Protocol):
    """A search problem. Made anew for every study, for the tabulated ones remember which rows were taken."""

    @property
    def name(self) -> str:
        """Its name in the table of tasks and in the results."""
        ...

    @property
    def space(self) -> lt.Space:
        """What is searched. No conditions, for not every tuner has them."""
        ...

    @property
    def epochs(self) -> int:
        """The length of a full training."""
        ...

    @property
    def metric(self) -> str:
        """The metric that is minimised."""
        ...

    @property
    def reference(self) -> tuple[float, float] | None:
        """The best value there is and the median of random full trainings; None where only runs can tell."""
        ...

    def start(self, config: Config, seed: int, horizon: int | None = None) -> Run:
        """A training that was not begun yet: the same numbers for the same ``config``, ``seed`` and ``horizon``.

        Args:
            config: one configuration of the space.
            seed: of everything random in it.
            horizon: the epochs over which its schedule decays; ``epochs`` where None.
        """
        ...

    def expert(self) -> dict[str, object]:
        """A configuration that someone with experience would begin with: the prior of those peers that take one."""
        ...
