"""``luthier init``: a script's options, read and never run, become a space with ranges around its defaults."""

from __future__ import annotations

import re
import shlex

import pytest
from test_scripts import inside

from luthier.core.errors import UserError
from luthier.core.params import Choice, Float, Int
from luthier.core.space import Space
from luthier.scripts.draft import draft
from luthier.scripts.options import read_script
from luthier.scripts.source import UNKNOWN

ARGPARSE = """
import argparse
raise SystemExit("it was run")
RATE = 3e-4
p = argparse.ArgumentParser()
p.add_argument("data", help="where the data is")
p.add_argument("-b", "--batch-size", type=int, default=64)
p.add_argument("--lr", "--learning-rate", dest="lr", default=RATE, type=float, help="the rate")
p.add_argument("--optimizer", choices=["sgd", "adamw"], default="adamw")
p.add_argument("--wd", type=float, default=5 * 1e-2)
p.add_argument("--dropout", type=float, default=0.)
p.add_argument("--n_layer", type=int, default=4); p.add_argument("--n_embd", default=96, type=int)
p.add_argument("--n_head", type=int, default=3)
p.add_argument("--epochs", default=12, type=int)
p.add_argument("--seed", type=int, default=1)
p.add_argument("--output-dir", default="runs")
p.add_argument("--save", default="runs/model.pt")
p.add_argument("--nesterov", action="store_true")
p.add_argument("--no-cuda", action="store_false", default=True)
p.add_argument("--zeal", type=float, default=0.25, help="how eager it is")
p.add_argument("--device", default=get_device())
p.add_argument("--version", action="version", version="1")
p.add_argument("-w", type=int, default=2)
print("epoch {} train_loss {:.3f} val_loss {:.3f} val_acc {:.1f}%".format(1, 2, 3, 4))
"""


def found(tmp_path, text, name="main.py"):
    (tmp_path / name).write_text(text)
    return read_script(tmp_path / name)


def options(tmp_path, text):
    return {o.name: (o.default, o.kind) for o in found(tmp_path, text).options}


def space_of(made) -> Space:
    return Space.from_yaml(made.text)


def test_argparse_is_read_and_not_run(tmp_path):
    read = found(tmp_path, ARGPARSE)
    by = {o.name: o for o in read.options}
    assert list(by) == ["batch-size", "lr", "optimizer", "wd", "dropout", "n_layer", "n_embd", "n_head", "epochs",
                        "seed", "output-dir", "save", "nesterov", "no-cuda", "zeal", "device", "w"]  # fmt: skip
    assert (by["lr"].default, by["lr"].kind, by["lr"].help) == (3e-4, "float", "the rate")
    assert by["optimizer"].choices == ("sgd", "adamw")
    assert by["wd"].default == pytest.approx(0.05)
    assert (by["nesterov"].default, by["nesterov"].kind) == (False, "bool")
    assert by["no-cuda"].default is True
    assert by["device"].default is UNKNOWN
    assert by["w"].short == "-w"
    assert by["lr"].line == 8


def test_the_space_lies_around_the_scripts_own_defaults(tmp_path):
    made = draft(found(tmp_path, ARGPARSE), "space.yaml")
    space = space_of(made)
    assert list(space) == ["batch-size", "lr", "optimizer", "n_layer", "n_embd", "wd", "dropout"]  # tier by tier
    assert space["lr"] == Float(3e-5, 3e-3, log=True, default=3e-4)
    assert space["batch-size"] == Int(16, 256, log=True, default=64)
    assert space["optimizer"] == Choice("sgd", "adamw", default="adamw")
    assert space["wd"] == Float(0.005, 0.5, log=True, default=0.05)
    assert space["dropout"] == Float(0.0, 0.5, default=0.0)
    assert space["n_layer"] == Int(2, 8, default=4)
    assert space["n_embd"] == Choice(48, 96, 192, default=96)
    assert all(c % 3 == 0 for c in space["n_embd"].choices)  # the heads divide each


def test_what_is_known_says_why_and_the_rest_is_there_to_be_uncommented(tmp_path):
    made = draft(found(tmp_path, ARGPARSE), "space.yaml")
    text = " ".join(made.text.replace("# ", "").split())
    assert "Learning rate (tier 1). Tune it first" in text
    assert "The script's own: 0.0003, main.py line 8." in text
    assert "#zeal: {type: float, low: 0.025, high: 2.5, log: true, default: 0.25}" in made.text
    assert "how eager it is" in made.text
    assert "#nesterov: {type: choice, choices: [false, true]}" in made.text
    every = re.sub(r"^#(?=[\w-]+: \{)", "", made.text, flags=re.MULTILINE)
    assert {"zeal", "nesterov", "n_head", "no-cuda", "w"} <= set(Space.from_yaml(every))
    assert "seed" not in every.replace("seeds", "")


