"""The front door for the terminal. What a command does stands in ``running.py`` (quickstart, tune, resume),
``servers.py`` (dashboard, serve, work), ``moves.py`` (copy, export, import) and ``commands.py``.

Exit codes: 0 done, 1 the study could not go on, 2 a mistake in the question, 130 and 143 interrupted (SIGINT, SIGTERM).
"""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from luthier import commands, moves, running, servers
from luthier.commands import HERE, Tune, plain
from luthier.core.errors import Conflict, RunError, UserError, nearest
from luthier.options import Json, Name, Place
from luthier.terminal import own_page, report_path

app = typer.Typer(
    name="luthier",
    help="Tunes deep-learning training the way a good practitioner does: in stages, saying why.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# The error of a mistyped option or command: typer shows its subclass alone (and carries a click of its own).
USAGE: Any = typer.BadParameter.__mro__[1]


def _version(asked: bool) -> None:
    if asked:
        from luthier import __version__

        typer.echo(f"luthier {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.command()(running.quickstart)
app.command()(commands.init)
app.command(cls=Tune)(running.tune)
app.command()(running.resume)


@app.command()
def show(study: Place = HERE, name: Name = None, json: Json = False) -> None:
    """Tell the story of a study, finished or running, stage by stage."""
    from luthier import insight
    from luthier.core.summary import summarize
    from luthier.view.story import tell

    history = _read(study, name)
    if json:
        typer.echo(jsonlib.dumps(plain({**summarize(history).to_dict(), "next_steps": insight.next_steps(history)})))
    else:
        typer.echo(tell(history, insight.lesson(history)))


app.command()(commands.ls)
app.command()(commands.best)


@app.command()
def checklist(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="Marks what this study settled.")] = None,
    name: Name = None,
    lang: Annotated[str, typer.Option(help="en or zh.")] = "en",
) -> None:
    """The five tiers in the order of tuning: what to turn, where to begin, and what a study has settled of it."""
    from luthier.knowledge import LANGS
    from luthier.playbook.checklist import checklist as rows_of
    from luthier.playbook.checklist import render

    if lang not in LANGS:
        raise UserError(f"--lang {lang!r} is no language of the checklist.", nearest(lang, LANGS))
    typer.echo(render(rows_of(_read(study, name) if study else None, lang), lang))


@app.command()
def report(
    study: Place = HERE,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The HTML file to write.")] = None,
    name: Name = None,
) -> None:
    """Write the report of a study, finished or running: one HTML file that opens without a network."""
    from luthier import insight, store
    from luthier.view.report import write_report

    history = _read(study, name)
    url = store.locate(study)
    page = output or own_page(report_path(url))
    try:
        typer.echo(write_report(history, page, insight.lesson(history)))
    except OSError as error:
        raise UserError(f"{str(page)!r} cannot be written: {error.strerror}.", "Name another place with -o.") from None


app.command()(servers.dashboard)
app.command()(servers.serve)
app.command()(servers.work)
app.command()(commands.diagnose)
app.command()(moves.copy)
app.command()(moves.export)
app.command("import")(moves.import_)


def _read(study: str, name: str | None) -> Any:
    from luthier import store

    log = store.open_store(study, name)
    try:
        return store.history_of(log)
    finally:
        log.close()


def main() -> None:
    """Run the command line; every error of the user is one message without a traceback."""
    try:
        # standalone_mode would print typer's own errors; ours and its shall look alike.
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except UserError as error:
        _fail(error.problem, error.mend, 2)
    except (RunError, Conflict) as error:
        _fail(str(error), "", 1)
    except USAGE as error:
        if not (said := error.format_message()):  # no command at all: the help was shown
            sys.exit(2)
        _fail(said, "See luthier --help.", 2)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe (head, less) had enough
        sys.stderr.close()
        sys.exit(0)


def _fail(problem: str, mend: str, code: int) -> None:
    sys.stdout.flush()
    print(f"luthier: {problem}" + (f"\n         {mend}" if mend else ""), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
