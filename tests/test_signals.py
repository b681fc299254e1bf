"""Ctrl-C and SIGTERM stop a study once its trials are saved; a study goes on elsewhere; one driver at a time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kill import LUTHIER, SPACE, TRAIN, entries_of, family, judge, start

import luthier as lt
from luthier.core import events as ev
from luthier.core.errors import Conflict, StorageError
from luthier.core.history import fold


def command(folder: Path, *more: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    (folder / "job.py").write_text(TRAIN.replace("PAUSE", "0.02"))
    (folder / "space.yaml").write_text(SPACE)
    return ["tune", "job.py:train", "--space", "space.yaml", "--minimize", "val_loss", "--max-epochs", "25", "--budget",
            "3 trials", "--strategy", "random", "--storage", "s.db", "--seed", "3", *more]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> list:
    folder = tmp_path_factory.mktemp("calm")
    assert start(command(folder), cwd=folder).wait() == 0
    return entries_of(folder / "s.db")


def heard() -> None:
    """In the driver, before it is one: a suite that runs in the background hands down a Ctrl-C that is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def begin(folder: Path, *more: str) -> subprocess.Popen[bytes]:
    """A study of which a few reports are in the log."""
    driver = subprocess.Popen([*LUTHIER, *command(folder, *more)], cwd=folder, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, preexec_fn=heard)  # fmt: skip
    deadline = time.monotonic() + 30
    while sum(isinstance(e.event, ev.Reported) for e in entries_of(folder / "s.db")) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return driver


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, "1"), (signal.SIGTERM, "1"), (signal.SIGINT, "0")])
def test_asked_once_a_study_saves_its_trials_and_goes_on_as_if_nothing_had_happened(
    tmp_path, undisturbed, number, workers
):
    driver = begin(tmp_path / "here", "--workers", workers)
    processes = family(driver.pid)
    driver.send_signal(number)
    told = driver.communicate()[0].decode()
    assert driver.returncode == 128 + number
    assert f"{number.name}: running trials are saved" in told
    assert "1 running trial saved; nothing recorded is lost. Go on with: luthier resume s.db" in told
    assert not [pid for pid in processes if Path(f"/proc/{pid}").exists()]
    before = entries_of(tmp_path / "here" / "s.db")
    (trial,) = fold(before).trials
    assert trial.saved.epoch == trial.epoch >= 3
    assert (tmp_path / "here" / "s.files" / "train" / trial.saved.path).is_file()
    # On another machine: the folder is somewhere else, and the old one is gone.
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert start(["resume", str(tmp_path / "there" / "s.db"), "--workers", workers], cwd=tmp_path).wait() == 0
    after = entries_of(tmp_path / "there" / "s.db")
    assert judge(before, after, undisturbed) == []
    assert fold(after).trials[0].saved is None
    assert len(list((tmp_path / "there" / "s.files").rglob("*.ckpt"))) == 3


def test_asked_twice_a_study_ends_at_once(tmp_path, undisturbed):
    folder = tmp_path / "here"
    driver = begin(folder)
    slowly = 'open("begun", "w").close(); time.sleep(60)'
    (folder / "job.py").write_text(TRAIN.replace("time.sleep(PAUSE)", slowly))  # the workers of the next driver
    driver.kill()
    driver.communicate()
    slow = subprocess.Popen([*LUTHIER, "resume", "s.db"], cwd=folder, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, preexec_fn=heard)  # fmt: skip
    deadline = time.monotonic() + 30
    while not (folder / "begun").exists():  # it trains
        assert time.monotonic() < deadline
        time.sleep(0.05)
    processes = family(slow.pid)
    began = time.monotonic()
    slow.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    slow.send_signal(signal.SIGINT)
    told = slow.communicate()[0].decode()
    assert time.monotonic() - began < 15
    assert slow.returncode == 128 + signal.SIGINT
    assert "nothing recorded is lost" in told
    assert not [pid for pid in processes if Path(f"/proc/{pid}").exists()]
    command(folder)
    before = entries_of(folder / "s.db")
    assert start(["resume", "s.db"], cwd=folder).wait() == 0
    assert judge(before, entries_of(folder / "s.db"), undisturbed) == []


