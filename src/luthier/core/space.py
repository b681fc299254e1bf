"""Search spaces: an ordered ``name -> Float | Int | Choice | Constant`` with conditions.

A space maps configurations to the unit cube and back, so that a searcher only ever sees ``[0, 1]^d``:

>>> space = Space(
...     learning_rate=Float(1e-5, 1e-1, log=True),
...     optimizer=Choice("adamw", "sgd"),
...     momentum=Float(0.8, 0.99, when={"optimizer": "sgd"}),
... )
>>> space.from_unit([0.5, 0.0, 0.5])
{'learning_rate': 0.001, 'optimizer': 'adamw'}
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self

from luthier.core.errors import SpaceError, nearest

Value = str | int | float | bool | None
"""What a hyperparameter may hold: a JSON scalar."""

Config = Mapping[str, Value]
"""One configuration: the active hyperparameters and their values."""

When = Mapping[str, tuple[Value, ...]]
"""Active only if every named hyperparameter is active and holds one of the values."""


class Uniform(Protocol):
    """The one thing sampling needs of a generator (``numpy.random.Generator`` has it)."""

    def random(self) -> float:
        """A draw from [0, 1)."""
        ...


def _conditions(when: Mapping[str, Any] | None) -> When:
    if not when:
        return {}
    if not isinstance(when, Mapping):
        raise SpaceError(f"when= must be a mapping such as {{'optimizer': 'sgd'}}, got {when!r}.")
    return {k: tuple(v) if isinstance(v, (list, tuple, set, frozenset)) else (v,) for k, v in when.items()}


def _number(kind: str, label: str, value: Any, *, whole: bool = False) -> None:
    good = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not good or not math.isfinite(value):
        what = "a whole number" if whole else "a finite number"
        raise SpaceError(f"{kind}: {label} must be {what}, got {value!r}.", "YAML needs a dot in 1.0e-5.")


def _bounds(kind: str, low: float, high: float, log: bool, whole: bool) -> None:
    _number(kind, "low", low, whole=whole)
    _number(kind, "high", high, whole=whole)
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


@dataclass(frozen=True, slots=True)
class Float:
    """A real hyperparameter in ``[low, high]``.

    Args:
        low, high: the inclusive range, ``low < high``.
        log: search on a logarithmic scale; needs ``low > 0``.
        when: conditions, ``{"optimizer": "sgd"}`` or ``{"optimizer": ["sgd", "rmsprop"]}``.
        role: the knowledge base's name for it, where the name itself does not tell.
        default: where to begin; without one the knowledge base's strong default, else the middle of the scale.
    """

    low: float
    high: float
    log: bool = False
    when: Mapping[str, Any] | None = field(default=None, kw_only=True)
    role: str | None = field(default=None, kw_only=True)
    default: float | None = field(default=None, kw_only=True)
    kind: ClassVar[str] = "float"

    def __post_init__(self) -> None:
        _bounds("Float", self.low, self.high, self.log, whole=False)
        object.__setattr__(self, "low", float(self.low))
        object.__setattr__(self, "high", float(self.high))
        object.__setattr__(self, "when", _conditions(self.when))
        if self.default is not None:
            _number("Float", "default", self.default)
            object.__setattr__(self, "default", float(self.default))
            self.check(self.default)

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
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            raise SpaceError(f"{value!r} is not in [{self.low:g}, {self.high:g}].")
        return float(value)

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
        _bounds("Int", self.low, self.high, self.log, whole=True)
        object.__setattr__(self, "when", _conditions(self.when))
        if self.default is not None:
            self.check(self.default)

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
        whole = isinstance(value, (int, float)) and not isinstance(value, bool) and float(value).is_integer()
        if not whole or not self.low <= value <= self.high:
            raise SpaceError(f"{value!r} is not a whole number in [{self.low}, {self.high}].")
        return int(value)

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
        if len(choices) == 1 and isinstance(choices[0], (list, tuple)):
            choices = tuple(choices[0])
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
        object.__setattr__(self, "choices", tuple(choices))
        object.__setattr__(self, "when", _conditions(when))
        object.__setattr__(self, "role", role)
        object.__setattr__(self, "default", default)
        if default is not None:
            self.check(default)

    def from_unit(self, u: float) -> Value:
        """The choice whose share of [0, 1] holds ``u``."""
        return self.choices[min(int(u * len(self.choices)), len(self.choices) - 1)]

    def to_unit(self, value: Value) -> float:
        """The middle of ``value``'s share of [0, 1]."""
        return (self._index(value) + 0.5) / len(self.choices)

    def _index(self, value: Any) -> int:
        # 1 == True == 1.0 in Python; a choice is found by value and type.
        for i, c in enumerate(self.choices):
            if c == value and isinstance(c, bool) == isinstance(value, bool):
                return i
        raise SpaceError(f"{value!r} is none of {list(self.choices)!r}.")

    def check(self, value: Any) -> Value:
        """The choice equal to ``value``; raises SpaceError when there is none."""
        return self.choices[self._index(value)]

    def contains(self, other: Param) -> bool:
        """Whether every value of ``other`` is one of this."""
        return isinstance(other, Choice) and set(other.choices) <= set(self.choices)

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

