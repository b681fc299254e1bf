"""Every trial to the last epoch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from luthier.contracts import Action, Done, Searcher, Start, Stop
from luthier.core.history import History


@dataclass(frozen=True, slots=True)
class Full:
    """Start what the searcher suggests and train it to the end, until the searcher has nothing left."""

    searcher: Searcher

    def propose(self, history: History, rng: np.random.Generator) -> Action:
        """The searcher's next configuration."""
        config = self.searcher.suggest(history, rng)
        if config is None:
            return Done(f"{self.searcher.name}: every configuration was tried")
        epochs = history.study.max_epochs
        return Start(config, until=epochs, why=f"{self.searcher.name}: trial {len(history.trials)} at full length")

    def judge(self, history: History, trial: int) -> Stop | None:
        """Never ends a trial early."""
        return None
