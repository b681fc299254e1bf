"""A private PostgreSQL server for tests and benchmarks, which ends with them."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PLACES = ["/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql*/bin"]
PASSWORD = "s3cret:/@word"

HBA = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
SETTINGS = {"fsync": "off", "max_connections": "60", "shared_buffers": "16MB", "max_wal_size": "64MB"}


def binaries() -> Path | None:
    """Where initdb and postgres are; None where there is no PostgreSQL."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    every = [p for pattern in PLACES for p in Path("/").glob(f"{pattern[1:]}/initdb")]
    return max(every).parent if every else None


@contextmanager
def server() -> Iterator[str]:
    """A private server; yields the URL of its superuser, without a database."""
    tools = binaries()
    if tools is None:
        raise LookupError("no PostgreSQL here: install it, or name a server in LUTHIER_TEST_POSTGRES")
    folder = Path(tempfile.mkdtemp(prefix="luthier-pg-"))
    who = {}
    if os.geteuid() == 0:  # initdb refuses root
        user = next(u for u in ("postgres", "nobody") if u in {p.pw_name for p in pwd.getpwall()})
        entry = pwd.getpwnam(user)
        who = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    process = None
    try:
        data = folder / "data"
        made = subprocess.run(
            [tools / "initdb", "-D", data, "-U", "luthier", "-N", "-A", "trust", "-E", "UTF8", "--locale=C"],
            capture_output=True, text=True, cwd=folder, **who,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        (data / "pg_hba.conf").write_text(HBA)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        options = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [tools / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", folder, *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, start_new_session=True, **who,
            )  # fmt: skip
        url = f"postgresql://luthier@/postgres?host={folder}&port={port}"
        _wait(url, process, folder / "log")
        _run(url, f"ALTER ROLE luthier PASSWORD '{PASSWORD}'")
        yield url
    finally:
        if process is not None:
            process.send_signal(signal.SIGINT)  # who is still connected is sent away
            process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(url: str, process: subprocess.Popen, log: Path) -> None:
    import psycopg

    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            psycopg.connect(url, connect_timeout=5).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.05)
    raise AssertionError(f"PostgreSQL does not start: {log.read_text()}")


def _run(url: str, statement: str) -> None:
    import psycopg

    with psycopg.connect(url, autocommit=True) as link:
        link.execute(statement)


@contextmanager
def database(admin: str, name: str) -> Iterator[str]:
    """An empty database of that server; yields its URL."""
    import sqlalchemy as sa

    _run(admin, f"CREATE DATABASE {name}")
    try:
        yield sa.make_url(admin).set(database=name).render_as_string(hide_password=False)
    finally:
        _run(admin, f"DROP DATABASE {name} WITH (FORCE)")
