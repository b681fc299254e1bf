"""Is it true? The best candidates and the strong default on fresh seeds."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

from luthier.core import words
from luthier.core.history import History
from luthier.core.params import Config
from luthier.core.summary import ABLATION, CONFIRM, gain_text, in_points, seeds_text
from luthier.core.trial import TrialRecord
from luthier.numerics.noise import ACCEPT, SeedNoise
from luthier.numerics.paired import PairedDifference, mean_sd, paired_difference, sign_flip_p
from luthier.numerics.selection import best_of, shrunk_means
from luthier.playbook.noise import noise_of
from luthier.playbook.plan import Plan
from luthier.playbook.script import Look, Script, Verdict

FEWEST = 2
"""Fresh seeds that a confirmation needs. In a one-sided sign test five pairs allow p = 1/32, three 1/8."""

NEAR = 3.0
"""A candidate is worth fresh seeds while the search puts it within so many standard errors of the winner."""

ORDINALS = ("second", "third", "fourth", "fifth")

CONFIRM_TIME = 0.35
"""The part of a wall-clock budget that is kept for the confirmation."""

MOST_OF_REST = 0.6
"""The part of what the probes leave of a budget that the confirmation may take: on small data they take much. Our
choice."""

ABLATION_SHARE = 0.1
"""The part of a budget in epochs that is kept for the way from the default to the winner, where all pairs are paid."""


def purse(history: History) -> float | None:
    """The budget in epochs; of one that was raised, what was left of it then and came to it. None without a bound."""
    epochs = history.study.budget.epochs
    if epochs is None:
        return None
    before = {i for stage in history.stages[: history.renewed] for i in stage.trials}
    return epochs - sum(history.trials[i].spent for i in before)


def confirm_pairs(history: History, plan: Plan) -> int:
    """How many fresh seeds the budget in epochs can pay for: two arms each, within the plan's share for the proof."""
    epochs = purse(history)
    if epochs is None:
        return plan.seeds
    probed = sum(t.spent for t in history.trials if t.probe is not None)
    affordable = int(min(plan.proof * epochs, MOST_OF_REST * (epochs - probed)) / (2 * history.study.max_epochs))
    return min(plan.seeds, affordable) if affordable >= FEWEST else 0


def reserved(history: History, later: Collection[str], plan: Plan) -> float:
    """Epochs that are kept for the confirmation and what follows it, as far as they are among the ``later`` stages."""
    pairs, epochs, full = confirm_pairs(history, plan), 0.0, history.study.max_epochs
    whole = purse(history) or 0.0
    if CONFIRM in later and pairs:
        # Winner and default; with a plan that keeps it for more, candidates as far as the share for the proof goes.
        arms = min(plan.arms, max(2, int(plan.proof * whole / (pairs * full))))
        epochs += pairs * arms * full
    if ABLATION in later and pairs == plan.seeds:
        epochs += ABLATION_SHARE * whole
    return epochs


def affordable_epochs(look: Look) -> float:
    """How many epochs of full trainings fit the stage's time, at the pace seen before the stage; infinite without a
    bound."""
    takes = look.history.pace(without=look.stage.trials).takes(look.full)
    return math.inf if look.stage.seconds is None or takes == 0 else look.stage.seconds / takes * look.full


def confirm(look: Look) -> Script:
    """Winner and strong default on the same fresh seeds, then the next best candidates on them where the budget allows.

    The candidate with the best mean after shrinkage is kept where a gain over the default is probable.
    """
    winner, default = _winner(look), look.default
    epochs_in_time = affordable_epochs(look)
    in_time = look.plan.seeds if math.isinf(epochs_in_time) else int(epochs_in_time / (look.length + look.full))
    pairs = min(confirm_pairs(look.history, look.plan), in_time)
    if winner == default and look.length == look.full:
        return Verdict("the strong default is the winner", "no change paid", settled=default, skipped=True)
    if pairs < FEWEST:
        text = "the budget has no room for repeats; the result may be luck"
        return Verdict("skipped", text, numbers={"unaffordable": True}, skipped=True)
    used = {t.seed for t in look.history.trials if t.id not in look.stage.trials}
    seeds = list(islice((s for i in count() if (s := fresh_seed(look.history, i)) not in used), pairs))
    candidates: dict[str, Config] = {"winner": winner}
    runs = yield [
        look.wish(
            config,
            base={},
            epochs=epochs,
            seed=seed,
            why=f"{arm} on fresh seed {i + 1} of {pairs}",
            notes={"arm": arm, "pair": i},
        )
        for i, seed in enumerate(seeds)
        for arm, config, epochs in (("winner", winner, look.length), ("default", default, look.full))
    ]
    allowance = math.inf if look.stage.allowance is None else look.stage.allowance
    room = min(allowance, epochs_in_time) - pairs * (look.length + look.full)
    for k, config in enumerate(_challengers(look, winner)):
        if room < (k + 1) * pairs * look.length:
            break
        candidates[f"challenger {k + 1}"] = config
    if len(candidates) > 1:
        runs = runs + (
            yield [
                look.wish(
                    config,
                    base={},
                    epochs=look.length,
                    seed=seed,
                    why=f"{arm}, nearly as good in the search, on fresh seed {i + 1} of {pairs}",
                    notes={"arm": arm, "pair": i},
                )
                for arm, config in candidates.items()
                if arm != "winner"
                for i, seed in enumerate(seeds)
            ]
        )
    return _judged(look, {**candidates, "default": default}, runs, seeds)


