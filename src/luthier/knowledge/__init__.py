"""What practitioners know of each hyperparameter: its tier, range, strong default, prior and what it is coupled with.

The facts lie in ``roles.toml``; this is their typed reader.

>>> role("p_drop").name
'dropout'
>>> role("optimizer.lr").tier
1
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from luthier.core.params import Choice, Config, Constant, Param, Value
from luthier.core.space import Space

TIERS = {1: "optimization", 2: "schedule and length", 3: "capacity", 4: "regularization", 5: "advanced"}
"""The order in which a practitioner tunes."""


@dataclass(frozen=True, slots=True)
class Role:
    """A hyperparameter's part in training.

    Args:
        name: the knowledge base's own name.
        tier: 1 to 5, see ``TIERS``.
        aliases: names under which it is met, lower case.
        log: whether its scale is logarithmic.
        low, high: the range worth searching.
        default: the strong default.
        center, spread: the prior, a normal around ``center`` with ``spread`` in decades where ``log``, else in plain
            units.
        prefer: for choices, the order of preference.
        small: which end of the range makes the smallest model, for capacity.
        coupled: roles that have to be looked at again when this one changes.
        by_optimizer: numbers that differ by optimizer.
        advice: one sentence.
        source: where the numbers come from.
    """

    name: str
    tier: int
    aliases: tuple[str, ...]
    advice: str
    source: str
    log: bool = False
    low: float | None = None
    high: float | None = None
    default: float | None = None
    center: float | None = None
    spread: float | None = None
    prefer: tuple[str, ...] = ()
    small: str | None = None
    coupled: tuple[str, ...] = ()
    by_optimizer: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def number(self, key: str, optimizer: Value = None) -> float | None:
        """``default``, ``center``, ``low`` or ``high`` under an optimizer, where that makes a difference."""
        special = self.by_optimizer.get(str(optimizer).lower(), {}) if optimizer is not None else {}
        value: float | None = special.get(key, getattr(self, key))
        if value is None and key == "center":
            value = special.get("default", self.default)
        return value


@cache
def roles() -> Mapping[str, Role]:
    """Every role by name, in the order of the file."""
    text = resources.files(__package__).joinpath("roles.toml").read_text(encoding="utf-8")
    out = {}
    for name, facts in tomllib.loads(text).items():
        tuples = {k: tuple(v) for k, v in facts.items() if isinstance(v, list)}
        out[name] = Role(name=name, **{**facts, **tuples})
    return out


@cache
def _by_alias() -> Mapping[str, Role]:
    return {alias: role for role in roles().values() for alias in (role.name, *role.aliases)}


def role(name: str) -> Role | None:
    """The role that a name implies: ``lr``, ``model.n_layers``, ``train/weightDecay``; None where it is unknown."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_")
    last = re.split(r"[./: ]", snake)[-1]
    return _by_alias().get(last) or _by_alias().get(snake)


def role_of(name: str, param: Param) -> Role | None:
    """The role of a hyperparameter in a space: its ``role=`` where given, else by its name."""
    return roles().get(param.role) or role(param.role) if param.role is not None else role(name)


def find(space: Space, wanted: str) -> str | None:
    """The name in ``space`` of the first hyperparameter with the role ``wanted``."""
    return next((n for n, p in space.items() if (r := role_of(n, p)) is not None and r.name == wanted), None)


def optimizer_in(space: Space, config: Config) -> Value:
    """The optimizer of a configuration, if the space has one."""
    name = find(space, "optimizer")
    return config.get(name) if name else None


def default_config(space: Space, given: Config | None = None) -> dict[str, Value]:
    """The strong default in a space: ``given`` values first, then the user's ``default=``, then the knowledge base's.

    What nobody knows a default for lies in the middle of its scale.
    """
    config: dict[str, Value] = dict(given or {})
    optimizer_name = find(space, "optimizer")
    # The optimizer first: the rate and the decay depend on it.
    for name in sorted(space, key=lambda n: n != optimizer_name):
        if name in config:
            continue
        value = default_value(space, name, config.get(optimizer_name) if optimizer_name else None)
        if value is not None or isinstance(space[name], Constant):
            config[name] = value
    return space.complete(config)


def default_value(space: Space, name: str, optimizer: Value = None) -> Value:
    """The default of one hyperparameter under an optimizer, moved into its range; None where nobody knows one."""
    param = space[name]
    if param.default is not None or isinstance(param, Constant):
        return param.default
    known = role_of(name, param)
    if known is None:
        return None
    if isinstance(param, Choice):
        spelled = {str(c).lower(): c for c in param.choices}
        return next((spelled[p] for p in known.prefer if p in spelled), param.choices[0])
    number = known.number("default", optimizer)
    return None if number is None else space.clip(name, number)


def prior_center(space: Space, name: str, optimizer: Value = None) -> float | None:
    """Where the prior of a numeric hyperparameter lies under an optimizer, moved into its range."""
    known = role_of(name, space[name])
    number = known.number("center", optimizer) if known else None
    return None if number is None else float(space.clip(name, number))  # type: ignore[arg-type]


def smallest(space: Space, config: Config) -> dict[str, Value]:
    """``config`` with every capacity hyperparameter at the end that makes the smallest model."""
    changes = {}
    for name in config:
        known = role_of(name, space[name])
        param = space[name]
        if known is not None and known.small == "low" and not isinstance(param, (Choice, Constant)):
            changes[name] = param.low
    return space.complete({**config, **changes})


def rate_for_batch(rate: float, old_batch: float, new_batch: float, optimizer: Value) -> float:
    """The learning rate after a change of batch size.

    Linear for SGD (Goyal et al., arXiv 1706.02677), square root for adaptive methods (Malladi et al., arXiv
    2205.10287).
    """
    k = new_batch / old_batch
    return rate * (k if str(optimizer).lower().startswith("sgd") else math.sqrt(k))


def tier_of(name: str, param: Param) -> int:
    """The tier of a hyperparameter; 6, after all the others, where its role is unknown."""
    known = role_of(name, param)
    return known.tier if known else 6


def describe(name: str, param: Param) -> dict[str, Any]:
    """Role, tier and advice of a hyperparameter as plain data."""
    known = role_of(name, param)
    return {"name": name, "role": known.name if known else None, "tier": tier_of(name, param),
            "advice": known.advice if known else ""}  # fmt: skip
