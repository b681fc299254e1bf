"""Kill -9 of the driver and all its workers at random moments of a study, then resume: is anything lost, doubled or
different?

    python benchmarks/kill.py [--kills 20] [--budget "16 trials"] [--epochs 12] [--seed 0]

Runs `luthier quickstart` once undisturbed, then once for each kill: killed at a moment drawn uniformly from the
undisturbed run's duration (drawn again if the study had not been created yet), read, resumed to its end. What must
hold each time: the resume exits with 0; every report that was in the log when the kill struck is there once
afterwards; no trial is left running; the decisions are those of the undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from luthier.core import events as ev
from luthier.core.errors import LuthierError
from luthier.core.history import Entry, fold
from luthier.store import open_store

TRAIN = """
import random, time

class Weights:
    def __init__(self): self.value = 0.0
    def state_dict(self): return {"value": self.value}
    def load_state_dict(self, state): self.value = state["value"]

def train(trial):
    weights = Weights()
    for epoch in trial.epochs(weights=weights):
        weights.value += random.random()
        time.sleep(PAUSE)
        trial.report(train_loss=1 / epoch, val_loss=trial.config["learning_rate"] + 1 / (1 + weights.value))
"""
"""A training whose every epoch depends on all before it; ``PAUSE`` is to be filled in, in seconds."""
SPACE = """
learning_rate: {type: float, low: 1.0e-5, high: 0.1, log: true}
optimizer: {type: choice, choices: [adamw, sgd]}
width: {type: int, low: 16, high: 64}
"""

LUTHIER = [sys.executable, "-m", "luthier.cli"]


def entries_of(place: Path) -> list[Entry]:
    """The log as it lies on disk; empty where there is none yet."""
    try:
        store = open_store(place)
    except LuthierError:
        return []
    try:
        return list(store.read())
    finally:
        store.close()


def reports_of(entries: list[Entry]) -> Counter[tuple[int, int, str]]:
    """How often each (trial, epoch, metrics) was recorded."""
    return Counter(
        (e.event.trial, e.event.epoch, json.dumps(ev.encode(e.event)[1]["metrics"], sort_keys=True))
        for e in entries
        if isinstance(e.event, ev.Reported)
    )


def decisions_of(entries: list[Entry]) -> list[tuple[str, dict]]:
    """The decisions, without when they were taken."""
    return [ev.encode(e.event) for e in entries if isinstance(e.event, ev.Decision)]


def family(pid: int) -> set[int]:
    """A process and all its descendants."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def kill_all(driver: subprocess.Popen[bytes], rng: random.Random) -> set[int]:
    """SIGKILL to the driver and every worker, in random order; returns who was killed."""
    pids = list(family(driver.pid))
    rng.shuffle(pids)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    driver.wait()
    return set(pids)


def start(command: list[str], cwd: Path | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*LUTHIER, *command], cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def judge(before: list[Entry], after: list[Entry], undisturbed: list[Entry]) -> list[str]:
    """What is wrong with a study that was killed and resumed; nothing, if all is well."""
    wrong = []
    reports, acknowledged = reports_of(after), reports_of(before)
    if lost := acknowledged - reports:
        wrong.append(f"{sum(lost.values())} acknowledged reports lost")
    pairs = Counter((trial, epoch) for trial, epoch, _ in reports.elements())
    if doubled := [p for p, n in pairs.items() if n > 1]:
        wrong.append(f"{len(doubled)} reports doubled")
    history = fold(after)
    if history.running:
        wrong.append(f"trials {history.running} left running")
    if history.finished is None:
        wrong.append("not finished")
    if decisions_of(after) != decisions_of(undisturbed):
        wrong.append("decisions differ from the undisturbed run")
    if reports != reports_of(undisturbed):
        wrong.append("curves differ from the undisturbed run")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--budget", default="16 trials")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    options = ["--budget", given.budget, "--max-epochs", str(given.epochs), "--workers", "1", "--seed", str(given.seed)]
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        calm = Path(folder) / "calm"
        began = time.perf_counter()
        code = start(["quickstart", "--dir", str(calm), *options]).wait()
        duration = time.perf_counter() - began
        undisturbed = entries_of(calm)
        print(
            json.dumps({"undisturbed_seconds": round(duration, 1), "exit": code, "events": len(undisturbed)}),
            flush=True,
        )
        for number in range(given.kills):
            before: list[Entry] = []
            while not before:
                place = Path(folder) / f"killed-{number}-{rng.random()}"
                driver = start(["quickstart", "--dir", str(place), *options])
                moment = rng.uniform(0, duration)
                time.sleep(moment)
                victims = kill_all(driver, rng)
                before = entries_of(place)
            exit_code = start(["resume", str(place)]).wait()
            wrong = judge(before, entries_of(place), undisturbed)
            wrong += [f"resume exited with {exit_code}"] * (exit_code != 0)
            bad += bool(wrong)
            row = {"kill": number, "at": round(moment, 1), "processes": len(victims), "events_then": len(before)}
            print(json.dumps({**row, "wrong": wrong}), flush=True)
    print(json.dumps({"kills": given.kills, "bad": bad}))
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
