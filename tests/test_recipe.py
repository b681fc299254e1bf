import io
import itertools
import math
import random

import cloudpickle
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, Subset, TensorDataset, random_split

from luthier.core.errors import UserError
from luthier.core.params import Constant
from luthier.diagnosis import judge_sanity, suggest_lr
from luthier.recipe import CNN, MLP, Recipe, digits, digits_recipe
from luthier.recipe.data import shuffled
from luthier.recipe.optimizers import OPTIMIZERS
from luthier.recipe.schedules import SCHEDULES


class FakeTrial:
    """The handle a worker gives; its checkpoint goes through PyTorch's safe format like the real one."""

    def __init__(self, config, *, seed=0, start=0, until=2, max_epochs=None, checkpoint=None):
        self.config, self.seed, self.start, self.until = dict(config), seed, start, until
        self.max_epochs = max_epochs or until
        self.checkpoint = checkpoint
        self.reports = []

    def epochs(self, **stateful):
        if self.checkpoint is not None:
            states = torch.load(io.BytesIO(self.checkpoint), weights_only=True)
            for name, thing in stateful.items():
                thing.load_state_dict(states[name])
        yield from range(self.start + 1, self.until + 1)
        file = io.BytesIO()
        torch.save({name: thing.state_dict() for name, thing in stateful.items()}, file)
        self.checkpoint = file.getvalue()

    def report(self, **metrics):
        self.reports.append(metrics)


def train(recipe, config=None, **how):
    trial = FakeTrial(config or {}, **how)
    return recipe(trial), trial


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def blobs(n=96, classes=3, features=6, seed=0):
    """Overlapping Gaussian clusters: learnable, but not at once."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    centers = 1.5 * torch.randn(classes, features, generator=torch.Generator().manual_seed(99))
    return TensorDataset(centers[y] + torch.randn(n, features, generator=draw), y)


class Plain(Dataset):
    """A data set that only has ``[i]``, to take the way through the loader."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        x, y = self.source[i]
        return x, int(y)


def small(**changes):
    return Recipe(**{"model": "mlp", "train": blobs(), "val": blobs(60, seed=1), **changes})


SMALL = {"batch_size": 20, "width": 12, "dropout": 0.3, "learning_rate": 0.01}  # 96 = 4 * 20 + 16: a partial batch


# -- training ----------------------------------------------------------------------------------------------------------


def test_the_cnn_learns_the_digits():
    model, trial = train(digits_recipe("cnn"), {"learning_rate": 0.01}, until=5)
    assert isinstance(model, CNN)
    assert set(trial.reports[-1]) == {"train_loss", "train_accuracy", "val_loss", "val_accuracy", "params"}
    assert trial.reports[-1]["val_accuracy"] > 0.95
    assert trial.reports[-1]["train_loss"] < trial.reports[0]["train_loss"] / 5


def test_the_mlp_learns_the_digits_with_sgd():
    _, trial = train(digits_recipe("mlp"), {"optimizer": "sgd", "learning_rate": 0.2, "batch_size": 32}, until=5)
    assert trial.reports[-1]["val_accuracy"] > 0.93


def test_regression_learns_a_line():
    x = torch.randn(128, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)  # NumPy's habit
    y = x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    recipe = Recipe("mlp", TensorDataset(x[:96], y[:96]), TensorDataset(x[96:], y[96:]), task="regression")
    _, trial = train(recipe, {"batch_size": 16, "learning_rate": 0.01}, until=15)
    assert (recipe.metric, recipe.minimize) == ("val_loss", True)
    assert set(trial.reports[-1]) == {"train_loss", "val_loss", "val_mae", "params"}
    assert trial.reports[-1]["val_loss"] < 0.05 * float(y.var())


def test_the_reports_are_those_of_a_loop_written_by_hand():
    train_set, val_set = blobs(), blobs(60, seed=1)
    config = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.8, "weight_decay": 0.01, "warmup": 0.0}
    _, trial = train(Recipe("mlp", train_set, val_set), {**config, "batch_size": 20, "width": 12}, seed=3, until=3)

    torch.manual_seed(3)
    model = MLP(6, 3, 2, 12, 0.0)
    weights, biases = ([p for p in model.parameters() if (p.ndim > 1) is w] for w in (True, False))
    groups = [{"params": weights, "weight_decay": 0.01}, {"params": biases}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.8)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=15)
    x, y = train_set.tensors
    for epoch, report in enumerate(trial.reports, 1):
        losses, hits = [], 0
        for chosen in shuffled(96, 3, epoch).split(20):
            optimizer.zero_grad()
            logits = model(x[chosen])
            loss = nn.functional.cross_entropy(logits, y[chosen], reduction="none")
            loss.mean().backward()
            optimizer.step()
            scheduler.step()
            losses += loss.tolist()
            hits += int((logits.argmax(1) == y[chosen]).sum())
        assert len(losses) == 96
        assert report["train_loss"] == pytest.approx(sum(losses) / 96, rel=1e-5)
        assert report["train_accuracy"] == hits / 96
        with torch.no_grad():
            logits = model(val_set.tensors[0])
        expected = nn.functional.cross_entropy(logits, val_set.tensors[1])
        assert report["val_loss"] == pytest.approx(float(expected), rel=1e-5)
        assert report["val_accuracy"] == float((logits.argmax(1) == val_set.tensors[1]).double().mean())


