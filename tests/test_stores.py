"""The log in PostgreSQL and in older files: what becomes of it when the server, the connection or the version goes."""

from __future__ import annotations

import shutil
import socket
import threading
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from conftest import bowl, drive
from postgres import PASSWORD
from test_by_hand import ask
from test_log import EVERY_EVENT, study

import luthier as lt
from luthier import store as stores
from luthier.cli import app
from luthier.core import events as ev
from luthier.core.errors import Conflict, StorageError, UserError
from luthier.core.history import Entry, fold
from luthier.run import book as books
from luthier.run.book import Book
from luthier.store import SqlStore, locate, open_store, shown, study_names

OLD = Path(__file__).parent / "data" / "stores" / "schema-1.sqlite"
ENTRIES = [Entry(float(i) + 0.1, e) for i, e in enumerate(EVERY_EVENT)]


def luthier(*words: str) -> None:
    """The command line, in this process."""
    app([str(w) for w in words], standalone_mode=False)


def over_tcp(url: str, **changes) -> sa.URL:
    """A URL of the same database by TCP, which asks for a password."""
    parsed = sa.make_url(url)
    if "port" not in parsed.query:
        pytest.skip("the server of LUTHIER_TEST_POSTGRES has a password that is not known here")
    given = {"host": "127.0.0.1", "port": int(parsed.query["port"]), "password": PASSWORD, "query": {}, **changes}
    return parsed.set(**given)


def text(url: sa.URL) -> str:
    return url.render_as_string(hide_password=False)


# -- a log -------------------------------------------------------------------------------------------------------------


def test_a_log_in_postgres_is_the_log(database, monkeypatch):
    monkeypatch.setattr("luthier.store.sql.CHUNK", 4)
    with closing(SqlStore(locate(database), "s")) as store:
        assert list(store.read()) == []
        store.append(ENTRIES[:4], 0)
        store.append(ENTRIES[4:], 4)
        assert repr(list(store.read())) == repr(ENTRIES)
        assert repr(store.fold()) == repr(fold(ENTRIES))
        assert len(list(store.read(10))) == len(ENTRIES) - 10
        assert study_names(locate(database)) == ["s"]
        store.forget()
        assert study_names(locate(database)) == []


def test_who_comes_late_to_write_is_refused_and_nothing_is_written(database):
    with closing(SqlStore(locate(database), "s")) as one, closing(SqlStore(locate(database), "s")) as two:
        one.append(ENTRIES[:4], 0)
        with pytest.raises(Conflict):
            two.append(ENTRIES[3:6], 3)
        with pytest.raises(Conflict):
            two.append(ENTRIES[:1], 0)
        assert list(two.read()) == ENTRIES[:4]
        one.forget()
        with pytest.raises(StorageError, match="was removed"):
            two.append(ENTRIES[4:5], 4)


def test_many_may_create_the_tables_at_once(database):
    def create(number: int) -> None:
        with closing(SqlStore(locate(database), f"study {number}")) as store:
            together.wait()
            store.append([Entry(0.0, ev.Created(study(name=f"study {number}")))], 0)

    together = threading.Barrier(6)
    threads = [threading.Thread(target=create, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(study_names(locate(database))) == [f"study {i}" for i in range(6)]


@pytest.mark.parametrize("strategy", ["random", "asha", "median", "playbook"])
def test_one_driver_takes_the_same_decisions_in_every_store(space, database, tmp_path, strategy):
    def decisions(**where) -> list:
        asked = drive(space, strategy, budget="6 trials", max_epochs=4, fail=lambda i: i % 4 == 2, **where)
        taken = [ev.encode(e.event) for e in asked._book._store.read() if isinstance(e.event, ev.Decision)]
        asked.close()
        return [(kind, {k: v for k, v in data.items() if k != "driver"}) for kind, data in taken]

    assert decisions() == decisions(storage=tmp_path / "s.db") == decisions(storage=database)


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"password": "wr0ng"}, "password authentication failed.*PGPASSWORD"),
        ({"database": "none"}, 'database "none" does not exist.*createdb'),
        ({"port": 9}, "refused.*Start the server"),
        ({"host": "nowhere.invalid"}, "Mend the host"),
    ],
)
def test_a_server_that_cannot_be_used_is_told_without_the_password(database, changes, message):
    url = text(over_tcp(database, **changes))
    with pytest.raises(StorageError, match=message) as told:
        SqlStore(locate(url), "s")
    assert all(secret not in str(told.value) for secret in (PASSWORD, "wr0ng", "s3cret"))
    with pytest.raises(StorageError, match=message):
        open_store(url)


