"""Roles: the typed entries of the knowledge base, and which of them a hyperparameter's name implies."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal, final

from luthier.core.params import Param, Value
from luthier.core.space import Space

Lang = Literal["en", "zh"]
LANGS: tuple[Lang, ...] = ("en", "zh")

Setting = Literal["scratch", "finetune"]
"""Training from random weights, or going on from pretrained ones."""
SETTINGS: tuple[Setting, ...] = ("scratch", "finetune")

TIERS = {1: "optimization", 2: "schedule and length", 3: "capacity", 4: "regularization", 5: "advanced"}
"""The order in which a practitioner tunes."""

HEADINGS: Mapping[Lang, Mapping[int, str]] = {
    "en": {
        1: "Tier 1: core parameters (always tune these first)",
        2: "Tier 2: training strategy",
        3: "Tier 3: model capacity",
        4: "Tier 4: regularization and generalization",
        5: "Tier 5: advanced techniques",
        6: "Not in the knowledge base",
    },
    "zh": {
        1: "一级：核心参数（必须优先调整）",
        2: "二级：训练策略",
        3: "三级：模型容量",
        4: "四级：正则化与泛化能力",
        5: "五级：进阶技巧",
        6: "知识库之外",
    },
}
"""The tiers' names in a checklist; 6 is for what no role is known of."""


@final
@dataclass(frozen=True, slots=True)
class Source:
    """A publication or a library's documentation: its citation and its address."""

    citation: str
    url: str


@final
@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that stands above single hyperparameters, in English and Chinese, with the keys of its sources."""

    name: str
    en: str
    zh: str
    sources: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class Role:
    """A hyperparameter's part in training.

    Args:
        name: the knowledge base's own name, which is also the recipe's knob.
        tier: 1 to 5, see ``TIERS``.
        title, title_zh: what people call it.
        kind: ``float``, ``int`` or ``choice``.
        aliases: other names under which it is met, in snake case.
        other_units: names that have this role but count in other units (``warmup_steps``): the numbers below are not
            theirs.
        advice, advice_zh: one sentence each.
        sources: keys of :func:`sources`.
        listed: it belongs to the short checklist of a practitioner.
        log: whether its scale is logarithmic.
        low, high: the range worth searching.
        default: the strong default; None where it depends on the model family.
        center, spread: the prior, a normal around ``center`` with ``spread`` in decades where ``log``, else in plain
            units.
        shape: what the normal does not say of the prior: weight on single values, a half-normal, another scale.
        complement: the prior's spread in decades of 1 - x, for what lies close to 1; it counts before ``spread``.
        off: the prior's weight on exactly zero, where that means that it is not used.
        prefer: for choices, the order of preference, several spellings of one among them.
        seed_range: the common range of textbooks and checklists, where there is one.
        seed_choices, seed_choices_zh: the same for choices; the Chinese ones only where they are words.
        small: which end of the range makes the smallest model, for capacity.
        coupled: roles that have to be looked at again when this one changes.
        by: numbers that differ by optimizer (``"sgd"``), by setting (``"finetune"``) or by both (``"finetune.sgd"``).
        skip: when to leave it alone.
        note, note_zh: where practice and the common advice part.
    """

    name: str
    tier: int
    title: str
    title_zh: str
    kind: Literal["float", "int", "choice"]
    aliases: tuple[str, ...]
    advice: str
    advice_zh: str
    sources: tuple[str, ...]
    skip: str
    coupled: tuple[str, ...]
    listed: bool = False
    other_units: tuple[str, ...] = ()
    log: bool = False
    low: float | None = None
    high: float | None = None
    default: float | None = None
    center: float | None = None
    spread: float | None = None
    shape: str = ""
    complement: float | None = None
    off: float = 0.0
    prefer: tuple[str, ...] = ()
    seed_range: tuple[float, float] | None = None
    seed_choices: tuple[str, ...] = ()
    seed_choices_zh: tuple[str, ...] = ()
    small: str | None = None
    by: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    note: str = ""
    note_zh: str = ""

    def number(self, key: str, optimizer: Value = None, setting: Setting = "scratch") -> float | None:
        """``default``, ``center``, ``spread``, ``low`` or ``high`` under an optimizer and a setting.

        The most particular number that is known: for both, for the setting, for the optimizer, for neither. A center
        that is not given is the default.
        """
        kin = family(optimizer)
        places = [f"{setting}.{kin}", setting] if setting != "scratch" else []
        for place in (*places, kin):
            value = self.by.get(place or "", {}).get(key)
            if value is not None:
                return value
        own: float | None = getattr(self, key)
        return self.number("default", optimizer, setting) if own is None and key == "center" else own

    def counts(self, name: str) -> bool:
        """Whether a hyperparameter called ``name`` counts in this role's units, so that its numbers hold for it."""
        return not any(n in self.other_units for n in _spellings(name))

    def titled(self, lang: Lang) -> str:
        """The title in a language."""
        return self.title_zh if lang == "zh" else self.title

    def advised(self, lang: Lang) -> str:
        """The advice in a language."""
        return self.advice_zh if lang == "zh" else self.advice


