"""Lightning's Trainer under Luthier, by both names: reports, stops, pauses and goes on."""

from __future__ import annotations

import importlib

import pytest
import torch
from adapting import Cloned, curves, whole_and_in_parts
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import luthier as lt
from luthier.core.errors import RunError
from luthier.core.trial import Status

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pkg_resources"),
    pytest.mark.filterwarnings("ignore:The `srun` command is available"),  # on a machine with Slurm
]
SPACE = lt.Space(
    learning_rate=lt.Float(1e-4, 1.0, log=True),
    dropout=lt.Float(0.0, 0.5),
    schedule=lt.Choice("none", "epoch", "step", "plateau"),
)


@pytest.fixture(params=["lightning", "pytorch_lightning"], scope="module")
def tool(request):
    """A module of Lightning's, the Trainer and the callback that go together."""
    name = {"lightning": "lightning.pytorch"}.get(request.param, request.param)
    library = pytest.importorskip(name)
    callback = importlib.import_module(f"luthier.integrations.{request.param}").LuthierCallback
    return library, callback, _module(library)


def _module(library):
    class Module(library.LightningModule):
        def __init__(self, config):
            super().__init__()
            self.config = config
            self.net = nn.Sequential(
                nn.Linear(4, 8), nn.ReLU(), nn.Dropout(config["dropout"]), nn.Linear(8, 1), nn.Flatten(0)
            )

        def loss(self, batch):
            x, y = batch
            return nn.functional.mse_loss(self.net(x), y)

        def training_step(self, batch, _):
            loss = self.loss(batch)
            self.log("train_loss", loss, on_step=True, on_epoch=True)
            return loss

        def validation_step(self, batch, _):
            self.log("val_loss", self.loss(batch))

        def on_train_epoch_end(self):
            self.log("lr", self.optimizers().param_groups[0]["lr"])

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=self.config["learning_rate"])
            kind = self.config["schedule"]
            if kind == "none":
                return optimizer
            steps = self.trainer.estimated_stepping_batches if kind == "step" else self.trainer.max_epochs
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
            settings = {"scheduler": scheduler, "interval": kind}
            if kind == "plateau":
                scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)
                settings = {"scheduler": scheduler, "monitor": "val_loss"}
            return {"optimizer": optimizer, "lr_scheduler": settings}

    return Module


def loaders():
    x = torch.randn(48, 4, generator=torch.Generator().manual_seed(0))
    y = x.sum(1)
    return DataLoader(TensorDataset(x[:32], y[:32]), 8, shuffle=True), DataLoader(TensorDataset(x[32:], y[32:]), 16)


def training(tool, folder, epochs=None, **more):
    library, callback, module = tool

    def train(trial):
        trainer = library.Trainer(
            max_epochs=epochs or trial.max_epochs * more.get("check_val_every_n_epoch", 1),
            callbacks=[callback(trial)],
            accelerator="cpu",
            logger=False,
            default_root_dir=folder,
            **{"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, **more},
        )
        trainer.fit(module(trial.config), *loaders(), ckpt_path=trial.checkpoint)

    return train


@pytest.mark.parametrize("schedule", ["none", "epoch", "step", "plateau"])
def test_a_paused_training_goes_on_as_if_it_had_not_been_paused(tool, tmp_path, schedule):
    config = {"learning_rate": 0.02, "dropout": 0.2, "schedule": schedule}
    whole, parts = whole_and_in_parts(training(tool, tmp_path), SPACE, config, minimize="val_loss")
    assert [set(report) for report in whole] == [{"train_loss", "val_loss", "lr"}] * 4
    assert parts == whole
    if schedule != "none":
        assert whole[-1]["lr"] < whole[0]["lr"]


def test_an_epoch_is_a_validation(tool, tmp_path):
    config = {"learning_rate": 0.02, "dropout": 0.2, "schedule": "epoch"}
    train = training(tool, tmp_path, check_val_every_n_epoch=2)
    whole, parts = whole_and_in_parts(train, SPACE, config, minimize="val_loss", epochs=2, parts=(1, 2))
    assert len(whole) == 2
    assert whole == parts


def test_lightnings_own_checkpoints_are_left_alone(tool, tmp_path):
    library = tool[0]
    own = library.callbacks.ModelCheckpoint(dirpath=tmp_path / "own", save_top_k=-1)

    def train(trial):
        trainer = library.Trainer(
            max_epochs=trial.max_epochs, callbacks=[tool[1](trial), own], accelerator="cpu", logger=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(tool[2](trial.config), *loaders(), ckpt_path=trial.checkpoint)

    curves(lt.tune(train, SPACE, minimize="val_loss", max_epochs=2, budget="1 trial", strategy="random", workers=0,
                   quiet=True))  # fmt: skip
    assert len(list((tmp_path / "own").glob("*.ckpt"))) == 2


def test_a_stopped_training_ends_and_is_not_saved(tool, tmp_path):
    from luthier.contracts import Stop
    from luthier.schedule.full import Full
    from luthier.search.uniform import Random

    class Impatient(Full):
        def judge(self, history, trial):
            return Stop("seen enough") if history.trials[trial].epoch == 2 else None

    result = lt.tune(
        training(tool, tmp_path), SPACE, minimize="val_loss", strategy=Impatient(Random()), max_epochs=5, workers=0,
        budget="1 trial", quiet=True,
    )  # fmt: skip
    assert {(t.status, t.epoch, t.checkpoint) for t in result.trials()} == {(Status.STOPPED, 2, None)}


@pytest.mark.parametrize("schedule", ["none", "step"])
def test_a_clone_trains_under_its_own_rate(tool, tmp_path, schedule):
    first, second = ({"learning_rate": rate, "dropout": 0.0, "schedule": schedule} for rate in (0.1, 0.02))
    result = lt.tune(
        training(tool, tmp_path), SPACE, minimize="val_loss", strategy=Cloned(first, second), max_epochs=2, workers=0,
        quiet=True,
    )  # fmt: skip
    (donor,), (clone,) = curves(result)
    assert donor["lr"] == pytest.approx(0.1 if schedule == "none" else 0.05)
    assert clone["lr"] == pytest.approx(0.02 if schedule == "none" else 0.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"epochs": 7}, "trains 7 epochs, this trial 2"),
        ({"check_val_every_n_epoch": None, "val_check_interval": 3, "epochs": 2}, "without regard to epochs"),
    ],
)
def test_a_trainer_that_cannot_work_is_refused(tool, tmp_path, given, said):
    with pytest.raises(RunError, match=said):
        lt.tune(training(tool, tmp_path, **given), SPACE, minimize="val_loss", max_epochs=2, strategy="random",
                workers=0, quiet=True)  # fmt: skip


def test_it_works_in_worker_processes(tmp_path):
    library = pytest.importorskip("lightning.pytorch")
    callback = importlib.import_module("luthier.integrations.lightning").LuthierCallback
    result = lt.tune(
        training((library, callback, _module(library)), tmp_path), SPACE, minimize="val_loss", max_epochs=3,
        budget="3 trials", strategy="asha", quiet=True, storage=tmp_path / "s.db",
    )  # fmt: skip
    curves(result)
    assert max(t.epoch for t in result.trials()) == 3
