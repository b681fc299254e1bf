"""Names of storages and folders: from what a user writes to a URL, and what of a URL may be shown."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from luthier.core.errors import StorageError, UserError

DRIVER = "postgresql+psycopg"
"""What ``postgresql://`` means here; ``postgres://``, as some services write it, too."""

_SECRET = ("password", "passfile", "sslpassword")
_WRITE = 'Write "sqlite:///study.db" or "postgresql://user@host/database".'


IN_FOLDER = ("study.db", "luthier.db")
"""What the log of a folder may be called."""


def locate(place: str | Path) -> str:
    """The URL of a storage named by a folder, a file or a URL. A folder's log is its ``study.db``, or where it has none
    the ``luthier.db`` that the terminal writes."""
    text = str(place)
    if "://" in text:
        try:
            url = sa.make_url(text)
        except (sa.exc.ArgumentError, ValueError):
            raise StorageError(f"{shown(text)!r} is no storage URL.", _WRITE) from None
        if url.drivername in ("postgresql", "postgres"):
            url = url.set(drivername=DRIVER)
            return url.render_as_string(hide_password=False)
        return text
    path = Path(text)
    if path.is_dir() or (not path.exists() and path.suffix == ""):
        path = next((path / name for name in IN_FOLDER if (path / name).exists()), path / IN_FOLDER[0])
    return f"sqlite:///{path}"


def shown(place: str | Path) -> str:
    """A storage as it may be shown: without its password."""
    text = str(place)
    if "://" not in text:
        return text
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        return re.sub(r"://[^/]*@", "://***@", text)
    hidden = {name: "***" for name in url.query if name in _SECRET}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


def file_of(url: str) -> Path | None:
    """The file of an SQLite URL; None for any other database."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        return None
    return Path(parsed.database)


# -- folders -----------------------------------------------------------------------------------------------------------


def files_beside(url: str, name: str) -> Path | None:
    """The folder for a study's checkpoints and logs: ``study.files/NAME`` beside ``study.db``; None off the disk."""
    file = file_of(url)
    if file is None:
        return None
    return file.parent / f"{file.stem}.files" / slug(name)


def files_of(url: str, name: str, folder: str | Path | None = None) -> Path | None:
    """Where a study's checkpoints and logs go: below ``folder``, beside the database where it is None, None off the
    disk."""
    return files_beside(url, name) if folder is None else Path(folder) / slug(name)


class _Log(Protocol):
    url: str
    name: str

    @property
    def files(self) -> str | None: ...


def is_url(place: str | Path | None) -> bool:
    """Whether checkpoints go to a URL (``s3://bucket/folder``) and to no folder."""
    return "://" in str(place)


def cloud_of(log: _Log, place: str | Path | None) -> str:
    """The URL of a study's checkpoints; empty where they go to its folder.

    Args:
        place: a folder or a URL, as asked for now; where None, what was asked for when the study was trained last.
    """
    asked = log.files if place is None else place
    return f"{str(asked).rstrip('/')}/{slug(log.name)}" if is_url(asked) else ""


def files_known(log: _Log) -> Path | None:
    """Where a study's checkpoints and logs are: below the folder that was named for them, else beside its database.
    Where checkpoints go to a URL, that of the logs alone."""
    return files_of(log.url, log.name, None if is_url(log.files) else log.files)


def files_needed(log: _Log, folder: str | Path | None) -> Path:
    """The folder for a study that is going to be trained.

    Args:
        folder: what is asked for now; where None, what was asked for when the study was trained last. Where that is a
            URL, the folder is for logs, and for a database on a server below the current one.

    Raises:
        UserError: a database on a server and no folder; or the one of before is not here.
    """
    url, name, before = log.url, log.name, log.files
    if cloud_of(log, folder):
        return files_beside(url, name) or Path("luthier.files") / slug(name)
    if folder is None and before is not None and not Path(before).is_dir():
        raise UserError(
            f"The checkpoints of the study {name!r} are in {before}, which is not there on this machine.",
            "Mount it, or name another folder with files= (--files): what has no checkpoint there starts over.",
        )
    place = files_of(url, name, folder if folder is not None else before)
    if place is None:
        raise UserError(
            f"{shown(url)} has no folder beside it for checkpoints and logs.",
            "Name one with files= (--files), on a file system that all who train can reach.",
        )
    return place


def slug(name: str) -> str:
    """A study's name as the name of a folder: it is the user's text, only harmless characters reach the file system."""
    short = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:60].strip("_")
    return short if short == name else f"{short}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
