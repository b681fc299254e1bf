"""Who may come in: the Host and Origin headers, and the token."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

JSON = "application/json"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Set on every answer: the page runs nothing that is not its own, and nobody may frame it."""


@dataclass(frozen=True, slots=True)
class Manners:
    """What a server expects of those who come.

    Args:
        what: what it is, in its own errors.
        cookie: the name of the cookie that keeps the token for a browser which opened ``/?token=...``; None where no
            browser comes.
        body: of a request's method and path the type that its body must have, and how many bytes it may have.
    """

    what: str
    cookie: str | None
    body: Callable[[str, str], tuple[str, int]]


class Guard:
    """Refuses what a page from elsewhere, or somebody without the token, sends.

    A name in ``Host`` that is not this machine's is how a page from elsewhere gets in by rebinding its own name to this
    address; an ``Origin`` other than the host's is a page from elsewhere that asks.

    Args:
        app: what is guarded.
        manners: what it expects.
        token: what must be shown; None where nothing need be.
        local: bound to this machine alone, so that no other name than its own is right.
        hosts: further names that are right.
    """

    def __init__(
        self, app: ASGIApp, manners: Manners, *, token: str | None, local: bool, hosts: Iterable[str] = ()
    ) -> None:
        self.app = app
        self.manners = manners
        self.token = token
        self.local = local
        own = [] if local else [socket.gethostname(), socket.getfqdn()]
        self.hosts = {"localhost", *(h.lower() for h in (*own, *hosts))}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let in, or answer why not."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        answer = self._refusal(scope)
        if answer is not None:
            answer.headers.update(HEADERS)
            await answer(scope, receive, send)
            return

        async def dressed(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers") or [])  # type: ignore[call-overload]
                message["headers"] = [*headers, *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        await self.app(scope, receive, dressed)  # type: ignore[arg-type]

    def _refusal(self, scope: Scope) -> Response | None:
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        host, what = headers.get("host", ""), self.manners.what
        if not self._known(host):
            return _no(421, f"This {what} does not answer to the host {host[:80]!r}.", "Start it with --allow-host.")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return _no(403, "The request comes from another site.", f"Open the {what} itself.")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            # Following a link from elsewhere is no harm; everything but the page itself is.
            navigates = headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"
            if not navigates:
                return _no(403, "The request comes from another site.", f"Open the {what} itself.")
        if scope["method"] not in ("GET", "HEAD"):
            kind, most = self.manners.body(scope["method"], scope["path"])
            if headers.get("content-type", "").partition(";")[0].strip().lower() != kind:
                return _no(415, f"The request's body must be {kind}.", f"Send the header Content-Type: {kind}.")
            length = headers.get("content-length", "0")
            if "transfer-encoding" in headers or not (length.isascii() and length.isdigit()):
                return _no(411, "The request does not say how large it is.", "Send the header Content-Length.")
            if len(length) > 18 or int(length) > most:
                return _no(413, f"The request has {length[:30]} bytes; {most:,} are allowed.", "Send less.")
        return self._without_token(scope, headers)

    def _without_token(self, scope: Scope, headers: dict[str, str]) -> Response | None:
        if self.token is None:
            return None
        bearer = headers.get("authorization", "")
        cookie = self.manners.cookie
        shown = bearer[7:] if bearer.lower().startswith("bearer ") else ""
        given = shown or (_cookie(headers.get("cookie", ""), cookie) if cookie else "")
        if self._same(given):
            return None
        if cookie is None:
            wrong = "has another token" if bearer else "asks for its token"
            return _no(401, f"This {self.manners.what} {wrong}.", "Send the header Authorization: Bearer TOKEN.")
        shown = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and self._same(shown):
            answer = RedirectResponse("/", status_code=303)
            answer.set_cookie(cookie, shown, httponly=True, samesite="strict", path="/")
            return answer
        mend = "Open the address with ?token=... that it printed."
        return _no(401, f"This {self.manners.what} asks for its token.", mend)

    def _same(self, given: str) -> bool:
        # In a time that does not tell how much of it was right.
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), (self.token or "").encode())

    def _known(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name in self.hosts:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self.local  # a number cannot be rebound


def _cookie(text: str, name: str) -> str:
    try:
        found = SimpleCookie(text).get(name)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _no(status: int, problem: str, mend: str) -> JSONResponse:
    return JSONResponse({"problem": problem, "mend": mend}, status_code=status)
