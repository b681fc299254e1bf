"""The pages that have no file in ``docs/``: the command line's, and those of the repository's root."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
KEPT = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "examples.md": "examples/README.md",
    "security.md": "SECURITY.md",
    "zh.md": "README.zh.md",
}
"""The page, and the file of the repository that it is."""


def on_files(files: Any, *, config: Any) -> Any:
    """Add those pages."""
    for page, file in KEPT.items():
        text = (ROOT / file).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "cli.md", content=command_line()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links lead to those pages, which in the repository lead to the files."""
    for page, file in {**KEPT, "index.md": "README.md"}.items():
        markdown = re.sub(rf"\]\((?:\.\./)?{re.escape(file)}(?=[)#])", f"]({page}", markdown)
    return markdown


def command_line() -> str:
    """Every command and option, as typer tells them."""
    from typer.cli import get_docs_for_click
    from typer.main import get_command

    from luthier.cli import app

    command = get_command(app)
    context = command.context_class(command, info_name="luthier")
    return str(get_docs_for_click(obj=command, ctx=context, name="luthier", title="The command line"))
