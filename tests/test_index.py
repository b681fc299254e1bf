"""What a history keeps at hand is what a walk over all trials finds, whatever happened and whenever it was asked."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import luthier as lt
from luthier.contracts import Resume, Start
from luthier.core import events as ev
from luthier.core.goals import ranked_at
from luthier.core.history import Entry, History, fold
from luthier.core.index import Answered, Pace, Ranking, mend
from luthier.core.ordered import Ordered
from luthier.core.rows import Rows
from luthier.core.study import Budget, Objective, Study
from luthier.core.trial import ENDED, Status
from luthier.expert.evidence import Explosions, Origins, Tried
from luthier.run.decisions import decision_rng
from luthier.schedule.budget import Within
from luthier.schedule.full import Full
from luthier.schedule.halving import ASHA, Hyperband, brackets, rungs
from luthier.schedule.median import Median
from luthier.schedule.pbt import Newest
from luthier.search.grid import cells_of, grid
from luthier.search.uniform import Random

LONGEST = 9
SPACE = lt.Space(x=lt.Float(0.0, 1.0))


# -- histories of anything that can happen ---------------------------------------------------------------------------


def created(reduce: str = "best", maximize: bool = False, also: tuple[Objective, ...] = ()) -> History:
    objective = Objective("metric", not maximize, reduce)  # type: ignore[arg-type]
    return fold([Entry(0.0, ev.Created(Study("s", SPACE, objective, LONGEST, Budget(epochs=500), also=also)))])


def step(history: History, what: str, which: int, value: float) -> History:
    """The history after ``what`` happened to one of the trials it can happen to; the same where there is none."""
    running = list(history.running)
    paused = [t.id for t in history.trials if t.status is Status.PAUSED]
    event: ev.Event | None = None
    if what in ("start", "probe"):
        until, probe = (1, 3, 9)[which % 3], "sanity" if what == "probe" else None
        new = len(history.trials)
        event = ev.Started(new, {"x": 0.5}, 0, until, LONGEST, "", notes={"bracket": which % 3}, probe=probe)
    elif what == "resume" and paused:
        trial = history.trials[paused[which % len(paused)]]
        event = ev.Resumed(trial.id, min(LONGEST, max(trial.until, 1) * 3), "")
    elif running and what not in ("resume", "start", "probe"):
        trial = history.trials[running[which % len(running)]]
        if what == "report" and trial.epoch < trial.until:
            told = {"metric": value, "other": float(which % 5)}
            event = ev.Reported(trial.id, trial.epoch + 1, told, abs(value) / 7)
        elif what == "end":
            event = ev.Ended(
                trial.id,
                trial.epoch,
                complete=value > 2,
                checkpoint="c" if value > 0 else None,
                answer={"n": which} if value else None,
            )
        elif what == "fail":
            event = ev.Failed(trial.id, "raised", "")
        elif what == "stop":
            event = ev.Stopped(trial.id, trial.epoch, "")
        elif what == "requeue":
            event = ev.Requeued(trial.id, "", blame=True)
    return history if event is None else history.then(Entry(float(history.length), event))


# Small numbers often, so that there are ties; reports most of all.
happenings = st.lists(
    st.tuples(
        st.sampled_from(["report"] * 6 + ["start"] * 3 + ["end"] * 3 + ["resume", "fail", "stop", "requeue", "probe"]),
        st.integers(0, 50),
        st.sampled_from([-1.0, 0.0, 1.0, 2.0, 2.5]),
        st.booleans(),
    ),
    max_size=120,
)


def walk_result_at(history: History, trial, epoch: int) -> float:
    objective = history.objective
    losses = [objective.loss(r.metrics["metric"]) for r in trial.reports if r.epoch <= epoch]
    if not losses or trial.failure is not None or (trial.status is Status.STOPPED and trial.epoch < epoch):
        return math.inf  # failed, or ended on the way there
    return losses[-1] if objective.reduce == "last" else min(losses)


def walk_ranked(history: History, epoch: int | None) -> list[tuple[float, int]]:
    trained = [t for t in history.trials if t.probe is None]
    if epoch is None:
        return sorted((x, t.id) for t in trained if math.isfinite(x := history.final_loss(t)))
    return sorted((walk_result_at(history, t, epoch), t.id) for t in trained if t.reached(epoch))


def walk_waiting(history: History, epoch: int) -> list[tuple[float, int]]:
    return [
        (loss, i)
        for loss, i in walk_ranked(history, epoch)
        if math.isfinite(loss) and history.trials[i].status is Status.PAUSED and history.trials[i].until <= epoch
    ]


def compare(history: History) -> None:
    for epoch in (1, 3, 9):
        assert list(history.ranked(epoch)) == walk_ranked(history, epoch)
        assert list(history.waiting(epoch)) == walk_waiting(history, epoch)
    everyone = walk_ranked(history, None)
    assert list(history.ranked()) == everyone
    assert history.incumbent is (history.trials[everyone[0][1]] if everyone else None)
    assert history.n_trained == sum(1 for _ in history.trained())
    assert list(history.index(Answered("sanity"))) == [t.id for t in history.trials if t.probe == "sanity" and t.answer]
    running = [t for t in history.trials if t.status is Status.RUNNING]
    assert sorted(history.running) == [t.id for t in running]
    assert history.committed == history.spent + sum(max(0, t.until - t.epoch) for t in running)
    epochs = sum(t.epoch for t in history.trials)
    seconds = sum(r.seconds for t in history.trials for r in t.reports)
    starts = sum(history.pace().start for t in history.trials if t.reports)
    if starts:  # else the first reports were the quicker ones
        assert math.isclose(starts + epochs * history.pace().epoch, seconds, rel_tol=1e-6)
    assert history.pace() == history.pace(without=(len(history.trials),))


@settings(max_examples=60)
@given(happenings, st.sampled_from(["best", "last"]), st.booleans())
def test_indices_equal_a_walk_over_all_trials(happened, reduce, maximize):
    history = created(reduce, maximize)
    for what, which, value, ask in happened:
        history = step(history, what, which, value)
        if ask:  # at some moments and not at others: what was asked before must not matter
            compare(history)
    compare(history)


@settings(max_examples=40)
@given(happenings, st.integers(0, 120))
def test_an_older_history_and_another_branch_still_answer_for_themselves(happened, at):
    history = created()
    older = history
    for n, (what, which, value, _) in enumerate(happened):
        history = step(history, what, which, value)
        if n == at:
            older = history
    compare(history)
    compare(older)
    branch = step(step(step(older, "start", 0, 0.0), "report", 7, -1.0), "end", 7, 1.0)
    for asked in (branch, history, older, branch):
        compare(asked)
        for scheduler, walk in (
            (ASHA(Random(), min_epochs=1), walk_asha),
            (Hyperband(Random(), min_epochs=1), walk_hyperband),
        ):
            action = scheduler.propose(asked, decision_rng(asked))
            expected = walk(asked)
            assert action == expected if isinstance(expected, Resume) else isinstance(action, Start)


def compare_fronts(history: History) -> None:
    for epoch in (1, 3, 9):
        members = ranked_at(history.study.goals, [t for t in history.trained() if t.reached(epoch)], epoch)
        able = {i for _, i in walk_waiting(history, epoch)}
        first = next(((t.id, n, len(members)) for n, t in enumerate(members, start=1) if t.id in able), None)
        assert history.foremost(epoch) == first


@settings(max_examples=40)
@given(happenings, st.integers(0, 120))
def test_several_objectives_are_ranked_as_a_sort_of_everything_ranks_them(happened, at):
    history = created(also=(Objective("other", True),))
    older = history
    for n, (what, which, value, ask) in enumerate(happened):
        history = step(history, what, which, value)
        if ask:
            compare_fronts(history)
        if n == at:
            older = history
    branch = step(step(step(older, "start", 0, 0.0), "report", 7, -1.0), "end", 7, 1.0)
    for asked in (history, older, branch, history, branch):
        compare_fronts(asked)


def test_other_trials_under_the_same_numbers_are_not_mistaken_for_each_other():
    begun = created()
    ways = []
    for x, kind, number in ((0.1, "nonfinite", 0), (0.2, None, 1)):
        notes = {"from": str(x), "population": number, "member": 0, "size": 2}
        history = begun.then(Entry(1.0, ev.Started(0, {"x": x, "learning_rate": x}, 0, 1, LONGEST, "", notes=notes)))
        what = ev.Failed(0, kind, "") if kind else ev.Reported(0, 1, {"metric": 1.0})
        ways.append(history.then(Entry(2.0, what)))
    space = lt.Space(learning_rate=lt.Float(0.01, 1.0, log=True))
    for index in (Tried(), Origins(), Explosions(space), Newest()):
        fresh = [index.change(index.empty(), way.trials.changes(Rows())) for way in ways]
        answers = [ways[i].index(index) for i in (0, 1, 0)]
        assert [repr(x) for x in answers] == [repr(fresh[i]) for i in (0, 1, 0)]
        assert repr(fresh[0]) != repr(fresh[1])


def test_a_rate_that_explodes_after_a_first_report_was_not_stood_whenever_it_was_asked():
    history = created()
    for event in (ev.Started(0, {"learning_rate": 0.5}, 0, 3, LONGEST, ""), ev.Reported(0, 1, {"metric": 1.0})):
        history = history.then(Entry(1.0, event))
    explosions = Explosions(lt.Space(learning_rate=lt.Float(0.01, 1.0, log=True)))
    assert [[len(x) for x in both] for both in history.index(explosions).values()] == [[0, 1]]
    history = history.then(Entry(1.0, ev.Failed(0, "nonfinite", "")))
    assert [[len(x) for x in both] for both in history.index(explosions).values()] == [[1, 0]]


@dataclass(frozen=True)
class MeanOfFirst:
    """An index as a scheduler of one's own would write it: trials by the mean of their first reports."""

    many: int

    def empty(self) -> Ranking:
        return Ordered()

    def change(self, value, changes):
        return mend(value, changes, self.loss)

    def loss(self, trial):
        told = [r.metrics["metric"] for r in trial.reports[: self.many]]
        return sum(told) / self.many if len(told) == self.many else None


