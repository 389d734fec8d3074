"""Where files of a run lie that workers write: a folder, or whatever a URL names, such as a bucket."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import fsspec
from fsspec.core import split_protocol
from upath import UPath

from autocompress.core.files import write_whole
from autocompress.errors import InputError, nearest

Place = Path | UPath


def place_of(url: str) -> Place:
    """The place that a URL names; what starts with `file://` is a folder."""
    protocol, path = split_protocol(url)
    return Path(path) if protocol in (None, "file", "local") else UPath(url)


def check_place(url: str) -> None:
    """Refuses what no file system is known for.

    Raises:
        InputError: no URL, an unknown protocol, or one whose package is not installed.
    """
    protocol, path = split_protocol(url)
    if protocol is None or not path:
        raise InputError(f"checkpoints is {url!r}; it must be a URL, such as s3://bucket/runs or file:///shared/runs")
    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError:
        known = sorted(fsspec.available_protocols())
        raise InputError(f"checkpoints is {url!r}, of the protocol {protocol!r}; {nearest(protocol, known)}") from None
    except ImportError as error:
        raise InputError(f"checkpoints is {url!r}: {error}") from None


def try_place(url: str) -> None:
    """Writes to a place and removes it again.

    Raises:
        InputError: it cannot be written.
    """
    probe = place_of(url) / f".probe-{secrets.token_hex(4)}"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        write_place(probe, b"")
        probe.unlink()
    except Exception as error:  # noqa: BLE001  # every protocol's package has its own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"checkpoints {url!r} cannot be written: {lines[0]}") from None


def write_place(path: Place, content: bytes) -> None:
    """Writes a file that appears complete or not at all.

    Raises:
        OSError: there is no room, no permission or no answer.
    """
    if isinstance(path, Path):
        # A run folder that is not seen here is not made here: what is written there would be lost.
        path.parent.mkdir(exist_ok=True)
        write_whole(path, content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.rename(path)


@contextmanager
def as_file(path: Place) -> Iterator[Path]:
    """The content of a place as a file of this machine."""
    if isinstance(path, Path):
        yield path
        return
    with TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(path.read_bytes())
        yield copy