def test_a_url_is_shown_without_its_passwords():
    assert shown("postgresql://me:hush@host/db") == "postgresql://me:***@host/db"
    assert "hush" not in shown("postgresql://me@host/db?password=hush&sslpassword=hush")
    assert "hush" not in shown("postgresql://me:hush@host:port/db")
    assert shown("study.db") == "study.db"
    with pytest.raises(StorageError) as told:
        locate("postgresql://me:hush@host:port/db")
    assert "hush" not in str(told.value)
    assert locate("postgres://host/db") == locate("postgresql://host/db") == "postgresql+psycopg://host/db"


def test_a_database_that_may_not_be_written_is_read(database):
    with closing(SqlStore(locate(database), "s")) as store:
        store.append(ENTRIES, 0)
    url = sa.make_url(database).update_query_dict({"options": "-c default_transaction_read_only=on"})
    with closing(SqlStore(locate(text(url)), "s")) as store:
        assert len(list(store.read())) == len(ENTRIES)
        with pytest.raises(StorageError, match=r"read-only transaction.*primary"):
            store.append(ENTRIES[:1], len(ENTRIES))


def test_a_database_of_another_program_is_refused(database):
    engine = sa.create_engine(locate(database))
    with engine.begin() as link:
        link.exec_driver_sql("CREATE TABLE groceries (x int)")
    engine.dispose()
    with pytest.raises(StorageError, match=r"another program \(tables groceries\).*createdb"):
        SqlStore(locate(database), "s")


def cut_all(database: str) -> None:
    """The server ends every connection to the database, as a restart does."""
    engine = sa.create_engine(locate(database), poolclass=sa.NullPool)
    with engine.connect() as link:
        end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database()"
        assert link.exec_driver_sql(f"{end} AND pid <> pg_backend_pid()").rowcount
    engine.dispose()


def test_a_connection_that_broke_is_opened_again(database, space):
    asked = lt.AskTell(space, minimize="val_loss", max_epochs=3, budget="3 trials", strategy="random", storage=database)
    for epoch in (1, 2, 3):
        if epoch == 1:
            job = asked.ask()
        cut_all(database)
        asked.tell(job, epoch, val_loss=1.0 / epoch)
    cut_all(database)
    assert asked.ask().trial == 1
    with closing(open_store(database)) as log:
        assert repr(fold(log.read())) == repr(asked.history)
        assert [r.epoch for r in asked.history.trials[0].reports] == [1, 2, 3]
        assert log.drivers.living() == {1}  # the driver lives on by its new connection
    asked.close()


