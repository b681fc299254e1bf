"""Epoch time of the recipe against a PyTorch loop written by hand that does the same. Target: a ratio of at most 1.05.

Both train the same network on the same batches with the same updates, and their validation losses are compared at the
end: a loop that did less would not agree. They run in turn, in one process and one thread, several times; what counts
is the median of the ratios of the time per epoch, without the first pair, which warms caches up. On a CPU the time is
the process's own, so that a busy machine does not blur it as much; on a GPU it is the wall clock's. The loop by hand
runs twice in each turn, and the ratio of the two says how far from 1 the noise of the machine carries.

    python benchmarks/recipe_overhead.py [--repeats 15] [--epochs 3]
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time

import torch
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from luthier.recipe import Recipe, digits
from luthier.recipe.data import derive_seed, shuffled
from luthier.recipe.models import make_model

clock = time.perf_counter if torch.cuda.is_available() else time.process_time
BATCH, RATE, DECAY = 64, 1e-3, 0.05


class Clocked:
    """The trial that a recipe trains: keeps the clock at each epoch's end, and no checkpoint."""

    def __init__(self, config, epochs):
        self.config, self.seed, self.max_epochs = config, 0, epochs
        self.stamps, self.reports = [], []

    def epochs(self, **stateful):
        self.stamps.append(clock())
        yield from range(1, self.max_epochs + 1)

    def report(self, **metrics):
        self.reports.append(metrics)
        self.stamps.append(clock())


def by_recipe(recipe: Recipe, config, epochs: int):
    trial = Clocked(config, epochs)
    recipe(trial)
    return trial.stamps, [report["val_loss"] for report in trial.reports]


def by_hand(recipe: Recipe, config, epochs: int):
    """AdamW, cosine after a linear warmup, metrics of both sets, the best epoch's weights kept."""
    data = recipe._data
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    (x, y), (x_val, y_val) = ([t.to(device) for t in table.tensors] for table in (data.train, data.val))
    torch.manual_seed(0)
    model = make_model(recipe.model, config, data.to(device), device)
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, fused=True)
    total = epochs * math.ceil(len(x) / BATCH)
    rise = round(0.05 * total)

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / (total - rise)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    stamps, losses, best = [clock()], [], -1.0
    for epoch in range(1, epochs + 1):
        torch.manual_seed(derive_seed(0, epoch, 1))
        model.train()
        train_loss = torch.zeros((), device=device)
        hits = torch.zeros((), device=device)
        for chosen in shuffled(len(x), 0, epoch).to(device).split(BATCH):
            batch, labels = x[chosen], y[chosen]
            optimizer.zero_grad()
            logits = model(batch)
            loss = F.cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            scheduler.step()
            train_loss += loss.detach() * len(labels)
            hits += (logits.argmax(1) == labels).sum()
        float(train_loss), float(hits)
        model.eval()
        size = max(4 * BATCH, 2**16 // math.prod(x.shape[1:]))
        val_loss, right = torch.zeros((), device=device), torch.zeros((), device=device)
        with torch.no_grad():
            for batch, labels in zip(x_val.split(size), y_val.split(size)):
                logits = model(batch)
                val_loss += F.cross_entropy(logits, labels) * len(labels)
                right += (logits.argmax(1) == labels).sum()
        losses.append(float(val_loss) / len(x_val))
        if float(right) > best:
            best = float(right)
            {k: v.detach().clone() for k, v in model.state_dict().items()}
        stamps.append(clock())
    return stamps, losses


def sequences():
    """The digits as eight rows of eight pixels: a short sequence of vectors."""
    return tuple(TensorDataset(t.tensors[0].squeeze(1), t.tensors[1]) for t in digits())


def measure(name: str, recipe: Recipe, config, epochs: int, repeats: int):
    config = {**config, "batch_size": BATCH, "learning_rate": RATE, "weight_decay": DECAY}
    ways = {"recipe": by_recipe, "hand": by_hand, "again": by_hand}
    spent = {way: [] for way in ways}
    agreed = 0.0
    for repeat in range(repeats + 1):
        losses = {}
        turn = [*ways, *ways][repeat % 3 : repeat % 3 + 3]  # each is first, second and third equally often
        for way in turn:
            stamps, losses[way] = ways[way](recipe, config, epochs)
            if repeat:
                spent[way].append((stamps[-1] - stamps[0]) / epochs)
        agreed = max(agreed, max(abs(a - b) for a, b in zip(losses["recipe"], losses["hand"])))
    ratios = sorted(a / b for a, b in zip(spent["recipe"], spent["hand"]))
    return {
        "model": name,
        "recipe_ms": round(1e3 * statistics.median(spent["recipe"]), 2),
        "hand_ms": round(1e3 * statistics.median(spent["hand"]), 2),
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(ratios[0], 3), round(ratios[-1], 3)],
        "hand_to_itself": round(statistics.median(a / b for a, b in zip(spent["again"], spent["hand"])), 4),
        "largest_difference_in_val_loss": agreed,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = [
        measure("cnn", Recipe("cnn", *digits()), {}, given.epochs, given.repeats),
        measure("transformer", Recipe("transformer", *sequences()), {"width": 64}, given.epochs, given.repeats),
    ]
    out = {"torch": torch.__version__, "machine": platform.machine(), "repeats": given.repeats, "results": results}
    print(json.dumps({**out, "target": 1.05, "met": all(r["ratio"] <= 1.05 for r in results)}, indent=1))


if __name__ == "__main__":
    main()
