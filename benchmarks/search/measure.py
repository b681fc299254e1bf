"""From records to numbers: normalised regret, its interval, ranks, and the trainings needed to reach the best peer.

Normalised regret on a task: ``(value - best) / (median - best)``. ``best`` is the lowest value that any run there has
seen (or what the task itself knows), ``median`` that of the best values of random full trainings. So 0 is the best
known, and 1 what one random training brings. It moves when a run finds something better: compare within one report.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from search.records import Record

MARKS = (5, 10, 20, 30)
"""The numbers of full trainings at which a table shows the regret."""

SAMPLES = 2000
"""Resamples of the bootstrap."""

UNREACHED = 2.0
"""What counts for a quality that was never reached: this many times the budget."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A task's two fixed points: where regret is 0, and where it is 1."""

    best: float
    median: float


@dataclass(frozen=True, slots=True)
class Regrets:
    """What the records say.

    Args:
        scales: of each task.
        curves: task -> method -> regret (runs, trainings) after 1, 2, ... full trainings.
        bills: method -> the bills of its runs.
        budget: full trainings of a run.
        winners: task -> the configuration of the lowest value that any run has seen.
    """

    scales: Mapping[str, Scale]
    curves: Mapping[str, Mapping[str, np.ndarray]]
    bills: Mapping[str, list[Mapping[str, float]]]
    budget: int
    winners: Mapping[str, Mapping[str, object]]

    @property
    def tasks(self) -> list[str]:
        """The tasks' names."""
        return list(self.curves)

    def complete(self, runs: int = 1) -> list[str]:
        """The methods that have at least ``runs`` runs on every task, best mean regret first."""
        methods = {m for by_method in self.curves.values() for m in by_method}
        found = [m for m in methods if all(len(self.curves[t].get(m, ())) >= runs for t in self.curves)]
        return sorted(found, key=lambda m: self.mean(m).mean())

    def mean(self, method: str) -> np.ndarray:
        """The mean regret over runs, then over tasks: (trainings,)."""
        return np.mean([self.curves[t][method].mean(0) for t in self.curves], axis=0)

    def interval(self, method: str, seed: int = 0) -> np.ndarray:
        """The 95 % interval of :meth:`mean`, (2, trainings): tasks are drawn with replacement, and runs in each."""
        rng = np.random.default_rng(seed)
        drawn = []
        for _ in range(SAMPLES):
            chosen = rng.choice(len(self.tasks), len(self.tasks))
            parts = [self.curves[self.tasks[i]][method] for i in chosen]
            drawn.append(np.mean([p[rng.integers(len(p), size=len(p))].mean(0) for p in parts], axis=0))
        return np.quantile(drawn, [0.025, 0.975], axis=0)

    def ranks(self, methods: Collection[str]) -> dict[str, np.ndarray]:
        """Each method's rank among ``methods``, by the mean over runs, averaged over tasks: (trainings,); 1 is best."""
        of_tasks = [rankdata([self.curves[t][m].mean(0) for m in methods], axis=0) for t in self.curves]
        return dict(zip(methods, np.mean(of_tasks, axis=0), strict=True))

    def reach(self, method: str, peers: Collection[str]) -> dict[str, float]:
        """On each task the full trainings after which ``method`` is as good as the best of ``peers`` is at the end.

        Both by their mean over runs; infinite where it never is.
        """
        out = {}
        for task, by_method in self.curves.items():
            target = min(by_method[p].mean(0)[-1] for p in peers)
            there = np.flatnonzero(by_method[method].mean(0) <= target + 1e-12)
            out[task] = float(there[0] + 1) if len(there) else float("inf")
        return out

    def seconds(self, method: str) -> float:
        """CPU seconds of deciding for each training that was begun."""
        bills = self.bills[method]
        return sum(b["decide_cpu"] for b in bills) / sum(b["trainings"] for b in bills)


def regrets(records: Iterable[Record]) -> Regrets:
    """The regrets of all records.

    Raises:
        SystemExit: a task has neither random full trainings nor a median of its own, or the budgets differ.
    """
    by_task: dict[str, list[Record]] = {}
    for record in records:
        by_task.setdefault(record.task, []).append(record)
    budgets = {r.trials for group in by_task.values() for r in group}
    if len(budgets) != 1:
        raise SystemExit(
            f"The records have budgets of {sorted(budgets)} trainings: keep each budget in its own folder."
        )
    budget = budgets.pop()
    scales, curves, bills, winners = {}, {}, {}, {}
    for task, group in by_task.items():
        scales[task] = scale_of(group)
        winners[task] = min(group, key=lambda r: r.curve[-1]).winner
        curves[task] = {}
        for method in sorted({r.method for r in group}):
            mine = [r for r in group if r.method == method]
            curves[task][method] = np.array([_normalised(r, scales[task], budget) for r in mine])
            bills.setdefault(method, []).extend(r.bill for r in mine)
    return Regrets(scales, curves, bills, budget, winners)


def scale_of(group: Collection[Record]) -> Scale:
    """The fixed points of one task from all of its records."""
    known = next((r.reference for r in group if r.reference), None)
    if known:
        return Scale(*known)
    full = [value for r in group if r.method == "random" for value in r.full]
    if not full:
        task = next(iter(group)).task
        raise SystemExit(
            f"{task} has no random trainings to measure by: python -m search.run --method random --task {task}"
        )
    return Scale(min(float(r.curve[-1]) for r in group), float(np.median(full)))


def _normalised(record: Record, scale: Scale, budget: int) -> np.ndarray:
    """The regret after 1 .. ``budget`` full trainings; a run that ended early stays where it was."""
    at = np.minimum(np.arange(1, budget + 1) * record.epochs, len(record.curve)) - 1
    return (record.curve[at] - scale.best) / (scale.median - scale.best)


def geometric(reach: Mapping[str, float], budget: int) -> float:
    """The geometric mean of trainings needed; what was never reached counts as twice the budget."""
    return float(np.exp(np.mean(np.log(np.minimum(list(reach.values()), UNREACHED * budget)))))
