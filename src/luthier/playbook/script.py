"""Stages as scripts: a stage is a generator that asks for trainings, looks at them, and returns a verdict.

    def widths(look: Look) -> Script:
        tried = yield [look.wish({"width": w}, epochs=look.short, why=f"width {w}") for w in (32, 64, 128)]
        best = min(tried, key=look.loss)
        return Verdict(f"width {best.config['width']}", look.table(tried, "width"), {"width": best.config["width"]})

The script is run from its beginning at each decision: a wish that was granted before is answered from the log, the
first one that was not becomes the next job. So a script may be written as if it trained by itself, and yet is a pure
function of the history. A wish that an earlier stage has already answered costs nothing; one that does not fit the
stage's allowance is not granted, and its trial is missing from what ``yield`` returns.

Two rules: a script must look only at the trials it was given and at closed stages (``look`` offers nothing else), and
must ask the same at each run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.contracts import Action, Start, Wait
from luthier.core.events import StageClosed
from luthier.core.history import History, StageRecord
from luthier.core.params import Config, Value
from luthier.core.space import Space
from luthier.core.trial import ASKED, Status, TrialRecord
from luthier.core.words import count
from luthier.playbook.defaults import strong_default
from luthier.playbook.plan import Plan, plan_of


@dataclass(frozen=True, slots=True)
class Wish:
    """A training that a stage wants, ``epochs`` long with a complete schedule of its own; or a probe's answer, which
    takes about ``takes`` epochs' worth of updates."""

    config: Config
    epochs: int
    why: str
    seed: int
    probe: str | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    takes: float = 0.0

    def granted_by(self, trial: TrialRecord) -> bool:
        """Whether ``trial`` is this training."""
        return (
            trial.probe == self.probe
            and trial.seed == self.seed
            and dict(trial.notes.get(ASKED, trial.config)) == dict(self.config)
            and (self.probe is not None or (trial.horizon == self.epochs and trial.until == self.epochs))
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """A stage's answer.

    Args:
        text: in a sentence, with its numbers.
        why: what it rests on.
        settled: hyperparameters held at these values from now on.
        numbers: the evidence as plain data.
        skipped: the question did not arise.
        fatal: no tuning can help.
    """

    text: str
    why: str = ""
    settled: Config = field(default_factory=dict)
    numbers: Mapping[str, Any] = field(default_factory=dict)
    skipped: bool = False
    fatal: bool = False


Script = Generator[Sequence[Wish], list[TrialRecord], Verdict]
Part = Generator[Sequence[Wish], list[TrialRecord], list[TrialRecord]]
"""A piece of a script, called with ``yield from``: returns the trials it asked for."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a script may look at."""

    history: History
    stage: StageRecord

    @property
    def space(self) -> Space:
        """The whole space."""
        return self.history.space

    @property
    def default(self) -> dict[str, Value]:
        """The strong default."""
        return strong_default(self.history)

    @property
    def base(self) -> dict[str, Value]:
        """The strong default with what the stages before this one settled."""
        return settled_config(self.history)

    @property
    def seed(self) -> int:
        """One seed for every comparison before the last: same initialization, same order of the data."""
        return self.history.study.seed & 0x7FFFFFFF

    @property
    def full(self) -> int:
        """The length of a full training."""
        return self.history.study.max_epochs

    @property
    def plan(self) -> Plan:
        """What the budget allows to ask."""
        return plan_of(self.history, self.stage)

    @property
    def notes(self) -> Mapping[str, Any]:
        """What was known when the stage was opened: findings, and what brought it back."""
        return self.stage.notes

    @property
    def again(self) -> bool:
        """Whether the stage was opened before: then it asks anew what is settled."""
        return "again" in self.stage.notes

    @property
    def short(self) -> int:
        """A quarter of the full length, or as long as it takes to tell learning rates apart."""
        return short_length(self.history)

    @property
    def medium(self) -> int:
        """Half the full length."""
        return max(self.short, self.full // 2)

    @property
    def length(self) -> int:
        """The length that was settled, else the full one."""
        settled = next(
            (s.numbers.get("length") for s in reversed(self.history.stages) if s.numbers.get("length")), None
        )
        return int(settled) if settled else self.full

    def numbers(self, stage: str) -> Mapping[str, Any]:
        """The numbers of a closed stage; empty where there is none."""
        record = self.history.stage(stage)
        return record.numbers if record is not None and not record.open else {}

    def wish(
        self,
        changes: Config,
        *,
        epochs: int,
        why: str,
        base: Config | None = None,
        seed: int | None = None,
        probe: str | None = None,
        notes: Mapping[str, Any] | None = None,
        takes: float = 0.0,
    ) -> Wish:
        """A training of ``base`` (the settled configuration where None) with ``changes``.

        What follows a hyperparameter that changes keeps its place in the coupled coordinates.
        """
        base = self.base if base is None else base
        known = {k: v for k, v in {**base, **changes}.items() if k in self.space}
        for name in known:
            if name not in changes and any(parent in changes for parent in self.space.follows(name)):
                before = strong_default(self.history, {k: v for k, v in base.items() if k in self.space})
                after = strong_default(self.history, {k: v for k, v in known.items() if k != name})
                known[name] = self.space.coupled(name, self.space.base(name, before), after)
        config = strong_default(self.history, known)
        return Wish(config, epochs, why, self.seed if seed is None else seed, probe, notes or {}, takes)

    def loss(self, trial: TrialRecord) -> float:
        """The objective, smaller is better; infinite for a trial that failed or was ended early."""
        return math.inf if trial.status is Status.STOPPED else self.history.final_loss(trial)

    def best(self, trials: Sequence[TrialRecord]) -> TrialRecord | None:
        """The best of ``trials``, the first of a tie; None where none has a score."""
        best = min(trials, key=self.loss, default=None)
        return best if best is not None and math.isfinite(self.loss(best)) else None

    def shown(self, trial: TrialRecord) -> str:
        """A trial's score as text."""
        if trial.status is Status.STOPPED:
            return (trial.stop_why or "stopped").partition(":")[0]
        score = self.history.score(trial)
        return f"{score:.4g}" if score is not None else (trial.failure.kind if trial.failure else "no score")

    def said(self, trial: TrialRecord) -> str:
        """The metric's name and a trial's score."""
        return f"{self.history.objective.metric} {self.shown(trial)}"

    def table(self, trials: Sequence[TrialRecord], *names: str) -> str:
        """``name value: score`` for each trial."""
        parts = []
        for trial in trials:
            values = ", ".join(short(trial.config[n]) for n in names if n in trial.config)
            parts.append(f"{values}: {self.shown(trial)}" if values else self.shown(trial))
        return "; ".join(parts)


def settled_config(history: History, stages: int | None = None) -> dict[str, Value]:
    """The strong default with what the first ``stages`` stages settled, all closed ones where None.

    A stage may have moved the ``"start"`` (in its numbers): hyperparameters that no stage has settled yet, and that lie
    elsewhere than the default has them.
    """
    closed = [s for s in history.stages[:stages] if not s.open]
    start = {k: v for s in closed for k, v in s.numbers.get("start", {}).items()}
    settled = {k: v for s in closed for k, v in s.settled.items()}
    return strong_default(history, {k: v for k, v in {**start, **settled}.items() if k in history.space})


def short_length(history: History) -> int:
    """A quarter of the full length; longer where a stage found that so short a training shows nothing."""
    asked = next((s.numbers["short"] for s in reversed(history.stages) if not s.open and "short" in s.numbers), None)
    return int(asked) if asked is not None else max(1, round(history.study.max_epochs / 4))


def unaffordable(names: Sequence[str]) -> Verdict:
    """The verdict of a stage that has something to ask and nothing to pay it with; a larger budget asks it again."""
    text = f"the stage's budget does not reach {', '.join(names)}, left as before"
    return Verdict("skipped", text, numbers={"unaffordable": True}, skipped=True)


def after(epochs: int) -> str:
    """``after 3 epochs``."""
    return f"after {count(epochs, 'epoch')}"


def number(trial: TrialRecord, name: str) -> float:
    """The value of a numeric hyperparameter in a trial's configuration."""
    return float(trial.config[name])  # type: ignore[arg-type]


def short(value: Value) -> str:
    """A hyperparameter's value as people write it."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def follow(script: Callable[[Look], Script], history: History, stage: StageRecord) -> Action:
    """The next action of a stage: its first unanswered wish, a wait for one that runs, or the verdict."""
    play = script(Look(history, stage))
    allowance = math.inf if stage.allowance is None else stage.allowance
    pace = history.pace(without=stage.trials)
    used, paid = 0.0, set[int]()

    def in_time(wish: Wish) -> bool:
        """Whether a new training fits the stage's time, at the pace seen before the stage."""
        passed = history.elapsed - stage.opened
        return stage.seconds is None or (passed < stage.seconds and passed + pace.takes(wish.epochs) <= stage.seconds)

    answers: list[TrialRecord] | None = None
    while True:
        try:
            wishes = next(play) if answers is None else play.send(answers)
        except StopIteration as end:
            verdict: Verdict = end.value
            return StageClosed(
                stage.name, verdict.text, verdict.why, verdict.settled, verdict.numbers, verdict.skipped, verdict.fatal
            )
        answers, waiting = [], False
        for wish in wishes:
            trial = _granted(wish, history, stage)
            # What an earlier stage trained, or this one before, is paid for.
            mine = trial is None or (trial.id in stage.trials and trial.id not in paid)
            cost = (float(wish.epochs) if wish.probe is None else wish.takes) if mine else 0.0
            if used + cost > allowance or (trial is None and not in_time(wish)):
                continue
            used += cost
            if trial is not None:
                paid.add(trial.id)
            else:
                return Start(
                    wish.config,
                    until=wish.epochs,
                    horizon=wish.epochs,
                    seed=wish.seed,
                    why=wish.why,
                    notes=wish.notes,
                    probe=wish.probe,
                )
            waiting = waiting or trial.status is Status.RUNNING
            answers.append(trial)
        if waiting:
            return Wait(f"the stage {stage.name!r} waits for its trials")


def _granted(wish: Wish, history: History, stage: StageRecord) -> TrialRecord | None:
    """The trial that answers a wish: this stage's own first, else a finished one of an earlier stage. What was ended
    early or became non-finite would end so again."""
    own = next((history.trials[i] for i in stage.trials if wish.granted_by(history.trials[i])), None)
    if own is not None:
        return own
    return next((t for t in history.trials if over(t) and not wish.notes and wish.granted_by(t)), None)


def over(trial: TrialRecord) -> bool:
    """Whether a training came to its end, or to one that it would come to again."""
    hopeless = trial.status is Status.STOPPED or (trial.failure is not None and trial.failure.kind == "nonfinite")
    return trial.full or hopeless
