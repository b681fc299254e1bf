from __future__ import annotations

import io
import json
import math
import random
import re
from html.parser import HTMLParser

import pytest

from luthier.core import events as ev
from luthier.core.errors import UserError
from luthier.core.history import Entry, History, fold
from luthier.core.params import Choice, Constant, Float, Int
from luthier.core.space import Space
from luthier.core.study import Budget, Objective, Study
from luthier.core.summary import CONFIRM
from luthier.view import figures, numbers, story
from luthier.view.closing import closing
from luthier.view.console import Console
from luthier.view.report import render_report, write_report

HOSTILE = "</script><script>alert(1)"
SPACE = Space(
    learning_rate=Float(1e-5, 1e-1, log=True),
    weight_decay=Float(1e-6, 1e-1, log=True),
    batch_size=Int(16, 512, log=True),
    optimizer=Choice("adamw", "sgd"),
    momentum=Float(0.8, 0.99, when={"optimizer": "sgd"}),
    schedule=Choice("constant", "cosine", "linear"),
    warmup=Float(0.0, 0.2),
    dropout=Float(0.0, 0.5),
    activation=Constant("gelu"),
)
DEFAULT = {
    "learning_rate": 0.001,
    "weight_decay": 0.01,
    "batch_size": 128,
    "optimizer": "adamw",
    "schedule": "constant",
    "warmup": 0.0,
    "dropout": 0.1,
    "activation": "gelu",
}


class Log:
    """Writes a log of literal events, ten seconds apart."""

    def __init__(self, study: Study) -> None:
        self.entries: list[Entry] = []
        self.trials = 0
        self.rng = random.Random(7)
        self.add(ev.Created(study), ev.Opened("0.1.0"))

    def add(self, *events: ev.Event) -> None:
        for event in events:
            self.entries.append(Entry(1.7e9 + 10.0 * len(self.entries), event))

    @property
    def events(self) -> list[ev.Event]:
        return [e.event for e in self.entries]

    def history(self) -> History:
        return fold(self.entries)

    def start(self, config=DEFAULT, *, until=20, why="to see", **more) -> int:
        self.add(ev.Started(self.trials, dict(config), 100 + self.trials, until, 20, why, **more))
        self.trials += 1
        return self.trials - 1

    def train(self, trial: int, top: float, begin=1, until=20, pace=4.0) -> None:
        for epoch in range(begin, until + 1):
            grown = 1 - math.exp(-epoch / pace)
            acc = 0.1 + (top - 0.1) * grown + self.rng.gauss(0, 0.002)
            train = 2.3 * math.exp(-epoch / pace) + 0.02 + self.rng.gauss(0, 0.002)
            val = 2.3 * (1 - grown) + 2 * (1 - top) + 0.002 * epoch + self.rng.gauss(0, 0.004)
            metrics = {
                "train_loss": train,
                "val_loss": val,
                "train_accuracy": min(acc + 0.012 * grown, 1),
                "val_accuracy": acc,
            }
            self.add(ev.Reported(trial, epoch, {k: round(v, 5) for k, v in metrics.items()}, 1.0))

    def run(self, config=DEFAULT, top=0.95, **more) -> int:
        trial = self.start(config, **more)
        self.train(trial, top)
        self.add(ev.Ended(trial, 20, checkpoint="a.ckpt"))
        return trial


def study(strategy="playbook", name="digits", minimize=False, epochs: int | None = 800) -> Study:
    objective = Objective("val_loss", True) if minimize else Objective("val_accuracy", False)
    return Study(name, SPACE, objective, 20, Budget(epochs=epochs), seed=3, strategy=strategy)


