"""What a Python source tells without being run: calls, names, plain values, the texts that it prints; pure."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

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
        off: the flag that turns it off, where it has one of its own (``--no-amp``).
        required: whether the script does not run without it.
        place: whether it is given by its place among the words and not by its name.
    """

    name: str
    default: Any = UNKNOWN
    kind: str = ""
    choices: tuple[Any, ...] = ()
    line: int = 0
    help: str = ""
    short: str = ""
    off: str = ""
    required: bool = False
    place: bool = False


def calls_of(tree: ast.AST, name: str) -> list[ast.Call]:
    """Calls of anything that is called so, in the order of the source."""
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and name_of(n.func).rsplit(".", 1)[-1] == name]
    return sorted(found, key=lambda c: (c.lineno, c.col_offset))


def name_of(node: ast.AST | None) -> str:
    """``click.option`` of a name, an attribute or a call of one."""
    if isinstance(node, ast.Call):
        return name_of(node.func)
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


def names_in(tree: ast.AST) -> set[str]:
    """Every name that is used or imported."""
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {a.name for a in node.names}
    return names


def constants_of(tree: ast.Module) -> dict[str, Any]:
    """Module-level names with a plain value, which defaults may refer to."""
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            value = value_of(node.value, found)
            if value is not UNKNOWN:
                found[node.targets[0].id] = value
    return found


def value_of(node: ast.AST | None, constants: Mapping[str, Any]) -> Any:
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
    left, right = value_of(node.left, constants), value_of(node.right, constants)
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


def kind_of(word: str, default: Any) -> str:
    """The kind that a type's name or else the default tells."""
    last = word.rsplit(".", 1)[-1]
    for kind in ("bool", "float", "int", "str"):
        if last == kind or (last in ("floatrange", "intrange") and last.startswith(kind)):
            return kind
    if word and last not in ("", "optional", "any"):
        return "str" if last in ("string", "path", "choice") else "bool" if "bool" in last else ""
    return type(default).__name__ if isinstance(default, bool | int | float | str) else ""


def choices_in(told: str, default: Any) -> tuple[Any, ...]:
    """The values that a help text lists, ``one of sgd|adam|adamw``, where the default is among them."""
    for listed in re.findall(r"[\w.:+-]+(?:\|[\w.:+-]+)+", told):
        values = tuple(dict.fromkeys(listed.split("|")))
        if default in values:
            return values
    return ()


def strings_in(tree: ast.AST) -> Iterator[str]:
    """Every text in it."""
    return (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str))


def printed_by(tree: ast.AST) -> Iterator[str]:
    """What is printed or logged, with a number in every gap."""
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        if name_of(call.func).rsplit(".", 1)[-1] not in (
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


def evaluations(tree: ast.AST, constants: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """``if step % 500 == 0: print(...)``: after how many steps, and what is printed then."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.If):
            continue
        for part in ast.walk(node.test):
            rest = part.left if isinstance(part, ast.Compare) and isinstance(part.ops[0], ast.Eq) else None
            if not isinstance(rest, ast.BinOp) or not isinstance(rest.op, ast.Mod):
                continue
            steps = value_of(rest.right, constants)
            if isinstance(steps, int) and steps > 1:
                yield from ((steps, text) for each in node.body for text in printed_by(each))
