"""What population-based training may change while a model trains, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np

from luthier.core.errors import UserError, nearest
from luthier.core.history import History
from luthier.core.params import Choice, Config, Constant, Float, Int, Param, Value
from luthier.core.space import Space
from luthier.core.trial import TrialRecord
from luthier.knowledge import role_of

# fmt: off
MUTABLE = frozenset({
    "learning_rate", "momentum", "beta1", "beta2", "eps", "grad_clip", "weight_decay", "dropout", "label_smoothing",
    "augmentation", "rotation", "flip", "jitter", "mixup", "cutmix", "random_erasing", "ema", "l1", "max_norm", "noise",
    "focal_gamma", "focal_alpha", "smooth_l1_beta",
})
# fmt: on
"""Roles that can change in the middle of a training: rates, momenta and strengths, read anew at each update.

Left out, though numbers: whatever shapes the weights (capacity), the batches (batch size, accumulation, crops) or the
whole course (epochs, schedule, warmup, patience, fine-tuning); and stochastic depth, with whose rate above zero some
models, the recipe's CNN among them, become others.
"""

FACTORS = (0.8, 1.2)
"""Jaderberg et al. 2017 (arXiv 1711.09846), section 4.1: a hyperparameter is perturbed by one of these factors."""
RESAMPLE = 0.25
"""How often it is drawn anew instead. The paper has resampling without a number; this is Ray Tune's default."""
STEP = 0.1
"""Of a range without a log scale: what is added or taken, as part of the range. The paper's factors cannot leave zero,
where a dropout begins, and throw a momentum of 0.9 from end to end; in the middle of a range from zero the two
agree."""


class Explorer(Protocol):
    """How a copied configuration is changed."""

    @property
    def name(self) -> str:
        """What to call it in a why."""
        ...

    def explore(
        self, history: History, donor: TrialRecord, names: Sequence[str], marks: Sequence[int], rng: np.random.Generator
    ) -> Config:
        """The configuration of a clone of ``donor``, in which only ``names`` may differ.

        Args:
            marks: the epochs at which the population is compared, lowest first; the last is the end.
        """
        ...


@final
@dataclass(frozen=True, slots=True)
class Perturb:
    """Each hyperparameter by itself: multiplied by 0.8 or 1.2, or drawn anew.

    On a log scale the factor; on another scale a step of :data:`STEP`; a whole number moves by one at least; all are
    moved back into their range. A choice has no neighbours: it is drawn anew or stays.

    Args:
        factors: the two factors.
        resample: the probability that it is drawn anew from its range.
    """

    factors: tuple[float, float] = FACTORS
    resample: float = RESAMPLE

    def __post_init__(self) -> None:
        low, high = self.factors
        if not 0.0 < low < 1.0 < high:
            raise UserError(f"factors={self.factors!r} must be one below and one above 1.", "Write factors=(0.8, 1.2).")
        if not 0.0 <= self.resample <= 1.0:
            raise UserError(f"resample={self.resample!r} is no probability.", "Write resample=0.25.")

    @property
    def name(self) -> str:
        """``perturbed``."""
        return "perturbed"

    def explore(
        self, history: History, donor: TrialRecord, names: Sequence[str], marks: Sequence[int], rng: np.random.Generator
    ) -> Config:
        """The donor's configuration with each of ``names`` moved."""
        space = history.space
        return changed(space, donor.config, {n: self._moved(space, n, donor.config, rng) for n in names}, rng)

    def _moved(self, space: Space, name: str, config: Config, rng: np.random.Generator) -> Value:
        param = space[name]
        draws = rng.random(3)  # always as many, so that one hyperparameter's fate is not another's
        if name not in config or draws[0] < self.resample:
            return param.from_unit(draws[1])
        base = space.base(name, config)
        if isinstance(param, Choice | Constant):
            return base
        return moved(param, base, self.factors[int(draws[2] * 2)])


def moved(param: Float | Int, value: Value, factor: float) -> Value:
    """``value`` moved up or down as ``factor`` says, inside the range."""
    x = float(str(value))
    new = x * factor if param.log else x + (STEP if factor > 1.0 else -STEP) * (param.high - param.low)
    if isinstance(param, Int):
        step = round(new) - round(x)
        new = x + (step if step else 1 if factor > 1.0 else -1)
        return round(min(max(new, param.low), param.high))
    return float(f"{min(max(new, param.low), param.high):.12g}")


def changed(space: Space, config: Config, bases: Config, rng: np.random.Generator) -> dict[str, Value]:
    """``config`` with the searched values ``bases``; what becomes active by them is drawn."""
    drawn = {n: p.from_unit(rng.random()) for n, p in space.items()}
    return space.assemble({**drawn, **{n: space.base(n, config) for n in config}, **bases})


def mutable_of(space: Space, wanted: Sequence[str] | None, who: str) -> tuple[str, ...]:
    """The hyperparameters that may change in the middle of a training, in the order of the space.

    Args:
        wanted: those that the user names; None goes by their roles, see :data:`MUTABLE`.
        who: the strategy, for the error.

    Raises:
        UserError: there are none, or one that is named is not in the space.
    """
    if wanted is not None:
        for name in wanted:
            if name not in space:
                raise UserError(f"mutable= names {name!r}, which is not in the space.", nearest(str(name), space))
            if isinstance(space[name], Constant):
                raise UserError(f"mutable= names {name!r}, which is constant.", "Give it a range, or leave it out.")
    names = tuple(n for n, p in space.items() if not isinstance(p, Constant) and _may(n, p, wanted))
    if not names:
        have = ", ".join(space.dims) or "only constants"
        raise UserError(
            f"{who} has nothing to change while a model trains: the space has {have}.",
            "Add a learning rate, a weight decay or a dropout, or name what your training function reads anew at each "
            f"start: strategy={who}(mutable=[...]).",
        )
    return names


def _may(name: str, param: Param, wanted: Sequence[str] | None) -> bool:
    if wanted is not None:
        return name in wanted
    role = role_of(name, param)
    return role is not None and role.name in MUTABLE and not isinstance(param, Choice)
