"""Requests to end, by Ctrl-C or SIGTERM, held back while something is written that must not be cut."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# A terminal sends the one, a cluster's scheduler or a machine that shuts down the other.
_REQUESTS = (signal.SIGINT, signal.SIGTERM)


def end_on_request() -> None:
    """From now on SIGTERM does what Ctrl-C does; for the main thread of a program."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Lets a request that comes meanwhile take effect at the end; signals reach the main thread alone.

    Optuna's journal is locked by a file: cut between making and removing it, the next write fails.
    """
    held: list[int] = []
    try:
        with _handlers_kept() as handled:
            for number in handled:
                signal.signal(number, lambda number, frame: held.append(number))
            yield
    finally:
        if held:
            signal.raise_signal(held[0])


@contextmanager
def handlers_kept() -> Iterator[None]:
    """What is called inside may handle requests as it likes; afterwards they are handled as before."""
    with _handlers_kept():
        yield


@contextmanager
def _handlers_kept() -> Iterator[list[int]]:
    """The requests that this program handles itself; none in other threads, which cannot."""
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in _REQUESTS} if is_main else {}
    handled = {number: handler for number, handler in before.items() if callable(handler)}
    try:
        yield list(handled)
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
