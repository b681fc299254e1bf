"""How a process ended, in words."""

from __future__ import annotations

import signal

from luthier.run.machine import oom_kills


def how_it_ended(code: int, who: str, kills: int) -> tuple[str, str]:
    """An exit code, negative for a signal, as a failure's kind and reason.

    Args:
        who: what ended.
        kills: :func:`oom_kills` when it was started.
    """
    if code == -signal.SIGKILL and oom_kills() > kills:
        return "oom-killed", f"{who} was killed by SIGKILL while the system ran out of memory"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return "killed", f"{who} was killed by {name}"
    return "died", f"{who} exited with code {code}"
