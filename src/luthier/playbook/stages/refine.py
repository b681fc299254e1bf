"""All at once: small moves of everything that proved important, around the best that is known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from luthier.core.params import Choice, Config, Float, Int
from luthier.core.trial import TrialRecord
from luthier.knowledge import find, role_of, setting_of, tier_of
from luthier.playbook.script import Look, Script, Verdict, short
from luthier.playbook.stages.search import noise

MUTATED = 0.4
"""The probability that a hyperparameter moves; NePS's PriorBand has 0.5 over all dimensions."""
REACH = 0.2
"""The standard deviation of a move on the unit scale, at most (NePS: 0.25), and where nothing is known."""
OF_PRIOR = 0.5
"""A move's standard deviation in terms of the prior's: what the stages before settled has halved what is not known."""
AT_ONCE = 3
"""Candidates that are compared on short trainings before the best of them is trained to the end (halving by three)."""
KNOWN = 3
"""Configurations of earlier full trainings that a further refinement begins with beside what is settled."""


def refine(look: Look) -> Script:
    """Rounds of three candidates near the best configurations, short; the best of a round at full length.

    A candidate is the best configuration, or one crossed with a runner-up, with about two fifths of its hyperparameters
    moved. What is learned in each round moves the center of the next.
    """
    # The optimizer has rates of its own: moved alone it would be judged by another's.
    names = [n for n in look.space.dims if n != find(look.space, "optimizer")]
    held = look.notes.get("held")
    if held:
        names = [n for n in names if tier_of(n, look.space[n]) not in (3, 4, 5)]
    if not any(n in look.base for n in names):
        return Verdict("skipped", "nothing is left that could be moved", skipped=True)
    full = yield [look.wish({}, epochs=look.length, why="what is settled so far, as the mark to beat")]
    if look.best(full) is None:
        text = "the budget has no room for a full training here"
        return Verdict("skipped", text, numbers={"unaffordable": True}, skipped=True)
    marks = yield [look.wish({}, epochs=look.short, why="the same on a short training, to compare others with")]
    finals, shorts = list(full), list(marks)
    if look.again:
        # Trained before, so that they cost nothing: what was settled need not be the best that is known.
        finals += yield [look.wish(c, base={}, epochs=look.length, why="known") for c in _known(look, full[0].config)]
    rng = np.random.default_rng((look.history.study.seed, len(look.history.stages), 7))
    first, asked, idle, plan = finals[0], 0, 0, look.plan
    before = len(finals)
    for _ in range(plan.rounds):
        if idle == plan.patience:
            break
        leader, idle = look.best(finals) or first, idle + 1
        configs = [moved(look, _parent(look, finals, rng).config, names, rng) for _ in range(AT_ONCE)]
        round_ = yield [
            look.wish(c, base={}, epochs=look.short, why="a small move of several at once") for c in configs
        ]
        asked += len(round_)
        best = look.best(round_)
        if not round_ or best is None:
            break
        shorts += round_
        # Against the short run of what leads: a candidate that loses clearly at once is not worth the rest.
        ranked = sorted(map(look.loss, shorts))
        if look.loss(best) <= ranked[max(0, math.ceil(len(ranked) / 3) - 1)]:
            more = yield [look.wish(best.config, base={}, epochs=look.length, why="the best of a round, to the end")]
            if not more:
                break
            finals += more
            if look.loss(leader) - look.loss(more[0]) > noise(look, leader):
                idle = 0
    winner = look.best(finals) or first
    changed = {n: v for n, v in winner.config.items() if v != first.config.get(n)}
    text = (
        f"{', '.join(f'{n} {short(v)}' for n, v in changed.items())}: {look.said(winner)} (before {look.shown(first)})"
        if changed
        else f"nothing better than {look.said(first)} nearby"
    )
    why = f"{asked} candidates on short trainings, {len(finals) - before} of them to the end"
    if idle == plan.patience:
        why += f"; stopped, for {idle} rounds in a row gained less than the noise: what is left to gain lies below it"
    if held:
        why += f"; capacity and regularization were left alone, for the curves ask for something else first: {held}"
    return Verdict(text, why, settled=dict(winner.config))


def _known(look: Look, settled: Config) -> list[Config]:
    """The best configurations of the search's trainings of this length before the stage."""
    own = set(look.stage.trials)
    trained = [
        t
        for t in look.history.trials
        if t.full and t.horizon == look.length and t.seed == look.seed and t.id not in own and not t.notes
    ]
    ranked = sorted((t for t in trained if math.isfinite(look.loss(t))), key=look.loss)
    configs: list[Config] = [dict(t.config) for t in ranked]
    return [c for i, c in enumerate(configs) if c not in configs[:i] and c != settled][:KNOWN]


def _parent(look: Look, finals: list[TrialRecord], rng: np.random.Generator) -> TrialRecord:
    """One of the best three, the best most often."""
    ranked = sorted(finals, key=look.loss)[:3]
    weights = np.array([4.0, 2.0, 1.0][: len(ranked)])
    return ranked[int(rng.choice(len(ranked), p=weights / weights.sum()))]


def moved(look: Look, config: Config, names: Sequence[str], rng: np.random.Generator) -> Config:
    """``config`` with some of ``names`` moved, at least one; what follows another moves along."""
    space = look.space
    active = [n for n in names if n in config]
    chosen = {n for n in active if rng.random() < MUTATED} or {active[int(rng.integers(len(active)))]}
    base = {n: space.base(n, config) for n in config}
    for name in (n for n in active if n in chosen):
        param = space[name]
        if isinstance(param, Choice):
            others = [c for c in param.choices if c != config[name]]
            if others and rng.random() < 0.5:
                base[name] = others[int(rng.integers(len(others)))]
        elif isinstance(param, (Float, Int)):
            u = param.to_unit(base[name]) + _reach(look, name, config) * float(rng.standard_normal())
            value = param.from_unit(min(max(u, 0.0), 1.0))
            base[name] = space.clip(name, float(f"{value:.3g}")) if isinstance(value, float) else value
    out = {n: v for n, v in base.items() if not space.follows(n)}
    out |= {n: space.coupled(n, base[n], out) for n in base if space.follows(n)}
    return space.complete(out)


def _reach(look: Look, name: str, config: Config) -> float:
    """The standard deviation of a move of ``name`` on the unit scale."""
    param = look.space[name]
    known = role_of(name, param)
    optimizer = find(look.space, "optimizer")
    kind = config.get(optimizer) if optimizer else None
    spread = known.number("spread", kind, setting_of(look.space)) if known else None
    if known is None or spread is None or not isinstance(param, (Float, Int)) or param.log != known.log:
        return REACH
    span = math.log10(param.high / param.low) if param.log else float(param.high - param.low)
    return min(REACH, OF_PRIOR * spread / span)
