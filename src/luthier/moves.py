"""Commands of the terminal that move what a study knows: to another store, to tables, to and from Optuna."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from luthier.core.errors import UserError, nearest

TABLES = ("trials", "reports")
FORMATS = (*TABLES, "optuna")

Name = Annotated[str | None, typer.Option(help="Which study, where the storage holds several.")]
As = Annotated[str | None, typer.Option("--as", help="What it is called there (default: as it is).")]


def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="A folder, a .db file, a URL, or a .parquet file.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="The same; nothing that is there is overwritten.")],
    name: Annotated[str | None, typer.Option(help="Which study (default: all of them).")] = None,
    rename: As = None,
    files: Annotated[
        Path | None, typer.Option(help="Copy checkpoints and logs too, to below this folder.", show_default=False)
    ] = None,
) -> None:
    """Copy studies to another database, or to a Parquet file and back: event by event the same."""
    from luthier.core.trial import Status
    from luthier.store import copy_studies, shown

    for copied in copy_studies(source, target, name, rename, files):
        history = copied.history
        typer.echo(f"{copied.name}: {history.length} events, {len(history.trials)} trials → {shown(target)}")
        again = sum(t.status in (Status.RUNNING, Status.PAUSED) and t.checkpoint is not None for t in history.trials)
        if again and copied.files is None:
            typer.echo(f"  Without its checkpoints (--files): {again} trials would start over where it goes on.")


def export(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A folder, a .db file or a storage URL.")],
    output: Annotated[str, typer.Argument(metavar="OUT", help="A .parquet or .csv file; Optuna's storage URL.")],
    format: Annotated[str, typer.Option("--format", "-f", help=f"{', '.join(FORMATS)}.")] = "trials",
    name: Name = None,
    rename: As = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a study as a table, a row for each trial or each report, or as a study of Optuna's."""
    from luthier import store

    if format not in FORMATS:
        raise UserError(f"--format {format!r} is no format.", nearest(format, FORMATS))
    log = store.open_store(study, name)
    try:
        history = store.history_of(log)
    finally:
        log.close()
    if format == "optuna":
        typer.echo(_to_optuna(history, output, rename or log.name))
        return
    if rename is not None:
        raise UserError("--as names a study of Optuna's.", "Leave it out, or write --format optuna.")
    typer.echo(_to_table(history, Path(output), format, force))


def _to_table(history: Any, path: Path, format: str, force: bool) -> str:
    from luthier.store.archive import save
    from luthier.view import table as tables

    if path.suffix not in (".parquet", ".csv"):
        raise UserError(f"{path} is no table's name.", "Write trials.parquet or trials.csv.")
    if path.exists() and not force:
        raise UserError(f"{path} exists already.", "Write --force to replace it, or name another file.")
    made = tables.trials_table(history) if format == "trials" else tables.reports_table(history)
    if path.suffix == ".csv":
        save(lambda file: tables.write_csv(made, file), path)
    else:
        save(lambda file: tables.write_parquet(made, file, format), path)
    return f"{len(made['trial'].values)} {format} → {path}"


def _to_optuna(history: Any, url: str, name: str) -> str:
    import optuna

    from luthier.integrations.optuna import export_study
    from luthier.store import shown
    from luthier.store.engine import readable

    url = _optuna_url(url)
    try:
        with readable(url):
            made = export_study(history, storage=url, study_name=name)
    except optuna.exceptions.DuplicatedStudyError:
        raise UserError(f"{shown(url)} already holds a study {name!r}.", "Give it another name with --as.") from None
    return f"{len(made.trials)} trials → {shown(url)}"


def import_(
    source: Annotated[str, typer.Argument(metavar="URL", help="Optuna's storage, sqlite:///optuna.db.")],
    storage: Annotated[str, typer.Argument(metavar="STORAGE", help="A folder, a .db file or a storage URL.")],
    name: Name = None,
    rename: As = None,
) -> None:
    """Make a study of one of Optuna's: for show, report, diagnose, --warm-start, or to go on with."""
    import optuna

    from luthier.integrations._optuna_study import LeftOut, import_study
    from luthier.store import file_of, shown
    from luthier.store.engine import readable

    source = _optuna_url(source)
    file = file_of(source)
    if file is not None and not file.is_file():
        raise UserError(f"There is no file {file}.", "Name the storage of a study of Optuna's.")
    with readable(source):
        names = optuna.get_all_study_names(source)
    if name is None and len(names) != 1:
        what = f"{len(names)} studies of Optuna's{': ' if names else ''}{', '.join(names)}"
        raise UserError(
            f"{shown(source)} holds {what}.", "Choose one with --name." if names else "Name another storage."
        )
    if name is not None and name not in names:
        raise UserError(f"{shown(source)} holds no study called {name!r}.", nearest(name, names))
    study = optuna.load_study(study_name=name or names[0], storage=source)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", LeftOut)
        found = import_study(study, storage, name=rename)
    typer.echo(f"{found.history.study.name}: {len(found.history.trials)} trials → {shown(storage)}")
    for why in said:
        if issubclass(why.category, LeftOut):
            typer.echo(f"  {why.message}")
        else:
            warnings.warn_explicit(why.message, why.category, why.filename, why.lineno)


def _optuna_url(url: str) -> str:
    from luthier.store import locate

    if "://" not in url:
        raise UserError(f"{url!r} is no storage of Optuna's.", 'Write "sqlite:///optuna.db".')
    return locate(url)
