"""A first search space from a script's options: ranges of the knowledge base around the script's own defaults; pure."""

from __future__ import annotations

import math
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from luthier.core.errors import UserError
from luthier.core.metrics import guess_direction
from luthier.core.params import Choice, Float, Int, Param
from luthier.core.space import Space
from luthier.knowledge.roles import Role, role
from luthier.scripts.lines import parse
from luthier.scripts.names import Names
from luthier.scripts.options import Found
from luthier.scripts.source import UNKNOWN, Option

ACTIVE = ("grad_clip", "label_smoothing", "drop_path")
"""Roles that are searched from the start beyond those on a practitioner's short list."""
LATER = (5,)
"""Tiers that a first space leaves alone."""
PLACES = ("out_dir", "output_dir", "save_dir", "log_dir", "logdir", "work_dir", "workdir", "checkpoint_dir", "outdir",
          "results_dir", "save_path", "run_dir")  # fmt: skip
WRITTEN = {"save", "checkpoint", "ckpt", "output", "out"}
STEPS = ("max_iters", "max_steps", "num_steps", "train_steps", "total_steps", "num_iters", "iterations", "max_iter",
         "num_iterations", "n_iters", "n_steps")  # fmt: skip
BETWEEN = ("eval_interval", "eval_every", "eval_steps", "val_interval", "val_every", "eval_freq", "test_interval")
FILES = {"config", "cfg", "conf", "configuration", "config_file", "cfg_file", "config_path", "cfg_path", "yaml", "json"}
WIDE, FAR = 10.0, 4.0
"""A rate is searched within a factor of ten of the script's own, a size within one of four. Judgements of ours."""
EPOCHS = 30


@dataclass(frozen=True, slots=True)
class Draft:
    """What is written and what is said.

    Args:
        text: of ``space.yaml``.
        told: what the user reads, the command to run next in its last lines.
    """

    text: str
    told: str


@dataclass(frozen=True, slots=True)
class _Taken:
    option: Option
    param: Param | None
    known: Role | None
    why: str


def draft(found: Found, space_file: str) -> Draft:
    """The search space and the command for a script's options.

    Raises:
        UserError: there is nothing to search among them, as where all is in a configuration file.
    """
    fixed = _fixed(found.options)
    endless = [o for o in found.options if fixed.get(o.name) == "{steps}" and _unbounded(o)]
    taken = [_taken(o, found) for o in found.options if o.name not in fixed]
    active = [t for t in taken if t.param is not None]
    if not active:  # better one line to begin with than none
        active = [t for t in (_forced(t) for t in taken) if t.param is not None][:1]
        taken = [next((a for a in active if a.option is t.option), t) for t in taken]
        if not active:
            raise _nothing(found, space_file)
    lines = [
        f"# A first search space for {found.path.name}, made by luthier init from its options; edit it freely.",
        "# Ranges lie around the script's own defaults, which a study begins with and is compared with.",
        "",
    ]
    tiers = sorted({t.known.tier for t in active if t.known is not None})
    for tier in (*tiers, None):
        for t in active:
            if (t.known.tier if t.known is not None else None) == tier:
                lines += [*_comment(t.why), _line(t.option.name, t.param), ""]
    rest = [t for t in taken if t.param is None]
    known = [t for t in rest if t.known is not None]
    if known:
        lines.append("# Known, and left alone at first. Take away the # to search one.")
        for t in known:
            lines += [*_comment(t.why), f"#{_line(t.option.name, _forced(t).param)}"]
        lines.append("")
    unknown = [t for t in rest if t.known is None]
    if unknown:
        lines.append("# No role of these is known. Those that matter for quality can be searched all the same.")
        lines += [f"#{_line(t.option.name, _forced(t).param)}{_default_note(t.option)}" for t in unknown]
        lines.append("")
    told = [f"Wrote {space_file}: {len(active)} of {len(found.options)} options to search"
            + (f" ({', '.join(t.option.name for t in active)})." if active else ".")]  # fmt: skip
    told += ["", "Try the command, then tune:", "", *_commands(found, fixed, active, space_file)]
    if needed := [*found.arguments, *(_flag(found, o) for o in _needed(found, fixed, active))]:
        told += [
            "",
            f"The script does not run without {' and '.join(needed)}: put what it is to get in the place of ...",
        ]
    if (file := _file_option(found)) is not None and not any(t.known for t in active):
        told += [
            "",
            f"What {_flag(found, file)} reads is searched by a template:",
            "",
            _templated(found, file, space_file),
        ]
    for option in endless:
        told += [
            "",
            f"Without --{option.name} it trains until it is stopped: Luthier ends it after its last evaluation.",
        ]
    return Draft("\n".join(lines).rstrip() + "\n", "\n".join(told))


