"""Workers on machines that share nothing: the same study as with workers here, whatever happens on the way."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from kill import LUTHIER, SPACE, TRAIN, decisions_of, reports_of
from served import SPACE as TYPED
from served import Served, call, served, study_of
from test_serve import ask, report, upload

import luthier as lt
from luthier import api
from luthier.core import events as ev
from luthier.core.errors import RunError, UserError
from luthier.core.history import fold
from luthier.core.trial import Status, TrialRecord
from luthier.knowledge import default_config
from luthier.run.checkpoint import Damaged
from luthier.serve.pack import MARK, is_packed, pack, unpack
from luthier.serve.work import work
from luthier.store import SqlStore, locate

PATIENCE = 120.0
"""Seconds after which a test gives up on a thread."""


class Weights:
    """Something with a state: the sum of what every epoch added."""

    def __init__(self):
        self.value = 0.0

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def train(trial: lt.Trial) -> None:
    """Every epoch depends on all before it, on the random generator too."""
    weights = Weights()
    for epoch in trial.epochs(weights=weights):
        weights.value += random.random()
        loss = trial.config["learning_rate"] + 1 / (1 + weights.value)
        trial.report(train_loss=1 / epoch, val_loss=loss)


def locally(place: Path, **asked) -> list:
    lt.tune(train, TYPED, minimize="val_loss", workers=1, storage=place, name="study", quiet=True, seed=0, **asked)
    log = SqlStore(locate(place), "study")
    try:
        return list(log.read())
    finally:
        log.close()


@pytest.mark.parametrize("strategy", ["asha", "expert", "median", "pbt"])
def test_the_decisions_and_curves_are_those_of_a_worker_on_this_machine(tmp_path, strategy):
    trials = {"median": 10, "pbt": 8}.get(strategy, 6)
    asked = {"strategy": strategy, "budget": f"{trials} trials", "max_epochs": 9}
    here = locally(tmp_path / "here.db", **asked)
    with served(tmp_path / "there.db", **asked) as server:
        assert work(server.url, train) > 6
        server.join()
    there = server.entries
    assert decisions_of(there) == decisions_of(here)
    assert reports_of(there) == reports_of(here)
    assert fold(there).finished == fold(here).finished
    kinds = {type(e.event) for e in there}
    assert {"asha": ev.Resumed, "expert": ev.Resumed, "median": ev.Stopped, "pbt": ev.Resumed}[strategy] in kinds
    assert fold(there).spent == fold(here).spent  # nothing was trained twice


def test_several_workers_share_a_study(tmp_path):
    with served(tmp_path / "s.db", strategy="asha", budget="6 trials", max_epochs=9) as server:
        crew = [threading.Thread(target=work, args=(server.url, train), daemon=True) for _ in range(3)]
        for one in crew:
            one.start()
        for one in crew:
            one.join(PATIENCE)
            assert not one.is_alive()
        server.join()
    history = fold(server.entries)
    assert history.finished
    assert not history.running
    assert all(n == 1 for n in reports_of(server.entries).values())


@pytest.mark.parametrize("lost", [False, True])
def test_a_worker_outlives_the_server(tmp_path, lost):
    """Also where the server has forgotten its lease: then it begins the job anew, and nothing is recorded twice."""
    reached, go = threading.Event(), threading.Event()
    asked = {"strategy": "random", "budget": "2 trials", "max_epochs": 4}

    def halting(trial: lt.Trial) -> None:
        weights = Weights()
        for epoch in trial.epochs(weights=weights):
            weights.value += random.random()
            if (trial.id, epoch) == (0, 3):
                reached.set()
                go.wait(PATIENCE)
            trial.report(train_loss=1 / epoch, val_loss=trial.config["learning_rate"] + 1 / (1 + weights.value))

    with served(tmp_path / "s.db", **asked) as server:
        worker = threading.Thread(target=work, args=(server.url, halting), daemon=True)
        worker.start()
        assert reached.wait(PATIENCE)
        server.stop()
        if lost:
            shutil.rmtree(server.files / "leases")
        go.set()  # it reports to nobody now, and tries again
        again = Served(tmp_path / "s.db", study_of(**asked), port=int(server.url.rpartition(":")[2]))
        worker.join(PATIENCE)
        assert not worker.is_alive()
        again.join()
    here = locally(tmp_path / "here.db", **asked)
    assert reports_of(again.entries) == reports_of(here)
    assert decisions_of(again.entries) == decisions_of(here)
    assert [t.attempts for t in fold(again.entries).trials] == [1, 1]
    assert len(again.told(ev.Opened)) == 2


@pytest.fixture
def started():
    """Starts commands in folders of their own."""
    running: list[subprocess.Popen[str]] = []

    def start(folder: Path, *words: str, job: str = "") -> subprocess.Popen[str]:
        folder.mkdir(exist_ok=True)
        (folder / "job.py").write_text(job)
        (folder / "space.yaml").write_text(SPACE)
        environment = {**os.environ, "LUTHIER_TOKEN": "a-token-for-tests"}
        process = subprocess.Popen(
            [*LUTHIER, *words], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_server_that_is_killed_loses_nothing_that_it_acknowledged(tmp_path, started):
    reached, go = threading.Event(), threading.Event()
    words = ["--space", "space.yaml", "--minimize", "val_loss", "--max-epochs", "9", "--budget", "3 trials"]
    words += ["--strategy", "asha", "--name", "study"]

    def halting(trial: lt.Trial) -> None:
        weights = Weights()
        for epoch in trial.epochs(weights=weights):
            weights.value += random.random()
            trial.report(train_loss=1 / epoch, val_loss=trial.config["learning_rate"] + 1 / (1 + weights.value))
            if (trial.id, epoch) == (1, 1):
                reached.set()
                go.wait(PATIENCE)

    server = started(tmp_path, "serve", "s.db", "--port", "0", *words)
    url = ""
    while not url and (line := server.stdout.readline()):
        url = line.split()[-1] if "Serving at" in line else ""
    worker = threading.Thread(target=work, args=(url, halting), kwargs={"token": "a-token-for-tests"}, daemon=True)
    worker.start()
    assert reached.wait(PATIENCE)
    server.kill()
    server.wait()
    log = SqlStore(locate(tmp_path / "s.db"), "study")
    acknowledged = reports_of(list(log.read()))
    assert sum(acknowledged.values()) >= 2
    go.set()  # it ends its job to nobody now, and tries again
    again = started(tmp_path, "serve", "s.db", "--port", url.rpartition(":")[2], *words)
    worker.join(PATIENCE)
    assert not worker.is_alive()
    assert again.wait() == 0
    entries = list(log.read())
    log.close()
    assert not acknowledged - reports_of(entries)
    space = lt.Space.from_yaml(SPACE)
    lt.tune(train, space, minimize="val_loss", workers=0, storage=tmp_path / "here.db", name="study", quiet=True,
            max_epochs=9, budget="3 trials", strategy="asha")  # fmt: skip
    other = SqlStore(locate(tmp_path / "here.db"), "study")
    here = list(other.read())
    other.close()
    assert decisions_of(entries) == decisions_of(here)
    assert reports_of(entries) == reports_of(here)


def test_from_the_terminal_a_worker_that_is_told_to_leave_gives_its_job_back_saved(tmp_path, started):
    words = ["--space", "space.yaml", "--minimize", "val_loss", "--max-epochs", "40", "--budget", "2 trials"]
    words += ["--strategy", "random", "--seed", "3", "--name", "s"]
    server = started(tmp_path / "server", "serve", "s.db", "--port", "0", *words)
    url = ""
    while not url and (line := server.stdout.readline()):
        url = line.split()[-1] if "Serving at" in line else ""
    first = started(tmp_path / "first", "work", url, "job.py:train", job=TRAIN.replace("PAUSE", "0.05"))
    log = SqlStore(locate(tmp_path / "server" / "s.db"), "s")
    deadline = time.monotonic() + 60
    while sum(isinstance(e.event, ev.Reported) for e in log.read()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    said = first.communicate()[0]
    assert first.returncode == 128 + signal.SIGTERM
    assert "Trial 0 was given back after epoch" in said
    assert "unsaved" not in said
    second = started(tmp_path / "second", "work", url, "job.py:train", job=TRAIN.replace("PAUSE", "0"))
    assert second.communicate()[0].count("--- trial") == 2
    assert (second.returncode, server.wait()) == (0, 0)
    assert "Report: " in server.stdout.read()
    entries = list(log.read())
    log.close()
    here = tmp_path / "here"
    tuned = started(here, "tune", "job.py:train", "--storage", "s.db", *words, job=TRAIN.replace("PAUSE", "0"))
    tuned.communicate()
    other = SqlStore(locate(here / "s.db"), "s")
    assert decisions_of(entries) == decisions_of(list(other.read()))
    assert reports_of(entries) == reports_of(list(other.read()))
    other.close()
    assert fold(entries).spent == 80  # nothing was trained twice


def test_what_is_known_already_is_served_first_and_what_is_fixed_stays(tmp_path, started):
    words = ["--space", "typed.yaml", "--minimize", "val_loss", "--max-epochs", "3", "--strategy", "random"]
    words += ["--name", "s", "--fix", "optimizer=sgd", "--enqueue", "learning_rate=0.003,width=48"]
    (tmp_path / "typed.yaml").write_text(TYPED.to_yaml())
    (tmp_path / "known.yaml").write_text("- {width: 20}\n- {learning_rate: 0.01, width: 33}\n")

    def whole(*more: str) -> list[TrialRecord]:
        server = started(tmp_path, "serve", "s.db", "--port", "0", *more)
        url = ""
        while not url and (line := server.stdout.readline()):
            url = line.split()[-1] if "Serving at" in line else ""
        assert url
        work(url, train, token="a-token-for-tests")
        assert server.wait() == 0
        log = SqlStore(locate(tmp_path / "s.db"), "s")
        history = log.fold()
        log.close()
        assert all(t.config["optimizer"] == "sgd" for t in history.trials)
        return list(history.trials)

    usual = default_config(TYPED.fix({"optimizer": "sgd"}))
    first = whole(*words, "--enqueue", "known.yaml", "--budget", "4 trials")
    assert [t.by_hand for t in first] == [True, True, True, False]
    assert first[0].config == {**usual, "learning_rate": 0.003, "width": 48}
    assert [t.config["width"] for t in first[1:3]] == [20, 33]
    assert {len(t.reports) for t in first} == {3}
    again = whole("--enqueue", "width=48,learning_rate=0.003", "--enqueue", "width=17", "--budget", "6 trials")
    assert [t.config for t in again[:4]] == [t.config for t in first]
    assert [t.by_hand for t in again[4:]] == [True, False]  # what was trained before is not trained again
    assert again[4].config == {**usual, "width": 17}


def test_a_state_in_a_folder_of_its_own_travels_too(tmp_path):
    def folders(trial: lt.Trial) -> None:
        weights = Weights()

        def restore(place: Path) -> None:
            assert (place / "deep" / "name").read_text() == "weights"
            weights.value = float((place / "value").read_text())

        def save(place: Path) -> None:
            (place / "deep").mkdir(parents=True)
            (place / "deep" / "name").write_text("weights")
            (place / "value").write_text(repr(weights.value))

        for epoch in trial.epochs_with(restore, save):
            weights.value += 1
            trial.report(val_loss=trial.config["learning_rate"] + 1 / weights.value, value=weights.value - epoch)

    with served(tmp_path / "s.db", strategy="asha", budget="4 trials", max_epochs=9) as server:
        work(server.url, folders)
        server.join()
    assert server.told(ev.Resumed)
    assert not server.told(ev.Failed)
    assert {r.metrics["value"] for r in server.told(ev.Reported)} == {0.0}


def test_what_the_server_cannot_take_is_recorded_and_training_goes_on(tmp_path):
    asked = {"strategy": "asha", "budget": "3 trials", "max_epochs": 9}
    with served(tmp_path / "s.db", house={"largest": 10}, **asked) as server:
        work(server.url, train)
        server.join()
    history = fold(server.entries)
    assert history.finished
    assert all("not saved" in t.troubles[0] for t in history.trials)
    assert all(t.checkpoint is None for t in history.trials)
    assert server.told(ev.Resumed)


def test_a_failing_training_is_data(tmp_path):
    def failing(trial: lt.Trial) -> None:
        if trial.id == 1:
            raise ValueError("a bad batch")
        train(trial)

    with served(tmp_path / "s.db") as server:
        work(server.url, failing)
        server.join()
    history = fold(server.entries)
    assert [t.status for t in history.trials].count(Status.FAILED) == 1
    assert history.trials[1].failure.reason == "ValueError: a bad batch"
    assert "line" in history.trials[1].failure.detail


def test_a_worker_trains_a_script_of_its_own_machine(tmp_path):
    code = "import sys; [print('epoch', e, 'val_loss', float(sys.argv[1]) / e) for e in range(1, 4)]"
    script = lt.Script([sys.executable, "-c", code, "{learning_rate}"])
    with served(tmp_path / "s.db", budget="2 trials") as server:
        assert work(server.url, script, folder=tmp_path / "worker") == 2
        server.join()
    assert [t.status for t in fold(server.entries).trials] == [Status.DONE] * 2
    assert len(list((tmp_path / "worker" / "trials").iterdir())) == 2


def test_a_study_that_was_begun_here_is_served_and_goes_on_here_again(tmp_path):
    place, asked = tmp_path / "s.db", {"strategy": "asha", "max_epochs": 9}
    locally(place, budget="2 trials", **asked)
    with served(place, budget="4 trials", **asked) as server:
        work(server.url, train)
        server.join()
    after = fold(locally(place, budget="6 trials", **asked))
    undisturbed = fold(locally(tmp_path / "t.db", budget="6 trials", **asked))
    assert after.spent <= undisturbed.spent + 9
    assert all(not t.troubles and t.failure is None for t in after.trials)  # each went on from the other's states
    assert len(list((server.files / "checkpoints").rglob("*.ckpt"))) == len(after.trials)


def test_a_long_epoch_learns_of_a_stop(tmp_path):
    """While a worker trains an epoch, its heartbeat tells that the study has ended its trial."""
    from luthier.dashboard.actions import ask as act
    from luthier.dashboard.desk import open_desks

    stopped_at = []

    def long(trial: lt.Trial) -> None:
        for epoch in trial.epochs():
            if trial.id == 0 and epoch == 2:
                (desk,) = open_desks([str(tmp_path / "s.db")])
                act(desk, {"do": "stop", "trial": 0})
                desk.close()
                while not trial.should_stop:
                    time.sleep(0.01)
                stopped_at.append(epoch)
            trial.report(val_loss=1.0 / epoch)

    with served(tmp_path / "s.db", budget="2 trials", max_epochs=5, house={"lease": 8.0}) as server:
        work(server.url, long)
        server.join()
    assert stopped_at == [2]
    history = fold(server.entries)
    assert (history.trials[0].status, history.trials[0].epoch) == (Status.STOPPED, 1)


def test_a_recipe_with_its_probes_is_tuned_by_the_playbook_as_on_this_machine(tmp_path):
    torch = pytest.importorskip("torch")
    y = torch.arange(664) % 4
    x = torch.rand(664, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + y[:, None, None, None] / 2
    sets = [torch.utils.data.TensorDataset(x[part], y[part]) for part in (slice(0, 640), slice(640, 664))]
    recipe = lt.Recipe("mlp", *sets, task="classification")
    asked = {"max_epochs": 2, "budget": "80 epochs", "seed": 0, "name": "study"}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        lt.tune(recipe, storage=tmp_path / "here.db", workers=0, quiet=True, **asked)
        study = api.prepare(recipe, None, lambda text: None, **asked)
        server = Served(tmp_path / "there.db", study)
        work(server.url, recipe)
        server.join()
    finally:
        torch.set_num_threads(threads)
    log = SqlStore(locate(tmp_path / "here.db"), "study")
    here = list(log.read())
    log.close()
    assert {t.probe for t in fold(here).trials} >= {"sanity", "lr_range"}
    assert decisions_of(server.entries) == decisions_of(here)
    assert reports_of(server.entries) == reports_of(here)


# -- what is wrong is said ---------------------------------------------------------------------------------------------


def test_a_wrong_address_or_token_is_said(tmp_path):
    with served(tmp_path / "s.db", house={"token": "the-right-token"}) as server:
        for token in (None, "the-wrong-token"):
            with pytest.raises(UserError, match="LUTHIER_TOKEN"):
                work(server.url, train, token=token)
        with pytest.raises(UserError, match="no server of Luthier's jobs"):
            work(f"{server.url}/elsewhere", train, token="the-right-token")
    with pytest.raises(RunError, match="does not answer"):
        work(server.url, train, patience=0.1)
    for url in ("localhost:8765", "ftp://localhost", "http://[", "http://local host"):
        with pytest.raises((UserError, RunError), match=r"address|asked|answer"):
            work(url, train, patience=0.1)


def test_a_worker_is_told_what_ended_the_study(tmp_path):
    def mistyped(trial: lt.Trial) -> None:
        for epoch in trial.epochs():
            trial.report(val_los=1 / epoch)

    with served(tmp_path / "s.db") as server:
        with pytest.raises(RunError, match=r"'val_loss' was never reported.*Did you mean 'val_los'\?"):
            work(server.url, mistyped)
        server.join()
    assert isinstance(server.trouble, UserError)


NEW = ["serve", "s.db", "--space", "space.yaml", "--minimize", "val_loss", "--port", "0"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serve", "s.db"], "There is no study at"),
        (["serve", "s.db", "--minimize", "val_loss"], "--minimize describes a new study"),
        (["serve", "s.db", "--space", "space.yaml"], "No metric was given"),
        (
            ["serve", "s.db", "--space", "space.yaml", "--minimize", "val_loss", "--strategy", "ash"],
            "Did you mean 'asha'",
        ),
        (["serve", "s.db", "--space", "space.yaml", "--minimize", "val_loss", "--lease", "soon"], "lease='soon'"),
        (["serve", "s.db", "--space", "space.yaml", "--minimize", "val_loss", "--token", "short"], "The token has 5"),
        (["serve", "s.db", "--space", "space.yaml", "--minimize", "val_loss", "--port", "99999"], "is no port"),
        ([*NEW, "--fix", "learning_rat=0.1"], "'learning_rat' is not in the space"),
        ([*NEW, "--fix", "learning_rate=99"], "--fix learning_rate"),
        ([*NEW, "--enqueue", "learning_rate"], "gives no hyperparameter a value"),
        ([*NEW, "--enqueue", "learning_rate=99"], "enqueue: learning_rate"),
        ([*NEW, "--enqueue", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (
            [*NEW, "--budget", "1 trials", *["--enqueue", "learning_rate=0.01", "--enqueue", "learning_rate=0.02"]],
            "and the budget of",
        ),
        (["serve", "s.db", "--fix", "learning_rate=0.1"], "--fix describes a new study"),
        (["work", "localhost:8765", "job.py:train"], "is no address of a server"),
        (["work", "http://localhost:8765", "job.py:trian"], "Did you mean 'train'"),
    ],
)
def test_mistakes_at_the_terminal_are_one_message_and_leave_nothing(tmp_path, words, said, monkeypatch, capsys):
    from luthier import cli

    (tmp_path / "job.py").write_text("def train(trial): pass\n")
    (tmp_path / "space.yaml").write_text(SPACE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["luthier", *words])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "job", raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "s.db").exists()
    sys.modules.pop("job", None)


def test_of_a_study_that_is_there_no_other_strategy_is_served(tmp_path, monkeypatch, capsys):
    from luthier import cli

    place = tmp_path / "s.db"
    lt.AskTell(lt.Space(x=lt.Float(0, 1)), minimize="val_loss", strategy="random", storage=place).close()
    monkeypatch.setattr(sys, "argv", ["luthier", "serve", str(place), "--strategy", "asha"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "--strategy asha describes a new study, and this one has random" in capsys.readouterr().err


# -- what must not run -------------------------------------------------------------------------------------------------


class Evil:
    """What a forged state would like to be."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return (os.mkdir, (str(self.place),))