def playbook_log(better=True, confirm=True, probability=0.999) -> Log:
    log = Log(study())
    log.add(
        ev.StageOpened("sanity", "A broken pipeline cannot be tuned: first look whether the model can learn at all.")
    )
    probe = log.start(probe="sanity", why="Overfit one batch.")
    log.add(
        ev.Ended(probe, 0, answer={"initial_loss": 2.31, "expected": 2.303, "overfits": True}, cost=0.5),
        ev.StageClosed(
            "sanity",
            "Sound: the initial loss 2.31 is that of a guess (2.30) and one batch is learned by heart.",
            "Overfit of one batch in 40 steps.",
        ),
        ev.StageOpened(
            "lr_range", "The learning rate matters most, and a short sweep narrows it for the price of two epochs."
        ),
    )
    test = log.start(probe="lr_range", why="Sweep the learning rate over six decades, twice.")
    lrs = [10 ** (-6 + 6 * i / 79) for i in range(80)]

    def swept(shift: float) -> list[float]:
        return [
            2.3
            - 1.6 / (1 + math.exp(-3 * (math.log10(lr) + 3.1 + shift)))
            + log.rng.gauss(0, 0.02)
            + (math.exp(5 * (math.log10(lr) + 1.2)) if lr > 0.02 else 0)
            for lr in lrs
        ]

    answer = {"lrs": lrs, "losses": [swept(0.0), [*swept(0.15)[:-1], "nan"], swept(-0.1)]}
    log.add(
        ev.Ended(test, 0, answer=answer, cost=2.0),
        ev.StageClosed(
            "lr_range",
            "Steepest near 1.2e-3; unstable beyond 4e-2.",
            "Three repeats agree within a factor of 1.6.",
            numbers={"center": 1.2e-3, "upper": 4e-2, "confidence": 0.8},
        ),
        ev.StageOpened("learning rate", "Learning rate and weight decay first, the rest at the strong default."),
    )
    log.run(top=0.962, why="The strong default, to have something to beat.")
    for i, (lr, wd) in enumerate(
        [(3e-4, 0.01), (3e-3, 0.02), (0.01, 0.003), (1.5e-3, 0.05), (6e-4, 0.001), (4e-3, 0.1)]
    ):
        fall = 0.018 * abs(math.log10(lr / 2.5e-3)) ** 1.5
        config = {**DEFAULT, "learning_rate": lr, "weight_decay": wd}
        if i == 2:
            bad = log.start(config, why="Sobol point 3 of the narrowed range.")
            log.train(bad, 0.80, until=5)
            log.add(
                ev.Stopped(bad, 5, "Its validation loss rises while the others fall; cannot catch up (3 findings).")
            )
        elif i == 5:
            halted = log.start(config, until=8, why="Sobol point 6 of the narrowed range.")
            log.train(halted, 0.955 - fall, until=8)
            log.add(ev.Ended(halted, 8, checkpoint="b.ckpt"))
        else:
            log.run(config, 0.975 - fall, why=f"Sobol point {i + 1} of the narrowed range.")
    crashed = log.start({**DEFAULT, "learning_rate": 0.002, "batch_size": 512}, why="The largest batch that may fit.")
    trace = "Traceback (most recent call last):\n" + "".join(
        f'  File "train.py", line {i}, in step\n    loss.backward()\n' for i in range(8)
    )
    log.add(
        ev.Failed(
            crashed,
            "raised",
            "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
            trace + "OutOfMemoryError: CUDA out of memory.",
        ),
        ev.StageClosed(
            "learning rate",
            "learning_rate 0.003 beats the default's 0.001 by 0.0102 on one seed.",
            "7 trials; the second best lies 0.004 below.",
            settled={"learning_rate": 0.003, "weight_decay": 0.02},
        ),
        ev.StageOpened("schedule", "With the rate settled: does decaying it help, and is a warm-up worth it?"),
    )
    best = {**DEFAULT, "learning_rate": 0.003, "weight_decay": 0.02}
    for schedule, warmup, top in [
        ("cosine", 0.0, 0.978),
        ("cosine", 0.05, 0.981),
        ("linear", 0.05, 0.977),
        ("constant", 0.1, 0.972),
    ]:
        log.run(
            {**best, "schedule": schedule, "warmup": warmup},
            top,
            why=f"{schedule} decay with a warm-up of {warmup:.0%}.",
        )
    diverged = log.start({**best, "schedule": "cosine", "learning_rate": 0.05}, why="The edge of the range.")
    log.train(diverged, 0.5, until=2)
    log.add(
        ev.Reported(diverged, 3, {"train_loss": math.nan, "val_loss": math.inf, "val_accuracy": 0.1}),
        ev.Failed(diverged, "nonfinite", "train_loss became nan in epoch 3"),
        ev.StageClosed(
            "schedule",
            "Cosine decay with 5 % warm-up gains 0.0060.",
            "4 trials on one seed.",
            settled={"schedule": "cosine", "warmup": 0.05},
        ),
        ev.StageOpened("dropout", "More regularization, if the winner overfits."),
        ev.StageClosed(
            "dropout",
            "Not needed.",
            "The winner's gap between training and validation is 0.012, within noise.",
            skipped=True,
        ),
    )
    if confirm:
        log.add(ev.StageOpened(CONFIRM, "The best of many is lucky: winner and default again, on fresh seeds."))
        winner = {**best, "schedule": "cosine", "warmup": 0.05}
        tops = [(0.9805, 0.9690), (0.9821, 0.9725), (0.9835, 0.9702), (0.9790, 0.9665), (0.9809, 0.9728)]
        if not better:
            tops = [(a - 0.0105, b) for a, b in tops]
        for new, old in tops:
            log.run(winner, new, why="Winner on a fresh seed.", notes={"arm": "winner"})
            log.run(DEFAULT, old, why="Default on the same seed.", notes={"arm": "default"})
        low, high = (0.0083, 0.0137) if better else (-0.0021, 0.0032)
        gain = 0.0110 if better else 0.0005
        news, olds = [a for a, _ in tops], [b for _, b in tops]
        arm = {
            "winner": {"config": winner, "scores": news, "mean": sum(news) / 5, "sd": 0.0017},
            "default": {"config": DEFAULT, "scores": olds, "mean": sum(olds) / 5, "sd": 0.0026},
        }
        log.add(
            ev.StageClosed(
                CONFIRM,
                "The winner is better on all five seeds.",
                "Student's t on five paired differences.",
                numbers={
                    **arm,
                    "seeds": [11, 12, 13, 14, 15],
                    "gain": gain,
                    "interval": [low, high],
                    "probability": probability if better else 0.7,
                    "better": better,
                },
            ),
            ev.Finished("The playbook is through."),
        )
    return log


