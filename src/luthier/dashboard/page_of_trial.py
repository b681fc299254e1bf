"""One trial for the browser, or two beside each other: configuration, curves, findings, the end of its log."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.core import words
from luthier.core.errors import UserError
from luthier.core.history import History
from luthier.core.lineage import lineage
from luthier.core.params import Constant
from luthier.diagnosis import Diagnosis, diagnose_curves, from_trial
from luthier.playbook.defaults import strong_default
from luthier.run.worker import MARK
from luthier.view import figures, story
from luthier.view.panels import compared, training_panels

Json = dict[str, Any]

READ = 4_000_000
"""Bytes at the end of a worker's log that are searched for a trial."""
SHOWN = 16_000
"""Characters of a trial's log that are shown."""
_MARK = re.compile(f"^{MARK.format(trial='([0-9]+)', start='[0-9]+', until='[0-9]+')}$".encode(), re.MULTILINE)


def trial_page(history: History, number: int, files: Path | None) -> Json:
    """Everything of one trial.

    Raises:
        UserError: there is no such trial.
    """
    t = trial_of(history, number)
    found = _findings(history, number)
    base = strong_default(history)
    curves = from_trial(history, t)
    panels = training_panels(curves, list(found), _names(history)) if t.reports else []
    parts = lineage(history, t.id) if t.inherited is not None else ()
    return {
        "id": t.id,
        "seed": t.seed,
        "attempts": t.attempts,
        "spent": t.spent,
        "scores": story.scores(history, t) if t.probe is None else "",
        "metrics": {k: story.number(v) for k, v in t.metrics.items()},
        "config": [
            {
                "name": n,
                "value": story.setting(v),
                "default": story.setting(base[n]) if n in base else None,
                "changed": n not in base or base[n] != v,
                "constant": isinstance(history.space.get(n), Constant),
            }
            for n, v in t.config.items()
        ],
        "notes": {str(k): story.clean(v, 120) for k, v in t.notes.items()},
        "findings": [
            {
                "kind": f.kind.replace("_", " "),
                "severity": f.severity,
                "confidence": f.confidence,
                "since": f.since,
                "text": story.clean(f.text, 600),
                "action": [story.clean(a, 400) for a in f.action],
                "curve": f.curve,
            }
            for f in found
        ],
        "figures": [figures.training_figure(p) for p in panels],
        "failure": {"kind": t.failure.kind, "reason": t.failure.reason, "detail": t.failure.detail}
        if t.failure
        else None,
        "lineage": [
            {"trial": s.trial, "from": s.from_epoch, "until": s.until_epoch, "config": story.short(s.config)}
            for s in parts
        ],
        "log": log_of(files, t.id),
    }


def compared_page(history: History, first: int, second: int) -> Json:
    """Two trials' configurations side by side, and their curves in one panel a metric.

    Raises:
        UserError: there is no such trial.
    """
    trials = [trial_of(history, i) for i in (first, second)]
    names = dict.fromkeys(n for t in trials for n in t.config)

    def told(config: Mapping[str, Any], name: str) -> str:
        return story.setting(config[name]) if name in config else "–"

    rows = [{"name": n, "values": [told(t.config, n) for t in trials]} for n in names]
    return {
        "ids": [first, second],
        "scores": [story.scores(history, t) for t in trials],
        "config": [{**r, "differs": r["values"][0] != r["values"][1]} for r in rows],
        "figures": [figures.training_figure(p) for p in compared(history, first, second)],
    }


def trial_of(history: History, number: int) -> Any:
    """Trial ``number``.

    Raises:
        UserError: there is none.
    """
    if not 0 <= number < len(history.trials):
        raise UserError(f"There is no trial {number}.", f"The study has {words.count(len(history.trials), 'trial')}.")
    return history.trials[number]


def _findings(history: History, number: int) -> Diagnosis:
    trial = history.trials[number]
    if trial.probe is not None or not trial.reports:
        return Diagnosis(())
    curves = from_trial(history, trial)
    if curves.train_loss is None and curves.val_loss is None and curves.val_metric is None:
        return Diagnosis(())
    return diagnose_curves(curves)


def _names(history: History) -> dict[str, str]:
    """Under which name the study reports the metric that its curves are judged by."""
    metric = history.objective.metric
    return {} if "loss" in metric.lower() else {"val_metric": metric}


def log_of(files: Path | None, trial: int) -> str:
    """The end of what a trial printed, from the logs of the workers that trained it and, where it ran a script, that of
    its output; empty where nothing is kept."""
    if files is None:
        return ""
    parts = []
    for path in sorted((files / "logs").glob("worker-*.log"), key=_whose):
        text = _end(path)
        marks = list(_MARK.finditer(text))
        for mark, following in zip(marks, [*marks[1:], None]):
            if int(mark[1]) == trial:
                parts.append(text[mark.start() : following.start() if following else len(text)])
    parts.append(_end(files / "trials" / f"trial-{trial:05d}" / "output.log"))
    told = b"".join(parts).decode("utf-8", "replace")
    lines = [story.clean(line, 500) for line in told[-SHOWN:].splitlines()]
    return "\n".join(lines)


def _whose(log: Path) -> list[int]:
    """The numbers of the driver, where it has one, and of the worker: the drivers came in this order."""
    numbers = [int(n) for n in re.findall(r"\d+", log.name)]
    return numbers if len(numbers) > 1 else [0, *numbers]


def _end(path: Path) -> bytes:
    """The end of a file; nothing of what is no file of its own."""
    if not path.is_file() or path.is_symlink():
        return b""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - READ))
        return file.read(READ)