@pytest.mark.parametrize("forged", ["pickle", "torch", "folder"])
def test_a_forged_state_runs_nothing_on_the_worker_that_gets_it(tmp_path, forged):
    hacked = tmp_path / "hacked"
    if forged == "pickle":
        data = pickle.dumps({"epoch": 1, "state": {"weights": Evil(hacked)}, "rng": {}})
    elif forged == "torch":
        torch = pytest.importorskip("torch")
        torch.save({"epoch": 1, "state": {"weights": Evil(hacked)}, "rng": {}}, tmp_path / "forged")
        data = (tmp_path / "forged").read_bytes()
    else:
        import io
        import tarfile

        whole = io.BytesIO()
        with tarfile.open(fileobj=whole, mode="w") as archive:
            member = tarfile.TarInfo("../../../hacked")
            member.size = 4
            archive.addfile(member, io.BytesIO(b"evil"))
        data = MARK + whole.getvalue()
    with served(tmp_path / "s.db", budget="1 trials", max_epochs=3) as server:
        job = ask(server.url)
        report(server.url, job, 1)
        assert upload(server.url, job, 1, data)[0] == 200
        digest = hashlib.sha256(data).hexdigest()
        assert call(server.url, f"/v1/jobs/{job['lease']}/give-back", {"epoch": 1, "sha256": digest})[0] == 204
        work(server.url, train, folder=tmp_path / "worker")
        server.join()
    assert not list(tmp_path.rglob("hacked*"))
    (trial,) = fold(server.entries).trials
    why = {"pickle": "it names posix.mkdir, which is no data", "torch": "Weights only", "folder": "no plain file"}
    assert f"is lost: {'the packed' if forged == 'folder' else 'it'}" in trial.troubles[0]
    assert why[forged] in trial.troubles[0]
    assert (trial.status, trial.epoch) == (Status.DONE, 3)  # from its beginning


