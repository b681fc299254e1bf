"""Real worker processes: faults as data, pause and resume, early stop, nothing left behind."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

import luthier as lt
from luthier.core import events as ev
from luthier.core.errors import RunError, UserError
from luthier.core.trial import Status
from luthier.run.book import Book
from luthier.run.loop import run
from luthier.run.memory import MemoryStore
from luthier.schedule.full import Full
from luthier.schedule.halving import ASHA
from luthier.search.uniform import Random
from luthier.store import SqlStore, locate
from luthier.strategies import build

SPACE = lt.Space(learning_rate=lt.Float(1e-5, 1e-1, log=True))


class Weights:
    """The smallest thing with a state."""

    def __init__(self):
        self.steps = 0

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


def train(trial: lt.Trial) -> None:
    weights = Weights()
    for _ in trial.epochs(weights=weights):
        weights.steps += 1
        trial.report(val_loss=1.0 / weights.steps + trial.config["learning_rate"])


def tune(function, **more):
    given = {
        "space": SPACE,
        "minimize": "val_loss",
        "max_epochs": 9,
        "strategy": "random",
        "budget": "4 trials",
        "quiet": True,
    }
    return lt.tune(function, **{**given, **more})


def children() -> set[int]:
    """The worker processes of this process."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if int(status[1]) == os.getpid() and status[0] != "Z" and b"luthier.run.worker" in command:
                found.add(int(entry.name))
    return found


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_plain_function_is_tuned(workers):
    result = tune(train, workers=workers)
    assert [t.status for t in result.trials()] == [Status.DONE] * 4
    assert [len(t.reports) for t in result.trials()] == [9] * 4
    rates = [t.config["learning_rate"] for t in result.trials()]
    assert result.best_config == {"learning_rate": min(rates)}
    assert result.best_score == pytest.approx(1 / 9 + min(rates))
    assert children() == set()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_trial_goes_on_from_its_checkpoint(workers):
    result = tune(train, strategy=ASHA(Random(), min_epochs=1), workers=workers, budget="6 trials")
    longest = max(result.trials(), key=lambda t: t.epoch)
    assert longest.epoch == 9
    assert longest.spent == 9
    steps = [round(1 / (r.metrics["val_loss"] - longest.config["learning_rate"])) for r in longest.reports]
    assert steps == list(range(1, 10))


def test_without_a_state_a_resumed_trial_starts_over_and_nothing_is_doubled():
    def stateless(trial):
        for epoch in trial.epochs():
            trial.report(val_loss=1.0 / epoch)

    result = tune(stateless, strategy=ASHA(Random(), min_epochs=1), workers=0, budget="6 trials")
    longest = max(result.trials(), key=lambda t: t.epoch)
    assert [r.epoch for r in longest.reports] == list(range(1, 10))
    assert longest.reports[-1].metrics["val_loss"] == pytest.approx(1 / 9)
    assert longest.spent > 9


def test_a_loop_of_ones_own_is_ended_by_its_report():
    def own_loop(trial):
        for epoch in range(1, 100):
            trial.report(val_loss=1.0 / epoch)
        raise AssertionError("never reached")

    result = tune(own_loop, workers=0)
    assert [t.epoch for t in result.trials()] == [9] * 4
    assert {t.status for t in result.trials()} == {Status.DONE}


def test_early_stopping_by_the_function_itself_completes_the_trial():
    def patient(trial):
        for epoch in trial.epochs():
            trial.report(val_loss=1.0)
            if epoch == 3:
                return

    result = tune(patient, workers=0, budget="2 trials")
    assert {(t.status, t.epoch) for t in result.trials()} == {(Status.DONE, 3)}
    assert len(result.trials()) > 2  # what was not used is there for others


def test_a_judge_can_end_a_trial_while_it_trains(tmp_path):
    class Impatient(Full):
        def judge(self, history, trial):
            from luthier.contracts import Stop

            return Stop("seen enough") if history.trials[trial].epoch == 2 else None

    def slow(trial):
        for _ in trial.epochs():
            (tmp_path / f"{trial.id}").write_text(str(trial.epoch))
            time.sleep(0.05)
            trial.report(val_loss=1.0)

    for workers in (0, 1):
        result = tune(slow, strategy=Impatient(Random()), workers=workers, budget="18 epochs")
        assert {(t.status, t.epoch, t.stop_why) for t in result.trials()} == {(Status.STOPPED, 2, "seen enough")}
    assert all(int(f.read_text()) < 8 for f in tmp_path.iterdir())


