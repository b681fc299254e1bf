"""Where Python looks for modules, told to workers."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def search_path() -> list[str]:
    """The driver's, absolute."""
    return [os.path.abspath(p or ".") for p in sys.path]


def package() -> str:
    """``PYTHONPATH`` for a process of this machine that is to import this very Luthier."""
    return os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
