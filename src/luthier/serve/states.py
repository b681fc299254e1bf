"""Uploaded checkpoints: plain bytes under names that the server chooses. Nothing here looks into them."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from luthier.contracts import Job
from luthier.run.checkpoint import digest_of

LARGEST = 4_000_000_000
"""Bytes of an uploaded checkpoint, where nothing else is asked for."""


class Unlike(Exception):
    """What arrived is not what was announced."""


def name_of(trial: int, epoch: int) -> str:
    """The name of a trial's state after an epoch, relative to the study's folder of files; as workers of this machine
    name it."""
    return f"checkpoints/trial-{trial:05d}/epoch-{epoch:05d}.ckpt"


def sources_of(job: Job) -> list[tuple[str, str, bool]]:
    """What a job can go on from, the best first: path, digest, whether it is another trial's."""
    first = [] if job.checkpoint is None else [(job.checkpoint, job.digest, job.clone_of is not None)]
    return [*first, *((path, digest, cloned) for path, digest, cloned in job.fallback)]


def epoch_of(path: str) -> int:
    """The epoch in the name of a state; 0 where there is none."""
    digits = Path(path).stem.rpartition("-")[2]
    return int(digits) if digits.isascii() and digits.isdigit() else 0


async def store(
    chunks: AsyncIterator[bytes], place: Path, digest: str, most: int, part: str, still: Callable[[], Awaitable[Any]]
) -> int:
    """Write what arrives to ``place``, whole or not at all; returns its bytes.

    Args:
        digest: the SHA-256 that was announced.
        most: bytes that are allowed.
        part: tells the temporary file of this upload from those of others.
        still: asked before it counts; raises where the upload has come too late.

    Raises:
        Unlike: it has another SHA-256, or is larger than allowed.
        OSError: it cannot be written.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.{part}.part")
    whole, size = hashlib.sha256(), 0
    try:
        with temporary.open("wb") as file:
            async for chunk in chunks:
                size += len(chunk)
                if size > most:
                    raise Unlike(f"it has more than {most:,} bytes")
                whole.update(chunk)
                file.write(chunk)
            if whole.hexdigest() != digest:
                raise Unlike(f"its SHA-256 is {whole.hexdigest()[:12]}..., {digest[:12]}... was announced")
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        await still()
        temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)
    return size


def stored(files: Path, trial: int, epoch: int, digest: str) -> bool:
    """Whether a trial's state after an epoch was uploaded."""
    place = files / name_of(trial, epoch)
    try:
        return place.is_file() and digest_of(place) == digest
    except OSError:
        return False


def inside(files: Path, name: str) -> Path | None:
    """The file of a name in the log; None where it is none, or not below the study's folder of files."""
    try:
        place = (files / name).resolve()
        return place if place.is_relative_to(files.resolve()) and place.is_file() else None
    except (OSError, ValueError):
        return None
