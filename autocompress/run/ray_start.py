"""A Ray to work on: one of this machine's own, or a cluster that runs already."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterable
from pathlib import Path

import ray

from autocompress.errors import InputError, RunError
from autocompress.run.uninterrupted import handlers_kept
from autocompress.targets.quiet import alone

LOG = logging.getLogger("autocompress")
_ANSWER_S = 10.0


# Without either of these a Ray does nothing more, and ends its driver after a minute.
_VITAL = ("gcs_server", "raylet")
# What tasks do is told to a dashboard, which there is none of; one who still has some of it to tell waits five
# seconds for a Ray that is gone.
_KEPT_TO_ITSELF = {"task_events_report_interval_ms": 0}


def start_ray(cpus: int) -> tuple[int, ...]:
    """A Ray of this machine's own that keeps to itself: no dashboard, no reports, no keys.

    Returns:
        The processes that it cannot do without, where the system tells; see `are_gone`.

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
                    _system_config=_KEPT_TO_ITSELF,
                )
            return _vital_processes()
        except (ConnectionError, RuntimeError, TimeoutError, ray.exceptions.RayError) as error:
            LOG.error("Ray did not start: %s", error)
            ray.shutdown()
            if last:
                raise RunError(f"Ray does not start: {last_line(error)}; use --workers 1 to do without") from error
    raise AssertionError("the last try returns or raises")


def are_gone(processes: Iterable[int]) -> bool:
    """True if any of some children of this process has ended."""
    return any(_stat(Path(f"/proc/{process}")) is None for process in processes)


def kill(processes: Iterable[int]) -> None:
    """Ends those of some children of this process that have not ended."""
    for process in processes:
        # Until their parent has waited for them their numbers are nobody else's.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _vital_processes() -> tuple[int, ...]:
    """Those of the Ray that this process has started; none where there is no /proc."""
    folders = [folder for folder in Path("/proc").glob("[0-9]*") if folder.name.isdecimal()]
    found = [(int(folder.name), _stat(folder)) for folder in folders]
    return tuple(number for number, stat in found if stat is not None and stat[0] in _VITAL and stat[1] == os.getpid())


def _stat(folder: Path) -> tuple[str, int] | None:
    """Name and parent of a process; None of one that has ended, whether or not its parent knows."""
    try:
        number_and_name, _, rest = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")
    except OSError:
        return None
    state, parent = rest.split()[:2]
    return None if state in "ZX" else (number_and_name.partition("(")[2], int(parent))


def join_ray(address: str) -> None:
    """Connects to a cluster.

    Args:
        address: `auto` for the one of this machine, `host:port`, or `ray://host:port` from outside.

    Raises:
        InputError: there is none.
    """
    try:
        _knock(address)
        with handlers_kept():
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, RuntimeError, ValueError, ImportError, ray.exceptions.RayError) as error:
        ray.shutdown()
        raise InputError(
            f"ray_address is {address!r}, and no Ray cluster answers there: {last_line(error)}; "
            "start one with `ray start --head`, or leave it out to work on this machine"
        ) from error


def _knock(address: str) -> None:
    """Finds out in seconds that nobody listens, which Ray takes many minutes for.

    Raises:
        OSError: nobody does.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()


def last_line(error: Exception) -> str:
    """Ray puts what went wrong under where it did."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
