"""A small language model: bytes of Python's own documentation, one after the other.

    python examples/causal_lm.py [--budget "20 trials"] [--max-epochs 6] [--workers 1] [--dir luthier-causal_lm]

A causal transformer guesses each byte from those before it. Depth, width, heads and the length of the context are
hyperparameters; every epoch shows the same number of bytes, so that long contexts get fewer of them, not more to read.
The loss is in nats a byte: below the unigram baseline it has learned spelling, far below it words. The training is a
plain function with a ``trial``; the model is Luthier's, and could be anyone's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pydoc_data.topics import topics  # what help("topics") shows: half a megabyte of text, in every Python

import torch
from common import finish, options
from torch import Tensor
from torch.nn import functional as F

import luthier as lt
from luthier.recipe.models import Transformer

EPOCH_BYTES, BATCH_BYTES, VAL_BYTES = 2**17, 2**11, 2**14

SPACE = lt.Space(
    learning_rate=lt.Float(1e-4, 3e-2, log=True, default=3e-3),
    depth=lt.Int(1, 4, default=2),
    width=lt.Choice(32, 64, 96, default=64),  # each a multiple of every number of heads
    heads=lt.Choice(2, 4, 8, default=4),
    context=lt.Int(16, 128, log=True, default=64),
)


def data() -> tuple[Tensor, Tensor]:
    """Bytes of whole topics to train on, and of others to validate with."""
    texts = [topics[name].encode() for name in sorted(topics)]
    val = b"".join(texts[::10])
    train = b"".join(text for i, text in enumerate(texts) if i % 10)
    return torch.tensor(list(train)), torch.tensor(list(val[:VAL_BYTES]))


def unigram(train: Tensor, val: Tensor) -> float:
    """Nats a byte of guessing each byte by how frequent it is."""
    counts = torch.bincount(train, minlength=256) + 1.0
    return float(-(counts / counts.sum()).log()[val].mean())


def train(trial: lt.Trial) -> None:
    """Train one configuration; nothing in it knows that it is being tuned but ``trial``."""
    config, (text, held) = trial.config, data()
    context = config["context"]
    model = Transformer(
        256, 0, context, 256, config["depth"], config["width"], config["heads"], dropout=0.0, drop_path=0.0, causal=True
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["learning_rate"], weight_decay=0.05)
    steps, rows = EPOCH_BYTES // BATCH_BYTES, max(1, BATCH_BYTES // context)
    total = trial.max_epochs * steps

    def factor(step: int) -> float:  # a warmup of 5 %, then half a cosine to zero
        return min((step + 1) / (0.05 * total), 0.5 * (1 + math.cos(math.pi * step / total)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    # Each row one byte more than the context: inputs are all but the last, targets all but the first.
    val = held[: (len(held) - 1) // context * context + 1].unfold(0, context + 1, context)
    for _ in trial.epochs(model=model, optimizer=optimizer, schedule=schedule):
        model.train()
        sum_loss = 0.0
        for _ in range(steps):
            starts = torch.randint(len(text) - context, (rows, 1))
            window = text[starts + torch.arange(context + 1)]
            loss = F.cross_entropy(model(window[:, :-1]), window[:, 1:])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            sum_loss += float(loss.detach())
        model.eval()
        with torch.no_grad():
            losses = [F.cross_entropy(model(v[:, :-1]), v[:, 1:]) * len(v) for v in val.split(64)]
        trial.report(train_loss=sum_loss / steps, val_loss=sum(losses) / len(val))


def main(argv: Sequence[str] | None = None) -> lt.Result:
    """Tune, print the verdict, write the report."""
    settings = options(__doc__, "causal_lm", "20 trials", 6, argv)
    result = lt.tune(train, SPACE, strategy="playbook", minimize="val_loss", name="causal_lm", **settings)
    return finish(result, f"{unigram(*data()):.3f} nats a byte, by the frequency of each byte", settings["storage"])


if __name__ == "__main__":
    main()
