"""Judging the sanity probe: is this a training pipeline at all?

The checks are Karpathy's (2019, "A Recipe for Training Neural Networks", section 2); the thresholds are our choice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

INIT_CLOSE = 0.1
INIT_WARN = 0.3
INIT_FAIL_NATS = 1.0
INIT_FAIL_RATIO = 2.0
LEARNED = 0.02

Grade = Literal["pass", "warn", "fail"]
Check = tuple[str, Grade, str]
"""A check's name, its grade and one clause with the numbers."""


@dataclass(frozen=True, slots=True)
class SanityVerdict:
    """Whether tuning is worth beginning.

    Args:
        ok: nothing failed.
        fatal: nothing that is tuned can help: the inputs are broken, or one batch cannot be learned.
        sentence: the whole verdict in plain words.
        checks: ``finite_inputs``, ``initial_loss`` and ``overfit_batch``.
    """

    ok: bool
    fatal: bool
    sentence: str
    checks: tuple[Check, ...]


def judge_sanity(answer: Mapping[str, Any]) -> SanityVerdict:
    """The verdict on a ``"sanity"`` probe's answer (its keys: :func:`luthier.recipe.probes.sanity`)."""
    inputs, initial, overfit = _finite_inputs(answer), _initial_loss(answer), _overfit_batch(answer)
    fatal = inputs[1] == "fail" or overfit[1] == "fail"
    told = (inputs, initial, overfit) if inputs[1] == "fail" else (initial, overfit)
    checks = (inputs, initial, overfit)
    sentence = "; ".join(text for _, _, text in told)
    return SanityVerdict(
        ok=all(grade != "fail" for _, grade, _ in checks),
        fatal=fatal,
        sentence=f"{sentence[0].upper()}{sentence[1:]}.",
        checks=checks,
    )


def _finite_inputs(answer: Mapping[str, Any]) -> Check:
    if answer["finite_inputs"]:
        return "finite_inputs", "pass", "all inputs are finite"
    return "finite_inputs", "fail", "the data holds NaN or infinity"


def _initial_loss(answer: Mapping[str, Any]) -> Check:
    """Pass within 0.3 of the expected loss, fail beyond twice it or, for classes, more than 1 nat away; else warn."""
    loss, expected, classes = answer["initial_loss"], float(answer["expected_loss"]), answer["classes"]
    if loss is None or not math.isfinite(loss):
        return "initial_loss", "fail", "the loss at init is not finite"
    of = f"log {classes}" if classes else "the variance of the targets"
    text = (
        f"loss at init {loss:.2f} ({of} = {expected:.2f})"
        if classes
        else f"loss at init {loss:.3g} ({of} = {expected:.3g})"
    )
    off = abs(loss - expected)
    if loss > INIT_FAIL_RATIO * expected or (classes and off > INIT_FAIL_NATS):
        cause = "look at the scale of the last layer and of the inputs" if classes else "center and scale the targets"
        return "initial_loss", "fail", f"{text}, far off: {cause}"
    if off > INIT_WARN * expected:
        return "initial_loss", "warn", f"{text}, well {'above' if loss > expected else 'below'} it"
    return "initial_loss", "pass", text if off < INIT_CLOSE * expected else f"{text}, close enough"


def _overfit_batch(answer: Mapping[str, Any]) -> Check:
    """Pass when one batch is classified without a mistake or its loss falls below 2 % of its start; else fail."""
    fit = answer["overfit"]
    batch, steps, losses, accuracy = fit["batch"], fit["steps"], fit["losses"], fit["accuracy"]
    if accuracy == 1.0 or (losses and losses[-1] < LEARNED * losses[0]):
        return "overfit_batch", "pass", f"one batch of {batch} learned by heart in {steps} steps"
    if not answer["parameters"]:
        return "overfit_batch", "fail", "the model has no trainable parameters"
    if len(losses) < 2:
        cause = "its loss is not finite" if not losses else "the loss does not depend on the parameters"
        return "overfit_batch", "fail", f"one batch of {batch} could not be learned: {cause}"
    end = f"loss {losses[0]:.3g} to {losses[-1]:.3g}" + (f", accuracy {accuracy:.0%}" if accuracy is not None else "")
    return (
        "overfit_batch",
        "fail",
        f"one batch of {batch} could not be learned by heart in {steps} steps ({end}): look for frozen or detached "
        "parameters, mismatched labels or a wrong loss",
    )
