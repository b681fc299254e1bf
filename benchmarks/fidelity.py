"""Does a finished short training rank configurations better than the beginning of a long one?

For each live task of `search/`, configurations drawn from the prior are trained three times with the same seed: to the
full length, and as complete trainings of a third and of a ninth of it, whose schedules decay over their own length.
Told is the rank correlation (Spearman) with the results of the full trainings, over all configurations and over the better
half of them, and what the choice of the best third would cost: the regret of the best configuration among those kept.

    python benchmarks/fidelity.py [--task digits_mlp,...] [--configs 24] [--seed 0]
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from scipy.stats import spearmanr
from search.live import LIVE
from search.task import Task

from luthier.knowledge import Prior

KEPT = 3


def curve(task: Task, config: dict[str, object], seed: int, epochs: int) -> list[float]:
    """The best metric so far after each epoch of a training whose schedule decays over ``epochs``."""
    run = task.start(config, seed, epochs)
    return np.minimum.accumulate([run.step()[task.metric] for _ in range(epochs)]).tolist()


def told(early: np.ndarray, final: np.ndarray) -> tuple[float, float, float]:
    """Spearman over all, over the better half, and the regret of keeping the best third, as a part of the spread."""
    better = np.argsort(final, kind="stable")[: len(final) // 2]
    kept = np.argsort(early, kind="stable")[: len(final) // KEPT]
    regret = (final[kept].min() - final.min()) / (np.median(final) - final.min())
    return spearmanr(early, final)[0], spearmanr(early[better], final[better])[0], regret


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default=",".join(LIVE))
    parser.add_argument("--configs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for name in given.task.split(","):
        task = LIVE[name]()
        prior, rng = Prior(task.space, task.epochs), np.random.default_rng(given.seed)
        configs = [prior.sample(rng) for _ in range(given.configs)]
        full = [curve(task, c, given.seed, task.epochs) for c in configs]
        final = np.array([c[-1] for c in full])
        for part in (9, 3):
            epochs = max(1, round(task.epochs / part))
            prefix = np.array([c[epochs - 1] for c in full])
            short = np.array([curve(task, c, given.seed, epochs)[-1] for c in configs])
            for kind, early in ((f"1/{part}, beginning", prefix), (f"1/{part}, finished", short)):
                row = told(early, final)
                rows.setdefault(kind, []).append(row)
                print(
                    f"{name:16s} {kind:15s} all {row[0]:.2f}  better half {row[1]:.2f}  regret {row[2]:.2f}", flush=True
                )
    for kind, of in rows.items():
        mean = np.mean(of, axis=0)
        print(f"| {kind} | {mean[0]:.2f} | {mean[1]:.2f} | {mean[2]:.2f} |")


if __name__ == "__main__":
    main()
