"""Point clouds: a PointNet that knows clothes by their points alone, and how much to shake the clouds.

    python examples/point_clouds.py [--budget "24 trials"] [--max-epochs 6] [--workers 1] [--dir luthier-point_clouds]

Each photograph of Fashion-MNIST becomes a relief: 128 points drawn where there is light, the more the brighter, with
the brightness as the height. The network sees a set of (x, y, z) without an order and without pixels. One dial,
``augmentation``, scales everything that the recipe does to clouds: rotation about z, scale, shift, jitter, dropout of
points. Too little and a few thousand clouds are learned by heart; too much and a lying boot is a standing one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from common import clothes, finish, options
from torch import Tensor
from torch.utils.data import TensorDataset

import luthier as lt

TRAIN, VAL, POINTS = 2000, 1000, 128

SPACE = lt.Space(
    learning_rate=lt.Float(1e-4, 1e-1, log=True, default=1e-3),
    batch_size=lt.Constant(32),
    augmentation=lt.Float(0.0, 1.0, default=0.4),
    depth=lt.Int(2, 4, default=3),
    width=lt.Int(16, 64, log=True, default=32),
    dropout=lt.Float(0.0, 0.5, default=0.1),
    precision=lt.Choice("fp32", "bf16"),  # where the machine has instructions for it, bf16 is faster
)


def clouds(images: Tensor) -> Tensor:
    """Reliefs ``(n, POINTS, 3)`` of images ``(n, 1, side, side)`` in [0, 1], centred and inside the unit sphere."""
    generator = torch.Generator().manual_seed(0)
    side = images.shape[-1]
    light = images.flatten(1)
    chosen = torch.multinomial(light + 1e-9, POINTS, replacement=True, generator=generator)
    row, column = chosen // side, chosen % side
    # Anywhere inside its pixel, so that a point drawn twice is two points.
    place = torch.stack([column, -row], 2) + torch.rand(len(light), POINTS, 2, generator=generator)
    points = torch.cat([2.0 * place / side, light.gather(1, chosen)[:, :, None]], 2)
    points = points - points.mean(1, keepdim=True)
    return points / points.norm(dim=2).amax(1)[:, None, None]


def data() -> tuple[TensorDataset, TensorDataset]:
    """A training and a validation set of clouds."""
    x, y = clothes()
    split = min(TRAIN, len(y) * 2 // 3)
    x, y = clouds(x[: split + VAL]), y[: split + VAL]
    return TensorDataset(x[:split], y[:split]), TensorDataset(x[split:], y[split:])


def recipe() -> lt.Recipe:
    """The training: everything but the values of its knobs."""
    return lt.Recipe("pointnet", *data(), augment="points", name="point_clouds")


def main(argv: Sequence[str] | None = None) -> lt.Result:
    """Tune, print the verdict, write the report."""
    settings = options(__doc__, "point_clouds", "24 trials", 6, argv)
    result = lt.tune(recipe(), SPACE, strategy="playbook", **settings)
    return finish(result, "0.1, for ten classes of about the same size", settings["storage"])


if __name__ == "__main__":
    main()
