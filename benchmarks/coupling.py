"""Does a learning rate that follows the batch size save epochs? A random search over both, with and without it.

For each task and seed the uncoupled search spends the whole budget; what counts is how many epochs the coupled one
needs to reach the uncoupled one's best score (its whole budget where it never does). Real training: scikit-learn's
digits, MLP and CNN of the recipe. Target: at most 0.7 of the epochs on average over five seeds.

    python benchmarks/coupling.py [--seeds 5] [--budget "30 trials"] [--epochs 10] [--strategy random]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path

import luthier as lt
from luthier.api import Result
from luthier.recipe import digits_recipe

RATE = lt.Float(1e-5, 1e-1, log=True)


def space(coupled: bool) -> lt.Space:
    return lt.Space(
        learning_rate=lt.coupled(RATE, "batch_size", reference=64) if coupled else RATE,
        batch_size=lt.Int(8, 512, log=True),
    )


def curve(result: Result) -> list[tuple[float, float]]:
    """(epochs spent, best loss so far) after each trial, in the order of the trials."""
    spent, best, out = 0.0, math.inf, []
    for trial in result.trials():
        spent += trial.spent
        best = min(best, result.history.final_loss(trial))
        out.append((spent, best))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", default="30 trials")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--strategy", default="random")
    given = parser.parse_args()
    rows = []
    for model in ("mlp", "cnn"):
        for seed in range(given.seeds):
            curves = {}
            for coupled in (False, True):
                with tempfile.TemporaryDirectory() as folder:
                    result = lt.tune(
                        digits_recipe(model), space(coupled), metric="val_loss", max_epochs=given.epochs, seed=seed,
                        budget=given.budget, strategy=given.strategy, storage=Path(folder) / "s.db", workers=1,
                        threads=1, quiet=True,
                    )  # fmt: skip
                curves[coupled] = curve(result)
            total, goal = curves[False][-1]
            needed = next((spent for spent, best in curves[True] if best <= goal), total)
            first = next(spent for spent, best in curves[False] if best <= goal)
            rows.append({"task": f"digits_{model}", "seed": seed, "coupled": needed, "uncoupled": first,
                         "best_uncoupled": goal, "best_coupled": curves[True][-1][1]})  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    ratio = statistics.mean(r["coupled"] for r in rows) / statistics.mean(r["uncoupled"] for r in rows)
    better = sum(r["best_coupled"] <= r["best_uncoupled"] for r in rows)
    print(json.dumps({"ratio_of_mean_epochs": round(ratio, 3), "coupled_at_least_as_good": f"{better} of {len(rows)}"}))


if __name__ == "__main__":
    main()
