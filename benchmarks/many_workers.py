"""How many workers one driver can keep busy: simulated workers, but the driver's own work takes its real time.

A simulation lets the clock jump, so its driver is infinitely fast. Here each decision and each report is timed as it is
made (the strategy, the fold and the log in SQLite on a disk), and its processor time is put on the simulated clock, on
which the driver does one thing after the other. A worker trains on while the driver is behind; it waits only between
its jobs. So the workers' busy share says where one driver saturates. Not counted is the carrying of messages: what
sockets, Ray or files cost. Reports come one by one, while a real driver writes those that come together at once.

A full training has ten epochs and as many reports, and the budget is three full trainings for each worker.

    python benchmarks/many_workers.py [--workers 10,100,1000,10000] [--strategies random,asha] [--waves 3]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simulated import SPACE, curve

from luthier.contracts import Job
from luthier.request import objectives_from, study_from
from luthier.run.book import Book
from luthier.run.loop import run
from luthier.run.simulate import SimulatedPool, Workers
from luthier.store import SqlStore, locate
from luthier.strategies import build

EPOCHS = 10
LENGTHS = {"10 s": 10.0, "1 min": 60.0, "10 min": 600.0}
"""Of a full training."""


class TimedPool(SimulatedPool):
    """Simulated workers and a driver that takes time.

    Attributes:
        driver: until when the driver is at work, in simulated seconds.
        spent: what it took of that.
    """

    def __init__(self, workers: Workers) -> None:
        super().__init__(curve, "val_loss", workers)
        self.driver = 0.0
        self.spent = 0.0
        self._since = time.process_time()

    def _charge(self) -> None:
        took = time.process_time() - self._since
        self.driver = max(self.driver, self.now) + took
        self.spent += took

    def submit(self, job: Job) -> None:
        """The job begins when the driver has come to it."""
        self._charge()
        self.now = self.driver
        super().submit(job)
        self._since = time.process_time()

    def poll(self, hear: Callable[..., None], timeout: float) -> None:
        """What is next is heard when the driver has come to it."""

        def timed(*events: Any) -> None:
            self._since = time.process_time()
            hear(*events)
            self._charge()

        self._charge()
        super().poll(timed, timeout)
        self._since = time.process_time()


def measure(strategy: str, many: int, seconds: float, waves: int) -> dict[str, float]:
    """One study."""
    study = study_from(
        name="many",
        space=SPACE,
        objectives=objectives_from("val_loss", None, None, "best"),
        max_epochs=EPOCHS,
        budget=f"{waves * many} trials",
        strategy=strategy,
        seed=0,
    )
    pool = TimedPool(Workers(many, seconds / EPOCHS))
    with tempfile.TemporaryDirectory() as folder:
        store = SqlStore(locate(Path(folder) / "many.db"), study.name)
        run(Book.create(store, study, clock=lambda: pool.driver), build(strategy), pool, None)
        store.close()
    last = max(span.began for span in pool.spans)
    return {"busy": pool.busy(last), "driver": pool.spent / pool.driver, "jobs": len(pool.spans), "spent": pool.spent}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", default="10,100,1000,10000")
    parser.add_argument("--strategies", default="random,asha")
    parser.add_argument("--waves", type=int, default=3, help="full trainings for each worker")
    given = parser.parse_args()
    print("| strategy | a full training | workers | workers busy | driver busy | driver's time per job |")
    print("|---|---|---|---|---|---|")
    for strategy in given.strategies.split(","):
        for length, seconds in LENGTHS.items():
            for many in map(int, given.workers.split(",")):
                found = measure(strategy, many, seconds, given.waves)
                print(
                    f"| {strategy} | {length} | {many:,} | {found['busy']:.0%} | {found['driver']:.0%} | "
                    f"{found['spent'] / found['jobs'] * 1e3:.2f} ms |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
