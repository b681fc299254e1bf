"""Commands of the terminal around a study: a first space from a script, what there is, what is best,
what would run; and what the curves of any training say."""

from __future__ import annotations

import json as jsonlib
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from luthier.core.errors import RunError, StorageError, UserError, nearest

AFTER = "luthier.command"
"""Where the words after ``--`` are kept."""

STYLE_HELP = "How values without a placeholder reach it: argparse, words, fire, hydra or none (default: argparse)."

SHOWN = 3
"""Configurations that ``--dry-run`` shows."""

HERE = "luthier.db"
"""Where luthier tune keeps a study that nobody named a place for, and where the other commands look for one."""
FORMATS = ("yaml", "json", "args", "command", "template")


class Tune(TyperCommand):
    """A command whose words after ``--`` are another command, whatever they look like."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep what follows ``--`` for :func:`target_of`."""
        if "--" in args:
            at = args.index("--")
            ctx.meta[AFTER] = args[at + 1 :]
            args = args[:at]
        return super().parse_args(ctx, args)


def target_of(target: str | None, words: Sequence[str] | None, options: Mapping[str, Any]) -> Callable[..., Any]:
    """What is trained: a function or Recipe by its name, or a script.

    Raises:
        UserError: neither, both, or options of a script without one.
    """
    given = {name: value for name, value in options.items() if value not in (None, [])}
    if words is not None:
        if target is not None:
            raise UserError(
                f"Both a target ({target}) and a command after -- were given.", "Keep one; options stand before --."
            )
        from luthier.scripts.script import Script

        return Script(words, **given)
    flags = {"resume": "resume-flag"}
    if given:
        name = next(iter(given))
        raise UserError(
            f"--{flags.get(name, name).replace('_', '-')} is for a script, and no command was given.",
            "Write the command after --: luthier tune --space space.yaml -- python main.py.",
        )
    if target is None:
        raise UserError(
            "Nothing was given to train.",
            "Name a function (train.py:train), or write a command after --: -- python main.py --lr {learning_rate}.",
        )
    from luthier import target as targets

    return targets.load(target)


def dry_run(study: Any, target: Callable[..., Any], url: str, json: bool, enqueue: Sequence[Any] = ()) -> None:
    """Print the commands of the first configurations, the enqueued ones first; nothing is run or written."""
    from luthier import store
    from luthier.scripts.script import Script, Trained

    configs, certain = _first(study, enqueue)
    files = store.files_beside(url, study.name) or Path("files")
    shown: list[Any] = []
    lines = []
    for i, (config, horizon, seed) in enumerate(configs):
        if i == certain:
            lines.append("# what follows depends on how these turn out; for example:")
        if not isinstance(target, Script):
            shown.append(plain(config))
            lines.append(jsonlib.dumps(plain(config)))
            continue
        place = files.resolve() / "trials" / f"trial-{i:05d}"
        name = getattr(target.template, "name", None) or "config"
        trained = Trained(config, horizon, seed, i, place / "out", place / name)
        words, text = target.words_for(trained, study.space), target.text_for(trained, study.space)
        shown.append({"command": words, "config": text} if text is not None else {"command": words})
        lines.append(shlex.join(words))
        if text is not None:
            lines += [f"    {line}" for line in text.splitlines()]
    typer.echo(jsonlib.dumps(plain({"commands": shown})) if json else "\n".join(lines))


def _first(study: Any, enqueue: Sequence[Any]) -> tuple[list[tuple[dict[str, Any], int, int]], int]:
    """Configuration, length and seed of the first trainings, and how many of them do not depend on a result."""
    import numpy as np

    from luthier.configs import enqueued
    from luthier.contracts import Job
    from luthier.request import first_trainings
    from luthier.run.book import Book
    from luthier.run.decisions import trial_seed
    from luthier.run.memory import MemoryStore
    from luthier.strategies import build

    book, scheduler = Book.create(MemoryStore(), study), build(study.strategy)
    book.enqueue(first_trainings(study, study.strategy, enqueued(study.space, enqueue)))
    out: list[tuple[dict[str, Any], int, int]] = []
    while len(out) < SHOWN:
        job = book.next(scheduler)
        if not isinstance(job, Job) or job.probe is not None:
            break
        out.append((dict(job.config), job.horizon, job.seed))
    certain = len(out)
    rng = np.random.default_rng(study.seed)
    while len(out) < SHOWN and study.space.dims:
        out.append((study.space.sample(rng), study.max_epochs, trial_seed(study.seed, len(out))))
    return out, certain


# -- what there is -----------------------------------------------------------------------------------------------------


