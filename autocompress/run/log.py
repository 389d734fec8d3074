"""The log of a run, in its folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOG = logging.getLogger("autocompress")


class _Log(logging.FileHandler):
    """A log that cannot be written lets the run go on, until it has to write what counts."""

    def handleError(self, record: logging.LogRecord) -> None:  # the library's name
        """Drops what cannot be written."""

    def close(self) -> None:
        """Drops what cannot be written."""
        with suppress(OSError):
            super().close()


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Writes what is logged meanwhile to a file, and nowhere else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _Log(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        handler.close()
