"""Images: a convolutional network for photographs of clothes, and the knobs of such a network.

    python examples/images.py [--budget "20 trials"] [--max-epochs 6] [--workers 1] [--dir luthier-images]

Shows the recipe: a model by name, two data sets, and a space of what matters for images. Depth, width and kernel size
say what the network can express; dropout and augmentation (shifts, rotations, flips, brightness, erased patches, all
on one dial from 0 to 1) say what it may not learn by heart. What the space leaves out keeps its default.
"""

from __future__ import annotations

from collections.abc import Sequence

from common import clothes, finish, options
from torch.utils.data import TensorDataset

import luthier as lt

TRAIN, VAL = 2000, 1000
"""Images of each: few, so that an epoch takes about a second, and regularization has something to do."""

SPACE = lt.Space(
    # Meant at 32 images a batch; for other batches it follows by the square root, as Adam's relatives want it.
    learning_rate=lt.coupled(lt.Float(1e-4, 1e-1, log=True, default=1e-3), "batch_size", reference=32),
    batch_size=lt.Int(16, 128, log=True, default=32),
    schedule=lt.Choice("cosine", "onecycle", "step"),
    # Capacity.
    depth=lt.Int(2, 4, default=3),
    width=lt.Int(12, 32, log=True, default=20),
    kernel_size=lt.Choice(3, 5),
    # Regularization.
    dropout=lt.Float(0.0, 0.5, default=0.0),
    augmentation=lt.Float(0.0, 1.0, default=0.4),
)


def data() -> tuple[TensorDataset, TensorDataset]:
    """The images in two parts. The recipe calls this where it trains, so that only the function travels."""
    x, y = clothes()
    split = min(TRAIN, len(y) * 2 // 3)
    return TensorDataset(x[:split], y[:split]), TensorDataset(x[split : split + VAL], y[split : split + VAL])


def recipe() -> lt.Recipe:
    """The training: everything but the values of its knobs."""
    return lt.Recipe("cnn", *data(), augment="image", name="images")


def main(argv: Sequence[str] | None = None) -> lt.Result:
    """Tune, print the verdict, write the report."""
    settings = options(__doc__, "images", "20 trials", 6, argv)
    result = lt.tune(recipe(), SPACE, strategy="playbook", **settings)
    return finish(result, "0.1, for ten classes of about the same size", settings["storage"])


if __name__ == "__main__":
    main()
