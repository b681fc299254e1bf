"""The last words of a run on the terminal: the verdict, the configuration to keep, the evidence."""

from __future__ import annotations

from luthier.core.history import History
from luthier.core.summary import exploded_text, gain_text, in_points, summarize
from luthier.core.words import epochs
from luthier.view.story import clean, number, pareto_lines, scheduled, setting, spent_of, verdict

OTHERS = {"winner": "first choice"}
"""What the search's own winner is called once a challenger has taken its place."""


def closing(history: History) -> str:
    """The verdict, the best configuration with what differs from the default, and both scores on the fresh seeds; of a
    study that a mistake ended the verdict alone."""
    summary = summarize(history)
    if any(stage.fatal for stage in history.stages):
        return f"{verdict(history)}\n\nUsed {spent_of(history)}."
    lines = ["", verdict(history)]
    if summary.best_config is not None:
        what = "The last configuration of the best training" if len(summary.schedule) > 1 else "Best configuration"
        counts = "; the best of them counts" if history.objective.reduce == "best" and summary.best_epochs != 1 else ""
        lines += ["", f"{what}, trained for {epochs(summary.best_epochs or 0)}{counts}:"]
        default = summary.confirmation.default.config if summary.confirmation else {}
        width = max(len(clean(name, 40)) for name in summary.best_config)
        for name, value in summary.best_config.items():
            changed = name in default and default[name] != value
            note = f"   (default {setting(default[name])})" if changed else ""
            lines.append(f"  {clean(name, 40):<{width}}  {setting(value)}{note}")
    if len(summary.schedule) > 1:
        lines += ["", "The schedule that led to it:", *(f"  {line}" for line in scheduled(summary.schedule))]
    lines += pareto_lines(history)
    if (c := summary.confirmation) is not None:
        metric = clean(history.objective.metric)
        lines.append("")
        arms = [
            ("tuned", c.winner),
            ("default", c.default),
            *((OTHERS.get(arm.label, arm.label), arm) for arm in c.challengers),
        ]
        width = max(len(label) for label, _ in arms)
        for label, arm in arms:
            scores = ", ".join(number(x) for x in arm.scores)
            failed = f", {arm.failed} failed" if arm.failed else ""
            spread = f"{number(arm.mean)} ± {number(arm.sd, like=arm.mean)}"
            lines.append(f"  {label:<{width}}  {metric} {spread}   ({scores}{failed})")
    if summary.ablation is not None and len(summary.ablation.steps) > 1:
        points = in_points(history)
        lines += ["", "From the default to it, change by change:"]
        for step in summary.ablation.steps:
            lines.append(f"  {', '.join(map(clean, step.names))}  {gain_text(step.gain, step.interval, points)}")
    if (lost := exploded_text(history)) is not None:
        lines += ["", f"{lost}: lower the upper end of the learning rate's range, or clip gradients."]
    lines += ["", f"Used {spent_of(history)}."]
    return "\n".join(lines)
