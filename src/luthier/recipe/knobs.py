"""Every knob of a recipe: what its value may be at all, what it is by default, and what is worth searching."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.core.errors import SpaceError, UserError, nearest
from luthier.core.params import Choice, Constant, Float, Int, Param
from luthier.core.space import Space
from luthier.recipe import finetune, losses, models, optimizers, schedules
from luthier.recipe.augment import KINDS
from luthier.recipe.data import CONTEXT, AugmentSource, Task
from luthier.recipe.precision import PRECISIONS

KNOBS: Mapping[str, Param] = {
    "learning_rate": Float(1e-12, 1e3),
    "batch_size": Int(1, 2**24),
    "accumulate": Int(1, 2**16),
    "optimizer": Choice(*optimizers.OPTIMIZERS),
    "momentum": Float(0.0, 0.9999),
    "nesterov": Choice(False, True),
    "beta1": Float(0.0, 0.9999),
    "beta2": Float(0.0, 0.999999),
    "weight_decay": Float(0.0, 1e3),
    "grad_clip": Float(0.0, 1e6),
    "schedule": Choice(*schedules.SCHEDULES),
    "warmup": Float(0.0, 0.5),
    "decay_fraction": Float(0.001, 1.0),
    "plateau_patience": Int(1, 10**6),
    "patience": Int(1, 10**6),
    "ema": Float(0.0, 0.999999),
    "precision": Choice(*PRECISIONS),
    "loss": Choice("cross_entropy", "focal", "l2", "l1", "smooth_l1"),
    "label_smoothing": Float(0.0, 0.5),
    "class_weights": Choice(*losses.CLASS_WEIGHTS),
    "focal_gamma": Float(0.0, 20.0),
    "smooth_l1_beta": Float(1e-9, 1e9),
    "mixup": Float(0.0, 100.0),
    "augmentation": Float(0.0, 1.0),
    "finetune": Choice(*finetune.POLICIES),
    "layer_decay": Float(0.001, 1.0),
    "head_epochs": Int(1, 10**6),
    "depth": Int(1, 1000),
    "width": Int(1, 2**20),
    "dropout": Float(0.0, 0.99),
    "drop_path": Float(0.0, 0.99),
    "kernel_size": Int(1, 99),
    "heads": Int(1, 2**12),
    "context": Int(1, 2**24),
}
"""Every knob and the values that make sense at all; what is worth searching is :meth:`Recipe.space`."""

MODEL_KNOBS = ("depth", "width", "dropout", "drop_path", "kernel_size", "heads")
"""Those of the built-in models; with a function as the model they are the function's own, and unchecked."""

FINETUNE_KNOBS = tuple(finetune.DEFAULTS)
"""Those of :mod:`luthier.recipe.finetune`; with any of them in a configuration the training is a fine-tuning."""

TASK_KNOBS: Mapping[str, tuple[Task, ...]] = {
    "label_smoothing": ("classification", "language"),
    "class_weights": ("classification",),
    "focal_gamma": ("classification", "language"),
    "smooth_l1_beta": ("regression",),
    "mixup": ("classification", "regression"),
    "augmentation": ("classification", "regression"),
    "context": ("language",),
}
"""Knobs that make sense for some tasks only."""

DEFAULT_BATCH = 64
DEFAULT_WARMUP = 0.05
DEFAULT_STRENGTH = 0.4
"""Of an augmentation that a recipe has and a configuration does not speak of: the middle of what is worth searching
(the center in :mod:`luthier.knowledge`, after Qian et al. 2022, arXiv 2206.04670)."""


def settings(
    config: Mapping[str, Any], model: models.ModelSource, task: Task, augment: AugmentSource = None
) -> dict[str, Any]:
    """``config`` checked, with the defaults of what it leaves out.

    ``batch_size``, ``patience`` and ``context`` may stay None, for the data or the recipe to say.

    With a function as the model, :data:`MODEL_KNOBS` and names that the recipe does not know are the function's own; so
    is ``context``, unless the task is language.

    Raises:
        UserError: an unknown name, a value out of its range, or a knob of another task or model.
    """
    for key, value in config.items():
        own = key not in KNOBS or key in MODEL_KNOBS or (key == "context" and task != "language")
        if callable(model) and own:
            continue
        if key not in KNOBS:
            raise UserError(f"Unknown hyperparameter {key!r}.", nearest(key, KNOBS))
        knob = KNOBS[key]
        try:
            knob.check(value)
        except SpaceError as error:
            mend = nearest(str(value), map(str, knob.choices)) if isinstance(knob, Choice) else "Narrow its range."
            raise UserError(f"{key}: {error.problem}", mend) from None
        if isinstance(model, str) and key in MODEL_KNOBS and key not in models.DEFAULTS[model]:
            raise UserError(f"The {model} has no {key!r}.", f"It has {', '.join(models.DEFAULTS[model])}.")
        if task not in TASK_KNOBS.get(key, (task,)):
            tasks = " and ".join(TASK_KNOBS[key])
            raise UserError(f"{key!r} is for {tasks}; this is {task}.", "Take it out of the space.")
    if config.get("augmentation") and augment is None:
        raise UserError(
            f"augmentation={config['augmentation']!r} needs a kind of augmentation.",
            f"Say Recipe(..., augment=...) with {', '.join(map(repr, KINDS))} or a function.",
        )
    losses.make_loss(task, {**config, "class_weights": "none"}, None, 1)  # for what it says of the loss's name
    name = str(config.get("optimizer", "adamw"))
    return {
        "batch_size": None,
        "accumulate": 1,
        "optimizer": name,
        "grad_clip": 0.0,
        "schedule": "cosine",
        "warmup": DEFAULT_WARMUP,
        "decay_fraction": schedules.DECAY_FRACTION,
        "plateau_patience": schedules.PLATEAU_PATIENCE,
        "patience": None,
        "ema": 0.0,
        "precision": "fp32",
        "mixup": 0.0,
        "augmentation": 0.0 if augment is None else DEFAULT_STRENGTH,
        "context": None,
        **optimizers.DEFAULTS[name],
        **{key: value for key, value in config.items() if key in KNOBS},
    }


