"""Doing one job, in whatever process: call the target, turn what happens into events."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from luthier.contracts import Job
from luthier.core.events import Ended, Event, Failed, Interrupted, plain
from luthier.run.handle import EndOfTrial, Trial
from luthier.run.modes import Modes, PipelineError
from luthier.run.randomness import seed_everything
from luthier.run.ranks import Ranks
from luthier.run.vault import Folder, Vault

TAIL = 4000
"""Characters of a traceback that are kept."""


class TrainingFailed(Exception):
    """A training that failed outside this process: how, why in one line, and what else is known.

    Args:
        kind: as in :class:`luthier.core.trial.Failure`. With ``silent`` the detail is the mend.
    """

    def __init__(self, kind: str, reason: str, detail: str = "") -> None:
        self.kind, self.reason, self.detail = kind, reason, detail
        super().__init__(reason)


def perform(
    target: Callable[[Trial], Any],
    job: Job,
    *,
    send: Callable[[Event], None],
    stopped: Callable[[], bool],
    files: Path,
    parked: Callable[[], bool] = lambda: False,
    vault: Vault | None = None,
    ranks: Ranks | None = None,
) -> None:
    """Train or answer ``job``; whatever the target does, exactly one Ended, Failed or Interrupted is sent at the end.

    A training that fails once it was asked to leave is not blamed: the signal that asked may have reached its data
    loaders too. It goes on from its last checkpoint, and fails again if it is at fault.

    Args:
        vault: where its checkpoints are kept; the folder ``files`` where None.
        ranks: the way to the other processes that train the same job; None where there are none.

    KeyboardInterrupt passes through: it belongs to whoever pressed the key.
    """
    seed_everything(job.seed)
    vault = vault or Folder(files)
    modes: Modes | None = None
    trial: Trial | None = None
    last: Event
    try:
        if job.probe is not None:
            answer, cost = target.probe(job.probe, dict(job.config), job.seed)  # type: ignore[attr-defined]
            last = Ended(job.trial, 0, complete=True, answer=plain(answer), cost=float(cost))
        else:
            # A recipe's own sanity probe looks at its modes.
            modes = None if hasattr(target, "probe") or (ranks is not None and ranks.rank) else Modes()
            trial = Trial(
                job, send=send, stopped=stopped, files=files, vault=vault, modes=modes, parked=parked, ranks=ranks
            )
            with suppress(EndOfTrial):
                target(trial)
            last = _end_of(trial, job)
    except KeyboardInterrupt:
        raise
    except SystemExit as error:
        last = Failed(job.trial, "died", f"the training function called exit({error.code!r})")
    except TrainingFailed as error:
        last = Failed(job.trial, error.kind, error.reason, error.detail[-TAIL:])
    except PipelineError as error:
        last = Failed(job.trial, "pipeline", str(error), _tail(error))
    except BaseException as error:
        last = Failed(job.trial, "oom" if out_of_memory(error) else "raised", _one_line(error), _tail(error))
    finally:
        if modes is not None:
            modes.close()
        vault.rest()
    if isinstance(last, Failed) and last.kind != "pipeline" and trial is not None and parked():
        print(f"Failed as it was asked to leave: {last.reason}\n{last.detail}", flush=True)
        last = Interrupted(job.trial, trial.epoch)
    send(last)  # whoever hears it may end this process


def _end_of(trial: Trial, job: Job) -> Event:
    if trial.interrupted:
        return Interrupted(job.trial, trial.epoch, trial.saved, trial.digest)
    return Ended(job.trial, trial.epoch, complete=trial.epoch < job.until, checkpoint=trial.saved, digest=trial.digest)


def out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the host or of a device was used up. By names, for no framework is imported here."""
    names = {c.__name__ for c in type(error).__mro__}
    told = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or "OutOfMemoryError" in names  # PyTorch, CuPy
        or ("XlaRuntimeError" in names and "resource_exhausted" in told)
        or ("ResourceExhaustedError" in names)  # TensorFlow
        or (isinstance(error, RuntimeError) and any(words in told for words in _OUT_OF_MEMORY))
    )


_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cublas_status_alloc_failed")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:500] if text else type(error).__name__


def _tail(error: BaseException) -> str:
    # The first frame is perform() itself; the user's story begins after it.
    trace = error.__traceback__.tb_next if error.__traceback__ else None
    text = "".join(traceback.format_exception(type(error), error, trace))
    return text if len(text) <= TAIL else "..." + text[-TAIL:]
