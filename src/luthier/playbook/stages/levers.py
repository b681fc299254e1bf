"""One change at a time: regularization, advanced techniques, and what nobody knows."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.core.params import Value
from luthier.core.trial import TrialRecord
from luthier.core.words import count
from luthier.diagnosis import diagnose_curves, from_trial
from luthier.playbook.read import OVERFITTING
from luthier.playbook.script import Look, Script, Verdict, short, unaffordable
from luthier.playbook.stages.search import climb, has_role, movable, noise, open_names


def regularization(look: Look) -> Script:
    """Weight decay, dropout, augmentation and their kin, where the curves of a full training ask for more of them, and
    a look at less where they do not."""
    names = open_names(look, (4,))
    if not names:
        return Verdict("skipped", "the space has no regularization left to tune", skipped=True)
    first = yield [look.wish({}, epochs=look.length, why="what is settled so far, to read its curves")]
    best = look.best(first)
    if best is None:
        return unaffordable(names)
    asks = next((f for f in diagnose_curves(from_trial(look.history, best)) if f.kind in OVERFITTING), None)
    reading = f"the curves ask for it: {asks.text}" if asks else "the curves do not ask for more of it"
    if not look.plan.unasked and asks is None:
        names = [n for n in names if has_role(look, n, "dropout")]
        if not names:
            return Verdict("skipped", f"{reading}; the refinement will look at it", skipped=True)
    verdict = yield from _one_at_a_time(
        look, names, best, look.medium, () if look.plan.both_sides else (asks is not None,)
    )
    return Verdict(verdict.text, f"{reading}; {verdict.why}", verdict.settled, verdict.numbers, verdict.skipped)


def advanced(look: Look) -> Script:
    """Losses, averaging, precision and the like; with more than a small budget what the first tiers left open, too."""
    names = open_names(look, look.plan.extras)
    return (yield from _levers(look, names, "the space has no advanced technique left to tune"))


def your_own(look: Look) -> Script:
    """Hyperparameters that nobody knows but the user."""
    return (yield from _levers(look, open_names(look, (6,)), "the knowledge base knows every hyperparameter"))


def _levers(look: Look, names: Sequence[str], nothing: str) -> Script:
    if not names:
        return Verdict("skipped", nothing, skipped=True)
    first = yield [look.wish({}, epochs=look.medium, why="what is settled so far, as the mark to beat")]
    best = look.best(first)
    if best is None:
        return unaffordable(names)
    return (yield from _one_at_a_time(look, names, best, look.medium))


def _one_at_a_time(
    look: Look, names: Sequence[str], first: TrialRecord, epochs: int, sides: Sequence[bool] = ()
) -> Script:
    names = [n for n in names if n in first.config]
    still = [n for n in names if not movable(look, n, first.config, sides)]
    if len(still) == len(names):
        ends = ", ".join(f"{n} is {short(first.config[n])} already" for n in still)
        return Verdict("skipped", ends or "nothing is left to move", skipped=True)
    if first.horizon != epochs:
        marks = yield [look.wish({}, epochs=epochs, why=f"the same in {count(epochs, 'epoch')}, as the mark to beat")]
        if not marks or look.best(marks) is None:
            return unaffordable(names)
        first = marks[0]
    best, words = first, []
    kept: dict[str, Value] = {}
    untouched: list[str] = []
    for name in names:
        if name not in best.config or name in still:
            continue
        tried = yield from climb(look, name, best, epochs, sides)
        if not tried:
            untouched.append(name)
            continue
        words.append(f"{name} {look.table([best, *tried], name)}")
        challenger = look.best(tried)
        if challenger is not None and look.loss(best) - look.loss(challenger) > noise(look, best):
            best, kept[name] = challenger, challenger.config[name]
    if not words:
        return unaffordable(names)
    tested = [n for n in names if n not in (*untouched, *still) and n in best.config]
    text = (
        f"kept {', '.join(f'{n} {short(v)}' for n, v in kept.items())}: {look.said(best)}"
        if kept
        else f"none of {', '.join(tested)} gained more than the noise"
    )
    if untouched:
        text += f"; no budget was left for {', '.join(untouched)}"
    return Verdict(text, "; ".join(words), settled=kept)