_KINDS: dict[str, tuple[type, tuple[str, ...]]] = {
    "float": (Float, ("low", "high", "log")),
    "int": (Int, ("low", "high", "log")),
    "choice": (Choice, ("choices",)),
    "constant": (Constant, ("value",)),
}


class Space(Mapping[str, Param]):
    """An ordered set of hyperparameters.

    Args:
        params: an optional mapping, for names that are no Python identifiers (``"optimizer.lr"``).
        named: hyperparameters by keyword.

    Raises:
        SpaceError: for an empty space, something that is no hyperparameter, a condition on an unknown name, on a value
            its parent cannot hold, or conditions that run in a circle.
    """

    __slots__ = ("_order", "_params")

    def __init__(self, params: Mapping[str, Param] | None = None, /, **named: Param) -> None:
        merged: dict[str, Param] = {**(params or {}), **named}
        if not merged:
            raise SpaceError(
                "The search space is empty.", "Name at least one: Space(learning_rate=Float(1e-5, 1e-1, log=True))."
            )
        for name, param in merged.items():
            if not isinstance(name, str) or not name:
                raise SpaceError(f"A hyperparameter's name must be a non-empty string, got {name!r}.")
            if not isinstance(param, (Float, Int, Choice, Constant)):
                raise SpaceError(
                    f"{name!r} is {param!r}, which is no hyperparameter.",
                    "Use Float, Int or Choice, and Constant for a value that stays.",
                )
        self._params = merged
        self._order = self._parents_first()

    def _parents_first(self) -> tuple[str, ...]:
        order: list[str] = []
        path: list[str] = []

        def visit(name: str) -> None:
            if name in order:
                return
            if name in path:
                raise SpaceError(f"Conditions run in a circle: {' -> '.join([*path, name])}.", "Drop one of them.")
            path.append(name)
            for parent, values in _when(self._params[name]).items():
                if parent not in self._params:
                    raise SpaceError(
                        f"{name!r} depends on {parent!r}, which is not in the space.", nearest(parent, self._params)
                    )
                for value in values:
                    try:
                        self._params[parent].check(value)
                    except SpaceError as error:
                        raise SpaceError(
                            f"{name!r} is active when {parent!r} is {value!r}, but {error.problem}",
                            "Mend the condition or the parent's range.",
                        ) from None
                visit(parent)
            path.pop()
            order.append(name)

        for name in self._params:
            visit(name)
        return tuple(order)

    # -- a mapping -------------------------------------------------------------------------------------------------
    def __getitem__(self, name: str) -> Param:
        return self._params[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._params)

    def __len__(self) -> int:
        return len(self._params)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __repr__(self) -> str:
        return f"Space({', '.join(f'{k}={v!r}' for k, v in self._params.items())})"

    # -- configurations and the unit cube --------------------------------------------------------------------------
    @property
    def dims(self) -> tuple[str, ...]:
        """The names that take a dimension of the unit cube: all but the constants."""
        return tuple(n for n, p in self._params.items() if not isinstance(p, Constant))

    @property
    def parents_first(self) -> tuple[str, ...]:
        """The names in an order in which every condition's parent comes before its children."""
        return self._order

    def is_active(self, name: str, config: Config) -> bool:
        """Whether the conditions of ``name`` hold in ``config`` (which must have its parents already)."""
        return all(
            parent in config and any(v == config[parent] and type(v) is type(config[parent]) for v in values)
            for parent, values in _when(self._params[name]).items()
        )

    def from_unit(self, point: Sequence[float]) -> dict[str, Value]:
        """The configuration at ``point``, one number in [0, 1] for each of :attr:`dims`; inactive names left out."""
        dims = self.dims
        if len(point) != len(dims):
            raise SpaceError(f"A point of this space has {len(dims)} coordinates, got {len(point)}.")
        at = dict(zip(dims, point, strict=True))
        config: dict[str, Value] = {}
        for name in self._order:
            if self.is_active(name, config):
                config[name] = self._params[name].from_unit(min(max(float(at.get(name, 0.5)), 0.0), 1.0))
        return self._in_order(config)

    def to_unit(self, config: Config) -> tuple[float, ...]:
        """The point of ``config`` in the unit cube; an inactive dimension lies at 0.5."""
        return tuple(self._params[n].to_unit(config[n]) if n in config else 0.5 for n in self.dims)

    def sample(self, rng: Uniform) -> dict[str, Value]:
        """One configuration drawn uniformly on the scales."""
        return self.from_unit([rng.random() for _ in self.dims])

    def complete(self, partial: Config) -> dict[str, Value]:
        """``partial`` with every missing active hyperparameter at its default, else the middle; inactive ones dropped.

        Raises:
            SpaceError: for a name that is not in the space or a value out of its range.
        """
        unknown = [n for n in partial if n not in self._params]
        if unknown:
            raise SpaceError(f"{unknown[0]!r} is not in the space.", nearest(unknown[0], self._params))
        config: dict[str, Value] = {}
        for name in self._order:
            if not self.is_active(name, config):
                continue
            param = self._params[name]
            if name in partial:
                try:
                    config[name] = param.check(partial[name])
                except SpaceError as error:
                    raise SpaceError(f"{name}: {error.problem}", "Choose a value inside the range.") from None
            elif isinstance(param, Choice):
                config[name] = param.choices[0] if param.default is None else param.default
            else:
                config[name] = param.default if param.default is not None else param.from_unit(0.5)
        return self._in_order(config)

    def clip(self, name: str, value: Value) -> Value:
        """``value`` moved into the range of ``name``; a choice that does not exist becomes the first one."""
        param = self._params[name]
        if isinstance(param, Choice):
            return value if value in param.choices else param.choices[0]
        if isinstance(param, Constant):
            return param.value
        bounded = min(max(float(value), param.low), param.high)  # type: ignore[arg-type]
        return round(bounded) if isinstance(param, Int) else bounded

    def _in_order(self, config: dict[str, Value]) -> dict[str, Value]:
        return {n: config[n] for n in self._params if n in config}

    # -- other spaces from this one --------------------------------------------------------------------------------
    def fix(self, values: Config) -> Space:
        """The same space with ``values`` held constant; what can then never be active is dropped."""
        params: dict[str, Param] = {}
        for name in self._order:
            param = self._params[name]
            held = {
                p: v
                for p, v in _when(param).items()
                if p not in params or (isinstance(params[p], Constant) and params[p].value not in v)  # type: ignore[union-attr]
            }
            if held:
                continue
            params[name] = Constant(values[name], when=param.when, role=param.role) if name in values else param
        return Space({n: params[n] for n in self._params if n in params})

    def replace(self, **changes: Param) -> Space:
        """The same space with some hyperparameters exchanged or added."""
        return Space({**self._params, **changes})

    def contains(self, other: Space) -> bool:
        """Whether every configuration of ``other`` is one of this: ranges only widened, choices only added."""
        return list(self) == list(other) and all(
            self[n].contains(other[n]) and _when(self[n]) == _when(other[n]) for n in other
        )

    # -- text ------------------------------------------------------------------------------------------------------
    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain data, the same words as in ``space.yaml``."""
        out: dict[str, dict[str, Any]] = {}
        for name, param in self._params.items():
            entry: dict[str, Any] = {"type": param.kind}
            for key in _KINDS[param.kind][1]:
                value = getattr(param, key)
                if key == "log" and not value:
                    continue
                entry[key] = list(value) if isinstance(value, tuple) else value
            if param.when:
                entry["when"] = {k: v[0] if len(v) == 1 else list(v) for k, v in _when(param).items()}
            if param.role is not None:
                entry["role"] = param.role
            if not isinstance(param, Constant) and param.default is not None:
                entry["default"] = param.default
            out[name] = entry
        return out

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """A space from plain data; every mistake is named with its place."""
        if not isinstance(data, Mapping):
            raise SpaceError(
                f"A space is a mapping of names to hyperparameters, got {type(data).__name__}.",
                "Write one line each: learning_rate: {type: float, low: 1.0e-5, high: 0.1, log: true}.",
            )
        return cls({str(name): _param_from(str(name), entry) for name, entry in data.items()})

    def to_json(self) -> str:
        """JSON text; :meth:`from_json` reads it back."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Self:
        """A space from JSON text."""
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise SpaceError(f"The space is not valid JSON: {error}.") from None

    def to_yaml(self) -> str:
        """YAML text, one line a hyperparameter; :meth:`from_yaml` reads it back."""
        import yaml

        lines = []
        for name, entry in self.to_dict().items():
            flow = yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, width=10_000).strip()
            key = yaml.safe_dump({name: 0}, default_flow_style=False).split(": 0")[0]
            lines.append(f"{key}: {flow}\n")
        return "".join(lines)

    @classmethod
    def from_yaml(cls, text: str) -> Self:
        """A space from YAML text."""
        import yaml

        try:
            return cls.from_dict(yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise SpaceError(f"The space is not valid YAML: {' '.join(str(error).split())}.") from None


def _when(param: Param) -> When:
    return param.when or {}


def _param_from(name: str, entry: Any) -> Param:
    if isinstance(entry, (Float, Int, Choice, Constant)):
        return entry
    if not isinstance(entry, Mapping):
        if entry is None or isinstance(entry, (str, int, float, bool)):
            return Constant(entry)  # "epochs: 30" says what it means
        raise SpaceError(f"{name}: {entry!r} is no hyperparameter.", "Write {type: float, low: ..., high: ...}.")
    words = dict(entry)
    kind = words.pop("type", None)
    if kind not in _KINDS:
        problem = f"{name}: no type is given." if kind is None else f"{name}: unknown type {kind!r}."
        raise SpaceError(problem, nearest(str(kind), _KINDS) if kind else f"Add type: {' | '.join(_KINDS)}.")
    make, required = _KINDS[kind]
    allowed = {*required, "when", "role", *(() if make is Constant else ("default",))}
    for key in words:
        if key not in allowed:
            raise SpaceError(f"{name}: unknown key {key!r} for type {kind}.", nearest(key, allowed))
    missing = [k for k in required if k not in words and k != "log"]
    if missing:
        raise SpaceError(f"{name}: {missing[0]!r} is missing for type {kind}.", f"Add {missing[0]}: ...")
    if isinstance(words.get("log", False), str):
        raise SpaceError(f"{name}: log must be true or false, got {words['log']!r}.")
    try:
        if make is Choice:
            choices = words.pop("choices")
            if not isinstance(choices, (list, tuple)):
                raise SpaceError(f"choices must be a list, got {choices!r}.")
            return Choice(*choices, **words)
        return make(**words)  # type: ignore[no-any-return]
    except SpaceError as error:
        raise SpaceError(f"{name}: {error.problem}", error.mend) from None


def extend(param: Param, *, low: float | None = None, high: float | None = None) -> Param:
    """``param`` with a wider range; a choice or constant is returned as it is."""
    if isinstance(param, Float):
        return replace(param, low=min(param.low, low or param.low), high=max(param.high, high or param.high))
    if isinstance(param, Int):
        new_low = param.low if low is None else min(param.low, round(low))
        return replace(param, low=new_low, high=param.high if high is None else max(param.high, round(high)))
    return param
