"""The command of a trial: placeholders replaced, everything else appended in the script's own style; pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from luthier.core.errors import UserError, nearest
from luthier.core.params import Config, Value
from luthier.core.space import Space

STYLES: Mapping[str, str] = {
    "argparse": "--key=value, true as the bare flag --key, false and none left out",
    "words": "--key value in two words, true as the bare flag --key, false and none left out",
    "fire": "--key=value with True, False and None, as Fire and nanoGPT's configurator read them",
    "hydra": "key=value with true, false and null",
    "none": "nothing is appended: every hyperparameter needs a placeholder",
}
"""How hyperparameters that no placeholder names reach the script."""

SPECIAL = ("epochs", "max_epochs", "steps", "seed", "out", "trial", "config")
"""Placeholders that are no hyperparameters. A hyperparameter of the same name comes before them."""

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True, slots=True)
class Given:
    """What a command is filled in with.

    Args:
        config: the active hyperparameters.
        inactive: hyperparameters whose conditions do not hold: what names them is left out.
        special: the values of :data:`SPECIAL`, as far as there are any.
    """

    config: Config
    inactive: Collection[str] = ()
    special: Mapping[str, Value] | None = None

    def has(self, name: str) -> bool:
        """Whether a placeholder of that name can be filled in, or is to be left out."""
        return name in self.config or name in self.inactive or name in (self.special or {})

    def __getitem__(self, name: str) -> Value:
        return self.config[name] if name in self.config else (self.special or {})[name]


def split(command: str | Sequence[str]) -> tuple[str, ...]:
    """A command as its words; a string is taken apart as a POSIX shell would, but no shell ever runs it.

    Raises:
        UserError: no word at all, or quotes that do not close.
    """
    if isinstance(command, str):
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise UserError(f"The command {command!r} cannot be read: {error}.", "Close its quotes.") from None
    else:
        words = [str(word) for word in command]
    if not words or not words[0].strip():
        raise UserError("The command of the script is empty.", 'Write "python main.py --lr {learning_rate}".')
    return tuple(words)


def placeholders(text: str) -> list[str]:
    """The names in braces in a word of a command, in their order.

    Raises:
        UserError: a brace that is alone.
    """
    names = []
    for found in _BRACES.finditer(text):
        if found[0] in ("{", "}"):
            raise UserError(
                f"{text!r} has a brace that belongs to no placeholder.", "Write {{ and }} for braces that stay."
            )
        if found[1] is not None:
            names.append(_named(found[1])[0])
    return names


def _named(inside: str) -> tuple[str, str]:
    """Name and format of ``name`` or ``name:.3g``."""
    name, colon, form = inside.rpartition(":")
    return (name, form) if colon and re.fullmatch(r"[-+ 0#,_]*\d*(?:\.\d+)?[defgEG%]?", form) else (inside, "")


def fill(text: str, given: Given, style: str) -> str:
    """``text`` with its placeholders filled in; all of them must have a value."""

    def value(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0][0]
        name, form = _named(found[1])
        held = given[name]
        if form and isinstance(held, int | float):
            return format(held, form)
        return written(held, style)

    return _BRACES.sub(value, text)


def written(value: Value, style: str) -> str:
    """A value as one word of a command."""
    if value is None or isinstance(value, bool):
        word = {None: "None", True: "True", False: "False"}[value]
        return {"None": "null"}.get(word, word.lower()) if style == "hydra" else word
    return repr(value) if isinstance(value, float) else str(value)


def build(words: Sequence[str], given: Given, style: str, elsewhere: Collection[str] = ()) -> list[str]:
    """The words to run: placeholders filled in, and every hyperparameter that none names appended.

    A word whose placeholder is inactive is left out, and with it the option before it: of ``--momentum {momentum}``
    nothing remains.

    Args:
        elsewhere: hyperparameters that reach the script by its configuration file.
    """
    out: list[str] = []
    named: set[str] = set(elsewhere)
    for i, word in enumerate(words):
        names = placeholders(word)
        named.update(names)
        if any(name in given.inactive and name not in given.config for name in names):
            if word == f"{{{names[0]}}}" and i > 0 and _is_option(words[i - 1]):
                out.pop()
            continue
        out.append(fill(word, given, style))
    for name, value in given.config.items():
        if name not in named:
            out += _appended(name, value, style)
    return out


def _is_option(word: str) -> bool:
    return word.startswith("-") and "=" not in word and not placeholders(word)


def _appended(name: str, value: Value, style: str) -> list[str]:
    if style == "hydra":
        return [f"{name}={written(value, style)}"]
    if style == "fire":
        return [f"--{name}={written(value, style)}"]
    if value is True:
        return [f"--{name}"]
    if value is False or value is None:
        return []
    return [f"--{name}", written(value, style)] if style == "words" else [f"--{name}={written(value, style)}"]


def check(
    words: Sequence[str],
    space: Space,
    style: str,
    *,
    special: Iterable[str],
    elsewhere: Collection[str] = (),
    has_template: bool = False,
) -> None:
    """Whether every placeholder has a hyperparameter and every hyperparameter reaches the script.

    Raises:
        UserError: the first that does not.
    """
    known = {*space, *special}
    named = set(elsewhere)
    for word in words:
        for name in placeholders(word):
            if name not in known:
                raise UserError(f"{word!r}: there is no hyperparameter {name!r}.", _mend(name, known))
            named.add(name)
    if has_template and "config" not in named:
        raise UserError(
            "The command never names the configuration file that is written for each trial.",
            "Put {config} where the script expects its path, as in --config {config}.",
        )
    if style == "none":
        lost = [name for name in space if name not in named]
        if lost:
            raise UserError(
                f"{', '.join(map(repr, lost))} would not reach the script: no placeholder names "
                f"{'it' if len(lost) == 1 else 'them'}.",
                f"Write {{{lost[0]}}} into the command, or let --style append what is missing.",
            )


def _mend(name: str, known: Collection[str]) -> str:
    if name == "checkpoint":
        return "{checkpoint} belongs into --resume-flag alone."
    if name == "config":
        return "{config} needs --template FILE."
    if name == "steps":
        return "{steps} needs --steps-per-epoch N."
    return f"{nearest(name, known)} For braces that stay write {{{{ and }}}}."
