"""Trials of several processes: one configuration, one decision for all, one failure for all, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from adapting import whole_and_in_parts
from kill import LUTHIER, entries_of, family

import luthier as lt
from luthier.contracts import Done, Start, Stop
from luthier.core import events as ev
from luthier.core.errors import UserError
from luthier.core.history import fold
from luthier.core.trial import Status
from luthier.schedule.full import Full
from luthier.scripts.launched import cause
from luthier.search.uniform import Random

SPACE = lt.Space(learning_rate=lt.Float(1e-3, 1e-1, log=True))


@pytest.fixture
def nobody_left():
    """Whatever runs below this process after a test ran there before it: a Ray of other tests, say."""
    me = os.getpid()
    before = family(me) - {me}
    yield
    assert family(me) <= {me}.union(*map(family, before))


def tune(function, **more):
    given = {"space": SPACE, "minimize": "val_loss", "max_epochs": 4, "strategy": "random", "budget": "2 trials",
             "quiet": True, "processes": 2, "threads": 1}  # fmt: skip
    return lt.tune(function, **{**given, **more})


class Quick:
    """A strategy for trials to be ended after their second epoch: all, or those with these numbers."""

    def __init__(self, *trials):
        self.trials, self.full = trials, Full(Random())

    def propose(self, history, rng):
        return self.full.propose(history, rng)

    def judge(self, history, trial):
        ended = trial in self.trials and history.trials[trial].epoch == 2
        return Stop("seen enough") if ended else None


class Two(Quick):
    """Each of two configurations once, at once; the second is ended after its second epoch."""

    def propose(self, history, rng):
        number = len(history.trials)
        if number == 2:
            return Done("both")
        return Start({"rate": 0.5, "how": ("raises", "goes_on")[number]}, until=history.study.max_epochs, why="one")

    def judge(self, history, trial):
        return Stop("seen enough") if trial == 1 and history.trials[trial].epoch == 2 else None


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def gone(pids, seconds=10.0) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(alive, pids))


# -- with PyTorch ------------------------------------------------------------------------------------------------------


def test_a_model_in_two_processes_is_paused_and_resumed_as_if_it_had_not_been():
    pytest.importorskip("torch")
    from parallel import parallel

    whole, parts = whole_and_in_parts(
        parallel, SPACE, {"learning_rate": 0.05}, minimize="val_loss", workers=1, processes=2, threads=1
    )
    assert whole == parts
    assert whole[-1]["val_loss"] < whole[0]["val_loss"]
    assert len({report["drawn"] for report in whole}) == 4


def test_every_rank_leaves_at_the_same_epoch_and_fails_with_the_others(tmp_path, nobody_left):
    pytest.importorskip("torch")

    def work(trial):
        import torch
        import torch.distributed as dist

        dist.init_process_group("gloo")
        for epoch in trial.epochs():
            total = torch.ones(1)
            dist.all_reduce(total)  # a rank that goes on alone waits here for ever
            with (tmp_path / f"{trial.id}-{trial.rank}").open("a") as file:
                file.write(f"{epoch} ")
            if trial.rank == 1 and trial.id == 2 and epoch == 2:
                raise ValueError("only here")
            if trial.rank == 1 and trial.id == 3 and epoch == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            trial.report(val_loss=1.0 / epoch, ranks=total)
            time.sleep(0.05 if trial.id == 1 else 0)
        dist.destroy_process_group()

    result = tune(work, strategy=Quick(1), max_epochs=40, budget="160 epochs")
    trials = result.trials()
    assert [t.status for t in trials[:4]] == [Status.DONE, Status.STOPPED, Status.FAILED, Status.FAILED]
    assert trials[0].metrics["ranks"] == 2
    for number in (0, 1):
        epochs = [(tmp_path / f"{number}-{rank}").read_text().split() for rank in (0, 1)]
        assert epochs[0] == epochs[1]
        assert len(epochs[0]) == 40 if number == 0 else len(epochs[0]) < 30
    assert (trials[2].failure.kind, trials[2].failure.reason) == ("raised", "rank 1: ValueError: only here")
    assert 'raise ValueError("only here")' in trials[2].failure.detail
    assert trials[2].epoch < 3
    assert (trials[3].failure.kind, trials[3].failure.reason) == ("killed", "rank 1: its process was killed by SIGKILL")
    assert trials[3].attempts == 3
    assert trials[4].status is Status.DONE


LAUNCHED = """
import os, sys, time
import torch, torch.distributed as dist
dist.init_process_group("gloo")
rate, how, rank = float(sys.argv[1]), sys.argv[2], dist.get_rank()
open(f"pid-{how}-{rank}", "w").write(str(os.getpid()))
for epoch in range(1, 41):
    total = torch.ones(1)
    dist.all_reduce(total)
    print(f"epoch={epoch} val_loss={rate + rank} ranks={total.item()}", flush=True)
    if (rank, epoch, how) == (1, 2, "raises"):
        raise ValueError("only here")
    time.sleep(0.05)
