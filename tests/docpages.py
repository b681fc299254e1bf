"""The code blocks of the documentation: how they are found, and what stands in for what is the reader's own.

Python blocks of a page run one after the other in one namespace and one folder. A block whose first line is
``# NAME.py`` or ``# NAME.yaml`` is that file as well. ``...`` as an argument or a value is the reader's and becomes a
number, ``[...]`` a curve. Studies run with a small budget in this process; what was asked is checked all the same.
``<!-- not run: why -->`` before a block excuses it; ``<!-- with: train -->`` puts the stand-in of that name back, where
a page made one of its own.
"""

from __future__ import annotations

import ast
import contextlib
import io
import random
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import luthier as lt
from luthier import cli
from luthier.core.study import Budget
from luthier.run.crew import Crew
from luthier.run.limits import Limits

ROOT = Path(__file__).parents[1]
FENCE = re.compile(
    r"^(?:<!-- (?P<mark>.+?) -->\n+)?(?P<fence>```+) *(?P<lang>\w*)[^\n]*\n(?P<text>.*?)^(?P=fence)", re.M | re.S
)
FILE = re.compile(r"# ([\w/]+\.(?:py|yaml))\n")
TRIALS, EPOCHS = 3, 2
"""What a study on a page is cut down to."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line that it begins in, and the comment before it."""

    lang: str
    text: str
    line: int
    mark: str

    @property
    def excuse(self) -> str | None:
        """Why it is not run."""
        return self.mark.removeprefix("not run:").strip() if self.mark.startswith("not run:") else None

    @property
    def stand_ins(self) -> list[str]:
        """What is put back before it runs."""
        return re.findall(r"\w+", self.mark.removeprefix("with:")) if self.mark.startswith("with:") else []


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(m["lang"], m["text"], text.count("\n", 0, m.start("text")) + 1, m["mark"] or "")
        for m in FENCE.finditer(text)
    ]


class _Filled(ast.NodeTransformer):
    """Puts numbers where the page has ``...``."""

    def visit_List(self, node: ast.List) -> ast.AST:
        if len(node.elts) == 1 and _open(node.elts[0]):
            return ast.copy_location(_call("_curve"), node)
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        node.args = [a for a in node.args if not _open(a)]
        for keyword in node.keywords:
            if _open(keyword.value):
                keyword.value = ast.copy_location(_call("_number"), keyword.value)
        return node

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        self.generic_visit(node)
        node.values = [ast.copy_location(_call("_number"), v) if _open(v) else v for v in node.values]
        return node


def _open(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...


def _call(name: str) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), [], [])


def run_python(page: Path, block: Block, namespace: dict[str, Any]) -> None:
    """Run one block; errors name the page's own lines."""
    tree = _Filled().visit(ast.parse(block.text, str(page)))
    ast.increment_lineno(tree, block.line - 1)
    exec(compile(ast.fix_missing_locations(tree), str(page), "exec"), namespace)


def check_yaml(text: str) -> None:
    """A space, where every entry has a type; else YAML of whatever kind."""
    entries = yaml.safe_load(text)
    if isinstance(entries, dict) and all(isinstance(e, dict) and "type" in e for e in entries.values()):
        lt.Space.from_yaml(text)


def file_of(block: Block) -> str | None:
    """The file that a block is, if it says so."""
    m = FILE.match(block.text)
    return m[1] if m else None


# -- what stands in ----------------------------------------------------------------------------------------------------


FILES = {
    "main.py": """\
import sys

options = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:] if "=" in word)
for epoch in range(1, int(options.get("epochs", 2)) + 1):
    print(f"epoch {epoch} train_loss {1.1 / epoch} val_loss {1 / epoch}")
"""
}
"""Scripts of the reader's, by name: they lie in the folder in which a page runs."""


