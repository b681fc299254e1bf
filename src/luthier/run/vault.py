"""Where a study's checkpoints are kept: its folder of files, or a bucket in the cloud, by the same names.

Names are relative and have slashes (``checkpoints/trial-00003/epoch-00009.ckpt``), as the log has them. A bucket is any
file system that fsspec speaks to: what a worker writes, a file or a folder, it writes on its own disk, uploads under a
temporary key and moves to its name; a folder travels as one tar. Whoever goes on from it downloads it, and verifies it
by the checksum in the log as it does with a file of its own disk.
"""

from __future__ import annotations

import os
import shutil
import socket
import tarfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from luthier.core.errors import UserError
from luthier.run.checkpoint import Damaged, remove, size_of
from luthier.run.machine import alive

FOLDER = "checkpoints"
"""Where they lie in a study's folder of files."""

BACKENDS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs",
            "az": "adlfs", "oss": "ossfs", "hf": "huggingface_hub", "sftp": "paramiko"}  # fmt: skip
"""What to install for a URL, where fsspec does not say it well."""


class Vault(Protocol):
    """Checkpoints by name."""

    def place(self, name: str) -> Path:
        """Where to write a checkpoint on this machine, before :meth:`keep`."""
        ...

    def keep(self, name: str) -> None:
        """What lies at its place is whole: have it last, for whoever goes on from it wherever that is.

        Raises:
            OSError: it cannot be kept.
        """
        ...

    def bring(self, name: str) -> Path:
        """A checkpoint on this machine, there until :meth:`rest`; whether it is what was written is not looked at.

        Raises:
            Damaged: it cannot be had.
        """
        ...

    def rest(self) -> None:
        """A job ended: forget what was brought here for it alone."""
        ...

    def sweep(self, folders: Iterable[str], goes: Callable[[str], bool]) -> None:
        """Delete, now or soon, the checkpoints in ``folders`` for which ``goes`` of their names."""
        ...

    def drop(self, name: str) -> None:
        """Delete one, if it is there."""
        ...

    def sizes(self) -> dict[str, int]:
        """The bytes of each."""
        ...

    def close(self) -> None:
        """Let go; what is to be swept has been."""
        ...


class Folder:
    """Checkpoints in the study's folder of files: on this machine, or on a disk that all who train share."""

    def __init__(self, files: Path) -> None:
        self._files = files

    def place(self, name: str) -> Path:
        """Their own place: they are written there by a temporary name (:func:`luthier.run.checkpoint.writing`)."""
        return self._files / name

    def keep(self, name: str) -> None:
        """It is there."""

    def bring(self, name: str) -> Path:
        """It is there, or it is not."""
        return self._files / name

    def rest(self) -> None:
        """Nothing was brought."""

    def sweep(self, folders: Iterable[str], goes: Callable[[str], bool]) -> None:
        """At once."""
        for folder in folders:
            for path in (self._files / folder).glob("*.ckpt"):
                if goes(path.relative_to(self._files).as_posix()):
                    remove(path)

    def drop(self, name: str) -> None:
        """A file or a folder."""
        remove(self._files / name)

    def sizes(self) -> dict[str, int]:
        """By a walk."""
        found = (self._files / FOLDER).glob("*/*.ckpt")
        return {path.relative_to(self._files).as_posix(): size_of(path) for path in found}

    def close(self) -> None:
        """Nothing is held."""


