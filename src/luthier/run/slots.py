"""How a machine is divided among workers: pure functions over facts.

The rules, as ``docs/slots.md`` tells them: a worker a core up to eight of them, or one a set of GPUs; then as many as
the memory bears, once the first trials have shown what one takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from luthier.core.errors import UserError
from luthier.run.gpus import Device, Gpus

MANY = 8
"""Workers at most where nobody says how many threads each has: more at once decide without each other's results."""

SHARE = 0.9
"""The part of the memory, of the host and of a GPU, that workers may fill."""

CONTEXT = 600 * 2**20
"""Bytes that a process takes of a GPU beside what PyTorch allocates there: CUDA's context and kernels."""

# Threads that spin long while they wait starve each other as soon as a core is shared, with the driver or another
# worker; threads that sleep at once lose as much on idle cores. A tenth of GCC's default spins keeps the idle speed.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a machine has for a study.

    Args:
        cores: the numbers of the processors.
        grant: how many of them there are to use, not more than ``len(cores)``.
        memory: bytes that all workers together may hold; None where that is not known.
        gpus: the GPUs to be dealt; None where workers see what the driver sees.
    """

    cores: tuple[int, ...]
    grant: int
    memory: int | None = None
    gpus: Gpus | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What the trainings have shown so far; 0 where nothing was measured.

    Args:
        memory: bytes that the largest worker held, with its processes.
        device: bytes that PyTorch held on one GPU, for the largest worker.
        at_most: workers that the memory may bear, where it has run out with one more; None where it never has.
        a_device: the same for workers on one GPU.
    """

    memory: int = 0
    device: int = 0
    at_most: int | None = None
    a_device: int | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """What one worker gets.

    Args:
        threads: of each of its processes.
        devices: its GPUs, for all of its processes; None for those that the driver sees.
        variable: the one that names them to it.
        cores: the processors that it is pinned to; None for all.
        sharing: workers that have the same GPUs, this one among them.
    """

    threads: int
    devices: tuple[str, ...] | None = None
    variable: str = ""
    cores: frozenset[int] | None = None
    sharing: int = 1


@dataclass(frozen=True, slots=True)
class Roster:
    """The workers of a study, and why so many, in a line."""

    slots: tuple[Slot, ...]
    why: str


