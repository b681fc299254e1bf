"""Causal language modelling: windows of streams, per-token losses, and what is refused before any training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_recipe import FakeTrial, Plain, same_weights, train
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import luthier as lt
from luthier.core.errors import UserError
from luthier.core.params import Constant
from luthier.probing import check, find_batch_size_for
from luthier.recipe import Recipe
from luthier.recipe.data import prepare
from luthier.recipe.knobs import settings

PERIOD = torch.tensor([3, 1, 4, 0, 5, 2, 6])


def periodic(n):
    return PERIOD.repeat(n // 7 + 1)[:n]


def text(n=1200, seed=0):
    """Tokens 0..6, each one of two that may follow the one before: learnable, but not to zero."""
    coins = torch.randint(2, (n,), generator=torch.Generator().manual_seed(seed))
    return (coins + 1).cumsum(0) % 7


def small(model="transformer", **changes):
    return Recipe(**{"model": model, "train": text(), "val": text(300, 1), "task": "language", **changes})


SMALL = {"context": 16, "batch_size": 20, "width": 16, "depth": 1, "dropout": 0.1, "learning_rate": 0.01}


class Bigram(nn.Module):
    """A table of logits, (batch, length, vocabulary); what Hugging Face's models call their output with ``wrap``."""

    def __init__(self, wrap=False, vocabulary=7):
        super().__init__()
        self.table, self.wrap = nn.Embedding(vocabulary, vocabulary), wrap

    def forward(self, x):
        logits = self.table(x)
        return type("Output", (), {"logits": logits})() if self.wrap else logits


class Second(Bigram):
    """The same with the classes second."""

    def forward(self, x):
        return super().forward(x).transpose(1, 2)


# -- training ----------------------------------------------------------------------------------------------------------


def test_a_periodic_stream_is_learned_to_nothing():
    recipe = Recipe("transformer", periodic(1500), periodic(200), task="language")
    _, trial = train(recipe, {**SMALL, "dropout": 0.0}, until=20)
    assert (recipe.metric, recipe.minimize) == ("val_loss", True)
    assert set(trial.reports[-1]) == {"train_loss", "train_accuracy", "val_loss", "val_accuracy", "params"}
    assert trial.reports[-1]["val_loss"] < 0.05
    assert trial.reports[-1]["val_accuracy"] == 1.0


