"""scikit-learn: a search with the interface of ``GridSearchCV``, for every estimator, skorch's nets and pipelines.

>>> search = LuthierSearchCV(net, lt.Space(lr=lt.Float(1e-4, 1e-1, log=True)), resource="max_epochs", max_resources=27)
>>> search.fit(X, y).best_params_
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from joblib import effective_n_jobs
from sklearn.model_selection._search import BaseSearchCV
from sklearn.utils._param_validation import Interval

from luthier.api import Result
from luthier.asktell import AskTell
from luthier.contracts import Done, Job
from luthier.core.errors import UserError, nearest
from luthier.core.params import Choice
from luthier.core.space import Space

Evaluate = Callable[..., Mapping[str, Any]]


class LuthierSearchCV(BaseSearchCV):
    """Search the parameters of an estimator by cross-validation.

    All that ``GridSearchCV`` has is there and means the same: ``cv_results_``, ``best_params_``, ``best_score_``,
    ``best_estimator_``, ``predict`` and ``score`` by delegation, several metrics, metadata routing. A candidate is one
    trial; a fit that fails is recorded and the search goes on.

    With a ``resource`` candidates are first fitted with a part of it, as the strategy has it, and the best ones again
    with more: from the start each time, since an estimator keeps no checkpoint. The best is chosen among those that had
    all of it.

    Args:
        estimator: anything with ``fit`` and ``score``, or with ``scoring=``.
        space: an ``lt.Space``, or a mapping of parameters (``"net__lr"`` in a pipeline) to hyperparameters or lists.
        n_iter: the budget, in candidates with the whole resource.
        strategy: as for :func:`luthier.tune`.
        resource: an integer parameter that grows with the effort: ``"max_epochs"``, ``"n_estimators"``, ``"max_iter"``.
            None where each candidate is fitted once.
        max_resources: the most of it, 1 or more; needed with ``resource``.
        scoring, n_jobs, refit, cv, verbose, pre_dispatch, error_score, return_train_score: as for ``GridSearchCV``.
            Candidates are fitted at once as far as ``n_jobs`` has more workers than there are folds.
        storage: a folder, a file or a URL for the log; in memory where None.
        random_state: a whole number that fixes the search, together with those of the estimator and of ``cv``.

    Attributes:
        result_: the :class:`luthier.Result`, for the report, importances and next steps.
        n_resources_: with a resource, how much of it each candidate had, in the order of ``cv_results_``.

    Raises:
        UserError: a parameter that the estimator does not have; a resource without its maximum; a storage that holds
            candidates already, whose fits ``cv_results_`` could not show.
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
        space = _space(self.space)
        self._check(space)
        metric = self.refit if isinstance(self.refit, str) else "score"
        epochs = self.max_resources or 1
        study = AskTell(
            space,
            maximize=metric,
            max_epochs=epochs,
            budget=f"{self.n_iter} trials",
            strategy=self.strategy,
            storage=self.storage,
            seed=int(self.random_state or 0),
            reduce="last",
        )
        if study.history.n_trained:
            raise UserError(
                f"{self.storage} holds candidates of an earlier search, which cv_results_ could not show.",
                "Name another storage=.",
            )
        at_once = max(1, math.ceil(effective_n_jobs(self.n_jobs) / self.n_splits_))
        results: Mapping[str, Any] = {}
        trouble: ValueError | None = None
        while jobs := _ask(study, at_once):
            more = {"n_resources": [job.until for job in jobs]} if self.resource else None
            try:
                results = evaluate_candidates([self._candidate(job) for job in jobs], more_results=more)
            except ValueError as error:
                if self.error_score == "raise" or "fits failed" not in str(error):
                    raise
                trouble = error
                for job in jobs:
                    study.fail(job, str(error).strip().splitlines()[-1])
                continue
            rows = range(len(results["params"]) - len(jobs), len(results["params"]))
            for row, job in zip(rows, jobs):
                _tell(study, job, results, row, metric)
        if not results and trouble is not None:
            raise trouble
        self.result_ = Result(study.history)
        if self.resource:
            self.n_resources_ = [int(n) for n in results["n_resources"]]

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
        """The best of those with the whole resource, of all where nobody had it."""
        if callable(refit) or "n_resources" not in results:
            return int(BaseSearchCV._select_best_index(refit, refit_metric, results))
        resources = results["n_resources"]
        scores = np.where(resources == resources.max(), results[f"mean_test_{refit_metric}"], np.nan)
        return int(BaseSearchCV._select_best_index(refit, refit_metric, results) if np.isnan(scores).all()
                   else np.nanargmax(scores))  # fmt: skip


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


def _tell(study: AskTell, job: Job, results: Mapping[str, Any], row: int, metric: str) -> None:
    prefix = "mean_test_"
    metrics = {k.removeprefix(prefix): float(v[row]) for k, v in results.items() if k.startswith(prefix)}
    metrics |= {
        f"train_{k[len('mean_train_') :]}": float(v[row]) for k, v in results.items() if k[:11] == "mean_train_"
    }
    metrics["fit_time"] = float(results["mean_fit_time"][row])
    if not math.isfinite(metrics[metric]):
        study.fail(job, f"{metric} is {metrics[metric]}: a fold failed")
        return
    study.tell(job, job.until, {k: v for k, v in metrics.items() if math.isfinite(v)})


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


def _space(given: Any) -> Space:
    if isinstance(given, Space):
        return given
    return Space.from_dict({k: Choice(*v) if isinstance(v, (list, tuple)) else v for k, v in given.items()})
