"""The built-in strategies by name: which searcher goes with which scheduler."""

from __future__ import annotations

from collections.abc import Callable

from luthier.contracts import Particular, Scheduler
from luthier.core.errors import UserError, nearest
from luthier.core.study import Budget, Study
from luthier.schedule.budget import Within
from luthier.schedule.full import Full
from luthier.schedule.halving import ASHA, Hyperband
from luthier.schedule.pb2 import PB2
from luthier.schedule.pbt import PBT
from luthier.search.grid import Grid
from luthier.search.optuna_sampler import OptunaSampler, tpe
from luthier.search.sobol import Sobol
from luthier.search.uniform import Random


def _playbook() -> Scheduler:
    from luthier.playbook.playbook import Playbook  # only here: random search needs no knowledge base

    return Playbook()


def _expert() -> Scheduler:
    from luthier.expert import Expert

    return Expert()


STRATEGIES: dict[str, Callable[[], Scheduler]] = {
    "playbook": _playbook,
    "expert": _expert,
    "random": lambda: Full(Random()),
    "grid": lambda: Full(Grid()),
    "sobol": lambda: Full(Sobol()),
    "tpe": lambda: Full(OptunaSampler(tpe, "tpe")),
    "asha": lambda: ASHA(Random()),
    "hyperband": lambda: Hyperband(Random()),
    "pbt": PBT,
    "pb2": PB2,
}

ENDLESS = frozenset(STRATEGIES) - {"grid"}
"""Strategies that go on until the budget is spent: without one they get ``DEFAULT_BUDGET``."""

DEFAULT_BUDGET = "20 trials"


def check_strategy(strategy: str | Scheduler) -> str:
    """The strategy's name for the log, ``custom`` for an object.

    Raises:
        UserError: an unknown name, or an object without ``propose`` and ``judge``.
    """
    if isinstance(strategy, str):
        if strategy not in STRATEGIES:
            raise UserError(f"There is no strategy {strategy!r}.", nearest(strategy, STRATEGIES))
        return strategy
    if not isinstance(strategy, Scheduler):
        raise UserError(
            f"strategy= got a {type(strategy).__name__}, which is no scheduler.",
            "Pass a name, or an object with propose(history, rng) and judge(history, trial).",
        )
    return "custom"


def build(strategy: str | Scheduler) -> Scheduler:
    """The scheduler of a strategy, kept within the study's budget."""
    return Within(STRATEGIES[strategy]() if isinstance(strategy, str) else strategy)


def check_fit(strategy: str | Scheduler, study: Study) -> None:
    """Let a strategy that does not suit every study say what it cannot work with.

    Raises:
        UserError: what that is.
    """
    scheduler = STRATEGIES[strategy]() if isinstance(strategy, str) else strategy
    if isinstance(scheduler, Particular):
        scheduler.accept(study)


def budget_for(strategy: str, budget: str | int | float | Budget | None, max_epochs: int) -> Budget:
    """The budget as asked, or the default where a strategy would go on without end."""
    if budget is None and strategy in ENDLESS:
        budget = DEFAULT_BUDGET
    return Budget.parse(budget, max_epochs)
