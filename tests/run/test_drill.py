"""A short drill; the long one is run by hand, `benchmarks/drill.md` has its figures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Two Rays that start at the same moment on one machine get into each other's way.
pytestmark = pytest.mark.xdist_group("ray")

ROOT = Path(__file__).parents[2]


def test_nothing_is_lost_when_the_driver_a_worker_and_ray_are_killed() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "drill.py"), "--task", "tests.run.tiny:tiny_task"]
    command += [
        "--kills",
        "3",
        "--in-turn",
        "--victims",
        "driver",
        "worker",
        "gcs_server",
        "--after",
        "3",
        "--short-steps",
        "150",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = dict(line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.count("|") == 3)
    assert {rows[what] for what in ("finished trials lost or changed", "plans that finished twice")} == {"0"}
    assert (rows["trials without an owner"], rows["processes left"], rows["failed trials"]) == ("0", "0", "0")
    assert (rows["plans with other numbers in one process"], rows["front as in one process"]) == ("0", "True")
    assert "3 kills (1 driver, 1 gcs_server, 1 worker)" in done.stdout
