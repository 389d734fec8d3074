"""A short drill: a search whose driver, worker and Ray are killed loses nothing, runs nothing twice."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

# Two Rays that start at the same moment on one machine get into each other's way.
pytestmark = pytest.mark.xdist_group("ray")
ROOT = Path(__file__).parents[2]
KILLS = 4


def test_a_short_drill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    options = ["--task", "tests.run.tiny:tiny_task", "--short-steps", "500", "--in-turn", "--after", "3"]
    options += ["--pause", "2"]
    command = [sys.executable, str(ROOT / "scripts" / "drill.py"), "--kills", str(KILLS), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{KILLS} kills (1 driver, 1 gcs_server, 1 raylet, 1 worker)" in done.stdout
    found = dict(re.findall(r"^\| (.*) \| (\d+|True|False) \|$", done.stdout, re.MULTILINE))
    assert found.pop("front as in one process") == "True"
    assert found == {
        "finished trials lost or changed": "0",
        "plans that finished twice": "0",
        "trials without an owner": "0",
        "failed trials": "0",
        "processes left": "0",
        "plans with other numbers in one process": "0",
    }
