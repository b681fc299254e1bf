"""The front door for the terminal: ``luthier quickstart | init | tune | resume | show | ls | best | checklist``,
``dashboard``, ``serve``, ``work``, ``report``, ``diagnose``, ``copy``, ``export`` and ``import``. Those that run and
resume no study stand in ``commands.py`` and ``moves.py``.

Exit codes: 0 done, 1 the study could not go on, 2 a mistake in the question, 130 and 143 interrupted (SIGINT, SIGTERM).
"""

from __future__ import annotations

import contextlib
import json as jsonlib
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from luthier import commands, moves
from luthier.commands import HERE, STYLE_HELP, Tune, plain
from luthier.core.errors import Conflict, RunError, UserError, nearest
from luthier.run.crew import LOCAL, Crew
from luthier.run.limits import Limits

app = typer.Typer(
    name="luthier",
    help="Tunes deep-learning training the way a good practitioner does: in stages, saying why.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

MACHINE = "The machine"
SERVER = "The server"

Json = Annotated[bool, typer.Option("--json", help="One JSON object as the last line; progress to standard error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the result.")]
Workers = Annotated[
    str,
    typer.Option(
        "--workers",
        "-w",
        metavar="<int|auto>",
        help="Trials at once; 'auto': what the machine bears; 0: in this process.",
        rich_help_panel=MACHINE,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(help="Processor threads of each worker (default: cores / workers).", rich_help_panel=MACHINE),
]
Gpus = Annotated[
    str | None,
    typer.Option(help="GPUs to deal to the workers: 'auto', how many, or which: 0,1.", rich_help_panel=MACHINE),
]
Processes = Annotated[
    int, typer.Option(help="Processes of each trial, as torchrun starts them.", rich_help_panel=MACHINE)
]
Pin = Annotated[
    bool, typer.Option("--pin", help="Keep each worker to its share of the cores.", rich_help_panel=MACHINE)
]
Seed = Annotated[int, typer.Option(help="Fixes every decision and every training.")]
Place = Annotated[str, typer.Argument(metavar="[STUDY]", help="A folder, a .db file or a storage URL.")]
Timeout = Annotated[
    str | None, typer.Option(help='A trial without a report for so long hangs: "10 min".', rich_help_panel=MACHINE)
]
WorkerMemory = Annotated[
    str | None, typer.Option(help='A larger worker is replaced between two trials: "8 GB".', rich_help_panel=MACHINE)
]
CheckpointSpace = Annotated[
    str | None, typer.Option(help='All checkpoints together: "20 GB".', rich_help_panel=MACHINE)
]
Durability = Annotated[
    str,
    typer.Option(help="What reports survive: the end of every 'process', or of 'power' too.", rich_help_panel=MACHINE),
]
Files = Annotated[
    str | None,
    typer.Option(
        help="A folder for checkpoints and logs (default: as before, else beside the database); or s3://...",
        rich_help_panel=MACHINE,
    ),
]
Executor = Annotated[
    str, typer.Option(help="Where it trains: local, ray, ray:ADDRESS or slurm.", rich_help_panel=MACHINE)
]
Resources = Annotated[
    str | None, typer.Option(help="What each worker on Ray needs: CPU=2,GPU=1.", rich_help_panel=MACHINE)
]
Slurm = Annotated[
    str | None, typer.Option(help="Options of the Slurm jobs: partition=gpu,time=60.", rich_help_panel=MACHINE)
]
Name = Annotated[str | None, typer.Option(help="Which study, where the storage holds several.")]

# The error of a mistyped option or command: typer shows its subclass alone (and carries a click of its own).
USAGE: Any = typer.BadParameter.__mro__[1]

# Names, and not the table itself: that takes longer to import than all the rest. A test holds the two together.
STRATEGY_HELP = (
    "playbook, expert, random, grid, sobol, tpe, gp, cmaes, nsga2, pibo, median, early, halving, asha, hyperband, "
    "bohb, priorband, freeze_thaw, pbt or pb2."
)

SCRIPT = "Scripts (a command after --)"

QUICKSTART_BUDGET = "30 trials"
QUICKSTART_EPOCHS = 12


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


def _strategies(incomplete: str) -> list[str]:
    """For the shell's completion."""
    return [s for s in re.findall(r"\w+", STRATEGY_HELP) if s != "or" and s.startswith(incomplete)]


# What describes a study, for tune and serve alike.
SpaceFile = Annotated[Path | None, typer.Option(help="The search space, YAML or JSON; a Recipe brings one.")]
Maximize = Annotated[list[str] | None, typer.Option(help="The metric to maximize; again for a second one.")]
Minimize = Annotated[list[str] | None, typer.Option(help="The metric to minimize; again for a second one.")]
Metric = Annotated[list[str] | None, typer.Option(help="The metric; its name tells the direction.")]
Constraints = Annotated[
    list[str] | None, typer.Option(help='A bound on a reported metric, "latency_ms <= 20"; again for a second one.')
]
MaxEpochs = Annotated[int, typer.Option(help="Length of a full training.")]
BudgetText = Annotated[str | None, typer.Option(help='"40 trials", "600 epochs" or "2h" (default: 20 trials).')]
Strategy = Annotated[str, typer.Option(help=STRATEGY_HELP, autocompletion=_strategies)]
Reduce = Annotated[str, typer.Option(help="A trial counts with its 'best' epoch or its 'last'.")]
Samples = Annotated[int | None, typer.Option(help="Samples of an epoch, for the expert's priors.")]
WarmStart = Annotated[list[str] | None, typer.Option(help="An earlier study; again for a second one.")]


@app.command()
def quickstart(
    dir: Annotated[Path, typer.Option("--dir", help="Where the study and its report go.")] = Path("luthier-quickstart"),
    seed: Seed = 0,
    workers: Workers = "2",
    budget: Annotated[str, typer.Option(help="In full-length trainings, epochs or time.")] = QUICKSTART_BUDGET,
    max_epochs: MaxEpochs = QUICKSTART_EPOCHS,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tune a small convolutional network on real handwritten digits; ends in a report. About a minute on two cores."""
    from luthier.recipe.digits import digits_recipe

    if dir.exists() and not dir.is_dir():
        raise UserError(f"--dir {str(dir)!r} is a file.", "Name a folder.")
    recipe = digits_recipe()
    _tune(
        recipe,
        None,
        storage=str(dir / "study.db"),
        make_folder=True,
        json=json,
        quiet=quiet,
        crew=Crew(workers),
        max_epochs=max_epochs,
        budget=budget,
        seed=seed,
        strategy="playbook",
        name="quickstart",
    )


app.command()(commands.init)


@app.command(cls=Tune)
def tune(
    ctx: typer.Context,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[TARGET | -- COMMAND...]",
            help="FILE.py:NAME or MODULE:NAME of a training function or a Recipe; or after -- a command that trains.",
        ),
    ] = None,
    space: SpaceFile = None,
    maximize: Maximize = None,
    minimize: Minimize = None,
    metric: Metric = None,
    constraint: Constraints = None,
    max_epochs: MaxEpochs = 30,
    budget: BudgetText = None,
    strategy: Strategy = "playbook",
    workers: Workers = "1",
    threads: Threads = None,
    gpus: Gpus = None,
    processes: Processes = 1,
    pin: Pin = False,
    executor: Executor = LOCAL,
    resources: Resources = None,
    slurm: Slurm = None,
    storage: Annotated[str, typer.Option(help="A folder, a .db file or a storage URL.")] = HERE,
    name: Name = None,
    seed: Seed = 0,
    reduce: Reduce = "best",
    samples: Samples = None,
    warm_start: WarmStart = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be run first, and run nothing.")] = False,
    style: Annotated[str | None, typer.Option(help=STYLE_HELP, rich_help_panel=SCRIPT)] = None,
    template: Annotated[
        Path | None, typer.Option(help="A configuration file, written anew for each trial.", rich_help_panel=SCRIPT)
    ] = None,
    regex: Annotated[
        list[str] | None, typer.Option(help="What to find in the output, by named groups.", rich_help_panel=SCRIPT)
    ] = None,
    csv: Annotated[
        str | None, typer.Option(help="A table of metrics that the script writes.", rich_help_panel=SCRIPT)
    ] = None,
    tensorboard: Annotated[
        str | None, typer.Option(help="A folder of event files that it writes.", rich_help_panel=SCRIPT)
    ] = None,
    steps_per_epoch: Annotated[
        float | None, typer.Option(help="What an epoch is in the steps that it prints.", rich_help_panel=SCRIPT)
    ] = None,
    resume_flag: Annotated[
        str | None, typer.Option(help="Arguments that make it go on: '--resume {checkpoint}'.", rich_help_panel=SCRIPT)
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Its checkpoints, a pattern below {out}.", rich_help_panel=SCRIPT)
    ] = None,
    cwd: Annotated[str | None, typer.Option(help="Where it runs (default: here).", rich_help_panel=SCRIPT)] = None,
    grace: Annotated[
        float | None, typer.Option(help="Seconds from SIGTERM to SIGKILL (default: 10).", rich_help_panel=SCRIPT)
    ] = None,
    timeout: Timeout = None,
    worker_memory: WorkerMemory = None,
    checkpoint_space: CheckpointSpace = None,
    durability: Durability = "process",
    files: Files = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tune a training function, a Recipe or any training script. An interrupted study goes on with the same command.

    luthier tune --space space.yaml --minimize val_loss -- python main.py --lr {learning_rate}
    """
    options = {
        "style": style,
        "template": template,
        "regex": regex,
        "csv": csv,
        "tensorboard": tensorboard,
        "steps_per_epoch": steps_per_epoch,
        "resume": resume_flag,
        "checkpoint": checkpoint,
        "cwd": cwd,
        "grace": grace,
    }
    _tune(
        commands.target_of(target, ctx.meta.get(commands.AFTER), options),
        _read_space(space) if space else None,
        dry_run=dry_run,
        storage=storage,
        make_folder=False,
        json=json,
        quiet=quiet,
        maximize=maximize,
        minimize=minimize,
        metric=metric,
        constraints=constraint,
        max_epochs=max_epochs,
        budget=budget,
        strategy=strategy,
        crew=Crew(workers, threads, gpus, processes, pin, executor, resources, slurm),
        name=name,
        seed=seed,
        reduce=reduce,
        samples=samples,
        warm_start=warm_start or (),
        limits=Limits.of(timeout, worker_memory, checkpoint_space),
        durability=durability,
        files=files,
    )


@app.command()
def resume(
    study: Place = HERE,
    name: Name = None,
    workers: Workers = "1",
    threads: Threads = None,
    gpus: Gpus = None,
    processes: Processes = 1,
    pin: Pin = False,
    executor: Executor = LOCAL,
    resources: Resources = None,
    slurm: Slurm = None,
    budget: Annotated[
        str | None,
        typer.Option(help="A new budget; a finished study goes on with it."),
    ] = None,
    target: Annotated[str | None, typer.Option(help="Where the training function is now, FILE.py:NAME.")] = None,
    timeout: Timeout = None,
    worker_memory: WorkerMemory = None,
    checkpoint_space: CheckpointSpace = None,
    durability: Durability = "process",
    files: Files = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a study that was interrupted or killed, or whose budget grew."""
    from dataclasses import replace

    from luthier import api, request, store
    from luthier import target as targets
    from luthier.core.study import Budget
    from luthier.run.book import Book
    from luthier.run.lock import driving
    from luthier.view.console import Console

    crew = Crew(workers, threads, gpus, processes, pin, executor, resources, slurm)
    limits = Limits.of(timeout, worker_memory, checkpoint_space)
    log = store.open_store(study, name, durability)
    with contextlib.closing(log), contextlib.ExitStack() as stack:
        place, cloud = store.files_needed(log, files), store.cloud_of(log, files)
        stack.enter_context(driving(place, log.name, log.drivers is not None))
        book = Book.open(log)
        if book is None:
            raise UserError(
                f"{store.shown(study)} holds a study without a single event.", "Start it again with luthier tune."
            )
        asked = book.history.study
        if asked.strategy == "custom":
            raise UserError(
                "This study was driven by a strategy object, which only its own script can make.",
                "Run that script again: lt.tune(...) with the same storage= goes on where it stopped.",
            )
        trains = targets.load(target) if target else targets.recall(asked.target, store.file_of(log.url))
        if budget is not None:
            now = replace(asked, space=book.history.asked_space, budget=Budget.parse(budget, asked.max_epochs))
            request.go_on(book, now)
        if files is not None:
            log.keep_files(files)
        console = Console(json=json, quiet=quiet)
        with _interruptible("luthier resume", study):
            result = api.drive(book, trains, asked.strategy, crew, place, console, limits=limits, cloud=cloud)
    _finish(result, _report_path(log.url), json)


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
    typer.echo(write_report(history, output or _report_path(url), insight.lesson(history)))


@app.command()
def dashboard(
    studies: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STUDY...]", help=f"Folders, .db files or storage URLs (default: {HERE})."),
    ] = None,
    name: Name = None,
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


@app.command()
def serve(
    study: Place,
    space: SpaceFile = None,
    maximize: Maximize = None,
    minimize: Minimize = None,
    metric: Metric = None,
    constraint: Constraints = None,
    max_epochs: MaxEpochs = 30,
    budget: BudgetText = None,
    strategy: Strategy = "playbook",
    name: Name = None,
    seed: Seed = 0,
    reduce: Reduce = "best",
    samples: Samples = None,
    warm_start: WarmStart = None,
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
    files: Files = None,
    checkpoint_space: CheckpointSpace = None,
    durability: Durability = "process",
    json: Json = False,
    quiet: Quiet = False,
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
    with _interruptible("luthier serve", study):
        result = serving.serve(
            study,
            name,
            _read_space(space) if space else None,
            target,
            asked,
            Console(json=json, quiet=quiet),
            how,
            limits=Limits.of(checkpoint_space=checkpoint_space),
            durability=durability,
            files=files,
        )
    _finish(result, _report_path(store.locate(study)), json)


@app.command()
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
    quiet: Quiet = False,
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


app.command()(commands.diagnose)
app.command()(moves.copy)
app.command()(moves.export)
app.command("import")(moves.import_)


# -- the parts ---------------------------------------------------------------------------------------------------------


def _tune(
    target: Callable[..., Any],
    space: Any,
    *,
    storage: str,
    make_folder: bool,
    json: bool,
    quiet: bool,
    crew: Crew,
    dry_run: bool = False,
    limits: Limits | None = None,
    durability: str = "process",
    files: str | None = None,
    **asked: Any,
) -> None:
    from luthier import api, store
    from luthier.view.console import Console

    console = Console(json=json, quiet=quiet)
    url = store.locate(storage)
    study = api.prepare(target, space, console.say, **asked)
    if dry_run:
        commands.dry_run(study, target, url, json)
        return
    file = store.file_of(url)
    if make_folder and file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    with _interruptible("luthier resume", storage):
        result = api.launch(
            study, target, asked["strategy"], url, crew, console, limits=limits, durability=durability, files=files
        )
    _finish(result, _report_path(url), json)


class _interruptible:
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


def _finish(result: Any, page: Path, json: bool) -> None:
    from luthier.view.closing import closing
    from luthier.view.story import verdict

    written = result.report(page)
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


def _read(study: str, name: str | None) -> Any:
    from luthier import store

    log = store.open_store(study, name)
    try:
        return store.history_of(log)
    finally:
        log.close()


def _report_path(url: str) -> Path:
    """``report.html`` beside ``study.db``, ``NAME.report.html`` beside any other file; here for a server's database."""
    from luthier import store

    file = store.file_of(url)
    if file is None:
        return Path("report.html")
    return file.parent / ("report.html" if file.name == "study.db" else f"{file.stem}.report.html")


def _read_space(path: Path) -> Any:
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
