"""A study in words: one sentence of verdict, the whole story for a terminal, and how numbers are written everywhere."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from luthier.core import goals
from luthier.core.history import History, RangeRecord, StageRecord
from luthier.core.lineage import Segment
from luthier.core.summary import (
    Confirmation,
    Lesson,
    Summary,
    carried_text,
    gain_text,
    in_points,
    scored,
    seeds_text,
    summarize,
)
from luthier.core.trial import Status, TrialRecord
from luthier.core.words import count, epochs
from luthier.diagnosis import Finding
from luthier.view.findings import finding_of

TOLD = 0.005
"""The least importance that is told: what rounds to nothing is left out."""
_BLOCKS = "▁▂▃▄▅▆▇█"
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.")
MOST = 8
"""Trials whose findings are told in the story."""
ENOUGH = 10
"""Full trainings of the smallest plan that tunes the rate, the schedule and something more."""
ON_FRONT = 12
"""Configurations of the Pareto front that are listed."""
LOOKED_AT = 40
"""Trials that are read for it: those that were ended early, then the best."""
DRAWN, CURVES = 12, 6
"""Characters of a curve beside a configuration, and metrics of the best trial whose curves are drawn."""
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


# -- how things are written --------------------------------------------------------------------------------------------


def clean(text: object, limit: int = 240) -> str:
    """``text`` on one line without control characters: what users and tracebacks say must not steer a terminal."""
    line = " ".join(_CONTROLS.sub(" ", _ESCAPES.sub("", str(text))).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def real(value: Any) -> float:
    """``value`` as a float; what is none (the log writes ``"nan"`` as text) becomes NaN."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def number(value: float | None, *, like: float | None = None, sign: bool = False) -> str:
    """A score in about four telling digits, with as many decimals as ``like`` would get."""
    if value is None or not math.isfinite(value):
        return "–" if value is None else repr(float(value))
    size = abs(value if like is None or not math.isfinite(like) else like)
    if size == 0 or 0.01 <= size < 10:
        text = f"{value:.4f}"
    elif 10 <= size < 100_000:
        text = f"{value:,.{4 - len(str(int(size)))}f}" if size < 1000 else f"{value:,.1f}"
    else:
        text = f"{value:.4g}"
    return f"+{text}" if sign and value >= 0 else text.replace("-", "−") if sign else text


def setting(value: object) -> str:
    """A hyperparameter's value, short."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and 10 <= abs(value) < 1e6 else f"{value:.3g}"
    return clean(value, 60)


def scheduled(segments: Sequence[Segment]) -> list[str]:
    """A schedule on one line a segment: the epochs, then what differs from segment to segment."""
    names = [n for n in segments[0].config if len({repr(s.config.get(n)) for s in segments}) > 1]
    width = max(len(f"{s.from_epoch + 1}–{s.until_epoch}") for s in segments)
    return [f"epochs {f'{s.from_epoch + 1}–{s.until_epoch}':>{width}}  {short(s.config, names)}" for s in segments]


def short(config: Mapping[str, Any], names: Iterable[str] | None = None, limit: int = 6) -> str:
    """``name=value`` for the first ``limit`` of ``names`` that ``config`` has."""
    pairs = [(n, config[n]) for n in (config if names is None else names) if n in config]
    more = f", +{len(pairs) - limit} more" if len(pairs) > limit else ""
    return ", ".join(f"{clean(n, 40)}={setting(v)}" for n, v in pairs[:limit]) + more


def varied(history: History) -> tuple[str, ...]:
    """The hyperparameters that took more than one value over the trials so far, in the order of the space."""
    seen: dict[str, set[str]] = {name: set() for name in history.space}
    for trial in history.trained():
        for name in history.space:
            seen[name].add(repr(trial.config[name]) if name in trial.config else "absent")
    return tuple(name for name, values in seen.items() if len(values) > 1) or history.space.dims


def duration(seconds: float) -> str:
    """``42s``, ``4m12s``, ``2h05m``."""
    whole = round(seconds) if math.isfinite(seconds) else 0
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m{whole % 60:02d}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def sparkline(values: Sequence[float], width: int = 20) -> str:
    """A curve in block characters, at most ``width`` of them; what is not finite shows as ``×``."""
    if len(values) > width > 0:
        values = [values[(i + 1) * len(values) // width - 1] for i in range(width)]
    finite = [v for v in values if math.isfinite(v)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    span = high - low
    if not span or not math.isfinite(span):
        return "".join("▄" if math.isfinite(v) else "×" for v in values)
    return "".join(_BLOCKS[min(int((v - low) / span * 8), 7)] if math.isfinite(v) else "×" for v in values)


# -- what the study says -----------------------------------------------------------------------------------------------


def verdict(history: History) -> str:
    """The study's answer so far in one sentence."""
    summary = summarize(history)
    metric = clean(history.objective.metric)
    fatal = next((s for s in history.stages if s.fatal), None)
    if fatal:
        said = clean(fatal.verdict or fatal.because, 600)
        return f"{said} (The study ended at the stage “{clean(fatal.name)}”; no tuning mends this.)"
    if summary.confirmation:
        lead = _confirmed(metric, history, summary, summary.confirmation)
        traded = f"{count(len(summary.pareto), 'configuration')} on the Pareto front." if summary.pareto else ""
        return " ".join(filter(None, (lead, traded, _infeasible(history, summary))))
    if summary.best_score is None:
        return " ".join(filter(None, (_unscored(history, summary, metric), _untried(history))))
    many = scored(history)
    which = f"trial {summary.best_trial}, "
    which += "the only one with a score" if many == 1 else f"best of {many:,}"
    caution = "an optimistic figure until it is repeated on fresh seeds"
    lead = f"Best {metric} {number(summary.best_score)} ({which}: {caution})."
    return " ".join(filter(None, (lead, _traded(history, summary), _infeasible(history, summary), _untried(history))))


