"""The Trainer of Hugging Face under Luthier: reports, stops, pauses and goes on; its search."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from adapting import Cloned, curves, whole_and_in_parts
from torch import nn

import luthier as lt
from luthier.core.errors import RunError
from luthier.core.trial import Status

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")  # what the Trainer itself asks for
from luthier.integrations.transformers import BUILT, LuthierCallback, hyperparameter_search  # noqa: E402

pytestmark = pytest.mark.usefixtures("frozen")
SPACE = lt.Space(learning_rate=lt.Float(1e-4, 1.0, log=True), dropout=lt.Float(0.0, 0.5))


class Net(nn.Module):
    """Two classes of points, in the Trainer's terms."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 2))

    def forward(self, x, labels=None):
        logits = self.body(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def fresh():
    return Net()


def points(n, seed):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return [{"x": a, "labels": int(a.sum() > 0)} for a in x]


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def arguments(folder, **more):
    given = {
        "output_dir": str(folder),
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "logging_strategy": "epoch",
        "per_device_train_batch_size": 8,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "log_level": "error",
    }
    return transformers.TrainingArguments(**{**given, **more})


def trainer(folder, trial=None, model_init=None, **more):
    callbacks = [] if trial is None else [LuthierCallback(trial)]
    made = transformers.Trainer(
        model=None if model_init else Net(trial.config["dropout"]),
        model_init=model_init,
        args=arguments(folder, **more),
        train_dataset=points(32, 0),
        eval_dataset=points(16, 1),
        compute_metrics=accuracy,
        callbacks=callbacks,
    )
    made.remove_callback(transformers.PrinterCallback)
    return made


def training(folder, **more):
    def train(trial):
        own = trainer(
            folder, trial, learning_rate=trial.config["learning_rate"], num_train_epochs=trial.max_epochs,
            seed=trial.seed, **more,
        )  # fmt: skip
        own.train(resume_from_checkpoint=trial.checkpoint)

    return train


def test_a_paused_trainer_goes_on_as_if_it_had_not_been_paused(tmp_path):
    config = {"learning_rate": 0.05, "dropout": 0.3}
    whole, parts = whole_and_in_parts(training(tmp_path), SPACE, config, minimize="eval_loss")
    assert [set(report) for report in whole] == [{"eval_loss", "eval_accuracy", "train_loss", "grad_norm"}] * 4
    assert whole == parts
    assert whole[-1]["eval_loss"] < whole[0]["eval_loss"]
    assert list(tmp_path.glob("**/checkpoint-*")) == []  # what is kept lies with the study


def test_the_trainers_own_checkpoints_stay_its_own(tmp_path):
    result = lt.tune(
        training(tmp_path / "own", save_strategy="epoch"), SPACE, maximize="eval_accuracy", max_epochs=2,
        strategy="asha", budget="3 trials", workers=0, quiet=True, storage=tmp_path / "s.db",
    )  # fmt: skip
    curves(result)
    assert {p.name for p in (tmp_path / "own").glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-8"}
    kept = sorted((tmp_path / "s.files").glob("*/checkpoints/*/*.ckpt"))
    assert len(kept) == len(result.trials())
    assert all((k / "model.safetensors").is_file() and (k / BUILT).is_file() for k in kept)


def test_evaluations_every_few_steps_are_epochs_as_well(tmp_path):
    def train(trial):
        own = trainer(tmp_path, trial, eval_strategy="steps", eval_steps=3, max_steps=3 * trial.max_epochs)
        own.train(resume_from_checkpoint=trial.checkpoint)

    one, other = whole_and_in_parts(train, SPACE, SPACE.complete({}), minimize="eval_loss")
    assert len(one) == 4
    assert one == other


def test_a_stopped_training_ends_and_is_not_saved(tmp_path):
    from luthier.contracts import Stop
    from luthier.schedule.full import Full
    from luthier.search.uniform import Random

    class Impatient(Full):
        def judge(self, history, trial):
            return Stop("seen enough") if history.trials[trial].epoch == 2 else None

    result = lt.tune(
        training(tmp_path), SPACE, minimize="eval_loss", strategy=Impatient(Random()), max_epochs=5, workers=0,
        budget="2 trials", quiet=True,
    )  # fmt: skip
    assert {(t.status, t.epoch, t.checkpoint) for t in result.trials()} == {(Status.STOPPED, 2, None)}


def test_a_clone_trains_under_its_own_rate(tmp_path):
    rates = []

    class Watch(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, optimizer=None, lr_scheduler=None, **kwargs):
            rates.append((optimizer.param_groups[0]["lr"], lr_scheduler.base_lrs[0]))

    def train(trial):
        own = trainer(
            tmp_path, trial, learning_rate=trial.config["learning_rate"], num_train_epochs=trial.max_epochs,
            seed=trial.seed, lr_scheduler_type="linear",
        )  # fmt: skip
        own.add_callback(Watch())
        own.train(resume_from_checkpoint=trial.checkpoint)

    first, second = ({"learning_rate": rate, "dropout": 0.0} for rate in (0.1, 0.02))
    result = lt.tune(
        train, SPACE, minimize="eval_loss", strategy=Cloned(first, second), max_epochs=2, workers=0, quiet=True
    )
    curves(result)
    # 8 updates, linearly to zero: the first half under the donor's rate, the second under the clone's own.
    assert rates[:4] == [pytest.approx((0.1 * (1 - i / 8), 0.1)) for i in range(4)]
    assert rates[4:] == [pytest.approx((0.02 * (1 - i / 8), 0.02)) for i in range(4, 8)]


@pytest.mark.parametrize(
    ("given", "said"),
    [({"eval_strategy": "no"}, "never evaluates"), ({"num_train_epochs": 7}, "trains 7 epochs, this trial 2")],
)
def test_arguments_that_cannot_work_are_refused(tmp_path, given, said):
    def train(trial):
        trainer(tmp_path, trial, **{"num_train_epochs": 2, **given}).train()

    with pytest.raises(RunError, match=said):
        lt.tune(train, SPACE, minimize="eval_loss", max_epochs=2, strategy="random", workers=0, quiet=True)


# -- the search --------------------------------------------------------------------------------------------------------


def test_the_search_takes_the_place_of_the_trainers_own(tmp_path):
    own = trainer(tmp_path, model_init=fresh, num_train_epochs=2, learning_rate=5e-5)
    best = hyperparameter_search(
        own, lt.Space(learning_rate=lt.Float(1e-4, 1.0, log=True)), n_trials=4, strategy="asha", direction="maximize",
        compute_objective=lambda metrics: metrics["eval_accuracy"], quiet=True,
    )  # fmt: skip
    assert isinstance(best, transformers.trainer_utils.BestRun)
    curves(best.run_summary)
    assert best.hyperparameters == best.run_summary.best_config
    assert best.objective == best.run_summary.best_score > 0.6
    assert best.run_summary.history.trials[int(best.run_id)].config == best.hyperparameters
    assert own.args.learning_rate == 5e-5  # as it was
    for name, value in best.hyperparameters.items():
        setattr(own.args, name, value)
    own.train()  # as the Trainer's documentation goes on
    assert own.evaluate()["eval_accuracy"] == pytest.approx(best.objective, abs=0.4)


def test_the_search_sets_arguments_and_hands_the_rest_to_model_init(tmp_path):
    seen = []

    def model_init(trial):
        if trial is None:  # the Trainer makes one before any trial
            return Net()
        seen.append((trial.config["dropout"], own.args.per_device_train_batch_size))
        return Net(trial.config["dropout"])

    own = trainer(tmp_path, model_init=model_init, num_train_epochs=1)

    def space(trial):  # as for the Trainer's own search
        return {
            "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [4, 16]),
            "dropout": trial.suggest_float("dropout", 0.0, 0.5),
        }

    best = hyperparameter_search(own, space, n_trials=4, strategy="random", minimize="eval_loss", quiet=True)
    curves(best.run_summary)
    assert len({d for d, _ in seen}) == 4
    assert own.args.per_device_train_batch_size == 8
    by_config = {t.config["dropout"]: t.config["per_device_train_batch_size"] for t in best.run_summary.trials()}
    assert set(by_config.values()) == {4, 16}
    steps = {t.config["per_device_train_batch_size"] for t in best.run_summary.trials()}
    assert steps == {4, 16}


def test_several_objectives_return_a_front(tmp_path):
    own = trainer(tmp_path, model_init=fresh, num_train_epochs=1)
    front = hyperparameter_search(
        own, lt.Space(learning_rate=lt.Float(1e-4, 1.0, log=True)), n_trials=4, strategy="random", quiet=True,
        direction=["minimize", "maximize"],
        compute_objective=lambda metrics: (metrics["eval_loss"], metrics["eval_accuracy"]),
    )  # fmt: skip
    losses, accuracies = np.array([run.objective for run in front]).T
    assert (accuracies <= 1).all()
    assert (np.diff(losses[np.argsort(accuracies)]) >= 0).all()  # more accuracy is only had for more loss


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"learning_rat": lt.Float(0.1, 1.0)}, "learning_rat.*model_init takes no trial"),
        ({"seed": lt.Int(1, 9)}, "Luthier's to choose"),
    ],
)
def test_a_name_that_nobody_reads_is_refused(tmp_path, space, said):
    with pytest.raises(lt.UserError, match=said):
        hyperparameter_search(trainer(tmp_path, model_init=fresh), space, quiet=True)
