"""Learning rate, optimizer and batch size: they decide most of the result, so they come first.

A configuration that was added by hand before the stage opened (``"known"`` in its notes) is trained beside the strong
default, as long and with the same seed; where it is better everything goes on from there.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from luthier.core.params import Choice, Config, Constant, Value
from luthier.core.trial import TrialRecord
from luthier.core.words import count
from luthier.knowledge import Prior, find, prior_center, rate_for_batch, tier_of
from luthier.knowledge.prior import LONG
from luthier.playbook.defaults import strong_default
from luthier.playbook.draws import rounded
from luthier.playbook.script import Look, Part, Script, Verdict, Wish, after, number, short
from luthier.playbook.stages.common import (
    allowed,
    optimizer_of,
    optimizers,
    rate_center,
    rate_of,
    shown,
    with_optimizer,
)
from luthier.playbook.stages.search import has_role, noise

STEPS = 3
"""Steps beyond the edge of a ladder, or on in one direction of the batch size, at most."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What the ladders begin from.

    Args:
        default: the strong default's training; None where the budget has no room for it.
        tried: the trainings so far, all ``epochs`` long.
        starts: for each optimizer the configuration that its ladder is around.
        known: what was added by hand, where it is the best so far and the ladders begin with it.
        epochs: how long a training has to be to show something.
    """

    default: TrialRecord | None
    tried: list[TrialRecord]
    starts: dict[Value, Config]
    known: Config | None
    epochs: int


def learning_rate(look: Look) -> Script:
    """A ladder of rates for each optimizer around what the range test (or the prior) says, or around what was added by
    hand; then the batch size."""
    rates = [n for n in look.space.dims if has_role(look, n, "learning_rate")]
    asked = [*rates, *(n for n in look.space.dims for role in ("optimizer", "batch_size") if has_role(look, n, role))]
    if not asked:
        return Verdict("skipped", "the space has no learning rate, optimizer or batch size to search", skipped=True)
    begun = yield from _beginning(look)
    tried = list(begun.tried)
    for optimizer, start in begun.starts.items():
        tried += yield from _ladder(look, optimizer, tried, start, begun.epochs, start == begun.known)
    if not tried:
        text = "the budget has no room for a training here"
        return Verdict("skipped", text, numbers={"unaffordable": True}, skipped=True)
    best = look.best(tried)
    if best is None:
        return Verdict("no rate gave a score", look.table(tried, *rates), fatal=True)
    batches = yield from _batch_sizes(look, best, begun.epochs)
    return _answer(look, rates, begun, tried, [best, *batches])


def _beginning(look: Look) -> Generator[Sequence[Wish], list[TrialRecord], Begun]:
    """The strong default, the same with what its length wants, and what was added by hand; longer where so short a
    training shows nothing."""
    epochs = look.short
    default = yield [look.wish(look.default, epochs=epochs, why="the strong default, as the mark to beat")]
    tried = list(default)
    starts: dict[Value, Config] = {o: strong_default(look.history, with_optimizer(look, o)) for o in optimizers(look)}
    experienced: dict[Value, Config] = {o: for_its_length(look, o) for o in starts}
    first = next(iter(starts))
    if default and experienced[first] != default[0].config:
        moved = {n: v for n, v in experienced[first].items() if v != default[0].config.get(n)}
        what = ", ".join(f"{n} {short(v)}" for n, v in moved.items())
        test = "; the rate by the range test" if _tested(look, first) else ""
        why = f"so short a training lacks updates: {what}{test}"
        tried += yield [look.wish(experienced[first], base={}, epochs=epochs, why=why, notes={"start": True})]
        if look.best(tried) is not default[0] or not shows(look, tried):
            starts = experienced
    known = _known(look, tried)
    if known is not None:
        tried += yield [_beside(look, known, epochs)]
    for longer in (look.medium, look.full):
        if not tried or longer <= epochs or shows(look, tried):
            break
        why = f"{count(epochs, 'epoch')} show{'s' if epochs == 1 else ''} nothing yet, so longer"
        wishes = [look.wish(starts[first], base={}, epochs=longer, why=why)]
        more = yield wishes if known is None else [*wishes, _beside(look, known, longer)]
        if not more:
            break
        epochs, tried = longer, more
    best = look.best(tried)
    if known is None or best is None or best.config != known:
        known = None
    else:
        starts = _around(look, known, starts)
    return Begun(default[0] if default else None, tried, starts, known, epochs)


def _answer(
    look: Look, rates: Sequence[str], begun: Begun, tried: Sequence[TrialRecord], batches: Sequence[TrialRecord]
) -> Verdict:
    """The verdict.

    Args:
        batches: the best of ``tried``, and the same with other batch sizes.
    """
    numeric = [r for r in rates if not isinstance(look.space[r], Choice) or _listed(look, r)]
    in_order = sorted(
        tried, key=lambda t: (str(optimizer_of(look, t)), *(number(t, r) for r in numeric if r in t.config))
    )
    words = [look.table(in_order, *shown(look, rates, "batch_size"))]
    if len(batches) > 1:
        words.append(f"batch sizes {look.table(batches, find(look.space, 'batch_size') or '')}")
    best = look.best(batches) or batches[0]
    settled = {n: best.config[n] for n in shown(look, rates, "batch_size") if n in best.config}
    rate = rate_of(look, best.config)
    if rate is not None:
        settled[rate] = _vertex(look, rate, best, [*tried, *batches[1:]])
    usual = strong_default(look.history, settled)
    start = {n: v for n, v in best.config.items() if n not in settled and v != usual.get(n)}
    between = (
        ""
        if rate is None or settled[rate] == best.config[rate]
        else f" (between the steps; the best of them {short(best.config[rate])})"
    )
    values = ", ".join(f"{n} {short(v)}{between if n == rate else ''}" for n, v in settled.items())
    text = f"{values}: {look.said(best)} {after(begun.epochs)}"
    if begun.default is not None and begun.epochs == look.short:
        text += f" (strong default {look.shown(begun.default)})"
    numbers = {
        **({"start": start} if start else {}),
        **({"short": begun.epochs} if begun.epochs != look.short else {}),
    }
    return Verdict(text, "; ".join(words), settled=settled, numbers=numbers)


def shows(look: Look, trials: Sequence[TrialRecord]) -> bool:
    """Whether trainings of this length tell anything: they differ, or one of them got better after its first epoch. The
    luck of trainings that learn nothing would be taken for an answer."""
    losses = [look.loss(t) for t in trials if math.isfinite(look.loss(t))]
    margin = noise(look, trials[0]) if math.isfinite(look.loss(trials[0])) else 0.0
    if len(losses) < len(trials) or max(losses) - min(losses) > margin:
        return True
    goal = look.history.objective
    for trial in trials:
        told = [goal.loss(value) for _, value in trial.curve(goal.metric)]
        if len(told) < 2 or told[0] - min(told) > margin:
            return True
    return False


def for_its_length(look: Look, optimizer: Value) -> Config:
    """The strong default under an optimizer with what a training of this length wants otherwise: of optimization, of
    regularization and of the context, which decides how many updates an epoch has; not of size, which has its own turn.

    Textbooks speak of long trainings, and so do most defaults; a short one lacks updates (:class:`.Prior`). Where it is
    long enough, this is the default itself.
    """
    study, default = look.history.study, strong_default(look.history, with_optimizer(look, optimizer))
    given = with_optimizer(look, optimizer)
    here, usual = (
        Prior(look.space, epochs, study.samples, defaults=False).mode(given) for epochs in (study.max_epochs, LONG)
    )
    moved = {
        n: v
        for n, v in rounded(look.space, here).items()
        if n in default
        and v != rounded(look.space, usual).get(n)
        and (tier_of(n, look.space[n]) != 3 or has_role(look, n, "context"))
    }
    config = look.space.complete({**default, **moved})
    rate = rate_of(look, config)
    if _tested(look, optimizer) and rate is not None:
        center, upper, _ = _center(look, rate, optimizer, config)  # the range test knows this training
        (config[rate],) = allowed(look, rate, [center], upper, around=config)
    return config


def _known(look: Look, tried: Sequence[TrialRecord]) -> Config | None:
    """What the stage's notes know of configurations that were added by hand, where it was not tried yet."""
    known = look.notes.get("known")
    if known is None or not tried:
        return None
    config = strong_default(look.history, {n: v for n, v in known.items() if n in look.space})
    return None if any(t.config == config for t in tried) else config


