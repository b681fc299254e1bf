"""Several drivers with several workers each on one study in PostgreSQL: is anything lost, doubled or stuck?

    python benchmarks/two_drivers.py [--trials 2000] [--drivers 2] [--workers 4] [--strategy random] [--url URL]

Trainings of one epoch that takes no time, so that the drivers meet at the log as often as they can. Without a URL a
private server is started, as the tests have it. Prints trials a second, how often an append was refused because another
driver was first, and what `check` finds of the log: every trial trained once, every report there once, no decision that
does not follow from the log before it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

import postgres

import luthier as lt
from luthier.core import events as ev
from luthier.core.errors import Conflict
from luthier.core.trial import Status
from luthier.run.decisions import replay
from luthier.store import SqlStore, locate, open_store
from luthier.strategies import build

SPACE = lt.Space(learning_rate=lt.Float(1e-5, 1e-1, log=True), width=lt.Int(16, 512, log=True))
NAME = "together"


def train(trial: lt.Trial) -> None:
    """Epochs that take no time. Where the gate is named, the second one waits until it is there."""
    gate = trial.config.get("gate")
    for epoch in trial.epochs():
        while epoch > 1 and gate and not Path(str(gate)).exists():
            time.sleep(0.01)
        trial.report(val_loss=trial.config["learning_rate"] + 1.0 / epoch)


def drive(
    url: str, files: str, trials: int, workers: int, epochs: int, strategy: str, gate: str = ""
) -> dict[str, int]:
    """Be one of the drivers, to the study's end; how many appends it made, and how many were refused."""
    count: Counter[str] = Counter()
    append = SqlStore.append

    def counted(self: SqlStore, entries: list, after: int) -> None:
        try:
            append(self, entries, after)
        except Conflict:
            count["refused"] += 1
            raise
        count["appends"] += 1

    SqlStore.append = counted  # type: ignore[method-assign]
    space = lt.Space({**SPACE, "gate": lt.Constant(gate)}) if gate else SPACE
    lt.tune(
        train, space, minimize="val_loss", max_epochs=epochs, budget=f"{trials} trials", strategy=strategy,
        storage=url, name=NAME, files=files, workers=workers, threads=1, quiet=True,
    )  # fmt: skip
    return {name: count[name] for name in ("appends", "refused")}


def start(
    url: str, files: Path, *, trials: int, workers: int, epochs: int = 1, strategy: str = "random", gate: str = ""
):
    """A driver in a process of its own."""
    words = [url, str(files), str(trials), str(workers), str(epochs), strategy, gate]
    return subprocess.Popen([sys.executable, __file__, "--drive", *words], stdout=subprocess.PIPE, text=True)


def check(url: str, *, trials: int, epochs: int) -> dict[str, object]:
    """What the log says; raises where something was lost, doubled or decided on another log."""
    with closing(open_store(url, NAME)) as log:
        entries = list(log.read())
        history = log.fold()
    assert history is not None
    assert history.finished is not None
    assert not history.running
    assert [t.status for t in history.trials] == [Status.DONE] * trials, Counter(t.status for t in history.trials)
    told = Counter((e.event.trial, e.event.epoch) for e in entries if isinstance(e.event, ev.Reported))
    assert told == Counter({(t, e): 1 for t in range(trials) for e in range(1, epochs + 1)})
    starts = Counter(e.event.trial for e in entries if isinstance(e.event, ev.Started))
    assert starts == Counter(range(trials))
    assert sum(isinstance(e.event, ev.Finished) for e in entries) == 1
    assert history.spent == trials * epochs
    replayed = replay(entries, build(history.study.strategy))
    by = Counter(t.driver for t in history.trials)
    return {"trials": trials, "events": len(entries), "decisions": replayed, "trials of each driver": dict(by)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--drivers", type=int, default=2)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--strategy", default="random")
    parser.add_argument("--url")
    asked = parser.parse_args()
    with ExitStack() as stack:
        url = asked.url
        if url is None:
            url = stack.enter_context(postgres.database(stack.enter_context(postgres.server()), "two_drivers"))
        files = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="luthier-two-")))
        began = time.monotonic()
        drivers = [
            start(url, files, trials=asked.trials, workers=asked.workers, epochs=asked.epochs, strategy=asked.strategy)
            for _ in range(asked.drivers)
        ]
        said = [json.loads(d.communicate()[0].splitlines()[-1]) for d in drivers]
        seconds = time.monotonic() - began
        found = check(locate(url), trials=asked.trials, epochs=asked.epochs)
    print(json.dumps({**found, "seconds": round(seconds, 1), "trials a second": round(asked.trials / seconds, 1),
                      "drivers": said}))  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["--drive"]:
        place, folder, many, crew, length, method, barrier = sys.argv[2:]
        print(json.dumps(drive(place, folder, int(many), int(crew), int(length), method, barrier)))
    else:
        main()