def _nothing(found: Found, space_file: str) -> UserError:
    names = ", ".join(_flag(found, o) for o in found.options)
    problem = f"None of the options of {found.path.name} can be searched: {names}."
    line = "lr: {type: float, low: 1e-5, high: 0.1, log: true}"
    by_hand = f"Write {space_file} by hand, a line a hyperparameter such as {line}"
    file = _file_option(found)
    if file is None:
        return UserError(problem, f"{by_hand}, and give the script an option for each (docs/scripts.md).")
    return UserError(
        problem,
        f"{by_hand}, under the names of the keys in the file that {_flag(found, file)} reads, and have that file "
        f"written anew for each trial (docs/scripts.md):\n\n{_templated(found, file, space_file)}",
    )


def _file_option(found: Found) -> Option | None:
    """The option that names a configuration file."""
    return next(
        (
            o
            for o in found.options
            if o.kind in ("", "str")
            and (_plain(o.name) in FILES or str(o.default).lower().endswith((".yaml", ".yml", ".json", ".toml")))
        ),
        None,
    )


def _templated(found: Found, file: Option, space_file: str) -> str:
    """``luthier tune`` of a script that reads its hyperparameters from a file."""
    base = file.default if isinstance(file.default, str) and file.default else "base.yaml"
    goal = _goal(found)
    words = ["python", str(found.path), *([found.command] if found.command else []), *("..." for _ in found.arguments)]
    given = f"{_flag(found, file)}{' ' if found.style == 'argparse' else '='}{{config}}"
    return (
        f"  luthier tune --space {shlex.quote(space_file)} {goal} --template {shlex.quote(base)} --style none -- "
        f"{shlex.join(words)} {given}"
    )


def _flag(found: Found, option: Option) -> str:
    return option.short or f"{_mark(found)}{option.name}"


# -- options -----------------------------------------------------------------------------------------------------------


def _plain(name: str) -> str:
    return name.replace("-", "_").lower().rsplit(".", 1)[-1]


def _fixed(options: Sequence[Option]) -> dict[str, str]:
    """Options that the command fills in by itself, with their placeholders."""
    fixed: dict[str, str] = {}
    for option in options:
        name, known = _plain(option.name), role(option.name)
        if name in STEPS:
            fixed[option.name] = "{steps}"
        elif known is not None and known.name == "epochs" and known.counts(option.name):
            fixed[option.name] = "{epochs}"
        elif known is not None and known.name == "seed":
            fixed[option.name] = "{seed}"
        elif name in PLACES:
            fixed[option.name] = "{out}"
        elif isinstance(option.default, str) and "." in option.default and set(name.split("_")) & WRITTEN:
            fixed[option.name] = "{out}/" + option.default.rsplit("/", 1)[-1]  # a file that trials would overwrite
    if "{epochs}" in fixed.values():  # steps beside epochs are some other bound
        fixed = {n: p for n, p in fixed.items() if p != "{steps}"}
    return {n: p for i, (n, p) in enumerate(fixed.items()) if p not in list(fixed.values())[:i]}


def _needed(found: Found, fixed: dict[str, str], active: Sequence[_Taken]) -> list[Option]:
    """Options that the script insists on and that neither a placeholder nor the space gives."""
    given = {*fixed, *(t.option.name for t in active)}
    return [o for o in found.options if o.required and o.name not in given]


def _mark(found: Found) -> str:
    return "" if found.style == "hydra" else "--"


def _unbounded(option: Option) -> bool:
    """Whether a script runs on for ever by itself: it is ended from outside, after just the evaluation that was wanted.
    Told a number of steps it may end before that."""
    return isinstance(option.default, int) and option.default <= 0


