"""What the documents name exists."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

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


# -- the code of docs/integrations.md ----------------------------------------------------------------------------------

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/integrations.md").read_text(encoding="utf-8"), re.DOTALL)
NEEDED = {
    "accelerate", "keras", "lightning", "mlflow", "optuna", "pydantic", "skorch", "sklearn", "tensorboard",
    "transformers", "wandb",
}  # fmt: skip
"""What a block may need; it is skipped where that is not installed."""


def _sections() -> list[tuple[str, list[str]]]:
    text = (ROOT / "docs/integrations.md").read_text(encoding="utf-8")
    found = []
    for section in text.split("\n## ")[1:]:
        blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
        if blocks:
            found.append((section.partition("\n")[0], blocks))
    return found


@pytest.mark.usefixtures("frozen")
@pytest.mark.filterwarnings("ignore")  # foreign libraries speak freely here; their own tests let nothing else pass
@pytest.mark.parametrize(("section", "blocks"), _sections(), ids=[name for name, _ in _sections()])
def test_the_code_of_the_integrations_runs(section, blocks, monkeypatch, tmp_path):
    import luthier as lt
    from luthier import api

    code = "\n".join(blocks)
    for library in sorted(set(re.findall(r"^(?:from|import) (\w+)", code, re.MULTILINE)) & NEEDED):
        pytest.importorskip(library)
        if library == "transformers":
            pytest.importorskip("accelerate")  # its Trainer asks for it
    asked = []

    def in_this_process(*given, **more):
        asked.append(api.tune(*given, **{**more, "workers": 0, "quiet": True}))
        return asked[-1]

    monkeypatch.setattr(lt, "tune", in_this_process)
    monkeypatch.chdir(tmp_path)
    page = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", page)
    for block in [BLOCKS[0], *blocks]:
        exec(compile(block, section, "exec", dont_inherit=True), vars(page))
    for result in asked:
        assert result.best_score is not None
        assert [t.failure for t in result.trials() if t.failure] == []
