"""The command line with real workers: Ctrl-C reaches every process, SIGTERM the driver, `kill -9` none in time."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
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


STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _none_is_left() -> Iterator[None]:
    """A driver of a test that failed would train beside all that follow."""
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def started(folder: Path, run: Path, *words: str) -> subprocess.Popen[str]:
    """`autocompress` with two workers in a session of its own, as a terminal would start it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "autocompress", *words]
    if words[0] == "search":
        (folder / "space.yaml").write_text(SPACE)
        command += ["--task", "tests.run.tiny:tiny_task", "--space", str(folder / "space.yaml"), "--workers", "2"]
        command += ["--short-steps", "4", "--final-epochs", "1", "--final-points", "2", "-o", str(run)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    STARTED.append(process)
    return process


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


def refused_while_another_drives(folder: Path, run: Path, driver: subprocess.Popen[str]) -> None:
    assert status_of(Run.open(run))["driver"].startswith(f"process {driver.pid} on ")
    other = started(folder, run, "resume", str(run))
    said, _ = other.communicate(timeout=120)
    assert (other.returncode, said.count("\n")) == (2, 1)
    assert f"is being driven by process {driver.pid} on {socket.gethostname()} since 20" in said


def killed_without_a_word(run: Path, driver: subprocess.Popen[str]) -> int:
    """Returns how many trials had ended."""
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    told = status_of(Run.open(run))
    assert told["driver"] is None
    assert workers_of(driver.pid, patience_s=30.0) == []
    return int(told["trials"]["complete"])


def interrupted(driver: subprocess.Popen[str], request: signal.Signals, expected: str) -> None:
    """Ctrl-C in the terminal of the driver, or SIGTERM from whoever runs it."""
    (os.killpg if request == signal.SIGINT else os.kill)(driver.pid, request)
    said, _ = driver.communicate(timeout=120)
    assert driver.returncode == 0, said
    assert expected in said
    assert "Traceback" not in said
    assert workers_of(driver.pid) == []


# One run, since each start of a driver and its workers takes many seconds.
def test_a_run_is_refused_to_others_killed_interrupted_ended_and_interrupted_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    driver = started(tmp_path, run, "search", "--budget", "2000")
    wait_for_trials(driver, run, 2)
    refused_while_another_drives(tmp_path, run, driver)
    wait_for_trials(driver, run, 4)
    ended = killed_without_a_word(run, driver)

    driver = started(tmp_path, run, "resume", str(run))
    wait_for_trials(driver, run, ended + 2)
    interrupted(driver, signal.SIGINT, "interrupted: the front so far is exported without further training")
    points = json.loads((run / "front.json").read_text())["points"]
    assert points
    assert {point["fidelity"] for point in points} == {"short"}
    ended = status_of(Run.open(run))["trials"]["complete"]

    driver = started(tmp_path, run, "resume", str(run), "--budget", str(ended + 3))
    said, _ = driver.communicate(timeout=180)
    assert driver.returncode == 0, said
    assert status_of(Run.open(run))["trials"] == {"complete": ended + 3}
    assert {point["fidelity"] for point in Run.open(run).points} == {"full"}
    files = {path: path.read_bytes() for path in sorted(run.glob("artifacts/*/*"))}
    front = (run / "front.json").read_bytes()

    driver = started(tmp_path, run, "resume", str(run), "--budget", "2000")
    wait_for_trials(driver, run, ended + 6)
    interrupted(driver, signal.SIGTERM, "the front of before stays")
    assert (run / "front.json").read_bytes() == front
    assert {path: path.read_bytes() for path in sorted(run.glob("artifacts/*/*"))} == files
