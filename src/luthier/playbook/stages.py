"""The stages' scripts, in the order of the plan.

The order and its reasons: Godbole et al., Deep Learning Tuning Playbook (2023): one scientific question at a time, its coupled
neighbours tuned along. Screening runs are complete short trainings with their own schedule, never prefixes of long ones: among
good configurations a prefix of a decaying schedule ranks poorly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from luthier.core.history import History
from luthier.core.space import Choice, Constant, Float, Int, Value
from luthier.core.summary import CONFIRM
from luthier.core.trial import TrialRecord
from luthier.diagnose.lr_range import suggest_lr
from luthier.diagnose.sanity import judge_sanity
from luthier.knowledge import find, prior_center, rate_for_batch, role_of, roles, smallest, tier_of
from luthier.numerics.paired import mean_sd, paired_difference
from luthier.playbook.script import Look, Script, Verdict, short

NOISE = 0.003
"""Relative seed noise of a metric before any was measured: the median over repeated AlgoPerf runs, 0.3 %."""

PAIRS = (2, 5)
"""Fresh seeds for the confirmation, fewest and most. Five pairs allow p = 1/32 in a one-sided sign test, three only 1/8."""


# -- 1. does it learn? -------------------------------------------------------------------------------------------------


def sanity(look: Look) -> Script:
    """Loss at init near the trivial one; one batch can be learned by heart; on the smallest model that the space allows."""
    if "sanity" not in look.history.study.probes:
        return Verdict("skipped", "the training function is your own and cannot be questioned", skipped=True)
    config = smallest(look.space, look.default)
    why = "the smallest model proves the pipeline before any search"
    (run,) = yield [look.wish(config, epochs=0, why=why, probe="sanity")]
    if run.answer is None:
        reason = run.failure.reason if run.failure else "no answer"
        return Verdict(f"the check itself failed: {reason}", "a pipeline that cannot be checked cannot be tuned", fatal=True)
    found = judge_sanity(run.answer)
    return Verdict(
        found.sentence,
        "; ".join(f"{name}: {text}" for name, _, text in found.checks),
        numbers={"checks": [list(c) for c in found.checks]},
        fatal=found.fatal,
    )


# -- 2. which rates? ---------------------------------------------------------------------------------------------------


def lr_range(look: Look) -> Script:
    """A learning-rate range test for each optimizer worth asking."""
    rate = find(look.space, "learning_rate")
    if rate is None or isinstance(look.space[rate], (Choice, Constant)):
        return Verdict("skipped", "the space has no learning rate to search", skipped=True)
    if "lr_range" not in look.history.study.probes:
        return Verdict("skipped", "the training function is your own: the next stage tries a ladder of rates", skipped=True)
    found: dict[str, dict[str, Any]] = {}
    wishes = [
        look.wish({**_with_optimizer(look, o)}, base={}, epochs=0, why=f"range test with {o}", probe="lr_range")
        for o in _optimizers(look)
    ]
    runs = yield wishes
    for optimizer, run in zip(_optimizers(look), runs, strict=False):
        if run.answer is None:
            continue
        prior = prior_center(look.space, rate, optimizer)
        test = suggest_lr(run.answer["lrs"], run.answer["losses"], prior=(prior, 0.5) if prior else None)
        found[str(optimizer)] = {
            "center": test.center,
            "spread": test.spread_decades,
            "upper": test.upper,
            "confidence": test.confidence,
            "why": test.why,
            "trial": run.id,
        }
    good = {o: f for o, f in found.items() if f["center"] is not None}
    if not good:
        reasons = "; ".join(f"{o}: {f['why']}" for o, f in found.items()) or "no test came back"
        return Verdict("the test says nothing; the prior stays", reasons, numbers={"optimizers": found})
    first = next(iter(good.values()))
    text = "; ".join(
        f"{o}: about {f['center']:.2g} (within a factor {10 ** f['spread']:.1f}, confidence {f['confidence']})"
        for o, f in good.items()
    )
    why = "; ".join(f"{o}: {f['why']}" for o, f in good.items())
    return Verdict(text, why, numbers={"optimizers": found, "center": first["center"], "upper": first["upper"]})


def _optimizers(look: Look) -> list[Value]:
    """The optimizers to ask: the default one first, at most three; [None] where the space has none."""
    name = find(look.space, "optimizer")
    if name is None:
        return [None]
    param, first = look.space[name], look.default[name]
    choices = list(param.choices) if isinstance(param, Choice) else [first]
    preferred = [p for p in roles()["optimizer"].prefer if p in [str(c).lower() for c in choices]]
    order = sorted(choices, key=lambda c: (c != first, preferred.index(s) if (s := str(c).lower()) in preferred else 99))
    return order[:3]


def _with_optimizer(look: Look, optimizer: Value) -> dict[str, Value]:
    name = find(look.space, "optimizer")
    return {name: optimizer} if name else {}


# -- 3. learning rate, optimizer, batch size ---------------------------------------------------------------------------


def learning_rate(look: Look) -> Script:
    """A short ladder of rates for each optimizer around what the range test (or the prior) says; then the batch size."""
    rate = find(look.space, "learning_rate")
    if rate is None or isinstance(look.space[rate], (Choice, Constant)):
        return Verdict("skipped", "the space has no learning rate to search", skipped=True)
    epochs = look.short
    (first,) = (yield [look.wish(look.default, epochs=epochs, why="the strong default, as the mark to beat")]) or (None,)
    tried: list[TrialRecord] = [first] if first else []

    def ladder(optimizer: Value, rates: Sequence[float], why: str) -> list[Any]:
        base = _with_optimizer(look, optimizer)
        return [look.wish({**base, rate: r}, base={}, epochs=epochs, why=f"{why}: rate {r:.2g}") for r in rates]

    for number, optimizer in enumerate(_optimizers(look)):
        center, upper, origin = _center(look, rate, optimizer)
        label = f"{optimizer}, " if optimizer is not None else ""
        steps = [center, center / 3, center * 3] if number == 0 else [center, center * 3]
        runs = yield ladder(optimizer, _allowed(look, rate, steps, upper), f"{label}around {origin}")
        runs = [*runs, *(t for t in tried if number == 0)]
        for _ in range(3):  # the best rate at the edge of the ladder: one step further
            best = look.best(runs)
            known = sorted(float(t.config[rate]) for t in runs)  # type: ignore[arg-type]
            if best is None or len(known) < 2:
                break
            at = float(best.config[rate])  # type: ignore[arg-type]
            beyond = at * 3 if at == known[-1] else at / 3 if at == known[0] else None
            if beyond is None or (number > 0 and _hopeless(look, best, tried)):
                break
            more = _allowed(look, rate, [beyond], upper, known)
            step = yield ladder(optimizer, more, f"{label}the best rate so far lies at the edge")
            if not step:
                break
            runs += step
        tried += [t for t in runs if t not in tried]
    best = look.best(tried)
    if best is None:
        return Verdict("no rate gave a score", look.table(tried, rate), fatal=True)
    rates_seen = look.table(sorted(tried, key=lambda t: (str(_optimizer(look, t)), float(t.config[rate]))), *_shown(look, rate))  # type: ignore[arg-type]
    best, batches = yield from _batch_sizes(look, rate, best, epochs)
    at = float(best.config[rate])  # type: ignore[arg-type]
    finer = [r for r in _allowed(look, rate, [at, at * 1.7, at / 1.7], None) if abs(math.log(r / at)) > 0.2]
    more = yield [
        look.wish({rate: r}, base=best.config, epochs=epochs, why=f"a finer step beside the best rate: {r:.2g}")
        for r in finer
    ]
    if more:
        batches += f"; rates beside the best {look.table([best, *more], rate)}"
        best = look.best([best, *more]) or best
    settled = {n: best.config[n] for n in _shown(look, rate, batch=True) if n in best.config}
    text = (
        f"{', '.join(f'{n} {short(v)}' for n, v in settled.items())}: "
        f"{look.history.objective.metric} {look.shown(best)} after {epochs} epochs"
        + (f" (strong default {look.shown(first)})" if first else "")
    )
    return Verdict(text, rates_seen + batches, settled=settled)


def _batch_sizes(look: Look, rate: str, best: TrialRecord, epochs: int) -> Any:
    """Half and double the batch, the rate following; on in the better direction while it pays."""
    name = find(look.space, "batch_size")
    if name is None or name not in best.config or isinstance(look.space[name], (Choice, Constant)):
        return best, ""
    tried = [best]
    for direction in (0.5, 2.0):
        for _ in range(3):
            leader = look.best(tried) or best
            if tried[-1] is not leader and tried[-1] is not best:
                break
            batch = float(leader.config[name])  # type: ignore[arg-type]
            size = look.space.clip(name, round(batch * direction))
            if any(t.config[name] == size for t in tried):
                break
            new = rate_for_batch(float(leader.config[rate]), batch, float(size), _optimizer(look, leader))  # type: ignore[arg-type]
            moved = look.space.clip(rate, float(f"{new:.3g}"))
            why = f"batch {size}, the rate following to {short(moved)}"
            more = yield [look.wish({name: size, rate: moved}, base=best.config, epochs=epochs, why=why)]
            if not more:
                break
            tried += more
        if look.best(tried) is not best:
            break  # the other direction is not worth a training
    return look.best(tried) or best, f"; {name} {look.table(tried, name)}"


def _center(look: Look, rate: str, optimizer: Value) -> tuple[float, float | None, str]:
    """Where to look for the rate: the range test where it spoke, else the prior, else the middle of the scale."""
    test = look.numbers("range").get("optimizers", {}).get(str(optimizer), {})
    if test.get("center") is not None:
        return float(test["center"]), test.get("upper"), "the range test"
    prior = prior_center(look.space, rate, optimizer)
    if prior is not None:
        return prior, None, "the prior"
    return float(look.space[rate].from_unit(0.5)), None, "the middle of the range"  # type: ignore[arg-type]


def _allowed(
    look: Look, rate: str, wanted: Sequence[float], upper: float | None, known: Sequence[float] = ()
) -> list[float]:
    """``wanted`` rates inside the range and below the test's upper bound, without near-repetitions, two digits each."""
    out: list[float] = []
    for r in wanted:
        bounded = float(look.space.clip(rate, float(f"{min(r, upper or math.inf):.2g}")))  # type: ignore[arg-type]
        if all(abs(math.log(bounded / other)) > 0.2 for other in (*out, *known)):
            out.append(bounded)
    return out


