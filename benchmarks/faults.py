"""Real trainings with a fault put in on purpose, and healthy ones: curves whose true diagnosis is known.

Luthier's recipe on scikit-learn's digits, plain and with noise on the pixels. Each
training gives its curves as the recipe reports them, with the training loss of every update beside that of every epoch.

    python benchmarks/faults.py --seeds 0 1 2 -o curves.jsonl      # about a minute on one core
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from luthier.diagnosis import Curves, Series
from luthier.recipe import data, models, probes, recipe, schedules
from luthier.recipe.digits import digits
from luthier.recipe.recipe import Recipe

NOISE = 0.3
"""Standard deviation of what is added to the pixels, which are in [0, 1]: nothing ends above 90 %."""
Arrays = tuple[Tensor, Tensor, Tensor, Tensor]
"""Training inputs and labels, validation inputs and labels."""


@dataclass(frozen=True)
class Case:
    """A training: ``expect`` holds the kinds that name its fault, as an expert would; none for a healthy one."""

    name: str
    expect: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    model: Any = "mlp"
    epochs: int = 30
    noisy: bool = False
    data: Callable[[Arrays, np.random.Generator], Arrays] = lambda arrays, _: arrays
    patches: Mapping[str, Any] = field(default_factory=dict)
    visible: str = ""


def _order(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    x, y, *val = arrays
    by = torch.argsort(y, stable=True)
    return (x[by], y[by], *val)


def _shuffle_labels(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    x, y, *val = arrays
    return (x, y[torch.as_tensor(rng.permutation(len(y)))], *val)


def _leak(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    def told(x: Tensor, y: Tensor) -> Tensor:
        x = x.clone()
        x[:, 0, 0, :] = 0.0
        x[torch.arange(len(y)), 0, (y // 8), y % 8] = 4.0
        return x

    x, y, v, w = arrays
    return told(x, y), y, told(v, w), w


def _val_in_train(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    x, y, v, w = arrays
    return torch.cat([x, v]), torch.cat([y, w]), v, w


def _other_scale(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    x, y, v, w = arrays
    return (x - x.mean(0)) / x.std(), y, 16.0 * v, w


def _few(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    x, y, *val = arrays
    return (x[:100], y[:100], *val)


def _mismapped(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    x, y, v, w = arrays
    return x, y, v, (w + 1) % 10


def _huge(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    x, y, v, w = arrays
    return 3000.0 * x, y, 3000.0 * v, w


class Frozen(models.MLP):
    """Nothing but the biases is trained."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        for p in self.parameters():
            p.requires_grad = p.ndim == 1


def _frozen(config: dict[str, Any]) -> nn.Module:
    return Frozen(64, 10, 3, 64, 0.0)


def _evaluate_training(model: nn.Module, *args: Any, **kwargs: Any) -> dict[str, float]:
    with patch.object(model, "eval", model.train):
        return _EVALUATE(model, *args, **kwargs)


def _evaluate_constant(model: nn.Module, *args: Any, **kwargs: Any) -> dict[str, float]:
    """The accuracy of an argmax over the wrong axis: unrelated to what was learned."""
    metrics = _EVALUATE(model, *args, **kwargs)
    return metrics | {"val_accuracy": 0.1 + 0.02 * math.sin(1e4 * metrics["val_loss"])}


_EVALUATE = recipe.evaluate

FAULTS = (
    Case("shuffled_labels", ("val_at_chance", "dead_start"), data=_shuffle_labels),
    Case("unshuffled_data", ("sawtooth", "val_at_chance"), data=_order,
         patches={"shuffled": lambda n, *seed: torch.arange(n)}),
    Case("rate_x100", ("diverged", "non_finite", "oscillating", "spikes", "dead_start"), {"learning_rate": 0.3}),
    Case("rate_/100", ("rate_too_low", "dead_start"), {"learning_rate": 3e-5}),
    Case("frozen_layers", ("dead_start", "rate_too_low", "underfitting"), model=_frozen),
    Case("leaked_label", ("too_good_too_early",), data=_leak, noisy=True, epochs=20),
    Case("val_in_train", ("val_better_than_train", "too_good_too_early"), data=_val_in_train, noisy=True,
         visible="no: without a clean validation set such a curve is what a good one looks like"),
    Case("wrong_normalization", ("val_at_chance", "gap_without_rise", "loss_against_metric"), data=_other_scale),
    Case("little_data", ("overfitting", "overfitting_loss_only", "gap_without_rise"),
         {"schedule": "constant", "weight_decay": 0.0, "width": 512}, data=_few, noisy=True, epochs=100),
    Case("too_small_model", ("underfitting",), {"width": 2, "depth": 1}, epochs=60),
    Case("dropout_in_evaluation", ("underfitting", "noisy_validation"), {"dropout": 0.8},
         patches={"evaluate": _evaluate_training}),
    Case("metric_bug", ("loss_against_metric", "val_at_chance"), patches={"evaluate": _evaluate_constant}),
    Case("exploding", ("non_finite", "diverged"),
         {"optimizer": "sgd", "learning_rate": 300.0, "momentum": 0.9, "weight_decay": 0.0}),
    Case("over_clipping", ("over_clipping",),
         {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "grad_clip": 0.01}),
    Case("mismapped_val_labels", ("val_at_chance",), data=_mismapped),
    Case("unscaled_inputs", ("diverged", "non_finite", "oscillating", "spikes", "dead_start", "noisy_validation"),
         {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9}, data=_huge),
)  # fmt: skip
"""What an expert would accept as naming each fault, written down before the rules were tuned."""

