"""How long a report over HTTP takes until it is acknowledged, and how many one server takes from several workers.

    python benchmarks/serving.py [--workers 8] [--epochs 200]

Starts `luthier serve` with SQLite on this machine and asks it from threads. Random search, one metric.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from luthier.serve.client import Client

SPACE = "learning_rate: {type: float, low: 1.0e-5, high: 0.1, log: true}\n"


def worker(url: str, name: str, epochs: int, took: list[float]) -> None:
    """One job of many epochs; each report's seconds are appended."""
    client = Client(url)
    job = client.ask(name, 20.0)
    for epoch in range(1, epochs + 1):
        began = time.perf_counter()
        client.say(job["lease"], "reports", {"epoch": epoch, "metrics": {"val_loss": 1 / epoch}})
        took.append(time.perf_counter() - began)
    client.close()


def measure(url: str, workers: int, epochs: int, first: int) -> None:
    """Reports of several workers at once."""
    took: list[float] = []
    crew = [threading.Thread(target=worker, args=(url, f"w{first + i}", epochs, took)) for i in range(workers)]
    began = time.perf_counter()
    for one in crew:
        one.start()
    for one in crew:
        one.join()
    passed = time.perf_counter() - began
    cuts = statistics.quantiles(took, n=100)
    print(
        f"{workers:3d} workers: {len(took) / passed:6.0f} reports/s, each {1000 * cuts[49]:.1f} ms (median), "
        f"{1000 * cuts[98]:.1f} ms (99th percentile)"
    )


def main() -> None:
    """One worker, then several."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=200)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "space.yaml").write_text(SPACE)
        command = [
            sys.executable, "-m", "luthier.cli", "serve", "s.db", "--space", "space.yaml", "--minimize", "val_loss",
            "--max-epochs", str(asked.epochs), "--budget", f"{asked.workers + 2} trials", "--strategy", "random",
            "--port", "0",
        ]  # fmt: skip
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = next(line.split()[-1] for line in server.stdout if "Serving at" in line)
            measure(url, 1, asked.epochs, 0)
            measure(url, asked.workers, asked.epochs, 1)
            server.terminate()


if __name__ == "__main__":
    main()