def _beside(look: Look, known: Config, epochs: int) -> Wish:
    why = "the best that was added by hand, as another place to begin"
    return look.wish(known, base={}, epochs=epochs, why=why, notes={"start": True})


def _around(look: Look, known: Config, starts: Mapping[Value, Config]) -> dict[Value, Config]:
    """Where each optimizer begins once ``known`` has proved better than the default: its own with it, and first; the
    others with what of it has nothing to do with the optimizer. No more of them than were asked without it."""
    name = find(look.space, "optimizer", look.default)
    own = known.get(name) if name is not None else None
    usual = strong_default(look.history, with_optimizer(look, own))
    begin: dict[Value, Config] = {own: known}
    for optimizer in starts:
        if optimizer != own:
            there = strong_default(look.history, with_optimizer(look, optimizer))
            alike = {n: v for n, v in known.items() if n != name and n in there and there[n] == usual.get(n)}
            begin[optimizer] = strong_default(look.history, {**alike, **with_optimizer(look, optimizer)})
    return dict(list(begin.items())[: len(starts)])


def _tested(look: Look, optimizer: Value) -> bool:
    """Whether the range test spoke."""
    return look.numbers("range").get("optimizers", {}).get(str(optimizer), {}).get("center") is not None


def _center(look: Look, rate: str, optimizer: Value, start: Config) -> tuple[float, float | None, str]:
    """As :func:`rate_center`, beside the batch size of ``start`` where that is not the default one."""
    center, upper, origin = rate_center(look, rate, optimizer)
    name = find(look.space, "batch_size")
    usual, size = (look.default.get(name), start.get(name)) if name is not None else (None, None)
    if usual == size or isinstance(look.space[str(name)], Choice):
        return center, upper, origin
    moved = partial(rate_for_batch, old_batch=float(str(usual)), new_batch=float(str(size)), optimizer=optimizer)
    return moved(center), moved(upper) if upper is not None else None, origin


