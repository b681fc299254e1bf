"""Optuna: its objectives under Luthier's strategies, its studies as logs and back, Luthier's searchers as its samplers.

>>> def objective(trial):
...     model = build(trial.suggest_float("lr", 1e-5, 1e-1, log=True), trial.suggest_int("layers", 1, 3))
...     for epoch in range(30):
...         trial.report(validate(model), epoch)
...         if trial.should_prune():
...             raise optuna.TrialPruned
...     return validate(model)
>>> result = optimize(objective, n_trials=40, strategy="asha", max_epochs=30)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution

from luthier.api import tune
from luthier.core.errors import UserError, nearest
from luthier.core.space import Space
from luthier.integrations._optuna_space import Suggestions, find_space
from luthier.integrations._optuna_study import LuthierSampler, export_study, import_study
from luthier.playbook.playbook import Playbook
from luthier.result import Result
from luthier.run.handle import Trial

__all__ = ["LuthierSampler", "export_study", "import_study", "optimize"]


def optimize(
    objective: Callable[[Any], Any],
    n_trials: int = 20,
    *,
    direction: str | None = None,
    directions: Sequence[str] | None = None,
    space: Space | Mapping[str, Any] | Callable[[Any], Any] | None = None,
    max_epochs: int | None = None,
    strategy: Any = "playbook",
    **tuning: Any,
) -> Result:
    """Tune an Optuna objective as it is: ``study.optimize(objective, n_trials)`` with Luthier's strategies.

    The value that the objective returns is the metric ``value``; with several ``value_0``, ``value_1``. What it reports
    on the way are epochs, whatever their step is called, and ``should_prune()`` answers for the strategy. A trial that
    is paused raises ``TrialPruned`` like a pruned one; where it goes on it starts over, since an objective keeps no
    checkpoint. Numbers among the user attributes become metrics.

    Args:
        objective: takes a trial and returns a number, or several.
        n_trials: the budget, in full-length trainings; ``budget=`` has precedence.
        direction, directions: ``"minimize"`` (the default) or ``"maximize"``.
        space: where it is None the objective is run for it: from its start to its first report, once and again for each
            value of what it may branch on. An objective that trains for long before it reports is better served with an
            ``lt.Space``, or a function that only makes the suggestions.
        max_epochs: how often the objective reports in a full training; where it is None the objective is run to its end
            once to count.
        strategy, tuning: as for :func:`luthier.tune`.

    Raises:
        UserError: a space that cannot be found or expressed, see :func:`luthier.integrations._optuna_space.find_space`.
    """
    if direction is not None and directions is not None:
        raise UserError("Both direction= and directions= were given.", "Keep one of the two.")
    ways = list(directions) if directions is not None else [direction or "minimize"]
    for way in ways:
        if way not in ("minimize", "maximize"):
            raise UserError(f"direction= got {way!r}.", nearest(str(way), ("minimize", "maximize")))
    names = ["value"] if len(ways) == 1 else [f"value_{i}" for i in range(len(ways))]
    if space is None or callable(space):
        found = find_space(objective if space is None else space, count_reports=space is None and max_epochs is None)
        space = found.space
        max_epochs = max_epochs or max(found.reports, 1)
    if strategy == "playbook":
        strategy = Playbook(extend=False)  # the objective names its ranges with each call: they stay
    asked = {way: [n for n, w in zip(names, ways) if w == way] for way in ("minimize", "maximize")}
    own = {"budget": f"{n_trials} trials", "name": getattr(objective, "__name__", "optuna"), "reduce": "last"}
    return tune(
        Objective(objective, tuple(names)), space, **{**own, **asked, **tuning}, max_epochs=max_epochs or 1,
        strategy=strategy,
    )  # fmt: skip


class Objective:
    """An Optuna objective as a training function."""

    def __init__(self, objective: Callable[[Any], Any], names: tuple[str, ...]) -> None:
        self._objective = objective
        self._names = names
        self.__name__ = getattr(objective, "__name__", "objective")

    def __call__(self, trial: Trial) -> None:
        """Run it for one job."""
        asking = RunningTrial(trial, self._names)
        try:
            value = self._objective(asking)
        except optuna.TrialPruned:
            asking.end(None)
        else:
            asking.end(value)


class RunningTrial(Suggestions):
    """An Optuna trial, in front of one of Luthier's."""

    def __init__(self, trial: Trial, names: tuple[str, ...]) -> None:
        super().__init__()
        self._trial = trial
        self._names = names
        self._steps = -1
        self._epoch = 0
        self._held: float | None = None
        self._going = True

    def _value(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self._trial.config:
            raise UserError(
                f"The objective asks for {name!r}, which is not in this configuration {self._trial.config!r}.",
                "It depends on the other values in a way that was not found: pass space= with all that is asked for.",
            )
        value = self._trial.config[name]
        if not distribution._contains(distribution.to_internal_repr(snap(distribution, value))):
            raise UserError(
                f"The objective asks for {name!r} in {distribution}, and the space has {value!r}.",
                "Ask for it in one fixed range.",
            )
        return value

    @property
    def number(self) -> int:
        """The trial's number."""
        return self._trial.id

    def report(self, value: float, step: int) -> None:
        """The next epoch; a step that was reported already is left out, as Optuna does.

        Raises:
            UserError: a study with several objectives.
        """
        if len(self._names) > 1:
            raise UserError("Optuna reports no intermediate values with several objectives.", "Drop trial.report().")
        if step <= self._steps:
            return
        self._steps = step
        self._tell()
        self._epoch += 1
        self._held = float(value)
        if self._epoch < self._trial.until:
            self._tell()

    def should_prune(self) -> bool:
        """Whether the strategy has seen enough for now. Not at the last epoch of a full training: then the objective
        returns its value."""
        at_rest = self._epoch >= self._trial.until and self._trial.until < self._trial.max_epochs
        return at_rest or not self._going or self._trial.should_stop

    def end(self, value: Any) -> None:
        """What the objective returned: the last epoch's value, or one epoch more where it reported fewer.

        Raises:
            UserError: another number of values than there are objectives.
        """
        extra = {k: v for k, v in self._user.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        if value is None:
            self._tell(extra)
            return
        values = list(value) if isinstance(value, Sequence) else [value]
        if len(values) != len(self._names):
            raise UserError(
                f"The objective returned {value!r}, for {len(self._names)} objectives.", "Return one number for each."
            )
        if self._trial.should_stop or self._epoch > self._trial.until:
            return
        if self._held is None:
            self._epoch = self._trial.until if self._epoch == 0 else self._epoch + 1
        if self._epoch <= self._trial.until:
            self._trial.goes_on({**extra, **dict(zip(self._names, map(float, values)))}, self._epoch)

    def _tell(self, extra: Mapping[str, float] | None = None) -> None:
        """Send the report that is held back: the last one of a job waits for what the objective returns."""
        if self._held is not None and self._epoch <= self._trial.until and self._epoch > self._trial.epoch:
            self._going = self._trial.goes_on({**(extra or {}), self._names[0]: self._held}, self._epoch)
        self._held = None


def snap(distribution: BaseDistribution, value: Any) -> Any:
    """See :func:`luthier.integrations._optuna_space.snapped`."""
    from luthier.integrations._optuna_space import snapped

    return snapped(distribution, value)
