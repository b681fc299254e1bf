"""Hugging Face Transformers: a callback for the Trainer, and a hyperparameter search in the manner of its own.

>>> def train(trial):
...     args = TrainingArguments("out", eval_strategy="epoch", num_train_epochs=trial.max_epochs, **trial.config)
...     trainer = Trainer(model, args, train_dataset=..., eval_dataset=..., callbacks=[LuthierCallback(trial)])
...     trainer.train(resume_from_checkpoint=trial.checkpoint)
>>> lt.tune(train, space, minimize="eval_loss")
"""

from __future__ import annotations

import inspect
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import BestRun, default_compute_objective

from luthier.api import tune
from luthier.core.errors import UserError, nearest
from luthier.core.params import Choice, Float
from luthier.core.space import Space
from luthier.result import Result
from luthier.run import inherit
from luthier.run.handle import Trial
from luthier.run.randomness import seed_everything

BUILT = "luthier.pt"
"""Beside the Trainer's own files in a checkpoint: what the optimizer and the schedule were built with."""

_SPEED = ("_runtime", "_per_second", "_compilation_time", "_timing")


class LuthierCallback(TrainerCallback):
    """Reports each evaluation of a Trainer, ends the training when told, keeps a checkpoint for going on.

    With ``eval_strategy="epoch"`` an epoch of Luthier's is one of the Trainer's: pass ``num_train_epochs=
    trial.max_epochs``. With ``"steps"`` it is ``eval_steps`` updates: pass ``max_steps=trial.max_epochs * eval_steps``.
    Learning-rate schedules then decay over the whole training, however often it is paused. Reported are the metrics of
    the evaluation under their own names (``eval_loss``, ``eval_accuracy``), and ``train_loss``, the mean of the logged
    losses since the last one.

    Args:
        trial: what the training function got. ``trainer.train(resume_from_checkpoint=trial.checkpoint)`` goes on from
            its checkpoint, a folder of the Trainer's.

    Raises:
        UserError: the arguments ask for no evaluation, or for a length that is not the trial's.
    """

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self._training = False
        self._seen = 0
        self._other_generators = trial.cloned
        self._saving: tuple[AbstractContextManager[Path], Path, str | None] | None = None
        self._built: dict[str, Any] = {}

    # -- the Trainer's events --------------------------------------------------------------------------------------
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check the arguments; in a clone let its own configuration hold over the restored state."""
        _check(args, state, self.trial)
        self._training = True
        self._seen = len(state.log_history)
        steered = {"optimizer": kwargs.get("optimizer"), "scheduler": kwargs.get("lr_scheduler")}
        things = {name: thing for name, thing in steered.items() if thing is not None}
        if self.trial.checkpoint is None:
            self._built = _settings(things, args)
        else:
            found = self.trial.checkpoint / BUILT
            self._built = torch.load(found, weights_only=True) if found.is_file() else {}
            if self.trial.cloned and self._built:
                self._built = _own(things, self._built, args)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The generators of a clone begin at its own seed, after the Trainer has restored the other's."""
        if self._other_generators:
            self._other_generators = False
            seed_everything(self.trial.seed)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """End a training that was ended by a decision; log whenever there is an evaluation to come."""
        if self.trial.should_stop:
            control.should_training_stop = True
        control.should_log = control.should_log or control.should_evaluate

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluate at the end of a job, whatever ``eval_delay`` says."""
        if args.eval_strategy == "epoch" and _epoch(args, state) >= self.trial.until and not self.trial.should_stop:
            control.should_evaluate = True
        control.should_log = control.should_log or control.should_evaluate

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Report; at the end of a job ask for a checkpoint and end the training."""
        epoch = _epoch(args, state)
        if not self._training or self.trial.should_stop or not self.trial.start < epoch <= self.trial.until:
            return
        if epoch <= self.trial.epoch:  # evaluated twice
            return
        metrics = {
            k: v
            for k, v in kwargs["metrics"].items()
            if isinstance(v, int | float) and k != "epoch" and not k.endswith(_SPEED)
        }
        metrics.update(self._logged(state))
        if not self.trial.goes_on(metrics, epoch):
            control.should_training_stop = True
            if self.trial.to_be_saved:
                self._save(args, control)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take the folder that the Trainer wrote."""
        if self._saving is None:
            return
        (place, path, home), self._saving = self._saving, None
        name = f"checkpoint-{state.global_step}"
        if home is None:
            shutil.copytree(Path(args.output_dir) / name, path, dirs_exist_ok=True)
        else:
            args.output_dir = home
            for part in (path / name).iterdir():
                part.rename(path / part.name)
            (path / name).rmdir()
        torch.save(self._built, path / BUILT)
        place.__exit__(None, None, None)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluations from here on are the caller's."""
        self._training = False

    # -- parts -----------------------------------------------------------------------------------------------------
    def _save(self, args: TrainingArguments, control: TrainerControl) -> None:
        """Let the Trainer write its checkpoint, which follows the evaluation at once, into the trial's place; one that
        it writes anyway is copied."""
        place = self.trial.saving()
        path = place.__enter__()
        path.mkdir()
        home = None if control.should_save else str(args.output_dir)
        self._saving = place, path, home
        if home is not None:
            control.should_save = True
            args.output_dir = str(path)

    def _logged(self, state: TrainerState) -> dict[str, float]:
        """The means of what was logged in training since the last evaluation."""
        rows, self._seen = state.log_history[self._seen :], len(state.log_history)
        found = {}
        for key, name in (("loss", "train_loss"), ("grad_norm", "grad_norm")):
            values = [float(row[key]) for row in rows if key in row]
            if values:
                found[name] = math.fsum(values) / len(values)
        return found


