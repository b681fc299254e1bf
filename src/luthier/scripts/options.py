"""The options of a training script, read from its source and never by running it.

Known are argparse (``add_argument``), click (``option``), dataclasses (as ``HfArgumentParser`` and others read them),
the arguments of the function that ``fire.Fire`` gets, Hydra's configuration file, and globals that a configurator
overrides, as in nanoGPT.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.core.errors import UserError, nearest

UNKNOWN = object()
"""A value that the source does not tell."""


@dataclass(frozen=True, slots=True)
class Option:
    """Something of a script that can be set from outside.

    Args:
        name: as it is written on the command line, without dashes in front.
        default: its value; :data:`UNKNOWN` where the source does not tell.
        kind: ``float``, ``int``, ``bool``, ``str``, or "" where nothing tells.
        choices: the values that it may have, where they are named.
        line: where it is defined.
        help: what the script says of it.
        short: its only flag, where that is a short one (``-b``).
    """

    name: str
    default: Any = UNKNOWN
    kind: str = ""
    choices: tuple[Any, ...] = ()
    line: int = 0
    help: str = ""
    short: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What a script's source tells.

    Args:
        path: the script.
        options: in the order in which they are defined, each name once.
        style: how its options are given, see :data:`luthier.scripts.command.STYLES`.
        printed: the texts that it prints, numbers in place of what is filled in.
    """

    path: Path
    options: tuple[Option, ...]
    style: str = "argparse"
    printed: tuple[str, ...] = field(default=(), repr=False)


