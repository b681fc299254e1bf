"""``lt.Script``: a command as a training function. Each trial runs it, reads what it prints, and reports that."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from pathlib import Path
from typing import Any

from luthier.core.errors import UserError, nearest
from luthier.core.params import Config, Value
from luthier.core.space import Space
from luthier.core.study import Study
from luthier.run.handle import Trial
from luthier.scripts import command as commands
from luthier.scripts.command import SPECIAL, STYLES, Given
from luthier.scripts.lines import Expressions
from luthier.scripts.template import Template

GRACE = 10.0
"""Seconds that a script gets by default: to finish after its last epoch, and between SIGTERM and SIGKILL."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What of a trial its command is made of.

    Args:
        config: the active hyperparameters.
        epochs: the length that the trial is meant to be trained to.
        seed: the trial's seed.
        number: the trial's number in the study.
        out: a folder of the trial's own.
        file: where its configuration file is written.
    """

    config: Config
    epochs: int
    seed: int
    number: int
    out: Path
    file: Path


@dataclass(frozen=True)
class Script:
    """A training script of any kind, unchanged: a command that is run for each trial.

    >>> script = lt.Script("python main.py --lr {learning_rate} --epochs {epochs}")
    >>> lt.tune(script, space, minimize="val_loss", max_epochs=30, budget="40 trials")

    ``{name}`` in the command is a hyperparameter's value; ``{epochs}`` (or ``{max_epochs}``) the training's length,
    ``{steps}`` that in steps, ``{seed}`` the trial's seed, ``{out}`` a folder of its own, ``{trial}`` its number,
    ``{config}`` its configuration file; ``{{`` and ``}}`` are braces. What no placeholder names is appended in the
    script's ``style``. A word with a hyperparameter that is not active is left out, and the option before it.

    Metrics are read from what the script prints, both streams: JSON lines, ``name=value`` and ``name: value``. See
    ``docs/scripts.md`` for what is understood and which epoch a number belongs to.

    Args:
        command: a string, taken apart as a shell would, or its words. No shell runs it; where one is wanted write
            ``sh -c "..."``.
        style: how hyperparameters without a placeholder reach the script, one of :data:`STYLES`.
        template: a configuration file, copied for each trial with its placeholders filled in and, in YAML and JSON,
            the keys that are called like hyperparameters overridden.
        regex: expressions with named groups, in place of what is read from the output by itself.
        csv: a table that the script writes, to read metrics from; ``{out}`` and the like may stand in it.
        tensorboard: a folder with event files, likewise.
        steps_per_epoch: what one epoch of the study is in the steps that the script prints; above 0.
        resume: arguments that make the script go on from where its trial stopped; ``{checkpoint}`` is its newest
            checkpoint. Without it a trial that was paused is trained from the beginning again, and the budget counts
            that.
        checkpoint: the files that are checkpoints, a pattern below ``{out}``.
        cwd: the folder to run in; the current one where None.
        grace: seconds to finish in after the last epoch, and between SIGTERM and SIGKILL; at least 0.
        name: what studies of it are called; the script's own name where None.

    Raises:
        UserError: a program, file or folder that is not there, and whatever else can be seen to be wrong at once.
    """

    command: str | Sequence[str]
    _: KW_ONLY
    style: str = "argparse"
    template: str | Path | Template | None = None
    regex: str | Sequence[str] = ()
    csv: str | None = None
    tensorboard: str | None = None
    steps_per_epoch: float | None = None
    resume: str | Sequence[str] | None = None
    checkpoint: str = "**/*"
    cwd: str | Path | None = None
    grace: float = GRACE
    name: str | None = None

    clones = False
    """A script restores its optimizer by itself, and with it the old values: no changed copy can go on from it."""

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("command", commands.split(self.command))
        if self.style not in STYLES:
            raise UserError(f"There is no style {self.style!r} of arguments.", nearest(self.style, STYLES))
        folder = Path(self.cwd or ".").resolve()
        if not folder.is_dir():
            raise UserError(f"The folder {str(self.cwd)!r} to run in does not exist.", "Create it, or name another.")
        put("cwd", str(folder))
        if isinstance(self.template, str | Path):
            put("template", _read_template(Path(self.template)))
        put("regex", (self.regex,) if isinstance(self.regex, str) else tuple(self.regex or ()))
        Expressions(self.regex)
        if (self.regex and (self.csv or self.tensorboard)) or (self.csv and self.tensorboard):
            raise UserError(
                "Metrics are to be read from two places at once.", "Keep one of --regex, --csv and --tensorboard."
            )
        if self.tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise UserError(
                "TensorBoard's event files need the package tensorboard.",
                'Install it: pip install "luthier[tensorboard]".',
            )
        for name, value, open_ in (("steps_per_epoch", self.steps_per_epoch, True), ("grace", self.grace, False)):
            if value is not None and (isinstance(value, bool) or not value >= 0 or (open_ and value == 0)):
                raise UserError(f"{name}={value!r} must be a number {'above' if open_ else 'of at least'} 0.", "")
        if self.resume is not None:
            put("resume", commands.split(self.resume))
        put("name", self.name or self._called())
        _check_program(self.words, folder)

    # -- what a study asks of a target ---------------------------------------------------------------------------------

    @property
    def builtin(self) -> dict[str, Any]:
        """How to make this script again, as plain data for the log."""
        held: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        if isinstance(self.template, Template):
            held["template"] = {"name": self.template.name, "text": self.template.text}
        for name in ("command", "regex", "resume"):
            held[name] = None if held[name] is None else list(held[name])
        return {"script": held}

    @classmethod
    def recalled(cls, held: Mapping[str, Any]) -> Script:
        """The inverse of :attr:`builtin`."""
        options = dict(held)
        if options.get("template") is not None:
            options["template"] = Template(**options["template"])
        return cls(options.pop("command"), **options)

    def accept(self, space: Space) -> None:
        """Whether every placeholder has a hyperparameter and every hyperparameter reaches the script.

        Raises:
            UserError: the first that does not.
        """
        inside = self._inside(space)
        special = self._special_names()
        for text in (self.csv, self.tensorboard):
            for name in commands.placeholders(text or ""):
                if name not in {*space, *special}:
                    raise UserError(f"{text!r}: there is no hyperparameter {name!r}.", nearest(name, special))
        for words, more in ((self.words, ()), (self.resume or (), ("checkpoint",))):
            commands.check(
                words,
                space,
                self.style if words is self.words else "fire",
                special=(*special, *more),
                elsewhere=inside,
                has_template=self.template is not None and words is self.words,
            )

    @property
    def shared(self) -> str:
        """A place that all trials would write to at once; empty where each has its own."""
        place = self.csv or self.tensorboard
        own = {"out", "trial", "seed"}
        return place if place and not own & set(commands.placeholders(place)) and "{out}" not in str(self.cwd) else ""

    def for_study(self, study: Study) -> Any:
        """The training function that reports what ``study`` asks for."""
        from luthier.scripts.runner import Runner

        return Runner(self, tuple(study.space), study.goals.metrics)

    def __call__(self, trial: Trial) -> None:
        """Only a study says which metric counts; :func:`luthier.tune` calls :meth:`for_study`."""
        raise UserError("A Script is trained by lt.tune(script, space, ...), which tells it the metric.")

    # -- the command ---------------------------------------------------------------------------------------------------

    @property
    def words(self) -> tuple[str, ...]:
        """The command as its words."""
        return tuple(self.command)

    @property
    def told_its_length(self) -> bool:
        """Whether the script knows how long to train, and so ends by itself."""
        names = {n for word in self.words for n in commands.placeholders(word)}
        inside = self.template.named(dict.fromkeys(SPECIAL)) if isinstance(self.template, Template) else set()
        return bool({"epochs", "max_epochs", "steps"} & (names | inside))

    def given(self, trained: Trained, names: Sequence[str]) -> Given:
        """What the command of a trial is filled in with; ``names`` are all hyperparameters of the space."""
        special: dict[str, Value] = {
            "epochs": trained.epochs,
            "max_epochs": trained.epochs,
            "seed": trained.seed,
            "out": str(trained.out),
            "trial": trained.number,
        }
        if self.steps_per_epoch is not None:
            special["steps"] = round(trained.epochs * self.steps_per_epoch)
        if self.template is not None:
            special["config"] = str(trained.file)
        return Given(trained.config, [n for n in names if n not in trained.config], special)

    def words_for(self, trained: Trained, space: Space | Sequence[str], checkpoint: str | None = None) -> list[str]:
        """The words that are run for a trial; with a ``checkpoint`` (or "") those that make it go on."""
        given = self.given(trained, tuple(space))
        out = commands.build(self.words, given, self.style, self._inside(space))
        if checkpoint is not None:
            more = replace(given, special={**(given.special or {}), "checkpoint": checkpoint})
            out += commands.build(tuple(self.resume or ()), more, self.style, tuple(trained.config))
        return out

    def text_for(self, trained: Trained, space: Space | Sequence[str]) -> str | None:
        """The configuration file of a trial; None without a template."""
        if not isinstance(self.template, Template):
            return None
        return self.template.render(self.given(trained, tuple(space)), self.template.keys(tuple(space)))

    def path(self, text: str, trained: Trained, names: Sequence[str]) -> Path:
        """A place that may have placeholders in it, below the folder to run in."""
        return Path(str(self.cwd)) / commands.fill(text, self.given(trained, names), self.style)

    def _inside(self, space: Space | Sequence[str]) -> set[str]:
        """The hyperparameters that reach the script by its configuration file."""
        if not isinstance(self.template, Template):
            return set()
        return self.template.named(tuple(space)) | set(self.template.keys(tuple(space)))

    def _special_names(self) -> tuple[str, ...]:
        left_out = {"steps"} if self.steps_per_epoch is None else set()
        if self.template is None:
            left_out.add("config")
        return tuple(name for name in SPECIAL if name not in left_out)

    def _called(self) -> str:
        own = next((w for w in self.words if w.endswith((".py", ".sh", ".jl", ".R", ".lua"))), self.words[0])
        return Path(own).stem or "script"


def _read_template(path: Path) -> Template:
    try:
        return Template(path.name, path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(
            f"There is no template {str(path)!r}.", nearest(path.name, beside[:50]) or "Check the path."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The template {str(path)!r} cannot be read: {error}.", "Name a text file.") from None


def _check_program(words: Sequence[str], folder: Path) -> None:
    """Refuse a program that is not there, an interpreter whose script is not, and a gap that luthier init left."""
    program = words[0]
    for word in words:
        if word == "..." or word.endswith("=..."):
            raise UserError(f"{word!r} in the command is still to be filled in.", "Put the script's own value there.")
    place = str(folder / program) if os.sep in program and not os.path.isabs(program) else program
    if any(map(str.isspace, program)) and shutil.which(place) is None:
        raise UserError(
            f"The program {program!r} was not found: it is several words in quotes.",
            f"Write them one by one: {program}",
        )
    if "{" in program:
        return
    if shutil.which(place) is None:
        there = Path(place).is_file()
        mend = f"Make it executable: chmod +x {program}." if there else "Check its spelling, or name its whole path."
        raise UserError(f"The program {program!r} {'is not executable' if there else 'was not found'}.", mend)
    script = next((w for w in words[1:3] if not w.startswith("-")), "")
    if (
        Path(program).name.startswith("python")
        and script.endswith(".py")
        and "{" not in script
        and "-m" not in words[:2]
    ):
        path = folder / script
        if not path.is_file():
            beside = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
            raise UserError(
                f"There is no script {script!r} in {folder}.", nearest(path.name, beside[:50]) or "Check the path."
            )
