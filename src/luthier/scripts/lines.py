"""What a script prints, as rows of numbers: JSON lines, ``name=value`` and ``name: value``, or expressions; pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from luthier.core.errors import UserError
from luthier.core.metrics import SPLITS, TRAIN, is_share, split_of, words
from luthier.readers.jsonlines import flat
from luthier.readers.recording import number
from luthier.scripts.names import QUALIFIERS, Names, joined, quantity

EPOCH = ("epoch", "ep")
STEP = (
    "step",
    "global_step",
    "globalstep",
    "global step",
    "iter",
    "iteration",
    "update",
    "trainer/global_step",
    "_step",
)
"""The fields that say where a training is."""

LONGEST = 4000
"""Characters of a line of text that are read: what is longer is no log of metrics. An object may be longer."""
LARGEST = 1_000_000
"""Characters of a line that are kept until it ends."""

# fmt: off
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?")
_WRAP = r"(?:tensor\(|np\.float\d+\(|\[|\()?"
_NUMBER = r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan\b|inf(?:inity)?\b)"
_PLACE = re.compile(
    r"(?<![\w/.-])[\"']?(?P<name>epoch|ep|(?:global[_ ])?step|iter|iteration|update)[\"']?\s*[:=#]?\s*[\[(\"']?\s*"
    r"(?P<value>\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?)[\])]?(?:\s*/\s*(?P<of>\d+))?(?![\w%]|\.\d)", re.IGNORECASE)
_METRIC = re.compile(
    rf"(?<![\w/@.-])(?P<name>[A-Za-z_][\w/@.-]*(?:\(\w+\))?(?:[ \t]+\(?[A-Za-z][\w/@.-]*\)?){{0,4}})[\"']?"
    rf"(?P<mark>\s*(?:[:=]|->|→)\s*[\"']?|\s+)\s*{_WRAP}\s*(?P<value>{_NUMBER})"
    rf"(?:\s*/\s*(?P<of>\d+)(?P<share>\s*[=(]\s*\d+(?:\.\d+)?\s*%)?)?(?P<percent>\s*%)?"
    rf"(?:[a-zA-Zµ]{{1,4}}(?:/[a-zA-Z]+)?)?(?!\w|[.:]\.?\d)"
    rf"(?=(?P<bar>\|[^|a-zA-Z]*\|\s*\d+/\d+)?)", re.IGNORECASE)
_BAR = re.compile(r"(?P<n>\d+)/(?P<of>\d+)\s*\[\d+:\d+")
_SPLIT = re.compile(rf"(?<![\w./-])(?:{'|'.join(sorted(SPLITS))})(?![\w/-]|\.\w)", re.IGNORECASE)
_BEFORE = {"of", "end", "info", "debug", "warning", "and", "at", "after", "finished", "done", "in", "starting",
           *SPLITS}
_LAST = {"is", "of", "at", "was", "now", "to"}
# fmt: on


@dataclass(frozen=True, slots=True)
class Row:
    """Numbers that were said together.

    Args:
        values: by the name under which they are reported.
        epoch, step: where the training was, if that was said.
        others: names that were said but tell nothing of a training's quality.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    epoch: float | None = None
    step: float | None = None
    others: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.values) or self.epoch is not None or self.step is not None


def row_of(fields: Mapping[str, Any], names: Names) -> Row:
    """A row of named fields: of a JSON object, a table, or an expression's groups. Every number counts."""
    epoch = step = None
    said: list[tuple[str, float]] = []
    for name, cell in fields.items():
        value = number(cell)
        if value is None:
            continue
        low = name.strip().lower()
        if low in EPOCH:
            epoch = value
        elif low in STEP:
            step = value
        else:
            said.append((name, value))
    # A loss or metric by the one name that all spellings share, anything else as it is called.
    return Row(_reported(said, names), epoch, step)