HEALTHY = tuple(
    Case(f"{model}{'_noisy' if noisy else ''}_{schedule}_{epochs}",
         config={"schedule": schedule, "learning_rate": rate, "optimizer": optimizer, "weight_decay": decay},
         model=model, epochs=epochs, noisy=noisy)
    for model, noisy, schedule, epochs, optimizer, rate, decay in (
        ("mlp", False, "cosine", 30, "adamw", 3e-3, 0.05), ("mlp", False, "constant", 15, "adamw", 1e-3, 0.01),
        ("mlp", False, "linear", 20, "sgd", 0.05, 1e-4), ("mlp", False, "wsd", 25, "adamw", 2e-3, 0.05),
        ("cnn", False, "cosine", 15, "adamw", 3e-3, 0.05), ("cnn", False, "onecycle", 12, "sgd", 0.1, 5e-4),
        ("cnn", False, "constant", 10, "adamw", 1e-3, 0.05), ("cnn", False, "wsd", 16, "adamw", 2e-3, 0.05),
        ("mlp", True, "cosine", 8, "adamw", 1e-3, 0.3), ("mlp", False, "step", 20, "sgd", 0.1, 1e-4),
        ("mlp", False, "cosine", 5, "adamw", 3e-3, 0.05), ("cnn", False, "linear", 25, "adamw", 2e-3, 0.1),
    )
)  # fmt: skip
"""Common choices on data that the model can generalize on. A CNN on the noisy digits, first among them, is not: it ends
25 points better in training than in validation, which is overfitting and no false alarm."""


class Handle:
    """As much of a trial as a recipe needs."""

    def __init__(self, config: dict[str, Any], seed: int, max_epochs: int) -> None:
        self.config, self.seed, self.max_epochs = config, seed, max_epochs
        self.reports: list[dict[str, float]] = []

    def epochs(self, **stateful: Any) -> Iterator[int]:
        yield from range(1, self.max_epochs + 1)

    def report(self, **metrics: float) -> None:
        self.reports.append(metrics)


@cache
def _arrays(noisy: bool) -> Arrays:
    train, val = digits()
    x, y, v, w = (*train.tensors, *val.tensors)
    if noisy:
        g = torch.Generator().manual_seed(0)
        x, v = (t + NOISE * torch.randn(t.shape, generator=g) for t in (x, v))
    return x, y, v, w


def train(case: Case, seed: int) -> dict[str, Any]:
    """The curves of ``case`` as plain data."""
    x, y, v, w = case.data(_arrays(case.noisy), np.random.default_rng(seed))
    config = {"learning_rate": 3e-3, **case.config}
    handle, steps = Handle(config, seed, case.epochs), []
    loss_of = probes.Tools.loss_of

    def recorded(self: Any, *args: Any) -> Any:
        out = loss_of(self, *args)
        steps.append(float(out[0].detach()))
        return out

    with ExitStack() as stack:
        stack.enter_context(patch.object(probes.Tools, "loss_of", recorded))
        for name, value in case.patches.items():
            stack.enter_context(patch.object(data if name == "shuffled" else recipe, name, value))
        Recipe(case.model, TensorDataset(x, y), TensorDataset(v, w), device="cpu")(handle)
    per_epoch = math.ceil(len(x) / 64)
    schedule = str(config.get("schedule", "cosine"))
    total = case.epochs * per_epoch
    rates = [config["learning_rate"] * schedules.lr_factor(e * per_epoch - 1, total, schedule, 0.05)
             for e in range(1, case.epochs + 1)]  # fmt: skip
    return {"case": case.name, "seed": seed, "epochs": case.epochs, "config": config, "per_epoch": per_epoch,
            "n_val": len(w), "reports": handle.reports, "steps": steps, "rates": rates}  # fmt: skip


def curves(run: Mapping[str, Any], stepwise: bool = False) -> Curves:
    """What a diagnosis gets of :func:`train`'s run; ``stepwise`` with the training loss of every update."""

    def series(name: str) -> Series | None:
        at = [i for i, r in enumerate(run["reports"]) if name in r]
        return Series.of([run["reports"][i][name] for i in at], [i + 1.0 for i in at]) if at else None

    steps = run["steps"]
    loss = Series.of(steps, (np.arange(len(steps)) + 1) / run["per_epoch"]) if stepwise else series("train_loss")
    clipped = series("clipped")
    return Curves(
        train_loss=loss, val_loss=series("val_loss"), train_metric=series("train_accuracy"),
        val_metric=series("val_accuracy"), learning_rate=Series.of(run["rates"]), length=run["epochs"],
        extra={} if clipped is None else {"clipped": clipped}, trivial_loss=math.log(10), trivial_metric=0.1,
        n_val=run["n_val"], config=run["config"], name=f"{run['case']}, seed {run['seed']}",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("-o", "--output", required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with open(given.output, "w", encoding="utf-8") as out:
        for case in (*FAULTS, *HEALTHY):
            for seed in given.seeds:
                out.write(json.dumps(train(case, seed)) + "\n")
                out.flush()


if __name__ == "__main__":
    main()
