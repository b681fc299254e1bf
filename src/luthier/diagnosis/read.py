"""Reading curves: from what was recorded of a training, or of several, to findings in the order to act on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from luthier.core.errors import UserError, nearest
from luthier.diagnosis.confidence import confidence
from luthier.diagnosis.curves import EXTRA, Curves, Series, Unit
from luthier.diagnosis.finding import Diagnosis, Finding
from luthier.diagnosis.rules import RULES, Evidence
from luthier.diagnosis.rules.length import learned_something
from luthier.diagnosis.signals import View

GATED = 3
"""From this tier on nothing is advised, and no stage of the playbook opens, while tiers 0 and 1 have to be mended."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of finding, for documents and displays."""

    tier: int
    means: str


FEW = 4
"""Records below which no trend can be told."""

_CLEAN = "; nothing stands against it"

KINDS: Mapping[str, Kind] = {kind: Kind(rule.tier, rule.means) for kind, rule in RULES.items()}
"""Every kind of finding: the tier of its cause and what it means, in one sentence."""


def diagnose_curves(curves: Curves) -> Diagnosis:
    """Everything that the curves of one training say, most important first.

    Causes come before their symptoms, and lend them no advice: a finding that another one explains has ``causes`` and
    no ``action``. While tier 0 or 1 has something critical or a warning, no action of tiers 3 to 5 is advised.

    Raises:
        UserError: neither a training nor a validation series.
    """
    if curves.train_loss is None and curves.val_loss is None and curves.val_metric is None:
        raise UserError("There is no curve to read.", "Give train_loss, val_loss or val_metric.")
    view = View(curves)
    found = {}
    for kind, rule in RULES.items():
        evidence = rule.judge(view) if rule.judge is not None and _readable(view, kind) else None
        if evidence is not None:
            found[kind] = finding(kind, _as_logged(evidence, curves), confidence(kind, view.seen))
    if learned_something(view) and not any(f.severity in ("critical", "warning") for f in found.values()):
        now = f"The {view.learned_name} fell from {view.start:.3g} to {view.best_train:.3g}"
        few = len(view.learned or ()) < FEW
        more = f"; {len(view.learned or ())} records say little more" if few else "" if found else _CLEAN
        found["healthy"] = finding(
            "healthy", Evidence("good", f"{now}{more}.", (), view.learned_name), confidence("healthy", view.seen)
        )
    return Diagnosis(settle(found), curves.name)


def _readable(view: View, kind: str) -> bool:
    """A training without a single finite loss has one thing to say; clipping and scales are read in any case."""
    return view.learned is not None or kind in ("non_finite", "over_clipping", "loss_scale_trouble")


def _as_logged(evidence: Evidence, curves: Curves) -> Evidence:
    return evidence if evidence.since is None else replace(evidence, since=curves.named(evidence.since))


def finding(kind: str, evidence: Evidence, trust: float) -> Finding:
    """The finding that ``evidence`` of ``kind`` makes."""
    return Finding(
        kind,
        evidence.severity,
        trust,
        evidence.text,
        evidence.action,
        RULES[kind].tier,
        evidence.since,
        evidence.numbers,
        evidence.curve,
    )


def settle(found: Mapping[str, Finding]) -> tuple[Finding, ...]:
    """Causes filled in, advice withheld where it would be premature, and everything in the order to act on it."""
    serious = {kind for kind, f in found.items() if f.severity in ("critical", "warning")}
    gated = any(RULES[kind].tier <= 1 for kind in serious)
    out = []
    for kind, one in found.items():
        causes = tuple(c for c in RULES[kind].causes if c in serious)
        silent = causes or (gated and one.tier >= GATED)
        out.append(replace(one, causes=causes, action=() if silent else one.action))
    by_kind = {one.kind: one for one in out}

    def depth(one: Finding) -> int:
        """How many explanations stand between a finding and its first cause."""
        return 1 + max(depth(by_kind[cause]) for cause in one.causes) if one.causes else 0

    def importance(one: Finding) -> tuple[bool, int, bool, int]:
        return one.severity == "good", depth(one), one.severity == "hint", RULES[one.kind].rank

    return tuple(sorted(out, key=importance))


