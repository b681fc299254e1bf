"""Is it true? Winner and strong default on fresh seeds."""

from __future__ import annotations

from luthier.core.history import History
from luthier.numerics.paired import mean_sd, paired_difference
from luthier.playbook.script import Look, Script, Verdict

PAIRS = (2, 5)
"""Fresh seeds, fewest and most. In a one-sided sign test five pairs allow p = 1/32, three 1/8."""

CONFIRM_TIME = 0.35
"""The part of a wall-clock budget that is kept for the confirmation."""

KEEP = 0.8
"""The winner is kept when the probability of a gain is at least this: P(A > B) of 0.75 to 0.8 serves for decisions,
Bouthillier et al., "Accounting for Variance in Machine Learning Benchmarks" (arXiv 2103.03098)."""


def confirm_pairs(history: History) -> int:
    """How many fresh seeds the budget in epochs can pay for: at most two fifths of it, two arms each."""
    epochs = history.study.budget.epochs
    if epochs is None:
        return PAIRS[1]
    affordable = int(0.4 * epochs / (2 * history.study.max_epochs))
    return min(PAIRS[1], affordable) if affordable >= PAIRS[0] else 0


def _pairs_in_time(look: Look) -> int:
    """How many fresh seeds fit the stage's time, at the pace seen before the stage."""
    pace = look.history.seconds_per_epoch(without=look.stage.trials)
    if look.stage.seconds is None or pace == 0:
        return PAIRS[1]
    return int(look.stage.seconds / (pace * (look.length + look.full)))


def confirm(look: Look) -> Script:
    """Winner and strong default on the same fresh seeds; the winner is kept where a gain is probable."""
    objective = look.history.objective
    winner, default = look.base, look.default
    pairs = min(confirm_pairs(look.history), _pairs_in_time(look))
    if winner == default and look.length == look.full:
        return Verdict("the strong default is the winner", "no change paid", settled=default, skipped=True)
    if pairs < PAIRS[0]:
        return Verdict("skipped", "the budget has no room for repeats; the result may be luck", skipped=True)
    seeds = [fresh_seed(look.history, i) for i in range(pairs)]
    wishes = []
    for i, seed in enumerate(seeds):
        for arm, config, epochs in (("winner", winner, look.length), ("default", default, look.full)):
            why = f"{arm} on fresh seed {i + 1} of {pairs}"
            wishes.append(look.wish(config, base={}, epochs=epochs, seed=seed, why=why, notes={"arm": arm, "pair": i}))
    runs = yield wishes
    scores: dict[str, dict[int, float]] = {"winner": {}, "default": {}}
    failed = 0
    for run in runs:
        score = look.history.score(run)
        if score is None:
            failed += 1
        else:
            scores[run.notes["arm"]][run.notes["pair"]] = score
    both = sorted(set(scores["winner"]) & set(scores["default"]))
    if len(both) < PAIRS[0]:
        return Verdict("not decided", f"only {len(both)} pairs came back, {failed} runs failed", skipped=True)
    new, old = [scores["winner"][i] for i in both], [scores["default"][i] for i in both]
    sign = -1.0 if objective.minimize else 1.0
    gain = paired_difference([sign * x for x in new], [sign * x for x in old])
    better = gain.probability >= KEEP
    arms = {
        arm: {"config": config, "scores": values, "mean": mean_sd(values)[0], "sd": mean_sd(values)[1]}
        for arm, config, values in (("winner", winner, new), ("default", default, old))
    }
    text = (
        f"{objective.metric} {arms['winner']['mean']:.4g} ± {arms['winner']['sd']:.2g} against "
        f"{arms['default']['mean']:.4g} ± {arms['default']['sd']:.2g} for the strong default: "
        f"{gain.mean:+.3g} (95 % interval {gain.low:+.3g} to {gain.high:+.3g}, {len(both)} paired seeds)"
    )
    if not better:
        text += "; the difference is within the noise, the default is kept"
    elif gain.low <= 0:
        text += f"; kept as probably better (P = {gain.probability:.2f}), more seeds would have to prove it"
    if failed:
        text += f"; {failed} runs failed"
    return Verdict(
        text,
        "fresh seeds, the same for both; Student's t interval of the paired differences",
        settled=winner if better else default,
        numbers={
            **arms,
            "seeds": [seeds[i] for i in both],
            "gain": gain.mean,
            "interval": [gain.low, gain.high],
            "probability": gain.probability,
            "better": better,
            "length": look.length if better else look.full,
        },
    )


def fresh_seed(history: History, number: int) -> int:
    """A seed that no search trial used."""
    return (history.study.seed * 1_000_003 + 7_919 * (number + 1)) % 2**31
