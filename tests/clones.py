"""What the tests of cloning and of population-based training share: literal logs and a small training."""

from __future__ import annotations

import math
import random

import luthier as lt
from luthier.core import events as ev
from luthier.core.history import Entry, fold
from luthier.core.study import Budget, Objective, Study

RATE = lt.Space(learning_rate=lt.Float(1e-5, 1e-1, log=True))


def study(space=RATE, budget=None, max_epochs=9) -> Study:
    return Study("s", space, Objective("val_loss", True), max_epochs, Budget(budget))


def valley(config, epoch):
    """A loss with its optimum at a rate of 1e-3 that falls with training."""
    return abs(math.log10(config["learning_rate"]) + 3) + 1.0 / epoch


def history_of(*events: ev.Event, **changes):
    every = (ev.Created(study(**changes)), *events)
    return fold(Entry(float(i), e) for i, e in enumerate(every))


def started(trial: int, until: int, **more) -> ev.Started:
    return ev.Started(trial, {"learning_rate": 0.01}, seed=trial, until=until, horizon=9, why="because", **more)


def trained(trial: int, start: int, until: int, loss=1.0, checkpoint="auto") -> list[ev.Event]:
    kept = f"t{trial}/{until}" if checkpoint == "auto" else checkpoint
    reports = [ev.Reported(trial, e, {"val_loss": loss}) for e in range(start + 1, until + 1)]
    return [*reports, ev.Ended(trial, until, checkpoint=kept)]


class Weights:
    """Something with a state: the sum of what every epoch added, and who added it."""

    def __init__(self):
        self.added = []

    def state_dict(self):
        return {"added": list(self.added)}

    def load_state_dict(self, state):
        self.added = list(state["added"])


def adding(trial):
    """Each epoch adds the rate and a bit of chance; the loss is the distance from 1."""
    weights = Weights()
    for _ in trial.epochs(weights=weights):
        weights.added.append(trial.config["learning_rate"] + 1e-3 * random.random())
        trial.report(val_loss=abs(1.0 - sum(weights.added)), many=len(weights.added))


def told(book, scheduler, job, loss, until=None, checkpoint="c"):
    for epoch in range(job.start + 1, (until or job.until) + 1):
        book.hear(ev.Reported(job.trial, epoch, {"val_loss": loss}), scheduler)
    if until is None:
        kept = f"{checkpoint}{job.trial}-{job.until}" if checkpoint else None
        book.hear(ev.Ended(job.trial, job.until, checkpoint=kept), scheduler)
