"""Spaces from classes with annotated fields, and objects of such a class from configurations.

>>> @dataclass
... class Config:
...     learning_rate: Annotated[float, Float(1e-5, 1e-1, log=True)] = 1e-3
...     optimizer: Literal["adamw", "sgd"] = "adamw"
...     folder: str = "data"
>>> space = Space.from_config(Config)
>>> typed(Config, {"learning_rate": 0.01, "optimizer": "sgd"})
Config(learning_rate=0.01, optimizer='sgd', folder='data')

Dataclasses and pydantic models (by their ``model_fields``; pydantic is not imported). Fields that are such classes
themselves give names with a dot, ``optimizer.momentum``.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from luthier.core.errors import SpaceError, UserError, nearest
from luthier.core.params import Choice, Config, Constant, Float, Int, Param, Value
from luthier.core.space import Space

T = TypeVar("T")
PARAMS = (Float, Int, Choice, Constant)


@dataclasses.dataclass(frozen=True, slots=True)
class _Field:
    """A field of a class: its type without ``Annotated``, what the annotation holds, and its default."""

    name: str
    kind: Any
    param: Param | None
    required: bool
    default: Any

    @property
    def members(self) -> tuple[Any, ...]:
        """The types of a union, else the type itself."""
        union = get_origin(self.kind) in (typing.Union, types.UnionType)
        return get_args(self.kind) if union else (self.kind,)

    @property
    def variants(self) -> dict[str | None, Any]:
        """By name the classes of a union that are searched one by one; empty for any other field."""
        members = self.members
        if len(members) < 2 or not all(m is type(None) or _is_config(m) for m in members):
            return {}
        return {None if m is type(None) else m.__name__: m for m in members}


def space_from(cls: type) -> Space:
    """The search space that the fields of a dataclass or a pydantic model describe.

    - ``Annotated[float, Float(...)]``, and so with Int, Choice and Constant: as it says. The field's default becomes
      the hyperparameter's, unless that has one.
    - ``Literal["a", "b"]``: a Choice; ``bool``: a Choice of True and False; an ``Enum``: a Choice of its values.
      ``Annotated[bool, Constant(False)]`` keeps one out of the search.
    - another dataclass or model: its fields, as ``field.name``; a condition on one of its own fields by its plain name.
    - a union of them: a Choice of their names, with ``field.Class.name`` for what each has.
    - everything else is left out, and keeps its default.

    Raises:
        SpaceError: no class with fields; a default out of its range; a field with a condition and without a default;
            a type that cannot be found by its name; nothing to search.
    """
    params = dict(_params(cls, ""))
    if not params:
        raise SpaceError(
            f"{cls.__name__} has no field to search.",
            "Annotate one: learning_rate: Annotated[float, lt.Float(1e-5, 1e-1, log=True)] = 1e-3.",
        )
    return Space(params)


def typed(cls: type[T], config: Config, **given: Any) -> T:
    """An object of ``cls`` with the values of a configuration.

    Args:
        cls: the class that the space came from.
        config: by the names of :func:`space_from`; what is not active in it takes the field's default.
        given: values of fields that are not searched.

    Raises:
        UserError: a name that the class does not have, or a field without a value.
    """
    used: set[str] = set()
    made = _build(cls, config, "", given, used)
    unknown = [name for name in config if name not in used]
    if unknown:
        known = {name for name, _ in _params(cls, "")}
        raise UserError(f"{cls.__name__} has no field for {unknown[0]!r}.", nearest(unknown[0], known))
    return typing.cast(T, made)


# -- reading a class ---------------------------------------------------------------------------------------------------


def _is_config(cls: Any) -> bool:
    return isinstance(cls, type) and (dataclasses.is_dataclass(cls) or hasattr(cls, "model_fields"))


def _fields(cls: Any) -> list[_Field]:
    if not _is_config(cls):
        what = cls.__name__ if isinstance(cls, type) else repr(cls)
        raise SpaceError(f"{what} is neither a dataclass nor a pydantic model.", "Decorate it with @dataclass.")
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise SpaceError(
            f"A type of {cls.__name__} cannot be found: {error}.",
            "Define the class, and those of its fields, at the top of a module.",
        ) from None
    return [_field(name, hints[name], required, default) for name, required, default in _defaults(cls)]


def _defaults(cls: Any) -> Iterator[tuple[str, bool, Any]]:
    """Name, whether a value is required, and the default of each field that the constructor takes."""
    if hasattr(cls, "model_fields"):
        for name, info in cls.model_fields.items():
            required = info.is_required()
            yield name, required, None if required else info.get_default(call_default_factory=True)
        return
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        missing = dataclasses.MISSING
        if field.default_factory is not missing:
            yield field.name, False, field.default_factory()
        else:
            yield field.name, field.default is missing, None if field.default is missing else field.default


def _field(name: str, hint: Any, required: bool, default: Any) -> _Field:
    param = None
    while get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        param = next((e for e in extras if isinstance(e, PARAMS)), param)
    return _Field(name, hint, param, required, default)


# -- class to space ----------------------------------------------------------------------------------------------------


def _params(cls: Any, prefix: str, when: Mapping[str, Any] | None = None) -> Iterator[tuple[str, Param]]:
    fields = _fields(cls)
    siblings = {f.name for f in fields}
    for field in fields:
        name = prefix + field.name
        variants = field.variants
        if variants and field.param is None:
            yield name, _choice(list(variants), _variant_of(field.default, variants), when)
            for label, variant in variants.items():
                if label is not None:
                    yield from _params(variant, f"{name}.{label}.", {**(when or {}), name: label})
        elif _is_config(field.kind) and field.param is None:
            yield from _params(field.kind, f"{name}.", when)
        else:
            param = field.param or _implied(field)
            if param is not None:
                yield name, _placed(name, param, field, prefix, siblings, when)


def _implied(field: _Field) -> Param | None:
    """What a type says by itself."""
    if get_origin(field.kind) is Literal:
        return Choice(*get_args(field.kind))
    if field.kind is bool:
        return Choice(True, False)
    if isinstance(field.kind, type) and issubclass(field.kind, Enum):
        return Choice(*(member.value for member in field.kind))
    return None


def _placed(
    name: str, param: Param, field: _Field, prefix: str, siblings: set[str], when: Mapping[str, Any] | None
) -> Param:
    """``param`` with the field's default, and its conditions under their full names beside those of its class."""
    own = {prefix + k if k in siblings else k: v for k, v in (param.when or {}).items()}
    if own and field.required:
        raise SpaceError(
            f"{name!r} is not always active ({', '.join(own)}) and has no default.", "Give the field a default."
        )
    changes: dict[str, Any] = {"when": {**(when or {}), **own}}
    default = field.default.value if isinstance(field.default, Enum) else field.default
    if isinstance(param, Float) and param.follows is not None:
        follows, by = param.follows, param.follows.by
        changes["follows"] = dataclasses.replace(
            follows,
            name=prefix + follows.name if follows.name in siblings else follows.name,
            by=prefix + by if by in siblings else by,
        )
    if not isinstance(param, Constant) and param.default is None and default is not None:
        changes["default"] = default
    try:
        return _changed(param, changes)
    except SpaceError as error:
        raise SpaceError(f"{name}: {error.problem}", error.mend or "Mend the field's default or its range.") from None