def _untried(history: History) -> str:
    """That a finished study could afford no other configuration than the first, and what it would take."""
    tried = {repr(sorted(t.config.items())) for t in history.trained()}
    short = any(s.numbers.get("unaffordable") for s in history.stages)
    if not (history.finished and short and len(tried) < 2):
        return ""
    length, budget = history.study.max_epochs, history.study.budget
    one = history.pace().takes(length)
    costs = f"take {duration(ENOUGH * one)} here" if budget.seconds else f"are {epochs(ENOUGH * length)}"
    probed = math.ceil(sum(t.spent for t in history.trials if t.probe is not None))
    what = "another configuration" if tried else "a training"
    needed = f"{ENOUGH} trainings of {epochs(length)} {costs}"
    if probed and not budget.seconds:
        needed += f" beside the {probed:,} of the checks"
    return f"Nothing was tuned: the budget has no room for {what}. {needed}; give it at least that."


def _traded(history: History, summary: Summary) -> str:
    """What several objectives found, in a sentence."""
    if not summary.pareto:
        return ""
    names = " and ".join(clean(o.metric, 40) for o in history.study.goals.objectives)
    many = len(summary.pareto)
    if many == 1:
        return f"It is the best in {names} at once."
    return f"{many} configurations trade {names}; of those this one is the best in {clean(history.objective.metric)}."


def _infeasible(history: History, summary: Summary) -> str:
    """That the kept configuration breaks a constraint, in a sentence."""
    if summary.feasible is not False:
        return ""
    told = _broken(history, summary.values) or " and ".join(clean(c) for c in history.study.constraints)
    none = all(t.violation for t in history.trained() if history.score(t) is not None)
    return f"It is infeasible: {told}" + ("; no trial meets the constraints." if none else ".")


def _broken(history: History, values: Mapping[str, float]) -> str:
    """``latency_ms is 31.2, not <= 20`` for each constraint that ``values`` break."""
    return " and ".join(
        f"{clean(c.metric, 40)} is {number(values[c.metric])}, not {'<=' if c.upper else '>='} {c.bound:.6g}"
        for c in history.study.constraints
        if c.metric in values and c.excess(values[c.metric]) > 0
    )


def scores(history: History, trial: TrialRecord) -> str:
    """A trial's score with its metric's name; of several objectives all, and which constraint it breaks."""
    names = dict.fromkeys([history.objective.metric])
    values: Mapping[str, float] = {}
    if history.study.also or history.study.constraints:
        values = goals.values(history.study.goals, trial) if trial.failure is None else {}
        names |= dict.fromkeys(o.metric for o in history.study.also)
    first = history.score(trial)
    told = ", ".join(
        f"{clean(n, 40)} {number(first if n == history.objective.metric else values.get(n))}" for n in names
    )
    broken = _broken(history, values)
    return f"{told}; infeasible: {broken}" if broken else told


