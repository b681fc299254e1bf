"""What is asked: the space, the objective, the length of a training, the budget and the seed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal

from luthier.core.errors import UserError, whole
from luthier.core.params import Config
from luthier.core.space import Space
from luthier.core.words import epochs

Reduce = Literal["best", "last"]


@dataclass(frozen=True, slots=True)
class Objective:
    """The view of the reports by which trials are judged.

    Args:
        metric: the name under which it is reported.
        minimize: whether smaller is better.
        reduce: the ``"best"`` epoch counts (the weights of that epoch are what one keeps), or the ``"last"``.
    """

    metric: str
    minimize: bool
    reduce: Reduce = "best"

    @property
    def direction(self) -> str:
        """``minimize`` or ``maximize``."""
        return "minimize" if self.minimize else "maximize"

    def loss(self, score: float) -> float:
        """``score`` turned so that smaller is better; a score that is not finite is infinitely bad."""
        if not math.isfinite(score):
            return math.inf
        return score if self.minimize else -score

    def score(self, loss: float) -> float:
        """The inverse of :meth:`loss`."""
        return loss if self.minimize else -loss

    def gain(self, new: float, old: float) -> float:
        """How much better the score ``new`` is than ``old``; positive is better."""
        return self.loss(old) - self.loss(new)


@dataclass(frozen=True, slots=True)
class Constraint:
    """A bound on a reported metric: ``latency_ms <= 20``.

    Args:
        metric: the name under which it is reported.
        bound: the largest value allowed, the smallest with ``upper=False``; finite.
        upper: whether values above the bound break it.
    """

    metric: str
    bound: float
    upper: bool = True

    @classmethod
    def parse(cls, metric: str, text: object) -> Constraint:
        """Read ``"<= 20"`` or ``">= 0.9"``.

        Raises:
            UserError: anything else, or a bound that is not finite.
        """
        if not isinstance(metric, str) or not metric.strip():
            raise UserError(f"A constraint's metric must be a non-empty string, got {metric!r}.")
        mend = f'Write constraints={{{metric!r}: "<= 20"}} or ">= 20" (--constraint "{metric} <= 20").'
        if not isinstance(text, str):
            raise UserError(f"The constraint on {metric!r} is {text!r}, which says no direction.", mend)
        found = re.fullmatch(r"\s*(<=|>=)\s*(\S+)\s*", text)
        if not found:
            raise UserError(f"The constraint {text!r} on {metric!r} cannot be read.", mend)
        try:
            bound = float(found[2])
        except ValueError:
            raise UserError(f"The bound {found[2]!r} on {metric!r} is no number.", mend) from None
        if not math.isfinite(bound):
            raise UserError(f"The bound {found[2]!r} on {metric!r} is not finite.", mend)
        return cls(metric, bound, found[1] == "<=")

    def excess(self, value: float) -> float:
        """How far ``value`` lies beyond the bound, as a part of it (of 1 where it is 0); negative within it."""
        if not math.isfinite(value):
            return math.inf
        beyond = value - self.bound if self.upper else self.bound - value
        return beyond / (abs(self.bound) or 1.0)

    def __str__(self) -> str:
        return f"{self.metric} {'<=' if self.upper else '>='} {self.bound:.12g}"


@dataclass(frozen=True, slots=True)
class Goals:
    """What trials are judged by: at least one objective, the first of which leads, and the constraints."""

    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()

    @property
    def first(self) -> Objective:
        """The objective that names the epoch that counts and the configuration to keep."""
        return self.objectives[0]

    @property
    def metrics(self) -> tuple[str, ...]:
        """What every training has to report: the objectives', then the constraints' metrics."""
        return tuple(dict.fromkeys([*(o.metric for o in self.objectives), *(c.metric for c in self.constraints)]))

    def __hash__(self) -> int:
        return hash(self.objectives[0].metric)  # asked for with every look at a ranking, and enough

    def __str__(self) -> str:
        aims = " and ".join(f"{o.direction} {o.metric}" for o in self.objectives)
        return aims + (f", with {' and '.join(map(str, self.constraints))}" if self.constraints else "")


_UNITS = {"s": 1.0, "sec": 1.0, "second": 1.0, "min": 60.0, "m": 60.0, "minute": 60.0, "h": 3600.0, "hour": 3600.0,
          "d": 86400.0, "day": 86400.0}  # fmt: skip
_PART = r"((?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.\d*)?(?:e\+?\d+)?|\.\d+)\s*([a-z]*)"
_MEND = 'Write "40 trials", "600 epochs" or "2h".'
_BETWEEN = r"(?:\s*,\s+|\s+and\s+|\s+|(?<=[a-z]))"


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent: epochs of training over all trials, seconds of wall-clock time, or neither bound.

    A budget in trials is counted in full-length trainings: ``"40 trials"`` of 30 epochs are 1,200 epochs, however many
    trials a method makes of them.

    Args:
        epochs: at least 1; None without a bound.
        seconds: above 0; None without a bound.
        given: somebody asked for it; one that nobody asked for does not replace that of a stored study.
    """

    epochs: int | None = None
    seconds: float | None = None
    given: bool = field(default=True, repr=False, compare=False)

    @classmethod
    def parse(cls, text: str | int | float | Budget | None, max_epochs: int) -> Budget:
        """Read ``"40 trials"``, ``"1,200 epochs"``, ``"90 min"``, ``"1h30m"``, ``"40 trials and 2h"``; a bare number
        counts trials.

        Raises:
            UserError: for anything else, and for a budget of which a part leaves nothing to spend.
        """
        if text is None:
            return cls(given=False)
        if isinstance(text, Budget):
            return text._checked()
        parts = [(float(text), "trial")] if _number(text) else _parts(text)
        epochs = [amount * (max_epochs if unit == "trial" else 1) for amount, unit in parts if unit not in _UNITS]
        seconds = [amount * _UNITS[unit] for amount, unit in parts if unit in _UNITS]
        if not math.isfinite(sum(epochs + seconds)) or (epochs and sum(epochs) < 1) or (seconds and sum(seconds) <= 0):
            raise UserError(f"The budget {text!r} leaves nothing to spend.", f"Allow at least one epoch. {_MEND}")
        return cls(int(sum(epochs)) if epochs else None, sum(seconds) if seconds else None)

    def _checked(self) -> Budget:
        epochs = None if self.epochs is None else whole("epochs", self.epochs, 1)
        if self.seconds is not None and not (_number(self.seconds) and 0 < self.seconds < math.inf):
            raise UserError(f"seconds must be a number above 0, got {self.seconds!r}.", "Write seconds=3600.")
        return Budget(epochs, None if self.seconds is None else float(self.seconds), self.given)

    def __str__(self) -> str:
        parts = [epochs(self.epochs)] if self.epochs else []
        parts += [f"{self.seconds:,.0f} s"] if self.seconds else []
        return " and ".join(parts) or "no limit"


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _parts(text: object) -> list[tuple[float, str]]:
    """The amounts of a budget's text and their units: ``trial``, ``epoch`` or one of the times."""
    said = str(text).strip().lower()
    found = re.findall(_PART, said)
    if not re.fullmatch(f"{_PART}(?:{_BETWEEN}{_PART})*", said) or (len(found) > 1 and any(not u for _, u in found)):
        raise UserError(f"The budget {text!r} cannot be read.", _MEND)
    parts = []
    for number, unit in found:
        name = unit if unit in _UNITS or len(unit) < 3 else unit.removesuffix("s")
        name = "trial" if name in ("training", "run", "") else name
        if name not in ("trial", "epoch", *_UNITS):
            raise UserError(f"The budget {text!r} has an unknown unit {unit!r}.", _MEND)
        parts.append((float(number.replace(",", "")), name))
    return parts


