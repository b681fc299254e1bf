"""What the browser may ask for. It never steers the study: it puts a wish into the log, which the driver honours."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from luthier.core import events as ev
from luthier.core.errors import Conflict, UserError, nearest
from luthier.core.history import Entry, History
from luthier.core.trial import Status
from luthier.dashboard.desk import Desk
from luthier.dashboard.page_of_trial import trial_of
from luthier.knowledge import asked_config

TRIES = 200
"""A driver that reports a thousand times a second may be first a few times, and not so often."""


def ask(desk: Desk, wish: Mapping[str, Any]) -> str:
    """Put a wish into the log.

    Args:
        desk: the study.
        wish: ``{"do": "stop", "trial": 3}``, ``{"do": "pause"}``, ``{"do": "resume"}`` or ``{"do": "start", "config":
            {...}}``.

    Returns:
        what will happen, in a sentence.

    Raises:
        UserError: it cannot be; nothing was written.
    """
    for _ in range(TRIES):
        history = desk.look()
        if desk.problem is not None:
            raise UserError(desk.problem)
        event, said = wished(history, wish)
        if event is None:
            return said
        try:
            desk.log.append([Entry(time.time(), event)], history.length)
        except Conflict:  # the driver was first; what it wrote may forbid the wish
            continue
        desk.look()
        return said
    raise UserError("The study's driver writes without a pause.", "Try again.")


def wished(history: History, wish: Mapping[str, Any]) -> tuple[ev.Asked | None, str]:
    """The event that a wish becomes, None where it is so already, and what will happen.

    Raises:
        UserError: it cannot be.
    """
    kinds = {"stop": _stop, "pause": _pause, "resume": _resume, "start": _start}
    do = wish.get("do")
    if not isinstance(do, str) or do not in kinds:
        raise UserError(f"{do!r} is nothing that can be asked for.", nearest(str(do), kinds))
    if history.finished is not None:
        raise UserError(
            f"The study is finished: {history.finished}.", "Give it a larger budget: luthier resume --budget ..."
        )
    return kinds[do](history, wish)


def _stop(history: History, wish: Mapping[str, Any]) -> tuple[ev.Asked | None, str]:
    number = wish.get("trial")
    if isinstance(number, bool) or not isinstance(number, int):
        raise UserError(f"The trial to stop is {number!r}.", 'Write {"do": "stop", "trial": 3}.')
    trial = trial_of(history, number)
    if trial.status not in (Status.RUNNING, Status.PAUSED):
        raise UserError(f"Trial {number} is {trial.status} and cannot be stopped.", "Choose one that runs.")
    if number in history.stops:
        return None, f"Trial {number} is being stopped already."
    return ev.StopAsked(number), f"Trial {number} will be stopped at its next epoch."


def _pause(history: History, wish: Mapping[str, Any]) -> tuple[ev.Asked | None, str]:
    if history.paused:
        return None, "The study is paused already."
    return ev.PauseAsked(), "Nothing new will be handed out; what runs is trained to the end of its job."


def _resume(history: History, wish: Mapping[str, Any]) -> tuple[ev.Asked | None, str]:
    if not history.paused:
        return None, "The study is not paused."
    return ev.ResumeAsked(), "The study goes on."


def _start(history: History, wish: Mapping[str, Any]) -> tuple[ev.Asked | None, str]:
    config = asked_config(history.space, wish.get("config"))
    waits = "once the study goes on" if history.paused else "as the next trial"
    return ev.ConfigAsked(config), f"It will be trained {waits}, at full length."
