"""TensorBoard's event files: scalars, their hyperparameters, and the writers of one training in sibling folders.

The records are cut out of the file here and then parsed by TensorBoard's own messages. Its EventAccumulator checks
every byte in Python and takes eight times as long (``benchmarks/read_tensorboard.py``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luthier.core.errors import UserError
from luthier.core.metrics import SPLITS, words
from luthier.readers.lightning import hparams
from luthier.readers.recording import Recording, series

NAME = "TensorBoard's event files"
_MARK = "tfevents"
_LARGEST = 64 * 2**20
"""Bytes in a record that may be a scalar's; longer ones are images and graphs."""

Points = dict[str, list[tuple[float, float]]]


def can_read(path: Path) -> bool:
    """Whether this is an event file, or a folder with event files or with writers of one training below it."""
    if path.is_file():
        return _MARK in path.name
    return path.is_dir() and bool(writers(path))


def read(path: Path) -> list[Recording]:
    """The training of a folder, or of one file.

    Raises:
        UserError: the package tensorboard is missing, or the files cannot be read.
    """
    tags: Points = {}
    config: dict[str, Any] = {}
    if path.is_file():
        folder = path.parent
        _load([path], tags, config)
    else:
        folder = path
        for prefix, writer in writers(path).items():
            own: Points = {}
            _load(_files(writer), own, config)
            for tag, points in own.items():
                tags.setdefault(named(tag, prefix), []).extend(points)
    built = {tag: found for tag, points in tags.items() if (found := series(points)) is not None}
    if not built:
        return []
    epoch = built.pop("epoch", None)  # Lightning logs the epoch at each step
    per_epoch = None
    if epoch is not None and len(epoch) > 1 and epoch.y[-1] >= 1:
        per_epoch = float((epoch.x[-1] + 1) / (epoch.y[-1] + 1))
    return [Recording(folder.name, path, built, per_epoch=per_epoch, config={**hparams(folder), **config})]


def writers(folder: Path) -> dict[str, Path]:
    """The folders that one training was written to, by the prefix that their tags get; empty where it is none.

    Besides the folder itself (prefix ""): ``train`` and ``validation`` beside or below it, as Keras writes them,
    ``loss_train`` and ``loss_val`` of ``add_scalars``, and what ``add_hparams`` writes, named by the clock.
    """
    found = {"": folder} if _files(folder) else {}
    try:
        below = sorted(p for p in folder.iterdir() if p.is_dir())
    except OSError:
        return found
    for child in below:
        own = words(child.name)
        split = len(own) == 1 and own[0] in SPLITS
        with_root = "" in found and ((len(own) > 1 and own[-1] in SPLITS) or _is_clock(child.name))
        if (split or with_root) and _files(child):
            found[child.name] = child
    return found


def scalars(files: list[Path]) -> Points:
    """The scalars in event files, ``(step, value)`` by tag, in the order in which they were written.

    Raises:
        UserError: the package tensorboard is missing, or a file cannot be read.
    """
    tags: Points = {}
    _load(files, tags, {})
    return tags


def named(tag: str, prefix: str) -> str:
    """``train/epoch_loss``; for ``add_scalars`` the tag and its key, ``loss/train``."""
    if not prefix or _is_clock(prefix):
        return tag
    stem = tag.replace("/", "_") + "_"
    return f"{tag}/{prefix.removeprefix(stem)}" if prefix.startswith(stem) else f"{prefix}/{tag}"


def _is_clock(name: str) -> bool:
    head, _, tail = name.partition(".")
    return len(head) >= 9 and head.isdigit() and tail.isdigit()


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if _MARK in p.name and p.is_file())
    except OSError:
        return []


# -- records -----------------------------------------------------------------------------------------------------------


def _records(data: bytes) -> Iterator[bytes]:
    """The payloads of a TFRecord file: length, its checksum, payload, its checksum. A torn end is left out."""
    at, end = 0, len(data)
    while at + 12 <= end:
        (size,) = struct.unpack_from("<Q", data, at)
        at += 12
        if at + size + 4 > end:
            return
        if size <= _LARGEST:
            yield data[at : at + size]
        at += size + 4


def _load(files: list[Path], tags: Points, config: dict[str, Any]) -> None:
    """Adds the scalars of ``files`` to ``tags``, and hyperparameters to ``config``."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
    except ImportError:
        raise UserError(
            "TensorBoard's event files need the package tensorboard.", 'Install it: pip install "luthier[tensorboard]".'
        ) from None
    from google.protobuf.message import DecodeError

    for file in files:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror}.", "Make it yours to read.") from None
        for payload in _records(data):
            try:
                event = Event.FromString(payload)
            except DecodeError:
                break  # a damaged file: what stands before it is sound
            if event.WhichOneof("what") != "summary":
                continue
            for value in event.summary.value:
                kind = value.WhichOneof("value")
                if kind == "simple_value":
                    tags.setdefault(value.tag, []).append((event.step, value.simple_value))
                elif kind == "tensor" and (scalar := _scalar(value)) is not None:
                    tags.setdefault(value.tag, []).append((event.step, scalar))
                elif value.metadata.plugin_data.plugin_name == "hparams":
                    config.update(_hparams(value.metadata.plugin_data.content))


def _scalar(value: Any) -> float | None:
    """The number in a tensor of a single one, as TensorFlow 2 and Keras log scalars."""
    if value.metadata.plugin_data.plugin_name not in ("scalars", ""):
        return None
    from tensorboard.util import tensor_util

    try:
        array = tensor_util.make_ndarray(value.tensor)
        return float(array) if array.ndim == 0 else None
    except (TypeError, ValueError):
        return None


def _hparams(content: bytes) -> dict[str, Any]:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    held = HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: getattr(v, str(kind)) for name, v in held.items() if (kind := v.WhichOneof("kind")) is not None}
