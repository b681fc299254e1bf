"""What ``luthier serve`` and ``luthier work`` do with what was written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier import api, store
from luthier import target as targets
from luthier.configs import fixed, read_configs
from luthier.core.errors import StorageError, UserError
from luthier.core.study import Budget, Study
from luthier.result import Result
from luthier.run.crew import Crew

if TYPE_CHECKING:
    from luthier.view.console import Console

_ITS_SPACE = "Give --space FILE too; or leave it out, to go on with the study that is there."
EXTRA = "pip install 'luthier[serve]'"


def serve(
    place: str,
    name: str | None,
    space: Any,
    target: str | None,
    asked: Mapping[str, Any],
    console: Console,
    how: Mapping[str, Any],
    enqueue: Sequence[str] = (),
    fix: Sequence[str] = (),
    **more: Any,
) -> Result:
    """Serve the study at ``place``, a new one where ``space`` or ``target`` describe it.

    Args:
        asked: the arguments of :func:`luthier.tune` that describe a study.
        how: the fields of :class:`luthier.serve.host.House`.
        enqueue, fix: configurations and values as the terminal has them.
        more: those of :func:`luthier.api.launch`.

    Raises:
        UserError: a mistake in the arguments.
        RunError: the study cannot go on.
    """
    try:
        from luthier.serve.host import House
    except ModuleNotFoundError as error:
        raise UserError(f"Serving needs {error.name}.", EXTRA) from None

    url = store.locate(place)
    trained = targets.load(target) if target is not None else nobody()
    if space is None and target is None:
        if fix:
            raise UserError("--fix describes a new study, and no --space was given.", _ITS_SPACE)
        study = _as_it_is(place, name, asked)
    else:
        study = api.prepare(trained, fixed(space, trained, fix), console.say, name=name, storage=url, **asked)
    crew = Crew(elsewhere=House(say=console.say, **how))
    configs = read_configs(enqueue, study.space)
    return api.launch(study, trained, study.strategy, url, crew, console, enqueue=configs, **more)


UNSAID = {"max_epochs": 30, "strategy": "playbook", "seed": 0, "reduce": "best"}
"""What options of ``luthier serve`` are where nobody writes them."""


def nobody() -> Callable[[Any], None]:
    """What stands for the training function of a study that is trained elsewhere; the log keeps no way to it."""

    def study(trial: Any) -> None:
        raise NotImplementedError

    return study


def _as_it_is(place: str, name: str | None, asked: Mapping[str, Any]) -> Study:
    """What a study that is there is asked now: the same, with another budget where one is given."""
    for word in ("minimize", "maximize", "metric", "constraints", "samples", "warm_start"):
        if asked[word]:
            raise UserError(
                f"--{word.removesuffix('s').replace('_', '-')} describes a new study, and no --space was given.",
                _ITS_SPACE,
            )
    try:
        log = store.open_store(place, name)
    except StorageError as error:
        raise StorageError(error.problem, f"{error.mend} A new one needs --space FILE and a metric.") from None
    try:
        history = store.history_of(log)
    finally:
        log.close()
    found = replace(history.study, space=history.asked_space)
    stored = {"max_epochs": found.max_epochs, "strategy": found.strategy, "seed": found.seed,
              "reduce": found.objective.reduce}  # fmt: skip
    for word, has in stored.items():
        if asked[word] not in (UNSAID[word], has):
            raise UserError(
                f"--{word.replace('_', '-')} {asked[word]} describes a new study, and this one has {has}.", _ITS_SPACE
            )
    if found.strategy == "custom":
        raise UserError(
            "This study was driven by a strategy object.", "Only the script that made it can go on with it."
        )
    return found if asked["budget"] is None else replace(found, budget=Budget.parse(asked["budget"], found.max_epochs))


def work(
    url: str, target: str, token: str | None, folder: Path | None, patience: float, say: Callable[[str], None]
) -> None:
    """Train what a server hands out, until its study is over."""
    try:
        from luthier.serve.work import work as train
    except ModuleNotFoundError as error:
        raise UserError(f"Working for a server needs {error.name}.", EXTRA) from None

    train(url, targets.load(target), token=token, folder=folder, patience=patience, say=say)