def test_the_command_to_run_next_fills_in_what_is_no_hyperparameter(tmp_path):
    told = draft(found(tmp_path, ARGPARSE), "space.yaml").told
    lines = [line.strip() for line in told.splitlines() if "luthier tune" in line]
    assert len(lines) == 2
    words = shlex.split(lines[1])
    assert words[words.index("--maximize") + 1] == "val_accuracy"
    assert words[words.index("--max-epochs") + 1] == "12"
    assert words[words.index("--") + 1 :] == [
        "python", str(tmp_path / "main.py"), "...", "--epochs={epochs}", "--seed={seed}", "--output-dir={out}",
        "--save={out}/model.pt"]  # fmt: skip
    assert "--dry-run" in lines[0]


NEEDED = """
import argparse
p = argparse.ArgumentParser()
p.add_argument("root")
p.add_argument("more", nargs="*")
p.add_argument("--data", required=True)
p.add_argument("--lr", type=float, required=True)
p.add_argument("-z", required=True)
p.add_argument("--epochs", type=int, required=True)
p.add_argument("--note")
"""


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        (NEEDED, "... --data=... -z ... --epochs={epochs}", "root and --data and -z"),
        ("import click\n@click.command()\n@click.option('--lr', default=0.1)\n@click.option('--data', required=True)\n"
         "@click.argument('arch')\n@click.argument('more', nargs=-1)\ndef main(**k): ...", "... --data=...",
         "arch and --data"),
        ("import typer\ndef main(root: str, lr: float = 0.1, *, data: str = typer.Option(...)): ...\ntyper.run(main)",
         "... --data=...", "root and --data"),
        ("import fire\ndef train(data, lr: float = 0.01, *, kind): ...\nfire.Fire(train)", "... --kind=...",
         "data and --kind"),
        ("from dataclasses import dataclass\nfrom transformers import HfArgumentParser\n@dataclass\nclass A:\n"
         "    model: str\n    other: list\n    lr: float = 0.1", "--model=...", "--model"),
    ],
)  # fmt: skip
def test_what_a_script_does_not_run_without_has_a_gap_in_the_command(tmp_path, monkeypatch, text, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "main.py").write_text(text)
    told = inside(["init", "main.py"]).out
    assert f"python main.py {words}\n" in told
    assert f"The script does not run without {said}: put what it is to get in the place of ..." in told
    command = shlex.split(next(line for line in told.splitlines() if "--dry-run" in line))[1:]
    left = inside(command)
    assert left.code == 2
    assert "...' in the command is still to be filled in." in left.err
    filled = inside([w.replace("...", "mine") for w in command])
    assert filled.code == 0, filled.err
    assert "mine" in filled.out


def test_what_hydra_marks_as_missing_has_a_gap_too(tmp_path):
    (tmp_path / "config.yaml").write_text("lr: 0.1\ndata: ???\n")
    read = found(tmp_path, "import hydra\n@hydra.main(config_path='.')\ndef main(cfg): ...\n")
    assert " data=..." in draft(read, "space.yaml").told


CLICK = """
import click
@click.command()
@click.option("--learning-rate", "-l", default=0.1, type=float, help="rate")
@click.option("--optim", type=click.Choice(["sgd", "adam"]), default="sgd")
@click.option("--ema/--no-ema", default=False)
@click.argument("data")
def main(**k): ...
"""
DATACLASS = """
from dataclasses import dataclass, field
from typing import Literal
from transformers import HfArgumentParser
@dataclass
class Arguments:
    model_name: str
    learning_rate: float = 5e-5
    warmup_ratio: float = field(default=0.1, metadata={"help": "part of the training"})
    optim: Literal["adamw", "sgd"] = "adamw"
    fp16: bool = False
"""
FIRE = """
import fire
def helper(a=1): ...
def train(data, lr: float = 0.01, *, width=64, verbose=True): ...
if __name__ == "__main__":
    fire.Fire(train)
"""
GLOBALS = """
out_dir = 'out'
eval_interval = 200
batch_size = 12
learning_rate = 6e-4 # max learning rate
max_iters = 5000
compile = True
_hidden = 3
config_keys = [k for k in globals()]
exec(open('configurator.py').read())
print(f"step {1}: train loss {2:.4f}, val loss {3:.4f}")
"""


