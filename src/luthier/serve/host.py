"""Runs a study whose workers come over HTTP: the loop in this thread, the web in another one."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from luthier import __version__
from luthier.contracts import Scheduler, Store
from luthier.core import events as ev
from luthier.core.errors import LuthierError, RunError, StorageError, UserError
from luthier.core.history import History
from luthier.core.study import Study
from luthier.request import go_on
from luthier.run.book import Book
from luthier.run.interrupts import Interrupted, Interrupts
from luthier.run.lock import driving
from luthier.run.loop import run
from luthier.serve.app import make_app
from luthier.serve.counter import Counter, Left
from luthier.serve.states import LARGEST
from luthier.strategies import build
from luthier.view.console import Console
from luthier.web.guard import Guard
from luthier.web.listen import address, checked, is_loopback, listen, new_token

PORT = 8765
LEASE = 600.0
FAREWELL = 30.0
"""Seconds in which the workers are told that the study is over, at most."""
TOKEN = "server.token"
"""Where a token of our own making lies, in the study's folder of files: so that it is the same after a restart."""


@dataclass(frozen=True, slots=True)
class House:
    """Where a study is served, and how.

    Args:
        host: the address to bind; anything but loopback asks for a token, and makes one where none is given.
        port: 0 for any free one.
        token: asked of everybody, on loopback too.
        hosts: further host names that it answers to.
        lease: seconds without a word after which a worker is taken to have vanished.
        largest: bytes that an uploaded checkpoint may have.
        checkpoint_space: bytes that all checkpoints may take; None for any.
        stay: go on answering when the study is over, until interrupted.
    """

    host: str = "127.0.0.1"
    port: int = PORT
    token: str | None = None
    hosts: Sequence[str] = ()
    lease: float = LEASE
    largest: int = LARGEST
    checkpoint_space: int | None = None
    stay: bool = False


def serve(
    store: Store,
    name: str,
    study: Study | None,
    files: Path,
    house: House,
    console: Console,
    interrupts: Interrupts | None = None,
) -> History:
    """Serve a study to its end.

    Args:
        store: where its log is kept.
        name: the study's.
        study: what is asked now; None goes on with what the log holds.
        files: its folder of files: checkpoints, leases.
        house: where and how.
        console: shows the study, and is told the address once it answers.
        interrupts: whether to stop; Ctrl-C and SIGTERM where None.

    Raises:
        Interrupted: somebody asked it to stop; the workers go on when it is served again.
        UserError: a mistake in what was asked.
        RunError: the study cannot go on.
    """
    with driving(files, name), contextlib.closing(store):
        book = Book.open(store)
        fresh = book is None
        if book is None:
            if study is None:
                raise UserError("There is no study yet, and none was described.", "Give --space and a metric.")
            book = Book.create(store, study)
        elif study is not None:
            go_on(book, study)
        scheduler = build(study.strategy if study is not None else _known(book.history.study.strategy))
        console.open(book.history)
        try:
            _run(book, scheduler, files, house, console, interrupts or Interrupts())
        except StorageError:
            raise
        except (UserError, RunError):
            if fresh and book.tentative:  # a mistyped metric: leave nothing behind that is in the way
                store.forget()
            raise
        finally:
            console.close(book.history)
    return book.history


def _known(strategy: str) -> str:
    if strategy == "custom":
        raise UserError(
            "This study was driven by a strategy object.", "Only the script that made it can go on with it."
        )
    return strategy


def _run(book: Book, scheduler: Scheduler, files: Path, house: House, console: Console, interrupts: Interrupts) -> None:
    token = checked(house.token) if house.token else _token(files, house.host)
    counter = Counter(book, files, house.lease)
    app = make_app(
        counter, files, lease=house.lease, token=token, local=is_loopback(house.host), hosts=tuple(house.hosts),
        largest=house.largest,
    )  # fmt: skip
    with _web(app, house) as where, interrupts:
        console.say(f"Serving at {where}" + (f" with the token {token}" if token and token != house.token else ""))
        trouble: LuthierError | None = None
        try:
            if book.history.finished is None:
                book.append(ev.Opened(__version__))
                run(book, scheduler, counter, files, [console], interrupts, house.checkpoint_space)
            why = book.history.finished or "there is nothing left to do"
            counter.finish(why, 0.0 if house.stay else FAREWELL)
            while house.stay and not interrupts():
                counter.poll(lambda *events: None, 0.5)
        except Left as left:
            assert interrupts.signal is not None
            if left.out:
                console.say(
                    f"Jobs that are out: {left.out}. Their workers wait, and go on when the study is served again."
                )
            raise Interrupted(interrupts.signal) from None
        except LuthierError as error:
            trouble = error
            raise
        finally:
            counter.close(trouble)


def _token(files: Path, host: str) -> str | None:
    """The token of a server that was given none: none on loopback, else one of its own that stays the same."""
    if is_loopback(host):
        return None
    place = files / TOKEN
    try:
        return checked(place.read_text(encoding="utf-8").strip())
    except (OSError, UserError):
        token = new_token()
    place.unlink(missing_ok=True)
    with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(token)
    return token


@contextlib.contextmanager
def _web(app: Guard, house: House) -> Iterator[str]:
    """Answer requests in a thread of its own; yields the address."""
    link = listen(house.host, house.port)
    config = uvicorn.Config(
        app, log_level="warning", timeout_graceful_shutdown=2, timeout_keep_alive=75, server_header=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [link]}, name="luthier-web", daemon=True)
    with link:
        thread.start()
        try:
            yield address(link, house.host)
        finally:
            server.should_exit = True
            thread.join()
