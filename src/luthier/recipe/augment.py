"""Augmentation of whole batches, each kind with one dial from 0 (the batch as it is, bit for bit) to 1.

Every number is drawn from the generator that is given, on its device, and for each sample by itself; the work is done
for all samples at once. Two calls with generators in the same state give the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from luthier.core.errors import UserError, nearest

HALF = 0.5
"""The part of the samples that a flip, a rotation, a change of colours or an erasure happens to, at most: torchvision's
default for flips, Zhong et al. 2020's for erasures, and ours for the others, so that plain images are seen too."""

# Images, at the dial's end.
SHIFT = 1 / 8
"""Of a side: the 4 of 32 pixels by which He et al. 2016, section 4.2, pad and crop."""
ROTATION = math.radians(30.0)
"""Cubuk et al. 2020 (RandAugment), and AutoAugment before it: at the largest magnitude."""
COLOUR = 0.4
"""fb.resnet.torch's jitter of brightness and contrast on ImageNet: factors of 1 +- 0.4. Brightness is added here, in
standard deviations of the image, because inputs that were normalized have no black to multiply from."""
ERASED_AREA = (0.02, 1 / 3)
ERASED_ASPECT = 0.3
"""Zhong et al. 2020 (Random Erasing), section 3.1: areas from 0.02, height to width 0.3 to 1/0.3; the upper area as in
torchvision, where the paper has 0.4."""

# Point clouds, at the dial's end. They are in units of a cloud scaled into the unit sphere, as Qi et al. 2017 do it.
JITTER, JITTER_CLIP = 0.01, 0.05
"""Qi et al. 2017 (PointNet++, provider.py: jitter_point_cloud)."""
SCALE = 1.5
SHIFT_3D = 0.2
"""Each axis times 2/3 to 3/2, plus up to 0.2: DGCNN (Wang et al. 2019; data.py: translate_pointcloud), PointNeXt."""
DROPPED = 0.875
"""The largest part of a cloud that is dropped: PointNet++'s max_dropout_ratio (provider.py: random_point_dropout)."""


