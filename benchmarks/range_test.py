"""Does the range test find the rate that the whole training wants? On each of the six examples, with its own defaults.

For each example: the range test, and a sweep of nine rates, half a decade apart from 1e-5 to 1e-1, each trained to the
example's full length with the same few seeds. The best rate is the one with the best mean score, and beside it stands
the span of the rates whose mean is within twice its standard error of the best. Targets: the best rate within the
suggested center +- 2 spreads on all six; the center within a factor of 3 of it on at least four.

    python benchmarks/range_test.py [--only images,regression] [--seeds 3] [--out range_test.json]
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import statistics
import sys
import time
from pathlib import Path

import torch

import luthier as lt
from luthier.diagnosis import LRSuggestion, suggest_lr

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

RATES = [10.0 ** (-5 + i / 2) for i in range(9)]
EPOCHS = {"images": 6, "point_clouds": 6, "regression": 12, "imbalanced": 10, "text_finetune": 4, "causal_lm": 3}
"""The examples' own ``--max-epochs``."""


class Run:
    """The trial of one training: keeps what it reports, and no checkpoint."""

    def __init__(self, config, epochs, seed):
        self.config, self.max_epochs, self.seed = config, epochs, seed
        self.reports = []

    def epochs(self, **stateful):
        yield from range(1, self.max_epochs + 1)

    def report(self, **metrics):
        self.reports.append({name: float(value) for name, value in metrics.items()})


def score(train, config, epochs, seed, metric, maximize) -> float:
    """The best epoch's metric, as a loss; infinite where training broke."""
    torch.manual_seed(seed)
    run = Run(config, epochs, seed)
    train(run)
    seen = [-r[metric] if maximize else r[metric] for r in run.reports if math.isfinite(r[metric])]
    return min(seen, default=math.inf)


def recipe_case(module):
    """An example on the recipe: its training, its metric, and the recipe's own range test."""
    recipe = module.recipe()

    def test(config) -> tuple[list[float], list[list[float]]]:
        answer, _ = recipe.probe("lr_range", config, 0)
        return answer["lrs"], answer["losses"]

    return recipe, recipe.metric, not recipe.minimize, test


def own_loop_case(module):
    """The example with a loop of its own: the range test as a function, on one update of that loop."""
    x, y, x_val, y_val = module.data()

    def test(config) -> tuple[list[float], list[list[float]]]:
        torch.manual_seed(0)
        model, optimizer, loss_of = module.build(config, x, y)

        def step():
            batch = torch.randint(len(x), (64,))
            loss = loss_of(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        found = lt.lr_range_test(step, model, optimizer)
        return list(found.lrs), [list(repeat) for repeat in found.losses]

    return module.training(x, y, x_val, y_val), "balanced_accuracy", True, test


def measure(name: str, seeds: int) -> dict:
    module = importlib.import_module(name)
    train, metric, maximize, test = (recipe_case if hasattr(module, "recipe") else own_loop_case)(module)
    config = module.SPACE.complete({})
    began = time.perf_counter()
    lrs, losses = test(config)
    cost = time.perf_counter() - began
    sweep = {}
    for rate in RATES:
        values = [
            score(train, {**config, "learning_rate": rate}, EPOCHS[name], seed, metric, maximize)
            for seed in range(seeds)
        ]
        sweep[rate] = values
        print(f"  {name} {rate:.1e} {[round(v, 4) for v in values]}", flush=True)
    return {"example": name, "metric": metric, "maximize": maximize, "seconds": round(cost, 1), "lrs": lrs,
            "losses": losses, "sweep": {f"{rate:.3e}": values for rate, values in sweep.items()}}  # fmt: skip


def judge(row: dict, suggestion: LRSuggestion) -> dict:
    """What the table says of one example."""
    means = {float(rate): statistics.mean(values) for rate, values in row["sweep"].items()}
    best = min(means, key=means.__getitem__)
    values = row["sweep"][f"{best:.3e}"]
    noise = 2 * statistics.stdev(values) * math.sqrt(2 / len(values)) if len(values) > 1 else 0.0
    good = [rate for rate, mean in means.items() if mean <= means[best] + noise]
    out = {"example": row["example"], "best": best, "good": [min(good), max(good)], "center": suggestion.center,
           "spread": suggestion.spread_decades, "upper": suggestion.upper, "confidence": suggestion.confidence,
           "rules": suggestion.rules}  # fmt: skip
    if suggestion.center is not None:
        apart = abs(math.log10(best / suggestion.center))
        out |= {"factor": 10**apart, "within": apart <= 2 * suggestion.spread_decades}
    return out


def table(rows: list[dict]) -> str:
    lines = ["| example | best of the sweep (as good) | suggested | confidence | apart by | within 2 spreads |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows:
        if row["center"] is None:
            lines.append(f"| {row['example']} | {row['best']:.1e} | none | none | | |")
            continue
        low, high = row["good"]
        lines.append(
            f"| {row['example']} | {row['best']:.1e} ({low:.1e} to {high:.1e}) | {row['center']:.1e} "
            f"(+- {row['spread']:g} decades) | {row['confidence']} | {row['factor']:.1f} | "
            f"{'yes' if row['within'] else 'no'} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(EPOCHS), help="examples, separated by commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="keep the ladders and the sweeps, as JSON")
    parser.add_argument("--read", type=Path, help="judge what --out has kept, in place of training")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.read:
        measured = json.loads(given.read.read_text())
    else:
        measured = []
        for name in given.only.split(","):
            measured.append(measure(name, given.seeds))
            if given.out:
                given.out.write_text(json.dumps(measured))
    rows = [judge(row, suggest_lr(row["lrs"], row["losses"])) for row in measured]
    print(table(rows))
    within, near = sum(r.get("within", False) for r in rows), sum(r.get("factor", math.inf) <= 3.0 for r in rows)
    print(json.dumps({"within": f"{within} of {len(rows)}", "factor_3": f"{near} of {len(rows)}", "rows": rows}))


if __name__ == "__main__":
    main()