def _winner(look: Look) -> Config:
    """What the stages settled; a configuration that was added by hand where that did better than all they trained."""
    best = look.best(_searched(look))
    return best.config if best is not None and best.by_hand else look.base


def _challengers(look: Look, winner: Config) -> list[Config]:
    """The next best configurations of the search at the settled length, where noise could have hidden that they are
    better."""
    sd = noise_of(look.history, without=look.stage.trials).sd
    scored = [t for t in _searched(look) if math.isfinite(look.loss(t))]
    own = [look.loss(t) for t in scored if t.config == winner]
    mark = min(own, default=min(map(look.loss, scored), default=math.inf))
    near = [t for t in scored if look.loss(t) - mark <= NEAR * sd * math.sqrt(2)]
    others: list[Config] = []
    for trial in sorted(near, key=look.loss):
        if trial.config not in (winner, look.default, *others):
            others.append(trial.config)
    return others[: look.plan.challengers]


def _searched(look: Look) -> list[TrialRecord]:
    """The trainings of the settled length that the search finished before this stage."""
    proofs = (CONFIRM, ABLATION)
    return [t for t in look.history.trials if t.full and t.horizon == look.length and t.stage not in proofs]


@dataclass(frozen=True, slots=True)
class Judged:
    """What the runs on fresh seeds say.

    Args:
        pairs: the numbers of the seeds on which winner and default both have a score.
        scores: each arm's scores on those, of the arms that have one on every.
        shrunk: the candidates' means, drawn together, larger is better; in the order of ``scores``.
        kept: the number of the candidate that is kept.
        failures: of each arm.
        sound: whether an arm meets the constraints.
        gain: of the kept one over the default, larger is better.
        p_value: of the sign-flip test.
        noise: of one training.
    """

    pairs: Sequence[int]
    scores: Mapping[str, list[float]]
    shrunk: Sequence[float]
    kept: int
    failures: Mapping[str, int]
    sound: Mapping[str, bool]
    gain: PairedDifference
    p_value: float
    noise: SeedNoise

    @property
    def complete(self) -> list[str]:
        """The candidates."""
        return [arm for arm in self.scores if arm != "default"]

    @property
    def label(self) -> str:
        """The one that is kept."""
        return self.complete[self.kept]

    @property
    def better(self) -> bool:
        """Whether it is kept instead of the default: what meets the constraints, else what probably gains."""
        sound = self.sound[self.label]
        return self.gain.probability >= ACCEPT if sound == self.sound["default"] else sound

    def arm(self, name: str, config: Config) -> dict[str, Any]:
        """An arm as plain data."""
        mean, sd = mean_sd(self.scores[name])
        return {
            "config": config, "scores": self.scores[name], "mean": mean, "sd": sd, "label": name,
            "failed": self.failures[name], "feasible": self.sound[name],
        }  # fmt: skip


def _judged(look: Look, arms: dict[str, Config], runs: Sequence[TrialRecord], seeds: Sequence[int]) -> Verdict:
    """The verdict of the runs on fresh seeds."""
    scores: dict[str, dict[int, float]] = {arm: {} for arm in arms}
    failures = dict.fromkeys(arms, 0)
    for run in runs:
        score = look.history.score(run)
        if score is None:
            failures[run.notes["arm"]] += 1
        else:
            scores[run.notes["arm"]][run.notes["pair"]] = score
    both = sorted(set(scores["winner"]) & set(scores["default"]))
    if len(both) < FEWEST:
        text = f"only {words.count(len(both), 'pair')} came back, {words.count(sum(failures.values()), 'run')} failed"
        return Verdict("not decided", text, skipped=True)
    table = {arm: [own[i] for i in both] for arm, own in scores.items() if set(both) <= set(own)}
    judged = _judgement(look, both, table, failures, runs)
    label, better = judged.label, judged.better
    first, second = judged.arm(label, arms[label]), judged.arm("default", arms["default"])
    promised = _promised(look, arms[label], judged.noise)
    return Verdict(
        _text(look, judged, first, second, len(runs)),
        _why(judged, promised),
        settled=arms[label] if better else arms["default"],
        numbers={
            "winner": first,
            "default": second,
            "challengers": [judged.arm(arm, arms[arm]) for arm in judged.complete if arm != label],
            "seeds": [seeds[i] for i in both],
            "gain": judged.gain.mean,
            "interval": [judged.gain.low, judged.gain.high],
            "probability": judged.gain.probability,
            "p_value": judged.p_value,
            "better": better,
            "length": look.length if better else look.full,
            "shrunk": _sign(look) * judged.shrunk[judged.kept],
            "expected": promised,
            "noise": {"sd": judged.noise.sd, "df": judged.noise.df, "source": judged.noise.source},
        },
    )


