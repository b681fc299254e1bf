"""Imbalanced classes: cross-entropy against the focal loss against class weights, in a training loop of one's own.

    python examples/imbalanced.py [--budget "24 trials"] [--max-epochs 10] [--workers 1] [--dir luthier-imbalanced]

Of ten kinds of clothes five are made rare, one image for twenty of the others; the validation set stays balanced, for a
rare class is worth as much as a frequent one. The loop is a plain function that gets a ``trial``: it takes its
hyperparameters from ``trial.config`` and reports whatever it likes, here the recall of the rare classes and the
balanced accuracy (the mean recall of all classes), which is what is maximized. Luthier's losses serve as others would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import clothes, finish, options
from torch import Tensor, nn

import luthier as lt
from luthier.recipe.losses import Loss, make_loss

COMMON, RARE, VAL = 400, 20, 100
"""Images of each class: to train on, frequent and rare, and to validate with."""

SPACE = lt.Space(
    learning_rate=lt.Float(1e-4, 1e-1, log=True, default=1e-3),
    loss=lt.Choice("cross_entropy", "focal"),
    focal_gamma=lt.Float(0.5, 5.0, default=2.0, when={"loss": "focal"}),
    class_weights=lt.Choice("none", "balanced"),  # n / (classes * n_c) for each class
)


def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels with every odd class thinned to 1:20, and a balanced validation set."""
    x, y = clothes()
    train, val = [], []
    for label in range(10):
        found = torch.nonzero(y == label).flatten()
        val.append(found[: min(VAL, len(found) // 3)])
        left = found[len(val[-1]) :]
        frequent = min(COMMON, len(left))
        train.append(left[: frequent * RARE // COMMON if label % 2 else frequent])
    chosen, held = torch.cat(train), torch.cat(val)
    return x[chosen], y[chosen], x[held], y[held]


def build(config: dict[str, Any], x: Tensor, y: Tensor) -> tuple[nn.Module, torch.optim.Optimizer, Loss]:
    """A small network, what trains it, and the loss that the configuration asks for."""
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))
    model(x[:1])  # the lazy layer sees its input
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["learning_rate"])
    return model, optimizer, make_loss("classification", config, y, outputs=10)


def training(x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor) -> Callable[[lt.Trial], None]:
    """The training function for this data."""

    def train(trial: lt.Trial) -> None:
        model, optimizer, loss_of = build(trial.config, x, y)
        updates = trial.max_epochs * (1 + (len(x) - 1) // 64)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
        for _ in trial.epochs(model=model, optimizer=optimizer, schedule=schedule):
            model.train()
            total = 0.0
            for batch in torch.randperm(len(x)).split(64):
                loss = loss_of(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += float(loss.detach()) * len(batch)
            model.eval()
            with torch.no_grad():
                hits = model(x_val).argmax(1) == y_val
            recall = torch.stack([hits[y_val == label].float().mean() for label in range(10)])
            trial.report(
                train_loss=total / len(x),
                balanced_accuracy=recall.mean(),
                rare_recall=recall[1::2].mean(),
                frequent_recall=recall[::2].mean(),
            )

    return train


def main(argv: Sequence[str] | None = None) -> lt.Result:
    """Tune, print the verdict and what each way makes of the rare classes, write the report."""
    settings = options(__doc__, "imbalanced", "24 trials", 10, argv)
    result = lt.tune(
        training(*data()), SPACE, strategy="playbook", maximize="balanced_accuracy", name="imbalanced", **settings
    )
    print("\nBest of each way:  balanced accuracy, recall of the rare classes")
    best: dict[tuple[Any, Any], dict[str, float]] = {}
    for trial in result.trials():
        for report in trial.reports:
            way = trial.config["loss"], trial.config["class_weights"]
            best[way] = max(best.get(way, report.metrics), report.metrics, key=lambda m: m["balanced_accuracy"])
    for (loss, weights), metrics in best.items():
        print(f"  {loss}, class weights {weights}: {metrics['balanced_accuracy']:.3f}, {metrics['rare_recall']:.3f}")
    return finish(result, "0.1, always saying the same class", settings["storage"])


if __name__ == "__main__":
    main()
