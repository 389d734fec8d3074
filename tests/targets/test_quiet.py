"""While one process measures, no other works, and who wants to measure gets a turn."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from pathlib import Path

from autocompress.targets import quiet

WORKER = """
import sys, time
from autocompress.targets import quiet
end = time.time() + float(sys.argv[2])
with open(sys.argv[1], "a", buffering=1) as log:
    while time.time() < end:
        with quiet.working():
            start = time.time()
            time.sleep(0.02)
            log.write(f"{start} {time.time()}\\n")
"""


def test_workers_that_never_rest_let_a_measurement_in(tmp_path: Path) -> None:
    logs = [tmp_path / "one", tmp_path / "two"]
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(log), "12"]) for log in logs]
    while not all(log.exists() and log.stat().st_size for log in logs):
        time.sleep(0.05)
    times = []
    for _ in range(3):
        with quiet.measuring():
            start = time.time()
            time.sleep(0.3)
            times.append((start, time.time()))
        time.sleep(0.1)
    for worker in workers:
        worker.kill()
        worker.wait()
    for log in logs:
        steps = [tuple(map(float, line.split())) for line in log.read_text().splitlines()]
        assert any(begin > times[0][1] for begin, _ in steps)
        for start, end in times:
            assert not [step for step in steps if step[0] < end and step[1] > start]


def test_a_worker_that_dies_holds_nothing(tmp_path: Path) -> None:
    worker = subprocess.Popen([sys.executable, "-c", WORKER.replace("0.02", "100"), str(tmp_path / "log"), "100"])
    time.sleep(3)
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
