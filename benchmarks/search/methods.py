"""Every method by name.

A method is a function of a session; most go on until the session says that the budget is spent.
"""

from __future__ import annotations

from collections.abc import Callable

from luthier.strategies import STRATEGIES
from search import ours
from search.peers import PEERS
from search.session import Session

Method = Callable[[Session], None]


def methods() -> dict[str, Method]:
    """Luthier's strategies under their own names, variants of the expert's prior, and the peers."""
    own = {name: ours.strategy(name) for name in STRATEGIES if name != "grid"}
    for name in ("expert", "playbook"):
        if name in STRATEGIES:
            own[f"{name}_badprior"] = ours.strategy(name, ours.misled)
            own[f"{name}_noprior"] = ours.strategy(name, ours.nameless)
    return own | PEERS
