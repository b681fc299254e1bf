"""Hyperparameters: ``Float``, ``Int``, ``Choice``, ``Constant``; each with its scale, range and conditions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, ClassVar

from luthier.core.errors import SpaceError

Value = str | int | float | bool | None
"""What a hyperparameter may hold: a JSON scalar."""

Config = Mapping[str, Value]
"""One configuration: the active hyperparameters and their values."""

When = Mapping[str, tuple[Value, ...]]
"""Active only if every named hyperparameter is active and holds one of the values."""


@dataclass(frozen=True, slots=True)
class Follows:
    """How a Float follows another hyperparameter: its range holds at a reference value, and it scales from there.

    A configuration holds ``base * (config[name] / reference) ** power``; searchers propose the base.

    Args:
        name: the hyperparameter that is followed, an Int or Float above zero.
        reference: the value of ``name`` at which the range is meant.
        power: the exponent.
        by: a Choice that decides the exponent, such as the optimizer; None where it does not matter.
        powers: the exponents of some of its values, as it spells them; ``power`` holds for the others.
        family: what a value of ``by`` goes by in ``powers`` where its own spelling is not there. A space spells
            ``powers`` out with it when it is made, and text does not keep it.
    """

    name: str
    reference: float
    power: float
    by: str | None = None
    powers: Mapping[str, float] = field(default_factory=dict)
    family: Callable[[Value], str | None] | None = field(default=None, repr=False, compare=False)

    def factor(self, config: Config) -> float:
        """What the base is multiplied by in ``config``; 1 where the followed hyperparameter is not active."""
        followed = config.get(self.name)
        if followed is None:
            return 1.0
        power = self.powers.get(str(config.get(self.by)), self.power) if self.by else self.power
        return float((float(followed) / self.reference) ** power)

    @property
    def parents(self) -> tuple[str, ...]:
        """The hyperparameters whose values must be known first."""
        return (self.name,) if self.by is None else (self.name, self.by)

    def spelled(self, values: Iterable[Value]) -> Mapping[str, float]:
        """``powers`` with those of ``values``, which ``by`` may hold."""
        if self.family is None:
            return self.powers
        known = ((str(v), self.powers.get(self.family(v) or "")) for v in values)
        return {**{name: power for name, power in known if power is not None}, **self.powers}


def same(a: Any, b: Any) -> bool:
    """Whether two values are one value of a hyperparameter: 1 and 1.0 are, 1 and True are not."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def plain(value: Any) -> Any:
    """``value`` as Python's own number, string or boolean, where it is one of NumPy's or of an enumeration."""
    if type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    return value.item() if getattr(value, "shape", None) == () else value  # NumPy's booleans; arrays of one number


def _listed(value: Any) -> tuple[Any, ...] | None:
    """The parts of a list or an array; None for anything else."""
    return tuple(value) if isinstance(value, (list, tuple)) or getattr(value, "shape", ()) != () else None


def _conditions(when: Mapping[str, Any] | None) -> When:
    if not when:
        return {}
    if not isinstance(when, Mapping):
        raise SpaceError(f"when= must be a mapping such as {{'optimizer': 'sgd'}}, got {when!r}.")
    listed = {k: _listed(sorted(v, key=repr) if isinstance(v, (set, frozenset)) else v) for k, v in when.items()}
    return {k: tuple(map(plain, (when[k],) if parts is None else parts)) for k, parts in listed.items()}


def _number(kind: str, label: str, value: Any, *, whole: bool = False) -> Any:
    number = plain(value)
    good = isinstance(number, int if whole else (int, float)) and not isinstance(number, bool)
    if not good or not math.isfinite(number):
        what = "a whole number" if whole else "a finite number"
        raise SpaceError(f"{kind}: {label} must be {what}, got {value!r}.")
    return number if whole else float(number)


def _bounds(kind: str, low: Any, high: Any, log: bool, whole: bool) -> tuple[Any, Any]:
    low, high = _number(kind, "low", low, whole=whole), _number(kind, "high", high, whole=whole)
    if not isinstance(log, bool):
        raise SpaceError(f"{kind}: log must be true or false, got {log!r}.")
    if low >= high:
        raise SpaceError(
            f"{kind}: low must be below high, got low={low!r}, high={high!r}.",
            "Swap them, or use Constant(value) for a single value.",
        )
    if log and low <= 0:
        raise SpaceError(
            f"{kind}: a log scale needs low > 0, got low={low!r}.", "Raise low (1e-8, say) or drop log=True."
        )
    return low, high


