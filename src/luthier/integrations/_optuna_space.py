"""The space of a define-by-run objective, found by running its suggestions; distributions in both directions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from luthier.core.errors import SpaceError, UserError
from luthier.core.params import Choice, Constant, Float, Int, Param, Value
from luthier.core.space import Space

LEVELS = 64
"""A range with a step becomes a Choice up to so many values; beyond, it is searched whole and rounded to the step."""
BRANCHES = 16
"""A whole number with up to so many values is tried with each: what is asked for may depend on it."""


class Enough(BaseException):
    """Ends a probe of an objective at its first report."""


class Suggestions(optuna.trial.BaseTrial):
    """The part of an Optuna trial that asks for hyperparameters; values come from :meth:`_value`."""

    def __init__(self) -> None:
        self._asked: dict[str, BaseDistribution] = {}
        self._params: dict[str, Any] = {}
        self._user: dict[str, Any] = {}

    def _value(self, name: str, distribution: BaseDistribution) -> Any:
        raise NotImplementedError

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name in self._params:
            if self._asked[name] != distribution and not isinstance(distribution, CategoricalDistribution):
                raise UserError(f"{name!r} is asked for twice with different ranges.", "Ask once, or use two names.")
            return self._params[name]
        value = snapped(distribution, self._value(name, distribution))
        self._asked[name], self._params[name] = distribution, value
        return value

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A real number in ``[low, high]``."""
        return float(self._suggest(name, FloatDistribution(low, high, log=log, step=step)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number in ``[low, high]``."""
        return int(self._suggest(name, IntDistribution(low, high, log=log, step=step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of ``choices``."""
        return self._suggest(name, CategoricalDistribution(choices))

    def suggest_uniform(self, name: str, low: float, high: float) -> float:
        """Optuna's old name for a real number."""
        return self.suggest_float(name, low, high)

    def suggest_loguniform(self, name: str, low: float, high: float) -> float:
        """Optuna's old name for one on a logarithmic scale."""
        return self.suggest_float(name, low, high, log=True)

    def suggest_discrete_uniform(self, name: str, low: float, high: float, q: float) -> float:
        """Optuna's old name for one on a grid."""
        return self.suggest_float(name, low, high, step=q)

    def set_constraint(self, key: str, value: float) -> None:
        """Kept as a metric: constrain it with ``constraints={key: "<= 0"}``."""
        self._user[key] = value

    def set_user_attr(self, key: str, value: Any) -> None:
        """Kept with this trial; numbers among them are reported as metrics at its end."""
        self._user[key] = value

    def set_system_attr(self, key: str, value: Any) -> None:
        """Optuna's own bookkeeping; not kept."""

    @property
    def params(self) -> dict[str, Any]:
        """What was asked for so far."""
        return dict(self._params)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The ranges of what was asked for so far."""
        return dict(self._asked)

    @property
    def user_attrs(self) -> dict[str, Any]:
        """What was set."""
        return dict(self._user)

    @property
    def system_attrs(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    @property
    def datetime_start(self) -> None:
        """Not kept here: the log has it."""
        return None

    @property
    def relative_params(self) -> dict[str, Any]:
        """Nothing."""
        return {}


class Probe(Suggestions):
    """A trial that answers with given values, else with the middle of the range, and notes what is asked."""

    def __init__(self, given: Mapping[str, Any], to_the_end: bool) -> None:
        super().__init__()
        self._given = given
        self._to_the_end = to_the_end
        self.reports = 0

    def _value(self, name: str, distribution: BaseDistribution) -> Any:
        if name in self._given:
            return self._given[name]
        param = param_of(name, distribution)
        return param.value if isinstance(param, Constant) else param.from_unit(0.0 if _branches(distribution) else 0.5)

    @property
    def number(self) -> int:
        """As of a study's first trial."""
        return 0

    def report(self, value: float, step: int) -> None:
        """Counted; ends the probe unless all reports are to be counted."""
        self.reports += 1
        if not self._to_the_end:
            raise Enough

    def should_prune(self) -> bool:
        """Never; ends the probe as a report does."""
        if not self._to_the_end:
            raise Enough
        return False


@dataclass
class Found:
    """The space of an objective and how often it reports; 0 where that was not counted."""

    space: Space
    reports: int = 0
    runs: int = 0


@dataclass
class _Branch:
    """A probe: which values were given, what was asked."""

    given: Mapping[str, Any]
    asked: Mapping[str, BaseDistribution]
    children: dict[str, list[tuple[Any, _Branch]]] = field(default_factory=dict)


def find_space(objective: Callable[[Any], Any], *, count_reports: bool = False, most: int = 200) -> Found:
    """Run the suggestions of an objective, once as they come and once for each value that it may branch on.

    Each probe ends at the first report. What is asked for only under some values of a categorical, or of a whole number
    of up to ``BRANCHES`` values, becomes conditional on them.

    Args:
        count_reports: let the first probe run to its end.
        most: probes that may be run.

    Raises:
        UserError: nothing is asked for; a range that depends on another value; what is asked for depends on the values
            in a way that conditions cannot express, or on too many.
    """
    state = Found(Space(x=Constant(0)))
    ranges: dict[str, BaseDistribution] = {}

    def probe(given: Mapping[str, Any]) -> _Branch:
        state.runs += 1
        if state.runs > most:
            raise UserError(
                f"The objective's space was not found in {most} probes: it branches on too many values.", _MEND
            )
        trial = Probe(given, count_reports and state.runs == 1)
        with suppress(Enough, optuna.TrialPruned):
            objective(trial)
        state.reports = state.reports or trial.reports
        for name, distribution in trial.distributions.items():
            before = ranges.setdefault(name, distribution)
            if before != distribution:
                raise UserError(
                    f"The range of {name!r} depends on other values: {before} and {distribution}.",
                    f"Ask for it in one fixed range, or under a name for each. {_MEND}",
                )
        return _Branch(given, trial.distributions)

    def explore(branch: _Branch, names: Iterable[str]) -> None:
        for name in names:
            at = {**branch.given, name: Probe(branch.given, False)._value(name, branch.asked[name])}
            others = [v for v in _branches(branch.asked[name]) if v != at[name] or type(v) is not type(at[name])]
            branch.children[name] = [(at[name], branch)]
            for value in others:
                child = probe({**branch.given, name: value})
                branch.children[name].append((value, child))
                explore(child, [n for n in child.asked if n not in branch.asked])

    root = probe({})
    if not root.asked:
        raise UserError("The objective asks for no hyperparameter before its first report.", _MEND)
    explore(root, list(root.asked))
    when: dict[str, dict[str, tuple[Any, ...]]] = {}
    _conditions(root, {}, when)
    params = {name: param_of(name, ranges[name], when.get(name)) for name in _ordered(root, ranges)}
    state.space = Space(params)
    return state


_MEND = "Pass space=: an lt.Space, or a function that only asks (def space(trial): ...)."


def _conditions(
    branch: _Branch, under: dict[str, tuple[Any, ...]], when: dict[str, dict[str, tuple[Any, ...]]]
) -> None:
    """Read off where each name was asked for: of the values of one parent, under which."""
    for parent, values in branch.children.items():
        seen = {name for _, child in values for name in child.asked}
        for name in seen:
            having = tuple(value for value, child in values if name in child.asked)
            if name != parent and len(having) < len(values):
                # What an outer branch already has needs no condition on what lies deeper than itself.
                if parent in when.get(name, {}) and when[name][parent] != having:
                    having = tuple(dict.fromkeys([*when[name][parent], *having]))
                when.setdefault(name, dict(under) if name not in branch.asked else {})[parent] = having
        for value, child in values:
            if child is not branch:
                _conditions(child, {**under, parent: (value,)}, when)


def _ordered(root: _Branch, ranges: Mapping[str, BaseDistribution]) -> list[str]:
    return [*root.asked, *(name for name in ranges if name not in root.asked)]


def _branches(distribution: BaseDistribution) -> list[Any]:
    """The values that are tried one by one, for an objective may branch on them; none of a long range."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntDistribution):
        values = range(distribution.low, distribution.high + 1, distribution.step)
        return list(values) if len(values) <= BRANCHES else []
    return []


# -- distributions and hyperparameters ---------------------------------------------------------------------------------


def param_of(name: str, distribution: BaseDistribution, when: Mapping[str, Any] | None = None) -> Param:
    """The hyperparameter with the values of an Optuna distribution; a step makes a Choice of up to ``LEVELS`` values.

    Raises:
        SpaceError: choices that are no strings, numbers, booleans or None.
    """
    if isinstance(distribution, CategoricalDistribution):
        try:
            return Choice(*distribution.choices, when=when)
        except SpaceError as error:
            raise SpaceError(f"{name}: {error.problem}", error.mend) from None
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        raise SpaceError(f"{name}: {distribution!r} is no distribution that Luthier knows.")
    low, high = distribution.low, distribution.high
    if low == high:
        return Constant(low, when=when)
    stepped = distribution.step is not None and (isinstance(distribution, FloatDistribution) or distribution.step > 1)
    if stepped and (levels := _levels(distribution)) is not None:
        return Choice(*levels, when=when)
    if isinstance(distribution, IntDistribution):
        return Int(distribution.low, distribution.high, log=distribution.log, when=when)
    return Float(low, high, log=distribution.log, when=when)


def _levels(distribution: FloatDistribution | IntDistribution) -> list[Value] | None:
    step = distribution.step or 1
    many = round((distribution.high - distribution.low) / step) + 1
    if many > LEVELS:
        return None
    return list(itertools.islice((snapped(distribution, distribution.low + i * step) for i in range(many)), many))


def snapped(distribution: BaseDistribution, value: Any) -> Any:
    """``value`` on the steps of a distribution that has some."""
    if isinstance(distribution, CategoricalDistribution) or getattr(distribution, "step", None) in (None, 1):
        return value
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    step = distribution.step or 1
    on = distribution.low + step * round((value - distribution.low) / step)
    near = min(max(on, distribution.low), distribution.high)
    return near if isinstance(distribution, IntDistribution) else float(f"{near:.12g}")


def distributions_of(space: Space) -> dict[str, BaseDistribution]:
    """Optuna's distribution of each hyperparameter but the constants."""
    from luthier.search.optuna_sampler import distributions

    return distributions(space)
