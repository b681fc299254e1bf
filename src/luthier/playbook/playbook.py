"""The playbook: stages in a practitioner's order, each with a part of the budget, as a scheduler."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field

import numpy as np

from luthier.contracts import Action, Done, Stop, Wait
from luthier.core.events import StageClosed, StageOpened
from luthier.core.history import History
from luthier.core.summary import ABLATION, CONFIRM
from luthier.playbook.script import Look, Script, follow
from luthier.playbook.stages.ablation import ablation
from luthier.playbook.stages.capacity import capacity
from luthier.playbook.stages.confirm import CONFIRM_TIME, confirm, reserved
from luthier.playbook.stages.learning_rate import learning_rate
from luthier.playbook.stages.levers import advanced, regularization, your_own
from luthier.playbook.stages.lr_range import lr_range
from luthier.playbook.stages.refine import refine
from luthier.playbook.stages.sanity import sanity
from luthier.playbook.stages.schedule import schedule
from luthier.playbook.watch import ending, mistake, with_hint


@dataclass(frozen=True, slots=True)
class Stage:
    """One question.

    Args:
        name: names it in the log.
        question: what it asks, in a sentence.
        script: asks for trainings and returns the verdict; see :mod:`luthier.playbook.script`.
        share: the part of what is left to spend (without ``reserved`` of later stages) that it may take, in [0, 1].
    """

    name: str
    question: str
    script: Callable[[Look], Script]
    share: float = 0.3


STAGES = (
    Stage("sanity", "Does the pipeline learn at all? The smallest model shows it for next to nothing.", sanity, 1.0),
    Stage(
        "range",
        "Which learning rates can this training stand? A ladder of rates over a few updates.",
        lr_range,
        1.0,
    ),
    Stage(
        "learning rate",
        "Learning rate, optimizer and batch size first: they decide most of the result.",
        learning_rate,
        0.7,
    ),
    Stage("schedule", "Which schedule, and how long?", schedule, 0.5),
    Stage("capacity", "Is the model large enough, or too large?", capacity, 0.5),
    Stage("regularization", "Does validation need help that training does not?", regularization, 0.5),
    Stage("advanced", "Do losses, averaging and other techniques help? One at a time.", advanced, 0.5),
    Stage("your own", "Does what nobody knows but you matter? One at a time.", your_own, 0.5),
    Stage("refinement", "Is there something better nearby, all at once?", refine, 1.0),
    Stage(CONFIRM, "Is it really better than the strong default, or was it luck?", confirm, 1.0),
    Stage(ABLATION, "Which of the changes carry the gain?", ablation, 1.0),
)
"""The plan: a practitioner's order, then everything together, then the proof."""


@dataclass(frozen=True, slots=True)
class Playbook:
    """Runs the stages in order; a stage's verdict settles hyperparameters for those that follow.

    Args:
        stages: the plan. Leave some out, reorder them, or add your own.
    """

    stages: Sequence[Stage] = field(default=STAGES)

    def propose(self, history: History, rng: np.random.Generator) -> Action:
        """The open stage's next action, or the next stage."""
        current = history.open_stage
        if current is not None:
            broken_off = mistake(history, current)
            if broken_off is not None:
                return Wait("a mistake was found; running trials end first") if history.running else broken_off
            stage = next(s for s in self.stages if s.name == current.name)
            action = follow(stage.script, history, current)
            return with_hint(history, action) if isinstance(action, StageClosed) else action
        closed = {s.name for s in history.stages}
        broken = next((s for s in history.stages if s.fatal), None)
        if broken is not None:
            return Done(f"{broken.name}: {broken.verdict}")
        coming = [s for s in self.stages if s.name not in closed]
        if not coming:
            return Done("every stage has its verdict")
        epochs, seconds = _allowance(coming[0], history, {s.name for s in coming[1:]})
        return StageOpened(coming[0].name, coming[0].question, epochs, seconds)

    def judge(self, history: History, trial: int) -> Stop | None:
        """Ends a training of the search whose loss exploded, or that learns nothing."""
        return ending(history, history.trials[trial])


def _allowance(stage: Stage, history: History, later: Set[str]) -> tuple[float | None, float | None]:
    """What a stage may spend, in epochs and in seconds: its share of what the ``later`` ones do not reserve."""
    epochs, seconds = history.epochs_left - reserved(history, later), history.seconds_left
    if CONFIRM in later:
        seconds -= CONFIRM_TIME * (history.study.budget.seconds or 0.0)
    share = 1.0 if stage.name == CONFIRM else stage.share
    return (
        max(0.0, epochs * share) if math.isfinite(epochs) else None,
        max(0.0, seconds * share) if math.isfinite(seconds) else None,
    )