def _taken(option: Option, found: Found) -> _Taken:
    known = role(option.name)
    if known is None:
        return _Taken(option, None, None, "")
    where = f"{_said(option)}, {found.path.name} line {option.line}" if option.line else _said(option)
    why = f"{known.title} (tier {known.tier}). {known.advice} The script's own: {where}."
    param = None
    if (known.listed or known.name in ACTIVE) and known.tier not in LATER and known.name not in ("epochs", "patience"):
        param = _param(option, known, found.options)
    if param is None:
        why = f"{known.title} (tier {known.tier}); the script's own: {where}. Leave it alone: {known.skip or '-'}"
    if isinstance(param, Float | Int) and param.log and option.default == 0:
        why += " A log scale has no 0, so a study begins with what is usual instead."
    if option.off:
        why += f" Put {{{option.name}}} into the command to search it."
    return _Taken(option, param, known, why)


def _forced(taken: _Taken) -> _Taken:
    """The same with the range that it would have, whoever it is."""
    param = _param(taken.option, taken.known, ()) or _guess(taken.option)
    return _Taken(taken.option, param, taken.known, taken.why or "no role is known of it")


def _said(option: Option) -> str:
    return "unknown" if option.default is UNKNOWN else repr(option.default)


def _default_note(option: Option) -> str:
    told = [f"put {{{option.name}}} into the command"] if option.off else []
    told += [" ".join(option.help.split())[:90]] if option.help else []
    return "; ".join([f"  # the script's own: {_said(option)}", *told])


# -- ranges ------------------------------------------------------------------------------------------------------------


def _param(option: Option, known: Role | None, options: Sequence[Option]) -> Param | None:
    """What to search for an option of a role; None where that cannot be told."""
    default = option.default
    if option.choices:
        return _choice(option.choices, default)
    if known is None or option.kind in ("bool", "str"):
        return _guess(option) if option.kind == "bool" else None
    number = default if isinstance(default, int | float) and not isinstance(default, bool) else None
    if known.name in ("width", "heads"):
        other = next((o for o in options if (r := role(o.name)) is not None and r.name == "heads"), None)
        if known.name == "heads" and any((r := role(o.name)) is not None and r.name == "width" for o in options):
            return None
        if other is not None and isinstance(other.default, int) and isinstance(number, int) and number > 1:
            step = max(1, other.default)  # the heads must divide it
            sizes = {max(step, round(number * f / step) * step) for f in (0.5, 1.0, 2.0)} | {number}
            return Choice(*sorted(sizes), default=number)
    low, high = (known.low, known.high) if known.counts(option.name) else (None, None)
    if option.kind == "int" or (option.kind == "" and isinstance(number, int)):
        return _whole(number, low, high, known.log or not known.counts(option.name))
    return _real(None if number is None else float(number), low, high, known.log)


def _choice(choices: Sequence[Any], default: Any) -> Param | None:
    plain = [c for c in choices if c is None or isinstance(c, str | int | float | bool)]
    if len(plain) < 2 or len({(type(c), c) for c in plain}) < len(plain):
        return None
    return Choice(*plain, default=default if default in plain else None)


def _whole(number: float | None, low: float | None, high: float | None, log: bool) -> Param | None:
    default = None if number is None or not float(number).is_integer() else int(number)
    if default is None or default <= 0:
        if low is None or high is None or int(low) >= int(high):
            return None
        least, most = int(low), int(high)
        if default is not None:
            least, most = min(least, default), max(most, default)
        return Int(least, most, log and least > 0, default=default)
    a, b = (default / FAR, default * FAR) if log else (default / 2, default * 2.0)
    a, b = _within(a, b, default, low, high)
    return Int(min(max(1, math.floor(a)), default), max(default + 1, math.ceil(b)), log, default=default)


def _real(default: float | None, low: float | None, high: float | None, log: bool) -> Param | None:
    if default is None or not math.isfinite(default) or (default <= 0 and log) or default == 0:
        if low is None or high is None:
            return None
        known = default if default is not None and low <= default <= high else None
        return Float(low, high, log, default=known)
    if log or low is None or high is None:
        a, b = _within(default / WIDE, default * WIDE, default, low, high)
        return Float(_round(a), _round(b), default > 0, default=default) if a < b else None
    return Float(min(low, default), max(high, default), default=default)


def _within(a: float, b: float, default: float, low: float | None, high: float | None) -> tuple[float, float]:
    """The range moved into what is worth searching, as long as the default keeps room on both sides."""
    if low is not None and low < default:
        a = max(a, low)
    if high is not None and high > default:
        b = min(b, high)
    return a, b