@settings(max_examples=30)
@given(happenings)
def test_an_index_of_ones_own_is_kept_up_to_date(happened):
    history, index = created(), MeanOfFirst(2)
    for what, which, value, ask in happened:
        history = step(history, what, which, value)
        if ask:
            found = ((index.loss(t), t.id) for t in history.trials)
            assert list(history.index(MeanOfFirst(2))) == sorted(x for x in found if x[0] is not None)


# -- decisions -------------------------------------------------------------------------------------------------------


def walk_asha(history: History) -> Resume | None:
    """Algorithm 2 by sorting everything."""
    for here, above in reversed(list(itertools.pairwise(rungs(LONGEST, 1)))):
        ranked = walk_ranked(history, here)
        waiting = walk_waiting(history, here)
        for rank, row in enumerate(ranked[: len(ranked) // 3], start=1):
            if row in waiting:
                why = f"rank {rank} of {len(ranked)} at epoch {here}: the top 1/3 goes on to {above}"
                return Resume(row[1], above, why)
    return None


def walk_hyperband(history: History) -> Resume | int:
    """Algorithm 1 by looking into every bracket: a promotion, or the bracket that takes a new trial."""
    table = brackets(LONGEST, 1)
    for number in itertools.count():
        bracket = table[number % len(table)]
        rung = [t for t in history.trained() if t.notes["bracket"] == number and t.id >= number]
        if len(rung) < bracket.sizes[0]:
            return number
        for here, above, keep in zip(bracket.epochs, bracket.epochs[1:], bracket.sizes[1:]):
            if not all(t.reached(here) or t.status in ENDED for t in rung):
                break
            ranked = sorted(rung, key=lambda t: (walk_result_at(history, t, here), t.id))
            rung = [t for t in ranked[:keep] if math.isfinite(walk_result_at(history, t, here))]
            for rank, trial in enumerate(rung, start=1):
                if trial.status is Status.PAUSED and trial.until <= here:
                    why = f"rank {rank} of {len(ranked)} at epoch {here}: the best {keep} go on to {above}"
                    return Resume(trial.id, above, why)
    raise AssertionError


@settings(max_examples=60)
@given(happenings)
def test_asha_promotes_whom_a_sort_of_everything_promotes(happened):
    history, asha = created(), ASHA(Random(), min_epochs=1)
    for what, which, value, ask in happened:
        history = step(history, what, which, value)
        if ask:
            action = asha.propose(history, decision_rng(history))
            assert (action if isinstance(action, Resume) else None) == walk_asha(history)


@settings(max_examples=60)
@given(happenings, st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), max_size=40))
def test_hyperband_takes_the_step_that_a_look_at_every_bracket_finds(happened, own):
    """Half of the history is anything at all, half of it Hyperband's own with its workers in any order."""
    history, hyperband = created(), Hyperband(Random(), min_epochs=1)

    def check() -> Start | Resume:
        action = hyperband.propose(history, decision_rng(history))
        expected = walk_hyperband(history)
        if isinstance(action, Start):
            assert action.notes["bracket"] == expected
        else:
            assert action == expected
        return action

    for what, which, value, ask in happened[::2]:
        history = step(history, what, which, value)
        if ask:
            check()
    for at, (kind, which) in enumerate(own):
        action = check()
        trial = action.trial if isinstance(action, Resume) else len(history.trials)
        event: ev.Event = (
            ev.Resumed(trial, action.until, action.why)
            if isinstance(action, Resume)
            else ev.Started(trial, {"x": 0.5}, 0, action.until, LONGEST, "", notes=action.notes)
        )
        history = history.then(Entry(0.0, event))
        if kind == 0 and history.running:  # somebody fails
            history = history.then(Entry(0.0, ev.Failed(history.running[which % len(history.running)], "raised", "")))
        for i in history.running[:kind]:  # others arrive
            trial_now = history.trials[i]
            for epoch in range(trial_now.epoch + 1, trial_now.until + 1):
                history = history.then(Entry(0.0, ev.Reported(i, epoch, {"metric": float((at * 7) % 5)})))
            history = history.then(Entry(0.0, ev.Ended(i, trial_now.until, checkpoint="c")))
    check()


