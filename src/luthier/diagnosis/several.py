"""Reading several trainings together: what none of them shows alone."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from luthier.core import words
from luthier.core.errors import UserError
from luthier.diagnosis.confidence import UNMEASURED, confidence
from luthier.diagnosis.curves import Curves
from luthier.diagnosis.finding import Diagnosis, Finding
from luthier.diagnosis.read import diagnose_curves, finding, settle
from luthier.diagnosis.rules import Evidence
from luthier.diagnosis.signals import View, end_level, late_fall

FAILURES = ("non_finite", "diverged", "dead_start")
COMMON = 0.5
"""A finding that this part of the trainings has is a finding of the study. Our choice."""
FRAGILE = 0.015
"""Relative standard deviation over seeds: five times 0.3 %, the median of 17 AlgoPerf workloads."""
FRAGILE_SPAN = 0.03
"""And 3 % of what was learned, beyond three standard errors of counting. Our choice."""
STEEP = 0.1
"""A training that gains so much of all it learned in its last quarter has no result yet. Our choice."""
EDGE = 10.0
"""The smallest rate that failed is at most so many times the best one. Our choice."""
SEEDS = ("seed", "random_seed")
"""What a seed is called in a configuration."""
TOP = 5
"""Trainings that should be told apart."""


class Training:
    """A training with its diagnosis, its result (smaller is better) and of which curve that is, how far it came, and
    whether it failed, or was slow or still falling steeply when it ended."""

    def __init__(self, curves: Curves) -> None:
        self.view = View(curves)
        self.curves = curves
        self.diagnosis = diagnose_curves(curves)
        failed = [f for f in self.diagnosis if f.kind in FAILURES and f.severity == "critical"]
        self.failed = bool(failed)
        view = self.view
        error, self.named = (
            (view.val_error, "val_metric")
            if view.val_error is not None
            else (view.val, "val_loss")
            if view.val is not None
            else (view.learned, view.learned_name)
        )
        self.result = math.inf if error is None or self.failed else end_level(error.y)
        self.span = 0.0 if error is None else float(error.y[0] - error.y.min())
        slow = self.diagnosis.has("rate_too_low")
        self.unfinished = slow or (error is not None and late_fall(error) > STEEP * self.span)

    @property
    def end(self) -> float:
        """What was recorded last, as it was recorded; NaN without any."""
        series = self.curves.all().get(self.named)
        kept = None if series is None else series.finite
        return float(kept.y[-1]) if kept else math.nan


def diagnose_study(trainings: Sequence[Curves]) -> Diagnosis:
    """What several trainings of one task say together, most important first: what half of them have in common, what
    equal configurations and different learning rates show, and what limits the best one.

    Raises:
        UserError: no training, or one without a curve.
    """
    if not trainings:
        raise UserError("There is no training to read.", "Give the curves of at least one.")
    if len(trainings) == 1:
        return diagnose_curves(trainings[0])
    runs = [Training(curves) for curves in trainings]
    found = {}
    best = min(runs, key=lambda run: run.result)
    for one in best.diagnosis if math.isfinite(best.result) else ():
        name = best.curves.name or f"number {runs.index(best)}"
        found[one.kind] = replace(one, text=f"The best training ({name}): {one.text}", causes=())
    for judged in (*common(runs), seed_fragility(runs), edge_of_stability(runs), too_close(runs), no_effect(trainings)):
        if judged is not None:
            found[judged.kind] = judged
    return Diagnosis(settle(found), words.count(len(runs), "training"))


def common(runs: Sequence[Training]) -> list[Finding]:
    """The critical findings and warnings that half of the trainings have, or all of those that failed."""
    counts = Counter(
        f.kind for run in runs for f in run.diagnosis if f.severity in ("critical", "warning") and not f.causes
    )
    out = []
    for kind, count in counts.items():
        if count < max(2, COMMON * len(runs)):
            continue
        example = next(
            f for run in runs for f in run.diagnosis if f.kind == kind and f.severity in ("critical", "warning")
        )
        text = f"{count} of {len(runs)} trainings. {example.text}"
        if all(run.failed for run in runs):
            text = f"Every training failed; {text}"
        # What some others do not have is no obstacle to the study: its best training decides what is to be mended.
        everywhere = count == len(runs) or example.severity == "warning"
        out.append(replace(example, text=text, since=None, severity=example.severity if everywhere else "warning"))
    return out


def seed_fragility(runs: Sequence[Training]) -> Finding | None:
    """Of equal configurations, seeds aside, one failed and another did not, or their results lie far apart."""
    groups: dict[str, list[Training]] = defaultdict(list)
    for run in runs:
        if run.curves.config:
            config = {k: v for k, v in run.curves.config.items() if k not in SEEDS}
            # A short training of a configuration is no repeat of a long one.
            length = run.curves.length or run.curves.end
            groups[repr((length, sorted(config.items(), key=lambda item: item[0])))].append(run)
    ranked = []
    for group in groups.values():
        results = sorted(run.result for run in group if not run.failed)
        if len(group) > 1 and results:
            ranked.append((float(np.median(results)), group))
    # The best configuration that is fragile counts: of a worse one it matters less.
    for _, group in sorted(ranked, key=lambda pair: pair[0]):
        found = _differing(group)
        if found is not None:
            return finding("seed_fragility", found, confidence("seed_fragility", 1.0))
    return None


def _differing(group: Sequence[Training]) -> Evidence | None:
    """What the trainings of one configuration have to say of its seeds."""
    failed = sum(run.failed for run in group)
    action = (
        "Mend the stability first: warmup, clipping, half the learning rate.",
        "Compare configurations over several seeds, by mean and failures.",
    )
    if failed:
        text = f"{failed} of {len(group)} trainings of one configuration failed."
        numbers = {"failed": float(failed), "seeds": float(len(group))}
        return Evidence("warning", text, action, group[0].named, None, numbers)
    # Where most still fall, or fall too slowly, seeds differ in when they get there and not in where.
    if len(group) < 3 or 2 * sum(run.unfinished for run in group) > len(group):
        return None
    results = np.array([run.result for run in group])
    # What was learned, in the units of the result.
    span = float(np.median([run.span for run in group]))
    limit = max(FRAGILE * abs(float(results.mean())), FRAGILE_SPAN * span, 3.0 * group[0].view.counting)
    if float(results.std(ddof=1)) <= limit:
        return None
    ends = np.array([run.end for run in group])
    sd, mean = float(ends.std(ddof=1)), float(ends.mean())
    text = f"{len(group)} seeds of one configuration end at {mean:.3g} +- {sd:.2g}."
    numbers = {"sd": sd, "mean": mean, "seeds": float(len(group))}
    return Evidence("warning", text, action, group[0].named, None, numbers)


def edge_of_stability(runs: Sequence[Training]) -> Finding | None:
    """The best training has the largest learning rate that did not fail, and a rate not far above failed."""
    by_rate = [(run.view.rate, run) for run in runs if run.view.rate is not None]
    good = [(rate, run) for rate, run in by_rate if not run.failed and math.isfinite(run.result)]
    if len({rate for rate, _ in good}) < 2:
        return None
    best = min(good, key=lambda pair: pair[1].result)[0]
    too_far = [rate for rate, run in by_rate if run.failed and rate > best]
    if best < max(rate for rate, _ in good) or not too_far or min(too_far) > EDGE * best:
        return None
    text = f"The best learning rate, {best:.2g}, is the largest that did not fail; {min(too_far):.2g} failed."
    action = (
        "Make larger rates stable: warmup, clipping, normalization, residual connections.",
        "Then search for the rate again, upwards.",
    )
    numbers = {"best_rate": best, "failed_rate": min(too_far)}
    return finding("edge_of_stability", Evidence("warning", text, action, "learning_rate", None, numbers), UNMEASURED)


def too_close(runs: Sequence[Training]) -> Finding | None:
    """The best trainings differ by less than two standard errors of counting: the validation set cannot rank them."""
    ranked = sorted((run for run in runs if math.isfinite(run.result)), key=lambda run: run.result)[:TOP]
    if len(ranked) < 3:
        return None
    error = ranked[0].view.counting
    spread = ranked[-1].result - ranked[0].result
    if error <= 0.0 or spread > 2.0 * error:
        return None
    n = ranked[0].curves.n_val
    text = f"The {len(ranked)} best differ by {spread:.2g}; counting {n} samples has an error of {error:.2g}."
    action = (
        "Take more validation samples, or cross-validate.",
        "Take the cheapest of them; compare by the loss, which is less noisy than a share.",
    )
    numbers = {"spread": spread, "counting": error}
    return finding("noisy_validation", Evidence("hint", text, action, "val_metric", None, numbers), UNMEASURED)


def no_effect(trainings: Sequence[Curves]) -> Finding | None:
    """Hyperparameters that change nothing: all trainings that differ in one of them alone, seeds included, have the
    same curves to the last digit."""
    names = dict.fromkeys(n for c in trainings for n in c.config if n not in SEEDS)
    told: dict[str, int] = {}
    for name in names:
        rooms: dict[str, dict[str, set[object]]] = defaultdict(dict)
        many: Counter[str] = Counter()
        for curves in trainings:
            if name in curves.config:
                rest = sorted((k, repr(v)) for k, v in curves.config.items() if k != name)
                key = repr((curves.length or curves.end, rest))
                rooms[key].setdefault(repr(curves.config[name]), set()).add(_fingerprint(curves))
                many[key] += 1
        compared = {key: room for key, room in rooms.items() if len(room) > 1}
        if compared and all(len(set().union(*room.values())) == 1 for room in compared.values()):
            told[name] = sum(many[key] for key in compared)
    if not told:
        return None
    listed = ", ".join(told)
    text = (
        f"Changing {listed} changed nothing: {sum(told.values())} trainings that differ in "
        f"{'it' if len(told) == 1 else 'one of them'} alone have the same curves to the last digit."
    )
    action = (f"Check that the training reads {listed}, under that name.",)
    numbers = {name: float(count) for name, count in told.items()}
    return finding("no_effect", Evidence("hint", text, action, "val_loss", None, numbers), UNMEASURED)


def _fingerprint(curves: Curves) -> object:
    """The recorded losses and metrics, to compare with others; different from everything where there are too few."""
    known = [s for s in (curves.train_loss, curves.val_loss, curves.train_metric, curves.val_metric) if s is not None]
    if max(map(len, known), default=0) < 2:
        return object()
    return tuple((s.x.tobytes(), s.y.tobytes()) for s in known)
