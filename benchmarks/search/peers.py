"""Other tuners, each as somebody would use it by ask and tell, with defaults; each library is imported when it is run.

What they are told: the task's metric, minimised. Where a library lets a training pause and go on, or stop early, no
epoch is paid twice. SMAC's and DEHB's target functions get a budget alone, so a promoted configuration is trained again
from scratch; ``smac_mf_resume`` and ``dehb_resume`` are the same with the pause for free, which flatters them.
"""

from __future__ import annotations

import datetime
import functools
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import luthier as lt
from search.session import Session, Training

ETA = 3
"""The usual factor between rungs."""


def _native(space: lt.Space, raw: dict[str, Any]) -> dict[str, object]:
    """A library's configuration in the types of the space: plain numbers and the choices themselves."""
    out: dict[str, object] = {}
    for name, param in space.items():
        value = raw[name]
        if isinstance(param, lt.Choice):
            out[name] = next(c for c in param.choices if c == value or str(c) == str(value))
        elif isinstance(param, lt.Int):
            out[name] = min(max(round(float(value)), param.low), param.high)
        else:
            assert isinstance(param, lt.Float)
            out[name] = min(max(float(value), param.low), param.high)
    return out


# -- Optuna ------------------------------------------------------------------------------------------------------------


def _optuna(session: Session, sampler: Any, pruner: Any = None, first: dict[str, object] | None = None) -> None:
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space: dict[str, Any] = {}
    for name, param in session.space.items():
        if isinstance(param, lt.Choice):
            space[name] = CategoricalDistribution(param.choices)
        elif isinstance(param, lt.Int):
            space[name] = IntDistribution(param.low, param.high, log=param.log)
        else:
            assert isinstance(param, lt.Float)
            space[name] = FloatDistribution(param.low, param.high, log=param.log)
    study = optuna.create_study(sampler=sampler, pruner=pruner or optuna.pruners.NopPruner())
    if first is not None:
        study.enqueue_trial(first)
    while True:
        trial = study.ask(space)
        training = session.start(_native(session.space, trial.params))
        pruned = False
        while training.epoch < session.epochs and not pruned:
            trial.report(training.step(), training.epoch)
            pruned = training.epoch < session.epochs and trial.should_prune()
        if pruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, training.best)


def optuna_tpe(session: Session) -> None:
    """TPE, the default sampler."""
    from optuna.samplers import TPESampler

    _optuna(session, TPESampler(seed=session.seed))


def optuna_tpe_default(session: Session) -> None:
    """TPE that begins with the expert's configuration."""
    from optuna.samplers import TPESampler

    _optuna(session, TPESampler(seed=session.seed), first=session.task.expert())


def optuna_tpe_hyperband(session: Session) -> None:
    """TPE with the Hyperband pruner, multivariate as its documentation recommends for small budgets."""
    from optuna.exceptions import ExperimentalWarning
    from optuna.pruners import HyperbandPruner
    from optuna.samplers import TPESampler

    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    pruner = HyperbandPruner(min_resource=1, max_resource=session.epochs, reduction_factor=ETA)
    _optuna(session, TPESampler(seed=session.seed, multivariate=True, group=True), pruner)


def optuna_gp(session: Session) -> None:
    """A Gaussian process."""
    from optuna.samplers import GPSampler

    _optuna(session, GPSampler(seed=session.seed))


# -- SMAC and DEHB -----------------------------------------------------------------------------------------------------


def _configspace(session: Session) -> Any:
    from ConfigSpace import Categorical, ConfigurationSpace, Float, Integer

    space = ConfigurationSpace(seed=session.seed % 2**31)
    for name, param in session.space.items():
        if isinstance(param, lt.Choice):
            space.add(Categorical(name, list(param.choices)))
        elif isinstance(param, lt.Int):
            space.add(Integer(name, (param.low, param.high), log=param.log))
        else:
            assert isinstance(param, lt.Float)
            space.add(Float(name, (param.low, param.high), log=param.log))
    return space


class _Known:
    """The trainings of a tuner that names no trial: by configuration where pausing is free, else always new ones."""

    def __init__(self, session: Session, resume: bool) -> None:
        self._session, self._resume = session, resume
        self._seen: dict[str, Training] = {}

    def of(self, raw: dict[str, Any]) -> Training:
        config = _native(self._session.space, raw)
        key = str(sorted(config.items()))
        if not self._resume or key not in self._seen:
            self._seen[key] = self._session.start(config)
        return self._seen[key]


def _smac(session: Session, multi: bool, resume: bool = False) -> None:
    from smac import HyperparameterOptimizationFacade, MultiFidelityFacade, Scenario
    from smac.runhistory.dataclasses import TrialValue

    logging.getLogger("smac").setLevel(logging.ERROR)
    lengths = {}
    if multi:
        lengths = {"min_budget": max(1, session.epochs / ETA**3), "max_budget": session.epochs}
    with tempfile.TemporaryDirectory() as folder:
        scenario = Scenario(
            _configspace(session), output_directory=Path(folder), deterministic=True, seed=session.seed % 2**31,
            n_trials=4 * session.trials if multi else session.trials, **lengths,
        )  # fmt: skip
        facade = MultiFidelityFacade if multi else HyperparameterOptimizationFacade
        # Asked and told, it never calls the function.
        tuner = facade(
            scenario, lambda config, seed=0, budget=None: 0.0, overwrite=True, logging_level=logging.ERROR
        )  # fmt: skip
        known = _Known(session, resume)
        while True:
            trial = tuner.ask()
            training = known.of(dict(trial.config))
            tuner.tell(trial, TrialValue(cost=training.to(max(1, round(trial.budget)) if multi else session.epochs)))


