"""Search spaces made from the knowledge base: what is worth searching for a task, tier by tier.

>>> list(recommended(optimizers=("adamw", "sgd")))
['learning_rate', 'batch_size', 'optimizer', 'momentum', 'schedule', 'warmup']
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from luthier.core.errors import SpaceError, nearest
from luthier.core.params import Choice, Constant, Float, Int, Param, Value
from luthier.core.space import Space
from luthier.knowledge.roles import SETTINGS, TIERS, Role, Setting, family, roles

Task = Literal["classification", "regression", "language"]
Model = Literal["mlp", "cnn", "pointnet", "transformer"]

OPTIMIZERS = ("adamw", "nadamw", "adam", "sgd", "rmsprop")
"""The optimizers whose numbers are known."""

WITH_MOMENTUM = ("sgd", "rmsprop")

SCHEDULES = ("cosine", "linear", "onecycle", "step")
"""Two that decay smoothly, and the two other classical ones."""

OWN_WARMUP = ("onecycle",)
"""Schedules that rise by themselves."""

HEAD_WIDTH = 64
"""A head's width that serves as a rule (Vaswani et al., arXiv 1706.03762)."""

WIDTHS = tuple(HEAD_WIDTH * k for k in (2, 4, 6, 8, 12))
HEADS = (2, 4, 8)
"""Every one divides every width, so that no configuration is invalid."""

SIZES = {"mlp": ((1, 4), (32, 512)), "cnn": ((2, 6), (8, 64)), "pointnet": ((2, 5), (16, 128))}
"""Depths and widths of small models: up to a few million parameters."""

LOSSES = {"classification": ("cross_entropy", "focal"), "regression": ("l2", "smooth_l1", "l1")}


def recommended(
    task: Task = "classification",
    tiers: Sequence[int] = (1, 2),
    setting: Setting = "scratch",
    optimizers: Sequence[str] = ("adamw", "sgd"),
    model: Model | None = None,
) -> Space:
    """A space to begin with, its names the recipe's knobs, its conditions set.

    Ranges are the unions over ``optimizers``; strong defaults and priors are looked up by optimizer when a study
    begins. The number of epochs is never searched along: it belongs to the study (Godbole et al., Deep Learning Tuning
    Playbook, 2023).

    Args:
        task: ``"classification"``, ``"regression"`` or ``"language"`` (language models and sequence labelling).
        tiers: which tiers to open, 1 to 5. Begin with (1, 2) and add 3, then 4, then 5.
        setting: ``"scratch"``, or ``"finetune"`` for pretrained weights; the space then says so (``finetune``).
        optimizers: one or more of ``OPTIMIZERS``, the default first; several become a choice.
        model: ``"mlp"``, ``"cnn"``, ``"pointnet"`` or ``"transformer"``, for its sizes in tier 3 and what not all have
            (kernel size, heads, augmentation, drop path); None for what all have.

    Raises:
        SpaceError: for an unknown task, tier, setting, optimizer or model.
    """
    _check("task", task, get_args(Task))
    _check("setting", setting, SETTINGS)
    if model is not None:
        _check("model", model, get_args(Model))
    chosen = (optimizers,) if isinstance(optimizers, str) else tuple(optimizers)
    if not chosen or not set(tiers):
        raise SpaceError("recommended() needs at least one tier and one optimizer.", "Leave them out for (1, 2).")
    for name in chosen:
        _check("optimizer", name, OPTIMIZERS)
    for tier in tiers:
        if tier not in TIERS:
            raise SpaceError(f"Unknown tier {tier!r}.", "Tiers are 1 to 5.")
    params: dict[str, Param] = {}
    if 1 in tiers:
        params |= _first(task, setting, chosen)
    if 2 in tiers:
        params |= _second(setting)
    if 3 in tiers and setting == "scratch":  # pretrained weights fix the architecture
        params |= _third(model)
    if 4 in tiers:
        params |= _fourth(task, setting, chosen, model)
    if 5 in tiers:
        params |= _fifth(task)
    if setting == "finetune":
        params |= _pretrained(5 in tiers, model)
    if not params:
        raise SpaceError(
            f"Tiers {sorted(tiers)} hold nothing to search for {setting} {task}.", "Add tier 1: tiers=(1, 2, 3)."
        )
    return Space(params)