def batch_of(knobs: Mapping[str, Any], n_train: int, samples: str = "training samples") -> int:
    """The batch size, by default the smaller of 64 and what the data hold for one update.

    Args:
        samples: what the ``n_train`` are.

    Raises:
        UserError: the samples of an update are more than there are.
    """
    asked, accumulate = knobs["batch_size"], int(knobs["accumulate"])
    if (asked or 1) * accumulate > n_train:
        what = f"batch_size={asked}" if accumulate == 1 else f"batch_size={asked or 1} times accumulate={accumulate}"
        raise UserError(f"{what} is more than the {n_train} {samples}.", f"Use at most {n_train // 8 or 1}.")
    return int(min(DEFAULT_BATCH, n_train // accumulate) if asked is None else asked)


def default_space(n_train: int, model: models.ModelSource, augment: AugmentSource = None) -> Space:
    """What is worth searching, for ``n_train`` samples.

    Ranges are the unions over the optimizers: rates 1e-5..1e-2 for AdamW (AlgoPerf searches 1e-4..1e-2) and 1e-3..1 for
    SGD; weight decay 5e-3..1 decoupled (AlgoPerf) and 1e-5..1e-2 coupled. A batch holds at most an eighth of the data.
    The schedules are the four that decay to zero by themselves. Clipping, averaging, losses and the like are knobs to
    be opened for a reason, not to be searched from the start.
    """
    largest = min(512, max(n_train // 8, 1))
    smallest = min(16, max(largest // 4, 1))
    default = min(DEFAULT_BATCH, largest)
    params: dict[str, Param] = {
        "learning_rate": Float(1e-5, 1.0, log=True, default=1e-3),
        "batch_size": Int(smallest, largest, log=True, default=default) if smallest < largest else Constant(largest),
        "optimizer": Choice("adamw", "sgd", default="adamw"),
        "momentum": Float(0.8, 0.99, when={"optimizer": "sgd"}, default=0.9),
        "schedule": Choice("cosine", "linear", "onecycle", "wsd", default="cosine"),
        # One-cycle rises by itself.
        "warmup": Float(0.0, 0.1, when={"schedule": ["cosine", "linear", "wsd"]}, default=DEFAULT_WARMUP),
        "weight_decay": Float(1e-5, 1.0, log=True, default=0.05),
    }
    if isinstance(model, str):
        params |= MODEL_SPACES[model]
    if augment is not None:
        params["augmentation"] = Float(0.0, 1.0, default=DEFAULT_STRENGTH)
    return Space(params)


def language_space(tokens: tuple[int, int] | None, n_train: int, model: models.ModelSource) -> Space:
    """What is worth searching for a language model.

    Of AdamW alone, far behind which SGD stays on attention (Zhang et al. 2020, arXiv 1912.03194). Contexts of 16 to 256
    tokens, as far as the training stream holds 256 of the longest windows and the validation stream one; a batch holds
    at most an eighth of those.

    Args:
        tokens: in the training and the validation stream; None where the data came as windows.
        n_train: windows of training, where the data came as windows.
    """
    context: dict[str, Param] = {}
    if tokens is not None:
        longest = min(256, max(tokens[0] // 256, 16), tokens[0] - 1, tokens[1] - 1)
        shortest = min(16, longest)
        default = min(CONTEXT, longest)
        span = Int(shortest, longest, log=True, default=default) if shortest < longest else Constant(longest)
        context, n_train = {"context": span}, max(1, tokens[0] // longest - 1)
    params = {name: param for name, param in default_space(n_train, model).items() if name != "momentum"}
    params |= {
        "learning_rate": Float(1e-5, 1e-2, log=True, default=1e-3),
        "optimizer": Constant("adamw"),
        "weight_decay": Float(5e-3, 1.0, log=True, default=0.05),
    }
    return Space(params | context)


MODEL_SPACES: Mapping[str, Mapping[str, Param]] = {
    "mlp": {
        "depth": Int(1, 4, default=2),
        "width": Int(32, 512, log=True, default=128),
        "dropout": Float(0.0, 0.5, default=0.0),
    },
    "cnn": {
        "depth": Int(2, 6, default=3),
        "width": Int(8, 64, log=True, default=32),
        "dropout": Float(0.0, 0.5, default=0.0),
    },
    "pointnet": {
        "depth": Int(2, 5, default=3),
        "width": Int(16, 128, log=True, default=64),
        "dropout": Float(0.0, 0.5, default=0.0),
    },
    # The heads stay four: their number matters little, and would have to divide the width.
    "transformer": {
        "depth": Int(1, 6, default=2),
        "width": Choice(32, 64, 128, 256, default=128),
        "dropout": Float(0.0, 0.5, default=0.0),
    },
}
"""What of each built-in model is worth searching."""
