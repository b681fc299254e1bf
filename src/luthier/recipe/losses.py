"""The losses that a recipe trains with: cross-entropy and its weighted, smoothed and focal kin; losses of regression.

What is trained on is not what is compared: smoothing, weights and gamma move a loss's floor, so that validation losses
of two trials are comparable only if both are measured without them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from luthier.core.errors import UserError, nearest

Loss = Callable[[Tensor, Tensor], Tensor]
"""From a batch's outputs and targets to their mean loss, a tensor without dimensions."""

CLASSIFICATION = ("cross_entropy", "focal")
REGRESSION = ("l2", "l1", "smooth_l1")
"""Every loss, by task; the first is the default."""
CLASS_WEIGHTS = ("none", "balanced")

DEFAULTS: Mapping[str, Any] = {
    "label_smoothing": 0.0,
    "class_weights": "none",
    # Lin et al. 2017, section 4.1: "gamma = 2 to work best".
    "focal_gamma": 2.0,
    # Girshick 2015 (Fast R-CNN), equation 3, and PyTorch's default.
    "smooth_l1_beta": 1.0,
}
"""What losses listen to besides ``loss``, and where it begins; ``loss`` itself begins as the first of its task's."""


def make_loss(task: str, knobs: Mapping[str, Any], train_targets: Tensor | None, outputs: int) -> Loss:
    """The loss that ``knobs`` describe.

    Classification takes logits ``(n, classes, ...)`` and, as ``torch.nn.functional.cross_entropy`` does, either class
    indices ``(n, ...)`` of int64 or probabilities, floats of the logits' shape. With class weights ``w`` the mean over
    indices is PyTorch's weighted one, divided by the sum of ``w`` over the targets; over probabilities by their number.

    - ``cross_entropy``: ``sum_c w_c q_c (-log p_c)``; ``q`` is the target, smoothed: ``(1 - label_smoothing)`` of it
      and ``label_smoothing / classes`` for every class (Szegedy et al. 2016, section 7).
    - ``focal``: the same with ``(1 - p_c)**focal_gamma`` before each term, which for a class index without smoothing is
      the focal loss of Lin et al. 2017, equation 4. With ``focal_gamma`` 0 it is the cross-entropy, bit for bit.

    Regression: ``l2`` (mean squared error), ``l1``, or ``smooth_l1``: squared below ``smooth_l1_beta``, linear above.

    Args:
        task: ``"regression"``, or anything else for classes.
        knobs: ``loss`` and overrides of :data:`DEFAULTS`: ``label_smoothing`` in [0, 0.5], ``class_weights`` ``"none"``
            or ``"balanced"``, ``focal_gamma`` at least 0, ``smooth_l1_beta`` above 0. What does not belong to the task
            is left aside.
        train_targets: the class indices of all training samples, of any shape; needed for balanced weights alone.
        outputs: classes, or numbers to predict.

    Raises:
        UserError: an unknown name, a value out of its range, balanced weights without targets to count.
    """
    known = REGRESSION if task == "regression" else CLASSIFICATION
    name = str(knobs.get("loss", known[0]))
    if name not in known:
        elsewhere = name in CLASSIFICATION + REGRESSION
        mend = f"For {task} there are {', '.join(known)}." if elsewhere else nearest(name, known)
        raise UserError(f"Unknown loss {name!r} for {task}.", mend)
    if task == "regression":
        return _regression(name, _number(knobs, "smooth_l1_beta", math.ulp(0.0), math.inf))
    smoothing = _number(knobs, "label_smoothing", 0.0, 0.5)
    gamma = _number(knobs, "focal_gamma", 0.0, math.inf) if name == "focal" else 0.0
    weights = str(knobs.get("class_weights", DEFAULTS["class_weights"]))
    if weights not in CLASS_WEIGHTS:
        raise UserError(f"Unknown class_weights {weights!r}.", nearest(weights, CLASS_WEIGHTS))
    if weights == "none":
        return _classification(gamma, smoothing, None)
    if train_targets is None:
        raise UserError("class_weights='balanced' needs the training targets.", "Use class_weights='none'.")
    return _classification(gamma, smoothing, balanced_weights(train_targets, outputs))


def flat(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits ``(n, classes)`` and class indices ``(n,)``, from ``(batch, classes, ...)`` and ``(batch, ...)``.

    Their mean cross-entropy is the same. PyTorch computes it two to four times as fast where the classes lie side by
    side in memory, as they do in a linear layer's output.
    """
    if output.ndim == 2 or target.is_floating_point():
        return output, target
    return output.movedim(1, -1).flatten(0, -2), target.flatten()


def balanced_weights(targets: Tensor, classes: int) -> Tensor:
    """``n / (C * n_c)`` for each class (King & Zeng 2001, as scikit-learn's ``class_weight="balanced"``).

    ``C`` counts the classes that occur; one that does not has nothing to be balanced and weighs 1.

    Args:
        targets: class indices, int64, of any shape.
        classes: the length of the answer, which is on the targets' device.
    """
    counts = torch.bincount(targets.detach().reshape(-1), minlength=classes)
    weights = counts.sum() / (torch.count_nonzero(counts) * counts.clamp(min=1).to(torch.get_default_dtype()))
    return torch.where(counts > 0, weights, 1.0)


def _number(knobs: Mapping[str, Any], name: str, low: float, high: float) -> float:
    value = float(knobs.get(name, DEFAULTS[name]))
    if not low <= value <= high or math.isinf(value):
        bounds = f"in [{low:g}, {high:g}]" if math.isfinite(high) else "at least 0" if low == 0.0 else "above 0"
        raise UserError(f"{name}={value!r} is not {bounds}.", f"Its default is {DEFAULTS[name]}.")
    return value


def _regression(name: str, beta: float) -> Loss:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        output = output.reshape(target.shape)
        if name == "l1":
            return F.l1_loss(output, target)
        return F.smooth_l1_loss(output, target, beta=beta) if name == "smooth_l1" else F.mse_loss(output, target)

    return loss


def _classification(gamma: float, smoothing: float, weights: Tensor | None) -> Loss:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        output, target = flat(output, target)
        weight = None
        if weights is not None:
            # A model may have more logits than there are classes.
            weight = F.pad(weights, (0, output.shape[1] - len(weights)), value=1.0).to(output)
        if gamma == 0.0:
            return F.cross_entropy(output, target, weight, label_smoothing=smoothing)
        return _focal(output, target, gamma, smoothing, weight)

    return loss


def _focal(output: Tensor, target: Tensor, gamma: float, smoothing: float, weight: Tensor | None) -> Tensor:
    log_p = F.log_softmax(output, 1)
    # 1 - p from its logarithm: near p = 1, where all samples end up, 1 - exp(log p) keeps no digits of it.
    # And not 0, where the derivative of a power below 1 is infinite.
    other = -torch.expm1(log_p).clamp(max=-torch.finfo(log_p.dtype).tiny)
    terms = other.pow(gamma) * -log_p
    if weight is not None:
        terms = terms * weight.view(1, -1, *[1] * (output.ndim - 2))
    if target.is_floating_point():
        classes, count = target, torch.tensor(target.numel() / target.shape[1], device=output.device)
    else:
        classes = F.one_hot(target, output.shape[1]).movedim(-1, 1).to(output.dtype)
        count = torch.tensor(target.numel(), device=output.device) if weight is None else weight[target].sum()
    smoothed = classes * (1.0 - smoothing) + smoothing / output.shape[1]
    return (smoothed * terms).sum() / count
