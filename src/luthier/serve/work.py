"""A worker on a machine that shares nothing with the server: asks, trains as any worker does, reports over HTTP."""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from luthier.contracts import Job
from luthier.core import events as ev
from luthier.core.errors import LuthierError, RunError
from luthier.core.study import Study
from luthier.run.checkpoint import Damaged, digest_of, remove
from luthier.run.interrupts import Interrupted, Interrupts
from luthier.run.perform import perform
from luthier.run.worker import MARK
from luthier.serve.client import PATIENCE, Broken, Client, LeaseLost, Unstored
from luthier.serve.pack import is_packed, pack, unpack
from luthier.serve.states import name_of

WAIT = 5.0
"""Seconds that the server may think about a job: a worker that is asked to leave meanwhile does so then."""
LEAVING = "Asked to leave: the job is saved after its epoch and given back; once more to leave at once."
BEATS = 4
"""Signs of life in the time of a lease."""


def work(
    url: str,
    target: Callable[..., Any],
    *,
    token: str | None = None,
    folder: Path | None = None,
    patience: float = PATIENCE,
    say: Callable[[str], None] = lambda text: None,
) -> int:
    """Train what the server hands out until the study is over; returns how many jobs were done.

    Args:
        url: the server's address.
        target: the training function, recipe or script.
        token: what the server asks for.
        folder: where trainings write; a temporary folder, removed at the end, where None.
        patience: seconds for which the server may be away.
        say: is told what happens.

    Raises:
        Interrupted: it was asked to stop; its job was saved and given back.
        UserError: the address or the token is wrong.
        RunError: the server did not come back, or cannot go on.
    """
    worker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    with Interrupts(lambda _: say(LEAVING)) as asked, _place(folder) as files:
        client = Client(url, token, patience=patience, leave=asked)
        try:
            told = client.study()
            say(f"Working for the study {told['name']!r} at {url}: {told['goal']}")
            if hasattr(target, "for_study"):  # a script, which reads the metrics that are asked for
                target = target.for_study(Study.from_dict(told["study"]))
            done = 0
            while not asked():
                answer = client.ask(worker, WAIT)
                if answer["state"] == "done":
                    say(f"The study is over: {answer['why']}.")
                    return done
                if answer["state"] == "job":
                    _Hand(client, answer, files, asked, say).train(target)
                    done += 1
            assert asked.signal is not None
            raise Interrupted(asked.signal)
        finally:
            client.close()


@contextmanager
def _place(folder: Path | None) -> Any:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="luthier-work-", ignore_cleanup_errors=True) as place:
            yield Path(place)


