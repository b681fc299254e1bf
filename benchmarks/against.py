"""How good is the best so far after 5, 10, 20, 30 full trainings? The playbook against Optuna's TPE and random search.

Two live tasks with eleven hyperparameters each (`tasks.py`), searched without knowing anything of the space but the
names in it. The best validation error seen at any epoch of any training counts, wherever the epochs were spent, probes
and the proof at the end included. Normalised regret: 0 is the best error that any run here has seen, 1 the median of
random full trainings.

    python benchmarks/against.py [--seeds 5] [--trials 30] [--strategies playbook,tpe,random] [--out against.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import tasks
import torch

import luthier as lt

MARKS = (5, 10, 20, 30)


def errors(result: lt.Result, epochs: int) -> tuple[list[float], list[float]]:
    """The best validation error after each epoch spent, and that of each random full training by itself."""
    best, curve, each = 1.0, [], []
    for trial in sorted(result.history.trials, key=lambda t: t.id):
        if trial.probe is not None:
            curve += [best] * round(trial.spent)
            continue
        seen = []
        for report in trial.reports:
            seen.append(1.0 - report.metrics.get("val_accuracy", 0.0))
            best = min(best, seen[-1])
            curve.append(best)
        if trial.horizon == epochs and seen:
            each.append(min(seen))
    return curve, each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--strategies", default="playbook,tpe,random")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    strategies = given.strategies.split(",")
    regret: dict[str, dict[int, list[float]]] = {s: {m: [] for m in MARKS} for s in strategies}
    for task, (make, epochs, *_) in tasks.TASKS.items():
        recipe, curves, scale = make(), {}, []
        for strategy in strategies:
            for seed in range(given.seeds):
                result = lt.tune(
                    recipe, tasks.space(task), max_epochs=epochs, budget=f"{given.trials} trials", strategy=strategy,
                    seed=seed, workers=0, quiet=True,
                )  # fmt: skip
                curves[strategy, seed], each = errors(result, epochs)
                scale += each if strategy == "random" else []
        best = min(curve[-1] for curve in curves.values())
        middle = statistics.median(scale) if scale else 1.0
        for (strategy, _), curve in curves.items():
            for mark in MARKS:
                error = curve[min(mark * epochs, len(curve)) - 1]
                regret[strategy][mark].append((error - best) / (middle - best))
        print(json.dumps({"task": task, "best": round(best, 4), "median_random": round(middle, 4)}), flush=True)
    rows = {s: {m: round(statistics.mean(v), 4) for m, v in regret[s].items()} for s in strategies}
    for strategy, row in rows.items():
        print(f"{strategy:10s}", "  ".join(f"@{mark} {value:.4f}" for mark, value in row.items()), flush=True)
    if given.out:
        given.out.write_text(json.dumps(regret))


if __name__ == "__main__":
    main()
