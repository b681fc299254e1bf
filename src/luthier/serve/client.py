"""The worker's end of the line: requests that are made again until the server is back."""

from __future__ import annotations

import hashlib
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from luthier.core.errors import LuthierError, RunError, UserError
from luthier.core.events import plain

PATIENCE = 600.0
"""Seconds for which a server may be away."""
FIRST, LONGEST = 0.25, 15.0
"""Seconds between two tries, at first and at last; each wait is twice the one before."""
AWAY = (502, 503, 504)
"""What a server that is being started or stopped, or the proxy before it, answers."""


class LeaseLost(LuthierError):
    """The job is not this worker's any more."""


class Unstored(LuthierError):
    """The server could not take a state: it is too large, or the disk is full there."""


class Broken(LuthierError):
    """A state that was downloaded is not there, or not what was uploaded."""


class Client:
    """Speaks to a server.

    Args:
        url: its address, ``http://HOST:PORT``.
        token: what it asks for; None where it asks for nothing.
        patience: seconds for which it may be away.
        leave: asked between two tries: whether to give up at once.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        patience: float = PATIENCE,
        leave: Callable[[], bool] = lambda: False,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise UserError(
                f"{url!r} is no address of a server.", "Write http://HOST:PORT, as luthier serve prints it."
            )
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            # Not through a proxy of the environment: the server is one's own. SSL_CERT_FILE is OpenSSL's own and holds.
            verify = ssl.create_default_context() if url.startswith("https") else True
            self._http = httpx.Client(
                base_url=url.rstrip("/"), headers=headers, timeout=60.0, trust_env=False, verify=verify
            )
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise UserError(f"{url!r} cannot be asked: {error}.", "Write http://HOST:PORT.") from None
        self.url = url
        self._patience = patience
        self._leave = leave

    def close(self) -> None:
        """Let go of the connection."""
        self._http.close()

    def study(self) -> dict[str, Any]:
        """Where the study stands."""
        return self._json("GET", "/v1/study")

    def ask(self, worker: str, wait: float) -> dict[str, Any]:
        """A job, or why there is none."""
        return self._json("POST", "/v1/jobs", {"worker": worker, "wait": wait})

    def say(
        self, lease: str, what: str, told: Mapping[str, Any] | None = None, *, once: bool = False
    ) -> dict[str, Any]:
        """Say something of a job: ``reports``, ``heartbeat``, ``end``, ``give-back``, ``fail`` or ``trouble``.

        Args:
            once: do not try again.

        Raises:
            LeaseLost: the job is not this worker's any more.
        """
        return self._json("POST", f"/v1/jobs/{lease}/{what}", plain(told or {}), once=once)

    def upload(self, lease: str, epoch: int, place: Path, digest: str) -> None:
        """Send a state.

        Raises:
            Unstored: the server cannot take it.
            LeaseLost: the job is not this worker's any more.
        """

        def send() -> httpx.Response:
            with place.open("rb") as file:
                headers = {"Content-Type": "application/octet-stream", "Content-Length": str(place.stat().st_size)}
                path = f"/v1/jobs/{lease}/checkpoints/{digest}"
                return self._http.put(path, params={"epoch": epoch}, content=file, headers=headers)

        self._checked(self._patiently(send))

    def download(self, lease: str, digest: str, place: Path) -> None:
        """Fetch a state to ``place``.

        Raises:
            Broken: it is not there, or not what it should be.
            LeaseLost: the job is not this worker's any more.
        """

        def fetch() -> httpx.Response:
            found = hashlib.sha256()
            with self._http.stream("GET", f"/v1/jobs/{lease}/checkpoints/{digest}") as answer:
                if answer.status_code != 200:
                    answer.read()
                    return answer
                with place.open("wb") as file:
                    for chunk in answer.iter_bytes():
                        found.update(chunk)
                        file.write(chunk)
            if found.hexdigest() != digest:
                raise Broken(f"its checksum is {found.hexdigest()[:12]}, {digest[:12]} was written")
            return answer

        self._checked(self._patiently(fetch))

    def _json(self, method: str, path: str, told: Any = None, *, once: bool = False) -> dict[str, Any]:
        def send() -> httpx.Response:
            return self._http.request(method, path, json=told)

        answer = self._checked(send() if once else self._patiently(send))
        found: dict[str, Any] = answer.json() if answer.content else {}
        return found

    def _patiently(self, send: Callable[[], httpx.Response]) -> httpx.Response:
        """Try until the server is there."""
        end, pause = time.monotonic() + self._patience, FIRST
        while True:
            try:
                answer = send()
                if answer.status_code not in AWAY:
                    return answer
                trouble = _problem(answer)[0]
            except httpx.TransportError as error:
                trouble = f"{type(error).__name__}: {error}"
            if time.monotonic() + pause > end or self._leave():
                raise RunError(f"The server at {self.url} does not answer ({trouble}).")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST)

    def _checked(self, answer: httpx.Response) -> httpx.Response:
        if answer.is_success:
            return answer
        problem, mend = _problem(answer)
        match answer.status_code:
            case 410:
                raise LeaseLost(problem)
            case 404 if "checkpoints" in answer.request.url.path:
                raise Broken(problem)
            case 413 | 507:
                raise Unstored(problem)
            case 401:
                raise UserError(problem, "Give the server's token: --token, or LUTHIER_TOKEN in the environment.")
            case 404:
                raise UserError(
                    f"{self.url} is no server of Luthier's jobs: {problem}", "See what luthier serve printed."
                )
            case _:
                raise RunError(f"{problem} {mend}".strip())


def _problem(answer: httpx.Response) -> tuple[str, str]:
    """What the server says is wrong, and how to mend it; something else may have answered."""
    try:
        told = answer.json()
        return str(told["problem"]), str(told["mend"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code} {answer.reason_phrase}", ""
