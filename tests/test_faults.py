"""Faults of the machine: they are recorded and the study goes on, or it says what to mend and goes on after that."""

from __future__ import annotations

import os
import pickle
import random
import resource
import shutil
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from kill import LUTHIER, entries_of, judge, start
from test_signals import command
from test_workers import Weights, train, tune

import luthier as lt
from luthier.contracts import Done, Resume, Start
from luthier.core import events as ev
from luthier.core.errors import StorageError, UserError
from luthier.core.trial import Status
from luthier.run.book import RETRIES, steady
from luthier.run.limits import Limits
from luthier.schedule.full import Full
from luthier.schedule.halving import ASHA
from luthier.search.uniform import Random
from luthier.store import SqlStore, locate, open_store

# -- workers -----------------------------------------------------------------------------------------------------------


def test_a_trial_that_hangs_is_ended_and_tried_again(tmp_path):
    def hangs_once(trial):
        for epoch in trial.epochs():
            mark = tmp_path / "hung"
            if trial.id == 1 and epoch == 2 and not mark.exists():
                mark.touch()
                time.sleep(3600)
            trial.report(val_loss=1.0 / epoch)

    result = tune(hangs_once, workers=1, timeout=3, storage=tmp_path / "s.db", budget="2 trials")
    assert [t.status for t in result.trials()] == [Status.DONE] * 2
    assert [t.attempts for t in result.trials()] == [1, 2]
    again = [e.event for e in entries_of(tmp_path / "s.db") if isinstance(e.event, ev.Requeued)]
    assert [e.why for e in again] == [f"no report for 3 s (timeout); attempt 2 of {RETRIES}"]


def test_a_worker_that_has_grown_too_large_is_replaced_between_two_trials(tmp_path):
    def who(trial):
        trial.report(val_loss=1.0, pid=float(os.getpid()))

    def pids(**limits):
        place = tmp_path / f"{len(limits)}.db"
        result = tune(who, workers=1, max_epochs=1, budget="3 trials", storage=place, **limits)
        assert [t.status for t in result.trials()] == [Status.DONE] * 3
        return len({t.metrics["pid"] for t in result.trials()})

    assert pids() == 1
    assert pids(worker_memory="1 MB") == 3
    told = (tmp_path / "1.files" / "who" / "logs" / "worker-0.log").read_text()
    assert "luthier: replaced between two jobs: it held" in told


def test_limits_are_read():
    assert Limits.of("10 min", "8 GB", "1.5 MiB") == Limits(600.0, 8 * 10**9, 3 * 2**19)
    assert Limits.of(90, 10**6) == Limits(90.0, 10**6)
    for wrong in ({"timeout": "soon"}, {"timeout": "3 epochs"}, {"timeout": 0}, {"worker_memory": "8 apples"},
                  {"checkpoint_space": 0}, {"checkpoint_space": True}):  # fmt: skip
        with pytest.raises(UserError, match=f"{next(iter(wrong))}="):
            Limits.of(**wrong)


# -- checkpoints -------------------------------------------------------------------------------------------------------


class Heavy(Weights):
    """Weights of 50 kB."""

    def state_dict(self):
        return {"steps": self.steps, "ballast": random.Random(self.steps).randbytes(50_000)}


def heavy(trial):
    weights = Heavy()
    for _ in trial.epochs(weights=weights):
        weights.steps += 1
        trial.report(val_loss=1.0 / weights.steps + trial.config["learning_rate"])


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.ckpt"))


@pytest.mark.parametrize("framework", ["none", "torch"])
def test_a_disk_that_is_full_while_a_checkpoint_is_written_is_recorded_and_training_goes_on(tmp_path, framework):
    def limited(trial):
        if framework == "torch":
            import torch  # noqa: F401 - checkpoints are PyTorch's own then
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if trial.id == 1 and trial.start == 0:  # no file of more than 20 kB
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            heavy(trial)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    place = tmp_path / "s.db"
    result = tune(limited, strategy=ASHA(Random(), min_epochs=3), storage=place, workers=1, budget="4 trials")
    trials = result.trials()
    assert not [t for t in trials if t.failure]
    assert trials[1].troubles == ("not saved at epoch 3: File too large",)
    assert all(t.troubles == () for t in trials if t.id != 1)
    assert result.history.finished
    assert not list((tmp_path / "s.files").rglob("*.part"))