class Wire:
    """A way to the server that can be cut: before the next question gets there, or before its answer comes back."""

    def __init__(self, port: int, own: int = 0) -> None:
        self.cut = ""
        self._to = port
        self._ends: list[socket.socket] = []
        self._door = socket.create_server(("127.0.0.1", own))
        self.port = self._door.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._door.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._to))
            self._ends += [near, far]
            threading.Thread(target=self._carry, args=(near, far, "question"), daemon=True).start()
            threading.Thread(target=self._carry, args=(far, near, "answer"), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket, what: str) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                if self.cut == what:
                    self.cut = ""
                    break
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        """Nobody comes through any more, and who was through is cut off."""
        for end in (self._door, *self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._door.close()


@pytest.mark.parametrize("cut", ["question", "answer"])
def test_an_append_whose_fate_is_unknown_is_neither_lost_nor_doubled(database, cut):
    direct = over_tcp(database)
    wire = Wire(direct.port)
    with ExitStack() as stack:
        stack.callback(wire.close)
        store = stack.enter_context(closing(SqlStore(locate(text(direct.set(port=wire.port))), "s")))
        store.append(ENTRIES[:3], 0)
        wire.cut = cut
        store.append(ENTRIES[3:6], 3)
        assert wire.cut == ""
        store.append(ENTRIES[6:], 6)
        assert repr(list(store.read())) == repr(ENTRIES)


def test_a_server_that_restarts_is_waited_for(database):
    direct = over_tcp(database)
    wire = Wire(direct.port)
    with closing(SqlStore(locate(text(direct.set(port=wire.port))), "s")) as store:
        store.append(ENTRIES[:3], 0)
        wire.close()
        again: list[Wire] = []
        back = threading.Timer(1.2, lambda: again.append(Wire(direct.port, wire.port)))
        back.start()
        store.append(ENTRIES[3:], 3)
        assert repr(list(store.read())) == repr(ENTRIES)
        back.join()
        again[0].close()


def test_a_server_that_stays_away_is_told_and_what_was_acknowledged_is_kept(database, monkeypatch):
    monkeypatch.setattr("luthier.store.engine.RESTART", 0.0)
    direct = over_tcp(database)
    wire = Wire(direct.port)
    with closing(SqlStore(locate(text(direct.set(port=wire.port))), "s")) as store:
        store.append(ENTRIES[:3], 0)
        wire.close()
        for _ in range(2):
            with pytest.raises(StorageError, match=r"refused.*Start the server"):
                store.append(ENTRIES[3:], 3)
        with pytest.raises(StorageError, match="refused"):
            list(store.read())
    with closing(SqlStore(locate(database), "s")) as store:
        assert list(store.read()) == ENTRIES[:3]


# -- what reads a study takes its URL ----------------------------------------------------------------------------------


def test_the_command_line_takes_a_url_and_never_shows_its_password(database, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.py").write_text(
        "def train(trial):\n    for e in trial.epochs():\n        trial.report(val_loss=trial.config['lr'] + 1 / e)\n"
    )
    (tmp_path / "space.yaml").write_text("lr: {type: float, low: 0.0, high: 1.0}\n")
    url = text(over_tcp(database))
    tune = ["tune", "job.py:train", "--space", "space.yaml", "--minimize", "val_loss", "--max-epochs", "2", "-w", "0"]
    asked = [*tune, "--strategy", "random", "--budget", "3 trials", "--storage", url]
    with pytest.raises(UserError, match=r"no folder beside it.*--files"):
        luthier(*asked)
    assert study_names(locate(url)) == []
    luthier(*asked, "--files", "kept")
    assert (tmp_path / "kept").is_dir()
    luthier("resume", url, "--budget", "5 trials", "-w", "0")  # finds the folder
    luthier("show", url)
    luthier("ls", url, "--json")
    luthier("best", url)
    luthier("checklist", url)
    luthier("report", url, "-o", "page.html")
    said = "".join(capsys.readouterr()) + (tmp_path / "page.html").read_text()
    with closing(open_store(url)) as log:
        said += "".join(row.data for row in _events(log))
        assert log.files == str(tmp_path / "kept")
        history = log.fold()
        said += repr(log)
    assert len(history.trials) == 5
    assert "***@127.0.0.1" in said
    assert "s3cret" not in said
    (tmp_path / "kept").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"are in .*kept, which is not there"):
        luthier("resume", url, "--budget", "6 trials", "-w", "0")
    luthier("resume", url, "--budget", "6 trials", "-w", "0", "--files", "moved")
    assert not (tmp_path / "kept").exists()


def _events(log: SqlStore):
    with log._engine.connect() as link:
        return link.execute(sa.text("SELECT data FROM events")).all()


def test_the_dashboard_follows_a_study_in_postgres_and_acts_on_it(database, space, monkeypatch):
    pytest.importorskip("fastapi")
    from luthier.dashboard.actions import ask as act
    from luthier.dashboard.desk import open_desks

    monkeypatch.setattr(books, "LISTENS", 0.0)
    url = text(over_tcp(database))
    with closing(
        lt.AskTell(space, minimize="val_loss", max_epochs=4, budget="9 trials", strategy="random", storage=url)
    ) as asked:
        job = asked.ask()
        (desk,) = open_desks([url])
        assert "s3cret" not in desk.place
        assert asked.tell(job, 1, val_loss=bowl(job.config, 1)) == "continue"
        assert desk.look().trials[0].epoch == 1
        act(desk, {"do": "stop", "trial": 0})
        assert asked.tell(job, 2, val_loss=1.0) == "stop"
        assert desk.look().trials[0].stop_why == "stopped by hand"
        desk.close()


