"""Files that are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

# In a folder of files that are deployed; it names the others, with their digests.
MANIFEST_FILE = "manifest.json"


def write_whole(path: Path, content: str | bytes, *, lasting: bool = True) -> None:
    """Writes a file that appears complete or not at all; what was there before stays until then.

    Args:
        path: The file.
        content: Text is written as UTF-8.
        lasting: False for what may be lost with the power, such as a sign of life.

    Raises:
        OSError: there is no room or no permission; it names the file, and nothing half written is left.
    """
    if path.exists() and not path.is_file():
        # A pipe or a device such as /dev/stdout is written to, and not put aside; a folder is refused by the system.
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            if lasting:
                # Renamed before its content is on the disk, a file may be empty after a power failure.
                os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        # On a disk that is full what is half written takes the room of what is needed.
        _removed(part)
        raise type(error)(error.errno, error.strerror, str(path)) from None


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Gives a folder to fill, which takes the place of another one at the end; if anything is raised, nothing changes.

    Args:
        folder: Where it will be; what was there is removed. Until then it lies beside it, hidden.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        new, old = Path(temporary, "new"), Path(temporary, "old")
        new.mkdir()
        yield new
        if folder.exists():
            folder.rename(old)
        new.rename(folder)


def append_line(path: Path, line: str) -> None:
    """Adds a line to a file, which is made if it is missing.

    Raises:
        OSError: there is no room or no permission; it names the file, at whose end there may be half a line.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None


def _removed(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        # A folder that may not be written holds no new file either.
        return
