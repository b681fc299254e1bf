"""Runs a command so that nothing of it outlives whoever asked for it. A program of its own, without imports.

``python guard.py FD[,FD...] GRACE COMMAND...``: the first ``FD`` is a socket to the asker, others are the command's.
The guard leads a session of its own in which the command runs. It ends the command when the asker writes to the socket,
and when the asker is gone, in whatever way: SIGTERM to all of it, SIGKILL to what is left after ``GRACE`` seconds; with
none SIGKILL at once. On Linux it also adopts processes that the command's own children left in other sessions (a
launcher's ranks, say), and the command dies with it. What runs below a guard of its own is left to that.

A worker runs below one, with its data loaders and ranks; a script that a worker runs below another one.

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
_LOOK = 2.0
"""Seconds between looks at whether the asker lives, where a child that it forked keeps its end of the socket open."""


_SEEK = 5.0
"""Seconds for which processes are looked for that are to end, at most."""


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _guards(pid: int) -> bool:
    """Whether that process is a guard too."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().split(b"\0")[3:4] == [os.fsencode(sys.argv[0])]
    except OSError:
        return False


def _descendants() -> list[int]:
    """Every living process below this one, but what has another guard; nothing where there is no /proc."""
    below: dict[int, list[int]] = {}
    dead = set[int]()
    for entry in os.listdir("/proc") if os.path.isdir("/proc/self") else []:
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                    state, parent = file.read().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            below.setdefault(int(parent), []).append(int(entry))
            if state == "Z":
                dead.add(int(entry))  # what was read before it died still names it as its parent
    found: list[int] = []
    todo = [os.getpid()]
    while todo:
        own = [pid for pid in below.get(todo.pop(), []) if not _guards(pid)]
        found += own
        todo += own
    return [pid for pid in found if pid not in dead]


def _each(number: int, *, apart: bool = False) -> None:
    """Signal every descendant; with ``apart`` those only that left the group, which a signal to it does not reach."""
    for pid in _descendants():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if not apart or os.getpgid(pid) != os.getpgrp():
                os.kill(pid, number)


def _reap(command: "subprocess.Popen[bytes]") -> None:
    """Take note of who ended: the command, or what was adopted."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == command.pid:
                command.returncode = os.waitstatus_to_exitcode(ended[1])


def main() -> None:
    """Run the command, end it when told, say how it ended."""
    own, *given = map(int, sys.argv[1].split(","))
    asker = socket.socket(fileno=own)
    grace, command = float(sys.argv[2]), sys.argv[3:]
    _prctl(_SUBREAPER, 1)
    # A handler, and not SIG_IGN, which the command would inherit. USR1 and USR2 are Slurm's, to all processes of a job.
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda *_: None)
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    parent, asked_by = os.getpid(), os.getppid()

    def tie() -> None:
        _prctl(_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    try:
        running = subprocess.Popen(command, pass_fds=given, preexec_fn=tie)
    except OSError as error:
        asker.sendall(f"error {error.strerror}\n".encode())
        return
    # What the command holds open is its own affair; the guard must not keep its pipes and sockets.
    null = os.open(os.devnull, os.O_RDWR)
    for end in (0, 1, 2):
        os.dup2(null, end)
    for end in given:
        os.close(end)
    until: float | None = None
    while running.returncode is None:
        left = _LOOK if until is None else until - time.monotonic()
        if left <= 0:
            break
        ready, _, _ = select.select([woken] if until is not None else [woken, asker.fileno()], [], [], left)
        with contextlib.suppress(BlockingIOError):
            os.read(woken, 4096)
        _reap(running)
        if until is None and (asker.fileno() in ready or os.getppid() != asked_by):
            until = time.monotonic() + grace
            with contextlib.suppress(OSError):
                asker.setblocking(False)
                asker.recv(64)
            if grace > 0:
                os.killpg(os.getpgrp(), signal.SIGTERM)
                _each(signal.SIGTERM, apart=True)
    # A process that forks, or whose parent dies, while it is looked for is found the next time.
    last, empty = time.monotonic() + _SEEK, 0
    while empty < 2 and time.monotonic() < last:
        _each(signal.SIGKILL)
        _reap(running)
        empty = 0 if _descendants() else empty + 1
        time.sleep(0.005)
    if running.returncode is None:
        running.kill()
    code = running.wait()
    with contextlib.suppress(OSError):
        asker.setblocking(True)
        asker.sendall(f"exit {code}\n".encode())
    asker.close()
    os.killpg(os.getpgrp(), signal.SIGKILL)  # where there is no /proc: the rest of the group, and the guard with it


if __name__ == "__main__":
    main()
