"""How much a study may take of the machine, and how patient it is: what the user writes, as numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from luthier.core.errors import UserError
from luthier.core.study import Budget

_BYTES = {"": 1, "b": 1, "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9, "t": 10**12,
          "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limits:
    """What a study may take on this machine; None where there is no limit.

    Args:
        timeout: seconds without a report after which a trial is taken to hang; above 0.
        worker_memory: bytes of memory at which a worker process is replaced between two jobs; above 0.
        checkpoint_space: bytes that the study's checkpoints may take; above 0.
    """

    timeout: float | None = None
    worker_memory: int | None = None
    checkpoint_space: int | None = None

    @classmethod
    def of(
        cls,
        timeout: str | float | None = None,
        worker_memory: str | int | None = None,
        checkpoint_space: str | int | None = None,
    ) -> Limits:
        """Read ``timeout="10 min"`` (a bare number counts seconds) and ``"8 GB"`` (a bare number counts bytes).

        Raises:
            UserError: anything else, or a limit of nothing.
        """
        return cls(
            seconds("timeout", timeout),
            size("worker_memory", worker_memory),
            size("checkpoint_space", checkpoint_space),
        )


def seconds(name: str, given: str | float | None) -> float | None:
    """A length of time, ``"10 min"`` or a number of seconds; None for None.

    Raises:
        UserError: it is none.
    """
    if given is None:
        return None
    text = f"{given:g} s" if isinstance(given, int | float) and not isinstance(given, bool) else str(given)
    text = f"{text} s" if re.fullmatch(r"\s*[\d.]+\s*", text) else text
    try:
        budget = Budget.parse(text, 1)
    except UserError:
        budget = Budget()
    if budget.seconds is None or budget.epochs is not None:
        raise UserError(f"{name}={given!r} is no length of time.", f'Write {name}="10 min", or a number of seconds.')
    return budget.seconds


def size(name: str, given: str | int | None) -> int | None:
    """An amount of memory, ``"8 GB"`` or a number of bytes; None for None.

    Raises:
        UserError: it is none, or nothing.
    """
    if given is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(given).lower())
    told = float(found[1]) * _BYTES.get(found[2], 0) if found and not isinstance(given, bool) else 0.0
    if told < 1:
        raise UserError(f"{name}={given!r} is no amount of memory.", f'Write {name}="8 GB", or a number of bytes.')
    return int(told)