class _Hand:
    """One job in this worker's hands.

    Args:
        answer: the job, as the server told it.
        files: where this worker's files lie.
        asked: whether the worker was asked to leave.
    """

    def __init__(
        self,
        client: Client,
        answer: Mapping[str, Any],
        files: Path,
        asked: Callable[[], bool],
        say: Callable[[str], None],
    ) -> None:
        self._client = client
        self._lease: str = answer["lease"]
        self._sources: list[dict[str, Any]] = answer["sources"]
        self._largest: int = answer["largest"]
        self._pause = answer["lease_seconds"] / BEATS
        self._files = files
        self._asked = asked
        self._say = say
        self._stopped = threading.Event()
        self._trouble: LuthierError | None = None
        self._lost = False
        self._fetched: str | None = None
        self.job = Job(**{k: answer[k] for k in ("trial", "config", "seed", "start", "until", "horizon", "probe")})

    def train(self, target: Callable[..., Any]) -> None:
        """Train it and say what came of it.

        Raises:
            RunError: the server did not answer, or cannot go on.
        """
        over = threading.Event()
        beating = threading.Thread(target=self._beat, args=(over,), daemon=True)
        beating.start()
        begun: list[Path] = []
        try:
            self._say(MARK.format(trial=self.job.trial, start=self.job.start + 1, until=self.job.until))
            job = self._begin()
            begun = [self._files / job.checkpoint] if job.checkpoint else []
            perform(target, job, send=self._send, stopped=self._stopped.is_set, files=self._files, parked=self._asked)
        except LeaseLost as error:
            self._lose(error)
        except OSError as error:
            self._client.say(self._lease, "give-back", {"epoch": 0})
            raise RunError(f"What the job goes on from cannot be written here: {error}.") from None
        except KeyboardInterrupt:  # asked twice: leave now, and leave the job to others
            with suppress(httpx.HTTPError, LuthierError):
                self._client.say(self._lease, "give-back", {"epoch": 0}, once=True)
            raise
        finally:
            over.set()
            beating.join()
            for place in begun:
                remove(place)
        if self._trouble is not None:
            raise self._trouble

    def _begin(self) -> Job:
        """The job with what it goes on from: the best state that arrives whole, else the beginning."""
        for source in self._sources:
            name = f"{name_of(self.job.trial, source['epoch'])}.begin"
            place = self._files / name
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                if not source["sha256"]:
                    raise Broken("its worker kept it for itself")
                self._client.download(self._lease, source["sha256"], place)
                if is_packed(place):
                    packed = place.with_suffix(".packed")
                    place.replace(packed)
                    unpack(packed, place)
                    remove(packed)
            except (Broken, Damaged) as error:
                remove(place)
                self._tell_lost(source["sha256"], str(error))
                continue
            self._fetched = source["sha256"]
            clone = (
                self.job.trial if source["clone"] else None
            )  # whose it is does not matter, only that it is another's
            return replace(self.job, start=source["epoch"], checkpoint=name, clone_of=clone)
        return replace(self.job, start=0)

    def _beat(self, over: threading.Event) -> None:
        """Signs of life, and an ear for a stop, while an epoch takes long."""
        while not over.wait(self._pause):
            try:
                if self._client.say(self._lease, "heartbeat", once=True)["answer"] == "stop":
                    self._stopped.set()
            except LeaseLost as error:
                self._lose(error)
            except (httpx.HTTPError, LuthierError):
                pass  # the next report tries again, and long enough

    def _lose(self, error: LeaseLost) -> None:
        if not self._lost:
            self._say(f"{error} What was trained since its last report is lost.")
        self._lost = True
        self._stopped.set()

    def _send(self, event: ev.Event) -> None:
        """What the training says, over HTTP. What stands in the way is no failure of the training: it passes around."""
        if self._lost or self._trouble is not None:
            return
        try:
            self._pass_on(event)
        except LeaseLost as error:
            self._lose(error)
        except LuthierError as error:
            self._trouble = error
            self._stopped.set()

    def _pass_on(self, event: ev.Event) -> None:
        match event:
            case ev.Reported(epoch=epoch) if epoch > self.job.until:
                pass  # a framework that trains further than it was asked to
            case ev.Reported(epoch=epoch, metrics=metrics, seconds=seconds):
                told = {"epoch": epoch, "metrics": metrics, "seconds": seconds}
                answer = self._client.say(self._lease, "reports", told)
                if answer["answer"] == "stop" and not answer["keep"]:
                    self._stopped.set()
            case ev.Ended(epoch=epoch, checkpoint=name):
                state = None if name is None else self._keep(epoch, name, event.digest)
                told = {"epoch": epoch, "sha256": state, "answer": event.answer, "cost": event.cost}
                self._client.say(self._lease, "end", told)
            case ev.Interrupted(epoch=epoch, checkpoint=name):
                state = None if name is None else self._keep(epoch, name, event.digest)
                self._client.say(self._lease, "give-back", {"epoch": epoch, "sha256": state})
                self._say(f"Trial {self.job.trial} was given back after epoch {epoch}{'' if state else ', unsaved'}.")
            case ev.Failed(kind=kind, reason=reason, detail=detail):
                self._client.say(self._lease, "fail", {"kind": kind, "reason": reason[:500], "detail": detail})
            case ev.Unsaved(epoch=epoch, why=why):
                self._client.say(self._lease, "trouble", {"what": "unsaved", "epoch": epoch, "why": why[:500]})
            case ev.CheckpointLost(why=why):
                self._tell_lost(self._fetched, why)

    def _tell_lost(self, digest: str | None, why: str) -> None:
        if digest:
            self._client.say(self._lease, "trouble", {"what": "lost", "sha256": digest, "why": why[:500]})

    def _keep(self, epoch: int, name: str, digest: str) -> str | None:
        """Upload a state and forget it here; its SHA-256, None where the server could not take it."""
        place = self._files / name
        whole, packed = place, place.with_suffix(".packed")
        try:
            if self._stopped.is_set():  # nobody goes on from it
                return None
            if place.is_dir():
                pack(place, packed)
                whole, digest = packed, digest_of(packed)
            if (size := whole.stat().st_size) > self._largest:
                raise Unstored(f"it has {size:,} bytes, and the server takes {self._largest:,}")
            self._client.upload(self._lease, epoch, whole, digest)
            return digest
        except (Unstored, OSError) as error:
            self._pass_on(ev.Unsaved(self.job.trial, epoch, str(error)))
            return None
        finally:
            remove(packed)
            remove(place)
