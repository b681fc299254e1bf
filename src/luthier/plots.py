"""A result's pictures in a notebook: the figures of report and dashboard, as plotly figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from luthier import insight
from luthier.core.errors import UserError, nearest
from luthier.core.history import History
from luthier.core.summary import Lesson

if TYPE_CHECKING:
    import plotly.graph_objects as go

TAUGHT = ("importance", "parallel", "sweeps", "interaction")
"""Figures that know what the study teaches."""


class Plots:
    """The pictures of a study; each method returns a ``plotly.graph_objects.Figure``, which a notebook shows by itself.

    Each raises UserError where the study has nothing to show there yet.
    """

    history: History

    def plot_curves(self, metric: str | None = None) -> go.Figure:
        """Every trial's learning curve.

        Args:
            metric: any metric that was reported; the objective where None.
        """
        from luthier.view import figures, numbers

        wanted = metric or self.history.objective.metric
        known = dict.fromkeys(n for t in self.history.trained() for n in t.metric_names)
        if wanted not in known:
            raise UserError(f"No trial has reported {wanted!r}.", nearest(wanted, known))
        return figures.to_plotly(figures.curves_figure(numbers.learning_curves(self.history, wanted)), self.history)

    def plot_incumbent(self, over: Literal["epochs", "time"] = "epochs") -> go.Figure:
        """The best score so far, over the epochs spent or over time."""
        if over not in ("epochs", "time"):
            raise UserError(f"over={over!r} is no axis of the incumbent.", nearest(str(over), ("epochs", "time")))
        if not self.history.ranked():
            raise UserError("No trial has a score yet.", "Plot it again once one has.")
        return self._first("progress" if over == "epochs" else "time")

    def plot_parallel_coordinates(self) -> go.Figure:
        """Every trial as a line over its hyperparameters and its score."""
        return self._first("parallel")

    def plot_importance(self) -> go.Figure:
        """How much of the score each hyperparameter decided."""
        from luthier.view import figures

        found = insight.importance(self.history)
        if not found.parts:
            raise UserError(f"What decided the score cannot be said: {found.why}.", "Plot it again after more trials.")
        return figures.to_plotly(figures.importance_figure(found.parts))

    def plot_hyperparameter(self, name: str) -> go.Figure:
        """A hyperparameter against the score, with what was believed before any trial behind.

        Args:
            name: one that took more than one value.
        """
        from luthier.view import figures, numbers

        swept = {s.name: s for s in numbers.sweeps(self.history, self._lesson("sweeps"))}
        if name not in swept:
            known = name in self.history.space
            problem = f"{name} took one value only." if known else f"The space has no {name!r}."
            raise UserError(problem, nearest(name, swept))
        return figures.to_plotly(figures.sweep_figure(swept[name]), self.history)

    def plot_interaction(self, x: str | None = None, y: str | None = None) -> go.Figure:
        """Two hyperparameters against each other, the score as colour.

        Args:
            x, y: numeric ones; batch size and learning rate where None, else the two that decided most.
        """
        from luthier.view import figures, relations, relations_ink

        if (x is None) != (y is None):
            raise UserError("An interaction has two hyperparameters, one was given.", "Name both or none.")
        for name in (x, y):
            if name is not None and name not in self.history.space:
                raise UserError(f"The space has no {name!r}.", nearest(name, self.history.space))
        names = (x, y) if x is not None and y is not None else None
        found = relations.together(self.history, self._lesson("interaction"), names)
        if found is None:
            raise UserError("There are no two trials with a score and numbers for both.", "Name two that were varied.")
        return figures.to_plotly(relations_ink.together_figure(found), self.history)

    def plot_lineage(self) -> go.Figure:
        """Who went on from whose weights, in a population."""
        return self._first("lineage")

    def plot_pareto(self, metric: str | None = None) -> go.Figure:
        """The first objective against a further one, the Pareto front marked.

        Args:
            metric: which further objective; the second where None.
        """
        others = [o.metric for o in self.history.study.also]
        if metric is not None and metric not in others:
            raise UserError(f"{metric!r} is no further objective.", nearest(metric, others))
        return self._first("pareto", others.index(metric) if metric is not None else 0)

    def plot_confirmation(self) -> go.Figure:
        """The winner against the strong default on the same fresh seeds."""
        return self._first("paired")

    def plot_lr_range(self) -> go.Figure:
        """The learning-rate range test."""
        return self._first("lr_range")

    def plot_findings(self) -> list[go.Figure]:
        """The curves that the study's findings speak of, each with its finding marked; empty where there are none."""
        from luthier.view import figures

        return [figures.to_plotly(spec, self.history) for spec in figures.FIGURES["findings"](self.history)]

    def _lesson(self, name: str) -> Lesson | None:
        return insight.lesson(self.history) if name in TAUGHT else None

    def _first(self, name: str, which: int = 0) -> Any:
        from luthier.view import figures

        specs = figures.FIGURES[name](self.history, self._lesson(name))
        if len(specs) <= which:
            raise UserError(f"The study has nothing to show for {name!r} yet.", "Plot it again after more trials.")
        return figures.to_plotly(specs[which], self.history)
