"""The options of a training script, read from its source and never by running it.

Known are argparse (``add_argument``), click (``option``), typer's commands, dataclasses (as ``HfArgumentParser`` and
others read them), the arguments of the function that ``fire.Fire`` gets, Hydra's configuration file, and globals that
a configurator overrides, as in nanoGPT.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.core.errors import UserError, nearest
from luthier.scripts.source import (
    UNKNOWN,
    Option,
    calls_of,
    choices_in,
    constants_of,
    evaluations,
    kind_of,
    name_of,
    names_in,
    printed_by,
    strings_in,
    value_of,
)
from luthier.scripts.typer_options import typer_options


@dataclass(frozen=True, slots=True)
class Found:
    """What a script's source tells.

    Args:
        path: the script.
        options: in the order in which they are defined, each name once.
        style: how its options are given, see :data:`luthier.scripts.command.STYLES`.
        printed: the texts that it prints, numbers in place of what is filled in.
        evaluated: after how many steps it evaluates, with what it prints then, where it says ``step % 500 == 0``.
        command: the word that chooses this command, where the script has several.
        arguments: what it must be given by its place, in their order.
    """

    path: Path
    options: tuple[Option, ...]
    style: str = "argparse"
    printed: tuple[str, ...] = field(default=(), repr=False)
    evaluated: tuple[tuple[int, str], ...] = field(default=(), repr=False)
    command: str = ""
    arguments: tuple[str, ...] = ()


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
    constants = constants_of(tree)
    command, typed = typer_options(tree, constants)
    for style, options in (
        ("argparse", _argparse(tree, constants)),
        ("argparse", _click(tree, constants)),
        ("argparse", typed),
        ("argparse", _dataclasses(tree, constants)),
        ("fire", _fire(tree, constants)),
        ("hydra", _hydra(tree, path)),
        ("fire", _globals(tree)),
    ):
        if any(not o.place for o in options):
            unique = {o.name: o for o in reversed(options)}
            ordered = [o for o in options if unique.pop(o.name, None) is not None]
            return Found(
                path,
                tuple(o for o in ordered if not o.place),
                style,
                tuple(printed_by(tree)),
                tuple(evaluations(tree, constants)),
                command if options is typed else "",
                tuple(o.name for o in ordered if o.place and o.required),
            )
    raise UserError(
        f"{path} has no options that could be read.",
        "Known are argparse, click, typer, dataclasses, Fire, Hydra and nanoGPT's globals. Else write space.yaml by "
        "hand, a line for each option such as lr: {type: float, low: 1e-5, high: 0.1, log: true} (docs/scripts.md).",
    )


# -- each kind ---------------------------------------------------------------------------------------------------------


def _argparse(tree: ast.Module, constants: Mapping[str, Any]) -> list[Option]:
    options = []
    for call in calls_of(tree, "add_argument"):
        flags = [f for f in (value_of(a, constants) for a in call.args) if isinstance(f, str)]
        if not flags:
            continue
        long = next((f for f in flags if f.startswith("--")), "")
        words = {k.arg: k.value for k in call.keywords if k.arg}
        if not flags[0].startswith("-"):  # the user's own: a path, a data set
            needed = value_of(words.get("nargs"), constants) in (None, "+") and "default" not in words
            options.append(Option(flags[0], line=call.lineno, required=needed, place=True))
            continue
        action = value_of(words.get("action"), constants)
        default = value_of(words["default"], constants) if "default" in words else None
        pair = False
        if action in ("store_true", "store_false"):
            kind, default = "bool", action == "store_false" if default is None else default
        elif pair := name_of(words.get("action")).endswith("BooleanOptionalAction"):
            kind = "bool"
        else:
            kind = kind_of(name_of(words.get("type")), default)
        if action not in (None, "store", "store_true", "store_false", UNKNOWN):
            continue  # version, append, count
        choices = value_of(words.get("choices"), constants)
        told = str(h) if isinstance(h := value_of(words.get("help"), constants), str) else ""
        options.append(
            Option(
                (long or flags[0]).lstrip("-"),
                UNKNOWN if default is None else default,
                kind,
                tuple(choices) if isinstance(choices, list | tuple | range | set) else choices_in(told, default),
                call.lineno,
                told,
                "" if long else flags[0],
                f"--no-{long[2:]}" if pair else "",
                required=value_of(words.get("required"), constants) is True,
            )
        )
    return options


def _click(tree: ast.Module, constants: Mapping[str, Any]) -> list[Option]:
    options = [o for o in (_click_argument(call, constants) for call in calls_of(tree, "argument")) if o is not None]
    for call in calls_of(tree, "option"):
        flags = [f for f in (value_of(a, constants) for a in call.args) if isinstance(f, str)]
        long = next((f for f in flags if f.startswith("--")), "")
        if not long:
            continue
        words = {k.arg: k.value for k in call.keywords if k.arg}
        default = value_of(words["default"], constants) if "default" in words else UNKNOWN
        kind, choices = name_of(words.get("type")), ()
        if isinstance(words.get("type"), ast.Call) and kind.endswith("Choice"):
            listed = value_of(words["type"].args[0], constants) if words["type"].args else ()  # type: ignore[attr-defined]
            choices = tuple(listed) if isinstance(listed, list | tuple) else ()
        flag = value_of(words.get("is_flag"), constants) is True or "/" in long
        if flag and default is UNKNOWN:
            default = False
        on, _, off = long.partition("/")
        told = value_of(words.get("help"), constants)
        options.append(
            Option(
                on.strip().lstrip("-"),
                default,
                "bool" if flag else kind_of(kind.lower(), default),
                choices,
                call.lineno,
                told if isinstance(told, str) else "",
                off=off.strip(),
                required=value_of(words.get("required"), constants) is True,
            )
        )
    return options


def _click_argument(call: ast.Call, constants: Mapping[str, Any]) -> Option | None:
    name = value_of(call.args[0], constants) if call.args else None
    words = {k.arg: value_of(k.value, constants) for k in call.keywords if k.arg}
    needed = words.get("required", True) is True and "default" not in words and words.get("nargs") != -1
    return Option(name, line=call.lineno, required=needed, place=True) if isinstance(name, str) else None


def _dataclasses(tree: ast.Module, constants: Mapping[str, Any]) -> list[Option]:
    """The fields of dataclasses, where something makes options of them."""
    if not any(re.search(r"ArgumentParser|simple_parsing|tyro|draccus|pyrallis|chz", n) for n in names_in(tree)):
        return []
    options = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any("dataclass" in name_of(d) for d in node.decorator_list):
            own = (each for each in node.body if isinstance(each, ast.AnnAssign))
            options += [_field(each, constants) for each in own if isinstance(each.target, ast.Name)]
    return options


def _field(node: ast.AnnAssign, constants: Mapping[str, Any]) -> Option:
    value, told = node.value, ""
    if isinstance(value, ast.Call):
        words = {k.arg: k.value for k in value.keywords if k.arg}
        about = value_of(words.get("metadata"), constants)
        told = str(about.get("help", "")) if isinstance(about, dict) else ""
        value = words.get("default")
    default = value_of(value, constants) if value is not None else UNKNOWN
    name = node.target.id if isinstance(node.target, ast.Name) else ""
    note = ast.unparse(node.annotation)
    choices: tuple[Any, ...] = ()
    if (literal := re.search(r"Literal\[(.*)\]", note)) is not None:
        listed = value_of(ast.parse(f"({literal[1]},)", mode="eval").body, constants)
        choices = tuple(listed) if isinstance(listed, tuple) else ()
    kind = next((k for k in ("bool", "int", "float", "str") if re.search(rf"\b{k}\b", note)), "")
    # A field of another type is no option by itself: a dataclass within this one, say.
    needed = node.value is None and (kind in ("int", "float", "str") or bool(choices))
    return Option(name, default, kind_of(kind, default), choices, node.lineno, told, required=needed)


def _fire(tree: ast.Module, constants: Mapping[str, Any]) -> list[Option]:
    """The arguments of the function that is given to ``Fire``."""
    names = {a.id for call in calls_of(tree, "Fire") for a in call.args if isinstance(a, ast.Name)}
    options = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in names:
            without = len(node.args.args) - len(node.args.defaults)
            options += [Option(a.arg, line=a.lineno, required=True, place=True) for a in node.args.args[:without]]
            given = node.args.args[without:]
            pairs = [*zip(given, node.args.defaults), *zip(node.args.kwonlyargs, node.args.kw_defaults)]
            for argument, value in pairs:
                default = value_of(value, constants) if value is not None else UNKNOWN
                note = ast.unparse(argument.annotation) if argument.annotation is not None else ""
                kind = kind_of(note, default)
                options.append(Option(argument.arg, default, kind, line=argument.lineno, required=value is None))
    return options


def _hydra(tree: ast.Module, path: Path) -> list[Option]:
    """The values in the configuration file that ``@hydra.main`` names."""
    for node in ast.walk(tree):
        for decorator in getattr(node, "decorator_list", []):
            if not isinstance(decorator, ast.Call) or name_of(decorator) != "hydra.main":
                continue
            words = {k.arg: value_of(k.value, {}) for k in decorator.keywords if k.arg}
            name = str(words.get("config_name", "config")).removesuffix(".yaml")
            file = path.parent / str(words.get("config_path") or ".") / f"{name}.yaml"
            if file.is_file():
                import yaml

                try:
                    data = yaml.safe_load(file.read_text(encoding="utf-8"))
                except yaml.YAMLError as error:
                    raise UserError(f"{file} cannot be read: {error}.", "Mend it.") from None
                return [
                    Option(n, required=True) if v == "???" else Option(n, v, kind_of("", v))
                    for n, v in _flat(data)
                    if not n.startswith(("hydra.", "defaults"))
                ]
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
    if "configurator" not in "".join(strings_in(tree)):
        return []
    options = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name, value = node.targets[0].id, value_of(node.value, {})
            if not name.startswith("_") and isinstance(value, bool | int | float | str):
                options.append(Option(name, value, type(value).__name__, line=node.lineno))
    return options