def walk_median(history: History, trial) -> float | None:
    """The median of the others' mean losses, where three came as far."""

    def losses(t) -> list[float]:
        return [history.objective.loss(r.metrics["metric"]) for r in t.reports if r.epoch <= trial.epoch]

    rest = [t for t in history.trained() if t.id != trial.id and t.epoch >= trial.epoch and t.failure is None]
    means = [fmean(losses(t)) for t in rest if losses(t)]
    return median(means) if len(means) >= 3 else None


@settings(max_examples=60)
@given(happenings)
def test_the_median_rule_ends_whom_a_walk_over_the_others_ends(happened):
    history, rule = created(), Median(Full(Random()), grace=1)
    for what, which, value, ask in happened:
        before, history = history, step(history, what, which, value)
        if what == "report" and ask and history is not before:
            for trial in (history.trials[i] for i in history.running):
                if trial.probe is None and trial.epoch:
                    middle = walk_median(history, trial)
                    worse = (
                        middle is not None
                        and min(history.objective.loss(r.metrics["metric"]) for r in trial.reports) > middle
                    )
                    assert (rule.judge(history, trial.id) is not None) == worse


# -- what they are made of -------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 400)), max_size=700), st.integers(-5, 405))
@settings(max_examples=40)
def test_an_ordered_set_is_a_sorted_set(changes, probe):
    ordered, plain = Ordered(), set()
    for add, item in changes:
        before, length = ordered, len(ordered)
        ordered = ordered.with_item(item) if add else ordered.without(item)
        plain = plain | {item} if add else plain - {item}
        assert len(before) == length  # the old one is untouched
    assert list(ordered) == sorted(plain)
    assert len(ordered) == len(plain)
    assert ordered.rank(probe) == sum(x < probe for x in plain)
    assert (probe in ordered) == (probe in plain)
    assert [ordered[k] for k in range(-len(plain), len(plain))] == sorted(plain) * 2
    assert ordered[1:3] == tuple(sorted(plain)[1:3])


