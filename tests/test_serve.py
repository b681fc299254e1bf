"""Ask and report over HTTP: what a client in any language sees, and what of it is in the log."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import docpages
import pytest
from served import call, served

import luthier as lt
from luthier.core import events as ev
from luthier.core.errors import UserError
from luthier.core.history import fold
from luthier.core.trial import Status

ROOT = Path(__file__).parents[1]


def ask(url: str, worker: str = "a", wait: float = 20.0) -> dict:
    status, job = call(url, "/v1/jobs", {"worker": worker, "wait": wait})
    assert status == 200
    return job


def report(url: str, job: dict, epoch: int, loss: float = 1.0) -> dict:
    status, answer = call(url, f"/v1/jobs/{job['lease']}/reports", {"epoch": epoch, "metrics": {"val_loss": loss}})
    assert status == 200
    return answer


def upload(url: str, job: dict, epoch: int, data: bytes, digest: str | None = None) -> tuple[int, dict]:
    digest = digest or hashlib.sha256(data).hexdigest()
    return call(url, f"/v1/jobs/{job['lease']}/checkpoints/{digest}?epoch={epoch}", data, method="PUT")


# -- a study from its beginning to its end -----------------------------------------------------------------------------


def test_asking_and_reporting_is_all_that_a_study_needs(tmp_path):
    with served(tmp_path / "s.db") as server:
        seen = []
        while (job := ask(server.url))["state"] == "job":
            seen.append(job)
            for epoch in range(job["start"] + 1, job["until"] + 1):
                answer = report(server.url, job, epoch, loss=job["config"]["learning_rate"] + 1 / epoch)
                assert answer["answer"] == ("continue" if epoch < job["until"] else "stop")
        assert job["state"] == "done"
        server.join()
    history = fold(server.entries)
    assert history.finished == job["why"]
    assert [t.status for t in history.trials] == [Status.DONE] * 4
    assert [j["trial"] for j in seen] == [0, 1, 2, 3]
    assert [dict(t.config) for t in history.trials] == [j["config"] for j in seen]
    assert len({j["lease"] for j in seen}) == 4
    assert server.trouble is None


def test_what_was_answered_is_on_the_disk_and_the_same_epoch_twice_is_recorded_once(tmp_path):
    with served(tmp_path / "s.db") as server:
        job = ask(server.url)
        assert report(server.url, job, 1, 0.5)["answer"] == "continue"
        assert [(r.epoch, r.metrics) for r in server.told(ev.Reported)] == [(1, {"val_loss": 0.5})]
        assert report(server.url, job, 1, 0.5)["answer"] == "continue"
        assert report(server.url, job, 1, 0.7)["answer"] == "continue"
        assert len(server.told(ev.Reported)) == 1
        status, wrong = call(server.url, f"/v1/jobs/{job['lease']}/reports", {"epoch": 4, "metrics": {"val_loss": 1}})
        assert (status, "trains to epoch 3" in wrong["problem"]) == (409, True)


def test_a_study_tells_how_it_stands(tmp_path):
    with served(tmp_path / "s.db") as server:
        status, before = call(server.url, "/v1/study")
        assert (status, before["best"], before["trials"]) == (200, None, 0)
        job = ask(server.url)
        report(server.url, job, 1, 0.25)
        _, told = call(server.url, "/v1/study")
        assert told["best"] == {"trial": 0, "score": 0.25, "config": job["config"]}
        assert (told["epochs"], told["epochs_left"], told["running"]) == (1.0, 9.0, [0])
        assert lt.Space.from_dict(told["study"]["space"]) == fold(server.entries).space
        assert told["study"]["target"] is None


def test_a_loss_that_is_no_number_fails_the_trial_however_it_is_written(tmp_path):
    with served(tmp_path / "s.db") as server:
        for worker, written in (("a", None), ("b", "nan"), ("c", "inf")):
            job = ask(server.url, worker)
            path = f"/v1/jobs/{job['lease']}/reports"
            call(server.url, path, {"epoch": 1, "metrics": {"other": 1.0, "val_loss": 2.0}})
            _, answer = call(server.url, path, {"epoch": 2, "metrics": {"val_loss": written}})
            assert (answer["answer"], answer["keep"]) == ("stop", False)
            assert "val_loss is" in answer["why"]
        assert [f.kind for f in server.told(ev.Failed)] == ["nonfinite"] * 3


def test_ends_failures_and_jobs_given_back_are_recorded_once(tmp_path):
    with served(tmp_path / "s.db", max_epochs=5) as server:
        early = ask(server.url)
        report(server.url, early, 1)
        for _ in range(2):
            assert call(server.url, f"/v1/jobs/{early['lease']}/end", {"epoch": 1})[0] == 204
        failing = ask(server.url)
        told = {"kind": "raised", "reason": "a bad batch", "detail": "at line 3"}
        for _ in range(2):
            assert call(server.url, f"/v1/jobs/{failing['lease']}/fail", told)[0] == 204
        leaving = ask(server.url)
        report(server.url, leaving, 1)
        assert call(server.url, f"/v1/jobs/{leaving['lease']}/give-back", {"epoch": 1})[0] == 204
        again = ask(server.url, "b")
        assert (again["trial"], again["start"]) == (leaving["trial"], 0)
        assert again["lease"] != leaving["lease"]
        status, gone = call(
            server.url, f"/v1/jobs/{leaving['lease']}/reports", {"epoch": 2, "metrics": {"val_loss": 1}}
        )
        assert (status, gone["mend"]) == (410, "Ask for a job anew.")
    first, second, third = fold(server.entries).trials
    assert (first.status, first.epoch) == (Status.DONE, 1)
    assert (second.failure.kind, second.failure.reason, second.failure.detail) == ("raised", "a bad batch", "at line 3")
    assert (third.status, third.attempts) == (Status.RUNNING, 1)
    assert len(server.told(ev.Ended)) == len(server.told(ev.Failed)) == len(server.told(ev.Interrupted)) == 1


def test_a_metric_that_nobody_reports_ends_the_study_and_says_so_to_the_worker(tmp_path):
    with served(tmp_path / "s.db") as server:
        job = ask(server.url)
        call(server.url, f"/v1/jobs/{job['lease']}/reports", {"epoch": 1, "metrics": {"val_los": 1.0}})
        status, told = call(server.url, f"/v1/jobs/{job['lease']}/end", {"epoch": 1})
        assert (status, told["mend"]) == (409, "Did you mean 'val_los'?")
        server.join()
    assert isinstance(server.trouble, UserError)
    assert not (tmp_path / "s.db").exists()  # nothing is in the way of the right question


def test_it_stays_when_it_is_asked_to(tmp_path):
    with served(tmp_path / "s.db", budget="1 trials", house={"stay": True}) as server:
        job = ask(server.url)
        for epoch in (1, 2, 3):
            report(server.url, job, epoch)
        for worker in ("a", "b", "c"):
            assert ask(server.url, worker)["state"] == "done"
        assert call(server.url, "/v1/study")[1]["finished"]
    assert server.trouble is None


# -- leases ------------------------------------------------------------------------------------------------------------


def test_a_worker_that_vanished_loses_its_job_and_after_three_the_trial_fails(tmp_path):
    with served(tmp_path / "s.db", budget="1 trials", house={"lease": 0.4}) as server:
        jobs = [ask(server.url, f"w{i}") for i in range(4)]  # each waits until the lease before has run out
        assert [j["trial"] for j in jobs] == [0, 0, 0, 1]
        status, late = call(
            server.url, f"/v1/jobs/{jobs[0]['lease']}/reports", {"epoch": 1, "metrics": {"val_loss": 1}}
        )
        assert status == 410
        assert "its worker was not heard of for 0.4 s" in late["problem"]
        assert call(server.url, f"/v1/jobs/{jobs[0]['lease']}/end", {"epoch": 1})[0] == 410
    history = fold(server.entries)
    assert (history.trials[0].failure.kind, history.trials[0].attempts) == ("hung", 3)
    assert [r.blame for r in server.told(ev.Requeued)][:2] == [True, True]
    assert not server.told(ev.Reported)


def test_a_heartbeat_keeps_the_lease_and_tells_of_a_stop(tmp_path):
    from luthier.dashboard.actions import ask as act
    from luthier.dashboard.desk import open_desks

    with served(tmp_path / "s.db", max_epochs=9, budget="2 trials") as server:
        job = ask(server.url)
        beat = f"/v1/jobs/{job['lease']}/heartbeat"
        assert call(server.url, beat, method="POST") == (200, {"answer": "continue", "keep": False, "why": ""})
        report(server.url, job, 1)
        (desk,) = open_desks([str(tmp_path / "s.db")])
        act(desk, {"do": "stop", "trial": 0})
        desk.close()
        assert ask(server.url, "b")["trial"] == 1
        while (answer := call(server.url, beat, method="POST")[1])["answer"] == "continue":
            ask(server.url, "c", wait=0.5)  # the server looks for wishes every half second
        assert (answer["answer"], answer["why"]) == ("stop", "stopped by hand")
        assert report(server.url, job, 2)["answer"] == "stop"
        assert call(server.url, f"/v1/jobs/{job['lease']}/end", {"epoch": 2})[0] == 204
    assert fold(server.entries).trials[0].epoch == 1


def test_who_asks_twice_for_the_answer_that_was_lost_gets_the_same_job(tmp_path):
    with served(tmp_path / "s.db") as server:
        first, second = ask(server.url), ask(server.url)
        assert first == second
        report(server.url, first, 1)
        third = ask(server.url)  # its process broke off: the trial begins anew, and counts an attempt
        assert (third["trial"], third["start"]) == (0, 0)
        assert third["lease"] != first["lease"]
        assert ask(server.url, "b")["trial"] == 1
    assert fold(server.entries).trials[0].attempts == 2


def test_a_lease_outlives_the_server(tmp_path):
    with served(tmp_path / "s.db", budget="5 trials") as server:
        jobs = [ask(server.url, w) for w in ("a", "b")]
        for job in jobs:
            report(server.url, job, 1, 0.5)
    with served(tmp_path / "s.db", budget="5 trials") as server:
        assert ask(server.url, "c")["trial"] == 2  # nobody else gets what is out
        for job in jobs:
            assert report(server.url, job, 1, 0.5)["answer"] == "continue"
            assert report(server.url, job, 2, 0.4)["answer"] == "continue"
            assert report(server.url, job, 3, 0.3)["answer"] == "stop"
        assert [ask(server.url, w)["trial"] for w in ("a", "b")] == [3, 4]
    assert [(r.trial, r.epoch) for r in server.told(ev.Reported)] == [
        (0, 1),
        (1, 1),
        *[(t, e) for t in (0, 1) for e in (2, 3)],
    ]
    assert [t.attempts for t in fold(server.entries).trials[:2]] == [1, 1]


def test_a_lease_that_was_lost_with_the_server_s_files_is_handed_out_anew(tmp_path):
    with served(tmp_path / "s.db") as server:
        job = ask(server.url)
        report(server.url, job, 1, 0.5)
    shutil.rmtree(server.files / "leases")
    with served(tmp_path / "s.db") as server:
        again = ask(server.url, "b")
        assert (again["trial"], again["start"]) == (0, 0)
        assert call(server.url, f"/v1/jobs/{job['lease']}/heartbeat", method="POST")[0] == 410
        for epoch in (1, 2, 3):  # the first was recorded already
            report(server.url, again, epoch, 0.5 / epoch)
    assert [r.epoch for r in server.told(ev.Reported)] == [1, 2, 3]


def test_nothing_to_hand_out_is_said_with_when_to_ask_again(tmp_path):
    with served(tmp_path / "s.db", budget="1 trials") as server:
        job = ask(server.url)
        waiting = ask(server.url, "b", wait=0.0)
        assert (waiting["state"], waiting["seconds"]) == ("wait", 2.0)
        assert waiting["why"] == "what runs must be told first"
        assert ask(server.url, "b", wait=2.0)["seconds"] == 0.0  # it has waited already
        for epoch in (1, 2, 3):
            report(server.url, job, epoch)
        assert ask(server.url)["state"] == ask(server.url, "b")["state"] == "done"


# -- states ------------------------------------------------------------------------------------------------------------


def test_a_paused_trial_goes_on_from_what_was_uploaded(tmp_path):
    states = {}
    with served(tmp_path / "s.db", strategy="asha", max_epochs=9, budget="3 trials") as server:
        while (job := ask(server.url))["state"] == "job":
            value = b"0"
            if job["start"]:
                (source, *_) = job["sources"]
                assert (source["epoch"], source["clone"]) == (job["start"], False)
                status, value = call(server.url, f"/v1/jobs/{job['lease']}/checkpoints/{source['sha256']}")
                assert (status, str(value).encode()) == (200, states[job["trial"], job["start"]])
            for epoch in range(job["start"] + 1, job["until"] + 1):
                answer = report(server.url, job, epoch, job["config"]["learning_rate"] + 1 / epoch)
            assert answer["keep"]
            data = str(1000 * job["trial"] + epoch).encode()
            states[job["trial"], epoch] = data
            status, stored = upload(server.url, job, epoch, data)
            assert (status, stored["bytes"]) == (200, len(data))
            end = {"epoch": epoch, "sha256": hashlib.sha256(data).hexdigest()}
            assert call(server.url, f"/v1/jobs/{job['lease']}/end", end)[0] == 204
        server.join()
    history = fold(server.entries)
    resumed = server.told(ev.Resumed)
    assert resumed
    for trial in history.trials:
        assert (server.files / trial.checkpoint.path).read_bytes() == states[trial.id, trial.epoch]
    assert len(list(server.files.rglob("*.ckpt"))) == len(history.trials)  # what nobody goes on from is gone
    assert history.spent == sum(t.epoch for t in history.trials)


def test_workers_may_keep_the_states_themselves(tmp_path):
    with served(tmp_path / "s.db", strategy="asha", max_epochs=9, budget="3 trials") as server:
        while (job := ask(server.url))["state"] == "job" and not job["start"]:
            report(server.url, job, 1, job["config"]["learning_rate"])
            call(server.url, f"/v1/jobs/{job['lease']}/end", {"epoch": 1, "kept": True})
        assert (job["start"], job["sources"]) == (1, [{"epoch": 1, "sha256": "", "clone": False}])


def test_a_state_arrives_whole_or_not_at_all(tmp_path):
    with served(tmp_path / "s.db", house={"largest": 1000}) as server:
        job = ask(server.url)
        status, told = upload(server.url, job, 1, b"what arrives", digest=hashlib.sha256(b"what was sent").hexdigest())
        assert (status, "it has" not in told["problem"], "SHA-256" in told["problem"]) == (422, True, True)
        assert upload(server.url, job, 1, b"x" * 1001)[0] == 413
        end = {"epoch": 1, "sha256": hashlib.sha256(b"what arrives").hexdigest()}
        status, told = call(server.url, f"/v1/jobs/{job['lease']}/end", end)
        assert (status, told["mend"]) == (409, "Upload it first.")
        assert [p for p in (server.files / "checkpoints").rglob("*") if p.is_file()] == []
        assert upload(server.url, job, 1, b"what arrives")[0] == 200
        nobody = hashlib.sha256(b"what arrives").hexdigest()
        assert (
            call(server.url, f"/v1/jobs/{job['lease']}/checkpoints/{nobody}")[0] == 404
        )  # not of this job's beginning


def test_a_state_that_is_lost_is_recorded_and_the_trial_starts_over(tmp_path):
    with served(tmp_path / "s.db", max_epochs=5) as server:
        job = ask(server.url)
        report(server.url, job, 1)
        upload(server.url, job, 1, b"state")
        digest = hashlib.sha256(b"state").hexdigest()
        call(server.url, f"/v1/jobs/{job['lease']}/give-back", {"epoch": 1, "sha256": digest})
        again = ask(server.url, "b")
        assert [s["sha256"] for s in again["sources"]] == [digest]
        told = {"what": "lost", "sha256": digest, "why": "it cannot be read"}
        assert call(server.url, f"/v1/jobs/{again['lease']}/trouble", told)[0] == 204
        told = {"what": "unsaved", "epoch": 1, "why": "the disk is full"}
        assert call(server.url, f"/v1/jobs/{again['lease']}/trouble", told)[0] == 204
    (trial,) = fold(server.entries).trials
    assert trial.saved is None
    assert len(trial.troubles) == 2


def test_who_lost_the_lease_is_told_so_while_it_uploads(tmp_path):
    with served(tmp_path / "s.db") as server:
        status, told = upload(server.url, {"lease": "made-up"}, 1, b"x" * 5_000_000)
        assert (status, told["mend"]) == (410, "Ask for a job anew.")


# -- the description, and other languages ------------------------------------------------------------------------------


def test_the_interface_is_described_and_asks_nothing_of_other_hosts(tmp_path):
    with served(tmp_path / "s.db") as server:
        status, described = call(server.url, "/openapi.json")
        assert status == 200
        assert "/v1/jobs/{lease}/reports" in described["paths"]
        operations = {o["operationId"] for methods in described["paths"].values() for o in methods.values()}
        assert operations >= {"ask", "report", "heartbeat", "end", "fail", "give_back", "upload", "download", "study"}
        answers = described["paths"]["/v1/jobs"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert answers["discriminator"]["propertyName"] == "state"
        assert described["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
        assert "http" not in re.sub(r"HTTPBearer|\"http\"", "", str(described["paths"]).replace("'http'", ""))
        assert call(server.url, "/docs")[0] == call(server.url, "/redoc")[0] == 404
        status, told = call(server.url, "/v1/jobs", {"worker": "a", "wait": "long"})
        assert (status, told["problem"].startswith("wait: ")) == (422, True)


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="curl and jq are not installed")
def test_the_shell_client_of_the_page_trains_a_study(tmp_path):
    (script,) = [b.text for b in docpages.blocks(ROOT / "docs/http.md") if "curl" in b.text and "while" in b.text]
    (tmp_path / "train").write_text(
        '#!/bin/sh\necho "$2" | jq "$1 + .learning_rate" | tr -d "\\n" > loss\necho "1 / $1" > state\n'
    )
    (tmp_path / "train").chmod(0o755)
    with served(
        tmp_path / "s.db", strategy="asha", max_epochs=3, budget="3 trials", house={"token": "a-long-token"}
    ) as s:
        client = script.replace("http://localhost:8765", s.url).replace("./train", str(tmp_path / "train"))
        done = subprocess.run(["bash", "-euc", client], cwd=tmp_path, capture_output=True, text=True, timeout=120,
                              env={"PATH": "/usr/bin:/bin", "LUTHIER_TOKEN": "a-long-token", "HOME": str(tmp_path)},
                              check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr
        s.join()
    history = fold(s.entries)
    assert history.finished
    assert s.told(ev.Resumed)
    assert all(t.checkpoint and t.checkpoint.digest for t in history.trials if t.failure is None)
