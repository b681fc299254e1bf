"""The range test and the batch-size finder on loops of one's own."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import luthier.probing.batch_size as batch_size_module
from luthier.core.errors import UserError
from luthier.diagnosis.batch_size import BatchSizeRow, choose_batch_size
from luthier.probing import find_batch_size, find_batch_size_for, lr_range_test
from luthier.recipe import digits, digits_recipe

GIB = 2**30


@pytest.fixture(scope="module")
def data():
    train, _ = digits()
    return train.tensors[0].flatten(1), train.tensors[1]


class Loop:
    """A loop with all that must be restored: running statistics, dropout, moments, a scheduler, gradients."""

    def __init__(self, data, make=lambda p: torch.optim.AdamW(p, lr=1e-3), batch=32):
        torch.manual_seed(0)
        self.x, self.y = data
        self.batch = batch
        self.model = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10))
        self.model.register_buffer("loose", torch.zeros(3), persistent=False)
        self.optimizer = make(self.model.parameters())
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1000)
        self.rates = []
        self.calls = 0

    def step(self):
        self.calls += 1
        random.random(), np.random.rand()
        self.rates.append([float(group["lr"]) for group in self.optimizer.param_groups])
        self.model.train()
        self.model.loose = self.model.loose + 1.0  # another tensor each time
        i = torch.randint(len(self.x), (self.batch,))
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(self.x[i]), self.y[i])
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        return loss

    def state(self):
        return copy.deepcopy(
            {
                "model": self.model.state_dict(),
                "loose": self.model.loose,
                "training": [m.training for m in self.model.modules()],
                "grads": [p.grad for p in self.model.parameters()],
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "generators": (random.getstate(), np.random.get_state(), torch.get_rng_state()),
            }
        )


def same(a, b):
    if isinstance(a, torch.Tensor | np.ndarray):
        return type(a) is type(b) and a.dtype == b.dtype and np.array_equal(np.asarray(a), np.asarray(b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.fixture
def warm(data):
    """In the midst of a training, with moments and running statistics of its own, and one module in eval mode."""
    loop = Loop(data)
    for _ in range(3):
        loop.step()
    loop.model[1].eval()
    return loop


def test_everything_is_restored_bit_for_bit(warm):
    before, weight = warm.state(), warm.model[0].weight
    lr_range_test(warm.step, warm.model, warm.optimizer, modules=[warm.scheduler], steps=20, repeats=2)
    assert warm.calls > 20
    assert same(before, warm.state())
    assert warm.model[0].weight is weight
    assert warm.optimizer.param_groups[0]["params"][0] is weight


def test_a_fresh_optimizer_is_empty_again_and_its_model_without_gradients(data):
    loop = Loop(data)
    before = loop.state()
    lr_range_test(loop.step, loop.model, loop.optimizer, modules=[loop.scheduler], steps=20, repeats=1)
    assert not loop.optimizer.state
    assert all(p.grad is None for p in loop.model.parameters())
    assert same(before, loop.state())


def test_everything_is_restored_after_an_exception(warm):
    before = warm.state()

    def breaks():
        if warm.calls == 30:
            raise ZeroDivisionError
        return warm.step()

    with pytest.raises(ZeroDivisionError):
        lr_range_test(breaks, warm.model, warm.optimizer, modules=[warm.scheduler], steps=20, repeats=2)
    assert same(before, warm.state())


def test_training_goes_on_as_if_there_had_been_no_test(data):
    tested, other = Loop(data), Loop(data)  # built alike: the second construction seeds again
    start = torch.get_rng_state()
    other_losses = [float(other.step().detach()) for _ in range(5)]
    torch.set_rng_state(start)
    lr_range_test(tested.step, tested.model, tested.optimizer, modules=[tested.scheduler], steps=20, repeats=1)
    assert [float(tested.step().detach()) for _ in range(5)] == other_losses


def test_groups_keep_their_ratio(data):
    def two(parameters):
        first, *rest = parameters
        return torch.optim.SGD([{"params": [first], "lr": 0.001}, {"params": rest, "lr": 0.01}], lr=0.1)

    loop = Loop(data, two)
    out = lr_range_test(loop.step, loop.model, loop.optimizer, modules=[loop.scheduler], steps=20, repeats=1)
    assert out.ratios == pytest.approx((0.1, 1.0))
    assert out.lrs[0] == pytest.approx(1e-7)
    assert out.lrs[-1] == pytest.approx(10.0)  # SGD's ladder
    ladder = [rates[1] for rates in loop.rates]
    assert ladder == pytest.approx(list(out.lrs[: len(ladder)]))
    assert [rates[0] for rates in loop.rates] == pytest.approx([rate / 10 for rate in ladder])


def test_the_rate_found_on_digits_trains_and_a_tenth_of_it_trains_less(data):
    loop = Loop(data)
    out = lr_range_test(loop.step, loop.model, loop.optimizer, modules=[loop.scheduler])
    assert out.informative
    assert len(out.losses) == 3
    assert len({losses[:5] for losses in out.losses}) == 3  # the repeats see other batches
    center = out.suggestion.center
    assert 3e-4 < center < 0.1
    assert center <= out.suggestion.upper

    def after(rate):
        torch.manual_seed(1)
        fresh = Loop(data, lambda p: torch.optim.AdamW(p, lr=rate))
        return np.mean([float(fresh.step().detach()) for _ in range(80)][-20:])

    assert after(center) < 0.6 < after(center / 30)
    assert after(center) < after(30 * center)


def test_the_test_is_drawn_with_its_suggestion(data):
    loop = Loop(data)
    out = lr_range_test(loop.step, loop.model, loop.optimizer, repeats=2)
    figure = out.plot()
    assert [len(line.x) for line in figure.data] == [len(out.lrs)] * 3  # two repeats and their median
    assert any(shape.x0 == out.suggestion.center for shape in figure.layout.shapes)
    assert len(lr_range_test(lambda: 1.0, loop.model, loop.optimizer, repeats=1).plot().layout.shapes) == 0


def test_the_same_seed_measures_the_same(data):
    def losses(seed):
        loop = Loop(data)
        return lr_range_test(loop.step, loop.model, loop.optimizer, steps=20, repeats=1, seed=seed).losses

    assert losses(3) == losses(3) != losses(4)


def test_each_repeat_begins_at_the_same_weights(data):
    loop = Loop(data)
    x, y = data

    def step():
        loop.optimizer.zero_grad()
        loss = F.cross_entropy(loop.model.eval()(x[:64]), y[:64])
        loss.backward()
        loop.optimizer.step()
        return loss

    first, second = lr_range_test(step, loop.model, loop.optimizer, steps=30, repeats=2).losses
    assert first == second
    assert first[-1] != first[0]


def test_a_flat_curve_is_uninformative(data):
    loop = Loop(data)
    out = lr_range_test(lambda: 2.3 + 0.05 * random.random(), loop.model, loop.optimizer, prior=(1e-3, 0.4), steps=50)
    assert not out.informative
    assert out.suggestion.confidence == "none"
    assert out.suggestion.spread_decades == 0.4
    assert str(out).startswith("Uninformative. The loss hardly fell")


def test_a_repeat_ends_where_it_diverges(data):
    loop = Loop(data, lambda p: torch.optim.SGD(p, lr=0.1))
    out = lr_range_test(loop.step, loop.model, loop.optimizer, high=1e6, repeats=1)
    assert len(out.losses[0]) < len(out.lrs)
    assert all(np.isfinite(out.losses[0]))


def test_mistakes_are_named(data):
    loop = Loop(data)
    with pytest.raises(UserError, match="optimizer= is NoneType"):
        lr_range_test(loop.step, loop.model)
    with pytest.raises(UserError, match="does not rise"):
        lr_range_test(loop.step, loop.model, loop.optimizer, low=1.0, high=0.1)
    with pytest.raises(UserError, match="returned None"):
        lr_range_test(lambda: None, loop.model, loop.optimizer)
    with pytest.raises(UserError, match="shape \\(2,\\)"):
        lr_range_test(lambda: torch.ones(2), loop.model, loop.optimizer)
    with pytest.raises(UserError, match="cannot be restored"):
        lr_range_test(loop.step, loop.model, loop.optimizer, modules=[object()])
    with pytest.raises(UserError, match="lazy"):
        lr_range_test(loop.step, nn.LazyLinear(3), loop.optimizer)


# Batch size: the choice


def rows(*speeds, peaks=()):
    sizes = [8 * 2**i for i in range(len(speeds))]
    return [
        BatchSizeRow(n, speed, peaks[i] if i < len(peaks) else None) for i, (n, speed) in enumerate(zip(sizes, speeds))
    ]


@pytest.mark.parametrize(
    ("table", "chosen", "why"),
    [
        (rows(100.0, 190.0, 300.0, 330.0), 32, "64 brings +10% (330 samples/s), below 15%"),
        (rows(100.0, 190.0, 300.0, 250.0), 32, "64 brings -17%"),
        (rows(100.0, 190.0, 370.0), 32, "the largest that was tried"),
        (rows(100.0, 190.0, None), 16, "32 ran out of memory"),
        (rows(100.0, 115.0, 400.0), 32, "the largest"),  # 15 % is just enough
        (rows(100.0, 114.0, 400.0), 8, "16 brings +14%"),
        (rows(None), None, "8 ran out of memory"),
    ],
)
def test_the_choice_by_throughput(table, chosen, why):
    out = choose_batch_size(list(reversed(table)))
    assert out.batch_size == chosen
    assert why in out.why


def test_the_choice_keeps_a_margin_of_memory():
    table = rows(100.0, 200.0, 400.0, peaks=(2 * GIB, 5 * GIB, 9.5 * GIB))
    assert choose_batch_size(table, memory=10 * GIB).batch_size == 16
    assert "32 holds 9.5 GiB of 10 GiB, less than 10% free" in choose_batch_size(table, memory=10 * GIB).why
    assert choose_batch_size(table, memory=10 * GIB, margin=0.02).batch_size == 32
    assert choose_batch_size(table, memory=2 * GIB).batch_size is None
    with pytest.raises(UserError):
        choose_batch_size([])


# Batch size: the measurement


class Clock:
    """Time that passes only in the steps: fixed seconds for each, and some for each sample."""

    def __init__(self):
        self.now, self.tried = 0.0, []

    def perf_counter(self):
        return self.now

    def steps(self, fixed=4e-3, each=0.0, fails=None, error=None):
        def make_step(size):
            self.tried.append(size)
            first = [True]

            def step():
                if fails is not None and size >= fails:
                    raise error or RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
                self.now += fixed + each * size + (1.0 if first.pop() else 0.0)  # the first one is slow
                first.append(False)

            return step

        return make_step


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(batch_size_module, "time", made)
    return made


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("no"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_lack_of_memory_is_survived(clock, error):
    out = find_batch_size(clock.steps(fails=64, error=error), steps=2)
    assert clock.tried == [8, 16, 32, 64]
    assert out.batch_size == 32
    assert [row.out_of_memory for row in out.rows] == [False, False, False, True]
    assert "64 ran out of memory" in out.why


def test_where_the_smallest_does_not_fit_it_halves(clock):
    out = find_batch_size(clock.steps(fails=3), smallest=8, steps=1)
    assert clock.tried == [8, 4, 2]
    assert out.batch_size == 2
    assert find_batch_size(clock.steps(fails=1), smallest=4).batch_size is None


def test_it_stops_where_doubling_no_longer_pays(clock):
    # 8: 667/s, 16: 1000/s, 32: 1333/s, 64: 1600/s, 128: 1778/s
    out = find_batch_size(clock.steps(fixed=8e-3, each=5e-4))
    assert clock.tried == [8, 16, 32, 64, 128]
    assert out.batch_size == 64
    assert out.rows[0].samples_per_second == pytest.approx(8 / 12e-3)
    clock.tried.clear()
    out = find_batch_size(clock.steps(), largest=50, steps=1)
    assert clock.tried == [8, 16, 32]
    assert out.batch_size == 32
    assert out.rows[0].samples_per_second == pytest.approx(8 / 4e-3)  # without the slow first step


def test_other_errors_pass_and_everything_is_restored(warm, clock):
    before = warm.state()

    def make_step(size):
        warm.batch = size
        if size == 32:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

        def step():
            clock.now += 1e-3
            warm.step()

        return step

    with pytest.raises(RuntimeError, match="mat1"):
        find_batch_size(make_step, modules=[warm.model, warm.optimizer, warm.scheduler])
    assert warm.calls > 3
    assert same(before, warm.state())


def test_what_ran_out_is_released_before_the_next_size():
    alive = []

    class Big:
        def __init__(self):
            alive.append(self)

        def __del__(self):
            released.append(True)

    released, counts = [], []

    def make_step(size):
        counts.append((size, len(released)))
        big = Big()
        alive.clear()

        def step():
            if size >= 4:
                raise MemoryError
            return big

        return step

    find_batch_size(make_step, smallest=8, steps=1)
    assert counts == [(8, 0), (4, 1), (2, 2)]


def test_a_recipe_is_capped_at_an_eighth_of_its_data():
    state = torch.get_rng_state()
    out = find_batch_size_for(digits_recipe("mlp"), {"batch_size": 700}, steps=2, gain=0.0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(8 <= row.batch_size <= 1257 // 8 for row in out.rows)
    assert out.batch_size in {row.batch_size for row in out.rows}
    with pytest.raises(UserError, match="learning_rat"):
        find_batch_size_for(digits_recipe("mlp"), {"learning_rat": 1.0})


def test_mistaken_bounds_are_named():
    for how in ({"smallest": 0}, {"smallest": 8, "largest": 4}, {"steps": 0}, {"margin": 1.0}, {"gain": -0.1}):
        with pytest.raises(UserError):
            find_batch_size(lambda size: lambda: None, **how)
