"""Checkpoints on disk: written to a temporary name, synced and renamed, so that a file is whole or not there.

The log keeps a checksum of each, so that a file that was damaged since is noticed before anything is restored from it.

What is saved is a tree of ``state_dict``s and the random generators. With PyTorch in the process it is PyTorch's own
format, read back with ``weights_only``; otherwise (objects of NumPy or plain Python with ``state_dict``) a pickle of
data alone (:mod:`luthier.run.safepickle`). So whatever lies in the place of a checkpoint, nothing of it is run.

What optimizers and schedulers were built with is kept beside what became of it: where another trial goes on from a
checkpoint under a changed configuration, that tells settings, which it has of its own, from progress, which it takes
over.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from luthier.run import inherit, safepickle
from luthier.run.randomness import generators, restore_generators, seed_everything


class Stateful(Protocol):
    """What can be saved and restored: a module, an optimizer, a schedule, a data loader with a position."""

    def state_dict(self) -> Any:
        """The state, as plain data and tensors."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Take over a state."""
        ...


class Damaged(Exception):
    """A checkpoint that is missing, or is not what was written."""


class _Writer:
    """A file that remembers what went wrong with it: PyTorch turns a full disk into an error of its own."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.trouble: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            self._digest.update(data)
            return self._file.write(data)
        except OSError as error:
            self.trouble = error
            raise

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            self.trouble = error
            raise

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()


def save(
    path: Path,
    epoch: int,
    stateful: Mapping[str, Stateful],
    built: Mapping[str, Any] | None = None,
    others: Sequence[Any] = (),
) -> str:
    """Write the states of ``stateful`` and of the random generators after ``epoch``; returns the file's SHA-256.

    Args:
        built: :func:`settings` of them before the first epoch.
        others: :func:`generators` of the processes that train along, from rank 1 on; None where one is not known.

    Raises:
        OSError: the file cannot be written: the disk is full, or the folder not writable. Nothing is left of it.
    """
    content = {
        "epoch": epoch,
        "state": {k: v.state_dict() for k, v in stateful.items()},
        "rng": generators(),
        "others": list(others),
        "built": dict(built or {}),
    }
    torch = sys.modules.get("torch")
    with writing(path) as temporary, temporary.open("wb") as file:
        writer = _Writer(file)
        try:
            if torch is not None:
                torch.save(content, writer)
            else:
                safepickle.dump(content, writer)
            writer.flush()
        except Exception:
            if writer.trouble is not None:
                raise writer.trouble from None
            raise
    return writer.digest


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary place for a file or a folder, which becomes ``path`` once it is written and synced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    remove(temporary)  # of a process of that number that was killed
    try:
        yield temporary
        for part in [*temporary.rglob("*"), temporary]:
            _sync(part)
        if path.is_dir():
            remove(path)
        temporary.replace(path)
    finally:
        remove(temporary)
    _sync(path.parent)


def remove(path: Path) -> None:
    """Delete a checkpoint, a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def digest_of(path: Path) -> str:
    """The SHA-256 of a checkpoint; of a folder that of its files' names and contents, in order."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    whole = hashlib.sha256()
    for part in sorted(p for p in path.rglob("*") if p.is_file()):
        whole.update(part.relative_to(path).as_posix().encode() + b"\0" + digest_of(part).encode())
    return whole.hexdigest()


def size_of(path: Path) -> int:
    """The bytes of a checkpoint, a file or a folder."""
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def verify(path: Path, digest: str) -> None:
    """Whether a checkpoint is there, and what was written.

    Args:
        digest: the checksum that it must have; empty where it is not known.

    Raises:
        Damaged: it is not.
    """
    if not path.exists():
        raise Damaged("there is no such file")
    try:
        if digest and (found := digest_of(path)) != digest:
            raise Damaged(f"its checksum is {found[:12]}, {digest[:12]} was written")
    except OSError as error:
        raise Damaged(f"it cannot be read: {error.strerror or error}") from None


def load(
    path: Path,
    stateful: Mapping[str, Stateful],
    clone_seed: int | None = None,
    digest: str = "",
    rank: int = 0,
) -> int:
    """Restore ``stateful`` and the random generators; returns the epoch after which they were saved.

    Args:
        digest: the checksum that the file must have; empty where it is not known.
        clone_seed: the checkpoint is another trial's, and this one's configuration and seed hold from here on. Of its
            optimizers and schedulers the settings stay as they are now (:func:`luthier.run.inherit.merged`); weights,
            momenta, buffers and whatever else there is come from the checkpoint; the generators begin at this seed, so
            that no two clones see the same batches.
        rank: which of the processes that train along this is; it gets its own generators back.

    Raises:
        Damaged: the file is missing or is not what was written; nothing was restored.
    """
    content = _read(path, digest)
    if not isinstance(content, dict) or not {"epoch", "state", "rng"} <= content.keys():
        raise Damaged("it is no checkpoint of Luthier's")
    mine = settings(stateful) if clone_seed is not None else {}
    # Optimizers first: their schedulers look at the rates.
    for name, thing in sorted(stateful.items(), key=lambda item: inherit.is_scheduler(item[1])):
        if name not in content["state"]:
            continue
        state = content["state"][name]
        if name in mine:
            state = inherit.merged(thing, state, content.get("built", {}).get(name), mine[name])
        thing.load_state_dict(state)
    if clone_seed is None:
        others = content.get("others", ())[rank - 1 : rank] if rank else ()
        restore_generators(next((held for held in others if held is not None), content["rng"]))
    else:
        seed_everything(clone_seed)
    return int(content["epoch"])


def _read(path: Path, digest: str) -> Any:
    verify(path, digest)
    try:
        if zipfile.is_zipfile(path):  # PyTorch's format
            torch = importlib.import_module("torch")
            return torch.load(path, map_location="cpu", weights_only=True)
        with path.open("rb") as file:
            return safepickle.load(file)
    except OSError as error:
        raise Damaged(f"it cannot be read: {error.strerror or error}") from None
    except safepickle.Foreign as error:
        raise Damaged(str(error)) from None
    except Exception as error:  # a pickle that was cut off or made up fails in any way
        if digest:
            raise  # it is what was written: the trouble is another one
        raise Damaged(f"it cannot be read: {error}") from None


def settings(stateful: Mapping[str, Stateful]) -> dict[str, Any]:
    """What the optimizers and schedulers among ``stateful`` are set to, by name: a copy."""
    found = {name: inherit.settings(thing) for name, thing in stateful.items()}
    return {name: held for name, held in found.items() if held is not None}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