def ls(
    place: Annotated[str, typer.Argument(metavar="[PLACE]", help="A folder, a .db file or a storage URL.")] = ".",
    json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")] = False,
) -> None:
    """List the studies in a file, or in all files of a folder."""
    from luthier import store
    from luthier.core.history import fold
    from luthier.core.summary import summarize
    from luthier.view.story import clean, number, setting, spent_of

    rows: list[dict[str, Any]] = []
    for url in _storages(place):
        file = store.file_of(url)
        for name in store.study_names(url):
            log = store.SqlStore(url, name)
            try:
                entries = list(log.read())
            finally:
                log.close()
            if not entries:
                continue
            history = fold(entries)
            summary = summarize(history)
            rows.append(
                {
                    "study": name,
                    "storage": str(file) if file is not None else store.shown(url),
                    "strategy": history.study.strategy,
                    "goal": str(history.study.goals),
                    "trials": summary.trials,
                    "failed": summary.failed,
                    "best_score": summary.best_score,
                    "used": spent_of(history),
                    "state": "finished" if history.finished is not None else "open",
                }
            )
    if json:
        typer.echo(jsonlib.dumps(plain({"studies": rows})))
        return
    if not rows:
        typer.echo(f"No study in {store.shown(place)}.")
        return
    heads = ("study", "state", "trials", "best", "goal", "strategy", "used", "storage")
    cells = [
        (clean(r["study"], 40), r["state"], setting(r["trials"]), number(r["best_score"]), clean(r["goal"], 60),
         r["strategy"], r["used"], r["storage"])
        for r in rows
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in (heads, *cells)) for i in range(len(heads))]
    for row in (heads, *cells):
        typer.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip())


def _storages(place: str) -> list[str]:
    """The databases of studies at a place; of a folder those below it, and files of other programs left out."""
    from luthier import store

    folder = Path(place)
    if "://" in place or not folder.is_dir():
        url = store.locate(place)
        file = store.file_of(url)
        if file is not None and not file.exists():
            raise StorageError(
                f"There is no study at {store.shown(place)}.", "Name a folder, a .db file or a storage URL."
            )
        return [url]
    found = []
    for file in sorted(folder.rglob("*.db")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if hidden or not file.is_file() or file.read_bytes()[:6] != b"SQLite":
            continue
        try:
            store.study_names(store.locate(file))
        except StorageError:
            continue
        found.append(store.locate(file))
    return found


def _formats(incomplete: str) -> list[str]:
    """For the shell's completion."""
    return [f for f in FORMATS if f.startswith(incomplete)]


def best(
    study: Annotated[str, typer.Argument(metavar="[STUDY]", help="A folder, a .db file or a storage URL.")] = HERE,
    name: Annotated[str | None, typer.Option(help="Which study, where the storage holds several.")] = None,
    format: Annotated[
        str, typer.Option("--format", "-f", help=f"{', '.join(FORMATS)}.", autocompletion=_formats)
    ] = "yaml",
    style: Annotated[
        str | None, typer.Option(help="argparse, words, fire or hydra, of args (default: its own).")
    ] = None,
) -> None:
    """Print the best configuration, to be piped into a file or a command: the values and nothing else.

    command is that of a study of a script, template the configuration file that the script read.
    """
    from luthier import store
    from luthier.core.history import fold
    from luthier.core.summary import summarize
    from luthier.scripts import command
    from luthier.scripts.script import Script

    if format not in FORMATS:
        raise UserError(f"--format {format!r} is no format.", nearest(format, FORMATS))
    styles = [s for s in command.STYLES if s != "none"]
    if style is not None and style not in styles:
        raise UserError(f"There is no style {style!r} of arguments.", nearest(style, styles))
    log = store.open_store(study, name)
    try:
        history = fold(log.read())
    finally:
        log.close()
    summary = summarize(history)
    if summary.best_config is None:
        raise RunError("No trial has a score yet. luthier show tells what happened.")
    config = plain(summary.best_config)
    held = (history.study.target or {}).get("script")
    if format == "yaml":
        import yaml

        typer.echo(yaml.safe_dump(config, sort_keys=False).rstrip())
    elif format == "json":
        typer.echo(jsonlib.dumps(config))
    elif format == "args":
        own = held["style"] if held and held["style"] != "none" else "argparse"
        words = command.build((), command.Given(config), style or own)
        typer.echo(shlex.join(words))
        told = {name for name, value in config.items() if command.build((), command.Given({name: value}), style or own)}
        if silent := [name for name in config if name not in told]:
            left = ", ".join(f"{name} ({jsonlib.dumps(config[name])})" for name in silent)
            typer.echo(f"Left out: {left}. --style fire or hydra writes such values too.", err=True)
    elif held is None:
        raise UserError("This study ran no command.", "--format args prints its values as arguments.")
    else:
        _again(Script.recalled(held), history, summary, config, study, format)


def _again(script: Any, history: Any, summary: Any, config: Any, study: str, format: str) -> None:
    """Print the command that trains the best configuration once more, into a folder ``best`` here, or the
    configuration file that it reads."""
    from luthier import store
    from luthier.scripts.script import Trained

    trial = history.trials[summary.best_trial]
    file = Path("best") / (getattr(script.template, "name", None) or "config")
    trained = Trained(config, trial.horizon, trial.seed, trial.id, Path("best"), file)
    text = script.text_for(trained, history.space)
    if format == "template":
        if text is None:
            raise UserError("This study's script read no configuration file.", "--format command prints its command.")
        typer.echo(text.removesuffix("\n"))
        return
    typer.echo(shlex.join(script.words_for(trained, history.space)))
    if text is not None and not (file.is_file() and file.read_text(encoding="utf-8") == text):
        which = f"{shlex.quote(store.shown(study))} --name {shlex.quote(history.study.name)}"
        typer.echo(
            f"Write the file that it reads first: mkdir -p best && luthier best {which} --format template > {file}",
            err=True,
        )


# -- a first space -----------------------------------------------------------------------------------------------------


def init(
    script: Annotated[Path, typer.Argument(metavar="SCRIPT.py", help="The training script; it is read, never run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The search space to write.")] = Path("space.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite it.")] = False,
) -> None:
    """Read a script's own options and write a first search space around its defaults, with the reasons."""
    from luthier.scripts.draft import draft
    from luthier.scripts.options import read_script

    if output.exists() and not force:
        raise UserError(f"{output} exists already.", "Write --force to replace it, or -o for another file.")
    found = read_script(script)
    made = draft(found, str(output))
    try:
        output.write_text(made.text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}.", "Name another place.") from None
    typer.echo(made.told)


