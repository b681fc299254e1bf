"""What ``luthier serve`` and ``luthier work`` do with what was written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier import api, request, store
from luthier import target as targets
from luthier.core.errors import UserError
from luthier.core.history import History
from luthier.core.study import Budget, Study

if TYPE_CHECKING:
    from luthier.serve.host import House
    from luthier.view.console import Console

EXTRA = "pip install 'luthier[serve]'"


def serve(
    place: str,
    name: str | None,
    space: Any,
    target: str | None,
    asked: Mapping[str, Any],
    files: Path | None,
    durability: str,
    console: Console,
    **how: Any,
) -> History:
    """Serve the study at ``place``, a new one where ``space`` or ``target`` describe it.

    Args:
        asked: the arguments of :func:`luthier.tune` that describe a study.
        files: where checkpoints go; beside the study where None.
        how: the fields of :class:`luthier.serve.host.House`.

    Raises:
        UserError: a mistake in the arguments.
        RunError: the study cannot go on.
    """
    try:
        from luthier.serve import host
    except ModuleNotFoundError as error:
        raise UserError(f"Serving needs {error.name}.", EXTRA) from None

    house: House = host.House(**how)
    url = store.locate(place)
    if space is None and target is None:
        log = store.open_store(url, name, durability)
        study = _as_it_is(log, asked["budget"])
    else:
        study = _described(space, target, name, asked, console.say)
        log = store.SqlStore(url, study.name, durability)
    own = store.files_beside(url, log.name) or files
    if own is None:
        raise UserError(f"{place} is no file: nothing lies beside it.", "Say where checkpoints go: --files FOLDER.")
    return host.serve(log, log.name, study, files or own, house, console)


def _as_it_is(log: store.SqlStore, budget: str | None) -> Study | None:
    """What a study that is there is asked now: the same, with another budget where one is given."""
    if budget is None:
        return None
    history = store.history_of(log)
    asked = replace(history.study, space=history.asked_space)
    return replace(asked, budget=Budget.parse(budget, asked.max_epochs))


def _described(
    space: Any, target: str | None, name: str | None, asked: Mapping[str, Any], say: Callable[[str], None]
) -> Study:
    words = dict(asked)
    if target is not None:
        return api.prepare(targets.load(target), space, say, name=name, **words)
    objectives = request.objectives_from(*(words.pop(k) for k in ("minimize", "maximize", "metric", "reduce")))
    return request.study_from(name=name or "study", space=space, objectives=objectives, **words)


def work(
    url: str, target: str, token: str | None, folder: Path | None, patience: float, say: Callable[[str], None]
) -> None:
    """Train what a server hands out, until its study is over."""
    try:
        from luthier.serve.work import work as train
    except ModuleNotFoundError as error:
        raise UserError(f"Working for a server needs {error.name}.", EXTRA) from None

    train(url, targets.load(target), token=token, folder=folder, patience=patience, say=say)
