"""The GPUs that workers get: which there are, which are asked for, and how a process is told of its own.

A GPU is known by the word that its variable takes: a number, a UUID, the name of a MIG instance. What the user's own
environment allows is all that there is.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from luthier.core.errors import UserError

CUDA, ROCM = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"

AskedGpus = str | int | Sequence[str | int] | None
"""``"auto"``, how many, or which."""


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU.

    Args:
        id: what its variable calls it.
        total: its memory in bytes; None where that is not known.
    """

    id: str
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Gpus:
    """The GPUs of a study.

    Args:
        variable: of the environment, which tells a process of its devices.
    """

    devices: tuple[Device, ...]
    variable: str = CUDA


@dataclass(frozen=True, slots=True)
class Listed:
    """A GPU as its tool lists it."""

    index: str
    uuid: str
    total: int


def wanted(asked: AskedGpus) -> int | tuple[str, ...] | None:
    """How many GPUs are asked for, or which; None for all.

    Raises:
        UserError: neither.
    """
    words: Sequence[str | int]
    if isinstance(asked, str):
        if asked == "auto":
            return None
        if asked.strip().isdigit():
            return wanted(int(asked))
        words = [word.strip() for word in asked.split(",")]
    elif isinstance(asked, bool) or not isinstance(asked, int | list | tuple):
        words = ()
    elif isinstance(asked, int):
        if asked < 1:
            raise UserError(f"gpus={asked} is no number of GPUs.", "Write 1 or more, or leave it out.")
        return asked
    else:
        words = asked
    names = tuple(str(word) for word in words)
    if not names or not all(names) or len(set(names)) < len(names):
        raise UserError(
            f"gpus={asked!r} names no GPUs.",
            'Write gpus="auto", how many (gpus=2) or which (gpus=[0, 1]; --gpus 0,1), each once.',
        )
    return names


def visible(inherited: str | None, listed: Sequence[Listed]) -> tuple[Device, ...]:
    """The GPUs that this process may use, in the order in which it sees them.

    Args:
        inherited: what the variable says; None where it is not set.
        listed: those of the machine.
    """
    if inherited is None:
        return tuple(Device(one.index, one.total) for one in listed)
    found: list[Device] = []
    for word in (word.strip() for word in inherited.split(",")):
        if word in {"", "-1", "NoDevFiles"}:  # as CUDA reads it: what comes after is not seen either
            break
        known = [one.total for one in listed if word == one.index or (not word.isdigit() and one.uuid.startswith(word))]
        # Numbers may count in another order than the tool's: on a machine of unequal GPUs the smallest is supposed.
        sizes = [one.total for one in listed] if known and word.isdigit() else known
        found.append(Device(word, min(sizes, default=None)))
    return tuple(found)


def choose(asked: AskedGpus, seen: Sequence[Device]) -> tuple[Device, ...]:
    """Those of the GPUs that this process sees that are asked for; a number is a place among them, as in PyTorch.

    Raises:
        UserError: more than there are, or one that is not there.
    """
    which = wanted(asked)
    if which is None or isinstance(which, int):
        number = which or len(seen)
        if len(seen) < max(number, 1):
            raise UserError(
                f"gpus={asked!r}: {len(seen) or 'no'} GPU{'s were' if len(seen) != 1 else ' was'} found.",
                "Ask for what is there, or name them: gpus=[0, 1]. nvidia-smi or rocm-smi tells of them, or "
                f"{CUDA} or {ROCM}.",
            )
        return tuple(seen[:number])
    if not seen:
        return tuple(Device(name) for name in which)  # nothing tells of them: the user knows
    found = []
    for name in which:
        places = [d for place, d in enumerate(seen) if (name == str(place) if name.isdigit() else d.id == name)]
        if not places:
            raise UserError(
                f"gpus={asked!r}: there is no GPU {name!r} among {', '.join(d.id for d in seen)}.",
                "A number is a place in this list, from 0.",
            )
        found.append(places[0])
    return tuple(found)


def discover(asked: AskedGpus, environment: Mapping[str, str]) -> Gpus:
    """The GPUs asked for, on this machine.

    Raises:
        UserError: they are not there.
    """
    listed = _nvidia()
    amd = [] if listed else _amd()
    variable = ROCM if (amd or ROCM in environment) and not listed else CUDA
    return Gpus(choose(asked, visible(environment.get(variable), listed or amd)), variable)


def read_nvidia(text: str) -> list[Listed]:
    """What ``nvidia-smi --query-gpu=index,uuid,memory.total --format=csv,noheader,nounits`` says, in MiB."""
    found = []
    for line in text.splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) == 3 and words[0].isdigit() and words[2].isdigit():
            found.append(Listed(words[0], words[1], int(words[2]) * 2**20))
    return found


def read_amd(text: str) -> list[Listed]:
    """What ``rocm-smi --showmeminfo vram --csv`` says, in bytes: device, total, used."""
    found = []
    for line in text.splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) >= 2 and words[0].startswith("card") and words[1].isdigit():
            found.append(Listed(words[0].removeprefix("card"), words[0], int(words[1])))
    return found


def _nvidia() -> list[Listed]:
    words = ["nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
    return read_nvidia(_output(words))


def _amd() -> list[Listed]:
    return read_amd(_output(["rocm-smi", "--showmeminfo", "vram", "--csv"]))


def _output(words: Sequence[str]) -> str:
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(words, capture_output=True, text=True, timeout=20, check=True).stdout
    return ""
