"""Optuna's studies as Luthier's logs, logs as Optuna's studies, and Luthier's searchers as Optuna's samplers."""

from __future__ import annotations

import math
import time
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from luthier.contracts import Searcher
from luthier.core import events as ev
from luthier.core import goals
from luthier.core.errors import SpaceError, UserError, nearest
from luthier.core.history import Entry, History, fold
from luthier.core.params import Choice, Config, Constant, Float, Int, Param, Value
from luthier.core.space import Space
from luthier.core.study import Objective, Study
from luthier.core.trial import Status, TrialRecord
from luthier.integrations._optuna_space import distributions_of, param_of
from luthier.result import Result
from luthier.run.decisions import trial_seed
from luthier.search.optuna_sampler import quiet
from luthier.strategies import STRATEGIES, check_strategy

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class LeftOut(UserWarning):
    """A trial of Optuna's that a study does not take over, and why."""


# -- an Optuna study as a log ------------------------------------------------------------------------------------------


def import_study(
    study: optuna.Study,
    storage: str | Path,
    *,
    name: str | None = None,
    space: Space | None = None,
    max_epochs: int | None = None,
    strategy: str = "expert",
    seed: int = 0,
) -> Result:
    """Write an Optuna study as a Luthier log, for the report, a diagnosis, ``warm_start=[storage]``, or to go on with.

    Its intermediate values are epochs in their order; what the objective returned counts. Trials that still run are
    left out, and with a warning those whose values were enqueued out of their ranges. ``luthier resume STORAGE --target
    FILE.py:NAME`` goes on with it.

    Args:
        storage: a folder, a file or a URL.
        name: names the study there; the Optuna study's own name where None.
        space: what the trials' ranges say where None; what some trials lack is conditional on one other value where
            that explains it.
        max_epochs: the length of a full training; the longest that the study has where None.
        strategy, seed: with which it can go on.

    Raises:
        UserError: no finished trial; a trial that does not lie in ``space``; a study of that name is there already.
    """
    from luthier import store as stores

    trials = [t for t in study.get_trials(deepcopy=False) if t.state in FINISHED]
    if not trials:
        raise UserError(f"The Optuna study {study.study_name!r} has no finished trial.", "Run it first.")
    left_out: list[str] = []
    if space is None:
        space = space_of(trials)
        trials, left_out = _lying_in(space, trials)
    label = name or study.study_name
    length = max_epochs or max([1, *(len(t.intermediate_values) for t in trials if t.state == TrialState.COMPLETE)])
    asked = asked_of(study, space, label, length, check_strategy(strategy), seed)
    entries = list(entries_of(asked, trials))
    url = stores.locate(storage)
    file = stores.file_of(url)
    if (file is None or file.exists()) and label in stores.study_names(url):
        raise UserError(f"{storage} already holds a study {label!r}.", "Give it another one: name= (--as).")
    log = stores.SqlStore(url, label)
    try:
        log.append(entries, 0)
    finally:
        log.close()
    for why in left_out:
        warnings.warn(LeftOut(why), stacklevel=2)
    return Result(fold(entries))


def _lying_in(space: Space, trials: Sequence[FrozenTrial]) -> tuple[list[FrozenTrial], list[str]]:
    """The trials of a space, and why the others are none."""
    kept, left_out = [], []
    for trial in trials:
        try:
            _config_of(space, trial)
        except UserError as error:
            left_out.append(f"{error.problem} It is left out.")
        else:
            kept.append(trial)
    if not kept:
        raise UserError(left_out[0].removesuffix(" It is left out."), "Pass space=, wide enough for its trials.")
    return kept, left_out


def asked_of(study: optuna.Study, space: Space, name: str, max_epochs: int, strategy: str, seed: int) -> Study:
    """What an Optuna study asks, in Luthier's terms."""
    directions = study.directions
    names = study.metric_names or (
        ["value"] if len(directions) == 1 else [f"value_{i}" for i in range(len(directions))]
    )
    objectives = [
        Objective(metric, way == optuna.study.StudyDirection.MINIMIZE, "last") for metric, way in zip(names, directions)
    ]
    return Study(name, space, objectives[0], max_epochs, seed=seed, strategy=strategy, also=tuple(objectives[1:]))


