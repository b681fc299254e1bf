"""Trials in Slurm jobs: through submitit's own processes, and on a real Slurm of this machine where there is one."""

from __future__ import annotations

import os
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path

import clusters
import pytest
import slurm_here
from clusters import (
    begin,
    check_ranks,
    check_same_decisions,
    check_stop,
    check_trouble,
    left,
    log,
    trained_by,
    tune,
    undisturbed,
    wait_for,
)
from kill import judge, start

from luthier.core import events as ev
from luthier.core.errors import UserError

pytestmark = [
    pytest.mark.skipif(not find_spec("submitit"), reason="submitit is not installed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # submitit's own processes
]

TRIED_OUT = {"cluster": "local"}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A Slurm of this machine."""
    if why := slurm_here.missing():
        pytest.skip(why)
    try:
        with slurm_here.slurm(tmp_path_factory.mktemp("slurm")) as conf:
            yield conf
    except RuntimeError as error:
        pytest.skip(f"Slurm does not come up here: {error}")


@pytest.fixture(params=["tried out", "real"])
def options(request, monkeypatch):
    """``slurm=`` for both ways."""
    if request.param == "tried out":
        return TRIED_OUT
    monkeypatch.setenv("SLURM_CONF", str(request.getfixturevalue("real")))
    return {"partition": "here", "cpus_per_task": 1}


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> list:
    return undisturbed(tmp_path_factory.mktemp("calm"))


def words(options: dict) -> list[str]:
    """The same for the terminal."""
    return ["--executor", "slurm", "--slurm", ",".join(f"{k}={v}" for k, v in options.items())]


def test_a_study_decides_in_slurm_jobs_what_it_decides_here(options, tmp_path):
    check_same_decisions(tmp_path, executor="slurm", slurm=options)
    assert not (tmp_path / "there.files" / "rising" / "slurm").exists()
    printed = (tmp_path / "there.files" / "rising" / "logs" / "worker-0.log").read_text()
    assert "--- trial 0, epochs 1 to 1 ---\nepoch 1\n" in printed


def test_a_job_that_dies_is_submitted_again_and_its_trial_put_back(options, tmp_path):
    check_trouble(tmp_path, executor="slurm", slurm=options)


def test_a_stop_reaches_a_worker_that_trains(options, tmp_path):
    check_stop(tmp_path, executor="slurm", slurm=options, workers=2)


def test_trials_of_two_processes(real, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("SLURM_CONF", str(real))
    check_ranks(tmp_path, executor="slurm", slurm={"partition": "here", "cpus_per_task": 1})


LOADED = """
import os, time, torch

def slowly(parts):
    time.sleep(0.005)
    return torch.tensor(parts)

def train(trial):
    model = torch.nn.Linear(1, 1)
    data = torch.utils.data.DataLoader(range(20), num_workers=1, collate_fn=slowly)
    for epoch in trial.epochs(model=model):
        with open(PIDS, "a") as file:
            file.write(f"{os.getpid()}\\n")
        total = sum(int(part) for part in data)
        trial.report(val_loss=trial.config["learning_rate"] + 1 / epoch, total=total)
"""


def test_slurms_signal_reaches_loaders_and_ranks_and_the_trial_is_saved_all_the_same(real, tmp_path, monkeypatch):
    """Slurm signals every process of a job, those too that feed the training or train along with it."""
    pytest.importorskip("torch")
    monkeypatch.setenv("SLURM_CONF", str(real))
    folder = tmp_path / "here"
    driver = begin(folder, *words({"partition": "here"}), "--processes", "2", train=LOADED)
    ids = subprocess.run(["squeue", "-h", "-o", "%A"], capture_output=True, text=True, timeout=30).stdout.split()
    subprocess.run(["scancel", "--signal=USR2", *ids], check=True, timeout=30)
    assert driver.communicate() is not None
    assert driver.returncode == 0
    happened = [e.event for e in log(folder)]
    (left_at,) = (e for e in happened if isinstance(e, ev.Interrupted))
    assert left_at.checkpoint is not None
    assert not any(isinstance(e, ev.Requeued | ev.Failed) for e in happened)
    assert sorted(e.epoch for e in happened if isinstance(e, ev.Reported)) == list(range(1, 21))
    assert len(trained_by(folder)) == 4


def test_before_its_time_is_over_a_worker_saves_its_trial_and_the_next_job_goes_on(options, tmp_path, calm):
    folder = tmp_path / "here"
    driver = begin(folder, *words(options))
    (worker,) = trained_by(folder)
    os.kill(worker, signal.SIGUSR2)  # as Slurm does for submitit, before it ends the job
    assert driver.communicate() is not None
    assert driver.returncode == 0
    assert judge([], log(folder), calm) == []
    assert sum(isinstance(e.event, ev.Interrupted) for e in log(folder)) == 1
    assert not any(isinstance(e.event, ev.Requeued) for e in log(folder))
    assert len(trained_by(folder)) == 2


def test_what_a_killed_driver_left_is_cancelled_by_the_next(options, tmp_path, calm):
    folder = tmp_path / "here"
    driver = begin(folder, *words(options))
    driver.kill()
    driver.wait()
    before, orphans = log(folder), trained_by(folder)
    assert start(["resume", "s.db", *words(options)], cwd=folder).wait() == 0
    wait_for(lambda: not left(orphans))
    assert judge(before, log(folder), calm) == []


def test_ctrl_c_saves_what_trains_and_leaves_no_job(real, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", str(real))
    driver = begin(tmp_path / "here", *words({"partition": "here"}))
    driver.send_signal(signal.SIGINT)
    told = driver.communicate()[0].decode()
    assert driver.returncode == 128 + signal.SIGINT
    assert "1 running trial saved" in told
    wait_for(lambda: not left(trained_by(tmp_path / "here")))
    running = subprocess.run(["squeue", "-h", "-t", "R,PD"], capture_output=True, text=True, timeout=30).stdout
    assert running == ""


def test_a_worker_without_a_job_leaves_and_the_next_job_brings_another(tmp_path):
    """The second worker has nothing to do while the first one waits for it to have left."""
    log_folder = tmp_path / "s.files" / "train" / "slurm"

    def train(trial):
        for epoch in trial.epochs():
            if trial.id == 0 and epoch == 2:
                clusters.wait_for(lambda: len(list(log_folder.glob("*/*-*/out"))) == 1)
            trial.report(val_loss=1 / epoch)

    slurm = {**TRIED_OUT, "idle": 0.5}
    found = tune(train, tmp_path / "s.db", executor="slurm", slurm=slurm, workers=2, strategy=clusters.OneThenTwo())
    assert [t.status.value for t in found.history.trials] == ["done"] * 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cluster": "local", "partitoin": "gpu"}, "Did you mean 'partition'"),
        ({"cluster": "local", "nodes": 2}, "nodes=2: a trial trains on one node"),
        ({"cluster": "local", "time": "1h"}, "is no number of minutes"),
        ({"cluster": "local", "idle": 0}, "is no number of seconds"),
        ({"cluster": "locl"}, "doesn't know any executor named locl"),
    ],
)
def test_mistakes_in_the_options_are_said_before_anything_is_written(tmp_path, options, said):
    with pytest.raises(UserError, match=said):
        tune(clusters.rising, tmp_path / "s.db", executor="slurm", slurm=options)
    assert not list(Path(tmp_path).glob("s.*"))


def test_what_slurm_refuses_is_said(real, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", str(real))
    with pytest.raises(UserError, match=r"Slurm refuses the job: .*Invalid partition"):
        tune(clusters.rising, tmp_path / "s.db", executor="slurm", slurm={"partition": "nowhere"})
