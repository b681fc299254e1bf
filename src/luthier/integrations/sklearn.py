"""scikit-learn: a search with the interface of ``GridSearchCV``, for every estimator, skorch's nets and pipelines.

>>> search = LuthierSearchCV(net, lt.Space(lr=lt.Float(1e-4, 1e-1, log=True)), resource="max_epochs", max_resources=27)
>>> search.fit(X, y).best_params_
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from joblib import effective_n_jobs
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection._search import BaseSearchCV
from sklearn.utils._param_validation import Interval

from luthier.asktell import AskTell
from luthier.contracts import Done, Job
from luthier.core.errors import UserError, nearest
from luthier.core.params import Choice
from luthier.core.space import Space
from luthier.result import Result

Evaluate = Callable[..., dict[str, Any]]
Meant = Mapping[str, Mapping[str, Any]]


class LuthierSearchCV(BaseSearchCV):
    """Search the parameters of an estimator by cross-validation.

    All that ``GridSearchCV`` has is there and means the same: ``cv_results_``, ``best_params_``, ``best_score_``,
    ``best_estimator_``, ``predict`` and ``score`` by delegation, several metrics, metadata routing. A candidate is one
    trial; a fit that fails is recorded with ``error_score`` and the search goes on. None is fitted twice.

    With a ``resource`` candidates are first fitted with a part of it, as the strategy has it, and the best ones again
    with more: from the start each time, since an estimator keeps no checkpoint. The best is chosen among those that had
    all of it, however well others did with less; where the budget reached none, among those with the most.

    Args:
        estimator: anything with ``fit`` and ``score``, or with ``scoring=``.
        space: an ``lt.Space``, or a mapping of parameters (``"net__lr"`` in a pipeline) to hyperparameters or lists, of
            whatever the estimator takes: tuples, functions, estimators.
        n_iter: the budget, in candidates with the whole resource.
        strategy: as for :func:`luthier.tune`.
        resource: an integer parameter that grows with the effort: ``"max_epochs"``, ``"n_estimators"``, ``"max_iter"``.
            None where each candidate is fitted once.
        max_resources: the most of it, 1 or more; needed with ``resource``.
        scoring, n_jobs, refit, cv, verbose, pre_dispatch, error_score, return_train_score: as for ``GridSearchCV``.
            Candidates are fitted at once as far as ``n_jobs`` has more workers than there are folds.
        storage: a folder, a file or a URL for the log, of each ``fit`` a study of its own (``study``, ``study-2``); in
            memory where None.
        random_state: a whole number that fixes the search, together with those of the estimator and of ``cv``.

    Attributes:
        result_: the :class:`luthier.Result`, for the report, importances and next steps. Its best is that of all
            trials; with a resource it may have had a part of it, which ``best_params_`` never has while others had all.
        n_resources_: with a resource, how much of it each candidate had, in the order of ``cv_results_``.

    Raises:
        UserError: a parameter that the estimator does not have; a resource without its maximum.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseSearchCV._parameter_constraints,
        "space": [Mapping],
        "n_iter": [Interval(Integral, 1, None, closed="left")],
        "strategy": [object],
        "resource": [str, None],
        "max_resources": [Interval(Integral, 1, None, closed="left"), None],
        "storage": [str, Path, None],
        "random_state": [Interval(Integral, 0, None, closed="left"), None],
    }

    def __init__(
        self,
        estimator: Any,
        space: Any,
        *,
        n_iter: int = 20,
        strategy: Any = "expert",
        resource: str | None = None,
        max_resources: int | None = None,
        scoring: Any = None,
        n_jobs: int | None = None,
        refit: Any = True,
        cv: Any = None,
        verbose: int = 0,
        pre_dispatch: Any = "2*n_jobs",
        error_score: Any = np.nan,
        return_train_score: bool = False,
        storage: str | Path | None = None,
        random_state: int | None = None,
    ) -> None:
        super().__init__(
            estimator=estimator,
            scoring=scoring,
            n_jobs=n_jobs,
            refit=refit,
            cv=cv,
            verbose=verbose,
            pre_dispatch=pre_dispatch,
            error_score=error_score,
            return_train_score=return_train_score,
        )
        self.space = space
        self.n_iter = n_iter
        self.strategy = strategy
        self.resource = resource
        self.max_resources = max_resources
        self.storage = storage
        self.random_state = random_state

    def _run_search(self, evaluate_candidates: Evaluate, **_: Any) -> None:
        """What ``BaseSearchCV.fit`` asks of a search: hand out candidates, learn from their scores."""
        space, meant = _space(self.space)
        self._check(space)
        metric = self.refit if isinstance(self.refit, str) else "score"
        with _new_name(self.storage) as name:
            study = AskTell(
                space,
                maximize=metric,
                max_epochs=self.max_resources or 1,
                budget=f"{self.n_iter} trials",
                strategy=self.strategy,
                storage=self.storage,
                name=name,
                seed=int(self.random_state or 0),
                reduce="last",
            )
        self._evaluated: tuple[Any, ...] = ()
        try:
            self._search(study, evaluate_candidates, meant, metric)
            self.result_ = Result(study.history)
        finally:
            study.close()
            del self._evaluated

    def _search(self, study: AskTell, evaluate_candidates: Evaluate, meant: Meant, metric: str) -> None:
        at_once = max(1, math.ceil(effective_n_jobs(self.n_jobs) / self.n_splits_))
        told: dict[str, Mapping[str, float]] = {}  # by candidate: none is fitted twice
        rows: list[dict[str, Any] | None] = []  # of each candidate in order: None, or its parameters where it failed
        results: dict[str, Any] = {}
        trouble: ValueError | None = None
        while jobs := _ask(study, at_once):
            asked = {job.trial: self._candidate(job) for job in jobs}
            new = {key: given for given in asked.values() if (key := repr(given)) not in told}
            candidates = [_as_meant(given, meant) for given in new.values()]
            more = {"n_resources": [given[self.resource] for given in new.values()]} if self.resource else None
            try:
                results = evaluate_candidates(candidates, more_results=more) if new else results
            except ValueError as error:
                if self.error_score == "raise" or "fits failed" not in str(error):
                    raise
                trouble = error
                warnings.warn(f"{str(error).strip()}\nThey score {self.error_score}.", FitFailedWarning, stacklevel=2)
                rows += candidates
                told |= {key: {metric: math.nan} for key in new}
            else:
                rows += [None] * len(new)
                told |= {key: _scores(results, k - len(new)) for k, key in enumerate(new)}
            for job in jobs:
                _tell(study, job, told[repr(asked[job.trial])], metric, trouble)
        if not results and trouble is not None:
            raise trouble
        if any(row is not None for row in rows):
            self._show_failed(results, rows)
        if self.resource:
            self.n_resources_ = [int(n) for n in results["n_resources"]]

    def _format_results(self, *given: Any) -> dict[str, Any]:
        """Keeps what it is given: candidates whose fits all failed are no part of it, and have rows all the same."""
        self._evaluated = given
        return dict(super()._format_results(*given))

    def _show_failed(self, results: dict[str, Any], rows: Sequence[Mapping[str, Any] | None]) -> None:
        """Give ``results`` a row for each failed candidate, in the order of ``rows``, as ``GridSearchCV`` does."""
        params, n_splits, out, more = self._evaluated
        fitted = iter(range(len(params)))
        lost = {**out[0], "fit_time": 0.0, "score_time": 0.0}
        for scores in ("test_scores", "train_scores"):
            if isinstance(lost.get(scores), Mapping):
                lost[scores] = dict.fromkeys(lost[scores], self.error_score)
            elif scores in lost:
                lost[scores] = self.error_score
        all_params, all_out = [], []
        for row in rows:
            if row is not None:
                all_params.append(row)
                all_out += [lost] * n_splits
            else:
                at = next(fitted)
                all_params.append(params[at])
                all_out += out[at * n_splits : (at + 1) * n_splits]
        all_more = {"n_resources": [p[str(self.resource)] for p in all_params]} if more else more
        results.clear()
        results.update(super()._format_results(all_params, n_splits, all_out, all_more))

    def _candidate(self, job: Job) -> dict[str, Any]:
        return {**job.config, **({self.resource: job.until} if self.resource else {})}

    def _check(self, space: Space) -> None:
        known = self.estimator.get_params(deep=True)
        for name in [*space, *([self.resource] if self.resource else [])]:
            if not _takes(known, name):
                raise UserError(f"The estimator has no parameter {name!r}.", nearest(name, known))
        if self.resource and self.max_resources is None:
            raise UserError(f"resource={self.resource!r} has no maximum.", "Write max_resources=27.")
        if self.resource in space:
            raise UserError(f"{self.resource!r} is the resource and in the space.", "Keep it in one of the two.")
        if self.max_resources and not self.resource:
            raise UserError("max_resources= has no resource=.", 'Write resource="max_epochs".')

    @staticmethod
    def _select_best_index(refit: Any, refit_metric: str, results: Mapping[str, Any]) -> int:
        """The best of those with the whole resource; where none of them has a score, of those with the most of it."""
        if callable(refit) or "n_resources" not in results:
            return int(BaseSearchCV._select_best_index(refit, refit_metric, results))
        resources, scores = results["n_resources"], results[f"mean_test_{refit_metric}"]
        if np.isnan(scores).all():
            return int(BaseSearchCV._select_best_index(refit, refit_metric, results))
        most = resources[~np.isnan(scores)].max()
        return int(np.nanargmax(np.where(resources == most, scores, np.nan)))


