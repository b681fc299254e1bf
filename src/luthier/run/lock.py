"""One driver of a file at a time: a lock that ends with the process that holds it, however that ends."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from luthier.core.errors import StorageError

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows: two drivers are told apart by compare-and-append alone
    fcntl = None  # type: ignore[assignment]


@contextmanager
def driving(files: Path, name: str, shared: bool = False) -> Iterator[None]:
    """Hold the right to drive a study.

    Args:
        files: the study's folder of files.
        name: the study's.
        shared: its store lets several drivers work on it; then nothing is locked.

    Raises:
        StorageError: another process drives it, or the folder cannot be written.
    """
    if shared or fcntl is None:
        yield
        return
    place = files / "driver.lock"
    try:
        files.mkdir(parents=True, exist_ok=True)
        handle = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(
            f"{place} cannot be written: {error.strerror}.", "Make the folder writable, or copy the study elsewhere."
        ) from None
    try:
        try:
            # A record lock belongs to this process alone: children that it forks do not hold it when it is gone.
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise StorageError(
                f"The study {name!r} is being driven by {_holder(handle)}.",
                "Wait for it or stop it; luthier show and luthier report read along meanwhile.",
            ) from None
        except OSError:
            pass  # a file system without locks: compare-and-append still tells two drivers apart
        with suppress(OSError):  # a full disk is told by those who need it
            os.truncate(handle, 0)
            os.pwrite(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        yield
    finally:
        os.close(handle)


def _holder(handle: int) -> str:
    try:
        told = json.loads(os.pread(handle, 1000, 0))
        return f"process {told['pid']} on {told['host']}"
    except (OSError, ValueError, KeyError):
        return "another process"
