"""The look for known vulnerabilities: a found one fails, no network does not, and both are said."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

PLACE = Path(__file__).parents[1] / ".ci" / "audit.py"
SPEC = importlib.util.spec_from_file_location("audit", PLACE)
audit = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(audit)

SAFE = {"name": "numpy", "version": "2.4.6", "vulns": []}
BAD = {
    "name": "old",
    "version": "1.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"], "aliases": ["CVE-1"], "description": "runs code"}],
}
UNKNOWN = {"name": "odd", "skip_reason": "Dependency not found on PyPI and could not be audited: odd (1.0)"}


@pytest.mark.parametrize(
    ("packages", "why", "code", "said"),
    [
        ([SAFE], "", 0, "1 packages have no known vulnerability"),
        ([SAFE, BAD], "", 1, "old 1.0: PYSEC-1 (CVE-1), mended in 1.1"),
        ([UNKNOWN, BAD], "", 1, "VULNERABLE"),
        ([SAFE, UNKNOWN], "", 0, "NOT AUDITED: odd"),
        ([UNKNOWN, UNKNOWN], "", 2, "NOT AUDITED: no advisory database answered (Dependency not found"),
        ([], "ConnectionError: no route", 2, "NOT AUDITED: no advisory database answered (ConnectionError: no route)"),
    ],
)
def test_what_was_found_out_decides(packages, why, code, said):
    got, text = audit.verdict(packages, why)
    assert got == code
    assert said in text


def test_what_pip_audit_prints_is_read_also_where_it_fails():
    assert audit.read(json.dumps({"dependencies": [SAFE], "fixes": []}), "") == ([SAFE], "")
    assert audit.read("", "Traceback ...\nConnectionError: no route") == ([], "ConnectionError: no route")
    assert audit.read("", "") == audit.read("[]", "") == ([], "it said nothing")


def test_without_an_answer_it_says_so_and_passes(tmp_path):
    done = subprocess.run([sys.executable, PLACE, "--seconds", "0.01"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.count("NOT AUDITED: no advisory database answered (no answer within 0.01 s)") == 2


def test_every_pinned_package_is_pinned_exactly():
    lines = [line for line in audit.PINNED.read_text().splitlines() if line and not line.startswith("#")]
    assert all(line.count("==") == 1 for line in lines)  # else pip-audit would have to ask an index
