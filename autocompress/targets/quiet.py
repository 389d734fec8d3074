"""Gives a measurement the machine for itself: other processes of this user's runs pause between two steps of theirs.

A lock that many may hold to work and one alone to measure. It lies in the system's folder for temporary files, so it
holds for every run on the machine, and goes with the process that holds it, however that one ends.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from autocompress.errors import RunError

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


@contextmanager
def working() -> Iterator[None]:
    """Waits while something is measured; must not be held around `measuring`, and not for long."""
    door, room = _locks()
    # Who waits to measure holds the door, so that workers that come and go cannot keep it waiting for ever.
    fcntl.flock(door, fcntl.LOCK_EX)
    fcntl.flock(room, fcntl.LOCK_SH)
    fcntl.flock(door, fcntl.LOCK_UN)
    try:
        yield
    finally:
        fcntl.flock(room, fcntl.LOCK_UN)


@contextmanager
def measuring() -> Iterator[None]:
    """Waits until no other process works, and keeps them waiting."""
    door, room = _locks()
    fcntl.flock(door, fcntl.LOCK_EX)
    try:
        fcntl.flock(room, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(room, fcntl.LOCK_UN)
        fcntl.flock(door, fcntl.LOCK_UN)


@contextmanager
def alone(what: str) -> Iterator[None]:
    """Waits until no other process of this user on this machine does the same."""
    lock = os.open(_folder() / f"{what}.lock", _FLAGS, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _locks() -> tuple[int, int]:
    return _opened(os.getpid())


@cache
def _opened(process: int) -> tuple[int, int]:
    """The two locks of a process; a forked one has its own."""
    folder = _folder()
    door, room = (os.open(folder / name, _FLAGS, 0o600) for name in ("door.lock", "room.lock"))
    return door, room


def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"autocompress-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise RunError(f"{folder} belongs to another user; remove it, or set TMPDIR to a folder of your own")
    return folder
