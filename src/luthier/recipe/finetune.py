"""Fine-tuning: a model's parameters in groups from input to head, and which of them train when and how fast."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, final

from torch import nn

from luthier.core.errors import UserError, nearest

POLICIES = ("full", "head", "head_then_full", "gradual")

DEFAULTS: Mapping[str, Any] = {
    "finetune": "full",
    # As it is; Howard & Ruder 2018 (ULMFiT), section 3.2, have 1/2.6 for each group of layers, BEiT and its kin 0.65.
    "layer_decay": 1.0,
    # fastai's fine_tune: freeze_epochs=1.
    "head_epochs": 1,
}
"""What a plan listens to, and where it begins."""

Member: TypeAlias = "str | nn.Module | nn.Parameter"
Group: TypeAlias = "Member | Iterable[Member]"
"""A module, a prefix of parameter names (``"encoder.layer1"``), a parameter, or several of these."""
Groups: TypeAlias = "Iterable[Group] | Callable[[nn.Module], Iterable[Group]] | None"
"""Groups from input to head, or a function from the model to them; None to find them."""


def split_in_order(model: nn.Module, groups: Groups = None) -> list[list[nn.Parameter]]:
    """The trainable parameters of ``model`` in groups, from the input to the head.

    Without ``groups`` the order of definition is taken for the order of computation, as it is in nearly every model:
    each child of the model is a group, and each part of a child that is a ``Sequential`` or a ``ModuleList``, except in
    the last child, the head, which stays whole. A model that only wraps another one is opened. A child with vectors
    alone (a norm) belongs to the group before it, the model's own parameters (position embeddings) to the first.

    A parameter that is named twice, or shared, belongs to the first group that has it. What does not require gradients
    when this is called is left out, and so stays as it is for good.

    Args:
        groups: as in :data:`Groups`; together they must cover every trainable parameter.

    Raises:
        UserError: no trainable parameter at all, a group that adds none, or parameters in no group.
    """
    names = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not names:
        raise UserError("The model has no trainable parameters.", "Leave requires_grad on for some of them.")
    if groups is None:
        return _found(model, names)
    asked = list(groups(model) if callable(groups) else groups)
    taken: set[int] = set()
    split = []
    for group in asked:
        fresh = [p for p in _members(group, names) if id(p) not in taken]
        if not fresh:
            mend = nearest(group, {name.split(".")[0] for name in names}) if isinstance(group, str) else ""
            raise UserError(
                f"The group {_called(group)} adds no trainable parameter.", mend or "Leave it out of the groups."
            )
        taken |= {id(p) for p in fresh}
        split.append(list({id(p): p for p in fresh}.values()))
    left = [name for name, p in names.items() if id(p) not in taken]
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise UserError(
            f"In no group: {', '.join(left[:3])}{more}.", "Add them to a group, or set their requires_grad to False."
        )
    return split


def plan(model: nn.Module, groups: Groups, knobs: Mapping[str, Any], max_epochs: int) -> TrainingPlan:
    """What trains when. Make it from a fresh model, before :meth:`TrainingPlan.apply` has frozen anything.

    Args:
        groups: as for :func:`split_in_order`; its answer will do.
        knobs: overrides of :data:`DEFAULTS`: ``finetune``, one of :data:`POLICIES`; ``layer_decay`` in (0, 1];
            ``head_epochs``, at least 1.
        max_epochs: of the whole training, at least 1.

    Raises:
        UserError: an unknown policy, a value out of its range, a policy for a model with one group only, or what
            :func:`split_in_order` raises.
    """
    knob = {key: knobs.get(key, value) for key, value in DEFAULTS.items()}
    policy, decay, head_epochs = str(knob["finetune"]), float(knob["layer_decay"]), int(knob["head_epochs"])
    if policy not in POLICIES:
        raise UserError(f"Unknown finetune {policy!r}.", nearest(policy, POLICIES))
    if not 0.0 < decay <= 1.0:
        raise UserError(f"layer_decay={decay!r} is not in (0, 1].", "1 is none; 0.65 to 0.95 is usual.")
    if head_epochs < 1:
        raise UserError(f"head_epochs={head_epochs} is not at least 1.", "Use finetune='full' to train all at once.")
    split = tuple(tuple(group) for group in split_in_order(model, groups))
    if policy != "full" and len(split) == 1:
        raise UserError(
            f"finetune={policy!r} needs a body and a head; the model has one group of parameters.", "Name its groups."
        )
    return TrainingPlan(split, policy, decay, head_epochs, max_epochs)


@final
@dataclass(frozen=True, eq=False)
class TrainingPlan:
    """Which groups of parameters train at which epoch, and how fast; see :func:`plan`, which checks the values.

    Args:
        groups: parameters from input to head; the last is the head.
        policy: ``"full"``, all from the start. ``"head"``, the head alone (a linear probe, if it is linear).
            ``"head_then_full"``, the head alone for ``head_epochs``, then all (LP-FT, Kumar et al. 2022: a head that
            fits does not distort the features below it). ``"gradual"``, one more group from the head down at a time
            (Howard & Ruder 2018, section 3.3), evenly over the first half, so that all train in the second.
        layer_decay: of the learning rate, from a group to the one before it.
        head_epochs: of ``"head_then_full"``; all train in the last epoch at the latest.
        max_epochs: of the whole training.
    """

    groups: tuple[tuple[nn.Parameter, ...], ...]
    policy: str
    layer_decay: float
    head_epochs: int
    max_epochs: int

    def trainable(self, epoch: int) -> frozenset[int]:
        """The indices of the groups that train in ``epoch``, counted from 1; the head's is always among them."""
        n = len(self.groups)
        count = n
        if self.policy == "head":
            count = 1
        elif self.policy == "head_then_full":
            count = 1 if epoch <= min(self.head_epochs, self.max_epochs - 1) else n
        elif self.policy == "gradual":
            # n - 1 groups are added over max_epochs / 2 epochs; in whole numbers, for no rounding may move an epoch.
            count = min(n, 1 + 2 * (epoch - 1) * (n - 1) // self.max_epochs)
        return frozenset(range(n - count, n))

    def multiplier(self, group: int) -> float:
        """The factor on a group's learning rate: ``layer_decay`` to the power of its distance from the head.

        Howard & Ruder 2018, section 3.2 (discriminative fine-tuning); layer-wise decay in BEiT and ELECTRA.
        """
        return float(self.layer_decay ** (len(self.groups) - 1 - group))

    def apply(self, model: nn.Module, epoch: int) -> None:
        """Freeze what does not train in ``epoch`` and let the rest train. Call it after each ``model.train()``.

        Frozen parameters require no gradients and have none, so that an optimizer passes over them. Modules all of
        whose parameters are frozen here go into evaluation mode: the statistics of a frozen batch norm stay, and a
        frozen layer's dropout is off. A module without parameters goes with its neighbours: with those before it in the
        same parent, else with those after it.
        """
        training = self.trainable(epoch)
        frozen: dict[int, bool] = {}
        for index, group in enumerate(self.groups):
            for p in group:
                p.requires_grad_(index in training)
                frozen[id(p)] = index not in training
                if frozen[id(p)]:
                    p.grad = None
        if any(frozen.values()):
            _rest(model, frozen)


def _rest(module: nn.Module, frozen: Mapping[int, bool]) -> None:
    """Evaluation mode for all below ``module`` that is frozen; parameters in no group do not count."""

    def states(module: nn.Module) -> list[bool]:
        return [frozen[id(p)] for p in module.parameters() if id(p) in frozen]

    children = [(child, states(child)) for child in module.children()]
    asleep = next((all(state) for _, state in children if state), False)
    for child, state in children:
        if state:
            asleep = all(state)
        if asleep:
            child.eval()
        else:
            _rest(child, frozen)


def _found(model: nn.Module, names: Mapping[str, nn.Parameter]) -> list[list[nn.Parameter]]:
    trainable = {id(p) for p in names.values()}

    def inside(module: nn.Module, recurse: bool = True) -> list[nn.Parameter]:
        return [p for p in module.parameters(recurse) if id(p) in trainable]

    def parts(module: nn.Module) -> list[nn.Module]:
        return [child for child in module.children() if inside(child)]

    outer = inside(model, recurse=False)
    children = parts(model)
    while len(children) == 1 and parts(children[0]):
        outer += inside(children[0], recurse=False)
        children = parts(children[0])
    split: list[list[nn.Parameter]] = []
    taken = {id(p) for p in outer}
    for child in children:
        opened = isinstance(child, nn.Sequential | nn.ModuleList) and child is not children[-1]
        for part in parts(child) if opened else [child]:
            fresh = [p for p in inside(part) if id(p) not in taken]
            taken |= {id(p) for p in fresh}
            if split and all(p.ndim <= 1 for p in fresh):
                split[-1] += fresh
            elif fresh:
                split.append(fresh)
    # Of the model itself and of what wraps it; a model without children has no others.
    return [outer + split[0], *split[1:]] if split else [outer]


def _members(group: Any, names: Mapping[str, nn.Parameter]) -> list[nn.Parameter]:
    """The trainable parameters of a group."""
    trainable = {id(p) for p in names.values()}
    if isinstance(group, str):
        # "layer1" is not meant to begin "layer10.weight".
        return [p for name, p in names.items() if name == group or name.startswith(group.rstrip(".") + ".")]
    if isinstance(group, nn.Parameter):
        return [group] if id(group) in trainable else []
    if isinstance(group, nn.Module):
        return [p for p in group.parameters() if id(p) in trainable]
    if not isinstance(group, Iterable):
        raise UserError(
            f"A group is a {type(group).__name__}.", "Give modules, prefixes of parameter names, or lists of them."
        )
    return [p for member in group for p in _members(member, names)]


def _called(group: Any) -> str:
    return repr(group) if isinstance(group, str) else type(group).__name__