def _changed(param: Param, changes: Mapping[str, Any]) -> Param:
    if isinstance(param, Choice):
        return Choice(*param.choices, **{"role": param.role, "default": param.default, **changes})
    return dataclasses.replace(param, **changes)


def _choice(labels: list[Any], default: Any, when: Mapping[str, Any] | None) -> Choice:
    return Choice(*labels, when=when, default=default)


def _variant_of(default: Any, variants: Mapping[str | None, Any]) -> str | None:
    return next((label for label, cls in variants.items() if label is not None and type(default) is cls), None)


# -- configuration to object -------------------------------------------------------------------------------------------


def _build(cls: Any, config: Config, prefix: str, given: Mapping[str, Any], used: set[str]) -> Any:
    values: dict[str, Any] = {}
    fields = _fields(cls)
    for key in given:
        if key not in {f.name for f in fields}:
            raise UserError(f"{cls.__name__} has no field {key!r}.", nearest(key, [f.name for f in fields]))
    for field in fields:
        name = prefix + field.name
        variants = field.variants
        if field.name in given:
            values[field.name] = given[field.name]
            used |= {n for n in config if n == name or n.startswith(f"{name}.")}
        elif variants and field.param is None and name in config:
            used.add(name)
            variant = variants[typing.cast("str | None", config[name])]
            made = None if config[name] is None else _build(variant, config, f"{name}.{config[name]}.", {}, used)
            values[field.name] = made
        elif _is_config(field.kind) and field.param is None:
            values[field.name] = _build(field.kind, config, f"{name}.", {}, used)
        elif name in config:
            used.add(name)
            values[field.name] = _value(field, config[name])
        elif field.required:
            raise UserError(
                f"{cls.__name__} needs a value for {field.name!r}, which is not searched and has no default.",
                f"Give it one: typed({cls.__name__}, {field.name}=...).",
            )
    return cls(**values)


def _value(field: _Field, value: Value) -> Any:
    for kind in field.members:
        if isinstance(kind, type) and issubclass(kind, Enum) and value is not None:
            return kind(value)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
    return value
