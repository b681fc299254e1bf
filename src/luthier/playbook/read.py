"""What the curves of the settled training say to the playbook: which stage they ask for, and what has to be mended
first."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field

from luthier.core.goals import INFEASIBLE
from luthier.core.history import History
from luthier.core.params import Choice, Config
from luthier.core.summary import PROOFS, in_points
from luthier.core.trial import Status, TrialRecord
from luthier.diagnosis import Finding, diagnose_curves, from_trial
from luthier.diagnosis.several import EDGE as EDGE_FACTOR
from luthier.knowledge import find
from luthier.numerics.noise import believable
from luthier.playbook.noise import noise_of
from luthier.playbook.script import settled_config

OVERFITTING = ("overfitting", "overfitting_loss_only", "gap_without_rise")
"""Findings that ask for regularization."""
ABOUT = 2.1
"""Two rates within this factor are about the same: less than a step of the ladder."""
LOST, SURE = 0.1, 3.0
"""The part of a loss, or of a share's distance from 0 or 1, by which a longer training has to be worse for that to be
no luck, and the standard errors of such a difference. Our choice."""
PIPELINE, RATE = 0, 1
"""Tiers of findings: mistakes that no tuning mends, and what the learning rate and its kin mend."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Findings on one training of the search.

    Args:
        trial: the training; None where there is none to read.
        findings: by kind; those that are well are left out.
    """

    trial: TrialRecord | None = None
    findings: dict[str, Finding] = field(default_factory=dict)

    def serious(self, kinds: Collection[str]) -> Finding | None:
        """The first warning or critical finding among ``kinds``."""
        return next((f for k, f in self.findings.items() if k in kinds and f.severity != "hint"), None)

    @property
    def overfits(self) -> Finding | None:
        """The finding that asks for regularization: any overfitting, and the others where they are no mere hints."""
        return self.findings.get("overfitting") or self.serious(OVERFITTING)

    def of_tier(self, tier: int) -> list[Finding]:
        """Warnings and critical findings of a tier that no other one explains."""
        return [f for f in self.findings.values() if f.tier == tier and f.severity != "hint" and not f.causes]


def leading(history: History) -> TrialRecord | None:
    """The training that stands for what is settled: the longest of that configuration, else the best of the longest of
    the search."""
    own: list[TrialRecord] = []
    others: list[TrialRecord] = []
    base = settled_config(history)
    for trial in history.trained():
        if trial.full and trial.stage not in PROOFS and math.isfinite(history.final_loss(trial)):
            (own if dict(trial.config) == base else others).append(trial)
    pool = own or others
    longest = max((t.horizon for t in pool), default=0)
    return min((t for t in pool if t.horizon == longest), key=history.final_loss, default=None)


def known_by_hand(history: History) -> Config | None:
    """The configuration added by hand that did best at full length; while none has come to its end, the oldest of those
    that train."""
    added = [t for t in history.trained() if t.by_hand]
    ended = [t for t in added if t.full and math.isfinite(history.final_loss(t))]
    best = min(ended, key=history.final_loss, default=None)
    if best is None:
        best = next((t for t in added if t.status in (Status.RUNNING, Status.PAUSED)), None)
    return None if best is None else best.config


def read_leading(history: History) -> Reading:
    """The findings on the leading training, with what its neighbours add."""
    trial = leading(history)
    if trial is None:
        return Reading()
    curves = from_trial(history, trial)
    told = any(s is not None for s in (curves.train_loss, curves.val_loss, curves.val_metric))
    found = {f.kind: f for f in diagnose_curves(curves) if f.severity != "good"} if told else {}
    edge = edge_of_stability(history, trial)
    for finding in (edge, lost_when_longer(history, trial)):
        if finding is not None:
            found[finding.kind] = finding
    return Reading(trial, found)


def lost_when_longer(history: History, long: TrialRecord) -> Finding | None:
    """Whether a training ended worse than a shorter one of the same configuration and seed: its rate, held for longer,
    is too much."""
    shorter = [
        t
        for t in history.trained()
        if t.full and t.horizon < long.horizon and t.seed == long.seed and t.config == long.config
    ]
    best = min(shorter, key=history.final_loss, default=None)
    if best is None or max(map(history.final_loss, (best, long))) >= INFEASIBLE:
        return None
    gap = history.final_loss(long) - history.final_loss(best)
    error = math.sqrt(2.0) * noise_of(history).sd
    if not gap > believable(history.final_loss(best), SURE * error, in_points(history), LOST):
        return None
    text = f"Trained for {long.horizon} epochs it is worse than for {best.horizon}, which it should never be."
    numbers = {"epochs": long.horizon, "shorter": best.horizon, "lost": gap}
    return Finding("lost_when_longer", "warning", 0.5, text, (), RATE, None, numbers, "learning_rate")


def edge_of_stability(history: History, best: TrialRecord) -> Finding | None:
    """Whether a training leads with the largest rate that did not fail, of those that differ in nothing but the rate.

    The condition is that of :func:`luthier.diagnosis.several.edge_of_stability`, with failures as the log has them.
    """
    name = find(history.space, "learning_rate", best.config)
    if name is None or isinstance(history.space[name], Choice):
        return None

    def rest(trial: TrialRecord) -> list[tuple[str, object]]:
        return sorted((k, v) for k, v in trial.config.items() if k != name)

    same = [t for t in history.trained() if t.seed == best.seed and t.stage not in PROOFS and rest(t) == rest(best)]
    rate = float(str(best.config[name]))
    good = [float(str(t.config[name])) for t in same if t.full and math.isfinite(history.final_loss(t))]
    failed = [float(str(t.config[name])) for t in same if t.exploded]
    beyond = [r for r in failed if r > rate]
    if len(set(good)) < 2 or rate < max(good) or not beyond or min(beyond) > EDGE_FACTOR * rate:
        return None
    text = f"The best learning rate, {rate:.2g}, is the largest that did not fail; {min(beyond):.2g} failed."
    numbers = {"best_rate": rate, "failed_rate": min(beyond)}
    return Finding("edge_of_stability", "warning", 0.5, text, (), RATE, None, numbers, "learning_rate")


def bracketed(history: History, best: TrialRecord, up: bool) -> bool:
    """Whether the search has seen that a rate beyond that of ``best`` is worse: among trainings that differ in nothing
    but the rate the best one has about the rate of ``best``, and a larger (smaller) one was tried.

    What short trainings say of larger rates holds for longer ones, which want smaller rates if anything; of smaller
    rates only trainings of that length tell.
    """
    rate, optimizer = (find(history.space, role, best.config) for role in ("learning_rate", "optimizer"))
    if rate is None:
        return False
    groups: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for trial in history.trained():
        alike = trial.seed == best.seed and (optimizer is None or trial.config.get(optimizer) == best.config[optimizer])
        told = alike and trial.status is not Status.RUNNING and trial.stage not in PROOFS
        if told and rate in trial.config and (up or trial.horizon >= best.horizon):
            loss = math.inf if trial.status is Status.STOPPED else history.final_loss(trial)
            rest = repr(sorted((k, v) for k, v in trial.config.items() if k != rate))
            groups.setdefault((trial.horizon, rest), []).append((loss, float(str(trial.config[rate]))))
    here = float(str(best.config[rate]))
    for tried in groups.values():
        at = min(tried)[1]
        beyond = [r for _, r in tried if (r > at if up else r < at)]
        if 1 / ABOUT < at / here < ABOUT and beyond:
            return True
    return False