def test_a_packed_folder_is_made_again_and_nothing_outside_it(tmp_path):
    import io
    import tarfile

    folder = tmp_path / "a"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "x").write_bytes(b"1" * 3_000_000)
    (folder / "empty").write_bytes(b"")
    (folder / "link").symlink_to("/etc/passwd")
    pack(folder, tmp_path / "packed")
    assert is_packed(tmp_path / "packed")
    unpack(tmp_path / "packed", tmp_path / "b")
    assert {p.relative_to(tmp_path / "b").as_posix() for p in (tmp_path / "b").rglob("*")} == {
        "deep",
        "deep/x",
        "empty",
    }
    assert (tmp_path / "b/deep/x").read_bytes() == b"1" * 3_000_000
    outside = dict.fromkeys(("/absolute", "..", "a/../../out"), tarfile.REGTYPE)
    kinds = {
        "link": tarfile.SYMTYPE,
        "hard": tarfile.LNKTYPE,
        "device": tarfile.CHRTYPE,
        ".": tarfile.DIRTYPE,
        **outside,
    }
    for name, kind in kinds.items():
        whole = io.BytesIO()
        with tarfile.open(fileobj=whole, mode="w") as archive:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        (tmp_path / "bad").write_bytes(MARK + whole.getvalue())
        with pytest.raises(Damaged, match="plain file"):
            unpack(tmp_path / "bad", tmp_path / "c")
    for content in (MARK + b"no archive" * 200, MARK):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(Damaged, match="cannot be read"):
            unpack(tmp_path / "bad", tmp_path / "c")
    assert not (tmp_path / "c").exists() or not list((tmp_path / "c").iterdir())


def test_the_same_words_as_tune(tmp_path):
    """What describes a study is named alike in both commands."""
    from typer.main import get_command

    from luthier.cli import app

    commands = get_command(app).commands
    tune, serve = ({o for p in commands[name].params for o in p.opts} for name in ("tune", "serve"))
    of_tune_alone = {"--workers", "-w", "--threads", "--gpus", "--processes", "--pin", "--executor", "--resources"}
    of_tune_alone |= {"--slurm", "--storage", "--dry-run", "--timeout", "--worker-memory", "target"}
    scripts = {
        o for p in commands["tune"].params for o in p.opts if "Scripts" in str(getattr(p, "rich_help_panel", ""))
    }
    assert tune - of_tune_alone - scripts <= serve
