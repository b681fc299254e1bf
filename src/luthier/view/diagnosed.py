"""What the curves of trainings say: in words for a terminal, as one object, and as a page with the curves drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.core.words import count
from luthier.diagnosis.curves import Curves
from luthier.diagnosis.finding import Diagnosis, Finding
from luthier.view import figures as fig
from luthier.view import ink
from luthier.view.page import render
from luthier.view.panels import training_panels
from luthier.view.story import clean, number, sparkline

SEVERITIES = ("critical", "warning", "hint", "good")
STYLES = {"critical": "bold red", "warning": "yellow", "hint": "cyan", "good": "green"}
MOST_LINES = 20
"""Trainings that get a line of their own on a terminal."""
MOST_STEPS = 6
MOST_DRAWN = 60
"""Trainings whose curves a page draws; of more the worst."""

SILENT = "nothing can be said: the curves are too short, or too little of them is known."

Line = tuple[str, str]
"""Text and the style of its first word."""


@dataclass(frozen=True, slots=True)
class Diagnosed:
    """One training, what was found on it, and how it was read.

    Args:
        taken: role to the name under which it was logged.
        notes: what the user should know of how it was read.
        failed: how it ended, of one that did not come to its end.
    """

    curves: Curves
    diagnosis: Diagnosis
    path: str
    taken: Mapping[str, str]
    notes: tuple[str, ...] = ()
    failed: str = ""

    @property
    def name(self) -> str:
        """What to call it, on one line."""
        return clean(self.curves.name or self.path, 80)

    @property
    def worst(self) -> Finding | None:
        """The gravest finding; None where nothing is wrong."""
        return min((f for f in self.diagnosis if f.severity != "good"), key=_gravity, default=None)

    @property
    def grade(self) -> str | None:
        """The severity of the gravest finding; to have failed is a warning where the curves do not say why."""
        return "warning" if self.worst is None and self.failed else None if self.worst is None else self.worst.severity


def by_gravity(readings: Sequence[Diagnosed]) -> list[Diagnosed]:
    """What matters most first."""
    return sorted(readings, key=_rank)


def next_steps(overall: Diagnosis, readings: Sequence[Diagnosed]) -> list[str]:
    """What to try, in order: first what holds for all, then by gravity; a consequence leaves the word to its cause."""
    steps: dict[str, None] = {}
    for diagnosis in (overall, *(r.diagnosis for r in by_gravity(readings))):
        for finding in diagnosis:
            if finding.severity != "good" and not any(diagnosis.has(cause) for cause in finding.causes):
                steps |= dict.fromkeys(finding.action)
    return list(steps)[:MOST_STEPS]


def headline(overall: Diagnosis, readings: Sequence[Diagnosed]) -> tuple[str, str]:
    """The most important finding in one line, and its severity."""
    worst = by_gravity(readings)[0]
    own, first = worst.worst, overall.first
    if first is not None and (own is None or _gravity(first)[0] <= _gravity(own)[0]):
        return f"{first.severity}: {clean(first.text, 600)}", first.severity
    if own is None and worst.failed:
        return _summary(worst, worst.name if len(readings) > 1 else "The training"), "warning"
    if own is None:
        well = sum(len(r.diagnosis) > 0 for r in readings)
        if not well:
            return SILENT, "hint"
        if len(readings) == 1:
            return _summary(worst), "good"
        rest = f", and nothing can be said of {len(readings) - well}" if well < len(readings) else ""
        return f"good: nothing is wrong with {count(well, 'training')}{rest}.", "good"
    whose = f" {worst.name}:" if len(readings) > 1 else ""
    return f"{own.severity}:{whose} {clean(own.text, 600)}", own.severity


def tell(
    overall: Diagnosis, readings: Sequence[Diagnosed], notes: Sequence[str] = (), *, sparks: bool = False
) -> list[Line]:
    """The lines for a terminal, each with a style; the first is the most important finding.

    Args:
        overall: what holds for all trainings together.
        readings: at least one.
        notes: how the files were read.
        sparks: draw the curves in block characters.
    """
    text, severity = headline(overall, readings)
    lines: list[Line] = [(text, STYLES[severity]), ("", "")]
    if len(readings) == 1:
        lines += _one(readings[0], sparks)
    else:
        lines += _many(overall, by_gravity(readings), sparks)
    lines += [(f"note: {clean(note, 600)}", "dim") for note in notes]
    steps = next_steps(overall, readings)
    if steps:
        lines += [("", ""), ("What to try next", "bold")]
        lines += [(f"  {i}. {clean(step, 600)}", "") for i, step in enumerate(steps, start=1)]
    return lines


def to_dict(overall: Diagnosis, readings: Sequence[Diagnosed], notes: Sequence[str] = ()) -> dict[str, Any]:
    """The same as plain data: ``runs``, the overall ``findings``, ``next_steps`` and ``notes``."""
    return {
        "runs": [
            {
                "name": r.name,
                "path": r.path,
                "taken": dict(r.taken),
                "unit": r.curves.unit,
                "end": r.curves.end,
                "length": r.curves.length,
                "failed": r.failed or None,
                "notes": list(r.notes),
                "findings": [_finding(f) for f in r.diagnosis],
            }
            for r in readings
        ],
        "findings": [_finding(f) for f in overall],
        "next_steps": next_steps(overall, readings),
        "notes": list(notes),
    }


def page(overall: Diagnosis, readings: Sequence[Diagnosed], notes: Sequence[str] = ()) -> str:
    """One HTML file with the curves of every training, each finding marked where it began."""
    specs: list[ink.Spec] = []
    drawn = []
    ordered = by_gravity(readings)
    for reading in ordered[:MOST_DRAWN]:
        own = []
        for panel in training_panels(reading.curves, list(reading.diagnosis), reading.taken):
            specs.append(fig.training_figure(panel))
            label = f"{panel.title} of {reading.name}"
            own.append({"id": len(specs) - 1, "label": label, "height": specs[-1]["layout"]["height"]})
        drawn.append({"reading": reading, "figures": own, "facts": _facts(reading)})
    text, severity = headline(overall, readings)
    view = {
        "headline": text.partition(": ")[2].capitalize() if text == SILENT else text.partition(": ")[2],
        "severity": severity,
        "overall": list(overall),
        "runs": drawn,
        "left_out": [{"reading": r, "grade": r.grade, "said": _said(r)} for r in ordered[MOST_DRAWN:]],
        "steps": next_steps(overall, readings),
        "notes": list(notes),
        "tally": _tally(readings),
    }
    return render("diagnosis.html.j2", view, {"figures": specs, "trials": {}})


# -- the parts ---------------------------------------------------------------------------------------------------------


def _rank(reading: Diagnosed) -> tuple[int, float]:
    if reading.worst is not None:
        return _gravity(reading.worst)
    return SEVERITIES.index(reading.grade) if reading.grade else len(SEVERITIES), 0.0


def _gravity(finding: Finding) -> tuple[int, float]:
    return SEVERITIES.index(finding.severity), -finding.confidence


def _facts(reading: Diagnosed) -> str:
    curves = reading.curves
    unit = curves.unit if curves.end == 1 else f"{curves.unit}s"
    planned = f" of {curves.length:,.6g} planned" if curves.length and curves.length > curves.end else ""
    taken = ", ".join(f"{role} ← {clean(name, 60)}" for role, name in reading.taken.items())
    return f"{curves.end:,.6g} {unit}{planned}; {taken}{_failed(reading)}"


def _failed(reading: Diagnosed) -> str:
    return f"; {clean(reading.failed, 200)}" if reading.failed else ""


def _one(reading: Diagnosed, sparks: bool) -> list[Line]:
    lines: list[Line] = [(f"{reading.name}: {_facts(reading)}", "dim")]
    if sparks:
        lines += _sparks(reading)
    lines += [(f"note: {clean(note, 600)}", "dim") for note in reading.notes]
    if len(reading.diagnosis):
        lines += [("", ""), ("Findings", "bold")]
    return lines + [_line(f) for f in reading.diagnosis]


def _many(overall: Diagnosis, ordered: Sequence[Diagnosed], sparks: bool) -> list[Line]:
    lines: list[Line] = []
    if len(overall):
        lines += [(f"Over all {count(len(ordered), 'training')}", "bold"), *map(_line, overall), ("", "")]
    lines.append((f"{count(len(ordered), 'training')}: {_tally(ordered)}", "bold"))
    width = min(max(len(r.name) for r in ordered[:MOST_LINES]), 40)
    for reading in ordered[:MOST_LINES]:
        curve = reading.curves.val_loss or reading.curves.train_loss or reading.curves.val_metric
        spark = f"  {sparkline(curve.y.tolist(), 16):<16}" if sparks and curve is not None else ""
        more = len([f for f in reading.diagnosis if f.severity != "good"]) - 1
        lines.append((
            f"  {reading.name:<{width}}{spark}  {_summary(reading)}" + (f" (+{more} more)" if more > 0 else ""),
            "" if reading.grade is None else STYLES[reading.grade],
        ))  # fmt: skip
    if len(ordered) > MOST_LINES:
        lines.append((f"  and {len(ordered) - MOST_LINES} more, none graver: --json has them all", "dim"))
    ways = dict.fromkeys(", ".join(f"{a} ← {clean(b, 60)}" for a, b in r.taken.items()) for r in ordered)
    lines += [(f"read: {way}", "dim") for way in list(ways)[:3]]
    if len(ways) > 3:
        lines.append((f"      and {len(ways) - 3} other ways", "dim"))
    lines += [(f"note: {clean(note, 600)}", "dim") for note in dict.fromkeys(n for r in ordered for n in r.notes)]
    return lines


def _summary(reading: Diagnosed, who: str = "it") -> str:
    """The gravest finding and how it failed, else what is good, in one line."""
    failed = clean(reading.failed, 200)
    if reading.worst is None and failed:
        return f"warning: {who} {failed}"
    said = reading.worst or next(iter(reading.diagnosis), None)
    if said is not None and failed:
        return f"{said.severity}: {clean(said.text, 300)} It {failed}"
    return SILENT if said is None else f"{said.severity}: {clean(said.text, 300)}"


def _said(reading: Diagnosed) -> str:
    """The gravest, without its grade."""
    return _summary(reading).partition(": ")[2]


def _line(finding: Finding) -> Line:
    return (
        f"  {finding.severity}: {clean(finding.text, 600)} [{finding.kind}, {finding.confidence:.0%} sure]",
        STYLES[finding.severity],
    )


def _sparks(reading: Diagnosed) -> list[Line]:
    lines: list[Line] = []
    series = {role: own for role, own in reading.curves.all().items() if len(own)}
    width = max((len(role) for role in series), default=0)
    for role, own in series.items():
        ends = f"{number(float(own.y[0]))} → {number(float(own.y[-1]))}"
        lines.append((f"  {role:<{width}}  {sparkline(own.y.tolist(), 40):<40}  {ends}", "cyan"))
    return lines


def _tally(readings: Sequence[Diagnosed]) -> str:
    counts = {s: sum(r.grade == s for r in readings) for s in SEVERITIES[:3]}
    counts["good"] = sum(r.grade is None and len(r.diagnosis) > 0 for r in readings)
    counts["silent"] = sum(r.grade is None and not len(r.diagnosis) for r in readings)
    return ", ".join(f"{n} {s}" for s, n in counts.items() if n)


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "severity": finding.severity,
        "confidence": finding.confidence,
        "text": finding.text,
        "action": list(finding.action),
        "tier": finding.tier,
        "since": finding.since,
        "numbers": dict(finding.numbers),
        "curve": finding.curve,
        "causes": list(finding.causes),
    }
