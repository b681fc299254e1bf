"""A thousand simulated workers, 5 % of them ten times slower, 1 % of the jobs killed: who is busy, and what is found?

Target: ASHA keeps the workers at least 95 % busy over the whole study. The trainings are modelled: six hyperparameters,
losses that fall by a power law to a floor, both of which depend on the configuration, slow rates that look bad early,
rates too high that diverge, seed noise. An epoch takes a minute; a full training 27. The score is the loss that the
incumbent really has at full length, above the best there is, so that nobody gains by lucky noise.

    python benchmarks/simulated.py [--hours 12] [--workers 1000] [--strategies asha,hyperband,random] [--seed 0]
    python benchmarks/simulated.py --taskset taskset.npz --task NAME --workers 20   # recorded curves instead
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np

import luthier as lt

SPACE = lt.Space(
    learning_rate=lt.Float(1e-6, 1.0, log=True),
    weight_decay=lt.Float(1e-6, 1e-1, log=True),
    momentum=lt.Float(0.5, 0.99),
    dropout=lt.Float(0.0, 0.6),
    width=lt.Int(16, 512, log=True),
    label_smoothing=lt.Float(0.0, 0.3),
)
EPOCHS = 27
FLOOR = 0.2
BEST_AT = {
    "learning_rate": 0.6,
    "weight_decay": 0.5,
    "momentum": 0.8,
    "dropout": 0.3,
    "width": 0.7,
    "label_smoothing": 0.2,
}
WEIGHT = {
    "learning_rate": 3.0,
    "weight_decay": 0.4,
    "momentum": 0.4,
    "dropout": 0.5,
    "width": 0.3,
    "label_smoothing": 0.1,
}


def truth(config, epoch: int) -> float:
    """The loss without noise; not finite where the training diverges."""
    at = dict(zip(SPACE.dims, SPACE.to_unit(config)))
    if at["learning_rate"] > 0.85:
        return math.nan
    floor = FLOOR + sum(w * (at[n] - BEST_AT[n]) ** 2 for n, w in WEIGHT.items())
    falls = 0.3 + 1.2 * at["learning_rate"]  # a low rate is slow: what it ends at shows late
    return floor + (2.3 - min(floor, 2.3)) * (1 + epoch) ** -falls


def curve(config, epoch: int, seed: int) -> float:
    noise = np.random.default_rng((seed, epoch)).normal(0.0, 0.01)
    return truth(config, epoch) + noise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=12.0, help="simulated; an epoch takes a minute")
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--strategies", default="asha,hyperband,random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--taskset", help="a TaskSet .npz file: its recorded curves, scored by what was seen")
    parser.add_argument("--task")
    given = parser.parse_args()
    table = lt.Table.taskset(given.taskset, given.task) if given.taskset else None
    marks = [given.hours * part for part in (1 / 12, 1 / 4, 1 / 2, 1)]
    print(
        f"| strategy | trials | jobs killed | busy | {' | '.join(f'after {m:g} h' for m in marks)} | processor time |"
    )
    print("|---|---|---|---|" + "---|" * (len(marks) + 1))
    for strategy in given.strategies.split(","):
        began = time.process_time()
        result = lt.simulate(
            table or curve, None if table else SPACE, minimize="val_loss", max_epochs=None if table else EPOCHS,
            budget=f"{given.hours * 60:g} min", strategy=strategy, workers=given.workers, seconds_per_epoch=60.0,
            stragglers=0.05, slowdown=10.0, failures=0.01, seed=given.seed,
        )  # fmt: skip
        trials = result.history.trials

        def told(moment, trials=trials) -> str:
            if moment is None:
                return "—"
            if table:
                return f"{moment.score:.4f}"
            best = truth({n: SPACE[n].from_unit(BEST_AT[n]) for n in SPACE.dims}, EPOCHS)
            return f"{truth(trials[moment.trial].config, EPOCHS) - best:.4f}"

        scores = []
        for mark in marks:
            seen = [m for m in result.incumbents if m.seconds <= mark * 3600]
            scores.append(told(seen[-1] if seen else None))
        killed = sum(span.outcome == "killed" for span in result.spans)
        row = [strategy, f"{len(trials):,}", f"{killed:,}", f"{result.busy:.1%}", *scores]
        print(f"| {' | '.join(row)} | {time.process_time() - began:.0f} s |", flush=True)


if __name__ == "__main__":
    main()
