"""Cloning a trial: in the log, on disk, and what of optimizer, schedule and chance is whose."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from clones import RATE, adding, history_of, started, study, trained
from torch import nn
from torch.optim import lr_scheduler as lrs
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import luthier as lt
from luthier.contracts import Done, Job, Resume, Start, Wait
from luthier.core import events as ev
from luthier.core.errors import RunError
from luthier.core.index import Pace
from luthier.core.lineage import lineage
from luthier.core.trial import Status
from luthier.recipe import Recipe
from luthier.run.book import Book
from luthier.run.decisions import job_of
from luthier.run.loop import run
from luthier.run.memory import MemoryStore
from luthier.run.perform import perform
from luthier.run.vault import Folder

# -- cloning in the log ------------------------------------------------------------------------------------------------


def test_a_clone_goes_on_from_its_parents_checkpoint_and_pays_for_its_own_epochs():
    born = [started(0, 3), *trained(0, 0, 3), started(1, 6, parent=0, clone=True)]
    history = history_of(*born, budget=90)
    clone = history.trials[1]
    assert (clone.begin, clone.epoch, clone.spent) == (3, 3, 0)
    assert (history.spent, history.committed) == (3, 6)
    assert job_of(history, 1) == Job(1, clone.config, 1, 3, 6, 9, checkpoint="t0/3", clone_of=0)
    # Its parent goes on; the clone still begins where it was copied, also after its worker was killed.
    later = history_of(*born, ev.Resumed(0, 6, ""), *trained(0, 3, 6), ev.Requeued(1, "killed", blame=True))
    assert later.trials[0].checkpoint.path == "t0/6"
    assert job_of(later, 1) == job_of(history, 1)
    own = history_of(*born, *trained(1, 3, 6), ev.Resumed(1, 9, ""))
    assert job_of(own, 1) == Job(1, clone.config, 1, 6, 9, 9, checkpoint="t1/6")
    assert (own.trials[1].spent, own.spent) == (3, 6)
    assert own.pace() == Pace()
    nothing_saved = history_of(*born, *trained(1, 3, 6, checkpoint=None), ev.Resumed(1, 9, ""))
    assert job_of(nothing_saved, 1).clone_of == 0  # it begins again from its parent's, and pays again
    assert nothing_saved.trials[1].spent == 6


def test_the_seconds_of_a_clone_are_for_its_own_epochs():
    reports = [ev.Reported(1, e, {"val_loss": 1.0}, 2.0) for e in (4, 5)]
    history = history_of(started(0, 3), *trained(0, 0, 3), started(1, 6, parent=0, clone=True), *reports)
    assert history.pace(without=(0,)) == Pace(0.0, 2.0)


def test_who_gives_up_its_place_is_stopped():
    born = [started(0, 3), *trained(0, 0, 3), started(1, 3), *trained(1, 0, 3)]
    history = history_of(*born, started(2, 6, parent=0, clone=True, instead_of=1))
    assert history.trials[1].status is Status.STOPPED
    assert "trial 2 takes its place" in history.trials[1].stop_why
    assert history.running == (2,)
    failed = history_of(*born[:-1], ev.Failed(1, "raised", "x"), started(2, 6, parent=0, clone=True, instead_of=1))
    assert failed.trials[1].status is Status.FAILED


def test_a_log_from_before_there_were_clones_is_read():
    kind, data = ev.encode(started(0, 3))
    old = {k: v for k, v in data.items() if k not in ("clone", "instead_of")}
    assert ev.decode(kind, old) == started(0, 3)


class Scripted:
    """A scheduler that proposes what it is told, in order."""

    def __init__(self, *actions):
        self.actions = actions

    def propose(self, history, rng):
        return self.actions[history.decisions] if history.decisions < len(self.actions) else Done("the script ends")

    def judge(self, history, trial):
        return None


@pytest.mark.parametrize(
    ("start", "match"),
    [
        (Start({"learning_rate": 0.1}, 9, "", parent=0, clone=True), "trial 0, which has no checkpoint"),
        (Start({"learning_rate": 0.1}, 9, "", clone=True), "trial None"),
        (Start({"learning_rate": 0.1}, 3, "", parent=0, clone=True), "from epoch 3 and trains it to epoch 3"),
    ],
)
def test_clones_that_cannot_be_are_refused(start, match):
    strategy = Scripted(Start({"learning_rate": 0.1}, 3, ""), start)
    asked = lt.AskTell(RATE, minimize="val_loss", max_epochs=9, strategy=strategy)
    job = asked.ask()
    if "no checkpoint" in match:
        asked._book.hear(ev.Reported(0, 1, {"val_loss": 1.0}), strategy)
        asked._book.hear(ev.Ended(0, 3), strategy)
    else:
        for epoch in (1, 2, 3):
            asked.tell(job, epoch, val_loss=1.0)
    with pytest.raises(RunError, match=match):
        asked.ask()


# -- checkpoints on disk -----------------------------------------------------------------------------------------------


class LastFirst:
    """An executor of two places that does the job that came last first."""

    def __init__(self, target, files):
        self.target, self.files, self.jobs = target, files, []

    @property
    def free(self):
        return 2 - len(self.jobs)

    def submit(self, job):
        self.jobs.append(job)

    def poll(self, hear, timeout):
        if self.jobs:
            perform(self.target, self.jobs.pop(), send=hear, stopped=lambda: False, files=self.files)

    def stop(self, trial):
        pass

    def close(self):
        pass


def test_a_checkpoint_lives_as_long_as_a_clone_needs_it(tmp_path):
    lived = []

    def looking(trial):
        lived.append(sorted(p.relative_to(tmp_path / "checkpoints").as_posix() for p in tmp_path.rglob("*.ckpt")))
        if trial.id == 2 and trial.start == 3:  # as if another worker had just written it, and not said so yet
            (tmp_path / "checkpoints" / "trial-00000" / "epoch-00009.ckpt").touch()
        adding(trial)

    rate = {"learning_rate": 0.1}
    script = Scripted(
        Start(rate, 3, ""),
        Start(rate, 3, ""),
        Start({"learning_rate": 0.05}, 6, "", parent=0, clone=True, instead_of=1),
        Resume(0, 6, ""),
        Resume(2, 9, ""),
    )
    script.propose = lambda history, rng, given=script.propose: (
        Wait() if history.decisions in (2, 4) and history.running else given(history, rng)
    )
    book = Book.create(MemoryStore(), study())
    run(book, script, LastFirst(looking, tmp_path), Folder(tmp_path))
    assert [t.status for t in book.history.trials] == [Status.PAUSED, Status.STOPPED, Status.DONE]
    # The parent went on first, and its checkpoint of epoch 3 stayed until its clone had one of its own; with that the
    # trial whose place it took has none any more.
    assert lived[3] == ["trial-00000/epoch-00003.ckpt", "trial-00000/epoch-00006.ckpt", "trial-00001/epoch-00003.ckpt"]
    assert lived[4] == [
        "trial-00000/epoch-00006.ckpt",
        "trial-00000/epoch-00009.ckpt",
        "trial-00002/epoch-00006.ckpt",
    ]
    assert [s.until_epoch for s in lineage(book.history, 2)] == [3, 9]


def test_a_finished_population_leaves_one_checkpoint_a_member(tmp_path):
    result = lt.tune(
        adding, RATE, minimize="val_loss", max_epochs=12, budget="6 trials", strategy="pbt", workers=0, quiet=True,
        storage=tmp_path / "s.db",
    )  # fmt: skip
    assert any(t.inherited for t in result.trials())
    kept = {p.parent.name for p in tmp_path.rglob("*.ckpt")}
    assert kept == {f"trial-{t.id:05d}" for t in result.trials() if t.status is Status.DONE}
    assert len(list(tmp_path.rglob("*.ckpt"))) == 6


# -- what a clone keeps ------------------------------------------------------------------------------------------------


def jobs(tmp_path, parts, seeds=None):
    """Run training functions one after the other as jobs: ``(target, config, until)``, each a clone of the last."""
    at, path = 0, None
    for number, (target, config, until) in enumerate(parts):
        seed = seeds[number] if seeds else number
        job = Job(number, config, seed, at, until, 100, path, clone_of=number - 1 if path else None)
        said = []
        perform(target, job, send=said.append, stopped=lambda: False, files=tmp_path)
        assert isinstance(said[-1], ev.Ended), said[-1]
        at, path = until, said[-1].checkpoint


def tiny(config, kind):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    lr, wd = config["learning_rate"], config.get("weight_decay", 0.0)
    if kind == "sgd":
        return model, torch.optim.SGD(model.parameters(), lr=lr, momentum=config["momentum"], weight_decay=wd)
    groups = [{"params": [model.weight]}, {"params": [model.bias], "weight_decay": 0.0, "lr": 2 * lr}]
    return model, torch.optim.AdamW(groups, lr=lr, betas=(config["beta1"], 0.99), weight_decay=wd)


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.ones(4, 3)).pow(2).sum().backward()
    optimizer.step()


SETTINGS = ("lr", "momentum", "betas", "weight_decay")


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_new_rate_momentum_and_decay_are_in_effect_after_the_state_was_restored(tmp_path, kind):
    seen = []

    def train(trial):
        model, optimizer = tiny(trial.config, kind)
        built = [{k: g[k] for k in SETTINGS if k in g} for g in optimizer.param_groups]
        for _ in trial.epochs(model=model, optimizer=optimizer):
            real = [{k: g[k] for k in SETTINGS if k in g} for g in optimizer.param_groups]
            before = [p.detach().clone() for p in model.parameters()]
            gathered = {k: v for s in optimizer.state_dict()["state"].values() for k, v in s.items()}
            seen.append((trial.id, built, real, before, gathered))
            step(model, optimizer)
            trial.report(val_loss=1.0)
        seen.append((trial.id, built, None, [p.detach().clone() for p in model.parameters()], {}))

    first = {"learning_rate": 0.1, "momentum": 0.9, "beta1": 0.9, "weight_decay": 0.1}
    second = {"learning_rate": 0.08, "momentum": 0.8, "beta1": 0.7, "weight_decay": 0.3}
    jobs(tmp_path, [(train, first, 2), (train, second, 4)])
    after, clone = seen[2], seen[3]
    assert clone[0] == 1
    assert clone[2] == clone[1] != seen[0][1]  # the configuration's own, in every group
    assert all(torch.equal(a, b) for a, b in zip(after[3], clone[3]))  # on the other's weights
    momentum = clone[4]["momentum_buffer" if kind == "sgd" else "exp_avg"]
    assert momentum.abs().sum() > 0  # and with what its optimizer had gathered


SCHEDULES = {
    "step": lambda o: lrs.StepLR(o, 2, gamma=0.5),
    "multistep": lambda o: lrs.MultiStepLR(o, [2, 4], gamma=0.1),
    "exponential": lambda o: lrs.ExponentialLR(o, 0.9),
    "cosine": lambda o: lrs.CosineAnnealingLR(o, 10),
    "restarts": lambda o: lrs.CosineAnnealingWarmRestarts(o, 2, T_mult=2),
    "lambda": lambda o: lrs.LambdaLR(o, lambda e: 1 / (1 + e)),
    "polynomial": lambda o: lrs.PolynomialLR(o, 10, power=2.0),
    "warmup": lambda o: lrs.SequentialLR(
        o, [lrs.LinearLR(o, 0.1, total_iters=2), lrs.CosineAnnealingLR(o, 8)], milestones=[2]
    ),
    "onecycle": lambda o: lrs.OneCycleLR(o, o.param_groups[0]["lr"], total_steps=10),
}


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler")
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("at", [1, 3])
def test_a_schedule_goes_on_where_it_was_around_the_new_rate(tmp_path, name, at):
    rates = []

    def train(trial):
        model, optimizer = tiny({**trial.config, "momentum": 0.9}, "sgd")
        scheduler = SCHEDULES[name](optimizer)
        for _ in trial.epochs(scheduler=scheduler, model=model, optimizer=optimizer):
            rates.append(optimizer.param_groups[0]["lr"])
            assert scheduler.get_last_lr() == [rates[-1]]
            step(model, optimizer)
            scheduler.step()
            trial.report(val_loss=1.0)

    jobs(tmp_path, [(train, {"learning_rate": 0.1}, at), (train, {"learning_rate": 0.05}, 7)])
    _, alone = tiny({"learning_rate": 0.05, "momentum": 0.9}, "sgd")
    scheduler = SCHEDULES[name](alone)
    expected = []
    for _ in range(7):
        expected.append(alone.param_groups[0]["lr"])
        scheduler.step()
    assert rates[at:] == pytest.approx(expected[at:], rel=1e-9)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler")
def test_what_a_plateau_made_of_the_rate_is_kept_as_a_factor(tmp_path):
    rates = []

    def train(trial):
        model, optimizer = tiny({**trial.config, "momentum": 0.9}, "sgd")
        scheduler = lrs.ReduceLROnPlateau(optimizer, factor=0.1, patience=0)
        for _ in trial.epochs(model=model, optimizer=optimizer, scheduler=scheduler):
            rates.append(optimizer.param_groups[0]["lr"])
            step(model, optimizer)
            scheduler.step(1.0)
            trial.report(val_loss=1.0)

    jobs(tmp_path, [(train, {"learning_rate": 0.1}, 2), (train, {"learning_rate": 0.2}, 4)])
    assert rates == pytest.approx([0.1, 0.1, 0.02, 0.002])


def test_the_settings_of_a_schedule_are_the_clones_own(tmp_path):
    seen = []

    def train(trial):
        model, optimizer = tiny({"learning_rate": 0.1, "momentum": 0.9}, "sgd")
        scheduler = lrs.ExponentialLR(optimizer, trial.config["gamma"])
        for _ in trial.epochs(model=model, optimizer=optimizer, scheduler=scheduler):
            step(model, optimizer)
            scheduler.step()
            trial.report(val_loss=1.0)
        seen.append((scheduler.gamma, scheduler.last_epoch, optimizer.param_groups[0]["lr"]))

    jobs(tmp_path, [(train, {"gamma": 0.5}, 2), (train, {"gamma": 0.9}, 3)])
    assert seen[1] == (0.9, 3, pytest.approx(0.1 * 0.5 * 0.5 * 0.9))


def test_buffers_and_averages_travel_and_batches_do_not(tmp_path):
    drawn, buffers = {}, []

    def train(trial):
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        for _ in trial.epochs(model=model, average=average):
            buffers.append((model[1].running_mean.clone(), average.module[0].weight.clone(), int(average.n_averaged)))
            drawn.setdefault(trial.id, []).append((torch.randperm(1000).tolist(), np.random.rand(), random.random()))
            model(torch.randn(8, 3))
            average.update_parameters(model)
            trial.report(val_loss=1.0)
        buffers.append((model[1].running_mean.clone(), average.module[0].weight.clone(), int(average.n_averaged)))

    jobs(tmp_path, [(train, {}, 2), (train, {}, 4)], seeds=[7, 8])
    end, begin = buffers[2], buffers[3]
    assert torch.equal(end[0], begin[0])
    assert begin[0].abs().sum() > 0
    assert torch.equal(end[1], begin[1])
    assert end[2] == begin[2] == 2
    # Another clone of the same trial, and the trial itself going on, see other batches at the same epoch.
    first = drawn.pop(1)
    for seed, clone_of in ((9, 0), (7, None)):
        job = Job(2, {}, seed, 2, 4, 100, "checkpoints/trial-00000/epoch-00002.ckpt", clone_of=clone_of)
        perform(train, job, send=lambda event: None, stopped=lambda: False, files=tmp_path)
        for mine, others in zip(first[0], drawn.pop(2)[0]):
            assert mine != others
    # The same clone once more, as after a kill, sees the same.
    again = Job(1, {}, 8, 2, 4, 100, "checkpoints/trial-00000/epoch-00002.ckpt", clone_of=0)
    perform(train, again, send=lambda event: None, stopped=lambda: False, files=tmp_path)
    assert drawn.pop(1) == first


def blobs(n=96, seed=0):
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    return torch.utils.data.TensorDataset(torch.eye(3)[y] + 0.3 * torch.randn(n, 3, generator=draw), y)


RECIPES = {
    "adamw": ({"learning_rate": 0.01, "weight_decay": 0.1, "beta1": 0.9}, {"learning_rate": 0.002, "beta1": 0.8}),
    "sgd": ({"learning_rate": 0.1, "momentum": 0.9}, {"learning_rate": 0.02, "momentum": 0.5, "dropout": 0.3}),
    "rmsprop": ({"learning_rate": 0.01, "momentum": 0.0}, {"learning_rate": 0.02, "momentum": 0.9}),
    "nadamw": ({"learning_rate": 0.01, "ema": 0.0}, {"learning_rate": 0.002, "ema": 0.9, "grad_clip": 1.0}),
}


@pytest.mark.parametrize("optimizer", RECIPES)
def test_the_recipe_goes_on_under_the_new_configuration_at_the_old_place_of_its_schedule(
    tmp_path, monkeypatch, optimizer
):
    from luthier.recipe import optimizers

    rates, groups = [], []
    real = optimizers.set_rate

    def watched(made, rate):
        real(made, rate)
        rates.append(rate)
        groups.append([{k: v for k, v in g.items() if k != "params"} for g in made.param_groups])

    monkeypatch.setattr(optimizers, "set_rate", watched)
    recipe = Recipe("mlp", blobs(), blobs(seed=1))
    first, changes = RECIPES[optimizer]
    first = {"optimizer": optimizer, "batch_size": 32, "schedule": "linear", "warmup": 0.0, "width": 8, **first}
    second = {**first, **changes}
    jobs(tmp_path, [(recipe, first, 2), (recipe, second, 4)])
    of = 100 * 3  # the horizon of ``jobs`` in updates
    assert rates[:6] == pytest.approx([first["learning_rate"] * (1 - u / of) for u in range(6)])
    assert rates[6:] == pytest.approx([second["learning_rate"] * (1 - u / of) for u in range(6, 12)])
    torch.manual_seed(0)
    fresh = optimizers.make_optimizer(nn.Linear(3, 2), optimizer, second)
    fixed = [{k: v for k, v in g.items() if k not in ("params", "lr")} for g in fresh.param_groups]
    assert [{k: v for k, v in g.items() if k != "lr"} for g in groups[-1]] == fixed


def test_the_recipes_clones_see_other_batches_than_each_other(tmp_path):
    recipe = Recipe("mlp", blobs(), blobs(seed=1))
    said = {seed: [] for seed in (5, 6)}
    perform(recipe, Job(0, {"width": 8}, 3, 0, 1, 4), send=lambda e: None, stopped=lambda: False, files=tmp_path)
    for seed, events in said.items():
        job = Job(seed, {"width": 8}, seed, 1, 2, 4, "checkpoints/trial-00000/epoch-00001.ckpt", clone_of=0)
        perform(recipe, job, send=events.append, stopped=lambda: False, files=tmp_path)
    losses = [events[0].metrics["train_loss"] for events in said.values()]
    assert losses[0] != losses[1]
