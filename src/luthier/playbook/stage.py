"""What a stage of the playbook is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from luthier.playbook.script import Look, Script


@dataclass(frozen=True, slots=True)
class Stage:
    """One question.

    Args:
        name: names it in the log.
        question: what it asks, in a sentence.
        script: asks for trainings and returns the verdict; see :mod:`luthier.playbook.script`.
        share: the part of what is left to spend (without ``reserved`` of later stages) that it may take, in [0, 1].
        tier: of the hyperparameters it decides, 1 to 5. From tier 3 on it is skipped while the curves show a mistake in
            the pipeline, or a learning rate that has to be mended first. None where that does not matter to it.
        again: it may be opened again where a later finding asks for it, and a best value of it on the edge of a range
            widens that range.
    """

    name: str
    question: str
    script: Callable[[Look], Script]
    share: float = 0.3
    tier: int | None = None
    again: bool = False
