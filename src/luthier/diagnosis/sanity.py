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
"""One batch counts as learned when its loss falls below this part of its first loss."""
RANDOM = 0.01
"""Difference between two evaluations of one batch, in standard deviations of the outputs, that no rounding explains."""

Grade = Literal["pass", "warn", "fail"]
Check = tuple[str, Grade, str]
"""A check's name, its grade and one clause with the numbers."""


@dataclass(frozen=True, slots=True)
class SanityVerdict:
    """Whether tuning is worth beginning.

    Args:
        ok: nothing failed.
        fatal: nothing that is tuned can help: the inputs are broken, one batch cannot be learned, or validation would
            run in training mode.
        sentence: the whole verdict in plain words.
        checks: ``finite_inputs``, ``initial_loss`` and ``overfit_batch``; where the probe came to them,
            ``evaluation_mode`` and ``learnability``.
    """

    ok: bool
    fatal: bool
    sentence: str
    checks: tuple[Check, ...]


def judge_sanity(answer: Mapping[str, Any]) -> SanityVerdict:
    """The verdict on a ``"sanity"`` probe's answer (its keys: :func:`luthier.recipe.probes.sanity`)."""
    inputs, initial, overfit = _finite_inputs(answer), _initial_loss(answer), _overfit_batch(answer)
    more = [check for check in (_evaluation_mode(answer), _learnability(answer)) if check is not None]
    fatal = any(grade == "fail" for _, grade, _ in (inputs, overfit, *more))
    told = [c for c in more if c[1] != "pass"] + ([inputs] if inputs[1] == "fail" else []) + [initial, overfit]
    checks = (inputs, initial, overfit, *more)
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


def _evaluation_mode(answer: Mapping[str, Any]) -> Check | None:
    """Fail where ``model.eval()`` leaves dropout or batch norm training, or two evaluations of one batch differ."""
    modes, name = answer.get("modes"), "evaluation_mode"
    if modes is None:
        return None
    still, differs = modes["still_training"], modes["differs"]
    if still:
        return name, "fail", (
            f"validation would run in training mode: model.eval() leaves {', '.join(still)} training; look for an "
            "eval() or train() of the model's own"
        )  # fmt: skip
    if differs > RANDOM:
        return name, "fail", (
            f"validation would run in training mode: after model.eval() the same batch gives outputs that differ by "
            f"{differs:.0%} of their spread; use nn.Dropout, or F.dropout(x, p, self.training)"
        )  # fmt: skip
    return name, "pass", "evaluation repeats"


def _learnability(answer: Mapping[str, Any]) -> Check | None:
    """Warn where training samples are learned by heart and validation stays at what knowing nothing gives."""
    seen, name = answer.get("learnability"), "learnability"
    if seen is None:
        return None
    at = f"validation loss {seen['val_loss']:.3g}" if seen["val_loss"] is not None else "no finite validation loss"
    at += f", knowing nothing {seen['floor']:.3g}, after {seen['updates']} updates"
    if seen["learns"]:
        return name, "pass", f"what is learned holds for validation ({at})"
    if seen["by_heart"]:
        return name, "warn", f"training samples are learned by heart, and nothing that holds for validation ({at})"
    return name, "pass", f"so few updates show nothing ({at})"
