"""Does population-based training beat the best fixed rate, where the best rate changes over training?

    python benchmarks/pbt.py [--seeds 5] [--trainings 12] [--epochs 30] [--fresh 3]

Noisy digits, an MLP under SGD with momentum, the rate constant as long as nobody changes it: early a large one is
best, late a small one. Each search gets the same number of epochs. PBT and PB2 spend them on a population, random and
grid search on fixed rates; a random search under a cosine schedule stands beside them, for what a known schedule does.

Every answer is then trained again from scratch on fresh seeds, the schedules by ``lt.Replay``: that score counts, for
the search's own is the best of many. The fresh seeds share the validation data with the search.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time

import tasks
import torch
from scipy import stats

import luthier as lt

RATE = lt.Float(1e-3, 1.0, log=True)
ARMS = {
    "random, fixed rate": ("random", "constant"),
    "grid, fixed rate": ("grid", "constant"),
    "PBT": ("pbt", "constant"),
    "PB2": ("pb2", "constant"),
    "random, cosine": ("random", "cosine"),
}
AGAINST = "random, fixed rate"


def space(schedule: str) -> lt.Space:
    held = {"optimizer": "sgd", "schedule": schedule, "warmup": 0.0, "batch_size": 32}
    return lt.Space(learning_rate=RATE, **{name: lt.Constant(value) for name, value in held.items()})


def tuned(recipe: lt.Recipe, schedule: str, strategy: object, epochs: int, seed: int, budget: str | None) -> lt.Result:
    return lt.tune(
        recipe, space(schedule), maximize="val_accuracy", max_epochs=epochs, seed=seed, budget=budget,
        strategy=strategy, workers=0, quiet=True,
    )  # fmt: skip


def grid_of(trainings: int) -> object:
    """The grid with as many rates as there are trainings."""
    from luthier.schedule.full import Full
    from luthier.search.grid import Grid

    return Full(Grid(resolution=trainings))


def interval(values: list[float]) -> str:
    """Mean and two-sided 95 % interval (Student's t), in percentage points."""
    mean, half = 100 * statistics.mean(values), math.nan
    if len(values) > 1:
        half = 100 * stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.2f} ({mean - half:.2f} to {mean + half:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trainings", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--fresh", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe = tasks.digits_mlp()
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    again: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for seed in range(args.seeds):
        for arm, (strategy, schedule) in ARMS.items():
            began = time.perf_counter()
            method = grid_of(args.trainings) if strategy == "grid" else strategy
            result = tuned(recipe, schedule, method, args.epochs, seed, f"{args.trainings} trials")
            segments = result.lineage()
            if len(segments) == 1:  # a fixed rate is trained to the end, wherever its best epoch lay
                segments = [(0, args.epochs, dict(result.best_config))]
            fresh = []
            for i in range(args.fresh):
                replay = lt.Replay(segments, seed=1000 * (seed + 1) + i)
                fresh.append(tuned(recipe, schedule, replay, args.epochs, seed, None).best_score)
            found[arm].append(result.best_score)
            again[arm].append(statistics.mean(fresh))
            rates = [f"{s.from_epoch}: {s.config['learning_rate']:.2g}" for s in result.lineage()]
            row = {"arm": arm, "seed": seed, "epochs": result.history.spent, "found": found[arm][-1]}
            row |= {"again": again[arm][-1], "rates": rates, "seconds": round(time.perf_counter() - began, 1)}
            print(json.dumps(row), flush=True)
    print("\n| search | its own best score, % | trained again on fresh seeds, % | against random, points |")
    print("|---|---|---|---|")
    for arm in ARMS:
        gains = [a - b for a, b in zip(again[arm], again[AGAINST])]
        against = "–" if arm == AGAINST else interval(gains)
        print(f"| {arm} | {interval(found[arm])} | {interval(again[arm])} | {against} |")


if __name__ == "__main__":
    main()