def random_log(trials: int, minimize=False, epochs: int | None = 800) -> Log:
    log = Log(study("random", minimize=minimize, epochs=epochs))
    for i in range(trials):
        config = SPACE.sample(log.rng)
        fall = 0.05 * abs(math.log10(config["learning_rate"] / 2e-3)) ** 1.4
        if i % 13 == 12:
            log.add(
                ev.Started(log.trials, config, i, 20, 20, "drawn at random"),
                ev.Failed(log.trials, "died", "exit code -9", "x" * 9_000),
            )
            log.trials += 1
        else:
            log.run(config, max(0.12, 0.98 - fall - abs(log.rng.gauss(0, 0.01))), why="drawn at random")
    return log


def empty_log() -> Log:
    return Log(study("random", name="nothing yet"))


class Page(HTMLParser):
    """What a browser would fetch, and the text it would show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.scripts = 0
        self.text: list[str] = []
        self._inside = ""
        self.data = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self._inside = given.get("id", tag) if tag == "script" else tag
        self.scripts += tag == "script"
        self.ids |= {given["id"]} if "id" in given else set()
        self.links += [v for k, v in attrs if k in ("src", "href", "srcset", "action", "data", "poster") and v]

    def handle_data(self, data):
        if self._inside == "data":
            self.data += data
        elif self._inside not in ("script", "style"):
            self.text.append(data)

    def handle_endtag(self, tag):
        self._inside = ""


LOGS = {
    "playbook": playbook_log(),
    "default kept": playbook_log(better=False),
    "unfinished": playbook_log(confirm=False),
    "random": random_log(30, minimize=True),
    "empty": empty_log(),
}


@pytest.fixture(params=LOGS)
def history(request) -> History:
    return LOGS[request.param].history()


@pytest.fixture
def playbook() -> History:
    return LOGS["playbook"].history()


# -- the story ---------------------------------------------------------------------------------------------------------


def test_verdict_says_what_was_confirmed(playbook):
    assert story.verdict(playbook) == (
        "Tuned configuration reaches val_accuracy 0.9812 ± 0.0017 against 0.9702 ± 0.0026 for the strong default: "
        "+1.10 points (95 % interval +0.83 to +1.37, 5 paired seeds)."
    )
    kept = story.verdict(LOGS["default kept"].history())
    assert "no better than the strong default beyond noise" in kept
    assert kept.endswith("the default is kept.")


def test_verdict_does_not_claim_what_is_only_probable():
    log = playbook_log(probability=0.9)
    close = log.entries[-2].event
    assert isinstance(close, ev.StageClosed)
    log.entries[-2] = Entry(
        log.entries[-2].at,
        ev.StageClosed(CONFIRM, close.verdict, close.why, numbers={**close.numbers, "interval": [-0.002, 0.024]}),
    )
    assert "kept as probably better (P = 0.90), not yet proven" in story.verdict(log.history())
    assert "probably better" in render_report(log.history())


def test_verdict_without_a_confirmation_warns_of_optimism():
    text = story.verdict(LOGS["random"].history())
    assert text.startswith("Best val_loss ")
    assert "best of 28" in text
    assert "optimistic" in text


def test_verdict_before_and_without_any_score():
    assert story.verdict(empty_log().history()) == "Nothing has been trained yet."
    log = empty_log()
    log.start()
    assert "yet (1 running)" in story.verdict(log.history())
    log.add(ev.Failed(0, "raised", "ValueError: no\x1b[31m data"))
    assert (
        story.verdict(log.history()) == "No trial has a score: all 1 failed (1 of them: raised: ValueError: no data)."
    )


def test_a_fatal_stage_is_the_verdict():
    log = Log(study())
    log.add(ev.StageOpened("sanity", "look"), ev.StageClosed("sanity", "One batch cannot be learned.", "x", fatal=True))
    first = "One batch cannot be learned. (The study ended at the stage “sanity”"
    for text in (story.verdict, story.tell, closing):
        assert text(log.history()).startswith(first)
    assert 'class="bad"' in render_report(log.history())


def test_tell_names_stages_best_failures_and_what_is_left():
    log = playbook_log(confirm=False)
    log.start(why="still going")
    log.add(ev.Reported(log.trials - 1, 1, {"val_accuracy": 0.5}))
    text = story.tell(log.history())
    for stage in log.history().stages:
        if stage.skipped:  # on one line
            assert f". {stage.name}  skipped: {stage.because}" in text
            continue
        assert f". {stage.name}  (" in text
        assert stage.why in text
        assert str(stage.verdict) in text
    assert "settled  learning_rate=0.003, weight_decay=0.02" in text
    assert "raised: OutOfMemoryError" in text
    assert "nonfinite: train_loss became nan in epoch 3  (trial 14)" in text
    assert "epoch 1/20" in text
    assert "1 paused trial that can be resumed" in text
    best = text[text.index("Best 5 configurations") :].splitlines()[1:6]
    scores = [float(line.split()[1]) for line in best]
    assert scores == sorted(scores, reverse=True)
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", text)


def test_tell_survives_every_study(history):
    assert story.verdict(history) in story.tell(history)


def test_sparkline():
    assert story.sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert story.sparkline([3, 3, 3]) == "▄▄▄"
    assert story.sparkline([1, math.nan, 2, math.inf]) == "▁×█×"
    assert story.sparkline([math.nan]) == "×"
    assert story.sparkline([]) == ""
    assert len(story.sparkline(range(1000), 20)) == 20


def test_numbers_are_written_alike():
    assert story.number(0.98123) == "0.9812"
    assert story.number(0.011, like=0.98, sign=True) == "+0.0110"
    assert story.number(-0.002, like=0.98, sign=True) == "−0.0020"
    assert story.number(12.3456) == "12.35"
    assert story.number(None) == "–"
    assert story.number(math.nan) == "nan"


# -- figures: numbers --------------------------------------------------------------------------------------------------


def test_roles_are_read_from_the_confirmation(playbook):
    roles = numbers.roles(playbook)
    assert [i for i, r in roles.items() if r == "failed"] == [9, 14]
    assert roles[5] == "ended"
    assert {roles[t.id] for t in playbook.in_stage(CONFIRM)} == {"winner", "default"}
    assert roles[2] == "default"  # the same configuration, when it was first tried
    only = numbers.roles(LOGS["random"].history())
    assert [i for i, r in only.items() if r == "winner"] == [LOGS["random"].history().incumbent.id]


def test_learning_curves_hold_every_trial_that_reported(playbook):
    data = numbers.learning_curves(playbook, "val_accuracy")
    assert [c.trial for c in data.curves] == [t.id for t in playbook.trained() if t.reports]
    assert data.curves[0].epochs == tuple(range(1, 21))
    assert data.curves[0].values == tuple(v for _, v in playbook.trials[2].curve("val_accuracy"))
    assert numbers.metric_pairs(playbook) == [("train_accuracy", "val_accuracy"), ("train_loss", "val_loss")]


def test_many_curves_are_thinned_but_keep_their_ends():
    history = random_log(300).history()
    data = numbers.learning_curves(history, "val_loss")
    assert sum(len(c.epochs) for c in data.curves) <= 4_300
    assert all((c.epochs[0], c.epochs[-1]) == (1, 20) for c in data.curves)


def test_a_diverged_trial_does_not_set_the_scale(playbook):
    log = random_log(30)
    bad = log.start(why="too fast")
    log.add(ev.Reported(bad, 1, {"val_loss": 1e9, "val_accuracy": 0.1}), ev.Failed(bad, "nonfinite", "loss is nan"))
    assert numbers.learning_curves(log.history(), "val_loss").high < 10


def test_progress_is_the_running_best(playbook):
    data = numbers.progress(playbook)
    assert list(data.best) == [max(data.scores[: i + 1]) for i in range(len(data.scores))]
    assert data.best[-1] == playbook.score(playbook.incumbent)
    assert data.total == playbook.spent
    assert data.spent[0] == 0.5 + 2.0 + 20
    assert data.stages[:2] == (("sanity", 0.0), ("lr_range", 0.5))
    down = numbers.progress(LOGS["random"].history())
    assert list(down.best) == [min(down.scores[: i + 1]) for i in range(len(down.scores))]


def test_paired_numbers(playbook):
    data = numbers.paired(playbook)
    assert data is not None
    assert data.seeds == (11, 12, 13, 14, 15)
    assert data.gains == pytest.approx([0.0115, 0.0096, 0.0133, 0.0125, 0.0081])
    assert (data.gain, data.low, data.high, data.better) == (0.0110, 0.0083, 0.0137, True)
    assert numbers.paired(LOGS["unfinished"].history()) is None


def test_sweeps_follow_the_scales_of_the_space():
    history = LOGS["random"].history()
    data = {s.name: s for s in numbers.sweeps(history)}
    assert list(data) == list(SPACE.dims)
    assert (data["learning_rate"].scale, data["warmup"].scale) == ("log", "linear")
    assert data["schedule"].labels == ("constant", "cosine", "linear")
    first = data["schedule"]
    assert [first.labels[int(v)] for v in first.values] == [history.trials[i].config["schedule"] for i in first.trials]
    sgd = [t.id for t in history.trained() if "momentum" in t.config and history.score(t) is not None]
    assert list(data["momentum"].trials) == sgd


def test_lr_range_reads_the_probe_and_the_stage(playbook):
    (data,) = numbers.lr_ranges(playbook)
    assert (data.trial, len(data.rates), len(data.repeats)) == (1, 80, 3)
    assert (data.center, data.upper) == (1.2e-3, 4e-2)
    assert math.isnan(data.repeats[1][-1])
    assert math.isfinite(data.median[-1])
    log = Log(study())
    trial = log.start(probe="lr_range")
    log.add(ev.Ended(trial, 0, answer={"lrs": [1e-3, 1e-2], "losses": [[1.0]]}))
    (short,) = numbers.lr_ranges(log.history())
    assert short.center is None
    assert math.isnan(short.median[1])


def test_each_optimizer_has_a_range_test_of_its_own():
    log = Log(study())
    log.add(ev.StageOpened("range", "why"))
    for _ in range(2):
        trial = log.start(probe="lr_range")
        log.add(ev.Ended(trial, 0, answer={"lrs": [1e-3, 1e-2], "losses": [[2.0, 1.0]]}))
    each = {"adamw": {"center": 0.001, "upper": None, "trial": 0}, "sgd": {"center": 0.1, "upper": 0.5, "trial": 1}}
    log.add(ev.StageClosed("range", "v", "w", numbers={"optimizers": each, "center": 0.001, "upper": None}))
    assert [(d.center, d.upper) for d in numbers.lr_ranges(log.history())] == [(0.001, None), (0.1, 0.5)]


def test_every_figure_is_a_valid_plotly_figure(history):
    for draw in figures.FIGURES.values():
        for spec in draw(history):
            figure = figures.to_plotly(spec, history)
            assert figure.layout.annotations is not None
            json.dumps(spec, allow_nan=False)


# -- the report --------------------------------------------------------------------------------------------------------


def test_the_report_is_one_small_file_that_loads_nothing(history, tmp_path):
    path = write_report(history, tmp_path / "deep" / "report.html")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    assert path.stat().st_size < 6_000_000
    page = Page(path.read_text(encoding="utf-8"))
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= page.ids
    assert story.verdict(history) in "".join(page.text)
    assert page.scripts == 3
    json.loads(page.data)


def test_the_report_tells_the_whole_study(playbook):
    text = "".join(Page(render_report(playbook)).text)
    for stage in playbook.stages:
        assert stage.name in text
        assert str(stage.verdict) in text
    assert "OutOfMemoryError: CUDA out of memory" in text
    assert "Stopped: Its validation loss rises" in text
    assert "Traceback (most recent call last)" in text
    assert "4 unchanged" in text


def test_what_users_write_cannot_leave_its_place():
    space = Space({"optimizer": Choice("adamw", HOSTILE), HOSTILE: Float(0.1, 1.0)})
    log = Log(Study(HOSTILE, space, Objective(f"{HOSTILE}_loss", True), 2, strategy="random"))
    log.add(ev.StageOpened(HOSTILE, HOSTILE))
    for i, choice in enumerate(("adamw", HOSTILE)):
        log.start({"optimizer": choice, HOSTILE: 0.2 + i / 2}, why=HOSTILE, until=2)
        log.add(ev.Reported(i, 1, {f"{HOSTILE}_loss": 1.0 + i}), ev.Ended(i, 2))
    log.start({"optimizer": HOSTILE, HOSTILE: 0.3}, why=HOSTILE)
    log.add(ev.Failed(2, "raised", HOSTILE, HOSTILE), ev.StageClosed(HOSTILE, HOSTILE, HOSTILE, {"optimizer": HOSTILE}))
    text = render_report(log.history())
    assert "<script>alert" not in text
    page = Page(text)
    assert page.scripts == 3
    assert json.loads(page.data)["figures"]
    assert HOSTILE in "".join(page.text)


def test_a_report_of_very_many_trials_stays_small():
    space = Space({f"knob_number_{i}": Float(1e-6, 1.0, log=True) for i in range(24)})
    log = Log(Study("big", space, Objective("val_loss", True), 10, strategy="random"))
    for i in range(800):
        log.start(space.sample(log.rng), until=10, why="drawn at random from the whole of the space")
        for epoch in range(1, 11):
            log.add(ev.Reported(i, epoch, {"train_loss": log.rng.random(), "val_loss": log.rng.random()}))
        log.add(ev.Failed(i, "raised", "boom", "x" * 9_000) if i % 4 == 0 else ev.Ended(i, 10))
    text = render_report(log.history())
    assert len(text.encode()) < 6_000_000
    assert "more are in the study itself" in text


def test_a_report_that_cannot_be_written_leaves_the_old_one(playbook, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_report(playbook, path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_report_is_a_file_and_no_folder(playbook, tmp_path):
    with pytest.raises(UserError, match=r"is a folder. Name a file: .*report.html"):
        write_report(playbook, tmp_path)
    assert list(tmp_path.iterdir()) == []


# -- the console -------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watch(log: Log, console: Console) -> None:
    """The console sees the log in batches of three, as from a loop."""
    seen = fold(log.entries[:2])
    console.open(seen)
    for i in range(2, len(log.entries), 3):
        batch = log.entries[i : i + 3]
        for entry in batch:
            seen = seen.then(entry)
        console.update(seen, [e.event for e in batch])
    console.close(seen)


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_plain_lines_survive_a_log_file():
    out = io.StringIO()
    watch(LOGS["playbook"], Console(stream=out))
    text = out.getvalue()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    for word in ("[learning rate]", "Sobol point 1", "stopped at epoch 5: Its validation loss rises", "best so far"):
        assert word in text
    assert "failed: OutOfMemoryError" in text
    assert "skipped: The winner's gap" in text
    assert len(text.splitlines()) < len(LOGS["playbook"].entries) / 3  # no line for each epoch


def test_a_terminal_gets_a_live_picture_and_no_color_gets_lines(monkeypatch):
    out = Terminal()
    watch(LOGS["playbook"], Console(stream=out))
    assert "\x1b[" in out.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    watch(LOGS["playbook"], Console(stream=out))
    assert "\x1b[" not in out.getvalue()
    assert "trial 5 stopped" in out.getvalue()


def test_json_leaves_standard_output_alone_and_quiet_says_nothing(capsys):
    watch(LOGS["random"], Console(json=True))
    out, err = capsys.readouterr()
    assert out == ""
    assert "trial 0" in err
    console = Console(quiet=True)
    watch(LOGS["random"], console)
    console.say("anything")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_odd_data_does_not_reach_the_loop(stream):
    odd = Log(Study("[/odd]", SPACE, Objective("[/m]", True), 3, strategy="random"))
    odd.start({}, until=3, why="\x1b[31m[/red]")
    odd.start({}, until=3, probe="[/probe]")
    for epoch, value in enumerate((math.nan, math.inf, -math.inf), 1):
        odd.add(ev.Reported(0, epoch, {"[/m]": value, "[/other]": value}))
    out = stream()
    watch(odd, Console(stream=out))
    assert "not shown" not in out.getvalue()


def test_a_reader_that_left_does_not_end_the_study():
    class Gone(io.StringIO):
        def write(self, _):
            raise BrokenPipeError

    console = Console(stream=Gone())
    console.update(LOGS["random"].history(), LOGS["random"].events[-5:])
