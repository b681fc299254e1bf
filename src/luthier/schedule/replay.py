"""Training a schedule from scratch: what population-based training answers is a schedule, and this is how it is used.

The configuration that a population ends with is not the one that made its weights. Before a schedule is claimed it has
to be trained again, as one training, on a seed of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, final

import numpy as np

from luthier.contracts import Action, Done, Start, Stop, Wait
from luthier.core.errors import SpaceError, UserError
from luthier.core.history import History
from luthier.core.lineage import Segment
from luthier.core.study import Study
from luthier.core.trial import Status


@final
@dataclass(frozen=True, slots=True, init=False)
class Replay:
    """One trial for each segment of a schedule, each cloned from the one before.

    >>> lt.tune(train, space, max_epochs=30, strategy=Replay(result.lineage()), maximize="val_accuracy")

    Args:
        segments: :class:`Segment`, their plain data, or ``(from_epoch, until_epoch, config)``; the first begins at
            epoch 0, each goes on where the one before ended.
        seed: of the training, from which each segment gets one of its own; None keeps the seeds of the segments, so
            that the training is done again as it was, provided that ``max_epochs`` is what it was then.

    Raises:
        UserError: no segments, or segments that do not follow each other.
    """

    segments: tuple[Segment, ...]
    seed: int | None

    def __init__(self, segments: Sequence[Segment | Mapping[str, Any] | tuple[Any, ...]], seed: int | None = None):
        read = tuple(_segment(s) for s in segments)
        if not read:
            raise UserError("Replay() got no segments.", "Pass result.lineage().")
        if read[0].from_epoch != 0 or any(a.until_epoch != b.from_epoch for a, b in pairwise(read)):
            spans = ", ".join(f"{s.from_epoch} to {s.until_epoch}" for s in read)
            raise UserError(
                f"The segments of a schedule must follow each other from epoch 0, got {spans}.",
                "Pass result.lineage() as it is.",
            )
        if any(s.until_epoch <= s.from_epoch for s in read):
            raise UserError("A segment of a schedule trains no epoch.", "Leave it out.")
        object.__setattr__(self, "segments", read)
        object.__setattr__(self, "seed", seed)

    def accept(self, study: Study) -> None:
        """Refuse a study that is too short for the schedule, or whose space lacks a value of it."""
        last = self.segments[-1].until_epoch
        if last > study.max_epochs:
            raise UserError(
                f"The schedule trains {last} epochs, and max_epochs is {study.max_epochs}.", f"Write max_epochs={last}."
            )
        for segment in self.segments:
            try:
                study.space.complete(segment.config)
            except SpaceError as error:
                place = f"epochs {segment.from_epoch} to {segment.until_epoch}"
                raise UserError(f"The schedule does not fit the space, {place}: {error.problem}", error.mend) from None

    def propose(self, history: History, rng: np.random.Generator) -> Action:
        """The next segment, until the last one has ended."""
        if history.running:
            return Wait("the segments are trained one after the other")
        trials = list(history.trained())
        done, last = len(trials), trials[-1] if trials else None
        if last is not None and last.failure is not None:
            return Done(f"segment {done} of {len(self.segments)} failed: {last.failure.reason}")
        if last is not None and (last.status is Status.STOPPED or last.epoch < self.segments[done - 1].until_epoch):
            return Done(f"segment {done} of {len(self.segments)} ended early, at epoch {last.epoch}")
        if done == len(self.segments):
            return Done("the schedule was trained to its end")
        segment = self.segments[done]
        start = Start(
            segment.config,
            until=segment.until_epoch,
            why=f"segment {done + 1} of {len(self.segments)}: epochs {segment.from_epoch + 1} to {segment.until_epoch}",
            seed=segment.seed if self.seed is None else _seed(self.seed, done),
        )
        if last is None:
            return start
        if last.checkpoint is None or last.checkpoint.epoch != segment.from_epoch:
            raise UserError(
                f"A schedule goes on from checkpoints, and trial {last.id} left none at epoch {segment.from_epoch}.",
                "Hand what is trained to trial.epochs(model=..., optimizer=...).",
            )
        return replace(start, parent=last.id, clone=True)

    def judge(self, history: History, trial: int) -> Stop | None:
        """Never ends a segment early."""
        return None


def _segment(given: Segment | Mapping[str, Any] | tuple[Any, ...]) -> Segment:
    if isinstance(given, Segment):
        return given
    try:
        return Segment.from_dict(given) if isinstance(given, Mapping) else Segment(*given)
    except TypeError:
        raise UserError(
            f"{given!r} is no segment of a schedule.",
            "Write (from_epoch, until_epoch, config), or pass result.lineage().",
        ) from None


def _seed(seed: int, segment: int) -> int:
    """A seed for each segment: under one for all, each would see the batches of the first again."""
    return int(np.random.SeedSequence((seed, 0x5E63E27, segment)).generate_state(1)[0] >> 1)
