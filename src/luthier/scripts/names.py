"""What the numbers of a script are called: one name for each quantity, however the script spells it; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from luthier.core.errors import nearest
from luthier.core.metrics import SPLITS, TEST, VAL, split_of, words
from luthier.readers.pairing import direction

# fmt: off
_FILLER = {"avg", "average", "mean", "running", "set", "epoch", "step", "the", "current", "final", "per", "metric",
           "metrics"}
_SHORT = {"acc": "accuracy", "accuracies": "accuracy", "losses": "loss", "ppl": "perplexity", "err": "error"}
QUALIFIERS = {
    *SPLITS, *_FILLER, *_SHORT, "loss", "accuracy", "error", "cross", "entropy", "perplexity", "f1",
    "score", "top", "top1", "top5", "learning", "rate", "grad", "gradient", "norm", "total", "best", "macro", "micro",
    "weighted", "balanced", "word", "character", "char", "token", "bits", "mse", "mae", "rmse", "auc", "roc", "bleu",
    "iou", "dice", "squared", "absolute", "negative", "log", "likelihood",
}
"""Words that belong to a name of several words: ``average test loss`` is one, of ``INFO loss`` only the last is."""
# fmt: on


def plain(name: str) -> str:
    """One name for all spellings of a quantity on one part of the data.

    >>> plain("Loss/valid"), plain("Val Acc"), plain("lr"), plain("average loss")
    ('val_loss', 'val_accuracy', 'learning_rate', 'loss')
    """
    return "_".join(filter(None, (split_of(name), *quantity(name)))) or "_".join(words(name))


def quantity(name: str) -> tuple[str, ...]:
    """The words of a name that say what is measured: those of ``val/Acc@1`` and of ``top-1`` are alike."""
    rest: list[str] = []
    for word in words(name):
        if word in SPLITS | _FILLER:
            continue
        stem, number = _numbered(word)
        rest += [_SHORT.get(stem, stem), number] if number else [_SHORT.get(word, word)]
    if rest in (["lr"], ["learningrate"]):
        rest = ["learning", "rate"]
    return _top(rest)


def _numbered(word: str) -> tuple[str, str]:
    """``acc1`` and ``map50`` as a metric and its number, as ``acc@1`` and ``map@50`` are; ``f1`` is one word."""
    found = re.fullmatch(r"([a-z]{2,})(\d+)", word)
    if found is None or found[1] in ("loss", "losses") or (direction(found[1]) is None and found[1] != "top"):
        return word, ""
    return found[1], found[2]


def _top(rest: list[str]) -> tuple[str, ...]:
    """``top 1``, ``top 1 accuracy`` and ``accuracy top 1`` are ``accuracy 1``."""
    at = rest.index("top") if "top" in rest else -1
    if at < 0 or not rest[at + 1 : at + 2] or not rest[at + 1].isdigit():
        return tuple(rest)
    others = [*rest[:at], *rest[at + 2 :]]
    return (*(others or ["accuracy"]), rest[at + 1])


# fmt: off
_SHARE = r"0?\.\d+"
_SPAN = rf"(?:{_SHARE}:{_SHARE}(?::{_SHARE})?|\d\d:\d\d?(?::\d\d)?)"
_SAID = r"(?=['\"]?\s*(?:[:=]|->|→)[ \t]*[\[('\"]?[-+.\d]|[ \t]+[-+]?\.?\d)"
_RANGE = re.compile(
    rf"(?<![\w/@.-])[A-Za-z][\w/@-]*?(?:(?<=[A-Za-z@_-]){_SPAN}{_SAID}"
    r"|(?<=ap|ar)[@_-]?0?\.50?:0?\.950?(?![\d:]))", re.IGNORECASE)
_BRACKETS = re.compile(rf"(?<=[A-Za-z])\)?\s*(?:@\s*[\[(](?P<any>[^\[\]()\n]+)[\])]|[\[(](?P<span>{_SPAN})[\])])")
_TOP = re.compile(r"\b(?P<top>top)[ \t-]?(?=\d)", re.IGNORECASE)
# fmt: on


def joined(text: str) -> str:
    """``text`` with the thresholds that belong to a metric's name joined to it: ``mAP@0.5:0.95: 0.4`` tells of
    ``mAP@0.5-0.95`` and not of ``mAP@0.5``, ``AP @[ IoU=0.50 | area=all ] = 0.3`` of ``AP@IoU-0.50-area-all`` and of no
    ``IoU``, and ``Top 5 accuracy: 60`` of ``Top5 accuracy``.

    ``acc@1:0.5`` stays: a name, and its number behind a colon.
    """

    def inside(found: re.Match[str]) -> str:
        return "@" + re.sub(r"[^\w.]+", "-", (found["any"] or found["span"]).strip())

    text = _TOP.sub(lambda found: found["top"], _BRACKETS.sub(inside, text))
    return _RANGE.sub(lambda found: found[0].replace(":", "-"), text)


class Names:
    """The names of reports: what was asked for as it was asked for, everything else in one spelling.

    Args:
        asked: the metrics of the study's objectives and constraints, the first of which leads.
    """

    def __init__(self, asked: Sequence[str]) -> None:
        self.asked = tuple(asked)
        self._spelled = {}
        for name in asked:
            split = split_of(name)
            # The twin on training data is spelled alike, so that a diagnosis finds the pair.
            twin = next((w for w in words(name) if w in VAL or w in TEST), None)
            if split in ("val", "test") and twin is not None and twin in name:
                self._spelled[plain(name.replace(twin, "train", 1))] = name.replace(twin, "train", 1)
        self._spelled |= {plain(name): name for name in asked}
        self._bare = "" in {split_of(name) for name in asked}

    def of(self, name: str) -> str:
        """What a number is reported as; a loss without a split is the training's, unless that is what was asked for."""
        if name in self.asked:
            return name
        found = plain(name)
        if found == "loss" and not self._bare:
            found = "train_loss"
        return self._spelled.get(found, found)

    def telling(self, name: str) -> bool:
        """Whether a number in free text is worth a report: it was asked for, or its name tells a loss or a metric."""
        found = self.of(name)
        return found in self.asked or direction(found) is not None or found in ("learning_rate", "grad_norm")


def alike(asked: str, seen: Iterable[str]) -> str:
    """What to ask for in place of a metric that was never said: the same on other data, validation's first, or without
    a word of its data; else the same in part (``accuracy_1`` for ``accuracy``); else what is spelled like it.

    A training metric stands in for no other.

    >>> alike("val_acc", ["train_accuracy", "accuracy_5", "accuracy_1"])
    "Did you mean 'accuracy_1' or 'accuracy_5'?"
    """
    wanted, own = quantity(asked), split_of(asked)
    names = [n for n in sorted(set(seen)) if own == "train" or split_of(n) != "train"]
    order = ("val", "", "test", "train")
    names.sort(key=lambda n: (order.index(split_of(n)), len(n), n))
    same = [n for n in names if quantity(n) == wanted]
    if same:
        unsaid = ", which does not say on which data it is" if own and not split_of(same[0]) else ""
        return f"Did you mean {same[0]!r}{unsaid}?"
    part = [n for n in names if set(wanted) < set(quantity(n))] if wanted not in ((), ("loss",)) else []
    if part:
        return f"Did you mean {' or '.join(map(repr, part[:3]))}?"
    return nearest(asked, names) or f"Let it print {asked}=0.5 after each epoch."