def fixed(facts: Facts, workers: int, *, threads: int | None = None, processes: int = 1, pin: bool = False) -> Roster:
    """As many workers as the user said.

    Raises:
        UserError: more processes than GPUs, or more workers to pin than processors.
    """
    if pin and workers > len(facts.cores):
        raise UserError(
            f"pin=True: {workers} workers cannot have a core each of {len(facts.cores)}.", "Ask for fewer workers."
        )
    each = threads or max(1, facts.grant // (workers * processes))
    dealt = deal(facts.gpus, workers, processes)
    pins = [_part(facts.cores, place, workers) if pin else None for place in range(workers)]
    gpus = facts.gpus
    slots = tuple(
        Slot(
            each,
            None if devices is None else tuple(d.id for d in devices),
            "" if gpus is None else gpus.variable,
            cores,
            1 if devices is None else dealt.count(devices),
        )
        for devices, cores in zip(dealt, pins)
    )
    return Roster(slots, f"Workers: {_described(slots, processes)}, as asked.")


def auto(facts: Facts, measured: Measured, *, threads: int | None = None, processes: int = 1) -> Roster:
    """As many workers as the machine bears, by what was measured so far.

    Raises:
        UserError: a trial's processes outnumber the GPUs.
    """
    bounds: dict[str, int] = {}
    own = threads or 1
    plural = "core" if facts.grant == 1 else "cores"
    if facts.gpus is None:
        cores = facts.grant // (own * processes)
        bounds[f"{facts.grant} {plural}"] = max(1, cores if threads else min(MANY, cores))
    else:
        bounds[f"{facts.grant} {plural}"] = max(1, facts.grant // (own * processes))
        bounds[_name(facts.gpus.devices)] = _sets(facts.gpus.devices, processes) * _packed(facts, measured, processes)
    by_cores = min(bounds.values())
    if facts.memory is not None and measured.memory:
        told = f"{_size(measured.memory)} a worker of {_size(facts.memory)}"
        bounds[f"memory ({told})"] = max(1, int(SHARE * facts.memory // measured.memory))
    if measured.at_most is not None:
        bounds["memory, which ran out,"] = max(1, measured.at_most)
    unknown = facts.memory is not None and not measured.memory and facts.gpus is None and by_cores > 1
    number = 1 if unknown else min(bounds.values())
    # One that is measured has the threads that all will have then.
    each = threads or max(1, facts.grant // (by_cores if unknown else number) // processes)
    plan = fixed(facts, number, threads=each, processes=processes)
    reasons = "; ".join(f"{what} allow{'s' * what.startswith('memory')} {most}" for what, most in bounds.items())
    first = " until an epoch has shown the memory that it takes" if unknown else ""
    return Roster(plan.slots, f"Workers: {_described(plan.slots, processes)}{first} ({reasons}).")


def deal(gpus: Gpus | None, workers: int, processes: int) -> list[tuple[Device, ...] | None]:
    """The GPUs of each worker: equal sets while there are enough, else one that it shares.

    Raises:
        UserError: a worker of several processes would have fewer GPUs than processes.
    """
    if gpus is None:
        return [None] * workers
    devices = gpus.devices
    each = len(devices) // workers
    if processes > 1 and each < processes:
        raise UserError(
            f"{workers} worker{'s' * (workers > 1)} of {processes} processes need{'s' * (workers == 1)} "
            f"{workers * processes} GPUs, and there {'is' if len(devices) == 1 else 'are'} {len(devices)}.",
            "Ask for fewer workers or processes.",
        )
    if not each:
        return [(devices[place % len(devices)],) for place in range(workers)]
    return [tuple(devices[place * each : (place + 1) * each]) for place in range(workers)]


def environment(slot: Slot, inherited: Mapping[str, str]) -> dict[str, str]:
    """A worker's environment: what the user set stays, but for the GPUs that it is given."""
    settings = {**dict.fromkeys(_THREADS, str(slot.threads)), "GOMP_SPINCOUNT": "30000"}
    found = {**settings, **inherited}
    if slot.devices is not None:
        if slot.variable not in inherited:  # then the numbers are those of nvidia-smi, and CUDA shall count alike
            found.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        found[slot.variable] = ",".join(slot.devices)
    return found


def less(measured: Measured, workers: int, sharing: int, *, device: bool) -> Measured:
    """What is known once memory has run out.

    Args:
        workers: how many there were.
        sharing: how many had the GPUs of the worker that failed.
        device: whether it was the GPU's memory.
    """
    if device:
        return replace(measured, a_device=max(1, sharing - 1))
    return replace(measured, at_most=max(1, workers - 1))


def _sets(devices: Sequence[Device], processes: int) -> int:
    if len(devices) < processes:
        deal(Gpus(tuple(devices)), 1, processes)
    return len(devices) // processes


def _packed(facts: Facts, measured: Measured, processes: int) -> int:
    """Workers on one set of GPUs: several where their memory was measured and bears it."""
    assert facts.gpus is not None
    totals = [device.total for device in facts.gpus.devices]
    if processes > 1 or not measured.device or None in totals:
        return 1
    smallest = min(total for total in totals if total is not None)
    number = max(1, int(SHARE * smallest // (measured.device + CONTEXT)))
    return number if measured.a_device is None else max(1, min(number, measured.a_device))


def _part(cores: Sequence[int], place: int, workers: int) -> frozenset[int]:
    """An even share of the processors, neighbours."""
    number = len(cores)
    return frozenset(cores[place * number // workers : (place + 1) * number // workers])


def _name(devices: Sequence[Device]) -> str:
    return f"{len(devices)} GPU{'s' * (len(devices) != 1)}"


def _described(slots: Sequence[Slot], processes: int) -> str:
    threads = slots[0].threads
    parts = [f"{len(slots)}"]
    if processes > 1:
        parts.append(f"of {processes} processes")
    parts.append(f"with {threads} thread{'s' * (threads != 1)} each")
    if slots[0].devices is not None:
        sets = list(dict.fromkeys("+".join(slot.devices or ()) for slot in slots))
        shown = ", ".join(sets[:MANY]) + (", ..." if len(sets) > MANY else "")
        most = max(slot.sharing for slot in slots)
        parts.append(f"on GPU {shown}" + (f", up to {most} on one" if most > 1 else ""))
    if slots[0].cores is not None:
        parts.append("pinned")
    return " ".join(parts)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
