"""TensorBoard: one folder of event files for each trial, with its hyperparameters for the HPARAMS page.

>>> lt.tune(train, space, observers=[TensorBoardTracker("runs")], ...)
>>> export("study.db", "runs")  # or afterwards; then tensorboard --logdir runs
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary as Proto
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2
from tensorboard.plugins.text.metadata import create_summary_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util import tensor_util

from luthier.core.trial import Status
from luthier.integrations._tracking import Follower, Run, follow


class TensorBoardTracker(Follower):
    """Mirrors a study in event files, live.

    Each trial has a folder ``STUDY/trial-00003``: metrics by epoch, hyperparameters and the stage for the HPARAMS page,
    and as text why it was started and how it ended.

    Args:
        folder: what ``tensorboard --logdir`` is given; made where it is not there.
    """

    def __init__(self, folder: str | Path = "runs") -> None:
        super().__init__()
        self._folder = Path(folder)
        self._writers: dict[int, EventFileWriter] = {}
        self._known: set[int] = set()

    def on_start(self, run: Run) -> None:
        """A new event file; the hyperparameters once."""
        place = self._folder / "".join(c if c.isalnum() or c in "._-" else "_" for c in run.study) / run.name
        self._writers[run.trial] = EventFileWriter(str(place))
        if run.trial in self._known:
            return
        self._known.add(run.trial)
        values = {k: "None" if v is None else v for k, v in run.config.items()}
        if "stage" in run.tags:
            values["luthier.stage"] = run.tags["stage"]
        self._write(run, summary_v2.hparams_pb(values, trial_id=f"{run.study}/{run.name}", start_time_secs=run.at))
        self._text(run, "luthier/why", run.tags.get("why", ""))

    def on_report(self, run: Run, epoch: int, metrics: Mapping[str, float]) -> None:
        """The metrics, with the epoch for a step."""
        values = [Proto.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._write(run, Proto(value=values), epoch)
        self._writers[run.trial].flush()

    def on_end(self, run: Run, status: Status, why: str) -> None:
        """How it ended."""
        self._text(run, "luthier/status", f"{status}: {why}" if why else str(status))
        if status is not Status.PAUSED:
            ended = api_pb2.STATUS_FAILURE if status is Status.FAILED else api_pb2.STATUS_SUCCESS
            info = plugin_data_pb2.SessionEndInfo(status=ended, end_time_secs=run.at)
            data = plugin_data_pb2.HParamsPluginData(session_end_info=info)
            self._write(run, summary_v2._summary_pb(metadata.SESSION_END_INFO_TAG, data))
        self._writers.pop(run.trial).close()

    def _text(self, run: Run, tag: str, text: str) -> None:
        value = Proto.Value(
            tag=tag,
            metadata=create_summary_metadata(display_name=tag, description=""),
            tensor=tensor_util.make_tensor_proto([text]),
        )
        self._write(run, Proto(value=[value]))

    def _write(self, run: Run, summary: Any, step: int = 0) -> None:
        self._writers[run.trial].add_event(Event(wall_time=run.at, step=step, summary=summary))


def export(source: str | Path, folder: str | Path = "runs", *, name: str | None = None) -> None:
    """Write a stored study as event files, with the times at which things happened.

    Args:
        source: where the study is stored.
        folder: as for :class:`TensorBoardTracker`.
        name: of several studies there.

    Raises:
        StorageError: there is no study at ``source``.
        UserError: the files cannot be written.
    """
    follow(source, TensorBoardTracker(folder), name)
