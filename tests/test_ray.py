"""Trials on a real Ray of this machine: the decisions, and the care, of the local pool."""

from __future__ import annotations

import signal
import time
from importlib.util import find_spec
from pathlib import Path

import clusters
import pytest
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

from luthier.core.errors import RunError
from luthier.run.ray_pool import RayPool, own_ray

pytestmark = [
    pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning"),  # Ray's own
]


@pytest.fixture(scope="module")
def cluster():
    """A Ray that listens to this machine alone."""
    ray = own_ray(num_cpus=2, object_store_memory=80 * 2**20)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture
def on(cluster, monkeypatch):
    """For studies started from the terminal."""
    monkeypatch.setenv("RAY_ADDRESS", cluster)


def test_a_study_decides_on_ray_what_it_decides_here(cluster, tmp_path):
    check_same_decisions(tmp_path, executor="ray")
    printed = (tmp_path / "there.files" / "rising" / "logs" / "worker-0.log").read_text()
    assert "--- trial 0, epochs 1 to 1 ---\nepoch 1\n" in printed


def test_a_killed_actor_is_replaced_and_its_trial_put_back(cluster, tmp_path):
    check_trouble(tmp_path, executor="ray")


def test_a_stop_reaches_an_actor_that_trains(cluster, tmp_path):
    check_stop(tmp_path, executor="ray", workers=2)


def test_trials_of_two_processes(cluster, tmp_path):
    pytest.importorskip("torch")
    check_ranks(tmp_path, executor="ray")


def test_a_trial_that_hangs_is_tried_again(cluster, tmp_path):
    mark = tmp_path / "hung"

    def train(trial):
        for epoch in trial.epochs():
            if epoch == 2 and not mark.exists():
                mark.touch()
                time.sleep(clusters.PATIENCE)
            trial.report(val_loss=1 / epoch)

    found = tune(train, tmp_path / "s.db", executor="ray", timeout=4.0, budget="1 trials")
    (trial,) = found.history.trials
    assert (trial.status.value, trial.attempts) == ("done", 2)


def test_checkpoints_may_lie_in_a_bucket(cluster, tmp_path):
    (tmp_path / "bucket").mkdir()
    url = f"file://{tmp_path / 'bucket'}"
    asha = {"strategy": "asha", "max_epochs": 9, "budget": "5 trials"}
    found = tune(clusters.saving, tmp_path / "s.db", executor="ray", workers=2, files=url, **asha)
    assert {t.spent - t.epoch for t in found.trials()} == {0}
    assert not list((tmp_path / "s.files").rglob("*.ckpt"))
    kept = {p.relative_to(tmp_path / "bucket" / "saving").as_posix() for p in tmp_path.glob("bucket/**/*.ckpt.tar")}
    assert kept == {f"{t.checkpoint.path}.tar" for t in found.trials()}


def test_ctrl_c_saves_what_trains_and_the_study_goes_on(on, tmp_path):
    folder = tmp_path / "here"
    driver = begin(folder, "--executor", "ray")
    driver.send_signal(signal.SIGINT)
    told = driver.communicate()[0].decode()
    assert driver.returncode == 128 + signal.SIGINT
    assert "1 running trial saved" in told
    wait_for(lambda: not left(trained_by(folder)))
    before = log(folder)
    driver = start(["resume", "s.db", "--executor", "ray"], cwd=folder)
    wait_for(lambda: len(log(folder)) > len(before) + 5)
    driver.kill()  # and killed, what trained for it ends with it
    driver.wait()
    wait_for(lambda: not left(trained_by(folder)))
    assert start(["resume", "s.db", "--executor", "ray"], cwd=folder).wait() == 0
    assert judge(before, log(folder), undisturbed(tmp_path)) == []


def test_a_target_that_cannot_be_loaded_ends_the_study(cluster, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("import os\nassert 'LUTHIER_WORKER' not in os.environ\ndef train(t): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_here

    with pytest.raises(RunError, match="could not load the training function: AssertionError"):
        tune(only_here.train, tmp_path / "s.db", executor="ray")
    assert not (tmp_path / "s.files").exists()


def test_what_no_node_has_is_said(cluster, tmp_path):
    with pytest.warns(UserWarning, match=r"No node can hold a worker with CPU=1, GPU=3; the largest have CPU=2, GPU=0"):
        pool = RayPool(clusters.rising, 1, Path(tmp_path), resources={"GPU": 3})
    assert pool.free == 0
    pool.close()
