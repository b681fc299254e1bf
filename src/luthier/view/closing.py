"""The last words of a run on the terminal: the verdict, the configuration to keep, the evidence."""

from __future__ import annotations

from luthier.core.history import History
from luthier.core.summary import summarize
from luthier.view.story import clean, epochs, number, setting, spent_of, verdict


def closing(history: History) -> str:
    """The verdict, the best configuration with what differs from the default, and both scores on the fresh seeds; of a
    study that a mistake ended the verdict alone."""
    summary = summarize(history)
    if any(stage.fatal for stage in history.stages):
        return f"{verdict(history)}\n\nUsed {spent_of(history)}."
    lines = ["", verdict(history)]
    if summary.best_config is not None:
        lines += ["", f"Best configuration, trained for {epochs(summary.best_epochs or 0)}:"]
        default = summary.confirmation.default.config if summary.confirmation else {}
        width = max(len(clean(name, 40)) for name in summary.best_config)
        for name, value in summary.best_config.items():
            changed = name in default and default[name] != value
            note = f"   (default {setting(default[name])})" if changed else ""
            lines.append(f"  {clean(name, 40):<{width}}  {setting(value)}{note}")
    if (c := summary.confirmation) is not None:
        metric = clean(history.objective.metric)
        lines.append("")
        for label, arm in (("tuned", c.winner), ("default", c.default)):
            scores = ", ".join(number(x) for x in arm.scores)
            lines.append(f"  {label:<8} {metric} {number(arm.mean)} ± {number(arm.sd, like=arm.mean)}   ({scores})")
    lines += ["", f"Used {spent_of(history)}."]
    return "\n".join(lines)