def _ask(study: AskTell, many: int) -> list[Job]:
    jobs: list[Job] = []
    while len(jobs) < many:
        job = study.ask()
        if not isinstance(job, Job):
            if not jobs and not isinstance(job, Done):
                continue
            break
        jobs.append(job)
    return jobs


def _scores(results: Mapping[str, Any], row: int) -> dict[str, float]:
    """The means over the folds, and how long a fit took."""
    prefix = "mean_test_"
    metrics = {k.removeprefix(prefix): float(v[row]) for k, v in results.items() if k.startswith(prefix)}
    metrics |= {
        f"train_{k[len('mean_train_') :]}": float(v[row]) for k, v in results.items() if k[:11] == "mean_train_"
    }
    return {**metrics, "fit_time": float(results["mean_fit_time"][row])}


def _tell(study: AskTell, job: Job, metrics: Mapping[str, float], metric: str, trouble: ValueError | None) -> None:
    if math.isfinite(metrics[metric]):
        study.tell(job, job.until, {k: v for k, v in metrics.items() if math.isfinite(v)})
    elif len(metrics) == 1 and trouble is not None:
        study.fail(job, str(trouble).strip().splitlines()[-1])
    else:
        study.fail(job, f"{metric} is {metrics[metric]}: a fold failed")