def faulty(trial):
    for epoch in trial.epochs():
        if trial.id == 1 and epoch == 3:
            raise ValueError("a shape\nmismatch")
        if trial.id == 2 and epoch == 2:
            os._exit(7)
        if trial.id == 3 and epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if trial.id == 4:
            raise SystemExit("bye")
        if trial.id == 6:
            trial.report(train_loss=1.0)
            continue
        trial.report(val_loss=float("nan") if trial.id == 5 and epoch == 4 else 1.0 / epoch)


def test_every_fault_is_recorded_with_its_reason_and_the_study_goes_on(tmp_path):
    result = tune(faulty, workers=2, budget="9 trials", storage=tmp_path / "s.db", seed=1)
    seen = {t.id: (t.failure.kind, t.failure.reason) for t in result.trials() if t.failure}
    assert seen == {
        1: ("raised", "ValueError: a shape mismatch"),
        2: ("died", "its worker exited with code 7"),
        3: ("killed", "its worker was killed by SIGKILL"),
        4: ("died", "the training function called exit('bye')"),
        5: ("nonfinite", "val_loss is nan at epoch 4"),
        6: ("silent", "ended without reporting 'val_loss'; it reported train_loss"),
    }
    trials = {t.id: t for t in result.trials()}
    assert 'raise ValueError("a shape\\nmismatch")' in trials[1].failure.detail
    assert trials[3].attempts == 3
    assert trials[1].epoch == 2
    assert sum(t.status is Status.DONE for t in result.trials()) >= 5
    assert result.history.running == ()
    assert children() == set()


def test_a_trial_whose_worker_was_killed_once_is_tried_again(tmp_path):
    def killed_once(trial):
        for epoch in trial.epochs():
            mark = tmp_path / "killed"
            if trial.id == 1 and epoch == 4 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            trial.report(val_loss=1.0 / epoch)

    result = tune(killed_once, workers=1)
    assert [t.status for t in result.trials()] == [Status.DONE] * 4
    assert [r.epoch for r in result.trials()[1].reports] == list(range(1, 10))
    assert result.trials()[1].attempts == 2


def test_a_study_whose_first_trials_all_fail_ends_with_their_reason():
    def broken(trial):
        raise KeyError("no such column")

    with pytest.raises(RunError, match=r"(?s)first 3 trials all failed.*no such column.*Traceback"):
        tune(broken, workers=1, budget="9 trials")
    assert children() == set()


def test_a_function_that_cannot_travel_is_refused():
    import threading

    lock = threading.Lock()

    def locked(trial):
        with lock:
            trial.report(val_loss=1.0)

    with pytest.raises(UserError, match="cannot be sent to a worker process"):
        tune(locked, workers=1)
    assert tune(locked, workers=0, budget="2 epochs", max_epochs=1).best_score == 1.0


def test_a_mistyped_metric_leaves_nothing_behind(tmp_path):
    with pytest.raises(UserError, match=r"'val_los' was never reported.*Did you mean 'val_loss'"):
        tune(train, minimize="val_los", storage=tmp_path / "s.db", workers=1)
    assert list(tmp_path.glob("s.db*")) == []


def test_a_mistyped_metric_is_told_in_this_process_too():
    with pytest.raises(UserError, match=r"'val_los' was never reported"):
        tune(train, minimize="val_los", workers=0)


def test_a_study_is_on_disk_before_its_first_report(tmp_path):
    def peek(trial):
        from luthier.store import open_store

        kinds = [type(e.event).__name__ for e in open_store(tmp_path / "s.db").read()]
        trial.report(val_loss=float(kinds.count("Started")))

    assert tune(peek, workers=0, max_epochs=1, storage=tmp_path / "s.db", budget="1 trial").best_score == 1.0


def test_a_forgotten_study_leaves_the_others_alone(tmp_path):
    tune(train, storage=tmp_path / "s.db", workers=0, name="good")
    with pytest.raises(UserError):
        tune(train, minimize="val_los", storage=tmp_path / "s.db", workers=0, name="bad")
    from luthier.store import study_names

    assert study_names(locate(tmp_path / "s.db")) == ["good"]


def test_two_reports_of_one_epoch_are_refused():
    def twice(trial):
        for _ in trial.epochs():
            trial.report(val_loss=1.0)
            trial.report(train_loss=2.0)

    told = r"(?s)first 3 trials all failed.*Epoch 1 was reported already. Pass all metrics of an epoch in one"
    with pytest.raises(RunError, match=told):  # and not all of the budget, although each has reported
        tune(twice, workers=0, budget="9 trials")


