"""Population-based training: cloning in the log and on disk, what a clone keeps, the steps of the papers, the replay."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
import torch
from conftest import bowl, drive, log_of
from torch import nn
from torch.optim import lr_scheduler as lrs
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import luthier as lt
from luthier.contracts import Done, Job, Resume, Start, Wait
from luthier.core import events as ev
from luthier.core.errors import RunError, UserError
from luthier.core.history import Entry, fold
from luthier.core.lineage import lineage
from luthier.core.study import Budget, Objective, Study
from luthier.core.trial import Status
from luthier.numerics.varying import Varying, fitted
from luthier.recipe import Recipe
from luthier.run.book import Book, job_of, replay
from luthier.run.handle import Trial
from luthier.run.loop import run
from luthier.run.memory import MemoryStore
from luthier.run.perform import perform
from luthier.schedule.explore import Perturb, moved, mutable_of
from luthier.schedule.pb2 import PB2, intervals, kappa, maximum
from luthier.schedule.pbt import PBT, extremes, marks_of, size_for
from luthier.schedule.replay import Replay
from luthier.strategies import build

RATE = lt.Space(learning_rate=lt.Float(1e-5, 1e-1, log=True))


def study(space=RATE, budget=None, max_epochs=9) -> Study:
    return Study("s", space, Objective("val_loss", True), max_epochs, Budget(budget))


def history_of(*events: ev.Event, **changes):
    every = (ev.Created(study(**changes)), *events)
    return fold(Entry(float(i), e) for i, e in enumerate(every))


def started(trial: int, until: int, **more) -> ev.Started:
    return ev.Started(trial, {"learning_rate": 0.01}, seed=trial, until=until, horizon=9, why="because", **more)


def trained(trial: int, start: int, until: int, loss=1.0, checkpoint="auto") -> list[ev.Event]:
    kept = f"t{trial}/{until}" if checkpoint == "auto" else checkpoint
    reports = [ev.Reported(trial, e, {"val_loss": loss}) for e in range(start + 1, until + 1)]
    return [*reports, ev.Ended(trial, until, checkpoint=kept)]


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
    assert own.seconds_per_epoch() == 0.0
    nothing_saved = history_of(*born, *trained(1, 3, 6, checkpoint=None), ev.Resumed(1, 9, ""))
    assert job_of(nothing_saved, 1).clone_of == 0  # it begins again from its parent's, and pays again
    assert nothing_saved.trials[1].spent == 6


def test_the_seconds_of_a_clone_are_for_its_own_epochs():
    reports = [ev.Reported(1, e, {"val_loss": 1.0}, 2.0) for e in (4, 5)]
    history = history_of(started(0, 3), *trained(0, 0, 3), started(1, 6, parent=0, clone=True), *reports)
    assert history.seconds_per_epoch(without=(0,)) == 2.0


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


class Weights:
    """Something with a state: the sum of what every epoch added, and who added it."""

    def __init__(self):
        self.added = []

    def state_dict(self):
        return {"added": list(self.added)}

    def load_state_dict(self, state):
        self.added = list(state["added"])


def adding(trial):
    """Each epoch adds the rate and a bit of chance; the loss is the distance from 1."""
    weights = Weights()
    for _ in trial.epochs(weights=weights):
        weights.added.append(trial.config["learning_rate"] + 1e-3 * random.random())
        trial.report(val_loss=abs(1.0 - sum(weights.added)))


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
    run(book, script, LastFirst(looking, tmp_path), tmp_path)
    assert [t.status for t in book.history.trials] == [Status.PAUSED, Status.STOPPED, Status.DONE]
    # The parent went on first, and its checkpoint of epoch 3 stayed until its clone had one of its own; with that the
    # trial whose place it took has none any more.
    assert lived[3] == ["trial-00000/epoch-00003.ckpt", "trial-00000/epoch-00006.ckpt", "trial-00001/epoch-00003.ckpt"]
    assert lived[4] == ["trial-00000/epoch-00006.ckpt", "trial-00002/epoch-00006.ckpt"]
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


# -- what may change, and by how much ----------------------------------------------------------------------------------


def test_a_rate_is_multiplied_a_dropout_moved_and_whole_numbers_stay_whole():
    rate = lt.Float(1e-4, 1e-1, log=True)
    assert (moved(rate, 0.01, 1.2), moved(rate, 0.01, 0.8)) == (0.012, 0.008)
    assert (moved(rate, 0.09, 1.2), moved(rate, 1.1e-4, 0.8)) == (0.1, 1e-4)  # never out of the range
    dropout = lt.Float(0.0, 0.5)
    assert (moved(dropout, 0.0, 1.2), moved(dropout, 0.0, 0.8)) == (0.05, 0.0)  # zero is no trap
    assert (moved(dropout, 0.25, 1.2), moved(dropout, 0.25, 0.8)) == (0.3, 0.2)  # in the middle, the paper's factors
    crops = lt.Int(1, 64, log=True)
    assert [moved(crops, v, f) for v, f in ((10, 1.2), (2, 1.2), (2, 0.8), (1, 0.8), (64, 1.2))] == [12, 3, 1, 1, 64]
    layers = lt.Int(0, 4)
    assert [moved(layers, v, f) for v, f in ((2, 1.2), (2, 0.8), (0, 0.8), (4, 1.2))] == [3, 1, 0, 4]
    assert all(type(moved(p, 2, 1.2)) is int for p in (crops, layers))


def test_a_quarter_is_drawn_anew_and_nothing_but_the_mutable_moves(space):
    history = history_of(started(0, 3), *trained(0, 0, 3), space=space)
    config = space.complete({"optimizer": "sgd", "learning_rate": 0.01})
    donor = lt.core.trial.TrialRecord(0, config, 1, 9, 3) if hasattr(lt, "core") else None
    from luthier.core.trial import TrialRecord

    donor = TrialRecord(0, config, 1, 9, 3)
    names = mutable_of(space, None, "PBT")
    assert names == ("learning_rate", "momentum")
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(400):
        new = Perturb().explore(history, donor, names, (3, 6, 9), rng)
        assert space.complete(new) == new
        assert {k: v for k, v in new.items() if k not in names} == {k: v for k, v in config.items() if k not in names}
        rates.append(new["learning_rate"])
    kinds = [sum(r == v for r in rates) / 400 for v in (0.008, 0.012)]
    assert kinds == pytest.approx([0.375, 0.375], abs=0.06)
    assert min(rates) < 1e-4 < 1e-2 < max(rates)  # the others are drawn from the whole range


def test_a_rate_that_follows_the_batch_size_is_moved_at_its_base():
    space = lt.Space(
        batch_size=lt.Int(16, 256, log=True),
        learning_rate=lt.coupled(lt.Float(1e-4, 1e-1, log=True), "batch_size", reference=64, power=0.5)
        if False
        else lt.coupled(lt.Float(1e-4, 1e-1, log=True), "batch_size"),
    )
    from luthier.core.trial import TrialRecord

    config = space.assemble({"batch_size": 256, "learning_rate": 0.01})
    history = history_of(space=space)
    new = Perturb(resample=0.0).explore(history, TrialRecord(0, config, 1, 9, 3), ("learning_rate",), (3, 9), np.random.default_rng(0))
    assert new["batch_size"] == 256
    assert new["learning_rate"] / config["learning_rate"] == pytest.approx(0.8) or pytest.approx(1.2)


def test_what_shapes_model_or_batch_is_not_mutable():
    space = lt.Space(
        lr=lt.Float(1e-4, 1e-1, log=True), n_layers=lt.Int(1, 4), batch_size=lt.Int(8, 64), optimizer=lt.Choice("a", "b"),
        warmup=lt.Float(0.0, 0.1), p_drop=lt.Float(0.0, 0.5), entropy=lt.Float(0.0, 1.0), wd=lt.Float(0.0, 0.1),
        drop_path=lt.Float(0.0, 0.3), epochs=lt.Int(1, 9), seed=lt.Constant(1),
    )  # fmt: skip
    assert mutable_of(space, None, "PBT") == ("lr", "p_drop", "wd")
    assert mutable_of(space, ["entropy", "optimizer"], "PBT") == ("optimizer", "entropy")


@pytest.mark.parametrize("strategy", ["pbt", "pb2", PBT(), PB2()])
def test_a_space_with_nothing_to_change_is_refused_at_once(tmp_path, strategy):
    space = lt.Space(width=lt.Int(8, 64), optimizer=lt.Choice("sgd", "adamw"))
    for make in (
        lambda: lt.AskTell(space, minimize="val_loss", max_epochs=9, strategy=strategy, storage=tmp_path / "s.db"),
        lambda: lt.tune(adding, space, minimize="val_loss", strategy=strategy, storage=tmp_path / "s.db", quiet=True),
    ):
        with pytest.raises(UserError, match=r"nothing to change.*width, optimizer.*mutable=\[\.\.\.\]"):
            make()
    assert list(tmp_path.iterdir()) == []


def test_other_mistakes_are_refused_at_once():
    def ask(strategy, **more):
        return lt.AskTell(RATE, minimize="val_loss", strategy=strategy, **{"max_epochs": 9, **more})

    for make, match in (
        (lambda: ask("pbt", max_epochs=1), "between epochs; max_epochs is 1"),
        (lambda: ask(PBT(mutable=["lerning_rate"])), "Did you mean 'learning_rate'"),
        (lambda: PBT(population=1), "population=1 must be a whole number of at least 2"),
        (lambda: PB2(interval=0), "interval=0"),
        (lambda: PBT(fraction=0.6), "fraction=0.6"),
        (lambda: PBT(mutable="learning_rate"), "must be a list"),
        (lambda: Perturb(factors=(1.1, 1.2)), "one below and one above 1"),
        (lambda: Perturb(resample=2.0), "no probability"),
    ):
        with pytest.raises(UserError, match=match):
            make()


# -- the steps of PBT --------------------------------------------------------------------------------------------------


def test_marks_sizes_and_extremes():
    assert marks_of(30) == tuple(range(3, 31, 3))
    assert marks_of(4) == (1, 2, 3, 4)
    assert marks_of(10, 4) == (4, 8, 10)
    assert marks_of(9, 4) == (4, 9)  # a last interval of less than half joins the one before
    assert marks_of(3, 5) == (3,)
    assert [size_for(n) for n in (1, 2, 4.9, 12, 20, 30, 45, 100, math.inf)] == [2, 2, 4, 12, 20, 15, 15, 20, 8]
    # A fifth, rounded up, and never so many that top and bottom overlap.
    assert [extremes(n) for n in (1, 2, 3, 4, 5, 6, 10, 20)] == [0, 1, 1, 1, 1, 2, 2, 4]


def population(losses, size=5, max_epochs=3, strategy=None, seed=0, **more):
    """Ask and tell a whole population on a script of losses, ``losses[trial][epoch]``; the jobs in order."""
    strategy = strategy or PBT(population=size, interval=1, explorer=Perturb(resample=0.0))
    asked = lt.AskTell(RATE, minimize="val_loss", max_epochs=max_epochs, strategy=strategy, seed=seed, **more)
    order = []
    while job := asked.ask():
        order.append((job.trial, job.start, job.until, job.clone_of))
        for epoch in range(job.start + 1, job.until + 1):
            asked.tell(job, epoch, val_loss=losses[job.trial][epoch])
    return asked, order


def test_the_worst_fifth_copies_the_best_fifth():
    # Five members: one at the bottom, one at the top. By hand, from section 4.1 of the paper: at epoch 1 trial 3 is the
    # worst and copies trial 1; at epoch 2 trial 0 is the worst and copies trial 5, which is the copy and now the best.
    losses = {0: {1: 3.0, 2: 4.0}, 1: {1: 1.0, 2: 1.0, 3: 0.9}, 2: {1: 2.0, 2: 2.0, 3: 2.0}, 3: {1: 9.0},
              4: {1: 5.0, 2: 3.0, 3: 3.0}, 5: {2: 0.5, 3: 0.4}, 6: {3: 0.3}}  # fmt: skip
    asked, order = population(losses)
    assert order == [
        (0, 0, 1, None), (1, 0, 1, None), (2, 0, 1, None), (3, 0, 1, None), (4, 0, 1, None),
        (0, 1, 2, None), (1, 1, 2, None), (2, 1, 2, None), (5, 1, 2, 1), (4, 1, 2, None),
        (6, 2, 3, 5), (1, 2, 3, None), (2, 2, 3, None), (5, 2, 3, None), (4, 2, 3, None),
    ]  # fmt: skip
    trials = asked.history.trials
    factors = [trials[new].config["learning_rate"] / trials[old].config["learning_rate"] for old, new in ((1, 5), (5, 6))]
    assert all(f == pytest.approx(0.8) or f == pytest.approx(1.2) for f in factors)
    assert (trials[3].status, trials[0].status) == (Status.STOPPED, Status.STOPPED)
    assert "in place of trial 3 (rank 5 of 5 at epoch 1): a copy of trial 1, rank 1 with val_loss 1" in trials[5].why
    assert asked.history.spent == 15
    assert [(s.from_epoch, s.until_epoch, s.trial) for s in asked.summary.schedule] == [(0, 1, 1), (1, 2, 5), (2, 3, 6)]
    assert asked.summary.best_score == 0.3
    assert len({t.seed for t in trials}) == 7


def test_two_members_never_copy_themselves_and_equals_are_left_alone():
    losses = {0: dict.fromkeys(range(1, 4), 1.0), 1: dict.fromkeys(range(1, 4), 1.0)}
    _, order = population(losses, size=2)
    assert all(clone is None for *_, clone in order)
    losses = {0: {1: 2.0}, 1: {1: 1.0, 2: 3.0, 3: 3.0}, 2: {2: 1.0, 3: 1.0}, 3: {3: 1.0}}
    asked, order = population(losses, size=2)
    assert [o for o in order if o[3] is not None] == [(2, 1, 2, 1), (3, 2, 3, 2)]
    assert all(t.parent != t.id for t in asked.history.trials)


def test_members_are_ranked_by_the_weights_that_are_copied_not_by_their_best():
    # Trial 0 was best at epoch 1 and got worse; its weights of epoch 2 are the worst that there are.
    losses = {0: {1: 0.1, 2: 9.0}, 1: {1: 2.0, 2: 2.0, 3: 2.0}, 2: {1: 1.0, 2: 1.0, 3: 1.0}, 3: {3: 1.0}}
    strategy = PBT(population=3, interval=2, explorer=Perturb(resample=0.0))
    _, order = population(losses, max_epochs=4, strategy=strategy) if False else (None, None)
    losses = {t: {**dict.fromkeys(range(1, 5), 5.0), **e} for t, e in losses.items()}
    asked, order = population(losses, max_epochs=4, strategy=strategy)
    assert (3, 2, 4, 2) in order
    assert asked.history.trials[0].status is Status.STOPPED


def told(book, scheduler, job, loss, until=None, checkpoint="c"):
    for epoch in range(job.start + 1, (until or job.until) + 1):
        book.hear(ev.Reported(job.trial, epoch, {"val_loss": loss}), scheduler)
    if until is None:
        kept = f"{checkpoint}{job.trial}-{job.until}" if checkpoint else None
        book.hear(ev.Ended(job.trial, job.until, checkpoint=kept), scheduler)


def test_members_are_compared_at_equal_epochs_also_when_some_are_ahead():
    scheduler = build(PBT(population=4, interval=2, explorer=Perturb(resample=0.0)))
    book = Book.create(MemoryStore(), study(max_epochs=8))
    first = [book.next(scheduler) for _ in range(4)]
    assert [(j.trial, j.start) for j in first] == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert isinstance(book.next(scheduler), Wait)
    told(book, scheduler, first[0], 4.0)
    assert isinstance(book.next(scheduler), Wait)  # one of four: too few to judge by
    told(book, scheduler, first[1], 5.0)
    told(book, scheduler, first[2], 6.0)
    ahead = [book.next(scheduler) for _ in range(3)]  # three of four: trial 2 is the worst of them
    assert [(j.trial, j.clone_of) for j in ahead] == [(0, None), (1, None), (4, 0)]
    for job, loss in zip(ahead, (0.3, 0.2, 0.1)):
        told(book, scheduler, job, loss)
    # All three are at epoch 4, and nobody goes beyond while trial 3 has not come to epoch 2.
    assert isinstance(book.next(scheduler), Wait)
    # It comes in with 4.5, worse than every loss at epoch 4, but second at epoch 2: it goes its own way.
    told(book, scheduler, first[3], 4.5)
    late = book.next(scheduler)
    assert (late.trial, late.start, late.until, late.clone_of) == (3, 2, 4, None)
    why = book.history.trials[3].why
    assert "rank 2 of 4 at epoch 2" in [e.why for e in book.recent(0) if isinstance(e, ev.Resumed)][-1], why


def test_a_late_member_at_the_bottom_copies_the_newest_weights_of_the_best():
    scheduler = build(PBT(population=4, interval=2))
    book = Book.create(MemoryStore(), study(max_epochs=8))
    first = [book.next(scheduler) for _ in range(4)]
    for job, loss in zip(first[:3], (1.0, 2.0, 3.0)):
        told(book, scheduler, job, loss)
    for job in [book.next(scheduler) for _ in range(3)]:
        told(book, scheduler, job, 0.5)
    told(book, scheduler, first[3], 9.0)
    late = book.next(scheduler)
    assert (late.clone_of, late.start, late.until) == (0, 4, 6)
    assert book.history.trials[3].status is Status.STOPPED


def test_a_donor_without_a_checkpoint_is_skipped_and_a_study_without_any_is_told_why():
    scheduler = build(PBT(population=4, interval=2))
    book = Book.create(MemoryStore(), study(max_epochs=8))
    jobs = [book.next(scheduler) for _ in range(4)]
    for job, loss in zip(jobs, (1.0, 2.0, 3.0, 4.0)):
        told(book, scheduler, job, loss, checkpoint=None if job.trial == 0 else "c")
    after = [book.next(scheduler) for _ in range(4)]
    assert [(j.trial, j.start, j.clone_of) for j in after] == [(0, 0, None), (1, 2, None), (2, 2, None), (3, 2, None)]
    book = Book.create(MemoryStore(), study(max_epochs=8))
    for job in [book.next(scheduler) for _ in range(4)]:
        told(book, scheduler, job, 1.0, checkpoint=None)
    with pytest.raises(UserError, match=r"saves none.*trial.epochs\(model="):
        book.next(scheduler)


def test_a_member_that_failed_is_a_copy_from_then_on_and_one_without_anybody_begins_anew():
    asked = lt.AskTell(RATE, minimize="val_loss", max_epochs=4, budget="6 trials", strategy="pbt")
    while job := asked.ask():
        if job.trial in (1, 7):
            asked.fail(job, "out of memory")
            continue
        for epoch in range(job.start + 1, job.until + 1):
            asked.tell(job, epoch, val_loss=float(job.trial))
    copies = [t for t in asked.history.trials if t.instead_of in (1, 7)]
    assert [t.begin for t in copies] == [1, copies[1].begin]
    assert all(t.inherited and "it failed" in t.why for t in copies)
    assert asked.history.spent <= 24
    none_left = lt.AskTell(RATE, minimize="val_loss", max_epochs=4, budget="4 trials", strategy="pbt")
    jobs = [none_left.ask() for _ in range(4)]
    for job in jobs:
        none_left.fail(job, "out of memory")
    again = none_left.ask()
    assert (again.trial, again.start, again.clone_of) == (4, 0, None)


def test_the_whole_population_gets_its_first_interval_before_anybody_is_judged():
    asked = drive(RATE, "pbt", budget="8 trials")
    decisions = [e.event for e in log_of(asked) if isinstance(e.event, ev.Decision)]
    assert all(isinstance(d, ev.Started) and not d.clone for d in decisions[:8])
    assert sum(isinstance(d, ev.Started) and not d.clone for d in decisions) == 8
    assert any(isinstance(d, ev.Started) and d.clone for d in decisions[8:])


@pytest.mark.parametrize("strategy", ["pbt", "pb2"])
@pytest.mark.parametrize("budget", ["1 trials", "3 trials", "7 trials", "50 epochs", "25 trials"])
def test_the_budget_is_never_overspent_and_mostly_used(strategy, budget):
    asked = drive(RATE, strategy if strategy == "pbt" or budget != "25 trials" else "pbt", budget=budget)
    allowed = Budget.parse(budget, 9).epochs
    assert allowed - 9 < asked.history.spent <= allowed
    assert sum(t.spent for t in asked.history.trials) == asked.history.spent
    assert all(t.epoch <= 9 for t in asked.history.trials)


def test_with_time_alone_populations_follow_each_other_and_a_larger_budget_begins_another():
    now = itertools.count()
    book = Book.create(
        MemoryStore(), Study("s", RATE, Objective("val_loss", True), 3, Budget(seconds=160.0)), clock=lambda: next(now)
    )
    scheduler = build("pbt")
    while job := book.next(scheduler):
        for epoch in range(job.start + 1, job.until + 1):
            book.hear(ev.Reported(job.trial, epoch, {"val_loss": bowl({**job.config, "depth": 1}, epoch)}, 1.0), scheduler)
        book.hear(ev.Ended(job.trial, job.until, checkpoint="c"), scheduler)
    numbers = [t.notes["population"] for t in book.history.trials]
    assert max(numbers) > 0
    assert numbers == sorted(numbers)
    asked = drive(RATE, "pbt", budget="5 trials")
    many = len(asked.history.trials)
    asked._book.append(ev.BudgetChanged(Budget(100)))
    assert asked.ask().start == 0
    assert asked.history.trials[many].notes["size"] == 6  # 55 epochs are left
    assert replay(log_of(asked), build("pbt")) == asked.history.decisions


def test_ask_and_tell_says_whose_state_to_copy():
    asked = lt.AskTell(RATE, minimize="val_loss", max_epochs=6, budget="4 trials", strategy="pbt", seed=1)
    kept, clones = {}, 0
    while job := asked.ask():
        whose = job.trial if job.clone_of is None else job.clone_of
        state = kept[whose, job.checkpoint] if job.checkpoint else 0
        assert state == job.start
        clones += job.clone_of is not None
        for epoch in range(job.start + 1, job.until + 1):
            state += 1
            asked.tell(job, epoch, val_loss=bowl({**job.config, "depth": 1}, epoch))
        kept[job.trial, f"epoch-{job.until}"] = state
    assert clones > 3


def test_an_interrupted_clone_is_asked_for_again(tmp_path):
    def ask():
        return lt.AskTell(
            RATE, minimize="val_loss", max_epochs=6, budget="4 trials", strategy="pbt", storage=tmp_path / "s.db"
        )

    asked = ask()
    while (job := asked.ask()).clone_of is None:
        for epoch in range(job.start + 1, job.until + 1):
            asked.tell(job, epoch, val_loss=bowl({**job.config, "depth": 1}, epoch))
    assert ask().ask() == job


# -- PB2 ---------------------------------------------------------------------------------------------------------------


def test_the_process_is_the_formula_and_its_likelihood_has_the_right_slope():
    rng = np.random.default_rng(0)
    x, t = rng.random((12, 2)), np.repeat([0.0, 1.0, 4.0], 4)
    y = np.sin(5 * x[:, 0]) + 0.1 * t
    model = Varying(x, t, y, variance=2.0, length=0.4, drift=0.3, noise=0.05)
    square = 2.0 * np.exp(-((x[:, None] - x[None]) ** 2).sum(2) / (2 * 0.4**2)) * 0.7 ** (np.abs(t[:, None] - t) / 2)
    new, when = np.array([[0.3, 0.6]]), np.array([5.0])
    across = 2.0 * np.exp(-((new[:, None] - x[None]) ** 2).sum(2) / (2 * 0.4**2)) * 0.7 ** (np.abs(when[:, None] - t) / 2)
    inverse = np.linalg.inv(square + 0.05 * np.eye(12))
    mean, deviation = model.predictor()(new, when)
    assert mean == pytest.approx((across @ inverse @ y), rel=1e-5)
    assert deviation**2 == pytest.approx(2.0 - np.diag(across @ inverse @ across.T), rel=1e-5)
    sign, logdet = np.linalg.slogdet(square + 0.05 * np.eye(12))
    assert model.log_likelihood() == pytest.approx(-0.5 * (y @ inverse @ y + logdet + 12 * math.log(2 * math.pi)), rel=1e-4)
    logs = np.log([2.0, 0.4, 0.3, 0.05])
    _, slope = model._loss(logs)
    for i in range(4):
        up, down = (model._loss(logs + h * np.eye(4)[i])[0] for h in (1e-5, -1e-5))
        assert slope[i] == pytest.approx((up - down) / 2e-5, rel=1e-3, abs=1e-6)


def test_the_fit_forgets_what_drifts_and_remembers_what_does_not():
    rng = np.random.default_rng(1)
    x = rng.random((60, 1))
    t = np.repeat(np.arange(6.0), 10)
    steady = np.sin(6 * x[:, 0])
    drifting = np.sin(6 * x[:, 0] + 2.0 * t)
    assert fitted(x, t, steady / steady.std()).drift < 0.01
    assert fitted(x, t, drifting / drifting.std()).drift > 0.2


def test_the_bandit_goes_where_the_gain_is_and_spreads_what_is_still_trained():
    rng = np.random.default_rng(2)
    points = rng.random((40, 1))
    x, t = np.column_stack([np.full(40, 0.5), points]), np.repeat(np.arange(4.0), 10)
    y = -((points[:, 0] - 0.7) ** 2)
    model = fitted(x, t, (y - y.mean()) / y.std())
    best = maximum(model, model, 0.5, 4.0, np.array([0.1]), np.random.default_rng(0))
    assert best[0] == pytest.approx(0.7, abs=0.1)
    seen = model.with_points(np.array([[0.5, best[0]]]), np.array([4.0]))
    there = np.array([[0.5, best[0]]]), np.array([4.0])
    assert seen.predictor()(*there)[1] < model.predictor()(*there)[1]
    assert kappa(2) == 0.0
    assert kappa(100) == pytest.approx(math.sqrt(0.2 * math.log(40)))


def test_the_intervals_of_the_model_are_those_of_the_log():
    events = [
        started(0, 3), *trained(0, 0, 3, loss=5.0), ev.Resumed(0, 6, ""), *trained(0, 3, 6, loss=2.0),
        started(1, 9, parent=0, clone=True), *trained(1, 6, 9, loss=1.0),
        started(2, 9, parent=0, clone=True),
    ]  # fmt: skip
    found = intervals(history_of(*events), (3, 6, 9))
    assert [(i.number, i.before, i.gain) for i in found] == [(1, 5.0, 1.0), (2, 2.0, pytest.approx(1 / 3)), (2, 2.0, None)]


def test_pb2_learns_which_rate_pays():
    """The loss falls by how near the rate is to 1e-3, in every interval: what is picked late is nearer than early."""
    space = lt.Space(learning_rate=lt.Float(1e-6, 1.0, log=True))
    asked = lt.AskTell(space, minimize="val_loss", max_epochs=20, budget="6 trials", strategy=PB2(population=6), seed=3)
    losses: dict = {}
    while job := asked.ask():
        loss = losses[job.clone_of if job.clone_of is not None else job.trial, job.start] if job.start else 10.0
        for epoch in range(job.start + 1, job.until + 1):
            loss -= math.exp(-((math.log10(job.config["learning_rate"]) + 3) ** 2) / 2)
            losses[job.trial, epoch] = loss
            asked.tell(job, epoch, val_loss=loss)
    picked = [t for t in asked.history.trials if t.inherited]
    off = [abs(math.log10(t.config["learning_rate"]) + 3) for t in picked if "bandit" in t.why][2:]
    assert len(off) > 6
    assert np.median(off) < 0.5


# -- the schedule and its replay ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found():
    return lt.tune(
        adding, RATE, minimize="val_loss", max_epochs=10, budget="8 trials", strategy="pbt", workers=0, quiet=True,
        reduce="last", seed=4,
    )  # fmt: skip


def test_the_answer_is_a_schedule(found):
    schedule = found.lineage()
    assert len(schedule) > 1
    assert schedule[0].from_epoch == 0
    assert schedule[-1].until_epoch == 10
    assert schedule[-1].config == found.best_config
    assert [s.until_epoch for s in schedule[:-1]] == [s.from_epoch for s in schedule[1:]]
    assert found.summary.to_dict()["schedule"] == [s.to_dict() for s in schedule]
    assert len(found.lineage(0)) == 1
    assert found.importance() == {}


def test_a_replayed_schedule_is_the_same_training(found):
    for segments in (found.lineage(), [s.to_dict() for s in found.lineage()]):
        again = lt.tune(
            adding, RATE, minimize="val_loss", max_epochs=10, strategy=Replay(segments), workers=0, quiet=True,
            reduce="last",
        )  # fmt: skip
        assert again.best_score == found.best_score
        assert [(s.from_epoch, s.until_epoch, s.config) for s in again.lineage()] == [
            (s.from_epoch, s.until_epoch, s.config) for s in found.lineage()
        ]
        assert again.history.spent == 10
        assert again.history.finished == "the schedule was trained to its end"


def test_a_replay_on_another_seed_is_another_training_of_the_same_schedule(found):
    def score(seed):
        again = lt.tune(
            adding, RATE, minimize="val_loss", max_epochs=10, strategy=Replay(found.lineage(), seed=seed), workers=0,
            quiet=True, reduce="last",
        )  # fmt: skip
        seeds = [t.seed for t in again.trials()]
        assert len(set(seeds)) == len(seeds)
        return again.best_score

    assert score(1) == score(1) != score(2)


def test_a_schedule_that_cannot_be_replayed_is_refused():
    rate = {"learning_rate": 0.01}
    for make, match in (
        (lambda: Replay([]), "no segments"),
        (lambda: Replay([(0, 3, rate), (4, 6, rate)]), "must follow each other from epoch 0, got 0 to 3, 4 to 6"),
        (lambda: Replay([(0, 0, rate)]), "trains no epoch"),
        (lambda: Replay([{"from": 0}]), "is no segment"),
        (lambda: lt.AskTell(RATE, minimize="x", max_epochs=5, strategy=Replay([(0, 9, rate)])), "max_epochs=9"),
        (lambda: lt.AskTell(RATE, minimize="x", max_epochs=9, strategy=Replay([(0, 9, {"lr": 1})])), "'lr' is not in"),
    ):
        with pytest.raises(UserError, match=match):
            make()


def test_a_replay_ends_where_a_segment_fails():
    rate = {"learning_rate": 0.01}
    asked = lt.AskTell(RATE, minimize="val_loss", max_epochs=9, strategy=Replay([(0, 3, rate), (3, 9, rate)]))
    asked.fail(asked.ask(), "out of memory")
    assert not asked.ask()
    assert asked.history.finished == "segment 1 of 2 failed: out of memory"


def test_the_story_tells_the_schedule(found):
    from luthier.view.closing import closing
    from luthier.view.story import tell

    for text in (tell(found.history), closing(found.history)):
        for segment in found.lineage():
            assert f"{segment.from_epoch + 1}–{segment.until_epoch}" in text
            assert f"learning_rate={segment.config['learning_rate']:.3g}" in text
    assert "schedule" not in tell(drive(RATE, "random").history)


def test_the_curve_of_a_clone_begins_with_its_parents():
    from luthier.diagnosis import from_trial

    history = history_of(started(0, 3), *trained(0, 0, 3, 5.0), started(1, 9, parent=0, clone=True), *trained(1, 3, 9, 1.0))
    curves = from_trial(history, history.trials[1])
    assert list(curves.val_loss.x) == list(range(1, 10))
    assert list(curves.val_loss.y) == [5.0] * 3 + [1.0] * 6