def diagnose(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Logs, folders that are searched for them, or a study's storage URL."),
    ],
    name: Annotated[str | None, typer.Option(help="Of Luthier's own studies this one alone.")] = None,
    train_loss: Annotated[str | None, typer.Option(help="The training loss, as it was logged.")] = None,
    val_loss: Annotated[str | None, typer.Option(help="The validation loss, as it was logged.")] = None,
    metric: Annotated[str | None, typer.Option(help="The metric, with or without its train or val.")] = None,
    maximize: Annotated[
        bool | None, typer.Option("--maximize/--minimize", help="The metric's direction.", show_default=False)
    ] = None,
    classes: Annotated[int | None, typer.Option(help="Of a classification: what knowing nothing would score.")] = None,
    max_epochs: Annotated[float | None, typer.Option(help="The planned length of the trainings.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page with the curves drawn.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")] = False,
) -> None:
    """Read the curves of any training, say what is wrong and what to try next. No study of Luthier's is needed.

    Reads TensorBoard, CSV, JSON lines, Lightning, Hugging Face, MLflow and Luthier's own.
    """
    from luthier import readers
    from luthier.diagnosis import Diagnosis, diagnose_curves, diagnose_study
    from luthier.view import diagnosed
    from luthier.view.page import save

    if classes is not None and classes < 2:
        raise UserError(f"--classes {classes} is no classification.", "Give a number of at least 2.")
    if max_epochs is not None and not max_epochs > 0:
        raise UserError(f"--max-epochs {max_epochs:g} is no length.", "Give the number of epochs that were planned.")
    if html is not None and html.is_dir():
        raise UserError(f"--html {str(html)!r} is a folder.", "Name a file.")
    asked = readers.Asked(train_loss, val_loss, metric, maximize)
    runs, notes = readers.read_runs(paths, asked, classes=classes, max_epochs=max_epochs, name=name)
    found = [diagnosed.Diagnosed(r.curves, diagnose_curves(r.curves), r.path, r.taken, r.notes, r.failed) for r in runs]
    overall = diagnose_study([r.curves for r in runs]) if len(runs) > 1 else Diagnosis(())
    written = None
    if html is not None:
        try:
            written = save(diagnosed.page(overall, found, notes), html)
        except OSError as error:
            raise UserError(
                f"--html {str(html)!r} cannot be written: {error.strerror}.", "Name another place."
            ) from None
    if json:
        data = diagnosed.to_dict(overall, found, notes)
        typer.echo(jsonlib.dumps(plain({**data, **({"html": str(written)} if written else {})})))
        return
    _styled(lambda sparks: diagnosed.tell(overall, found, notes, sparks=sparks))
    if written is not None:
        typer.echo(f"\nPage: {written}")


def _styled(lines: Callable[[bool], list[tuple[str, str]]]) -> None:
    """Styled lines on a terminal, plain ones anywhere else."""
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb" or "NO_COLOR" in os.environ:
        typer.echo("\n".join(text for text, _ in lines(sys.stdout.isatty())))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for text, style in lines(True):
        head, colon, rest = text.partition(":")
        whole = not colon or style in ("dim", "cyan", "bold")
        console.print(Text(text, style) if whole else Text.assemble((head + colon, style), rest))


def plain(data: Any) -> Any:
    """``data`` as JSON has it."""
    from luthier.core.events import plain as of_log

    return of_log(data)
