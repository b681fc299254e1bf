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

import dataclasses
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

from luthier.core import yamltext
from luthier.core.errors import SpaceError, nearest
from luthier.core.evolve import evolve
from luthier.core.params import Choice, Config, Constant, Float, Follows, Int, Param, Value, When, plain


class Uniform(Protocol):
    """The one thing sampling needs of a generator (``numpy.random.Generator`` has it)."""

    def random(self) -> float:
        """A draw from [0, 1)."""
        ...


_KINDS: dict[str, tuple[type, tuple[str, ...]]] = {
    "float": (Float, ("low", "high", "log")),
    "int": (Int, ("low", "high", "log")),
    "choice": (Choice, ("choices",)),
    "constant": (Constant, ("value",)),
}
_FOLLOWS = ("name", "reference", "power", "by", "powers")


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
        self._params = {name: self._at_home(param) for name, param in merged.items()}

    def _parents_first(self) -> tuple[str, ...]:
        order: list[str] = []
        path: list[str] = []

        def visit(name: str) -> None:
            if name in order:
                return
            if name in path:
                raise SpaceError(f"Conditions run in a circle: {' -> '.join([*path, name])}.", "Drop one of them.")
            path.append(name)
            for parent in _followed(self._params[name]):
                if parent not in self._params:
                    raise SpaceError(
                        f"{name!r} follows {parent!r}, which is not in the space.", nearest(parent, self._params)
                    )
                visit(parent)
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

    def _at_home(self, param: Param) -> Param:
        """``param`` in the words of its parents: conditions on the very values that they hold (1.0 for 1), exponents by
        the names that their choices have."""
        changes: dict[str, Any] = {}
        if param.when:
            changes["when"] = {p: tuple(map(self._params[p].check, values)) for p, values in _when(param).items()}
        follows = _follows(param)
        if follows is not None and follows.by is not None:
            changes["follows"] = dataclasses.replace(follows, powers=follows.spelled(_values(self._params[follows.by])))
        return evolve(param, changes) if changes else param

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
        at = {n: min(max(float(u), 0.0), 1.0) for n, u in zip(dims, point, strict=True)}
        return self.assemble({n: p.from_unit(at.get(n, 0.5)) for n, p in self._params.items()})

    def assemble(self, bases: Config) -> dict[str, Value]:
        """The configuration of searched values: inactive ones left out, those that follow another scaled with it."""
        config: dict[str, Value] = {}
        for name in self._order:
            if self.is_active(name, config):
                config[name] = self.coupled(name, bases[name], config)
        return self._in_order(config)

    def to_unit(self, config: Config) -> tuple[float, ...]:
        """The point of ``config`` in the unit cube; an inactive dimension lies at 0.5."""
        return tuple(self._params[n].to_unit(self.base(n, config)) if n in config else 0.5 for n in self.dims)

    def coupled(self, name: str, base: Value, config: Config) -> Value:
        """The value of ``name`` in ``config`` for the searched value ``base``: the same, unless it follows another."""
        follows = _follows(self._params[name])
        if follows is None:
            return base
        return float(f"{float(str(base)) * follows.factor(config):.12g}")

    def follows(self, name: str) -> tuple[str, ...]:
        """The hyperparameters that ``name`` follows."""
        follows = _follows(self._params[name])
        return follows.parents if follows is not None else ()

    def base(self, name: str, config: Config) -> Value:
        """The searched value of ``name``: the inverse of :meth:`coupled`."""
        follows = _follows(self._params[name])
        if follows is None:
            return config[name]
        return float(f"{float(str(config[name])) / follows.factor(config):.12g}")

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
                    if isinstance(param, Float) and param.follows is not None:
                        param.check(param.to_bounds(self.base(name, {**config, name: partial[name]})))
                        config[name] = float(str(partial[name]))
                    else:
                        config[name] = param.check(partial[name])
                except SpaceError as error:
                    raise SpaceError(f"{name}: {error.problem}", "Choose a value inside the range.") from None
            elif isinstance(param, Choice):
                config[name] = param.choices[0] if param.default is None else param.default
            else:
                base = param.default if param.default is not None else param.from_unit(0.5)
                config[name] = self.coupled(name, base, config)
        return self._in_order(config)

    def clip(self, name: str, value: Value, config: Config | None = None) -> Value:
        """``value`` moved into the range of ``name``; a choice that does not exist becomes the first one.

        With the ``config`` that it is for, the range of a hyperparameter that follows another is the one it has there.
        """
        param = self._params[name]
        if config is not None and _follows(param) is not None:
            return self.coupled(name, self.clip(name, self.base(name, {**config, name: value})), config)
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
        """The same space with ``values`` held constant; what can then never be active is dropped.

        Raises:
            SpaceError: a name that is not in the space, or a value that its hyperparameter cannot take.
        """
        for name in values:
            if name not in self:
                raise SpaceError(f"{name!r} is not in the space.", nearest(name, self))
        held = {n: self._held(n, values[n]) if n in values else p for n, p in self._params.items()}
        return Space(_possible(held))

    def _held(self, name: str, value: Value) -> Constant:
        param = self._params[name]
        if not isinstance(param, Constant) and not self.follows(name):  # whose range moves with what it follows
            try:
                value = param.check(value)
            except SpaceError as error:
                mend = f"Choose another value, or exchange it: space.replace({name}=lt.Constant({value!r}))."
                raise SpaceError(f"{name}: {error.problem}", mend) from None
        return Constant(value, when=param.when, role=param.role)

    def replace(self, **changes: Param) -> Space:
        """The same space with some hyperparameters exchanged or added."""
        return Space({**self._params, **changes})

    def with_range(self, name: str, low: float, high: float) -> Space:
        """The same space with another range of the Float or Int ``name``; an Int's ends are rounded."""
        param = self._params[name]
        if isinstance(param, Int):
            return self.replace(**{name: dataclasses.replace(param, low=round(low), high=round(high))})
        if isinstance(param, Float):
            return self.replace(**{name: dataclasses.replace(param, low=low, high=high)})
        raise SpaceError(f"{name!r} is {param!r}, which has no range.")

    def contains(self, other: Space) -> bool:
        """Whether every configuration of ``other`` is one of this: ranges only widened, choices only added."""
        return list(self) == list(other) and all(
            self[n].contains(other[n]) and _when(self[n]) == _when(other[n]) for n in other
        )

    @classmethod
    def recommended(cls, **wanted: Any) -> Space:
        """What the knowledge base recommends to search; the arguments of :func:`luthier.knowledge.recommended`."""
        # By name at run time: values import nothing of ours, and this one door is where a user looks for it.
        recommend: Any = importlib.import_module("luthier.knowledge").recommended
        space: Space = recommend(**wanted)
        return space

    @classmethod
    def from_config(cls, config: type) -> Space:
        """The space that the annotated fields of a dataclass or a pydantic model describe.

        See :func:`luthier.core.typed.space_from`; ``trial.typed(Config)`` gives objects of that class back.
        """
        from luthier.core.typed import space_from

        return space_from(config)

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
            if (follows := _follows(param)) is not None:
                kept = {k: v for k in _FOLLOWS if (v := getattr(follows, k)) not in (None, {})}
                entry["follows"] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in kept.items()}
            out[name] = entry
        return out

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """A space from plain data; every mistake is named with its place.

        What a constant leaves without effect is dropped, as by :meth:`fix`: one line is all that holds a choice fixed.
        """
        if not isinstance(data, Mapping):
            raise SpaceError(
                f"A space is a mapping of names to hyperparameters, got {type(data).__name__}.",
                "Write one line each: learning_rate: {type: float, low: 1.0e-5, high: 0.1, log: true}.",
            )
        return cls(_possible({str(name): _param_from(str(name), entry) for name, entry in data.items()}))

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
        keys = {name: yamltext.dump({name: 0}, flow=False).removesuffix(": 0") for name in self}
        return "".join(f"{keys[name]}: {yamltext.dump(entry, flow=True)}\n" for name, entry in self.to_dict().items())

    @classmethod
    def from_yaml(cls, text: str) -> Self:
        """A space from YAML text."""
        import yaml

        try:
            return cls.from_dict(yamltext.load(text))
        except yaml.YAMLError as error:
            raise SpaceError(f"The space is not valid YAML: {' '.join(str(error).split())}.") from None


