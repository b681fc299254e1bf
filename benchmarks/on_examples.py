"""The playbook beside Optuna's TPE on the six examples: how good so far, and is it ever worse than the default?

Each run is kept as a JSON file in ``--out``, where those that were made lie already, and never made again, so the
command can be stopped and repeated; after a change of the playbook delete its files there. The
playbook has a budget of 20 full trainings, its proof included; TPE has 30. Normalised regret: 0 is the best score that
any run on the example has seen at any epoch, 1 the median of TPE's first trainings, which are random. What was spent
on probes counts. The default comes from the playbook's own proof: the gain over it on fresh seeds, in pairs.

    python benchmarks/on_examples.py [--seeds 5] [--out FOLDER] [--example images,causal_lm] [--report]
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

import luthier as lt
from luthier.core.summary import summarize

EXAMPLES = {
    "imbalanced": 10, "regression": 12, "images": 6, "point_clouds": 6, "causal_lm": 3, "text_finetune": 4,
}  # fmt: skip
"""By name: the epochs of a full training."""

BUDGETS = {"playbook": 20, "tpe": 30}
MARKS = (5, 10, 20, 30)
RANDOM = 10
"""The trainings that TPE draws at random before it has a model (Optuna's default)."""


def target(example: Any) -> tuple[Any, dict[str, Any]]:
    """What an example trains, and what else ``lt.tune`` is told about it."""
    if hasattr(example, "recipe"):
        return example.recipe(), {}
    return example.training(*example.data()), {"maximize": "balanced_accuracy"}


def told(history: lt.History, sign: float) -> dict[str, Any]:
    """The best loss so far after each epoch spent; the best of each full training; the proof, if there was one."""
    metric = history.study.objective.metric
    best, curve, each = float("inf"), [], []
    for trial in sorted(history.trials, key=lambda t: t.id):  # one process, so one after the other
        if trial.probe is not None:
            curve += [best] * round(trial.spent)
            continue
        seen = [sign * r.metrics[metric] for r in trial.reports if metric in r.metrics]
        for loss in seen:
            best = min(best, loss)
            curve.append(best)
        if trial.horizon == history.study.max_epochs and seen:
            each.append(min(seen))
    proof = summarize(history).confirmation
    return {
        "curve": curve,
        "each": each,
        "gain": None if proof is None else [proof.gain, *proof.interval],
        "kept_default": proof is None or not proof.better,
    }


def run(name: str, strategy: str, seed: int) -> dict[str, Any]:
    """One study."""
    example = importlib.import_module(name)
    what, more = target(example)
    began = time.perf_counter()
    result = lt.tune(
        what, example.SPACE, strategy=strategy, max_epochs=EXAMPLES[name], budget=f"{BUDGETS[strategy]} trials",
        seed=seed, workers=0, quiet=True, **more,
    )  # fmt: skip
    sign = 1.0 if result.history.study.objective.minimize else -1.0
    return {**told(result.history, sign), "seconds": round(time.perf_counter() - began, 1)}


def report(out: Path) -> None:
    """The tables, of whatever runs there are."""
    regret: dict[str, dict[int, list[float]]] = {s: {m: [] for m in MARKS} for s in BUDGETS}
    for name, epochs in EXAMPLES.items():
        runs = {s: [json.loads(p.read_text()) for p in sorted(out.glob(f"{name}-{s}-*.json"))] for s in BUDGETS}
        if not all(runs.values()):
            continue
        best = min(r["curve"][-1] for rs in runs.values() for r in rs)
        middle = statistics.median(v for r in runs["tpe"] for v in r["each"][:RANDOM])
        line = []
        for strategy, found in runs.items():
            means = []
            for mark in MARKS:
                values = [(r["curve"][min(mark * epochs, len(r["curve"])) - 1] - best) / (middle - best) for r in found]
                means.append(statistics.mean(values))
                regret[strategy][mark].append(means[-1])
            line.append(f"{strategy} ({len(found)}) " + " ".join(f"{m:.3f}" for m in means))
        print(f"{name:14s} best {best:.4f}, median {middle:.4f}  " + "   ".join(line))
        for r in runs["playbook"]:
            gain = "kept the default" if r["gain"] is None else "{:+.4f} ({:+.4f} to {:+.4f})".format(*r["gain"])
            print(f"{'':14s} over the default on fresh seeds: {gain}{', default kept' if r['kept_default'] else ''}")
    for strategy, row in regret.items():
        if row[MARKS[0]]:
            print(f"{strategy:10s}", "  ".join(f"@{m} {statistics.mean(v):.4f}" for m, v in row.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "recorded/examples")
    parser.add_argument("--example", default=",".join(EXAMPLES))
    parser.add_argument("--report", action="store_true", help="run nothing, show what there is")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    for seed in range(given.first, given.first + given.seeds) if not given.report else ():
        for name in given.example.split(","):
            for strategy in BUDGETS:
                path = given.out / f"{name}-{strategy}-{seed}.json"
                if not path.exists():
                    record = run(name, strategy, seed)
                    path.write_text(json.dumps(record))
                    print(path.name, record["seconds"], "s", flush=True)
    report(given.out)


if __name__ == "__main__":
    main()