class Bucket:
    """Checkpoints below a URL that fsspec understands.

    Args:
        url: ``s3://bucket/study``, ``gs://``, ``abfs://``, ``file://``, ``memory://`` (this process alone).
        scratch: a folder of this machine for what is on its way.

    Raises:
        UserError: no such protocol, or what speaks it is not installed.
    """

    def __init__(self, url: str, scratch: Path) -> None:
        self._url = url
        self._fs, self._root = _file_system(url)
        self._all = scratch
        self._scratch = scratch / f"{socket.gethostname()}-{os.getpid()}"
        self._sweeper: ThreadPoolExecutor | None = None

    def open(self) -> None:
        """Called by the driver: what killed workers left half is removed, and whether the bucket can be written is
        found out before anything is trained.

        Raises:
            UserError: it cannot.
        """
        self._tidy()
        probe = f"{self._root}/parts/{uuid.uuid4().hex}"
        try:
            self._fs.makedirs(f"{self._root}/parts", exist_ok=True)
            self._fs.pipe_file(probe, b"luthier")
            self._fs.rm_file(probe)
        except Exception as error:
            raise UserError(
                f"files={self._url!r} cannot be written: {_said(error)}.",
                "Name a bucket that exists, and see to its credentials.",
            ) from None

    def _tidy(self) -> None:
        """Remove what processes of this machine left that are gone."""
        for folder in self._all.glob("*"):
            host, _, process = folder.name.rpartition("-")
            if host == socket.gethostname() and not (process.isdigit() and alive(int(process))):
                shutil.rmtree(folder, ignore_errors=True)

    def place(self, name: str) -> Path:
        """On this machine's disk, in a folder of this process."""
        return self._scratch / name

    def keep(self, name: str) -> None:
        """Upload it; the copy on this disk goes."""
        path, part = self.place(name), f"{self._root}/parts/{uuid.uuid4().hex}"
        with _packed(path) as (packed, suffix), _as_os_error():
            key = f"{self._root}/{name}{suffix}"
            for folder in (part, key):
                self._fs.makedirs(folder.rpartition("/")[0], exist_ok=True)
            self._fs.put_file(str(packed), part)
            self._fs.mv(part, key)
        remove(path)

    def bring(self, name: str) -> Path:
        """Download it, once a job."""
        path = self.place(name)
        if path.exists():
            return path
        arriving = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._fs.exists(f"{self._root}/{name}.tar"):
                self._fs.get_file(f"{self._root}/{name}.tar", str(arriving))
                with tarfile.open(arriving) as tar:
                    tar.extractall(path, filter="data")
            else:
                self._fs.get_file(f"{self._root}/{name}", str(arriving))
                arriving.replace(path)
        except FileNotFoundError:
            raise Damaged("there is no such file") from None
        except Exception as error:  # each back end has errors of its own
            remove(path)
            raise Damaged(f"it cannot be read: {_said(error)}") from None
        finally:
            remove(arriving)
        return path

    def rest(self) -> None:
        """This process's part of the scratch folder goes."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    def sweep(self, folders: Iterable[str], goes: Callable[[str], bool]) -> None:
        """In a thread: the driver waits for no network."""

        def work() -> None:
            for folder in folders:
                for name in self._sizes(folder):
                    if goes(name):
                        self.drop(name)

        if self._sweeper is None:
            self._sweeper = ThreadPoolExecutor(1, thread_name_prefix="luthier-sweep")
        self._sweeper.submit(work)

    def drop(self, name: str) -> None:
        """Whatever it travelled as."""
        for key in (f"{self._root}/{name}", f"{self._root}/{name}.tar"):
            with suppress(Exception):  # gone, or out of reach: it takes room, and does no harm
                if self._fs.exists(key):
                    self._fs.rm_file(key)

    def sizes(self) -> dict[str, int]:
        """By one listing."""
        return self._sizes(FOLDER)

    def _sizes(self, folder: str) -> dict[str, int]:
        self._fs.invalidate_cache()  # others write there
        try:
            found = self._fs.find(f"{self._root}/{folder}", detail=True)
        except FileNotFoundError:
            return {}
        names = {key[len(self._root) + 1 :].removesuffix(".tar"): int(told["size"]) for key, told in found.items()}
        return {name: size for name, size in names.items() if name.endswith(".ckpt")}

    def close(self) -> None:
        """Waits for the sweeping."""
        if self._sweeper is not None:
            self._sweeper.shutdown()
        self.rest()


def vault_of(files: Path, url: str = "") -> Vault:
    """The vault of a study: its folder of files, or what is at ``url``."""
    return Bucket(url, files / "scratch") if url else Folder(files)


def opened(files: Path, url: str = "") -> Vault:
    """The same for the driver, before anything is trained.

    Raises:
        UserError: what is at ``url`` cannot be written.
    """
    vault = vault_of(files, url)
    if isinstance(vault, Bucket):
        vault.open()
    return vault


def _file_system(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ModuleNotFoundError:
        raise UserError(f"files={url!r} needs fsspec.", "pip install 'luthier[cloud]'") from None
    try:
        fs, root = fsspec.core.url_to_fs(url)
    except ImportError:
        needed = BACKENDS.get(url.partition("://")[0], "the package that speaks it")
        raise UserError(f"files={url!r} needs {needed}.", f"pip install {needed}") from None
    except ValueError as error:
        raise UserError(f"files={url!r}: {error}.", "Name a folder, or a URL as s3://bucket/folder.") from None
    return fs, str(root).rstrip("/")


@contextmanager
def _packed(path: Path) -> Iterator[tuple[Path, str]]:
    """A file as it is; a folder as one tar beside it."""
    if path.is_file():
        yield path, ""
        return
    tarred = path.with_name(f".{path.name}.tar")
    try:
        with tarfile.open(tarred, "w") as tar:
            tar.add(path, arcname=".")
        yield tarred, ".tar"
    finally:
        remove(tarred)


@contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # each back end has errors of its own
        raise OSError(_said(error)) from None


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
