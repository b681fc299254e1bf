"""What the numbers of a script are called: one name for each quantity, however the script spells it; pure."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.core.metrics import words
from luthier.readers.pairing import TEST, TRAIN, VAL, direction

# fmt: off
_FILLER = {"avg", "average", "mean", "running", "set", "epoch", "step", "the", "current", "final", "per"}
_SHORT = {"acc": "accuracy", "accuracies": "accuracy", "losses": "loss", "ppl": "perplexity", "err": "error"}
QUALIFIERS = {
    *TRAIN, *VAL, *TEST, *_FILLER, *_SHORT, "loss", "accuracy", "error", "cross", "entropy", "perplexity", "f1",
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
    split = split_of(name)
    rest = [_SHORT.get(word, word) for word in words(name) if word not in TRAIN | VAL | TEST | _FILLER]
    if rest in (["lr"], ["learningrate"]):
        rest = ["learning", "rate"]
    return "_".join(filter(None, (split, *rest))) or "_".join(words(name))


def split_of(name: str) -> str:
    """``train``, ``val`` or ``test``, as a name says; nothing where it does not."""
    split = ""
    for word in words(name):
        split = "train" if word in TRAIN else "val" if word in VAL else "test" if word in TEST else split
    return split


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
