"""Schedule and length, on trainings of full length."""

from __future__ import annotations

from luthier.core.params import Choice, Constant, Float
from luthier.core.trial import TrialRecord
from luthier.core.words import epochs
from luthier.knowledge import find, roles
from luthier.playbook.script import Look, Part, Script, Verdict, number, short
from luthier.playbook.stages.common import beside


def schedule(look: Look) -> Script:
    """What is settled at full length; other schedules and warmups; the rate again; then half the length."""
    first = yield [look.wish({}, epochs=look.full, why=f"what is settled, at the full length of {epochs(look.full)}")]
    best = look.best(first)
    if best is None:
        why = look.table(first) if first else "the budget has no room for a full training here"
        return Verdict("skipped", why, numbers={} if first else {"unaffordable": True}, skipped=True)
    words: list[str] = []
    for role, compare in (("schedule", _others), ("warmup", _warmups), ("learning_rate", _rates)):
        if not (look.plan.schedules if role == "schedule" else look.plan.details):
            continue
        name = find(look.space, role, best.config)
        if name is None or isinstance(look.space[name], Constant):
            continue
        tried = yield from compare(look, name, best)
        if tried:
            words.append(f"{name} {look.table([best, *tried], name)}")
            best = look.best([best, *tried]) or best
    length = look.full
    if look.medium < look.full and look.plan.details:
        why = f"would {epochs(look.medium)} have done as well?"
        for half in (yield [look.wish({}, base=best.config, epochs=look.medium, why=why)]):
            words.append(f"{epochs(look.medium)}: {look.shown(half)}, {epochs(look.full)}: {look.shown(best)}")
            if look.loss(half) <= look.loss(best):
                length, best = look.medium, half
    names = [find(look.space, role, best.config) for role in ("schedule", "warmup", "learning_rate")]
    settled = {n: best.config[n] for n in names if n is not None}
    text = ", ".join([*(f"{n} {short(v)}" for n, v in settled.items()), f"{epochs(length)}: {look.said(best)}"])
    if length < look.full:
        text += f" (the full {epochs(look.full)} gain nothing)"
    return Verdict(text, "; ".join(words), settled=settled, numbers={"length": length})


def _others(look: Look, name: str, best: TrialRecord) -> Part:
    """The other schedules of the space, the usual ones first."""
    param = look.space[name]
    order = roles()["schedule"].prefer
    words = {str(c).lower(): c for c in (param.choices if isinstance(param, Choice) else ())}
    ranked = sorted(words, key=lambda w: order.index(w) if w in order else len(order))
    choices = [words[w] for w in ranked if words[w] != best.config[name]][: look.plan.schedules]
    return (
        yield [look.wish({name: c}, base=best.config, epochs=look.full, why=f"schedule {c} instead") for c in choices]
    )


def _warmups(look: Look, name: str, best: TrialRecord) -> Part:
    """No warmup where there was some, a tenth of the steps where there was none."""
    if not isinstance(look.space[name], Float):
        return []
    other = look.space.clip(name, 0.0 if number(best, name) > 0.02 else 0.1)
    if other == best.config[name]:
        return []
    return (yield [look.wish({name: other}, base=best.config, epochs=look.full, why=f"warmup {short(other)}")])


def _rates(look: Look, name: str, best: TrialRecord) -> Part:
    """Half and double the rate: what was found on short trainings may not hold on long ones."""
    if isinstance(look.space[name], Choice):
        return []
    return (
        yield [
            look.wish(
                {name: r}, base=best.config, epochs=look.full, why=f"a rate found on short runs, checked: {r:.2g}"
            )
            for r in beside(look, name, best, 2.0)
        ]
    )
