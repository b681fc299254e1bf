"""What comes next once a stage has closed: the next one of the plan, an earlier one again, or a wider range.

Everything here is a function of the history. In this order:

1. a range that a best value lies on the edge of is widened, and taken back where nothing beyond it works;
2. what the rate is coupled with has changed: the learning rate, briefly;
3. the settled training is unsteady or too slow: the learning rate, with remedies;
4. the next stage of the plan, but regularization before capacity where the settled training overfits;
5. before the refinement and after it, what the curves ask for: regularization, capacity, schedule and length; then the
   refinement, if something was settled since;
6. after a larger budget: what had been skipped for want of it, and the refinement;
7. the proof, where something new has to be proven.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.core.events import RangeChanged, StageOpened
from luthier.core.history import History, StageRecord
from luthier.core.params import Choice, Constant
from luthier.core.summary import ABLATION, CONFIRM, PROOFS
from luthier.core.trial import TrialRecord
from luthier.diagnosis import Finding
from luthier.diagnosis.read import GATED
from luthier.knowledge import find, tier_of
from luthier.playbook.plan import Plan, plan_of
from luthier.playbook.ranges import beyond, taken_back, wider
from luthier.playbook.read import PIPELINE, RATE, Reading, bracketed, known_by_hand, read_leading
from luthier.playbook.script import settled_config, short_length
from luthier.playbook.stage import Stage
from luthier.playbook.stages.again import decaying, remedies
from luthier.playbook.stages.confirm import CONFIRM_TIME, FEWEST, confirm_pairs, reserved

MOST = 2
"""How often a stage is opened again for findings: after that the playbook goes on and says what it saw. Our choice."""
TRUSTED = 0.75
"""Measured confidence from which a warning about the pipeline holds up tiers 3 to 5: those below it are told, and no
study should stand still for them (noisy training labels make validation look better than training). Our choice."""
RATES, CAPACITY, REGULARIZATION, SCHEDULE, REFINEMENT = (
    "learning rate", "capacity", "regularization", "schedule", "refinement",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Opening:
    """A stage to open.

    Args:
        why: the reason beyond the stage's own question; empty where it is simply its turn.
        notes: for its script; with ``again`` where it was open before.
    """

    stage: Stage
    why: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)


def following(history: History, stages: Sequence[Stage], extend: bool) -> RangeChanged | StageOpened | None:
    """The next decision of the playbook between two stages; None when nothing is left."""
    return Route(history, stages, extend).next()


class Route:
    """One decision: the history, the stages by name, and what the curves say, read once."""

    def __init__(self, history: History, stages: Sequence[Stage], extend: bool) -> None:
        self.history = history
        self.stages = {s.name: s for s in stages}
        self.extend = extend
        self._reading: Reading | None = None

    # -- what is known ---------------------------------------------------------------------------------------------
    @property
    def reading(self) -> Reading:
        """What the curves of the settled training say."""
        if self._reading is None:
            self._reading = read_leading(self.history)
        return self._reading

    def records(self, name: str) -> list[tuple[int, StageRecord]]:
        """The times that a stage was open, with their places among all stages."""
        return [(i, s) for i, s in enumerate(self.history.stages) if s.name == name]

    def last(self, name: str) -> int:
        """The place of a stage's latest record; -1 where it was never open."""
        return max((i for i, _ in self.records(name)), default=-1)

    def loops(self, name: str) -> int:
        """How often a stage was opened again for what was found; edges and a larger budget do not count."""
        return sum(s.notes.get("again") not in (None, "edge", "budget", "mended") for _, s in self.records(name))

    def may(self, name: str) -> bool:
        """Whether a stage had its turn and may be opened again for a finding."""
        stage = self.stages.get(name)
        return stage is not None and stage.again and self.last(name) >= 0 and self.loops(name) < MOST

    def newer(self, name: str) -> bool:
        """Whether the settled training was trained after a stage's latest record."""
        trial = self.reading.trial
        ids = [i for s in self.history.stages[: self.last(name) + 1] for i in s.trials]
        return trial is not None and trial.id > max(ids, default=-1)

    def plan(self, name: str) -> Plan:
        """The plan that the stage would go by if it were opened now."""
        return plan_of(self.history, StageRecord(name, "", opened=self.history.elapsed))

    def allowance(self, stage: Stage) -> tuple[float | None, float | None]:
        """What a stage may spend, in epochs and in seconds: its share of what the later ones do not reserve.

        What is settled is trained at full length once, whatever the budget: the stages before leave enough for it.
        """
        history, names = self.history, list(self.stages)
        later = set(names[names.index(stage.name) + 1 :])
        full, pace = history.study.max_epochs, history.pace()

        def part(room: float, whole: float) -> float | None:
            if math.isinf(room):
                return None
            share = room * (1.0 if stage.name == CONFIRM else stage.share)
            share = min(share, room - whole) if SCHEDULE in later and room >= whole else share
            return max(0.0, share, min(room, whole) if stage.name == SCHEDULE else 0.0)

        epochs = history.epochs_left - reserved(history, later, self.plan(stage.name))
        return part(epochs, full), part(history.seconds_left - self._kept(later), pace.takes(full))

    def _kept(self, later: Collection[str]) -> float:
        """Seconds that are kept for the confirmation, where that is enough for one."""
        history = self.history
        if CONFIRM not in later or history.study.budget.seconds is None:
            return 0.0
        began = history.stages[history.renewed].opened if history.renewed < len(history.stages) else history.elapsed
        kept = CONFIRM_TIME * (history.study.budget.seconds - (began if history.renewed else 0.0))
        return kept if history.pace().takes(FEWEST * 2 * history.study.max_epochs) <= kept else 0.0

    def affords(self, name: str, epochs: float) -> bool:
        """Whether a stage could pay for ``epochs`` now."""
        allowance, seconds = self.allowance(self.stages[name])
        takes = self.history.pace().takes(epochs)
        return (allowance is None or allowance >= epochs) and (seconds is None or seconds >= max(takes, 1e-9))

    @property
    def short(self) -> int:
        """The length of a short training."""
        return short_length(self.history)

    # -- the order -------------------------------------------------------------------------------------------------
    def next(self) -> RangeChanged | StageOpened | None:
        """The decision."""
        if self.extend and self.history.stages:
            changed = self._range()
            if changed is not None:
                return changed
        opening = (
            self._edge() or self._coupled() or self._unsteady() or self._turn() or self._renewed() or self._proof()
        )
        return None if opening is None else self._opened(opening)

    def _opened(self, opening: Opening) -> StageOpened:
        stage, notes = opening.stage, dict(opening.notes)
        if stage.tier is not None and stage.tier >= GATED and (held := self.held()):
            notes["held"] = held
        if stage.name == REFINEMENT and (held := self.held()):
            notes["held"] = held
        if stage.name == RATES and "again" not in notes and (known := known_by_hand(self.history)) is not None:
            notes["known"] = dict(known)
        overfits = self.reading.serious(("overfitting", "overfitting_loss_only")) if stage.name == CAPACITY else None
        if overfits is not None:
            notes["overfits"] = overfits.text
        epochs, seconds = self.allowance(stage)
        again = "Again: " if "again" in notes else ""
        why = f"{again}{opening.why}" if again else f"{stage.question}{' ' if opening.why else ''}{opening.why}"
        return StageOpened(stage.name, why, epochs, seconds, notes)

    # -- ranges ----------------------------------------------------------------------------------------------------
    def _range(self) -> RangeChanged | None:
        """A widening taken back, or a range a step wider where the stage that closed last settled a value on its edge
        and two trainings there can be paid."""
        last = self.history.stages[-1]
        stage = self.stages.get(last.name)
        if stage is None or not stage.again:
            return None
        back = taken_back(self.history)
        return back or wider(self.history, self.plan(last.name), lambda epochs: self.affords(last.name, epochs))

    def _edge(self) -> Opening | None:
        """The two trainings beyond the edge of a range that was just widened."""
        notes = beyond(self.history)
        if notes is None:
            return None
        why = f"the best {notes['name']} lay at the {notes['end']} end of its range."
        return Opening(self.stages[self.history.stages[-1].name], why, {"again": "edge", **notes})

    # -- back to the learning rate -----------------------------------------------------------------------------------
    def _coupled(self) -> Opening | None:
        """The learning rate once more after an accepted change of what it is coupled with."""
        # The refinement moves the rate along with the rest.
        since = max(self.last(RATES), self.last(REFINEMENT))
        rate = find(self.history.space, "learning_rate", settled_config(self.history))
        searched = rate is not None and not isinstance(self.history.space[rate], Choice | Constant)
        if not self.may(RATES) or not searched or not self.affords(RATES, self.short):
            return None
        pivots = {find(self.history.space, role) for role in ("optimizer", "batch_size")}
        before, now = settled_config(self.history, since + 1), settled_config(self.history)
        changed: list[str] = []
        for stage in self.history.stages[since + 1 :]:
            for name in stage.settled if stage.name not in PROOFS else ():
                known = self.history.space.get(name)
                counts = known is not None and (name in pivots or tier_of(name, known) == 3)
                if counts and now.get(name) != before.get(name) and name not in changed:
                    changed.append(name)
        if not changed:
            return None
        return Opening(self.stages[RATES], f"the rate beside the new {', '.join(changed)}.", {"again": "rates"})

    def _unsteady(self) -> Opening | None:
        """The learning rate with remedies, for a settled training that is unsteady or too slow."""
        if not self.may(RATES) or not self.newer_than_remedies():
            return None
        found, trial = self.mendable(), self.reading.trial
        if not found or trial is None or not self.affords(RATES, trial.horizon):
            return None
        kinds = [f.kind for f in found]
        notes = {"again": "steadier", "kinds": kinds, "trial": trial.id, "epochs": trial.horizon}
        return Opening(self.stages[RATES], f"the settled training asks for it: {found[0].text}", notes)

    def newer_than_remedies(self) -> bool:
        """Whether the settled training was not yet the reason to look for remedies."""
        trial = self.reading.trial
        asked = [s for _, s in self.records(RATES) if s.notes.get("again") == "steadier"]
        return trial is not None and all(s.notes["trial"] != trial.id for s in asked)

    def held(self) -> str:
        """What has to be mended before tiers 3 to 5 are touched; empty where nothing has.

        A mistake in the pipeline, if it is none that is often imagined; a condition on the learning rate's side until
        its remedies were tried.
        """
        answered = {k for _, s in self.records(RATES) for k in s.numbers.get("answered", ())}
        broken = [f for f in self.reading.of_tier(PIPELINE) if f.severity == "critical" or f.confidence >= TRUSTED]
        wrong = [*broken, *(f for f in self.mendable() if f.kind not in answered)]
        return wrong[0].text if wrong else ""

    def mendable(self) -> list[Finding]:
        """Findings on the learning rate's side that the space has a remedy for which the search has not refuted."""
        trial = self.reading.trial
        if trial is None or RATES not in self.stages:
            return []
        return [
            f
            for f in self.reading.of_tier(RATE)
            if remedies(self.history.space, trial.config, [f.kind])
            and (f.kind == "edge_of_stability" or not bracketed(self.history, trial, up=f.kind == "rate_too_low"))
        ]

    # -- the plan ----------------------------------------------------------------------------------------------------
    def _turn(self) -> Opening | None:
        """The stage whose turn it is, and what the curves ask for before the refinement and after it."""
        coming = [s for s in self.stages.values() if self.last(s.name) < 0]
        searching = [s for s in coming if s.name not in PROOFS]
        upcoming = searching[0] if searching else None
        if upcoming is not None and upcoming.name == CAPACITY and self.reading.overfits is not None:
            first = self.stages.get(REGULARIZATION)
            if first in coming and first is not None:
                text = f"Before capacity, for a model that overfits is not made larger: {self.reading.overfits.text}"
                return Opening(first, text)
        if upcoming is None or upcoming.name == REFINEMENT:
            back = self._asked() or self._mended()
            if back is not None:
                return back
        if upcoming is not None:
            return Opening(upcoming)
        return self._refined_again()

    def _asked(self) -> Opening | None:
        """A stage that the curves of a training newer than its verdict ask for."""
        reading = self.reading
        if reading.trial is None or self.held():
            return None
        under, over = reading.serious(("underfitting",)), reading.overfits
        still = reading.findings.get("still_improving")
        medium = max(self.short, self.history.study.max_epochs // 2)
        asked = any(s.notes.get("trial") == reading.trial.id for _, s in self.records(CAPACITY))
        if under is not None and self.may(CAPACITY) and not asked and self.affords(CAPACITY, medium):
            return self._again(CAPACITY, "underfitting", under.text)
        more = over is not None and self.may(REGULARIZATION) and self.newer(REGULARIZATION)
        if over is not None and more and self.affords(REGULARIZATION, medium):
            return self._again(REGULARIZATION, "overfitting", over.text)
        # A cause that the search has refuted is none.
        refuted = {f.kind for f in self.reading.of_tier(RATE)} - {f.kind for f in self.mendable()}
        alone = still is not None and set(still.causes) <= refuted
        if still is not None and alone and self.may(SCHEDULE) and not self._looked_longer(reading.trial):
            full = self.history.study.max_epochs
            longer = reading.trial.horizon < full or decaying(self.history, reading.trial.config)
            if longer and self.affords(SCHEDULE, full):
                return self._again(SCHEDULE, "longer", still.text)
        return None

    def _again(self, name: str, reason: str, text: str) -> Opening:
        trial = self.reading.trial
        notes = {"again": reason, "trial": trial.id if trial is not None else None}
        return Opening(self.stages[name], f"the settled training asks for it: {text}", notes)

    def _looked_longer(self, trial: TrialRecord) -> bool:
        return any(s.notes.get("trial") == trial.id for _, s in self.records(SCHEDULE))

    def _mended(self) -> Opening | None:
        """A stage that had to wait for something that is mended now."""
        if self.held():
            return None
        for stage in self.stages.values():
            records = self.records(stage.name)
            if records and records[-1][1].numbers.get("held") and self.affords(stage.name, self.short):
                return Opening(stage, "what it waited for is mended.", {"again": "mended"})
        return None

    def _refined_again(self) -> Opening | None:
        """The refinement, where a stage has settled something new after it."""
        last = self.last(REFINEMENT)
        if not self.may(REFINEMENT) or last < self.history.renewed:
            return None
        since = [s for s in self.history.stages[last + 1 :] if s.name not in PROOFS and not s.skipped]
        now, then = settled_config(self.history), settled_config(self.history, last + 1)
        if not since or now == then or not self._room():
            return None
        return Opening(self.stages[REFINEMENT], "something else was settled since.", {"again": "changed"})

    def _room(self) -> bool:
        """Whether a refinement could train one candidate to the end and some short ones."""
        full = self.history.study.max_epochs
        return self.affords(REFINEMENT, full + 4 * self.short)

    # -- a larger budget, and the proof ------------------------------------------------------------------------------
    def _renewed(self) -> Opening | None:
        """After the budget grew: stages that had been skipped for want of it, then the refinement."""
        if not self.history.renewed:
            return None
        for stage in self.stages.values():
            records = self.records(stage.name)
            if stage.name in PROOFS or not records or records[-1][0] >= self.history.renewed:
                continue
            skipped = bool(records[-1][1].numbers.get("unaffordable"))
            pays = self._room() if stage.name == REFINEMENT else skipped and self.affords(stage.name, self.short)
            if pays and (skipped or stage.again):
                why = f"the budget has grown to {self.history.study.budget}."
                return Opening(stage, why, {"again": "budget"})
        return None

    def _proof(self) -> Opening | None:
        """The confirmation where something new was settled since the last one, then the ablation of its winner."""
        confirmed, ablated = self.last(CONFIRM), self.last(ABLATION)
        if CONFIRM in self.stages and confirmed < 0:
            return Opening(self.stages[CONFIRM])
        if CONFIRM in self.stages and self._unproven(confirmed):
            why = "what was found since has to prove itself on seeds of its own."
            return Opening(self.stages[CONFIRM], why, {"again": "proof"})
        if ABLATION in self.stages and ablated < max(confirmed, 0):
            return Opening(self.stages[ABLATION], "", {"again": "proof"} if ablated >= 0 else {})
        if ABLATION in self.stages and ablated < 0:
            return Opening(self.stages[ABLATION])
        return None

    def _unproven(self, confirmed: int) -> bool:
        """Whether a further confirmation is due and can be paid."""
        history, record = self.history, self.history.stages[confirmed]
        searched = [s for s in history.stages[confirmed + 1 :] if s.name not in PROOFS and not s.skipped]
        grown = history.renewed > confirmed and bool(record.numbers.get("unaffordable"))
        if not searched and not grown:
            return False
        if settled_config(history) == settled_config(history, confirmed + 1) and record.numbers.get("winner"):
            return False
        pairs = confirm_pairs(history, self.plan(CONFIRM))
        return pairs >= FEWEST and self.affords(CONFIRM, FEWEST * 2 * history.study.max_epochs)