def _reported(said: Iterable[tuple[str, float]], names: Names) -> dict[str, float]:
    """Numbers by the names that they are reported under; what is called just as it was asked for comes before what
    means the same."""
    values: dict[str, float] = {}
    exact: set[str] = set()
    for name, value in said:
        found = names.of(name) if names.telling(name) else name
        if name == found:
            exact.add(found)
        if name == found or found not in exact:
            values[found] = value
    return values


def parse(line: str, names: Names) -> Row:
    """The numbers in a line of free text, or of a JSON object."""
    text = _ANSI.sub("", line).strip()
    if text.startswith("Namespace("):  # argparse's own settings
        return Row()
    if text.startswith("{") and text.endswith("}"):
        try:
            data = json.loads(text)
        except ValueError:
            data = None
        if isinstance(data, dict):
            return row_of(flat(data), names)
    place: dict[str, float] = {}
    rest = text = joined(text[:LONGEST])
    for found in _PLACE.finditer(text):
        before = re.findall(r"([A-Za-z]+)[\"'\])]?\s+$", text[: found.start()])
        if before and before[0].lower() not in _BEFORE:
            continue
        kind = "epoch" if found["name"].lower() in EPOCH else "step"
        place.setdefault(kind, float(found["value"].replace(",", "")))
        rest = rest[: found.start()] + " " * 3 + "|" * (found.end() - found.start() - 3) + rest[found.end() :]
    said: list[tuple[str, float]] = []
    others: list[str] = []
    for split, own in _sections(rest):
        for at, (name, found) in enumerate(own):
            if split and _holds(split, at, own) and (split in TRAIN or names.of(name) not in names.asked):
                name = f"{split} {name}"
            if names.telling(name):
                said.append((name, _value(found, name)))
            elif found["mark"].strip():
                others.append(name)
    return Row(_reported(said, names), place.get("epoch"), place.get("step"), tuple(others))


def _sections(text: str) -> list[tuple[str, list[tuple[str, re.Match[str]]]]]:
    """The names with a number in a line, by the word alone that says on which data: ``train: loss 1 | val: loss 2``."""
    parts: list[tuple[str, list[tuple[str, re.Match[str]]]]] = [("", [])]
    end = 0
    for found in _METRIC.finditer(text):
        alone = _SPLIT.findall(text[end : found.start()])
        end = found.end()
        if alone:
            parts.append((alone[-1].lower(), []))
        name = _name(found["name"], found["mark"])
        if name is None:
            continue
        if set(words(name)) <= SPLITS:  # "Validation: 100%|####| 10/10"
            parts.append((name.lower(), []))
        elif not found["bar"]:  # "Class mAP@.5 mAP@.5:.95: 100%|####| 4/4" heads a table
            parts[-1][1].append((name, found))
    return parts


def _holds(split: str, at: int, section: Sequence[tuple[str, object]]) -> bool:
    """Whether a word alone says on which data the name at ``at`` of its section is.

    Not where the name does, nor behind one that says otherwise, as ``acc`` in ``[train][INFO] loss/val=2 acc=0.3``,
    where a logger is called so; but of ``train: val_loss 2 acc 0.3 val_acc 0.2`` the first is the training's.
    """
    name = section[at][0]
    told = [(split_of(other), quantity(other)) for other, _ in section]
    own = split_of(split)
    twin = any(where and what == quantity(name) for where, what in told)
    return not split_of(name) and (twin or all(where in ("", own) for where, _ in told[:at]))


def _name(text: str, mark: str) -> str | None:
    """The metric's own words at the end of those before a number."""
    parts = text.split()
    while parts and parts[-1].lower() in _LAST:
        parts.pop()
    if not parts:
        return None
    taken = [parts[-1]]
    for word in reversed(parts[:-1]):
        own = {w if w in QUALIFIERS else w.rstrip("0123456789") for w in words(word)}  # "top3"
        if not own <= QUALIFIERS or "_" in taken[0] or "/" in taken[0]:
            break
        taken.insert(0, word)
    return " ".join(taken)


