"""The sanity checks: a sound pipeline passes, and each fault is named by the check that is there for it."""

import math
import random
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from luthier.core.errors import UserError
from luthier.diagnosis import checks
from luthier.probing import check, check_loop
from luthier.recipe import Recipe, digits, digits_recipe

NAMES = {
    "inputs",
    "overlap",
    "class_balance",
    "initial_loss",
    "overfit_batch",
    "gradient_flow",
    "input_baseline",
    "train_eval",
    "throughput",
    "deterministic_rerun",
    "checkpoint",
}


def blobs(n=256, classes=3, seed=0, features=6):
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    centers = 1.5 * torch.randn(classes, features, generator=torch.Generator().manual_seed(99))
    return TensorDataset(centers[y] + torch.randn(n, features, generator=draw), y)


class Net(nn.Module):
    """A sound small model, for faults to be put into."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 32), nn.Linear(32, 3)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


def faulty(model=None, train=None, val=None, task="classification", **config):
    source = "mlp" if model is None else lambda _: model()
    recipe = Recipe(source, train or blobs(), val or blobs(96, seed=1), task, device="cpu")
    return check(recipe, {"learning_rate": 1e-2, "batch_size": 32, **config})


def failed(report):
    return {row.name for row in report.rows if row.status == "fail"}


def test_digits_pass_everything_quickly_and_leave_no_trace():
    recipe = digits_recipe("cnn")
    states = (random.getstate(), torch.get_rng_state())
    report = check(recipe)
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    assert {row.name for row in report.rows} == NAMES
    assert [row for row in report.rows if row.status != "pass" and row.name != "throughput"] == []
    assert report.ok
    lines = str(report).splitlines()
    assert len(lines) == len(NAMES)
    assert len({line.index(row.text) for line, row in zip(lines, report.rows)}) == 1  # aligned
    assert "0 of 540" in report["overlap"].text
    assert "2.30" in report["initial_loss"].text


def test_a_sound_small_model_passes():
    assert failed(faulty(Net)) == set()


def test_regression_passes_without_classes():
    x = torch.randn(256, 6, generator=torch.Generator().manual_seed(0))
    y = x[:, :1] - x[:, 1:2]
    report = faulty(train=TensorDataset(x[:200], y[:200]), val=TensorDataset(x[200:], y[200:]), task="regression")
    assert failed(report) <= {"initial_loss"}
    assert report["class_balance"].status == "skipped"
    assert report["input_baseline"].status == "pass"


def test_validation_that_overlaps_train():
    train = blobs()
    report = faulty(train=train, val=TensorDataset(*train[:40]))
    assert failed(report) == {"overlap"}
    assert "40 of 40" in report["overlap"].text


class Plain(Dataset):
    """A data set that only has ``[i]``."""

    def __init__(self, source, wait=0.0):
        self.source, self.wait = source, wait

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        time.sleep(self.wait)
        x, y = self.source[i]
        return x, int(y)


def test_overlap_and_slow_loading_are_seen_through_a_loader_too():
    train = blobs(96)
    val = ConcatDataset([blobs(90, seed=1), Subset(train, range(10))])
    report = faulty(train=Plain(train, 1e-3), val=Plain(val))
    assert report["overlap"].status == "fail"
    assert "10 of 100" in report["overlap"].text
    assert report["throughput"].status == "warn"
    assert "waiting for data" in report["throughput"].text


def test_a_frozen_layer_is_named():
    class Frozen(Net):
        def __init__(self):
            super().__init__()
            self.a.requires_grad_(False)

    row = faulty(Frozen)["gradient_flow"]
    assert row.status == "warn"
    assert "a.weight, a.bias" in row.text


def test_a_detached_layer_is_named():
    class Detached(Net):
        def forward(self, x):
            return self.b(torch.relu(self.a(x)).detach())

    row = faulty(Detached)["gradient_flow"]
    assert row.status == "fail"
    assert "a.weight, a.bias" in row.text


def test_a_head_that_starts_at_zero_is_not_taken_for_a_dead_layer():
    class Zero(Net):
        def __init__(self):
            super().__init__()
            nn.init.zeros_(self.b.weight)

    assert faulty(Zero)["gradient_flow"].status == "pass"


def test_a_gradient_that_is_not_a_number():
    class Root(Net):
        def forward(self, x):
            return super().forward(x) + (self.a.bias * 0.0).sqrt().sum()

    row = faulty(Root)["gradient_flow"]
    assert row.status == "fail"
    assert "not finite in a.bias" in row.text


def test_train_and_evaluation_that_differ():
    class Shrinks(Net):
        def forward(self, x):
            return super().forward(x if self.training else -x)

    report = faulty(Shrinks)
    assert failed(report) == {"train_eval"}

    class Noisy(Net):  # dropout by hand, of which nn.Dropout's rate knows nothing
        def forward(self, x):
            h = torch.relu(self.a(x))
            return self.b(10.0 * h * (torch.rand_like(h) < 0.1) if self.training else h)

    assert faulty(Noisy)["train_eval"].status == "warn"


def test_dropout_itself_is_no_mismatch():
    assert faulty(dropout=0.9)["train_eval"].status == "pass"


def test_constant_inputs():
    train, val = blobs(), blobs(96, seed=1)
    same = [TensorDataset(torch.ones_like(d.tensors[0]), d.tensors[1]) for d in (train, val)]
    report = faulty(train=same[0], val=same[1])
    assert {"inputs", "overfit_batch", "overlap"} <= failed(report)
    assert "constant" in report["inputs"].text


def test_a_model_that_ignores_its_inputs():
    class Deaf(Net):
        def forward(self, x):
            return super().forward(x * 0.0)

    row = faulty(Deaf)["input_baseline"]
    assert row.status == "fail"
    assert "ignores its inputs" in row.text


def test_inputs_far_from_unit_scale_warn():
    train = blobs()
    report = faulty(train=TensorDataset(1e4 * train.tensors[0], train.tensors[1]))
    assert report["inputs"].status == "warn"


def test_not_a_number_in_the_data_ends_it_there():
    train = blobs()
    train.tensors[0][3, 2] = math.nan
    report = faulty(train=train)
    assert failed(report) == {"inputs"}
    assert report["checkpoint"].status == "skipped"
    assert {row.name for row in report.rows} == NAMES


def test_unseeded_noise():
    class Unseeded(Net):
        def forward(self, x):
            noise = np.random.default_rng().normal(size=tuple(x.shape))
            return super().forward(x + 0.1 * torch.as_tensor(noise, dtype=x.dtype))

    report = faulty(Unseeded)
    assert failed(report) == {"deterministic_rerun"}
    assert "unseeded" in report["deterministic_rerun"].text
    assert report["checkpoint"].status == "skipped"


def test_a_seed_without_effect():
    def made():
        torch.manual_seed(0)
        return Net()

    train = blobs(32)
    report = faulty(made, train=TensorDataset(*(t[:1].repeat(32, *[1] * (t.ndim - 1)) for t in train.tensors)))
    assert report["deterministic_rerun"].status == "warn"


def test_state_that_the_checkpoint_leaves_out():
    class Forgetful(Net):
        steps = 0

        def forward(self, x):
            self.steps += self.training
            return super().forward(x) * (1.0 + 0.1 * self.steps)

    report = faulty(Forgetful)
    assert failed(report) == {"checkpoint"}
    assert "state_dict leaves out" in report["checkpoint"].text


def test_classes_that_are_missing_or_rare():
    x, y = blobs().tensors
    assert faulty(train=TensorDataset(x[y != 1], y[y != 1]))["class_balance"].status == "fail"
    keep = (y != 1) | (torch.arange(len(y)) < 10)
    row = faulty(train=TensorDataset(x[keep], y[keep]))["class_balance"]
    assert row.status == "warn"
    assert "3 to 86" in row.text


def test_a_crash_in_one_check_is_its_row():
    class Grows(Net):
        def forward(self, x):
            if self.training and len(x) == 32:
                raise RuntimeError("this batch is too large")
            return super().forward(x)

    report = faulty(Grows)
    assert {"gradient_flow", "deterministic_rerun"} <= failed(report)
    assert "raised RuntimeError: this batch is too large" in report["gradient_flow"].text


def test_mistakes_in_the_configuration_are_raised():
    with pytest.raises(UserError, match="learning_rat"):
        check(digits_recipe("mlp"), {"learning_rat": 1.0})


# A loop of one's own


class Loop:
    def __init__(self, dropout=0.1, noise=0.0, scale=1.0):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, 10))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.noise, self.scale = noise, scale
        self.fresh = np.random.default_rng()
        x, y = digits()[0].tensors
        self.batch = (x[:16].flatten(1), y[:16])

    def step(self, batch):
        x, y = batch
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(x + self.noise * self.fresh.normal()), y)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()  # the gradients are gone when the step returns
        return loss

    def at_init(self):
        with torch.no_grad():
            return F.cross_entropy(self.scale * self.model.eval()(self.batch[0]), self.batch[1])

    def check(self, **changes):
        how = {"model": self.model, "optimizer": self.optimizer, "batch": self.batch, "classes": 10, **changes}
        return check_loop(self.step, loss_at_init=self.at_init(), **how)


def test_a_sound_loop_passes_and_is_left_as_it_was():
    loop = Loop()
    weights = [p.detach().clone() for p in loop.model.parameters()]
    generator = torch.get_rng_state()
    report = loop.check()
    assert {row.name: row.status for row in report.rows} == dict.fromkeys(
        ("initial_loss", "gradient_flow", "deterministic_rerun", "overfit_batch"), "pass"
    )
    assert "batch of 16" in report["overfit_batch"].text
    assert all(map(torch.equal, weights, loop.model.parameters()))
    assert not loop.optimizer.state
    assert loop.model[2].p == 0.1
    assert torch.equal(torch.get_rng_state(), generator)


def test_faults_of_a_loop_are_named():
    assert failed(Loop(noise=1.0).check()) == {"deterministic_rerun"}
    assert "initial_loss" in failed(Loop(scale=100.0).check())
    still = Loop()
    still.optimizer.param_groups[0]["lr"] = 0.0
    assert failed(still.check()) == {"overfit_batch"}
    frozen = Loop()
    frozen.model[0].requires_grad_(False)
    assert frozen.check()["gradient_flow"].status == "warn"


def test_an_iterator_behind_the_step_is_a_warning_only():
    loop = Loop()
    x, y = digits()[0].tensors
    batches = iter([(x[i : i + 16].flatten(1), y[i : i + 16]) for i in range(0, 1200, 16)])
    report = check_loop(lambda: loop.step(next(batches)), loop.model, loop.optimizer)
    assert {row.name: row.status for row in report.rows} == {
        "initial_loss": "skipped",
        "gradient_flow": "pass",
        "deterministic_rerun": "warn",
        "overfit_batch": "skipped",
    }
    assert "goes on to other batches" in report["deterministic_rerun"].text


def test_what_a_loop_lacks_is_skipped_and_mistakes_are_raised():
    assert {row.status for row in check_loop().rows} == {"skipped"}
    assert check_loop(loss_at_init=2.31, classes=10)["initial_loss"].status == "pass"
    with pytest.raises(UserError, match="takes none"):
        check_loop(lambda: 1.0, batch=[1])
    with pytest.raises(UserError, match="classes=1"):
        check_loop(classes=1)


# The judgements, on literal numbers


def test_the_baseline_judgement():
    real, worse = [0.5, 0.6, 0.55, 0.52], [1.0, 1.1, 1.05, 1.04]
    assert checks.judge_baseline(real, worse, 1.1, 1.1, True).status == "pass"
    assert checks.judge_baseline(real, real, 1.1, 0.55, True).status == "warn"
    assert checks.judge_baseline(real, real, 1.1, 0.55, False).status == "fail"
    leak = checks.judge_baseline(real, [0.1] * 4, 1.1, 1.1, True)
    assert leak.status == "fail"
    assert "the model sees them" in leak.text
    assert checks.judge_baseline([math.nan], [1.0], 1.1, 1.1, True).status == "fail"


def test_the_rerun_judgement():
    a = [1.0, 0.5, math.nan]
    assert checks.judge_rerun(a, a, [2.0, 1.0, 0.0], True).status == "pass"
    assert checks.judge_rerun(a, a, a, True).status == "warn"
    close = [1.0 + 1e-4, 0.5, math.nan]
    assert checks.judge_rerun(a, close, None, True).status == "fail"
    assert checks.judge_rerun(a, close, None, False).status == "warn"
    assert checks.judge_checkpoint(a, close, False).status == "warn"
    assert checks.difference([1.0], [1.0, 2.0]) == math.inf
    assert checks.difference([1.0], [math.nan]) == math.inf
    assert checks.difference([0.0], [0.0]) == 0.0


def test_the_gradient_judgement():
    names = ["a.weight", "b.weight"]
    good = {"a.weight": [1.0, 2.0], "a.bias": [1e-9], "b.weight": [0.1]}
    row = checks.judge_gradients(good, names, [], 3)
    assert row.status == "pass"
    assert "1.0e-01 (b.weight) to 2.0e+00 (a.weight)" in row.text
    assert checks.judge_gradients({**good, "b.weight": [1e-6]}, names, [], 3).status == "warn"
    assert "no gradient reaches b.weight" in checks.judge_gradients({**good, "b.weight": []}, names, [], 3).text
    assert checks.judge_gradients({}, [], ["a", "b"], 3).status == "fail"


def test_the_overlap_judgement_tells_a_few_duplicates_from_a_leak():
    def status(shared):
        return checks.judge_overlap(shared, 1000, (10, 1000), (10, 1000)).status

    assert [status(n) for n in (0, 5, 11)] == ["pass", "warn", "fail"]
    assert "looked at 10 of 99" in checks.judge_overlap(0, 10, (10, 10), (99, 10)).text