@dataclass(frozen=True, slots=True)
class Float:
    """A real hyperparameter in ``[low, high]``.

    Args:
        low, high: the inclusive range, ``low < high``.
        log: search on a logarithmic scale; needs ``low > 0``.
        when: conditions, ``{"optimizer": "sgd"}`` or ``{"optimizer": ["sgd", "rmsprop"]}``.
        role: the knowledge base's name for it, where the name itself does not tell.
        default: where to begin; without one the knowledge base's strong default, else the middle of the scale.
        follows: another hyperparameter it scales with; see :func:`luthier.coupled`.
    """

    low: float
    high: float
    log: bool = False
    when: Mapping[str, Any] | None = field(default=None, kw_only=True)
    role: str | None = field(default=None, kw_only=True)
    default: float | None = field(default=None, kw_only=True)
    follows: Follows | None = field(default=None, kw_only=True)
    kind: ClassVar[str] = "float"

    def __post_init__(self) -> None:
        low, high = _bounds("Float", self.low, self.high, self.log, whole=False)
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)
        object.__setattr__(self, "when", _conditions(self.when))
        if self.default is not None:
            object.__setattr__(self, "default", self.check(_number("Float", "default", self.default)))

    def from_unit(self, u: float) -> float:
        """The value at position ``u`` in [0, 1] of the scale."""
        if self.log:
            a, b = math.log(self.low), math.log(self.high)
            x = math.exp(a + u * (b - a))
        else:
            x = self.low + u * (self.high - self.low)
        # Twelve digits: 1e-3 reads as 0.001, and a value survives any text format unchanged.
        return min(max(float(f"{x:.12g}"), self.low), self.high)

    def to_unit(self, value: Value) -> float:
        """The position in [0, 1] of ``value``, clipped to the range."""
        x = min(max(float(value), self.low), self.high)  # type: ignore[arg-type]
        if self.log:
            return (math.log(x) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (x - self.low) / (self.high - self.low)

    def check(self, value: Any) -> Value:
        """``value`` as this type; raises SpaceError when it is not in the range."""
        number = plain(value)
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not self.low <= number <= self.high:
            raise SpaceError(f"{value!r} is not in [{self.low:g}, {self.high:g}].")
        return float(number)

    def to_bounds(self, value: Value) -> float:
        """``value``, moved onto a bound that it misses by no more than rounding."""
        x = float(str(value))
        near = min(max(x, self.low), self.high)
        return near if math.isclose(x, near, rel_tol=1e-9) else x

    def contains(self, other: Param) -> bool:
        """Whether every value of ``other`` is one of this."""
        return isinstance(other, Float) and self.low <= other.low and other.high <= self.high and self.log == other.log

    def levels(self, resolution: int) -> list[Value]:
        """``resolution`` values, evenly spaced on the scale, ends included."""
        return [self.from_unit(i / (resolution - 1) if resolution > 1 else 0.5) for i in range(resolution)]


@dataclass(frozen=True, slots=True)
class Int:
    """A whole-number hyperparameter in ``[low, high]``, both inclusive. Arguments as for :class:`Float`."""

    low: int
    high: int
    log: bool = False
    when: Mapping[str, Any] | None = field(default=None, kw_only=True)
    role: str | None = field(default=None, kw_only=True)
    default: int | None = field(default=None, kw_only=True)
    kind: ClassVar[str] = "int"

    def __post_init__(self) -> None:
        low, high = _bounds("Int", self.low, self.high, self.log, whole=True)
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)
        object.__setattr__(self, "when", _conditions(self.when))
        if self.default is not None:
            object.__setattr__(self, "default", self.check(self.default))

    def _edges(self) -> tuple[float, float]:
        # Half a step of room at each end gives the end values the same share of [0, 1] as their neighbours.
        a, b = self.low - 0.5, self.high + 0.5
        return (math.log(a), math.log(b)) if self.log else (a, b)

    def from_unit(self, u: float) -> int:
        """The value at position ``u`` in [0, 1] of the scale."""
        a, b = self._edges()
        x = a + u * (b - a)
        return min(max(round(math.exp(x) if self.log else x), self.low), self.high)

    def to_unit(self, value: Value) -> float:
        """The position in [0, 1] of ``value``, clipped to the range."""
        a, b = self._edges()
        x = min(max(float(value), self.low), self.high)  # type: ignore[arg-type]
        return ((math.log(x) if self.log else x) - a) / (b - a)

    def check(self, value: Any) -> Value:
        """``value`` as this type; raises SpaceError when it is not in the range."""
        number = plain(value)
        whole = isinstance(number, (int, float)) and not isinstance(number, bool) and float(number).is_integer()
        if not whole or not self.low <= number <= self.high:
            raise SpaceError(f"{value!r} is not a whole number in [{self.low}, {self.high}].")
        return int(number)

    def contains(self, other: Param) -> bool:
        """Whether every value of ``other`` is one of this."""
        return isinstance(other, Int) and self.low <= other.low and other.high <= self.high and self.log == other.log

    def levels(self, resolution: int) -> list[Value]:
        """At most ``resolution`` distinct values, evenly spaced on the scale, ends included."""
        scale = Float(self.low, self.high, self.log)
        return list(dict.fromkeys(round(float(v)) for v in scale.levels(resolution)))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, init=False)
