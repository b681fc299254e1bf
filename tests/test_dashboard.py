"""The dashboard: what it tells of a study, who may come in, what may be asked of it; in a browser: test_browser."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import socket
import subprocess
import sys
from importlib.metadata import version as version_of
from pathlib import Path

import pytest
from conftest import bowl, drive
from starlette.testclient import TestClient
from test_view import LOGS

import luthier as lt
from luthier.core import events as ev
from luthier.core.errors import StorageError, UserError
from luthier.core.history import fold
from luthier.core.trial import Status
from luthier.dashboard import feed
from luthier.dashboard.actions import ask
from luthier.dashboard.desk import Desk, open_desks
from luthier.dashboard.page_of_trial import log_of
from luthier.dashboard.server import STATIC, _changes, make_app
from luthier.diagnosis.rules import RULES
from luthier.run import book as books
from luthier.store import SqlStore, locate, open_store
from luthier.view.figures import FIGURES
from luthier.web.listen import listen

LOCAL = "http://localhost:8484"


def keep(place: Path, log, name: str | None = None) -> Path:
    """A literal log as a study on disk."""
    entries = log.entries
    store = SqlStore(locate(place), name or entries[0].event.study.name)
    store.append(entries, 0)
    store.close()
    return place


@pytest.fixture
def place(tmp_path) -> Path:
    return keep(tmp_path / "study.db", LOGS["playbook"])


@pytest.fixture
def running(tmp_path, space) -> lt.AskTell:
    """A study of which two trials are out."""
    study = lt.AskTell(
        space, minimize="val_loss", max_epochs=4, budget="9 trials", strategy="random", storage=tmp_path / "run.db"
    )
    first = study.ask()
    for epoch in (1, 2, 3, 4):
        study.tell(first, epoch, val_loss=bowl(first.config, epoch))
    study.ask(), study.ask()
    return study


@pytest.fixture
def desk(running, tmp_path) -> Desk:
    (found,) = open_desks([str(tmp_path / "run.db")])
    return found


def client(desks, **more) -> TestClient:
    return TestClient(make_app(desks, **more), base_url=LOCAL)


# -- what it tells -----------------------------------------------------------------------------------------------------


def test_a_study_is_told_as_the_report_tells_it(place):
    with client(open_desks([str(place)])) as web:
        told = web.get("/api/studies/0").json()
        (listed,) = web.get("/api/studies").json()
        history = fold(LOGS["playbook"].entries)
        assert told["study"]["name"] == listed["study"]["name"] == history.study.name
        assert told["verdict"] == listed["verdict"]
        assert told["seq"] == history.length
        assert [r["id"] for r in told["rows"]] == list(range(len(history.trials)))
        assert [s["name"] for s in told["stages"]][: len(history.stages)] == [s.name for s in history.stages]
        assert {s["state"] for s in told["stages"]} <= {"closed", "skipped", "open", "coming", "failed"}
        curves = web.get("/api/studies/0/curves").json()
        assert [p["metric"] for p in curves["panels"]] == ["train_accuracy", "val_accuracy"]
        trial, epochs, values = curves["panels"][1]["curves"][0]
        assert history.trials[trial].curve("val_accuracy")[0][0] == epochs[0]
        assert len(epochs) == len(values)
        page = web.get("/").text
        assert 'src="/static/app.js"' in page
        assert "http" not in re.sub(r"http://www.w3.org/2000/svg", "", page)


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_every_figure_of_the_report_is_there(place, name):
    with client(open_desks([str(place)])) as web:
        told = web.get(f"/api/studies/0/figures/{name}").json()
        history = fold(LOGS["playbook"].entries)
        if name in ("curves", "progress", "time", "paired", "lr_range", "findings"):
            assert told["specs"] == json.loads(json.dumps(FIGURES[name](history)))
        if name in ("curves", "progress", "time", "paired", "lr_range", "sweeps", "parallel"):
            assert told["specs"]


def test_behind_a_hyperparameter_lies_its_prior(place):
    with client(open_desks([str(place)])) as web:
        panels = {
            re.sub("<.*?>", "", s["layout"]["title"]["text"]): s
            for s in web.get("/api/studies/0/figures/sweeps").json()["specs"]
        }
        hill = panels["learning_rate"]["data"][0]
        assert hill["fill"] == "toself"
        heights = [y for y in hill["y"] if y is not None]
        assert len(set(heights)) > 5


@pytest.mark.parametrize("log", ["playbook", "random", "unfinished"])
def test_what_changed_makes_the_old_state_the_new_one(log):
    entries = LOGS[log].entries
    half = len(entries) * 2 // 3
    old, new = fold(entries[:half]), fold(entries)
    state, change = feed.whole(old, []), feed.changed(old, new, [])
    rows = {r["id"]: r for r in state["rows"]} | {r["id"]: r for r in change["rows"]}
    whole = feed.whole(new, [])
    wanted = {r["id"]: r for r in whole["rows"]}
    # The configuration's short text names what varied by then; all else is the same.
    strip = lambda d: {i: {k: v for k, v in r.items() if k != "config"} for i, r in d.items()}  # noqa: E731
    assert strip(rows) == strip(wanted)
    assert {k: change[k] for k in ("seq", "verdict", "facts", "running", "best")} == {
        k: whole[k] for k in ("seq", "verdict", "facts", "running", "best")
    }
    assert change.get("stages", state["stages"]) == whole["stages"]
    reports = [(e.event.trial, e.event.epoch) for e in entries[half:] if isinstance(e.event, ev.Reported)]
    assert sorted((t, e) for t, e, _ in change["points"]) == sorted(reports)


def test_changes_are_streamed_as_they_happen_and_once(running, desk):
    async def read() -> list[str]:
        since = desk.history.length
        stream = _changes(desk, since)
        out = [await anext(stream)]
        running.tell(_job(running, 1), 1, val_loss=50.0)
        out.append(await anext(stream))
        running.tell(_job(running, 2), 1, val_loss=60.0)
        out.append(await anext(stream))
        await stream.aclose()
        return out

    _, first, second = asyncio.run(read())
    deltas = [json.loads(re.search(r"^data: (.*)$", text, re.M)[1]) for text in (first, second)]
    assert [d["points"] for d in deltas] == [[[1, 1, {"val_loss": 50.0}]], [[2, 1, {"val_loss": 60.0}]]]
    assert [r["id"] for r in deltas[1]["rows"]] == [2]
    assert f"id: {deltas[1]['seq']}\n" in second


def _job(study: lt.AskTell, trial: int):
    from luthier.run.decisions import job_of

    return job_of(study.history, trial)


def test_who_was_away_too_long_is_told_to_ask_anew(desk):
    async def read() -> str:
        stream = _changes(desk, 1)
        await anext(stream)
        text = await anext(stream)
        await stream.aclose()
        return text

    assert "event: reset" in asyncio.run(read())


def test_a_trial_tells_its_configuration_curves_findings_and_log(place, tmp_path):
    history = fold(LOGS["playbook"].entries)
    with client(open_desks([str(place)])) as web:
        best = history.incumbent
        told = web.get(f"/api/studies/0/trials/{best.id}").json()
        assert {c["name"]: c["changed"] for c in told["config"]}.keys() == best.config.keys()
        assert told["figures"]
        failed = next(t.id for t in history.trials if t.status is Status.FAILED)
        assert web.get(f"/api/studies/0/trials/{failed}").json()["failure"]["reason"]
        both = web.get(f"/api/studies/0/compare/{best.id}/0").json()
        assert any(r["differs"] for r in both["config"])
        answer = web.get("/api/studies/0/trials/999")
        assert answer.status_code == 400
        assert answer.json()["problem"] == "There is no trial 999."


def test_a_trials_log_is_its_own_part_of_its_workers_logs(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "worker-0.log").write_text(
        "starting\n--- trial 1, epochs 1 to 9 ---\none\n--- trial 12, epochs 1 to 9 ---\ntwelve\n\x1b[31mred\n"
    )
    (logs / "worker-1.log").write_text("--- trial 1, epochs 10 to 20 ---\none more\n")
    assert log_of(tmp_path, 1).splitlines() == [
        "--- trial 1, epochs 1 to 9 ---", "one", "--- trial 1, epochs 10 to 20 ---", "one more",
    ]  # fmt: skip
    assert log_of(tmp_path, 12).splitlines()[1:] == ["twelve", "red"]
    for name in ("worker-10-0", "worker-2-1"):  # of several drivers
        (logs / f"{name}.log").write_text(f"--- trial 7, epochs 1 to 2 ---\n{name}\n")
    assert log_of(tmp_path, 7).splitlines()[1::2] == ["worker-2-1", "worker-10-0"]
    assert log_of(tmp_path, 2) == log_of(None, 1) == ""
    output = tmp_path / "trials" / "trial-00002" / "output.log"  # of a script
    output.parent.mkdir(parents=True)
    output.write_text("$ python main.py\nepoch 1: loss 0.5\n")
    assert log_of(tmp_path, 2).splitlines() == ["$ python main.py", "epoch 1: loss 0.5"]


def test_the_checklist_speaks_both_languages(place):
    with client(open_desks([str(place)])) as web:
        en, zh = (web.get(f"/api/studies/0/checklist?lang={x}").json() for x in ("en", "zh"))
        assert len(en["rows"]) == len(zh["rows"]) > 10
        assert en["rows"][0]["title"] == "Learning rate"
        assert zh["rows"][0]["title"] != "Learning rate"


def test_several_studies_at_once_from_files_and_folders(tmp_path, place):
    other = tmp_path / "more"
    other.mkdir()
    keep(other / "a.db", LOGS["random"], "a")
    keep(other / "b.db", LOGS["unfinished"], "b")
    with client(open_desks([str(place), str(other)])) as web:
        listed = web.get("/api/studies").json()
        assert [s["study"]["name"] for s in listed][1:] == [
            fold(LOGS[k].entries).study.name for k in ("random", "unfinished")
        ]
        assert web.get("/api/studies/3").status_code == 400
        assert web.get("/api/studies/2").json()["seq"] == len(LOGS["unfinished"].entries)


# -- what cannot be shown ----------------------------------------------------------------------------------------------


def test_no_study_there_is_said(tmp_path):
    with pytest.raises(StorageError, match="There is no study at"):
        open_desks([str(tmp_path)])
    with pytest.raises(StorageError, match=r"no study at .*other\.db"):
        open_desks([str(tmp_path / "other.db")])
    keep(tmp_path / "study.db", LOGS["random"], "random")
    with pytest.raises(StorageError, match="no study called 'nothing'"):
        open_desks([str(tmp_path)], "nothing")


@pytest.mark.parametrize("what", ["kind", "field", "version"])
def test_a_study_of_a_newer_version_is_refused_also_while_it_is_watched(desk, running, tmp_path, what):
    import sqlite3

    where = tmp_path / "run.db"
    with sqlite3.connect(where) as raw:
        seq = running.history.length
        kind, data = {
            "kind": ("Dreamt", "{}"),
            "field": ("Stopped", '{"trial": 1, "epoch": 1, "why": "", "mood": 3}'),
            "version": ("Opened", '{"version": "99.0"}'),
        }[what]
        raw.execute("insert into events values (1, ?, 1.0, ?, ?)", (seq, kind, data))
    raw.close()
    with pytest.raises(StorageError, match=r"[Uu]pgrade|newer"):
        open_desks([str(where)])
    before = desk.history
    assert desk.look() is before
    assert "pip install -U luthier" in desk.problem
    with pytest.raises(UserError, match="pip install -U"):
        ask(desk, {"do": "pause"})


def test_a_port_in_use_is_said_with_a_free_one():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"Port {port} is in use\. Port (\d+) is free: --port \1") as error:
            listen("127.0.0.1", port)
    with listen("127.0.0.1", int(re.search(r"--port (\d+)", str(error.value))[1])) as link:
        assert link.getsockname()[1] != port
    for host, number in (("127.0.0.1", 70000), ("no.such.host.invalid", 0), ("203.0.113.7", 0)):
        with pytest.raises(UserError):
            listen(host, number)


def test_the_command_line_serves_and_says_what_is_wrong(place, tmp_path):
    def run(*words: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "luthier.cli", "dashboard", *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    server = run(str(place), "--port", "0")
    url = server.stdout.readline().split()[-1]
    port = url.rstrip("/").rpartition(":")[2]
    wrong = run(str(place), "--port", port)
    out, err = wrong.communicate(timeout=120)
    assert (wrong.returncode, out) == (2, "")
    assert f"Port {port} is in use." in err
    import httpx

    assert httpx.get(f"{url}api/studies").json()[0]["id"] == 0
    server.terminate()
    assert server.wait(20) is not None
    server.stdout.close(), server.stderr.close()


# -- who may come in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "127.0.0.1:9"}, 200),
        ({"host": "[::1]:9"}, 200),
        ({"host": "evil.example:8484"}, 421),
        ({"host": "localhost.evil.example"}, 421),
        ({"host": "192.168.1.7"}, 421),
        ({"host": ""}, 421),
        ({"origin": LOCAL}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:1"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 200),
    ],
)
def test_host_and_origin_are_checked(desk, headers, status):
    with client([desk]) as web:
        answer = web.get("/api/studies", headers=headers)
        assert answer.status_code == status
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_an_action_from_elsewhere_is_refused(desk):
    with client([desk]) as web:
        send = lambda **more: web.post("/api/studies/0/ask", **more).status_code  # noqa: E731
        assert send(content='{"do": "pause"}', headers={"content-type": "text/plain"}) == 415
        assert send(json={"do": "pause"}, headers={"origin": "http://evil.example"}) == 403
        assert send(json={"do": "pause", "more": "x" * 70_000}) == 413
        assert send(content="[", headers={"content-type": "application/json"}) == 400
        assert not desk.look().paused
        assert send(json={"do": "pause"}, headers={"origin": LOCAL}) == 200
        assert desk.look().paused
    with client([desk], read_only=True) as web:
        assert web.post("/api/studies/0/ask", json={"do": "resume"}).status_code == 400
        assert desk.look().paused


def test_the_token_is_asked_for_and_becomes_a_cookie(desk):
    token = "correct-horse-battery"
    with client([desk], token=token, local=False) as web:
        assert web.get("/").status_code == 401
        assert web.get("/static/app.js").status_code == 401
        assert web.get("/api/studies", headers={"authorization": "Bearer wrong"}).status_code == 401
        assert web.get("/api/studies", headers={"authorization": f"Bearer {token}"}).status_code == 200
        assert web.get("/api/studies", params={"token": token}).status_code == 401  # only to open the page
        assert web.get("/?token=wrong").status_code == 401
        opened = web.get(f"/?token={token}", follow_redirects=False)
        assert (opened.status_code, opened.headers["location"]) == (303, "/")
        cookie = opened.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert web.get("/api/studies").status_code == 200
        # Bound to more than this machine, a number is right as a host, and a stranger's name is not.
        assert web.get("/api/studies", headers={"host": "192.168.1.7"}).status_code == 200
        assert web.get("/api/studies", headers={"host": "evil.example"}).status_code == 421
    with client([desk], token=token, local=False, hosts=["lab.example"]) as web:
        bearer = {"authorization": f"Bearer {token}", "host": "lab.example"}
        assert web.get("/api/studies", headers=bearer).status_code == 200


@pytest.mark.parametrize("name", ["..%2fserver.py", "%2e%2e/server.py", "index.html", "/etc/passwd", "texts.jsx", ""])
def test_names_never_become_paths(desk, name):
    with client([desk]) as web:
        assert web.get(f"/static/{name}").status_code in (404, 405)


# -- what may be asked -------------------------------------------------------------------------------------------------


def test_an_action_reaches_a_driver_that_goes_on_writing(desk, running, monkeypatch):
    monkeypatch.setattr(books, "LISTENS", 0.0)
    assert ask(desk, {"do": "stop", "trial": 1}) == "Trial 1 will be stopped at its next epoch."
    assert ask(desk, {"do": "stop", "trial": 1}) == "Trial 1 is being stopped already."
    assert ask(desk, {"do": "start", "config": {"learning_rate": 0.002, "depth": 3}})
    assert running.tell(_job(running, 1), 1, val_loss=1.0) == "stop"  # it learns of it as it writes
    assert running.history.trials[1].stop_why == "stopped by hand"
    assert running.tell(_job(running, 2), 1, val_loss=1.0) == "continue"
    job = running.ask()
    assert (job.config["learning_rate"], job.config["depth"], job.until) == (0.002, 3, 4)
    assert running.history.trials[job.trial].why == "added by hand"
    assert ask(desk, {"do": "pause"})
    assert not running.ask()
    assert desk.look().paused
    assert ask(desk, {"do": "resume"})
    assert running.ask().trial == job.trial + 1


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"do": "stopp", "trial": 1}, "'stopp' is nothing that can be asked for. Did you mean 'stop'?"),
        ({}, "None is nothing"),
        ({"do": ["stop"]}, "is nothing that can be asked for"),
        ({"do": "stop"}, "The trial to stop is None"),
        ({"do": "stop", "trial": True}, "The trial to stop is True"),
        ({"do": "stop", "trial": 77}, "There is no trial 77"),
        ({"do": "stop", "trial": -1}, "There is no trial -1"),
        ({"do": "stop", "trial": 0}, "Trial 0 is done and cannot be stopped"),
        ({"do": "start"}, "The configuration is empty"),
        ({"do": "start", "config": {"learning_rat": 1}}, "'learning_rat' is not in the space"),
        ({"do": "start", "config": {"learning_rate": 7}}, r"learning_rate: 7 is not in \[1e-05, 0.1\]"),
        ({"do": "start", "config": {"learning_rate": "fast"}}, "learning_rate: 'fast' is not in"),
        ({"do": "start", "config": {"depth": 2.5}}, "depth: 2.5 is not a whole number"),
        ({"do": "start", "config": {"optimizer": "adam"}}, "optimizer: "),
        ({"do": "start", "config": {"optimizer": "adamw", "momentum": 0.9}}, "momentum has no effect .*er is sgd"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_and_nothing_written(desk, wish, said):
    before = desk.history.length
    with pytest.raises(UserError, match=said):
        ask(desk, wish)
    assert desk.look().length == before


def test_nothing_can_be_asked_of_a_finished_study(place):
    (desk,) = open_desks([str(place)])
    with pytest.raises(UserError, match="The study is finished"):
        ask(desk, {"do": "pause"})


def test_a_driver_that_is_first_is_waited_for(desk, running, monkeypatch):
    real, rival = desk.log.append, iter([1, 2, 3])

    def append(entries, after):
        if (epoch := next(rival, None)) is not None:
            running.tell(_job(running, 1), epoch, val_loss=1.0)
        real(entries, after)

    monkeypatch.setattr(desk.log, "append", append)
    ask(desk, {"do": "pause"})
    assert desk.look().paused
    assert open_store(desk.place).read is not None
    assert [e.event for e in open_store(desk.place).read()][-1] == ev.PauseAsked()
    assert desk.history.trials[1].epoch == 3


# -- texts -------------------------------------------------------------------------------------------------------------


def test_every_text_is_there_in_both_languages():
    texts = json.loads((STATIC / "texts.json").read_text(encoding="utf-8"))
    scripts = "".join(p.read_text(encoding="utf-8") for p in STATIC.glob("*.js"))
    used = set(re.findall(r"\bt\(\"([\w.]+)\"", scripts))
    assert used
    assert used <= texts.keys()
    for key, (en, zh) in texts.items():
        assert en, key
        assert zh, key
        assert set(re.findall(r"\{\w+\}", en)) == set(re.findall(r"\{\w+\}", zh)), key
    chinese = [k for k, (_, zh) in texts.items() if not re.search(r"[\u4e00-\u9fff]", zh)]
    assert set(chinese) <= {"title", "of", "language"}


def test_nothing_that_the_browser_runs_comes_from_elsewhere():
    for path in STATIC.iterdir():
        found = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s'\"]*", path.read_text(encoding="utf-8"))
        assert [f for f in found if "www.w3.org/2000/svg" not in f] == []


# -- notebooks ---------------------------------------------------------------------------------------------------------


def test_a_result_draws_the_same_figures():
    from luthier.result import Result

    result = Result(fold(LOGS["playbook"].entries))
    import plotly.graph_objects as go

    drawn = [
        result.plot_curves(), result.plot_curves("val_loss"), result.plot_incumbent(), result.plot_incumbent("time"),
        result.plot_parallel_coordinates(), result.plot_hyperparameter("learning_rate"),
        result.plot_interaction("learning_rate", "weight_decay"), result.plot_confirmation(), result.plot_lr_range(),
        *result.plot_findings(),
    ]  # fmt: skip
    assert all(isinstance(f, go.Figure) and f.data for f in drawn)
    with pytest.raises(UserError, match=r"No trial has reported 'val_los'\. Did you mean 'val_loss'"):
        result.plot_curves("val_los")
    with pytest.raises(UserError, match=r"The space has no 'learning_rat'\. Did you mean"):
        result.plot_hyperparameter("learning_rat")
    with pytest.raises(UserError, match="activation took one value only"):
        result.plot_hyperparameter("activation")
    with pytest.raises(UserError, match="nothing to show for 'lineage'"):
        result.plot_lineage()
    with pytest.raises(UserError, match="over='hours'"):
        result.plot_incumbent("hours")


def test_what_decided_is_drawn(space):
    from luthier.result import Result

    with pytest.raises(UserError, match="What decided the score cannot be said: "):
        Result(drive(space, "random", budget="3 trials", max_epochs=2).history).plot_importance()
    drawn = Result(drive(space, "random", budget="30 trials", max_epochs=2).history)
    assert drawn.plot_importance().data[0].type == "bar"
    assert drawn.plot_interaction().data  # the two that decided most


def test_a_populations_lineage_is_drawn(space):
    study = lt.AskTell(space, minimize="val_loss", max_epochs=9, budget="8 trials", strategy="pbt", seed=1)
    while job := study.ask():
        for epoch in range(job.start + 1, job.until + 1):
            study.tell(job, epoch, val_loss=bowl(job.config, epoch))
    from luthier.view.relations import family

    found = family(study.history)
    best = study.summary.schedule
    kept = sorted((s.begin, s.end, s.trial) for s in found.stretches if s.kept)
    assert kept == [(s.from_epoch, s.until_epoch, s.trial) for s in best]
    assert len(found.copies) == sum(t.inherited is not None for t in study.history.trials)
    assert FIGURES["lineage"](study.history)


def test_the_incumbent_over_time_stands_where_its_epoch_was_reported(space):
    from luthier.view.numbers import progress_over_time

    log = LOGS["random"]
    data = progress_over_time(fold(log.entries))
    assert list(data.spent) == sorted(data.spent)
    assert data.spent[-1] <= data.total
    losses = [data.best[i] for i in range(len(data.best))]
    assert losses == sorted(losses, reverse=data.minimize)


def test_the_lower_bounds_are_those_of_the_extra():
    assert int(version_of("fastapi").split(".")[1]) >= 115


# -- in Chinese --------------------------------------------------------------------------------------------------------


def _sentences(path: Path) -> set[str]:
    """The texts in the calls and tables of a module of rules, a hole for each value."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Evidence", "Stage"):
            found |= {text for part in node.args[1:] for text in _texts(part)}
    return found


