"""The tables and the figure of what was run.

    cd benchmarks
    python -m search.report --results results/search                   # every table
    python -m search.report --results results/search --table regret    # or any other of TABLES
    python -m search.report --results results/search --json report.json --figure report.html

--task and --method choose (commas; ``live``, ``functions`` and ``taskset`` are groups of tasks), --runs leaves out
methods with fewer runs on some task. --results takes several folders, say the peers' and that of a method at work.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from search.functions import FUNCTIONS
from search.live import LIVE
from search.measure import MARKS, Regrets, geometric, regrets
from search.peers import PEERS
from search.records import read_all

VARIANTS = ("badprior", "badroles", "noprior")
"""The ends of the names of those methods that are told less than the truth."""

Table = Callable[[Regrets, Sequence[str]], list[list[str]]]
"""Rows of cells, the first of them the heads."""


def _marks(seen: Regrets) -> list[int]:
    return [m for m in MARKS if m <= seen.budget] or [seen.budget]


def regret(seen: Regrets, methods: Sequence[str]) -> list[list[str]]:
    """Mean normalised regret over tasks and runs, with 95 % bootstrap intervals; last, its mean over the budget."""
    marks = _marks(seen)
    rows = [["method", "runs", *(f"after {m}" for m in marks), "mean"]]
    for method in methods:
        mean, (low, high) = seen.mean(method), seen.interval(method)
        runs = min(len(seen.curves[t][method]) for t in seen.tasks)
        cells = [f"{mean[m - 1]:.3f} ({low[m - 1]:.3f} to {high[m - 1]:.3f})" for m in marks]
        rows.append([method, str(runs), *cells, f"{mean.mean():.3f}"])
    return rows


def tasks(seen: Regrets, methods: Sequence[str]) -> list[list[str]]:
    """Mean normalised regret on each task, after ten full trainings / at the end."""
    early = min(10, seen.budget) - 1
    rows = [["method", *seen.tasks]]
    for method in methods:
        curves = [seen.curves[t][method].mean(0) for t in seen.tasks]
        rows.append([method, *(f"{c[early]:.3f} / {c[-1]:.3f}" for c in curves)])
    return rows


def rank(seen: Regrets, methods: Sequence[str]) -> list[list[str]]:
    """The mean rank over tasks, 1 the best, as the budget is spent; the last column is its mean."""
    marks = sorted({1, 2, *_marks(seen)})
    ranks = seen.ranks(methods)
    rows = [["method", *(f"after {m}" for m in marks), "mean"]]
    best_first = sorted(methods, key=lambda m: ranks[m].mean())
    return rows + [[m, *(f"{ranks[m][i - 1]:.1f}" for i in marks), f"{ranks[m].mean():.1f}"] for m in best_first]


def reach(seen: Regrets, methods: Sequence[str]) -> list[list[str]]:
    """Full trainings until a method is as good as the best peer is with all of its budget; - where it never is."""
    peers = [m for m in methods if m in PEERS]
    if not peers:
        return []
    rows = [["method", "geometric mean", "tasks reached", *seen.tasks]]
    for method in methods:
        needed = seen.reach(method, peers)
        count = sum(np.isfinite(v) for v in needed.values())
        cells = [f"{v:.0f}" if np.isfinite(v) else "-" for v in needed.values()]
        rows.append([method, f"{geometric(needed, seen.budget):.1f}", f"{count} of {len(needed)}", *cells])
    return rows


def cost(seen: Regrets, methods: Sequence[str]) -> list[list[str]]:
    """CPU seconds of deciding for each training that was begun, how many were begun, and of training for each run."""
    rows = [["method", "deciding, s a training", "trainings a run", "training, s a run"]]
    for method in methods:
        bills = seen.bills[method]
        begun, train = (np.mean([b[key] for b in bills]) for key in ("trainings", "train_cpu"))
        rows.append([method, f"{seen.seconds(method):.3f}", f"{begun:.0f}", f"{train:.1f}"])
    return rows


def prior(seen: Regrets, methods: Sequence[str]) -> list[list[str]]:
    """The regret of a method as it is; of its user 2.5 decades off in the rate; of roles as far off; without names."""
    told = {m.rsplit("_", 1)[0] for m in methods if m.endswith(VARIANTS)}
    shown = [n for m in sorted(told) for n in (m, *(f"{m}_{v}" for v in VARIANTS)) if n in methods]
    return regret(seen, shown) if shown else []


def scale(seen: Regrets, methods: Sequence[str]) -> list[list[str]]:
    """Each task's metric where the regret is 0 and 1."""
    rows = [["task", "best known", "median of random full trainings"]]
    return rows + [[t, f"{s.best:.4f}", f"{s.median:.4f}"] for t, s in seen.scales.items()]