"""


def test_a_script_that_torchrun_starts_is_tuned_as_it_is(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "main.py").write_text(LAUNCHED)
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "main.py", "{rate}", "{how}"]
    space = lt.Space(rate=lt.Constant(0.5), how=lt.Choice("raises", "goes_on"))
    result = tune(lt.Script(words, grace=0.5), space=space, strategy=Two(), processes=1, workers=2, max_epochs=40)
    failed, stopped = result.trials()
    assert (failed.failure.kind, failed.failure.reason) == ("died", "rank 1: ValueError: only here")
    assert 'raise ValueError("only here")' in failed.failure.detail
    assert (stopped.status, stopped.epoch) == (Status.STOPPED, 2)
    assert [r.metrics for r in stopped.reports] == [{"val_loss": 0.5}] * 2  # what rank 0 says, once
    assert gone([int((tmp_path / f"pid-goes_on-{rank}").read_text()) for rank in (0, 1)], 0.0)


def test_the_rank_that_failed_first_is_found_whoever_torchrun_takes_it_for(tmp_path):
    report = "E1126 08:04:34.3 9 torch/x.py:1] failed\nRoot Cause (first observed failure):\n[0]:\n  rank      : 0 " \
             "(local_rank: 0)\n  traceback : To enable traceback see: https://pytorch.org\n====\n"  # fmt: skip
    own = "[rank0]: Traceback (most recent call last):\n[rank0]: RuntimeError: Connection closed by peer [127.0.0.1]\n"
    place = tmp_path / "ranks" / "x" / "attempt_0" / "1"
    place.mkdir(parents=True)
    (place / "stderr.log").write_text("[rank1]: Traceback (most recent call last):\n[rank1]: ValueError: only here\n")
    assert cause(tmp_path, own + report) == (
        "rank 1: ValueError: only here",
        "Traceback (most recent call last):\nValueError: only here",
    )
    with (place / "stderr.log").open("a") as file:
        file.write("[rank1]: terminate called without an active exception\n")
    assert cause(tmp_path, own + report)[0] == "rank 1: ValueError: only here"
    (place / "stderr.log").write_text("")
    mine = own.replace("Connection closed by peer [127.0.0.1]", "mine")
    assert cause(tmp_path, mine + report)[0] == "rank 0: RuntimeError: mine"
    assert cause(tmp_path, "ValueError: no launcher\n") is None


# -- without -----------------------------------------------------------------------------------------------------------


def test_each_rank_has_the_environment_of_torchrun_and_the_same_configuration(tmp_path):
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")

    def who(trial):
        told = [os.environ[name] for name in names]
        held = [trial.rank, trial.processes, trial.id, trial.seed, trial.config["learning_rate"], trial.until]
        (tmp_path / f"{trial.id}-{trial.rank}").write_text(f"{told}|{held[1:]}|{os.environ['MASTER_PORT']}")
        trial.report(val_loss=1.0, pid=os.getpid())

    result = tune(who, processes=3, max_epochs=1)
    told = {path.name: path.read_text().split("|") for path in tmp_path.iterdir()}
    assert sorted(told) == ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2"]
    for name, (environment, _, _) in told.items():
        assert environment == str([name[2], name[2], "3", "3", "127.0.0.1"])
    for number in "01":
        assert len({tuple(told[f"{number}-{rank}"][1:]) for rank in "012"}) == 1
    assert len({t.metrics["pid"] for t in result.trials()}) == 1  # nothing was left in the processes: they train on


@pytest.mark.parametrize("how", ["raises", "exits", "dies"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_failing_rank_fails_the_trial_by_its_own_reason(how, rank, nobody_left):
    def fails(trial):
        for epoch in trial.epochs():
            if trial.rank == rank and epoch == 2 and trial.id == 0:
                if how == "raises":
                    raise KeyError("mine")
                if how == "exits":
                    raise SystemExit(3)
                os._exit(7)
            trial.report(val_loss=1.0)
            if trial.id == 0 and epoch == 2:
                time.sleep(3600)  # as one that waits for the other rank

    first, second = tune(fails).trials()[:2]
    assert first.status is Status.FAILED
    told = {
        "raises": ("raised", f"rank {rank}: KeyError: 'mine'"),
        "exits": ("died", f"rank {rank}: the training function called exit(3)"),
        "dies": ("died", "rank 1: its process exited with code 7" if rank else "its worker exited with code 7"),
    }
    assert (first.failure.kind, first.failure.reason) == told[how]
    assert second.status is Status.DONE


def test_a_loop_of_ones_own_ends_on_all_ranks_where_each_reports(tmp_path):
    def own(trial):
        try:
            for epoch in range(1, 100):
                with (tmp_path / f"{trial.id}-{trial.rank}").open("a") as file:
                    file.write(f"{epoch} ")
                time.sleep(0.05 if trial.rank == 0 and trial.id == 1 else 0)
                trial.report(val_loss=1.0, epoch=epoch)
        finally:
            (tmp_path / f"ended-{trial.id}-{trial.rank}").touch()

    result = tune(own, strategy=Quick(1), max_epochs=20, budget="40 epochs")
    assert [t.status for t in result.trials()[:2]] == [Status.DONE, Status.STOPPED]
    for number in (0, 1):
        one, other = ((tmp_path / f"{number}-{rank}").read_text().split() for rank in (0, 1))
        assert one == other
        assert (tmp_path / f"ended-{number}-1").exists()
    assert len(one) < 20


def test_a_state_in_a_format_of_ones_own_has_a_part_of_each_rank(tmp_path):
    def own(trial):
        seen = []

        def restore(path):
            seen.extend((path / str(trial.rank)).read_text().split())

        def save(path):
            path.mkdir(exist_ok=True)
            (path / str(trial.rank)).write_text(" ".join(seen))

        for epoch in trial.epochs_with(restore, save):
            seen.append(f"{trial.rank}:{epoch}")
            trial.report(val_loss=1.0)
        (tmp_path / f"{trial.rank}").write_text(" ".join(seen))

    whole_and_in_parts(own, SPACE, {"learning_rate": 0.05}, minimize="val_loss", workers=1, processes=2)
    for rank in "01":
        assert (tmp_path / rank).read_text().split() == [f"{rank}:{epoch}" for epoch in (1, 2, 3, 4)]


JOB = """
import os, time