def _takes(known: Mapping[str, Any], name: str) -> bool:
    """Whether an estimator with these parameters takes ``name``.

    A net of skorch's hands on what begins with a class or a function: ``module__width``, ``optimizer__momentum``.
    """
    if name in known:
        return True
    owner = name.rpartition("__")[0]
    while owner and owner not in known:
        owner = owner.rpartition("__")[0]
    return callable(known.get(owner)) and not hasattr(known[owner], "get_params")


def _new_name(storage: str | Path | None) -> AbstractContextManager[str]:
    """A name of its own for each fit: what another one found on other data is no part of this one's results."""
    if storage is None:
        return nullcontext("study")
    from luthier import store

    return store.new_name(store.locate(storage), "study")


def _space(given: Any) -> tuple[Space, Meant]:
    """The space, and for each list with something in it that is no plain value what the names of its choices mean."""
    if isinstance(given, Space):
        return given, {}
    meant: dict[str, dict[str, Any]] = {}
    params: dict[str, Any] = {}
    for name, values in given.items():
        if not isinstance(values, list | tuple | np.ndarray):
            params[name] = values
            continue
        values = [v.item() if isinstance(v, np.generic) else v for v in values]
        if not all(v is None or isinstance(v, str | int | float) for v in values):
            meant[name] = {}
            for value in values:
                label = str(getattr(value, "__name__", value))
                meant[name][f"{label} ({len(meant[name]) + 1})" if label in meant[name] else label] = value
            values = list(meant[name])
        params[name] = Choice(*values)
    return Space.from_dict(params), meant


def _as_meant(candidate: Mapping[str, Any], meant: Meant) -> dict[str, Any]:
    return {n: meant[n][v] if n in meant else v for n, v in candidate.items()}