@pytest.mark.parametrize(("optimizer", "schedule"), list(itertools.product(OPTIMIZERS, SCHEDULES)))
def test_a_resumed_training_equals_an_uninterrupted_one(optimizer, schedule):
    recipe = small()
    config = {**SMALL, "optimizer": optimizer, "schedule": schedule, "warmup": 0.1}
    whole, unbroken = train(recipe, config, seed=3, until=4)
    _, first = train(recipe, config, seed=3, until=1, max_epochs=4)
    torch.manual_seed(1234)  # another process would be in some other state
    _, second = train(recipe, config, seed=3, start=1, until=2, max_epochs=4, checkpoint=first.checkpoint)
    random.seed(5)
    third, last = train(recipe, config, seed=3, start=2, until=4, max_epochs=4, checkpoint=second.checkpoint)
    assert first.reports + second.reports + last.reports == unbroken.reports
    assert same_weights(third, whole)
    assert last.checkpoint == unbroken.checkpoint


@pytest.mark.parametrize("change", [{"learning_rate": 1e-12}, {"optimizer": "adamw", "learning_rate": 1e-12}])
def test_a_changed_configuration_counts_from_the_checkpoint_on(change):
    recipe = small()
    config = {**SMALL, "optimizer": "sgd", "schedule": "constant", "warmup": 0.0}
    _, first = train(recipe, config, until=2, max_epochs=4)
    how = {"start": 2, "until": 4, "checkpoint": first.checkpoint}
    _, same = train(recipe, config, **how)
    _, frozen = train(recipe, {**config, **change}, **how)
    before = first.reports[-1]["val_loss"]
    assert [r["val_loss"] for r in frozen.reports] == pytest.approx([before, before], rel=1e-5)
    assert same.reports[-1]["val_loss"] != pytest.approx(before, rel=1e-3)


def test_the_cnn_resumes_with_its_running_statistics():
    train_set, val_set = digits()
    recipe = Recipe("cnn", Subset(train_set, range(200)), Subset(val_set, range(100)))
    config = {"width": 4, "dropout": 0.2, "batch_size": 32}
    whole, unbroken = train(recipe, config, until=3)
    _, first = train(recipe, config, until=2, max_epochs=3)
    resumed, last = train(recipe, config, start=2, until=3, max_epochs=3, checkpoint=first.checkpoint)
    assert first.reports + last.reports == unbroken.reports
    assert same_weights(resumed, whole)


def test_the_seed_decides_everything():
    recipe = small()
    (a, one), (b, two), (c, other) = (train(recipe, SMALL, seed=s) for s in (7, 7, 8))
    assert one.reports == two.reports
    assert same_weights(a, b)
    assert one.reports != other.reports
    assert not same_weights(a, c)


def test_the_schedule_runs_over_max_epochs_not_until():
    recipe = small()
    _, short = train(recipe, SMALL, until=2)
    _, part = train(recipe, SMALL, until=2, max_epochs=20)
    assert short.reports[0] != part.reports[0]
    _, more = train(recipe, SMALL, until=4, max_epochs=20)
    assert more.reports[:2] == part.reports


def test_tensors_and_a_loader_train_alike():
    train_set, val_set = blobs(), blobs(60, seed=1)
    config = {**SMALL, "dropout": 0.0}
    _, fast = train(Recipe("mlp", train_set, val_set), config)
    _, slow = train(Recipe("mlp", Plain(train_set), Plain(val_set)), config)
    assert slow.reports == fast.reports
    parts = random_split(blobs(156), [96, 60], torch.Generator().manual_seed(0))
    _, split = train(Recipe("mlp", *parts), config)
    _, loaded = train(Recipe("mlp", *map(Plain, parts)), config)
    assert split.reports == loaded.reports