def test_an_ordered_set_of_many_keeps_its_blocks_small():
    ordered = Ordered()
    for item in np.random.default_rng(0).permutation(3000).tolist():
        ordered = ordered.with_item(item)
    for item in range(0, 3000, 2):
        ordered = ordered.without(item)
    assert list(ordered) == list(range(1, 3000, 2))
    assert [ordered.rank(x) for x in (0, 1, 2, 1500, 3001)] == [0, 0, 1, 750, 1500]


@given(st.integers(0, 2100), st.integers(0, 70), st.lists(st.integers(0, 2200), max_size=20))
@settings(max_examples=40)
def test_rows_say_what_changed_in_them(length, more, places):
    before = Rows([object() for _ in range(length)])
    plain = list(before)
    now = before
    for _ in range(more):
        plain.append(object())
        now = now.with_item(len(now), plain[-1])
    for place in places:
        if place < len(plain):
            plain[place] = object()
            now = now.with_item(place, plain[place])
    assert list(now) == plain
    assert all(now[k] is plain[k] for k in range(-len(plain), len(plain)))
    assert now == Rows(plain)
    old = [*before, *[None] * more]
    assert list(now.changes(before)) == [(a, b) for a, b in zip(old, plain, strict=True) if a is not b]


# -- grids -----------------------------------------------------------------------------------------------------------


