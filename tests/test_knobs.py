"""Each knob does what its name says."""

from __future__ import annotations

import io
import itertools
import math

import pytest
import torch
from test_recipe import SMALL, FakeTrial, Plain, blobs, same_weights, small, train
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from luthier.core.errors import UserError
from luthier.recipe import MLP, Recipe
from luthier.recipe.averaging import Average, ema_decay
from luthier.recipe.data import shuffled
from luthier.recipe.knobs import KNOBS
from luthier.recipe.optimizers import make_optimizer, set_rate
from luthier.recipe.precision import Stepper

STILL = {"schedule": "constant", "warmup": 0.0, "dropout": 0.0, "width": 12}
SGD = {**STILL, "optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "learning_rate": 0.1, "batch_size": 20}


def initial(seed=0):
    """The weights that a trial of ``small()`` with ``STILL`` begins with."""
    torch.manual_seed(seed)
    return MLP(6, 3, 2, 12, 0.0)


def flat(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def states_of(checkpoint):
    return torch.load(io.BytesIO(checkpoint), weights_only=True)


def same(a, b):
    """Whether two states are alike to the bit; their files may differ in how a string was shared."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def line(n=96, seed=0):
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x @ torch.tensor([1.0, -2.0, 0.5]))


def regression(**changes):
    return Recipe(**{"model": "mlp", "train": line(), "val": line(60, 1), "task": "regression", **changes})


# -- optimizers --------------------------------------------------------------------------------------------------------


def test_nadamw_is_pytorchs_with_decoupled_decay():
    config = {**STILL, "optimizer": "nadamw", "learning_rate": 0.01, "weight_decay": 0.3, "beta1": 0.8, "beta2": 0.99}
    model, _ = train(small(), {**config, "batch_size": 96}, until=1)
    mine = initial()
    groups = [
        {"params": [p for p in mine.parameters() if (p.ndim > 1) is w], "weight_decay": 0.3 * w} for w in (True, False)
    ]
    optimizer = torch.optim.NAdam(groups, lr=0.01, betas=(0.8, 0.99), decoupled_weight_decay=True)
    x, y = (t[shuffled(96, 0, 1)] for t in blobs().tensors)
    F.cross_entropy(mine(x), y).backward()
    optimizer.step()
    assert same_weights(model, mine)


@pytest.mark.parametrize("nesterov", [False, True])
def test_nesterov_is_pytorchs(nesterov):
    model, _ = train(small(), {**SGD, "momentum": 0.9, "nesterov": nesterov}, until=1)
    mine = initial()
    optimizer = torch.optim.SGD(mine.parameters(), lr=0.1, momentum=0.9, nesterov=nesterov)
    x, y = blobs().tensors
    for chosen in shuffled(96, 0, 1).split(20):
        optimizer.zero_grad()
        F.cross_entropy(mine(x[chosen]), y[chosen]).backward()
        optimizer.step()
    # The best epoch is the only one, and the last.
    assert torch.allclose(flat(model), flat(mine), atol=1e-6)


def test_groups_have_rates_of_their_own():
    model = initial()
    first, *_, last = model.parameters()
    optimizer = make_optimizer(model, "sgd", {"learning_rate": 0.5}, {first: 0.1, last: 0.2}, fused=False)
    set_rate(optimizer, 0.4)
    rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[first] == pytest.approx(0.04)
    assert rates[last] == pytest.approx(0.08)
    assert {rates[p] for p in model.parameters() if p is not first and p is not last} == {0.4}


# -- schedules and early stopping --------------------------------------------------------------------------------------


def test_a_plateau_lowers_the_rate_and_is_remembered():
    # A rate of nothing never gets better: a drop after each second epoch.
    recipe = small(metric="val_loss")
    config = {**SGD, "schedule": "plateau", "plateau_patience": 1, "learning_rate": 1e-12}
    _, trial = train(recipe, config, until=7)
    state = states_of(trial.checkpoint)["plateau"]
    assert state["drops"] == 3
    _, first = train(recipe, config, until=4, max_epochs=7)
    _, last = train(recipe, config, start=4, until=7, checkpoint=first.checkpoint)
    assert same(states_of(last.checkpoint), states_of(trial.checkpoint))
    # And the drops count: one epoch at a tenth of the rate moves the weights a tenth as far.
    base = {**SGD, "schedule": "plateau", "batch_size": 96}
    whole, _ = train(small(), base, until=1)
    start = flat(initial())

    def dropped(drops):
        trial = FakeTrial(base, until=1)
        states = states_of(train(small(), base, until=0)[1].checkpoint)
        states["plateau"]["drops"] = drops
        file = io.BytesIO()
        torch.save(states, file)
        trial.checkpoint = file.getvalue()
        return small()(trial)

    assert torch.allclose(flat(dropped(1)) - start, 0.1 * (flat(whole) - start), atol=1e-7)


def test_patience_may_be_a_knob():
    recipe = small(metric="val_loss")
    config = {**SMALL, "schedule": "constant", "warmup": 0.0, "learning_rate": 0.1}
    _, by_knob = train(recipe, {**config, "patience": 3}, until=40)
    _, by_recipe = train(small(metric="val_loss", patience=3), config, until=40)
    _, knob_wins = train(small(metric="val_loss", patience=1), {**config, "patience": 3}, until=40)
    assert len(by_knob.reports) < 40
    assert by_knob.reports == by_recipe.reports == knob_wins.reports


# -- averaging ---------------------------------------------------------------------------------------------------------


def test_the_average_follows_its_recurrence():
    draw = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = Average(model, 0.7)
    expected = None
    for t in range(40):
        with torch.no_grad():
            for tensor in (*model.parameters(), model[1].running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=draw))
        average.update()
        now = torch.cat([flat(model), model[1].running_mean])
        d = min(0.7, (1 + t) / (10 + t))
        expected = now.clone() if expected is None else d * expected + (1 - d) * now
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with average.applied():
        assert torch.allclose(torch.cat([flat(model), model[1].running_mean]), expected, atol=1e-6)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [ema_decay(0.9, t) for t in (0, 8, 10**6)] == pytest.approx([0.1, 0.5, 0.9])


def test_evaluation_and_the_best_weights_are_of_the_average():
    config = {**SGD, "ema": 0.9}
    model, trial = train(small(), config, until=1)
    mine, average = initial(), None
    x, y = blobs().tensors
    for t, chosen in enumerate(shuffled(96, 0, 1).split(20)):
        mine.zero_grad()
        F.cross_entropy(mine(x[chosen]), y[chosen]).backward()
        with torch.no_grad():
            for p in mine.parameters():
                p -= 0.1 * p.grad
        d = (1 + t) / (10 + t)
        average = flat(mine) if average is None else d * average + (1 - d) * flat(mine)
    assert torch.allclose(flat(model), average, atol=1e-6)
    x, y = blobs(60, seed=1).tensors
    with torch.no_grad():
        assert trial.reports[0]["val_loss"] == pytest.approx(float(F.cross_entropy(model(x), y)), rel=1e-6)


def test_the_average_does_not_touch_the_training():
    _, plain = train(small(), SMALL, until=3)
    _, averaged = train(small(), {**SMALL, "ema": 0.99}, until=3)
    for a, b in zip(plain.reports, averaged.reports, strict=True):
        assert a["train_loss"] == b["train_loss"]
        assert a["val_loss"] != b["val_loss"]


# -- updates -----------------------------------------------------------------------------------------------------------


def test_clipping_bounds_the_norm_of_what_is_applied():
    start = flat(initial())
    for limit in (0.05, 1e3):
        model, trial = train(small(), {**SGD, "batch_size": 96, "grad_clip": limit}, until=1)
        free, plain = train(small(), {**SGD, "batch_size": 96}, until=1)
        moved, freely = (flat(model) - start) / 0.1, (flat(free) - start) / 0.1
        if limit < 1:
            assert float(freely.norm()) > limit
            assert float(moved.norm()) == pytest.approx(limit, rel=1e-3)
            assert torch.allclose(moved / moved.norm(), freely / freely.norm(), atol=1e-4)
        else:
            assert torch.equal(moved, freely)
        assert trial.reports[0]["clipped"] == float(limit < 1)
        assert "clipped" not in plain.reports[0]


@pytest.mark.parametrize("more", [{}, {"class_weights": "balanced"}, {"mixup": 0.0, "label_smoothing": 0.1}])
def test_accumulation_equals_the_large_batch(more):
    x, y = blobs().tensors
    y = torch.where(torch.arange(96) % 5 < 3, 0, y)  # weights that differ
    recipe = small(train=TensorDataset(x, y))
    config = {**SGD, **more, "momentum": 0.9, "schedule": "linear", "warmup": 0.2}
    large, one = train(recipe, {**config, "batch_size": 28}, until=3)  # 96 = 3 * 28 + 12
    parts, two = train(recipe, {**config, "batch_size": 7, "accumulate": 4}, until=3)  # the last update: 7 + 5
    assert torch.allclose(flat(large), flat(parts), atol=2e-6)
    for a, b in zip(one.reports, two.reports, strict=True):
        assert a["val_loss"] == pytest.approx(b["val_loss"], rel=1e-5)
        if "class_weights" not in more:  # a weighted mean of weighted means is none over all
            assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-5)


def test_precision():
    single, plain = train(small(), {**SGD, "precision": "fp32"}, until=3)
    half, rough = train(small(), {**SGD, "precision": "bf16"}, until=3)
    assert not same_weights(single, half)
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    assert [r["val_loss"] for r in rough.reports] == pytest.approx([r["val_loss"] for r in plain.reports], rel=0.05)
    model = initial()
    for name, device in (("fp16", "cpu"), ("bf16", "mps"), ("fp16", "mps")):
        with pytest.raises(UserError, match=f"precision='{name}' works on .* not on {device}"):
            Stepper(make_optimizer(model, "sgd", {}), name, 0.0, torch.device(device))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="fp16 needs CUDA")
def test_fp16_on_cuda_resumes_with_its_scale():
    recipe = small(device="cuda")
    config = {**SMALL, "precision": "fp16", "grad_clip": 1.0}
    _, unbroken = train(recipe, config, until=3)
    _, first = train(recipe, config, until=1, max_epochs=3)
    _, last = train(recipe, config, start=1, until=3, checkpoint=first.checkpoint)
    assert [r["val_loss"] for r in first.reports + last.reports] == pytest.approx(
        [r["val_loss"] for r in unbroken.reports], rel=1e-3
    )


# -- losses and data ---------------------------------------------------------------------------------------------------


def test_val_loss_is_the_plain_loss_whatever_is_trained_on():
    x, y = blobs(60, seed=1).tensors
    tricks = {"label_smoothing": 0.2, "class_weights": "balanced", "loss": "focal", "focal_gamma": 1.5}
    for recipe in (small(), small(train=Plain(blobs()), val=Plain(blobs(60, seed=1)))):
        model, trial = train(recipe, {**SGD, **tricks}, until=1)
        with torch.no_grad():
            assert trial.reports[0]["val_loss"] == pytest.approx(float(F.cross_entropy(model(x), y)), rel=1e-6)
        _, plain = train(recipe, SGD, until=1)
        assert trial.reports[0]["train_loss"] != pytest.approx(plain.reports[0]["train_loss"], rel=0.05)


@pytest.mark.parametrize("loss", ["l2", "l1", "smooth_l1"])
def test_regression_reports_squared_and_absolute_error(loss):
    model, trial = train(regression(metric="val_mae"), {**SGD, "loss": loss, "learning_rate": 0.01}, until=2)
    x, y = line(60, 1).tensors
    with torch.no_grad():
        off = model(x)[:, 0] - y
    best = min(trial.reports, key=lambda r: r["val_mae"])
    assert regression(metric="val_mae").minimize
    assert best["val_mae"] == pytest.approx(float(off.abs().mean()), rel=1e-5)
    assert best["val_loss"] == pytest.approx(float(off.square().mean()), rel=1e-5)


def test_smoothing_raises_the_loss_that_is_trained_on_only():
    _, plain = train(small(), {**SGD, "learning_rate": 1e-12}, until=1)
    _, smoothed = train(small(), {**SGD, "learning_rate": 1e-12, "label_smoothing": 0.5}, until=1)
    assert smoothed.reports[0]["val_loss"] == pytest.approx(plain.reports[0]["val_loss"], rel=1e-6)
    assert smoothed.reports[0]["train_loss"] != pytest.approx(plain.reports[0]["train_loss"], rel=1e-4)


def test_an_augmentation_of_ones_own_gets_batches_its_strength_and_a_generator():
    seen = []

    def shift(batch, strength, generator):
        seen.append((tuple(batch.shape), strength, generator.initial_seed()))
        return batch + strength * torch.randn(batch.shape, generator=generator)

    recipe = small(augment=shift)
    assert "augmentation" in recipe.space()
    train(recipe, {**SGD, "augmentation": 0.25}, until=2)
    assert [shape for shape, *_ in seen] == [(20, 6)] * 4 + [(16, 6)] + [(20, 6)] * 4 + [(16, 6)]
    assert {strength for _, strength, _ in seen} == {0.25}
    assert len({seed for *_, seed in seen}) == 2  # one for each epoch
    seen.clear()
    _, off = train(recipe, {**SGD, "augmentation": 0.0}, until=1)
    assert seen == []
    assert off.reports == train(small(), SGD, until=1)[1].reports
    train(recipe, SGD, until=1)
    assert {strength for _, strength, _ in seen} == {0.4}


def test_mixup_mixes_also_with_more_logits_than_classes():
    def wide(config):
        torch.manual_seed(0)
        return nn.Linear(6, 5)

    for recipe in (small(), small(model=wide), regression()):
        _, plain = train(recipe, SGD, until=1)
        _, mixed = train(recipe, {**SGD, "mixup": 1.0}, until=1)
        assert all(map(math.isfinite, mixed.reports[0].values()))
        assert mixed.reports != plain.reports


@pytest.mark.parametrize(
    ("model", "shape", "knobs"),
    [
        ("cnn", (1, 8, 8), {"kernel_size": 5, "drop_path": 0.2, "depth": 3, "width": 4}),
        ("pointnet", (16, 3), {"depth": 2, "width": 8}),
        ("transformer", (5, 4), {"heads": 2, "drop_path": 0.2, "width": 8, "depth": 2}),
    ],
)
def test_the_models_own_knobs_reach_them(model, shape, knobs):
    x = torch.randn(40, *shape, generator=torch.Generator().manual_seed(0))
    recipe = Recipe(model, TensorDataset(x, torch.arange(40) % 2), TensorDataset(x[:9], torch.arange(9) % 2))
    _, trial = train(recipe, {**knobs, "batch_size": 8}, until=1)
    _, other = train(recipe, {**knobs, "batch_size": 8, "depth": 1}, until=1)
    assert trial.reports != other.reports
    space = recipe.space()
    assert train(recipe, space.complete({}), until=1)[1].reports


# -- fine-tuning -------------------------------------------------------------------------------------------------------


class Normed(nn.Module):
    """A body with a norm in it, and a head."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.body(x))


def finetuned(**changes):
    return small(model=lambda config: Normed(), groups=lambda m: [m.body, m.head], **changes)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "nadamw", "adam", "rmsprop"])
