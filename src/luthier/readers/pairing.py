"""Which logged name is what: the pairs of training and validation, found by the names alone; pure.

A name is taken apart into words. Some say on which data (``val``, ``eval``, ``dev``), some how often (``step``,
``epoch``); what remains is the quantity, and names of one quantity on different data are a pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from luthier.core.errors import UserError, nearest
from luthier.core.metrics import METRICS, guess_direction, metric_word, split_word, words
from luthier.diagnosis.curves import EXTRA

# fmt: off
_OFTEN = {"step": 2, "steps": 2, "batch": 2, "iter": 2, "iteration": 2, "iterations": 2, "epoch": 0, "epochs": 0}
_FILLER = {"avg", "mean", "average", "running", "vs", "per", "dataloader", "idx", "metrics", "metric", "scalar",
           "scalars", "value", "loop", "smooth", "smoothed", "history", "performance", "coco", "bbox"}
_TOTAL = {"total", "overall", "all", "sum", "full", "combined"}
_MAIN = {"ce", "cross", "entropy", "crossentropy", "nll", "bce", "mse", "l1", "huber", "main", "lm", "model", "task"}
_SIDE = {"aux", "auxiliary", "reg", "regularization", "kl", "commit", "penalty", "l2", "decay"}
_LOSS = {"loss", "losses", "objective", "cost", "criterion"}
_STAND_IN = {"nll", "ce", "xent", "crossentropy", "bce", "mse", "mae", "rmse"}
"""A loss where nothing is called one."""
# fmt: on
_SHORT = {"acc": "accuracy", "err": "error", "ppl": "perplexity"}
_EVALUATED = {"map", "ap", "bleu", "rouge", "wer", "cer", "fid", "ndcg", "mrr"}
"""Metrics that nobody computes on training data: without a split they are validation's."""
ROLES = ("train_loss", "val_loss", "train_metric", "val_metric", "learning_rate")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user says of the names, where they do not speak for themselves.

    Args:
        train_loss, val_loss, metric: names as they were logged; ``metric`` also without its split.
        maximize: the metric's direction.
    """

    train_loss: str | None = None
    val_loss: str | None = None
    metric: str | None = None
    maximize: bool | None = None


@dataclass(frozen=True, slots=True)
class Pairing:
    """Which name was taken for which role.

    Args:
        taken: role to name; roles are :data:`ROLES` and :data:`.EXTRA`.
        maximize: whether a larger metric is better; True without one.
        notes: what the user should know of the choice.
    """

    taken: Mapping[str, str] = field(default_factory=dict)
    maximize: bool = True
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is a curve to read; a metric on training data alone says nothing."""
        return any(role in self.taken for role in ("train_loss", "val_loss", "val_metric"))


@dataclass(frozen=True, slots=True)
class _Name:
    """A name taken apart: on which data, how often (0 per epoch, 1 unsaid, 2 per step), and the quantity."""

    text: str
    split: str
    often: int
    quantity: tuple[str, ...]


def direction(name: str) -> bool | None:
    """Whether more of a metric is better, as its name tells; None where no word does. An objective is a loss here."""
    told = guess_direction(name)
    if told is None:
        return False if _LOSS & set(words(name)) else None
    return told == "maximize"


