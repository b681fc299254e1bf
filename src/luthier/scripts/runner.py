"""One job of a script: run it, follow what it says, report, end it when its time has come."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.run.handle import EndOfTrial, Trial
from luthier.run.perform import TrainingFailed
from luthier.scripts import launched
from luthier.scripts.files import CsvFile, Events
from luthier.scripts.gather import Gatherer, Report
from luthier.scripts.lines import Expressions, Row, Stream
from luthier.scripts.names import Names, alike
from luthier.scripts.process import Process, environment
from luthier.scripts.script import Script, Trained

SETTLE = 0.5
"""Seconds without a number after which what was said of an epoch is taken for all of it."""
LOOK = 0.1
"""Seconds between looks at a file that grows and at whether to stop."""
STABLE = 0.2
"""Seconds after which a file that nobody wrote to is taken for whole."""
CHECKPOINTS = {
    ".pt",
    ".pth",
    ".ckpt",
    ".bin",
    ".safetensors",
    ".h5",
    ".keras",
    ".pkl",
    ".npz",
    ".tar",
    ".msgpack",
    ".eqx",
}
"""What checkpoints are called where the user does not say."""


@dataclass(frozen=True, slots=True)
class Runner:
    """A script as the training function of one study.

    Args:
        script: the script.
        names: every hyperparameter of the space.
        metrics: what the study asks for, the metric that leads first.
    """

    script: Script
    names: tuple[str, ...]
    metrics: tuple[str, ...]

    def __call__(self, trial: Trial) -> None:
        """Train ``trial`` as far as it is to be trained now.

        Raises:
            TrainingFailed: the script failed, or never said the metric.
            EndOfTrial: the trial was trained as far as it was to be, or was stopped.
        """
        _Job(self, trial).run()


class _Job:
    """The run of a script for one job."""

    def __init__(self, runner: Runner, trial: Trial) -> None:
        self.script, self.names = runner.script, runner.names
        self.trial = trial
        self.place = trial.folder
        self.trained = Trained(
            trial.config, trial.max_epochs, trial.seed, trial.id, self.place / "out", self._config_file()
        )
        self.resumed = trial.start > 0 and self.script.resume is not None
        self.memory = self._remembered() if self.resumed else {}
        self.words = self.script.words_for(self.trained, self.names, self.memory["path"] if self.resumed else None)
        self.metrics = Names(runner.metrics)
        self.gatherer = Gatherer(
            self.metrics,
            start=trial.start if self.resumed else 0,
            steps_per_epoch=self.script.steps_per_epoch,
            length=trial.max_epochs if self.script.told_its_length else None,
            shift=self.memory.get("shift"),
        )
        self.last: list[str] = []
        # When the metric was said last, when that was for the latest report, and for the one before.
        self.said = self.heard = self.heard_before = time.time()

    # -- running -------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        out = self.trained.out
        if not self.resumed:
            shutil.rmtree(out, ignore_errors=True)
        else:
            self.trial.epoch = self.trial.start
        out.mkdir(parents=True, exist_ok=True)
        text = self.script.text_for(self.trained, self.names)
        if text is not None:
            self.trained.file.write_text(text, encoding="utf-8")
        more = {"LUTHIER_TRIAL": str(self.trial.id), "LUTHIER_OUT": str(out), "LUTHIER_SEED": str(self.trial.seed),
                "LUTHIER_EPOCHS": str(self.trial.max_epochs),
                **launched.settings(self.place, os.environ)}  # fmt: skip
        shutil.rmtree(self.place / launched.FOLDER, ignore_errors=True)
        cwd = Path(str(self.script.cwd))
        source = self._source()
        with (self.place / "output.log").open("ab") as log:
            log.write(f"$ {shlex.join(self.words)}\n".encode())
            log.flush()
            with Process(
                self.words, cwd=cwd, env=environment(os.environ, more), log=log, grace=self.script.grace
            ) as process:
                try:
                    self._follow(process, source)
                except EndOfTrial:
                    if not self.trial.should_stop:
                        self._heard_of_it()
                    self._let_finish(process)
                    raise
            self._judge(process)

    def _follow(self, process: Process, source: CsvFile | Events | None) -> None:
        """Report what the script says until it has ended."""
        expressions = Expressions(self.script.regex) if self.script.regex else None
        streams = {n: Stream(self.metrics, self.trial.max_epochs, expressions) for n in ("stdout", "stderr")}
        said = time.monotonic()
        while process.running:
            rows: list[Row] = []
            for name, text in process.read(LOOK):
                self.last = [*self.last, *text.splitlines()][-5:]
                if source is None:
                    rows += streams[name].feed(text)
            if source is not None:
                rows += source.read()
            self._take(rows)
            now = time.monotonic()
            if any(rows):
                said = now
            elif now - said > SETTLE:
                self._report(self.gatherer.settle())
            if self.trial.should_stop:
                raise EndOfTrial
            if self.gatherer.mistyped():
                self._silent()
        rest = source.read(final=True) if source is not None else [r for s in streams.values() for r in s.end()]
        self._take(rest)
        self._report([(min(epoch, self.trial.until), values) for epoch, values in self.gatherer.finish()])

    def _take(self, rows: Iterable[Row]) -> None:
        for row in rows:
            if self.metrics.asked[0] in row.values:
                self.said = time.time()
            self._report(self.gatherer.feed(row))
            if self.gatherer.beyond >= self.trial.until:
                self.trial.epoch = self.trial.until
                raise EndOfTrial

    def _report(self, reports: Sequence[Report]) -> None:
        for epoch, values in reports:
            if epoch > self.trial.until:  # it says the metric now and then, and was next to say it beyond its time
                self.trial.epoch = self.trial.until
                raise EndOfTrial
            self.heard_before, self.heard = self.heard, self.said
            self.trial.report(values, epoch=epoch)

    def _let_finish(self, process: Process) -> None:
        """A script that knows its length saves and tests at its end, one that is to go on later saves now: it gets the
        time for that."""
        pauses = self.trial.until < self.trial.max_epochs
        if self.trial.should_stop or not (self.script.resume is not None if pauses else self.script.told_its_length):
            return
        until = time.monotonic() + self.script.grace
        while process.running and time.monotonic() < until and not self.trial.should_stop:
            if pauses and self._fresh() and self.keep():
                return
            process.read(LOOK)
        if pauses and not process.running and process.code == 0:
            self.keep()

    # -- how it ended --------------------------------------------------------------------------------------------------

    def _judge(self, process: Process) -> None:
        """Say why it failed, if it did."""
        code = process.code
        if process.unstartable:
            raise TrainingFailed("died", f"{self.words[0]!r} cannot be started: {process.unstartable}")
        if code is None:
            raise TrainingFailed("killed", "the process that guards its script was killed", process.tail())
        tail = process.tail()
        final = tail.splitlines()[-1].strip()[:300] if tail else ""
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
            raise TrainingFailed("killed", f"its script was killed by {name}", tail)
        if code > 0:
            told = launched.cause(self.place, tail)
            if told is not None:
                raise TrainingFailed("died", told[0][:300], told[1])
            raise TrainingFailed("died", f"the script exited with code {code}" + (f": {final}" if final else ""), tail)
        self._heard_of_it()

    def _heard_of_it(self) -> None:
        """Fail where the metric never came; a script that went on may have been at its end already."""
        if not self.gatherer.told and not self.resumed:
            self._silent()

    def _silent(self) -> None:
        """The metric never came: what did, and what to do."""
        metric, seen = self.metrics.asked[0], [name for name, _ in self.gatherer.seen.most_common(40)]
        if seen:
            where = self.script.csv or self.script.tensorboard or "the script's output"
            raise TrainingFailed(
                "silent",
                f"The metric {metric!r} was never reported: {where} told {', '.join(seen[:12])}.",
                alike(metric, seen),
            )
        place = self.script.csv or self.script.tensorboard
        if place:
            reason = f"No metric was found in {str(self.script.path(place, self.trained, self.names))!r}."
            mend = "Check where the script writes; {out} in the command and in the path names a folder of each trial."
        elif self.script.regex:
            reason, mend = "No line of the script's output fits the expression.", "Try it on a line of its output."
        else:
            reason = "The script printed no metric."
            mend = f"Let it print {metric}=0.5 after each epoch, or say where it logs: --csv, --tensorboard or --regex."
        last = " | ".join(line.strip()[:120] for line in self.last if line.strip())
        raise TrainingFailed("silent", f"{reason} Its last lines: {last}" if last else reason, mend)

    # -- going on later ------------------------------------------------------------------------------------------------

    def keep(self) -> bool:
        """Copy the newest checkpoint for a later job; whether that could be done while nobody wrote to it.

        The script may be ended at any moment, and then leaves half a file.
        """
        path = Path(self._checkpoint())
        if not path.name:
            return False
        name = f"checkpoints/trial-{self.trial.id:05d}/epoch-{self.trial.epoch:05d}.ckpt"
        kept = self.place.parents[1] / name
        kept.parent.mkdir(parents=True, exist_ok=True)
        before = path.stat()
        if path.is_file():
            shutil.copyfile(path, kept)
        else:
            kept.touch()  # a folder stays where it is
        after = path.stat()
        if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
            kept.unlink()
            return False
        held = {"checkpoint": str(path.relative_to(self.trained.out)), "shift": self.gatherer.shift}
        kept.with_suffix(".json").write_text(json.dumps(held), encoding="utf-8")
        self.trial.saved = name
        return True

    def _fresh(self) -> bool:
        """Whether the newest checkpoint is that of the latest report, and nobody has written to it for a while.

        Some scripts save before they say how an epoch went, some after: the one of the epoch before is nearer to the
        report before.
        """
        path = self._checkpoint()
        if not path:
            return False
        at = os.stat(path).st_mtime
        return time.time() - at > STABLE and (at > self.heard or self.heard - at < at - self.heard_before)

    def _remembered(self) -> dict[str, Any]:
        """What an earlier job noted; its checkpoint is put back to where the script left it."""
        folder = self.place.parents[1] / f"checkpoints/trial-{self.trial.id:05d}"
        kept = folder / f"epoch-{self.trial.start:05d}.ckpt"
        try:
            held: dict[str, Any] = json.loads(kept.with_suffix(".json").read_text(encoding="utf-8"))
            path = self.trained.out / held["checkpoint"]
            if not path.is_dir():
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(kept, path)
        except (OSError, ValueError, KeyError) as error:
            raise TrainingFailed("died", f"its checkpoint cannot be read: {error}") from None
        return {**held, "path": str(path)}

    def _checkpoint(self) -> str:
        """The newest checkpoint in the trial's own folder; empty where there is none."""
        pattern = self.script.checkpoint
        found = [p for p in self.trained.out.glob(pattern) if p.is_file() or pattern != "**/*"]
        if pattern == "**/*":
            found = [p for p in found if p.suffix in CHECKPOINTS]
        return str(max(found, key=lambda p: p.stat().st_mtime_ns, default=""))

    def _source(self) -> CsvFile | Events | None:
        if self.script.csv is not None:
            return CsvFile(self.script.path(self.script.csv, self.trained, self.names), self.metrics)
        if self.script.tensorboard is not None:
            return Events(self.script.path(self.script.tensorboard, self.trained, self.names), self.metrics)
        return None

    def _config_file(self) -> Path:
        template = self.script.template
        return self.place / (getattr(template, "name", None) or "config")