def _when(param: Param) -> When:
    return param.when or {}


def _possible(params: Mapping[str, Param]) -> dict[str, Param]:
    """What can be active beside the constants: a condition on another value of one, or on what is left out for that,
    never holds. Conditions on constants name their one value."""
    kept = dict(params)

    def holds(parent: str, values: Sequence[Value]) -> tuple[Value, ...]:
        held = kept.get(parent)
        if held is None:
            return () if parent in params else tuple(values)
        return tuple(v for v in values if v == held.value) if isinstance(held, Constant) else tuple(values)

    while True:
        whens = {n: {p: holds(p, values) for p, values in _when(param).items()} for n, param in kept.items()}
        gone = [n for n, when in whens.items() if not all(when.values())]
        if not gone:
            break
        kept = {n: p for n, p in kept.items() if n not in gone}
    for name, param in kept.items():
        changes: dict[str, Any] = {"when": whens[name]} if whens[name] else {}
        follows = _follows(param)
        if follows is not None and any(p in params and p not in kept for p in follows.parents):
            changes["follows"] = _among(kept, follows)
        kept[name] = evolve(param, changes) if changes else param
    return kept


def _follows(param: Param) -> Follows | None:
    return param.follows if isinstance(param, Float) else None


def _among(params: Mapping[str, Param], follows: Follows) -> Follows | None:
    """``follows`` in a space of ``params``: what is never active there leaves the factor as it is without it."""
    if follows.name not in params:
        return None
    return follows if follows.by in params else dataclasses.replace(follows, by=None, powers={})