def test_what_is_frozen_does_not_move_a_bit(optimizer):
    config = {"optimizer": optimizer, "weight_decay": 0.5, "momentum": 0.9, "learning_rate": 0.05, "batch_size": 20}
    torch.manual_seed(3)
    before = Normed()
    model, _ = train(finetuned(), {**config, "finetune": "head", "ema": 0.5}, seed=3, until=3)
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]) == name.startswith("body"), name
    # Then all of it moves, from where it was.
    later = {**config, "finetune": "head_then_full", "head_epochs": 2}
    _, trial = train(finetuned(), later, seed=3, until=2, max_epochs=4)
    states = states_of(trial.checkpoint)
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, states["model"][name]) == name.startswith("body"), name
    assert len(states["optimizer"]["state"]) in (0, 2)  # the head's weights and biases
    _, rest = train(finetuned(), later, seed=3, start=2, until=4, checkpoint=trial.checkpoint)
    _, unbroken = train(finetuned(), later, seed=3, until=4)
    assert trial.reports + rest.reports == unbroken.reports
    assert same(states_of(rest.checkpoint), states_of(unbroken.checkpoint))
    states = states_of(rest.checkpoint)
    for name, tensor in before.state_dict().items():
        # Before a batch norm a bias has no gradient.
        assert name == "body.0.bias" or not torch.equal(tensor, states["model"][name]), name


