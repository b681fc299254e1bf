"""How a study begins and ends on the terminal: the space that is read, what is said last, where the report lies."""

from __future__ import annotations

import json as jsonlib
import signal
from pathlib import Path
from typing import Any

import typer

from luthier.commands import plain
from luthier.core.errors import RunError


class interruptible:
    """Ctrl-C or SIGTERM ended the study; the log keeps everything, and a line says how to go on."""

    def __init__(self, command: str, place: str) -> None:
        self.command = command
        self.place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, KeyboardInterrupt):
            from luthier.api import farewell
            from luthier.store import shown

            typer.echo(f"\n{farewell(error)} Go on with: {self.command} {shown(self.place)}", err=True)
            raise typer.Exit(128 + getattr(error, "signal", signal.SIGINT))


def finish(result: Any, page: Path, json: bool) -> None:
    """Write the report and say what the study found.

    Raises:
        RunError: it found nothing, or a mistake that no tuning mends.
    """
    from luthier.view.closing import closing
    from luthier.view.story import verdict

    written = result.report(own_page(page))
    if json:
        typer.echo(
            jsonlib.dumps(
                plain({**result.summary.to_dict(), "next_steps": result.next_steps(), "report": str(written)})
            )
        )
    else:
        typer.echo(closing(result.history))
        typer.echo(f"Report: {written}")
    if any(stage.fatal for stage in result.history.stages):
        raise RunError(verdict(result.history))
    if result.best_config is None:
        raise RunError("No trial reported a score. luthier show tells what happened.")


def report_path(url: str) -> Path:
    """``report.html`` beside ``study.db``, ``NAME.report.html`` beside any other file; here for a server's database."""
    from luthier import store

    file = store.file_of(url)
    if file is None:
        return Path("report.html")
    return file.parent / ("report.html" if file.name == "study.db" else f"{file.stem}.report.html")


def own_page(page: Path) -> Path:
    """Where the report that nobody named a place for is written: ``page``, or beside what lies there and is not
    Luthier's, which is said."""
    from luthier.view.page import beside_others

    place = beside_others(page)
    if place != page:
        typer.echo(f"{page} is no page of Luthier's and stays as it is.", err=True)
    return place


def read_space(path: Path) -> Any:
    """The search space in a YAML or JSON file.

    Raises:
        SpaceError: it cannot be read, or is malformed; the message names the file.
    """
    from luthier.core.errors import SpaceError
    from luthier.core.space import Space

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpaceError(
            f"The space file {str(path)!r} cannot be read: {error.strerror}.", "Name a YAML file."
        ) from None
    except UnicodeDecodeError:
        raise SpaceError(f"The space file {str(path)!r} is not text.", "Save it as UTF-8 YAML.") from None
    try:
        return Space.from_json(text) if path.suffix == ".json" else Space.from_yaml(text)
    except SpaceError as error:
        raise SpaceError(f"{path}: {error.problem}", error.mend) from None
