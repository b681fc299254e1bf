"""The strong default of a study, wherever stages have moved the ends of its ranges."""

from __future__ import annotations

from luthier.core.history import History
from luthier.core.params import Choice, Config, Value
from luthier.knowledge import default_config, default_value, optimizer_in


def strong_default(history: History, given: Config | None = None) -> dict[str, Value]:
    """``given``, completed by the strong default.

    A range that a stage has widened moves no default: what was clipped to the user's range stays there, and the middle
    of a scale is the middle of the user's.
    """
    space, asked = history.space, history.asked_space
    config = default_config(space, given)
    moved = [n for n in space.parents_first if space[n] != asked[n] and n in config and n not in (given or {})]
    if not moved:
        return config
    kept: dict[str, Value] = dict(given or {})
    for name in moved:  # parents first, so that what follows one of them sees where it stays
        param = asked[name]
        base = default_value(asked, name, optimizer_in(space, config))
        if base is None and not isinstance(param, Choice):
            base = param.from_unit(0.5)
        kept[name] = space.coupled(name, base, config)
        config = default_config(space, kept)
    return config
