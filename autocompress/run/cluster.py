"""Workers as Ray actors: each is given the task once and then does job after job.

Nothing of a run is kept by Ray: what a lost worker was doing is started again elsewhere, and the study, which the
driver alone writes, is all that a later driver needs.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from dataclasses import dataclass, replace
from pickle import PickleError
from typing import Any

import ray
import torch

from autocompress.errors import InputError, RunError
from autocompress.run.disk import DiskError
from autocompress.run.executors import Done, NotSendableError, Shown, Workers
from autocompress.run.jobs import Job, Shared, one_line
from autocompress.run.ray_start import are_gone, join_ray, kill, last_line, start_ray
from autocompress.run.worker import Answer, Worker
from autocompress.tasks.loading import USER_MODULES

LOG = logging.getLogger("autocompress")
_TRIES = 3
_LOOK_S = 1.0
_STARTING_BACK_OFF_S = 0.5
# A cluster may have to start machines first.
PATIENCE_S = 600.0


@dataclass(frozen=True)
class _Task:
    """A job to do: the how manieth try it is."""

    key: str
    job: Job
    tries: int = 1


@dataclass(frozen=True)
class _Hired:
    """A worker that is there, and the machine it is on."""

    actor: Any
    place: str


@dataclass(frozen=True)
class _Running:
    task: _Task
    worker: _Hired


@dataclass(frozen=True)
class Crew:
    """A Ray of this machine's own, and workers that get ready on it.

    Attributes:
        vital: Processes that it cannot do without.
        actors: They have no task yet.
    """

    vital: tuple[int, ...]
    actors: tuple[Any, ...]


def call_crew(workers: Workers, gpus: float) -> Crew:
    """Starts a Ray and asks it for workers, before there is a task for them: they get ready meanwhile.

    Args:
        workers: How many processes of this machine, and what each takes.
        gpus: That each takes.

    Raises:
        InputError: a Ray runs in this process that has fewer processors.
        RunError: it does not start.
    """
    vital = start_ray(workers.count * workers.threads)
    return Crew(vital, tuple(_called(workers.threads, gpus) for _ in range(workers.count)))


def _called(threads: int, gpus: float) -> Any:
    # Two at a time: the job, and the question how far it is.
    options = ray.remote(Worker).options(num_cpus=threads, num_gpus=gpus, max_concurrency=2, max_restarts=0)
    return options.remote(threads)


class RayWorkers:
    """Jobs on Ray actors; a job whose worker dies is tried again on another, three times in all.

    A Ray that dies takes all workers with it, and is no job's fault.

    A worker that is lost is replaced where the cluster has room; while it has none, the others do its jobs.
    """

    def __init__(self, shared: Shared, workers: Workers) -> None:
        """Asks for the workers, on a Ray that runs already or on one of this machine's own.

        Args:
            shared: What the jobs need.
            workers: How many processes, where, and what each takes.

        Raises:
            NotSendableError: the task cannot be sent to another process.
            InputError: there is no cluster at the address, or this process's own Ray has fewer processors.
        """
        self.workers = workers.count
        self._given, self._asked = shared, workers
        self._gpus = gpus_of(workers, shared.context.device)
        # A crew was called for this alone, and goes with it.
        self._joined = workers.crew is not None or not ray.is_initialized()
        self._vital: tuple[int, ...] = ()
        self._coming: dict[Any, Any] = {}
        self._idle: list[_Hired] = []
        self._waiting: deque[_Task] = deque()
        self._running: dict[Any, _Running] = {}
        self._done: deque[Done] = deque()
        self._alone_since: float | None = None
        # How often Ray was lost since a job ended.
        self._losses = 0
        self._begin(workers.crew)

    @property
    def busy(self) -> int:
        """How many jobs run, wait for a worker, or have ended and were not told yet."""
        return len(self._running) + len(self._waiting) + len(self._done)

    def start(self, key: str, job: Job) -> None:
        """Gives the job to a worker that has none, or to the first that comes."""
        self._waiting.append(_Task(key, job))
        self._hand_out()

    def next(self, shown: Shown | None = None) -> Done:
        """Waits until one of the workers is done.

        Raises:
            RunError: no worker can take the task, or none came for a long time.
            DiskError: the job could not write its files.
        """
        while not self._done:
            ready, _ = ray.wait([*self._running, *self._coming], num_returns=1, timeout=_LOOK_S)
            if are_gone(self._vital):
                self._begin_again()
            elif not ready:
                self._look(shown)
                self._require_someone()
            elif ready[0] in self._coming:
                self._welcome(ready[0])
            else:
                self._ended(ready[0])
        return self._done.popleft()

    def stop(self) -> None:
        """Ends the workers, and Ray if it was started for them."""
        running = (running.worker.actor for running in self._running.values())
        for actor in (*self._coming.values(), *(worker.actor for worker in self._idle), *running):
            ray.kill(actor)
        self._coming, self._idle, self._running = {}, [], {}
        self._waiting.clear()
        self._done.clear()
        if self._joined:
            ray.shutdown()

    # --- the Ray ---------------------------------------------------------------------------------------------------

    def _begin(self, crew: Crew | None = None) -> None:
        """Joins or starts a Ray and asks it for all workers; a crew has both."""
        if crew is not None:
            self._vital = crew.vital
        elif self._joined and self._asked.address is not None:
            join_ray(self._asked.address)
        elif self._joined:
            self._vital = start_ray(self._asked.count * self._asked.threads)
        try:
            _require_room(self._asked)
            self._shared = _sent(self._given)
        except InputError:
            if self._joined:
                ray.shutdown()
            raise
        for place in range(self._asked.count):
            self._hire(None if crew is None else crew.actors[place])

    def _begin_again(self) -> None:
        """After a Ray of this machine's own was killed: another one does what was under way."""
        lost = [running.task for running in self._running.values()]
        LOG.error("Ray was lost, with %d jobs under way; it is started again", len(lost))
        self._coming, self._idle, self._running = {}, [], {}
        # Half of a Ray waits seconds for the other half before it ends.
        kill(self._vital)
        ray.shutdown()
        self._losses += 1
        for task in reversed(lost):
            # All that ran is lost, so that none of it is to blame; unless nothing ends any more between two losses.
            if self._losses < _TRIES:
                self._waiting.appendleft(task)
            else:
                self._try_again(task, "Ray was lost")
        self._begin()

    # --- workers ---------------------------------------------------------------------------------------------------

    def _hire(self, actor: Any = None) -> None:
        """Gives the task to an actor, a new one if there is none."""
        actor = actor or _called(self._asked.threads, self._gpus)
        self._coming[actor.take.remote(sys.path, [self._shared])] = actor

    def _welcome(self, arrival: Any) -> None:
        """A worker is there, or will never be."""
        actor = self._coming.pop(arrival)
        try:
            place: str = ray.get(arrival)
        except ray.exceptions.RayTaskError as error:
            raise RunError(f"a worker cannot take the task: {last_line(error)}; use --workers 1") from error
        except ray.exceptions.RayActorError as error:
            if error.actor_init_failed:
                raise RunError(f"a worker cannot begin: {last_line(error)}; use --workers 1") from error
            LOG.error("a worker was lost before it had begun: %s", error)
            time.sleep(_STARTING_BACK_OFF_S)
            self._hire()
            return
        self._idle.append(_Hired(actor, place))
        self._hand_out()

    def _require_someone(self) -> None:
        if self._running or self._idle:
            self._alone_since = None
            return
        now = time.monotonic()
        if self._alone_since is None:
            self._alone_since = now
            LOG.warning("no worker is there; waiting for the Ray cluster")
        if now - self._alone_since > PATIENCE_S:
            raise RunError(
                f"no worker came within {PATIENCE_S / 60:.0f} minutes: the Ray cluster has no room for one of "
                f"{self._asked.threads} CPUs and {self._gpus:g} GPUs; `resume` goes on when it has"
            )

    # --- jobs ------------------------------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        while self._waiting and self._idle:
            worker, task = self._idle.pop(), self._waiting.popleft()
            self._running[worker.actor.run.remote(task.job)] = _Running(task, worker)

    def _ended(self, reference: Any) -> None:
        """Takes what a job gave; one whose worker is gone is tried again."""
        running = self._running.pop(reference)
        key = running.task.key
        try:
            answer: Answer = ray.get(reference)
        except ray.exceptions.RayActorError as error:
            self._lost(running, error)
            return
        except ray.exceptions.RayError as error:
            self._done.append(Done(key, None, last_line(error)))
        else:
            self._losses = 0
            for level, message in answer.logged:
                LOG.log(level, "%s", message)
            if answer.disk is not None:
                # The worker itself is well.
                self._idle.append(running.worker)
                raise DiskError(answer.disk)
            self._done.append(Done(key, answer.result, answer.error))
        self._idle.append(running.worker)
        self._hand_out()

    def _lost(self, running: _Running, error: Exception) -> None:
        """Another worker does the job."""
        task, place = running.task, running.worker.place
        LOG.error("%s: its worker on %s was lost (%d of %d): %s", task.key, place, task.tries, _TRIES, error)
        ray.kill(running.worker.actor)
        time.sleep(_STARTING_BACK_OFF_S * 2 ** (task.tries - 1))
        self._hire()
        self._try_again(task, f"on {place}: {last_line(error)}")
        self._hand_out()

    def _try_again(self, task: _Task, why: str) -> None:
        """Puts a job first again; gives it up after three times."""
        if task.tries < _TRIES:
            self._waiting.appendleft(replace(task, tries=task.tries + 1))
        else:
            self._done.append(Done(task.key, None, f"its worker was lost {_TRIES} times; the last time, {why}"))

    def _look(self, shown: Shown | None) -> None:
        if shown is None:
            return
        asked = {one.worker.actor.progress.remote(): one.task.key for one in self._running.values()}
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_LOOK_S) if asked else ([], [])
        for reference in ready:
            try:
                done, total = ray.get(reference)
            except ray.exceptions.RayError:
                # `next` finds out that this worker is lost.
                continue
            shown(asked[reference], done, total)


