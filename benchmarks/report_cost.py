"""What does a report cost, and what a study of many? Optuna is measured beside, on the same machine in the same run.

    python benchmarks/report_cost.py [--parts report many asktell open grow stores] [--most 100000]

report:   processor time of the driver for one report of a worker process, from its socket to the log on disk, with and
          without a sync (durability "process" and "power"); Optuna's trial.report at equal durability; and what the
          least loop takes that wakes for a message every 2 ms, parses it and commits one row.
many:     reports a second from 16 workers whose epochs take no time.
asktell:  milliseconds of ask and tell together at 1,000 trials, log on disk.
open:     a study of 5,000 trials of 50 reports, read from its file: seconds and memory; Optuna's at a tenth of it.
grow:     append and open, at 10^4, 10^5 ... reports, up to --most.
stores:   an append of 1 and of 16 reports, and a fold, in SQLite and PostgreSQL (a private server that does not sync).

Every row comes from a process of its own, so that memory and imports are its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import select
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import postgres

import luthier as lt
from luthier.core import events as ev
from luthier.core.history import Entry
from luthier.core.study import Budget, Objective, Study
from luthier.store import SqlStore, locate

SPACE = lt.Space(
    learning_rate=lt.Float(1e-5, 1e-1, log=True),
    optimizer=lt.Choice("adamw", "sgd"),
    momentum=lt.Float(0.8, 0.99, when={"optimizer": "sgd"}),
    width=lt.Int(16, 512, log=True),
)


def say(**row: object) -> None:
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}), flush=True)


def memory() -> float:
    """The largest resident set so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# -- a report ----------------------------------------------------------------------------------------------------------


def chatty(trial: lt.Trial) -> None:
    """Epochs of nothing: only reports."""
    for epoch in trial.epochs():
        trial.report(train_loss=1.0 / epoch, val_loss=1.0 / epoch + 0.123456789)


def paced(trial: lt.Trial) -> None:
    """Epochs of 2 ms, so that each report comes by itself."""
    for epoch in trial.epochs():
        time.sleep(0.002)
        trial.report(train_loss=1.0 / epoch, val_loss=1.0 / epoch + 0.123456789)