def entries_of(study: Study, trials: Sequence[FrozenTrial]) -> Iterator[Entry]:
    """The log that Luthier would have of these trials."""
    metrics = [o.metric for o in study.goals.objectives]
    at = min([t.datetime_start.timestamp() for t in trials if t.datetime_start is not None] or [time.time()])
    yield Entry(at, ev.Created(study))
    for number, trial in enumerate(trials):
        if trial.datetime_complete is not None:
            at = max(at, trial.datetime_complete.timestamp())
        for event in _events_of(study, number, trial, metrics):
            yield Entry(at, event)


def _config_of(space: Space, trial: FrozenTrial) -> Config:
    """What a trial ran with.

    Raises:
        UserError: it does not lie in ``space``.
    """
    config: dict[str, Value] = {}
    for name, param in space.items():
        try:
            if name in trial.params:
                config[name] = param.check(_near(param, trial.params[name]))
            elif isinstance(param, Constant):
                config[name] = param.value
        except SpaceError as error:
            raise UserError(
                f"Optuna's trial {trial.number} does not lie in the space: {name}: {error.problem}", "Widen space=."
            ) from None
    return config


def _near(param: Param, value: Any) -> Any:
    """``value`` as a hyperparameter has it where rounding alone tells the two apart: Optuna's steps of 0.1 add up to
    0.30000000000000004."""
    if not isinstance(value, float):
        return value
    if isinstance(param, Float):
        return param.to_bounds(value)
    known = param.choices if isinstance(param, Choice) else (param.value,) if isinstance(param, Constant) else ()
    numbers = [k for k in known if isinstance(k, int | float) and not isinstance(k, bool)]
    return next((k for k in numbers if math.isclose(k, value, rel_tol=1e-9, abs_tol=1e-12)), value)


def _events_of(study: Study, number: int, trial: FrozenTrial, metrics: Sequence[str]) -> Iterator[ev.Event]:
    yield ev.Started(
        trial=number,
        config=ev.plain(_config_of(study.space, trial)),
        seed=trial_seed(study.seed, number),
        until=study.max_epochs,
        horizon=study.max_epochs,
        why=f"Optuna's trial {trial.number}",
        notes={"optuna": trial.number},
    )
    complete = trial.state == TrialState.COMPLETE
    told = [v for _, v in sorted(trial.intermediate_values.items())][: study.max_epochs]
    final = list(trial.values or []) if complete else []
    before = told[:-1] if final and len(told) == study.max_epochs else told
    epoch = 0
    for value in before:
        if math.isfinite(value) and len(metrics) == 1:
            epoch += 1
            yield ev.Reported(number, epoch, {metrics[0]: float(value)})
    if final:
        epoch = epoch + 1 if told else study.max_epochs
        yield ev.Reported(number, epoch, dict(zip(metrics, map(float, final))))
        yield ev.Ended(number, epoch, complete=True)
    elif trial.state == TrialState.PRUNED:
        yield ev.Stopped(number, epoch, "pruned by Optuna")
    elif trial.state == TrialState.FAIL:
        yield ev.Failed(number, "raised", str(trial.system_attrs.get("fail_reason") or "failed in Optuna"))


def space_of(trials: Sequence[FrozenTrial]) -> Space:
    """The widest range of each name in any trial, conditional where one other value explains its absence."""
    ranges: dict[str, BaseDistribution] = {}
    for trial in trials:
        for name, distribution in trial.distributions.items():
            ranges[name] = _hull(name, ranges.get(name, distribution), distribution)
    if not ranges:
        raise UserError("The trials of this study have no hyperparameters.", "Pass space=.")
    params = {}
    whole = [t for t in trials if t.state != TrialState.FAIL]  # those that failed may not have asked for everything
    for name, distribution in ranges.items():
        parents = [p for p in ranges if p != name]
        when = None if all(name in t.params for t in whole) else _reason(name, parents, ranges, whole)
        params[name] = param_of(name, distribution, when)
    try:
        return Space(params)
    except SpaceError:  # in a circle, each explains the other's absence: no condition at all
        return Space({name: param_of(name, distribution) for name, distribution in ranges.items()})