def test_click_dataclasses_fire_and_globals(tmp_path):
    assert options(tmp_path, CLICK) == {
        "learning-rate": (0.1, "float"),
        "optim": ("sgd", "str"),
        "ema": (False, "bool"),
    }
    assert options(tmp_path, DATACLASS) == {
        "model_name": (UNKNOWN, "str"), "learning_rate": (5e-5, "float"), "warmup_ratio": (0.1, "float"),
        "optim": ("adamw", "str"), "fp16": (False, "bool")}  # fmt: skip
    assert options(tmp_path, FIRE) == {"lr": (0.01, "float"), "width": (64, "int"), "verbose": (True, "bool")}
    read = found(tmp_path, GLOBALS)
    assert read.style == "fire"
    assert [o.name for o in read.options] == [
        "out_dir", "eval_interval", "batch_size", "learning_rate", "max_iters", "compile"]  # fmt: skip
    told = draft(read, "space.yaml").told
    assert "--minimize val_loss --style fire --max-epochs 25 --steps-per-epoch 200" in told
    assert "--out_dir={out} --max_iters={steps}" in told


TYPER = """
from enum import Enum
from typing import Annotated, Literal, Optional
import typer
app = typer.Typer()
class Kind(str, Enum):
    plain = "sgd"
    decoupled = "adamw"
@app.command()
def train(
    data: str,
    lr: float = 3e-4,
    batch_size: Annotated[int, typer.Option("--bs", "-b", help="samples")] = 64,
    optimizer: Kind = Kind.decoupled,
    act: Literal["relu", "gelu"] = "relu",
    dropout: float = typer.Option(0.1, min=0.0, max=1.0),
    wd: Optional[float] = None,
    amp: bool = True,
    epochs: int = typer.Option(..., "--epochs"),
    runs: Annotated[str, typer.Argument()] = "runs",
    nesterov: bool = typer.Option(False, "--nesterov"),
    *, seed: int = 0,
):
    raise SystemExit("it was run")
"""


def test_typer_is_read_off_the_arguments(tmp_path):
    read = found(tmp_path, TYPER)
    assert {o.name: (o.default, o.kind) for o in read.options} == {
        "lr": (3e-4, "float"), "bs": (64, "int"), "optimizer": ("adamw", ""), "act": ("relu", "str"),
        "dropout": (0.1, "float"), "wd": (UNKNOWN, "float"), "amp": (True, "bool"), "epochs": (UNKNOWN, "int"),
        "nesterov": (False, "bool"), "seed": (0, "int")}  # fmt: skip
    by = {o.name: o for o in read.options}
    assert (by["optimizer"].choices, by["act"].choices) == (("sgd", "adamw"), ("relu", "gelu"))
    assert (by["bs"].help, by["amp"].off, by["nesterov"].off) == ("samples", "--no-amp", "")
    made = draft(read, "space.yaml")
    assert space_of(made)["optimizer"] == Choice("sgd", "adamw", default="adamw")
    assert "#amp: {type: choice, choices: [--amp, --no-amp]}" in made.text
    assert "Put {amp} into the command to search it." in " ".join(made.text.replace("# ", "").split())
    assert "main.py ... --epochs={epochs} --seed={seed}" in made.told


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("typer.run(main)", "main.py\n"),
        ("app = typer.Typer()\n@app.command('fit')\ndef f(lr: float = 0.1, epochs: int = 3): ...\n"
         "@app.command()\ndef show(path: str): ...", "main.py fit --epochs={epochs}"),
        ("app = typer.Typer()\n@app.callback()\ndef c(): ...\n@app.command()\ndef train_it(lr: float = 0.1): ...",
         "main.py train-it"),
    ],
)  # fmt: skip
def test_the_command_of_typer_that_trains_is_named_where_there_are_several(tmp_path, more, words):
    made = draft(found(tmp_path, f"import typer\ndef main(lr: float = 0.1): ...\n{more}\n"), "space.yaml")
    assert words in made.told
    assert list(space_of(made)) == ["lr"]


ENDLESS = """
p.add_argument("--max-steps", type=int, default=-1)
p.add_argument("--lr", type=float, default=0.1)
p.add_argument("--kind", default="gru", help="which cell, rnn|gru|lstm")
EVERY = 250
if step % 10 == 0:
    print(f"step {step} | loss {loss}")
if step > 0 and step % EVERY == 0:
    print(f"step {step} train loss {a} test loss {b}")
"""


