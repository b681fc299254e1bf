"""What the operating system tells of processors, memory and processes."""

from __future__ import annotations

import math
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def cores() -> int:
    """The processors that this process may use: its affinity, and what its control group grants, rounded up."""
    granted = quota()
    return len(core_ids()) if granted is None else max(1, min(len(core_ids()), math.ceil(granted)))


def core_ids() -> tuple[int, ...]:
    """The numbers of the processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def quota(root: Path = CGROUPS, own: str | None = None) -> float | None:
    """The processors' time that the control groups of this process grant, in processors; None without a limit.

    Args:
        root: where the control groups are mounted.
        own: the content of ``/proc/self/cgroup``, where it is not to be read.
    """
    found: list[float] = []
    for folder in _groups("cpu", root, own):
        with suppress(OSError, ValueError):
            most, period = (folder / "cpu.max").read_text().split()
            found += [] if most == "max" else [int(most) / int(period)]
        with suppress(OSError, ValueError):
            most = (folder / "cpu.cfs_quota_us").read_text()
            found += [int(most) / int((folder / "cpu.cfs_period_us").read_text())] if int(most) > 0 else []
    return min(found, default=None)


def room(root: Path = CGROUPS, own: str | None = None) -> int | None:
    """Bytes of memory that are free for more processes, in the machine and in each control group above this process;
    None where that cannot be told."""
    found: list[int] = []
    with suppress(OSError):
        told = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        found += [int(told[1]) * 1024] if told else []
    for folder in _groups("memory", root, own):
        for limit, used, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with suppress(OSError, ValueError):
                most = int((folder / limit).read_text())  # "max" is none
                held = int((folder / used).read_text())
                told = re.search(rf"^{cache} (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
                found.append(most - held + (int(told[1]) if told else 0))
    return max(0, min(found)) if found else None


def _groups(controller: str, root: Path, own: str | None) -> Iterator[Path]:
    """The folders of this process's control group and those above it, of both versions."""
    if own is None:
        try:
            own = Path("/proc/self/cgroup").read_text()
        except OSError:
            return
    for line in own.splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number != "0" and controller not in names.split(","):
            continue
        top = root if number == "0" else root / controller
        folder = top / path.strip("/")
        yield folder
        while folder != top:
            folder = folder.parent
            yield folder


def memory(pid: int) -> int:
    """Bytes of memory that a process holds (its resident set); 0 where that cannot be told."""
    with suppress(OSError):
        found = re.search(r"^VmRSS:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else 0
    with suppress(OSError, ValueError, subprocess.SubprocessError):  # macOS
        told = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, timeout=5).stdout
        return int(told) * 1024
    return 0


def peak(pid: int) -> int:
    """Bytes that a process and those below it hold, what they share counted once; of the process itself the most that
    it ever held. 0 where that cannot be told."""
    most = memory(pid)
    with suppress(OSError):
        found = re.search(r"^VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        most = int(found[1]) * 1024 if found else most
    return most + sum(_share(child) for child in below(pid))


def _share(pid: int) -> int:
    """The memory of a process, of what it shares with others its part."""
    with suppress(OSError):
        found = re.search(r"^Pss:\s*(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else 0
    return memory(pid)


def below(pid: int) -> list[int]:
    """The processes that a process started and those that they did; none where that cannot be told."""
    found: list[int] = []
    todo = [pid]
    while todo:
        for tasks in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            with suppress(OSError):
                own = [int(child) for child in tasks.read_text().split()]
                found += own
                todo += own
    return found


def oom_kills() -> int:
    """How many processes the kernel has killed for want of memory; 0 where that cannot be told."""
    with suppress(OSError, ValueError):
        found = re.search(r"^oom_kill (\d+)", Path("/proc/vmstat").read_text(), re.MULTILINE)
        return int(found[1]) if found else 0
    return 0


def alive(pid: int) -> bool:
    """Whether there is such a process on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True
