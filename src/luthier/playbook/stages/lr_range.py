"""Which learning rates can this training stand?"""

from __future__ import annotations

from typing import Any

from luthier.core.params import Choice, Config, Constant
from luthier.diagnosis.lr_range import LADDER_STEPS, suggest_lr
from luthier.knowledge import find, prior_center
from luthier.knowledge.prior import REFERENCE
from luthier.playbook.defaults import strong_default
from luthier.playbook.script import Look, Script, Verdict
from luthier.playbook.stages.common import optimizers, with_optimizer
from luthier.playbook.watch import usual

FAR, UNUSUAL = 10.0, 3.0
"""Times that a range must lie beside what the test found before the range is called wrong, any range and one wholly
above what is usual; the test itself is off by a factor of 3 (see :mod:`luthier.diagnosis.lr_range`). Our choice."""


def lr_range(look: Look) -> Script:
    """A learning-rate range test for each optimizer worth asking."""
    rate = find(look.space, "learning_rate")
    param = look.space[rate] if rate is not None else None
    asked = [o for o in optimizers(look) if rate in strong_default(look.history, with_optimizer(look, o))]
    if rate is None or param is None or isinstance(param, Choice | Constant) or not asked:
        return Verdict("skipped", "the space has no learning rate to search", skipped=True)
    low, high = float(param.low), float(param.high)
    if "lr_range" not in look.history.study.probes:
        return Verdict(
            "skipped",
            "your own training function is run as it is; the next stage tries a ladder of rates",
            skipped=True,
        )
    found: dict[str, dict[str, Any]] = {}
    wishes = [
        look.wish(
            {**with_optimizer(look, o)},
            base={},
            epochs=0,
            why=f"range test with {o}" if o is not None else "range test",
            probe="lr_range",
            takes=_takes(look, with_optimizer(look, o)),
        )
        for o in asked
    ]
    runs = yield wishes
    if not runs:
        text = f"a range test takes about {wishes[0].takes:.0f} epochs of data as small as this, more than it is worth"
        return Verdict("skipped", f"{text}; the next stage tries a ladder of rates", skipped=True)
    for optimizer, run in zip(asked, runs, strict=False):
        if run.answer is None:
            continue
        prior = prior_center(look.space, rate, optimizer)
        test = suggest_lr(run.answer["lrs"], run.answer["losses"], prior=(prior, 0.5) if prior else None)
        found[str(optimizer)] = {
            "center": test.center,
            "spread": test.spread_decades,
            "upper": test.upper,
            "confidence": test.confidence,
            "why": test.why,
            "trial": run.id,
        }

    def named(optimizer: str) -> str:
        return "" if optimizer == "None" else f"{optimizer}: "  # a space without an optimizer has one nameless test

    tops = [f["upper"] for f in found.values()]
    known = usual(look.history)
    far = UNUSUAL if known is not None and low >= known[1] else FAR
    if tops and None not in tops and low > far * max(tops):
        stands = ", ".join(f"{named(o)}about {f['upper']:.1g}" for o, f in found.items())
        is_high = f"The learning-rate range {low:.3g} to {high:.3g} lies above what the training stands ({stands})"
        return Verdict(
            f"{is_high}: lower it.",
            "; ".join(f"{named(o)}{f['why']}" for o, f in found.items()),
            numbers={"optimizers": found},
            fatal=True,
        )
    good = {o: f for o, f in found.items() if f["center"] is not None}
    if not good:
        reasons = "; ".join(f"{o}: {f['why']}" for o, f in found.items()) or "no test came back"
        return Verdict("the test says nothing; the prior stays", reasons, numbers={"optimizers": found})
    first = next(iter(good.values()))
    text = "; ".join(
        f"{named(o)}about {f['center']:.2g} (within a factor {10 ** f['spread']:.1f}, confidence {f['confidence']})"
        for o, f in good.items()
    )
    if low > UNUSUAL * max(f["center"] for f in good.values()):
        text += f"; the learning-rate range {low:.3g} to {high:.3g} begins above that: lower it"
    if min(f["center"] for f in good.values()) > FAR * high:
        text += f"; the learning-rate range {low:.1e} to {high:.1e} is too low: raise it"
    why = "; ".join(f"{named(o)}{f['why']}" for o, f in good.items())
    return Verdict(text, why, numbers={"optimizers": found, "center": first["center"], "upper": first["upper"]})


def _takes(look: Look, given: Config) -> float:
    """Epochs' worth of updates that a climb of the ladder takes; 0 where nobody said how many samples an epoch has."""
    samples, config = look.history.study.samples, strong_default(look.history, given)
    batch = config.get(find(look.space, "batch_size") or "", REFERENCE)
    return LADDER_STEPS * float(str(batch)) / samples if samples else 0.0
