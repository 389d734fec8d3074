"""A Ray to work on: one of this machine's own, or a cluster that runs already."""

from __future__ import annotations

import logging
import socket

import ray

from autocompress.errors import InputError, RunError
from autocompress.run.uninterrupted import handlers_kept
from autocompress.targets.quiet import alone

LOG = logging.getLogger("autocompress")
_ANSWER_S = 10.0


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
                raise RunError(f"Ray does not start: {last_line(error)}; use --workers 1 to do without") from error


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
