"""A study in a PostgreSQL whose server is stopped, restarted and cut off while trials run."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from autocompress.config import resume, search
from autocompress.core.constraint import Budget, parse_budget
from autocompress.errors import InputError, RunError
from autocompress.run import storage
from autocompress.run.folder import Run
from autocompress.run.settings import SearchConfig, read_config
from autocompress.run.show import status_of
from autocompress.run.storage import check_storage
from autocompress.run.study import Study
from autocompress.run.trials import run_trials
from autocompress.search.record import Record
from autocompress.wired import wire
from tests.run.postgres import GUARDED, PASSWORD, Lossy, Server, needs_postgres, serving
from tests.run.studies import SPACE, TWO, fill, results
from tests.run.tiny import OBJECTIVES, RULES, Told, make_trials, tiny_context, tiny_space, tiny_task
from tests.targets.sshd import free_port

pytestmark = needs_postgres
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as found:
        yield found


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What was logged as a warning."""
    # A search keeps what it logs to itself.
    monkeypatch.setattr(logging.getLogger("autocompress"), "propagate", True)
    caplog.set_level(logging.WARNING, "autocompress")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "autocompress"]


class Restarts:
    """Restarts a server again and again at random moments, in a thread."""

    def __init__(self, server: Server, times: int, down_s: float) -> None:
        self._server, self._times, self._down_s, self.done = server, times, down_s, 0
        self._thread = threading.Thread(target=self._work)
        self._ended = threading.Event()

    def __enter__(self) -> Restarts:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        moments = random.Random(0)
        while self.done < self._times and not self._ended.wait(moments.uniform(0.0, 0.6)):
            self._server.stop()
            time.sleep(self._down_s)
            self._server.start()
            self.done += 1


def told(records: list[Record]) -> list[object]:
    """Everything but what trials took."""
    return [(one.number, one.vector, one.label, one.state, one.fidelity, dict(one.metrics)) for one in records]


