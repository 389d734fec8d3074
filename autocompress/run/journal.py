"""The journal file of a study: locked without leaving traces, and repaired where a crash cut it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import IO

from optuna.exceptions import OptunaError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from autocompress.errors import InputError

JOURNAL = "study.journal"
_DAMAGED = "damaged"
# What Optuna raises for entries that make no sense.
_NONSENSE = (KeyError, ValueError, TypeError, IndexError, AttributeError, AssertionError, OptunaError)


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


def open_journal(path: Path) -> JournalStorage:
    """The storage in a journal file, which is made if it is missing.

    Raises:
        InputError: it is damaged.
    """
    try:
        return JournalStorage(JournalFileBackend(str(path), ProcessLock(path)))
    except _NONSENSE as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}); `autocompress resume {path.parent}` keeps what is whole"
        ) from None


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
    if (not content or _is_entry(content.splitlines(keepends=True)[-1])) and _opens(path):
        return None
    whole = _whole(path, content)
    kept = _beside(path)
    shutil.copyfile(path, kept)
    partial = path.with_name(f".{path.name}.repaired")
    with partial.open("wb") as file:
        file.write(whole)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    entries, lost = whole.count(b"\n"), len(content) - len(whole)
    return (
        f"{path} was damaged behind entry {entries}: the last {lost} bytes are left out, everything before is kept; "
        f"the damaged file is {kept.name}"
    )


def _whole(path: Path, content: bytes) -> bytes:
    """The longest beginning of a journal that can be replayed."""
    lines = content.splitlines(keepends=True)
    count = next((place for place, line in enumerate(lines) if not _is_entry(line)), len(lines))
    if _replays(path, lines[:count]):
        return b"".join(lines[:count])
    # An entry that is whole but makes no sense: all before the first of these can be replayed.
    good, bad = 0, count
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if _replays(path, lines[:middle]) else (good, middle)
    return b"".join(lines[:good])


def _is_entry(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _replays(path: Path, lines: list[bytes]) -> bool:
    trial = path.with_name(f".{path.name}.tried")
    trial.write_bytes(b"".join(lines))
    try:
        return _opens(trial)
    finally:
        trial.unlink()


def _opens(path: Path) -> bool:
    try:
        open_journal(path)
    except InputError:
        return False
    return True


def _beside(path: Path) -> Path:
    number = 1
    while (kept := path.with_name(f"{path.name}.{_DAMAGED}-{number}")).exists():
        number += 1
    return kept
