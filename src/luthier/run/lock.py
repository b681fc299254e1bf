"""One driver of a file at a time: a lock that ends with the process that holds it, however that ends."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from luthier.core.errors import StorageError

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows: two drivers are told apart by compare-and-append alone
    fcntl = None  # type: ignore[assignment]

SEVERAL = "Several at once need PostgreSQL, or luthier serve."


@dataclass(slots=True)
class _Held:
    """A lock of this process: its handle, and how many drivers of this process rest on it."""

    pid: int
    handle: int
    replaceable: bool
    drivers: int = 0


_held: dict[Path, _Held] = {}
"""By lock file: a process that closes any handle of a file gives up all its record locks on it, so there is one."""


@contextmanager
def driving(files: Path, name: str, shared: bool = False, *, replaceable: bool = False) -> Iterator[None]:
    """Hold the right to drive a study.

    Args:
        files: the study's folder of files.
        name: the study's.
        shared: its store lets several drivers work on it; then nothing is locked.
        replaceable: another one of this process that is so too may take over: who makes an object anew need not have
            closed the old one.

    Raises:
        StorageError: another process drives it, or this one already, or the folder cannot be written.
    """
    if shared or fcntl is None:
        yield
        return
    place = files.resolve() / "driver.lock"
    held = _held.get(place)
    if held is None or held.pid != os.getpid():  # what a fork has copied is the parent's
        held = _held[place] = _Held(os.getpid(), _locked(place, name), replaceable)
    elif not (held.replaceable and replaceable):
        raise StorageError(
            f"The study {name!r} is being driven by this process already.", f"Close that one first. {SEVERAL}"
        )
    held.drivers += 1
    try:
        yield
    finally:
        held.drivers -= 1
        if not held.drivers:
            if _held.get(place) is held:
                del _held[place]
            os.close(held.handle)


def _locked(place: Path, name: str) -> int:
    """The handle of a lock file, locked for this process.

    Raises:
        StorageError: another process has it, or it cannot be written.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(
            f"{place} cannot be written: {error.strerror}.", "Make the folder writable, or copy the study elsewhere."
        ) from None
    try:
        # A record lock belongs to this process alone: children that it forks do not hold it when it is gone.
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        holder = _holder(handle)
        os.close(handle)
        raise StorageError(
            f"The study {name!r} is being driven by {holder}.",
            f"Wait for it or stop it; luthier show and luthier report read along meanwhile. {SEVERAL}",
        ) from None
    except OSError:
        pass  # a file system without locks: compare-and-append still tells two drivers apart
    with suppress(OSError):  # a full disk is told by those who need it
        os.truncate(handle, 0)
        os.pwrite(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
    return handle


def _holder(handle: int) -> str:
    try:
        told = json.loads(os.pread(handle, 1000, 0))
        return f"process {told['pid']} on {told['host']}"
    except (OSError, ValueError, KeyError):
        return "another process"