@pytest.mark.parametrize(
    ("given", "named", "told"),
    [
        ((0.3,), {}, r"trial.report\(\) got 0.3: metrics have names here. Write trial.report\(val_loss=0.3\)."),
        ((0.3, 4), {}, r"trial.report\(\) got 0.3, 4: metrics have names here. Write trial.report\(val_loss=0.3\)."),
        (({"val_loss": 0.3}, 4), {}, r"trial.report\(\) got 4 after the metrics. Name the epoch"),
        ((), {}, r"trial.report\(\) got no metrics. Write trial.report\(val_loss=0.5\)."),
        ((), {"val_loss": 0.3, "epoch": 1.5}, r"The epoch 1.5 \(float\) is no whole number from 1 on"),
        ((), {"val_loss": 0.3, "epoch": "1"}, r"The epoch '1' \(str\) is no whole number from 1 on"),
        ((), {"val_loss": 0.3, "epoch": 0}, r"The epoch 0 \(int\) is no whole number from 1 on"),
    ],
)
def test_a_report_in_another_form_is_told_how_it_is_written(given, named, told):
    def optuna_like(trial):
        trial.report(*given, **named)

    with pytest.raises(RunError, match=told):
        tune(optuna_like, workers=0)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("strategy", ["random", "asha"])
def test_what_is_reported_once_after_the_loop_counts_for_the_last_epoch(workers, strategy):
    def at_its_end(trial):
        for _ in trial.epochs():
            pass
        trial.report(val_loss=1.0 + trial.config["learning_rate"])

    result = tune(at_its_end, workers=workers, strategy=strategy)
    assert result.best_score == pytest.approx(1.0, abs=0.1)
    assert {t.failure for t in result.trials()} == {None}
    assert all(t.reports[-1].epoch == t.epoch == t.until for t in result.trials())
    assert 9 in {t.epoch for t in result.trials()}


@pytest.mark.parametrize("strategy", ["playbook", "random", "asha"])
@pytest.mark.parametrize("own", [1, 3])
def test_a_training_with_a_length_of_its_own_is_told_once_what_the_budget_means(own, strategy, capsys):
    def ignores(trial):
        for epoch in range(own):
            trial.report(val_loss=trial.config["learning_rate"] + 1 / (epoch + 1))

    result = tune(ignores, workers=0, strategy=strategy, quiet=False, max_epochs=27, budget="8 trials")
    said = (
        f"Say max_epochs={own} (--max-epochs {own}), unless that is early stopping: no training reports anything after "
    )
    assert capsys.readouterr().out.count(said) == 1
    assert result.next_steps()[0].startswith(said)
    paid = (
        f"so it is charged {'1 epoch' if own == 1 else '3 epochs'} and the budget of 216 epochs pays for {216 // own} "
    )
    assert paid in result.next_steps()[0]
    mended = tune(ignores, workers=0, strategy=strategy, max_epochs=own, budget="8 trials")
    assert not any("max_epochs" in step for step in mended.next_steps())
    assert len(mended.trials()) <= 8 * own


@pytest.mark.parametrize(
    "ends", [lambda trial: 9, lambda trial: 4 + trial.id % 2, lambda trial: 1 if trial.id % 5 else 9]
)
def test_early_stopping_and_one_report_at_the_end_have_no_length_of_their_own(ends, capsys):
    def stops(trial):
        for epoch in trial.epochs():
            if epoch == trial.until and ends(trial) == 9:
                trial.report(val_loss=trial.config["learning_rate"])
            elif ends(trial) < 9:
                trial.report(val_loss=trial.config["learning_rate"])
                if epoch == ends(trial):
                    return

    result = tune(stops, workers=0, quiet=False, budget="6 trials")
    assert "Say max_epochs" not in capsys.readouterr().out + " ".join(result.next_steps())


def test_the_function_goes_on_after_its_report_after_the_loop():
    ends = []

    def goes_on(trial):
        for _ in trial.epochs():
            pass
        trial.report(val_loss=1.0)
        ends.append(trial.id)

    tune(goes_on, workers=0, budget="2 trials")
    assert ends == [0, 1]


def test_an_epoch_that_was_reported_takes_nothing_more_after_the_loop():
    def tests_at_its_end(trial):
        for _ in trial.epochs():
            trial.report(val_loss=1.0)
        trial.report(test_loss=2.0)

    told = r"(?s)first 3 trials all failed.*Epoch 9 was reported already.*inside the loop .*: test_loss too"
    with pytest.raises(RunError, match=told):
        tune(tests_at_its_end, workers=0, budget="9 trials")


