"""What a study teaches beyond its answer: what mattered, what the winner's curves say, what to try next."""

from __future__ import annotations

import math
from collections.abc import Sequence

from luthier.core.history import History
from luthier.core.own_length import own_length_said
from luthier.core.params import Choice, Config, Constant, Float, Int, Param, Value
from luthier.core.summary import (
    CONFIRM,
    Confirmation,
    Lesson,
    Summary,
    exploded_text,
    gain_text,
    in_points,
    scored,
    seeds_text,
    summarize,
)
from luthier.core.trial import TrialRecord
from luthier.diagnosis import Diagnosis, Finding, diagnose_curves, diagnose_study, from_trial
from luthier.diagnosis.several import no_effect
from luthier.knowledge import find, role_of, tier_of
from luthier.knowledge.limits import edge_of, widened
from luthier.knowledge.prior import Prior
from luthier.playbook.noise import noise_of
from luthier.search import importance as comparing
from luthier.search.importance import Importance

__all__ = ["Importance", "diagnosis", "findings", "importance", "lesson", "next_steps", "winner_of"]

SEEDS = 5
"""Fresh seeds that a claim should rest on, Bouthillier et al. (arXiv 2103.03098)."""
MOST_SEEDS = 30
"""More seeds than these nobody trains: so small a gain is better called none."""
NAMED = 4
"""Hyperparameters named in one sentence."""
PRIOR_POINTS = 80
"""Steps over the range of a hyperparameter at which its prior is told."""
LENGTH_KINDS = ("still_improving", "plateau", "should_stop")
"""Findings that speak of the training's length."""


def lesson(history: History) -> Lesson:
    """The importances and the next steps of a study, finished or not."""
    found = importance(history)
    both = together(history, found)
    return Lesson(found.parts, found.why, tuple(next_steps(history)), priors(history), both)


def importance(history: History) -> Importance:
    """How much each hyperparameter decided, beside the seed noise of the study."""
    return comparing.importance(history, noise_of(history).sd)


def priors(history: History) -> dict[str, list[tuple[Value, float]]]:
    """Where the knowledge base believes good values to lie, before any trial; see :attr:`Lesson.priors`.

    The rate's is the one beside the most likely optimizer and batch size.
    """
    space = history.space
    prior = Prior(space, history.study.max_epochs, history.study.samples)
    likely, out = prior.mode(), dict[str, list[tuple[Value, float]]]()
    for name, param in space.items():
        if isinstance(param, Constant):
            continue
        marginal = prior.marginal(name, likely)
        if isinstance(param, Choice):
            out[name] = [(c, marginal.density(c)) for c in param.choices]
            continue
        bases = dict.fromkeys(param.from_unit(i / PRIOR_POINTS) for i in range(PRIOR_POINTS + 1))
        out[name] = [(space.coupled(name, v, likely), marginal.density(v)) for v in bases]
    return out


def together(history: History, found: Importance) -> tuple[str, str] | None:
    """The batch size and the learning rate, where both took several values; else the two numeric hyperparameters that
    decided most; None without two."""
    moved = [n for n, p in history.space.items() if isinstance(p, Float | Int) and len(_seen(history, n)) > 1]
    of = {r.name: n for n in reversed(moved) if (r := role_of(n, history.space[n])) is not None}
    if "batch_size" in of and "learning_rate" in of:
        return of["batch_size"], of["learning_rate"]
    ranked = [n for n in found.parts if n in moved]
    return (ranked[1], ranked[0]) if len(ranked) > 1 else None


def winner_of(history: History) -> TrialRecord | None:
    """The trial that stands for the kept configuration."""
    best = summarize(history).best_trial
    return None if best is None else history.trials[best]


def findings(history: History) -> Diagnosis:
    """What the curves of the kept configuration say; empty where there is none."""
    trial = winner_of(history)
    curves = from_trial(history, trial) if trial is not None else None
    if curves is None or (curves.train_loss is None and curves.val_loss is None and curves.val_metric is None):
        return Diagnosis((), "")
    return diagnose_curves(curves)