def _dehb(session: Session, resume: bool = False) -> None:
    from dehb import DEHB
    from loguru import logger

    logger.remove()
    with tempfile.TemporaryDirectory() as folder:
        tuner = DEHB(
            f=lambda *args, **named: None, cs=_configspace(session), dimensions=len(session.space), min_fidelity=1,
            max_fidelity=session.epochs, eta=ETA, n_workers=1, seed=session.seed % 2**31, output_path=folder,
            save_freq="end",
        )  # fmt: skip
        known = _Known(session, resume)
        while True:
            job = tuner.ask()
            value = known.of(dict(job["config"])).to(max(1, round(job["fidelity"])))
            tuner.tell(job, {"fitness": value, "cost": float(job["fidelity"])})


# -- NePS --------------------------------------------------------------------------------------------------------------


def _neps(session: Session, algorithm: str, prior: bool = False) -> None:
    import neps
    from neps import algorithms

    logging.getLogger("neps").setLevel(logging.ERROR)
    expert = session.task.expert()
    fields: dict[str, Any] = {}
    for name, param in session.space.items():
        known: dict[str, Any] = {}
        if prior:
            value = expert[name]
            known = {"prior": value, "prior_confidence": "medium"}
            if isinstance(param, lt.Choice):
                known["prior"] = param.choices.index(value)  # type: ignore[arg-type]
        if isinstance(param, lt.Choice):
            fields[name] = neps.Categorical(tuple(param.choices), **known)
        elif isinstance(param, lt.Int):
            fields[name] = neps.Integer(param.low, param.high, log=param.log, **known)
        else:
            assert isinstance(param, lt.Float)
            fields[name] = neps.Float(param.low, param.high, log=param.log, **known)
    fields["epochs_"] = neps.IntegerFidelity(1, session.epochs)
    tuner = neps.AskAndTell(getattr(algorithms, algorithm)(type("Space", (neps.PipelineSpace,), fields)()))
    trainings: dict[object, Training] = {}
    while True:
        trial = tuner.ask()
        raw = dict(trial.config)
        until = int(raw.pop("epochs_"))
        before = trial.metadata.previous_trial_id  # the shorter training of a promoted configuration
        training = trainings.get(before) or session.start(_native(session.space, raw))
        trainings[trial.metadata.id] = training
        tuner.tell(trial, training.to(until))


# -- Syne Tune ---------------------------------------------------------------------------------------------------------


def _syne(session: Session, name: str) -> None:
    """Schedulers that stop trainings: one runs on until it is told to end, so nothing is paid twice."""
    import syne_tune.optimizer.baselines as baselines
    from syne_tune.backend.trial_status import Trial
    from syne_tune.config_space import choice, lograndint, loguniform, randint, uniform

    space: dict[str, Any] = {}
    for key, param in session.space.items():
        if isinstance(param, lt.Choice):
            space[key] = choice(list(param.choices))
        elif isinstance(param, lt.Int):
            space[key] = (lograndint if param.log else randint)(param.low, param.high)
        else:
            assert isinstance(param, lt.Float)
            space[key] = (loguniform if param.log else uniform)(param.low, param.high)
    scheduler = getattr(baselines, name)(
        space, metric="value", time_attr="epoch", max_t=session.epochs, do_minimize=True,
        random_seed=session.seed % 2**31,
    )  # fmt: skip
    number = 0
    while True:
        config = scheduler.suggest().config
        trial = Trial(number, config, datetime.datetime(2000, 1, 1))
        number += 1
        scheduler.on_trial_add(trial)
        training = session.start(_native(session.space, config))
        while training.epoch < session.epochs:
            value = training.step()
            if scheduler.on_trial_result(trial, {"value": value, "epoch": training.epoch}) != "CONTINUE":
                break


PEERS: dict[str, Callable[[Session], None]] = {
    "optuna_tpe": optuna_tpe,
    "optuna_tpe_default": optuna_tpe_default,
    "optuna_tpe_hyperband": optuna_tpe_hyperband,
    "optuna_gp": optuna_gp,
    "smac": functools.partial(_smac, multi=False),
    "smac_mf": functools.partial(_smac, multi=True),
    "smac_mf_resume": functools.partial(_smac, multi=True, resume=True),
    "dehb": _dehb,
    "dehb_resume": functools.partial(_dehb, resume=True),
    "neps_hyperband": functools.partial(_neps, algorithm="hyperband"),
    "neps_priorband": functools.partial(_neps, algorithm="priorband", prior=True),
    "syne_asha": functools.partial(_syne, name="ASHA"),
    "syne_bohb": functools.partial(_syne, name="BOHB"),
}
"""By name."""