def test_a_finished_study_says_that_nothing_is_trained(tmp_path, capsys):
    tune(train, storage=tmp_path / "s.db", workers=0)
    tune(train, storage=tmp_path / "s.db", workers=0, quiet=False)
    assert "is finished" in capsys.readouterr().out


def test_nonsense_reports_fail_their_trial_alone():
    def nonsense(trial):
        for _ in trial.epochs():
            trial.report(val_loss="great" if trial.id == 1 else 0.5)

    result = tune(nonsense, workers=0, max_epochs=2)
    assert [t.status for t in result.trials()][:3] == [Status.DONE, Status.FAILED, Status.DONE]
    assert "'val_loss' is 'great' (str), not a number" in result.trials()[1].failure.reason


def test_a_metric_whose_name_is_no_string_fails_its_trial_alone():
    def numbered(trial):
        for _ in trial.epochs():
            trial.report({0: float("nan")} if trial.id == 1 else {"val_loss": 0.5})

    result = tune(numbered, workers=0, max_epochs=2)
    assert [t.status for t in result.trials()][:3] == [Status.DONE, Status.FAILED, Status.DONE]
    assert "A metric is named 0 (int), which is no string" in result.trials()[1].failure.reason


def test_an_observer_that_fails_is_warned_of_once_and_ends_nothing():
    class Watches:
        def __init__(self, wrong):
            self.wrong, self.seen = wrong, []

        def update(self, history, events):
            self.seen += events
            if self.wrong:
                raise KeyError("mine")

    broken, sound = Watches(True), Watches(False)
    with pytest.warns(UserWarning, match=r"observer Watches failed and is told no more \(KeyError: 'mine'; .*") as said:
        result = tune(train, workers=0, observers=[broken, sound])
    assert len(said) == 1
    assert result.best_score is not None
    assert 0 < len(broken.seen) < len(sound.seen)


def test_observers_hear_all_that_is_said_at_once():
    class Bursts:
        """An executor whose one worker says everything at once."""

        def __init__(self):
            self.job = None

        free = property(lambda self: int(self.job is None))

        def submit(self, job):
            self.job = job

        def poll(self, hear, timeout):
            job, self.job = self.job, None
            reports = [ev.Reported(job.trial, e, {"val_loss": 1.0 / e}) for e in range(1, job.until + 1)]
            hear(*reports, ev.Ended(job.trial, job.until))

        def stop(self, trial):
            pass

        park = close = lambda self: None

    class Keeps:
        def __init__(self):
            self.seen = []

        def update(self, history, events):
            self.seen += events

    study = lt.AskTell(SPACE, minimize="val_loss", max_epochs=2500, budget="2 trials", strategy="random").history.study
    store, keeps = MemoryStore(), Keeps()
    book = Book.create(store, study)
    run(book, build("random"), Bursts(), None, [keeps])
    assert keeps.seen == [e.event for e in store.read(1)]
    assert len(keeps.seen) == 2 * (1 + 2500 + 1) + 1


def test_a_study_goes_on_where_it_stopped_and_grows_with_its_budget(tmp_path):
    place = tmp_path / "s.db"
    first = tune(train, storage=place, workers=0)
    again = tune(train, storage=place, workers=0)
    assert len(again.trials()) == len(first.trials()) == 4
    more = tune(train, storage=place, workers=0, budget="6 trials")
    assert [t.config for t in more.trials()[:4]] == [t.config for t in first.trials()]
    assert len(more.trials()) == 6
    unbroken = tune(train, workers=0, budget="6 trials")
    # The verdict "the budget is spent" was a decision more: the later draws differ, the earlier ones do not.
    assert [t.config for t in unbroken.trials()[:4]] == [t.config for t in first.trials()]