def _ladder(
    look: Look, optimizer: Value, others: Sequence[TrialRecord], start: Config, epochs: int, known: bool = False
) -> Part:
    """Rates upwards from an optimizer's center by threes while they gain; downwards where the first step up did not. An
    optimizer without a rate to search is trained once.

    Args:
        others: the trainings before.
        start: the rest of the configuration; its own rate is the center where no range test spoke and it was moved.
        epochs: how long they are.
        known: whether ``start`` was added by hand: then its own rate is the center in any case.
    """

    def rest(config: Config) -> Config:
        return {n: v for n, v in config.items() if n != rate}

    rate = rate_of(look, start)
    if rate is None:
        return (yield from _listed_rates(look, optimizer, others, start, epochs))
    center, upper, origin = _center(look, rate, optimizer, start)
    label = f"{optimizer}, " if optimizer is not None else ""
    default = [t for t in others if rest(t.config) == rest(start)]  # of the first optimizer
    if origin != "the range test" and start != strong_default(look.history, with_optimizer(look, optimizer)):
        center, origin = float(str(start[rate])), "what so short a training wants"
    if known:
        center, origin = float(str(start[rate])), "what was added by hand"
        upper = None if upper is not None and upper < center else upper
    if not default and others:
        # What the first optimizer wanted more or less than its own center, this one will want likewise.
        other = optimizer_of(look, others[-1])
        begun = [t for t in others if optimizer_of(look, t) == other and rest(t.config) == rest(others[-1].config)]
        best = look.best(begun)
        its = rate_of(look, best.config) if best is not None else None
        if best is not None and its is not None and origin != "the range test":
            center *= min(max(number(best, its) / number(begun[0], its), 0.1), 10.0)
    runs: list[TrialRecord] = []

    def ask(wanted: float, why: str) -> Part:
        known = [number(t, rate) for t in [*default, *runs]]
        rates = allowed(look, rate, [wanted], upper, known, start)
        why = f"{label}{why}: rate "
        return (yield [look.wish({rate: r}, base=start, epochs=epochs, why=f"{why}{r:.2g}") for r in rates])

    runs += yield from ask(center, f"around {origin}")
    leader = look.best([*default, *runs])
    for lower in (10.0, 100.0):
        if leader is None:
            runs += yield from ask(center / lower, "nothing trains yet, so far lower")
            leader = look.best(runs)
    if leader is None or (not default and _behind(look, leader, others)):
        return runs
    for factor in (3.0, 1 / 3.0):
        why = "in the direction that may gain"
        start_from = leader
        for _ in range(1 + STEPS):
            more = yield from ask(number(leader, rate) * factor, why)
            runs += more
            if not more or look.loss(more[0]) >= look.loss(leader):
                break
            leader, why = more[0], "the best rate so far lies at the edge"
        if leader is not start_from:
            break
    return runs


