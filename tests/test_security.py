"""What comes from a database, a file or the network is data: it runs nothing, names no path, and is bounded."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import socket
import sqlite3
import stat
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from conftest import drive
from served import call, served
from test_serve import ask, report, upload
from test_work import Evil, Weights

import luthier as lt
from luthier.core import events as ev
from luthier.core.errors import StorageError, UserError
from luthier.core.history import fold
from luthier.run import checkpoint
from luthier.serve import host
from luthier.serve.states import inside
from luthier.store import files_beside, locate, open_store
from luthier.web.listen import checked

HOSTILE = [
    "../../x",
    "/etc/passwd",
    "a\0b",
    "x" * 200,
    "..",
    ".",
    "a/../../../b",
    "\\\\host\\share",
    "~root",
    "%2e%2e%2fx",
]


# -- databases ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, space) -> Path:
    drive(space, "random", budget="2 trials", storage=tmp_path / "s.db")
    return tmp_path / "s.db"


def change(place: Path, kind: str, data: object) -> None:
    """Append an event, whatever it is."""
    with sqlite3.connect(place) as raw:
        seq = raw.execute("select max(seq) + 1 from events").fetchone()[0]
        raw.execute("insert into events values (1, ?, 1.0, ?, ?)", (seq, kind, data))
    raw.close()


@pytest.mark.parametrize("kind", ["Reported", "Ended", "Started"])
def test_a_pickle_in_the_database_is_not_read_as_one(place, tmp_path, kind):
    change(place, kind, pickle.dumps(Evil(tmp_path / "hacked")))
    log = open_store(place)
    with pytest.raises((StorageError, TypeError)):
        log.fold()
    log.close()
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("name", [*HOSTILE[:3], "a/../../b", "C:/x", "x" * 2000, "", 7, ["x"]])
@pytest.mark.parametrize("kind", ["Ended", "Interrupted", "CheckpointLost"])
def test_a_checkpoint_outside_the_study_s_folder_is_refused(place, kind, name):
    more = {"why": "lost"} if kind == "CheckpointLost" else {"epoch": 1}
    change(place, kind, json.dumps({"trial": 0, "checkpoint": name, **more}))
    log = open_store(place)
    with pytest.raises(StorageError, match="outside the study's folder"):
        log.fold()
    with pytest.raises(StorageError, match="outside the study's folder"):
        list(log.read())
    log.close()


@pytest.mark.parametrize("name", HOSTILE)
def test_the_name_of_a_study_never_becomes_a_path(tmp_path, name):
    folder = files_beside(locate(tmp_path / "s.db"), name)
    assert folder.parent == tmp_path / "s.files"
    assert folder.resolve().parent == (tmp_path / "s.files").resolve()
    lt.tune(lambda trial: [trial.report(val_loss=1.0) for _ in trial.epochs(weights=Weights())], minimize="val_loss",
            space=lt.Space(x=lt.Float(0, 1)), storage=tmp_path / "s.db", name=name, max_epochs=1, budget="1 trials",
            strategy="random", workers=0, quiet=True)  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.db", "s.files"]
    assert [p.parent for p in folder.rglob("*.ckpt")] == [folder / "checkpoints" / "trial-00000"]


def test_a_name_in_the_log_is_a_file_below_the_study_s_folder_or_none(tmp_path):
    files = tmp_path / "files"
    (files / "checkpoints").mkdir(parents=True)
    (files / "checkpoints" / "a.ckpt").write_bytes(b"a")
    (tmp_path / "secret").write_bytes(b"secret")
    (files / "checkpoints" / "link.ckpt").symlink_to(tmp_path / "secret")
    assert inside(files, "checkpoints/a.ckpt") == (files / "checkpoints" / "a.ckpt").resolve()
    for name in (
        *HOSTILE,
        "../secret",
        str(tmp_path / "secret"),
        "checkpoints/link.ckpt",
        "checkpoints",
        "",
        "x" * 5000,
    ):
        assert inside(files, name) is None


# -- checkpoints -------------------------------------------------------------------------------------------------------


def test_a_state_that_is_no_data_is_refused_when_it_is_written(tmp_path, monkeypatch):
    import sys

    monkeypatch.delitem(sys.modules, "torch", raising=False)

    class Odd(Weights):
        def state_dict(self):
            return {"value": Path("x")}

    with pytest.raises(UserError, match=r"state_dict holds a pathlib\.\w*Path, which is not plain data"):
        checkpoint.save(tmp_path / "c.ckpt", 1, {"weights": Odd()})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "forged",
    [
        b"cos\nsystem\n(S'echo hacked > hacked'\ntR.",
        b"cbuiltins\neval\n(S'open(\"hacked\", \"w\")'\ntR.",
        b"c__builtin__\neval\n(S'open(\"hacked\", \"w\")'\ntR.",
        b"cnumpy\nload\n(S'hacked'\ntR.",
        b"cnumpy._core.multiarray\n_reconstruct.__globals__\n.",
        b"cbuiltins\ngetattr\n(cbuiltins\ndict\nS'get'\ntR.",
        b"no pickle", b"", b"PK\x03\x04 no archive", pickle.dumps([1, 2]), pickle.dumps({"epoch": 1}),
    ],
)  # fmt: skip
def test_a_forged_checkpoint_runs_nothing(tmp_path, monkeypatch, forged):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.ckpt").write_bytes(forged)
    for digest in ("", hashlib.sha256(forged).hexdigest()):
        with pytest.raises((checkpoint.Damaged, EOFError, pickle.UnpicklingError)):
            checkpoint.load(tmp_path / "c.ckpt", {"weights": Weights()}, digest=digest)
    assert [p.name for p in tmp_path.iterdir()] == ["c.ckpt"]


# -- the server --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(tmp_path_factory.mktemp("server") / "s.db", house={"token": "the-right-token"}) as found:
        yield found


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "127.0.0.1:1"}, 200),
        ({"Host": "evil.example"}, 421),
        ({"Host": "localhost.evil.example:8765"}, 421),
        ({"Host": "192.168.1.7"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Authorization": "Bearer the-wrong-token"}, 401),
        ({"Authorization": "Bearer the-right-token2"}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": "Basic the-right-token"}, 401),
        ({"Authorization": "Bearer \xff\xfe"}, 401),
        ({"Cookie": "luthier_dashboard=the-right-token", "Authorization": ""}, 401),
    ],
)
def test_who_may_ask(server, headers, status):
    given = {"Authorization": "Bearer the-right-token", **headers}
    got, told = call(server.url, "/v1/study", **given)
    assert got == status
    assert status == 200 or told["problem"]
    assert call(server.url, "/openapi.json", **given)[0] == status


def test_a_token_in_the_address_is_not_taken(server):
    assert call(server.url, "/v1/study?token=the-right-token")[0] == 401
    assert call(server.url, "/?token=the-right-token")[0] == 401


def said(server, path: str, body: object = None, **more) -> tuple[int, object]:
    return call(server.url, path, body, token="the-right-token", **more)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/jobs", {"worker": "a", "wait": 1e9}),
        ("/v1/jobs", {"worker": "../../x\n"}),
        ("/v1/jobs", {"worker": "x" * 201}),
        ("/v1/jobs", {"worker": ["a"]}),
        ("/v1/jobs", {}),
        ("/v1/jobs", {"worker": "a", "do": "rm"}),
        ("/v1/jobs", "a string"),
        ("/v1/jobs/x/reports", {"epoch": 10**30, "metrics": {"val_loss": 1}}),
        ("/v1/jobs/x/reports", {"epoch": 0, "metrics": {"val_loss": 1}}),
        ("/v1/jobs/x/reports", {"epoch": 1, "metrics": {}}),
        ("/v1/jobs/x/reports", {"epoch": 1, "metrics": {"a": "rm -rf"}}),
        ("/v1/jobs/x/reports", {"epoch": 1, "metrics": {f"m{i}": 1 for i in range(1001)}}),
        ("/v1/jobs/x/fail", {"kind": "nonsense", "reason": ""}),
        ("/v1/jobs/x/end", {"epoch": 1, "sha256": "../../x"}),
        ("/v1/jobs/" + "x" * 200 + "/heartbeat", {}),
    ],
)
def test_a_malformed_message_is_refused_and_says_why(server, path, body):
    status, told = said(server, path, body)
    assert status == 422
    assert set(told) == {"problem", "mend"}
    assert len(str(told)) < 1000


def test_large_and_deep_and_shapeless_messages_are_refused(server):
    assert raw(server, "POST /v1/jobs", "Content-Type: application/json", "Content-Length: 2000000") == 413
    assert said(server, "/v1/jobs", json.loads("[" * 900 + "]" * 900))[0] == 422
    assert said(server, "/v1/jobs", b"bytes", method="POST")[0] == 415
    assert said(server, "/v1/jobs/x/checkpoints/x", {"not": "bytes"}, method="PUT")[0] == 415
    assert raw(server, "POST /v1/jobs", "Content-Type: application/json", "Transfer-Encoding: chunked") in (400, 411)
    smuggled = ("Content-Type: application/json", "Content-Length: 5", "Transfer-Encoding: chunked")
    assert raw(server, "POST /v1/jobs", *smuggled) in (400, 411)
    for length in ("-1", "1e3", "9" * 5000, "٣"):
        assert raw(server, "POST /v1/jobs", "Content-Type: application/json", f"Content-Length: {length}") in (
            400,
            411,
            413,
        )
    assert raw(server, "GET /v1/study", "X: " + "y" * 200_000) in (400, 431)
    deep = b'{"worker": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert raw(server, "POST /v1/jobs", "Content-Type: application/json", body=deep) in (400, 422)
    assert said(server, "/v1/study")[0] == 200  # it lives


def raw(server, line: str, *headers: str, body: bytes | None = None) -> int:
    """The status of a request as no library writes it."""
    place = urlsplit(server.url)
    if body is not None:
        headers = (*headers, f"Content-Length: {len(body)}")
    head = [f"{line} HTTP/1.1", f"Host: {place.netloc}", "Authorization: Bearer the-right-token", *headers, "", ""]
    with socket.create_connection((place.hostname, place.port), timeout=30) as link:
        try:
            link.sendall("\r\n".join(head).encode() + (body or b""))
            answer = link.recv(1000)
        except (BrokenPipeError, ConnectionResetError):
            return 400
    return int(answer.split()[1]) if answer else 400


@pytest.mark.parametrize(
    "name", ["../../../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/x", "a%00b", "/etc/passwd"]
)
def test_no_part_of_an_address_becomes_a_path(server, name):
    job = call(server.url, "/v1/jobs", {"worker": "paths"}, token="the-right-token")[1]
    before = set(server.files.parent.parent.rglob("*"))
    for address in (f"/v1/jobs/{name}/checkpoints/{'0' * 64}", f"/v1/jobs/{job['lease']}/checkpoints/{name}"):
        for method, body in (("GET", None), ("PUT", b"evil")):
            status, told = said(server, f"{address}?epoch=1", body, method=method)
            assert status in (404, 405, 410, 415, 422)
            assert "root:" not in str(told)
    assert said(server, f"/v1/jobs/{job['lease']}/checkpoints/{'0' * 64}?epoch=-1", b"x", method="PUT")[0] == 422
    assert said(server, f"/v1/jobs/{job['lease']}/checkpoints/{'0' * 64}?epoch=../x", b"x", method="PUT")[0] == 422
    assert {p for p in server.files.parent.parent.rglob("*") if p.suffix not in (".db-wal", ".db-shm")} <= before


def test_hostile_text_stays_text(tmp_path):
    name = "val_loss\n\x1b[31m\u202e<script>alert(1)</script>\ud800"
    with served(tmp_path / "s.db", budget="2 trials") as server:
        job = ask(server.url)
        body = {"epoch": 1, "metrics": {name: 1.0, "val_loss": 1.0}}
        status, _ = call(server.url, f"/v1/jobs/{job['lease']}/reports", body)
        assert status in (200, 422)
        told = {"reason": name, "detail": name}
        assert call(server.url, f"/v1/jobs/{job['lease']}/fail", told)[0] in (204, 422)
        assert ask(server.url, "b")["trial"] == 1
    assert "\x1b[31m" not in server.printed
    assert fold(server.entries).trials[0].epoch in (0, 1)


def test_a_lease_is_nobody_else_s_to_read(tmp_path):
    with served(tmp_path / "s.db") as server:
        ask(server.url)
        folder = server.files / "leases"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert len(list(folder.iterdir())) == 1
    assert [e.event for e in server.entries if isinstance(e.event, ev.Reported)] == []


def test_beyond_this_machine_a_token_is_made_and_stays_the_same(tmp_path):
    assert (
        host._token(tmp_path, "127.0.0.1") is host._token(tmp_path, "localhost") is host._token(tmp_path, "::1") is None
    )
    made = host._token(tmp_path, "0.0.0.0")
    assert len(made) >= 20
    assert checked(made) == host._token(tmp_path, "192.168.1.7") == made
    assert stat.S_IMODE((tmp_path / host.TOKEN).stat().st_mode) == 0o600
    os.truncate(tmp_path / host.TOKEN, 0)  # a full disk had its way with it
    assert host._token(tmp_path, "0.0.0.0") not in ("", made)
    for bad in ("short", "with a space", "naïve-token"):
        with pytest.raises(UserError, match="token"):
            checked(bad)


def test_a_disk_that_is_full_is_said_and_nothing_is_left_of_the_upload(tmp_path):
    with served(tmp_path / "s.db") as server:
        job = ask(server.url)
        report(server.url, job, 1)
        (server.files / "checkpoints").mkdir()
        (server.files / "checkpoints" / "trial-00000").write_text("in the way")
        status, told = upload(server.url, job, 1, b"state")
        assert (status, set(told)) == (500, {"problem", "mend"})
        assert report(server.url, job, 2)["answer"] == "continue"
