"""A folder as one file, for the way over the network: a mark, then a tar archive."""

from __future__ import annotations

import tarfile
from pathlib import Path

from luthier.run.checkpoint import Damaged

MARK = b"luthier folder 1\n"
"""No file of a framework begins with this."""


def pack(folder: Path, place: Path) -> None:
    """Write the files below ``folder`` to ``place``; links and the like are left out."""
    with place.open("wb") as file:
        file.write(MARK)
        with tarfile.open(fileobj=file, mode="w|") as archive:
            for part in sorted(folder.rglob("*")):
                if part.is_file() and not part.is_symlink():
                    archive.add(part, part.relative_to(folder).as_posix(), recursive=False)


def is_packed(place: Path) -> bool:
    """Whether a file is a packed folder."""
    with place.open("rb") as file:
        return file.read(len(MARK)) == MARK


def unpack(place: Path, folder: Path) -> None:
    """Make the folder again. Nothing but plain files below it is made, whatever the archive says.

    Raises:
        Damaged: it is no such archive, or names something outside the folder.
    """
    root = folder.resolve()
    try:
        with place.open("rb") as file:
            file.read(len(MARK))
            with tarfile.open(fileobj=file, mode="r|") as archive:
                for member in archive:
                    to = (root / member.name).resolve()
                    if not member.isreg() or not to.is_relative_to(root) or to == root:
                        raise Damaged(f"the packed folder has {member.name[:80]!r}, which is no plain file of its own")
                    content = archive.extractfile(member)
                    assert content is not None
                    to.parent.mkdir(parents=True, exist_ok=True)
                    with to.open("wb") as out:
                        while chunk := content.read(1 << 20):
                            out.write(chunk)
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise Damaged(f"the packed folder cannot be read: {error}") from None
