from __future__ import annotations

import math
import random

from luthier.core import events as ev
from luthier.core.history import Entry, History, fold
from luthier.core.params import Choice, Constant, Float, Int
from luthier.core.space import Space
from luthier.core.study import Budget, Objective, Study
from luthier.core.summary import CONFIRM

#C

HOSTILE = "</script><script>alert(1)"
SPACE = Space(
    learning_rate=Float(1e-5, 1e-1, log=True),
    weight_decay=Float(1e-6, 1e-1, log=True),
    batch_size=Int(16, 512, log=True),
    optimizer=Choice("adamw", "sgd"),
    momentum=Float(0.8, 0.99, when={"optimizer": "sgd"}),
    schedule=Choice("constant", "cosine", "linear"),
    warmup=Float(0.0, 0.2),
    dropout=Float(0.0, 0.5),
    activation=Constant("gelu"),
)
DEFAULT = {
    "learning_rate": 0.001, "weight_decay": 0.01, "batch_size": 128, "optimizer": "adamw", "schedule": "constant",
    "warmup": 0.0, "dropout": 0.1, "activation": "gelu",
}  # fmt: skip


class Log:
    """Writes a log of literal events, ten seconds apart."""

    def __init__(self, study: Study) -> None:
        self.entries: list[Entry] = []
        self.trials = 0
        self.rng = random.Random(7)
        self.add(ev.Created(study), ev.Opened("0.1.0"))

    def add(self, *events: ev.Event) -> None:
        for event in events:
            self.entries.append(Entry(1.7e9 + 10.0 * len(self.entries), event))

    @property
    def events(self) -> list[ev.Event]:
        return [e.event for e in self.entries]

    def history(self) -> History:
        return fold(self.entries)

    def start(self, config=DEFAULT, *, until=20, why="to see", **more) -> int:
        self.add(ev.Started(self.trials, dict(config), 100 + self.trials, until, 20, why, **more))
        self.trials += 1
        return self.trials - 1

    def train(self, trial: int, top: float, begin=1, until=20, pace=4.0) -> None:
        for epoch in range(begin, until + 1):
            grown = 1 - math.exp(-epoch / pace)
            acc = 0.1 + (top - 0.1) * grown + self.rng.gauss(0, 0.002)
            train = 2.3 * math.exp(-epoch / pace) + 0.02 + self.rng.gauss(0, 0.002)
            val = 2.3 * (1 - grown) + 2 * (1 - top) + 0.002 * epoch + self.rng.gauss(0, 0.004)
            metrics = {"train_loss": train, "val_loss": val, "train_accuracy": min(acc + 0.012 * grown, 1), "val_accuracy": acc}
            self.add(ev.Reported(trial, epoch, {k: round(v, 5) for k, v in metrics.items()}, 1.0))

    def run(self, config=DEFAULT, top=0.95, **more) -> int:
        trial = self.start(config, **more)
        self.train(trial, top)
        self.add(ev.Ended(trial, 20, checkpoint="a.ckpt"))
        return trial


def study(strategy="playbook", name="digits", minimize=False, epochs: int | None = 800) -> Study:
    objective = Objective("val_loss", True) if minimize else Objective("val_accuracy", False)
    return Study(name, SPACE, objective, 20, Budget(epochs=epochs), seed=3, strategy=strategy)


