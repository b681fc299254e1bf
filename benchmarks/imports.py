"""How long `import luthier` takes in a fresh interpreter, and what it loads. Target: under 0.3 s, nothing heavy.

python benchmarks/imports.py [--runs 9]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

PROBE = """
import sys, time
began = time.perf_counter()
import luthier as lt
took = time.perf_counter() - began
heavy = [m for m in ("torch", "optuna", "plotly", "sqlalchemy", "scipy", "numpy") if m in sys.modules]
began = time.perf_counter()
lt.Space, lt.AskTell, lt.tune
print(took, time.perf_counter() - began, ",".join(heavy))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=9)
    rows = []
    for _ in range(parser.parse_args().runs):
        out = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True).stdout
        rows.append(out.rstrip("\n").split(" "))
    print(
        json.dumps(
            {
                "import_seconds_median": round(statistics.median(float(r[0]) for r in rows), 4),
                "first_use_seconds_median": round(statistics.median(float(r[1]) for r in rows), 4),
                "heavy": rows[0][2],
            }
        )
    )


if __name__ == "__main__":
    main()