def test_what_a_data_set_draws_at_random_is_repeated_too():
    class Noisy(Plain):
        def __getitem__(self, i):
            x, y = super().__getitem__(i)
            return x + 0.1 * torch.randn(x.shape) + random.random() + float(np.random.random()), y

    recipe = Recipe("mlp", Noisy(blobs()), blobs(60, seed=1))
    _, unbroken = train(recipe, SMALL, until=3)
    _, first = train(recipe, SMALL, until=1, max_epochs=3)
    _, last = train(recipe, SMALL, start=1, until=3, max_epochs=3, checkpoint=first.checkpoint)
    assert first.reports + last.reports == unbroken.reports


# -- the best epoch, early stopping, failure ---------------------------------------------------------------------------


def diverging(**changes):
    """Early epochs are good, later ones bad: the rate is far too high for the noise."""
    return small(metric="val_loss", **changes), {**SMALL, "schedule": "constant", "warmup": 0.0, "learning_rate": 0.1}


def val_loss(model, recipe_val):
    model.eval()
    x, y = recipe_val.tensors
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(x), y))


def test_the_best_epochs_weights_are_restored():
    recipe, config = diverging()
    model, trial = train(recipe, config, until=10)
    losses = [r["val_loss"] for r in trial.reports]
    assert len(losses) == 10  # no patience: to the end
    assert losses[-1] > min(losses)
    assert val_loss(model, blobs(60, seed=1)) == pytest.approx(min(losses), rel=1e-6)


def test_patience_ends_a_training_and_survives_a_pause():
    recipe, config = diverging(patience=3)
    whole, unbroken = train(recipe, config, until=40)
    losses = [r["val_loss"] for r in unbroken.reports]
    end = len(losses)
    assert end < 40
    assert losses.index(min(losses)) == end - 1 - 3
    assert val_loss(whole, blobs(60, seed=1)) == pytest.approx(min(losses), rel=1e-6)
    for pause in (1, end - 1, end):  # also right at the end, where patience has just run out
        _, first = train(recipe, config, until=pause, max_epochs=40)
        again, last = train(recipe, config, start=pause, until=40, checkpoint=first.checkpoint)
        assert first.reports + last.reports == unbroken.reports
        assert same_weights(again, whole)


def test_a_loss_that_is_not_finite_ends_the_training_and_is_reported():
    recipe = small()
    _, trial = train(recipe, {**SMALL, "optimizer": "sgd", "learning_rate": 900.0, "weight_decay": 900.0}, until=30)
    assert len(trial.reports) < 30
    assert all(math.isnan(v) for v in trial.reports[-1].values())
    assert set(trial.reports[-1]) == {"train_loss", "train_accuracy", "val_loss", "val_accuracy"}


# -- configurations and spaces -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["mlp", "cnn", lambda config: nn.Sequential(nn.Flatten(), nn.Linear(64, 10))])
def test_every_configuration_of_the_default_space_trains(model):
    train_set, val_set = digits()
    recipe = Recipe(model, Subset(train_set, range(128)), Subset(val_set, range(64)))
    space = recipe.space()
    assert ("width" in space) == isinstance(model, str)
    assert space["batch_size"].high == 16
    assert space["schedule"].choices == ("cosine", "linear", "onecycle", "wsd")
    assert space.complete({})["optimizer"] == "adamw"
    rng = np.random.default_rng(0)
    for config in [space.complete({}), *(space.sample(rng) for _ in range(4))]:
        _, trial = train(recipe, config, until=1)
        assert len(trial.reports) == 1


def test_the_space_is_fitted_to_the_data_or_given():
    assert digits_recipe().space()["batch_size"].high == 1257 // 8
    assert small(train=blobs(9)).space()["batch_size"] == Constant(1)
    mine = small().space().fix({"optimizer": "sgd"})
    assert small(space=mine).space() == mine


def test_weight_decay_spares_biases_and_norms():
    still = {"optimizer": "sgd", "learning_rate": 0.01, "momentum": 0.0, "schedule": "constant", "warmup": 0.0}
    x = torch.zeros(16, 1, 8, 8)  # dead inputs: convolutions have no gradient, so only decay moves their weights
    recipe = Recipe("cnn", TensorDataset(x, torch.arange(16) % 2), TensorDataset(x, torch.arange(16) % 2))
    plain, _ = train(recipe, {**still, "weight_decay": 0.0, "depth": 1}, until=1)
    decayed, _ = train(recipe, {**still, "weight_decay": 1.0, "depth": 1}, until=1)
    assert torch.allclose(decayed.blocks[0].conv.weight, 0.99 * plain.blocks[0].conv.weight)
    assert torch.equal(decayed.blocks[0].norm.weight, plain.blocks[0].norm.weight)