def _reason(
    name: str, parents: Sequence[str], ranges: Mapping[str, BaseDistribution], trials: Sequence[FrozenTrial]
) -> dict[str, list[Any]] | None:
    for parent in parents:
        if isinstance(ranges[parent], FloatDistribution):
            continue
        having = [t.params.get(parent) for t in trials if name in t.params]
        lacking = [t.params[parent] for t in trials if name not in t.params and parent in t.params]
        if all(parent in t.params for t in trials if name in t.params) and lacking and not {*having} & {*lacking}:
            return {parent: list(dict.fromkeys(having))}
    return None


def _hull(name: str, one: BaseDistribution, other: BaseDistribution) -> BaseDistribution:
    if one == other:
        return one
    if isinstance(one, CategoricalDistribution) and isinstance(other, CategoricalDistribution):
        return CategoricalDistribution(list(dict.fromkeys([*one.choices, *other.choices])))
    if type(one) is not type(other) or not isinstance(one, FloatDistribution | IntDistribution):
        raise UserError(f"{name!r} is {one} in one trial and {other} in another.", "Pass space=.")
    assert isinstance(other, FloatDistribution | IntDistribution)
    low, high = min(one.low, other.low), max(one.high, other.high)
    if isinstance(one, IntDistribution):
        return IntDistribution(int(low), int(high), log=one.log and other.log)
    return FloatDistribution(low, high, log=one.log and other.log)


# -- a log as an Optuna study ------------------------------------------------------------------------------------------


def export_study(
    source: Result | History | str | Path, *, storage: Any = None, study_name: str | None = None
) -> optuna.Study:
    """A Luthier study as an Optuna study, for its dashboard or its plots.

    Trials that were stopped or are paused become pruned ones. Why each was started, its stage and seed, and how it
    failed are user attributes; so are all metrics but the objective at the epoch that counts.

    Args:
        source: a result, a history, or where the study is stored.
        storage: of Optuna's, ``"sqlite:///optuna.db"``; in memory where None.
        study_name: the study's own name where None.

    Raises:
        StorageError: there is no study at ``source``.
    """
    history = _history_of(source)
    ways = optuna.study.StudyDirection
    objectives = history.study.goals.objectives
    ranges = _ranges(history)
    with quiet():
        study = optuna.create_study(
            storage=storage,
            study_name=study_name or history.study.name,
            directions=[ways.MINIMIZE if o.minimize else ways.MAXIMIZE for o in objectives],
        )
        study.set_metric_names([o.metric for o in objectives])
        study.add_trials([_frozen(history, t, ranges) for t in history.trained() if t.status is not Status.RUNNING])
    return study


def _history_of(source: Result | History | str | Path) -> History:
    if isinstance(source, History):
        return source
    if isinstance(source, Result):
        return source.history
    from luthier import store as stores

    log = stores.open_store(source)
    try:
        return fold(log.read())
    finally:
        log.close()


def _ranges(history: History) -> dict[str, BaseDistribution]:
    """Optuna's distributions, wide enough for every trial: a rate that follows the batch size leaves its own range."""
    ranges: dict[str, BaseDistribution] = {**distributions_of(history.space)}
    for name, param in history.space.items():
        values = [t.config[name] for t in history.trained() if name in t.config]
        if isinstance(param, Constant):
            ranges[name] = CategoricalDistribution([param.value])
        elif isinstance(param, Float) and values:
            numbers = [float(str(v)) for v in values]
            ranges[name] = FloatDistribution(min(param.low, *numbers), max(param.high, *numbers), log=param.log)
        elif isinstance(param, Int) and values:
            whole = [int(str(v)) for v in values]
            ranges[name] = IntDistribution(min(param.low, *whole), max(param.high, *whole), log=param.log)
        elif isinstance(param, Choice):
            ranges[name] = CategoricalDistribution(param.choices)
    return ranges