def _value(found: re.Match[str], name: str) -> float:
    value = float(found["value"].replace(",", ""))
    if found["percent"]:
        return round(value / 100.0, 12)
    if found["of"] and (found["share"] or is_share(name)) and float(found["of"]) > 0:
        return value / float(found["of"])
    return value


class Expressions:
    """Regular expressions with named groups: each group is a metric, ``epoch`` and ``step`` say where.

    Groups called ``name`` and ``value`` together give a metric whose name is in the text.

    Raises:
        UserError: an expression that cannot be read or names no group.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._compiled = []
        for pattern in patterns:
            try:
                compiled = re.compile(pattern)
            except re.error as error:
                raise UserError(f"The expression {pattern!r} cannot be read: {error}.", "Mend it.") from None
            if not compiled.groupindex:
                raise UserError(
                    f"The expression {pattern!r} has no named group.",
                    r"Name what it finds after the metric: (?P<val_loss>[\d.]+).",
                )
            self._compiled.append(compiled)

    def parse(self, line: str, names: Names) -> Row:
        """What the expressions find in a line, all together."""
        fields: dict[str, Any] = {}
        for compiled in self._compiled:
            for found in compiled.finditer(_ANSI.sub("", line)):
                groups = {k: v for k, v in found.groupdict().items() if v is not None}
                if {"name", "value"} <= set(groups):
                    groups[groups.pop("name")] = groups.pop("value")
                fields |= {k: v.replace(",", "") for k, v in groups.items()}
        return row_of(fields, names)


class Stream:
    """Text as it comes, in pieces of any size, into rows: one a line.

    A progress bar writes one line again and again. Its last numbers count, once the line is complete; where the bar
    counts the epochs themselves, each of its steps is a row.

    Args:
        names: what to look for.
        epochs: the length of the training: a bar of so many steps counts epochs.
        expressions: what to read lines with, in place of names and numbers.
    """

    def __init__(self, names: Names, epochs: int, expressions: Expressions | None = None) -> None:
        self._names = names
        self._epochs = epochs
        self._read = expressions.parse if expressions is not None else parse
        self._rest = ""
        self._bar = Row()
        self._drawn: tuple[int, Mapping[str, float]] | None = None

    def feed(self, text: str) -> list[Row]:
        """The rows of the lines that are complete now."""
        rows: list[Row] = []
        *done, self._rest = re.split(r"([\r\n]|\x08+)", self._rest + text)
        for segment, mark in zip(done[::2], done[1::2]):
            rows += self._segment(segment)
            if mark == "\n":
                rows += self._close()
        if len(self._rest) > LARGEST:
            self._rest = self._rest[-LONGEST:]
        return rows

    def end(self) -> list[Row]:
        """What an output without a last newline still held."""
        rest, self._rest = self._rest, ""
        return [*self._segment(rest), *self._close()]

    def _segment(self, segment: str) -> Iterator[Row]:
        row = self._read(segment, self._names) if segment.strip() else Row()
        bar = _BAR.search(segment)
        if bar is not None and self._epochs > 1 and int(bar["of"]) == self._epochs and row.epoch is None:
            n = int(bar["n"])
            stale = self._drawn is not None and self._drawn[0] != n and self._drawn[1] == row.values
            if row.values:
                self._drawn = (n, row.values)
            if row.values and not stale and n < self._epochs:
                yield replace(row, epoch=float(n))  # the bar moves on only after its numbers
            return
        held = self._bar
        if row.epoch is not None and held.epoch is not None and row.epoch != held.epoch:
            yield from self._close()
            held = self._bar
        self._bar = Row(
            {**held.values, **row.values},
            held.epoch if row.epoch is None else row.epoch,
            held.step if row.step is None else row.step,
            (*held.others, *row.others)[:50],
        )

    def _close(self) -> list[Row]:
        row, self._bar = self._bar, Row()
        return [row] if row or row.others else []
