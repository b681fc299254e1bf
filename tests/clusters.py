"""Studies that every executor must run alike: what the tests of Ray and of Slurm ask of both."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from kill import LUTHIER, SPACE, TRAIN, decisions_of, entries_of, reports_of

import luthier as lt
from luthier.contracts import Done, Resume, Stop, Wait
from luthier.core import events as ev
from luthier.core.history import History
from luthier.schedule.full import Full
from luthier.search.uniform import Random

RATE = lt.Space(learning_rate=lt.Float(1e-5, 1e-1, log=True))
PATIENCE = 60.0
"""Seconds until a test gives up; none of them waits so long."""


class Sum:
    """Something with a state, to which every epoch adds."""

    def __init__(self) -> None:
        self.value = 0.0

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.value = state["value"]


def rising(trial: lt.Trial) -> None:
    total = Sum()
    for epoch in trial.epochs(total=total):
        total.value += trial.config["learning_rate"]
        print("epoch", epoch)
        trial.report(val_loss=total.value / epoch + 1 / epoch)


def saving(trial: lt.Trial) -> None:
    """Keeps a folder of its own as its checkpoint."""
    begun = 0 if trial.checkpoint is None else int((trial.checkpoint / "part" / "epoch").read_text())
    for epoch in range(begun + 1, trial.until + 1):
        on = trial.goes_on({"val_loss": trial.config["learning_rate"] + 1 / epoch}, epoch)
        if not on and trial.to_be_saved:
            with trial.saving() as place:
                (place / "part").mkdir(parents=True)
                (place / "part" / "epoch").write_text(str(epoch))
        if not on:
            return


def wait_for(truth: Any) -> None:
    """Until ``truth()``."""
    deadline = time.monotonic() + PATIENCE
    while not truth():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def troubled(place: str) -> Any:
    """A training whose first trial kills its worker once, and whose second raises."""

    def train(trial: lt.Trial) -> None:
        total, mark = Sum(), Path(place, "killed")
        for epoch in trial.epochs(total=total):
            if trial.id == 0 and epoch == 2 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if trial.id == 1:
                raise ValueError("the second one fails")
            trial.report(val_loss=1 / epoch)

    return train


def obedient(trial: lt.Trial) -> None:
    """Trains on until it is told to stop."""
    for epoch in trial.epochs():
        if trial.id == 0 and epoch == 2:
            wait_for(lambda: trial.should_stop)
        trial.report(val_loss=1 / epoch)


def quarrelling(place: str) -> Any:
    """A training of several processes: in the first trial rank 1 raises, in the second one it is killed once."""

    def train(trial: lt.Trial) -> None:
        mark = Path(place, "killed")
        for epoch in trial.epochs():
            if trial.rank == 1 and epoch == 2 and trial.id == 0:
                raise ValueError("only here")
            if trial.rank == 1 and epoch == 2 and trial.id == 1 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            trial.report(val_loss=1 / epoch, ranks=trial.processes)

    return train


class StopFirst(Full):
    """Ends the first trial after its first epoch."""

    def judge(self, history: History, trial: int) -> Stop | None:
        return Stop("enough seen") if trial == 0 else None


class OneThenTwo(Full):
    """Trains the first trial alone, then the others."""

    def __init__(self) -> None:
        super().__init__(Random())

    def propose(self, history: History, rng: Any) -> Any:
        return Wait("the first one") if list(history.running) == [0] else super().propose(history, rng)


class InTwo(Full):
    """Trains one trial to its first epoch, and then to its last."""

    def __init__(self) -> None:
        super().__init__(Random())

    def propose(self, history: History, rng: Any) -> Any:
        if not history.trials:
            return replace(super().propose(history, rng), until=1)
        trial = history.trials[0]
        return Resume(0, history.study.max_epochs, "on") if trial.status.value == "paused" else Done("that was all")


def tune(target: Any, storage: Path, **more: Any) -> lt.Result:
    given = {"space": RATE, "minimize": "val_loss", "max_epochs": 3, "strategy": "random", "budget": "3 trials",
             "quiet": True, "storage": storage}  # fmt: skip
    return lt.tune(target, **{**given, **more})


def check_same_decisions(folder: Path, **elsewhere: Any) -> None:
    """With one worker a study with pauses takes the decisions, and has the curves, of a local one."""
    asha = {"strategy": "asha", "max_epochs": 9, "budget": "5 trials", "seed": 3}
    tune(rising, folder / "here.db", **asha)
    found = tune(rising, folder / "there.db", **asha, **elsewhere)
    here, there = entries_of(folder / "here.db"), entries_of(folder / "there.db")
    assert decisions_of(there) == decisions_of(here)
    assert reports_of(there) == reports_of(here)
    assert any(isinstance(e.event, ev.Resumed) for e in there)
    assert {t.spent - t.epoch for t in found.trials()} == {0}  # what was resumed went on from its checkpoint


def check_trouble(folder: Path, **elsewhere: Any) -> None:
    """A worker's death puts its trial back, and its exceptions are data."""
    found = tune(troubled(str(folder)), folder / "s.db", **elsewhere)
    first, second, third, *_ = found.history.trials
    assert (first.status.value, first.attempts, len(first.reports)) == ("done", 2, 3)
    assert (second.status.value, second.failure.kind) == ("failed", "raised")
    assert "ValueError: the second one fails" in second.failure.reason
    assert third.status.value == "done"
    (put_back,) = (e.event for e in entries_of(folder / "s.db") if isinstance(e.event, ev.Requeued))
    assert (put_back.trial, put_back.blame) == (0, True)


