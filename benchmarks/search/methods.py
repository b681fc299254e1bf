"""Every method by name.

A method is a function of a session; most go on until the session says that the budget is spent.
"""

from __future__ import annotations

from collections.abc import Callable

from search.ours import OURS
from search.peers import PEERS
from search.session import Session

Method = Callable[[Session], None]

METHODS: dict[str, Method] = {**OURS, **PEERS}
"""Luthier's strategies and the peers."""
