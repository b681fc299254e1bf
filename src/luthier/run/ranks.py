"""The processes that train one trial together: what each does after an epoch is decided once, by rank 0."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

Verdict = Literal["go", "stop", "park"]
"""Train on, leave because the trial was ended, or save and leave because the study is to stop."""

NEXT, KEEP = "next", "keep"
"""What is asked after an epoch: whether to train on, and whether to keep the state."""


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Ranks(Protocol):
    """One process of those that train a trial, and its way to the others."""

    rank: int
    size: int

    def agree(self, epoch: int, question: str) -> Verdict:
        """The answer of rank 0 to the question after ``epoch``, the same for all ranks; the others wait for it."""
        ...

    def gather(self, name: str, data: bytes) -> Sequence[bytes | None]:
        """Rank 0 waits for the others and gets what they gave, None of one that did not; elsewhere nothing is got."""
        ...

    def share(self, name: str, text: str = "") -> str:
        """Rank 0's text, which the others wait for."""
        ...


class Alone:
    """The one process of a trial.

    Args:
        stopped: whether the trial was ended.
        parked: whether the study is to stop.
    """

    rank, size = 0, 1

    def __init__(self, stopped: Callable[[], bool], parked: Callable[[], bool]) -> None:
        self._stopped, self._parked = stopped, parked

    def agree(self, epoch: int, question: str) -> Verdict:
        """What is so now."""
        return "stop" if self._stopped() else "park" if self._parked() else "go"

    def gather(self, name: str, data: bytes) -> Sequence[bytes | None]:
        """Its own."""
        return [data]

    def share(self, name: str, text: str = "") -> str:
        """Its own."""
        return text
