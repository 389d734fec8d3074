"""A real PostgreSQL of our own on a free port of this machine, which can be stopped at once and started again."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from socket import SHUT_RDWR, create_connection, create_server, socket

import pytest

_FOUND = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
INITDB = shutil.which("initdb") or (str(_FOUND[-1]) if _FOUND else None)
needs_postgres = pytest.mark.skipif(INITDB is None, reason="PostgreSQL is missing: apt-get install postgresql")
OWNER = "runs"
# This one needs its password; everybody else is let in.
GUARDED, PASSWORD = "guarded", "s3cret-word"
_OPTIONS = "-c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off -c max_connections=30 -p"


@dataclass
class Server:
    """A cluster in a folder, running or stopped."""

    folder: Path
    port: int
    databases: list[str] = field(default_factory=list)

    def start(self) -> None:
        self._control("start", "-o", f"{_OPTIONS} {self.port}", "-l", str(self.folder / "log"))

    def stop(self) -> None:
        """As if it crashed: connections are cut, nothing is tidied up."""
        self._control("stop", "-m", "immediate")

    def new_database(self) -> str:
        """The URL of an empty one."""
        self.databases.append(f"runs{len(self.databases)}")
        self.execute(f"CREATE DATABASE {self.databases[-1]}")
        return self.url(self.databases[-1])

    def url(self, database: str, user: str = OWNER, port: int | None = None) -> str:
        return f"postgresql://{user}@127.0.0.1:{port or self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        import psycopg2

        with closing(psycopg2.connect(self.url(database))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []

    def _control(self, *words: str) -> None:
        _run(["pg_ctl", "-w", "-s", "-D", str(self.folder / "data"), *words], self.folder)


@contextmanager
def serving() -> Iterator[Server]:
    """Starts a server with an empty cluster, and removes both afterwards."""
    # Not in pytest's folder, which is closed to the user that the server runs as where root tests.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    if (user := _user()) is not None:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    server = Server(folder, _lasting_port())
    try:
        words = ["-D", str(folder / "data"), "-U", OWNER, "-E", "UTF8", "--locale=C", "-A", "trust", "-N"]
        _run(["initdb", "--no-instructions", *words], folder)
        rules = folder / "data" / "pg_hba.conf"
        rules.write_text(f"host all {GUARDED} 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        server.start()
        try:
            server.execute(f"CREATE ROLE {GUARDED} LOGIN PASSWORD '{PASSWORD}'")
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _lasting_port() -> int:
    """A free port that stays free while the server is down: none of those that the system gives to whoever connects."""
    ports = list(range(20_000, 30_000))
    random.shuffle(ports)
    for port in ports:
        with suppress(OSError), create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


def _user() -> str | None:
    """Who the server runs as: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _run(command: Sequence[str], folder: Path) -> None:
    assert INITDB is not None
    program = str(Path(INITDB).with_name(command[0]))
    user = _user()
    group = None if user is None else pwd.getpwnam(user).pw_gid
    # Into a file: a server would hold a pipe open for as long as it runs.
    with (folder / "output").open("wb") as output:
        done = subprocess.run(
            [program, *command[1:]], cwd=folder, user=user, group=group, extra_groups=None if user is None else [],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False,
        )  # fmt: skip
    if done.returncode:
        log = folder / "log"
        pytest.fail(f"{command[0]}: {(folder / 'output').read_text()}{log.read_text() if log.is_file() else ''}")


class Lossy:
    """What lies between a driver and its server: cuts the connection where the server answers to a chosen commit.

    Attributes:
        lose: Number of the commit whose answer is lost, counted from 0 over all connections.
        commits: How many there were.
        lost: How many answers were.
    """

    def __init__(self, server: Server) -> None:
        self.lose, self.commits, self.lost = -1, 0, 0
        self._server_port = server.port
        self._listener = create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            with closing(one):
                _shut(one)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = create_connection(("127.0.0.1", self._server_port))
            self._open += [client, server]
            losing = threading.Event()
            for way in ((client, server, losing, True), (server, client, losing, False)):
                thread = threading.Thread(target=self._carry, args=way)
                self._threads.append(thread)
                thread.start()

    def _carry(self, source: socket, target: socket, losing: threading.Event, asks: bool) -> None:
        try:
            while data := source.recv(65536):
                if asks and data == b"Q\0\0\0\x0bCOMMIT\0":
                    if self.commits == self.lose:
                        losing.set()
                    self.commits += 1
                elif not asks and losing.is_set():
                    # The server has committed.
                    self.lost += 1
                    break
                target.sendall(data)
        except OSError:
            pass
        _shut(source)
        _shut(target)


def _shut(one: socket) -> None:
    with suppress(OSError):
        one.shutdown(SHUT_RDWR)
