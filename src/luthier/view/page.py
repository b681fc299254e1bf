"""What every page shares: the template's filters, data inside a script, the ink's library, writing all or nothing."""

from __future__ import annotations

import json
import os
import tempfile
from functools import cache
from itertools import chain, count
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from luthier.core import words
from luthier.core.errors import UserError
from luthier.view import story

MARK = '<meta name="generator" content="Luthier">'
"""In the head of every page: by it a page of Luthier's is known."""


def render(template: str, view: dict[str, Any], data: Any) -> str:
    """The page of ``template`` with ``data`` for its figures and plotly itself: one file that loads nothing.

    Args:
        template: a file of this room.
        view: what the template shows.
        data: what its script draws.
    """
    from plotly.offline import get_plotlyjs

    page = _template(template).render(view, data=_embed(data), mark=Markup(MARK))
    # Pasted last: running five megabytes of script through the template engine would only cost time.
    return page.replace("/*plotly.js*/", get_plotlyjs(), 1)


def save(page: str, path: str | Path) -> Path:
    """Write ``page`` to ``path``, all or nothing.

    Returns:
        The path written.

    Raises:
        UserError: it is a folder.
    """
    target = Path(path)
    if target.is_dir():
        raise UserError(f"{str(path)!r} is a folder.", f"Name a file: {target / 'report.html'}.")
    target.parent.mkdir(parents=True, exist_ok=True)
    # A reader never sees half a page: write beside the target, then rename over it.
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(page)
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return target


def beside_others(path: Path) -> Path:
    """Where a page meant for ``path`` can be saved without a loss: there, or where something lies that is no page of
    Luthier's, under the first name beside it that is free or Luthier's, ``report.luthier.html`` or
    ``report.luthier-2.html`` and so on."""
    names = (f"{path.stem}.luthier{f'-{n}' if n > 1 else ''}{path.suffix}" for n in count(1))
    return next(p for p in chain([path], map(path.with_name, names)) if not os.path.lexists(p) or _ours(p))


def _ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return MARK.encode() in file.read(1024)
    except OSError:
        return False


@cache
def _template(name: str) -> jinja2.Template:
    loader = jinja2.PackageLoader("luthier.view", package_path="")
    env = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    env.filters.update(
        number=story.number, setting=story.setting, clean=lambda s: story.clean(s, 900), epochs=words.epochs
    )
    return env.get_template(name)


def _embed(data: Any) -> Markup:
    """JSON that cannot leave its ``<script>``: no angle bracket, no ampersand, no line separator of JavaScript."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return Markup(text)