def gain_of(history: History, c: Confirmation) -> str:
    """The gain over the default with its interval and seeds, in percentage points where the metric is a share."""
    return gain_text(real(c.gain), interval_of(c), in_points(history), seeds_text(len(c.seeds)))


def interval_of(c: Confirmation) -> tuple[float, float]:
    """The interval's ends; NaN for what the log does not have."""
    low, high = (real(x) for x in (*c.interval, math.nan, math.nan)[:2])
    return low, high


def _confirmed(metric: str, history: History, summary: Summary, c: Confirmation) -> str:
    new, old = real(c.winner.mean), real(c.default.mean)
    scale = max(abs(new), abs(old))
    tuned = f"{metric} {number(new, like=scale)} ± {number(real(c.winner.sd), like=scale)}"
    default = f"{number(old, like=scale)} ± {number(real(c.default.sd), like=scale)}"
    gain = gain_of(history, c)
    if c.by_constraint and c.better:
        return (
            f"Tuned configuration reaches {tuned} within the constraints; the strong default breaks them at {default}."
        )
    if c.by_constraint:
        return f"Tuned configuration reaches {tuned} but breaks a constraint; the default with {default} is kept."
    if c.better:
        caution = "" if c.proven else f"; kept as probably better (P = {real(c.probability):.2f}), not yet proven"
        # A lower loss is a positive gain; only then does the sign need a word.
        change = f"a gain of {gain}" if history.objective.minimize else gain
        told = carried_text(summary.ablation) if summary.ablation and c.proven else ""
        carried = f"; {told}" if told else ""
        return (
            f"Tuned configuration reaches {tuned} against {default} for the strong default: {change}{carried}{caution}."
        )
    return (
        f"Tuned configuration reaches {tuned} against {default}, no better than the strong default beyond noise: "
        f"a gain of {gain}; the default is kept."
    )


def _unscored(history: History, summary: Summary, metric: str) -> str:
    if not len(history.trials):
        return "Nothing has been trained yet."
    if summary.failed and summary.failed == summary.trials:
        reason, ids = failures(history)[0]
        return f"No trial has a score: all {summary.trials} failed ({len(ids)} of them: {reason})."
    parts = [f"{n} {w}" for n, w in ((len(history.running), "running"), (summary.failed, "failed")) if n]
    return f"No trial has reported {metric} yet" + (f" ({', '.join(parts)})." if parts else ".")


def failures(history: History) -> list[tuple[str, tuple[int, ...]]]:
    """Each reason for failing and the trials that gave it, most frequent first."""
    groups: dict[str, list[int]] = {}
    for trial in history.trials:
        if trial.failure is not None:
            reason = f"{trial.failure.kind}: {clean(trial.failure.reason)}"
            groups.setdefault(reason, []).append(trial.id)
    return sorted(((r, tuple(ids)) for r, ids in groups.items()), key=lambda g: (-len(g[1]), g[1]))


def ranked(history: History) -> list[TrialRecord]:
    """The trials that have a score, best first."""
    scored = [t for t in history.trained() if math.isfinite(history.final_loss(t))]
    return sorted(scored, key=history.final_loss)


def distinct(trials: Sequence[TrialRecord]) -> list[tuple[TrialRecord, int]]:
    """The first trial of each configuration, in the order given, with how many of the trials have it."""
    groups: dict[str, list[TrialRecord]] = {}
    for trial in trials:
        groups.setdefault(repr(sorted(trial.config.items())), []).append(trial)
    return [(group[0], len(group)) for group in groups.values()]


def spent_of(history: History) -> str:
    """What was used of what may be used: ``612 of 1,200 epochs, 4m12s``."""
    budget, parts = history.study.budget, []
    used = epochs(history.spent)
    parts.append(f"{used.split()[0]} of {epochs(budget.epochs)}" if budget.epochs else used)
    elapsed = duration(history.elapsed)
    parts.append(f"{elapsed} of {duration(budget.seconds)}" if budget.seconds else elapsed)
    return ", ".join(parts)


