"""How fast the dashboard is with 2,000 trials of 100 epochs. Targets: first paint and live update under 1 s.

Writes a log of that size, serves it as `luthier dashboard` does, opens it in Chromium and reads the browser's own
clock: first paint, the study's text and tables there, the curves drawn. Then reports are appended to the log as a
driver would, and each is timed until the browser has drawn it. Needs the extras `dashboard` and `dev`, and a Chromium.

    python benchmarks/dashboard.py [--trials 2000] [--epochs 100] [--reports 20] [--chromium /usr/bin/chromium]
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import luthier as lt
from luthier.core import events as ev
from luthier.core.history import Entry
from luthier.core.study import Budget, Objective, Study
from luthier.store import SqlStore, locate

SPACE = lt.Space(
    learning_rate=lt.Float(1e-5, 1e-1, log=True),
    batch_size=lt.Int(16, 512, log=True),
    optimizer=lt.Choice("adamw", "sgd"),
    momentum=lt.Float(0.8, 0.99, when={"optimizer": "sgd"}),
    weight_decay=lt.Float(1e-6, 1e-1, log=True),
    dropout=lt.Float(0.0, 0.5),
)


def metrics(config, epoch: int, rng: random.Random) -> dict[str, float]:
    off = abs(math.log10(config["learning_rate"]) + 2.8) * 0.25 + config["dropout"] * 0.1
    train = 2.3 * math.exp(-epoch / 20) + 0.05 + off / 2
    val = 2.3 * math.exp(-epoch / 22) + 0.3 + off + rng.gauss(0, 0.01)
    return {"train_loss": train, "val_loss": val, "train_accuracy": 1 - train / 3, "val_accuracy": 1 - val / 3}


def write(place: Path, trials: int, epochs: int) -> tuple[SqlStore, int]:
    """A study of so many trials, the last of which still runs. Returns its log and how many events it has."""
    rng, store = random.Random(0), SqlStore(locate(place), "large")
    study = Study("large", SPACE, Objective("val_accuracy", False), epochs, Budget(epochs=10**9), strategy="random")
    at, entries = 1.7e9, []
    events: list[ev.Event] = [ev.Created(study), ev.Opened("0.1.0")]
    for i in range(trials):
        config = SPACE.sample(rng)
        events.append(ev.Started(i, config, i, epochs, epochs, f"random: trial {i} at full length"))
        last = epochs if i + 1 < trials else 1
        events += [ev.Reported(i, e, metrics(config, e, rng), 1.0) for e in range(1, last + 1)]
        if last == epochs:
            events.append(ev.Failed(i, "raised", "RuntimeError: no") if i % 23 == 0 else ev.Ended(i, epochs))
    for event in events:
        at += 0.01
        entries.append(Entry(at, event))
    for begin in range(0, len(entries), 20_000):
        store.append(entries[begin : begin + 20_000], begin)
    return store, len(entries)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--trials", type=int, default=2000)
    ask.add_argument("--epochs", type=int, default=100)
    ask.add_argument("--reports", type=int, default=20)
    ask.add_argument("--opened", type=int, default=5, help="how often the page is opened")
    ask.add_argument("--chromium", default="/usr/bin/chromium")
    given = ask.parse_args()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "study.db"
        store, length = write(place, given.trials, given.epochs)
        began = time.perf_counter()
        command = [sys.executable, "-m", "luthier.cli", "dashboard", str(place), "--port", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        url = server.stdout.readline().split()[-1]
        print(f"{given.trials} trials, {length} events; ready to serve after {time.perf_counter() - began:.1f} s")
        try:
            with sync_playwright() as play:
                browser = play.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
                for _ in range(given.opened):
                    page = browser.new_page(viewport={"width": 1280, "height": 900})
                    page.goto(url)
                    until(page, "luthier-curves", 1)
                    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
                    told = page.evaluate("performance.getEntriesByName('luthier-study')[0].startTime")
                    drawn = page.evaluate("performance.getEntriesByName('luthier-curves')[0].startTime")
                    print(f"first paint {paint:5.0f} ms, study shown {told:5.0f} ms, curves drawn {drawn:5.0f} ms")
                time.sleep(6)
                live(page, store, length, given)
                browser.close()
        finally:
            server.terminate()
            server.wait(10)


def until(page, mark: str, many: int) -> None:
    """Wait until the page has set a mark so often. (The page's policy forbids Playwright's own waiting.)"""
    while page.evaluate(f"performance.getEntriesByName('{mark}').length") < many:
        time.sleep(0.005)


def live(page, store: SqlStore, length: int, given: argparse.Namespace) -> None:
    """Append reports one by one; time each until its point is on the canvas, which counts the points it drew."""
    rng, took = random.Random(1), []
    trial = given.trials - 1
    config = SPACE.sample(rng)
    for epoch in range(2, 2 + given.reports):
        before = page.evaluate("performance.getEntriesByName('luthier-delta').length")
        began = time.perf_counter()
        store.append([Entry(time.time(), ev.Reported(trial, epoch, metrics(config, epoch, rng), 1.0))], length)
        length += 1
        until(page, "luthier-delta", before + 1)
        page.evaluate("new Promise(f => requestAnimationFrame(() => requestAnimationFrame(() => f())))")
        took.append(time.perf_counter() - began)
        time.sleep(rng.uniform(0.2, 1.2))
    print(f"live update: median {1000 * statistics.median(took):.0f} ms, longest {1000 * max(took):.0f} ms")


if __name__ == "__main__":
    main()
