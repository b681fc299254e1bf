"""The commands that serve or work for a server: ``dashboard``, ``serve`` and ``work``."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from luthier import options as opt
from luthier.commands import HERE
from luthier.core.errors import UserError
from luthier.options import SERVER
from luthier.run.limits import Limits
from luthier.terminal import finish, interruptible, read_space, report_path


def dashboard(
    studies: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STUDY...]", help=f"Folders, .db files or storage URLs (default: {HERE})."),
    ] = None,
    name: opt.Name = None,
    host: Annotated[str, typer.Option(help="The address to bind; another than this asks for a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free.")] = 8484,
    token: Annotated[
        str | None,
        typer.Option(envvar="LUTHIER_DASHBOARD_TOKEN", help="Asked of whoever opens it.", show_default=False),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A further host name that it answers to, behind a proxy.")
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Show, and refuse all actions.")] = False,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Show studies in the browser, while they run and afterwards. Needs no network; Ctrl-C ends it."""
    try:
        from luthier.dashboard.desk import open_desks
        from luthier.dashboard.server import serve
    except ModuleNotFoundError as error:
        raise UserError(f"The dashboard needs {error.name}.", "pip install 'luthier[dashboard]'") from None

    def say(url: str) -> None:
        typer.echo(f"Dashboard: {url}")
        if open_browser:
            import webbrowser

            webbrowser.open(url)

    serve(
        open_desks(studies or [HERE], name),
        say,
        host=host,
        port=port,
        token=token,
        hosts=allow_host or (),
        read_only=read_only,
    )


def serve(
    study: opt.Place,
    space: opt.SpaceFile = None,
    fix: opt.Fix = None,
    maximize: opt.Maximize = None,
    minimize: opt.Minimize = None,
    metric: opt.Metric = None,
    constraint: opt.Constraints = None,
    max_epochs: opt.MaxEpochs = 30,
    budget: opt.BudgetText = None,
    strategy: opt.Strategy = "playbook",
    name: opt.Name = None,
    seed: opt.Seed = 0,
    reduce: opt.Reduce = "best",
    samples: opt.Samples = None,
    warm_start: opt.WarmStart = None,
    enqueue: opt.Enqueue = None,
    target: Annotated[
        str | None, typer.Option(help="A Recipe that the workers train, FILE.py:NAME: brings space, metric, probes.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to bind; another than this asks for a token.", rich_help_panel=SERVER)
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free.", rich_help_panel=SERVER)] = 8765,
    token: Annotated[
        str | None,
        typer.Option(envvar="LUTHIER_TOKEN", help="Asked of every worker.", show_default=False, rich_help_panel=SERVER),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A further host name that it answers to, behind a proxy.", rich_help_panel=SERVER),
    ] = None,
    lease: Annotated[
        str, typer.Option(help="A worker that says nothing for so long has vanished.", rich_help_panel=SERVER)
    ] = "10 min",
    max_upload: Annotated[str, typer.Option(help="A larger checkpoint is not taken.", rich_help_panel=SERVER)] = "4 GB",
    stay: Annotated[
        bool, typer.Option("--stay", help="Go on answering when the study is over.", rich_help_panel=SERVER)
    ] = False,
    files: opt.Files = None,
    checkpoint_space: opt.CheckpointSpace = None,
    durability: opt.Durability = "process",
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Serve a study over HTTP, to workers on other machines or in other languages (luthier work is one in Python).

    luthier serve study.db --space space.yaml --minimize val_loss --max-epochs 30 --budget "30 trials"
    """
    from luthier import serving, store
    from luthier.run import limits
    from luthier.view.console import Console

    asked = {
        "maximize": maximize,
        "minimize": minimize,
        "metric": metric,
        "constraints": constraint,
        "max_epochs": max_epochs,
        "budget": budget,
        "strategy": strategy,
        "seed": seed,
        "reduce": reduce,
        "samples": samples,
        "warm_start": warm_start or (),
    }
    how = {
        "host": host,
        "port": port,
        "token": token or None,
        "hosts": allow_host or (),
        "lease": limits.seconds("lease", lease),
        "largest": limits.size("max_upload", max_upload),
        "stay": stay,
    }
    with interruptible("luthier serve", study):
        result = serving.serve(
            study,
            name,
            read_space(space) if space else None,
            target,
            asked,
            Console(json=json, quiet=quiet),
            how,
            enqueue=enqueue or (),
            fix=fix or (),
            limits=Limits.of(checkpoint_space=checkpoint_space),
            durability=durability,
            files=files,
        )
    finish(result, report_path(store.locate(study)), json)


def work(
    url: Annotated[str, typer.Argument(metavar="URL", help="Of the server, as luthier serve printed it.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="What it trains, FILE.py:NAME or MODULE:NAME.")],
    token: Annotated[
        str | None, typer.Option(envvar="LUTHIER_TOKEN", help="What the server asks for.", show_default=False)
    ] = None,
    dir: Annotated[
        Path | None, typer.Option("--dir", help="Where trainings write (default: a temporary folder).")
    ] = None,
    patience: Annotated[str, typer.Option(help="How long the server may be away.")] = "10 min",
    quiet: opt.Quiet = False,
) -> None:
    """Train for a server on another machine, until its study is over. Ctrl-C saves the job and gives it back."""
    from luthier import serving
    from luthier.run import limits

    def say(text: str) -> None:
        if not quiet:
            typer.echo(text)

    try:
        serving.work(url, target, token or None, dir, limits.seconds("patience", patience) or 0.0, say)
    except KeyboardInterrupt as stop:
        raise typer.Exit(128 + getattr(stop, "signal", signal.SIGINT)) from None
