"""Loops with Accelerate under Luthier: state by its own means."""

from __future__ import annotations

import pytest
import torch
from adapting import Cloned, curves, whole_and_in_parts
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import luthier as lt
from luthier.core.errors import RunError

accelerate = pytest.importorskip("accelerate")
from luthier.integrations.accelerate import epochs  # noqa: E402

SPACE = lt.Space(learning_rate=lt.Float(1e-4, 1.0, log=True), dropout=lt.Float(0.0, 0.5))
X = torch.randn(48, 4, generator=torch.Generator().manual_seed(0))


def train(trial):
    accelerator = accelerate.Accelerator(cpu=True)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(trial.config["dropout"]), nn.Linear(8, 1), nn.Flatten(0))
    optimizer = torch.optim.AdamW(net.parameters(), lr=trial.config["learning_rate"])
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 4 * trial.max_epochs)
    loader = DataLoader(TensorDataset(X[:32], X[:32].sum(1)), 8, shuffle=True)
    net, optimizer, schedule, loader = accelerator.prepare(net, optimizer, schedule, loader)
    for _ in epochs(trial, accelerator):
        net.train()
        for x, y in loader:
            optimizer.zero_grad()
            accelerator.backward(nn.functional.mse_loss(net(x), y))
            optimizer.step()
            schedule.step()
        net.eval()
        with torch.no_grad():
            loss = nn.functional.mse_loss(net(X[32:]), X[32:].sum(1))
        trial.report(val_loss=loss, lr=optimizer.param_groups[0]["lr"])


def test_a_paused_training_goes_on_as_if_it_had_not_been_paused():
    whole, parts = whole_and_in_parts(train, SPACE, {"learning_rate": 0.02, "dropout": 0.3}, minimize="val_loss")
    assert whole == parts
    assert whole[-1]["lr"] < whole[0]["lr"]


def test_several_processes_go_on_as_if_they_had_not_been_paused():
    whole, parts = whole_and_in_parts(
        train, SPACE, {"learning_rate": 0.02, "dropout": 0.3}, parts=(2, 4), minimize="val_loss", workers=1, processes=2
    )
    assert whole == parts


def test_processes_that_luthier_did_not_start_are_refused(monkeypatch):
    monkeypatch.setattr(accelerate.Accelerator, "num_processes", 2)
    with pytest.raises(RunError, match="The accelerator sees 2 processes, and the trial has 1"):
        lt.tune(train, SPACE, minimize="val_loss", strategy="random", budget="1 trials", workers=0, quiet=True)


def test_a_clone_trains_under_its_own_rate():
    first, second = ({"learning_rate": rate, "dropout": 0.0} for rate in (0.1, 0.02))
    result = lt.tune(train, SPACE, minimize="val_loss", strategy=Cloned(first, second), max_epochs=3, workers=0,
                     quiet=True)  # fmt: skip
    (donor,), clone = curves(result)
    assert donor["lr"] == pytest.approx(0.1 * 2 / 3)
    assert [r["lr"] for r in clone] == pytest.approx([0.02 / 3, 0.0])


def test_an_accelerator_that_prepared_nothing_is_refused():
    def early(trial):
        for _ in epochs(trial, accelerate.Accelerator(cpu=True)):
            trial.report(val_loss=1.0)

    with pytest.raises(RunError, match="has prepared nothing"):
        lt.tune(early, SPACE, minimize="val_loss", max_epochs=2, strategy="random", workers=0, quiet=True)


def test_any_format_of_ones_own_works_the_same_way(tmp_path):
    """What the integrations stand on, without a library: a folder with a file."""

    def own(trial):
        steps = [0]

        def save(path):
            path.mkdir()
            (path / "steps").write_text(str(steps[0]))

        for _ in trial.epochs_with(lambda path: steps.__setitem__(0, int((path / "steps").read_text())), save):
            steps[0] += 1
            trial.report(val_loss=1 / steps[0])

    whole, parts = whole_and_in_parts(own, SPACE, SPACE.complete({}), minimize="val_loss", storage=None)
    assert whole == parts
    lt.tune(own, SPACE, minimize="val_loss", max_epochs=9, budget="4 trials", strategy="asha", workers=0, quiet=True,
            storage=tmp_path / "s.db")  # fmt: skip
    folders = list((tmp_path / "s.files").glob("*/checkpoints/*"))
    assert folders
    assert all(len(list(folder.iterdir())) == 1 for folder in folders)  # what nobody needs any more is gone
