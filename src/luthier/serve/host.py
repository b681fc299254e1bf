"""Opens a study to workers that come over HTTP: the counter in the driver's thread, the web in one of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from luthier.core.errors import UserError
from luthier.serve.app import make_app
from luthier.serve.counter import Counter
from luthier.serve.states import LARGEST
from luthier.web.listen import address, checked, is_loopback, listen, new_token

PORT = 8765
LEASE = 600.0
TOKEN = "server.token"
"""Where a token of our own making lies, in the study's folder of files: so that it is the same after a restart."""


@dataclass(frozen=True, slots=True)
class House:
    """Where a study is served, and how. Called with the study's folder of files, and whether it was asked to stop, it
    opens: what ``Crew(elsewhere=...)`` takes.

    Args:
        say: is told the address, once it answers.
        host: the address to bind; anything but loopback asks for a token, and makes one where none is given.
        port: 0 for any free one.
        token: asked of everybody, on loopback too.
        hosts: further host names that it answers to.
        lease: seconds without a word after which a worker is taken to have vanished.
        largest: bytes that an uploaded checkpoint may have.
        stay: go on answering when the study is over, until interrupted.
    """

    say: Callable[[str], None]
    host: str = "127.0.0.1"
    port: int = PORT
    token: str | None = None
    hosts: Sequence[str] = ()
    lease: float = LEASE
    largest: int = LARGEST
    stay: bool = False

    def __call__(self, files: Path, asked: Callable[[], bool]) -> Counter:
        """Open: from now on whoever comes is answered, until the counter is closed.

        Raises:
            UserError: the address cannot be used, or the token is a poor one.
        """
        files.mkdir(parents=True, exist_ok=True)
        token = checked(self.token) if self.token else _token(files, self.host)
        link = listen(self.host, self.port)

        def closed() -> None:
            server.should_exit = True
            web.join()
            link.close()

        counter = Counter(files, self.lease, asked, self.stay, closed)
        local = is_loopback(self.host)
        app = make_app(
            counter, files, lease=self.lease, token=token, local=local, hosts=tuple(self.hosts), largest=self.largest
        )
        config = uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=2, timeout_keep_alive=75, server_header=False
        )
        server = uvicorn.Server(config)
        web = threading.Thread(target=server.run, kwargs={"sockets": [link]}, name="luthier-web", daemon=True)
        web.start()
        made = f" with the token {token}" if token != self.token else ""
        self.say(f"Serving at {address(link, self.host)}{made}")
        return counter


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