def pair(
    names: Iterable[str], asked: Asked | None = None, *, metric: str | None = None, maximize: bool | None = None
) -> Pairing:
    """What is what among ``names``.

    Args:
        names: as they were logged; their order does not matter.
        asked: the user's own choice, which wins.
        metric, maximize: what the training itself cared for, where it recorded that.

    Raises:
        UserError: a name of ``asked`` that is not there, or a metric whose direction nothing tells.
    """
    asked = asked or Asked()
    known = sorted(set(names), key=lambda n: (len(n), n))
    for option, name in (("--train-loss", asked.train_loss), ("--val-loss", asked.val_loss)):
        if name is not None and name not in known:
            raise UserError(f"{option} {name!r} was not logged.", nearest(name, known))
    taken: dict[str, str] = {}
    notes: list[str] = []
    parted = {name: _part(name) for name in known}
    # Some frameworks repeat the learning rate in validation's records: what stands with training is the denser one.
    rest = [p for p in sorted(parted.values(), key=lambda p: p.split in ("val", "test")) if not _aside(p, taken)]

    losses = [p for p in rest if _loss_words(p)]
    metrics = [p for p in rest if p not in losses and _metric_of(p) is not None]
    if not losses:
        losses = [p for p in metrics if _STAND_IN & set(p.quantity)]
        metrics = [p for p in metrics if p not in losses]
    _choose_losses(losses, asked, taken, notes)

    explicit = any(p.split == "train" for p in rest)
    up = _choose_metric(list(parted.values()), metrics, asked.metric or metric, asked, explicit, taken)
    if asked.maximize is not None:
        up = asked.maximize
    elif metric is not None and asked.metric is None and maximize is not None:
        up = maximize
    chosen = taken.get("val_metric") or taken.get("train_metric")
    if chosen is not None and up is None:
        raise UserError(f"Whether {chosen!r} should go up or down, its name does not tell.",
                        "Add --maximize or --minimize.")  # fmt: skip
    if any(parted[taken[role]].split == "test" for role in ("val_loss", "val_metric") if role in taken):
        notes.append("there is no validation data: test data stands in, and is no test any more once it was tuned on")
    order = (*ROLES, *EXTRA)
    return Pairing({r: taken[r] for r in order if r in taken}, True if up is None else up, tuple(notes))


# -- names -------------------------------------------------------------------------------------------------------------


def _part(name: str) -> _Name:
    split, often, quantity = "", 1, []
    for word in words(name):
        where = split_word(word)
        if where:
            split = where  # the last one says it: "train/val_loss" is a group's name and then the split
        elif word in _OFTEN:
            often = _OFTEN[word]
        elif word not in _FILLER and not (word.isdigit() and "idx" in name):
            quantity.append(_SHORT.get(word, word))
    return _Name(name, split, often, tuple(sorted(quantity)))


def _aside(name: _Name, taken: dict[str, str]) -> bool:
    """Whether a name is neither loss nor metric; the shortest name of each kind is taken."""
    has = set(name.quantity)
    joined = "".join(words(name.text))
    role = None
    if ("grad" in joined and "norm" in joined) or {"total", "norm"} <= has:
        role = "grad_norm"
    elif ("scale" in has and has & {"loss", "grad", "amp"}) or "lossscale" in has or "scaler" in has:
        role = "loss_scale"
    elif "clipped" in has or {"clip", "fraction"} <= has:
        role = "clipped"
    elif {"update", "ratio"} <= has:
        role = "update_ratio"
    elif "lr" in has or "learningrate" in has or {"learning", "rate"} <= has:
        role = "learning_rate"
    if role is None:
        return False
    if role not in taken or (role == "grad_norm" and "total" in has and "total" not in words(taken[role])):
        taken[role] = name.text
    return True


def _loss_words(name: _Name) -> bool:
    return any(w in _LOSS or w.endswith("loss") for w in name.quantity)


def _metric_of(name: _Name) -> str | None:
    """The telling word of a metric."""
    found = [w for w in map(metric_word, name.quantity) if w is not None]
    return min(found, key=METRICS.index) if found else None


# -- choices -----------------------------------------------------------------------------------------------------------


def _groups(names: Iterable[_Name], drop: set[str]) -> dict[tuple[str, ...], dict[str, _Name]]:
    """Names of one quantity together, by split; of several on one split the most total, and the one per epoch."""
    groups: dict[tuple[str, ...], dict[str, _Name]] = {}
    for name in sorted(names, key=lambda p: (not _TOTAL & set(p.quantity), p.often, len(p.text), p.text)):
        key = tuple(w for w in name.quantity if w not in drop)
        groups.setdefault(key, {}).setdefault(name.split, name)
    return groups