def augment(kind: str, x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """A batch of the same shape, each sample altered in its own way; ``x`` itself with ``strength`` 0.

    - ``"image"``, ``(batch, channels, height, width)`` or ``(batch, height, width)``: brightness and contrast within
      the image's own range of values, rotation and shift with zeros from outside, an erased rectangle in the mean
      colour, a horizontal flip. See :func:`image`.
    - ``"image_noflip"``: the same without the flip, for digits, text, and whatever else a mirror changes.
    - ``"points"``, ``(batch, points, 3 or more)``: jitter, scale, shift, rotation about z, dropout of points. See
      :func:`points`.

    Whole numbers (bytes of images) become PyTorch's default float.

    Args:
        strength: the dial, in [0, 1]: magnitudes are proportional to it, and so is how often anything happens.
        generator: of any device; its draws are copied to the device of ``x``.

    Raises:
        UserError: an unknown kind, a strength out of its range, a shape that does not suit the kind.
    """
    if kind not in KINDS:
        raise UserError(f"Unknown augmentation {kind!r}.", nearest(kind, KINDS))
    if not 0.0 <= strength <= 1.0:
        raise UserError(f"The strength of augmentation {strength!r} is not in [0, 1].", "0 is none, 1 is a lot.")
    if strength == 0.0:
        return x
    x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
    return KINDS[kind](x, strength, generator)


def mixup(x: Tensor, y: Tensor, alpha: float, generator: torch.Generator, outputs: int) -> tuple[Tensor, Tensor]:
    """Each sample mixed with another one of the batch, inputs and targets alike (Zhang et al. 2018, equation 1).

    One weight from Beta(alpha, alpha) holds for the whole batch, as in the authors' code; the paper's alpha is 0.2 for
    ImageNet and 1 for CIFAR.

    Args:
        x: inputs ``(batch, ...)``; whole numbers become floats.
        y: class indices ``(batch,)`` of int64, or floats ``(batch, ...)`` to be mixed as they are (regression).
        alpha: at least 0; with 0 nothing is mixed.
        outputs: classes.

    Returns:
        Inputs, and probabilities ``(batch, outputs)`` that sum to 1, or mixed floats of the shape of ``y``.

    Raises:
        UserError: a negative or infinite alpha, or targets of a shape that cannot be mixed.
    """
    if not 0.0 <= alpha < math.inf:
        raise UserError(f"mixup={alpha!r} is not at least 0.", "0 is none; 0.2 is usual.")
    targets = y
    if not y.is_floating_point():
        if y.ndim != 1:
            raise UserError(f"mixup cannot mix targets of shape {tuple(y.shape)}.", "Leave mixup at 0 for sequences.")
        targets = F.one_hot(y, outputs).to(torch.get_default_dtype())
    if alpha == 0.0:
        return x, targets
    x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
    # PyTorch's own Beta takes no generator.
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    weight = float(np.random.default_rng(seed).beta(alpha, alpha))
    other = torch.randperm(len(x), generator=generator, device=generator.device).to(x.device)
    return torch.lerp(x[other], x, weight), torch.lerp(targets[other], targets, weight)


def image(x: Tensor, strength: float, generator: torch.Generator, *, flips: bool) -> Tensor:
    """Floats ``(batch, [channels,] height, width)`` altered; see :func:`augment`.

    At the dial's end: shift by an eighth of each side, and for half of the samples each a rotation by up to 30 degrees,
    brightness by 0.4 standard deviations and contrast by 0.4, an erasure of up to a third, a flip. No value leaves the
    range of its image and 0. The draws are the same whether it ``flips`` or not.
    """
    if x.ndim not in (3, 4):
        raise UserError(f"Images need 3 or 4 dimensions, the batch's first; got {tuple(x.shape)}.", "Reshape them.")
    shape, x = x.shape, x.unsqueeze(1) if x.ndim == 3 else x
    draw = _Draws(len(x), generator, x)
    x = _coloured(x, strength, draw)
    x = _moved(x, strength, draw)
    x = _erased(x, strength, draw)
    flipped = draw.chance(HALF * strength)
    return flip(x, flipped & flips).reshape(shape)


def points(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Floats ``(batch, points, 3 or more)`` altered; see :func:`augment`. Only x, y and z change, not other features.

    At the dial's end: rotation about z (up) by any angle, each axis scaled by 2/3 to 3/2 (log-uniformly) and shifted by
    up to 0.2, normal jitter of 0.01 cut at 0.05, and up to seven eighths of the points replaced by the cloud's first
    one, features and all: to a model that takes a maximum over points they are gone.
    """
    if x.ndim != 3 or x.shape[2] < 3:
        raise UserError(f"Clouds need the shape (batch, points, 3 or more); got {tuple(x.shape)}.", "Reshape them.")
    draw = _Draws(len(x), generator, x)
    xyz = rotate_z(x[:, :, :3], draw.even() * math.pi * strength)
    xyz = xyz * SCALE ** (draw.even(1, 3) * strength) + draw.even(1, 3) * SHIFT_3D * strength
    noise = draw.normal(x.shape[1], 3) * JITTER * strength
    xyz = xyz + noise.clamp_(-JITTER_CLIP * strength, JITTER_CLIP * strength)
    x = torch.cat([xyz, x[:, :, 3:]], 2)
    dropped = draw.uniform(x.shape[1]) < draw.uniform(1) * DROPPED * strength
    return torch.where(dropped[:, :, None], x[:, :1], x)


def flip(x: Tensor, chosen: Tensor) -> Tensor:
    """Images ``(batch, channels, height, width)``, those that are ``chosen`` (booleans, ``(batch,)``) left to right."""
    return torch.where(chosen.view(-1, 1, 1, 1), x.flip(3), x)


def rotate_z(xyz: Tensor, angle: Tensor) -> Tensor:
    """Points ``(batch, points, 3)`` turned about the z axis by ``angle``, radians of shape ``(batch,)``."""
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    x, y, z = xyz.unbind(2)
    return torch.stack([cos * x - sin * y, sin * x + cos * y, z], 2)


KINDS: Mapping[str, Callable[[Tensor, float, torch.Generator], Tensor]] = {
    "image": lambda x, strength, generator: image(x, strength, generator, flips=True),
    "image_noflip": lambda x, strength, generator: image(x, strength, generator, flips=False),
    "points": points,
}
"""Every kind of :func:`augment`."""


class _Draws:
    """Random numbers for a batch of ``n``, of the type and on the device of ``like``."""

    def __init__(self, n: int, generator: torch.Generator, like: Tensor) -> None:
        self._n, self._generator, self._like = n, generator, like

    def uniform(self, *shape: int) -> Tensor:
        """In [0, 1), of shape ``(n, *shape)``."""
        return torch.rand(
            (self._n, *shape), generator=self._generator, device=self._generator.device, dtype=torch.float32
        ).to(self._like)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, of shape ``(n, *shape)``."""
        return torch.randn(
            (self._n, *shape), generator=self._generator, device=self._generator.device, dtype=torch.float32
        ).to(self._like)

    def even(self, *shape: int) -> Tensor:
        """In [-1, 1), of shape ``(n, *shape)``."""
        return 2.0 * self.uniform(*shape) - 1.0

    def chance(self, probability: float) -> Tensor:
        """True with ``probability``, of shape ``(n,)``."""
        return self.uniform() < probability


def _coloured(x: Tensor, strength: float, draw: _Draws) -> Tensor:
    low, high, mean = x.amin((1, 2, 3), True), x.amax((1, 2, 3), True), x.mean((1, 2, 3), True)
    spread = x.std((1, 2, 3), correction=0, keepdim=True)
    each = (-1, 1, 1, 1)
    contrast = 1.0 + draw.even().view(each) * COLOUR * strength
    brightness = draw.even().view(each) * COLOUR * strength * spread
    changed = ((x - mean) * contrast + mean + brightness).clamp(low, high)
    return torch.where(draw.chance(HALF).view(each), changed, x)


def _moved(x: Tensor, strength: float, draw: _Draws) -> Tensor:
    """Turned about the centre, then shifted by whole pixels: what is not turned is not blurred."""
    angle = draw.even() * ROTATION * strength * draw.chance(HALF)
    cos, sin = angle.cos(), angle.sin()
    height, width = x.shape[2:]
    # Rounded up or down at random, else a weak dial would never shift a small image.
    down = (draw.even() * SHIFT * strength * height + draw.uniform()).floor()
    right = (draw.even() * SHIFT * strength * width + draw.uniform()).floor()
    # affine_grid maps places of the output to places of the input, both from -1 to 1 whatever the sides; so a rotation
    # has the ratio of the sides in it, and a pixel is 2 / side.
    theta = torch.stack(
        [
            torch.stack([cos, sin * (height / width), -2.0 * right / width], 1),
            torch.stack([-sin * (width / height), cos, -2.0 * down / height], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _erased(x: Tensor, strength: float, draw: _Draws) -> Tensor:
    height, width = x.shape[2:]
    low, high = ERASED_AREA
    area = low + draw.uniform() * max(high * strength - low, 0.0)
    aspect = torch.exp(draw.even() * math.log(1.0 / ERASED_ASPECT))
    tall, wide = torch.sqrt(area * aspect).clamp(max=1.0) * height, torch.sqrt(area / aspect).clamp(max=1.0) * width
    top, left = draw.uniform() * (height - tall), draw.uniform() * (width - wide)
    rows, columns = torch.arange(height, device=x.device) + 0.5, torch.arange(width, device=x.device) + 0.5
    inside_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])
    inside_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    chosen = draw.chance(HALF * strength).view(-1, 1, 1, 1)
    return torch.where(inside & chosen, x.mean((2, 3), True), x)
