"""A small language model: bytes of Python's own documentation, one after the other.

    python examples/causal_lm.py [--budget "20 trials"] [--max-epochs 3] [--workers 1] [--dir luthier-causal_lm]

A causal transformer guesses each byte from those before it. Depth, width, heads and the length of the context are
hyperparameters; every epoch shows the same text, cut into windows as long as the context. The loss is in nats a byte:
below the unigram baseline it has learned spelling, far below it words.
"""

from __future__ import annotations

from collections.abc import Sequence
from pydoc_data.topics import topics  # what help("topics") shows: half a megabyte of text, in every Python

import torch
from common import finish, options
from torch import Tensor

import luthier as lt

TRAIN_BYTES, VAL_BYTES = 2**17, 2**14

SPACE = lt.Space(
    learning_rate=lt.Float(1e-4, 3e-2, log=True, default=3e-3),
    batch_size=lt.Int(8, 64, log=True, default=32),  # windows
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
    return torch.tensor(list(train[:TRAIN_BYTES])), torch.tensor(list(val[:VAL_BYTES]))


def unigram(train: Tensor, val: Tensor) -> float:
    """Nats a byte of guessing each byte by how frequent it is."""
    counts = torch.bincount(train, minlength=256) + 1.0
    return float(-(counts / counts.sum()).log()[val].mean())


def recipe() -> lt.Recipe:
    """The training: everything but the values of its knobs."""
    return lt.Recipe("transformer", data=data, task="language", name="causal_lm")


def main(argv: Sequence[str] | None = None) -> lt.Result:
    """Tune, print the verdict, write the report."""
    settings = options(__doc__, "causal_lm", "20 trials", 3, argv)
    result = lt.tune(recipe(), SPACE, strategy="playbook", **settings)
    return finish(result, f"{unigram(*data()):.3f} nats a byte, by the frequency of each byte", settings["storage"])


if __name__ == "__main__":
    main()
