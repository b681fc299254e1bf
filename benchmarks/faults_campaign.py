"""Studies that are harmed again and again: is anything acknowledged lost, doubled, left running, or decided otherwise?

    python benchmarks/faults_campaign.py [--harms 200] [--seed 0] [--strategies random asha hyperband pbt playbook]

One worker trains a small plain function; each study is run once undisturbed. Then, at random moments, one of

    both      kill -9 of the driver and its worker        driver    kill -9 of the driver alone
    worker    kill -9 of the worker alone                 sigterm   SIGTERM, as Slurm and Kubernetes send it
    sigint    Ctrl-C                                      moved     kill -9 of all, then the folder is moved elsewhere
    damaged   kill -9 of all, then a checkpoint's bytes are changed
    full      the files may not grow beyond a limit, so that the log cannot be written

until the study has ended, then the next study. A study that ends is judged as in kill.py: every acknowledged report is
there once, no trial is left running, decisions and curves are those of the undisturbed run, no process is left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

from kill import LUTHIER, SPACE, TRAIN, entries_of, family, judge, kill_all

from luthier.core.history import fold

HARMS = ("both", "driver", "worker", "sigterm", "sigint", "moved", "damaged", "full")


def command(folder: Path, strategy: str) -> list[str]:
    (folder / "job.py").write_text(TRAIN.replace("PAUSE", "0.01"))
    (folder / "space.yaml").write_text(SPACE)
    return ["tune", "job.py:train", "--space", "space.yaml", "--minimize", "val_loss", "--max-epochs", "18", "--budget",
            "10 trials", "--strategy", strategy, "--storage", "s.db", "--seed", "3"]  # fmt: skip


def start(words: list[str], folder: Path, limit: int | None = None) -> subprocess.Popen[bytes]:
    lower = None if limit is None else partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
    return subprocess.Popen([*LUTHIER, *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                            preexec_fn=lower)  # fmt: skip


def alive(pids: set[int]) -> set[int]:
    """Those that still run; a zombie does not."""
    out = set()
    for pid in pids:
        with suppress(OSError):
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            out |= {pid} if state != "Z" else set()
    return out


def gone(pids: set[int]) -> bool:
    """Whether all of them end within ten seconds."""
    deadline = time.monotonic() + 10
    while left := alive(pids):
        if time.monotonic() > deadline:
            print(json.dumps({"orphans": sorted(left)}))
            return False
        time.sleep(0.02)
    return True


def damage(folder: Path, rng: random.Random) -> bool:
    """Change a byte of a checkpoint that a running trial goes on from."""
    entries = entries_of(folder / "s.db")
    history = fold(entries) if entries else None
    for i in history.running if history else ():
        kept = history.trials[i].saved or history.trials[i].checkpoint
        file = folder / "s.files" / "train" / kept.path if kept else None
        # A clone that has lost its state cannot be trained again as it was: its weights came from another trial.
        if file is not None and file.is_file() and history.trials[i].inherited is None:
            content = bytearray(file.read_bytes())
            content[rng.randrange(len(content))] ^= 1
            file.write_bytes(content)
            return True
    return False


def harm(kind: str, driver: subprocess.Popen[bytes], folder: Path, rng: random.Random) -> tuple[Path, list[str]]:
    """Do it; returns where the study lies then, and what went wrong already."""
    pids = family(driver.pid)
    if kind in ("sigterm", "sigint"):
        number = signal.SIGTERM if kind == "sigterm" else signal.SIGINT
        driver.send_signal(number)
        code = driver.wait()
        # Before the study has begun there is nothing to save, and the signal ends the process in its own way.
        return folder, [] if code in (0, 128 + number, -number, 1) and gone(pids) else [f"{kind}: exit code {code}"]
    if kind == "worker":
        for pid in pids - {driver.pid}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return folder, []
    if kind == "driver":
        driver.kill()
        driver.wait()
        return folder, [] if gone(pids) else ["a worker outlived its driver"]
    kill_all(driver, rng)
    if kind == "moved":
        folder = shutil.move(folder, folder.with_name(f"{folder.name}-moved"))
    if kind == "damaged":
        damage(Path(folder), rng)
    return Path(folder), [] if gone(pids) else ["orphans"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--harms", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strategies", nargs="*", default=["random", "asha", "hyperband", "pbt", "playbook"])
    given = parser.parse_args()
    rng = random.Random(given.seed)
    done: Counter[str] = Counter()
    studies = bad = acknowledged = 0
    with tempfile.TemporaryDirectory() as place:
        calm: dict[str, tuple[float, list]] = {}
        while sum(done.values()) < given.harms:
            strategy = given.strategies[studies % len(given.strategies)]
            if strategy not in calm:
                folder = Path(place) / f"calm-{strategy}"
                folder.mkdir()
                began = time.perf_counter()
                assert start(command(folder, strategy), folder).wait() == 0
                calm[strategy] = time.perf_counter() - began, entries_of(folder / "s.db")
            duration, undisturbed = calm[strategy]
            folder = Path(place) / f"study-{studies}"
            folder.mkdir()
            wrong: list[str] = []
            before: list = []
            harms: list[str] = []
            words = command(folder, strategy)
            while True:
                kind = rng.choice(HARMS)
                if kind == "worker" and harms.count("worker") == 2:
                    kind = "both"  # a third time in one trial would be its own fault
                if sum(done.values()) >= given.harms or len(harms) >= 12:
                    kind = ""
                size = (folder / "s.db-wal").stat().st_size if (folder / "s.db-wal").exists() else 0
                driver = start(words, folder, size + rng.randrange(20_000, 400_000) if kind == "full" else None)
                deadline = time.monotonic() + (rng.uniform(0.2, 0.8) * duration if kind not in ("", "full") else 600)
                while driver.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.01)
                if driver.poll() is None and kind:
                    harms.append(kind)
                    done[kind] += 1
                    folder, trouble = harm(kind, driver, folder, rng)
                    wrong += trouble
                    if kind == "worker":
                        driver.wait()
                elif kind == "full" and driver.returncode == 2:
                    harms.append(kind)
                    done[kind] += 1
                now = entries_of(folder / "s.db")
                if [e.event for e in now[: len(before)]] != [e.event for e in before]:
                    wrong.append("the log lost acknowledged events")
                before = now
                if driver.returncode == 0 and now and fold(now).finished is not None:
                    break
                if kind == "" and driver.returncode != 0:
                    wrong.append(f"the resume exited with {driver.returncode}")
                    break
                words = ["resume", "s.db"] if now else command(folder, strategy)
            wrong += judge(before, before, undisturbed)
            acknowledged += sum(type(e.event).__name__ == "Reported" for e in before)
            studies += 1
            bad += bool(wrong)
            print(json.dumps({"study": studies, "strategy": strategy, "harms": harms, "wrong": wrong}), flush=True)
            shutil.rmtree(folder)
    print(json.dumps({"harms": dict(done), "all": sum(done.values()), "studies": studies,
                      "acknowledged_reports": acknowledged, "bad_studies": bad}))  # fmt: skip
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
