"""Luthier's strategies, by ask and tell, as somebody would use them whose training lives elsewhere.

A job's seed and horizon are respected: a strategy may ask for a short training whose schedule decays over its own
length, or for the same seed twice. Each report holds the training and the validation loss beside the task's metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import luthier as lt
from luthier.contracts import Scheduler
from luthier.expert import Expert
from luthier.knowledge import find, prior_center
from luthier.strategies import STRATEGIES
from search.session import Session, Training
from search.task import Config

OFF_BY = 2.5
"""Decades by which a bad prior misses the usual learning rate: upwards in even runs, downwards in odd ones."""
SPREAD = 0.5
"""Decades that the bad prior is sure of its center to."""


@dataclass(frozen=True, slots=True)
class View:
    """What a strategy is shown of a task.

    Args:
        space: what it searches.
        strategy: its name, or itself.
        names: the task's names of hyperparameters that are shown under another.
        factors: what a value is to be multiplied by, before it is the task's.
    """

    space: lt.Space
    strategy: str | Scheduler
    names: Mapping[str, str] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)

    def back(self, config: Config) -> dict[str, object]:
        """The task's configuration."""
        return {
            self.names.get(n, n): float(str(v)) * self.factors[n] if n in self.factors else v for n, v in config.items()
        }


def plain(name: str) -> Callable[[Session], View]:
    """The space as it is."""
    return lambda session: View(session.space, name)


def nameless(name: str) -> Callable[[Session], View]:
    """Names that say nothing, so that no role is known."""

    def show(session: Session) -> View:
        names = {f"x{i}": n for i, n in enumerate(session.space)}
        return View(lt.Space({x: session.space[n] for x, n in names.items()}), name, names)

    return show


def misled(session: Session) -> View:
    """The expert, told by its user that the learning rate is best 2.5 decades from where it usually is."""
    rate, center = _rate(session)
    if rate is None:
        return View(session.space, Expert())
    return View(session.space, Expert(centers={rate: (center * 10 ** _off(session), SPREAD)}))


def misdefaulted(name: str) -> Callable[[Session], View]:
    """A default of the learning rate that is 2.5 decades off, where a strategy can be told nothing else."""

    def show(session: Session) -> View:
        rate, center = _rate(session)
        if rate is None:
            return View(session.space, name)
        param = session.space[rate]
        assert isinstance(param, lt.Float)
        wrong = min(max(center * 10 ** _off(session), param.low), param.high)
        return View(lt.Space({**session.space, rate: replace(param, default=wrong)}), name)

    return show


def mistaken(name: str) -> Callable[[Session], View]:
    """A learning rate in units of 10^2.5 or 10^-2.5, so that what is known of learning rates is wrong by as much."""

    def show(session: Session) -> View:
        rate, _ = _rate(session)
        if rate is None:
            return View(session.space, name)
        param = session.space[rate]
        assert isinstance(param, lt.Float)
        factor = 10 ** _off(session)
        shown = lt.Float(param.low / factor, param.high / factor, log=param.log)
        return View(lt.Space({**session.space, rate: shown}), name, factors={rate: factor})

    return show


def _rate(session: Session) -> tuple[str | None, float]:
    """The name of the learning rate, if there is one, and where it usually is best."""
    rate = find(session.space, "learning_rate")
    center = prior_center(session.space, rate) if rate is not None else None
    return (None, 0.0) if center is None else (rate, center)


def _off(session: Session) -> float:
    return OFF_BY if session.number % 2 == 0 else -OFF_BY


def strategy(show: Callable[[Session], View]) -> Callable[[Session], None]:
    """The method that follows a strategy of Luthier's."""

    def method(session: Session) -> None:
        view = show(session)
        study = lt.AskTell(
            view.space, minimize=session.task.metric, max_epochs=session.epochs, budget=f"{session.trials} trials",
            strategy=view.strategy, seed=session.seed,
        )  # fmt: skip
        trainings: dict[int, Training] = {}
        while job := study.ask():
            if job.trial not in trainings:
                trainings[job.trial] = session.start(view.back(job.config), seed=job.seed, horizon=job.horizon)
            training = trainings[job.trial]
            while training.epoch < job.until:
                training.step()
                if study.tell(job, training.epoch, training.metrics) == "stop":
                    break

    return method


OURS: dict[str, Callable[[Session], None]] = {
    **{name: strategy(plain(name)) for name in STRATEGIES if name != "grid"},
    "expert_badprior": strategy(misled),
    "expert_badroles": strategy(mistaken("expert")),
    "expert_noprior": strategy(nameless("expert")),
    "playbook_badprior": strategy(misdefaulted("playbook")),
    "playbook_noprior": strategy(nameless("playbook")),
}
"""By name. ``badprior``: the user is wrong; ``badroles``: the knowledge base is; ``noprior``: nobody knows anything."""