def usual() -> dict[str, Any]:
    """What the pages suppose that the reader has: data, a model, a training function, a space."""
    import numpy as np
    import torch
    from torch import nn
    from torch.utils.data import TensorDataset

    numbers = random.Random(0)
    torch.manual_seed(0)
    x, y = torch.rand(96, 1, 8, 8), torch.arange(96) % 4
    x += y[:, None, None, None] / 2
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def build(**config: Any) -> Any:
        own = nn.Linear(2, 1)
        return own, torch.optim.SGD(own.parameters(), 0.1)

    def step() -> float:
        loss = model(torch.rand(8, 4)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def train(trial: lt.Trial) -> None:
        own, its = build(**trial.config)
        for epoch in trial.epochs(model=own, optimizer=its):
            loss = abs(float(np.log10(trial.config["learning_rate"])) + 2) / 4 + 1 / epoch
            trial.report(train_loss=loss, val_loss=loss, val_accuracy=1 / (1 + loss), latency_ms=5.0, params=1e4)

    return {
        "__name__": "__main__",
        "_number": lambda: round(numbers.uniform(0.1, 0.9), 3),
        "_curve": lambda: [2.3 * 0.8**i + 0.2 for i in range(12)],
        "lt": lt,
        "np": np,
        "build": build,
        "step": step,
        "make_step": lambda size: step,
        "model": model,
        "optimizer": optimizer,
        "train": train,
        "train_set": TensorDataset(x[:64], y[:64]),
        "val_set": TensorDataset(x[64:], y[64:]),
        "recipe": lt.Recipe("mlp", TensorDataset(x[:64], y[:64]), TensorDataset(x[64:], y[64:]), task="classification"),
        "space": lt.Space(
            learning_rate=lt.Float(1e-5, 1e-1, log=True),
            batch_size=lt.Int(16, 512, log=True),
            optimizer=lt.Choice("adamw", "sgd"),
            width=lt.Int(32, 512, log=True),
        ),
    }


def small(monkeypatch: Any) -> None:
    """Cut studies down: a few short trainings in this process, a simulation of a few workers."""
    tune, simulate = lt.tune, lt.simulate

    def small_tune(target: Any, space: Any = None, **asked: Any) -> lt.Result:
        longest = asked.pop("max_epochs", EPOCHS)
        Budget.parse(asked.pop("budget", None), longest)
        crew = ("executor", "resources", "slurm", "gpus", "processes", "pin")
        Crew(asked.get("workers", 1), **{k: asked.pop(k) for k in crew if k in asked})
        Limits.of(asked.pop("timeout", None), asked.pop("worker_memory", None))
        if "://" in str(asked.get("files")):
            del asked["files"]
        least = 8 if asked.get("strategy") in ("pbt", "pb2") else TRIALS
        cut = {"workers": 0, "quiet": True, "max_epochs": min(longest, EPOCHS), "budget": f"{least} trials"}
        if not isinstance(asked.get("strategy", ""), str):
            cut["max_epochs"] = longest  # a schedule has its length
        return tune(target, space, **{**asked, **cut})

    def small_simulate(curves: Any, space: Any = None, **asked: Any) -> lt.SimulatedResult:
        Budget.parse(asked.pop("budget", None), asked.get("max_epochs") or 30)
        return simulate(curves, space, **{**asked, "workers": min(asked.get("workers", 1), 8), "budget": "40 trials"})

    monkeypatch.setattr(lt, "tune", small_tune)
    monkeypatch.setattr(lt, "simulate", small_simulate)


# -- the shell ---------------------------------------------------------------------------------------------------------


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each command of a shell block, without comments and prompts."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line.removeprefix("$ "), comments=True):
            yield words


def check_command(words: list[str]) -> None:
    """That the command exists and takes these options; nothing is run.

    Raises:
        AssertionError: it does not.
    """
    program, args = words[0], words[1:]
    check: Callable[[list[str]], None] | None = PROGRAMS.get(program)
    assert check is not None, f"nothing is known of the program {program!r}: mark the block <!-- not run: why -->"
    check(args)


def parse(args: list[str]) -> tuple[Any, Any]:
    """The command of Luthier's that the words name, and its context with all options read.

    Raises:
        AssertionError: there is no such command or option.
    """
    from typer.main import get_command

    group = get_command(cli.app)
    context = group.context_class(group, info_name="luthier")
    if args and args[0] in {"-h", "--help", *(o for p in group.params for o in p.opts)}:
        return group, context
    command = group.commands.get(args[0] if args else "")
    assert command is not None, f"luthier has no command {args[:1]}"
    try:
        return command, command.make_context(args[0], args[1:], parent=context)
    except cli.USAGE as error:
        raise AssertionError(f"luthier {shlex.join(args)}: {error.format_message()}") from None


def _pip(args: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for named in re.findall(r"(?:^|\s)(?:\.|luthier)\[([\w,-]+)\]", " ".join(args)):
        assert set(named.split(",")) <= set(extras)


def _make(args: list[str]) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    assert set(args) <= set(targets)


def _python(args: list[str]) -> None:
    if args[0] == "-m":
        place = args[1].replace(".", "/")
        assert any((ROOT / base / f"{place}{end}").exists() for base in ("benchmarks", "src") for end in (".py", ""))
    elif args[0] != "-c" and "/" in args[0]:
        assert (ROOT / args[0]).is_file()


def _sourced(args: list[str]) -> None:
    venv = re.search(r"^VENV \?= (\S+)$", (ROOT / "Makefile").read_text(), re.M)
    assert venv is not None
    assert args == [f"{venv[1]}/bin/activate"]


PROGRAMS: dict[str, Callable[[list[str]], Any]] = {
    "luthier": parse,
    "pip": _pip,
    "make": _make,
    ".": _sourced,
    "python": _python,
    "cd": lambda args: None,
    ".venv/bin/pre-commit": lambda args: None,
}


def run_luthier(args: list[str]) -> None:
    """Run a command of Luthier's in this process, a study of a few short trainings."""
    if args[0] in ("tune", "resume", "quickstart"):
        args = [*args, "--workers", "0", "--quiet"]
        for option, value in (("--budget", f"{TRIALS} trials"), ("--max-epochs", str(EPOCHS))):
            if option in args:
                args[args.index(option) + 1] = value if args[0] != "resume" else f"{2 * TRIALS} trials"
    with contextlib.redirect_stdout(io.StringIO()):
        cli.app(args, standalone_mode=False)


@contextlib.contextmanager
def own_imports(folder: Path) -> Iterator[None]:
    """What a page imports from its own files is forgotten afterwards."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]
