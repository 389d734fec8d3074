"""The journal file of a study: locked without leaving traces, and repaired where a crash or a bad disk damaged it.

It is Optuna's, an entry of JSON in each line, with the checksum of the line as its last key.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from optuna.exceptions import OptunaError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from autocompress.core.files import write_whole
from autocompress.errors import InputError
from autocompress.run.disk import writing

JOURNAL = "study.journal"
_DAMAGED = "damaged"
# Of an entry: in UTC and all of one form, so that they are in order as text.
_TIMES = ("datetime_start", "datetime_complete")
_SEAL = re.compile(rb',"seal":"([0-9a-f]{8})"}\n\Z')
# What Optuna raises for entries that make no sense.
_NONSENSE = (KeyError, ValueError, TypeError, IndexError, AttributeError, AssertionError, RecursionError, OptunaError)


class ProcessLock(JournalFileOpenLock):
    """A lock that goes with its process; Optuna's own, a file, outlives one that is killed by half a minute."""

    def __init__(self, journal: Path) -> None:
        """Locks beside a journal."""
        super().__init__(str(journal))
        self._path = journal.with_name(f"{journal.name}.flock")
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        """Waits for the lock."""
        file = self._path.open("a")
        fcntl.flock(file, fcntl.LOCK_EX)
        self._file = file
        return True

    def release(self) -> None:
        """Gives it back."""
        if self._file is not None:
            self._file.close()
            self._file = None


class SealedFile(JournalFileBackend):
    """Optuna's file, to which an entry is added whole or not at all."""

    def __init__(self, path: Path) -> None:
        """Opens a file, which is made if it is missing."""
        self._path, self._own_lock, self._latest = path, ProcessLock(path), ""
        super().__init__(str(path), self._own_lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Adds entries.

        Optuna's own leaves half an entry where the disk is full, which the next one is then written behind.

        Raises:
            DiskError: they cannot be written; nothing of them is.
        """
        with writing(self._path):
            self._own_lock.acquire()
            try:
                _append(self._path, b"".join(_sealed(self._timed(log)) for log in logs))
            finally:
                self._own_lock.release()

    def _timed(self, entry: dict[str, Any]) -> dict[str, Any]:
        """The entry with times that do not go back where somebody sets the clock: no trial ends before it starts."""
        times = dict[str, str]()
        for name in _TIMES:
            if entry.get(name):
                self._latest = times[name] = max(self._latest, entry[name])
        return {**entry, **times}


def _append(path: Path, content: bytes) -> None:
    # A file that somebody took away is not begun again in the middle.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        before = os.fstat(descriptor).st_size
        try:
            written = 0
            while written < len(content):
                written += os.write(descriptor, content[written:])
            os.fsync(descriptor)
        except BaseException:
            # What cannot be taken back either is cut off by `repair`.
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)


def _sealed(entry: dict[str, Any]) -> bytes:
    """An entry as a line with its checksum."""
    content = json.dumps(entry, separators=(",", ":")).encode()
    return content[:-1] + b',"seal":"%08x"}\n' % zlib.crc32(content)


def _seal(line: bytes) -> bool | None:
    """Whether a line is as it was written; None for one without a checksum."""
    found = _SEAL.search(line)
    return None if found is None else zlib.crc32(line[: found.start()] + b"}") == int(found[1], 16)


def _unbroken(lines: list[bytes]) -> int:
    """How many lines from the first on are as they were written: none without a checksum follows one with it.

    Runs that an older version began have entries without.
    """
    is_sealed = False
    for place, line in enumerate(lines):
        seal = _seal(line)
        if seal is False or (seal is None and is_sealed):
            return place
        is_sealed = seal is True
    return len(lines)


def open_journal(path: Path) -> JournalStorage:
    """The storage in a journal file, which is made if it is missing.

    Raises:
        InputError: it is damaged, or cannot be read or made.
    """
    try:
        return _opened(path)
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror}); put right what is there") from None
    except _NONSENSE as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}); `autocompress resume {path.parent}` keeps what is whole"
        ) from None


def _opened(path: Path) -> JournalStorage:
    # Whoever reads while the driver writes may see the beginning of an entry.
    whole = [line for line in _lines(path.read_bytes()) if line.endswith(b"\n")] if path.exists() else []
    if _unbroken(whole) < len(whole):
        raise ValueError(f"line {_unbroken(whole) + 1} is not as it was written")
    return JournalStorage(SealedFile(path))


def _lines(content: bytes) -> list[bytes]:
    return [line + b"\n" for line in content.split(b"\n")[:-1]] + [rest for rest in content.split(b"\n")[-1:] if rest]


def repair(path: Path) -> str | None:
    """Cuts a damaged journal behind its last whole entry; the damaged one is kept beside it.

    To be called by the driver alone, before it opens the journal.

    Returns:
        What was found and done, in a sentence; None if there was nothing to do.
    """
    if not path.is_file():
        return None
    content = path.read_bytes()
    # Optuna overlooks a last entry that was cut off.
    if (not content or _is_entry(_lines(content)[-1])) and _opens(path):
        return None
    whole = _whole(content)
    kept = _beside(path)
    write_whole(kept, content)
    write_whole(path, whole)
    entries, lost = whole.count(b"\n"), len(content) - len(whole)
    return (
        f"{path} was damaged behind entry {entries}: the last {lost} bytes are left out, everything before is kept; "
        f"the damaged file is {kept.name}"
    )


def _whole(content: bytes) -> bytes:
    """The longest beginning of a journal that can be replayed."""
    lines = _lines(content)
    count = next((place for place, line in enumerate(lines) if not _is_entry(line)), len(lines))
    count = min(count, _unbroken(lines[:count]))
    if _replays(lines[:count]):
        return b"".join(lines[:count])
    # An entry that is whole but makes no sense: all before the first of these can be replayed.
    good, bad = 0, count
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if _replays(lines[:middle]) else (good, middle)
    return b"".join(lines[:good])


def _is_entry(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _replays(lines: list[bytes]) -> bool:
    with TemporaryDirectory() as folder:
        tried = Path(folder, JOURNAL)
        tried.write_bytes(b"".join(lines))
        return _opens(tried)


def _opens(path: Path) -> bool:
    try:
        _opened(path)
    except _NONSENSE:
        return False
    return True


def _beside(path: Path) -> Path:
    number = 1
    while (kept := path.with_name(f"{path.name}.{_DAMAGED}-{number}")).exists():
        number += 1
    return kept
