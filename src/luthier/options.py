"""The options of the command line that several commands have, each written once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

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

# Names, and not the table itself: that takes longer to import than all the rest. A test holds the two together.
STRATEGY_HELP = (
    "playbook, expert, random, grid, sobol, tpe, gp, cmaes, nsga2, pibo, median, early, halving, asha, hyperband, "
    "bohb, priorband, freeze_thaw, pbt or pb2."
)

SCRIPT = "Scripts (a command after --)"


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
BudgetText = Annotated[
    str | None, typer.Option(help='"40 trials", "600 epochs" or "2h" (default: a stored study\'s own, else 20 trials).')
]
Strategy = Annotated[
    str,
    typer.Option(
        help=STRATEGY_HELP.replace(",", " (default),", 1),  # a line of its own would push the help off the screen
        show_default=False,
        autocompletion=_strategies,
    ),
]
Reduce = Annotated[str, typer.Option(help="A trial counts with its 'best' epoch or its 'last'.")]
Samples = Annotated[int | None, typer.Option(help="Samples of an epoch, for the expert's priors.")]
WarmStart = Annotated[list[str] | None, typer.Option(help="An earlier study; again for a second one.")]
Enqueue = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="Train a configuration first: lr=3e-4,layers=2, or a YAML or JSON file; again for a second one.",
    ),
]
Fix = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="Hold a hyperparameter of the space at a value; again for a second one."),
]