def diagnosis(history: History) -> Diagnosis:
    """What the curves of all trials say together; empty where none reported any."""
    curves = [from_trial(history, t) for t in history.trained() if t.reports]
    told = [c for c in curves if c.train_loss is not None or c.val_loss is not None or c.val_metric is not None]
    return diagnose_study(told) if told else Diagnosis((), "")


def next_steps(history: History) -> list[str]:
    """What a practitioner would try with twice the budget, most promising first, as sentences.

    In this order: constraints that nothing meets; a length that is not the study's; what is broken; rates at which most
    trainings explode; what the training seems not to read; a best value on the edge of its range; what was never varied
    of the first two tiers; a training that still improves; a gain that is not proven; what else the winner's curves
    say; changes that do not carry the gain; what else was never varied.
    """
    fatal = next((s for s in history.stages if s.fatal), None)
    if fatal is not None:
        verdict = fatal.verdict or ""
        end = "" if verdict.endswith((".", "?")) else "."
        return [f"Mend what ended the study first, at the stage {fatal.name}: {verdict}{end}"]
    summary = summarize(history)
    if summary.best_config is None:
        if summary.failed:
            return [*_exploding(history), "Mend what makes the trials fail: none has given a score."]
        return []
    found = [f for f in findings(history) if f.severity != "good" and f.action and not f.causes]
    broken = [f for f in found if f.severity == "critical"]
    length = [f for f in found if f.kind in LENGTH_KINDS and f not in broken]
    others = [f for f in found if f not in broken and f not in length]
    return [
        *_unmet(history, summary),
        *filter(None, [own_length_said(history)]),
        *map(_advised, broken),
        *_exploding(history),
        *_unread(history),
        *_edges(history, summary.best_config),
        *_untouched(history, summary.best_config, (1, 2)),
        *(_longer(history, f) for f in length if f.kind == "still_improving"),
        *_unproven(history, summary),
        *map(_advised, others),
        *(_advised(f) for f in length if f.kind != "still_improving"),
        *_idle(history, summary),
        *_untouched(history, summary.best_config, (3, 4, 5, 6)),
    ]


def _unmet(history: History, summary: Summary) -> list[str]:
    """That no trial meets the constraints, and how near the nearest came."""
    scored = [t for t in history.trained() if history.score(t) is not None]
    if summary.feasible is not False or not all(t.violation for t in scored):
        return []
    bounds = " and ".join(map(str, history.study.constraints))
    names = dict.fromkeys(c.metric for c in history.study.constraints)
    values = ", ".join(f"{n} {_said(summary.values[n])}" for n in names if n in summary.values)
    return [f"Widen the space towards {bounds}, or loosen that: no trial meets it, the nearest has {values}."]


def _exploding(history: History) -> list[str]:
    """That half of the trainings or more exploded, and the largest rate that held."""
    said = exploded_text(history)
    if said is None:
        return []
    name = find(history.space, "learning_rate")
    param = history.space[name] if name is not None else None
    if name is None or not isinstance(param, Float | Int):
        return [f"Lower the learning rate, or clip gradients: {said}."]
    held = [t.config[name] for t in history.trained() if history.score(t) is not None and name in t.config]
    largest = max((float(str(v)) for v in held), default=None)
    more = "" if largest is None else f", the largest {name} that gave a score is {_said(largest)}"
    return [f"Lower the upper end of {name}'s range, {_said(param.high)}, or clip gradients: {said}{more}."]


def _advised(found: Finding) -> str:
    return f"{found.action[0]} The winner's curves: {found.text}"


def _longer(history: History, found: Finding) -> str:
    trial = winner_of(history)
    length = trial.horizon if trial is not None else history.study.max_epochs
    return f"Train for {2 * length} epochs instead of {length}: {found.text}"


