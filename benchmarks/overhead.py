"""Epochs per second through `lt.tune` with one worker against the same loop run bare. Target: a ratio of at least 0.95.

Both train the same network on the same data with the same seeds, each in a fresh process with the same number of
threads, in turn, several times; what counts is the time from the first epoch's begin to the last one's end, imports
left out (the whole wall-clock time, worker start-up included, is printed beside it).

    python benchmarks/overhead.py [--runs 3] [--trials 6] [--epochs 20]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

import luthier as lt

SPACE = lt.Space(learning_rate=lt.Float(1e-3, 1e-2, log=True))


def epochs_of(seed: int, rate: float):
    """The loop itself: yields after each epoch with its validation loss."""
    import torch
    from sklearn.datasets import load_digits

    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)

    def epoch() -> float:
        for i in torch.randperm(1200).split(32):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[i]), y[i]).backward()
            optimizer.step()
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(model(x[1200:]), y[1200:]))

    return model, optimizer, epoch


def train(trial: lt.Trial) -> None:
    model, optimizer, epoch = epochs_of(trial.seed, float(trial.config["learning_rate"]))
    for _ in trial.epochs(model=model, optimizer=optimizer):
        trial.report(val_loss=epoch())


def bare(trials: int, epochs: int) -> float:
    """Seconds for all epochs in a plain loop."""
    epochs_of(0, 1e-3)  # imports
    began = time.perf_counter()
    for seed in range(trials):
        _, _, epoch = epochs_of(seed, 1e-3)
        for _ in range(epochs):
            epoch()
    return time.perf_counter() - began


def tuned(trials: int, epochs: int) -> float:
    """Seconds for all epochs through tune: from the first report to the last, and the first epoch's own."""
    stamps: list[float] = []

    class Watch:
        def update(self, history, events):
            stamps.append(time.perf_counter())

    result = lt.tune(
        train, SPACE, minimize="val_loss", max_epochs=epochs, budget=f"{trials} trials", strategy="random",
        workers=1, quiet=True, observers=[Watch()],
    )  # fmt: skip
    seconds = [r.seconds for t in result.trials() for r in t.reports]
    first = result.trials()[0].reports[0].seconds
    assert len(seconds) == trials * epochs
    # The watch sees the start of trial 0 before the worker has imported PyTorch: count from the first report on.
    reports_from = next(i for i, s in enumerate(stamps) if i >= 1)
    return stamps[-1] - stamps[reports_from] + first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--one", choices=("bare", "tuned"))
    given = parser.parse_args()
    if given.one:
        print((bare if given.one == "bare" else tuned)(given.trials, given.epochs))
        return
    pairs = []
    for _ in range(given.runs):
        row = []
        for which in ("bare", "tuned"):
            command = [sys.executable, __file__, "--one", which]
            command += ["--trials", str(given.trials), "--epochs", str(given.epochs)]
            began = time.perf_counter()
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            row += [float(out), time.perf_counter() - began]
        pairs.append(row)
    print(
        json.dumps(
            {
                "epochs": given.trials * given.epochs,
                "bare_seconds": round(statistics.median(p[0] for p in pairs), 3),
                "tuned_seconds": round(statistics.median(p[2] for p in pairs), 3),
                "ratio_of_speeds": round(statistics.median(p[0] / p[2] for p in pairs), 4),
                "whole_process": {
                    "bare": round(statistics.median(p[1] for p in pairs), 2),
                    "tuned": round(statistics.median(p[3] for p in pairs), 2),
                },
            }
        )
    )


if __name__ == "__main__":
    main()