class InTwoParts(Full):
    """One trial: to epoch 3, then to the end."""

    def propose(self, history, rng):
        if not history.trials:
            return Start({"learning_rate": 0.01}, until=3, why="the first part")
        if history.trials[0].status is Status.PAUSED:
            return Resume(0, until=9, why="the second part")
        return Done("all was trained")


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("fault", [damage, Path.unlink, lambda file: file.write_bytes(b"")])
def test_a_damaged_checkpoint_is_noticed_and_the_trial_starts_over(tmp_path, fault):
    place = tmp_path / "s.db"
    first = tune(heavy, strategy=InTwoParts(Random()), storage=place, workers=0, budget="3 epochs").trials()[0]
    assert (first.status, len(first.checkpoint.digest)) == (Status.PAUSED, 64)
    fault(tmp_path / "s.files" / "heavy" / first.checkpoint.path)
    (trial,) = tune(heavy, strategy=InTwoParts(Random()), storage=place, workers=0, budget="9 epochs").trials()
    assert trial.troubles[0].startswith("checkpoints/trial-00000/epoch-00003.ckpt is lost: ")
    steps = [round(1 / (r.metrics["val_loss"] - trial.config["learning_rate"])) for r in trial.reports]
    assert steps == list(range(1, 10))
    assert trial.status is Status.DONE


def test_a_damaged_state_of_an_interrupted_job_falls_back_to_the_checkpoint_before_it(tmp_path):
    from luthier.contracts import Job
    from luthier.run.perform import perform

    def job(start, until, **more):
        return Job(0, {"learning_rate": 0.0}, 1, start, until, 9, **more)

    def do(what, parked=lambda: False):
        said: list = []
        perform(heavy, what, send=said.append, stopped=lambda: False, files=tmp_path, parked=parked)
        return said

    ended = do(job(0, 3))[-1]
    polls = iter([False, False, True])
    interrupted = do(job(3, 9, checkpoint=ended.checkpoint, digest=ended.digest), lambda: next(polls))[-1]
    assert (interrupted.epoch, interrupted.checkpoint) == (5, "checkpoints/trial-00000/epoch-00005.ckpt")
    damage(tmp_path / interrupted.checkpoint)
    source = {"checkpoint": interrupted.checkpoint, "digest": interrupted.digest}
    said = do(job(5, 6, **source, fallback=[(ended.checkpoint, ended.digest, False)]))
    assert isinstance(said[0], ev.CheckpointLost)
    assert "its checksum is" in said[0].why
    assert [(e.epoch, round(1 / e.metrics["val_loss"])) for e in said if isinstance(e, ev.Reported)] == [
        (4, 4), (5, 5), (6, 6)]  # fmt: skip


def test_checkpoints_keep_within_their_space_and_the_best_ones_stay(tmp_path):
    place = tmp_path / "s.db"
    result = tune(heavy, strategy=ASHA(Random(), min_epochs=1), storage=place, workers=1, budget="6 trials",
                  checkpoint_space="220 kB")  # fmt: skip
    files = tmp_path / "s.files" / "heavy"
    kept = checkpoints(files)
    assert 1 <= len(kept) <= 4
    assert sum(f.stat().st_size for f in kept) <= 220_000
    best = result.history.incumbent
    assert (files / best.checkpoint.path).is_file()
    told = {t.checkpoint.path for t in result.trials() if t.checkpoint is not None}
    assert told == {f.relative_to(files).as_posix() for f in kept}  # the log knows which are left
    deleted = [t for t in result.trials() if t.troubles]
    assert deleted
    assert all("deleted to keep the checkpoints within 220,000 bytes" in t.troubles[0] for t in deleted)
    assert result.history.finished


# -- the log -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> list:
    folder = tmp_path_factory.mktemp("calm")
    assert start(command(folder), cwd=folder).wait() == 0
    return entries_of(folder / "s.db")