def read_script(path: Path) -> Found:
    """The options in a script's source.

    Raises:
        UserError: the file cannot be read, is no Python, or has no options.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise UserError(
            f"There is no script {str(path)!r}.", nearest(path.name, beside[:50]) or "Check the path."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}.", "Name a Python file.") from None
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise UserError(f"{path} is no Python: {error.msg} (line {error.lineno}).", "Name a Python file.") from None
    constants = _constants(tree)
    for style, options in (
        ("argparse", _argparse(tree, constants)),
        ("argparse", _click(tree, constants)),
        ("argparse", _dataclasses(tree, constants)),
        ("fire", _fire(tree, constants)),
        ("hydra", _hydra(tree, path)),
        ("fire", _globals(tree)),
    ):
        if options:
            unique = {o.name: o for o in reversed(options)}
            ordered = tuple(o for o in options if unique.pop(o.name, None) is not None)
            return Found(path, ordered, style, tuple(_printed(tree)))
    raise UserError(
        f"{path} has no options that could be read.",
        "Known are argparse, click, dataclasses, Fire, Hydra and nanoGPT's globals; or write space.yaml by hand.",
    )


# -- each kind ---------------------------------------------------------------------------------------------------------


def _argparse(tree: ast.Module, constants: Mapping[str, Any]) -> list[Option]:
    options = []
    for call in _calls(tree, "add_argument"):
        flags = [f for f in (_value(a, constants) for a in call.args) if isinstance(f, str)]
        if not flags or not flags[0].startswith("-"):
            continue  # a positional argument is the user's own: a path, a data set
        long = next((f for f in flags if f.startswith("--")), "")
        words = {k.arg: k.value for k in call.keywords if k.arg}
        action = _value(words.get("action"), constants)
        default = _value(words["default"], constants) if "default" in words else None
        if action in ("store_true", "store_false"):
            kind, default = "bool", action == "store_false" if default is None else default
        elif _named(words.get("action")).endswith("BooleanOptionalAction"):
            kind = "bool"
        else:
            kind = _kind(_named(words.get("type")), default)
        if action not in (None, "store", "store_true", "store_false", UNKNOWN):
            continue  # version, append, count
        choices = _value(words.get("choices"), constants)
        options.append(
            Option(
                (long or flags[0]).lstrip("-"),
                UNKNOWN if default is None else default,
                kind,
                tuple(choices) if isinstance(choices, list | tuple | range | set) else (),
                call.lineno,
                str(h) if isinstance(h := _value(words.get("help"), constants), str) else "",
                "" if long else flags[0],
            )
        )
    return options


def _click(tree: ast.Module, constants: Mapping[str, Any]) -> list[Option]:
    options = []
    for call in _calls(tree, "option"):
        flags = [f for f in (_value(a, constants) for a in call.args) if isinstance(f, str)]
        long = next((f for f in flags if f.startswith("--")), "")
        if not long:
            continue
        words = {k.arg: k.value for k in call.keywords if k.arg}
        default = _value(words["default"], constants) if "default" in words else UNKNOWN
        kind, choices = _named(words.get("type")), ()
        if isinstance(words.get("type"), ast.Call) and kind.endswith("Choice"):
            listed = _value(words["type"].args[0], constants) if words["type"].args else ()  # type: ignore[attr-defined]
            choices = tuple(listed) if isinstance(listed, list | tuple) else ()
        flag = _value(words.get("is_flag"), constants) is True or "/" in long
        if flag and default is UNKNOWN:
            default = False
        name = long.split("/")[0].lstrip("-")
        told = _value(words.get("help"), constants)
        options.append(
            Option(
                name,
                default,
                "bool" if flag else _kind(kind.lower(), default),
                choices,
                call.lineno,
                told if isinstance(told, str) else "",
            )
        )
    return options


def _dataclasses(tree: ast.Module, constants: Mapping[str, Any]) -> list[Option]:
    """The fields of dataclasses, where something makes options of them."""
    if not any(re.search(r"ArgumentParser|simple_parsing|tyro|draccus|pyrallis|chz", n) for n in _names(tree)):
        return []
    options = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any("dataclass" in _named(d) for d in node.decorator_list):
            own = (each for each in node.body if isinstance(each, ast.AnnAssign))
            options += [_field(each, constants) for each in own if isinstance(each.target, ast.Name)]
    return options


def _field(node: ast.AnnAssign, constants: Mapping[str, Any]) -> Option:
    value, told = node.value, ""
    if isinstance(value, ast.Call):
        words = {k.arg: k.value for k in value.keywords if k.arg}
        about = _value(words.get("metadata"), constants)
        told = str(about.get("help", "")) if isinstance(about, dict) else ""
        value = words.get("default")
    default = _value(value, constants) if value is not None else UNKNOWN
    name = node.target.id if isinstance(node.target, ast.Name) else ""
    note = ast.unparse(node.annotation)
    choices: tuple[Any, ...] = ()
    if (literal := re.search(r"Literal\[(.*)\]", note)) is not None:
        listed = _value(ast.parse(f"({literal[1]},)", mode="eval").body, constants)
        choices = tuple(listed) if isinstance(listed, tuple) else ()
    kind = next((k for k in ("bool", "int", "float", "str") if re.search(rf"\b{k}\b", note)), "")
    return Option(name, default, _kind(kind, default), choices, node.lineno, told)


def _fire(tree: ast.Module, constants: Mapping[str, Any]) -> list[Option]:
    """The arguments of the function that is given to ``Fire``."""
    names = {a.id for call in _calls(tree, "Fire") for a in call.args if isinstance(a, ast.Name)}
    options = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in names:
            given = node.args.args[len(node.args.args) - len(node.args.defaults) :]
            pairs = [*zip(given, node.args.defaults), *zip(node.args.kwonlyargs, node.args.kw_defaults)]
            for argument, value in pairs:
                default = _value(value, constants) if value is not None else UNKNOWN
                note = ast.unparse(argument.annotation) if argument.annotation is not None else ""
                options.append(Option(argument.arg, default, _kind(note, default), line=argument.lineno))
    return options


def _hydra(tree: ast.Module, path: Path) -> list[Option]:
    """The values in the configuration file that ``@hydra.main`` names."""
    for node in ast.walk(tree):
        for decorator in getattr(node, "decorator_list", []):
            if not isinstance(decorator, ast.Call) or _named(decorator) != "hydra.main":
                continue
            words = {k.arg: _value(k.value, {}) for k in decorator.keywords if k.arg}
            name = str(words.get("config_name", "config")).removesuffix(".yaml")
            file = path.parent / str(words.get("config_path") or ".") / f"{name}.yaml"
            if file.is_file():
                import yaml

                try:
                    data = yaml.safe_load(file.read_text(encoding="utf-8"))
                except yaml.YAMLError as error:
                    raise UserError(f"{file} cannot be read: {error}.", "Mend it.") from None
                return [Option(n, v, _kind("", v)) for n, v in _flat(data) if not n.startswith(("hydra.", "defaults"))]
    return []


def _flat(data: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items() if isinstance(data, dict) else ():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is None or isinstance(value, bool | int | float | str):
            # YAML 1.1 reads 1e-3 as text.
            text = isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value)
            yield f"{prefix}{key}", float(str(value)) if text else value


def _globals(tree: ast.Module) -> list[Option]:
    """Module-level settings, where a configurator is executed that overrides them."""
    if "configurator" not in "".join(_strings(tree)):
        return []
    options = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name, value = node.targets[0].id, _value(node.value, {})
            if not name.startswith("_") and isinstance(value, bool | int | float | str):
                options.append(Option(name, value, type(value).__name__, line=node.lineno))
    return options


# -- parts -------------------------------------------------------------------------------------------------------------


def _calls(tree: ast.AST, name: str) -> list[ast.Call]:
    """Calls of anything that is called so, in the order of the source."""
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and _named(n.func).rsplit(".", 1)[-1] == name]
    return sorted(found, key=lambda c: (c.lineno, c.col_offset))


def _named(node: ast.AST | None) -> str:
    """``click.option`` of a name, an attribute or a call of one."""
    if isinstance(node, ast.Call):
        return _named(node.func)
    if isinstance(node, ast.Attribute):
        return f"{_named(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


def _names(tree: ast.AST) -> set[str]:
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {a.name for a in node.names}
    return names


def _constants(tree: ast.Module) -> dict[str, Any]:
    """Module-level names with a plain value, which defaults may refer to."""
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            value = _value(node.value, found)
            if value is not UNKNOWN:
                found[node.targets[0].id] = value
    return found


def _value(node: ast.AST | None, constants: Mapping[str, Any]) -> Any:
    """The value of an expression without calls; None for none, :data:`UNKNOWN` where only running would tell."""
    if node is None:
        return None
    if isinstance(node, ast.Name):
        return constants.get(node.id, UNKNOWN)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Pow | ast.Div | ast.Add | ast.Sub):
        return _computed(node, constants)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return UNKNOWN


def _computed(node: ast.BinOp, constants: Mapping[str, Any]) -> Any:
    """``5 * 8`` and ``2**-4``; nothing that could grow beyond a number."""
    left, right = _value(node.left, constants), _value(node.right, constants)
    if not all(isinstance(x, int | float) and not isinstance(x, bool) and abs(x) < 1e9 for x in (left, right)):
        return UNKNOWN
    try:
        if isinstance(node.op, ast.Pow):
            return left**right if abs(right) <= 64 else UNKNOWN
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Div):
            return left / right
        return left + right if isinstance(node.op, ast.Add) else left - right
    except (ArithmeticError, ValueError):
        return UNKNOWN


def _kind(word: str, default: Any) -> str:
    """The kind that a type's name or else the default tells."""
    last = word.rsplit(".", 1)[-1]
    for kind in ("bool", "float", "int", "str"):
        if last == kind or (last in ("floatrange", "intrange") and last.startswith(kind)):
            return kind
    if word and last not in ("", "optional", "any"):
        return "str" if last in ("string", "path", "choice") else "bool" if "bool" in last else ""
    return type(default).__name__ if isinstance(default, bool | int | float | str) else ""


def _strings(tree: ast.AST) -> Iterator[str]:
    return (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str))


def _printed(tree: ast.AST) -> Iterator[str]:
    """What is printed or logged, with a number in every gap."""
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        if _named(call.func).rsplit(".", 1)[-1] not in (
            "print",
            "info",
            "write",
            "log",
            "set_postfix_str",
            "tqdm_write",
        ):
            continue
        yield " ".join(_gapless(a) for a in call.args)


def _gapless(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        text = str(node.value) if isinstance(node.value, str) else "1"
        return re.sub(r"\{[^{}]*\}", "1", re.sub(r"%[-+ 0#]*\d*(?:\.\d+)?[dfegs]", "1", text)).replace("%%", "%")
    if isinstance(node, ast.JoinedStr):
        return "".join("1" if isinstance(v, ast.FormattedValue) else _gapless(v) for v in node.values)
    if isinstance(node, ast.BinOp):
        return _gapless(node.left) + (_gapless(node.right) if isinstance(node.op, ast.Add) else "")
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        return _gapless(node.func.value)
    return "1"
