"""What ending failed trainings early saves, and what it costs: luthier.diagnosis.hopeless on all of TaskSet's curves.

Each training is looked at after every evaluation, as a study would, and ended when the predicate says so. Saved: the
part of all epochs that is not trained. Lost: how much worse the best surviving training of a task is than the best of
all, in percent of what the best one learned; how many of the ten best are ended; and the same loss in studies of a few
configurations drawn at random, in percent of what the study's best and what the task's best learned.

    python benchmarks/dead_starts.py taskset.npz [--trials 30]
"""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

import numpy as np

from luthier.diagnosis import Curves, Series, hopeless


def load(path: str) -> dict[str, tuple[Any, Any, Any]]:
    """task -> (configurations as dictionaries, training losses, validation losses)."""
    with np.load(path, allow_pickle=False) as data:
        names = [str(name) for name in data["hyperparameters"]]
        tasks = sorted({key.rsplit(".", 1)[0] for key in data.files if "." in key})
        return {
            task: (
                [{"optimizer": "adam", **dict(zip(names, map(float, row)))} for row in data[f"{task}.config"]],
                data[f"{task}.train"].astype(float),
                data[f"{task}.valid"].astype(float),
            )
            for task in tasks
        }


def curves(config: dict[str, Any], train: Any, valid: Any, classes: int = 2) -> Curves:
    """A training of TaskSet; its first evaluation is before the first update."""
    x = list(np.arange(1.0, len(valid) + 1))
    return Curves(
        train_loss=Series.of(train, x), val_loss=Series.of(valid, x), length=float(len(valid)),
        trivial_loss=math.log(classes), config={**config, "schedule": "constant"}, unit="step",
        learning_rate=Series.of([config["learning_rate"]] * len(valid), x),
    )  # fmt: skip


def ended_at(whole: Curves) -> int:
    """Evaluations until the training is ended; all of them where it never is."""
    assert whole.val_loss is not None
    assert whole.length is not None
    n = len(whole.val_loss)
    return next((k for k in range(1, n) if hopeless(whole.prefix(k / whole.length + 1e-9))), n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("taskset")
    parser.add_argument("--trials", type=int, default=30, help="configurations in a simulated study")
    given = parser.parse_args()
    rng, total = np.random.default_rng(0), []
    for task, (configs, train, valid) in load(given.taskset).items():
        ends = np.array([ended_at(curves(c, t, v)) for c, t, v in zip(configs, train, valid)])
        n = valid.shape[1]
        best = np.where(np.isfinite(valid), valid, np.inf).min(1)
        kept = np.array([np.min(np.where(np.isfinite(v[:e]), v[:e], np.inf)) for v, e in zip(valid, ends)])
        usual = np.array([abs(math.log10(c["learning_rate"] / 1e-3)) <= 1.0 for c in configs])
        loss, regret = [], []
        for _ in range(1000):  # studies of a few trials, drawn at random
            drawn = rng.choice(len(configs), given.trials, replace=False)
            gained = math.log(2) - best[drawn].min()
            regret.append((kept[drawn].min() - best[drawn].min()) / (math.log(2) - best.min()))
            loss.append((kept[drawn].min() - best[drawn].min()) / gained if gained > 0.005 else 0.0)
        top = np.argsort(best)[:10]
        row = {
            "task": task, "saved": float(1.0 - ends.sum() / (n * len(ends))),
            "saved_of_usual_rates": float(1.0 - ends[usual].sum() / (n * usual.sum())), "ended": float((ends <
            n).mean()), "best_lost_percent": 100.0 * float((kept.min() - best.min()) / (math.log(2) - best.min())),
            "study_lost_percent": 100.0 * float(np.mean(loss)),
            "study_regret_percent": 100.0 * float(np.mean(regret)), "top10_ended": int((ends[top] < n).sum()),
        }  # fmt: skip
        total.append(row)
        print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}), flush=True)
    mean = {k: round(float(np.mean([row[k] for row in total])), 4) for k in total[0] if k != "task"}
    print(json.dumps({"mean": mean}))


if __name__ == "__main__":
    main()
