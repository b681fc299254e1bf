"""A search with the interface of scikit-learn's, on its estimators, in pipelines, on skorch's nets."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from joblib import parallel_config
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import FitFailedWarning
from sklearn.feature_selection import SelectKBest, f_classif, mutual_info_classif
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import luthier as lt
from luthier.core.trial import Status
from luthier.integrations.sklearn import LuthierSearchCV
from luthier.store import history_of, locate, open_store, study_names

X, Y = make_classification(200, 8, n_informative=4, random_state=0)
C = lt.Space(C=lt.Float(1e-3, 1e2, log=True))


@parametrize_with_checks(
    [
        LuthierSearchCV(LogisticRegression(), {"C": lt.Float(1e-2, 1e2, log=True)}, n_iter=2, cv=2),
        LuthierSearchCV(Ridge(), {"alpha": lt.Float(1e-2, 1e2, log=True)}, n_iter=2, cv=2, strategy="random"),
    ],
    expected_failed_checks=lambda search: (
        {"check_supervised_y_2d": "as GridSearchCV around Ridge does"} if isinstance(search.estimator, Ridge) else {}
    ),
)
@pytest.mark.filterwarnings("ignore")  # of the data that the checks make up
def test_it_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def test_the_results_are_those_of_a_grid_search():
    grid = [0.01, 0.1, 1.0, 10.0]
    theirs = GridSearchCV(LogisticRegression(), {"C": grid}, cv=3).fit(X, Y)
    ours = LuthierSearchCV(LogisticRegression(), {"C": grid}, cv=3, strategy="grid").fit(X, Y)
    assert set(ours.cv_results_) == set(theirs.cv_results_)
    order = np.argsort([p["C"] for p in ours.cv_results_["params"]])
    for key in ("mean_test_score", "std_test_score", "split2_test_score", "param_C"):
        assert np.array_equal(ours.cv_results_[key][order], theirs.cv_results_[key])
    assert ours.best_params_ == theirs.best_params_
    assert ours.best_score_ == theirs.best_score_
    assert np.array_equal(ours.predict_proba(X), theirs.predict_proba(X))
    assert ours.score(X, Y) == theirs.score(X, Y)
    assert ours.result_.best_score == ours.best_score_
    assert [t.status for t in ours.result_.trials()] == [Status.DONE] * 4


def test_it_is_an_estimator_among_others():
    search = LuthierSearchCV(LogisticRegression(), C, n_iter=3, cv=2, random_state=3)
    assert clone(search).get_params()["space"] == C
    assert cross_val_score(search, X, Y, cv=2).shape == (2,)
    again = [clone(search).fit(X, Y).cv_results_["params"] for _ in range(2)]
    assert again[0] == again[1]
    pipeline = make_pipeline(StandardScaler(), search).fit(X, Y)
    assert pipeline.score(X, Y) > 0.7


def test_several_metrics_and_a_pipeline():
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    space = lt.Space(
        standardscaler__with_mean=lt.Choice(True, False), logisticregression__C=lt.Float(1e-3, 10.0, log=True)
    )
    search = LuthierSearchCV(
        pipeline, space, n_iter=4, cv=2, scoring=["accuracy", "f1"], refit="f1", return_train_score=True
    ).fit(X, Y)
    assert search.best_score_ == max(search.cv_results_["mean_test_f1"])
    assert {"f1", "accuracy", "train_f1", "fit_time"} <= set(search.result_.trials()[0].metrics)


def test_a_resource_is_given_to_the_best():
    search = LuthierSearchCV(
        RandomForestClassifier(random_state=0), {"max_depth": lt.Int(1, 6)}, n_iter=4, cv=2, strategy="asha",
        resource="n_estimators", max_resources=9,
    ).fit(X, Y)  # fmt: skip
    assert set(search.n_resources_) == {1, 3, 9}
    assert [p["n_estimators"] for p in search.cv_results_["params"]] == search.n_resources_
    assert search.best_params_["n_estimators"] == 9
    assert len(search.best_estimator_.estimators_) == 9
    whole = search.cv_results_["n_resources"] == 9
    assert search.best_score_ == max(search.cv_results_["mean_test_score"][whole])
    assert search.n_resources_.count(1) > search.n_resources_.count(9)


@pytest.mark.parametrize("strategy", ["asha", "hyperband", "expert"])
def test_the_best_had_the_whole_resource_however_well_others_did_with_less(strategy):
    net = SGDClassifier(random_state=0, tol=None)
    given = {"cv": 2, "strategy": strategy, "resource": "max_iter", "max_resources": 9}
    space = {"alpha": lt.Float(1e-6, 1.0, log=True)}
    search = LuthierSearchCV(net, space, n_iter=3, **given).fit(X, Y)
    results = search.cv_results_
    whole = results["n_resources"] == 9
    assert 0 < whole.sum() < len(whole)
    assert results["mean_test_score"].max() > results["mean_test_score"][whole].max()
    assert search.best_score_ == results["mean_test_score"][whole].max()
    assert search.best_params_["max_iter"] == search.best_estimator_.max_iter == 9
    short = LuthierSearchCV(net, space, n_iter=1, **given).fit(X, Y)  # too little for a whole one
    assert short.best_params_["max_iter"] == max(short.n_resources_)


class Breaks(LogisticRegression):
    """Fits with the whole resource fail."""

    def fit(self, x, y):
        if self.max_iter == 9:
            raise ValueError("too long")
        return super().fit(x, y)


@pytest.mark.filterwarnings("ignore")
def test_where_none_with_the_whole_resource_has_a_score_the_best_had_the_most_of_it():
    search = LuthierSearchCV(Breaks(), C, n_iter=4, cv=2, strategy="asha", resource="max_iter", max_resources=9).fit(
        X, Y
    )
    assert 9 in search.n_resources_
    assert search.best_params_["max_iter"] == 3


def test_candidates_are_fitted_at_once():
    with parallel_config(backend="threading"):  # processes take seconds to start
        one, two = (
            LuthierSearchCV(LogisticRegression(), C, n_iter=4, cv=2, strategy="random", n_jobs=n).fit(X, Y)
            for n in (1, 4)
        )
    assert one.cv_results_["params"] == two.cv_results_["params"]
    assert np.array_equal(one.cv_results_["mean_test_score"], two.cv_results_["mean_test_score"])


def test_a_fit_that_fails_is_recorded_and_has_its_row(tmp_path):
    space = lt.Space(solver=lt.Choice("no such", "lbfgs"), C=lt.Choice(-1.0, 1.0))
    grid = {"solver": ["no such", "lbfgs"], "C": [-1.0, 1.0]}
    search = LuthierSearchCV(LogisticRegression(), space, cv=2, strategy="grid", storage=tmp_path / "s.db")
    with pytest.warns(FitFailedWarning, match="All the 2 fits failed"), pytest.warns(UserWarning, match="non-finite"):
        search.fit(X, Y)
    with pytest.warns(FitFailedWarning), pytest.warns(UserWarning, match="non-finite"):
        theirs = GridSearchCV(LogisticRegression(), grid, cv=2).fit(X, Y)
    assert set(search.cv_results_) == set(theirs.cv_results_)
    order = [theirs.cv_results_["params"].index(p) for p in search.cv_results_["params"]]
    assert sorted(order) == [0, 1, 2, 3]
    for key in ("mean_test_score", "split1_test_score", "std_test_score", "rank_test_score"):
        assert np.array_equal(search.cv_results_[key], theirs.cv_results_[key][order], equal_nan=True)
    assert list(search.cv_results_["param_C"]) == [p["C"] for p in search.cv_results_["params"]]
    assert search.best_params_ == theirs.best_params_ == {"solver": "lbfgs", "C": 1.0}
    failed = [t for t in search.result_.trials() if t.failure]
    assert len(failed) == 3
    assert "The 'C' parameter" in failed[0].failure.reason
    with pytest.raises(ValueError, match="All the 2 fits failed"), pytest.warns(FitFailedWarning):
        LuthierSearchCV(LogisticRegression(), {"solver": ["no such"]}, cv=2, strategy="grid").fit(X, Y)


def test_a_failed_candidate_scores_what_it_is_told_to_with_a_resource_and_several_metrics():
    with pytest.warns(FitFailedWarning):
        search = LuthierSearchCV(
            RandomForestClassifier(random_state=0), {"max_depth": [-1, 2, 4]}, n_iter=4, cv=2, strategy="asha",
            resource="n_estimators", max_resources=4, scoring=["accuracy", "f1"], refit="f1", error_score=0.0,
            return_train_score=True, random_state=1,
        ).fit(X, Y)  # fmt: skip
    results = search.cv_results_
    bad = np.array([p["max_depth"] == -1 for p in results["params"]])
    assert bad.any()
    assert not results["mean_test_f1"][bad].any()
    assert not results["mean_train_accuracy"][bad].any()
    assert (results["mean_test_f1"][~bad] > 0.5).all()
    assert [p["n_estimators"] for p in results["params"]] == list(results["n_resources"]) == search.n_resources_
    assert search.best_params_["max_depth"] > 0


def test_no_candidate_is_fitted_twice():
    search = LuthierSearchCV(LogisticRegression(), {"C": np.array([0.5, 1.0])}, n_iter=5, cv=2, strategy="random")
    search.fit(X, Y)
    assert sorted(p["C"] for p in search.cv_results_["params"]) == [0.5, 1.0]
    trials = search.result_.trials()
    assert len(trials) == 5
    assert len({t.metrics["score"] for t in trials if t.config["C"] == 0.5}) == 1


def test_a_list_holds_whatever_the_estimator_takes():
    scalers = [StandardScaler(), "passthrough", MinMaxScaler()]
    pipeline = Pipeline([("scale", None), ("pick", SelectKBest()), ("net", LogisticRegression())])
    space = {"scale": scalers, "pick__score_func": [f_classif, mutual_info_classif], "pick__k": np.arange(2, 4)}
    search = LuthierSearchCV(pipeline, space, cv=2, strategy="grid").fit(X, Y)
    tried = search.cv_results_["params"]
    assert len(tried) == 12
    assert {type(p["scale"]) for p in tried} == {StandardScaler, str, MinMaxScaler}
    assert {p["pick__score_func"] for p in tried} == {f_classif, mutual_info_classif}
    assert {t.config["scale"] for t in search.result_.trials()} == {"StandardScaler()", "passthrough", "MinMaxScaler()"}
    assert search.best_estimator_["pick"].score_func is search.best_params_["pick__score_func"]


def test_each_fit_is_a_study_of_its_own_in_one_file(tmp_path):
    search = LuthierSearchCV(LogisticRegression(), C, n_iter=3, cv=2, storage=tmp_path / "s.db")
    assert cross_val_score(search, X, Y, cv=2).shape == (2,)
    clone(search).set_params(n_iter=4).fit(X, Y)
    assert study_names(locate(tmp_path / "s.db")) == ["study", "study-2", "study-3"]


def test_fits_at_once_on_one_storage_are_each_a_study_of_their_own(tmp_path):
    search = LuthierSearchCV(LogisticRegression(), C, n_iter=3, cv=2, strategy="random", storage=tmp_path / "s.db")
    together = threading.Barrier(6)

    def fit(seed: int) -> dict[str, float]:
        own = clone(search).set_params(random_state=seed)
        together.wait()
        return own.fit(X, Y).best_params_

    with ThreadPoolExecutor(6) as threads:
        best = list(threads.map(fit, range(6)))
    assert cross_val_score(search, X, Y, cv=3, n_jobs=3).shape == (3,)  # processes
    names = study_names(locate(tmp_path / "s.db"))
    assert sorted(names) == sorted(["study", *(f"study-{i}" for i in range(2, 10))])
    for name in names:
        log = open_store(tmp_path / "s.db", name)
        history = history_of(log)
        log.close()
        assert len(history.trials) == 3
        if name in names[:6]:
            assert lt.Result(history).best_config == best[history.study.seed]


def test_a_fit_that_cannot_begin_leaves_no_study_behind(tmp_path):
    search = LuthierSearchCV(LogisticRegression(), C, n_iter=3, cv=2, strategy="no such", storage=tmp_path / "s.db")
    with pytest.raises(lt.UserError, match="no such"):
        search.fit(X, Y)
    assert not (tmp_path / "s.db").exists()
    search.set_params(strategy="random").fit(X, Y)
    with pytest.raises(lt.UserError, match="no such"):
        search.set_params(strategy="no such").fit(X, Y)
    assert study_names(locate(tmp_path / "s.db")) == ["study"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"space": {"CC": lt.Float(1.0, 2.0)}}, "no parameter 'CC'"),
        ({"space": C, "resource": "max_iter"}, "'max_iter' has no maximum"),
        ({"space": C, "max_resources": 3}, "has no resource="),
        (
            {"space": {"max_iter": [1, 2]}, "resource": "max_iter", "max_resources": 3},
            "is the resource and in the space",
        ),
    ],
)
def test_a_search_that_cannot_be_says_why(given, said):
    with pytest.raises(lt.UserError, match=said):
        LuthierSearchCV(LogisticRegression(), **given).fit(X, Y)


# -- skorch ------------------------------------------------------------------------------------------------------------


def test_a_net_of_skorch_in_a_pipeline():
    skorch = pytest.importorskip("skorch")
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, width=8):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 2))

        def forward(self, x):
            return self.body(x)

    torch.manual_seed(0)
    net = skorch.NeuralNetClassifier(
        Net, criterion=nn.CrossEntropyLoss, optimizer=torch.optim.AdamW, verbose=0, train_split=None
    )
    space = lt.Space(
        {
            "neuralnetclassifier__lr": lt.Float(1e-3, 1e-1, log=True),
            "neuralnetclassifier__module__width": lt.Int(4, 32, log=True),
            "neuralnetclassifier__optimizer__weight_decay": lt.Float(1e-5, 1e-1, log=True),
        }
    )
    search = LuthierSearchCV(
        make_pipeline(StandardScaler(), net), space, n_iter=3, cv=2, strategy="asha",
        resource="neuralnetclassifier__max_epochs", max_resources=9,
    ).fit(X.astype(np.float32), Y)  # fmt: skip
    assert search.best_score_ > 0.6
    assert search.best_params_["neuralnetclassifier__max_epochs"] == 9
    best = search.best_estimator_[-1]
    assert best.module_.body[0].out_features == search.best_params_["neuralnetclassifier__module__width"]
    with pytest.raises(lt.UserError, match="no parameter 'neuralnetclassifier__learning_rate'"):
        LuthierSearchCV(
            make_pipeline(StandardScaler(), net), {"neuralnetclassifier__learning_rate": lt.Float(0.1, 1.0)}
        ).fit(X.astype(np.float32), Y)
