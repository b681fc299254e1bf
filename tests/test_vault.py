"""Checkpoints in a bucket: uploaded, gone on from, lost, damaged, deleted when superseded, as on a disk."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import clusters
import pytest
from clones import history_of, started
from clusters import tune
from kill import entries_of

import luthier as lt
from luthier.core import events as ev
from luthier.core.errors import UserError
from luthier.run.checkpoint import Damaged, digest_of
from luthier.run.retention import drop_old
from luthier.run.vault import Bucket, Folder
from luthier.store import open_store

fsspec = pytest.importorskip("fsspec", reason="needs fsspec")

ASHA = {"strategy": "asha", "max_epochs": 9, "budget": "5 trials"}


@pytest.fixture
def bucket(tmp_path):
    """A folder that plays a bucket, and its URL."""
    (tmp_path / "bucket").mkdir()
    return tmp_path / "bucket", f"file://{tmp_path / 'bucket'}"


@pytest.fixture
def memory():
    yield "memory://shelf"
    fsspec.filesystem("memory").store.clear()


@pytest.mark.parametrize("train", [clusters.rising, clusters.saving])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_trial_goes_on_from_a_bucket_and_nothing_stays_on_the_disk(tmp_path, bucket, train, workers):
    found = tune(train, tmp_path / "s.db", files=bucket[1], workers=workers, **ASHA)
    assert any(t.epoch == 9 for t in found.trials())
    assert {t.spent - t.epoch for t in found.trials()} == {0}
    kept = {p.relative_to(bucket[0] / train.__name__).as_posix() for p in bucket[0].rglob("*.ckpt*")}
    assert {k.removesuffix(".tar") for k in kept} == {t.checkpoint.path for t in found.trials()}
    assert not list(bucket[0].rglob("parts/*"))
    assert not list((tmp_path / "s.files").rglob("*.ckpt*"))


def test_what_a_trial_has_uploaded_since_is_not_swept():
    """A bucket is swept by and by: its trial may be further when its turn comes."""
    names = [f"checkpoints/trial-00000/epoch-{epoch:05d}.ckpt" for epoch in (1, 3, 9)]
    history = history_of(
        *(started(0, 1), ev.Reported(0, 1, {"val_loss": 1.0}), ev.Ended(0, 1, checkpoint=names[0])),
        *(ev.Resumed(0, 3, ""), ev.Reported(0, 3, {"val_loss": 1.0}), ev.Ended(0, 3, checkpoint=names[1])),
    )
    later = Later()
    drop_old(history, 0, later)
    assert later.folders == {"checkpoints/trial-00000"}
    assert [name for name in names if later.goes(name)] == names[:1]


class Later(Folder):
    """Does not sweep yet."""

    def __init__(self):
        super().__init__(Path())

    def sweep(self, folders, goes):
        self.folders, self.goes = folders, goes


def test_a_study_that_goes_on_remembers_its_bucket(tmp_path, bucket):
    tune(clusters.rising, tmp_path / "s.db", files=bucket[1], workers=0, **{**ASHA, "budget": "2 trials"})
    found = tune(clusters.rising, tmp_path / "s.db", workers=0, **ASHA)
    assert {t.spent - t.epoch for t in found.trials()} == {0}
    assert len(list(bucket[0].rglob("*.ckpt"))) == len(found.trials())
    assert not list((tmp_path / "s.files").rglob("*.ckpt"))


def test_any_file_system_of_fsspec_will_do(tmp_path, memory):
    found = tune(clusters.saving, tmp_path / "s.db", files=memory, workers=0, **ASHA)
    assert {t.spent - t.epoch for t in found.trials()} == {0}
    kept = fsspec.filesystem("memory").find("/shelf")
    assert len(kept) == len(found.trials())


@pytest.mark.parametrize("damage", ["deleted", "cut"])
def test_a_checkpoint_that_is_lost_there_is_told_and_the_trial_starts_over(tmp_path, bucket, damage):
    class Damaging:
        """Harms the first checkpoint that the study writes."""

        harmed = False

        def update(self, history, events):
            ended = [e for e in events if isinstance(e, ev.Ended)]
            if ended and not self.harmed:
                self.harmed = True
                (place,) = bucket[0].rglob("*.ckpt")
                place.unlink() if damage == "deleted" else place.write_bytes(place.read_bytes()[:-1])

    space = lt.Space(learning_rate=lt.Choice(0.1))
    strategy = clusters.InTwo()
    tune(clusters.rising, tmp_path / "s.db", files=bucket[1], space=space, strategy=strategy, budget="1 trials",
         observers=[Damaging()])  # fmt: skip
    entries = entries_of(tmp_path / "s.db")
    (lost,) = (e.event for e in entries if isinstance(e.event, ev.CheckpointLost))
    assert lost.why == "there is no such file" if damage == "deleted" else "its checksum is" in lost.why
    log = open_store(tmp_path / "s.db")
    (trial,) = log.fold().trials
    log.close()
    assert (trial.status.value, trial.epoch, len(trial.reports)) == ("done", 3, 3)


def test_room_in_the_bucket_is_kept_within_its_bounds(tmp_path, bucket):
    found = tune(clusters.rising, tmp_path / "s.db", files=bucket[1], checkpoint_space="12 kB", budget="4 trials")
    sizes = [p.stat().st_size for p in bucket[0].rglob("*.ckpt")]
    assert 0 < sum(sizes) <= 12_000
    assert len(sizes) < len(found.trials())


def test_a_folder_travels_whole(tmp_path, memory):
    sender, receiver = (Bucket(memory, tmp_path / name) for name in ("here", "there"))
    place = sender.place("checkpoints/trial-00000/epoch-00001.ckpt")
    (place / "deep" / "empty").mkdir(parents=True)
    (place / "deep" / "weights").write_bytes(b"w" * 70_000)
    (place / "name").write_text("x")
    digest = digest_of(place)
    sender.keep("checkpoints/trial-00000/epoch-00001.ckpt")
    assert not place.exists()
    assert digest_of(receiver.bring("checkpoints/trial-00000/epoch-00001.ckpt")) == digest
    receiver.rest()
    assert not list((tmp_path / "there").rglob("weights"))
    receiver.drop("checkpoints/trial-00000/epoch-00001.ckpt")
    with pytest.raises(Damaged, match="no such file"):
        receiver.bring("checkpoints/trial-00000/epoch-00001.ckpt")


def test_what_cannot_be_used_is_said_before_anything_is_trained(tmp_path):
    def asked(url):
        return tune(clusters.rising, tmp_path / "s.db", files=url)

    with pytest.raises(UserError, match=r"nosuch://x/rising.*Name a folder, or a URL as s3://bucket/folder"):
        asked("nosuch://x")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/rising' cannot be written: .* Name a bucket that exists"):
        asked(f"file://{tmp_path}/file")
    assert not list(Path(tmp_path).glob("s.files"))


@pytest.mark.skipif(bool(find_spec("s3fs")), reason="s3fs is installed")
def test_a_missing_back_end_is_named(tmp_path):
    with pytest.raises(UserError, match=r"files='s3://bucket/x/rising' needs s3fs. pip install s3fs"):
        tune(clusters.rising, tmp_path / "s.db", files="s3://bucket/x")
