"""What a cloned trial takes over of another one's optimizer and scheduler, and what stays its own.

A state dict mixes settings (the rate, the momentum, the base rates of a schedule) with progress (the step, the rate
that the schedule has reached). Loaded as it is, it overwrites the configuration that the clone was made for. Names do
not tell the two apart, since every library has its own; what became of a value in the training does:

- it is still what it was built with: a setting, and the clone's own stands;
- it has changed: progress, which is taken over. A group's rate has both in it: what a schedule made of it is kept as a
  factor on the clone's own, so a rate of 0.1 that has decayed to 0.05 becomes 0.04 in a clone built with 0.08.

The factor is exact for schedules that multiply. Under a floor (``eta_min``) the rate until the scheduler's next step is
off by the floor's share of the change; from then on the scheduler's own formula holds.

Momenta and second moments are taken over as they are. PyTorch's hold gradients and no rate, so that a jump of the rate
does not spoil them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any


def is_optimizer(thing: Any) -> bool:
    """Whether it has groups of parameters with settings of their own, as PyTorch's optimizers have."""
    return hasattr(thing, "param_groups")


def is_scheduler(thing: Any) -> bool:
    """Whether it steers an optimizer, as PyTorch's schedulers do; a module that keeps its optimizer is none."""
    steers = is_optimizer(getattr(thing, "optimizer", None)) or hasattr(thing, "get_last_lr")
    return steers and not hasattr(thing, "named_parameters")


def settings(thing: Any) -> Any:
    """A copy of an optimizer's groups without their parameters, or of a scheduler's state; None for anything else."""
    if is_optimizer(thing):
        groups = [{k: v for k, v in group.items() if k != "params"} for group in thing.state_dict()["param_groups"]]
        return copy.deepcopy(groups)
    return copy.deepcopy(thing.state_dict()) if is_scheduler(thing) else None


def merged(thing: Any, state: Any, built: Any, mine: Any) -> Any:
    """The state to load into a clone's ``thing``, an optimizer or a scheduler; its optimizer is loaded already.

    Args:
        state: the donor's, as saved.
        built: the donor's :func:`settings` before its first epoch; None where the checkpoint does not have them.
        mine: the clone's own.
    """
    if is_optimizer(thing):
        groups = state["param_groups"]
        before = groups if built is None else built
        if not len(groups) == len(before) == len(mine):
            return state  # other groups of parameters: load_state_dict says so
        return {**state, "param_groups": [_group(*three) for three in zip(groups, before, mine)]}
    kept = state if built is None else _own(state, built, mine)
    steered: Any = getattr(thing, "optimizer", None)
    if isinstance(kept, dict) and "_last_lr" in kept and is_optimizer(steered):
        kept = {**kept, "_last_lr": [group["lr"] for group in steered.param_groups]}
    return kept


def _group(now: Mapping[str, Any], built: Mapping[str, Any], mine: Mapping[str, Any]) -> dict[str, Any]:
    group: dict[str, Any] = {**_own(dict(now), dict(built), dict(mine)), "params": now["params"]}
    # A scheduler keeps the rate it was given as initial_lr: a warmup changes lr before the first update.
    base = "initial_lr" if "initial_lr" in built and "initial_lr" in mine else "lr"
    if base in built and base in mine and not _same(now["lr"], built["lr"]) and float(built[base]) != 0.0:
        group["lr"] = now["lr"] * (float(mine[base]) / float(built[base]))
    return group


def _own(now: Any, built: Any, mine: Any) -> Any:
    """``now`` with ``mine`` wherever it still is what it was built with."""
    kinds = {type(now), type(built), type(mine)}
    if kinds == {dict}:
        return {k: _own(v, built[k], mine[k]) if k in built and k in mine else v for k, v in now.items()}
    if kinds in ({list}, {tuple}) and len(now) == len(built) == len(mine):
        return type(now)(_own(*three) for three in zip(now, built, mine))
    return mine if _same(now, built) else now


def _same(a: Any, b: Any) -> bool:
    """Equal, for plain values, containers of them, and tensors of one number; other tensors count as changed."""
    if getattr(a, "ndim", 0) or getattr(b, "ndim", 0):
        return False
    return type(a) is type(b) and bool(a == b)
