"""The options of a script that typer reads off the arguments of its functions."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from luthier.scripts.source import UNKNOWN, Option, choices_in, kind_of, name_of, names_in, value_of


def typer_options(tree: ast.Module, constants: Mapping[str, Any]) -> tuple[str, list[Option]]:
    """The options of its command, and the word that chooses the command where there are several.

    Of several commands the one with the most options is meant: that trains.
    """
    if not names_in(tree) & {"typer", "Typer"}:
        return "", []
    functions = {n.name: n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    found: dict[str, list[Option]] = {}
    chosen = False  # whether the command has to be named
    for name, function in functions.items():
        for word in function.decorator_list:
            chosen |= name_of(word).endswith(".callback")
            if name_of(word).endswith(".command"):
                called = value_of(word.args[0], constants) if isinstance(word, ast.Call) and word.args else None
                found[called if isinstance(called, str) else name.replace("_", "-")] = _options(
                    tree, function, constants
                )
    if not found:  # typer.run(main)
        runs = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and name_of(n.func) in ("typer.run", "run")]
        given = [a.id for call in runs for a in call.args if isinstance(a, ast.Name) and a.id in functions]
        return "", _options(tree, functions[given[0]], constants) if given else []
    best = max(found, key=lambda name: sum(not option.place for option in found[name]))
    return best if chosen or len(found) > 1 else "", found[best]


def _options(tree: ast.Module, function: ast.FunctionDef, constants: Mapping[str, Any]) -> list[Option]:
    given = function.args
    blank: list[ast.expr | None] = [None] * (len(given.args) - len(given.defaults))
    pairs = [*zip(given.args, [*blank, *given.defaults]), *zip(given.kwonlyargs, given.kw_defaults)]
    read = [_option(tree, argument, default, constants) for argument, default in pairs]
    return [option for option in read if option is not None]


def _option(tree: ast.Module, argument: ast.arg, given: ast.expr | None, constants: Mapping[str, Any]) -> Option | None:
    """What typer makes of an argument; None for its own context."""
    note, about = _annotated(argument.annotation)
    if isinstance(given, ast.Call) and name_of(given) in ("typer.Option", "Option", "typer.Argument", "Argument"):
        about = given
        given = given.args[0] if given.args else next((k.value for k in given.keywords if k.arg == "default"), None)
        flags = about.args[1:]
    else:
        flags = about.args if about is not None else []
    if _plain_type(note).endswith("Context"):
        return None
    made = about is not None and any(k.arg == "default_factory" for k in about.keywords)
    needed = (given is None and not made) or value_of(given, constants) is Ellipsis
    if name_of(about).endswith("Argument") or (given is None and about is None):
        # It has a place, and no name: the user's own, a path or a data set.
        return Option(argument.arg, line=argument.lineno, required=needed, place=True)
    default = value_of(given, constants) if given is not None else UNKNOWN
    names = [f for f in (value_of(a, constants) for a in flags) if isinstance(f, str)]
    words = {k.arg: value_of(k.value, constants) for k in about.keywords if k.arg} if about is not None else {}
    long = next((f for f in names if f.startswith("--")), "")
    told = words.get("help") if isinstance(words.get("help"), str) else ""
    listed, members = _choices(tree, note, given, constants)
    if isinstance(given, ast.Attribute) and given.attr in members:
        default = members[given.attr]  # Kind.adam of an Enum
    default = UNKNOWN if default in (None, Ellipsis) else default
    kind = kind_of(_plain_type(note), default)
    own = f"--{argument.arg.replace('_', '-')}"
    on, _, off = (long or own).partition("/")
    if kind == "bool" and not long:
        off = f"--no-{own[2:]}"
    short = "" if long or not names else names[0]
    return Option(on.strip().lstrip("-") if not short else short.lstrip("-"), default, kind,
                  listed or choices_in(str(told), default), argument.lineno, str(told), short, off.strip(),
                  required=needed)  # fmt: skip


def _annotated(note: ast.expr | None) -> tuple[ast.expr | None, ast.Call | None]:
    """``Annotated[float, typer.Option(...)]`` as its type and the call."""
    if not isinstance(note, ast.Subscript) or not name_of(note.value).endswith("Annotated"):
        return note, None
    parts = note.slice.elts if isinstance(note.slice, ast.Tuple) else [note.slice]
    made = (p for p in parts[1:] if isinstance(p, ast.Call))
    return parts[0], next((call for call in made if name_of(call).endswith(("Option", "Argument"))), None)


def _plain_type(note: ast.expr | None) -> str:
    """``float`` of ``float``, ``Optional[float]`` and ``float | None``."""
    if isinstance(note, ast.Subscript) and name_of(note.value).endswith("Optional"):
        return _plain_type(note.slice)
    if isinstance(note, ast.BinOp):
        return _plain_type(note.left)
    return name_of(note)


def _choices(
    tree: ast.Module, note: ast.expr | None, given: ast.expr | None, constants: Mapping[str, Any]
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """The values of a ``Literal``, or of an ``Enum`` of this file, and what the latter's members are called."""
    if isinstance(note, ast.Subscript) and name_of(note.value).endswith("Literal"):
        listed = value_of(note.slice, constants)
        return (listed if isinstance(listed, tuple) else (listed,)), {}
    name = _plain_type(note)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ClassDef)
            and node.name == name
            and any(name_of(b).endswith("Enum") for b in node.bases)
        ):
            members = {
                each.targets[0].id: value_of(each.value, constants)
                for each in node.body
                if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name)
            }
            return tuple(members.values()), members
    return (), {}
