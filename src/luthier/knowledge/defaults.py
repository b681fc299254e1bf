"""The strong default in a space, where priors lie, and how hyperparameters follow one another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from luthier.core.errors import UserError
from luthier.core.events import plain
from luthier.core.params import Choice, Config, Constant, Value
from luthier.core.space import Space
from luthier.knowledge.roles import Role, Setting, family, find, kin, role_of

OFF = ("none", "false", "off", "no", "scratch", "0", "")
"""How a hyperparameter says that it is not used."""

PIVOTS = ("optimizer", "batch_size")
"""Roles that no comparison can change alone: the rate has to follow."""


def optimizer_in(space: Space, config: Config) -> Value:
    """The optimizer of a configuration, if the space has one."""
    name = find(space, "optimizer")
    return config.get(name) if name else None


def setting_of(space: Space) -> Setting:
    """``"finetune"`` where every configuration of the space goes on from pretrained weights, else ``"scratch"``."""
    name = find(space, "finetune")
    if name is None:
        return "scratch"
    param = space[name]
    values = param.choices if isinstance(param, Choice) else (param.value,) if isinstance(param, Constant) else ()
    return "finetune" if values and not any(str(v).lower() in OFF for v in values) else "scratch"


def default_config(space: Space, given: Config | None = None) -> dict[str, Value]:
    """The strong default in a space: ``given`` values first, then the user's ``default=``, then the knowledge base's.

    What nobody knows a default for lies in the middle of its scale.
    """
    config: dict[str, Value] = dict(given or {})
    optimizer_name = find(space, "optimizer")
    # The optimizer first: the rate and the decay depend on it. Last what follows others, once those are known.
    for name in sorted(space, key=lambda n: (bool(space.follows(n)), n != optimizer_name)):
        if name in config:
            continue
        value = default_value(space, name, config.get(optimizer_name) if optimizer_name else None)
        if value is not None and space.follows(name):
            value = space.coupled(name, value, space.complete(config))
        if value is not None or isinstance(space[name], Constant):
            config[name] = value
    return space.complete(config)


def asked_config(space: Space, given: Any) -> Config:
    """A configuration that somebody wrote, completed by the strong default.

    Raises:
        UserError: a name that the space does not have, a value out of its range, or one without effect.
    """
    if not isinstance(given, Mapping) or not given:
        problem = f"{given!r} is no configuration." if given else "The configuration is empty."
        raise UserError(problem, 'Write {"learning_rate": 0.001, ...}.')
    known: dict[str, Value] = plain(given)
    space.complete(known)  # before anybody's defaults rest on a value that does not exist
    config = default_config(space, known)
    idle = next((n for n in known if n not in config), None)
    if idle is not None:
        parents = " and ".join(f"{p} is {' or '.join(map(str, v))}" for p, v in (space[idle].when or {}).items())
        raise UserError(f"{idle} has no effect in this configuration.", f"It needs {parents}: leave it out.")
    return config


def default_value(space: Space, name: str, optimizer: Value = None) -> Value:
    """The default of one hyperparameter under an optimizer, moved into its range; None where nobody knows one."""
    param = space[name]
    if param.default is not None or isinstance(param, Constant):
        return param.default
    known = _counting(space, name)
    if isinstance(param, Choice):
        return _preferred(param, known, optimizer, setting_of(space)) if role_of(name, param) else None
    number = known.number("default", kin(name, known, optimizer), setting_of(space)) if known else None
    return None if number is None else space.clip(name, number)


def prior_center(space: Space, name: str, optimizer: Value = None) -> float | None:
    """Where the prior of a numeric hyperparameter lies under an optimizer, moved into its range."""
    known = _counting(space, name)
    number = known.number("center", kin(name, known, optimizer), setting_of(space)) if known else None
    return None if number is None else float(space.clip(name, number))  # type: ignore[arg-type]


def _counting(space: Space, name: str) -> Role | None:
    """The role whose numbers hold for a hyperparameter; None where its name counts in other units."""
    param = space[name]
    known = role_of(name, param)
    return known if known is not None and known.counts(param.role or name) else None


def _preferred(param: Choice, known: Role | None, optimizer: Value, setting: Setting) -> Value:
    """The preferred choice; of numbers the one nearest to the strong default; else the first."""
    spelled = {str(c).lower(): c for c in param.choices}
    for word in known.prefer if known else ():
        if word in spelled:
            return spelled[word]
    number = known.number("default", optimizer, setting) if known else None
    plain = [c for c in param.choices if isinstance(c, (int, float)) and not isinstance(c, bool)]
    if known is not None and number is not None and len(plain) == len(param.choices):
        if known.log and number > 0 and min(plain) > 0:
            return min(plain, key=lambda c: abs(math.log(c / number)))
        return min(plain, key=lambda c: abs(c - number))
    return param.choices[0]


def smallest(space: Space, config: Config) -> dict[str, Value]:
    """``config`` with every capacity hyperparameter at the end that makes the smallest model."""
    changes: dict[str, Value] = {}
    for name in config:
        known = role_of(name, space[name])
        param = space[name]
        if known is None or known.small != "low" or isinstance(param, Constant):
            continue
        if not isinstance(param, Choice):
            changes[name] = param.low
        elif all(isinstance(c, (int, float)) and not isinstance(c, bool) for c in param.choices):
            changes[name] = min(param.choices)  # type: ignore[type-var]
    return space.complete({**config, **changes})


def tuned_along(space: Space, name: str) -> tuple[str, ...]:
    """The hyperparameters whose values were tuned to that of ``name`` and mean little beside another.

    What exists only with it or follows it; with the optimizer and the batch size also the rate and the momenta, the
    roles of tier 1 that the knowledge base couples to them.
    """
    own = role_of(name, space[name])
    along = own.coupled if own is not None and own.name in PIVOTS else ()
    out = []
    for other, param in space.items():
        known = role_of(other, param)
        coupled = known is not None and known.tier == 1 and known.name in along
        if other != name and (coupled or name in (param.when or {}) or name in space.follows(other)):
            out.append(other)
    return tuple(out)


def rate_for_batch(rate: float, old_batch: float, new_batch: float, optimizer: Value) -> float:
    """The learning rate after a change of batch size.

    Linear for SGD (Goyal et al., arXiv 1706.02677), square root for adaptive methods (Malladi et al., arXiv
    2205.10287).
    """
    k = new_batch / old_batch
    return rate * (k if family(optimizer) == "sgd" else math.sqrt(k))
