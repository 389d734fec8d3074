"""What runs in the process of a worker: it is sent the task once, and does job after job."""

from __future__ import annotations

import logging
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import torch

from autocompress.run.disk import DiskError
from autocompress.run.jobs import Job, Shared, one_line

LOG = logging.getLogger("autocompress")


@dataclass(frozen=True)
class Answer:
    """What comes back from a worker: the result or an error, and what was logged on the way.

    Attributes:
        disk: Why the files of the job could not be written.
    """

    result: Any
    error: str | None
    logged: tuple[tuple[int, str], ...]
    disk: str | None = None


class Worker:
    """Lives in a process of its own; one thread works while another tells how far it is."""

    def __init__(self, threads: int) -> None:
        """Gets ready to take a task, which takes seconds.

        Args:
            threads: That a job may use.
        """
        self._shared: Shared | None = None
        self._threads = threads
        self._progress = (0, 1)

    def take(self, paths: list[str], sent: list[Any]) -> str:
        """Takes what all jobs need.

        Args:
            paths: Where modules are looked for beside the usual places.
            sent: One reference to the `Shared` of the run.

        Returns:
            The machine it is on.
        """
        # What the task is made of may lie where only the driver was told to look.
        sys.path.extend(path for path in paths if path not in sys.path)
        self._shared = ray.get(sent[0])
        return socket.gethostname()

    def run(self, job: Job) -> Answer:
        """Does a job; whatever it raises is its result."""
        torch.set_num_threads(self._threads)
        self._progress = (0, 1)
        assert self._shared is not None
        with _captured() as logged:
            try:
                return Answer(job(self._shared, self._show), None, tuple(logged))
            except DiskError as error:
                return Answer(None, None, tuple(logged), disk=str(error))
            except Exception as error:  # noqa: BLE001  # whatever else a job raises is its result
                logged.append((logging.ERROR, f"{one_line(error)}\n{traceback.format_exc()}"))
                return Answer(None, one_line(error), tuple(logged))

    def progress(self) -> tuple[int, int]:
        """Parts of the present job that are done, and their total."""
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
