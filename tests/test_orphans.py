"""Nothing of a worker outlives it or its driver: data loaders, and processes that left for a session of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from kill import LUTHIER, family
from test_ranks import alive, gone

pytest.importorskip("torch")

JOB = """
import os, subprocess, sys, time
import torch
from torch.utils.data import DataLoader

class Numbers(torch.utils.data.Dataset):
    def __len__(self): return 1000
    def __getitem__(self, place):
        time.sleep(0.01)
        return place

def train(trial):
    asleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    own = subprocess.Popen(asleep, start_new_session=True)  # as a daemon does
    # And one whose parent has left: it is nobody's child any more.
    orphan = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], start_new_session=True, stdout=2).pid)"
    told = subprocess.run([sys.executable, "-c", orphan, *asleep], stdout=subprocess.PIPE, text=True).stdout
    loader = iter(DataLoader(Numbers(), batch_size=1, num_workers=2))
    next(loader)
    pids = [os.getpid(), own.pid, int(told), *(worker.pid for worker in loader._workers)]
    open("pids.part", "w").write(" ".join(map(str, pids)))
    os.rename("pids.part", "pids")
    for epoch in trial.epochs():
        next(loader)
        trial.report(val_loss=1.0)
        time.sleep(0.1)
        if how == "exits":
            os._exit(3)
    own.kill()
"""


def begin(folder: Path, how: str = "", *more: str) -> subprocess.Popen[bytes]:
    (folder / "job.py").write_text(f"how = {how!r}\n{JOB}")
    (folder / "space.yaml").write_text("x: {type: float, low: 0.0, high: 1.0}\n")
    words = ["tune", "job.py:train", "--space", "space.yaml", "--minimize", "val_loss", "--max-epochs", "900",
             "--strategy", "random", "--budget", "1 trials", "--storage", "s.db", "--threads", "1", *more]  # fmt: skip
    return subprocess.Popen([*LUTHIER, *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def pids_of(folder: Path) -> list[int]:
    deadline = time.monotonic() + 90
    while not (folder / "pids").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return [int(pid) for pid in (folder / "pids").read_text().split()]


@pytest.mark.parametrize("victim", ["driver", "worker", "both"])
def test_data_loaders_die_with_their_worker_and_driver(tmp_path, victim):
    driver = begin(tmp_path)
    try:
        pids = pids_of(tmp_path)
        (worker, *others), processes = pids, family(driver.pid) - {driver.pid}
        assert len(others) == 4
        assert all(map(alive, pids))
        if victim != "driver":
            os.kill(worker, signal.SIGKILL)
        if victim != "worker":
            driver.kill()
            driver.wait()
        assert gone([*pids, *processes])
    finally:
        driver.kill()
        driver.wait()


def test_data_loaders_die_with_a_worker_that_leaves_by_itself(tmp_path):
    driver = begin(tmp_path, "exits")
    try:
        assert gone(pids_of(tmp_path), 20.0)
    finally:
        driver.kill()
        driver.wait()