def _sign(look: Look) -> float:
    """What a score is multiplied by so that larger is better."""
    return -1.0 if look.history.objective.minimize else 1.0


def _judgement(
    look: Look,
    pairs: Sequence[int],
    table: Mapping[str, list[float]],
    failures: Mapping[str, int],
    runs: Sequence[TrialRecord],
) -> Judged:
    """Which candidate is kept, and what it gains over the default."""
    noise, sign = noise_of(look.history), _sign(look)
    complete = [arm for arm in table if arm != "default"]
    shrunk = shrunk_means([[sign * x for x in table[arm]] for arm in complete], noise.sd)
    sound = {arm: _keeps(arm, runs) for arm in table}
    # The feasible before the others; the first of equals is the search's own winner.
    kept = max(range(len(complete)), key=lambda k: (sound[complete[k]], shrunk[k]))
    # A challenger was chosen after a look at these seeds: its interval is widened for that (Bonferroni).
    confidence = 1 - 0.05 / (len(complete) if kept else 1)
    new, old = table[complete[kept]], table["default"]
    gain = paired_difference([sign * x for x in new], [sign * x for x in old], confidence, noise.sd)
    p_value = sign_flip_p([sign * (n - o) for n, o in zip(new, old, strict=True)])
    return Judged(pairs, table, shrunk, kept, failures, sound, gain, p_value, noise)


def _text(look: Look, judged: Judged, first: Mapping[str, Any], second: Mapping[str, Any], runs: int) -> str:
    """The verdict in words, with its numbers."""
    gain, complete, failed = judged.gain, judged.complete, sum(judged.failures.values())
    text = (
        f"{look.history.objective.metric} {first['mean']:.4g} ± {first['sd']:.2g} against "
        f"{second['mean']:.4g} ± {second['sd']:.2g} for the strong default: "
        f"{gain_text(gain.mean, (gain.low, gain.high), in_points(look.history), seeds_text(len(judged.pairs)))}"
    )
    if judged.sound[judged.label] != judged.sound["default"]:
        broken, other = "default", "tuned configuration"
        if not judged.better:
            broken, other = other, broken
        text += f"; the {broken} breaks a constraint, the {other} is kept"
    elif not judged.better:
        text += "; the difference is within the noise, the default is kept"
    elif gain.low <= 0:
        text += f"; kept as probably better (P = {gain.probability:.2f}), more seeds would have to prove it"
    if judged.kept:
        text += f"; the search's {ORDINALS[judged.kept - 1]} choice proved better than its first"
    elif len(complete) > 1:
        text += f"; better than {words.count(len(complete) - 1, 'close candidate')} or as good"
    return text + (f"; {failed} of {runs} runs failed" if failed else "")


def _why(judged: Judged, promised: Mapping[str, float]) -> str:
    """What the verdict rests on."""
    why = "fresh seeds, the same for all; Student's t interval of the paired differences"
    if judged.kept:
        why += f", widened for the choice among {len(judged.complete)}"
    why += f"; sign-flip p = {judged.p_value:.2g}"
    if promised:
        why += (
            f"; the search saw {promised['score']:.4g} as the best of {promised['tried']}, "
            f"{promised['expected']:.4g} without the luck of that choice"
        )
    return why


def _keeps(arm: str, runs: Sequence[TrialRecord]) -> bool:
    """Whether most of an arm's scored runs meet the constraints."""
    broken = [run.violation > 0 for run in runs if run.notes["arm"] == arm and run.failure is None]
    return 2 * sum(broken) < len(broken) or not any(broken)


def _promised(look: Look, config: Config, noise: SeedNoise) -> dict[str, float]:
    """What the search's best score promised, if ``config`` has it: ``score``, ``tried`` and ``expected``."""
    best_each: dict[str, TrialRecord] = {}
    for trial in _searched(look):
        if math.isfinite(look.loss(trial)) and not trial.violation:
            best_each.setdefault(repr(sorted(trial.config.items())), trial)
    best = look.best(list(best_each.values()))
    if best is None or best.config != config:
        return {}
    found = best_of([-look.loss(t) for t in best_each.values()], noise.sd)
    objective = look.history.objective
    return {
        "score": objective.score(-found.score),
        "tried": found.tried,
        "expected": objective.score(-found.expected),
    }


def fresh_seed(history: History, number: int) -> int:
    """A seed that no search trial used."""
    return (history.study.seed * 1_000_003 + 7_919 * (number + 1)) % 2**31
