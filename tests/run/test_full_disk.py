"""A disk that is full, for real, and one that is read-only: one line, no trial lost, and the run goes on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.on_a_small_disk import CASES, PASSED

# Each of xdist's processes would do all cases: one group is enough.
pytestmark = pytest.mark.xdist_group("disk")

ROOT = Path(__file__).parents[2]


def alone() -> tuple[str, ...] | None:
    """What starts a program that may mount file systems which nobody else sees; None where that is not allowed."""
    words = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--mount", "--map-root-user")
    if shutil.which("unshare") is None:
        return None
    tried = subprocess.run([*words, "mount", "-t", "tmpfs", "tmpfs", "/tmp"], capture_output=True, check=False)
    return words if tried.returncode == 0 else None


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What came of each case; one process does all of them, since it takes seconds to start."""
    words, folder = alone(), tmp_path_factory.mktemp("disks")
    if words is None:
        pytest.skip("mounting a file system is not allowed here, not even in a namespace of its own")
    command = [*words, sys.executable, "-m", "tests.run.on_a_small_disk", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", [case.__name__ for case in CASES])
def test_a_disk_that_takes_nothing_more(name: str, told: dict[str, str]) -> None:
    assert told[name] == PASSED, told[name]