def _edges(history: History, best: Config) -> list[str]:
    """Values of the best configuration at an end of a range that could go on."""
    out = []
    for name in sorted(best, key=lambda n: tier_of(n, history.space[n]) if n in history.space else 6):
        param = history.space.get(name)
        if not isinstance(param, Float | Int) or len(_seen(history, name)) < 2:
            continue
        end = edge_of(history.space, name, best)
        wider = widened(history.space, name, end) if end is not None else None
        if wider is None or end is None:
            continue
        out.append(
            f"Widen the range of {name}: its best value {_said(best[name])} lies at the {end} end; "
            f"try {_said(wider.low if end == 'lower' else wider.high)} too."
        )
    return out


def _unread(history: History) -> list[str]:
    """Hyperparameters that the training seems not to read."""
    found = no_effect([from_trial(history, t) for t in history.trained() if t.full])
    return [f"{found.action[0]} {found.text}"] if found is not None else []


def _unproven(history: History, summary: Summary) -> list[str]:
    """What the claim lacks."""
    c = summary.confirmation
    if c is not None and c.by_constraint:
        return []
    if c is None:
        stage = history.stage(CONFIRM)
        many = scored(history)
        if (stage is not None and stage.settled) or summary.trials < 2:
            return []  # the default itself won, or there is nothing to compare
        return [
            f"Train the best configuration and the strong default on {SEEDS} fresh seeds each: "
            f"{f'the best of {many} trials' if many > 1 else 'the only score'} is an optimistic figure."
        ]
    if c.better and c.proven:
        few = len(c.seeds)
        return [f"Repeat on {SEEDS} seeds: the claim rests on {few} pairs."] if few < 3 else []
    seen = gain_text(c.gain, c.interval, in_points(history), seeds_text(len(c.seeds)))
    wanted = _seeds_wanted(c)
    if c.gain <= 0 or wanted is None:
        return [f"Look for larger levers than those that were tuned: the gain of {seen} is within the noise."]
    return [f"Train winner and default on about {wanted} paired seeds: the gain of {seen} is not proven."]


def _seeds_wanted(c: Confirmation) -> int | None:
    """Pairs that would show the gain if it is true: power 0.8 at 5 %, (1.96 + 0.84)^2 sd^2 / gain^2 of them, two more
    for Student's t. None where nobody would train so many."""
    if len(c.winner.scores) < 2 or c.gain <= 0:
        return None
    differences = [w - d for w, d in zip(c.winner.scores, c.default.scores)]
    mean = sum(differences) / len(differences)
    variance = sum((x - mean) ** 2 for x in differences) / (len(differences) - 1)
    wanted = max(SEEDS, len(c.seeds) + 1, math.ceil(2.8**2 * variance / c.gain**2) + 2)
    return wanted if wanted <= MOST_SEEDS else None


def _idle(history: History, summary: Summary) -> list[str]:
    """Changes on the way to the winner that carry nothing."""
    if summary.ablation is None or len(summary.ablation.steps) < 2:
        return []
    idle = [step for step in summary.ablation.steps if not step.carries]
    if not idle:
        return []
    points = in_points(history)
    told = "; ".join(f"{_listed(s.names)} {gain_text(s.gain, s.interval, points)}" for s in idle)
    return [f"Set back what does not carry the gain, or repeat it on more seeds: {told}."]


def _untouched(history: History, best: Config, tiers: Sequence[int]) -> list[str]:
    """Hyperparameters of ``tiers`` that the best configuration uses and that kept one value in all trials."""
    names = [
        n
        for n in history.space.dims
        if n in best
        and tier_of(n, history.space[n]) in tiers
        and len(_seen(history, n)) < 2
        and _choosable(history.space[n])
    ]
    if not names:
        return []
    names.sort(key=lambda n: tier_of(n, history.space[n]))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    listed = f"{', '.join(names[:NAMED])}{more}" if more else _listed(names)
    return [f"Vary {listed}: never tried at another value."]


def _choosable(param: Param) -> bool:
    if isinstance(param, Choice):
        return len(param.choices) > 1
    return not isinstance(param, Constant) and param.low < param.high


def _seen(history: History, name: str) -> set[str]:
    return {repr(t.config[name]) for t in history.trained() if name in t.config}


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _said(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
