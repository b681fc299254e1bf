"""The built-in strategies by name: which searcher goes with which scheduler."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

from luthier.contracts import Scheduler
from luthier.core.errors import UserError, nearest
from luthier.core.study import Budget
from luthier.diagnosis.ending import ending
from luthier.schedule.budget import Within
from luthier.schedule.early import Early
from luthier.schedule.freeze_thaw import FreezeThaw
from luthier.schedule.full import Full
from luthier.schedule.halving import ASHA, Hyperband, SuccessiveHalving
from luthier.schedule.median import Median
from luthier.search.bohb import BOHB
from luthier.search.grid import Grid
from luthier.search.optuna_sampler import OptunaSampler, cmaes, gp, tpe
from luthier.search.pibo import PiBO
from luthier.search.priorband import PriorBand
from luthier.search.sobol import Sobol
from luthier.search.uniform import Random


def _playbook() -> Scheduler:
    from luthier.playbook.playbook import Playbook  # only here: random search needs no knowledge base

    return Playbook()


def _expert() -> Scheduler:
    from luthier.expert import Expert

    return Expert()


def _cmaes() -> Scheduler:
    from luthier.search.optuna_cmaes import recall  # only here: it imports Optuna

    return Full(OptunaSampler(cmaes, "cmaes", recall))


def early(inner: Scheduler, trivial_loss: float | None = None) -> Early:
    """``inner`` without the trainings whose loss explodes, or shows that they are dead starts.

    Args:
        inner: any scheduler.
        trivial_loss: of a model that knows nothing (log of the number of classes, variance of the targets). Without it
            only exploded trainings are ended, unless the study had a sanity probe, which measures it.
    """
    return Early(inner, partial(ending, trivial_loss=trivial_loss))


STRATEGIES: dict[str, Callable[[], Scheduler]] = {
    "playbook": _playbook,
    "expert": _expert,
    "random": lambda: Full(Random()),
    "grid": lambda: Full(Grid()),
    "sobol": lambda: Full(Sobol()),
    "tpe": lambda: Full(OptunaSampler(tpe, "tpe")),
    "gp": lambda: Full(OptunaSampler(gp, "gp")),
    "cmaes": _cmaes,
    "pibo": lambda: Full(PiBO()),
    "median": lambda: Median(Full(Random())),
    "early": lambda: early(Full(Random())),
    "halving": lambda: SuccessiveHalving(Random()),
    "asha": lambda: ASHA(Random()),
    "hyperband": lambda: Hyperband(Random()),
    "bohb": lambda: Hyperband(BOHB()),
    "priorband": lambda: Hyperband(PriorBand()),
    "freeze_thaw": lambda: FreezeThaw(Random()),
}

ENDLESS = frozenset(STRATEGIES) - {"grid"}
"""Strategies that go on until the budget is spent: without one they get ``DEFAULT_BUDGET``."""

DEFAULT_BUDGET = "20 trials"

NEEDS = {"gp": ("torch", "torch"), "cmaes": ("cmaes", "cmaes")}
"""The module that a strategy needs beyond what Luthier always has, and the extra that installs it."""


def check_strategy(strategy: str | Scheduler) -> str:
    """The strategy's name for the log, ``custom`` for an object.

    Raises:
        UserError: an unknown name, one whose package is not installed, or an object without ``propose`` and ``judge``.
    """
    if isinstance(strategy, str):
        if strategy not in STRATEGIES:
            raise UserError(f"There is no strategy {strategy!r}.", nearest(strategy, STRATEGIES))
        _check_installed(strategy)
        return strategy
    if not isinstance(strategy, Scheduler):
        raise UserError(
            f"strategy= got a {type(strategy).__name__}, which is no scheduler.",
            "Pass a name, or an object with propose(history, rng) and judge(history, trial).",
        )
    return "custom"


def build(strategy: str | Scheduler) -> Scheduler:
    """The scheduler of a strategy, kept within the study's budget.

    Raises:
        UserError: a strategy whose package is not installed.
    """
    if isinstance(strategy, str):
        _check_installed(strategy)
        return Within(STRATEGIES[strategy]())
    return Within(strategy)


def _check_installed(strategy: str) -> None:
    module, extra = NEEDS.get(strategy, ("", ""))
    if module and find_spec(module) is None:
        raise UserError(
            f"The strategy {strategy!r} needs the package {module}, which is not installed.",
            f'Install it: pip install "luthier[{extra}]".',
        )


def budget_for(strategy: str, budget: str | int | float | Budget | None, max_epochs: int) -> Budget:
    """The budget as asked, or the default where a strategy would go on without end."""
    if budget is None and strategy in ENDLESS:
        budget = DEFAULT_BUDGET
    return Budget.parse(budget, max_epochs)
