"""Workers as Ray actors: each is given the task once and then does job after job.

Nothing of a run is kept by Ray: what a lost worker was doing is started again elsewhere, and the study, which the
driver alone writes, is all that a later driver needs.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pickle import PickleError
from typing import Any

# Ray is to write no key into the user's home and to report to nobody; it reads these when it is imported.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
import torch

from autocompress.errors import InputError, RunError
from autocompress.run.disk import DiskError
from autocompress.run.executors import Done, NotSendableError, Shown
from autocompress.run.jobs import Job, Shared, one_line
from autocompress.run.uninterrupted import handlers_kept
from autocompress.targets.quiet import alone
from autocompress.tasks.loading import USER_MODULES

LOG = logging.getLogger("autocompress")
_TRIES = 3
_LOOK_S = 1.0
_STARTING_BACK_OFF_S = 0.5


@dataclass(frozen=True)
class _Answer:
    """What comes back from a worker: the result or an error, and what was logged on the way.

    Attributes:
        disk: Why the files of the job could not be written.
    """

    result: Any
    error: str | None
    logged: tuple[tuple[int, str], ...]
    disk: str | None = None


class _Worker:
    """Lives in a process of its own; one thread works while another tells how far it is."""

    def __init__(self, paths: list[str], sent: list[Any], threads: int) -> None:
        # What the task is made of may lie where only the driver was told to look.
        sys.path.extend(path for path in paths if path not in sys.path)
        self._shared: Shared = ray.get(sent[0])
        self._threads = threads
        self._progress = (0, 1)

    def run(self, job: Job) -> _Answer:
        torch.set_num_threads(self._threads)
        self._progress = (0, 1)
        with _captured() as logged:
            try:
                return _Answer(job(self._shared, self._show), None, tuple(logged))
            except DiskError as error:
                return _Answer(None, None, tuple(logged), disk=str(error))
            except Exception as error:  # noqa: BLE001  # whatever else a job raises is its result
                logged.append((logging.ERROR, f"{one_line(error)}\n{traceback.format_exc()}"))
                return _Answer(None, one_line(error), tuple(logged))

    def progress(self) -> tuple[int, int]:
        return self._progress

    def _show(self, done: int, total: int) -> None:
        self._progress = (done, total)


class _Keep(logging.Handler):
    def __init__(self, kept: list[tuple[int, str]]) -> None:
        super().__init__()
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        self._kept.append((record.levelno, record.getMessage()))


@contextmanager
def _captured() -> Iterator[list[tuple[int, str]]]:
    """What is logged meanwhile, for the log of the run, which is the driver's."""
    kept: list[tuple[int, str]] = []
    handler = _Keep(kept)
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    try:
        yield kept
    finally:
        LOG.removeHandler(handler)


@dataclass
class _Running:
    key: str
    job: Job
    actor: Any
    tries: int


