"""What is said when a run folder cannot be written, and what that ends: the run, not one trial."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autocompress.errors import InputError, RunError
from autocompress.run.folder import CONFIG
from autocompress.run.places import Place

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


class DiskError(RunError):
    """A file of a run cannot be written or read; no trial's fault, so none is recorded as failed."""


def trouble(error: OSError, path: Place | None = None) -> str:
    """What the system refused, and what to do about it.

    Args:
        error: Of the system.
        path: The file, where the error does not name it.
    """
    named, reason = error.filename or path or "a file", error.strerror or error
    if error.errno in _FULL:
        return f"there is no room to write {named} ({reason}); make some"
    if error.errno in _FORBIDDEN:
        return f"{named} cannot be written ({reason}); make it writable"
    return f"{named} cannot be used ({reason}); put it right"


@contextmanager
def writing(path: Place) -> Iterator[None]:
    """Around what writes a file of a run while its jobs are done.

    Raises:
        DiskError: the system refused to.
    """
    try:
        yield
    except OSError as error:
        raise DiskError(trouble(error, path)) from None


@contextmanager
def going_on_later(folder: Path) -> Iterator[None]:
    """Around all that a driver does: what the disk stops can be gone on with.

    Raises:
        RunError: the disk stopped it; says where, and how to go on.
    """
    try:
        yield
    except (DiskError, OSError) as error:
        told = trouble(error, folder) if isinstance(error, OSError) else str(error)
        if (folder / CONFIG).is_file():
            raise RunError(
                f"{told}, then `autocompress resume {folder}` goes on; every trial that had ended is kept"
            ) from None
        raise RunError(f"{told}, then start the search again; nothing of it was kept") from None


@contextmanager
def taking(folder: Path) -> Iterator[None]:
    """Around the first that is written in a run folder.

    Raises:
        InputError: it may not be written at all.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FORBIDDEN:
            raise
        raise InputError(
            f"run {folder} cannot be written ({error.strerror}); make it writable, or copy it to where it is"
        ) from None