def _hopeless(look: Look, best: TrialRecord, others: Sequence[TrialRecord]) -> bool:
    """Whether an optimizer's best so far is so far behind that refining its rate is not worth a training."""
    leader = look.best(others)
    if leader is None:
        return False
    losses = sorted(x for t in others if math.isfinite(x := look.loss(t)))
    return look.loss(best) > losses[len(losses) // 2]


def _optimizer(look: Look, trial: TrialRecord) -> Value:
    name = find(look.space, "optimizer")
    return trial.config.get(name) if name else None


def _shown(look: Look, rate: str, *, batch: bool = False) -> list[str]:
    names = [find(look.space, "optimizer"), rate, find(look.space, "batch_size") if batch else None]
    return [n for n in names if n is not None]


# -- 4. schedule and length --------------------------------------------------------------------------------------------


def schedule(look: Look) -> Script:
    """Full-length trainings: the settled configuration, the other schedules and warmups, half the length, the rate nearby."""
    rate, name = find(look.space, "learning_rate"), find(look.space, "schedule")
    runs = yield [look.wish({}, epochs=look.full, why=f"what is settled, at the full length of {look.full} epochs")]
    if not runs:
        return Verdict("skipped", "the budget has no room for a full training here", skipped=True)
    (base,) = runs
    tried, best = [base], base
    compared = []
    if name is not None and isinstance(look.space[name], Choice):
        others = [c for c in look.space[name].choices if c != base.config.get(name)]  # type: ignore[union-attr]
        wishes = [look.wish({name: c}, epochs=look.full, why=f"schedule {c} instead") for c in others]
        tried += yield wishes
        best = look.best(tried) or base
        compared.append(f"schedules {look.table(tried, name)}")
    warm = find(look.space, "warmup")
    if warm is not None and warm in best.config and isinstance(look.space[warm], Float):
        now = float(best.config[warm])  # type: ignore[arg-type]
        other = look.space.clip(warm, 0.0 if now > 0.02 else 0.1)
        if other != best.config[warm]:
            more = yield [look.wish({warm: other}, base=best.config, epochs=look.full, why=f"warmup {short(other)}")]
            compared.append(f"warmup {look.table([best, *more], warm)}")
            tried += more
            best = look.best([best, *more]) or best
    if rate is not None and rate in best.config and not isinstance(look.space[rate], (Choice, Constant)):
        at = float(best.config[rate])  # type: ignore[arg-type]
        near = [r for r in _allowed(look, rate, [at, at / 2, at * 2], None) if abs(math.log(r / at)) > 0.2]
        more = yield [
            look.wish({rate: r}, base=best.config, epochs=look.full, why=f"a rate found on short runs is checked: {r:.2g}")
            for r in near
        ]
        compared.append(f"rates at full length {look.table([best, *more], rate)}")
        tried += more
        best = look.best([best, *more]) or best
    length = look.full
    if look.medium < look.full:
        halves = yield [
            look.wish({}, base=best.config, epochs=look.medium, why=f"would {look.medium} epochs have done as well?")
        ]
        for half in halves:
            gain = look.loss(half) - look.loss(best)
            compared.append(f"length {look.medium}: {look.shown(half)}, {look.full}: {look.shown(best)}")
            if gain <= 0:
                length, best = look.medium, half
    settled = {n: best.config[n] for n in (name, warm, rate) if n is not None and n in best.config}
    metric = look.history.objective.metric
    words = ", ".join(f"{n} {short(v)}" for n, v in settled.items())
    text = f"{words + ', ' if words else ''}{length} epochs: {metric} {look.shown(best)}"
    if length < look.full:
        text += f" (the full {look.full} epochs gain nothing)"
    return Verdict(text, "; ".join(compared), settled=settled, numbers={"length": length})


# -- 5. everything else ------------------------------------------------------------------------------------------------


def rest(look: Look) -> Script:
    """What no stage of its own has settled: one change at a time, capacity first, kept where it gains more than the noise."""
    done = {n for s in look.history.stages if not s.open for n in s.settled}
    open_names = [n for n in look.space.dims if n in look.base and n not in done]
    open_names.sort(key=lambda n: tier_of(n, look.space[n]))
    if not open_names:
        return Verdict("skipped", "nothing is left to tune", skipped=True)
    # Two trainings for each at full length where that fits, at half length where it does not.
    allowance = look.stage.allowance
    wanted = (1 + 2 * len(open_names)) * look.length
    epochs = look.length if allowance is None or allowance >= wanted else min(look.length, look.medium)
    runs = yield [look.wish({}, epochs=epochs, why="what is settled so far, as the mark to beat")]
    if not runs or look.best(runs) is None:
        return Verdict("skipped", f"no budget is left for {', '.join(open_names)}; they stay at their defaults", skipped=True)
    best, kept, words, untouched = runs[0], {}, [], []
    for name in open_names:
        if name not in best.config:
            continue
        tried: list[TrialRecord] = []
        for value in _neighbours(look, name, best.config[name]):
            why = f"{name} {short(value)} instead of {short(best.config[name])}"
            tried += yield [look.wish({name: value}, base=best.config, epochs=epochs, why=why)]
        if not tried:
            untouched.append(name)
            continue
        words.append(f"{name} {look.table([best, *tried], name)}")
        challenger = look.best(tried)
        if challenger is not None and look.loss(best) - look.loss(challenger) > _noise(look, best):
            best = challenger
            kept[name] = challenger.config[name]
    text = (
        f"kept {', '.join(f'{n} {short(v)}' for n, v in kept.items())}: {look.history.objective.metric} {look.shown(best)}"
        if kept
        else f"none of {', '.join(n for n in open_names if n not in untouched) or 'them'} gained more than the noise"
    )
    if untouched:
        text += f"; no budget was left for {', '.join(untouched)}"
    return Verdict(text, "; ".join(words), settled=kept)


def _neighbours(look: Look, name: str, value: Value) -> list[Value]:
    """Two values to try beside ``value``: the other choices, or a step down and up the scale that the role suggests."""
    param = look.space[name]
    if isinstance(param, Choice):
        return [c for c in param.choices if c != value][:2]
    assert isinstance(param, (Float, Int))
    known = role_of(name, param)
    tier = known.tier if known else 6
    if known is not None and known.name == "dropout":
        wanted: list[Value] = [0.0, 0.25]
    elif param.log:
        factor = 2.0 if tier == 3 else 5.0
        wanted = [float(value) * factor, float(value) / factor]  # type: ignore[arg-type]
    elif isinstance(param, Int) and tier == 3:
        wanted = [int(value) + 1, int(value) - 1]  # type: ignore[arg-type]
    else:
        at = param.to_unit(value)
        wanted = [param.from_unit(min(1.0, at + 0.25)), param.from_unit(max(0.0, at - 0.25))]
    clipped = [look.space.clip(name, w) for w in wanted]
    return [v for v in dict.fromkeys(clipped) if v != value]


def _noise(look: Look, trial: TrialRecord) -> float:
    return NOISE * abs(look.loss(trial))


# -- 6. is it true? ----------------------------------------------------------------------------------------------------


def confirm_pairs(history: History) -> int:
    """How many fresh seeds the budget can pay for: at most two fifths of it, two arms each."""
    epochs = history.study.budget.epochs
    if epochs is None:
        return 3 if history.study.budget.seconds is not None else PAIRS[1]
    affordable = int(0.4 * epochs / (2 * history.study.max_epochs))
    return min(PAIRS[1], affordable) if affordable >= PAIRS[0] else 0


def confirm(look: Look) -> Script:
    """Winner and strong default on the same fresh seeds; the winner is kept only if the interval of the gain says so."""
    objective = look.history.objective
    winner, default = look.base, look.default
    pairs = confirm_pairs(look.history)
    if winner == default and look.length == look.full:
        return Verdict("the strong default is the winner", "no change paid", settled=default, skipped=True)
    if pairs == 0:
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
    better = gain.low > 0 if gain.sd > 0 else gain.mean > 0
    arms = {
        arm: {"config": config, "scores": values, "mean": mean_sd(values)[0], "sd": mean_sd(values)[1]}
        for arm, config, values in (("winner", winner, new), ("default", default, old))
    }
    text = (
        f"{objective.metric} {arms['winner']['mean']:.4g} ± {arms['winner']['sd']:.2g} against "
        f"{arms['default']['mean']:.4g} ± {arms['default']['sd']:.2g} for the strong default: "
        f"{gain.mean:+.3g} (95 % interval {gain.low:+.3g} to {gain.high:+.3g}, {len(both)} paired seeds)"
    )
    text += "" if better else "; the difference is within the noise, the default is kept"
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
            "better": better,
            "length": look.length if better else look.full,
        },
    )


def fresh_seed(history: History, number: int) -> int:
    """A seed that no search trial used."""
    return (history.study.seed * 1_000_003 + 7_919 * (number + 1)) % 2**31


__all__ = ["CONFIRM", "confirm", "confirm_pairs", "learning_rate", "lr_range", "rest", "sanity", "schedule"]


