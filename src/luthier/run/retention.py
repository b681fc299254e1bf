"""Which checkpoints are kept: what somebody may go on from, and what the user asked for."""

from __future__ import annotations

import math
from pathlib import PurePosixPath

from luthier.core.events import CheckpointLost
from luthier.core.history import History
from luthier.core.index import Borrowed
from luthier.core.lineage import ancestors
from luthier.core.trial import Status, TrialRecord
from luthier.run.book import Book
from luthier.run.vault import Vault


def drop_old(history: History, trial_id: int, vault: Vault) -> None:
    """Delete what nobody goes on from any more, beside a trial's newest checkpoint, the one that it inherited and the
    one of the trial whose place it took; called once the log points to the newest.

    A clone goes on from its ancestor's until it has its own; nobody from a trial that gave up its place.
    """
    trial = history.trials[trial_id]
    if trial.checkpoint is None or trial.checkpoint == trial.inherited:
        return
    left = None if trial.instead_of is None else history.trials[trial.instead_of]
    kin = [*ancestors(history, trial), *(() if left is None else ancestors(history, left))]
    kept = {t.checkpoint.path for t in (trial, *kin) if t.checkpoint is not None and t.id != trial.instead_of}
    kept |= {path for i, path in history.index(Borrowed()).items() if i != trial.instead_of}
    places = [trial.checkpoint, trial.inherited, None if left is None else left.checkpoint]
    # A worker may have written the next one already, of which the log has not heard; or this is swept late, when it
    # knows more: what is newer stays.
    known = {_folder(t.checkpoint.path): t.checkpoint.path for t in (*kin, trial) if t.checkpoint is not None}

    def goes(name: str) -> bool:
        return name not in kept and not (_folder(name) in known and name > known[_folder(name)])

    vault.sweep({_folder(place.path) for place in places if place is not None}, goes)


def _folder(name: str) -> str:
    return str(PurePosixPath(name).parent)


def keep_within(book: Book, vault: Vault, limit: int) -> None:
    """Delete checkpoints until the rest takes no more than ``limit`` bytes, and say so in the log.

    First what no trial refers to, then those of trials that failed, were stopped or are done, last those of paused
    ones; of each the worst first. Never the incumbent's, nor what a running trial goes on from.
    """
    sizes = vault.sizes()
    total = sum(sizes.values())
    if total <= limit:
        return
    history = book.history
    owners = _owners(history)
    needed = _needed(history)
    turn = sorted((path for path in sizes if path not in needed), key=lambda path: _worth(history, owners.get(path)))
    for path in turn:
        if total <= limit:
            return
        if path in owners:
            book.append(
                CheckpointLost(owners[path].id, path, f"deleted to keep the checkpoints within {limit:,} bytes")
            )
        vault.drop(path)
        total -= sizes[path]


def _owners(history: History) -> dict[str, TrialRecord]:
    """Whose checkpoint a file is."""
    return {t.checkpoint.path: t for t in history.trials if t.checkpoint is not None and t.checkpoint != t.inherited}


def _needed(history: History) -> set[str]:
    """The files that must stay: the incumbent's, and what running trials, clones included, go on from."""
    running = [history.trials[i] for i in history.running]
    best = history.incumbent
    kept = [t.checkpoint for t in (*running, *([best] if best is not None else []))] + [t.saved for t in running]
    return {c.path for c in kept if c is not None} | set(history.index(Borrowed()).values())


def _worth(history: History, trial: TrialRecord | None) -> tuple[int, float, int]:
    """The less, the sooner it is deleted."""
    if trial is None:
        return (0, 0.0, 0)
    order = {Status.FAILED: 1, Status.STOPPED: 2, Status.DONE: 3}
    loss = history.final_loss(trial)
    return (order.get(trial.status, 4), -loss if math.isfinite(loss) else -math.inf, trial.id)
