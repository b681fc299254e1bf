"""Ways of asking that several stages share: along one hyperparameter, one change at a time, and the noise between."""

from __future__ import annotations

import math
from collections.abc import Sequence

from luthier.core.params import Choice, Config, Float, Int, Value
from luthier.core.summary import in_points
from luthier.core.trial import TrialRecord
from luthier.knowledge import find, role_of, tier_of
from luthier.numerics.noise import believable
from luthier.playbook.noise import noise_of
from luthier.playbook.script import Look, Part, Wish, number, short
from luthier.playbook.stages.common import beside

COUNTED = 16
"""Up to this span a whole number (layers, blocks) is stepped by one, beyond it (units) along its scale."""


def settled_names(look: Look) -> set[str]:
    """What the stages before this one have settled."""
    return {n for s in look.history.stages if not s.open for n in s.settled}


def open_names(look: Look, tiers: Sequence[int]) -> list[str]:
    """Active hyperparameters of some ``tiers`` (6: nobody knows them) that no stage has settled, by tier; of a stage
    that is opened again the settled ones too."""
    done = set() if look.again else settled_names(look)
    names = [n for n in look.space.dims if n in look.base and n not in done and tier_of(n, look.space[n]) in tiers]
    return sorted(names, key=lambda n: tier_of(n, look.space[n]))


def has_role(look: Look, name: str, role: str) -> bool:
    """Whether the knowledge base takes ``name`` for ``role``."""
    known = role_of(name, look.space[name])
    return known is not None and known.name == role


def noise(look: Look, trial: TrialRecord) -> float:
    """The difference from ``trial`` that a change has to exceed to be believed."""
    # What breaks a constraint ranks behind all that breaks none, by a loss that is no measure of the objective's noise.
    told = look.history.score(trial) if trial.violation else None
    sd = noise_of(look.history, without=look.stage.trials).sd
    return believable(look.loss(trial) if told is None else told, sd, in_points(look.history))


def climb(look: Look, name: str, best: TrialRecord, epochs: int, sides: Sequence[bool] = ()) -> Part:
    """Along one hyperparameter: a step to each side, and on in the better direction while it pays.

    Args:
        sides: which sides to look at, True for up; both where there are none: up first for capacity, down first for
            what restrains the training, as small trainings want it.

    Returns:
        the trials asked for, in order; the better of them and ``best`` is for the caller to take.
    """
    param = look.space[name]
    tried: list[TrialRecord] = []
    if isinstance(param, Choice):
        for choice in [c for c in param.choices if c != best.config[name]]:
            tried += yield [change(look, name, choice, best, epochs)]
        return tried
    for up in sides or ((True, False) if tier_of(name, param) == 3 else (False, True)):
        leader = best
        for _ in range(look.plan.strides):
            value = step(look, name, leader.config, up)
            if value == leader.config[name]:
                break  # the end of the range
            more = yield [change(look, name, value, leader, epochs)]
            tried += more
            if not more or look.loss(leader) - look.loss(more[0]) <= noise(look, leader):
                break
            leader = more[0]
        if leader is not best:
            break  # the other direction is not worth a training
    return tried


def movable(look: Look, name: str, config: Config, sides: Sequence[bool] = ()) -> bool:
    """Whether :func:`climb` has anywhere to go from ``config``."""
    if name not in config:
        return False
    if isinstance(param := look.space[name], Choice):
        return len(param.choices) > 1
    return any(step(look, name, config, up) != config[name] for up in sides or (True, False))


def change(look: Look, name: str, value: Value, base: TrialRecord, epochs: int, why: str = "") -> Wish:
    """One change; with the width the rate goes down by the square root.

    A compromise: a hidden layer's rate under Adam goes with 1 / width (Yang et al. 2022, arXiv 2203.03466, table 3),
    the other layers' stays.
    """
    why = why or f"{name} {short(value)} instead of {short(base.config[name])}"
    changes = {name: value}
    rate = find(look.space, "learning_rate", base.config)
    if rate is not None and is_width(look, name) and not isinstance(look.space[rate], Choice):
        lower = number(base, rate) * math.sqrt(number(base, name) / float(str(value)))
        changes[rate] = look.space.clip(rate, float(f"{lower:.2g}"), {**base.config, name: value})
        why += f", the rate following to {short(changes[rate])}"
    return look.wish(changes, base=base.config, epochs=epochs, why=why)


def is_width(look: Look, name: str) -> bool:
    """Whether a hyperparameter counts units: capacity on a logarithmic scale."""
    param = look.space[name]
    return isinstance(param, (Float, Int)) and param.log and tier_of(name, param) == 3


def step(look: Look, name: str, config: Config, up: bool) -> Value:
    """The next value of a numeric hyperparameter on one side, as far as its role's scale suggests."""
    param, value = look.space[name], config[name]
    assert isinstance(param, (Float, Int))
    tier = tier_of(name, param)
    at = float(str(value))
    if has_role(look, name, "dropout"):
        wanted: Value = at + 0.15 if up else (0.0 if at <= 0.15 else at - 0.15)
    elif param.log:
        factor = 2.0 if tier == 3 else 5.0
        wanted = at * factor if up else at / factor
    elif isinstance(param, Int) and tier == 3 and param.high - param.low <= COUNTED:
        wanted = int(at) + 1 if up else int(at) - 1
    else:
        unit = param.to_unit(look.space.base(name, config)) + (0.25 if up else -0.25)
        wanted = look.space.coupled(name, param.from_unit(min(1.0, max(0.0, unit))), config)
    return look.space.clip(name, wanted, config)


def rates_again(look: Look, best: TrialRecord, epochs: int, factor: float = 2.0) -> Part:
    """The learning rate a step up and down: what it is coupled with has changed."""
    rate = find(look.space, "learning_rate", best.config)
    if rate is None or isinstance(look.space[rate], Choice) or number(best, rate) <= 0:
        return []
    tried: list[TrialRecord] = []
    for value in beside(look, rate, best, factor):
        why = f"the rate again, beside the new {short(best.config[rate])}: {value:.2g}"
        more = yield [look.wish({rate: value}, base=best.config, epochs=epochs, why=why)]
        tried += more
        if more and look.loss(best) - look.loss(more[0]) > noise(look, best):
            break
    return tried