def run(folder: Path, *words: str, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    def lower() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run([*LUTHIER, *words], cwd=folder, capture_output=True, text=True, check=False,
                          preexec_fn=lower)  # fmt: skip


def test_when_the_disk_of_the_log_is_full_the_study_says_so_and_goes_on_later(tmp_path, undisturbed):
    full = run(tmp_path, *command(tmp_path), limit=250_000)
    assert full.returncode == 2, full.stderr
    assert "disk I/O error" in full.stderr or "full" in full.stderr
    assert "The disk is full" in full.stderr
    assert "Traceback" not in full.stderr
    before = entries_of(tmp_path / "s.db")
    assert len(before) > 10
    assert run(tmp_path, "resume", "s.db").returncode == 0
    assert judge(before, entries_of(tmp_path / "s.db"), undisturbed) == []


def protect(file: Path, on: bool) -> None:
    """Make a file read-only, for root too."""
    if os.geteuid() != 0:
        file.chmod(0o444 if on else 0o644)
    elif shutil.which("chattr") is None:
        pytest.skip("root writes to every file")
    elif subprocess.run(["chattr", "+i" if on else "-i", str(file)], capture_output=True, check=False).returncode != 0:
        pytest.skip("this file system knows no immutable files")


def test_a_study_that_may_not_be_written_says_so_and_can_be_read(tmp_path):
    place = tmp_path / "s.db"
    tune(train, storage=place, workers=0)
    before = entries_of(place)
    protect(place, True)
    try:
        with pytest.raises(StorageError, match=r"(?s)readonly database.*Make the file writable"):
            tune(train, storage=place, workers=0, budget="6 trials")
        assert entries_of(place) == before
    finally:
        protect(place, False)
    assert len(tune(train, storage=place, workers=0, budget="6 trials").trials()) == 6


def test_a_folder_that_may_not_be_written_is_told_before_anything_begins(tmp_path):
    (tmp_path / "s.files").write_text("where the folder of files should be")
    with pytest.raises(StorageError, match=r"driver.lock cannot be written.*Make the folder writable"):
        tune(train, storage=tmp_path / "s.db", workers=0)
    assert not (tmp_path / "s.db").exists()


@pytest.mark.parametrize("how", ["zeros", "row", "gap"])
def test_a_damaged_database_is_told_and_left_as_it_is(tmp_path, how):
    place = tmp_path / "s.db"
    tune(train, storage=place, workers=0, budget="30 trials")
    if how == "zeros":
        content = bytearray(place.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 8192] = bytes(8192)
        place.write_bytes(content)
    else:
        link = sqlite3.connect(place)
        link.execute("UPDATE events SET data = '[1, 2' WHERE seq = 50" if how == "row" else
                     "DELETE FROM events WHERE seq = 50")  # fmt: skip
        link.commit()
        link.close()
    before = place.read_bytes()
    for attempt in (lambda: tune(train, storage=place, workers=0, budget="31 trials"), lambda: open_store(place).fold(),
                    lambda: list(open_store(place).read())):  # fmt: skip
        with pytest.raises(StorageError, match=r"(?s)(malformed|damaged).*Restore a copy of the file"):
            attempt()
    assert place.read_bytes() == before


def test_a_clock_that_is_set_to_another_time_spends_no_budget(monkeypatch):
    clock = steady()
    before = clock()
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert 0.0 <= clock() - before < 60.0


def test_reports_are_synced_only_when_asked_and_together(tmp_path):
    store = SqlStore(locate(tmp_path / "s.db"), "s", "power")
    store.append([], 0)
    with store._engine.connect() as link:
        assert link.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    with pytest.raises(UserError, match=r"durability='powr' is unknown.*Did you mean 'power'"):
        SqlStore(locate(tmp_path / "s.db"), "s", "powr")
    result = tune(train, storage=tmp_path / "t.db", workers=2, durability="power")
    assert len(result.trials()) == 4


def test_nobody_else_unpickles_a_checkpoint_that_was_changed(tmp_path):
    """The checksum is taken before anything is loaded."""
    from luthier.run import checkpoint

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "hacked"),))

    digest = checkpoint.save(tmp_path / "c.ckpt", 1, {"weights": Weights()})
    (tmp_path / "c.ckpt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(checkpoint.Damaged, match="its checksum is"):
        checkpoint.load(tmp_path / "c.ckpt", {"weights": Weights()}, digest=digest)
    assert not (tmp_path / "hacked").exists()
    assert lt.__version__
