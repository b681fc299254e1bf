"""Everything that has no stage of its own."""

from __future__ import annotations

from luthier.core.params import Choice, Config, Float, Int, Value
from luthier.core.trial import TrialRecord
from luthier.knowledge import role_of, tier_of
from luthier.playbook.script import Look, Script, Verdict, short

COUNTED = 16
"""Up to this span a whole number (layers, blocks) is stepped by one, beyond it (units) along its scale."""

NOISE = 0.003
"""Relative seed noise of a metric before any was measured: the median over repeated AlgoPerf runs, 0.3 %."""


def rest(look: Look) -> Script:
    """What no stage has settled: one change at a time, capacity first, kept where it gains more than the noise."""
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
        return Verdict(
            "skipped", f"no budget is left for {', '.join(open_names)}; they stay at their defaults", skipped=True
        )
    best, kept, words, untouched = runs[0], {}, [], []
    for name in open_names:
        if name not in best.config:
            continue
        tried: list[TrialRecord] = []
        for value in _neighbours(look, name, best.config):
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
        f"kept {', '.join(f'{n} {short(v)}' for n, v in kept.items())}: {look.said(best)}"
        if kept
        else f"none of {', '.join(n for n in open_names if n not in untouched) or 'them'} gained more than the noise"
    )
    if untouched:
        text += f"; no budget was left for {', '.join(untouched)}"
    return Verdict(text, "; ".join(words), settled=kept)


def _neighbours(look: Look, name: str, config: Config) -> list[Value]:
    """Two values to try beside the one in ``config``: the other choices, or a step down and up the scale that the role
    suggests."""
    param, value = look.space[name], config[name]
    if isinstance(param, Choice):
        return [c for c in param.choices if c != value][:2]
    assert isinstance(param, (Float, Int))
    known = role_of(name, param)
    tier = known.tier if known else 6
    if known is not None and known.name == "dropout":
        wanted: list[Value] = [0.0, 0.25]
    elif param.log:
        factor = 2.0 if tier == 3 else 5.0
        wanted = [float(str(value)) * factor, float(str(value)) / factor]
    elif isinstance(param, Int) and tier == 3 and param.high - param.low <= COUNTED:
        wanted = [int(str(value)) + 1, int(str(value)) - 1]
    else:
        at = param.to_unit(value)
        wanted = [param.from_unit(min(1.0, at + 0.25)), param.from_unit(max(0.0, at - 0.25))]
    clipped = [look.space.clip(name, w, config) for w in wanted]
    return [v for v in dict.fromkeys(clipped) if v != value]


def _noise(look: Look, trial: TrialRecord) -> float:
    return NOISE * abs(look.loss(trial))
