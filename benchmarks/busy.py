"""Are the workers of one machine busy, and what does a trial cost that is over at once?

    python benchmarks/busy.py [--seconds 1] [--trials 20] [--rivals] [--json FILE]

(a) Two workers, trials of ``--seconds`` each in five epochs that sleep: the share of the workers' time, from the first
    job to the last one's end, in which they held a job, by the log's own stamps; and the gaps between the end of a job
    and the next one's first moment in that worker, by the training function's own clock.
(b) 64 trials of ten reports each through two workers: seconds from the call to the result, and seconds of processor of
    the driver and of those of its processes that it waited for (not Ray's own, which outlive it for a moment).
(c) Import, size and start: seconds to import the package in a fresh interpreter, bytes of it and all that it requires,
    seconds for a study of one trial of one report.

With ``--rivals`` the same (b) and (c) with Ray Tune and Syne Tune, where they can be imported; each in a process of its
own, after the same warm-up of the file system's cache.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import resource
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

WORKERS, TRIALS, REPORTS = 2, 64, 10


# -- Luthier -----------------------------------------------------------------------------------------------------------


def sleeps(seconds: float, marks: Path) -> Any:
    """A training of five epochs that takes so long, and notes when it began and ended."""
    import os

    def train(trial: Any) -> None:
        began = time.time()
        for _ in trial.epochs():
            time.sleep(seconds / 5)
            trial.report(val_loss=1.0)
        with (marks / str(os.getpid())).open("a") as file:
            file.write(f"{began} {time.time()}\n")

    return train


def trivial(trial: Any) -> None:
    for epoch in trial.epochs():
        trial.report(val_loss=1.0 / epoch)


def busy(seconds: float, trials: int) -> dict[str, float]:
    """(a)"""
    import luthier as lt
    from luthier.core import events as ev
    from luthier.store import open_store

    with tempfile.TemporaryDirectory() as folder:
        marks = Path(folder) / "marks"
        marks.mkdir()
        lt.tune(sleeps(seconds, marks), lt.Space(x=lt.Float(0.0, 1.0)), minimize="val_loss", strategy="random",
                max_epochs=5, budget=f"{trials} trials", workers=WORKERS, quiet=True,
                storage=Path(folder) / "s.db", name="busy")  # fmt: skip
        store = open_store(Path(folder) / "s.db")
        entries = list(store.read())
        store.close()
        jobs: dict[int, list[float]] = {}
        for entry in entries:
            if isinstance(entry.event, ev.Started):
                jobs[entry.event.trial] = [entry.at]
            elif isinstance(entry.event, ev.Ended):
                jobs[entry.event.trial].append(entry.at)
        gaps = []
        for path in marks.iterdir():
            times = [tuple(map(float, line.split())) for line in path.read_text().splitlines()]
            gaps += [later[0] - sooner[1] for sooner, later in pairwise(times)]
    ready = min(start for start, _ in jobs.values())
    held = sum(end - start for start, end in jobs.values())
    last = max(end for _, end in jobs.values())
    # Time without a job at the end, when nothing is left to hand out, is no idling.
    ends = sorted(end for _, end in jobs.values())[-WORKERS:]
    available = WORKERS * (last - ready) - sum(last - end for end in ends)
    return {"share": held / available, "gap_ms": 1000 * sum(gaps) / max(1, len(gaps)), "jobs": len(jobs)}


def luthier(trials: int, reports: int) -> None:
    import luthier as lt

    lt.tune(trivial, lt.Space(x=lt.Float(0.0, 1.0)), minimize="val_loss", strategy="random", max_epochs=reports,
            budget=f"{trials} trials", workers=WORKERS, quiet=True)  # fmt: skip


# -- the others --------------------------------------------------------------------------------------------------------


def ray(trials: int, reports: int) -> None:
    import os

    os.environ.update(RAY_AIR_NEW_OUTPUT="0", TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1", RAY_DEDUP_LOGS="0")
    import ray as rays
    from ray import tune

    def train(config: dict[str, float]) -> None:
        for epoch in range(1, reports + 1):
            tune.report({"val_loss": 1.0 / epoch})

    with tempfile.TemporaryDirectory() as folder:
        rays.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        tune.Tuner(
            train,
            param_space={"x": tune.uniform(0.0, 1.0)},
            tune_config=tune.TuneConfig(
                metric="val_loss", mode="min", num_samples=trials, max_concurrent_trials=WORKERS, reuse_actors=True
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
        rays.shutdown()


SYNE = """
import argparse
from syne_tune import Reporter
asked = argparse.ArgumentParser()
asked.add_argument("--x", type=float)
asked.add_argument("--reports", type=int)
given, _ = asked.parse_known_args()
report = Reporter()
for epoch in range(1, given.reports + 1):
    report(epoch=epoch, val_loss=1.0 / epoch)
