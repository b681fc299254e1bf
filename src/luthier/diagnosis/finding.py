"""What a diagnosis says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["critical", "warning", "hint", "good"]
"""``critical``: nothing else is worth tuning before it is mended. ``good``: what is well, and needs no hand."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the curves of a training say.

    Args:
        kind: a rule's name, such as ``"overfitting"``; see :data:`luthier.diagnosis.KINDS`.
        severity: how much it matters now.
        confidence: the part of such findings that are true, in [0, 1], as measured on real and injected faults.
        text: one sentence with the numbers.
        action: what to try, most promising first, as sentences.
        tier: where the cause lies: 0 the pipeline, 1 optimization, 2 schedule and length, 3 capacity,
            4 regularization, 5 advanced.
        since: the epoch or step at which it began, as the log calls it; None where it holds for the whole training.
        numbers: the evidence.
        curve: the series that it speaks of.
        causes: kinds that explain this one, where they were found too: advice is theirs, not this one's.
    """

    kind: str
    severity: Severity
    confidence: float
    text: str
    action: tuple[str, ...]
    tier: int
    since: float | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    curve: str = "val_loss"
    causes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The findings of one training, or of several, in the order in which to act on them."""

    findings: tuple[Finding, ...]
    name: str = ""

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    @property
    def first(self) -> Finding | None:
        """What to act on; None where there is nothing."""
        return next((finding for finding in self.findings if finding.severity != "good"), None)

    def __str__(self) -> str:
        """The findings in the order to act on them, each with what to try next."""
        title = f"{self.name}:\n" if self.name else ""
        if not self.findings:
            return f"{title}Nothing can be said: the curves are too short, or too little of them is known."
        return title + "\n".join(_told(k, one) for k, one in enumerate(self.findings, 1))

    def has(self, kind: str) -> bool:
        """Whether ``kind`` was found."""
        return any(finding.kind == kind for finding in self.findings)


def _told(number: int, one: Finding) -> str:
    since = "" if one.since is None else f", since {one.since:g}"
    lines = [f"{number}. {one.severity.upper()} {one.kind}{since} (confidence {one.confidence:.0%})", f"   {one.text}"]
    if one.causes:
        lines.append(f"   Explained by {', '.join(one.causes)}: mend that first.")
    elif not one.action and one.severity != "good":
        lines.append("   Mend what stands above first.")
    lines += [f"   {'->' if k == 0 else 'or'} {step}" for k, step in enumerate(one.action)]
    return "\n".join(lines)