def test_the_losses_are_those_of_a_loop_written_by_hand():
    config = {"optimizer": "sgd", "learning_rate": 0.5, "momentum": 0.0, "weight_decay": 0.0, "warmup": 0.0}
    config |= {"schedule": "constant", "context": 16, "batch_size": 20}
    stream, held = text(), text(300, 1)
    _, trial = train(small(lambda c: Second()), config, seed=3, until=2)
    torch.manual_seed(3)
    model = Second()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    order = small()._data.windowed(16).train.order
    for epoch, report in enumerate(trial.reports, 1):
        losses, hits = [], 0
        for starts in order(3, epoch).split(20):
            x, y = (torch.stack([stream[s + k : s + k + 16] for s in starts]) for k in (0, 1))
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y, reduction="none")
            loss.mean().backward()
            hits += int((model(x).argmax(1) == y).sum())
            optimizer.step()
            losses += loss.flatten().tolist()
        assert len(losses) == (1200 // 16 - 1) * 16
        assert report["train_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
        assert report["train_accuracy"] == hits / len(losses)
        with torch.no_grad():
            x, y = held[:288].view(18, 16), held[1:289].view(18, 16)
            assert report["val_loss"] == pytest.approx(float(F.cross_entropy(model(x), y)), rel=1e-5)
            assert report["val_accuracy"] == pytest.approx(float((model(x).argmax(1) == y).double().mean()))


@pytest.mark.parametrize("extra", [{}, {"accumulate": 2, "loss": "focal", "label_smoothing": 0.1, "ema": 0.9}])
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(extra):
    recipe, config = small(), {**SMALL, **extra}
    whole, unbroken = train(recipe, config, seed=5, until=3)
    again, rerun = train(recipe, config, seed=5, until=3)
    assert rerun.reports == unbroken.reports
    assert same_weights(again, whole)
    _, first = train(recipe, config, seed=5, until=1, max_epochs=3)
    resumed, last = train(recipe, config, seed=5, start=1, until=3, max_epochs=3, checkpoint=first.checkpoint)
    assert first.reports + last.reports == unbroken.reports
    assert same_weights(resumed, whole)
    assert train(recipe, config, seed=6, until=3)[1].reports != unbroken.reports


def test_accumulated_batches_are_one_large_batch():
    config = {**SMALL, "dropout": 0.0, "optimizer": "sgd", "weight_decay": 0.0}
    whole, _ = train(small(), {**config, "batch_size": 40}, until=1)
    parts, _ = train(small(), {**config, "batch_size": 20, "accumulate": 2}, until=1)
    for a, b in zip(whole.parameters(), parts.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_windows_of_ones_own_train_as_tensors_or_through_a_loader():
    class Pairs(Plain):
        def __getitem__(self, i):
            return self.source[i]

    stream = text()
    windows = TensorDataset(stream[:1184].view(74, 16), stream[1:1185].view(74, 16))
    config = {k: v for k, v in SMALL.items() if k != "context"} | {"dropout": 0.0}
    _, fast = train(small(train=windows, val=windows), config)
    _, slow = train(small(train=Pairs(windows), val=Pairs(windows)), config)
    assert slow.reports == fast.reports
    assert "context" not in small(train=windows, val=windows).space()


# -- windows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tokens", "context"), [(200, 16), (33, 16), (17, 16), (2, 1), (65, 8)])
def test_the_windows_of_an_epoch_do_not_overlap_and_move_until_all_is_seen(tokens, context):
    data = prepare(torch.arange(tokens), torch.arange(tokens), "language").windowed(context)
    seen, firsts = set(), set()
    for epoch in range(300):
        starts = data.train.order(0, epoch)
        assert len(starts) == len(data.train) == max(1, tokens // context - 1)
        x, y = next(data.train.batches(len(starts), starts, device=torch.device("cpu")))
        assert torch.equal(y, x + 1)
        inputs = x.flatten().tolist()
        assert len(set(inputs)) == len(inputs)
        seen |= set(inputs)
        firsts.add(int(starts.min()))
        assert torch.equal(starts, data.train.order(0, epoch))
    assert seen == set(range(tokens - 1))
    assert len(firsts) == min(300, tokens - len(data.train) * context)
    (x, y), *rest = data.val.batches(10**6, device=torch.device("cpu"))
    assert not rest
    assert torch.equal(x.flatten(), torch.arange((tokens - 1) // context * context))
    assert torch.equal(y, x + 1)


def test_the_context_is_what_the_model_sees():
    seen = []

    class Looks(Bigram):
        def forward(self, x):
            seen.append(x.shape[1])
            return super().forward(x)

    configs = []
    for context in (4, 32):
        train(small(lambda c: configs.append(c) or Looks()), {"context": context}, until=1)
        assert set(seen) == {context}
        seen.clear()
    train(small(lambda c: configs.append(c) or Looks()), until=1)
    assert set(seen) == {64}
    assert [c["context"] for c in configs] == [4, 32, 64]


def test_a_longer_context_finds_what_lies_further_back():
    # Two texts, word by word in turn: the token before says nothing, the one before it leaves two to choose from.
    stream = torch.stack([text(1500), text(1500, 1)], 1).flatten()
    recipe = Recipe("transformer", stream[:2400], stream[2400:], task="language")
    losses = {}
    for context in (1, 8):
        config = {"width": 16, "depth": 1, "learning_rate": 0.01, "batch_size": 128 // context, "context": context}
        losses[context] = train(recipe, config, until=8)[1].reports[-1]["val_loss"]
    assert losses[1] == pytest.approx(math.log(7), abs=0.05)
    assert losses[8] < 1.2  # (log 7 + 7 log 2) / 8 = 0.85: the first of a window has nothing to go by


def test_vocabulary_and_default_context():
    recipe = Recipe("transformer", text(40), np.array([0, 9, 1], dtype=np.uint16), task="language")
    assert recipe._data.outputs == 10
    assert recipe._data.input_shape == (2,)
    assert recipe.space()["context"] == Constant(2)


# -- a model of one's own ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [5, 7])  # seven: as many logits as tokens
def test_classes_may_come_second_or_last_or_as_logits(context):
    config = {"context": context, "learning_rate": 0.1, "batch_size": 20}
    made = {name: train(small(make), config) for name, make in (
        ("second", lambda c: Second()), ("last", lambda c: Bigram()), ("logits", lambda c: Bigram(wrap=True))
    )}  # fmt: skip
    assert made["last"][1].reports == made["second"][1].reports == made["logits"][1].reports
    x = torch.zeros(2, 5, dtype=torch.int64)
    assert made["last"][0](x).shape == (2, 5, 7)  # as its author wrote it
    assert made["logits"][0](x).logits.shape == (2, 5, 7)


def test_a_model_that_sees_the_future_is_refused():
    class Mean(Second):
        def forward(self, x):
            logits = super().forward(x)
            return logits + logits.mean(2, keepdim=True)

    trial = FakeTrial({"context": 8})
    with pytest.raises(UserError, match="sees the future"):
        small(lambda c: Mean())(trial)
    assert trial.reports == []


# -- checks and tuning -------------------------------------------------------------------------------------------------


def test_the_checks_know_language():
    report = check(Recipe("transformer", text(20_000), text(2000, 1), task="language"), {"width": 32})
    assert report.ok
    assert report["class_balance"].status == "skipped"
    assert report["overlap"].text.startswith("0 of 31")
    assert "log 7 = 1.95" in report["initial_loss"].text
    assert check(small(), SMALL)["overlap"].status == "skipped"  # sixteen tokens occur again by chance


def test_overlap_is_found_wherever_it_begins():
    stream = torch.randint(50, (6000,), generator=torch.Generator().manual_seed(0))
    other = torch.randint(50, (6000,), generator=torch.Generator().manual_seed(1))
    held = torch.cat([stream[1234:2500], other[:100]])
    report = check(Recipe("transformer", stream, held, task="language"), {"width": 16, "depth": 1})
    assert report["overlap"].status == "fail"
    assert report["overlap"].text.startswith("19 of 21")


def test_sanity_expects_the_log_of_the_vocabulary_and_learns_a_few_windows():
    answer, _ = small().probe("sanity", {"width": 32}, 0)
    assert answer["classes"] == 7
    assert answer["expected_loss"] == pytest.approx(math.log(7))
    assert answer["overfit"]["batch"] == 4
    assert answer["overfit"]["accuracy"] is not None


def test_the_batch_size_finder_counts_windows():
    assert find_batch_size_for(small(), {"width": 16, "context": 16}, steps=1, largest=8).batch_size in (4, 8)


def test_the_playbook_tunes_it(tmp_path):
    recipe = Recipe("transformer", text(5000), text(600, 1), task="language", name="language")
    space = recipe.space()
    assert {"depth", "width", "dropout", "context", "learning_rate", "batch_size"} <= set(space)
    assert (space["optimizer"], space["learning_rate"].high) == (Constant("adamw"), 1e-2)
    space = space.fix({"width": 32, "depth": 1, "dropout": 0.0})
    given = {"max_epochs": 6, "budget": "16 trials", "workers": 0, "quiet": True, "storage": tmp_path / "s.db"}
    result = lt.tune(recipe, space, **given)
    assert result.best_score < math.log(7)
    assert not result.history.stages[0].fatal


def test_every_configuration_of_the_default_space_trains():
    for tokens in (40, 300, 5000):
        recipe = Recipe("transformer", text(tokens), text(tokens // 4, 1), task="language")
        space = recipe.space()
        rng = np.random.default_rng(0)
        ends = [{"context": getattr(space["context"], side, 0)} for side in ("low", "high")]
        ends = [{}] if isinstance(space["context"], Constant) else ends
        for end in [{}, *ends]:
            config = {**space.sample(rng), **end, "width": 32, "depth": 1}
            assert len(train(recipe, config, until=1)[1].reports) == 1


# -- mistakes ----------------------------------------------------------------------------------------------------------

X, Y = text()[:64].view(4, 16), text()[1:65].view(4, 16)
PAIRS = TensorDataset(X, Y)

BAD_RECIPES = [
    ({"train": text().float()}, "train: Tokens are torch.float32"),
    ({"val": text() - 1}, "val: The token -1 is negative"),
    ({"train": text().view(2, -1)}, r"shape \(2, 600\).*one dimension"),
    ({"train": text(1)}, "stream has 1 token"),
    ({"train": text() * 0, "val": text() * 0}, "nothing to predict"),
    ({"train": PAIRS}, "train= is a TensorDataset, the other one a stream"),
    ({"train": PAIRS, "val": TensorDataset(X[:, :8], Y[:, :8])}, "windows of 16 tokens, val of 8"),
    ({"train": TensorDataset(X, Y[:, :8]), "val": PAIRS}, "windows of one length"),
    ({"train": TensorDataset(X, Y[:, 0]), "val": PAIRS}, "windows of one length"),
    ({"train": TensorDataset(X, X), "val": PAIRS}, "the inputs themselves"),
    ({"train": TensorDataset(X, Y.float()), "val": PAIRS}, "train: Tokens are torch.float32"),
    ({"model": "mlp"}, "mlp predicts no token.*'transformer'"),
    ({"augment": "image"}, "tokens cannot be augmented"),
    ({"metric": "val_mae"}, "Unknown metric"),
]


@pytest.mark.parametrize(("changes", "says"), BAD_RECIPES, ids=[s for _, s in BAD_RECIPES])
def test_a_bad_recipe_is_refused_at_once(changes, says):
    with pytest.raises(UserError, match=says):
        small(**changes)


BAD_TRIALS = [
    ({}, {"context": 1200}, "context=1200 is too long for the training stream of 1200 tokens.*at most 1199"),
    ({}, {"context": 300}, "context=300 is too long for the validation stream of 300 tokens"),
    ({}, {"context": 0}, "context: 0 is not"),
    ({"train": PAIRS, "val": PAIRS}, {"context": 8}, "context=8, but the data come in windows of 16"),
    ({}, {"context": 16, "batch_size": 75}, "batch_size=75 is more than the 74 windows of 16 tokens"),
    ({}, {"context": 16, "batch_size": 20, "accumulate": 4}, "batch_size=20 times accumulate=4 is more than the 74"),
    ({}, {"class_weights": "balanced"}, "'class_weights' is for classification; this is language"),
    ({}, {"mixup": 0.2}, "'mixup' is for classification and regression; this is language"),
    ({}, {"augmentation": 0.5}, "'augmentation' is for classification and regression"),
    ({}, {"smooth_l1_beta": 0.5}, "'smooth_l1_beta' is for regression"),
    ({}, {"loss": "l2"}, "For language there are cross_entropy, focal"),
    ({"model": lambda c: nn.Embedding(7, 6)}, {}, r"gives \(2, 6, 64\).*\(2, 7, 64\) or \(2, 64, 7\)"),
]


@pytest.mark.parametrize(("changes", "config", "says"), BAD_TRIALS, ids=[s for *_, s in BAD_TRIALS])
def test_a_bad_trial_is_refused_before_training(changes, config, says):
    trial = FakeTrial(config)
    with pytest.raises(UserError, match=says):
        small(**changes)(trial)
    assert trial.reports == []


def test_context_belongs_to_language_alone():
    with pytest.raises(UserError, match="'context' is for language"):
        settings({"context": 8}, "transformer", "classification")
    settings({"context": "a word of the function's own"}, lambda c: nn.Identity(), "classification")
