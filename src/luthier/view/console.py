"""What a run shows while it runs: a live display on a terminal, plain lines anywhere else.

A console is an observer: it gets the history and the new events, and changes nothing. Plain lines carry no control
characters, so that they survive a log file; with ``json=True`` they go to standard error and leave standard output to
the one object at the end.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from luthier.core import events as ev
from luthier.core.history import History
from luthier.core.own_length import own_length_said
from luthier.core.trial import TrialRecord
from luthier.core.words import count, epochs
from luthier.view.findings import finding_of
from luthier.view.story import (
    clean,
    duration,
    number,
    scores,
    setting,
    short,
    sparkline,
    spent_of,
    told,
    varied,
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

REFRESH = 0.1
"""Seconds between two drawings of the live display."""
DECISIONS = 5
"""Decisions that the live display remembers."""
ROWS = 8
"""Running trials that the live display shows."""


class Console:
    """The terminal as an observer of a study.

    Args:
        json: keep standard output clean; what there is to say goes to standard error.
        quiet: say nothing.
        stream: where to write; standard output (standard error with ``json``) where None.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or (sys.stderr if json else sys.stdout)
        self._quiet = quiet
        plain = json or os.environ.get("TERM") == "dumb" or "NO_COLOR" in os.environ
        self._fancy = not quiet and not plain and self._stream.isatty()
        self._live: Live | None = None
        self._drawn = 0.0
        self._best: int | None = None
        self._measured = False  # whether it was said that the trainings have a length of their own
        self._said: deque[str] = deque(maxlen=DECISIONS)

    def open(self, history: History) -> None:
        """The study begins, or goes on."""
        self._best = _best(history)
        study = history.study
        self.say(
            f"{clean(study.name)}: {clean(study.goals)}, "
            f"{study.strategy} strategy, up to {epochs(study.max_epochs)} a trial, budget {study.budget}, "
            f"seed {study.seed}" + (f"; {_gone_on(history)}" if len(history.trials) else "")
        )
        if self._fancy:
            from rich.console import Console as Terminal
            from rich.live import Live

            terminal = Terminal(file=self._stream)
            self._live = Live(_display(history, ()), console=terminal, auto_refresh=False, transient=True)
            self._live.start()

    def update(self, history: History, events: Sequence[ev.Event]) -> None:
        """New events were appended; ``history`` includes them."""
        if self._quiet:
            return
        try:
            self._show(history, events)
        except OSError:
            self._quiet = True  # the reader went away, as in `luthier tune ... | head`: nobody is left to tell
        except Exception as error:  # an observer may miss a line, never end hours of training
            self._said.append(f"(not shown: {type(error).__name__})")

    def _show(self, history: History, events: Sequence[ev.Event]) -> None:
        for event in events:
            line = _shown(history, event)
            if line is not None:
                self._said.append(line)
                if self._live is None:
                    self.say(line)
                elif isinstance(event, ev.StageOpened | ev.StageClosed):
                    self._live.console.print(line, markup=False, highlight=False)  # stays above the display
        best = _best(history)
        ended = any(isinstance(e, ev.Ended) for e in events)
        if self._live is None and ended and best is not None and best != self._best:
            self._best = best
            self.say(f"  best so far: {_score(history, history.trials[best])} (trial {best})")
        if ended and not self._measured and (mend := own_length_said(history)) is not None:
            self._measured = True
            self.say(mend)
        now = time.monotonic()
        if self._live is not None and now - self._drawn >= REFRESH:
            self._drawn = now
            self._live.update(_display(history, tuple(self._said)), refresh=True)

    def say(self, text: str) -> None:
        """One line."""
        if self._quiet:
            return
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def close(self, history: History) -> None:
        """The study ended, or was interrupted; the display makes room."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def _gone_on(history: History) -> str:
    """From where a study goes on, or that its budget is below what was spent."""
    budget = history.study.budget
    if history.spent > (budget.epochs or math.inf) or history.elapsed > (budget.seconds or math.inf):
        used = f"{epochs(history.spent)} in {duration(history.elapsed)}"
        return f"{used} are spent already, more than that: the strategy starts nothing new"
    return f"goes on after {spent_of(history)}"


def _best(history: History) -> int | None:
    incumbent = history.incumbent
    return incumbent.id if incumbent is not None else None


def _score(history: History, trial: TrialRecord) -> str:
    return scores(history, trial)


def _shown(history: History, event: ev.Event) -> str | None:
    """As :func:`event_line`, without the mistake that ends a study: the closing words say it, and once is enough."""
    if isinstance(event, ev.StageClosed) and event.fatal:
        return "  => a mistake that no tuning mends"
    if isinstance(event, ev.Finished) and any(s.fatal for s in history.stages):
        return "finished:"
    return event_line(history, event)


def event_line(history: History, event: ev.Event) -> str | None:
    """What an event is worth saying, in one line; None for reports and the like."""
    if isinstance(event, ev.StageOpened):
        return f"[{clean(event.name)}] {clean(event.why, 400)}"
    if isinstance(event, ev.StageClosed):
        return "  skipped: " + clean(event.why, 400) if event.skipped else "  => " + clean(event.verdict, 400)
    if isinstance(event, ev.Started):
        what = f"probe {clean(event.probe)}" if event.probe else f"to epoch {event.until}"
        # A stage's why names what it changes; without stages the configuration is the news.
        config = "" if history.open_stage else f" ({short(event.config, varied(history))})"
        return f"  trial {event.trial} {what}: {clean(event.why)}{config}"
    if isinstance(event, ev.Resumed):
        return f"  trial {event.trial} goes on to epoch {event.until}: {clean(event.why)}"
    if isinstance(event, ev.Ended):
        trial = history.trials[event.trial]
        if trial.probe:
            return None
        line = f"  trial {event.trial} {trial.status} at epoch {event.epoch}: {_score(history, trial)}"
        finding = finding_of(history, trial)
        return f"{line}; {told(finding)}" if finding is not None and finding.severity == "critical" else line
    if isinstance(event, ev.Failed):
        return f"  trial {event.trial} failed: {clean(event.reason)}"
    if isinstance(event, ev.Stopped):
        return f"  trial {event.trial} stopped at epoch {event.epoch}: {clean(event.why)}"
    if isinstance(event, ev.Requeued):
        return f"  trial {event.trial} starts its job again: {clean(event.why)}"
    if isinstance(event, ev.Interrupted):
        kept = f"saved at epoch {event.epoch}" if event.checkpoint else "put back"
        return f"  trial {event.trial} interrupted: {kept}"
    if isinstance(event, ev.Unsaved):
        return f"  trial {event.trial} could not be saved at epoch {event.epoch}: {clean(event.why)}"
    if isinstance(event, ev.CheckpointLost):
        return f"  trial {event.trial} has lost a checkpoint ({clean(event.checkpoint)}): {clean(event.why)}"
    if isinstance(event, ev.RangeChanged):
        ends = f"{setting(event.low)} to {setting(event.high)}"
        return f"  the range of {clean(event.name, 40)} is now {ends}: {clean(event.why)}"
    if isinstance(event, ev.SpaceChanged):
        return f"the space changed: {clean(event.why)}"
    if isinstance(event, ev.BudgetChanged):
        return f"the budget is now {event.budget}"
    if isinstance(event, ev.TargetChanged):
        return "the log names another place of what is trained"
    if isinstance(event, ev.StopAsked):
        return f"asked by hand: stop trial {event.trial}"
    if isinstance(event, ev.PauseAsked):
        return "asked by hand: pause; what runs goes on to where it was sent"
    if isinstance(event, ev.ResumeAsked):
        return "asked by hand: go on"
    if isinstance(event, ev.ConfigAsked):
        return f"asked by hand: {short(event.config)}"
    if isinstance(event, ev.Finished):
        return f"finished: {clean(event.why)}"
    return None


# -- the live display --------------------------------------------------------------------------------------------------


def _display(history: History, said: Sequence[str]) -> RenderableType:
    """Progress, stage, running trials with their curves, the incumbent, the last decisions."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    parts: list[RenderableType] = [_progress(history)]
    stage = history.open_stage
    if stage is not None:
        parts.append(
            Text.assemble(("stage  ", "dim"), (clean(stage.name), "bold"), ("  " + clean(stage.why, 200), "dim"))
        )
    parts.append(_running(history))
    incumbent = history.incumbent
    if incumbent is not None:
        best = Text.assemble(("best   ", "dim"), (_score(history, incumbent), "bold green"))
        best.append(f"  trial {incumbent.id}  {short(incumbent.config, varied(history))}", "dim")
        parts.append(best)
    parts += [Text(line.strip(), "dim", overflow="ellipsis", no_wrap=True) for line in said]
    return Panel(Group(*parts), title=Text(clean(history.study.name, 40)), border_style="dim", title_align="left")