class Choice:
    """One of a few values without an order: strings, numbers, booleans or None.

    Args:
        choices: the values; at least one, all different.
        when, role, default: as for :class:`Float`.
    """

    choices: tuple[Value, ...]
    when: Mapping[str, Any] | None = None
    role: str | None = None
    default: Value = None
    kind: ClassVar[str] = "choice"

    def __init__(
        self,
        *choices: Any,
        when: Mapping[str, Any] | None = None,
        role: str | None = None,
        default: Value = None,
    ) -> None:
        if len(choices) == 1 and (parts := _listed(choices[0])) is not None:
            choices = parts
        choices = tuple(map(plain, choices))
        if not choices:
            raise SpaceError("Choice: no choices were given.", 'Write Choice("adamw", "sgd").')
        for c in choices:
            if c is not None and not isinstance(c, (str, int, float, bool)):
                raise SpaceError(
                    f"Choice: {c!r} is a {type(c).__name__}; a choice must be a string, number, boolean or None.",
                    "Give each option a name and look the object up in your training function.",
                )
        seen = {(type(c).__name__, c) for c in choices}
        if len(seen) < len(choices):
            raise SpaceError(f"Choice: {list(choices)!r} names a value twice.", "Name each value once.")
        object.__setattr__(self, "choices", choices)
        object.__setattr__(self, "when", _conditions(when))
        object.__setattr__(self, "role", role)
        object.__setattr__(self, "default", None if default is None else self.check(default))

    def from_unit(self, u: float) -> Value:
        """The choice whose share of [0, 1] holds ``u``."""
        return self.choices[min(int(u * len(self.choices)), len(self.choices) - 1)]

    def to_unit(self, value: Value) -> float:
        """The middle of ``value``'s share of [0, 1]."""
        return (self.index(value) + 0.5) / len(self.choices)

    def index(self, value: Any) -> int:
        """The place of ``value`` among the choices, of 1 and 1.0 that of its type; raises SpaceError without one."""
        value, found = plain(value), -1
        for i, c in enumerate(self.choices):
            if same(c, value):
                if type(c) is type(value):
                    return i
                found = i if found < 0 else found
        if found < 0:
            raise SpaceError(f"{value!r} is none of {list(self.choices)!r}.")
        return found

    def check(self, value: Any) -> Value:
        """The choice equal to ``value``; raises SpaceError when there is none."""
        return self.choices[self.index(value)]

    def contains(self, other: Param) -> bool:
        """Whether every value of ``other`` is one of this."""
        return isinstance(other, Choice) and all(any(same(c, mine) for mine in self.choices) for c in other.choices)

    def levels(self, resolution: int) -> list[Value]:
        """All choices; ``resolution`` has no say here."""
        return list(self.choices)


@dataclass(frozen=True, slots=True)
class Constant:
    """A hyperparameter that stays as it is: handed to the training function, never searched."""

    value: Value
    when: Mapping[str, Any] | None = field(default=None, kw_only=True)
    role: str | None = field(default=None, kw_only=True)
    kind: ClassVar[str] = "constant"

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", plain(self.value))
        if self.value is not None and not isinstance(self.value, (str, int, float, bool)):
            raise SpaceError(f"Constant: {self.value!r} must be a string, number, boolean or None.")
        object.__setattr__(self, "when", _conditions(self.when))

    @property
    def default(self) -> Value:
        """The value itself."""
        return self.value

    def from_unit(self, u: float) -> Value:
        """The value, whatever ``u``."""
        return self.value

    def to_unit(self, value: Value) -> float:
        """The middle: a constant takes no room."""
        return 0.5

    def check(self, value: Any) -> Value:
        """The value; raises SpaceError for any other."""
        if value != self.value:
            raise SpaceError(f"{value!r} is not the constant {self.value!r}.")
        return self.value

    def contains(self, other: Param) -> bool:
        """Whether ``other`` is the same constant."""
        return isinstance(other, Constant) and other.value == self.value

    def levels(self, resolution: int) -> list[Value]:
        """The one value."""
        return [self.value]


Param = Float | Int | Choice | Constant