def family(optimizer: Value) -> str | None:
    """The optimizer's name among those that the numbers are kept by.

    ``adamw``, ``nadamw``, ``adam``, ``rmsprop`` or ``sgd``; another one's own name in lower case; None for none.

    >>> family("torch.optim.SGD"), family("sgd+momentum"), family("NAdam"), family("Lion")
    ('sgd', 'sgd', 'nadamw', 'lion')
    """
    if optimizer is None:
        return None
    word = re.sub(r"[^a-z]", "", str(optimizer).lower().rsplit(".", 1)[-1])
    if word.startswith(("sgd", "momentum", "nesterov")):
        return "sgd"
    for known, starts in (("nadamw", "nadam"), ("adamw", "adamw"), ("rmsprop", "rmsprop")):
        if word.startswith(starts):
            return known
    return word


def kin(name: str, known: Role, optimizer: Value) -> Value:
    """The optimizer whose numbers hold for a hyperparameter of a space: ``optimizer``, where it is known.

    Where it is not, a weight decay that is called L2 is taken for the coupled one, which wants far less than AdamW's.

    >>> kin("l2_reg", role("l2_reg"), None), kin("weight_decay", role("weight_decay"), None)
    ('adam', None)
    """
    coupled = optimizer is None and known.name == "weight_decay" and "l2" in _spellings(name)[-1]
    return "adam" if coupled else optimizer


def _load(file: str) -> dict[str, Any]:
    text = resources.files(__package__).joinpath(file).read_text(encoding="utf-8")
    return tomllib.loads(text)


@cache
def roles() -> Mapping[str, Role]:
    """Every role by name: tier by tier, in the order of the files."""
    out = {}
    for tier in TIERS:
        for name, facts in _load(f"tier{tier}.toml").items():
            tuples = {k: tuple(v) for k, v in facts.items() if isinstance(v, list)}
            out[name] = Role(name=name, tier=tier, **{**facts, **tuples})
    return out


@cache
def rules() -> tuple[Rule, ...]:
    """The rules that stand above single hyperparameters."""
    return tuple(Rule(n, f["en"], f["zh"], tuple(f["sources"])) for n, f in _load("rules.toml").items())


@cache
def sources() -> Mapping[str, Source]:
    """Every source by its key."""
    return {key: Source(*fields) for key, fields in _load("sources.toml").items()}


@cache
def _by_alias() -> Mapping[str, tuple[Role, int]]:
    """Every name with its role and its place among the role's names: 0 for the role's own."""
    return {
        alias: (role, place)
        for role in roles().values()
        for place, alias in enumerate((role.name, *role.aliases, *role.other_units))
    }


def _spellings(name: str) -> list[str]:
    """``name`` in snake case, whole and without its leading parts: ``model.head.p`` gives three."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    snake = re.sub(r"\[(\d+)\]", r"_\1", snake).lower().replace("-", "_")
    parts = [p for p in re.split(r"[./: ]+", snake) if p]
    return ["_".join(parts[i:]) for i in range(len(parts))]


@cache
def _known(name: str) -> tuple[Role, int] | None:
    return next((found for n in _spellings(name) if (found := _by_alias().get(n))), None)


def role(name: str) -> Role | None:
    """The role that a name implies: ``lr``, ``model.n_layers``, ``betas[1]``, ``train/weightDecay``; None if unknown.

    The longest known ending counts: ``rmsprop.alpha`` is not the ``alpha`` that stands alone.
    """
    known = _known(name)
    return known[0] if known else None


def role_of(name: str, param: Param) -> Role | None:
    """The role of a hyperparameter in a space: its ``role=`` where given, else by its name."""
    return role(name if param.role is None else param.role)


def find(space: Space, wanted: str, among: Collection[str] | None = None) -> str | None:
    """The name in ``space`` of the hyperparameter with the role ``wanted``.

    With ``among``, a configuration say, only those names count: a rate may exist under one optimizer only, or each
    optimizer may have its own.

    Of several the one whose name says it most plainly: ``learning_rate`` before ``lr_head`` before ``alpha``; the first
    of a tie.
    """
    best: tuple[int, str] | None = None
    for name, param in space.items():
        if among is not None and name not in among:
            continue
        known = _known(name if param.role is None else param.role)
        if known is not None and known[0].name == wanted and (best is None or known[1] < best[0]):
            best = known[1], name
    return best[1] if best else None


def tier_of(name: str, param: Param) -> int:
    """The tier of a hyperparameter; 6, after all the others, where its role is unknown."""
    known = role_of(name, param)
    return known.tier if known else 6


def describe(name: str, param: Param) -> dict[str, Any]:
    """Role, tier and advice of a hyperparameter as plain data."""
    known = role_of(name, param)
    return {
        "name": name,
        "role": known.name if known else None,
        "tier": tier_of(name, param),
        "advice": known.advice if known else "",
        "advice_zh": known.advice_zh if known else "",
    }