def _progress(history: History) -> RenderableType:
    """How much of the budget is spent."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    budget = history.study.budget
    done, total = history.spent, float(budget.epochs or 0)
    if budget.seconds is not None:
        done, total = history.elapsed, budget.seconds
    row = Table.grid(padding=(0, 1))
    words = f"{spent_of(history)}  {count(history.n_trained, 'trial')}"
    if total > 0 and math.isfinite(total):
        row.add_row(ProgressBar(total=total, completed=min(done, total), width=30), words)
    else:
        row.add_row(words)
    return row


def _running(history: History) -> RenderableType:
    """A line for each running trial: its epoch, its curve and its last metrics."""
    from rich.table import Table
    from rich.text import Text

    table: Any = Table.grid(padding=(0, 2))
    names = varied(history)
    for number_ in history.running[:ROWS]:
        trial = history.trials[number_]
        if trial.probe:
            table.add_row(f"trial {trial.id}", Text(f"probe {clean(trial.probe)}"), "", "", "")
            continue
        values = [v for _, v in trial.curve(history.objective.metric)]
        metric, asked = (
            history.objective.metric,
            history.study.goals.metrics,
        )  # the objective first, then what was asked too
        metrics = sorted(trial.metrics.items(), key=lambda m: (m[0] != metric, m[0] not in asked))[:2]
        latest = "  ".join(f"{clean(k, 20)} {number(v)}" for k, v in metrics)
        eta = _remaining(trial)
        table.add_row(
            f"trial {trial.id}",
            f"{trial.epoch}/{trial.until}{eta}",
            Text(sparkline(values, 16), "cyan"),
            Text(latest),  # a plain string would be read as rich's markup
            Text(short(trial.config, names), "dim", overflow="ellipsis", no_wrap=True),
        )
    if len(history.running) > ROWS:
        table.add_row("", f"and {len(history.running) - ROWS} more", "", "", "")
    return table  # type: ignore[no-any-return]


def _remaining(trial: TrialRecord) -> str:
    """How long the job will still take, where that is worth saying."""
    seconds = [r.seconds for r in trial.reports[-5:]]
    left = (trial.until - trial.epoch) * sum(seconds) / len(seconds) if seconds else 0.0
    return f"  {duration(left)} left" if left >= 10 else ""
