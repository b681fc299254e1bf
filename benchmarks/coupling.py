"""Does a learning rate that follows the batch size save epochs? The same search with and without it, on two tasks.

For each task and seed the uncoupled search spends the whole budget. What counts is the part of that budget which the
coupled search needs to reach the uncoupled one's best score (all of it where it never does), the mean over all pairs of
seeds. Two searches that do not differ at all do not need all of it: for random search the mean is ln 2 = 0.69, for the
best of N trials lies anywhere among them. So the same figure for the uncoupled search against itself, under other
seeds, stands beside it, and the quotient of the two is what the coupling saves.

    python benchmarks/coupling.py [--seeds 5] [--trials 30] [--strategies tpe,random] [--spaces narrow,wide]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from itertools import product

import tasks
import torch

import luthier as lt

RATES = {"wide": lt.Float(1e-6, 1.0, log=True), "narrow": lt.Float(1e-4, 1e-1, log=True)}
"""``wide``: all eleven hyperparameters. ``narrow``: rate and batch size alone, the others at good values."""


def space(task: str, kind: str, coupled: bool) -> lt.Space:
    by = "optimizer" if kind == "wide" else None
    rate = lt.coupled(RATES[kind], "batch_size", reference=64, by=by) if coupled else RATES[kind]
    if kind == "wide":
        return tasks.space(task, rate)
    return lt.Space(learning_rate=rate, batch_size=lt.Int(*tasks.TASKS[task][2], log=True))


def curve(recipe: lt.Recipe, given: lt.Space, strategy: str, trials: int, epochs: int, seed: int) -> list[float]:
    """The best loss so far after each trial."""
    result = lt.tune(
        recipe, given, metric="val_accuracy", max_epochs=epochs, seed=seed, budget=f"{trials} trials",
        strategy=strategy, workers=0, quiet=True,
    )  # fmt: skip
    best, out = math.inf, []
    for trial in result.trials():
        best = min(best, result.history.final_loss(trial))
        out.append(best)
    return out


def needed(search: list[float], goal: float) -> float:
    """The part of the trials after which ``search`` has reached ``goal``; all of them, 1, where it never does."""
    return next((i for i, best in enumerate(search, 1) if best <= goal), len(search)) / len(search)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--strategies", default="tpe,random")
    parser.add_argument("--spaces", default="narrow,wide")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for strategy, kind in product(given.strategies.split(","), given.spaces.split(",")):
        with_it, without = [], []
        for name, (make, epochs, *_) in tasks.TASKS.items():
            recipe = make()
            curves = {
                coupled: [
                    curve(recipe, space(name, kind, coupled), strategy, given.trials, epochs, seed)
                    for seed in range(given.seeds)
                ]
                for coupled in (False, True)
            }
            for i, j in product(range(given.seeds), repeat=2):
                goal = curves[False][j][-1]
                with_it.append(needed(curves[True][i], goal))
                if i != j:
                    without.append(needed(curves[False][i], goal))
            ends = {c: statistics.mean(search[-1] for search in curves[c]) for c in curves}
            row = {"task": name, "strategy": strategy, "space": kind, "coupled": ends[True], "uncoupled": ends[False]}
            print(json.dumps({key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()}), flush=True)
        a, b = statistics.mean(with_it), statistics.mean(without)
        summary = {"strategy": strategy, "space": kind, "part_of_the_budget": a, "uncoupled_against_itself": b}
        print(json.dumps({**summary, "saves": 1 - a / b}), flush=True)


if __name__ == "__main__":
    main()