def winners(seen: Regrets, methods: Sequence[str]) -> list[list[str]]:
    """The configuration of the best value that was seen on each task: they have little in common."""
    rows = [["task", "configuration"]]
    for task, config in seen.winners.items():
        cells = (f"{n} {v:.2g}" if isinstance(v, float) else f"{n} {v}" for n, v in config.items())
        rows.append([task, ", ".join(cells)])
    return rows


TABLES: dict[str, Table] = {
    "regret": regret, "tasks": tasks, "rank": rank, "reach": reach, "cost": cost, "prior": prior, "scale": scale,
    "winners": winners,
}  # fmt: skip
"""By name."""


def markdown(rows: list[list[str]]) -> str:
    """The rows as a table."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def as_json(seen: Regrets, methods: Sequence[str]) -> dict[str, object]:
    """Everything that the tables and the figure show, as data."""
    ranks = seen.ranks(methods)
    peers = [m for m in methods if m in PEERS]
    return {
        "tasks": {t: {"best": s.best, "median": s.median} for t, s in seen.scales.items()},
        "methods": {
            m: {
                "regret": seen.mean(m).tolist(),
                "low": seen.interval(m)[0].tolist(),
                "high": seen.interval(m)[1].tolist(),
                "rank": ranks[m].tolist(),
                "reach": {t: v if np.isfinite(v) else None for t, v in seen.reach(m, peers).items()} if peers else {},
                "seconds": seen.seconds(m),
                "runs": {t: len(seen.curves[t][m]) for t in seen.tasks},
                "by_task": {t: seen.curves[t][m].mean(0).tolist() for t in seen.tasks},
            }
            for m in methods
        },
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, nargs="+", default=[Path("results/search")], help="one folder or more")
    parser.add_argument("--table", choices=TABLES, help="this one only")
    parser.add_argument("--task", default="live", help="names, live, functions, taskset, or all")
    parser.add_argument("--method", help="names; all that were run on every task where left out")
    parser.add_argument("--runs", type=int, default=1, help="the fewest runs on each task")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path, help="an HTML file")
    given = parser.parse_args(argv)
    wanted = given.task.split(",")

    def asked(task: str) -> bool:
        group = "live" if task in LIVE else "functions" if task in FUNCTIONS else "taskset"
        return bool({"all", group, task} & set(wanted))

    found = [r for folder in given.results for r in read_all(folder) if asked(r.task)]
    if not found:
        raise SystemExit(f"No records of {given.task} there: python -m search.run --out {given.results[0]}")
    seen = regrets(found)
    methods = seen.complete(given.runs)
    if given.method:
        named = given.method.split(",")
        if missing := [m for m in named if m not in methods]:
            raise SystemExit(
                f"Not run {given.runs} times on each task: {', '.join(missing)}. There are: {', '.join(methods)}"
            )
        methods = [m for m in methods if m in named]
    for name, table in TABLES.items():
        if given.table in (None, name) and (rows := table(seen, methods)):
            print(f"\n{name}: {(table.__doc__ or '').strip()}\n\n{markdown(rows)}")
    left = sorted({m for t in seen.tasks for m in seen.curves[t]} - set(seen.complete(given.runs)))
    if left and given.table is None:
        print(f"\nleft out, not on every task yet: {', '.join(left)}")
    if given.json:
        given.json.write_text(json.dumps(as_json(seen, methods), indent=1))
    if given.figure:
        from search.figure import figure

        figure(seen, methods).write_html(given.figure)


if __name__ == "__main__":
    main()
