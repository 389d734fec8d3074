"""Optuna's dashboard on a real run: what it tells is what the run holds, and nothing can be changed by it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_connection

import pytest
import yaml

from autocompress.errors import InputError
from autocompress.run import dashboard
from autocompress.run.folder import Run
from autocompress.run.study import Study
from tests.run.studies import SPACE, TWO, fill

pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A study with its trials, as a run keeps it."""
    fill(Study(tmp_path, SPACE, TWO))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"format": 1, "search": {}}))
    return tmp_path


@contextmanager
def serving(run_folder: Path, *program: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A dashboard in a process of its own, and its address; Ctrl-C has to end it."""
    command = [sys.executable, *program, "dashboard", str(run_folder), "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("http://127.0.0.1:")
            yield process, line.split("/dashboard")[0]
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()


def answer(address: str, path: str, method: str = "GET") -> bytes:
    with urllib.request.urlopen(urllib.request.Request(address + path, method=method), timeout=20) as reply:
        return bytes(reply.read())


def test_the_dashboard_shows_a_run_and_changes_nothing(run_folder: Path) -> None:
    before = (run_folder / "study.journal").read_bytes()
    with serving(run_folder, "-m", "autocompress") as (_, address):
        assert b"<!DOCTYPE html>" in answer(address, "/dashboard/")
        (study,) = json.loads(answer(address, "/api/studies"))["study_summaries"]
        detail = json.loads(answer(address, f"/api/studies/{study['study_id']}?after=0"))
        assert [trial["state"] for trial in detail["trials"]] == ["Complete", "Complete", "Fail", "Fail", "Complete"]
        for method, path in (("DELETE", f"/api/studies/{study['study_id']}"), ("POST", "/api/studies")):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                answer(address, path, method)
    assert (run_folder / "study.journal").read_bytes() == before
    assert len(Study(run_folder, SPACE, TWO).records()) == 5


# Where the dashboard itself would answer, this one says so and takes its time.
SLOW = """
import time
import optuna_dashboard
from autocompress.cli import main
def answer(environ, start):
    print("asked", flush=True)
    time.sleep(60)
optuna_dashboard.wsgi = lambda storage: answer
main()
"""


def test_ctrl_c_ends_it_while_it_answers_and_a_silent_connection_holds_nobody_up(run_folder: Path) -> None:
    with serving(run_folder, "-c", SLOW) as (process, address):
        host, port = address.removeprefix("http://").split(":")
        with create_connection((host, int(port))), create_connection((host, int(port))) as asking:
            asking.sendall(b"GET /dashboard/ HTTP/1.0\r\n\r\n")
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 20)[0]
            assert process.stdout.readline() == "asked\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0


def test_a_port_that_is_taken_and_a_dashboard_that_is_missing(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.open(run_folder)
    taken = pytest.raises(InputError, match=r"127\.0\.0\.1:\d+ cannot be listened on: .*; name another --port")
    with dashboard.dashboard_server(run, "127.0.0.1", 0) as server, taken:
        dashboard.dashboard_server(run, "127.0.0.1", server.server_port)
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(InputError, match=r'pip install "autocompress\[dashboard\]"'):
        dashboard.dashboard_server(run, "127.0.0.1", 0)
