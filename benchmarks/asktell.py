"""Ask and tell 1,000 random trials of 10 reports with a plain function, in memory. Target: under 3 s on 2 cores.

python benchmarks/asktell.py [--trials 1000] [--reports 10] [--storage FILE.db]
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import luthier as lt

SPACE = lt.Space(
    learning_rate=lt.Float(1e-5, 1e-1, log=True),
    optimizer=lt.Choice("adamw", "sgd"),
    momentum=lt.Float(0.8, 0.99, when={"optimizer": "sgd"}),
    depth=lt.Int(1, 8),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--reports", type=int, default=10)
    parser.add_argument("--storage")
    parser.add_argument("--strategy", default="random")
    given = parser.parse_args()
    began = time.perf_counter()
    study = lt.AskTell(
        SPACE,
        minimize="val_loss",
        max_epochs=given.reports,
        budget=f"{given.trials} trials",
        strategy=given.strategy,
        storage=given.storage,
    )
    while job := study.ask():
        for epoch in range(job.start + 1, job.until + 1):
            study.tell(job, epoch, val_loss=abs(job.config["learning_rate"] - 1e-3) + 1 / epoch)
    seconds = time.perf_counter() - began
    heavy = [m for m in ("torch", "optuna", "plotly", "sqlalchemy") if m in sys.modules]
    print(json.dumps({"trials": len(study.history.trials), "seconds": round(seconds, 3), "heavy_imports": heavy}))


if __name__ == "__main__":
    main()
