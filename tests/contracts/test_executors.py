"""One suite for every executor, with real workers: results, errors, lost workers, the same numbers everywhere."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import ray

from autocompress.core.constraint import Budget
from autocompress.errors import InputError, RunError
from autocompress.run.disk import DiskError, writing
from autocompress.run.executors import Executor, InProcess, Workers, each, make_executor
from autocompress.run.jobs import EffectJob, Progress, Shared, TrialJob
from autocompress.run.ray_start import start_ray
from autocompress.run.trials import run_trials
from autocompress.search.record import Record
from autocompress.tasks import load_task
from tests.run.tiny import make_trials, tiny_context, tiny_space, tiny_task

# Two Rays that start at the same moment on one machine get into each other's way.
pytestmark = pytest.mark.xdist_group("ray")


@dataclass(frozen=True)
class Double:
    """A job that needs nothing."""

    value: int

    def __call__(self, shared: Shared, progress: Progress) -> int:
        progress(1, 2)
        return 2 * self.value


@dataclass(frozen=True)
class Slow:
    """Tells how far it is and takes its time."""

    seconds: float

    def __call__(self, shared: Shared, progress: Progress) -> int:
        progress(3, 7)
        time.sleep(self.seconds)
        return os.getpid()


@dataclass(frozen=True)
class Broken:
    """A job that raises."""

    def __call__(self, shared: Shared, progress: Progress) -> Any:
        raise ValueError("no luck\nand a second line")


@dataclass(frozen=True)
class NoRoom:
    """Finds the disk full."""

    path: Path

    def __call__(self, shared: Shared, progress: Progress) -> Any:
        with writing(self.path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@dataclass(frozen=True)
class Killed:
    """Ends its process until a file is there; leaves one more each time."""

    folder: Path
    times: int

    def __call__(self, shared: Shared, progress: Progress) -> str:
        died = len(list(self.folder.iterdir()))
        if died < self.times:
            (self.folder / str(died)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return f"done after {died}"


KILLS_RAY = """
import os, signal, subprocess, sys
from autocompress.run.executors import Workers, each, make_executor
from autocompress.run.jobs import Shared
from tests.contracts.test_executors import Double, Slow
from tests.run.tiny import tiny_context, tiny_space

def kill():
    ours = subprocess.run(["pgrep", "-P", str(os.getpid()), sys.argv[1]], capture_output=True, text=True, check=True)
    os.kill(int(ours.stdout.split()[0]), signal.SIGKILL)

context = tiny_context()
executor = make_executor(Shared(context, tiny_space(context)), Workers(2))
jobs = [("slow", Slow(10.0)), *((f"{number}", Double(number)) for number in (1, 2, 3, 4))]
results = {}
for done in each(executor, jobs):
    if not results:
        kill()
    results[done.key] = (done.result, done.error)
