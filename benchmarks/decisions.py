"""How long a decision takes as a study grows. Target: at most 5 ms at 10,000 trials of 20 reports each.

A study is driven in memory by 16 pretended workers that take no time. Timed are the last decisions before each size
(what the strategy proposes, and what the book does for it) and the last reports (judging, folding and appending one).
Random, grid and the like train 20 epochs; what trains in rungs has its first one there and goes on to 180.

Times are the processor's, so that what else runs on the machine does not count.

    python benchmarks/decisions.py [--sizes 100,1000,10000] [--strategies asha,random] [--timed 200]
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections import deque

import numpy as np

import luthier as lt
from luthier.core.events import Ended, Reported
from luthier.core.study import Budget, Objective, Study
from luthier.run.book import Book
from luthier.run.memory import MemoryStore
from luthier.strategies import STRATEGIES, build

SPACE = lt.Space(
    learning_rate=lt.Float(1e-5, 1e-1, log=True),
    optimizer=lt.Choice("adamw", "sgd"),
    momentum=lt.Float(0.8, 0.99, when={"optimizer": "sgd"}),
    weight_decay=lt.Float(1e-6, 1e-1, log=True),
    dropout=lt.Float(0.0, 0.5),
    depth=lt.Int(1, 8),
    width=lt.Int(32, 512, log=True),
    batch_size=lt.Int(16, 512, log=True),
    label_smoothing=lt.Float(0.0, 0.3),
    warmup=lt.Float(0.0, 0.2),
)
WITH_A_MODEL = {"playbook", "expert", "tpe", "gp", "cmaes", "bohb", "pibo", "freeze_thaw", "pb2"}
AT_FULL_LENGTH = {"random", "grid", "sobol", "median", "early"}
WORKERS = 16


def loss(config, epoch: int) -> float:
    return abs(math.log10(config["learning_rate"]) + 3) + 0.05 * config["depth"] + 1.0 / epoch


def measure(strategy: str, sizes: list[int], timed: int) -> list[tuple[int, int, float, float, float]]:
    """Of each size: trials, reports, median and longest milliseconds of a decision, median microseconds of a report."""
    epochs = 20 if strategy in AT_FULL_LENGTH else 180
    study = Study("decisions", SPACE, Objective("val_loss", True), epochs, Budget(epochs=10**9), strategy=strategy)
    book, scheduler = Book.create(MemoryStore(), study), build(strategy)
    jobs = deque()
    decisions, reports, rows = deque(maxlen=timed), deque(maxlen=timed * 20), []
    heard = 0
    scheduler.propose(book.history, np.random.default_rng(0))  # whatever it imports
    for size in sizes:
        while len(book.history.trials) < size:
            while len(jobs) < WORKERS:
                began = time.thread_time()
                job = book.next(scheduler)
                decisions.append(time.thread_time() - began)
                if not job:
                    break
                jobs.append((job, itertools.count(job.start + 1)))
            if not jobs:
                break
            job, at = jobs.popleft()
            epoch = next(at)
            event = Reported(job.trial, epoch, {"val_loss": loss(job.config, epoch)}, 1.0)
            began = time.thread_time()
            said = book.hear(event, scheduler)
            reports.append(time.thread_time() - began)
            heard += 1
            if epoch < job.until and len(said) == 1:
                jobs.append((job, at))
            elif epoch == job.until:
                book.hear(Ended(job.trial, epoch, checkpoint=f"epoch-{epoch}"), scheduler)
        rows.append(
            (
                len(book.history.trials),
                heard,
                1e3 * statistics.median(decisions),
                1e3 * max(decisions),
                1e6 * statistics.median(reports),
            )
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="100,1000,10000")
    parser.add_argument("--strategies", default=",".join(s for s in STRATEGIES if s not in WITH_A_MODEL))
    parser.add_argument("--timed", type=int, default=200, help="how many of the last decisions are timed")
    given = parser.parse_args()
    print("| strategy | trials | reports | a decision, median | longest | a report |")
    print("|---|---|---|---|---|---|")
    for strategy in given.strategies.split(","):
        for trials, heard, median, longest, report in measure(
            strategy, [int(s) for s in given.sizes.split(",")], given.timed
        ):
            print(
                f"| {strategy} | {trials:,} | {heard:,} | {median:.2f} ms | {longest:.2f} ms | {report:.0f} µs |",
                flush=True,
            )


if __name__ == "__main__":
    main()
