"""Optuna's dashboard on a real run: what it tells is what the run holds, and nothing can be changed by it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

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


@pytest.fixture
def address(run_folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "autocompress", "dashboard", str(run_folder), "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield line.split("/dashboard")[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert line.startswith("http://127.0.0.1:")


def answer(address: str, path: str, method: str = "GET") -> bytes:
    with urllib.request.urlopen(urllib.request.Request(address + path, method=method), timeout=20) as reply:
        return bytes(reply.read())


def test_the_dashboard_shows_a_run_and_changes_nothing(address: str, run_folder: Path) -> None:
    before = (run_folder / "study.journal").read_bytes()
    assert b"<!DOCTYPE html>" in answer(address, "/dashboard/")
    (study,) = json.loads(answer(address, "/api/studies"))["study_summaries"]
    detail = json.loads(answer(address, f"/api/studies/{study['study_id']}?after=0"))
    assert [trial["state"] for trial in detail["trials"]] == ["Complete", "Complete", "Fail", "Fail", "Complete"]
    for method, path in (("DELETE", f"/api/studies/{study['study_id']}"), ("POST", "/api/studies")):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            answer(address, path, method)
    assert (run_folder / "study.journal").read_bytes() == before
    assert len(Study(run_folder, SPACE, TWO).records()) == 5


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
