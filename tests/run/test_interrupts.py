"""The command line with real workers: Ctrl-C reaches every process of the terminal, `kill -9` none in time."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autocompress.run.folder import Run
from autocompress.run.show import status_of

# Two Rays that start at the same moment on one machine get into each other's way.
pytestmark = pytest.mark.xdist_group("ray")

ROOT = Path(__file__).parents[2]
SPACE = """
name: few
rules:
  - {op: prune, sparsity: [0.25, 0.5]}
  - {op: quantize, w_bits: [8, 4]}
"""


def started(folder: Path, run: Path, *words: str) -> subprocess.Popen[str]:
    """`autocompress` with two workers in a session of its own, as a terminal would start it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "autocompress", *words]
    if words[0] == "search":
        (folder / "space.yaml").write_text(SPACE)
        command += ["--task", "tests.run.tiny:tiny_task", "--space", str(folder / "space.yaml"), "--workers", "2"]
        command += ["--short-steps", "4", "--final-epochs", "1", "--final-points", "2", "-o", str(run)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def wait_for_trials(process: subprocess.Popen[str], run: Path, count: int) -> None:
    for _ in range(600):
        if (run / "run.yaml").is_file() and status_of(Run.open(run))["trials"].get("complete", 0) >= count:
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.2)
    raise AssertionError("the trials took longer than two minutes")


def workers_of(session: int, patience_s: float = 20.0) -> list[str]:
    """The workers that are still there after a while; one that is told to end needs a moment on a busy machine.

    Ray's own agents, which compute nothing, notice within a minute or two that they are alone.
    """
    until = time.monotonic() + patience_s
    while True:
        done = subprocess.run(["ps", "-eo", "sid=,cmd="], capture_output=True, text=True, check=True)
        lines = done.stdout.splitlines()
        left = [line for line in lines if line.split()[0] == str(session) and "Agent" not in line]
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.5)


def test_ctrl_c_emits_the_front_so_far_and_resume_reaches_the_budget(tmp_path: Path) -> None:
    run = tmp_path / "run"
    search = started(tmp_path, run, "search", "--budget", "2000")
    wait_for_trials(search, run, 5)
    os.killpg(search.pid, signal.SIGINT)
    said, _ = search.communicate(timeout=120)
    assert search.returncode == 0, said
    assert "interrupted: the front so far is exported without further training" in said
    assert "Traceback" not in said
    before = status_of(Run.open(run))["trials"]["complete"]
    points = json.loads((run / "front.json").read_text())["points"]
    assert points
    assert {point["fidelity"] for point in points} == {"short"}
    assert workers_of(search.pid) == []

    again = started(tmp_path, run, "resume", str(run), "--budget", str(before + 3))
    said, _ = again.communicate(timeout=180)
    assert again.returncode == 0, said
    assert status_of(Run.open(run))["trials"]["complete"] == before + 3
    assert {point["fidelity"] for point in Run.open(run).points} == {"full"}


def test_a_killed_driver_takes_its_workers_with_it_and_loses_nothing_that_ended(tmp_path: Path) -> None:
    run = tmp_path / "run"
    search = started(tmp_path, run, "search", "--budget", "2000")
    wait_for_trials(search, run, 4)
    os.kill(search.pid, signal.SIGKILL)
    search.communicate()
    told = status_of(Run.open(run))
    before = told["trials"]["complete"]
    assert told["driver"] is None
    assert workers_of(search.pid, patience_s=30.0) == []
    again = started(tmp_path, run, "resume", str(run), "--budget", str(before + 2))
    said, _ = again.communicate(timeout=180)
    assert again.returncode == 0, said
    assert status_of(Run.open(run))["trials"] == {"complete": before + 2}


def test_ctrl_c_in_a_longer_run_keeps_the_points_that_were_trained(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = started(tmp_path, run, "search", "--budget", "4")
    said, _ = first.communicate(timeout=180)
    assert first.returncode == 0, said
    files = {path: path.read_bytes() for path in sorted(run.glob("artifacts/*/*"))}
    front = (run / "front.json").read_bytes()

    more = started(tmp_path, run, "resume", str(run), "--budget", "2000")
    wait_for_trials(more, run, 7)
    os.killpg(more.pid, signal.SIGINT)
    said, _ = more.communicate(timeout=120)
    assert more.returncode == 0, said
    assert "the front of before stays" in said
    assert (run / "front.json").read_bytes() == front
    assert {path: path.read_bytes() for path in sorted(run.glob("artifacts/*/*"))} == files


def test_a_run_has_one_driver_at_a_time(tmp_path: Path) -> None:
    run = tmp_path / "run"
    search = started(tmp_path, run, "search", "--budget", "2000")
    wait_for_trials(search, run, 2)
    assert status_of(Run.open(run))["driver"].startswith(f"process {search.pid} on ")
    other = started(tmp_path, run, "resume", str(run))
    said, _ = other.communicate(timeout=120)
    assert (other.returncode, said.count("\n")) == (2, 1)
    assert f"is being driven by process {search.pid} on {socket.gethostname()} since 20" in said
    os.killpg(search.pid, signal.SIGINT)
    said, _ = search.communicate(timeout=120)
    assert search.returncode == 0, said