def check_stop(folder: Path, **elsewhere: Any) -> None:
    """A stop reaches a worker in the middle of an epoch."""
    found = tune(obedient, folder / "s.db", strategy=StopFirst(Random()), **elsewhere)
    assert [t.status.value for t in found.history.trials][:2] == ["stopped", "done"]
    assert len(found.history.trials[0].reports) == 1


def check_ranks(folder: Path, **elsewhere: Any) -> None:
    """Trials of two processes are paused and resumed as here, and fail as here, by the rank that is at fault."""
    from parallel import parallel

    asha = {"strategy": "asha", "max_epochs": 3, "budget": "3 trials", "seed": 3, "processes": 2, "threads": 1}
    tune(parallel, folder / "here.db", **asha)
    tune(parallel, folder / "there.db", **asha, **elsewhere)
    here, there = entries_of(folder / "here.db"), entries_of(folder / "there.db")
    assert decisions_of(there) == decisions_of(here)
    assert reports_of(there) == reports_of(here)
    assert any(isinstance(e.event, ev.Resumed) for e in there)

    first, second, third, *_ = tune(quarrelling(str(folder)), folder / "s.db", processes=2, **elsewhere).history.trials
    assert (first.failure.kind, first.failure.reason) == ("raised", "rank 1: ValueError: only here")
    assert (second.status.value, second.attempts) == ("done", 2)
    assert (third.status.value, third.metrics["ranks"]) == ("done", 2.0)


NOTE = "open(PIDS, 'a').write(f'{__import__(\"os\").getpid()}\\n'); time.sleep(0.1)"


def command(folder: Path, *more: str, train: str = TRAIN.replace("time.sleep(PAUSE)", NOTE)) -> list[str]:
    """A study from the terminal, whose trials write down which process trains them."""
    folder.mkdir()
    (folder / "job.py").write_text(train.replace("PIDS", repr(str(folder / "pids"))))
    (folder / "space.yaml").write_text(SPACE)
    return ["tune", "job.py:train", "--space", "space.yaml", "--minimize", "val_loss", "--max-epochs", "20", "--budget",
            "1 trials", "--strategy", "random", "--storage", "s.db", "--seed", "3", *more]  # fmt: skip


def begin(folder: Path, *more: str, **given: str) -> subprocess.Popen[bytes]:
    """That study, of which a few reports are in the log."""

    def heard() -> None:  # a suite that runs in the background hands down a Ctrl-C that is ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)

    driver = subprocess.Popen([*LUTHIER, *command(folder, *more, **given)], cwd=folder, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, preexec_fn=heard)  # fmt: skip
    wait_for(lambda: driver.poll() is not None or sum(isinstance(e.event, ev.Reported) for e in log(folder)) >= 4)
    assert driver.poll() is None, driver.communicate()[0].decode()
    return driver


def undisturbed(folder: Path) -> list[Any]:
    """The log of that study, trained here and left in peace."""
    place = folder / "calm"
    assert subprocess.run([*LUTHIER, *command(place)], cwd=place, capture_output=True).returncode == 0
    return log(place)


def log(folder: Path) -> list[Any]:
    return entries_of(folder / "s.db")


def trained_by(folder: Path) -> set[int]:
    """Every process that ever trained a trial of that study."""
    return {int(line) for line in (folder / "pids").read_text().split()}


def left(pids: set[int]) -> set[int]:
    """Which of them are still there."""
    return {pid for pid in pids if Path(f"/proc/{pid}").exists() and "Z (" not in status(pid)}


def status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "State:\tZ (gone)"
