"""Where good configurations lie before anything was tried: a distribution over a space, made from the roles.

A prior is a marginal for each hyperparameter, parents first: the rate's depends on the optimizer and the batch size,
all of them on how long a whole training is. A search draws from it (:meth:`Prior.sample`) and weighs proposals by it
(:meth:`Prior.log_density`).

A short training is starved of updates: it wants smaller batches, shorter contexts, higher rates, more width and less
depth, momentum and regularization than textbooks say, whose numbers come from long trainings. An update of Adam moves a
weight by about the rate, so that as long a way in fewer updates takes a larger one. How far each center moves was
measured by us on small trainings of 70 to 4,000 updates; it is a direction, not a law.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol, final

import numpy as np

from luthier.core.errors import SpaceError, nearest
from luthier.core.params import Choice, Config, Constant, Float, Int, Value
from luthier.core.space import Space
from luthier.knowledge.defaults import setting_of
from luthier.knowledge.roles import Role, Setting, family, find, kin, role_of

TAIL = 0.1
"""The part of every marginal that is uniform: a prior may be wrong. Our choice."""
VAGUE = 0.25
"""The standard deviation on the unit scale around a default of which nothing else is known. Our choice."""
FLAT = 0.3
"""What a standard deviation is on the unit scale where nothing is known. Our choice."""
LARGE, LARGER = (0.6, 0.3), (1.0, 0.25)
"""Center and spread of a capacity on the unit scale: of a long training, and of a starved one. Our choice."""
SHALLOWER = (0.4, 0.3)
"""The same of the depth of a starved training. Measured by us on the nine live tasks of docs/benchmarks.md that have
one: the median of the best 24 configurations lay at 0.17 to 0.5 on seven of them, and of the width at 0.96 or more."""
SHORTER = (0.15, 0.25)
"""The same of the context of a starved training: as many tokens in shorter windows make more updates. Measured by us on
a byte-level transformer of 800 updates: 2.01 nats a byte with windows of 20, 2.07 with 32, 2.33 with 64."""
PREFERENCE = 0.5
"""The odds of a choice against the one preferred before it."""
ENOUGH = 4000.0
"""Updates from which a training is long: the textbook's centers hold."""
SAMPLES = 4000
"""Training samples that are supposed where nobody said how many there are. Our choice: who tunes short trainings has
small data, and with 150 epochs or more the guess is without effect."""
LONG = 10**9
"""Epochs of a training that lacks no update."""
REFERENCE = 64.0
"""The batch size at which the rates' centers are meant."""
STARVED: Mapping[str, float] = {"learning_rate": 0.8, "weight_decay": -1.0}
"""Decades that a center moves by for each decade of missing updates; half of it for a rate outside the Adam family."""
AVERAGED = 0.3
"""Decades that Adam's 1 - beta1 grows by for each decade of missing updates: what is averaged over has to be short
against the training. Measured on the same tasks, whose best had 0.75 where few updates were made."""
BATCH_POWER = 0.9
"""The exponent with which the batch's center falls with missing updates."""
WITHHELD = frozenset({"dropout", "drop_path", "augmentation", "mixup", "cutmix", "random_erasing"})
"""What makes the training harder than the validation: none of it where ten times the updates are missing."""
SPIKE = 0.02
"""The width on the unit scale that the weight on exactly zero is spread over where a density is asked for."""


class Marginal(Protocol):
    """The distribution of one hyperparameter's searched value."""

    def sample(self, rng: np.random.Generator) -> Value:
        """A draw."""
        ...

    def density(self, value: Value) -> float:
        """The density on the unit scale: 1 everywhere would be uniform."""
        ...

    @property
    def mode(self) -> Value:
        """The most likely value."""
        ...


