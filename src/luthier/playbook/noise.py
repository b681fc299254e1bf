"""The seed noise of a study: from its repeats where there are any, else from what is usual."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.core.history import History
from luthier.core.summary import in_points
from luthier.numerics.noise import SeedNoise, pooled_sd, prior_sd

ROUNDING = 1e-12
"""A spread below this part of the score is rounding, not noise."""


def noise_of(history: History, without: Sequence[int] = ()) -> SeedNoise:
    """How much the score of one training differs from seed to seed, in the metric's units.

    Trainings of one configuration and length with different seeds are repeats; their spread is pooled over all
    configurations. Repeats that agree to the last digit measure nothing: then, and without any, the prior counts.

    A stage that asks while its own trainings run leaves them out (``without=look.stage.trials``): a script must ask the
    same at each run.

    Args:
        history: the whole study.
        without: trials that do not count.
    """
    left_out = frozenset(without)
    groups: dict[tuple[int, str], dict[int, float]] = {}
    for trial in history.trained():
        score = history.score(trial)
        if trial.full and score is not None and trial.id not in left_out:
            key = trial.horizon, repr(sorted(trial.config.items()))
            groups.setdefault(key, {}).setdefault(trial.seed, score)
    sd, df = pooled_sd([list(group.values()) for group in groups.values()])
    scores = [x for t in history.trained() if t.id not in left_out and (x := history.score(t)) is not None]
    best = min(scores, key=history.objective.loss, default=0.0)
    if sd > ROUNDING * abs(best):
        return SeedNoise(sd, df, "repeats")
    samples = next((t.answer.get("n_val") for t in history.trials if t.probe == "sanity" and t.answer), None)
    return SeedNoise(prior_sd(best, in_points(history), samples), 0, "prior")
