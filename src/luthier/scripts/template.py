"""The configuration file of a trial, made from the user's own: placeholders filled in, or its keys overridden; pure."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from luthier.core.errors import UserError
from luthier.core.params import Value
from luthier.scripts.command import Given

DATA = (".yaml", ".yml", ".json")
"""Files whose keys can be overridden; in any other kind placeholders alone are filled in."""


@dataclass(frozen=True, slots=True)
class Template:
    """A configuration file as text.

    Args:
        name: the file's name; its ending says what it is.
        text: what it holds. ``{name}`` is filled in where ``name`` is a hyperparameter or one of the placeholders of a
            command; any other brace stays as it is, for in YAML and JSON braces have a meaning.
    """

    name: str
    text: str

    @property
    def suffix(self) -> str:
        """The file's ending in lower case."""
        return PurePath(self.name).suffix.lower()

    def named(self, known: Collection[str]) -> set[str]:
        """Those of ``known`` that a placeholder names."""
        return {name for name in re.findall(r"\{([^{}\n]+)\}", self.text) if name in known}

    def keys(self, names: Collection[str]) -> dict[str, tuple[str, ...]]:
        """The places of the file's own keys that hyperparameters override, by hyperparameter.

        ``optimizer.lr`` is the key ``lr`` below ``optimizer``; ``lr`` is the one key of that name, at any depth.

        Raises:
            UserError: a name that stands in several places, or a file that cannot be read.
        """
        if self.suffix not in DATA:
            return {}
        named = self.named(names)
        leaves = list(_leaves(self._data(dict.fromkeys(named))))
        found = {}
        for name in names:
            path = tuple(name.split("."))
            if name in named:
                continue
            exact = [leaf for leaf in leaves if leaf == path]
            deep = exact or [leaf for leaf in leaves if leaf[-len(path) :] == path]
            if len(deep) > 1:
                places = ", ".join(".".join(leaf) for leaf in deep)
                raise UserError(
                    f"{self.name}: {name!r} stands in several places: {places}.",
                    "Name the hyperparameter by its whole path.",
                )
            if deep:
                found[name] = deep[0]
        return found

    def render(self, given: Given, keys: Mapping[str, tuple[str, ...]]) -> str:
        """The file of one trial."""
        values = {**(given.special or {}), **given.config, **dict.fromkeys(given.inactive)}
        text = _filled(self.text, values, self.suffix)
        changed = {keys[n]: v for n, v in given.config.items() if n in keys}
        if not changed:
            return text
        data = self._data(values)
        for path, value in changed.items():
            at = data
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = value
        if self.suffix == ".json":
            return json.dumps(data, indent=2) + "\n"
        import yaml

        return str(yaml.safe_dump(data, sort_keys=False))

    def _data(self, values: Mapping[str, Value]) -> Any:
        import yaml

        try:
            text = _filled(self.text, values, self.suffix)
            data = json.loads(text) if self.suffix == ".json" else yaml.safe_load(text)
        except (yaml.YAMLError, ValueError) as error:
            raise UserError(f"{self.name} cannot be read: {' '.join(str(error).split())}.", "Mend it.") from None
        return {} if data is None else data


def _filled(text: str, values: Mapping[str, Value], suffix: str) -> str:
    def value(found: re.Match[str]) -> str:
        name = found[1]
        return _plain(values[name], suffix) if name in values else found[0]

    return re.sub(r"\{([^{}\n]+)\}", value, text)


def _plain(value: Value, suffix: str) -> str:
    """A value as the file's kind writes it; text as it is, since quotes are the template's own matter."""
    if value is None or isinstance(value, bool):
        python = suffix not in (*DATA, ".toml")
        word = {None: "None", True: "True", False: "False"}[value]
        return word if python else {"None": "null"}.get(word, word.lower())
    if isinstance(value, float):
        text = repr(value)
        # YAML 1.1 reads 1e-05 as text.
        return text.replace("e", ".0e") if "e" in text and "." not in text and suffix in (".yaml", ".yml") else text
    return str(value)


def _leaves(data: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _leaves(value, (*path, str(key)))
    elif path:
        yield path
