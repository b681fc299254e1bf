"""A study made through each integration that trains has its learning curve in the dashboard, seen in a real browser.

Screenshots go to the folder that LUTHIER_SCREENSHOTS names, else to pytest's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from browsing import launched, looking, needs_browser, served, waited

import luthier as lt

pytestmark = [needs_browser, pytest.mark.usefixtures("frozen")]
SMALL = {"max_epochs": 3, "budget": "2 trials", "strategy": "random", "workers": 0, "quiet": True}


def transformers(place: Path) -> lt.Result:
    theirs = import_module("test_integrations_transformers")
    return lt.tune(theirs.training(place.parent), theirs.SPACE, minimize="eval_loss", storage=place, **SMALL)


def lightning(place: Path) -> lt.Result:
    library = pytest.importorskip("lightning.pytorch")
    theirs, callback = import_module("test_integrations_lightning"), import_module("luthier.integrations.lightning")
    tool = library, callback.LuthierCallback, theirs._module(library)
    return lt.tune(theirs.training(tool, place.parent), theirs.SPACE, minimize="val_loss", storage=place, **SMALL)


def keras(place: Path) -> lt.Result:
    theirs = import_module("test_integrations_keras")
    return lt.tune(theirs.train, theirs.SPACE, maximize="val_accuracy", storage=place, **SMALL)


def accelerate(place: Path) -> lt.Result:
    theirs = import_module("test_integrations_accelerate")
    return lt.tune(theirs.train, theirs.SPACE, minimize="val_loss", storage=place, **SMALL)


def sklearn(place: Path) -> lt.Result:
    """A curve over what an estimator is given of its resource, trees here."""
    from sklearn.ensemble import RandomForestClassifier

    theirs = import_module("test_integrations_sklearn")
    search = theirs.LuthierSearchCV(
        RandomForestClassifier(random_state=0), {"max_depth": lt.Int(1, 6)}, n_iter=3, cv=2, strategy="asha",
        resource="n_estimators", max_resources=9, return_train_score=True, storage=place,
    )  # fmt: skip
    return search.fit(theirs.X, theirs.Y).result_


def skorch(place: Path) -> lt.Result:
    library = pytest.importorskip("skorch")
    import torch
    from torch import nn

    theirs = import_module("test_integrations_sklearn")
    net = library.NeuralNetClassifier(
        lambda: nn.Linear(8, 2), criterion=nn.CrossEntropyLoss, optimizer=torch.optim.AdamW, verbose=0, train_split=None
    )
    search = theirs.LuthierSearchCV(
        net, {"lr": lt.Float(1e-3, 1e-1, log=True)}, n_iter=3, cv=2, strategy="asha", resource="max_epochs",
        max_resources=9, storage=place,
    )  # fmt: skip
    return search.fit(theirs.X.astype("float32"), theirs.Y).result_


def optuna(place: Path) -> lt.Result:
    theirs = import_module("test_integrations_optuna")
    return theirs.optimize(theirs.pruning, 3, strategy="random", storage=place, workers=0, quiet=True)


MAKERS: list[Any] = [
    transformers,
    pytest.param(
        lightning,
        marks=[
            pytest.mark.filterwarnings("ignore:.*does not have many workers"),
            pytest.mark.filterwarnings("ignore:.*number of training batches"),
            pytest.mark.filterwarnings("ignore:.*LeafSpec"),
            pytest.mark.filterwarnings("ignore:.*pkg_resources"),
            pytest.mark.filterwarnings("ignore:The `srun` command is available"),
        ],
    ),
    pytest.param(keras, marks=pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")),
    accelerate,
    sklearn,
    skorch,
    optuna,
]

INKED = """(canvas, name) => {
    const style = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const [r, g, b] = style.match(/[0-9a-f]{2}/gi).map((two) => parseInt(two, 16));
    const { data, width } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const columns = new Set();
    for (let i = 0; i < data.length; i += 4)
        if (data[i + 3] > 120 && Math.abs(data[i] - r) + Math.abs(data[i + 1] - g) + Math.abs(data[i + 2] - b) < 40)
            columns.add((i / 4) % width);
    return columns.size / width;
}"""
"""The part of a canvas's width in which there is ink of a colour."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as found:
        yield found


@pytest.mark.parametrize("make", MAKERS)
def test_the_learning_curve_of_an_integration_is_drawn(make: Callable[[Path], lt.Result], browser, tmp_path):
    place = tmp_path / f"{make.__name__}.db"
    result = make(place)
    metric, trained = result.history.objective.metric, [trial for trial in result.trials() if trial.reports]
    longest = max(trained, key=lambda trial: trial.epoch)
    curve = longest.curve(metric)
    assert len(curve) > 1
    with served([place]) as url, looking(browser, url, tmp_path) as seen:
        one = seen()
        page = one.open("0")
        panel = page.locator(".panel", has=page.get_by_role("heading", name=metric, exact=True))
        canvas, tip = panel.locator("canvas"), panel.locator(".tip")
        points = sum(len(trial.curve(metric)) for trial in trained)
        waited(lambda: int(canvas.get_attribute("data-points") or 0) == points)
        assert int(canvas.get_attribute("data-curves")) == len(trained)

        canvas.focus()
        page.keyboard.press("ArrowLeft")  # to the beginning of the best
        waited(tip.is_visible)
        order = [trial.id for trial in trained]
        for _ in range((order.index(longest.id) - order.index(result.history.incumbent.id)) % len(order)):
            page.keyboard.press("ArrowUp")
        assert f"trial {longest.id}\n" in tip.inner_text() or f"trial {longest.id} " in tip.inner_text()
        # What is pointed at is drawn in ink: from the first epoch to the last, nearly the whole width of the chart.
        assert waited(lambda: (wide := canvas.evaluate(INKED, "--ink")) > 0.75 and wide)
        for _ in curve[1:]:
            page.keyboard.press("ArrowRight")
        waited(lambda: f"epoch {curve[-1][0]} · {metric}" in tip.inner_text())
        assert float(tip.locator("b").nth(1).inner_text()) == pytest.approx(curve[-1][1], rel=1e-2)
        one.shoot(f"integration-{make.__name__}")
