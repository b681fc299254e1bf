"""How long reading a folder of TensorBoard runs takes: 300 runs, 2 tags per step, 4 per epoch.

python benchmarks/read_tensorboard.py [--runs 300] [--folder DIR]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from luthier.readers import read_runs

STEPS, EPOCHS = 1000, 50


def make(folder: Path, runs: int) -> None:
    """Event files as SummaryWriter lays them out, records of one scalar each."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    for run in range(runs):
        place = folder / f"run{run:03d}"
        place.mkdir(parents=True)
        with (place / f"events.out.tfevents.{1_700_000_000 + run}.host.1.0").open("wb") as file:
            writer = RecordWriter(file)
            writer.write(Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())
            for step in range(STEPS):
                row = {"train/loss": 2.3 / (1 + 0.01 * step), "train/lr": 0.1}
                if step % (STEPS // EPOCHS) == 0:
                    row |= {"val/loss": 2.4 / (1 + 0.01 * step), "val/acc": 0.5, "val/f1": 0.4, "val/recall": 0.4}
                for tag, value in row.items():
                    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
                    writer.write(Event(wall_time=step, step=step, summary=summary).SerializeToString())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--folder", type=Path, help="where the runs are kept; made there if it does not exist")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.folder or Path(scratch) / "runs"
        if not folder.exists():
            make(folder, asked.runs)
        start = time.perf_counter()
        runs, _ = read_runs([folder])
        seconds = time.perf_counter() - start
    points = sum(len(s) for run in runs for s in run.curves.all().values())
    print(f"{len(runs)} runs, {points:,} points kept, read in {seconds:.1f} s")


if __name__ == "__main__":
    main()
