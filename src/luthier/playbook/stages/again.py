"""What a stage asks when it is opened again: beyond the edge of a range, the rate beside what changed, a steadier
training, a schedule that decays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from luthier.core.history import History
from luthier.core.params import Choice, Config, Float, Int, Value
from luthier.core.space import Space
from luthier.core.trial import TrialRecord
from luthier.core.words import count
from luthier.knowledge import find, rate_for_batch
from luthier.playbook.script import Look, Script, Verdict, Wish, after, number, short, unaffordable
from luthier.playbook.stages.common import optimizer_of
from luthier.playbook.stages.search import change, has_role, noise, rates_again

WARM, WARMER = 0.1, 2.0
"""The least warmup that is tried against an unsteady training, as a part of it, and the factor on one that is longer.
Our choice."""
CLIP = 1.0
"""The gradient norm that is clipped at where nothing was, the usual default."""
DECAYING = ("cosine", "linear", "onecycle", "wsd", "step")
"""Schedules that end at a small rate, the likeliest first."""


def edge(look: Look) -> Script:
    """Two trainings beyond the edge at which the best value lay: half way on the scale, and at the new end."""
    notes = look.notes
    name, epochs, upper = notes["name"], int(notes["epochs"]), notes["end"] == "upper"
    param = look.space[name]
    assert isinstance(param, (Float, Int))
    marks = yield [look.wish({}, epochs=epochs, why=f"{name} on the edge of its range, as the mark to beat")]
    if look.best(marks) is None:
        return unaffordable([name])
    first = leader = marks[0]
    tried: list[TrialRecord] = []
    old, new = param.to_unit(notes["was"][1 if upper else 0]), 1.0 if upper else 0.0
    for u in ((old + new) / 2, new):
        value = look.space.clip(
            name, _rounded(look.space.coupled(name, param.from_unit(u), first.config)), first.config
        )
        if value in (leader.config[name], first.config[name]):
            continue
        more = yield [_beyond(look, name, value, first, epochs)]
        tried += more
        if not more or look.loss(more[0]) - look.loss(leader) > noise(look, leader):
            break  # it gets worse, or fails: further out there is nothing to look for
        if look.loss(more[0]) < look.loss(leader):
            leader = more[0]
    if not tried:
        return unaffordable([name])
    because = f"{name} {look.table([first, *tried], name)}"
    # Of the rate any gain counts, as on the ladder; of the rest what is more than noise.
    margin = 0.0 if has_role(look, name, "learning_rate") else noise(look, first)
    if look.loss(first) - look.loss(leader) <= margin:
        return Verdict(f"{name} {short(first.config[name])} stays: nothing better beyond the edge", because)
    rate = find(look.space, "learning_rate", leader.config)
    moved = {n: leader.config[n] for n in (name, rate) if n is not None and leader.config.get(n) != first.config.get(n)}
    return Verdict(
        f"{', '.join(f'{n} {short(v)}' for n, v in moved.items())}: {look.said(leader)} (at the edge "
        f"{look.shown(first)})",
        because,
        settled=moved,
    )


def _rounded(value: Value) -> Value:
    return float(f"{value:.2g}") if isinstance(value, float) else value


def _beyond(look: Look, name: str, value: Value, first: TrialRecord, epochs: int) -> Wish:
    """A training beyond the edge; the rate follows the batch and the width."""
    why = f"beyond the edge of its range: {name} {short(value)}"
    rate = find(look.space, "learning_rate", first.config)
    if rate is not None and has_role(look, name, "batch_size"):
        batch = number(first, name)
        followed = rate_for_batch(number(first, rate), batch, float(str(value)), optimizer_of(look, first))
        moved = look.space.clip(rate, float(f"{followed:.3g}"), {**first.config, name: value})
        return look.wish({name: value, rate: moved}, base=first.config, epochs=epochs, why=f"{why}, the rate following")
    return change(look, name, value, first, epochs, why)


def rates(look: Look) -> Script:
    """The learning rate a step up and down, for what it is coupled with has changed."""
    marks = yield [look.wish({}, epochs=look.short, why="what is settled now, as the mark to beat")]
    best = look.best(marks)
    rate = find(look.space, "learning_rate", best.config) if best is not None else None
    if rate is None or best is None:
        return unaffordable(["the rate"])
    tried = yield from rates_again(look, best, look.short)
    if not tried:
        return unaffordable([rate])
    leader = look.best([best, *tried]) or best
    stays = "stays" if leader is best else f"instead of {short(best.config[rate])}"
    return Verdict(
        f"{rate} {short(leader.config[rate])} {stays}: {look.said(leader)} {after(look.short)}",
        f"{rate} {look.table([best, *tried], rate)}",
        settled={rate: leader.config[rate]},
    )


def steadier(look: Look) -> Script:
    """The remedies of an unsteady or too slow training, one after the other until one is better."""
    notes = look.notes
    epochs, kinds = int(notes["epochs"]), notes["kinds"]
    answered = {"answered": list(kinds)}
    marks = yield [look.wish({}, epochs=epochs, why="what is settled so far, as the mark to beat")]
    first = look.best(marks)
    if first is None:
        return unaffordable(["the rate"])
    tried: list[TrialRecord] = []
    for changes, why in remedies(look.space, first.config, kinds)[: look.plan.remedies]:
        more = yield [look.wish(changes, base=first.config, epochs=epochs, why=why)]
        tried += more
        if more and look.loss(first) - look.loss(more[0]) > noise(look, first):
            break
    if not tried:
        return unaffordable(["the rate"])
    names = sorted({n for t in tried for n in t.config if t.config[n] != first.config.get(n)})
    best = look.best(tried)
    because = look.table([first, *tried], *names)
    if best is None or look.loss(first) - look.loss(best) <= noise(look, first):
        return Verdict(
            f"{look.said(first)} stays: the remedies gain nothing, so that is not what limits it", because,
            numbers=answered,
        )  # fmt: skip
    moved = {n: best.config[n] for n in names if best.config[n] != first.config.get(n)}
    return Verdict(
        f"{', '.join(f'{n} {short(v)}' for n, v in moved.items())}: {look.said(best)} (before {look.shown(first)})",
        because,
        settled=moved,
        numbers=answered,
    )


def remedies(space: Space, config: Config, kinds: Sequence[str]) -> list[tuple[Config, str]]:
    """What to try against findings on the learning rate's side, as changes of ``config`` with a why; what the space
    does not search, or has at its end, cannot be tried.

    A slow training gets a larger rate. At the edge of stability warmup and clipping make room for one. Else the rate
    goes down; then warmup and clipping.
    """
    rate = find(space, "learning_rate", config)
    numeric = rate is not None and isinstance(space[rate], Float)
    calm = calming(space, config)

    def at(factor: float) -> dict[str, Value]:
        if not numeric or rate is None:
            return {}
        value = space.clip(rate, float(f"{float(str(config[rate])) * factor:.2g}"), config)
        return {} if value == config[rate] else {rate: value}

    if "rate_too_low" in kinds:
        wanted: list[tuple[dict[str, Value], str]] = [(at(f), f"it is slow: {f:g} times the rate") for f in (3.0, 10.0)]
    elif set(kinds) == {"edge_of_stability"}:
        both = {**calm, **at(2.0)} if calm and at(2.0) else {}
        wanted = [(both, f"larger rates fail: {', '.join(calm)} to make room for twice the rate")]
    else:
        said = ", ".join(kinds)
        wanted = [(at(1 / 3), f"{said}: a third of the rate"), (calm, f"{said}: {', '.join(calm)} against it")]
    out: list[tuple[Config, str]] = []
    for changes, why in wanted:
        if changes and changes not in [c for c, _ in out]:
            out.append((changes, why))
    return out


def calming(space: Space, config: Config) -> dict[str, Value]:
    """A longer warmup and clipping, as far as the space searches them."""
    changes: dict[str, Value] = {}
    warmup, clip = find(space, "warmup"), find(space, "grad_clip")
    if warmup is not None and warmup in config and isinstance(space[warmup], Float):
        now = float(str(config[warmup]))
        changes[warmup] = space.clip(warmup, max(WARM, WARMER * now))
    if clip is not None and clip in config and isinstance(space[clip], Float):
        now = float(str(config[clip]))
        changes[clip] = space.clip(clip, CLIP if now == 0 or now > CLIP else now / 3)
    return {n: v for n, v in changes.items() if v != config[n]}


def longer(look: Look) -> Script:
    """A training that still improves when it ends: schedules that decay, for their gain comes sooner; the full length
    where half of it was settled."""
    marks = yield [look.wish({}, epochs=look.length, why="what is settled so far, as the mark to beat")]
    first = look.best(marks)
    if first is None:
        return unaffordable(["the schedule"])
    tried: list[TrialRecord] = []
    length = look.length
    if length < look.full:
        why = f"it still improves after {count(length, 'epoch')}: the full {look.full}"
        tried += yield [look.wish({}, epochs=look.full, why=why)]
    name = find(look.space, "schedule")
    for choice in decaying(look.history, first.config):
        why = f"it still improves at the end: {choice}, which decays"
        tried += yield [look.wish({str(name): choice}, base=first.config, epochs=look.full, why=why)]
    if not tried:
        return unaffordable(["the schedule"])
    best = look.best([first, *tried]) or first
    if best is not first and look.loss(first) - look.loss(best) <= noise(look, first):
        best = first
    table = "; ".join(
        f"{t.config.get(name or '', '')} {count(t.horizon, 'epoch')}: {look.shown(t)}" for t in [first, *tried]
    )
    settled = {name: best.config[name]} if name is not None and name in best.config else {}
    values = "".join(f"{n} {short(v)}, " for n, v in settled.items())
    return Verdict(
        f"{values}{count(best.horizon, 'epoch')}: {look.said(best)}", table.strip(), settled=settled,
        numbers={"length": best.horizon},
    )  # fmt: skip


def decaying(history: History, config: Config) -> list[Value]:
    """At most two schedules of the space that decay, none where the configuration has one already."""
    name = find(history.space, "schedule")
    param = history.space[name] if name is not None else None
    if name is None or not isinstance(param, Choice) or str(config.get(name)).lower() in DECAYING:
        return []
    spelled = {str(c).lower(): c for c in param.choices}
    return [spelled[word] for word in DECAYING if word in spelled][:2]


SCRIPTS: Mapping[str, Callable[[Look], Script]] = {
    "edge": edge,
    "rates": rates,
    "steadier": steadier,
    "longer": longer,
}
"""By what brought a stage back; with any other reason its own script runs again."""


def script_of(own: Callable[[Look], Script], notes: Mapping[str, Any]) -> Callable[[Look], Script]:
    """The script of a stage that was opened with ``notes``."""
    return SCRIPTS.get(str(notes.get("again")), own)
