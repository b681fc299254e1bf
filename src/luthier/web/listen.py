"""The address that a server answers on, and the token that it asks for."""

from __future__ import annotations

import errno
import ipaddress
import secrets
import socket

from luthier.core.errors import UserError

SHORTEST = 8
"""Characters of a token, at least."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def checked(token: str) -> str:
    """A token that somebody chose.

    Raises:
        UserError: it is too short, or has characters that no header can carry.
    """
    if len(token) < SHORTEST:
        raise UserError(
            f"The token has {len(token)} characters.", f"Take at least {SHORTEST}, or leave it out to get one."
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UserError("The token has spaces or characters beyond ASCII.", "Take letters, digits, - and _.")
    return token


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(18)


def listen(host: str, port: int) -> socket.socket:
    """A socket on ``host`` and ``port``; 0 is any free port.

    Raises:
        UserError: the port is taken, or the address is not this machine's.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"--port {port} is no port.", "Give a number from 0 (any free one) to 65535.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sends small answers at once; without it they wait 40 ms for company.
    link = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        link.bind((host, port))
    except OSError as error:
        link.close()
        if error.errno == errno.EADDRINUSE:
            free = _free_port(host, family, port)
            raise UserError(f"Port {port} is in use.", f"Port {free} is free: --port {free}, or --port 0.") from None
        raise UserError(f"--host {host} --port {port} cannot be used: {error.strerror or error}.",
                        "Leave --host out for this machine alone, or write --host 0.0.0.0.") from None  # fmt: skip
    link.listen(128)
    return link


def _free_port(host: str, family: socket.AddressFamily, near: int) -> int:
    for port in (*range(near + 1, min(near + 30, 65536)), 0):
        with socket.socket(family, socket.SOCK_STREAM) as link:
            try:
                link.bind((host, port))
            except OSError:
                continue
            return int(link.getsockname()[1])
    return 0


def address(link: socket.socket, host: str) -> str:
    """The address to tell others, without a path, of a socket that is bound to ``host``."""
    shown = "localhost" if is_loopback(host) else socket.gethostname() if host in ("0.0.0.0", "::") else host
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{link.getsockname()[1]}"
