"""How often the playbook claims what is not there, and how far the search flatters its winner: simulated studies.

python benchmarks/claims.py [--studies 100] [--budget "40 trials"]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import luthier as lt
from luthier.core.summary import summarize

SPACE = lt.Space(
    learning_rate=lt.Float(1e-4, 1e-1, log=True),
    schedule=lt.Choice("constant", "cosine", default="constant"),
    width=lt.Int(16, 256, log=True, default=64),
    dropout=lt.Float(0.0, 0.5, default=0.25),
    mystery=lt.Float(0.0, 1.0, default=0.5),
)
EPOCHS, NOISE = 4, 0.002
"""0.2 percentage points of seed noise, independent for each configuration and seed."""

Truth = Callable[[Mapping[str, Any]], float]


def nothing(config: Mapping[str, Any]) -> float:
    """No hyperparameter matters."""
    return 0.9


def two(config: Mapping[str, Any]) -> float:
    """Rate and width matter, the others do not."""
    rate = abs(math.log10(config["learning_rate"]) + 2)
    return 0.9 - 0.02 * min(rate, 3.0) + 0.002 * math.log2(config["width"] / 64)


def measure(truth: Truth, studies: int, budget: str) -> dict[str, float]:
    """Counts over studies; biases in percentage points."""
    counts = dict.fromkeys(("confirmed", "kept", "proven", "covered", "challenger"), 0)
    raw, shrunk = [], []
    for number in range(studies):
        study = lt.AskTell(SPACE, maximize="val_accuracy", max_epochs=EPOCHS, budget=budget, seed=1000 + number)
        while job := study.ask():
            words = repr((number, job.seed, sorted(job.config.items())))
            luck = NOISE * random.Random(zlib.crc32(words.encode())).gauss(0, 1)
            for epoch in range(job.start + 1, job.until + 1):
                study.tell(job, epoch, val_accuracy=truth(job.config) - 0.05 / epoch + luck)
        c = summarize(study.history).confirmation
        if c is None:
            continue
        gain = truth(c.winner.config) - truth(c.default.config)
        counts["confirmed"] += 1
        counts["kept"] += c.better
        counts["proven"] += c.better and c.proven
        counts["covered"] += c.interval[0] <= gain <= c.interval[1]
        counts["challenger"] += c.winner.label != "winner"
        if c.expected:
            level = truth(c.winner.config) - 0.05 / EPOCHS
            raw.append(c.expected["score"] - level)
            shrunk.append(c.expected["expected"] - level)
    return {
        **counts,
        "bias_of_search": round(100 * sum(raw) / max(1, len(raw)), 3),
        "bias_shrunk": round(100 * sum(shrunk) / max(1, len(shrunk)), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--budget", default="40 trials")
    args = parser.parse_args()
    for truth in (nothing, two):
        print(
            json.dumps({"truth": truth.__name__, "studies": args.studies, **measure(truth, args.studies, args.budget)})
        )


if __name__ == "__main__":
    main()