def test_a_models_own_knobs_reach_it():
    seen = []

    def build(config):
        seen.append(config)
        return nn.Linear(6, 3)

    train(small(model=build), {"learning_rate": 0.01, "kernel": "rbf", "depth": "shallow"}, until=1)
    assert seen == [{"learning_rate": 0.01, "kernel": "rbf", "depth": "shallow"}]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 28, 33])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_cnn_takes_any_size(size, depth):
    assert CNN(3, size, 7, depth, 4, 0.0)(torch.zeros(2, 3, size, size + 1)).shape == (2, 7)


def test_the_cnn_shrinks_the_map_to_about_four():
    assert CNN(1, 32, 10, 4, 4, 0.0).blocks(torch.zeros(2, 1, 32, 32)).shape == (2, 4, 4, 4)


# -- travelling --------------------------------------------------------------------------------------------------------


def test_a_recipe_travels_and_trains_the_same():
    recipe = digits_recipe("mlp")
    recipe.space()  # loads the data here
    packed = cloudpickle.dumps(recipe)
    assert len(packed) < 5_000
    _, here = train(recipe, until=1)
    _, there = train(cloudpickle.loads(packed), until=1)
    assert there.reports == here.reports
    width = 7
    mine = cloudpickle.loads(
        cloudpickle.dumps(small(model=lambda c: nn.Sequential(nn.Linear(6, width), nn.Linear(width, 3))))
    )
    assert len(train(mine, until=1)[1].reports) == 1


# -- mistakes ----------------------------------------------------------------------------------------------------------


def nan_data():
    x, y = blobs().tensors
    x[5, 2] = math.nan
    x[7, 0] = math.inf
    return TensorDataset(x, y)


X, Y = blobs().tensors

BAD_RECIPES = [
    ({"model": "cnnn"}, r"'cnnn'.*'cnn'"),
    ({"model": nn.Linear(6, 3)}, "built afresh"),
    ({"task": "clasification"}, "'classification'"),
    ({"metric": "val_acuracy"}, "'val_accuracy'"),
    ({"patience": 0}, "patience=0"),
    ({"device": "gpu"}, "'gpu'"),
    ({"train": None, "val": None}, "data="),
    ({"train": [1, 2, 3], "val": iter([])}, "train: Samples cannot be read"),
    ({"val": iter([])}, "val= is a"),
    ({"train": TensorDataset(X[:0], Y[:0])}, "train data set is empty"),
    ({"val": TensorDataset(X, Y.float())}, r"val: Labels are torch.float32.*y\.long"),
    ({"train": TensorDataset(X, Y - 1)}, "label -1 is negative"),
    ({"train": TensorDataset(X, nn.functional.one_hot(Y))}, "argmax"),
    ({"train": TensorDataset(X, X, Y)}, "3 parts"),
    ({"train": TensorDataset(X, Y * 0), "val": TensorDataset(X, Y * 0)}, "nothing to tell apart"),
]


@pytest.mark.parametrize(("changes", "says"), BAD_RECIPES, ids=[s for _, s in BAD_RECIPES])
def test_a_bad_recipe_is_refused_at_once(changes, says):
    with pytest.raises(UserError, match=says):
        small(**changes)


BAD_TRIALS = [
    ({}, {"optimizer": "adamv"}, r"optimizer: 'adamv'.*'adamw'"),
    ({}, {"schedule": "cosin"}, "'cosine'"),
    ({}, {"learning_rat": 0.1}, r"'learning_rat'.*'learning_rate'"),
    ({}, {"learning_rate": -1.0}, "learning_rate: -1.0 is not in"),
    ({}, {"dropout": 1.0}, "dropout: 1.0 is not in"),
    ({}, {"batch_size": 97}, "batch_size=97 is more than the 96"),
    ({"train": nan_data()}, {}, "train: 2 of 96 inputs hold NaN or infinity"),
    ({"val": Plain(nan_data())}, {}, "val: 2 of 96 inputs hold NaN or infinity"),
    ({"model": "cnn"}, {}, "needs images"),
    ({"model": lambda c: nn.Linear(6, 2)}, {}, r"gives \(2, 2\).*needs \(2, 3\)"),
    ({"model": lambda c: nn.Linear(5, 3)}, {}, r"cannot take inputs of shape \(2, 6\)"),
    ({"model": lambda c: "linear"}, {}, "returned a str"),
    ({"model": lambda c: nn.Linear(6, 3).requires_grad_(False)}, {}, "no trainable parameters"),
    ({"model": lambda c: nn.Linear(6, 3), "task": "regression"}, {}, r"needs \(2, 1\)"),
]