"""


def syne(trials: int, reports: int) -> None:
    from syne_tune import StoppingCriterion, Tuner
    from syne_tune.backend import LocalBackend
    from syne_tune.config_space import uniform
    from syne_tune.optimizer.baselines import RandomSearch

    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "train.py"
        script.write_text(SYNE)
        space = {"x": uniform(0.0, 1.0), "reports": reports}
        Tuner(
            trial_backend=LocalBackend(entry_point=str(script)),
            scheduler=RandomSearch(space, metrics=["val_loss"], do_minimize=True),
            stop_criterion=StoppingCriterion(max_num_trials_completed=trials),
            n_workers=WORKERS,
            sleep_time=0.1,
        ).run()


TOOLS = {"luthier": (luthier, "luthier", "luthier"), "ray tune": (ray, "ray.tune", "ray[tune]"),
         "syne tune": (syne, "syne_tune", "syne-tune")}  # fmt: skip


# -- measuring ---------------------------------------------------------------------------------------------------------


def timed(tool: str, trials: int, reports: int) -> dict[str, Any]:
    """Seconds and processor seconds of a study in a process of its own; why where it fails."""
    words = [sys.executable, __file__, "--run", tool, "--trials", str(trials), "--reports", str(reports)]
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    whole, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        return {"failed": done.stdout.strip().splitlines()[-1][:200] if done.stdout.strip() else done.returncode}
    told = [line for line in done.stdout.splitlines() if line.startswith("seconds ")]
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": float(told[-1].split()[1]), "with_start_of_python": whole, "processor": processor}


def importing(module: str) -> float:
    """Seconds to import it, the best of three fresh interpreters."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    return min(float(subprocess.check_output([sys.executable, "-c", code], text=True).split()[-1]) for _ in range(3))


def size(name: str) -> int:
    """Bytes of a distribution and of all that it requires, extras as asked for in brackets, without compiled files."""
    import re

    todo, seen, total = [name], set(), 0
    while todo:
        asked = re.fullmatch(r"([\w.-]+)(?:\[([\w,.-]+)\])?", todo.pop())
        if asked is None or (asked[1].lower(), asked[2]) in seen:
            continue
        seen.add((asked[1].lower(), asked[2]))
        try:
            found = importlib.metadata.distribution(asked[1])
        except importlib.metadata.PackageNotFoundError:
            continue
        if sum(one == asked[1].lower() for one, _ in seen) == 1:
            for file in found.files or ():
                path = Path(str(found.locate_file(file)))
                if path.is_file() and path.suffix != ".pyc":
                    total += path.stat().st_size
            if asked[1] == "luthier":  # an editable installation lists nothing
                import luthier as package

                total += sum(p.stat().st_size for p in Path(package.__file__).parent.rglob("*") if p.suffix != ".pyc")
        for requirement in found.requires or ():
            text, _, marker = requirement.partition(";")
            extra = re.search(r"extra\s*==\s*['\"]([\w.-]+)['\"]", marker)
            if extra is not None and extra[1] not in (asked[2] or "").split(","):
                continue
            needed = re.match(r"\s*([\w.-]+(?:\[[\w,.-]+\])?)", text)
            todo += [needed[1]] if needed else []
    return total


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seconds", type=float, default=1.0)
    asked.add_argument("--trials", type=int, default=20)
    asked.add_argument("--reports", type=int, default=REPORTS)
    asked.add_argument("--rivals", action="store_true")
    asked.add_argument("--json", type=Path)
    asked.add_argument("--run", help=argparse.SUPPRESS)
    given = asked.parse_args()
    if given.run:
        began = time.perf_counter()
        TOOLS[given.run][0](given.trials, given.reports)
        print(f"\nseconds {time.perf_counter() - began}", flush=True)
        return
    found: dict[str, Any] = {"busy": busy(given.seconds, given.trials)}
    print(f"(a) trials of {given.seconds:g} s, {WORKERS} workers: busy {found['busy']['share']:.2%} of the time, "
          f"{found['busy']['gap_ms']:.1f} ms between two trials of a worker")  # fmt: skip
    for tool, (_, module, distribution) in TOOLS.items():
        if tool != "luthier" and (not given.rivals or find_spec(module.partition(".")[0]) is None):
            continue
        found[tool] = {
            "trivial": timed(tool, TRIALS, REPORTS),
            "one": timed(tool, 1, 1),
            "import": importing(module),
            "bytes": size(distribution),
        }
        told, one = found[tool]["trivial"], found[tool]["one"]
        print(f"{tool}: (b) {TRIALS} trials of {REPORTS} reports "
              + (f"{told['seconds']:.2f} s, {told['processor']:.2f} s of processor" if "seconds" in told
                 else f"failed: {told['failed']}")
              + (f"; (c) one trial {one['seconds']:.2f} s" if "seconds" in one else "")
              + f", import {found[tool]['import']:.2f} s, {found[tool]['bytes'] / 1e6:.0f} MB")  # fmt: skip
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
