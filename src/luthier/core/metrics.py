"""What the name of a metric says: which word of it tells, of which data it is, whether more is better, whether it is a
share; pure."""

from __future__ import annotations

import re
from typing import Literal

# fmt: off
METRICS = (
    "accuracy", "acc", "top1", "miou", "iou", "dice", "map", "f1", "f1score", "auc", "auroc", "ap", "bleu", "rouge",
    "r2", "psnr", "ssim", "ndcg", "mrr", "mcc", "kappa", "reward", "return", "score", "fscore", "jaccard", "spearman",
    "spearmanr", "pearson", "error", "err", "wer", "cer", "fid", "mae", "rmse", "mse", "mape", "smape", "brier", "crps",
    "perplexity", "ppl", "bpc", "nll", "likelihood", "deviance", "regret", "precision", "recall", "top5", "top3",
)
"""Words that tell a metric, from what one looks at first to last."""
TRAIN = frozenset({"train", "training", "trn"})
VAL = frozenset({"val", "valid", "validation", "eval", "evaluation", "dev", "holdout", "heldout"})
TEST = frozenset({"test", "testing", "tst"})
SPLITS = TRAIN | VAL | TEST
"""Words that tell the data it is of."""
_DOWN = {
    "error", "err", "wer", "cer", "fid", "mae", "rmse", "mse", "mape", "smape", "brier", "crps", "perplexity", "ppl",
    "bpc", "nll", "deviance", "regret",
}
_LOSS = {"loss", "losses", "cost", "criterion"}
_SHARES = {
    "accuracy", "acc", "error", "err", "f1", "auc", "auroc", "map", "ap", "precision", "recall", "iou", "miou", "dice",
    "jaccard", "top1", "top5",
}
# fmt: on
_WEAK = "score"
"""It goes up where no other word tells: a Brier score and an FID score go down."""
_TURNED = {"neg", "negative"}


def words(name: str) -> list[str]:
    """The words of a name in lower case: ``"Loss/valAvg"`` is ``["loss", "val", "avg"]``."""
    parted = re.sub(r"(?<=[a-z]{2})(?=[A-Z][a-z])", " ", name)
    return re.findall(r"[a-z0-9]+", parted.lower())


def split_of(name: str) -> Literal["train", "val", "test", ""]:
    """The data that a name speaks of; empty where it does not say. The last word that tells says it: in
    ``train/val_loss`` the first is a group's."""
    found = [split for word in words(name) if (split := split_word(word))]
    return found[-1] if found else ""


def split_word(word: str) -> Literal["train", "val", "test", ""]:
    """The data that a word in lower case names; empty where it names none."""
    return "train" if word in TRAIN else "val" if word in VAL else "test" if word in TEST else ""


def metric_word(word: str) -> str | None:
    """The one of :data:`METRICS` that a word is, with or without a number behind it (mAP50, acc5); None for others."""
    for form in (word, word.rstrip("0123456789")):
        if form in METRICS:
            return form
        if form.endswith("accuracy"):
            return "accuracy"
    return None


def guess_direction(metric: str) -> Literal["minimize", "maximize"] | None:
    """The direction that a metric's common name implies, or None: ``val/f1_macro`` goes up, ``valid_rmse`` down.

    The last telling word decides, so ``accuracy_error`` goes down; ``score`` only where it is the only one. A ``neg``
    before it turns an error, a loss or a likelihood: scikit-learn's ``neg_log_loss`` goes up.
    """
    parts = words(metric)
    told = [(i, found) for i, word in enumerate(parts) if (found := _telling(word)) is not None]
    place, word = next((t for t in reversed(told) if t[1] != _WEAK), told[-1] if told else (0, ""))
    if not word:
        return None
    up = word != "loss" and word not in _DOWN
    if not _TURNED & set(parts[:place]):
        return "maximize" if up else "minimize"
    if up and word != "likelihood":
        return None  # turned, or of the negative class, as a recall has one
    return "minimize" if up else "maximize"


def _telling(word: str) -> str | None:
    return "loss" if word in _LOSS or word.endswith("loss") else metric_word(word)


def is_share(metric: str) -> bool:
    """Whether a metric of that name is commonly a share in [0, 1]: ``val_accuracy`` is, ``val_loss`` is not."""
    parts = words(metric)
    return any(w in _SHARES or w.endswith("accuracy") for w in parts) and not any(w.endswith("loss") for w in parts)