def test_layers_far_from_the_head_learn_more_slowly():
    config = {**SGD, "batch_size": 96}
    start = Normed()
    moved = {}
    for decay in (1.0, 0.5):
        torch.manual_seed(0)
        start = Normed()
        model, _ = train(finetuned(), {**config, "layer_decay": decay}, until=1)
        moved[decay] = {k: p - q for (k, p), q in zip(model.named_parameters(), start.parameters())}
    for name, step in moved[1.0].items():
        factor = 0.5 if name.startswith("body") else 1.0
        assert torch.allclose(moved[0.5][name], factor * step, atol=1e-6), name


# -- all at once -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("schedule", "optimizer"), list(itertools.product(["plateau", "wsd"], ["nadamw", "sgd"])))
def test_a_resumed_training_equals_an_uninterrupted_one_with_everything_on(schedule, optimizer):
    x = torch.rand(70, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(70) % 3
    recipe = Recipe(
        "cnn", TensorDataset(x[:50], y[:50]), TensorDataset(x[50:], y[50:]), augment="image", metric="val_loss"
    )
    config = {"schedule": schedule, "optimizer": optimizer, "batch_size": 8, "accumulate": 3, "width": 4, "depth": 2}
    config |= {"ema": 0.8, "mixup": 0.4, "augmentation": 0.7, "dropout": 0.3, "drop_path": 0.2, "grad_clip": 0.5}
    config |= {"plateau_patience": 1, "label_smoothing": 0.1, "warmup": 0.1, "precision": "bf16", "learning_rate": 0.05}
    config |= {"layer_decay": 0.8, "finetune": "gradual", "loss": "focal", "class_weights": "balanced"}
    whole, unbroken = train(recipe, config, seed=5, until=6)
    done, checkpoint, reports = 0, None, []
    for until in (1, 2, 4, 6):
        torch.manual_seed(until)
        model, part = train(recipe, config, seed=5, start=done, until=until, max_epochs=6, checkpoint=checkpoint)
        done, checkpoint, reports = until, part.checkpoint, reports + part.reports
    assert reports == unbroken.reports
    assert same_weights(model, whole)
    assert same(states_of(checkpoint), states_of(unbroken.checkpoint))


def test_the_range_test_trains_as_the_training_does():
    recipe = small(augment=lambda x, strength, generator: x + torch.randn(x.shape, generator=generator))
    base = {**SMALL, "augmentation": 0.5}
    answers = [base, {**base, "grad_clip": 0.01}, {**base, "label_smoothing": 0.3}, {**base, "augmentation": 0.0}]
    answers += [{**base, "accumulate": 2}, {**base, "mixup": 1.0}, {**base, "finetune": "head"}]
    curves = [recipe.probe("lr_range", config, 0)[0]["losses"] for config in answers]
    assert all(a != b for a, b in itertools.combinations(curves, 2))
    assert recipe.probe("sanity", {**base, "accumulate": 2}, 0)[0]["seconds_per_epoch"] > 0


def test_a_changed_configuration_takes_over_what_it_can():
    first = {**SMALL, "ema": 0.9, "layer_decay": 0.5, "schedule": "plateau", "optimizer": "sgd", "momentum": 0.9}
    _, trial = train(small(), first, until=1, max_epochs=2)
    for change in ({"ema": 0.0}, {"layer_decay": 0.7}, {"layer_decay": 1.0}, {"schedule": "wsd"}, {"grad_clip": 1.0}):
        _, last = train(small(), {**first, **change}, start=1, until=2, checkpoint=trial.checkpoint)
        assert math.isfinite(last.reports[0]["val_loss"])
    _, plain = train(small(), SMALL, until=1, max_epochs=2)
    _, last = train(small(), {**SMALL, "ema": 0.9}, start=1, until=2, checkpoint=plain.checkpoint)
    assert math.isfinite(last.reports[0]["val_loss"])


# -- mistakes ----------------------------------------------------------------------------------------------------------

BAD = [
    (small, {"smooth_l1_beta": 1.0}, r"'smooth_l1_beta' is for regression; this is classification"),
    (regression, {"focal_gamma": 2.0}, r"'focal_gamma' is for classification and language; this is regression"),
    (regression, {"label_smoothing": 0.1}, "'label_smoothing' is for classification"),
    (regression, {"class_weights": "balanced"}, "'class_weights' is for classification"),
    (regression, {"loss": "focal"}, "focal"),
    (small, {"loss": "l1"}, "l1"),
    (small, {"loss": "focl"}, "'focal'"),
    (small, {"heads": 4}, "mlp has no 'heads'.*depth, width, dropout"),
    (small, {"acumulate": 4}, "'acumulate'.*'accumulate'"),
    (small, {"accumulate": 0}, "accumulate: 0 is not"),
    (small, {"accumulate": 1.5}, r"accumulate: 1\.5 is not a whole number"),
    (small, {"batch_size": 20, "accumulate": 5}, "batch_size=20 times accumulate=5 is more than the 96"),
    (small, {"ema": 1.0}, r"ema: 1\.0 is not in"),
    (small, {"grad_clip": -1.0}, r"grad_clip: -1\.0"),
    (small, {"precision": "fp17"}, "precision: 'fp17'.*'fp16'"),
    (small, {"precision": "fp16", "_": 0}, "Unknown hyperparameter '_'"),
    (small, {"precision": "fp16"}, "precision='fp16' works on cuda, not on cpu"),
    (small, {"augmentation": 0.5}, r"augmentation=0\.5 needs a kind"),
    (small, {"finetune": "haed"}, "finetune: 'haed'.*'head'"),
    (small, {"layer_decay": 0.0}, "layer_decay: 0.0 is not in"),
    (small, {"optimizer": "sgd", "momentum": 0.0, "nesterov": True}, "nesterov=True with momentum=0"),
    (small, {"nesterov": 1}, "nesterov: 1 is none of"),
    (small, {"patience": 0}, "patience: 0 is not"),
    (small, {"decay_fraction": 0.0}, "decay_fraction: 0.0"),
]


@pytest.mark.parametrize(("make", "config", "says"), BAD, ids=[s for *_, s in BAD])
def test_a_bad_value_is_refused_before_training(make, config, says):
    trial = FakeTrial(config)
    with pytest.raises(UserError, match=says):
        make(device="cpu")(trial)
    assert trial.reports == []


def test_a_bad_augmentation_is_refused_at_once():
    with pytest.raises(UserError, match=r"'imge'.*'image'"):
        small(augment="imge")


def test_every_knob_of_the_default_spaces_is_known():
    for recipe in (small(), small(augment="points"), regression()):
        assert set(recipe.space()) <= set(KNOBS)