executor.stop()
assert results.pop("slow")[1] is None
print(*(results[key][0] for key in "1234"))
"""


@pytest.fixture(scope="module")
def shared() -> Shared:
    context = tiny_context()
    return Shared(context, tiny_space(context))


@pytest.mark.parametrize("failures", [2, 3])
def test_a_ray_that_does_not_start_is_tried_again(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where another program's Ray drew the same port; the real starts are those of all other tests here."""
    answers = iter([ConnectionError("could not connect\nto GCS")] * failures + [None] * 3)

    def init(**options: Any) -> None:
        answer = next(answers)
        if answer is not None:
            raise answer

    monkeypatch.setattr(ray, "init", init)
    if failures < 3:
        start_ray(1)
        assert len(list(answers)) == 2
    else:
        with pytest.raises(RunError, match="Ray does not start: to GCS; use --workers 1"):
            start_ray(1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray with room for the workers of one test beside those that all tests share."""
    start_ray(4)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def workers(shared: Shared, cluster: None) -> Iterator[Executor]:
    executor = make_executor(shared, Workers(2))
    yield executor
    executor.stop()


@pytest.fixture(params=["in process", "workers"])
def executor(request: pytest.FixtureRequest, shared: Shared) -> Executor:
    made: Executor = InProcess(shared) if request.param == "in process" else request.getfixturevalue("workers")
    return made


def test_every_job_comes_back_under_its_key(executor: Executor) -> None:
    jobs = {f"job {number}": Double(number) for number in range(7)}
    results = {done.key: done.result for done in each(executor, jobs.items())}
    assert results == {f"job {number}": 2 * number for number in range(7)}
    assert executor.busy == 0


def test_what_a_job_raises_is_its_result(executor: Executor, caplog: pytest.LogCaptureFixture) -> None:
    executor.start("broken", Broken())
    done = executor.next()
    assert (done.key, done.result, done.error) == ("broken", None, "ValueError: no luck")
    executor.start("next", Double(4))
    assert executor.next().result == 8


def test_a_disk_that_takes_no_file_is_not_the_result_of_a_job(executor: Executor, tmp_path: Path) -> None:
    executor.start("full", NoRoom(tmp_path / "model.onnx"))
    with pytest.raises(
        DiskError, match=r"there is no room to write .*model\.onnx \(No space left on device\); make some"
    ):
        executor.next()
    executor.start("next", Double(4))
    assert executor.next().result == 8


def test_the_same_plan_gives_the_same_numbers_wherever_it_runs(
    executor: Executor, shared: Shared, tmp_path: Path
) -> None:
    trials = make_trials(tmp_path, shared.context)
    vectors = [shared.space.centre_vector, shared.space.extreme_vector]

    def numbers(by: Executor, folder: Path) -> list[tuple[Any, ...]]:
        jobs = {
            f"trial {number}": TrialJob(number, vector, "", (), trials.dense, folder / f"{number}.safetensors")
            for number, vector in enumerate(vectors)
        }
        effects = {f"effect {vector}": EffectJob(vector) for vector in vectors}
        records: dict[str, Any] = {}
        for done in each(by, [*jobs.items(), *effects.items()]):
            assert done.error is None
            is_record = isinstance(done.result, Record)
            records[done.key] = replace(done.result, seconds={}) if is_record else done.result
        weights = [(folder / f"{number}.safetensors").read_bytes() for number in range(len(vectors))]
        return [*sorted(records.items()), *weights]

    assert numbers(executor, tmp_path / "one") == numbers(InProcess(shared), tmp_path / "other")


def test_workers_work_side_by_side_and_tell_how_far_they_are(workers: Executor) -> None:
    told: list[tuple[str, int, int]] = []
    # Long enough for a busy worker, which is given a second to answer each time.
    jobs = [("one", Slow(6.0)), ("two", Slow(6.0))]
    # The first to come does both while the other one begins: on a busy machine that takes long, since Ray's workers
    # give way to all other processes.
    until = time.monotonic() + 120.0
    while len({done.result for done in each(workers, [("a", Slow(0.3)), ("b", Slow(0.3))])}) < 2:
        assert time.monotonic() < until
    processes = {done.result for done in each(workers, jobs, lambda *step: told.append(step))}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert {("one", 3, 7), ("two", 3, 7)} <= set(told)


def test_a_job_whose_worker_dies_is_done_by_another(workers: Executor, tmp_path: Path) -> None:
    workers.start("unlucky", Killed(tmp_path, 1))
    done = workers.next()
    assert (done.result, done.error) == ("done after 1", None)


def test_a_job_that_kills_three_workers_is_given_up_and_the_others_go_on(workers: Executor, tmp_path: Path) -> None:
    workers.start("deadly", Killed(tmp_path, 10**6))
    done = workers.next()
    assert done.result is None
    assert "worker was lost 3 times" in str(done.error)
    assert len(list(tmp_path.iterdir())) == 3
    results = [done.result for done in each(workers, [("a", Double(1)), ("b", Double(2))])]
    assert sorted(results) == [2, 4]


KILLS_RAY_TWICE = (
    KILLS_RAY[: KILLS_RAY.index("jobs = ")]
    + """
def kill_worker():
    listed = subprocess.run(["ps", "-wweo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    children = {pid for pid, parent, _ in rows if parent == str(os.getpid())}
    found = [pid for pid, parent, args in rows if parent in children and args.startswith("ray::Worker.run")]
    os.kill(int(found[0]), signal.SIGKILL)

import threading, time
def kills():
    # Each while the one job runs, which has begun again by then.
    for victim in (kill, kill_worker, kill, kill_worker):
        while not executor._running:
            time.sleep(0.1)
        time.sleep(2.0)
        victim()
        while executor._running:
            time.sleep(0.1)
threading.Thread(target=kills, daemon=True).start()
executor.start("slow", Slow(8.0))
print(executor.next().error)
executor.stop()
"""
)


def test_a_ray_that_is_lost_is_no_fault_of_what_ran() -> None:
    """Twice Ray and twice its worker are lost: of three tries of its own one is left."""
    folder = Path(__file__).parents[2]
    command = [sys.executable, "-c", KILLS_RAY_TWICE, "gcs_server"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["None"]), done.stderr[-2000:]


@pytest.mark.parametrize("process", ["gcs_server", "raylet"])
def test_a_ray_of_its_own_that_is_killed_is_started_again(process: str) -> None:
    """In a process of its own, which has no Ray that others use."""
    folder = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", KILLS_RAY, process], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["2 4 6 8"]), done.stderr[-2000:]
    assert "Ray was lost, with 2 jobs under way" in done.stderr or "with 1 jobs under way" in done.stderr


def test_the_same_seed_and_workers_give_the_same_plans(workers: Executor, shared: Shared, tmp_path: Path) -> None:
    found = []
    for name in ("one", "other"):
        trials = replace(make_trials(tmp_path / name, shared.context, controller="tpe"), executor=workers)
        assert run_trials(trials, Budget(trials=9))
        records = trials.study.records()
        assert [record.state for record in records] == ["complete"] * 9
        found.append([(record.number, record.vector, record.metrics) for record in records])
    assert found[0] == found[1]


def test_an_interrupt_stops_the_workers_and_nothing_is_lost(shared: Shared, cluster: None, tmp_path: Path) -> None:
    executor = make_executor(shared, Workers(2))
    trials = replace(make_trials(tmp_path, shared.context), executor=executor)
    real = executor.next

    def interrupted(*args: Any) -> Any:
        if len(trials.study.records()) > 3:
            threading.Timer(0.0, os.kill, (os.getpid(), signal.SIGINT)).start()
            time.sleep(5)
        return real(*args)

    executor.next = interrupted  # type: ignore[method-assign]
    assert not run_trials(trials, Budget(trials=6))
    assert executor.busy == 0
    complete = [record for record in trials.study.records() if record.state == "complete"]
    again = make_trials(tmp_path, shared.context)
    assert run_trials(again, Budget(trials=6))
    after = again.study.records()
    # Of two trials side by side the later one may be the one that ended.
    kept = {record.number for record in complete}
    assert [record for record in after if record.number in kept] == complete
    assert [record.state for record in after] == ["complete"] * 6


def test_a_task_from_a_file_goes_to_the_workers(tmp_path: Path, cluster: None) -> None:
    (tmp_path / "neighbour_of_own.py").write_text("SCALE = 2.0\n")
    (tmp_path / "own_task.py").write_text(
        "import torch\n"
        "from dataclasses import replace\n"
        "import neighbour_of_own\n"
        "from tests.run.tiny import tiny_task\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, inner):\n"
        "        super().__init__()\n"
        "        self.inner = inner\n"
        "    def forward(self, x):\n"
        "        return self.inner(x)\n"
        "def loss(outputs, targets):\n"
        "    return neighbour_of_own.SCALE * torch.nn.functional.cross_entropy(outputs, targets)\n"
        "def build():\n"
        "    task = tiny_task()\n"
        "    return replace(task, model=Net(task.model), loss=loss, metric=lambda outputs, targets: 50.0)\n"
    )
    context = tiny_context(load_task(f"{tmp_path / 'own_task.py'}:build"))
    space = tiny_space(context)
    executor = make_executor(Shared(context, space), Workers(2))
    try:
        trials = replace(make_trials(tmp_path / "run", context), executor=executor)
        assert run_trials(trials, Budget(trials=3))
    finally:
        executor.stop()
    records = trials.study.records()
    assert [(record.state, record.error) for record in records] == [("complete", None)] * 3
    assert {record.metrics["accuracy"].value for record in records} == {50.0}


def test_a_task_that_cannot_be_sent_is_refused_with_a_way_out(cluster: None) -> None:
    lock = threading.Lock()

    def loss(outputs: Any, targets: Any) -> Any:
        with lock:
            return (outputs.sum() - targets.sum()) ** 2

    context = tiny_context(tiny_task(loss, trained=False))
    with pytest.raises(InputError, match=r"task 'tiny' cannot be sent to another process .*; use --workers 1"):
        make_executor(Shared(context, tiny_space(context)), Workers(2))


def test_more_workers_than_a_cluster_holds_are_refused(shared: Shared, cluster: None) -> None:
    with pytest.raises(InputError, match="workers is 50, of 1 threads each; the Ray cluster has 4 CPUs"):
        make_executor(shared, Workers(50))
