"""kill -9 of every process at random moments: nothing acknowledged is lost or doubled, every decision is the same."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from kill import SPACE, TRAIN, decisions_of, entries_of, family, judge, kill_all, start

from luthier.core import events as ev


def command(folder: Path, strategy: str) -> list[str]:
    (folder / "job.py").write_text(TRAIN.replace("PAUSE", "0.004"))
    (folder / "space.yaml").write_text(SPACE)
    return ["tune", "job.py:train", "--space", "space.yaml", "--minimize", "val_loss", "--max-epochs", "9", "--budget",
            "12 trials", "--strategy", strategy, "--storage", "s.db", "--seed", "3"]  # fmt: skip


@pytest.mark.parametrize("strategy", ["playbook", "asha", "hyperband", "pbt"])
def test_killed_again_and_again_a_study_ends_as_if_nothing_had_happened(tmp_path, strategy):
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    for folder in (calm, killed):
        folder.mkdir()
    began = time.perf_counter()
    assert start(command(calm, strategy), cwd=calm).wait() == 0
    duration = time.perf_counter() - began
    undisturbed = entries_of(calm / "s.db")
    rng = random.Random(7)
    driver = start(command(killed, strategy), cwd=killed)
    acknowledged: list = []
    kills = 0
    while kills < 6:
        time.sleep(rng.uniform(0.3, 0.6) * duration)
        if driver.poll() is not None:
            break
        victims = kill_all(driver, rng)
        kills += 1
        now = entries_of(killed / "s.db")
        assert len(now) >= len(acknowledged)
        assert [e.event for e in now[: len(acknowledged)]] == [e.event for e in acknowledged]
        acknowledged = now
        deadline = time.monotonic() + 5
        while any(Path(f"/proc/{pid}").exists() and "Z" not in _state(pid) for pid in victims):
            assert time.monotonic() < deadline, "an orphan went on"
            time.sleep(0.01)
        driver = start(["resume", "s.db"] if now else command(killed, strategy), cwd=killed)
    assert driver.wait() == 0
    assert kills >= 2
    assert judge(acknowledged, entries_of(killed / "s.db"), undisturbed) == []


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


def test_workers_leave_when_only_the_driver_is_killed(tmp_path):
    driver = start(command(tmp_path, "random"), cwd=tmp_path)
    deadline = time.monotonic() + 30
    while not any(isinstance(e.event, ev.Reported) for e in entries_of(tmp_path / "s.db")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = family(driver.pid) - {driver.pid}
    assert workers
    driver.kill()
    driver.wait()
    deadline = time.monotonic() + 5
    while any(_state(pid) != "Z" for pid in workers):
        assert time.monotonic() < deadline, "a worker outlived its driver"
        time.sleep(0.02)


def test_two_studies_with_one_seed_decide_alike_and_another_seed_differs(tmp_path):
    logs = []
    for number, seed in enumerate(("3", "3", "4")):
        folder = tmp_path / str(number)
        folder.mkdir()
        options = command(folder, "random")
        options[options.index("--seed") + 1] = seed
        assert start(options, cwd=folder).wait() == 0
        logs.append(decisions_of(entries_of(folder / "s.db")))
    assert logs[0] == logs[1]
    assert logs[0] != logs[2]