def _sides(group: Mapping[str, _Name], *, bare: str = "train") -> tuple[_Name | None, _Name | None]:
    """The training and the validation name of a group; a name without a split is ``bare``, or what is missing."""
    train, val, alone = group.get("train"), group.get("val") or group.get("test"), group.get("")
    if alone is not None and train is None and (val is not None or bare == "train"):
        train = alone
    elif alone is not None and val is None and bare == "val":
        val = alone
    return train, val


def _choose_losses(losses: list[_Name], asked: Asked, taken: dict[str, str], notes: list[str]) -> None:
    def rank(key: tuple[str, ...]) -> tuple[int, int, tuple[str, ...]]:
        rest = [w for w in key if w not in _LOSS]
        side = any(w in _SIDE for w in rest)
        return (9 if side else 0 if not rest else 1 if set(rest) <= _MAIN else 3), len(rest), key

    groups = _groups(losses, _TOTAL | {"losses"})
    pairs = sorted(groups, key=lambda k: (None in _sides(groups[k]), rank(k)))
    train = val = None
    for key in pairs:
        own = _sides(groups[key])
        if train is None and val is None:
            train, val = own
            parts = [k for k in groups if rank(k)[0] == rank(key)[0]]
            if rank(key)[0] >= 3 and len(parts) > 1 and not asked.train_loss:
                notes.append(f"several losses and no total: {len(parts)} of them; --train-loss and --val-loss choose")
        elif rank(key)[0] < 3:  # the other side by another name, where it is surely the whole loss
            train, val = train or own[0], val or own[1]
    if asked.train_loss or train:
        taken["train_loss"] = asked.train_loss or (train.text if train else "")
    if asked.val_loss or val:
        taken["val_loss"] = asked.val_loss or (val.text if val else "")
    if asked.train_loss and taken.get("val_loss") == asked.train_loss and not asked.val_loss:
        del taken["val_loss"]
    if asked.val_loss and taken.get("train_loss") == asked.val_loss and not asked.train_loss:
        del taken["train_loss"]


def _choose_metric(
    every: list[_Name],
    metrics: list[_Name],
    wanted: str | None,
    asked: Asked,
    explicit: bool,
    taken: dict[str, str],
) -> bool | None:
    """Puts the metric into ``taken``; returns its direction, None where its name does not tell."""
    # Where the losses name their data, a metric that does not is the one that people look at: on validation data.
    bare = "val" if explicit or asked.metric is not None else "train"
    if wanted is not None:
        own = _part(wanted)
        groups = _groups([p for p in every if p.text not in taken.values() or p.text == wanted], set())
        if own.quantity in groups:
            train, val = _sides(groups[own.quantity], bare=bare)
            if any(p.text == wanted for p in every) and wanted not in {p.text for p in (train, val) if p}:
                val = own
            _take(train, val, taken)
            return direction(wanted)
        if asked.metric is not None:
            raise UserError(f"--metric {wanted!r} was not logged.", nearest(wanted, [p.text for p in every]))
    groups = _groups(metrics, set())

    def sides(key: tuple[str, ...]) -> tuple[_Name | None, _Name | None]:
        evaluated = any(metric_word(w) in _EVALUATED for w in key)
        return _sides(groups[key], bare="val" if evaluated else bare)

    def rank(key: tuple[str, ...]) -> tuple[bool, int, int, bool, tuple[str, ...]]:
        train, val = sides(key)
        word = min(METRICS.index(w) for w in map(metric_word, key) if w is not None)
        return val is None, word, len(key), train is None, key

    best = min(groups, key=rank, default=None)
    if best is None:
        return None
    train, val = sides(best)
    _take(train, val, taken)
    return direction(" ".join(p.text for p in (train, val) if p is not None))


def _take(train: _Name | None, val: _Name | None, taken: dict[str, str]) -> None:
    if train is not None:
        taken["train_metric"] = train.text
    if val is not None:
        taken["val_metric"] = val.text