@final
@dataclass(frozen=True, slots=True)
class Hill:
    """A normal over a numeric hyperparameter, cut off at its range, with a uniform part and perhaps weight on zero.

    Args:
        param: the hyperparameter.
        center, spread: in the coordinates of ``scale``.
        scale: ``"unit"``, ``"log"`` (decades), ``"complement"`` (decades of 1 - x) or ``"plain"``.
        off: the probability of exactly the lower end, where that means that it is not used.
        tail: the part that is uniform.
    """

    param: Float | Int
    center: float
    spread: float
    scale: str = "unit"
    off: float = 0.0
    tail: float = TAIL

    def sample(self, rng: np.random.Generator) -> Value:
        """A draw."""
        kind, u, z = rng.random(), rng.random(), rng.standard_normal()
        if kind < self.tail:
            return self.param.from_unit(float(u))
        if kind < self.tail + (1.0 - self.tail) * self.off:
            return self.param.from_unit(0.0)
        low, high = self._edges()
        for _ in range(20):
            x = self.center + self.spread * float(z)
            if low <= x <= high:
                return self._value(x)
            z = rng.standard_normal()
        return self._value(min(max(self.center, low), high))

    def density(self, value: Value) -> float:
        """The density on the unit scale."""
        at = float(str(value))
        low, high = self._edges()
        whole = _phi((high - self.center) / self.spread) - _phi((low - self.center) / self.spread)
        t = (self._coordinate(at) - self.center) / self.spread
        bell = math.exp(-0.5 * t * t) / (self.spread * math.sqrt(2.0 * math.pi)) / max(whole, 1e-6)
        spike = self.off / SPIKE if self.off and self.param.to_unit(at) <= SPIKE else 0.0
        return self.tail + (1.0 - self.tail) * ((1.0 - self.off) * bell * self._slope(at) + spike)

    def standard(self, value: Value) -> float:
        """``value`` in standard deviations from the center; of a flat scale in 0.3 of it."""
        if self.tail >= 1.0:
            return (self.param.to_unit(value) - 0.5) / FLAT
        return (self._coordinate(float(str(value))) - self.center) / self.spread

    def shifted(self, value: Value, steps: float, of_spread: float, of_range: float) -> Value:
        """``value`` moved by ``steps`` of ``of_spread`` standard deviations; of ``of_range`` of a scale that is flat.

        A whole number moves by one at least.
        """
        if self.tail >= 1.0:
            at = self.param.to_unit(value) + steps * of_range
            new: Value = self.param.from_unit(min(max(at, 0.0), 1.0))
        else:
            low, high = self._edges()
            at = self._coordinate(float(str(value))) + steps * of_spread * self.spread
            new = self._value(min(max(at, low), high))
        if isinstance(self.param, Int) and new == value:
            new = min(max(int(str(value)) + (1 if steps > 0 else -1), self.param.low), self.param.high)
        return new

    @property
    def mode(self) -> Value:
        """The center, moved into the range; the lower end where it is most likely that it is not used."""
        if self.off > 0.5:
            return self.param.from_unit(0.0)
        low, high = self._edges()
        return self._value(min(max(self.center, low), high))

    def _edges(self) -> tuple[float, float]:
        ends = self._coordinate(self.param.low), self._coordinate(self.param.high)
        return min(ends), max(ends)

    def _coordinate(self, value: float) -> float:
        if self.scale == "log":
            return math.log10(max(value, 1e-300))
        if self.scale == "complement":
            return math.log10(max(1.0 - value, 1e-12))
        return value if self.scale == "plain" else self.param.to_unit(value)

    def _value(self, x: float) -> Value:
        if self.scale == "unit":
            return self.param.from_unit(min(max(x, 0.0), 1.0))
        value = 10.0**x if self.scale == "log" else 1.0 - 10.0**x if self.scale == "complement" else x
        return self.param.from_unit(self.param.to_unit(value))

    def _slope(self, value: float) -> float:
        """How far the coordinate moves for a whole turn of the unit scale at ``value``."""
        if self.scale == "unit":
            return 1.0
        low, high = float(self.param.low), float(self.param.high)
        per_unit = value * math.log(high / low) if self.param.log else high - low
        if self.scale == "log":
            return per_unit / (max(value, 1e-300) * math.log(10.0))
        return per_unit / (max(1.0 - value, 1e-12) * math.log(10.0)) if self.scale == "complement" else per_unit


@final
@dataclass(frozen=True, slots=True)
class Odds:
    """The probabilities of the values of a choice."""

    param: Choice
    weights: tuple[float, ...]

    def sample(self, rng: np.random.Generator) -> Value:
        """A draw."""
        return self.param.choices[int(rng.choice(len(self.weights), p=self.weights))]

    def density(self, value: Value) -> float:
        """The probability against an even one."""
        at = next(i for i, c in enumerate(self.param.choices) if c == value and type(c) is type(value))
        return self.weights[at] * len(self.weights)

    @property
    def mode(self) -> Value:
        """The most likely choice, the first of equals."""
        return self.param.choices[self.weights.index(max(self.weights))]


