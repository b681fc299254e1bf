"""Configurations as users write them: mappings in Python, files and ``NAME=VALUE`` in the terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.core import yamltext
from luthier.core.errors import SpaceError, UserError, nearest
from luthier.core.params import Choice, Config, Float, Int, Value
from luthier.core.space import Space
from luthier.knowledge import asked_config

FILES = (".yaml", ".yml", ".json")


def enqueued(space: Space, given: Sequence[Config]) -> tuple[Config, ...]:
    """The configurations of ``enqueue=``, completed by the strong default.

    Raises:
        UserError: no list, or a configuration that does not lie in ``space``; the message says which.
    """
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        raise UserError(
            f"enqueue= must be a list of configurations, got {given!r}.", "Write enqueue=[{'learning_rate': 0.001}]."
        )
    configs: list[Config] = []
    for number, one in enumerate(given, start=1):
        try:
            configs.append(asked_config(space, one))
        except UserError as error:
            which = f"Configuration {number} of {len(given)} that are enqueued: " if len(given) > 1 else "enqueue: "
            raise UserError(which + error.problem, error.mend) from None
    return tuple(configs)


def read_configs(texts: Iterable[str], space: Space) -> list[Config]:
    """Configurations from the terminal: ``lr=3e-4,optimizer=sgd``, or a YAML or JSON file of one or of a list.

    Raises:
        UserError: text that is neither, a file that cannot be read, a value that is none of its hyperparameter's kind.
    """
    found: list[Config] = []
    for text in texts:
        if not text.lower().endswith(FILES):
            found.append(read_values([text], space))
            continue
        held = _held(Path(text))
        for one in held if isinstance(held, list) else [held]:
            if not isinstance(one, Mapping):
                raise UserError(f"{text} holds {one!r}, which is no configuration.", "Write NAME: VALUE, one a line.")
            found.append({str(n): _value(space, str(n), v) if isinstance(v, str) else v for n, v in one.items()})
    return found


def read_values(texts: Iterable[str], space: Space) -> dict[str, Value]:
    """Values from the terminal, ``NAME=VALUE`` or several with commas between them, as ``space`` has them.

    Raises:
        UserError: another text, a name twice, a value that is none of its hyperparameter's kind.
    """
    values: dict[str, Value] = {}
    for text in texts:
        for part in re.split(r",(?=[^,=]+=)", text):
            name, equals, word = (x.strip() for x in part.partition("="))
            if not equals or not name:
                raise UserError(f"{part!r} gives no hyperparameter a value.", "Write NAME=VALUE, as in optimizer=sgd.")
            if name in values:
                raise UserError(f"{name!r} is given twice.", "Keep one value.")
            values[name] = _value(space, name, word)
    return values


def fixed(space: Space | None, target: Any, texts: Sequence[str]) -> Space | None:
    """``space``, or where it is None what a recipe brings, with the values of ``--fix`` held constant.

    Raises:
        UserError: as :func:`read_values`, and where there is no space.
    """
    if not texts:
        return space
    if space is None and not hasattr(target, "space"):
        raise UserError("--fix holds values of a search space, and there is none.", "Give one: --space FILE.")
    whole = target.space() if space is None else space
    values = read_values(texts, whole)
    try:
        return whole.fix(values)
    except SpaceError as error:
        raise SpaceError(f"--fix {error.problem}", "Choose a value of its range.") from None


def _held(file: Path) -> Any:
    import yaml

    try:
        return yamltext.load(file.read_text(encoding="utf-8"))  # JSON is YAML too
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.", "Name a YAML or JSON file.") from None
    except (UnicodeDecodeError, yaml.YAMLError):
        raise UserError(f"{file} is no YAML.", "Write NAME: VALUE, one a line, as luthier best does.") from None


def _value(space: Space, name: str, word: str) -> Value:
    """What a word means as a value of ``name``."""
    if name not in space:
        raise SpaceError(f"{name!r} is not in the space.", nearest(name, space))
    param = space[name]
    try:
        if isinstance(param, Float):
            return float(word)
        if isinstance(param, Int):
            return int(word)
    except ValueError:
        kind = "a number" if isinstance(param, Float) else "a whole number"
        raise SpaceError(f"{name} must be {kind}, got {word!r}.", "Mend the value.") from None
    known = param.choices if isinstance(param, Choice) else (param.value,)
    return next((v for v in known if word in (str(v), json.dumps(v))), _scalar(word))


def _scalar(word: str) -> Value:
    """A word that names no value of its hyperparameter: a number or another constant of JSON, else the word itself."""
    try:
        value = json.loads(word)
    except ValueError:
        return word
    return value if isinstance(value, int | float | None) else word
