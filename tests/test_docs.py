"""What the documents name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")]


@pytest.mark.parametrize("page", DOCS, ids=lambda p: p.name)
def test_every_test_and_file_that_a_page_names_exists(page):
    text = page.read_text(encoding="utf-8")
    known = {
        name for file in (ROOT / "tests").glob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    modules = {file.stem for file in (ROOT / "tests").glob("test_*.py")}
    assert set(re.findall(r"`(test_\w+)`", text)) <= known | modules
    places = re.findall(r"`((?:src|tests|examples|benchmarks|docs)/[\w/.]+\w)`", text)
    places += [p for p in re.findall(r"\]\(([\w/.-]+)\)", text) if not p.startswith("http")]
    missing = [p for p in places if not (ROOT / p).exists() and not (page.parent / p).exists()]
    assert missing == []


def test_the_readme_names_the_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make quickstart" in text
    assert "make test" in text