def gpus_of(workers: Workers, device: str) -> float:
    """What each worker takes: what was asked for, else all of this machine's together, or one each on a cluster."""
    if device != "cuda":
        return 0.0
    if workers.gpus is not None:
        return workers.gpus
    return torch.cuda.device_count() / workers.count if workers.address is None else 1.0


def _require_room(workers: Workers) -> None:
    """Refuses more workers than this process's Ray has processors; a cluster may grow."""
    there, wanted = ray.cluster_resources().get("CPU", 0), workers.count * workers.threads  # type: ignore[no-untyped-call]
    if there >= wanted:
        return
    told = f"workers is {workers.count}, of {workers.threads} threads each; the Ray cluster has {there:g} CPUs"
    if workers.address is None:
        raise InputError(told)
    LOG.warning("%s now: fewer work until it has more", told)


def _sent(shared: Shared) -> Any:
    """What all workers get, once for each node; modules that were loaded from a file go along by value."""
    for module in USER_MODULES.values():
        if sys.modules.get(module.__name__) is not module:
            # One that is not imported any more has nothing in this task.
            continue
        ray.cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]
    try:
        return ray.put(shared)
    except (TypeError, AttributeError, ValueError, PickleError) as error:
        raise NotSendableError(
            f"task {shared.context.task.name!r} cannot be sent to another process ({one_line(error)}); "
            "use --workers 1, or open files and connections where they are used"
        ) from error
