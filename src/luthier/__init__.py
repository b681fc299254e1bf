"""Luthier tunes deep-learning training the way a good practitioner does.

    import luthier as lt

    result = lt.tune(train, lt.Space(learning_rate=lt.Float(1e-5, 1e-1, log=True)), maximize="val_accuracy")

Names are imported when they are first used: ``import luthier`` loads neither PyTorch nor any other heavy library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from luthier import knowledge as knowledge
    from luthier.api import tune as tune
    from luthier.asktell import AskTell as AskTell
    from luthier.contracts import Done as Done
    from luthier.contracts import Job as Job
    from luthier.contracts import Wait as Wait
    from luthier.core.errors import LuthierError as LuthierError
    from luthier.core.errors import RunError as RunError
    from luthier.core.errors import UserError as UserError
    from luthier.core.params import Choice as Choice
    from luthier.core.params import Constant as Constant
    from luthier.core.params import Float as Float
    from luthier.core.params import Int as Int
    from luthier.core.space import Space as Space
    from luthier.core.typed import typed as typed
    from luthier.diagnosis.read import diagnose as diagnose
    from luthier.knowledge.coupling import coupled as coupled
    from luthier.playbook.playbook import Playbook as Playbook
    from luthier.probing import check as check
    from luthier.probing import check_loop as check_loop
    from luthier.probing import find_batch_size as find_batch_size
    from luthier.probing import find_batch_size_for as find_batch_size_for
    from luthier.probing import lr_range_test as lr_range_test
    from luthier.recipe.recipe import Recipe as Recipe
    from luthier.result import Result as Result
    from luthier.run.handle import Trial as Trial
    from luthier.run.table import Table as Table
    from luthier.schedule.replay import Replay as Replay
    from luthier.scripts.script import Script as Script
    from luthier.simulation import SimulatedResult as SimulatedResult
    from luthier.simulation import simulate as simulate

_HOME = {
    "AskTell": "asktell",
    "Choice": "core.params",
    "Constant": "core.params",
    "Done": "contracts",
    "Float": "core.params",
    "Int": "core.params",
    "Job": "contracts",
    "LuthierError": "core.errors",
    "Playbook": "playbook.playbook",
    "Recipe": "recipe.recipe",
    "Replay": "schedule.replay",
    "Result": "result",
    "RunError": "core.errors",
    "Script": "scripts.script",
    "SimulatedResult": "simulation",
    "Space": "core.space",
    "Table": "run.table",
    "Trial": "run.handle",
    "UserError": "core.errors",
    "Wait": "contracts",
    "check": "probing",
    "check_loop": "probing",
    "coupled": "knowledge.coupling",
    "diagnose": "diagnosis.read",
    "find_batch_size": "probing",
    "find_batch_size_for": "probing",
    "knowledge": "knowledge",
    "lr_range_test": "probing",
    "simulate": "simulation",
    "tune": "api",
    "typed": "core.typed",
}

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'luthier' has no attribute {name!r}")
    module = importlib.import_module(f"luthier.{_HOME[name]}")
    value = module if name == _HOME[name] else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
