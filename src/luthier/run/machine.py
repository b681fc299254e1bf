"""What the operating system tells of memory."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import suppress
from pathlib import Path


def memory(pid: int) -> int:
    """Bytes of memory that a process holds (its resident set); 0 where that cannot be told."""
    with suppress(OSError):
        found = re.search(r"^VmRSS:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else 0
    with suppress(OSError, ValueError, subprocess.SubprocessError):  # macOS
        told = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, timeout=5).stdout
        return int(told) * 1024
    return 0


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
