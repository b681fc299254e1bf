"""Which changes carry the gain? The way from the strong default to the winner, trained change by change."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from luthier.core.params import Choice, Config, Constant, Value
from luthier.core.space import Space
from luthier.core.summary import CONFIRM, Ablation, Step, carried_text, gain_text, in_points, seeds_text
from luthier.core.trial import TrialRecord
from luthier.knowledge import tier_of, tuned_along
from luthier.numerics.noise import SeedNoise, least_sd, pooled_sd, reach
from luthier.playbook.noise import noise_of
from luthier.playbook.script import Look, Script, Verdict
from luthier.playbook.stages.confirm import affordable_epochs

LENGTH = "epochs"
"""How the length is named where the winner trains for fewer epochs than the default."""


def ablation(look: Look) -> Script:
    """Default, default with one change, with two, ... up to the winner, on the seeds of the confirmation.

    Both ends were trained there. The largest change by the search's own trials comes first. Where the budget does not
    reach all the way, the smallest changes are made in one step.
    """
    confirmed = look.numbers(CONFIRM)
    if not confirmed.get("winner") or not confirmed.get("better"):
        return Verdict("skipped", "no gain was confirmed that could be taken apart", skipped=True)
    if not confirmed["default"].get("feasible", True) and confirmed["winner"]["feasible"]:
        return Verdict("skipped", "the winner was kept for the constraints, not for a gain", skipped=True)
    winner, length = confirmed["winner"]["config"], int(confirmed["length"])
    changes = _changes(look, winner, look.default)
    if length != look.full:
        changes.insert(0, (LENGTH,))
    allowance = math.inf if look.stage.allowance is None else look.stage.allowance
    affordable = min(allowance, affordable_epochs(look)) / length
    between = int(min(len(changes) - 1, affordable))
    if between < 1 < len(changes):
        return Verdict("skipped", "the budget has no room for the trainings between default and winner", skipped=True)
    if len(changes) > between + 1:
        changes = [*changes[:between], tuple(name for change in changes[between:] for name in change)]
    ends = confirmed["default"]["scores"], confirmed["winner"]["scores"]
    seeds = confirmed["seeds"]
    if between:
        seeds = seeds[: int(min(len(seeds), affordable / between))]
    runs = yield [
        look.wish(
            _on_the_way(winner, changes[k + 1 :]),
            base={},
            epochs=length,
            seed=seed,
            why=f"the default with {_named([n for c in changes[: k + 1] for n in c])} of the winner",
            notes={"step": k + 1, "pair": i},
        )
        for i, seed in enumerate(seeds)
        for k in range(between)
    ]
    sign = -1.0 if look.history.objective.minimize else 1.0
    rungs: list[dict[int, float]] = [{} for _ in range(len(changes) + 1)]
    for i in range(len(seeds)):
        rungs[0][i], rungs[-1][i] = (sign * end[i] for end in ends)
    for run in runs:
        if (score := look.history.score(run)) is not None:
            rungs[run.notes["step"]][run.notes["pair"]] = sign * score
    noise = noise_of(look.history)
    found = Ablation(_steps(changes, rungs, noise), seeds)
    points = in_points(look.history)
    whole = gain_text(confirmed["gain"], confirmed["interval"], points, seeds_text(len(confirmed["seeds"])))
    told = carried_text(found) or f"it is all due to {_named(changes[0])}"
    text = f"{whole} over the default; {told}"
    why = "; ".join(f"{_named(s.names)} {gain_text(s.gain, s.interval, points)}" for s in found.steps)
    if not runs:
        why = f"nothing to take apart, for it is all one change: {why}"
    failed = sum(look.history.score(run) is None for run in runs)
    if failed:
        why += f"; {failed} of {len(runs)} runs failed"
    steps = [{"names": s.names, "gain": s.gain, "interval": s.interval, "carries": s.carries} for s in found.steps]
    return Verdict(text, why, numbers={"steps": steps, "seeds": list(seeds)}, skipped=not runs)


def _steps(changes: Sequence[Sequence[str]], rungs: Sequence[Mapping[int, float]], noise: SeedNoise) -> list[Step]:
    """Each change's paired gain; a configuration that never gave a score joins the change after it.

    The steps' differences are pooled for their spread; a single seed has only the study's noise to go by.
    """
    names: list[str] = []
    last, told = rungs[0], []
    for change, rung in zip(changes, rungs[1:]):
        names = [*names, *change]
        gains = [rung[i] - last[i] for i in rung if i in last]
        if gains:
            told.append((names, gains))
            names, last = [], rung
    sd, df = pooled_sd([gains for _, gains in told])
    once = noise.sd * math.sqrt(2)
    sd, df = (max(sd, least_sd(once, df)), df) if df else (once, noise.df)
    steps = []
    for moved, gains in told:
        gain, half = sum(gains) / len(gains), reach(sd / math.sqrt(len(gains)), df)
        steps.append(Step(moved, gain, [gain - half, gain + half], gain > half))
    return steps


def _changes(look: Look, winner: Config, default: Config) -> list[tuple[str, ...]]:
    """What differs between winner and default, as changes that make sense by themselves, the largest gain first."""
    groups = grouped(look.space, [n for n in look.space if n in winner and winner[n] != default.get(n)])
    gains = {group: _gain_seen(look, group, winner, default) for group in groups}

    def rank(group: tuple[str, ...]) -> tuple[float, int]:
        return -gains[group], min(tier_of(n, look.space[n]) for n in group)

    return sorted(groups, key=rank)


def grouped(space: Space, names: Sequence[str]) -> list[tuple[str, ...]]:
    """``names`` in groups that have to change together (:func:`luthier.knowledge.tuned_along`), in their order."""
    group = {n: n for n in names}

    def join(a: str, b: str) -> None:
        old, new = group[a], group[b]
        group.update({n: new for n, g in group.items() if g == old})

    for name in names:
        for other in tuned_along(space, name):
            if other in group:
                join(other, name)
    out: dict[str, list[str]] = {}
    for name in names:
        out.setdefault(group[name], []).append(name)
    return [tuple(members) for members in out.values()]


def _gain_seen(look: Look, group: tuple[str, ...], winner: Config, default: Config) -> float:
    """What the search saw of a change: trials of the greatest length that differ in nothing else, the nearest to the
    winner against the default; 0 where there are none."""
    rooms: dict[tuple[int, int, str], list[TrialRecord]] = {}
    own = set(look.stage.trials)
    for trial in look.history.trials:
        if trial.full and trial.id not in own and math.isfinite(look.loss(trial)):
            rest = repr(sorted((k, v) for k, v in trial.config.items() if k not in group))
            rooms.setdefault((trial.horizon, trial.seed, rest), []).append(trial)

    def part(config: Config) -> list[tuple[str, Value]]:
        return [(n, config[n]) for n in group if n in config]

    def away(config: Config) -> float:
        """How far from the winner, on the unit scales; a choice is the same or 1 away."""
        far = 0.0
        for n in group:
            param = look.space[n]
            if n not in config or n not in winner or isinstance(param, (Choice, Constant)):
                far += config.get(n) != winner.get(n)
            else:
                far += abs(param.to_unit(look.space.base(n, config)) - param.to_unit(look.space.base(n, winner)))
        return far

    seen: dict[int, list[float]] = {}
    for (length, _, _), trials in rooms.items():
        old = [look.loss(t) for t in trials if part(t.config) == part(default)]
        new = [t for t in trials if part(t.config) != part(default) and away(t.config) < away(default)]
        if new and old:
            seen.setdefault(length, []).append(min(old) - look.loss(min(new, key=lambda t: away(t.config))))
    return sum(seen[max(seen)]) / len(seen[max(seen)]) if seen else 0.0


def _on_the_way(winner: Config, later: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The winner's values but for the changes that come later."""
    left = {name for change in later for name in change}
    return {name: value for name, value in winner.items() if name not in left}


def _named(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
