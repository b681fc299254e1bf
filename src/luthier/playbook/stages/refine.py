"""All at once: small moves of everything that proved important, around the best that is known."""

from __future__ import annotations

import math

from luthier.core.params import Config
from luthier.core.trial import TrialRecord
from luthier.core.words import count
from luthier.knowledge import find, tier_of
from luthier.playbook.draws import candidates
from luthier.playbook.script import Look, Script, Verdict, short
from luthier.playbook.stages.search import noise

AT_ONCE = 3
"""Candidates that are compared on short trainings before the best of them is trained to the end (halving by three)."""
KNOWN = 3
"""Configurations of earlier full trainings that a further refinement begins with beside what is settled."""


def refine(look: Look) -> Script:
    """Rounds of three candidates near the best configurations, short; the best of a round at full length.

    The candidates come from the engine that the expert draws from, with a mask over the space: moves of one of the best
    three, of which a model of all trainings so far takes the most promising.
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
    known = _known(look, full[0].config)
    if look.again:
        # Trained before, so that they cost nothing: what was settled need not be the best that is known. At first it is
        # what the stages found one by one, and searching around what each began with was worse on the examples.
        finals += yield [look.wish(t.config, base={}, epochs=look.length, why="known") for t in known]
    first, asked, idle, plan = finals[0], 0, 0, look.plan
    before = len(finals)
    for number in range(plan.rounds):
        if idle == plan.patience:
            break
        leader, idle = look.best(finals) or first, idle + 1
        configs = candidates(look, finals, [*finals, *shorts], names, AT_ONCE, number)
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
    why = f"{count(asked, 'candidate')} on short trainings, {len(finals) - before} of them to the end"
    if idle == plan.patience:
        why += f"; stopped, for {idle} rounds in a row gained less than the noise: what is left to gain lies below it"
    if known and look.loss(known[0]) < look.loss(winner):
        why += f"; trial {known[0].id} reached {look.shown(known[0])} before: the proof asks it too, if it can pay"
    if held:
        why += f"; capacity and regularization were left alone, for the curves ask for something else first: {held}"
    return Verdict(text, why, settled=dict(winner.config))


def _known(look: Look, settled: Config) -> list[TrialRecord]:
    """The best of the search's trainings of this length before the stage, of each configuration one."""
    own = set(look.stage.trials)
    trained = [
        t
        for t in look.history.trials
        if t.full and t.horizon == look.length and t.seed == look.seed and t.id not in own and not t.notes
    ]
    ranked = sorted((t for t in trained if math.isfinite(look.loss(t)) and t.config != settled), key=look.loss)
    configs = [t.config for t in ranked]
    return [t for i, t in enumerate(ranked) if t.config not in configs[:i]][:KNOWN]
