"""How long a decision takes as a study grows. Target: at most 5 ms at 10,000 trials of 20 reports each.

A study is driven in memory by 16 pretended workers that take no time. Timed are the last decisions before each size
(what the strategy proposes, and what the book does for it) and the last reports (judging, folding and appending one).
Random, grid and the like train 20 epochs; what trains in rungs has its first one there and goes on to 180.

Times are the processor's, so that what else runs on the machine does not count.

    python benchmarks/decisions.py [--sizes 100,1000,10000] [--strategies asha,random] [--timed 200]
    python benchmarks/decisions.py --fold 5000x50   # instead: reading a log of so many trials and reports back
"""

from __future__ import annotations

import argparse
import itertools
import math
import resource
import statistics
import sys
import time
from collections import deque

import numpy as np

import luthier as lt
from luthier.core.events import Created, Ended, Reported, Started
from luthier.core.history import Entry, fold
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
WITH_A_MODEL = {"playbook", "expert", "tpe", "gp", "cmaes", "nsga2", "bohb", "pibo", "priorband", "freeze_thaw", "pb2"}
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


def read_back(trials: int, reports: int) -> None:
    """Print what it costs to fold a log, and the first decision after it, for which everything is ranked anew."""

    def resident() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)

    study = Study("fold", SPACE, Objective("val_loss", True), 3 * reports, Budget(epochs=10**9), strategy="asha")
    config = SPACE.complete({})
    log = [Entry(0.0, Created(study))]
    for trial in range(trials):
        log.append(Entry(float(trial), Started(trial, config, trial, reports, 3 * reports, "asked for")))
        log += [
            Entry(float(trial), Reported(trial, epoch, {"val_loss": trial % 97 + 1.0 / epoch}, 1.0))
            for epoch in range(1, reports + 1)
        ]
        log.append(Entry(float(trial), Ended(trial, reports, checkpoint="c")))
    before, began = resident(), time.thread_time()
    history = fold(log)
    folded, after = time.thread_time() - began, resident()
    began = time.thread_time()
    build("asha").propose(history, np.random.default_rng(0))
    first = time.thread_time() - began
    print(
        f"{len(log):,} events: folded in {folded:.2f} s ({1e6 * folded / len(log):.0f} µs each), "
        f"{after - before:.0f} MB beside the {before:.0f} MB of the process with its log; "
        f"first decision {1e3 * first:.0f} ms, {resident() - after:.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="100,1000,10000")
    parser.add_argument("--strategies", default=",".join(s for s in STRATEGIES if s not in WITH_A_MODEL))
    parser.add_argument("--timed", type=int, default=200, help="how many of the last decisions are timed")
    parser.add_argument("--fold", metavar="TRIALSxREPORTS")
    given = parser.parse_args()
    if given.fold:
        read_back(*(int(n) for n in given.fold.split("x")))
        return
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