class Epochs:
    def __init__(self): self.seen = []
    def state_dict(self): return {"seen": self.seen}
    def load_state_dict(self, state): self.seen = state["seen"]

def train(trial):
    state = Epochs()
    open(f"pid-{trial.rank}", "w").write(str(os.getpid()))
    for epoch in trial.epochs(state=state):
        state.seen.append(epoch)
        open(f"seen-{trial.rank}", "w").write(" ".join(map(str, state.seen)))
        time.sleep(0.02)
        trial.report(val_loss=1.0)
"""


def begin(folder: Path) -> subprocess.Popen[bytes]:
    (folder / "job.py").write_text(JOB)
    (folder / "space.yaml").write_text("x: {type: float, low: 0.0, high: 1.0}\n")
    words = ["tune", "job.py:train", "--space", "space.yaml", "--minimize", "val_loss", "--max-epochs", "60",
             "--strategy", "random", "--budget", "1 trials", "--storage", "s.db", "--processes", "2"]  # fmt: skip
    driver = subprocess.Popen([*LUTHIER, *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while (
        sum(isinstance(e.event, ev.Reported) for e in entries_of(folder / "s.db")) < 3
        or not (folder / "seen-1").exists()
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return driver


def test_asked_to_stop_all_ranks_save_after_the_same_epoch_and_go_on(tmp_path):
    driver = begin(tmp_path)
    driver.terminate()
    assert driver.wait() == 128 + signal.SIGTERM
    saved = fold(entries_of(tmp_path / "s.db")).trials[0].saved.epoch
    epochs = list(map(str, range(1, saved + 1)))
    assert [(tmp_path / f"seen-{rank}").read_text().split() for rank in (0, 1)] == [epochs, epochs]
    assert (
        subprocess.run([*LUTHIER, "resume", "s.db", "--processes", "2"], cwd=tmp_path, capture_output=True).returncode
        == 0
    )
    epochs = list(map(str, range(1, 61)))
    assert [(tmp_path / f"seen-{rank}").read_text().split() for rank in (0, 1)] == [epochs, epochs]
    reports = Counter(e.event.epoch for e in entries_of(tmp_path / "s.db") if isinstance(e.event, ev.Reported))
    assert reports == Counter(range(1, 61))


@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_no_rank_outlives_a_driver_or_worker_that_was_killed(tmp_path, victim):
    driver = begin(tmp_path)
    try:
        processes = family(driver.pid) - {driver.pid}
        ranks = [int((tmp_path / f"pid-{rank}").read_text()) for rank in (0, 1)]
        assert set(ranks) < processes
        os.kill(driver.pid if victim == "driver" else ranks[0], signal.SIGKILL)
        assert gone(processes)
    finally:
        driver.kill()
        driver.wait()


def test_what_trains_in_one_process_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "main.py").touch()
    with pytest.raises(UserError, match=r"(?s)a script trains in one process.*torchrun --nproc-per-node 2"):
        tune(lt.Script("python main.py {learning_rate}"))
    with pytest.raises(UserError, match="workers=0 trains in this process"):
        tune(lambda trial: None, workers=0)
    with pytest.raises(UserError, match="processes"):
        tune(lambda trial: None, processes=0)
