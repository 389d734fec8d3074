"""One driver for a run: who holds it, refused to others, free the moment the holder is gone."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from autocompress.core.files import write_whole
from autocompress.errors import InputError, RunError
from autocompress.run.disk import taking

LOCK = "run.lock"
HOLDER = "driver.json"
# A driver on a machine that sees the file, but not its lock, shows so often that it lives.
BEAT_S = 2.0
# Whoever showed nothing for so many beats is gone.
_SILENT_BEATS = 4
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class Holder:
    """Who drives a run.

    Attributes:
        host: The machine's name; boot: which of its starts, where the system tells.
        pid: The process.
        since: When it began, in UTC.
        token: Like no other driver's.
        beat: Counts up while it lives: a clock that is set back misleads nobody.
    """

    host: str
    boot: str
    pid: int
    since: str
    token: str
    beat: int

    @property
    def named(self) -> str:
        """For a message."""
        return f"process {self.pid} on {self.host} since {self.since}"

    @property
    def is_gone(self) -> bool:
        """True if it is known to have ended: it ran on this machine, and no process has its number."""
        if not self.is_here:
            return False
        try:
            os.kill(self.pid, 0)
        except OSError as error:
            return error.errno == errno.ESRCH
        return False

    @property
    def is_here(self) -> bool:
        """True if it runs on this machine, or did since the machine was started."""
        return (self.host, self.boot) == _this_machine()


class Lease:
    """The right to drive a run, as long as nobody else took it.

    Attributes:
        holder: Who has it.
        taken_by: Who took it, or None.
    """

    def __init__(self, folder: Path, holder: Holder, beat_s: float) -> None:
        self._folder, self.holder, self._beat_s = folder, holder, beat_s
        self.taken_by: Holder | None = None
        self._ended = threading.Event()
        _write(folder, holder)
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """To be called before anything is written that only one driver may write.

        Raises:
            RunError: another driver took the run over, because this one showed no life for a while.
        """
        if self.taken_by is not None:
            raise RunError(
                f"run {self._folder} was taken over by {self.taken_by.named}, because this process was suspended or "
                "cut off; what it was doing is dropped"
            )

    def end(self) -> None:
        """Lets the next driver in at once."""
        self._ended.set()
        self._thread.join()
        if self.taken_by is None:
            # Of a process that is gone the file says nothing: not worth hiding what ended the run.
            with contextlib.suppress(OSError):
                (self._folder / HOLDER).unlink()

    def _beat(self) -> None:
        beat = self.holder.beat
        while not self._ended.wait(self._beat_s):
            found = holder_of(self._folder)
            if found is not None and found.token != self.holder.token:
                self.taken_by = found
                return
            beat += 1
            # A disk that is full for a moment is no reason to stop: the lock still says who drives.
            with contextlib.suppress(OSError):
                _write(self._folder, replace(self.holder, beat=beat))


def holder_of(folder: Path) -> Holder | None:
    """Who drives the run in a folder, or did until it was killed; None if nobody does."""
    try:
        data = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        host, boot, since, token = (str(data[name]) for name in ("host", "boot", "since", "token"))
        return Holder(host, boot, int(data["pid"]), since, token, int(data["beat"]))
    except (OSError, ValueError, KeyError, TypeError):
        # Written in one step, so that what cannot be read was not written by a driver.
        return None


def refuse_driven(folder: Path) -> None:
    """Refuses a run that another process of this machine drives, before anything is made ready; `held` decides.

    Raises:
        InputError: says who drives it.
    """
    # What cannot be opened `held` will say.
    with contextlib.suppress(OSError), (folder / LOCK).open("r+") as file:
        _lock(file, folder)


@contextmanager
def held(folder: Path, beat_s: float = BEAT_S) -> Iterator[Lease]:
    """Holds the lease of a run folder, which is made if it is missing.

    On one machine the system's lock decides, which goes with its process. A holder on another machine, whose lock may
    not be seen from here, is watched for a few beats.

    Args:
        folder: Of the run.
        beat_s: Seconds between two signs of life.

    Raises:
        InputError: another driver holds it, or the folder may not be written.
    """
    with taking(folder):
        folder.mkdir(parents=True, exist_ok=True)
        opened = (folder / LOCK).open("a")
    with opened as file:
        is_locked = _lock(file, folder)
        before = holder_of(folder)
        if before is not None and not (is_locked and before.is_here) and _lives(folder, before, beat_s):
            raise _refused(folder, before)
        lease = Lease(folder, _this_process(), beat_s)
        try:
            yield lease
        finally:
            lease.end()


def _lock(file: IO[str], folder: Path) -> bool:
    """Takes the system's lock; False on a file system that has none, which leaves the signs of life."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise _refused(folder, holder_of(folder)) from None
    return True


def _refused(folder: Path, holder: Holder | None) -> InputError:
    who = holder.named if holder is not None else "another process"
    return InputError(f"run {folder} is being driven by {who}; wait for it, or end it")


def _lives(folder: Path, before: Holder, beat_s: float) -> bool:
    """Whether a driver elsewhere shows that it lives, or its place is taken meanwhile."""
    until = time.monotonic() + _SILENT_BEATS * beat_s
    while time.monotonic() < until:
        time.sleep(beat_s / 4)
        now = holder_of(folder)
        if now is None:
            return False
        if (now.token, now.beat) != (before.token, before.beat):
            return True
    return False


def _this_machine() -> tuple[str, str]:
    """Its name, and which of its starts this is, where the system tells."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return socket.gethostname(), boot.read_text(encoding="ascii").strip() if boot.is_file() else ""


def _this_process() -> Holder:
    host, boot = _this_machine()
    return Holder(
        host=host,
        boot=boot,
        pid=os.getpid(),
        since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        token=secrets.token_hex(8),
        beat=0,
    )


def _write(folder: Path, holder: Holder) -> None:
    partial = folder / f".{HOLDER}.{holder.token}"
    write_whole(partial, json.dumps(asdict(holder)), lasting=False)
    partial.replace(folder / HOLDER)