def _listed_rates(look: Look, optimizer: Value, others: Sequence[TrialRecord], start: Config, epochs: int) -> Part:
    """The rates of a list, from the one nearest to the prior upwards while they gain, then downwards; of a space that
    has no rate to search the optimizer alone."""
    name = find(look.space, "learning_rate", start)
    values = _listed(look, name)
    center = prior_center(look.space, str(name), optimizer) if values else None
    known = [t for t in others if t.config == start]
    if name is None or center is None:
        why = f"{optimizer}, which has no rate to search"
        return [] if known else (yield [look.wish(start, base={}, epochs=epochs, why=why)])
    at = min(range(len(values)), key=lambda i: abs(math.log(values[i] / center)))
    runs: list[TrialRecord] = []
    for step in (1, -1):
        place, before = (at, math.inf) if step > 0 else (at - 1, look.loss(runs[0]) if runs else math.inf)
        while 0 <= place < len(values):
            why = f"{f'{optimizer}, ' if optimizer is not None else ''}a rate of the list: {short(values[place])}"
            more = yield [look.wish({name: values[place]}, base=start, epochs=epochs, why=why)]
            runs += more
            if not more or look.loss(more[0]) > before:
                break
            place, before = place + step, look.loss(more[0])
        if len(runs) > 1 and look.loss(runs[1]) < look.loss(runs[0]):
            break  # upwards it gained: the other direction is not worth a training
    return [t for t in runs if all(t.id != o.id for o in others)]


def _listed(look: Look, name: str | None) -> list[float]:
    """The numbers of a choice, rising; empty where it is none of numbers above zero."""
    param = look.space[name] if name is not None else None
    listed = param.choices if isinstance(param, Choice) else ()
    numbers = [c for c in listed if isinstance(c, int | float) and not isinstance(c, bool) and c > 0]
    return sorted(numbers) if len(numbers) == len(listed) else []


def _batch_sizes(look: Look, best: TrialRecord, epochs: int) -> Part:
    """Half and double the batch, the rate following; on in the better direction while it pays."""
    rate = rate_of(look, best.config)
    name = find(look.space, "batch_size")
    if name is None or name not in best.config or isinstance(look.space[name], Constant):
        return []
    listed = _listed(look, name)
    if isinstance(look.space[name], Choice) and not listed:
        return []
    tried: list[TrialRecord] = []
    for factor in (0.5, 2.0):
        leader = best
        for _ in range(STEPS):
            batch = number(leader, name)
            if listed:
                place = listed.index(batch) + (1 if factor > 1 else -1)
                size: Value = listed[min(max(place, 0), len(listed) - 1)]
            else:
                size = look.space.clip(name, round(batch * factor))
            if size == leader.config[name]:
                break  # the end of the range
            changes, why = {name: size}, f"batch {size}"
            if rate is not None:
                followed = rate_for_batch(number(leader, rate), batch, float(str(size)), optimizer_of(look, leader))
                changes[rate] = look.space.clip(rate, float(f"{followed:.3g}"), {**best.config, name: size})
                why += f", the rate following to {short(changes[rate])}"
            more = yield [look.wish(changes, base=best.config, epochs=epochs, why=why)]
            tried += more
            if not more or look.loss(more[0]) >= look.loss(leader):
                break
            leader = more[0]
        if leader is not best:
            break  # the other direction is not worth a training
    return tried


def _vertex(look: Look, rate: str, best: TrialRecord, tried: Sequence[TrialRecord]) -> float:
    """The lowest point of a parabola over log rate, through the best and its neighbours to both sides at otherwise the
    same values; the best's own rate where one is missing.
    """
    same = {n: v for n, v in best.config.items() if n != rate}
    around = sorted(
        (t for t in tried if {n: v for n, v in t.config.items() if n != rate} == same and math.isfinite(look.loss(t))),
        key=lambda t: number(t, rate),
    )
    at = next(i for i, t in enumerate(around) if t.config[rate] == best.config[rate])
    if not 0 < at < len(around) - 1:
        return number(best, rate)
    (a, fa), (b, fb), (c, fc) = ((math.log(number(t, rate)), look.loss(t)) for t in around[at - 1 : at + 2])
    left, right = (b - a) * (fb - fc), (b - c) * (fb - fa)
    if left == right:
        return number(best, rate)
    x = b - 0.5 * ((b - a) * left - (b - c) * right) / (left - right)
    return float(f"{math.exp(min(max(x, 0.5 * (a + b)), 0.5 * (b + c))):.2g}")


def _behind(look: Look, first: TrialRecord, others: Sequence[TrialRecord]) -> bool:
    """Whether an optimizer's first run lies behind the others' best, or with a patient plan their middle, so that
    refining its rate will not pay."""
    losses = sorted(x for t in others if math.isfinite(x := look.loss(t)))
    return bool(losses) and look.loss(first) > losses[len(losses) // 2 if look.plan.patient else 0]