def test_what_is_asked_by_hand_is_honoured_by_the_driver_that_runs_the_trial(database, space, monkeypatch):
    monkeypatch.setattr(books, "LISTENS", 0.0)
    given = {"minimize": "val_loss", "max_epochs": 4, "budget": "9 trials", "strategy": "random", "storage": database}
    with closing(lt.AskTell(space, **given)) as one, closing(lt.AskTell(space, **given)) as two:
        mine = one.ask()
        one.tell(mine, 1, val_loss=1.0)
        ask(one, ev.StopAsked(mine.trial))
        other = two.ask()
        assert two.history.stops == (mine.trial,)
        assert other.trial == 1
        assert one.tell(mine, 2, val_loss=1.0) == "stop"
        assert one.history.trials[0].stop_why == "stopped by hand"


# -- versions ----------------------------------------------------------------------------------------------------------


def test_a_file_of_version_1_is_read_as_it_is_and_brought_up_to_date_by_the_first_write(tmp_path, capsys):
    place = Path(shutil.copy(OLD, tmp_path / "old.db"))
    before = place.read_bytes()
    luthier("show", place)
    luthier("ls", place)
    assert "asha" in capsys.readouterr().out
    with closing(open_store(place)) as log:
        entries = list(log.read())
        assert log.files is None
    assert place.read_bytes() == before
    with closing(open_store(place)) as log:
        book = Book.open(log)
        book.append(ev.Opened("now"))
        log.keep_files(tmp_path / "kept")
    with closing(open_store(place)) as log:
        assert list(log.read())[:-1] == entries
        assert log.files == str(tmp_path / "kept")
    engine = sa.create_engine(locate(place))
    with engine.connect() as link:
        assert link.execute(sa.text("SELECT schema FROM luthier")).scalars().all() == [stores.SCHEMA]
    engine.dispose()


def test_a_study_of_version_1_goes_on(tmp_path, space):
    place = Path(shutil.copy(OLD, tmp_path / "old.db"))
    space = lt.Space(learning_rate=lt.Float(1e-5, 1e-1, log=True), depth=lt.Int(1, 4))
    asked = drive(space, "asha", storage=place, name="old", budget="4 trials", max_epochs=4)
    new = drive(space, "asha", name="old", budget="3 trials", max_epochs=4)
    old = asked.history.trials[: len(new.history.trials)]
    assert [t.config for t in old] == [t.config for t in new.history.trials]
    assert asked.history.spent > new.history.spent


def test_a_migration_that_fails_half_way_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    def broken(link: sa.Connection) -> None:
        link.exec_driver_sql("ALTER TABLE studies ADD COLUMN files TEXT")
        link.exec_driver_sql("ALTER TABLE nowhere ADD COLUMN files TEXT")

    place = Path(shutil.copy(OLD, tmp_path / "old.db"))
    monkeypatch.setattr("luthier.store.tables.MIGRATIONS", {1: broken})
    with closing(open_store(place)) as log, pytest.raises(StorageError, match="no such table"):
        log.append([Entry(9e9, ev.Opened("now"))], 30)
    monkeypatch.undo()
    with closing(open_store(place)) as log:
        assert len(list(log.read())) == 30
        log.append([Entry(9e9, ev.Opened("now"))], 30)
        assert log.fold().drivers == 1


@pytest.mark.parametrize(
    ("kind", "data"),
    [("Teleported", '{"trial": 0}'), ("Opened", '{"version": "9", "aim": "higher"}')],
)
def test_events_of_a_newer_version_are_refused(tmp_path, kind, data):
    place = Path(shutil.copy(OLD, tmp_path / "new.db"))
    engine = sa.create_engine(locate(place))
    with engine.begin() as link:
        link.execute(sa.text("INSERT INTO events VALUES (1, 30, 9e9, :kind, :data)"), {"kind": kind, "data": data})
    engine.dispose()
    for words in (["show", place], ["report", place], ["resume", place], ["best", place]):
        with pytest.raises(StorageError, match=f"{kind}.* a newer one writes it.*Upgrade"):
            luthier(*words)