def _frozen(history: History, trial: TrialRecord, ranges: Mapping[str, BaseDistribution]) -> FrozenTrial:
    point = goals.point(history, trial) if trial.status is Status.DONE else None
    state = {Status.FAILED: TrialState.FAIL, Status.DONE: TrialState.COMPLETE}.get(trial.status, TrialState.PRUNED)
    if trial.status is Status.DONE and point is None:
        state = TrialState.FAIL
    about: dict[str, Any] = {"why": trial.why, "stage": trial.stage, "seed": trial.seed, "stopped": trial.stop_why}
    if trial.failure is not None:
        about["failure"] = f"{trial.failure.kind}: {trial.failure.reason}"
    metric = history.objective.metric
    counted = goals.counted(history.study.goals, trial)
    about.update({k: v for k, v in (counted.metrics if counted else {}).items() if k != metric})
    params = {n: v for n, v in trial.config.items() if n in ranges}
    return optuna.create_trial(
        state=state,
        values=None if point is None else [point.scores[o.metric] for o in history.study.goals.objectives],
        params=params,
        distributions={n: ranges[n] for n in params},
        intermediate_values={} if history.study.also else dict(trial.curve(metric)),
        user_attrs={k: v for k, v in about.items() if v is not None},
    )


# -- a searcher as a sampler -------------------------------------------------------------------------------------------


class LuthierSampler(optuna.samplers.BaseSampler):
    """A searcher of Luthier's for ``optuna.create_study(sampler=LuthierSampler("pibo"))``.

    It sees the study's trials as a log. Until the first trial is complete nothing is known of the space, unless it is
    given; what the searcher does not know it draws uniformly, as it does with values that only some trials have.

    Args:
        searcher: the name of a strategy whose searcher is meant (``"pibo"``, ``"sobol"``, ``"bohb"``, ``"priorband"``,
            ``"random"``), or a Searcher.
        space: what is searched, with its conditions; what all complete trials have in common where None.
        seed: with the trial's number it fixes every draw.

    Raises:
        UserError: a strategy without a searcher of its own.
    """

    def __init__(self, searcher: str | Searcher = "pibo", *, space: Space | None = None, seed: int = 0) -> None:
        self._searcher = _searcher(searcher)
        self._space = space
        self._seed = seed

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What all complete trials have, or the space that was given."""
        if self._space is not None:
            return {**distributions_of(self._space)}
        return optuna.search_space.intersection_search_space(study.get_trials(deepcopy=False))

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """What the searcher suggests after the study's trials."""
        if not search_space:
            return {}
        space = self._space or Space({n: param_of(n, d) for n, d in search_space.items()})
        asked = asked_of(study, space, study.study_name, 1, "custom", self._seed)
        done = [
            t for t in study.get_trials(deepcopy=False) if t.state in FINISHED and set(search_space) & set(t.params)
        ]
        history = fold(entries_of(asked, [_clipped(t, space) for t in done]))
        config = self._searcher.suggest(history, np.random.default_rng((self._seed, trial.number)))
        if config is None:
            study.stop()
            return {}
        return {n: v for n, v in config.items() if n in search_space}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A uniform draw on the scale, by the seed, the trial's number and the name."""
        rng = np.random.default_rng((self._seed, trial.number, zlib.crc32(param_name.encode())))
        return param_of(param_name, param_distribution).from_unit(float(rng.random()))


def _clipped(trial: FrozenTrial, space: Space) -> FrozenTrial:
    """A trial with one value for all its reports, moved into the space; pruned ones count with their last value."""
    import copy

    seen = copy.copy(trial)
    seen.params = {n: space.clip(n, _near(space[n], v)) for n, v in trial.params.items() if n in space}
    if trial.state == TrialState.PRUNED and trial.intermediate_values:
        last = trial.intermediate_values[max(trial.intermediate_values)]
        if math.isfinite(last):
            seen.state, seen.values = TrialState.COMPLETE, [last]
    seen.intermediate_values = {}
    return seen


def _searcher(given: str | Searcher) -> Searcher:
    if not isinstance(given, str):
        return given
    check_strategy(given)
    having = {
        n: s for n, make in STRATEGIES.items() if n not in ("cmaes",) and (s := _own_searcher(make())) is not None
    }
    if given not in having:
        raise UserError(
            f"The strategy {given!r} has no searcher of its own to sample with.",
            nearest(given, having) if len(given) > 20 else f"Those that have: {', '.join(sorted(having))}.",
        )
    return having[given]


def _own_searcher(scheduler: object) -> Searcher | None:
    while scheduler is not None:
        found = getattr(scheduler, "searcher", None)
        if isinstance(found, Searcher):
            return found
        scheduler = getattr(scheduler, "inner", None)
    return None