def _values(param: Param) -> tuple[Value, ...]:
    """What a choice or a constant may hold."""
    return param.choices if isinstance(param, Choice) else (param.value,) if isinstance(param, Constant) else ()


def _followed(param: Param) -> tuple[str, ...]:
    follows = _follows(param)
    return follows.parents if follows is not None else ()


def _param_from(name: str, entry: Any) -> Param:
    if isinstance(entry, (Float, Int, Choice, Constant)):
        return entry
    if not isinstance(entry, Mapping):
        if entry is None or isinstance(plain(entry), (str, int, float, bool)):
            return Constant(entry)  # "epochs: 30" says what it means
        raise SpaceError(f"{name}: {entry!r} is no hyperparameter.", "Write {type: float, low: ..., high: ...}.")
    words = dict(entry)
    kind = words.pop("type", None)
    if kind not in _KINDS:
        problem = f"{name}: no type is given." if kind is None else f"{name}: unknown type {kind!r}."
        raise SpaceError(problem, nearest(str(kind), _KINDS) if kind else f"Add type: {' | '.join(_KINDS)}.")
    make, required = _KINDS[kind]
    allowed = {*required, "when", "role", *(() if make is Constant else ("default",))}
    if make is Float:
        allowed.add("follows")
    for key in words:
        if key not in allowed:
            raise SpaceError(f"{name}: unknown key {key!r} for type {kind}.", nearest(key, allowed))
    missing = [k for k in required if k not in words and k != "log"]
    if missing:
        raise SpaceError(f"{name}: {missing[0]!r} is missing for type {kind}.", f"Add {missing[0]}: ...")
    if isinstance(words.get("log", False), str):
        raise SpaceError(f"{name}: log must be true or false, got {words['log']!r}.")
    if isinstance(follows := words.get("follows"), Mapping):
        if not {"name", "reference", "power"} <= set(follows) <= set(_FOLLOWS):
            raise SpaceError(
                f"{name}: follows: {dict(follows)!r} cannot be read.",
                "Write follows: {name: batch_size, reference: 64, power: 0.5}.",
            )
        words["follows"] = Follows(**follows)
    try:
        if make is Choice:
            choices = words.pop("choices")
            if not isinstance(choices, (list, tuple)):
                raise SpaceError(f"choices must be a list, got {choices!r}.")
            return Choice(*choices, **words)
        return make(**words)  # type: ignore[no-any-return]
    except SpaceError as error:
        if any(isinstance(words.get(k), str) for k in ("low", "high", "default")):
            error.mend = "Write numbers without quotes."
        raise SpaceError(f"{name}: {error.problem}", error.mend) from None