def test_the_space_may_widen_during_a_study_but_not_shrink(tmp_path):
    place = tmp_path / "s.db"
    tune(train, storage=place, workers=0)
    wider = lt.Space(learning_rate=lt.Float(1e-7, 1.0, log=True))
    more = tune(train, space=wider, storage=place, workers=0, budget="8 trials")
    assert more.history.space == wider
    assert len(more.trials()) == 8
    kinds = [type(e.event).__name__ for e in SqlStore(locate(place), "train").read()]
    assert kinds.count("SpaceChanged") == 1
    with pytest.raises(UserError, match=r"can only be widened.*'learning_rate': low was 1e-07 and is "):
        tune(train, storage=place, workers=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"width": lt.Int(1, 9)}, "'width' is new"),
        ({"act": None}, "'act' is missing"),
        ({"act": lt.Choice("relu", "silu")}, r"'act': choices was \['relu', 'gelu'\] and is \['relu', 'silu'\]"),
        ({"slope": lt.Float(0, 1, when={"act": "gelu"})}, "'slope': when was {'act': 'relu'} and is {'act': 'gelu'}"),
        ({"learning_rate": lt.Int(1, 2)}, "'learning_rate': type was 'float' and is 'int', low was 0.0 and is 1, "),
    ],
)
def test_what_of_a_space_is_no_widening_is_named(tmp_path, change, said):
    params = {"learning_rate": lt.Float(0, 1), "act": lt.Choice("relu", "gelu")}
    params["slope"] = lt.Float(0, 1, when={"act": "relu"})
    tune(train, space=lt.Space(params), storage=tmp_path / "s.db", workers=0, budget="1 trial")
    if change == {"act": None}:
        del params["slope"]
    changed = lt.Space({n: p for n, p in {**params, **change}.items() if p is not None})
    with pytest.raises(UserError, match=f"ranges and choices: .*{said}.*--name.*--warm-start"):
        tune(train, space=changed, storage=tmp_path / "s.db", workers=0, budget="1 trial")


def test_another_metric_under_the_same_name_is_refused_in_words(tmp_path):
    tune(train, storage=tmp_path / "s.db", workers=0, budget="1 trial")
    with pytest.raises(UserError, match=r"another goal: minimize val_loss there, maximize acc here. Use .*\(--name\)"):
        tune(train, storage=tmp_path / "s.db", workers=0, budget="1 trial", minimize=None, maximize="acc")
    with pytest.raises(UserError, match="another reduce: best there, last here"):
        tune(train, storage=tmp_path / "s.db", workers=0, budget="1 trial", reduce="last")


def test_another_question_under_the_same_name_is_refused(tmp_path):
    tune(train, storage=tmp_path / "s.db", workers=0)
    for change, word in (({"max_epochs": 5}, "max_epochs"), ({"seed": 7}, "seed"), ({"strategy": "sobol"}, "strategy")):
        with pytest.raises(UserError, match=f"already holds a study 'train' with another {word}"):
            tune(train, storage=tmp_path / "s.db", workers=0, **change)


def test_only_the_newest_checkpoint_of_a_trial_is_kept(tmp_path):
    result = tune(train, strategy=ASHA(Random(), min_epochs=1), storage=tmp_path / "s.db", workers=1, budget="6 trials")
    files = sorted((tmp_path / "s.files" / "train" / "checkpoints").rglob("*"))
    kept = [f for f in files if f.is_file()]
    assert len(kept) == len(result.trials())
    assert not [f for f in kept if f.suffix != ".ckpt"]


def test_threads_are_shared_out_among_the_workers():
    def count(trial):
        trial.report(val_loss=float(os.environ["OMP_NUM_THREADS"]))

    from luthier.run.machine import cores

    before = os.environ.pop("OMP_NUM_THREADS", None)
    try:
        result = tune(count, workers=2, max_epochs=1)
        assert result.best_score == max(1, cores() // 2)
        assert tune(count, workers=1, max_epochs=1, threads=3).best_score == 3
    finally:
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def test_a_trial_is_the_same_wherever_it_runs():
    def noisy(trial):
        import random

        import numpy as np

        for _ in trial.epochs():
            trial.report(val_loss=random.random() + np.random.rand())

    here, there = (tune(noisy, workers=w, seed=5) for w in (0, 2))
    curves = [sorted(tuple(r.metrics["val_loss"] for r in t.reports) for t in x.trials()) for x in (here, there)]
    assert curves[0] == curves[1]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_function_that_imports_pytorch_itself_trains_with_the_seed_of_its_trial_from_the_first_on(workers):
    pytest.importorskip("torch")

    def draws(trial):
        already = "torch" in sys.modules
        import torch

        trial.report(val_loss=float(torch.rand(())), seed=trial.seed, already=already)

    drawn = {}
    for trial in tune(draws, workers=workers, max_epochs=1, budget="3 trials").trials():
        drawn[trial.metrics["seed"]] = trial.metrics["val_loss"]
        if trial.id == 0:
            assert not trial.metrics["already"]
    import torch

    for seed, value in drawn.items():
        assert value == float(torch.rand((), generator=torch.Generator().manual_seed(int(seed))))
