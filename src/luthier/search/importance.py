"""How much each hyperparameter decided: PED-ANOVA, or controlled comparisons where the search was staged.

Watanabe, Bansal and Hutter, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces",
IJCAI 2023 (arXiv 2304.10255): a hyperparameter is important where its values among the best trials are distributed
otherwise than among all. Conditional ones count within the trials that have them, weighted by how these did (arXiv
2601.20800). Optuna computes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from luthier.core.history import History
from luthier.core.summary import ABLATION, CONFIRM
from luthier.core.trial import TrialRecord
from luthier.knowledge import tuned_along
from luthier.search.optuna_sampler import distributions, params_of, quiet

LEAST = 20
"""Trials below which a distribution of the best says nothing."""
COMPARED = 5
"""Trials of one length that are needed to rank them among each other, and the fewest that count as the best."""
BROKEN = ("nonfinite", "oom")
"""Failures that hyperparameters make."""
BEST = 0.1
"""The part of the trials that counts as the best, PED-ANOVA's own choice."""


@dataclass(frozen=True, slots=True)
class Importance:
    """How much each hyperparameter decided.

    Args:
        parts: name to part, largest first, together 1; empty where nothing can be said.
        trials: configurations it rests on.
        why: what it rests on, or why it is empty.
    """

    parts: Mapping[str, float]
    trials: int
    why: str


def importance(history: History) -> Importance:
    """The importances over the trials that were trained to the end of their length.

    Where a searcher drew every trial from the whole space: PED-ANOVA. Where stages varied one hyperparameter at a time
    the late ones were varied around good configurations only, and distributions would mistake that for importance:
    there each counts with what its values made of the score while everything else was held.
    """
    if any(t.inherited is not None for t in history.trained()):
        # A copy's score is owed to the configurations before its own as well.
        return Importance({}, 0, "hyperparameters changed while the models trained")
    return _by_comparison(history) if history.stages else _by_distribution(history)


def _by_distribution(history: History) -> Importance:
    """PED-ANOVA. Trainings of different length have different scores, so each is ranked among those of its own."""
    ranks = _ranks(history)
    varied = [n for n in history.space.dims if len({repr(t.config[n]) for t, _ in ranks if n in t.config}) > 1]
    if len(ranks) < LEAST or not varied:
        return Importance({}, len(ranks), f"it needs {LEAST} comparable trials, there are {len(ranks)}")
    import optuna

    known = distributions(history.space)
    with quiet():
        study = optuna.create_study(direction="minimize")
        for trial, rank in ranks:
            params = params_of(history.space, trial)
            study.add_trial(
                optuna.trial.create_trial(params=params, distributions={n: known[n] for n in params}, value=rank)
            )
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=max(BEST, COMPARED / len(ranks)))
        parts = optuna.importance.get_param_importances(study, evaluator=evaluator, params=varied)
    return Importance(_sorted(parts), len(ranks), f"PED-ANOVA over {len(ranks)} trials")


def _by_comparison(history: History) -> Importance:
    """The squared span of the score over the values of each hyperparameter, the rest of the configuration held.

    What is tuned along with it takes its best value each time (the isolation of Godbole et al., Deep Learning Tuning
    Playbook, 2023). Scores worse than the upper quartile of their length count as that quartile: one diverged run is
    not ten times as important as two bad ones.
    """
    lengths: dict[int, list[TrialRecord]] = {}
    for trial in history.trained():
        told = trial.full and math.isfinite(history.final_loss(trial))
        if told and trial.stage not in (CONFIRM, ABLATION):
            lengths.setdefault(trial.horizon, []).append(trial)
    worst = {length: float(np.quantile([_plain_loss(t) for t in trials], 0.75)) for length, trials in lengths.items()}
    used: set[int] = set()
    effects: dict[str, float] = {}
    for name in history.space.dims:
        free = {name, *tuned_along(history.space, name)}
        rooms: dict[tuple[int, int, str], dict[str, float]] = {}
        members: dict[tuple[int, int, str], list[int]] = {}
        for length, trials in lengths.items():
            for trial in trials:
                if name in trial.config:
                    rest = repr(sorted((k, v) for k, v in trial.config.items() if k not in free))
                    room, value = rooms.setdefault((length, trial.seed, rest), {}), repr(trial.config[name])
                    room[value] = min(room.get(value, math.inf), min(_plain_loss(trial), worst[length]))
                    members.setdefault((length, trial.seed, rest), []).append(trial.id)
        compared = {key: room for key, room in rooms.items() if len(room) > 1}
        if compared:
            effects[name] = max(max(room.values()) - min(room.values()) for room in compared.values()) ** 2
            used |= {i for key in compared for i in members[key]}
    whole = sum(effects.values())
    if whole <= 0:
        why = "it needs trials that differ in one hyperparameter only"
        if effects:
            why = f"no value of {', '.join(effects)} made a difference"
        return Importance({}, len(used), why)
    parts = {name: effect / whole for name, effect in effects.items()}
    alone = f"; only {next(iter(effects))} was compared" if len(effects) == 1 else ""
    why = f"comparisons of {len(used)} trials that differ in nothing else{alone}"
    return Importance(_sorted(parts), len(used), why)


def _plain_loss(trial: TrialRecord) -> float:
    """The loss by itself: that a trial breaks a constraint is no distance in the metric's units."""
    return math.inf if trial.loss is None else trial.loss


def _sorted(parts: Mapping[str, float]) -> dict[str, float]:
    return {name: float(part) for name, part in sorted(parts.items(), key=lambda item: -item[1])}


def _ranks(history: History) -> list[tuple[TrialRecord, float]]:
    """Each comparable trial with its rank among those of its length, in (0, 1), smaller is better; a training that its
    configuration broke shares the last rank. What raised says nothing of hyperparameters."""
    by_length: dict[int, dict[str, TrialRecord]] = {}
    for trial in history.trained():
        ended = trial.full or (trial.failure is not None and trial.failure.kind in BROKEN)
        if ended and trial.stage not in (CONFIRM, ABLATION):
            by_length.setdefault(trial.horizon, {}).setdefault(repr(sorted(trial.config.items())), trial)
    ranks = []
    for trials in by_length.values():
        if sum(math.isfinite(history.final_loss(t)) for t in trials.values()) < COMPARED:
            continue
        losses = sorted(history.final_loss(t) for t in trials.values())
        for trial in trials.values():
            loss = history.final_loss(trial)
            below, through = losses.index(loss), len(losses) - losses[::-1].index(loss)
            ranks.append((trial, (below + through) / 2 / len(losses)))
    return ranks