class Watch:
    """When the driver has seen how many reports, and how much processor time it had used by then."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float, int]] = []

    def update(self, history, events) -> None:
        reports = sum(isinstance(e, ev.Reported) for e in events)
        if reports:
            self.seen.append((time.perf_counter(), time.process_time(), reports))


def report(workers: int, durability: str, target: str, reports: int) -> None:
    """One tune with processes that report; printed are the driver's cost and the pace."""
    with tempfile.TemporaryDirectory() as folder:
        watch = Watch()
        epochs = 250
        lt.tune(
            {"chatty": chatty, "paced": paced}[target], SPACE, minimize="val_loss", max_epochs=epochs,
            strategy="random", budget=f"{max(1, reports // epochs)} trials", workers=workers, threads=1, quiet=True,
            observers=[watch],
            storage=Path(folder) / "s.db", durability=durability,
        )  # fmt: skip
    seen = watch.seen[len(watch.seen) // 10 :]  # the workers have started by then
    many = sum(n for _, _, n in seen[1:])
    each = [(b[1] - a[1]) / b[2] for a, b in pairwise(seen)]
    say(
        part="report", workers=workers, durability=durability, epochs="2 ms" if target == "paced" else "none",
        reports=many, driver_cpu_ms_median=1e3 * statistics.median(each), groups=len(seen) - 1,
        driver_cpu_ms_mean=1e3 * (seen[-1][1] - seen[0][1]) / many,
        reports_per_second=many / (seen[-1][0] - seen[0][0]),
    )  # fmt: skip


def least(reports: int) -> None:
    """What no driver in Python can do without, when each report comes by itself."""
    ours, theirs = socket.socketpair()
    line = json.dumps({"say": "Reported", "data": [0, 1, {"train_loss": 0.5, "val_loss": 0.25}, 0.002]}).encode()
    with tempfile.TemporaryDirectory() as folder:
        log = sqlite3.connect(Path(folder) / "s.db")
        log.execute("PRAGMA journal_mode=WAL")
        log.execute("PRAGMA synchronous=NORMAL")
        log.execute("CREATE TABLE events (study INT, seq INT, at REAL, kind TEXT, data TEXT, PRIMARY KEY (study, seq))")
        if not os.fork():
            for _ in range(reports):
                time.sleep(0.002)
                theirs.send(line)
            os._exit(0)
        ear, took, last = select.poll(), [], time.process_time()
        ear.register(ours, select.POLLIN)
        for seq in range(reports):
            ear.poll(500)
            told = json.loads(ours.recv(len(line)))
            with log:
                log.execute("INSERT INTO events VALUES (1, ?, 0.0, ?, ?)", (seq, told["say"], json.dumps(told["data"])))
            now = time.process_time()
            took.append(now - last)
            last = now
        os.wait()
        log.close()
    say(part="report", tool="the least there is", cpu_ms_median=1e3 * statistics.median(took))


def optuna_report(reports: int) -> None:
    """The same through Optuna's storage, in one process: trial.report and should_prune, SQLite as it comes."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for synchronous in ("FULL (its default)", "NORMAL, WAL"):
        with tempfile.TemporaryDirectory() as folder:
            storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/o.db")
            if synchronous != "FULL (its default)":
                import sqlalchemy as sa

                @sa.event.listens_for(storage.engine, "connect")
                def _(raw, _record):
                    raw.execute("PRAGMA journal_mode=WAL")
                    raw.execute("PRAGMA synchronous=NORMAL")

                storage.engine.dispose()
            study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))
            trial = study.ask()
            trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
            each = []
            began = time.perf_counter()
            for step in range(reports):
                cpu = time.process_time()
                trial.report(1.0 / (step + 1), step)
                trial.should_prune()
                each.append(time.process_time() - cpu)
            pace = reports / (time.perf_counter() - began)
        say(part="report", tool="optuna", synchronous=synchronous, cpu_ms_median=1e3 * statistics.median(each),
            reports_per_second=pace)  # fmt: skip


# -- ask and tell ------------------------------------------------------------------------------------------------------


def asktell(trials: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        study = lt.AskTell(SPACE, minimize="val_loss", max_epochs=1, budget=f"{trials + 50} trials", strategy="random",
                           storage=Path(folder) / "s.db")  # fmt: skip
        took = []
        for _ in range(trials + 50):
            began = time.perf_counter()
            job = study.ask()
            study.tell(job, 1, val_loss=float(job.config["learning_rate"]))
            took.append(time.perf_counter() - began)
    say(part="asktell", trials=trials, milliseconds=1e3 * statistics.median(took[-100:]))


def optuna_asktell(trials: int) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        study = optuna.create_study(storage=f"sqlite:///{folder}/o.db", sampler=optuna.samplers.RandomSampler(seed=0))
        took = []
        for _ in range(trials + 50):
            began = time.perf_counter()
            trial = study.ask()
            rate = trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
            if trial.suggest_categorical("optimizer", ["adamw", "sgd"]) == "sgd":
                trial.suggest_float("momentum", 0.8, 0.99)
            trial.suggest_int("width", 16, 512, log=True)
            trial.report(rate, 1)
            study.tell(trial, rate)
            took.append(time.perf_counter() - began)
    say(part="asktell", tool="optuna", trials=trials, milliseconds=1e3 * statistics.median(took[-100:]))


# -- reading and growing -----------------------------------------------------------------------------------------------


def log_of(trials: int, reports: int):
    """The entries of a study, by and by."""
    rng = random.Random(0)
    at = 1.7e9
    yield Entry(at, ev.Created(Study("s", SPACE, Objective("val_loss", True), reports, Budget(trials * reports))))
    for i in range(trials):
        config = {"learning_rate": rng.random() / 10, "optimizer": "adamw", "width": rng.randint(16, 512)}
        at += 0.01
        yield Entry(at, ev.Started(i, config, i, reports, reports, f"random: trial {i} at full length"))
        for epoch in range(1, reports + 1):
            at += 0.01
            seconds = round(rng.random(), 6)
            yield Entry(at, ev.Reported(i, epoch, {"train_loss": rng.random(), "val_loss": rng.random()}, seconds))
        at += 0.01
        yield Entry(at, ev.Ended(i, reports, checkpoint=f"checkpoints/trial-{i:05d}/epoch-{reports:05d}.ckpt"))


def write(place: Path, trials: int, reports: int) -> float:
    """Append that log in groups of 100; returns the processor's seconds for the appending alone."""
    store, length, group, took = SqlStore(locate(place), "s"), 0, [], 0.0
    entries = log_of(trials, reports)
    while group := [e for _, e in zip(range(100), entries)]:
        began = time.process_time()
        store.append(group, length)
        took += time.process_time() - began
        length += len(group)
    store.close()
    return took


def opening(place: str) -> None:
    store = SqlStore(locate(place), "s")
    with store._engine.connect():  # SQLAlchemy's own first time is not the log's
        began, before = time.perf_counter(), memory()
        cpu = time.process_time()
    history = store.fold()
    say(part="open", events=history.length, seconds=time.perf_counter() - began, cpu_seconds=time.process_time() - cpu,
        memory_mb=memory(), of_it_imports=before)  # fmt: skip


def grow(reports: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "s.db"
        appended = write(place, reports // 50, 50)
        say(part="append", reports=reports, cpu_seconds=appended, megabytes=place.stat().st_size / 1e6)
        sub("opening", str(place))


def big() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "s.db", 5000, 50)
        for _ in range(3):
            sub("opening", f"{folder}/s.db")


def optuna_open(trials: int) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/o.db"
        study = optuna.create_study(study_name="s", storage=url)
        space = {"learning_rate": optuna.distributions.FloatDistribution(1e-5, 1e-1, log=True)}
        rng = random.Random(0)
        for _ in range(trials):
            curve = {step: rng.random() for step in range(50)}
            study.add_trial(optuna.trial.create_trial(value=curve[49], params={"learning_rate": 0.01},
                                                      distributions=space, intermediate_values=curve))  # fmt: skip
        sub("optuna_reading", url)


def optuna_reading(url: str) -> None:
    import optuna

    began, before = time.perf_counter(), memory()
    trials = optuna.load_study(study_name="s", storage=url).get_trials()
    say(part="open", tool="optuna", trials=len(trials), seconds=time.perf_counter() - began, memory_mb=memory(),
        of_it_imports=before)  # fmt: skip


def stores() -> None:
    """Where a log lies: the time of an append, the driver's part of it, and the time of a fold."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        url = stack.enter_context(postgres.database(stack.enter_context(postgres.server()), "report_cost"))
        for name, place, durability in (
            ("sqlite", f"{folder}/s.db", "process"),
            ("sqlite, power", f"{folder}/p.db", "power"),
            ("postgresql", url, "process"),
        ):
            store, length = SqlStore(locate(place), "s", durability), 0
            entries = log_of(200, 50)
            for many in (1, 16):
                began, cpu = time.perf_counter(), time.process_time()
                for _ in range(200):
                    store.append([e for _, e in zip(range(many), entries)], length)
                    length += many
                say(part="stores", store=name, reports=many, milliseconds=(time.perf_counter() - began) * 5,
                    cpu_milliseconds=(time.process_time() - cpu) * 5)  # fmt: skip
            began = time.perf_counter()
            store.fold()
            say(part="stores", store=name, fold=length, milliseconds=(time.perf_counter() - began) * 1000)
            store.close()


# -- all of it ---------------------------------------------------------------------------------------------------------

PARTS = {
    "report": [
        *(("report", 1, durability, "paced", 2000) for durability in ("process", "power")),
        ("least", 2000),
        ("optuna_report", 100),
    ],
    "many": [("report", 16, "process", "chatty", 32000), ("report", 16, "power", "chatty", 32000)],
    "asktell": [("asktell", 1000), ("optuna_asktell", 200)],
    "open": [("big",), ("optuna_open", 250)],
    "stores": [("stores",)],
    "grow": [("grow", 10_000), ("grow", 100_000), ("grow", 1_000_000)],
}


def sub(*what: object) -> None:
    """Run a part in a process of its own."""
    subprocess.run([sys.executable, __file__, "--one", json.dumps(what)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--most", type=int, default=100_000)
    parser.add_argument("--one")
    given = parser.parse_args()
    if given.one:
        name, *arguments = json.loads(given.one)
        globals()[name](*arguments)
        return
    for part in given.parts:
        for what in PARTS[part]:
            if part != "grow" or what[1] <= given.most:
                sub(*what)


if __name__ == "__main__":
    main()
