"""A history as Optuna's storage: the past at once and unchecked, one study, and the trials asked for after it.

Optuna's own in-memory storage checks and copies each trial that it is given, a tenth of a millisecond each; a sampler
that is made anew for each decision would spend most of its time there.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

NAME, ID = "luthier", 0


class Snapshot(BaseStorage):
    """One study, whose first trials are ``past``; those are never changed.

    Args:
        past: trials whose numbers and ids count from 0.
    """

    def __init__(self, past: Sequence[FrozenTrial]) -> None:
        self._trials = list(past)
        self._own = len(self._trials)
        self._directions = [StudyDirection.MINIMIZE]
        self._user: dict[str, Any] = {}
        self._system: dict[str, Any] = {}

    # -- the study -------------------------------------------------------------------------------------------------
    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """The one study."""
        self._directions = list(directions)
        return ID

    def delete_study(self, study_id: int) -> None:
        """Forget what is not past."""
        del self._trials[self._own :]

    def get_study_id_from_name(self, study_name: str) -> int:
        """The one study's."""
        return ID

    def get_study_name_from_id(self, study_id: int) -> str:
        """The one study's."""
        return NAME

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """As it was created."""
        return self._directions

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Kept as long as this object."""
        self._user[key] = value

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Kept as long as this object."""
        self._system[key] = value

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """What was set."""
        return dict(self._user)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """What was set."""
        return dict(self._system)

    def get_all_studies(self) -> list[Any]:
        """The one study."""
        from optuna.study._frozen import FrozenStudy

        user, system = dict(self._user), dict(self._system)
        return [FrozenStudy(NAME, None, user, system, ID, directions=self._directions)]

    # -- trials ----------------------------------------------------------------------------------------------------
    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """A running trial after all others, or a copy of the template there."""
        number = len(self._trials)
        trial = frozen(number, TrialState.RUNNING, {}, {}) if template_trial is None else copy.copy(template_trial)
        trial.number, trial._trial_id = number, number
        self._trials.append(trial)
        return number

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Of a trial that was asked for."""
        trial = self._changed(trial_id)
        value = distribution.to_external_repr(param_value_internal)
        trial.params = {**trial.params, param_name: value}
        trial.distributions = {**trial.distributions, param_name: distribution}

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Of a trial that was asked for."""
        trial = self._changed(trial_id)
        if values is not None:
            trial.values = list(values)
        trial.state = state
        return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Of a trial that was asked for."""
        trial = self._changed(trial_id)
        trial.intermediate_values = {**trial.intermediate_values, step: intermediate_value}

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Of a trial that was asked for."""
        trial = self._changed(trial_id)
        trial.user_attrs = {**trial.user_attrs, key: value}

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Of a trial that was asked for."""
        trial = self._changed(trial_id)
        trial.system_attrs = {**trial.system_attrs, key: value}

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """By its number."""
        return self._trials[trial_id]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The past, then what was asked for."""
        trials = self._trials if states is None else [t for t in self._trials if t.state in states]
        return copy.deepcopy(trials) if deepcopy else list(trials)

    def _changed(self, trial_id: int) -> FrozenTrial:
        """The trial, as a new object: who holds the old one sees no change, and the past has none."""
        self.check_trial_is_updatable(trial_id, self._trials[trial_id].state)
        trial = copy.copy(self._trials[trial_id])
        self._trials[trial_id] = trial
        return trial


def frozen(
    number: int,
    state: TrialState,
    params: dict[str, Any],
    distributions: dict[str, BaseDistribution],
    values: Sequence[float] | None = None,
    system_attrs: dict[str, Any] | None = None,
) -> FrozenTrial:
    """A trial of that number and no time."""
    return FrozenTrial(
        number=number,
        trial_id=number,
        state=state,
        value=None,
        values=values,
        datetime_start=None,
        datetime_complete=None,
        params=params,
        distributions=distributions,
        user_attrs={},
        system_attrs=system_attrs or {},
        intermediate_values={},
    )
