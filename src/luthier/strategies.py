"""The built-in strategies by name: which searcher goes with which scheduler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

from luthier.contracts import Particular, Scheduler
from luthier.core.errors import UserError, nearest
from luthier.core.study import Budget, Objective, Study
from luthier.diagnosis.ending import ending
from luthier.schedule.budget import Within
from luthier.schedule.early import Early
from luthier.schedule.freeze_thaw import FreezeThaw
from luthier.schedule.full import Full
from luthier.schedule.halving import ASHA, Hyperband, SuccessiveHalving
from luthier.schedule.median import Median
from luthier.schedule.memory import Fitting
from luthier.schedule.pb2 import PB2
from luthier.schedule.pbt import PBT
from luthier.search.bohb import BOHB
from luthier.search.grid import Grid
from luthier.search.optuna_sampler import OptunaSampler, cmaes, gp, nsga2, tpe
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
    "nsga2": lambda: Full(OptunaSampler(nsga2, "nsga2")),
    "pibo": lambda: Full(PiBO()),
    "median": lambda: Median(Full(Random())),
    "early": lambda: early(Full(Random())),
    "halving": lambda: SuccessiveHalving(Random()),
    "asha": lambda: ASHA(Random()),
    "hyperband": lambda: Hyperband(Random()),
    "bohb": lambda: Hyperband(BOHB()),
    "priorband": lambda: Hyperband(PriorBand()),
    "freeze_thaw": lambda: FreezeThaw(Random()),
    "pbt": PBT,
    "pb2": PB2,
}

ENDLESS = frozenset(STRATEGIES) - {"grid"}
"""Strategies that go on until the budget is spent: without one they get ``DEFAULT_BUDGET``."""

DEFAULT_BUDGET = "20 trials"

NEEDS = {"gp": ("torch", "torch"), "cmaes": ("cmaes", "cmaes")}
"""The module that a strategy needs beyond what Luthier always has, and the extra that installs it."""


SINGLE = frozenset({"cmaes"})
"""Strategies that cannot be asked for several objectives; docs/goals.md has what the others do with them."""


def check_goals(strategy: str, objectives: tuple[Objective, ...]) -> None:
    """Refuse several objectives where the strategy cannot follow them.

    Raises:
        UserError: naming those that can.
    """
    if len(objectives) > 1 and strategy in SINGLE:
        able = ", ".join(repr(s) for s in STRATEGIES if s not in SINGLE)
        raise UserError(
            f"The strategy {strategy!r} cannot do several objectives ({', '.join(o.metric for o in objectives)}).",
            f"Those that can: {able}; or keep one objective and make constraints= of the others.",
        )


COPIES = frozenset({"pbt", "pb2"})
"""Strategies that go on from another trial's checkpoint under a changed configuration."""


def check_copies(strategy: str, clones: bool) -> None:
    """Refuse a strategy that copies trials where the target cannot go on from a copy.

    Raises:
        UserError: naming others that suit.
    """
    if strategy in COPIES and not clones:
        raise UserError(
            f"The strategy {strategy!r} changes hyperparameters within a training, and a script that restores its own "
            "optimizer would undo that.",
            'Use "playbook", "expert" or "asha".',
        )


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
    """The scheduler of a strategy, kept within the study's budget and what fits into memory.

    Raises:
        UserError: a strategy whose package is not installed.
    """
    if isinstance(strategy, str):
        _check_installed(strategy)
        return Within(Fitting(STRATEGIES[strategy]()))
    return Within(Fitting(strategy))


def _check_installed(strategy: str) -> None:
    module, extra = NEEDS.get(strategy, ("", ""))
    if module and find_spec(module) is None:
        raise UserError(
            f"The strategy {strategy!r} needs the package {module}, which is not installed.",
            f'Install it: pip install "luthier[{extra}]".',
        )


def takes_earlier(strategy: str | Scheduler) -> bool:
    """Whether a strategy, by itself or within another, looks at what did best in earlier studies. For the others that
    is enqueued."""
    return any(getattr(s, "warm", False) for s in _nested(strategy))


def check_fit(strategy: str | Scheduler, study: Study) -> None:
    """Let a strategy that does not suit every study, by itself or within another, say what it cannot work with.

    Raises:
        UserError: what that is.
    """
    for scheduler in _nested(strategy):
        if isinstance(scheduler, Particular):
            scheduler.accept(study)


def _nested(strategy: str | Scheduler) -> Iterator[object]:
    """A scheduler and those within it."""
    scheduler: object = STRATEGIES[strategy]() if isinstance(strategy, str) else strategy
    while scheduler is not None:
        yield scheduler
        scheduler = getattr(scheduler, "inner", None)


def budget_for(strategy: str, budget: str | int | float | Budget | None, max_epochs: int) -> Budget:
    """The budget as asked, or the default where a strategy would go on without end."""
    if budget is None and strategy in ENDLESS:
        return replace(Budget.parse(DEFAULT_BUDGET, max_epochs), given=False)
    return Budget.parse(budget, max_epochs)