@pytest.mark.parametrize(("changes", "config", "says"), BAD_TRIALS, ids=[s for *_, s in BAD_TRIALS])
def test_a_bad_trial_is_refused_before_training(changes, config, says):
    trial = FakeTrial(config)
    with pytest.raises(UserError, match=says):
        small(**changes)(trial)
    assert trial.reports == []


def test_the_digits_need_scikit_learn(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install \"luthier\[quickstart\]\""):
        digits_recipe()


# -- probes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_sanity_of_a_sound_recipe(model):
    answer, cost = digits_recipe(model).probe("sanity", {"dropout": 0.5, "weight_decay": 1.0}, 0)
    verdict = judge_sanity(answer)
    assert verdict.ok
    assert "log 10 = 2.30" in verdict.sentence
    assert answer["overfit"]["accuracy"] == 1.0
    assert 0 < answer["overfit"]["steps"] < 300
    assert answer["learnability"]["learns"]
    assert answer["modes"] == {"still_training": [], "differs": 0.0}
    steps = answer["overfit"]["steps"] + answer["learnability"]["updates"]
    assert answer["learnability"]["updates"] < 20
    assert cost == pytest.approx((steps * 32 + 5 * 64) / 1257)  # samples seen
    assert answer["seconds_per_epoch"] > 0


class Deaf(nn.Module):
    """Ignores what gradients do to all but its bias."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return self.layer(x).detach() * 0 + self.layer.bias


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda c: Deaf(), "could not be learned by heart in 300 steps"),
        (lambda c: nn.Linear(6, 3).requires_grad_(False), "no trainable parameters"),
        (lambda c: nn.Sequential(nn.Linear(6, 3), Detach()), "does not depend on the parameters"),
    ],
)
def test_sanity_of_a_broken_model_is_fatal(model, says):
    answer, _ = small(model=model).probe("sanity", {}, 0)
    verdict = judge_sanity(answer)
    assert verdict.fatal
    assert says in verdict.sentence


class Detach(nn.Module):
    def forward(self, x):
        return x.detach()


def test_sanity_sees_broken_data_and_a_hot_last_layer():
    assert judge_sanity(small(train=nan_data()).probe("sanity", {}, 0)[0]).fatal

    def hot(config):
        layer = nn.Linear(6, 3)
        nn.init.normal_(layer.weight, std=30.0)
        return layer

    verdict = judge_sanity(small(model=hot).probe("sanity", {}, 0)[0])
    assert "far off" in verdict.sentence
    assert not verdict.ok


def test_sanity_of_a_regression():
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    recipe = Recipe("mlp", TensorDataset(x, x[:, 0]), TensorDataset(x, x[:, 0]), task="regression")
    answer, _ = recipe.probe("sanity", {}, 0)
    assert answer["classes"] is None
    assert answer["expected_loss"] == pytest.approx(float(x[:, 0].var(correction=0)))
    assert judge_sanity(answer).ok


@pytest.mark.parametrize(
    ("model", "optimizer", "good"), [("mlp", "adamw", 0.02), ("mlp", "sgd", 0.2), ("mlp", "rmsprop", 3e-3)]
)
def test_the_range_test_finds_the_digits_rate(model, optimizer, good):
    recipe = digits_recipe(model)
    answer, cost = recipe.probe("lr_range", {"optimizer": optimizer, "batch_size": 128}, 0)
    assert len(answer["lrs"]) == 100
    assert len(answer["losses"]) == 1  # ten updates an epoch: one climb is ten epochs' worth already
    assert cost == sum(map(len, answer["losses"])) / 10
    suggestion = suggest_lr(answer["lrs"], answer["losses"])
    assert suggestion.confidence != "none"
    # `good`: the best of nine rates over five epochs.
    assert good / 10 < suggestion.center < good * 10
    assert suggestion.center < suggestion.upper


def test_probes_repeat_and_leave_the_generators_alone():
    recipe = small()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    first = recipe.probe("lr_range", SMALL, 4)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]
    assert recipe.probe("lr_range", SMALL, 4) == first
    assert recipe.probe("lr_range", SMALL, 5) != first


def test_a_flat_model_has_no_suggestion():
    answer, _ = small(model=lambda c: Deaf()).probe("lr_range", {"optimizer": "adamw"}, 0)
    assert suggest_lr(answer["lrs"], answer["losses"]).confidence == "none"


def test_an_unknown_probe():
    with pytest.raises(UserError, match=r"'sanitty'.*'sanity'"):
        small().probe("sanitty", {}, 0)
