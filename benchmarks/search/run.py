"""Run methods on tasks: one record for each task, method and seed. What is there already is not run again.

    cd benchmarks
    python -m search.run --method playbook --out results/search                   # on every live task, seeds 0 to 4
    python -m search.run --method tpe,random --task digits_mlp --seed 0,1 --out results/search
    python -m search.run --method playbook --task taskset --taskset taskset.npz --out results/search
    python -m search.run --list

--task takes names, ``live`` (the default), ``functions``, ``taskset`` or ``all``; --method takes names.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is loaded: one process, one core

import argparse
import json
import random
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from search import records
from search.functions import FUNCTIONS
from search.live import LIVE
from search.methods import METHODS, Method
from search.session import BudgetSpentError, Session
from search.task import Task
from search.tasks import tasks


def run(make: Callable[[], Task], name: str, method: Method, seed: int, trials: int, folder: Path) -> Path | None:
    """Run ``method`` on a task and write its record; at once its path where that is there already.

    Returns:
        The record, or None where the method failed: what it left is in ``*.failed``, with the error in the last line.
    """
    task = make()
    path = records.path_of(folder, task.name, name, seed)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".part{os.getpid()}")
    with part.open("w") as file:

        def sink(line: Mapping[str, object]) -> None:
            file.write(json.dumps(line) + "\n")

        sink(
            {
                "task": task.name, "method": name, "seed": seed, "epochs": task.epochs, "trials": trials,
                "metric": task.metric, "reference": task.reference,
            }
        )  # fmt: skip
        session = Session(task, seed, trials, sink)
        # Some peers draw from the global generators.
        random.seed(session.seed)
        np.random.seed(session.seed % 2**32)
        torch.manual_seed(session.seed)
        failed = None
        try:
            method(session)
        except BudgetSpentError:
            pass
        except Exception as error:
            traceback.print_exc()
            failed = f"{type(error).__name__}: {error}"
        sink({"bill": asdict(session.bill()), "failed": failed})
    part.replace(path.with_suffix(".failed") if failed else path)
    bill = session.bill()
    told = (
        f"{task.name:16s} {name:22s} seed {seed}  best {bill.best:.4f}", f"{bill.trainings} trainings",
        f"{bill.epochs} epochs", f"{bill.train_cpu:.0f} s training", f"{bill.decide_cpu:.1f} s deciding",
        *([f"FAILED: {failed}"] if failed else ()),
    )  # fmt: skip
    print(", ".join(told), flush=True)
    return None if failed else path


def chosen(asked: str, known: Mapping[str, object], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """The names in a list of names and groups.

    Raises:
        SystemExit: a name is neither.
    """
    out: list[str] = []
    for word in asked.split(","):
        if word not in known and word not in groups:
            raise SystemExit(f"There is no {word!r}. There are: {', '.join([*groups, *known])}")
        out += groups.get(word, [word])
    return list(dict.fromkeys(out))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="playbook")
    parser.add_argument("--task", default="live")
    parser.add_argument("--seed", default="0,1,2,3,4")
    parser.add_argument("--trials", type=int, default=30, help="the budget, in full trainings")
    parser.add_argument("--taskset", type=Path, help="the file of the tabulated tasks")
    parser.add_argument("--out", type=Path, default=Path("results/search"))
    parser.add_argument("--list", action="store_true", help="the names of tasks and methods")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    all_tasks, all_methods = tasks(given.taskset), METHODS
    if given.list:
        print("tasks  ", *all_tasks)
        print("methods", *all_methods)
        return
    tabulated = [name for name in all_tasks if name not in LIVE and name not in FUNCTIONS]
    groups = {"live": [*LIVE], "functions": [*FUNCTIONS], "taskset": tabulated, "all": [*all_tasks]}
    if given.task == "taskset" and not tabulated:
        raise SystemExit("The tabulated tasks need --taskset FILE.")
    failed = False
    # Seeds outermost: whoever stops early has all methods on all tasks with some seeds.
    for seed in (int(s) for s in given.seed.split(",")):
        for task in chosen(given.task, all_tasks, groups):
            for name in chosen(given.method, all_methods, {}):
                failed |= run(all_tasks[task], name, all_methods[name], seed, given.trials, given.out) is None
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