@dataclass(frozen=True, slots=True)
class Study:
    """Everything that was asked; the first event of a log.

    Args:
        name: names the study inside its storage.
        space: the search space.
        objective: metric, direction, best or last epoch; the first of several.
        max_epochs: the length of a full training.
        budget: what may be spent.
        seed: the study's seed; every decision's generator derives from it.
        strategy: the name of a built-in strategy, or ``"custom"`` for an object.
        target: how to find the training function again (plain data), if it can be found.
        probes: what the target can answer besides training (``"sanity"``, ``"lr_range"``).
        also: the further objectives.
        constraints: what a trial must keep to be feasible.
        samples: how many samples a training epoch has, where that is known.
        earlier: what did best in earlier studies, best first: configurations of this space.
    """

    name: str
    space: Space
    objective: Objective
    max_epochs: int
    budget: Budget = field(default_factory=Budget)
    seed: int = 0
    strategy: str = "playbook"
    target: Mapping[str, Any] | None = None
    probes: Sequence[str] = ()
    also: tuple[Objective, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    samples: int | None = None
    earlier: tuple[Config, ...] = ()

    goals: Goals = field(init=False, repr=False, compare=False)
    """All objectives, the first of which leads, and the constraints."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "goals", Goals((self.objective, *self.also), self.constraints))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the log."""
        return {
            "name": self.name,
            "space": self.space.to_dict(),
            "metric": self.objective.metric,
            "direction": self.objective.direction,
            "reduce": self.objective.reduce,
            "max_epochs": self.max_epochs,
            "budget": {"epochs": self.budget.epochs, "seconds": self.budget.seconds},
            "seed": self.seed,
            "strategy": self.strategy,
            "target": dict(self.target) if self.target is not None else None,
            "probes": list(self.probes),
            "also": [{"metric": o.metric, "direction": o.direction} for o in self.also],
            "constraints": [{"metric": c.metric, "bound": c.bound, "upper": c.upper} for c in self.constraints],
            "samples": self.samples,
            "earlier": [dict(c) for c in self.earlier],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Study:
        """The inverse of :meth:`to_dict`."""
        return cls(
            name=data["name"],
            space=Space.from_dict(data["space"]),
            objective=Objective(data["metric"], data["direction"] == "minimize", data["reduce"]),
            max_epochs=data["max_epochs"],
            budget=Budget(**data["budget"]),
            seed=data["seed"],
            strategy=data["strategy"],
            target=data["target"],
            probes=tuple(data["probes"]),
            # Logs of older versions know one objective and no constraints.
            also=tuple(
                Objective(o["metric"], o["direction"] == "minimize", data["reduce"]) for o in data.get("also", ())
            ),
            constraints=tuple(Constraint(**c) for c in data.get("constraints", ())),
            samples=data.get("samples"),
            earlier=tuple(data.get("earlier", ())),
        )