def tell(history: History, lesson: Lesson | None = None) -> str:
    """The whole story for a terminal: what was asked, stage by stage, the best, findings, the failed, what runs, what
    is left, and with a ``lesson`` what mattered and what to try next. A mistake that ended it comes first."""
    study = history.study
    trained = list(history.trained())
    fatal = any(s.fatal for s in history.stages)
    lines = [verdict(history), ""] if fatal else []
    lines += [
        f"Study {clean(study.name)}: {clean(study.strategy)} strategy, {clean(study.goals)}, "
        f"up to {epochs(study.max_epochs)} a trial, seed {study.seed}",
        f"Used {spent_of(history)}; {count(len(trained), 'trial')}",
    ]
    if not fatal:
        lines += ["", verdict(history)]
    if history.stages:
        lines += ["", "Stages"]
        for i, stage in enumerate(history.stages, 1):
            lines += _stage_lines(history, i, stage)
    if history.ranges:
        lines += ["", "Ranges", *map(_range_line, history.ranges)]
    best = distinct(ranked(history))[:5]
    if best:
        names = varied(history)
        lines += ["", f"Best {count(len(best), 'configuration')}" if len(best) > 1 else "Best configuration"]
        drawn = [sparkline([v for _, v in t.curve(history.objective.metric)], DRAWN) for t, _ in best]
        wide = max(map(len, drawn))
        for (t, runs), curve in zip(best, drawn):
            more = f"  (the best of {runs} trials of it)" if runs > 1 else ""
            own = f"{curve:<{wide}}  " if wide > 1 else ""
            lines.append(f"  {t.id:>4}  {_told_score(history, t):>9}  {own}{short(t.config, names, limit=8)}{more}")
        lines += _curve_lines(history, best[0][0])
    schedule = summarize(history).schedule
    if len(schedule) > 1:
        lines += ["", f"The schedule that trained trial {schedule[-1].trial}"]
        lines += [f"  {line}" for line in scheduled(schedule)]
    lines += pareto_lines(history)
    noted = notable(history)
    if noted:
        lines += ["", "Findings"]
        lines += [f"  {trial.id:>4}  {told(finding)}" for trial, finding in noted]
    failed = failures(history)
    if failed:
        lines += ["", "Failures"]
        lines += [f"  {len(ids):>4} ×  {reason}  (trial {_ids(ids)})" for reason, ids in failed]
    if history.running:
        lines += ["", "Running"]
        lines += [_running_line(history, history.trials[i]) for i in history.running]
    lines += ["", _what_is_left(history)]
    if lesson is not None:
        lines += _lesson_lines(lesson)
    return "\n".join(lines)


def _curve_lines(history: History, trial: TrialRecord) -> list[str]:
    """The learning curves of a trial in block characters, the metric asked for first."""
    if len(trial.reports) < 2:
        return []
    asked = history.study.goals.metrics
    names = sorted(trial.metric_names, key=lambda n: asked.index(n) if n in asked else len(asked))[:CURVES]
    curves = {n: trial.curve(n) for n in names if len(trial.curve(n)) > 1}
    width = max((len(clean(n, 24)) for n in curves), default=0)
    lines = ["", f"Curves of trial {trial.id}, epochs {trial.reports[0].epoch} to {trial.reports[-1].epoch}"]
    for name, points in curves.items():
        values = [v for _, v in points]
        ends = f"{number(values[0])} -> {number(values[-1])}"
        lines.append(f"  {clean(name, 24):<{width}}  {sparkline(values, 40)}  {ends}")
    return lines if curves else []


def _told_score(history: History, trial: TrialRecord) -> str:
    return f"{number(history.score(trial))}{' infeasible' if trial.violation else ''}"


def pareto_lines(history: History, most: int = ON_FRONT) -> list[str]:
    """The Pareto front as a table for a terminal; nothing with one objective."""
    if not history.study.also:
        return []
    points = goals.front(history)
    if not points:
        return []
    names = varied(history)
    heads = [*points[0].scores, *(n for n in points[0].limits if n not in points[0].scores)]
    rows = [[number({**p.limits, **p.scores}[n]) for n in heads] for p in points[:most]]
    titles = [clean(n, 16) for n in heads]
    widths = [max(map(len, column)) for column in zip(titles, *rows)]
    kind = "" if points[0].feasible else ", all infeasible"
    lines = ["", f"Pareto front ({count(len(points), 'configuration')}{kind})"]
    lines.append("  trial  " + "  ".join(f"{t:>{w}}" for t, w in zip(titles, widths)))
    for p, row in zip(points, rows):
        values = "  ".join(f"{text:>{w}}" for text, w in zip(row, widths))
        lines.append(f"  {p.trial:>5}  {values}  {short(p.config, names, limit=8)}")
    if len(points) > most:
        lines.append(f"         and {len(points) - most} more")
    return lines


