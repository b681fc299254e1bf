"""Docstrings as Markdown: roles of reStructuredText become code, sessions of Python get their fences.

Parameters that are told together, ``low, high: of the range``, become an entry each.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|mod|data|meth|attr|exc):`~?([^`]+)`")
SESSION = re.compile(r"(?:^>>> .*\n?(?:^(?:\.\.\. |[^\s>]).*\n?)*)+", re.MULTILINE)

SECTION = re.compile(r"^(?:Args|Attributes):\n(?:(?: .*)?\n?)+", re.MULTILINE)
TOGETHER = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 .*)*)", re.MULTILINE)


def _apart(found: re.Match[str]) -> str:
    indent, names, text = found.groups()
    return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))


def as_markdown(text: str) -> str:
    """The text of a docstring.

    >>> as_markdown("See :func:`luthier.tune`.")
    'See `luthier.tune`.'
    """
    text = ROLE.sub(r"`\1`", text)
    text = SECTION.sub(lambda found: TOGETHER.sub(_apart, found[0]), text)
    return SESSION.sub(lambda found: f"```python\n{found[0].rstrip()}\n```\n", text)


class Markdown(griffe.Extension):
    """Rewrites each docstring as it is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for each function, class, attribute and module."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