def _round(x: float) -> float:
    return float(f"{x:.6g}")


def _guess(option: Option) -> Param | None:
    """A range for an option of which only the default is known."""
    if option.kind == "bool":
        return Choice(f"--{option.name}", option.off) if option.off else Choice(False, True)
    number = option.default
    if isinstance(number, bool) or not isinstance(number, int | float) or number <= 0:
        return None
    return _whole(number, None, None, True) if isinstance(number, int) else _real(float(number), None, None, True)


# -- text --------------------------------------------------------------------------------------------------------------


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 110, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _line(name: str, param: Param | None) -> str:
    if param is None:
        return f"{name}: "
    return Space({name: param}).to_yaml().strip()


def _commands(found: Found, fixed: dict[str, str], active: Sequence[_Taken], space_file: str) -> list[str]:
    """``luthier tune`` for this script, first to look and then to run."""
    metric = _metric(found.printed)
    interval = _interval(found, metric)
    per_epoch = interval or 1000
    options = [f"--space {shlex.quote(space_file)}", _goal(found)]
    if found.style != "argparse":
        options.append(f"--style {found.style}")
    if "{steps}" in fixed.values():
        steps = next((o.default for o in found.options if fixed.get(o.name) == "{steps}"), None)
        many = round(steps / per_epoch) if isinstance(steps, int) and steps >= per_epoch else EPOCHS
        options += [f"--max-epochs {max(1, many)}", f"--steps-per-epoch {per_epoch}"]
    else:
        length = next((o.default for o in found.options if fixed.get(o.name) == "{epochs}"), None)
        options.append(f"--max-epochs {length if isinstance(length, int) and length > 0 else EPOCHS}")
    unbounded = {o.name for o in found.options if _unbounded(o)}
    given = {n: v for n, v in fixed.items() if v != "{steps}" or n not in unbounded}
    words = ["python", str(found.path), *([found.command] if found.command else [])]
    words += ["..." for _ in found.arguments]
    for o in _needed(found, fixed, active):
        words += [o.short, "..."] if o.short else [f"{_mark(found)}{o.name}=..."]
    words += [f"{_mark(found)}{name}={value}" for name, value in given.items()]
    words += [f"{{{t.option.name}}}" for t in active if t.option.off]
    words += [w for t in active if t.option.short for w in (t.option.short, f"{{{t.option.name}}}")]
    command = " ".join(w if w.startswith(("--", "-")) or "{" in w else shlex.quote(w) for w in words)
    head = f"  luthier tune {' '.join(options)}"
    lines = [f"{head} --dry-run -- {command}", f'{head} --budget "40 trials" -- {command}']
    if "{steps}" in fixed.values() and interval is None:
        lines += ["", f"An epoch of the study is an evaluation: put how many steps lie between two for {per_epoch}."]
    lines += ["", 'A budget may be a time too, "1h"; --workers N trains N at once.']
    if not metric:
        lines += ["", "No metric was found in what it prints: put its own name in the place of val_loss."]
    return lines


def _goal(found: Found) -> str:
    """``--minimize`` or ``--maximize`` with the metric that is printed, ``val_loss`` where none is."""
    metric = _metric(found.printed)
    direction = "maximize" if metric and guess_direction(metric) == "maximize" else "minimize"
    return f"--{direction} {metric or 'val_loss'}"


def _interval(found: Found, metric: str | None) -> int | None:
    """How many steps lie between two evaluations, by an option or by the source; None where neither tells."""
    option = next((o.default for o in found.options if _plain(o.name) in BETWEEN and isinstance(o.default, int)), None)
    names = Names(())
    told = (n for n, text in found.evaluated for line in text.splitlines() if metric in parse(line, names).values)
    return option or next(told, None)


def _metric(printed: Sequence[str]) -> str | None:
    """The metric that a script most likely wants to be judged by, from what it prints."""
    names = Names(())
    seen = dict.fromkeys(n for text in printed for line in text.splitlines() for n in parse(line, names).values)

    def rank(name: str) -> tuple[int, int, int]:
        split = 0 if name.startswith("val_") else 1 if name.startswith("test_") else 2
        kind = 0 if name.endswith("accuracy") else 1 if name.endswith("loss") else 2
        return split, kind, len(name)

    told = [n for n in seen if guess_direction(n) is not None and not n.startswith("train_")]
    return min(told, key=rank, default=None)