def _texts(node: ast.expr) -> list[str]:
    if isinstance(node, ast.Tuple):
        return [text for part in node.elts for text in _texts(part)]
    if isinstance(node, ast.IfExp):
        return [*_texts(node.body), *_texts(node.orelse)]
    if isinstance(node, ast.JoinedStr):
        return ["".join(v.value if isinstance(v, ast.Constant) else "{}" for v in node.values)]
    return [node.value] if isinstance(node, ast.Constant) and " " in str(node.value) else []


def test_every_finding_and_question_has_its_chinese():
    said = json.loads((STATIC / "said.json").read_text(encoding="utf-8"))
    known = {re.sub(r"\{\w+\}", "{}", english) for english in said}
    root = Path(lt.__file__).parent
    files = [*(root / "diagnosis" / "rules").glob("*.py"), root / "playbook" / "playbook.py"]
    told = {text.strip().removesuffix(".{}").removesuffix(".") for file in files for text in _sentences(file)}
    assert len(told) > 70
    # What is put into a hole may be words; a text may be two sentences, each said by itself.
    pattern = {t: re.compile(".*".join(map(re.escape, t.split("{}")))) for t in told}
    missing = {t for t in told if not any(map(pattern[t].fullmatch, known))}
    assert {t for t in missing if not set(re.split(r"[.;] ", t)) <= known} == set()
    assert {k.replace("_", " ") for k in RULES} <= set(said)
    for english, chinese in said.items():  # what is put into the holes is the same
        assert sorted(re.findall(r"\{\w+\}", english)) == sorted(re.findall(r"\{\w+\}", chinese)), english
        assert re.search(r"[\u4e00-\u9fff]|^[^a-z]*$", re.sub(r"\{\w+\}", "", chinese)), english
