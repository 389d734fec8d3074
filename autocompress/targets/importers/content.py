"""The content of files that other tools wrote, checked before anything is made of it."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.errors import InputError
from autocompress.targets.table_row import MOST_MS

MAX_BYTES = 256 << 20
MAX_SIZE = 10**9


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a file of up to `most` bytes.

    Raises:
        InputError: it cannot be read, or is larger.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is not a file; name one that another tool wrote")
        if path.stat().st_size > most:
            raise InputError(f"{path} has {path.stat().st_size} bytes; allowed: up to {most}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        InputError: it cannot be read, is larger than `MAX_BYTES`, is empty, or is not UTF-8.
    """
    try:
        text = read_bytes(path, MAX_BYTES).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    if not text.strip():
        raise InputError(f"{path} is empty; was the tool stopped before it ended?")
    return text


def parse_json(path: Path, text: str) -> Any:
    """The value that JSON text of `path` holds.

    Raises:
        InputError: it is not valid JSON, or holds a number that is not finite.
    """

    def refuse(constant: str) -> Any:
        raise InputError(f"{path}: holds {constant}; allowed: finite numbers")

    try:
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}"
        raise InputError(f"{where}: not valid JSON: {error.msg}; was the tool stopped before it ended?") from None
    except (ValueError, RecursionError):
        raise InputError(
            f"{path}: not valid JSON: a number has too many digits, or lists are nested too deep"
        ) from None


@dataclass(frozen=True)
class Entry:
    """A JSON object that knows where it stands, such as `profile.json: entry 3`."""

    place: str
    data: Mapping[str, Any]

    @staticmethod
    def of(place: str, value: Any) -> Entry:
        """Checks that a value is an object.

        Raises:
            InputError: it is something else.
        """
        if not isinstance(value, dict):
            raise InputError(f"{place}: is {reprlib.repr(value)}; allowed: an object")
        return Entry(place, value)

    def get(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """The value under `key`.

        Raises:
            InputError: it is missing, or not of that kind.
        """
        if key not in self.data:
            raise InputError(f"{self.place}: {key} is missing")
        value = self.data[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            wanted = kind.__name__ if isinstance(kind, type) else " or ".join(one.__name__ for one in kind)
            raise InputError(f"{self.place}: {key} is {reprlib.repr(value)}; allowed: {wanted}")
        return value

    def entry(self, key: str) -> Entry:
        """The object under `key`."""
        return Entry(f"{self.place}, {key}", self.get(key, dict))

    def entries(self, key: str) -> list[Entry]:
        """The list of objects under `key`."""
        return [Entry.of(f"{self.place}, {key} {index}", one) for index, one in enumerate(self.get(key, list))]

    def time_ms(self, key: str, per_ms: float = 1.0) -> float:
        """A time in milliseconds; the file holds `per_ms` units of it in one."""
        value = self.get(key, (int, float))
        if not 0 <= value <= MOST_MS * per_ms:
            raise InputError(f"{self.place}: {key} is {reprlib.repr(value)}; allowed: 0 to {MOST_MS * per_ms:g}")
        return float(value) / per_ms

    def shape(self, key: str) -> tuple[int, ...]:
        """Sizes of a tensor; -1 stands where the tool does not know one."""
        sizes = self.get(key, list)
        if len(sizes) > 8 or not all(type(size) is int and -1 <= size <= MAX_SIZE for size in sizes):
            raise InputError(
                f"{self.place}: {key} is {reprlib.repr(sizes)}; allowed: up to 8 sizes of up to {MAX_SIZE}"
            )
        return tuple(sizes)
