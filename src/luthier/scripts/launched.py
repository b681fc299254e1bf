"""Scripts that torchrun starts in several processes: rank 0's output is the script's, and who failed says why.

torchrun takes its options from the environment too. So the other ranks write to files of the trial's, trials that train
at once have a port each, and a command that asks for something else gets it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from luthier.run.ranks import free_port

OTHERS = ",".join(f"{rank}:3" for rank in range(1, 10))  # it reads one digit; the filter silences the ranks beyond

PEER = r"closed by peer|reset by peer|Broken pipe|ncclRemoteError"
"""What a rank says that failed because another one had."""

TRACEBACK = "Traceback (most recent call last):"

FOLDER = "ranks"
"""Of a trial: what ranks other than 0 print."""


def settings(place: Path, own: Mapping[str, str]) -> dict[str, str]:
    """The environment that tells torchrun so, but for what the user's own says.

    Args:
        place: the trial's folder.
        own: the user's.
    """
    asked = {
        "PET_LOG_DIR": str(place / FOLDER),
        "PET_REDIRECTS": OTHERS,
        "PET_LOCAL_RANKS_FILTER": "0",
        "PET_MASTER_PORT": str(free_port()),
    }
    return {name: value for name, value in asked.items() if name not in own}


def cause(place: Path, tail: str) -> tuple[str, str] | None:
    """The reason of the rank that failed first, in one line, and the end of what it printed; None where it was not
    torchrun that ended.

    Args:
        place: the trial's folder.
        tail: the end of what torchrun and rank 0 printed.
    """
    found = re.search(r"Root Cause.*?local_rank: (\d+)\).*?(?:traceback\s*:\s*([^\n]*)|$)", tail, re.DOTALL)
    if found is None:
        return None
    told = {found[1]: re.split(r"(?m)^[EW]\d{4} ", tail)[0] if found[1] == "0" else ""}
    for path in sorted((place / FOLDER).rglob("stderr.log")):
        if path.parent.name != "0":
            told[path.parent.name] = path.read_text(errors="replace")
    told = {rank: re.sub(r"(?m)^\[rank\d+\]: ?", "", text).strip() for rank, text in told.items()}
    root = found[1]
    ends = {rank: _error(text) for rank, text in told.items() if TRACEBACK in text}
    # Where several have failed between two of its looks torchrun takes the lowest rank for the cause.
    if re.search(PEER, ends.get(root, "")):
        root = next((rank for rank, end in ends.items() if not re.search(PEER, end)), root)
    reason = ends.get(root) or (found[2] or "").partition(" received")[0].strip() or "it failed"
    return f"rank {root}: {reason}", told[root] or tail


def _error(text: str) -> str:
    """The error below the last traceback; a process that is torn down may say something after it."""
    after = text.rpartition(TRACEBACK)[2].strip("\n").splitlines()
    return next((line for line in after if line and not line[0].isspace()), after[-1] if after else "").strip()