class RayWorkers:
    """Jobs on Ray actors; a job whose worker dies is tried again on a new one, three times in all."""

    def __init__(self, shared: Shared, workers: int, threads: int) -> None:
        """Starts the workers, on a Ray that runs already or on one of this machine's own.

        Args:
            shared: What the jobs need.
            workers: How many processes.
            threads: Of each.

        Raises:
            NotSendableError: the task cannot be sent to another process.
            InputError: the Ray that runs already has fewer processors.
        """
        self.workers = workers
        self._threads = threads
        self._gpus = torch.cuda.device_count() / workers if shared.context.device == "cuda" else 0.0
        self._own = not ray.is_initialized()
        if self._own:
            start_ray(workers * threads)
        there = ray.cluster_resources().get("CPU", 0)  # type: ignore[no-untyped-call]
        if there < workers * threads:
            raise InputError(f"workers is {workers}, of {threads} threads each; the Ray cluster has {there:g} CPUs")
        try:
            self._shared = _sent(shared)
        except NotSendableError:
            if self._own:
                ray.shutdown()
            raise
        self._idle = [self._worker() for _ in range(workers)]
        self._running: dict[Any, _Running] = {}

    @property
    def busy(self) -> int:
        """How many jobs run."""
        return len(self._running)

    def start(self, key: str, job: Job) -> None:
        """Gives the job to a worker that has none."""
        self._start(_Running(key, job, self._idle.pop(), 1))

    def next(self, shown: Shown | None = None) -> Done:
        """Waits until one of the workers is done."""
        while True:
            ready, _ = ray.wait(list(self._running), num_returns=1, timeout=_LOOK_S)
            if not ready:
                self._look(shown)
                continue
            running = self._running.pop(ready[0])
            try:
                answer: _Answer = ray.get(ready[0])
            except ray.exceptions.RayActorError as error:
                if error.actor_init_failed:
                    raise RunError(f"a worker cannot take the task: {_last_line(error)}; use --workers 1") from error
                lost = self._lost(running, error)
                if lost is not None:
                    return lost
                continue
            except ray.exceptions.RayError as error:
                self._idle.append(running.actor)
                return Done(running.key, None, _last_line(error))
            self._idle.append(running.actor)
            for level, message in answer.logged:
                LOG.log(level, "%s", message)
            if answer.disk is not None:
                raise DiskError(answer.disk)
            return Done(running.key, answer.result, answer.error)

    def stop(self) -> None:
        """Ends the workers, and Ray if it was started for them."""
        for actor in (*self._idle, *(running.actor for running in self._running.values())):
            ray.kill(actor)
        self._idle, self._running = [], {}
        if self._own:
            ray.shutdown()

    def _worker(self) -> Any:
        # Two at a time: the job, and the question how far it is.
        options = ray.remote(_Worker).options(
            num_cpus=self._threads, num_gpus=self._gpus, max_concurrency=2, max_restarts=0
        )
        return options.remote(sys.path, [self._shared], self._threads)

    def _start(self, running: _Running) -> None:
        self._running[running.actor.run.remote(running.job)] = running

    def _lost(self, running: _Running, error: Exception) -> Done | None:
        """Starts a job again whose worker is gone; gives it up after three times."""
        why = _last_line(error)
        LOG.error("%s: its worker was lost (%d of %d): %s", running.key, running.tries, _TRIES, error)
        ray.kill(running.actor)
        actor = self._worker()
        if running.tries == _TRIES:
            self._idle.append(actor)
            return Done(running.key, None, f"its worker was lost {_TRIES} times; the last time: {why}")
        time.sleep(_STARTING_BACK_OFF_S * 2 ** (running.tries - 1))
        self._start(_Running(running.key, running.job, actor, running.tries + 1))
        return None

    def _look(self, shown: Shown | None) -> None:
        if shown is None:
            return
        asked = {running.actor.progress.remote(): running.key for running in self._running.values()}
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_LOOK_S)
        for reference in ready:
            try:
                done, total = ray.get(reference)
            except ray.exceptions.RayError:
                # `next` finds out that this worker is lost.
                continue
            shown(asked[reference], done, total)


def _last_line(error: Exception) -> str:
    """Ray puts what went wrong under where it did."""
    return str(error).strip().splitlines()[-1]


def start_ray(cpus: int) -> None:
    """A Ray of this machine's own that keeps to itself: no dashboard, no reports, no keys.

    Two that start at once may draw the same port (ray-project/ray issue 53906), so one waits for the other; other
    programs that start a Ray know nothing of that, so it is tried again.

    Raises:
        RunError: it does not start.
    """
    for last in (False, False, True):
        try:
            # Ray would end this process at once when it is told to end.
            with alone("ray"), handlers_kept():
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    include_dashboard=False,
                    configure_logging=True,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                )
            return
        except (ConnectionError, RuntimeError, TimeoutError, ray.exceptions.RayError) as error:
            LOG.error("Ray did not start: %s", error)
            ray.shutdown()
            if last:
                raise RunError(f"Ray does not start: {_last_line(error)}; use --workers 1 to do without") from error


def _sent(shared: Shared) -> Any:
    """What all workers get, once for each node; modules that were loaded from a file go along by value."""
    for module in USER_MODULES.values():
        ray.cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]
    try:
        return ray.put(shared)
    except (TypeError, AttributeError, ValueError, PickleError) as error:
        raise NotSendableError(
            f"task {shared.context.task.name!r} cannot be sent to another process ({one_line(error)}); "
            "use --workers 1, or open files and connections where they are used"
        ) from error