def _first(task: Task, setting: Setting, optimizers: tuple[str, ...]) -> dict[str, Param]:
    params = {
        "learning_rate": _numeric("learning_rate", optimizers, setting),
        "batch_size": _numeric("batch_size", (), setting),
        "optimizer": Choice(*optimizers) if len(optimizers) > 1 else Constant(optimizers[0]),
    }
    kinds = [o for o in optimizers if o in WITH_MOMENTUM]
    if kinds:
        params["momentum"] = _numeric("momentum", tuple(kinds), setting, when={"optimizer": kinds})
    if task == "language":
        params["grad_clip"] = _numeric("grad_clip")
    return params


def _second(setting: Setting) -> dict[str, Param]:
    rising = [s for s in SCHEDULES if s not in OWN_WARMUP]
    return {
        "schedule": Choice(*SCHEDULES),
        "warmup": _numeric("warmup", (), setting, when={"schedule": rising}),
    }


def _third(model: Model | None) -> dict[str, Param]:
    if model == "transformer":
        return {"depth": Int(2, 12, log=True), "width": Choice(*WIDTHS), "heads": Choice(*HEADS)}
    if model is None:
        return {"depth": _numeric("depth"), "width": _numeric("width")}
    depth, width = SIZES[model]
    params: dict[str, Param] = {"depth": Int(*depth), "width": Int(*width, log=True)}
    if model == "cnn":
        params["kernel_size"] = Choice(3, 5, 7)
    return params


def _fourth(task: Task, setting: Setting, optimizers: tuple[str, ...], model: Model | None) -> dict[str, Param]:
    names = ["dropout"]
    if task != "regression":
        names.append("label_smoothing")
    if model == "transformer":
        names.append("drop_path")
    if model in ("cnn", "pointnet"):
        names.append("augmentation")
    if model == "cnn" and task == "classification":
        names.append("mixup")
    decay = {"weight_decay": _numeric("weight_decay", optimizers, setting)}
    return decay | {name: _numeric(name) for name in names}


def _fifth(task: Task) -> dict[str, Param]:
    if task == "regression":
        beta = _numeric("smooth_l1_beta", when={"loss": "smooth_l1"})
        return {"loss": Choice(*LOSSES["regression"]), "smooth_l1_beta": beta}
    if task == "language":
        return {"ema": Choice(0.0, 0.99, 0.999)}
    gamma = _numeric("focal_gamma", when={"loss": "focal"})
    # Weights and the focal loss do the same work: one of them at a time.
    weights = Choice("none", "balanced", when={"loss": "cross_entropy"})
    return {"loss": Choice(*LOSSES["classification"]), "focal_gamma": gamma, "class_weights": weights}


def _pretrained(open_policy: bool, model: Model | None) -> dict[str, Param]:
    """How to go on from pretrained weights: the policy itself is searched in tier 5 only."""
    if not open_policy:
        return {"finetune": Constant("head_then_full"), "head_epochs": Constant(1)}
    params: dict[str, Param] = {
        "finetune": Choice("head_then_full", "full", "gradual", "head"),
        "head_epochs": _numeric("head_epochs", when={"finetune": "head_then_full"}),
    }
    if model in (None, "transformer"):
        params["layer_decay"] = _numeric("layer_decay", when={"finetune": ["head_then_full", "full", "gradual"]})
    return params


def _numeric(
    name: str,
    optimizers: tuple[str, ...] = (),
    setting: Setting = "scratch",
    *,
    when: dict[str, Value | list[str]] | None = None,
) -> Param:
    """The search range of a role: the union over ``optimizers``."""
    known: Role = roles()[name]
    kinds = [family(o) for o in optimizers] or [None]
    lows = [v for k in kinds if (v := known.number("low", k, setting)) is not None]
    highs = [v for k in kinds if (v := known.number("high", k, setting)) is not None]
    if known.kind == "int":
        return Int(int(min(lows)), int(max(highs)), known.log, when=when)
    return Float(min(lows), max(highs), known.log, when=when)


def _check(what: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise SpaceError(f"Unknown {what} {given!r}.", nearest(str(given), known))
