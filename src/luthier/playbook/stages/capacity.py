"""Capacity: is the model large enough, or too large?"""

from __future__ import annotations

from luthier.knowledge import find
from luthier.playbook.script import Look, Script, Verdict, after, short, unaffordable
from luthier.playbook.stages.search import climb, has_role, noise, open_names


def capacity(look: Look) -> Script:
    """Width, depth and their kin stepwise on short trainings; only downwards while the settled training overfits.

    After an accepted change the playbook looks at the rate once more (:func:`luthier.playbook.stages.again.rates`).
    """
    names = open_names(look, (3,))
    if not names:
        return Verdict("skipped", "the space has nothing of capacity left to tune", skipped=True)
    # What underfits after a whole training need not show it on a short one.
    epochs = look.medium if look.notes.get("again") == "underfitting" else look.short
    first = yield [look.wish({}, epochs=epochs, why="what is settled so far, as the mark to beat")]
    if not first or look.best(first) is None:
        return unaffordable(names)
    best, words, kept = first[0], [], {}
    overfits = look.notes.get("overfits")
    sides: tuple[bool, ...] = () if look.plan.both_sides else (True,)
    if first[0].violation:
        sides = (False, True)
        words.append("smaller sizes first, for it breaks a constraint")
    elif overfits:
        sides = (False,)
        words.append(f"smaller sizes only, for it overfits: {overfits}")
    # Units before layers: a deeper net needs more updates before it shows what it can do.
    names.sort(key=lambda n: has_role(look, n, "depth"))
    for name in names:
        if name not in best.config:
            continue
        # A shorter context makes more updates of an epoch: no question of size alone.
        tried = yield from climb(look, name, best, epochs, () if has_role(look, name, "context") else sides)
        if tried:
            words.append(f"{name} {look.table([best, *tried], name)}")
        challenger = look.best(tried)
        if challenger is not None and look.loss(best) - look.loss(challenger) > noise(look, best):
            best, kept[name] = challenger, challenger.config[name]
    settled = dict(kept)
    rate = find(look.space, "learning_rate", best.config)
    if kept and rate is not None:
        settled[rate] = best.config[rate]  # it may have followed the width
    if len(words) == bool(overfits or first[0].violation):
        return unaffordable(names)
    text = f"no other size is better: {look.said(best)}"
    if kept:
        values = ", ".join(f"{n} {short(v)}" for n, v in settled.items())
        text = f"{values}: {look.said(best)} {after(epochs)}"
    return Verdict(text, "; ".join(words), settled=settled | {n: best.config[n] for n in names if n in best.config})
