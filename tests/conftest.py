"""What several test files share: small spaces, literal histories, a strategy driven by a plain function."""

from __future__ import annotations

import gc
import os

# Before anything imports PyTorch: the suite may share its cores, and threads that spin for each other crawl then.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KERAS_BACKEND", "torch")

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import settings

import luthier as lt
from luthier.contracts import Scheduler
from luthier.run.book import Book
from luthier.run.memory import MemoryStore
from luthier.strategies import NEEDS, STRATEGIES

# The same examples each time, and no clock: the suite may share its cores.
settings.register_profile("luthier", deadline=None, derandomize=True)
settings.load_profile("luthier")

EVERY = [
    pytest.param(s, marks=pytest.mark.skipif(bool(s in NEEDS and not find_spec(NEEDS[s][0])), reason="not installed"))
    for s in sorted(STRATEGIES)
]
"""Every strategy, for ``parametrize``; what is not installed is skipped."""


@pytest.fixture(scope="module")
def frozen():
    """For libraries that collect garbage after each training: what is there already is left out of it."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def space() -> lt.Space:
    """Every kind of hyperparameter, and conditions two deep."""
    return lt.Space(
        learning_rate=lt.Float(1e-5, 1e-1, log=True),
        optimizer=lt.Choice("adamw", "sgd"),
        momentum=lt.Float(0.8, 0.99, when={"optimizer": "sgd"}),
        nesterov=lt.Choice(True, False, when={"optimizer": "sgd"}),
        dampening=lt.Float(0.0, 0.5, when={"nesterov": False}),
        depth=lt.Int(1, 4),
        width=lt.Int(16, 256, log=True),
        epochs_frozen=lt.Constant(2),
    )


def bowl(config: Mapping[str, Any], epoch: int) -> float:
    """A loss with its optimum at a rate of 1e-3 that falls with training."""
    import math

    return abs(math.log10(config["learning_rate"]) + 3) + 0.1 * config["depth"] + 1.0 / epoch


def drive(
    space: lt.Space,
    strategy: str | Scheduler,
    loss: Callable[[Mapping[str, Any], int], float] = bowl,
    *,
    budget: str | None = "12 trials",
    max_epochs: int = 9,
    seed: int = 0,
    fail: Callable[[int], bool] = lambda trial: False,
    **more: Any,
) -> lt.AskTell:
    """Run a whole study by ask and tell."""
    study = lt.AskTell(
        space, minimize="val_loss", max_epochs=max_epochs, budget=budget, strategy=strategy, seed=seed, **more
    )
    while job := study.ask():
        if fail(job.trial):
            study.fail(job, "asked to")
            continue
        for epoch in range(job.start + 1, job.until + 1):
            if study.tell(job, epoch, val_loss=loss(job.config, epoch)) == "stop":
                break
    return study


def log_of(study: lt.AskTell) -> tuple[Any, ...]:
    """The entries of an in-memory study."""
    book: Book = study._book
    assert isinstance(book._store, MemoryStore)
    return tuple(book._store.read())


@pytest.fixture(scope="session")
def postgres():
    """The URL of a PostgreSQL server in which databases may be made."""
    pytest.importorskip("psycopg")
    import postgres

    if told := os.environ.get("LUTHIER_TEST_POSTGRES"):
        yield told
        return
    if postgres.binaries() is None:
        pytest.skip("no PostgreSQL here: install it, or name a server in LUTHIER_TEST_POSTGRES")
    with postgres.server() as url:
        yield url


@pytest.fixture
def database(postgres):
    """The URL of an empty database in it."""
    import uuid

    from postgres import database

    with database(postgres, f"luthier_{uuid.uuid4().hex}") as url:
        yield url
