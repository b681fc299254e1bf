"""How much each hyperparameter decided: PED-ANOVA, or controlled comparisons where the search was staged.

Watanabe, Bansal and Hutter, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces",
IJCAI 2023 (arXiv 2304.10255): a hyperparameter is important where its values among the best trials are distributed
otherwise than among all. Conditional ones count within the trials that have them, weighted by how these did (arXiv
2601.20800). Optuna computes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from luthier.core.history import History
from luthier.core.params import Config, Value
from luthier.core.space import Space
from luthier.core.summary import ABLATION, CONFIRM, in_points
from luthier.core.trial import TrialRecord
from luthier.knowledge import find, rate_for_batch, role_of, tuned_along
from luthier.numerics.noise import believable
from luthier.search.optuna_sampler import distributions, params_of, quiet

LEAST = 20
"""Trials below which a distribution of the best says nothing."""
COMPARED = 5
"""Trials of one length that are needed to rank them among each other, and the fewest that count as the best."""
CLEAR = 2.0
"""Standard errors beyond which two scores differ by more than luck, as in :func:`luthier.numerics.noise.decide`."""
FOLLOWS = 1.2
"""A rate within this factor of the one that belongs to another batch size follows it: rounding. Our choice."""
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


def importance(history: History, sd: float = 0.0) -> Importance:
    """The importances over the trials that were trained to the end of their length.

    Where a searcher drew every trial from the whole space: PED-ANOVA. Where stages varied one hyperparameter at a time
    the late ones were varied around good configurations only, and distributions would mistake that for importance:
    there each counts with what its values made of the score while everything else was held.

    Args:
        history: the study.
        sd: how much one training's score differs from seed to seed, in the metric's units, at least 0.
    """
    if any(t.inherited is not None for t in history.trained()):
        # A copy's score is owed to the configurations before its own as well.
        return Importance({}, 0, "hyperparameters changed while the models trained")
    return _by_comparison(history, sd) if history.stages else _by_distribution(history)


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


def _by_comparison(history: History, sd: float) -> Importance:
    """The squared distance of the score between the values of each hyperparameter, the rest of the configuration held
    and the noise taken off.

    What is tuned along with it takes its best value each time (the isolation of Godbole et al., Deep Learning Tuning
    Playbook, 2023). Where it was not tuned at both values, nor follows from one to the other, several moved at once:
    what their effect is beyond that of each by itself they share. So nothing is counted twice. Scores beyond Tukey's
    fence of their length count as it: one diverged run is not ten times as important as two bad ones.
    """
    lengths: dict[int, list[TrialRecord]] = {}
    for trial in history.trained():
        told = trial.full and math.isfinite(history.final_loss(trial))
        if told and trial.stage not in (CONFIRM, ABLATION):
            lengths.setdefault(trial.horizon, []).append(trial)
    worst = {length: _fence([_plain_loss(t) for t in trials]) for length, trials in lengths.items()}
    share = in_points(history)
    used: set[int] = set()
    effects: dict[frozenset[str], float] = {}
    for name in history.space.dims:
        free = {name, *tuned_along(history.space, name)}
        rooms: dict[tuple[int, int, str], dict[str, list[TrialRecord]]] = {}
        for length, trials in lengths.items():
            for trial in sorted(trials, key=_plain_loss):
                if name in trial.config:
                    rest = repr(sorted((k, v) for k, v in trial.config.items() if k not in free))
                    room = rooms.setdefault((length, trial.seed, rest), {})
                    room.setdefault(repr(trial.config[name]), []).append(trial)
        for (length, _, _), room in rooms.items():
            best, *others = room.values()  # each value's trials, the best first
            for other in others:
                together = frozenset({name, *_moved(history, name, best, other)})
                losses = [min(_plain_loss(group[0]), worst[length]) for group in (best, other)]
                gap = losses[1] - losses[0]
                luck = max(believable(losses[0], sd, share), CLEAR * math.sqrt(2) * sd)
                effect = gap**2 - 2 * sd**2 if gap > luck else 0.0
                effects[together] = max(effects.get(together, 0.0), effect)
            used |= {t.id for group in room.values() for t in group if others}
    return _shared(effects, len(used))


def _fence(losses: Sequence[float]) -> float:
    """Beyond which a loss is an outlier (Tukey 1977): 1.5 times the quartiles' distance above the upper one."""
    low, high = np.quantile(losses, [0.25, 0.75])
    return float(high + 1.5 * (high - low))


def _moved(history: History, name: str, best: Sequence[TrialRecord], other: Sequence[TrialRecord]) -> list[str]:
    """What else sets the better of two values' best trials apart: of what is tuned along with ``name`` what neither was
    tuned at both values nor follows. What exists beside one value only belongs to it."""
    here, there = best[0].config, other[0].config
    if min(len({repr(t.config) for t in group}) for group in (best, other)) > 1:
        return []
    space, moved = history.space, []
    for also in tuned_along(space, name):
        apart = also in here and also in there and space.base(also, here) != space.base(also, there)
        if apart and not _follows(space, name, also, here, there):
            moved.append(also)
    return moved


def _follows(space: Space, name: str, also: str, here: Config, there: Config) -> bool:
    """Whether a rate goes with the batch size as it should."""
    known = role_of(name, space[name])
    if known is None or known.name != "batch_size" or find(space, "learning_rate", there) != also:
        return False
    batches, rates = ([float(str(v)) for c in (here, there) if _positive(v := c[n])] for n in (name, also))
    if len(batches) < 2 or len(rates) < 2:
        return False
    optimizer = find(space, "optimizer", there)
    known_as = there[optimizer] if optimizer is not None else ""
    wanted = rate_for_batch(rates[0], batches[0], batches[1], known_as)
    return 1 / FOLLOWS < rates[1] / wanted < FOLLOWS


def _positive(value: Value) -> bool:
    return isinstance(value, int | float) and value > 0


def _shared(effects: Mapping[frozenset[str], float], trials: int) -> Importance:
    """The parts that effects of one hyperparameter and of several at once make of the whole."""
    own: dict[frozenset[str], float] = {}
    parts = dict.fromkeys(sorted({n for names in effects for n in names}), 0.0)
    for names in sorted(effects, key=lambda names: (len(names), sorted(names))):
        own[names] = max(0.0, effects[names] - sum(own[less] for less in own if less < names))
        for n in names:
            parts[n] += own[names] / len(names)
    whole = sum(parts.values())
    if whole <= 0:
        why = "it needs trials that differ in one hyperparameter only"
        if parts:
            why = f"no value of {', '.join(parts)} made a difference beyond the noise"
        return Importance({}, trials, why)
    alone = f"; only {next(iter(parts))} was compared" if len(parts) == 1 else ""
    why = f"comparisons of {trials} trials that differ in one hyperparameter and what is tuned with it{alone}"
    return Importance(_sorted({name: part / whole for name, part in parts.items()}), trials, why)


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