def playbook_log(better=True, confirm=True, probability=0.999) -> Log:
    log = Log(study())
    log.add(ev.StageOpened("sanity", "A broken pipeline cannot be tuned: first look whether the model can learn at all."))
    probe = log.start(probe="sanity", why="Overfit one batch.")
    log.add(
        ev.Ended(probe, 0, answer={"initial_loss": 2.31, "expected": 2.303, "overfits": True}, cost=0.5),
        ev.StageClosed("sanity", "Sound: the initial loss 2.31 is that of a guess (2.30) and one batch is learned by heart.",
                       "Overfit of one batch in 40 steps."),
        ev.StageOpened("lr_range", "The learning rate matters most, and a short sweep narrows it for the price of two epochs."),
    )  # fmt: skip
    test = log.start(probe="lr_range", why="Sweep the learning rate over six decades, twice.")
    lrs = [10 ** (-6 + 6 * i / 79) for i in range(80)]

    def swept(shift: float) -> list[float]:
        return [
            2.3 - 1.6 / (1 + math.exp(-3 * (math.log10(lr) + 3.1 + shift))) + log.rng.gauss(0, 0.02)
            + (math.exp(5 * (math.log10(lr) + 1.2)) if lr > 0.02 else 0)
            for lr in lrs
        ]  # fmt: skip

    answer = {"lrs": lrs, "losses": [swept(0.0), [*swept(0.15)[:-1], "nan"], swept(-0.1)]}
    log.add(
        ev.Ended(test, 0, answer=answer, cost=2.0),
        ev.StageClosed("lr_range", "Steepest near 1.2e-3; unstable beyond 4e-2.", "Three repeats agree within a factor of 1.6.",
                       numbers={"center": 1.2e-3, "upper": 4e-2, "confidence": 0.8}),
        ev.StageOpened("learning rate", "Learning rate and weight decay first, the rest at the strong default."),
    )  # fmt: skip
    log.run(top=0.962, why="The strong default, to have something to beat.")
    for i, (lr, wd) in enumerate([(3e-4, 0.01), (3e-3, 0.02), (0.01, 0.003), (1.5e-3, 0.05), (6e-4, 0.001), (4e-3, 0.1)]):
        fall = 0.018 * abs(math.log10(lr / 2.5e-3)) ** 1.5
        config = {**DEFAULT, "learning_rate": lr, "weight_decay": wd}
        if i == 2:
            bad = log.start(config, why="Sobol point 3 of the narrowed range.")
            log.train(bad, 0.80, until=5)
            log.add(ev.Stopped(bad, 5, "Its validation loss rises while the others fall; cannot catch up (3 findings)."))
        elif i == 5:
            halted = log.start(config, until=8, why="Sobol point 6 of the narrowed range.")
            log.train(halted, 0.955 - fall, until=8)
            log.add(ev.Ended(halted, 8, checkpoint="b.ckpt"))
        else:
            log.run(config, 0.975 - fall, why=f"Sobol point {i + 1} of the narrowed range.")
    crashed = log.start({**DEFAULT, "learning_rate": 0.002, "batch_size": 512}, why="The largest batch that may fit.")
    trace = "Traceback (most recent call last):\n" + "".join(
        f'  File "train.py", line {i}, in step\n    loss.backward()\n' for i in range(8)
    )
    log.add(
        ev.Failed(crashed, "raised", "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
                  trace + "OutOfMemoryError: CUDA out of memory."),
        ev.StageClosed("learning rate", "learning_rate 0.003 beats the default's 0.001 by 0.0102 on one seed.",
                       "7 trials; the second best lies 0.004 below.", settled={"learning_rate": 0.003, "weight_decay": 0.02}),
        ev.StageOpened("schedule", "With the rate settled: does decaying it help, and is a warm-up worth it?"),
    )  # fmt: skip
    best = {**DEFAULT, "learning_rate": 0.003, "weight_decay": 0.02}
    for schedule, warmup, top in [("cosine", 0.0, 0.978), ("cosine", 0.05, 0.981), ("linear", 0.05, 0.977), ("constant", 0.1, 0.972)]:
        log.run({**best, "schedule": schedule, "warmup": warmup}, top, why=f"{schedule} decay with a warm-up of {warmup:.0%}.")
    diverged = log.start({**best, "schedule": "cosine", "learning_rate": 0.05}, why="The edge of the range.")
    log.train(diverged, 0.5, until=2)
    log.add(
        ev.Reported(diverged, 3, {"train_loss": math.nan, "val_loss": math.inf, "val_accuracy": 0.1}),
        ev.Failed(diverged, "nonfinite", "train_loss became nan in epoch 3"),
        ev.StageClosed("schedule", "Cosine decay with 5 % warm-up gains 0.0060.", "4 trials on one seed.",
                       settled={"schedule": "cosine", "warmup": 0.05}),
        ev.StageOpened("dropout", "More regularization, if the winner overfits."),
        ev.StageClosed("dropout", "Not needed.", "The winner's gap between training and validation is 0.012, within noise.",
                       skipped=True),
    )  # fmt: skip
    if confirm:
        log.add(ev.StageOpened(CONFIRM, "The best of many is lucky: winner and default again, on fresh seeds."))
        winner = {**best, "schedule": "cosine", "warmup": 0.05}
        tops = [(0.9805, 0.9690), (0.9821, 0.9725), (0.9835, 0.9702), (0.9790, 0.9665), (0.9809, 0.9728)]
        if not better:
            tops = [(a - 0.0105, b) for a, b in tops]
        for new, old in tops:
            log.run(winner, new, why="Winner on a fresh seed.", notes={"arm": "winner"})
            log.run(DEFAULT, old, why="Default on the same seed.", notes={"arm": "default"})
        low, high = (0.0083, 0.0137) if better else (-0.0021, 0.0032)
        gain = 0.0110 if better else 0.0005
        news, olds = [a for a, _ in tops], [b for _, b in tops]
        arm = {"winner": {"config": winner, "scores": news, "mean": sum(news) / 5, "sd": 0.0017},
               "default": {"config": DEFAULT, "scores": olds, "mean": sum(olds) / 5, "sd": 0.0026}}  # fmt: skip
        log.add(
            ev.StageClosed(CONFIRM, "The winner is better on all five seeds.", "Student's t on five paired differences.",
                           numbers={**arm, "seeds": [11, 12, 13, 14, 15], "gain": gain, "interval": [low, high],
                                    "probability": probability if better else 0.7, "better": better}),
            ev.Finished("The playbook is through."),
        )  # fmt: skip
    return log


def random_log(trials: int, minimize=False, epochs: int | None = 800) -> Log:
    log = Log(study("random", minimize=minimize, epochs=epochs))
    for i in range(trials):
        config = SPACE.sample(log.rng)
        fall = 0.05 * abs(math.log10(config["learning_rate"] / 2e-3)) ** 1.4
        if i % 13 == 12:
            log.add(ev.Started(log.trials, config, i, 20, 20, "drawn at random"), ev.Failed(log.trials, "died", "exit code -9", "x" * 9_000))
            log.trials += 1
        else:
            log.run(config, max(0.12, 0.98 - fall - abs(log.rng.gauss(0, 0.01))), why="drawn at random")
    return log


def empty_log() -> Log:
    return Log(study("random", name="nothing yet"))
