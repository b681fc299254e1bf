"""From what a user wrote to a Study: every argument checked, and every mistake named, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.contracts import Scheduler
from luthier.core import events as ev
from luthier.core.errors import UserError, nearest
from luthier.core.space import Space
from luthier.core.study import Budget, Objective, Reduce, Study, guess_direction
from luthier.run.book import Book
from luthier.strategies import budget_for, check_strategy


def objective_from(minimize: str | None, maximize: str | None, metric: str | None, reduce: str) -> Objective:
    """The objective from ``minimize=``, ``maximize=`` or ``metric=``, exactly one of them.

    With ``metric=`` the direction follows from the name.
    """
    given = [m for m in (minimize, maximize, metric) if m is not None]
    if len(given) != 1:
        problem = "Several metrics were given to optimize." if given else "No metric was given to optimize."
        raise UserError(problem, 'Write maximize="val_accuracy" or minimize="val_loss".')
    name = given[0]
    if not isinstance(name, str) or not name:
        raise UserError(f"A metric's name must be a non-empty string, got {name!r}.")
    if reduce not in ("best", "last"):
        raise UserError(f"reduce= must be 'best' or 'last', got {reduce!r}.", nearest(str(reduce), ("best", "last")))
    kind: Reduce = "last" if reduce == "last" else "best"
    if metric is None:
        return Objective(name, minimize is not None, kind)
    direction = guess_direction(name)
    if direction is None:
        raise UserError(
            f"Whether {name!r} should go up or down cannot be told from its name.",
            f"Write minimize={name!r} or maximize={name!r}.",
        )
    return Objective(name, direction == "minimize", kind)


def study_from(
    *,
    name: str,
    space: Space | Mapping[str, Any],
    objective: Objective,
    max_epochs: int,
    budget: str | int | float | Budget | None,
    strategy: str | Scheduler,
    seed: int,
    target: Mapping[str, Any] | None = None,
    probes: tuple[str, ...] = (),
) -> Study:
    """A study, or the UserError that says what to mend."""
    label = check_strategy(strategy)
    if not isinstance(space, Space):
        space = Space.from_dict(space)
    whole("max_epochs", max_epochs, 1)
    whole("seed", seed, 0)
    if not isinstance(name, str) or not 0 < len(name) <= 200:
        raise UserError(f"name= must be a string of 1 to 200 characters, got {name!r}.")
    return Study(
        name=name,
        space=space,
        objective=objective,
        max_epochs=max_epochs,
        budget=budget_for(label, budget, max_epochs),
        seed=seed,
        strategy=label,
        target=target,
        probes=probes,
    )


def whole(name: str, value: Any, least: int) -> None:
    """Refuse anything but a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(
            f"{name} must be a whole number of at least {least}, got {value!r}.", f"Write {name}={max(least, 1)}."
        )


def same_question(old: Study, new: Study) -> None:
    """Refuse to go on with a study under another question; budget and space are compared elsewhere.

    Raises:
        UserError: naming the first difference.
    """
    pairs = {
        "objective": (old.objective, new.objective),
        "max_epochs": (old.max_epochs, new.max_epochs),
        "seed": (old.seed, new.seed),
        "strategy": (old.strategy, new.strategy),
    }
    for what, (before, now) in pairs.items():
        if before != now:
            raise UserError(
                f"The storage already holds a study {old.name!r} with another {what}: {before} there, {now} here.",
                "Use another name= or storage=, or the same settings to go on with it.",
            )


def go_on(book: Book, study: Study) -> None:
    """Go on with a stored study as it is asked now: a larger budget or a wider space become events.

    The space is compared with what the user asked for last: what stages have widened since is not theirs to repeat.

    Raises:
        UserError: another question than the stored one, or a space that lost values.
    """
    old = book.history.study
    same_question(old, study)
    asked = book.history.asked_space
    if study.space != asked:
        if not study.space.contains(asked):
            raise UserError(
                f"The space of study {old.name!r} can only be widened: a range or choice of the stored one is missing.",
                "Keep all names, ranges and choices, or use another name=.",
            )
        book.append(ev.SpaceChanged(study.space, "asked for when the study was opened again"))
    if study.budget != old.budget:
        book.append(ev.BudgetChanged(study.budget))
