"""What practitioners know of each hyperparameter: its tier, range, strong default, prior and what it is coupled with.

The facts lie in data files, one for each tier (``tier1.toml`` to ``tier5.toml``), with their ``sources.toml`` and the
rules that stand above single hyperparameters (``rules.toml``). Each table is a :class:`Role`, each key a field of it; a
new role or alias needs no code. ``docs/knowledge.md`` is made from them (:mod:`luthier.knowledge.page`).

>>> role("p_drop").name
'dropout'
>>> role("optimizer.lr").tier
1
>>> role("weight_decay").number("low", "adamw"), role("weight_decay").number("low", "sgd")
(0.005, 1e-06)
"""

from __future__ import annotations

from luthier.knowledge.defaults import (
    asked_config,
    default_config,
    default_value,
    optimizer_in,
    prior_center,
    rate_for_batch,
    setting_of,
    smallest,
    tuned_along,
)
from luthier.knowledge.page import markdown
from luthier.knowledge.prior import Prior
from luthier.knowledge.recommend import recommended
from luthier.knowledge.roles import (
    HEADINGS,
    LANGS,
    SETTINGS,
    TIERS,
    Lang,
    Role,
    Rule,
    Setting,
    Source,
    describe,
    family,
    find,
    role,
    role_of,
    roles,
    rules,
    sources,
    tier_of,
)

__all__ = [
    "HEADINGS",
    "LANGS",
    "SETTINGS",
    "TIERS",
    "Lang",
    "Prior",
    "Role",
    "Rule",
    "Setting",
    "Source",
    "asked_config",
    "default_config",
    "default_value",
    "describe",
    "family",
    "find",
    "markdown",
    "optimizer_in",
    "prior_center",
    "rate_for_batch",
    "recommended",
    "role",
    "role_of",
    "roles",
    "rules",
    "setting_of",
    "smallest",
    "sources",
    "tier_of",
    "tuned_along",
]
