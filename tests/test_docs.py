"""What the documents name exists, and their code works."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from types import ModuleType

import docpages
import pytest

import luthier as lt
from luthier.strategies import STRATEGIES

ROOT = Path(__file__).parents[1]
DOCS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")]
RUN = {"tutorial.md"}
"""Pages whose commands are run; elsewhere commands are only parsed, for their files are the reader's."""


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
    places = [p for p in places if p != "cli.md"]  # made when the site is built
    missing = [p for p in places if not (ROOT / p).exists() and not (page.parent / p).exists()]
    assert missing == []


def test_the_readme_names_the_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make quickstart" in text
    assert "make test" in text


ELSEWHERE = {"integrations.md"}
"""Pages whose code has tests of its own."""
PAGES = sorted({*DOCS} - {ROOT / "docs/knowledge.md", ROOT / "README.zh.md"})  # the latter has the code of README.md
WITH_CODE = [p for p in PAGES if p.name not in ELSEWHERE and any(b.lang for b in docpages.blocks(p))]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda p: p.name)
def test_every_code_block_works(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    docpages.small(monkeypatch)
    for name, script in docpages.FILES.items():
        Path(name).write_text(script, encoding="utf-8")
    usual = docpages.usual()
    namespace = dict(usual)
    with docpages.own_imports(tmp_path):
        for block in docpages.blocks(page):
            assert block.excuse is None or len(block.excuse) > 10  # says why
            if block.excuse is not None:
                continue
            name = docpages.file_of(block)
            if name:
                Path(name).write_text(block.text, encoding="utf-8")
            if block.lang == "python":
                namespace |= {name: usual[name] for name in block.stand_ins}
                docpages.run_python(page, block, namespace)
            elif block.lang == "yaml":
                docpages.check_yaml(block.text)
            elif block.lang in ("sh", "bash", "shell", "console"):
                for words in docpages.commands(block):
                    docpages.check_command(words)
                    if page.name in RUN and words[0] == "luthier":
                        docpages.run_luthier(words[1:])


def test_readers_of_both_languages_get_the_same_code():
    both = [docpages.blocks(ROOT / name) for name in ("README.md", "README.zh.md")]
    english, chinese = ([(b.lang, _without_comments(b.text)) for b in found] for found in both)
    assert english == chinese
    assert len(english) > 10


def _without_comments(text):
    return [line for line in (re.sub(r"(^|\s+)# .*", "", line).rstrip() for line in text.splitlines()) if line]


def test_the_reference_has_every_public_name():
    text = (ROOT / "docs/reference.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^::: luthier\.(\w+)", text, re.MULTILINE))
    assert named == set(lt.__all__) - {"__version__"}


def test_methods_has_every_strategy_and_every_paper_that_its_file_names():
    text = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    assert set(re.findall(r'`"(\w+)"`', text)) >= set(STRATEGIES)
    files = [*(ROOT / "src/luthier/search").glob("*.py"), *(ROOT / "src/luthier/schedule").glob("*.py")]
    for file in [*files, ROOT / "src/luthier/expert/expert.py", ROOT / "src/luthier/numerics/curve_gp.py"]:
        said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        assert [n for n in re.findall(r"arXiv\s+(\d{4}\.\d{5}|\d{4}\.\d{4})", said) if n not in text] == [], file.name


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("luthier tune train.py:train --budgett 3", "budgett"),
        ("luthier tuna", "no command"),
        ("luthier --versio", "no command"),
        ("luthier init", "SCRIPT"),
        ("curl example.org", "not run"),
    ],
)
def test_a_command_that_does_not_exist_is_found(line, why):
    with pytest.raises(AssertionError, match=why):
        docpages.check_command(line.split())


def test_code_that_does_not_work_is_found_with_the_line_of_its_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\nx = [...]\ny = f(a=...)\n```\n")
    with pytest.raises(ZeroDivisionError) as caught:
        docpages.run_python(page, docpages.blocks(page)[0], {**docpages.usual(), "f": lambda a: 1 / (a > 1)})
    assert caught.traceback[-2].lineno + 1 == 5


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