def test_trials_go_on_when_the_server_is_restarted(
    server: Server, tmp_path: Path, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_LONGEST_WAIT_S", 0.5)
    context = tiny_context()
    space, budget, url = tiny_space(context), parse_budget("16"), server.new_database()
    undisturbed = make_trials(tmp_path / "undisturbed", context, space)
    assert run_trials(undisturbed, budget)
    with closing(Study(tmp_path, space, OBJECTIVES, url, "one")) as study:
        with Restarts(server, 4, down_s=1.0) as restarts:
            assert run_trials(make_trials(tmp_path / "run", context, space, study=study), budget)
        assert restarts.done >= 3
        assert told(study.records()) == told(undisturbed.study.records())
        # None was begun that is not among them.
        assert [record.label for record in study.records()] == ["dense"] + ["search"] * 15
        assert len(study._study.get_trials()) == 16
    away = [text for text in said() if text.startswith("the storage is away, asking again for up to 300 s: ")]
    back = [text for text in said() if text.startswith("the storage is back after ")]
    assert 1 <= len(away) == len(back) <= restarts.done + 1


class Stopping(Told):
    """A listener that stops the server when some trials have ended; a second later it is started again."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server
        self.timers: list[threading.Timer] = []

    def trial(self, record: Record, done: int, budget: Budget, seconds: float) -> None:
        super().trial(record, done, budget, seconds)
        if done in (1, 3, 5):
            self._server.stop()
            self.timers.append(threading.Timer(1.0, self._server.start))
            self.timers[-1].start()


def test_a_search_ends_with_the_same_front_and_tells_no_password(server: Server, tmp_path: Path) -> None:
    server.new_database()
    server.execute(f"GRANT ALL ON SCHEMA public TO {GUARDED}", server.databases[-1])
    url = server.url(server.databases[-1], f"{GUARDED}:{PASSWORD}")
    stopping = Stopping(server)

    def searched(name: str, storage: str | None, listener: Told) -> Run:
        config = SearchConfig(short_steps=1, final_epochs=0, storage=storage, workers=1)
        return search(tiny_task(), space=RULES, budget=6, output=tmp_path / name, config=config, listener=listener)

    undisturbed, run = searched("undisturbed", None, Told()), searched("run", url, stopping)
    assert len(stopping.timers) == 3
    assert [point["metrics"] for point in run.points] == [point["metrics"] for point in undisturbed.points]
    assert status_of(run)["trials"] == status_of(undisturbed)["trials"] == {"complete": 6}
    tell = [path for path in run.path.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    assert tell == [run.path / "run.yaml"]
    assert f"--storage postgresql://{GUARDED}:***@127.0.0.1" in (run.path / "report.json").read_text()
    assert "the storage is back after" in (run.path / "logs" / "run.log").read_text()


def test_an_answer_that_is_lost_writes_nothing_twice(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every commit of a study in turn the server's answer is lost: what it wrote is there, and is there once."""
    monkeypatch.setattr(storage, "_FIRST_WAIT_S", 0.001)
    server.new_database()
    lossy = Lossy(server)
    with closing(lossy):
        url = server.url(server.databases[-1], port=lossy.port)
        # The tables are made before anything is counted.
        with closing(Study(Path(), SPACE, TWO, url, "one")) as study:
            used(study, 0)
            before = lossy.commits
            used(study, 1)
            commits = lossy.commits - before
            assert commits > 20
            for place in range(commits):
                lossy.lose = lossy.commits + place
                used(study, 2 + place)
                assert lossy.lost == place + 1
            assert len(study._study.get_trials()) == 3 * (2 + commits)


def used(study: Study, times: int) -> None:
    """Everything that a driver does to a study, the how many-th time."""
    first = 3 * times
    complete = replace(results()[0], number=first)
    assert study.start(complete.vector, complete.label) == first
    study.finish(complete)
    infeasible = replace(results()[2], number=first + 1)
    assert study.start(infeasible.vector, infeasible.label) == first + 1
    assert [one.number for one in study.lost()] == [first + 1]
    study.finish(infeasible)
    failed = replace(results()[3], number=first + 2)
    assert study.start(failed.vector, failed.label) == first + 2
    study.finish(failed)
    assert study.records()[first:] == [complete, infeasible, failed]


def test_a_driver_that_is_killed_leaves_trials_that_are_run_again_once(server: Server, tmp_path: Path) -> None:
    url, run = server.new_database(), tmp_path / "run"
    (tmp_path / "space.yaml").write_text("name: few\nrules:\n  - {op: quantize, w_bits: [8, 4]}\n")
    words = ["search", "--task", "tests.run.tiny:tiny_task", "--space", str(tmp_path / "space.yaml"), "-o", str(run)]
    words += ["--short-steps", "60", "--final-epochs", "0", "--workers", "1", "--budget", "2000", "--storage", url]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen([sys.executable, "-m", "autocompress", *words], cwd=ROOT, env=environment)
    try:
        wait_for_trials(driver, server)
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    ((lost, ended),) = server.execute(_COUNTS, server.databases[-1])
    assert (lost, status_of(Run.open(run))["trials"]) == (1, {"complete": ended, "running": 1})
    resume(run, budget=str(int(str(ended)) + 2))
    space = wire(read_config(Run.open(run))).space
    with closing(Study(run, space, OBJECTIVES, url, Run.open(run).study)) as study:
        vectors = [record.vector for record in study.records()]
        assert {record.state for record in study.records()} == {"complete"}
        assert len(vectors) == len(set(vectors)) == int(str(ended)) + 2
        trials = study._study.get_trials()
    assert len(trials) == len(vectors)
    before = (run / "run.yaml").read_bytes()
    server.stop()
    with pytest.raises(InputError, match=r"cannot be opened: .*refused"):
        resume(run, budget="+3")
    server.start()
    assert (run / "run.yaml").read_bytes() == before


_COUNTS = "SELECT count(*) FILTER (WHERE state = 'RUNNING'), count(*) FILTER (WHERE state = 'COMPLETE') FROM trials"


def wait_for_trials(driver: subprocess.Popen[bytes], server: Server) -> None:
    """Until some ended and another one runs."""
    for _ in range(600):
        assert driver.poll() is None
        if server.execute("SELECT to_regclass('trials')", server.databases[-1]) != [(None,)]:
            ((running, ended),) = server.execute(_COUNTS, server.databases[-1])
            if running == 1 and int(str(ended)) >= 2:
                return
        time.sleep(0.1)
    raise AssertionError("the trials took longer than a minute")


def test_a_storage_that_stays_away_ends_the_run_with_a_sentence(
    server: Server, monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(storage, "PATIENCE_S", 1.0)
    with closing(Study(Path(), SPACE, TWO, server.new_database(), "one")) as study:
        fill(study)
        server.stop()
        try:
            for ask in (study.records, study.began, study.lost, lambda: study.start((1, 1), "search")):
                with pytest.raises(RunError, match=r"^the storage was away for 1 s: .*refused; .*resume` goes on$"):
                    ask()
        finally:
            server.start()
        assert study.records() == results()
    assert len(said()) == 4


def test_what_is_no_lost_connection_is_told_at_once(server: Server, said: Callable[[], list[str]]) -> None:
    with closing(Study(Path(), SPACE, TWO, server.new_database(), "one")) as study:
        study.start((1, 1), "search")
        server.execute("ALTER TABLE trial_user_attributes RENAME TO elsewhere", server.databases[-1])
        with pytest.raises(RunError, match=r'cannot do what it is asked: relation "trial_user_attributes" does not'):
            study.records()
    assert said() == []


@pytest.mark.parametrize(
    ("user", "statement", "reason"),
    [
        (f"{GUARDED}:{PASSWORD}x", "", "password authentication failed"),
        (GUARDED, "", "no password supplied"),
        ("nobody", "", 'role "nobody" does not exist'),
        (f"{GUARDED}:{PASSWORD}", "", "permission denied for schema public"),
        ("reader", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader", "permission denied for table studies"),
        ("runs", "UPDATE alembic_version SET version_num = 'v9'", "no longer compatible with the table schema"),
        ("runs", "ALTER TABLE studies RENAME study_name TO other", 'column "study_name" .*does not exist'),
        ("runs", "DROP TABLE version_info; CREATE TABLE version_info (a int)", "version_info_id does not exist"),
    ],
)
def test_what_cannot_be_used_is_refused_before_there_is_a_folder(
    user: str, statement: str, reason: str, server: Server, tmp_path: Path
) -> None:
    url = server.new_database()
    if not server.execute("SELECT 1 FROM pg_roles WHERE rolname = 'reader'"):
        server.execute("CREATE ROLE reader LOGIN")
    if statement:
        check_storage(tmp_path, url)
        server.execute(statement, server.databases[-1])
    refused(server.url(server.databases[-1], user), reason, tmp_path)


def test_a_database_or_a_server_that_is_not_there_is_refused_at_once(server: Server, tmp_path: Path) -> None:
    refused(server.url("nothing"), 'database "nothing" does not exist', tmp_path)
    refused(server.url("nothing", f"me:{PASSWORD}", free_port()), "Connection refused", tmp_path)


def refused(url: str, reason: str, folder: Path) -> None:
    with pytest.raises(InputError, match=rf"storage 'postgresql://.*' cannot be (opened|written): .*{reason}") as found:
        search(tiny_task(), space=RULES, output=folder / "run", config=SearchConfig(storage=url))
    assert "\n" not in str(found.value)
    assert PASSWORD not in str(found.value)
    assert not (folder / "run").exists()


def test_passwords_may_come_from_a_file_and_servers_from_another(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.new_database()
    server.execute(f"GRANT ALL ON SCHEMA public TO {GUARDED}", server.databases[-1])
    passwords, services = tmp_path / "passwords", tmp_path / "services"
    passwords.write_text(f"127.0.0.1:{server.port}:*:{GUARDED}:{PASSWORD}\n")
    passwords.chmod(0o600)
    place = f"host=127.0.0.1\nport={server.port}\ndbname={server.databases[-1]}\nuser={GUARDED}\n"
    services.write_text(f"[team]\n{place}")
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    for url in (server.url(server.databases[-1], GUARDED), "postgresql:///?service=team"):
        with closing(Study(tmp_path, SPACE, TWO, url)) as study:
            assert [study.start((0, 0), "dense")] == [len(study.records()) - 1]


def test_two_that_begin_in_an_empty_database_at_the_same_moment_both_do(server: Server, tmp_path: Path) -> None:
    url = server.new_database()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: check_storage(tmp_path, url), range(4))) == [None] * 4
    assert server.execute("SELECT * FROM studies", server.databases[-1]) == []
