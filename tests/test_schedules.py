import math
import warnings

import pytest
import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from luthier.core.errors import UserError
from luthier.recipe.schedules import SCHEDULES, Plateau, lr_factor


def optimizer(lr=1.0):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=lr)


def rates(opt: torch.optim.Optimizer, scheduler: LRScheduler, steps: int) -> list[float]:
    """The learning rate of each update."""
    out = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # SequentialLR warns of its own calls
        for _ in range(steps):
            out.append(opt.param_groups[0]["lr"])
            opt.step()
            scheduler.step()
    return out


def ours(steps, schedule, warmup=0.0):
    return [lr_factor(s, steps, schedule, warmup) for s in range(steps)]


def test_cosine_is_pytorchs_and_its_closed_form():
    opt = optimizer()
    assert ours(50, "cosine") == pytest.approx(rates(opt, CosineAnnealingLR(opt, T_max=50), 50), abs=1e-12)
    assert lr_factor(25, 50, "cosine") == pytest.approx(0.5)
    assert lr_factor(50, 50, "cosine") == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("steps", [12, 100, 101])
def test_onecycle_is_pytorchs_with_fastais_numbers(steps):
    opt = optimizer()
    torchs = OneCycleLR(
        opt,
        max_lr=1.0,
        total_steps=steps,
        pct_start=0.25,
        div_factor=25,
        final_div_factor=1e5 / 25,
        cycle_momentum=False,
    )
    assert ours(steps, "onecycle") == pytest.approx([*rates(opt, torchs, steps - 1), 1e-05], abs=1e-9)


def test_step_is_pytorchs():
    opt = optimizer()
    assert ours(40, "step") == pytest.approx(rates(opt, MultiStepLR(opt, [20, 30], gamma=0.1), 40), rel=1e-12)


def test_constant():
    assert ours(7, "constant") == [1.0] * 7


def test_warmup_is_linear_and_the_decay_takes_the_rest():
    opt = optimizer()
    rise = LinearLR(opt, start_factor=1 / 11, total_iters=10)
    torchs = SequentialLR(opt, [rise, CosineAnnealingLR(opt, T_max=90)], milestones=[10])
    assert ours(100, "cosine", 0.1) == pytest.approx(rates(opt, torchs, 100), abs=1e-9)
    assert ours(100, "constant", 0.1)[:10] == pytest.approx([(s + 1) / 11 for s in range(10)])
    assert [lr_factor(s, 100, "step", 0.2) for s in (59, 60, 79, 80)] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_onecycle_has_its_own_warmup():
    assert ours(60, "onecycle", 0.3) == ours(60, "onecycle")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 37])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5])
def test_every_factor_is_a_fraction_and_the_first_update_moves(schedule, steps, warmup):
    factors = [lr_factor(s, steps, schedule, warmup) for s in range(steps + 3)]
    assert all(0.0 <= f <= 1.0 and math.isfinite(f) for f in factors)
    assert factors[0] > 0.0
    assert factors[steps] == factors[-1]  # beyond the end nothing changes


def test_linear_is_pytorchs():
    opt = optimizer()
    torchs = LinearLR(opt, start_factor=1.0, end_factor=0.0, total_iters=40)
    assert ours(41, "linear")[0] == 1.0
    assert [lr_factor(s, 40, "linear") for s in range(40)] == pytest.approx(rates(opt, torchs, 40), abs=1e-12)
    assert lr_factor(40, 40, "linear") == 0.0
    assert ours(100, "linear", 0.1)[10:] == pytest.approx([1 - t / 90 for t in range(90)])


def test_wsd_is_flat_and_then_falls_as_one_minus_a_root():
    factors = ours(100, "wsd", 0.1)
    assert factors[:10] == pytest.approx([(s + 1) / 11 for s in range(10)])
    assert factors[10:81] == [1.0] * 71
    assert factors[80:] == pytest.approx([1 - math.sqrt(t / 20) for t in range(20)])
    assert lr_factor(100, 100, "wsd") == 0.0
    half = [lr_factor(s, 100, "wsd", decay_fraction=0.5) for s in range(101)]
    assert half == pytest.approx([1.0 if s < 50 else 1 - math.sqrt((s - 50) / 50) for s in range(101)])
    # A decay longer than what the warmup leaves begins at its end.
    assert lr_factor(50, 100, "wsd", 0.5, decay_fraction=1.0) == 1.0
    assert lr_factor(75, 100, "wsd", 0.5, decay_fraction=1.0) == pytest.approx(1 - math.sqrt(0.5))


def test_a_plateau_divides_by_ten_and_warms_up():
    assert [lr_factor(50, 100, "plateau", 0.1, drops=d) for d in range(3)] == pytest.approx([1.0, 0.1, 0.01])
    assert lr_factor(3, 100, "plateau", 0.1, drops=1) == pytest.approx(0.1 * 4 / 11)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("patience", [0, 1, 5])
def test_a_plateau_is_pytorchs(mode, patience):
    draw = torch.Generator().manual_seed(patience)
    steps = torch.randn(120, generator=draw, dtype=torch.float64).div(10)
    metrics = (3.0 + steps.cumsum(0).clamp(-2, 2)).tolist()
    metrics[40] = math.nan
    metrics[60:70] = [metrics[59] * (1 - 5e-5)] * 10  # better by less than the threshold
    opt = optimizer()
    torchs = ReduceLROnPlateau(opt, mode, factor=0.1, patience=patience, eps=0.0)
    plateau = Plateau(minimize=mode == "min", patience=patience)
    theirs, mine = [], []
    for metric in metrics:
        torchs.step(metric)
        plateau.see(metric)
        theirs.append(opt.param_groups[0]["lr"])
        mine.append(lr_factor(50, 100, "plateau", drops=plateau.drops))
        again = Plateau(minimize=mode == "min", patience=patience)
        again.load_state_dict(plateau.state_dict())
        plateau = again
    assert mine == pytest.approx(theirs, rel=1e-9)
    assert plateau.drops > 2


def test_mistakes_are_named():
    with pytest.raises(UserError, match=r"'cosin'.*'cosine'"):
        lr_factor(0, 10, "cosin")
    with pytest.raises(UserError, match=r"warmup=0\.7"):
        lr_factor(0, 10, "cosine", 0.7)
    with pytest.raises(UserError, match="decay_fraction=0"):
        lr_factor(0, 10, "wsd", decay_fraction=0.0)
