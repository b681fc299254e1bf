"""What the tests of serving share: a study served by a thread of this process, and a client of nothing but Python."""

from __future__ import annotations

import io
import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import luthier as lt
from luthier import api, request, serving, store
from luthier.core.history import Entry
from luthier.core.study import Study
from luthier.run.crew import Crew
from luthier.run.interrupts import Interrupted
from luthier.serve import host
from luthier.serve.counter import Counter
from luthier.view.console import Console

SPACE = lt.Space(
    learning_rate=lt.Float(1e-5, 1e-1, log=True), optimizer=lt.Choice("adamw", "sgd"), width=lt.Int(16, 64)
)


class _Heard(io.StringIO):
    """What the server prints; tells when it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.up = threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if "Serving at" in self.getvalue():
            self.up.set()
        return written


class Served:
    """A study that is being served.

    Attributes:
        url: where.
        token: what it made up, if it did.
        trouble: what ended it, other than its end or :meth:`stop`.
    """

    def __init__(self, place: Path, study: Study, **house: Any) -> None:
        self.place = place
        self.name = study.name
        self.files = store.files_beside(store.locate(place), self.name)
        self.trouble: BaseException | None = None
        self._counter: Counter | None = None
        self._heard = _Heard()
        self._thread = threading.Thread(target=self._serve, args=(study, house), daemon=True)
        self._thread.start()
        while not self._heard.up.wait(0.1) and self._thread.is_alive():
            pass
        found = re.search(r"Serving at (\S+)(?: with the token (\S+))?", self._heard.getvalue())
        self.url, self.token = (found[1], found[2]) if found else ("", None)

    def _serve(self, study: Study, house: dict[str, Any]) -> None:
        console = Console(stream=self._heard)
        opens = host.House(**{"say": console.say, "port": 0, **house})

        def opened(files: Path, asked: Callable[[], bool]) -> Counter:
            self._counter = opens(files, asked)
            return self._counter

        try:
            api.launch(study, serving.nobody(), study.strategy, self.place, Crew(elsewhere=opened), console)
        except Interrupted:
            pass
        except BaseException as error:
            self.trouble = error

    @property
    def printed(self) -> str:
        return self._heard.getvalue()

    def stop(self) -> None:
        """As Ctrl-C does."""
        if self._counter is not None:
            self._counter.leave()
        self._thread.join()

    def join(self) -> None:
        """Wait for the study's end."""
        self._thread.join()

    @property
    def entries(self) -> list[Entry]:
        log = store.SqlStore(store.locate(self.place), self.name)
        try:
            return list(log.read())
        finally:
            log.close()

    def told(self, *kinds: type) -> list[Any]:
        return [e.event for e in self.entries if isinstance(e.event, kinds)]


def study_of(**asked: Any) -> Study:
    """A small study, with what is asked instead."""
    given = {"space": SPACE, "strategy": "random", "budget": "4 trials", "max_epochs": 3, "seed": 0, **asked}
    return request.study_from(name="study", objectives=request.objectives_from("val_loss", None, None, "best"), **given)


@contextmanager
def served(place: Path, *, house: dict[str, Any] | None = None, **asked: Any) -> Iterator[Served]:
    """Serve a study, or the one that is there under the same words."""
    server = Served(place, study_of(**asked), **(house or {}))
    try:
        yield server
    finally:
        server.stop()


def call(
    url: str, path: str, body: Any = None, *, method: str | None = None, token: str | None = None, **headers: str
) -> tuple[int, Any]:
    """A request with nothing but Python's own library: the status and what was answered."""
    data, kind = None, "application/json"
    if isinstance(body, bytes):
        data, kind = body, "application/octet-stream"
    elif body is not None or method == "POST":
        data = json.dumps({} if body is None else body).encode()
    asked = urllib.request.Request(url + path, data, method=method or ("POST" if data is not None else "GET"))
    asked.add_header("Content-Type", kind)
    if token is not None:
        asked.add_header("Authorization", f"Bearer {token}")
    for name, value in headers.items():
        asked.add_header(name.replace("_", "-"), value)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(asked, timeout=60) as answer:
            return answer.status, _read(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _read(error.read())


def _read(data: bytes) -> Any:
    try:
        return json.loads(data) if data else None
    except ValueError:
        return data
