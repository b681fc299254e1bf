"""The report: one HTML file that explains a study and opens anywhere, from disk, with no network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from luthier.core import goals, words
from luthier.core.events import plain
from luthier.core.history import History, StageRecord
from luthier.core.params import Constant
from luthier.core.summary import Confirmation, Lesson, Summary, gain_parts, gain_text, in_points, summarize
from luthier.core.trial import Status, TrialRecord
from luthier.view import figures as fig
from luthier.view import ink, numbers, story
from luthier.view.findings import finding_of
from luthier.view.page import render, save

_MOST_ROWS = 390
_MOST_READ = 100
"""Trials whose curves are read for findings: the best, and those that were ended early."""
_DETAIL_BUDGET = 150_000
"""Characters for all tracebacks together, so that a study of failures stays a small file."""

Row = dict[str, Any]


def write_report(history: History, path: str | Path, lesson: Lesson | None = None) -> Path:
    """Write the report to ``path``, all or nothing.

    Args:
        history: the study.
        path: the file.
        lesson: what mattered and what to try next; left out where None.

    Returns:
        The path written.
    """
    return save(render_report(history, lesson), path)


def render_report(history: History, lesson: Lesson | None = None) -> str:
    """The report as HTML text."""
    summary = summarize(history)
    shelf = _Shelf()
    view = {
        "study": history.study,
        "goal": str(history.study.goals),
        "metric": history.objective.metric,
        "verdict": story.verdict(history),
        "tone": tone_of(history, summary),
        "finished": history.finished,
        "used": story.spent_of(history),
        "facts": facts_of(history, summary),
        "arms": _arms(history, summary),
        "paired": _shelve(shelf, history, "paired", "Scores of default and winner on each fresh seed, and their gain"),
        "path": _path(history, summary, shelf),
        "lesson": lesson,
        "importance": _importance(lesson, shelf),
        "stages": [_stage(history, stage, shelf) for stage in history.stages],
        "curves": _shelve(shelf, history, "curves", "Learning curves of all trials"),
        "pareto": _pareto(history, summary, shelf),
        "progress": _progress(history, shelf),
        "findings": _shelve(shelf, history, "findings", "A curve with a finding"),
        "together": _together(history, shelf, lesson),
        "sweeps": _shelve(shelf, history, "sweeps", "Score against this hyperparameter", lesson),
        "lineage": _shelve(shelf, history, "lineage", "Who goes on from whose weights"),
        "failures": story.failures(history),
        "more": [(m, "n") for m in history.study.goals.metrics[1:]],
        "winner": numbers.winner_word(history),
        "space": [(n, _range_of(p, history.asked_space[n]), _when_of(p)) for n, p in history.space.items()],
        **_rows(history, summary),
    }
    texts = fig.hover_texts(history)
    shown = {i for spec in shelf.specs for t in spec["data"] for i in t.get("customdata") or () if i is not None}
    data = {"figures": shelf.specs, "trials": {i: texts[i] for i in sorted(shown)}}
    return render("report.html.j2", {**view, "colors": ink.COLORS}, data)


def _path(history: History, summary: Summary, shelf: _Shelf) -> Row | None:
    """The way from the default to the winner: the figure, and the same in words."""
    if summary.ablation is None or len(summary.ablation.steps) < 2:
        return None
    points, many = in_points(history), len(summary.ablation.seeds)
    rows = [
        {
            "names": ", ".join(step.names),
            "gain": gain_text(step.gain, step.interval, points),
            "carries": step.carries,
        }
        for step in summary.ablation.steps
    ]
    figure = shelf.put(fig.steps_figure(numbers.steps(history, summary.ablation)), "Gain of each change")
    return {"rows": rows, "figure": figure, "seeds": words.count(many, "fresh seed")}


def _pareto(history: History, summary: Summary, shelf: _Shelf) -> Row | None:
    """The Pareto front: the figures, and its configurations with all their scores."""
    if not summary.pareto:
        return None
    names = story.varied(history)
    rows = [
        {
            "trial": p.trial,
            "values": [{**p.limits, **p.scores}[n] for n in history.study.goals.metrics],
            "config": story.short(p.config, names, limit=12),
            "epoch": p.epoch,
        }
        for p in summary.pareto
    ]
    figures = _shelve(shelf, history, "pareto", "Objectives of all trials against each other, the Pareto front marked")
    return {
        "rows": rows,
        "figures": figures,
        "heads": [(m, "n") for m in history.study.goals.metrics],
        "feasible": summary.pareto[0].feasible,
    }


def _importance(lesson: Lesson | None, shelf: _Shelf) -> Row | None:
    if lesson is None or not lesson.importance:
        return None
    return shelf.put(fig.importance_figure(lesson.importance), "Importance of each hyperparameter")


def _progress(history: History, shelf: _Shelf) -> list[Row]:
    """The incumbent over epochs and over time."""
    if not _scored(history):
        return []
    told = (("progress", "Best score over the epochs spent"), ("time", "Best score over time"))
    return [row for name, label in told for row in _shelve(shelf, history, name, label)]


def _together(history: History, shelf: _Shelf, lesson: Lesson | None) -> dict[str, list[Row]]:
    """The pictures of several hyperparameters at once."""
    return {
        "all": _shelve(shelf, history, "parallel", "All hyperparameters and the score of every trial", lesson),
        "two": _shelve(shelf, history, "interaction", "Two hyperparameters against each other", lesson),
    }


class _Shelf:
    """The figures of the page in the order in which it shows them."""

    def __init__(self) -> None:
        self.specs: list[ink.Spec] = []

    def put(self, spec: ink.Spec, label: str) -> Row:
        self.specs.append(spec)
        meta = spec["layout"].get("meta", {})
        return {
            "id": len(self.specs) - 1,
            "label": label,
            "height": spec["layout"]["height"],
            "width": meta.get("width"),
            "note": meta.get("note", ""),
        }


def _shelve(shelf: _Shelf, history: History, name: str, label: str, lesson: Lesson | None = None) -> list[Row]:
    specs = fig.FIGURES[name](history, lesson)
    return [shelf.put(s, label if len(specs) == 1 else f"{label}: {_title(s)}") for s in specs]


def _title(spec: ink.Spec) -> str:
    return str(Markup(spec["layout"]["title"]["text"]).striptags())


def _scored(history: History) -> bool:
    return any(history.score(t) is not None for t in history.trained())


def tone_of(history: History, summary: Summary) -> str:
    """``good`` for a proven gain, ``bad`` for a study that failed, else ``plain``."""
    if any(s.fatal for s in history.stages) or (summary.best_score is None and summary.failed):
        return "bad"
    if summary.feasible is False:
        return "bad"
    return "good" if summary.confirmation and summary.confirmation.proven else "plain"


def facts_of(history: History, summary: Summary) -> list[tuple[str, str, str]]:
    """The key figures: label, value, and a small print."""
    c, metric = summary.confirmation, history.objective.metric
    facts = []
    if summary.best_score is not None:
        kept = "tuned" if c and c.better else "the default, kept" if c else f"trial {summary.best_trial}"
        note = f"{kept}, mean of {len(c.seeds)} fresh seeds" if c else f"{kept}, best of many"
        facts.append((f"best {story.clean(metric, 24)}", story.number(summary.best_score), note))
    if c:
        scale = max(abs(story.real(c.winner.mean)), abs(story.real(c.default.mean)))
        mean = story.number(story.real(c.default.mean), like=scale)
        facts.append(("strong default", mean, "mean, same seeds"))
        gain, interval = gain_parts(story.real(c.gain), story.interval_of(c), in_points(history))
        facts.append(("gain", gain, f"95 % interval {interval}"))
    budget = history.study.budget
    bound = (
        f"of {budget.epochs:,}" if budget.epochs else f"of {story.duration(budget.seconds)}" if budget.seconds else ""
    )
    facts.append(
        ("epochs used", words.epochs(history.spent).split()[0], f"{bound} in {story.duration(history.elapsed)}")
    )
    if summary.feasible is not None:
        word = "met" if summary.feasible else "broken"
        facts.append(("constraints", word, story.clean(" and ".join(map(str, history.study.constraints)), 80)))
    if summary.pareto:
        facts.append(("Pareto front", f"{len(summary.pareto)}", "configurations"))
    probes = len(history.trials) - summary.trials
    running = f"{len(history.running)} running" if history.running else ""
    facts.append(
        ("trials", f"{summary.trials:,}", ", ".join(filter(None, (f"and {probes} probes" if probes else "", running))))
    )
    facts.append(("failed", f"{summary.failed:,}", "reasons below" if summary.failed else ""))
    return [(a, b, c) for a, b, c in facts]


def _arms(history: History, summary: Summary) -> dict[str, Any] | None:
    """The configurations side by side: every name with its values and whether they differ."""
    if summary.best_config is None:
        return None
    c = summary.confirmation
    base: Mapping[str, Any] | None = c.default.config if c else None
    best = c.winner.config if c else summary.best_config
    names = dict.fromkeys([*best, *(base or {})])
    rows = [
        {
            "name": n,
            "default": base[n] if base and n in base else None,
            "in_default": bool(base and n in base),
            "winner": best.get(n),
            "in_winner": n in best,
            "changed": base is not None and (n in base, base.get(n)) != (n in best, best.get(n)),
            "range": _range_of(history.space[n], history.asked_space[n]) if n in history.space else "",
        }
        for n in names
    ]
    changed = [r for r in rows if r["changed"]]
    return {
        "compared": base is not None,
        "ruling": _ruling(c) if c else "",
        "changed": changed if base is not None else rows,
        "same": [r for r in rows if not r["changed"]] if base is not None else [],
        "json": json.dumps(plain(dict(summary.best_config)), indent=2, ensure_ascii=False),
    }


def _ruling(c: Confirmation) -> str:
    if c.by_constraint:
        broken, kept = ("default", "winner") if c.better else ("winner", "default")
        return f"The {broken} breaks a constraint, so the {kept} is kept."
    if not c.better:
        return "The difference is within the noise, so the default is kept."
    if c.proven:
        return "The whole interval of the gain lies above zero: the winner is kept."
    return f"The winner is kept as probably better (P = {story.real(c.probability):.2f}); not yet proven."


def _stage(history: History, stage: StageRecord, shelf: _Shelf) -> Row:
    trials = [history.trials[i] for i in stage.trials]
    tests = [shelf.put(fig.lr_range_figure(t), "Learning-rate range test") for t in numbers.lr_ranges(history, stage)]
    return {
        "record": stage,
        "state": "skipped" if stage.skipped else "open" if stage.open else "failed" if stage.fatal else "closed",
        "trained": sum(t.probe is None for t in trials),
        "probes": sum(t.probe is not None for t in trials),
        "spent": sum(t.spent for t in trials),
        "settled": [(n, story.setting(v)) for n, v in stage.settled.items()],
        "figures": tests,
    }


def _rows(history: History, summary: Summary) -> Row:
    """The table of trials; of very many the best, the failed and the latest."""
    trials = list(history.trials)
    left_out = 0
    if len(trials) > _MOST_ROWS:
        third = _MOST_ROWS // 3
        keep = {t.id for t in story.ranked(history)[:third]} | {t.id for t in trials[-third:]}
        keep |= {t.id for t in trials if t.status is Status.FAILED and t.id not in keep and len(keep) < _MOST_ROWS}
        left_out = len(trials) - len(keep)
        trials = [t for t in trials if t.id in keep]
    names, role = story.varied(history), numbers.roles(history)
    tail = max(300, min(4_000, _DETAIL_BUDGET // max(1, summary.failed)))
    stopped = [t for t in trials if t.status is Status.STOPPED]
    read = {t.id for t in [*stopped, *story.ranked(history)][:_MOST_READ]}
    rows = [_row(history, t, names, role.get(t.id, "probe"), tail, t.id in read) for t in trials]
    return {"trials": rows, "left_out": left_out}


def _row(history: History, t: TrialRecord, names: Sequence[str], role: str, tail: int, read: bool) -> Row:
    score = history.score(t)
    finding = finding_of(history, t) if read else None
    detail = t.failure.detail if t.failure else ""
    return {
        "id": t.id,
        "role": role,
        "stage": story.clean(t.stage or "", 40),
        "status": f"{t.probe} probe" if t.probe else t.status.value,
        "state": t.status.value,
        "score": score,
        "more": [_value_of(history, t, m) for m in history.study.goals.metrics[1:]],
        "broken": t.violation > 0,
        "rank": "" if score is None else repr(score),
        "epoch": t.epoch,
        "horizon": t.horizon,
        "spent": t.spent,
        "config": story.short(t.config, names, limit=12),
        "why": story.clean(t.why, 300),
        "stop": story.clean(t.stop_why or "", 300),
        "finding": story.told(finding) if finding is not None else "",
        "kind": t.failure.kind if t.failure else "",
        "reason": story.clean(t.failure.reason, 300) if t.failure else "",
        "detail": detail if len(detail) <= tail else "…" + detail[-tail:],
        "curve": story.sparkline([v for _, v in t.curve(history.objective.metric)], 12),
    }


def _value_of(history: History, t: TrialRecord, metric: str) -> float | None:
    """A further metric of the study's goals at the epoch that counts."""
    return None if t.failure else goals.values(history.study.goals, t).get(metric)


def _range_of(param: Any, asked: Any) -> str:
    if param != asked:
        return f"{_range_of(param, param)} (asked for: {_range_of(asked, asked)})"
    if isinstance(param, Constant):
        return f"held at {story.setting(param.value)}"
    if hasattr(param, "choices"):
        return " · ".join(story.setting(c) for c in param.choices)
    return f"{story.setting(param.low)} to {story.setting(param.high)}{', log' if param.log else ''}"


def _when_of(param: Any) -> str:
    return ", ".join(f"{n} is {' or '.join(map(story.setting, vs))}" for n, vs in (param.when or {}).items())
