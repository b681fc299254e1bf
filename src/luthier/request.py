"""From what a user wrote to a Study: every argument checked, and every mistake named, before anything is written."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.continuing import changed
from luthier.contracts import Scheduler, Store
from luthier.core import events as ev
from luthier.core.errors import Conflict, UserError, nearest, whole
from luthier.core.history import History
from luthier.core.metrics import guess_direction
from luthier.core.params import Config
from luthier.core.space import Space
from luthier.core.study import Budget, Constraint, Objective, Reduce, Study
from luthier.earlier import earlier_best
from luthier.run.book import Book
from luthier.strategies import budget_for, check_fit, check_goals, check_strategy, takes_earlier

Names = str | Sequence[str] | None
"""A metric, or several."""


def objectives_from(minimize: Names, maximize: Names, metric: Names, reduce: str) -> tuple[Objective, ...]:
    """The objectives from ``minimize=`` and ``maximize=``, or from ``metric=``; the first one leads.

    Each may be a name or several in their order. Of ``minimize=`` and ``maximize=`` together the one comes first whose
    first name is known to measure quality (a loss, an error, an accuracy, ...), ``maximize=`` where that does not tell:
    the epoch that counts shall be the best of the model, not the fastest. With ``metric=`` the direction follows from
    the name.

    Raises:
        UserError: no metric, one given twice or in both directions, a name without a known direction, an unknown
            ``reduce``.
    """
    down, up, told = _names("minimize", minimize), _names("maximize", maximize), _names("metric", metric)
    mend = 'Write maximize="val_accuracy" or minimize="val_loss" (--maximize val_accuracy, --minimize val_loss).'
    if not down and not up and not told:
        raise UserError("No metric was given to optimize.", mend)
    if told and (down or up):
        raise UserError("Both metric= and a direction were given.", mend)
    if reduce not in ("best", "last"):
        raise UserError(
            f"reduce= (--reduce) must be 'best' or 'last', got {reduce!r}.", nearest(str(reduce), ("best", "last"))
        )
    kind: Reduce = "last" if reduce == "last" else "best"
    for name in (*down, *up):
        if name in down and name in up:
            raise UserError(f"The metric {name!r} is both minimized and maximized.", "Keep one of the two.")
    lower, upper = ([(n, d) for n in names] for names, d in ((down, "minimize"), (up, "maximize")))
    leads = bool(down) and guess_direction(down[0]) is not None and not (up and guess_direction(up[0]) is not None)
    asked = [*lower, *upper] if leads else [*upper, *lower]
    for name in told:
        direction = guess_direction(name)
        if direction is None:
            raise UserError(
                f"Whether {name!r} should go up or down cannot be told from its name.",
                f"Write minimize={name!r} or maximize={name!r} (--minimize {name}, --maximize {name}).",
            )
        asked.append((name, direction))
    return tuple(Objective(name, direction == "minimize", kind) for name, direction in asked)


def _names(option: str, given: Names) -> list[str]:
    names = [given] if isinstance(given, str) else given or []
    if not isinstance(names, Sequence) or not all(isinstance(n, str) and n for n in names):
        raise UserError(f"{option}= must name a metric or several, got {given!r}.", 'Write maximize="val_accuracy".')
    for name in names:
        if list(names).count(name) > 1:
            raise UserError(f"{option}= names {name!r} twice.", "Name each metric once.")
    return list(names)


def constraints_from(given: Mapping[str, str] | Sequence[str] | None) -> tuple[Constraint, ...]:
    """The constraints from ``{"latency_ms": "<= 20"}``, or from ``["latency_ms <= 20"]`` as the terminal has them.

    Raises:
        UserError: a constraint that cannot be read, or two on the same side of one metric.
    """
    if given is None:
        return ()
    mend = 'Write constraints={"latency_ms": "<= 20"} (--constraint "latency_ms <= 20").'
    if isinstance(given, str) or not isinstance(given, Mapping | Sequence):
        raise UserError(f"constraints= got {given!r}.", mend)
    pairs: list[tuple[str, object]] = []
    if isinstance(given, Mapping):
        pairs += given.items()
    else:
        for each in given:
            found = re.fullmatch(r"\s*(.*?)\s*([<>=].*)", each) if isinstance(each, str) else None
            if not found:
                raise UserError(f"The constraint {each!r} cannot be read.", 'Write "latency_ms <= 20".')
            pairs.append((found[1], found[2]))
    out = [Constraint.parse(metric, text) for metric, text in pairs]
    for i, one in enumerate(out):
        for other in out[:i]:
            if one.metric == other.metric and one.upper == other.upper:
                raise UserError(
                    f"{one.metric!r} has two bounds of one kind: {other} and {one}.", "Keep one of the two."
                )
            low, high = (one, other) if other.upper else (other, one)
            if one.metric == other.metric and low.bound > high.bound:
                raise UserError(f"No value of {one.metric!r} keeps both {high} and {low}.", "Mend one of the two.")
    return tuple(out)


def study_from(
    *,
    name: str,
    space: Space | Mapping[str, Any],
    objectives: tuple[Objective, ...],
    max_epochs: int,
    budget: str | int | float | Budget | None,
    strategy: str | Scheduler,
    seed: int,
    target: Mapping[str, Any] | None = None,
    probes: tuple[str, ...] = (),
    constraints: Mapping[str, str] | Sequence[str] | None = None,
    samples: int | None = None,
    warm_start: Sequence[str | Path] = (),
) -> Study:
    """A study, or the UserError that says what to mend."""
    label = check_strategy(strategy)
    check_goals(label, objectives)
    if not isinstance(space, Space):
        space = Space.from_dict(space)
    max_epochs, seed = whole("max_epochs", max_epochs, 1), whole("seed", seed, 0)
    if samples is not None:
        samples = whole("samples", samples, 1)
    if not isinstance(name, str) or not 0 < len(name) <= 200:
        raise UserError(f"name= (--name) must be a string of 1 to 200 characters, got {name!r}.")
    study = Study(
        name=name,
        space=space,
        objective=objectives[0],
        max_epochs=max_epochs,
        budget=budget_for(label, budget, max_epochs),
        seed=seed,
        strategy=label,
        target=target,
        probes=probes,
        also=objectives[1:],
        constraints=constraints_from(constraints),
        samples=samples,
    )
    if warm_start:
        study = replace(study, earlier=earlier_best(warm_start, study, 3 if takes_earlier(strategy) else 1))
    check_fit(strategy, study)
    return study


def first_trainings(study: Study, strategy: str | Scheduler, enqueue: Sequence[Config]) -> tuple[Config, ...]:
    """What is enqueued before a study goes on: the best of earlier ones where its strategy does not look at them, then
    what the user wants."""
    return (*(() if takes_earlier(strategy) else study.earlier), *enqueue)


def same_question(old: Study, new: Study) -> None:
    """Refuse to go on with a study under another question; budget and space are compared elsewhere.

    Raises:
        UserError: naming the first difference.
    """
    pairs = {
        "goal": (str(old.goals), str(new.goals)),
        "reduce": (old.objective.reduce, new.objective.reduce),
        "max_epochs": (old.max_epochs, new.max_epochs),
        "seed": (old.seed, new.seed),
        "strategy": (old.strategy, new.strategy),
    }
    for what, (before, now) in pairs.items():
        if before != now:
            raise UserError(
                f"The storage already holds a study {old.name!r} with another {what}: {before} there, {now} here.",
                "Use another name= (--name) or storage= (--storage), or the same settings to go on with it.",
            )


def _narrowed(stored: Space, asked: Space) -> list[str]:
    """What of ``asked`` is no widening of ``stored``, one hyperparameter each."""
    said = [f"{name!r} is missing" for name in stored if name not in asked]
    said += [f"{name!r} is new" for name in asked if name not in stored]
    before, now = stored.to_dict(), asked.to_dict()
    for name in stored:
        old, new = before[name], now.get(name, {})
        if name in asked and not (asked[name].contains(stored[name]) and old.get("when") == new.get("when")):
            keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
            said.append(f"{name!r}: " + ", ".join(f"{k} was {old.get(k)!r} and is {new.get(k)!r}" for k in keys))
    return said or [f"its order was {', '.join(stored)}"]


def begin(store: Store, study: Study, say: Callable[[str], None] = lambda _: None) -> tuple[Book, bool]:
    """The log of a study that is asked for, and whether it was begun now: else it goes on as it is asked for.

    Args:
        say: told where what is trained has moved.

    Raises:
        UserError: the store holds another question under this name, or one of another function.
    """
    book = Book.open(store)
    if book is None:
        try:
            return Book.create(store, study), True
        except Conflict:  # several drivers were started at once, and another one was first
            book = Book.open(store)
            if book is None:
                raise
    moved = changed(study.name, book.history.study.target, study.target)
    go_on(book, study)
    if moved and store.drivers is None:  # who shares a server has each a place of their own
        say(moved)
        retarget(book, study.target)
    return book, False


def retarget(book: Book, target: Mapping[str, Any] | None) -> None:
    """Have the log name another target from now on, where one can be named."""
    if target is not None and ev.plain(target) != ev.plain(book.history.study.target):
        book.append(ev.TargetChanged(ev.plain(target)))


def go_on(book: Book, study: Study) -> None:
    """Go on with a stored study as it is asked now: another budget or a wider space become events.

    Where no budget is given the stored one holds. The space is compared with what the user asked for last: what stages
    have widened since is not theirs to repeat.

    Raises:
        UserError: another question than the stored one, a space that lost values, or another budget that is spent
            already.
    """
    old = book.history.study
    same_question(old, study)
    asked = book.history.asked_space
    if study.space != asked and not study.space.contains(asked):
        raise UserError(
            f"The space of study {old.name!r} can only be widened, in its ranges and choices: "
            f"{'; '.join(_narrowed(asked, study.space))}.",
            "Take that back; or begin another study, by another name= (--name), from the best of this one: "
            "warm_start= (--warm-start).",
        )
    _check_budget(book.history, study.budget)
    if study.space != asked:
        book.append(ev.SpaceChanged(study.space, "asked for when the study was opened again"))
    if study.budget.given and study.budget != old.budget:
        book.append(ev.BudgetChanged(study.budget))


def _check_budget(history: History, budget: Budget) -> None:
    """Refuse a new budget below what is spent: it would be the study's for good, and nothing would come of it."""
    old = history.study.budget
    if not budget.given or budget == old:
        return
    spent = Budget(
        math.ceil(history.spent) if history.spent > (budget.epochs or math.inf) else None,
        history.elapsed if history.elapsed > (budget.seconds or math.inf) else None,
    )
    if spent.epochs is not None or spent.seconds is not None:
        raise UserError(
            f"The study {history.study.name!r} has spent {spent} already, more than the budget of {budget} that was "
            "asked for.",
            f"Ask for more than that, or leave budget= (--budget) out: then the study keeps its own, {old}.",
        )


def remove(files: Path) -> None:
    """Remove the folder of a study that never came to be."""
    shutil.rmtree(files, ignore_errors=True)
    with suppress(OSError):
        files.parent.rmdir()  # only if it is empty
