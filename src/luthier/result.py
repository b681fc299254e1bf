"""What a study found, for Python: the answer, its tables, figures and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier import insight
from luthier.core.goals import Point, hypervolume
from luthier.core.history import History
from luthier.core.lineage import Segment, lineage
from luthier.core.params import Config
from luthier.core.summary import Summary, summarize
from luthier.core.trial import TrialRecord
from luthier.diagnosis.finding import Diagnosis
from luthier.plots import Plots


class Result(Plots):
    """What a study found; its ``plot_...()`` methods are those of :class:`luthier.plots.Plots`.

    Attributes:
        history: everything, immutable.
    """

    def __init__(self, history: History) -> None:
        self.history = history

    @property
    def summary(self) -> Summary:
        """Best configuration, scores, stages, as one value."""
        return summarize(self.history)

    @property
    def best_config(self) -> Config | None:
        """The configuration to keep; None when no trial has a score."""
        return self.summary.best_config

    @property
    def best_score(self) -> float | None:
        """Its score: the mean over fresh seeds where the study repeated it, else that of its one trial."""
        return self.summary.best_score

    @property
    def default_score(self) -> float | None:
        """The strong default's mean score on the same fresh seeds; None where it was not repeated."""
        return self.summary.default_score

    @property
    def pareto(self) -> Sequence[Point]:
        """With several objectives the trials that no other dominates, the best in the first objective first; where no
        trial meets the constraints, those that violate them least."""
        return self.summary.pareto

    @property
    def feasible(self) -> bool | None:
        """Whether the configuration to keep meets the constraints; None where none were asked or none has a score."""
        return self.summary.feasible

    def hypervolume(self, reference: Mapping[str, float]) -> float:
        """How much the feasible part of the front covers, in the product of the metrics' units; larger is better.

        Args:
            reference: for each objective's metric a value worse than all that matter; what is worse than it counts
                nothing.

        Raises:
            UserError: a metric that is missing, or is no objective.
        """
        return hypervolume(self.history, reference)

    @property
    def stages(self) -> Sequence[Mapping[str, Any]]:
        """``name``, ``verdict``, ``why``, ``skipped``, ``epochs`` of each stage of the playbook."""
        return self.summary.stages

    def lineage(self, trial: int | None = None) -> tuple[Segment, ...]:
        """The schedule by which a trial was trained: the configurations, one after the other, each with its epochs.

        Several after population-based training, one after anything else; empty where nothing has a score. Trained again
        by ``lt.tune(..., strategy=Replay(result.lineage()))``, see :class:`luthier.schedule.replay.Replay`.

        Args:
            trial: the trial's number; the one of the kept configuration where None.
        """
        return tuple(self.summary.schedule) if trial is None else lineage(self.history, trial)

    def trials(self) -> list[TrialRecord]:
        """Every trial that trained, oldest first."""
        return list(self.history.trained())

    @property
    def findings(self) -> Diagnosis:
        """What the learning curves of the kept configuration say; see :func:`luthier.diagnose`."""
        return insight.findings(self.history)

    def diagnosis(self) -> Diagnosis:
        """What the learning curves of all trials say together."""
        return insight.diagnosis(self.history)

    def importance(self) -> dict[str, float]:
        """How much of the score each hyperparameter decided, largest first, together 1; empty with too few trials.

        PED-ANOVA where a searcher drew the trials, controlled comparisons where the playbook's stages did.
        """
        return dict(insight.importance(self.history).parts)

    def stopping_regret(self) -> tuple[int, float] | None:
        """What ending trials early cost, by the sample that ``"expert"`` trains to the end all the same.

        Returns:
            how many ranked in the worse half of the first look and were trained to the end, and by how much the best of
            them beats the best of all others, 0 where it does not, in the metric's units; None without any.
        """
        from luthier.expert.audit import stopping_regret

        return stopping_regret(self.history)

    def next_steps(self) -> list[str]:
        """What to try with more budget, most promising first, as sentences."""
        return insight.next_steps(self.history)

    def report(self, path: str | Path = "report.html") -> Path:
        """Write the report, one self-contained HTML file; returns its path."""
        from luthier.view.report import write_report

        return write_report(self.history, Path(path), insight.lesson(self.history))

    def trials_dataframe(self) -> Any:
        """A ``pandas.DataFrame`` with a row for each trial: status, score, ``config.NAME``, ``metric.NAME`` at the
        epoch that counts, why it was started; see :func:`luthier.view.table.trials_table`.

        Raises:
            UserError: pandas is not installed.
        """
        from luthier.view import table

        return table.to_pandas(table.trials_table(self.history))

    def reports_dataframe(self) -> Any:
        """The same with a row for each report: ``trial``, ``epoch``, ``seconds``, ``metric.NAME``.

        Raises:
            UserError: pandas is not installed.
        """
        from luthier.view import table

        return table.to_pandas(table.reports_table(self.history))

    def __repr__(self) -> str:
        from luthier.view.story import verdict

        return f"<luthier.Result: {verdict(self.history)}>"
