"""Ten small trainings with eleven hyperparameters each, in ranges so wide that knowing nothing would be no excuse.

What each wants differs: labels are noisy or clean, the network too small, too deep or trained before, an epoch one look
at the data or a fixed number of updates. docs/benchmarks.md says where the best of each lay, and what they share.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import luthier as lt
from search import data, nets
from search.task import Config
from search.training import Live

OPTIMIZERS = ("adamw", "sgd", "rmsprop")
SCHEDULES = ("constant", "cosine", "onecycle", "step")


def _i(config: Config, name: str) -> int:
    return int(str(config[name]))


def _f(config: Config, name: str) -> float:
    return float(str(config[name]))


def _drop(config: Config, generator: torch.Generator) -> nets.Dropout:
    return nets.Dropout(_f(config, "dropout"), generator)


# -- losses and scores -------------------------------------------------------------------------------------------------


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor, config: Config, rng: np.random.Generator) -> Tensor:
    """Cross-entropy with the configuration's ``label_smoothing``, if it has one."""
    return F.cross_entropy(model(x), y, label_smoothing=float(str(config.get("label_smoothing", 0.0))))


def mixed(model: nn.Module, x: Tensor, y: Tensor, config: Config, rng: np.random.Generator) -> Tensor:
    """Cross-entropy of images mixed in pairs, some batches moved by up to a pixel."""
    x = torch.roll(x, tuple(rng.integers(-1, 2, 2)), (2, 3)) if rng.random() < _f(config, "shift_prob") else x
    return _in_pairs(model, x, y, config, rng)


def _in_pairs(model: nn.Module, x: Tensor, y: Tensor, config: Config, rng: np.random.Generator) -> Tensor:
    """mixup (arXiv 1710.09412) with the configuration's ``mixup`` as alpha."""
    alpha = _f(config, "mixup")
    if alpha <= 0:
        return cross_entropy(model, x, y, config, rng)
    part = float(rng.beta(alpha, alpha))
    other = torch.as_tensor(rng.permutation(len(x)))
    smooth = float(str(config.get("label_smoothing", 0.0)))
    out = model(part * x + (1 - part) * x[other])
    both = (F.cross_entropy(out, labels, label_smoothing=smooth) for labels in (y, y[other]))
    return part * next(both) + (1 - part) * next(both)


def jittered(model: nn.Module, x: Tensor, y: Tensor, config: Config, rng: np.random.Generator) -> Tensor:
    """Cross-entropy of clouds whose points were moved by normal noise of the configuration's ``jitter``."""
    noise = torch.as_tensor(rng.standard_normal(x.shape, dtype=np.float32))
    return cross_entropy(model, x + _f(config, "jitter") * noise, y, config, rng)


def noised(model: nn.Module, x: Tensor, y: Tensor, config: Config, rng: np.random.Generator) -> Tensor:
    """Cross-entropy of inputs with normal noise of the configuration's ``input_noise``, mixed in pairs by ``mixup``."""
    x = x + _f(config, "input_noise") * torch.as_tensor(rng.standard_normal(x.shape, dtype=np.float32))
    return _in_pairs(model, x, y, config, rng)


def weighted(model: nn.Module, x: Tensor, y: Tensor, config: Config, rng: np.random.Generator) -> Tensor:
    """Cross-entropy, every class as heavy as any other where ``class_weights`` is ``balanced``."""
    labels = data.cuts().y
    weights = len(labels) / (5 * torch.bincount(labels)) if config["class_weights"] == "balanced" else None
    return F.cross_entropy(model(x), y, weights, label_smoothing=_f(config, "label_smoothing"))


def regression(model: nn.Module, x: Tensor, y: Tensor, config: Config, rng: np.random.Generator) -> Tensor:
    """The squared, absolute or Huber loss, by ``loss``."""
    losses = {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.smooth_l1_loss}
    return losses[str(config["loss"])](model(x)[:, 0], y)