@st.composite
def spaces(draw) -> lt.Space:
    """Conditions any number deep, children before their parents too."""
    params: dict[str, lt.Float | lt.Int | lt.Choice | lt.Constant] = {}
    for n in range(draw(st.integers(1, 5))):
        when = {}
        for parent, param in params.items():
            if draw(st.integers(0, 2)) == 0:
                levels = param.levels(3)
                when[parent] = draw(st.lists(st.sampled_from(levels), min_size=1, unique=True))
        made = [
            lt.Choice("a", "b", when=when),
            lt.Int(1, draw(st.integers(2, 4)), when=when),
            lt.Constant(3, when=when),
            lt.Choice(True, None, "c", when=when),
        ]
        params[f"p{n}"] = draw(st.sampled_from(made))
    return lt.Space({name: params[name] for name in draw(st.permutations(list(params)))})


@settings(max_examples=100)
@given(spaces())
def test_a_grid_found_by_number_is_the_product_without_repetitions(space):
    every: dict[tuple, dict] = {}
    for levels in itertools.product(*(space[name].levels(3) for name in space)):
        cell = space.assemble(dict(zip(space, levels, strict=True)))
        every.setdefault(tuple(cell.items()), cell)
    assert [tuple(cell.items()) for cell in grid(space, 3)] == list(every)


def test_a_grid_of_billions_of_cells_is_no_list():
    named = {f"x{n}": lt.Float(0.0, 1.0) for n in range(20)}
    space = lt.Space(named, optimizer=lt.Choice("a", "b"), momentum=lt.Float(0.0, 1.0, when={"optimizer": "b"}))
    cells = cells_of(space, 3)
    assert cells.count == 3**20 * (1 + 3)
    assert set(cells.cell(cells.count - 1).values()) == {1.0, "b"}
    study = lt.AskTell(space, minimize="val_loss", budget="5 trials", strategy="grid")
    seen = []
    while job := study.ask():
        seen.append((job.config["optimizer"], job.config.get("momentum"), job.config["x19"]))
        study.tell(job, 1, val_loss=1.0)
    assert seen == [("a", None, 0.0), ("b", 0.0, 0.0), ("b", 0.5, 0.0), ("b", 1.0, 0.0), ("a", None, 0.5)]


def test_what_a_training_takes_to_begin_is_told_from_its_epochs():
    """A script that imports for ten seconds has its first epoch after eleven."""
    history = created()
    for trial, epochs in ((0, 3), (1, 1)):
        history = history.then(Entry(0.0, ev.Started(trial, {"x": 0.5}, 0, epochs, LONGEST, "")))
        for epoch in range(1, epochs + 1):
            seconds = 11.0 if epoch == 1 else 1.0
            history = history.then(Entry(0.0, ev.Reported(trial, epoch, {"metric": 1.0}, seconds)))
    assert history.pace() == Pace(start=10.0, epoch=1.0)
    assert history.pace().takes(9) == 19.0
    # As long as nothing but first epochs is known, they are what an epoch takes.
    assert history.pace(without=(0,)) == Pace(start=0.0, epoch=11.0)
    assert history.pace(without=(0, 1)) == Pace()


def test_a_budget_in_seconds_pays_for_a_start_once():
    study = Study("s", SPACE, Objective("metric", True), 20, Budget(seconds=60.0))
    history = fold([Entry(0.0, ev.Created(study)), Entry(0.0, ev.Started(0, {"x": 0.5}, 0, 2, 20, ""))])
    for epoch, at in ((1, 11.0), (2, 12.0)):
        history = history.then(Entry(at, ev.Reported(0, epoch, {"metric": 1.0}, 11.0 if epoch == 1 else 1.0)))
    history = history.then(Entry(12.0, ev.Ended(0, 2)))
    asked = Within(Full(Random())).propose(history, decision_rng(history))
    assert isinstance(asked, Start)  # 10 s and 20 of 1 s fit in the 48 that are left
    assert asked.until == 20
