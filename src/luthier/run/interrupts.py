"""Being asked to stop: by Ctrl-C, or by the SIGTERM of Slurm, Kubernetes, a spot machine that is taken away."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)

NOTICES = (signal.SIGUSR1, signal.SIGUSR2)
"""What Slurm sends before a job's time is over, to all processes of it, where it was told to (``--signal``)."""

GRACE = 25.0
"""Seconds that running trials have to come to the end of their epoch: Slurm and Kubernetes kill after 30."""


SAVED = f"running trials are saved at the end of their epoch, within {GRACE:g} s"


class Interrupted(KeyboardInterrupt):
    """The study was asked to stop and did.

    Attributes:
        signal: which signal asked.
        saved: trials whose state was saved; they go on from there.
        cut: trials that did not come to the end of their epoch in time; they go on from their last checkpoints.
    """

    def __init__(self, number: int, saved: int = 0, cut: int = 0) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.signal = number
        self.saved = saved
        self.cut = cut


class Interrupts:
    """Within it the first signal asks the study to stop, the second one ends it at once.

    Outside the main thread, where Python allows no handlers, nothing is changed. True once somebody has asked.

    Args:
        say: told once, in the signal's handler, what is going to happen.
        parting: that.
    """

    def __init__(self, say: Callable[[str], None] = lambda text: None, parting: str = SAVED) -> None:
        self.signal: int | None = None
        self._say = say
        self._parting = parting
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def __call__(self) -> bool:
        """Whether somebody has asked."""
        return self.signal is not None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if pass_on(self._process, number):
            return
        if self.signal is not None:
            raise Interrupted(number)
        self.signal = number
        with suppress(OSError, RuntimeError):  # the terminal is gone, or was being written to
            self._say(f"{signal.Signals(number).name}: {self._parting}; once more to stop at once.")


def ignore_notices() -> None:
    """They are for whoever leads this process. Not by SIG_IGN, which the programs that it starts would inherit."""
    for number in NOTICES:
        signal.signal(number, lambda *_: None)


def pass_on(process: int, number: int) -> bool:
    """Whether this is a child that was forked from ``process`` with its handlers (a data loader's): it gets the signal
    as if there were none."""
    if os.getpid() == process:
        return False
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return True
