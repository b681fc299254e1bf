"""YAML in which ``1e-5`` is a number, as in YAML 1.2 (section 10.3.2); in YAML 1.1, and so for PyYAML, it is text."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

_EXPONENT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)[eE][-+]?[0-9]+$")


@cache
def _dialect() -> tuple[type[Any], type[Any]]:
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads numbers with an exponent."""

    class Dumper(yaml.SafeDumper):
        """Quotes text that would be read as one."""

    for kind in (Loader, Dumper):
        kind.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))
    return Loader, Dumper


def load(text: str) -> Any:
    """The data of a YAML text.

    Raises:
        yaml.YAMLError: it is none.
    """
    import yaml

    return yaml.load(text, _dialect()[0])


def dump(data: Any, *, flow: bool) -> str:
    """``data`` as YAML text, on one line with ``flow``."""
    import yaml

    made: str = yaml.dump(data, Dumper=_dialect()[1], default_flow_style=flow, sort_keys=False, width=10_000)
    return made.strip()