@final
@dataclass(frozen=True, slots=True)
class Prior:
    """Where good configurations of a space lie.

    Args:
        space: the space.
        epochs: the length of a full training.
        samples: how many samples an epoch has; :data:`SAMPLES` where None.
        centers: ``name -> (center, spread)`` that replace what the roles say: the center in the hyperparameter's own
            units, the spread in decades where its scale is logarithmic, else in its units. What a range test found, or
            what a user knows better.
        known: whether the roles have a say.
        defaults: whether the space's defaults have a say, as centers.
        tail: the uniform part of each marginal.

    Raises:
        SpaceError: a center for what is not in the space, or a spread that is not above zero.
    """

    space: Space
    epochs: int = 1
    samples: int | None = None
    centers: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    known: bool = True
    defaults: bool = True
    tail: float = TAIL
    _facts: Facts = field(init=False, repr=False, compare=False)
    # Marginals are asked for by the thousand; they are functions of what is above.
    _marginals: dict[tuple[str, Value, Value], Marginal] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "_facts", _facts(self.space))
        for name, (_, spread) in self.centers.items():
            if name not in self.space:
                raise SpaceError(f"The prior has a center for {name!r}.", nearest(name, self.space))
            if not spread > 0:
                raise SpaceError(f"The prior's spread of {name!r} is {spread!r}.", "Give a spread above 0.")

    @property
    def starved(self) -> float:
        """Decades of updates that a full training lacks to be a long one, at most 1.5; 0 for a long one."""
        if not self.known:
            return 0.0
        updates = self.epochs * (self.samples or SAMPLES) / 128.0
        return min(max(math.log10(ENOUGH / updates), 0.0), 1.5)

    def sample(self, rng: np.random.Generator) -> dict[str, Value]:
        """A configuration drawn from the prior."""
        return self._through(lambda marginal: marginal.sample(rng))

    def mode(self, given: Config | None = None) -> dict[str, Value]:
        """The most likely configuration, ``given`` values held."""
        return self._through(lambda marginal: marginal.mode, given)

    def _through(self, pick: Pick, given: Config | None = None) -> dict[str, Value]:
        given = given or {}
        config: dict[str, Value] = {}
        for name in self.order:
            if not self.space.is_active(name, config):
                continue
            if name in given:
                config[name] = given[name]
                continue
            param = self.space[name]
            base = param.value if isinstance(param, Constant) else pick(self.marginal(name, config))
            config[name] = self.space.coupled(name, base, config)
        return {n: config[n] for n in self.space if n in config}

    def log_density(self, config: Config) -> float:
        """The logarithm of the density of ``config`` on the unit cube; 0 everywhere for a prior that knows nothing."""
        total, seen = 0.0, dict[str, Value]()
        for name in self.order:
            if name not in config:
                continue
            if not isinstance(self.space[name], Constant):
                total += math.log(max(self.marginal(name, seen).density(self.space.base(name, config)), 1e-12))
            seen[name] = config[name]
        return total

    @property
    def order(self) -> Sequence[str]:
        """The names, parents first, and what the rate depends on before the rate."""
        return self._facts.order

    def marginal(self, name: str, config: Config) -> Marginal:
        """The distribution of the searched value of ``name`` beside the values before it in ``config``."""
        facts = self._facts
        kind = config.get(facts.optimizer) if facts.optimizer else None
        batch = config.get(facts.batch) if facts.batch and name in facts.rates else None
        at = name, kind, batch
        known = self._marginals.get(at)
        if known is None:
            known = self._marginals[at] = self._marginal(facts, name, kind, batch)
        return known

    def _marginal(self, facts: Facts, name: str, kind: Value, batch: Value) -> Marginal:
        param = self.space[name]
        assert not isinstance(param, Constant)
        known = role_of(name, param) if self.known else None
        default = param.default if self.defaults else None
        if isinstance(param, Choice):
            return _odds(param, known, default, self.tail)
        if name in self.centers:
            center, spread = self.centers[name]
            return _bell(param, float(center), float(spread), known, self.tail)
        if known is None or not known.counts(param.role or name):
            if default is None:
                return Hill(param, 0.5, 1.0, tail=1.0)
            return Hill(param, param.to_unit(default), VAGUE, tail=self.tail)
        kind = kin(name, known, kind)
        spread = known.number("spread", kind, facts.setting) or VAGUE
        given = known.number("center", kind, facts.setting) if default is None else float(str(default))
        if given is None:
            if known.small is None:
                return Hill(param, 0.5, 1.0, tail=1.0)
            lean, starving = min(self.starved, 1.0), {"context": SHORTER, "depth": SHALLOWER}.get(known.name, LARGER)
            at, width = (a + (b - a) * lean for a, b in zip(LARGE, starving))
            return Hill(param, at, width, tail=self.tail)
        center = self._moved(known, given, kind) if default is None else given
        if known.name == "learning_rate" and default is None and not self.space.follows(name):
            center *= _for_batch(batch, kind)
        return _bell(param, center, spread, known, self.tail)

    def _moved(self, known: Role, center: float, kind: Value) -> float:
        """A role's center where updates are missing."""
        if known.name == "batch_size":
            return float(center * 10.0 ** (-BATCH_POWER * self.starved))
        if known.name in WITHHELD:
            return float(center * (1.0 - min(self.starved, 1.0)))
        adam = str(family(kind)).endswith(("adamw", "adam"))
        if known.name == "beta1" or (known.name == "momentum" and adam):
            return float(1.0 - (1.0 - center) * 10.0 ** (AVERAGED * self.starved))
        decades = STARVED.get(known.name, 0.0) * self.starved
        if known.name == "learning_rate" and not (adam or kind is None):
            decades *= 0.5
        return float(center * 10.0**decades)

    def with_center(self, name: str, center: float, spread: float) -> Prior:
        """The same prior with another center for one hyperparameter."""
        return replace(self, centers={**self.centers, name: (center, spread)})


