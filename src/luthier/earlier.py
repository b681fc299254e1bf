"""What did best in earlier studies, for one that begins: ``warm_start=``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from luthier.core import goals
from luthier.core.errors import UserError
from luthier.core.history import History
from luthier.core.params import Config, Constant, Float, Int, Value
from luthier.core.space import Space
from luthier.core.study import Study
from luthier.knowledge import default_config


@dataclass(frozen=True, slots=True)
class Found:
    """What an earlier study has for a new one: its best configurations, or why it has none."""

    configs: Sequence[Config] = ()
    why_none: str = ""


def earlier_best(places: Sequence[str | Path], study: Study, many: int) -> tuple[Config, ...]:
    """The best configurations of earlier studies, moved into the space of ``study``, the best of each first.

    They are ranked by the objective of ``study``; by their own where they never reported it, if that points the same
    way: the metric may only be called otherwise. Hyperparameters that the space does not have are left out, those it
    has beyond theirs take the strong default.

    Args:
        many: how many of each study at most.

    Raises:
        UserError: a place that is one string, no study there, or none that says anything of this one.
    """
    if isinstance(places, str | Path):
        raise UserError(f"warm_start= must be a list of studies, got {str(places)!r}.", f"Write [{str(places)!r}].")
    from luthier import store

    found: list[Sequence[Config]] = []
    for place in places:
        each = [best_of(history, study, many) for history in _histories(place)]
        if not any(one.configs for one in each):
            whys = "; ".join(one.why_none for one in each)
            raise UserError(
                f"The earlier study {store.shown(place)} says nothing of this one: {whys}.",
                "Name another one, or enqueue the configurations that you want to begin with.",
            )
        found += [one.configs for one in each]
    in_turn = [config for row in zip_longest(*found) for config in row if config is not None]
    return tuple(c for i, c in enumerate(in_turn) if c not in in_turn[:i])


def _histories(place: str | Path) -> list[History]:
    from luthier import store

    url = store.locate(place)
    file = store.file_of(url)
    names = store.study_names(url) if file is None or file.is_file() else []
    if not names:
        mend = "Name the .db file or the folder of a study."
        raise UserError(f"{store.shown(place)}, named as an earlier study, holds no study.", mend)
    histories = []
    for name in names:
        log = store.SqlStore(url, name)
        try:
            histories.append(store.history_of(log))
        finally:
            log.close()
    return histories


def best_of(history: History, study: Study, many: int) -> Found:
    """The best of a study that were trained to the end, as configurations for ``study``."""
    old, new, space = history.study, study.goals, study.space
    shared = [n for n, p in old.space.items() if n in space and not {type(p), type(space[n])} & {Constant}]
    if not shared:
        there, here = (", ".join(list(s.dims)[:3]) or "nothing" for s in (old.space, space))
        return Found((), f"{old.name!r} has no hyperparameter in common with it ({there} there, {here} here)")
    whole = [history.trials[i] for _, i in history.ranked(old.max_epochs)]
    judged = new
    if whole and all(new.first.metric not in t.metric_names for t in whole):
        if old.objective.minimize != new.first.minimize:
            told = ", ".join(dict.fromkeys(m for t in whole for m in t.metric_names)) or "nothing"
            return Found((), f"{old.name!r} never reported {new.first.metric!r} to the end of a training, but {told}")
        judged = old.goals
    best: list[Config] = []
    for trial in goals.ranked_at(judged, whole, old.max_epochs):
        if len(best) == many or not math.isfinite(goals.loss_at(judged, trial, old.max_epochs)):
            break
        if (config := _moved(trial.config, space, shared)) not in best:
            best.append(config)
    return Found(best, "" if best else f"no training of {old.name!r} came to its end with a score")


def _moved(config: Config, space: Space, shared: Sequence[str]) -> Config:
    """A configuration moved into a space."""
    taken = {
        n: space.clip(n, config[n])
        for n in shared
        if n in config and not space.follows(n) and _fits(space, n, config[n])
    }
    return default_config(space, taken)


def _fits(space: Space, name: str, value: Value) -> bool:
    """Whether a value can be taken over: a choice must be one of the space's; a number is moved into its range."""
    if isinstance(space[name], Float | Int):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return space.clip(name, value) == value
