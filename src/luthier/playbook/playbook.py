"""The playbook: stages in a practitioner's order, each with a part of the budget, as a scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from luthier.contracts import Action, Done, Stop, Wait
from luthier.core.events import StageClosed
from luthier.core.history import History
from luthier.core.summary import ABLATION, CONFIRM
from luthier.playbook.route import following
from luthier.playbook.script import follow
from luthier.playbook.stage import Stage
from luthier.playbook.stages.ablation import ablation
from luthier.playbook.stages.again import script_of
from luthier.playbook.stages.capacity import capacity
from luthier.playbook.stages.confirm import confirm
from luthier.playbook.stages.learning_rate import learning_rate
from luthier.playbook.stages.levers import advanced, regularization, your_own
from luthier.playbook.stages.lr_range import lr_range
from luthier.playbook.stages.refine import refine
from luthier.playbook.stages.sanity import sanity
from luthier.playbook.stages.schedule import schedule
from luthier.playbook.watch import ending, mistake, with_hint

STAGES = (
    Stage("sanity", "Does the pipeline learn at all? The smallest model shows it for next to nothing.", sanity, 1.0),
    Stage(
        "range",
        "Which learning rates can this training stand? A ladder of rates over a few updates.",
        lr_range,
        0.25,
    ),
    Stage(
        "learning rate",
        "Learning rate, optimizer and batch size first: they decide most of the result.",
        learning_rate,
        0.7,
        tier=1,
        again=True,
    ),
    Stage("schedule", "Which schedule, and how long?", schedule, 0.5, tier=2, again=True),
    Stage("capacity", "Is the model large enough, or too large?", capacity, 0.5, tier=3, again=True),
    Stage(
        "regularization",
        "Does validation need help that training does not?",
        regularization,
        0.5,
        tier=4,
        again=True,
    ),
    Stage(
        "advanced",
        "Do losses, averaging and other techniques help? One at a time.",
        advanced,
        0.5,
        tier=5,
        again=True,
    ),
    Stage("your own", "Does what nobody knows but you matter? One at a time.", your_own, 0.5, again=True),
    Stage("refinement", "Is there something better nearby, all at once?", refine, 1.0, again=True),
    Stage(CONFIRM, "Is it really better than the strong default, or was it luck?", confirm, 1.0),
    Stage(ABLATION, "Which of the changes carry the gain?", ablation, 1.0),
)
"""The plan: a practitioner's order, then everything together, then the proof."""


__all__ = ["STAGES", "Playbook", "Stage"]


@dataclass(frozen=True, slots=True)
class Playbook:
    """Runs the stages in order; a stage's verdict settles hyperparameters for those that follow.

    What is found on the way may bring a stage forward or back (:mod:`luthier.playbook.route`).

    Args:
        stages: the plan. Leave some out, reorder them, or add your own.
        extend: a best value on the edge of its range widens the range; False where the ranges are limits and no hints.
    """

    stages: Sequence[Stage] = field(default=STAGES)
    extend: bool = True

    def propose(self, history: History, rng: np.random.Generator) -> Action:
        """The open stage's next action, or the next stage."""
        current = history.open_stage
        if current is not None:
            broken_off = mistake(history, current)
            if broken_off is not None:
                return Wait("a mistake was found; running trials end first") if history.running else broken_off
            stage = next(s for s in self.stages if s.name == current.name)
            held = current.notes.get("held")
            if held and stage.tier is not None:
                why = f"the curves ask for something else first: {held}"
                return StageClosed(stage.name, "skipped", why, numbers={"held": True}, skipped=True)
            action = follow(script_of(stage.script, current.notes), history, current)
            return with_hint(history, action) if isinstance(action, StageClosed) else action
        broken = next((s for s in history.stages if s.fatal), None)
        if broken is not None:
            return Done(f"{broken.name}: {broken.verdict}")
        return following(history, self.stages, self.extend) or Done("every stage has its verdict")

    def judge(self, history: History, trial: int) -> Stop | None:
        """Ends a training of the search whose loss exploded, or that learns nothing."""
        return ending(history, history.trials[trial])