def _lesson_lines(lesson: Lesson) -> list[str]:
    lines = []
    if lesson.importance:
        lines += ["", f"What mattered ({clean(lesson.rests_on)})"]
        lines += [f"  {part:>5.0%}  {clean(name, 40)}" for name, part in lesson.importance.items() if part >= TOLD]
    else:
        lines += ["", f"What mattered cannot be said: {clean(lesson.rests_on)}."]
    if lesson.next_steps:
        lines += ["", "With more budget"]
        lines += [f"  {i}. {clean(step, 400)}" for i, step in enumerate(lesson.next_steps, 1)]
    return lines


def told(finding: Finding) -> str:
    """A finding on one line: ``overfitting, since 12: The validation loss ...``."""
    since = "" if finding.since is None else f", since {finding.since:g}"
    return f"{finding.kind}{since}: {clean(finding.text, 200)}"


def notable(history: History) -> list[tuple[TrialRecord, Finding]]:
    """The trials worth a line: the best one, those that were ended early, and others of the best with a finding; by id.

    Of a kind of finding the first few only.
    """
    best = ranked(history)
    stopped = [t for t in history.trained() if t.status is Status.STOPPED]
    chosen: dict[int, tuple[TrialRecord, Finding]] = {}
    kinds: dict[str, int] = {}
    for trial in [*best[:1], *stopped, *best[1:]][:LOOKED_AT]:
        finding = finding_of(history, trial) if trial.id not in chosen else None
        if finding is None or (kinds.get(finding.kind, 0) >= 2 and trial is not best[0]):
            continue
        kinds[finding.kind] = kinds.get(finding.kind, 0) + 1
        chosen[trial.id] = (trial, finding)
        if len(chosen) == MOST:
            break
    return [chosen[i] for i in sorted(chosen)]


def _ids(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids[:6])) + (f", and {len(ids) - 6} more" if len(ids) > 6 else "")


def _stage_lines(history: History, i: int, stage: StageRecord) -> list[str]:
    cost = sum(history.trials[t].spent for t in stage.trials)
    if stage.skipped and not stage.trials:
        return [f"  {i}. {clean(stage.name)}  skipped: {clean(stage.because or stage.verdict or '', 600)}"]
    state = "skipped" if stage.skipped else "open" if stage.open else ""
    facts = ", ".join(filter(None, (state, count(len(stage.trials), "trial"), epochs(cost))))
    lines = [f"  {i}. {clean(stage.name)}  ({facts})", f"     why      {clean(stage.why, 600)}"]
    if stage.verdict is not None:
        lines.append(f"     verdict  {clean(stage.verdict, 600)}")
        if stage.because:
            lines.append(f"     because  {clean(stage.because, 600)}")
    if stage.settled:
        lines.append(f"     settled  {short(stage.settled, limit=12)}")
    return lines


def _range_line(change: RangeRecord) -> str:
    was, now = (f"{setting(low)} to {setting(high)}" for low, high in (change.was, change.now))
    return f"  {clean(change.name, 40)}: {was} -> {now}; {clean(change.why, 300)}"


def _running_line(history: History, trial: TrialRecord) -> str:
    if trial.probe:
        return f"  {trial.id:>4}  probe {clean(trial.probe)}"
    curve = [v for _, v in trial.curve(history.objective.metric)]
    latest = f"{sparkline(curve, 12)} {number(curve[-1])}  " if curve else ""
    return f"  {trial.id:>4}  epoch {trial.epoch}/{trial.until}  {latest}{short(trial.config, varied(history))}"


def _what_is_left(history: History) -> str:
    if history.finished is not None:
        return f"Finished: {clean(history.finished, 600)}"
    paused = sum(t.status is Status.PAUSED for t in history.trials)
    left = history.epochs_left
    parts = ["no limit set" if math.isinf(left) else f"about {epochs(max(0.0, left))} to hand out"]
    if paused:
        parts.append(f"{count(paused, 'paused trial')} that can be resumed")
    return f"Left: {', '.join(parts)}"
