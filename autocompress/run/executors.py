"""Who does the work of a run: this process, or workers of one machine or a cluster."""

from __future__ import annotations

import itertools
import logging
import os
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from autocompress.errors import InputError
from autocompress.run.disk import DiskError
from autocompress.run.jobs import Job, Shared, one_line

LOG = logging.getLogger("autocompress")
MOST_WORKERS = 8
# What a worker takes beside the data: the library, the dense model, and the activations of a training step.
_WORKER_BYTES = 2 * 2**30
_RAY_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
Shown = Callable[[str, int, int], None]


class NotSendableError(InputError):
    """The task cannot be sent to another process."""


@dataclass(frozen=True)
class Done:
    """How a job ended.

    Attributes:
        key: What it was started under.
        result: What it returned.
        error: Why it returned nothing, in one line.
    """

    key: str
    result: Any
    error: str | None = None


class Executor(Protocol):
    """Runs jobs, at most `workers` at a time."""

    workers: int

    @property
    def busy(self) -> int:
        """How many jobs were started and not yet returned by `next`."""

    def start(self, key: str, job: Job) -> None:
        """Starts a job; at most `workers` may be busy."""

    def next(self, shown: Shown | None = None) -> Done:
        """Waits for the next job to end.

        Args:
            shown: Called with the key of a job, its parts done and their total, now and then.

        Raises:
            DiskError: the job could not write its files; so it would be with any other.
        """

    def stop(self) -> None:
        """Lets go of the workers; what they were doing is lost."""


class InProcess:
    """One job at a time, here."""

    workers = 1

    def __init__(self, shared: Shared) -> None:
        """Takes what the jobs need."""
        self._shared = shared
        self._waiting: deque[tuple[str, Job]] = deque()

    @property
    def busy(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    def start(self, key: str, job: Job) -> None:
        """Keeps the job for `next`."""
        self._waiting.append((key, job))

    def next(self, shown: Shown | None = None) -> Done:
        """Does the job that was started first."""
        key, job = self._waiting.popleft()

        def progress(done: int, total: int) -> None:
            if shown is not None:
                shown(key, done, total)

        try:
            return Done(key, job(self._shared, progress))
        except DiskError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever else a job raises is its result
            LOG.error("%s failed: %s\n%s", key, error, traceback.format_exc())
            return Done(key, None, one_line(error))

    def stop(self) -> None:
        """Forgets the jobs that wait."""
        self._waiting.clear()


def decided_by(started: int, workers: int) -> int:
    """How many of the jobs started so far the next one may depend on.

    The n-th job is chosen by what the first n - lag gave, whichever ended first and whatever else has ended: the same
    seed and workers choose the same jobs, and no worker waits for more than the slowest of a few.
    """
    return max(0, started - 2 * (workers - 1))


def each(executor: Executor, jobs: Iterable[tuple[str, Job]], shown: Shown | None = None) -> Iterator[Done]:
    """The results of many jobs, in the order in which they end; the executor has no others."""
    left = iter(jobs)
    while True:
        for key, job in itertools.islice(left, executor.workers - executor.busy):
            executor.start(key, job)
        if not executor.busy:
            return
        yield executor.next(shown)


@dataclass(frozen=True)
class Workers:
    """How many processes work at a time.

    Attributes:
        count: 1 is the process itself, unless there is an address.
        threads: Of each; as many processors are taken for it.
        asked_for: By the user: fewer will not do.
        address: Of a Ray cluster; None for processes of this machine.
        gpus: That each takes, also a part of one; None shares out those of this machine.
        crew: Those that were called before there was a task for them, see `called_early`.
    """

    count: int = 1
    threads: int = 1
    asked_for: bool = False
    address: str | None = None
    gpus: float | None = None
    crew: Any = None


@contextmanager
def called_early(workers: Workers, device: str) -> Iterator[Workers]:
    """The same workers, those of this machine already called: they get ready while the task is loaded.

    Whatever happens until an executor takes them, they are gone in the end.
    """
    if workers.count == 1 or workers.address is not None:
        yield workers
        return
    cluster = _cluster()
    if cluster.ray.is_initialized():
        # It is somebody else's.
        yield workers
        return
    try:
        yield replace(workers, crew=cluster.call_crew(workers, cluster.gpus_of(workers, device)))
    finally:
        cluster.ray.shutdown()


@contextmanager
def workers_of(shared: Shared, workers: Workers, say: Callable[[str], None]) -> Iterator[Executor]:
    """An executor that is stopped in the end; one worker does everything where the task cannot be sent to others."""
    try:
        executor = make_executor(shared, workers)
    except NotSendableError as error:
        if workers.asked_for:
            raise
        say(f"one worker does everything: {error}")
        executor = InProcess(shared)
    try:
        yield executor
    finally:
        executor.stop()


def make_executor(shared: Shared, workers: Workers) -> Executor:
    """The process itself for one worker, else as many others, here or on a cluster."""
    if workers.count == 1 and workers.address is None:
        return InProcess(shared)
    executor: Executor = _cluster().RayWorkers(shared, workers)
    return executor


def _cluster() -> Any:
    """The module of workers on Ray, which takes seconds to import and is needed for them alone."""
    # It is to write no key into the user's home and to report to nobody, which it reads when it is imported.
    for name, value in _RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from autocompress.run import cluster

    return cluster


def best_workers(threads: int, device: str) -> int:
    """One for every thread that there is and memory for: two training steps side by side beat one on two threads."""
    if device != "cpu":
        return 1
    return max(1, min(MOST_WORKERS, threads, _available_bytes() // _WORKER_BYTES))


def _available_bytes() -> int:
    """Memory that new processes can have: what is free, and what only caches files."""
    info = Path("/proc/meminfo")
    if info.is_file():
        rows = dict(line.split(":", 1) for line in info.read_text(encoding="ascii").splitlines())
        return int(rows["MemAvailable"].split()[0]) * 1024
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return _WORKER_BYTES