def diagnose(
    *,
    train_loss: Sequence[float] | None = None,
    val_loss: Sequence[float] | None = None,
    train_metric: Sequence[float] | None = None,
    val_metric: Sequence[float] | None = None,
    maximize: bool = True,
    learning_rate: Sequence[float] | float | None = None,
    classes: int | None = None,
    trivial_loss: float | None = None,
    n_val: int | None = None,
    max_epochs: float | None = None,
    val_epochs: Sequence[float] | None = None,
    unit: Unit = "epoch",
    config: Mapping[str, Any] | None = None,
    name: str = "",
    **extra: Sequence[float],
) -> Diagnosis:
    """What the curves of a training say, and what to try next.

    >>> print(luthier.diagnose(train_loss=[...], val_loss=[...], val_metric=[...], classes=10))

    Lists hold one number for each epoch. A training loss with a whole number of times as many values as the validation
    has is taken for one of every update.

    Args:
        train_loss, val_loss, train_metric, val_metric: the curves; metrics are such as accuracy, shares best in [0, 1].
        maximize: whether a larger metric is better.
        learning_rate: as it was in effect for each epoch; a number for a constant one.
        classes: of a classification whose loss is cross-entropy in nats: the loss at chance is then log(classes).
        trivial_loss: of a model that knows nothing but the targets' frequencies, where it is not log(classes).
        n_val: samples in the validation set.
        max_epochs: the planned length, if the training is not over.
        val_epochs: the epochs at which validation was recorded, if not 1, 2, 3, ...
        unit: of places, for displays: ``"epoch"`` or ``"step"``.
        config: the hyperparameters; known dropout or augmentation explain some findings away.
        name: what to call the training.
        extra: further curves: ``clipped`` (part of the updates), ``loss_scale``, ``update_ratio``, ``grad_norm``.

    Raises:
        UserError: nothing to read, or something that is not a list of numbers.
    """
    curves = {"train_loss": train_loss, "val_loss": val_loss, "train_metric": train_metric, "val_metric": val_metric}
    for key, values in (*curves.items(), *extra.items()):
        if key not in curves and key not in EXTRA:
            mend = "Pass it as val_metric= (with maximize=)." if key.startswith("val_") else ""
            raise UserError(f"diagnose() knows no curve {key!r}.", f"{nearest(key, [*curves, *EXTRA])} {mend}".strip())
        if values is not None and not hasattr(values, "__len__"):
            raise UserError(f"{key}={values!r} is not a list of numbers.", "Give one number for each epoch.")
    if classes is not None and classes < 2:
        raise UserError(f"classes={classes!r} must be at least 2.", "Leave it out for a regression.")
    judged = val_loss if val_loss is not None else val_metric
    evaluations = 0 if judged is None else len(judged)
    end = float(val_epochs[-1]) if val_epochs is not None and len(val_epochs) else float(evaluations)

    def series(values: Sequence[float] | None, val: bool = False) -> Series | None:
        if values is None:
            return None
        if val or evaluations == 0 or len(values) == evaluations:
            return Series.of(values, val_epochs if len(values) == evaluations else None)
        # Recorded more or less often: spread evenly over the same training.
        return Series.of(values, list(np.linspace(end / len(values), end, len(values))) if len(values) else None)

    rates = (
        learning_rate if not isinstance(learning_rate, int | float) else [float(learning_rate)] * max(evaluations, 2)
    )
    return diagnose_curves(
        Curves(
            train_loss=series(train_loss),
            val_loss=series(val_loss, val=True),
            train_metric=series(train_metric),
            val_metric=series(val_metric, val=True),
            maximize=maximize,
            learning_rate=series(rates),
            extra={key: s for key, values in extra.items() if (s := series(values)) is not None},
            length=max_epochs,
            unit=unit,
            trivial_loss=math.log(classes) if trivial_loss is None and classes is not None else trivial_loss,
            trivial_metric=1.0 / classes if classes is not None and maximize else None,
            n_val=n_val,
            config=dict(config or {}),
            name=name,
        )
    )