def _epoch(args: TrainingArguments, state: TrainerState) -> int:
    """Epochs of Luthier's that are trained."""
    if args.eval_strategy == "steps":
        return int(state.global_step // _eval_steps(args))
    return round(state.epoch or 0.0)


def _eval_steps(args: TrainingArguments) -> int:
    steps = args.eval_steps or args.logging_steps
    if steps < 1:
        raise UserError(
            f"eval_steps={steps} is a share of a training whose length Luthier decides.", "Give a number of steps."
        )
    return int(steps)


def _check(args: TrainingArguments, state: TrainerState, trial: Trial) -> None:
    if args.eval_strategy == "no":
        raise UserError(
            "The Trainer never evaluates, so there is nothing to report.",
            'Write TrainingArguments(eval_strategy="epoch").',
        )
    if args.eval_strategy == "steps":
        whole = trial.max_epochs * _eval_steps(args)
        if state.max_steps != whole:
            raise UserError(
                f"The Trainer trains {state.max_steps} steps, this trial {trial.max_epochs} times {_eval_steps(args)}.",
                "Write TrainingArguments(max_steps=trial.max_epochs * eval_steps).",
            )
    elif state.num_train_epochs != trial.max_epochs:
        raise UserError(
            f"The Trainer trains {state.num_train_epochs} epochs, this trial {trial.max_epochs}.",
            "Write TrainingArguments(num_train_epochs=trial.max_epochs): the callback ends it where it shall pause.",
        )


# -- clones: what an optimizer and its schedule were built with --------------------------------------------------------


def _settings(things: Mapping[str, Any], args: TrainingArguments) -> dict[str, Any]:
    held = {**getattr(things.get("optimizer"), "defaults", {}), "weight_decay": args.weight_decay}
    held["initial_lr"] = held.get("lr")
    return {"held": held, **{name: inherit.settings(thing) for name, thing in things.items()}}


def _own(things: Mapping[str, Any], built: Mapping[str, Any], args: TrainingArguments) -> dict[str, Any]:
    """Load into a clone's optimizer and schedule what its own configuration says; returns its settings."""
    held, before = _settings(things, args)["held"], built["held"]
    mine: dict[str, Any] = {"held": held}
    groups = [{k: _exchange(k, v, before, held) for k, v in group.items()} for group in built["optimizer"]]
    schedule = dict(built["scheduler"])
    schedule["base_lrs"] = [_exchange("lr", rate, before, held) for rate in schedule.get("base_lrs", [])]
    for name, own in (("optimizer", groups), ("scheduler", schedule)):
        mine[name] = own
        thing = things[name]
        thing.load_state_dict(inherit.merged(thing, thing.state_dict(), built[name], own))
    return mine


def _exchange(key: str, value: Any, before: Mapping[str, Any], held: Mapping[str, Any]) -> Any:
    # Groups without weight decay, or with a rate of their own, keep what they have.
    return held[key] if key in held and key in before and value == before[key] else value


# -- the search --------------------------------------------------------------------------------------------------------


def hyperparameter_search(
    trainer: Trainer,
    space: Space | Mapping[str, Any] | Callable[[Any], Any] | None = None,
    *,
    compute_objective: Callable[[dict[str, float]], float | Sequence[float]] | None = None,
    direction: str | Sequence[str] = "minimize",
    n_trials: int = 20,
    max_epochs: int | None = None,
    **tuning: Any,
) -> BestRun | list[BestRun]:
    """``trainer.hyperparameter_search`` with Luthier in place of a backend; it trains in this process.

    Hyperparameters that are fields of ``TrainingArguments`` are set there; of all others ``model_init(trial)`` reads
    ``trial.config``. The arguments of the trainer are what they were once the search is over.

    Args:
        trainer: made with ``model_init=`` and with an ``eval_strategy``.
        space: an ``lt.Space``, or the ``hp_space`` of the Trainer's search with Optuna; the learning rate and the batch
            size where None.
        compute_objective: from the metrics of an evaluation to the number to optimize, or to several; the Trainer's
            own default, the loss or the sum of the other metrics, where None. Reported as ``objective``.
        direction: ``"minimize"`` or ``"maximize"``; a list for several numbers.
        n_trials: the budget, in full-length trainings; ``budget="2h"`` has precedence.
        max_epochs: the length of a full training in evaluations; what the arguments say where None.
        tuning: further arguments of :func:`luthier.tune`: ``strategy=``, ``storage=``, ``seed=``, ``quiet=``. With
            ``minimize="eval_loss"`` or ``maximize="eval_accuracy"`` a metric of the evaluation is the objective.

    Returns:
        the best run as the Trainer's own search returns it, a list of the Pareto front with several objectives;
        ``run_summary`` is the :class:`luthier.Result`.

    Raises:
        UserError: a trainer without ``model_init`` or evaluation, or a hyperparameter that nobody reads.
    """
    if trainer.model_init is None:
        raise UserError(
            "The trainer has no model_init: each trial needs a fresh model.", "Write Trainer(model_init=...)."
        )
    args = trainer.args
    space = _space_of(space)
    _check_names(space, trainer)
    full = _full_length(args) if max_epochs is None else max_epochs
    named = any(tuning.get(k) for k in ("minimize", "maximize", "metric"))
    directions = [direction] if isinstance(direction, str) else list(direction)
    compute = None if named else compute_objective or default_compute_objective
    if not named:
        tuning = {**tuning, **_objectives(directions)}
    tuning = {"budget": f"{n_trials} trials", "name": "transformers", **tuning, "workers": 0, "max_epochs": full}

    before = {name: getattr(args, name) for name in [*space, *_LENGTH] if hasattr(args, name)}

    def restore() -> None:
        for name, value in before.items():
            setattr(args, name, value)

    def train(trial: Trial) -> None:
        restore()  # what is not active in this configuration is not what it was in the last one
        _train(trainer, trial, compute)

    try:
        result = tune(train, space, **tuning)
    finally:
        restore()
    return _best_runs(result)


_LENGTH = ("num_train_epochs", "max_steps", "seed", "output_dir")


class _Search(LuthierCallback):
    """The callback, with the objective among the metrics."""

    def __init__(self, trial: Trial, compute: Callable[[dict[str, float]], Any] | None) -> None:
        super().__init__(trial)
        self._compute = compute

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        metrics = kwargs.pop("metrics")
        if self._compute is not None:
            value = self._compute(dict(metrics))
            values = [value] if isinstance(value, int | float) else list(value)
            metrics = {**metrics, **dict(zip(_objective_names(len(values)), values))}
        super().on_evaluate(args, state, control, metrics=metrics, **kwargs)


def _train(trainer: Trainer, trial: Trial, compute: Callable[[dict[str, float]], Any] | None) -> None:
    from accelerate.utils.memory import release_memory

    args = trainer.args
    for name, value in trial.config.items():
        if hasattr(args, name):
            old = getattr(args, name)
            setattr(args, name, value if old is None or value is None else type(old)(value))
    args.seed = trial.seed
    if args.eval_strategy == "steps":
        args.max_steps = trial.max_epochs * _eval_steps(args)
    else:
        args.num_train_epochs = trial.max_epochs
    callback = _Search(trial, compute)
    trainer.add_callback(callback)
    # As the Trainer prepares a trial of its own backends: the batch size may have changed.
    trainer._train_batch_size = args.train_batch_size
    trainer.create_accelerator_and_postprocess()
    home, init = args.output_dir, trainer.model_init
    if _reads_trial(init):
        trainer.model_init = partial(init, trial)  # the Trainer would hand on trials of its own backends only
    try:
        trainer.train(resume_from_checkpoint=trial.checkpoint)
    finally:
        args.output_dir, trainer.model_init = home, init
        trainer.remove_callback(callback)
        trainer.model_wrapped = trainer.model = None
        if args.device.type != "cpu":
            release_memory()  # a full collection, half a second in a large process


def _space_of(given: Space | Mapping[str, Any] | Callable[[Any], Any] | None) -> Space:
    if given is None:
        return _default_space()
    if callable(given):
        from luthier.integrations._optuna_space import find_space

        return find_space(given).space
    return given if isinstance(given, Space) else Space.from_dict(given)


def _default_space() -> Space:
    """As the Trainer's own search has it, without the seed and the number of epochs, which are Luthier's to choose."""
    return Space(
        learning_rate=Float(1e-6, 1e-4, log=True), per_device_train_batch_size=Choice(4, 8, 16, 32, 64, default=16)
    )


def _reads_trial(model_init: Callable[..., Any]) -> bool:
    return len(inspect.signature(model_init).parameters) > 0


def _check_names(space: Space, trainer: Trainer) -> None:
    reads = _reads_trial(trainer.model_init)
    for name in space:
        if name in _LENGTH:
            raise UserError(
                f"{name!r} is Luthier's to choose.", "Leave it out of the space; max_epochs= is the length."
            )
        if not hasattr(trainer.args, name) and not reads:
            fields = [k for k in vars(trainer.args) if not k.startswith("_")]
            raise UserError(
                f"{name!r} is no field of TrainingArguments, and model_init takes no trial to read it from.",
                nearest(name, fields) if len(nearest(name, fields)) < 100 else "Write model_init(trial).",
            )


def _full_length(args: TrainingArguments) -> int:
    if args.eval_strategy != "steps":
        return max(1, math.ceil(float(args.num_train_epochs)))
    if args.max_steps <= 0:
        raise UserError(
            "With eval_strategy='steps' the length of a training is counted in steps, and max_steps is not set.",
            "Set max_steps=, or pass max_epochs=, the number of evaluations in a full training.",
        )
    return max(1, int(args.max_steps) // _eval_steps(args))


def _objective_names(many: int) -> list[str]:
    return ["objective"] if many == 1 else [f"objective_{i}" for i in range(many)]


def _objectives(directions: Sequence[str]) -> dict[str, list[str]]:
    for each in directions:
        if each not in ("minimize", "maximize"):
            raise UserError(f"direction= got {each!r}.", nearest(str(each), ("minimize", "maximize")))
    names = list(zip(_objective_names(len(directions)), directions))
    return {way: [n for n, d in names if d == way] for way in ("minimize", "maximize")}


def _best_runs(result: Result) -> BestRun | list[BestRun]:
    if result.history.study.also:
        names = sorted(o.metric for o in result.history.study.goals.objectives)
        return [BestRun(str(p.trial), [p.scores[n] for n in names], dict(p.config), result) for p in result.pareto]
    summary = result.summary
    if summary.best_config is None or summary.best_score is None:
        raise UserError("No trial reported the objective.", "Look at result.trials() of lt.tune for the reasons.")
    return BestRun(str(summary.best_trial), summary.best_score, dict(summary.best_config), result)