@dataclass(frozen=True, slots=True)
class Facts:
    """What a space says once and for all."""

    order: Sequence[str]
    setting: Setting
    optimizer: str | None
    batch: str | None
    rates: Collection[str]


@lru_cache(maxsize=16)
def _facts(space: Space) -> Facts:
    optimizer, batch = (find(space, role) for role in ("optimizer", "batch_size"))
    rates = {n for n, p in space.items() if (known := role_of(n, p)) is not None and known.name == "learning_rate"}
    first = {n for n in (optimizer, batch) if n is not None and not space[n].when}
    order = sorted(space.parents_first, key=lambda n: n not in first)
    return Facts(tuple(order), setting_of(space), optimizer, batch, rates)


def _for_batch(batch: Value, kind: Value) -> float:
    """What the rate's center is multiplied by beside a batch size: it follows linearly for SGD, by the square root for
    adaptive methods."""
    if not isinstance(batch, int | float) or isinstance(batch, bool):
        return 1.0
    return float((batch / REFERENCE) ** (1.0 if family(kind) == "sgd" else 0.5))


class Pick(Protocol):
    """How a value is taken from a marginal."""

    def __call__(self, marginal: Marginal, /) -> Value:
        """A value of the marginal."""
        ...


def _bell(param: Float | Int, center: float, spread: float, known: Role | None, tail: float) -> Hill:
    """A normal around ``center`` on the scale on which the role's spread is meant."""
    if known is not None and known.complement is not None and param.high < 1.0:
        return Hill(param, math.log10(max(1.0 - center, 1e-12)), known.complement, "complement", tail=tail)
    log = known.log if known is not None else param.log
    off = known.off if known is not None and param.low == 0 else 0.0
    if log and center > 0:
        return Hill(param, math.log10(center), spread, "log", off, tail)
    return Hill(param, center, spread, "plain", off, tail)


def _odds(param: Choice, known: Role | None, default: Value, tail: float) -> Odds:
    """The preferred choice most likely, each of the others half as likely as the one before it."""
    count = len(param.choices)
    words = [str(c).lower() for c in param.choices]
    if known is not None and known.name == "optimizer":
        words = [str(family(w)) for w in words]
    rank = {w: i for i, w in enumerate(w for w in (known.prefer if known else ()) if w in words)}
    raw = [PREFERENCE ** rank.get(w, len(rank)) for w in words] if rank else [1.0] * count
    if default is not None:
        at = param.choices.index(default)
        raw[at] = max(raw) / PREFERENCE
    return Odds(param, tuple(tail / count + (1.0 - tail) * r / sum(raw) for r in raw))


def _phi(z: float) -> float:
    """The standard normal's distribution function."""
    return 0.5 * math.erfc(-z / math.sqrt(2.0))
