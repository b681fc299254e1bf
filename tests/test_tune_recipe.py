"""Real PyTorch training through workers, checkpoints and strategies."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import luthier as lt
from luthier.core.trial import Status
from luthier.recipe import Recipe, digits, digits_recipe
from luthier.run.decisions import replay
from luthier.schedule.halving import ASHA
from luthier.search.uniform import Random
from luthier.store import SqlStore, locate
from luthier.strategies import build


def curve(trial):
    return [(r.epoch, dict(r.metrics)) for r in trial.reports]


def test_a_trial_resumed_in_another_process_equals_an_uninterrupted_one_bit_for_bit(tmp_path):
    recipe = digits_recipe("mlp")
    strategy = ASHA(Random(), min_epochs=1)
    given = {"max_epochs": 9, "budget": "5 trials", "quiet": True, "threads": 1}
    paused = lt.tune(recipe, strategy=strategy, workers=2, storage=tmp_path / "s.db", **given)
    resumed = [t for t in paused.trials() if t.epoch == 9]
    assert resumed
    again = lt.AskTell(recipe.space(), maximize="val_accuracy", max_epochs=9, budget="1 trial", strategy="random")
    assert again.ask()

    class Repeat:
        """Trains the resumed trials from the beginning, in one job each."""

        def propose(self, history, rng):
            done = len(history.trials)
            if done == len(resumed):
                return lt.Wait() if history.running else lt.Done("all repeated")
            from luthier.contracts import Start

            return Start(resumed[done].config, until=9, seed=resumed[done].seed, why="repeat")

        def judge(self, history, trial):
            return None

    straight = lt.tune(recipe, strategy=Repeat(), workers=1, max_epochs=9, budget="20 trials", quiet=True, threads=1)
    assert [curve(t) for t in straight.trials()] == [curve(t) for t in resumed]


def test_the_playbook_tunes_a_model_of_ones_own(tmp_path):
    train, val = digits()
    classes = 10

    def model(config):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, int(config["hidden"])), nn.ReLU(),
                             nn.Linear(int(config["hidden"]), classes))  # fmt: skip

    space = lt.Space(
        learning_rate=lt.Float(1e-5, 1.0, log=True),
        batch_size=lt.Int(16, 128, log=True),
        hidden=lt.Int(8, 64, log=True),
    )
    recipe = lt.Recipe(model, train, val, name="own")
    result = lt.tune(
        recipe, space, max_epochs=6, budget="14 trials", workers=1, quiet=True, storage=tmp_path / "s.db", threads=1
    )
    stages = {s.name: s for s in result.history.stages}
    assert not stages["sanity"].skipped
    assert "learned by heart" in stages["sanity"].verdict
    assert stages["range"].numbers["center"] is not None
    # Eight hidden units cannot learn a batch by heart: the default is asked before the pipeline is condemned.
    assert [t.config["hidden"] for t in result.history.in_stage("sanity")] == [8, 22]
    assert result.summary.confirmation is not None
    assert result.best_score > result.default_score + 0.02  # 1e-3 is far too slow for six epochs
    entries = list(SqlStore(locate(tmp_path / "s.db"), "own").read())
    assert replay(entries, build("playbook")) == result.history.decisions


def test_a_pipeline_that_learns_nothing_is_named_before_any_search():
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(200) % 2

    class Deaf(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, batch):
            return self.layer(batch).detach() * 0 + self.layer.bias

    data = TensorDataset(x, y)
    recipe = Recipe(lambda config: Deaf(), data, data)
    result = lt.tune(recipe, max_epochs=4, budget="6 trials", workers=0, quiet=True)
    assert result.trials() == []
    assert result.history.finished.startswith("sanity:")
    assert result.history.stages[0].fatal
    assert result.best_config is None


def test_a_diverging_rate_is_recorded_and_survived():
    x = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x, (x[:, :1] * 3).sum(1))
    recipe = Recipe("mlp", data, data, task="regression")
    space = lt.Space(learning_rate=lt.Float(1e-4, 1e3, log=True), optimizer=lt.Constant("sgd"))
    result = lt.tune(recipe, space, strategy="sobol", max_epochs=3, budget="8 trials", workers=0, quiet=True)
    kinds = {t.failure.kind for t in result.trials() if t.failure}
    assert kinds == {"nonfinite"}
    assert any(t.status is Status.DONE for t in result.trials())
    assert result.best_score is not None


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({"wdith": lt.Int(8, 16)}, "Unknown hyperparameter 'wdith'. Did you mean 'width'?"),
        ({"smooth_l1_beta": lt.Float(0.1, 1.0)}, "is for regression; this is classification"),
        ({"loss": lt.Choice("cross_entropy", "l1")}, "Unknown loss 'l1' for classification"),
        ({"heads": lt.Choice(2, 4)}, "The mlp has no 'heads'"),
        ({"dropout": lt.Float(0.0, 1.5)}, "dropout: 1.5 is not in"),
        ({"batch_size": lt.Int(8, 4096)}, "batch_size=4096 is more than the 1257 training samples"),
        ({"augmentation": lt.Float(0.0, 1.0)}, "needs a kind of augmentation"),
    ],
)
def test_a_space_that_the_recipe_cannot_train_is_refused_before_any_training(space, says, tmp_path):
    rate = lt.Float(1e-4, 1e-2, log=True)
    with pytest.raises(lt.UserError) as error:
        lt.tune(lt.Recipe("mlp", *digits()), {"learning_rate": rate, **space}, storage=tmp_path, workers=0, quiet=True)
    assert says in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_checks_on_little_data_leave_room_for_trainings():
    """On 200 samples the range test, a hundred updates of 64, would be 32 epochs."""
    train, val = digits()
    train = torch.utils.data.Subset(train, range(200))
    result = lt.tune(lt.Recipe("mlp", train, val), max_epochs=8, budget="12 trials", quiet=True, threads=1)
    stages = {s.name: s for s in result.history.stages}
    assert stages["range"].skipped
    assert "a range test takes about" in stages["range"].because
    assert any(t.full and t.horizon == 8 for t in result.history.trained())
    assert result.history.spent <= 96
