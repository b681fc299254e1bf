"""How long a decision takes at 1,000 trials: Optuna's TPE through the adapter to Optuna alone in memory (aim: at most
1.3 times), and the model-based methods (aim: at most 100 ms).

The time is the processor's, so that other programs do not count; every method decides on the same literal history of a
conditional space of ten hyperparameters, each decision on one more trial, so that nothing is answered from a cache.

    OMP_NUM_THREADS=1 python benchmarks/adapter.py [--trials 1000] [--decisions 10] [--only tpe bohb ...]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable

import numpy as np

import luthier as lt
from luthier.contracts import Scheduler
from luthier.core.history import History
from luthier.core.rows import Rows
from luthier.core.study import Budget, Objective, Study
from luthier.core.trial import Checkpoint, Report, Status, TrialRecord
from luthier.run.decisions import decision_rng
from luthier.schedule.full import Full
from luthier.search.bohb import BOHB
from luthier.strategies import STRATEGIES

SPACE = lt.Space(
    learning_rate=lt.Float(1e-6, 1.0, log=True),
    optimizer=lt.Choice("adamw", "sgd"),
    momentum=lt.Float(0.8, 0.99, when={"optimizer": "sgd"}),
    weight_decay=lt.Float(1e-6, 1e-1, log=True),
    batch_size=lt.Int(16, 512, log=True),
    dropout=lt.Float(0.0, 0.5),
    width=lt.Int(32, 512, log=True),
    depth=lt.Int(1, 6),
    warmup=lt.Float(0.0, 0.2),
    label_smoothing=lt.Float(0.0, 0.2),
)
EPOCHS = 27
METHODS = ("tpe", "cmaes", "bohb", "pibo", "freeze_thaw")
SHORT = ("bohb", "freeze_thaw")
"""Those that decide on a history whose trials are mostly paused on the way."""


def history_of(trials: int, paused: bool) -> History:
    """``trials`` of random configurations; all trained to the end, or most of them paused on the way."""
    rng = np.random.default_rng(0)
    study = Study("s", SPACE, Objective("val_loss", True), EPOCHS, Budget(epochs=10**6))
    records = []
    for i in range(trials):
        config = SPACE.sample(rng)
        until = int(rng.choice([3, 3, 3, 3, 3, 3, 9, 9, 27])) if paused else EPOCHS
        floor = 0.2 + 0.3 * abs(math.log10(config["learning_rate"]) + 3) + config["dropout"]
        curve = [floor + 2.0 * math.exp(-0.3 * e) + 0.01 * float(rng.normal()) for e in range(1, until + 1)]
        reports = tuple(Report(e, {"val_loss": y}, 1.0) for e, y in enumerate(curve, start=1))
        status = Status.DONE if until == EPOCHS else Status.PAUSED
        records.append(
            TrialRecord(i, config, i, EPOCHS, until, status=status, reports=reports, loss=min(curve), spent=until,
                        notes={"bracket": i // 9}, checkpoint=Checkpoint(until, "c"))
        )  # fmt: skip
    return History(study=study, trials=Rows(records), decisions=trials, spent=float(sum(r.until for r in records)))


def one_more(history: History, k: int) -> History:
    """The history with its first trials once more, as new ones."""
    trials = history.trials
    for i in range(k):
        old = trials[i]
        new = TrialRecord(len(trials), old.config, 0, EPOCHS, old.until, status=old.status, reports=old.reports,
                          loss=old.loss, checkpoint=old.checkpoint, notes=old.notes)  # fmt: skip
        trials = trials.with_item(len(trials), new)
    return History(study=history.study, trials=trials, decisions=history.decisions + k, spent=history.spent)


def timed(decide: Callable[[int], object], decisions: int) -> list[float]:
    """Milliseconds of each decision after the first two, which import and fill."""
    spent = []
    for k in range(decisions + 2):
        began = time.process_time()
        decide(k)
        spent.append(1e3 * (time.process_time() - began))
    return spent[2:]


def of(scheduler: Scheduler, history: History, decisions: int) -> list[float]:
    histories = [one_more(history, k) for k in range(decisions + 2)]
    return timed(lambda k: scheduler.propose(histories[k], decision_rng(histories[k])), decisions)


def optuna_alone(history: History, decisions: int) -> list[float]:
    """TPE in Optuna's own memory, the study and the sampler kept from trial to trial."""
    import optuna

    from luthier.search.optuna_sampler import distributions, frozen_trials, suggest

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    known = distributions(SPACE)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.add_trials(
        optuna.create_trial(params=t.params, distributions={k: known[k] for k in t.params}, value=t.value)
        for t in frozen_trials(history)
    )

    def decide(k: int) -> None:
        trial = study.ask()
        suggest(trial, SPACE)
        study.tell(trial, 1.0 + k)

    return timed(decide, decisions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--decisions", type=int, default=10)
    parser.add_argument("--only", nargs="+", default=METHODS)
    given = parser.parse_args()
    full, paused = history_of(given.trials, paused=False), history_of(given.trials, paused=True)
    found: dict[str, float] = {}
    for name in given.only:
        # BOHB's Hyperband would first promote: asked is its model alone, which never draws by chance here.
        scheduler = Full(BOHB(random=0.0)) if name == "bohb" else STRATEGIES[name]()
        spent = of(scheduler, paused if name in SHORT else full, given.decisions)
        found[f"{name}_ms"] = round(statistics.median(spent), 2)
        found[f"{name}_worst_ms"] = round(max(spent), 2)
        if name == "tpe":
            alone = statistics.median(optuna_alone(full, given.decisions))
            found["optuna_alone_ms"] = round(alone, 2)
            found["tpe_to_optuna"] = round(found["tpe_ms"] / alone, 3)
    print(json.dumps({"trials": given.trials, **found}))


if __name__ == "__main__":
    main()
