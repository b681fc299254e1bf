"""What the browser is told: a study as JSON, and what changed of it since an event."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from luthier.core.events import plain
from luthier.core.history import History, StageRecord
from luthier.core.params import Choice, Constant
from luthier.core.summary import summarize
from luthier.core.trial import TrialRecord
from luthier.playbook.checklist import STAGES_ZH
from luthier.playbook.playbook import STAGES
from luthier.view import numbers, story
from luthier.view.report import facts_of, tone_of

MOST_POINTS = 24_000
"""Points of a panel of curves that are sent."""

Json = dict[str, Any]


def whole(history: History, said: Sequence[tuple[float, str]]) -> Json:
    """Everything but curves and figures."""
    role, names = numbers.roles(history), story.varied(history)
    return {
        **head(history),
        "study": asked(history),
        "stages": stages(history),
        "rows": [row(history, t, role.get(t.id, "probe"), names) for t in history.trials],
        "said": list(said),
    }


def changed(old: History, new: History, said: Sequence[tuple[float, str]]) -> Json:
    """What is different in ``new``: the head, the stages where they changed, rows and points of changed trials."""
    pairs = list(new.trials.changes(old.trials))
    role, before = numbers.roles(new), numbers.roles(old)
    touched = {t.id: t for _, t in pairs}
    touched |= {i: new.trials[i] for i, r in role.items() if i in before and before[i] != r}
    names = story.varied(new)
    points = [
        [t.id, r.epoch, {k: v if math.isfinite(v) else None for k, v in r.metrics.items()}]
        for was, t in pairs
        for r in t.reports[len(was.reports) if was is not None else 0 :]
    ]
    out = {**head(new), "since": old.length, "points": points, "said": list(said)}
    out["rows"] = [row(new, t, role.get(i, "probe"), names) for i, t in sorted(touched.items())]
    if new.stages != old.stages or new.spent != old.spent:
        out["stages"] = stages(new)
    if new.study != old.study:
        out["study"] = asked(new)
    return out


def asked(history: History) -> Json:
    """What was asked, and what a configuration that is added by hand may hold."""
    study = history.study
    return {
        "name": study.name,
        "strategy": study.strategy,
        "goal": str(study.goals),
        "metric": history.objective.metric,
        "minimize": history.objective.minimize,
        "max_epochs": study.max_epochs,
        "seed": study.seed,
        "budget": {"epochs": study.budget.epochs, "seconds": study.budget.seconds},
        "space": [_param(n, p) for n, p in history.space.items() if not isinstance(p, Constant)],
    }


def _param(name: str, param: Any) -> Json:
    out: Json = {"name": name, "when": {k: list(v) for k, v in (param.when or {}).items()}}
    if isinstance(param, Choice):
        return {**out, "kind": "choice", "choices": plain(list(param.choices))}
    kind = "int" if type(param).__name__ == "Int" else "float"
    return {**out, "kind": kind, "low": param.low, "high": param.high, "log": param.log}


def head(history: History) -> Json:
    """Where the study stands, in a few words and numbers."""
    summary = summarize(history)
    best = history.incumbent
    return {
        "seq": history.length,
        "verdict": story.verdict(history),
        "tone": tone_of(history, summary),
        "facts": facts_of(history, summary),
        "spent": history.spent,
        "elapsed": history.elapsed,
        "finished": history.finished,
        "paused": history.paused,
        "pending": {"stops": list(history.stops), "configs": len(history.to_start)},
        "running": list(history.running),
        "best": None if best is None else best.id,
        "best_score": None if best is None else history.score(best),
        "best_config": None if best is None else plain(dict(best.config)),
        "kept": [[n, story.setting(v)] for n, v in (summary.best_config or {}).items()],
        "last_at": history.last_at,
    }


def stages(history: History) -> list[Json]:
    """The stages in the order of the line: those that were opened, then what the playbook has not asked yet."""
    out = [_stage(history, s) for s in history.stages]
    if history.study.strategy == "playbook" and history.finished is None:
        seen = {s.name for s in history.stages}
        last = max((i for i, s in enumerate(STAGES) if s.name in seen), default=-1)
        out += [
            {"name": s.name, "zh": STAGES_ZH.get(s.name, s.name), "state": "coming", "why": s.question, "part": 0.0}
            for i, s in enumerate(STAGES)
            if s.name not in seen and i > last
        ]
    return out


def _stage(history: History, stage: StageRecord) -> Json:
    trials = [history.trials[i] for i in stage.trials]
    spent = sum(t.spent for t in trials)
    state = "skipped" if stage.skipped else "open" if stage.open else "failed" if stage.fatal else "closed"
    part = 1.0
    if stage.open:
        used = spent / stage.allowance if stage.allowance else 0.0
        timed = (history.elapsed - stage.opened) / stage.seconds if stage.seconds else 0.0
        part = min(max(used, timed), 0.97)
    return {
        "name": stage.name,
        "zh": STAGES_ZH.get(stage.name, stage.name),
        "state": state,
        "part": part,
        "why": stage.why,
        "verdict": stage.verdict,
        "because": stage.because,
        "again": bool(stage.notes.get("again")),
        "trials": sum(t.probe is None for t in trials),
        "probes": sum(t.probe is not None for t in trials),
        "spent": spent,
        "allowance": stage.allowance,
        "settled": [[n, story.setting(v)] for n, v in stage.settled.items()],
    }


def row(history: History, t: TrialRecord, role: str, names: Sequence[str]) -> Json:
    """A trial on one line."""
    score = history.score(t)
    out: Json = {
        "id": t.id,
        "role": role,
        "status": t.status.value,
        "score": score,
        "loss": history.final_loss(t) if score is not None else None,
        "epoch": t.epoch,
        "until": t.until,
        "horizon": t.horizon,
        "why": story.clean(t.why, 300),
        "config": story.short(t.config, names, limit=9),
    }
    optional = {
        "stage": t.stage,
        "probe": t.probe,
        "stop": story.clean(t.stop_why, 300) if t.stop_why else None,
        "failure": f"{t.failure.kind}: {story.clean(t.failure.reason, 300)}" if t.failure else None,
        "infeasible": t.violation > 0 or None,
        "hand": t.by_hand or None,
        "parent": t.parent if t.inherited is not None else None,
    }
    return {**out, **{k: v for k, v in optional.items() if v is not None}}


def curves(history: History, pair: int) -> Json:
    """The learning curves of a pair of metrics (training and validation), and which pairs there are."""
    pairs = every_pair(history)
    if not pairs:
        return {"pairs": [], "panels": [], "seq": history.length}
    shown = numbers.pair_panels(history, pairs[min(max(pair, 0), len(pairs) - 1)], MOST_POINTS)
    return {
        "seq": history.length,
        "pairs": [list(p) for p in pairs],
        "panels": [
            {
                "metric": c.metric,
                "low": c.low,
                "high": c.high,
                "log": c.log,
                "curves": [[x.trial, x.epochs, [_digits(v) for v in x.values]] for x in c.curves],
            }
            for c in shown
        ],
    }


def every_pair(history: History) -> list[tuple[str, ...]]:
    """The pairs worth drawing first, then every other metric by itself."""
    pairs = numbers.metric_pairs(history)
    told = {m for p in pairs for m in p}
    others = dict.fromkeys(m for t in history.trained() for m in t.metrics if m not in told)
    return [*pairs, *((m,) for m in others)]


def _digits(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None
