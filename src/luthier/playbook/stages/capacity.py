"""Capacity: is the model large enough, or too large?"""

from __future__ import annotations

from luthier.knowledge import find
from luthier.playbook.script import Look, Script, Verdict, short
from luthier.playbook.stages.search import climb, has_role, noise, open_names, rates_again


def capacity(look: Look) -> Script:
    """Width, depth and their kin stepwise on short trainings; after an accepted change the rate once more."""
    names = open_names(look, (3,))
    if not names:
        return Verdict("skipped", "the space has nothing of capacity left to tune", skipped=True)
    first = yield [look.wish({}, epochs=look.short, why="what is settled so far, as the mark to beat")]
    if not first or look.best(first) is None:
        return Verdict("skipped", f"no budget is left for {', '.join(names)}; they stay as they are", skipped=True)
    best, words, kept = first[0], [], {}
    # Units before layers: a deeper net needs more updates before it shows what it can do.
    names.sort(key=lambda n: has_role(look, n, "depth"))
    for name in names:
        if name not in best.config:
            continue
        tried = yield from climb(look, name, best, look.short, sides=(True,) if look.small else ())
        if tried:
            words.append(f"{name} {look.table([best, *tried], name)}")
        challenger = look.best(tried)
        if challenger is not None and look.loss(best) - look.loss(challenger) > noise(look, best):
            best, kept[name] = challenger, challenger.config[name]
    settled = dict(kept)
    rate = find(look.space, "learning_rate")
    if kept and rate is not None and rate in best.config:
        again = yield from rates_again(look, best, look.short)
        if again:
            words.append(f"{rate} {look.table([best, *again], rate)}")
            best = look.best([best, *again]) or best
        settled[rate] = best.config[rate]  # it may have followed the width
    if not words:
        return Verdict("skipped", f"no budget is left for {', '.join(names)}; they stay as they are", skipped=True)
    text = f"no other size is better: {look.said(best)}"
    if kept:
        values = ", ".join(f"{n} {short(v)}" for n, v in settled.items())
        text = f"{values}: {look.said(best)} after {look.short} epochs"
    return Verdict(text, "; ".join(words), settled=settled | {n: best.config[n] for n in names if n in best.config})