def next_letter(model: nn.Module, x: Tensor, y: Tensor, config: Config, rng: np.random.Generator) -> Tensor:
    """Cross-entropy of every next character."""
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten(), label_smoothing=_f(config, "label_smoothing"))


def error(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Cross-entropy and the part of wrong answers."""
    out = model(x)
    return F.cross_entropy(out, y).item(), (out.argmax(1) != y).float().mean().item()


def balanced_error(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Cross-entropy and 1 - the mean recall of the classes."""
    out = model(x)
    right = (out.argmax(1) == y).float()
    recall = torch.stack([right[y == k].mean() for k in range(out.shape[1])])
    return F.cross_entropy(out, y).item(), 1 - recall.mean().item()


def absolute(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """The mean squared and the mean absolute error."""
    out = model(x)[:, 0]
    return F.mse_loss(out, y).item(), F.l1_loss(out, y).item()


def nats(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Nats a character, as loss and as metric."""
    loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten()).item()
    return loss, loss


# -- the tasks ---------------------------------------------------------------------------------------------------------

EXPERT: Config = {
    "learning_rate": 1e-3, "batch_size": 64, "optimizer": "adamw", "momentum": 0.9, "schedule": "cosine",
    "warmup": 0.05, "weight_decay": 1e-2, "dropout": 0.1, "label_smoothing": 0.0, "depth": 2,
}  # fmt: skip
"""What most would begin with, whatever the task."""


def _begin(space: lt.Space, names: Mapping[str, str] | None = None, **more: object) -> Config:
    called = {(names or {}).get(k, k): v for k, v in EXPERT.items()} | more
    return {name: called[name] for name in space}


def _common(batch: tuple[int, int], decay: float = 0.1) -> dict[str, lt.Float | lt.Int | lt.Choice]:
    return {
        "learning_rate": lt.Float(1e-6, 1.0, log=True),
        "batch_size": lt.Int(*batch, log=True),
        "optimizer": lt.Choice(*OPTIMIZERS),
        "momentum": lt.Float(0.5, 0.99),
        "schedule": lt.Choice(*SCHEDULES),
        "weight_decay": lt.Float(1e-6, decay, log=True),
        "dropout": lt.Float(0.0, 0.5),
    }


def digits_mlp() -> Live:
    """Digits with 30 % wrong labels: what matters is to resist them."""
    space = lt.Space(
        {
            **_common((8, 256), decay=1.0),
            "warmup_fraction": lt.Float(0.0, 0.2),
            "depth": lt.Int(1, 4),
            "width": lt.Int(16, 128, log=True),
            "label_smoothing": lt.Float(0.0, 0.3),
        }
    )
    return Live(
        "digits_mlp", space, 20, "val_error", data.noisy_digits,
        lambda c, g: nets.mlp(64, 10, _i(c, "depth"), _i(c, "width"), _drop(c, g)),
        cross_entropy, error, 0.9, _begin(space, warmup_fraction=0.05, width=64), {"warmup": "warmup_fraction"},
    )  # fmt: skip


def mnist1d_mlp() -> Live:
    """MNIST-1D, on which an MLP has to be wide and long trained, then regularized."""
    space = lt.Space(
        {
            **_common((32, 512)),
            "warmup": lt.Float(0.0, 0.2),
            "depth": lt.Int(1, 4),
            "width": lt.Int(16, 128, log=True),
            "activation": lt.Choice("relu", "gelu", "tanh"),
        }
    )
    return Live(
        "mnist1d_mlp", space, 15, "val_error", data.mnist1d,
        lambda c, g: nets.mlp(40, 10, _i(c, "depth"), _i(c, "width"), _drop(c, g), str(c["activation"])),
        cross_entropy, error, 0.9, _begin(space, width=64, activation="relu"),
    )  # fmt: skip


def mnist1d_cnn() -> Live:
    """MNIST-1D by convolutions: a good kernel and clipped gradients at a high rate."""
    space = lt.Space(
        lr=lt.Float(1e-6, 1.0, log=True),
        batch_size=lt.Int(32, 512, log=True),
        optimizer=lt.Choice(*OPTIMIZERS),
        momentum=lt.Float(0.5, 0.99),
        lr_schedule=lt.Choice(*SCHEDULES),
        num_layers=lt.Int(1, 3),
        channels=lt.Int(4, 24, log=True),
        kernel_size=lt.Choice(3, 5, 7),
        weight_decay=lt.Float(1e-6, 1e-1, log=True),
        dropout=lt.Float(0.0, 0.5),
        grad_clip=lt.Float(0.01, 10.0, log=True),
    )
    names = {"learning_rate": "lr", "schedule": "lr_schedule", "depth": "num_layers"}
    return Live(
        "mnist1d_cnn", space, 12, "val_error", data.mnist1d,
        lambda c, g: nets.cnn1d(10, _i(c, "num_layers"), _i(c, "channels"), _i(c, "kernel_size"), _drop(c, g)),
        cross_entropy, error, 0.9, _begin(space, names, channels=16, kernel_size=5, grad_clip=1.0), names,
    )  # fmt: skip


def digits_cnn() -> Live:
    """250 images: many small updates, and something against learning them by heart."""
    space = lt.Space(
        learning_rate=lt.Float(1e-6, 1.0, log=True),
        batch_size=lt.Int(8, 128, log=True),
        optimizer=lt.Choice(*OPTIMIZERS),
        momentum=lt.Float(0.5, 0.99),
        schedule=lt.Choice(*SCHEDULES),
        depth=lt.Int(1, 3),
        width=lt.Int(4, 20, log=True),
        weight_decay=lt.Float(1e-6, 1e-1, log=True),
        dropout=lt.Float(0.0, 0.5),
        mixup=lt.Float(0.0, 1.0),
        shift_prob=lt.Float(0.0, 1.0),
    )
    return Live(
        "digits_cnn", space, 15, "val_error", data.few_digits,
        lambda c, g: nets.cnn2d(10, _i(c, "depth"), _i(c, "width"), _drop(c, g)),
        mixed, error, 0.9, _begin(space, width=12, mixup=0.1, shift_prob=0.2),
    )  # fmt: skip


def diamonds_mlp() -> Live:
    """The price of a diamond, in standard deviations of its logarithm: a regression without noise to speak of."""
    space = lt.Space(
        {
            **_common((16, 512)),
            "depth": lt.Int(1, 4),
            "width": lt.Int(16, 128, log=True),
            "loss": lt.Choice("mse", "mae", "huber"),
            "activation": lt.Choice("relu", "gelu", "tanh"),
        }
    )
    return Live(
        "diamonds_mlp", space, 12, "val_mae", data.diamonds,
        lambda c, g: nets.mlp(9, 1, _i(c, "depth"), _i(c, "width"), _drop(c, g), str(c["activation"])),
        regression, absolute, 1.0, _begin(space, width=64, loss="mse", activation="relu"),
    )  # fmt: skip


def cuts_mlp() -> Live:
    """How well a diamond is cut, classes of 3 to 40 %, by balanced error: the weights of the classes decide, and the
    network is deep enough to want small steps."""
    space = lt.Space(
        {
            **_common((16, 512)),
            "depth": lt.Int(2, 6),
            "width": lt.Int(16, 96, log=True),
            "class_weights": lt.Choice("none", "balanced"),
            "label_smoothing": lt.Float(0.0, 0.3),
        }
    )
    return Live(
        "cuts_mlp", space, 10, "val_balanced_error", data.cuts,
        lambda c, g: nets.mlp(7, 5, _i(c, "depth"), _i(c, "width"), _drop(c, g)),
        weighted, balanced_error, 0.8, _begin(space, width=64, class_weights="none"),
    )  # fmt: skip


def char_lm() -> Live:
    """A causal transformer on this project's licence; an epoch is 15 updates, so a large batch sees more."""
    space = lt.Space(
        lr=lt.Float(1e-6, 1.0, log=True),
        batch_size=lt.Int(2, 24, log=True),
        beta1=lt.Float(0.5, 0.99),
        beta2=lt.Float(0.9, 0.9999),
        schedule=lt.Choice("constant", "cosine", "linear"),
        warmup_ratio=lt.Float(0.0, 0.2),
        n_layers=lt.Int(1, 2),
        d_model=lt.Int(16, 48, log=True),
        weight_decay=lt.Float(1e-4, 1.0, log=True),
        dropout=lt.Float(0.0, 0.5),
        label_smoothing=lt.Float(0.0, 0.3),
    )
    names = {"learning_rate": "lr", "momentum": "beta1", "warmup": "warmup_ratio"}

    def model(config: Config, generator: torch.Generator) -> nn.Module:
        width = 4 * round(_i(config, "d_model") / 4)  # two heads of whole, even width
        drop = _drop(config, generator)
        return nets.Transformer(data.alphabet(), data.CONTEXT, _i(config, "n_layers"), width, 2, drop)

    begin = _begin(space, names, batch_size=8, beta2=0.99, n_layers=2, d_model=32)
    return Live("char_lm", space, 12, "val_nats", data.letters, model, next_letter, nats, 5.0, begin, names, steps=15)


def solids_pointnet() -> Live:
    """Eight kinds of point clouds, few of each: many small updates, and noise on the points helps."""
    space = lt.Space(
        {
            **_common((4, 64)),
            "depth": lt.Int(1, 3),
            "width": lt.Int(8, 32, log=True),
            "jitter": lt.Float(0.0, 0.2),
            "label_smoothing": lt.Float(0.0, 0.3),
        }
    )
    return Live(
        "solids_pointnet", space, 15, "val_error", data.solids,
        lambda c, g: nets.PointNet(8, _i(c, "depth"), _i(c, "width"), _drop(c, g)),
        jittered, error, 0.875, _begin(space, batch_size=32, width=24, jitter=0.02),
    )  # fmt: skip


def digits_finetune() -> Live:
    """A trained network meets another domain with 120 digits, some mislabelled: what it knows must not be lost."""
    space = lt.Space(
        {
            **_common((8, 64)),
            "warmup_fraction": lt.Float(0.0, 0.2),
            "label_smoothing": lt.Float(0.0, 0.3),
            "mixup": lt.Float(0.0, 1.0),
            "input_noise": lt.Float(0.0, 0.5),
        }
    )

    def model(config: Config, generator: torch.Generator) -> nn.Module:
        made = nets.mlp(64, 10, 2, 128, _drop(config, generator))
        made.load_state_dict(data.pretrained())
        return made

    begin = _begin(space, batch_size=16, warmup_fraction=0.05, mixup=0.0, input_noise=0.0)
    names = {"warmup": "warmup_fraction"}
    return Live(
        "digits_finetune", space, 15, "val_error", data.turned_digits, model, noised, error, 0.9, begin, names
    )  # fmt: skip


def spirals_deep() -> Live:
    """Spirals and a deep, narrow network; an epoch is 30 updates: a large batch and a low rate."""
    space = lt.Space(
        {
            **_common((8, 256)),
            "warmup": lt.Float(0.0, 0.2),
            "depth": lt.Int(3, 8),
            "width": lt.Int(8, 48, log=True),
            "activation": lt.Choice("relu", "gelu", "tanh"),
        }
    )
    return Live(
        "spirals_deep", space, 15, "val_error", data.spirals,
        lambda c, g: nets.mlp(2, 3, _i(c, "depth"), _i(c, "width"), _drop(c, g), str(c["activation"])),
        cross_entropy, error, 0.667, _begin(space, depth=5, width=24, activation="relu"), steps=30,
    )  # fmt: skip


LIVE = {
    make.__name__: make
    for make in (
        digits_mlp, mnist1d_mlp, mnist1d_cnn, digits_cnn, diamonds_mlp, cuts_mlp, char_lm, solids_pointnet,
        digits_finetune, spirals_deep,
    )
}  # fmt: skip
"""By name."""
