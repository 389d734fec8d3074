"""Latency tables: `latency.csv` beside a profile, one row for each kernel that was measured on the device."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autocompress.errors import InputError, nearest
from autocompress.targets.kernel_key import KernelKey
from autocompress.targets.table_row import COLUMNS, Measurement, row_from_text, row_to_text

MAX_FILE_BYTES = 64 << 20
MAX_LINE_BYTES = 8192


@dataclass(frozen=True)
class Table:
    """Measured kernels of one device."""

    rows: Mapping[KernelKey, Measurement] = field(default_factory=dict)

    def lookup(self, key: KernelKey) -> Measurement | None:
        """What was measured for exactly this key, or None."""
        return self.rows.get(key)

    def merged(self, new: Table) -> Table:
        """Both tables as one; where both hold a key, `new` counts."""
        return Table({**self.rows, **new.rows})


def read_table(path: Path) -> Table:
    """Reads a latency table; the order of its columns is free.

    Raises:
        InputError: the file cannot be read, holds no row, or a line is not valid; the message names the line.
    """
    lines = _lines(path)
    columns = _columns(path, next(lines, []))
    rows: dict[KernelKey, Measurement] = {}
    seen: dict[KernelKey, int] = {}
    for number, values in enumerate(lines, start=2):
        try:
            if len(values) != len(columns):
                raise InputError(f"has {len(values)} fields; the header names {len(columns)}")
            key, measurement = row_from_text(dict(zip(columns, values, strict=True)))
            if key in rows:
                raise InputError(f"the kernel of line {seen[key]} stands here again; keep one")
        except InputError as error:
            raise InputError(f"{path}:{number}: {error}") from None
        rows[key], seen[key] = measurement, number
    if not rows:
        raise InputError(f"{path} holds no row; write one for each measured kernel, or remove the file")
    return Table(rows)


def write_table(path: Path, table: Table) -> None:
    """Writes a table, sorted, in one step: whoever reads meanwhile sees the old file or the new one.

    Raises:
        InputError: a row would not be read back as it is, or the file cannot be written.
    """
    lines = [_line(COLUMNS), *sorted(_line(list(row_to_text(row).values())) for row in table.rows.items())]
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text("".join(lines), encoding="utf-8", newline="")
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _lines(path: Path) -> Iterator[list[str]]:
    """The fields of each line; a field never spans two."""
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is not a file; name a latency.csv")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{path} has {path.stat().st_size} bytes; allowed: up to {MAX_FILE_BYTES}")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n"), start=1):
        try:
            if len(line) > MAX_LINE_BYTES:
                raise InputError(f"the line has {len(line)} bytes; allowed: up to {MAX_LINE_BYTES}")
            yield next(csv.reader([line.removesuffix(b"\r").decode()], strict=True), [])
        except (UnicodeDecodeError, csv.Error, InputError) as error:
            raise InputError(f"{path}:{number}: {error}") from None


def _columns(path: Path, names: list[str]) -> list[str]:
    if not names:
        raise InputError(f"{path} is empty; its first line must be {','.join(COLUMNS)}")
    for index, name in enumerate(names):
        if name not in COLUMNS:
            raise InputError(f"{path}:1: column {name!r} is unknown; {nearest(name, COLUMNS)}")
        if name in names[:index]:
            raise InputError(f"{path}:1: column {name!r} stands twice; keep one")
    for name in COLUMNS:
        if name not in names:
            raise InputError(f"{path}:1: column {name!r} is missing; add it")
    return names


def _line(fields: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(fields)
    if len(text.getvalue().encode()) > MAX_LINE_BYTES:
        raise InputError(f"a row takes more than {MAX_LINE_BYTES} bytes: {text.getvalue()[:80]}...")
    return text.getvalue()
