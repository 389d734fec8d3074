"""While one process measures, no other works, and who wants to measure gets a turn."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from autocompress.targets import quiet


@pytest.fixture(autouse=True)
def _locks_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """So that whatever else measures on this machine keeps nobody waiting here."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    quiet._opened.cache_clear()
    yield
    quiet._opened.cache_clear()


WORKER = """
import sys, time
from autocompress.targets import quiet
with open(sys.argv[1], "a", buffering=1) as log:
    while True:
        with quiet.working():
            start = time.time()
            print(start, end=" ", file=log, flush=True)
            time.sleep(float(sys.argv[2]))
            log.write(f"{time.time()}\\n")
"""


@contextmanager
def working(*logs: Path, step_s: float) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that work step by step, once each of them has begun."""
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(log), str(step_s)]) for log in logs]
    try:
        for log in logs:
            grown(log, 0)
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def grown(log: Path, size: int) -> None:
    until = time.monotonic() + 120.0
    while not (log.exists() and log.stat().st_size > size):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_workers_that_never_rest_let_a_measurement_in(tmp_path: Path) -> None:
    logs = [tmp_path / "one", tmp_path / "two"]
    times = []
    with working(*logs, step_s=0.02):
        for _ in range(3):
            with quiet.measuring():
                sizes = [log.stat().st_size for log in logs]
                start = time.time()
                time.sleep(0.3)
                times.append((start, time.time()))
            for log, size in zip(logs, sizes, strict=True):
                grown(log, size)
    for log in logs:
        steps = [tuple(map(float, line.split())) for line in log.read_text().splitlines()]
        whole = [step for step in steps if len(step) == 2]
        assert any(begin > times[0][1] for begin, _ in whole)
        for start, end in times:
            assert not [step for step in whole if step[0] < end and step[1] > start]


def test_a_worker_that_dies_holds_nothing(tmp_path: Path) -> None:
    with working(tmp_path / "log", step_s=100.0) as (worker,):
        worker.kill()
        worker.wait()
        start = time.time()
        with quiet.measuring():
            assert time.time() - start < 30
        with quiet.working():
            pass


ALONE = """
import sys, time
from autocompress.targets import quiet
with quiet.alone("test"):
    print(time.time(), flush=True)
    time.sleep(0.5)
    print(time.time())
"""


def test_what_is_done_alone_waits_for_its_like_and_for_nothing_else() -> None:
    processes = [subprocess.Popen([sys.executable, "-c", ALONE], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    with quiet.alone("other"), quiet.working():
        spans = sorted([float(line) for line in p.communicate(timeout=60)[0].splitlines()] for p in processes)
    assert [p.returncode for p in processes] == [0, 0, 0]
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(spans))
