"""From rows of numbers to reports of epochs: which belong together, and which epoch they tell of; pure.

Where the script says its epoch, that is the epoch, counted from 1. Where it says a step and the length of an epoch in
steps is known, the epoch follows from it. Otherwise each evaluation, an appearance of the first metric asked for, is
the next epoch; one at step 0, before any training, is none.
"""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Mapping

from luthier.core.metrics import split_of
from luthier.scripts.lines import Row
from luthier.scripts.names import Names

Report = tuple[int, Mapping[str, float]]
"""An epoch, from 1, and its metrics."""

CLOSE = 0.8
"""From this likeness on (difflib's ratio) a name that is printed is taken for the one asked for, mistyped."""
SURE = 3
"""So many reports of a name like it, and none of the one asked for, are a mistake; the training need not go on."""


def _apart(name: str) -> tuple[str, list[str]]:
    """What two spellings of one name have in common: its data and its numbers."""
    return split_of(name), re.findall(r"\d+", name)


class Gatherer:
    """Collects what is said of an epoch until it is complete.

    An epoch is complete when the next one begins, when the output ends, or, told by :meth:`settle`, when its metrics
    are there and the script went quiet. Scripts that say their epoch may print a metric many times in it: the last
    counts, and how many times is learned from the first epoch.

    Args:
        names: the metrics asked for.
        start: epochs that a resumed training has behind it.
        steps_per_epoch: what one epoch is in the script's steps.
        length: epochs that the script was told to train; None where it was not. One that says its metric once, at its
            end, says it of all of them.
        shift: 1 for scripts that count their epochs from 0, as an earlier job found; None where that is not known.
    """

    def __init__(
        self,
        names: Names,
        *,
        start: int = 0,
        steps_per_epoch: float | None = None,
        length: int | None = None,
        shift: int | None = None,
    ) -> None:
        self._names = names
        self._lead = names.asked[0] if names.asked else ""
        self._per_epoch = steps_per_epoch
        self._pending: dict[str, float] = {}
        self._step: float | None = None  # of the pending evaluation
        self._stepped = False  # whether evaluations are said with their step, and without an epoch
        self._first: dict[str, float] | None = None  # an evaluation at step 0
        self._count = start
        self._length = length
        self._last = start
        self._used = False  # whether something was said at the place that is held
        self._places = 0
        self._after = False  # whether an epoch is said after its metrics, and not before
        self._times = 0
        self._usual: int | None = None
        self.shift = shift
        self.at: int | None = None
        self.seen: Counter[str] = Counter()

    # -- what happened -------------------------------------------------------------------------------------------------

    def feed(self, row: Row) -> list[Report]:
        """The epochs that ``row`` shows to be complete."""
        out: list[Report] = []
        place = self._place(row)
        if place is not None and not row.values and self._lead in self._pending and self.at is None:
            self._after = True
        if place is not None and self._after and not row.values:
            self.at = place
            return self._flush()
        if place is not None:
            if self.at is not None and place < self.at and self._used:
                return []  # a summary at the end that looks back
            if self.at is not None and place > self.at:
                out += self._flush()
            if place != self.at:
                self.at, self._used = place, False
        elif self.at is None and self._begins(row):
            out += self._flush()
        elif self._stepped and row.step is None and self._lead in row.values and self._lead not in self._pending:
            return out  # "the best so far", said after all else of its evaluation
        self.seen.update((*row.values, *row.others))
        if row.values:
            self._places += not self._used
            self._used = True
        self._pending |= row.values
        if self._lead in row.values:
            self._times += 1
            self._step = self._step if row.step is None else row.step
            self._stepped |= self.at is None and row.step is not None
        return out

    def settle(self) -> list[Report]:
        """The epoch that is complete, now that the script went quiet."""
        if self._after or (self.at is None and self._count == 0 and self._length is not None):
            return []  # its epoch is still to be said; perhaps it is the only one
        if not self._complete() or (self.at is not None and (self._usual is None or self._times < self._usual)):
            return []
        return self._flush()

    def finish(self) -> list[Report]:
        """The last epoch: nothing more is said."""
        if self.at is None and self._count == 0 and self._first is None and self._length is not None:
            if self._lead not in self._pending:
                return []
            values, self._pending = self._pending, {}
            return self._report(self._length, values)
        out = self._flush()
        if self._first is not None:
            values, self._first = self._first, None
            out += self._report(1, values)
        return out

    @property
    def beyond(self) -> int:
        """The epochs that are certainly over: those before the one that the script is in, if it says that."""
        return self.at - 1 if self.at is not None and self._places > 1 - self._used else 0

    @property
    def told(self) -> bool:
        """Whether the first metric asked for was ever said."""
        return self._lead in self.seen

    def mistyped(self) -> bool:
        """Whether the metric asked for never came, but one with almost its name did, again and again."""
        if self.told or not self.seen:
            return False
        often = [name for name, times in self.seen.items() if times >= SURE]
        alike = difflib.get_close_matches(self._lead, often, n=1, cutoff=CLOSE)
        # Of a loss on other data, of a part of the model or of acc@5 beside acc@1, nothing follows.
        return bool(alike) and _apart(alike[0]) == _apart(self._lead)

    # -- the parts -----------------------------------------------------------------------------------------------------

    def _place(self, row: Row) -> int | None:
        if self._per_epoch is not None:
            return None if row.step is None else math.ceil(row.step / self._per_epoch)
        if row.epoch is None:
            return None
        if not float(row.epoch).is_integer():
            self.shift = self.shift or 0
            return math.ceil(row.epoch)
        if self.shift is None:
            self.shift = int(row.epoch == 0)
        return int(row.epoch) + self.shift

    def _complete(self) -> bool:
        wanted = [name for name in self._names.asked if self.seen[name] > 1]  # what is told once is not waited for
        return self._lead in self._pending and all(name in self._pending for name in wanted)

    def _begins(self, row: Row) -> bool:
        """Whether ``row`` belongs to the next evaluation, where no epochs are said."""
        if self._lead not in self._pending:
            return False
        if self._step is not None:  # what is said without a step, "the best so far: ...", is said of the one before
            return row.step is not None and row.step != self._step
        return any(name in self._pending for name in row.values)

    def _flush(self) -> list[Report]:
        values, times = self._pending, self._times
        if not values:
            return []
        told = self._lead in values
        if self.at is None and not told:
            return []  # it waits for its evaluation
        self._pending, self._times, step, self._step = {}, 0, self._step, None
        if self.at is not None:
            if told and self._usual is None:
                self._usual = times
            return self._report(self.at, values)
        if step == 0 and self._count == 0 and self._first is None:
            self._first = values
            return []
        first, self._first = self._first, None
        # Steps 0, 1, 2 count evaluations; of 0, 250, 500 the first was before any training.
        kept = self._report(1, first) if first is not None and step == 1 else []
        return [*kept, *self._report(self._count + 1, values)]

    def _report(self, epoch: int, values: Mapping[str, float]) -> list[Report]:
        self._count = max(self._count, epoch)
        if epoch <= self._last:
            return []  # before training, or a repetition after a resume
        self._last = epoch
        return [(epoch, dict(values))]
