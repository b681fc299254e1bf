"""Known vulnerabilities in what constraints.txt pins: exits with 1 where there are any.

A machine that does not reach the advisory database says so and passes: no network is no vulnerability.

    python .ci/audit.py [--seconds 120]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PINNED = Path(__file__).parents[1] / "constraints.txt"
SERVICES = ("osv", "pypi")
"""Advisory databases, the one that is asked first first; both have Python's advisories."""


def ask(service: str, pinned: Path, seconds: float) -> tuple[list[dict[str, Any]], str]:
    """What a database says of every package; where it does not answer nothing, and why."""
    command = [
        sys.executable, "-m", "pip_audit", "--requirement", str(pinned), "--no-deps", "--disable-pip",
        "--format", "json", "--progress-spinner", "off", "--timeout", "10", "--vulnerability-service", service,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return [], f"no answer within {seconds:g} s"
    return read(done.stdout, done.stderr)


def read(out: str, err: str) -> tuple[list[dict[str, Any]], str]:
    """The packages that pip-audit tells of, and why there are none."""
    try:
        return json.loads(out)["dependencies"], ""
    except (ValueError, KeyError, TypeError):
        last = err.strip().splitlines()[-1:]
        return [], last[0][:200] if last else "it said nothing"


def verdict(packages: list[dict[str, Any]], why: str) -> tuple[int, str]:
    """The exit code, and what to say; 2 where nothing could be found out."""
    found = [
        f"{p['name']} {p['version']}: {v['id']} ({', '.join(v.get('aliases') or []) or 'no alias'}), mended in "
        f"{', '.join(v.get('fix_versions') or []) or 'no version yet'}"
        for p in packages
        for v in p.get("vulns") or []
    ]
    if found:
        return 1, "\n".join(["VULNERABLE:", *found])
    asked = [p for p in packages if "vulns" in p]
    unknown = [p["name"] for p in packages if "vulns" not in p]
    if not asked:  # pip-audit itself calls this "no known vulnerabilities"
        reason = why or next((p.get("skip_reason", "") for p in packages), "")
        return 2, f"NOT AUDITED: no advisory database answered ({reason})"
    rest = f"; NOT AUDITED: {', '.join(unknown)}" if unknown else ""
    return 0, f"{len(asked)} packages have no known vulnerability{rest}"


def main() -> int:
    """Ask one database after the other until one answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="for each database")
    seconds = parser.parse_args().seconds
    code, said = 2, ""
    for service in SERVICES:
        code, said = verdict(*ask(service, PINNED, seconds))
        print(f"audit ({service}): {said}")
        if code != 2:
            break
    return 0 if code == 2 else code


if __name__ == "__main__":
    sys.exit(main())