def test_how_often_a_script_evaluates_is_read_and_an_endless_one_is_ended_from_outside(tmp_path):
    made = draft(found(tmp_path, ENDLESS), "space.yaml")
    assert "--minimize test_loss --max-epochs 30 --steps-per-epoch 250 --budget" in made.told
    assert "--max-steps=" not in made.told
    assert "Without --max-steps it trains until it is stopped" in made.told
    assert "An epoch of the study is an evaluation" not in made.told
    assert "#kind: {type: choice, choices: [rnn, gru, lstm], default: gru}" in made.text


def test_hydras_configuration_file(tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "base.yaml").write_text("defaults: [_self_]\noptim:\n  lr: 1e-3\n  name: adam\nseed: 3\n")
    read = found(tmp_path, "import hydra\n@hydra.main(config_path='conf', config_name='base')\ndef main(cfg): ...\n")
    assert read.style == "hydra"
    assert {o.name: o.default for o in read.options} == {"optim.lr": 1e-3, "optim.name": "adam", "seed": 3}
    made = draft(read, "space.yaml")
    assert space_of(made)["optim.lr"] == Float(1e-4, 1e-2, log=True, default=1e-3)
    assert " seed={seed}" in made.told


def test_a_script_of_which_nothing_is_known_still_gets_a_space(tmp_path):
    made = draft(found(tmp_path, "p.add_argument('--zeal', type=float, default=2.0)"), "s.yaml")
    assert space_of(made)["zeal"] == Float(0.2, 20.0, log=True, default=2.0)
    assert "No metric was found" in made.told


CONFIG = "p = argparse.ArgumentParser()\np.add_argument('--config', {more})\nprint('epoch 1 val_loss 0.5')\n"


def test_a_script_that_takes_a_configuration_file_alone_is_pointed_to_templates(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tr.py").write_text(CONFIG.format(more="default='conf/base.yaml'"))
    done = inside(["init", "tr.py"])
    assert (done.code, done.out) == (2, "")
    assert "None of the options of tr.py can be searched: --config." in done.err
    assert "under the names of the keys in the file that --config reads" in done.err
    command = (
        "luthier tune --space space.yaml --minimize val_loss --template conf/base.yaml --style none -- "
        "python tr.py --config {config}"
    )
    assert command in " ".join(done.err.split())
    assert not (tmp_path / "space.yaml").exists()
    # the printed command is one that runs, once the space is there
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "base.yaml").write_text("lr: 0.1\n")
    (tmp_path / "space.yaml").write_text("lr: {type: float, low: 0.01, high: 0.1, log: true}\n")
    assert inside([*shlex.split(command)[1:-5], "--dry-run", *shlex.split(command)[-5:]]).code == 0


def test_beside_a_configuration_file_what_is_known_is_searched_and_the_rest_said(tmp_path):
    more = "required=True)\np.add_argument('--zeal', type=float, default=2.0"
    made = draft(found(tmp_path, CONFIG.format(more=more)), "space.yaml")
    assert list(space_of(made)) == ["zeal"]
    assert "What --config reads is searched by a template:" in made.told
    more = "default='a.yaml')\np.add_argument('--lr', type=float, default=0.1"
    assert "template" not in draft(found(tmp_path, CONFIG.format(more=more)), "space.yaml").told


def test_a_script_without_anything_to_search_is_said(tmp_path):
    with pytest.raises(UserError, match=r"can be searched: --run-name\. .*give the script an option for each"):
        draft(found(tmp_path, "p.add_argument('--run-name')"), "space.yaml")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("def f(:", r"main.py is no Python: .*\(line 1\)"),
        ("print('hello')", r"has no options that could be read. Known are argparse"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, text, problem):
    with pytest.raises(UserError, match=problem):
        found(tmp_path, text)


def test_from_the_terminal_and_nothing_is_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "main.py").write_text(ARGPARSE)
    done = inside(["init", "main.py"])
    assert done.code == 0, done.err
    assert "Wrote space.yaml: 7 of 17 options to search" in done.out
    (tmp_path / "space.yaml").write_text("mine: 1\n")
    again = inside(["init", "main.py"])
    assert (again.code, again.out) == (2, "")
    assert "space.yaml exists already. Write --force to replace it" in again.err
    assert (tmp_path / "space.yaml").read_text() == "mine: 1\n"
    assert inside(["init", "main.py", "--force"]).code == 0
    missing = inside(["init", "mian.py", "-o", "other.yaml"])
    assert missing.code == 2
    assert "There is no script 'mian.py'. Did you mean 'main.py'?" in missing.err
    assert not (tmp_path / "other.yaml").exists()
