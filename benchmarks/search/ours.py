"""Luthier's strategies, by ask and tell, as somebody would use them whose training lives elsewhere.

A job's seed and horizon are respected: a strategy may ask for a short training whose schedule decays over its own
length, or for the same seed twice. Each report holds the training and the validation loss beside the task's metric.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import luthier as lt
from luthier.knowledge import prior_center, role_of
from search.session import Session, Training
from search.task import Config

OFF_BY = 2.5
"""Decades by which the bad prior misses the learning rate's usual place."""


@dataclass(frozen=True, slots=True)
class View:
    """A task's space as a strategy is shown it.

    Args:
        space: what the strategy searches.
        names: the task's name of each of its hyperparameters.
    """

    space: lt.Space
    names: Mapping[str, str]

    def back(self, config: Config) -> dict[str, object]:
        """The task's configuration."""
        return {self.names[name]: value for name, value in config.items()}


def plain(session: Session) -> View:
    """As it is."""
    return View(session.space, {name: name for name in session.space})


def nameless(session: Session) -> View:
    """Without a prior: names that say nothing, so that nothing is known of any hyperparameter."""
    names = {f"x{i}": name for i, name in enumerate(session.space)}
    return View(lt.Space({x: session.space[name] for x, name in names.items()}), names)


def misled(session: Session) -> View:
    """With a bad prior: the learning rate said to be best 2.5 decades off, upwards in even runs, else downwards."""
    params = dict(session.space)
    for name, param in params.items():
        role = role_of(name, param)
        if role is not None and role.name == "learning_rate" and isinstance(param, lt.Float):
            center = prior_center(session.space, name) or math.sqrt(param.low * param.high)
            wrong = center * 10 ** (OFF_BY if session.number % 2 == 0 else -OFF_BY)
            params[name] = replace(param, default=min(max(wrong, param.low), param.high))
    return View(lt.Space(params), {name: name for name in params})


def strategy(name: str, view: Callable[[Session], View] = plain) -> Callable[[Session], None]:
    """The method that follows one of ``luthier.strategies``."""

    def method(session: Session) -> None:
        seen = view(session)
        study = lt.AskTell(
            seen.space, minimize=session.task.metric, max_epochs=session.epochs, budget=f"{session.trials} trials",
            strategy=name, seed=session.seed,
        )  # fmt: skip
        trainings: dict[int, Training] = {}
        while job := study.ask():
            if job.trial not in trainings:
                trainings[job.trial] = session.start(seen.back(job.config), seed=job.seed, horizon=job.horizon)
            training = trainings[job.trial]
            while training.epoch < job.until:
                training.step()
                if study.tell(job, training.epoch, training.metrics) == "stop":
                    break

    return method
