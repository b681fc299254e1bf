"""MLflow: a study as a run with one nested run for each trial.

>>> lt.tune(train, space, observers=[MLflowTracker("digits")], ...)
>>> export("study.db", "digits")  # or afterwards
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from luthier.core.history import History
from luthier.core.summary import Summary
from luthier.core.trial import Status
from luthier.integrations._tracking import Follower, Run, follow

_STATUS = {Status.DONE: "FINISHED", Status.PAUSED: "FINISHED", Status.STOPPED: "KILLED", Status.FAILED: "FAILED"}


class MLflowTracker(Follower):
    """Mirrors a study in an MLflow experiment, live.

    Each trial is a run, nested in that of the study: its hyperparameters are parameters, its metrics have epochs for
    steps, tags beginning with ``luthier.`` say the stage, the seed, why it was started, how it stands and why it ended.
    A trial that goes on, after a pause or a restart of the study, goes on in its run.

    Args:
        experiment: its name; the study's where None.
        tracking_uri: where MLflow keeps its runs, ``"sqlite:///mlflow.db"`` or a server; MLflow's own setting where
            None.
    """

    def __init__(self, experiment: str | None = None, *, tracking_uri: str | None = None) -> None:
        super().__init__()
        self._experiment = experiment
        self._client = MlflowClient(tracking_uri=tracking_uri)
        self._place = ""
        self._parent = ""
        self._runs: dict[int, str] = {}
        self._told: dict[int, int] = {}

    def on_study(self, history: History) -> None:
        """Find or make the experiment and the study's own run."""
        name = self._experiment or history.study.name
        found = self._client.get_experiment_by_name(name)
        self._place = found.experiment_id if found is not None else self._client.create_experiment(name)
        study = history.study
        tags = {"luthier.study": study.name, "luthier.strategy": study.strategy, "luthier.goal": str(study.goals)}
        self._parent = self._find_or_make(study.name, tags, f"tags.`luthier.study` {_is(study.name)}", None)

    def on_start(self, run: Run) -> None:
        """The trial's run, found again or made."""
        if run.trial not in self._runs:
            tags = {f"luthier.{k}": v for k, v in run.tags.items() if k != "study"}
            where = f"tags.`mlflow.parentRunId` = '{self._parent}' and tags.`luthier.trial` = '{run.trial}'"
            tags["mlflow.parentRunId"] = self._parent
            self._runs[run.trial] = self._find_or_make(run.name, tags, where, run)
        self._client.update_run(self._runs[run.trial], status="RUNNING")

    def on_report(self, run: Run, epoch: int, metrics: Mapping[str, float]) -> None:
        """The metrics, with the epoch for a step; what the run has already is left alone."""
        at = int(run.at * 1000)
        if epoch <= self._told.get(run.trial, 0):
            return
        self._client.log_batch(self._runs[run.trial], metrics=[Metric(k, v, at, epoch) for k, v in metrics.items()])

    def on_end(self, run: Run, status: Status, why: str) -> None:
        """How it ended."""
        own = self._runs[run.trial]
        self._client.set_tag(own, "luthier.status", str(status))
        if why:
            self._client.set_tag(own, "luthier.ended", why)
        self._client.set_terminated(own, _STATUS[status], end_time=int(run.at * 1000))

    def on_finish(self, summary: Summary, at: float) -> None:
        """The answer, in the study's run."""
        if summary.best_score is not None:
            self._client.log_metric(self._parent, "best_score", summary.best_score)
            self._client.set_tag(self._parent, "luthier.best_trial", str(summary.best_trial))
            for name, value in (summary.best_config or {}).items():
                self._client.set_tag(self._parent, f"luthier.best.{name}", str(value))
        self._client.set_terminated(self._parent, "FINISHED", end_time=int(at * 1000))

    def _find_or_make(self, name: str, tags: Mapping[str, str], where: str, run: Run | None) -> str:
        found = self._client.search_runs([self._place], where, max_results=1)
        if found:
            there = str(found[0].info.run_id)
            if run is not None:
                histories = (self._client.get_metric_history(there, name) for name in found[0].data.metrics)
                self._told[run.trial] = max((m.step for history in histories for m in history), default=0)
            return there
        at = None if run is None else int(run.at * 1000)
        made = str(self._client.create_run(self._place, start_time=at, run_name=name).info.run_id)
        self._client.log_batch(
            made,
            params=[] if run is None else [Param(k, str(v)) for k, v in run.config.items()],
            tags=[RunTag(k, v[:5000]) for k, v in tags.items()],
        )
        return made


def _is(text: str) -> str:
    """A comparison for MLflow's filters, which know no escaped quotes: there any character may stand."""
    return f"LIKE '{text.replace(chr(39), '_')}'" if "'" in text else f"= '{text}'"


def export(source: str | Path, experiment: str | None = None, *, name: str | None = None, **settings: Any) -> None:
    """Mirror a stored study in MLflow, with the times at which things happened. Done again, it adds nothing new but
    what the log has beyond the last time.

    Args:
        source: where the study is stored.
        experiment, settings: as for :class:`MLflowTracker`.
        name: of several studies there.

    Raises:
        StorageError: there is no study at ``source``.
        UserError: MLflow refused.
    """
    follow(source, MLflowTracker(experiment, **settings), name)
