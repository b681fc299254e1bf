"""Runs a script so that nothing of it outlives the worker that asked for it. A program of its own, without imports.

``python guard.py FD GRACE COMMAND...``: ``FD`` is a socket to the worker. The guard leads a session of its own in which
the script runs. It ends the script when the worker writes to the socket, and when the worker is gone, in whatever way:
SIGTERM to the whole process group, SIGKILL to what is left after ``GRACE`` seconds. On Linux it also adopts processes
that the script's own children left in other sessions (a launcher's ranks, say), and the script dies with it.

It answers ``exit CODE`` (negative for a signal), or ``error REASON`` where the command could not be started.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time

_PDEATHSIG, _SUBREAPER = 1, 36  # of prctl(2)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _descendants() -> list[int]:
    """Every living process below this one; nothing where there is no /proc."""
    below: dict[int, list[int]] = {}
    for entry in os.listdir("/proc") if os.path.isdir("/proc/self") else []:
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                    state, parent = file.read().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z":
                below.setdefault(int(parent), []).append(int(entry))
    found: list[int] = []
    todo = [os.getpid()]
    while todo:
        own = below.get(todo.pop(), [])
        found += own
        todo += own
    return found


def _each(number: int, *, apart: bool = False) -> None:
    """Signal every descendant; with ``apart`` those only that left the group, which a signal to it does not reach."""
    for pid in _descendants():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if not apart or os.getpgid(pid) != os.getpgrp():
                os.kill(pid, number)


def main() -> None:
    """Run the command, end it when told, say how it ended."""
    worker = socket.socket(fileno=int(sys.argv[1]))
    grace, command = float(sys.argv[2]), sys.argv[3:]
    _prctl(_SUBREAPER, 1)
    # A handler, and not SIG_IGN, which the script would inherit.
    signal.signal(signal.SIGTERM, lambda *_: None)
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    parent = os.getpid()

    def tie() -> None:
        _prctl(_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    try:
        script = subprocess.Popen(command, preexec_fn=tie)
    except OSError as error:
        worker.sendall(f"error {error.strerror}\n".encode())
        return
    # What the script holds open is its own affair; the guard must not keep its pipes.
    null = os.open(os.devnull, os.O_RDWR)
    for end in (0, 1, 2):
        os.dup2(null, end)
    until: float | None = None
    while script.poll() is None:
        left = None if until is None else until - time.monotonic()
        if left is not None and left <= 0:
            break
        ready, _, _ = select.select([woken] if until is not None else [woken, worker.fileno()], [], [], left)
        with contextlib.suppress(BlockingIOError):
            os.read(woken, 4096)
        if until is None and worker.fileno() in ready:
            until = time.monotonic() + grace
            with contextlib.suppress(OSError):
                worker.recv(64)
            os.killpg(os.getpgrp(), signal.SIGTERM)
            _each(signal.SIGTERM, apart=True)
    for _ in range(20):  # a process that is forking while it is looked for is found the next time
        _each(signal.SIGKILL)
        if not _descendants():
            break
        time.sleep(0.005)
    if script.poll() is None:
        script.kill()
    code = script.wait()
    with contextlib.suppress(OSError):
        worker.sendall(f"exit {code}\n".encode())
    worker.close()
    os.killpg(os.getpgrp(), signal.SIGKILL)  # where there is no /proc: the rest of the group, and the guard with it


if __name__ == "__main__":
    main()