def test_a_worker_that_is_asked_by_itself_is_given_its_trial_back(tmp_path, undisturbed):
    driver = begin(tmp_path)
    for pid in family(driver.pid) - {driver.pid}:
        os.kill(pid, signal.SIGTERM)
    assert driver.wait() == 0
    driver.stdout.close()
    entries = entries_of(tmp_path / "s.db")
    (interrupted,) = [e.event for e in entries if isinstance(e.event, ev.Interrupted)]
    assert interrupted.checkpoint is not None
    assert judge(entries, entries, undisturbed) == []


def test_a_second_driver_is_told_who_drives_and_harms_nothing(tmp_path, undisturbed):
    driver = begin(tmp_path)
    driver.send_signal(signal.SIGSTOP)  # so that it does not finish meanwhile; it holds its lock
    for second in (["resume", "s.db"], command(tmp_path, "--budget", "9 trials")):
        told = subprocess.run([*LUTHIER, *second], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert told.returncode == 2
        assert f"The study 'train' is being driven by process {driver.pid} on" in told.stderr
    driver.send_signal(signal.SIGCONT)
    assert driver.wait() == 0
    driver.stdout.close()
    entries = entries_of(tmp_path / "s.db")
    assert judge(entries, entries, undisturbed) == []
    assert start(["resume", "s.db", "--budget", "4 trials"], cwd=tmp_path).wait() == 0


ASKS = """
import sys
import luthier as lt

study = lt.AskTell({space}, minimize="val_loss", max_epochs=2, budget="3 trials", strategy="random", storage="a.db")
print(study.ask().trial, flush=True)
sys.stdin.read()
"""


def test_who_asks_and_tells_drives_alone_on_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = {"x": {"type": "float", "low": 0.0, "high": 1.0}}
    given = {"minimize": "val_loss", "max_epochs": 2, "budget": "3 trials", "strategy": "random", "storage": "a.db"}

    def train(trial):
        for _ in trial.epochs():
            trial.report(val_loss=trial.config["x"])

    other = subprocess.Popen(
        [sys.executable, "-c", ASKS.format(space=space)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "0\n"
    refused = rf"'study' is being driven by process {other.pid} on .* PostgreSQL, or luthier serve"
    with pytest.raises(StorageError, match=refused):
        lt.AskTell(space, **given)
    with pytest.raises(StorageError, match=refused):
        lt.tune(train, space, **given, name="study", workers=0, quiet=True)
    other.communicate()
    first = lt.AskTell(space, **given)
    job = first.ask()
    assert job.trial == 0  # which the other one had, and never told to its end
    again = lt.AskTell(space, **given)  # as a notebook's cell that is run once more
    with pytest.raises(Conflict, match="has taken the study 'study' over"):
        first.tell(job, 1, val_loss=0.5)
    first.close()
    with pytest.raises(StorageError, match="is being driven by this process already"):
        lt.tune(train, space, **given, name="study", workers=0, quiet=True)
    again.close()
    assert len(lt.tune(train, space, **given, name="study", workers=0, quiet=True).trials()) == 3


def test_without_storage_an_interrupt_keeps_the_result_so_far(capsys):
    def train(trial):
        for _ in trial.epochs():
            if trial.id == 2:
                raise KeyboardInterrupt
            trial.report(val_loss=trial.config["x"])

    with pytest.raises(KeyboardInterrupt) as stop:
        lt.tune(train, lt.Space(x=lt.Float(0.0, 1.0)), minimize="val_loss", max_epochs=1, strategy="random", workers=0)
    assert len(stop.value.result.history.ranked()) == 2
    told = capsys.readouterr().out
    assert "Without storage= nothing outlives this call" in told.splitlines()[0]
    assert f"Best val_loss {stop.value.result.best_score:.4f}" in told
    assert "sys.last_value.result" in told.splitlines()[-1]
