"""Weights & Biases: a study as a group of runs, one for each trial.

>>> lt.tune(train, space, observers=[WandbTracker("digits", mode="offline")], ...)
>>> export("study.db", "digits")  # or afterwards
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from luthier.core.history import History
from luthier.core.trial import Status
from luthier.integrations._tracking import Follower, Run, follow


class WandbTracker(Follower):
    """Mirrors a study in a project of W&B, live.

    Each trial is a run in the study's group: its configuration, with stage, seed and why under ``luthier``; its metrics
    by epoch; how it ended in its summary. Run ids are made of the study and the trial, so that one that goes on after a
    pause goes on in its run; offline it becomes a second part of it, which ``wandb sync`` puts together.

    Args:
        project: its name; the study's where None.
        settings: further arguments of ``wandb.init``: ``mode="offline"``, ``entity=``, ``dir=``.
    """

    def __init__(self, project: str | None = None, **settings: Any) -> None:
        super().__init__()
        self._project = project
        self._settings = settings
        self._runs: dict[int, Any] = {}

    def on_study(self, history: History) -> None:
        """The project is the study's where none was named."""
        self._project = self._project or history.study.name

    def on_start(self, run: Run) -> None:
        """A run of its own beside those of the other trials."""
        slug = re.sub(r"[^A-Za-z0-9_-]+", "-", run.study)[:60]
        given = {"reinit": "create_new", "resume": "allow", "job_type": run.tags.get("stage"), **self._settings}
        self._runs[run.trial] = wandb.init(
            project=self._project,
            group=run.study,
            id=f"{slug}-{run.trial}",
            name=run.name,
            config={**run.config, "luthier": dict(run.tags)},
            **given,
        )
        self._runs[run.trial].define_metric("*", step_metric="epoch")

    def on_report(self, run: Run, epoch: int, metrics: Mapping[str, float]) -> None:
        """The metrics and the epoch."""
        self._runs[run.trial].log({**metrics, "epoch": epoch})

    def on_end(self, run: Run, status: Status, why: str) -> None:
        """How it ended; a failed trial is a failed run."""
        own = self._runs.pop(run.trial)
        own.summary["luthier.status"] = str(status)
        if why:
            own.summary["luthier.ended"] = why
        own.finish(exit_code=int(status is Status.FAILED))


def export(source: str | Path, project: str | None = None, *, name: str | None = None, **settings: Any) -> None:
    """Mirror a stored study in W&B.

    Args:
        source: where the study is stored.
        project, settings: as for :class:`WandbTracker`.
        name: of several studies there.

    Raises:
        StorageError: there is no study at ``source``.
        UserError: W&B refused.
    """
    follow(source, WandbTracker(project, **settings), name)
