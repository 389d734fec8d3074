"""Measured networks in files that others published: which column is which target, and rows that are checked."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from autocompress.core.network import Network
from autocompress.errors import InputError, nearest
from autocompress.targets.published.cells import convnet, nas_bench_201
from autocompress.targets.published.whole import WHOLE

MOST_BYTES, LONGEST_LINE = 64_000_000, 10_000
_Cells = Mapping[str, str]


@dataclass(frozen=True)
class Source:
    """One column of a published file: a target in one setup and precision.

    Attributes:
        file: Its name in the folder.
        columns: Of milliseconds; their mean counts.
        family: How its rows name networks, one of `FAMILIES`.
        setup: The target's setup that was measured; empty for the target as it is.
        only: Rows that count, as `(column, value)`.
        failed: What stands for a network that did not run.
    """

    name: str
    file: str
    columns: tuple[str, ...]
    family: str
    target: str
    precision: str
    setup: str = ""
    only: tuple[str, str] | None = None
    failed: float | None = None


@dataclass(frozen=True)
class Row:
    """One measured network.

    Attributes:
        where: File and line.
        name: Of the network.
        traits: What rows may be held out by, e.g. `{"F": 64}`.
    """

    where: str
    name: str
    network: Network
    ms: float
    traits: Mapping[str, str]


def _cells(name: str, columns: str, target: str, precision: str, setup: str = "") -> Source:
    file = "nas_bench_201_devices.csv"
    return Source(name, file, (columns,), "cell", target, precision, setup, failed=-1.0)


def _cells_pi5(name: str, column: str, setup: str) -> Source:
    return Source(
        name, "nas_bench_201_pi5.csv", (column,), "cell of 100 classes", "raspberry-pi-5", "fp32", setup, failed=-1.0
    )


SOURCES = (
    Source(
        "synthetic CNNs",
        "jetson_nano_trt_fp32_convnets.csv",
        ("latency_ms_100runs", "latency_ms_60s"),
        "convnet",
        "jetson-nano",
        "fp32",
        "synthetic_cnns",
    ),
    _cells("NAS-Bench-201, fp32", "jetson_nano_fp32_ms", "jetson-nano", "fp32", "nas_bench_201"),
    _cells("NAS-Bench-201, fp16", "jetson_nano_fp16_ms", "jetson-nano", "fp16", "nas_bench_201"),
    Source(
        "whole networks",
        "jetson_trt_fp16_models.csv",
        ("ms_trt",),
        "whole",
        "jetson-nano",
        "fp16",
        only=("device", "jetson_nano"),
    ),
    Source(
        "whole networks",
        "jetson_trt_fp16_models.csv",
        ("ms_trt",),
        "whole",
        "jetson-xavier",
        "fp16",
        only=("device", "jetson_xavier"),
    ),
    Source("MobileNetV2 by NVIDIA", "jetson_nano_nvidia_fps.csv", ("ms",), "whole", "jetson-nano", "fp16"),
    _cells("NAS-Bench-201", "jetson_tx2_trt_fp32_ms", "jetson-tx2", "fp32"),
    _cells("NAS-Bench-201", "raspi4_ms", "raspberry-pi-4", "fp32"),
    _cells("NAS-Bench-201, fp32", "cortexa76_cpu_ms", "cortex-a76", "fp32"),
    _cells("NAS-Bench-201, int8", "sd855_cpu_int8_ms", "cortex-a76", "int8"),
    _cells("NAS-Bench-201", "adreno640_ms", "adreno-640", "fp32"),
    _cells("NAS-Bench-201", "edgetpu_ms(hwnasbench)", "edge-tpu", "int8"),
    _cells_pi5("NAS-Bench-201, ONNX Runtime", "pi5_onnx_cifar100_ms", ""),
    _cells_pi5("NAS-Bench-201, LiteRT", "pi5_litert_cifar100_ms", "litert"),
)


def sources_of(target: str) -> tuple[Source, ...]:
    """The columns that were measured on a target."""
    return tuple(source for source in SOURCES if source.target == target)


def read_source(folder: Path, source: Source) -> list[Row]:
    """The rows of one source, in file order; networks that did not run are left out.

    Raises:
        InputError: no such file, or a row is not one, with file and line.
    """
    path = folder / source.file
    rows: list[Row] = []
    known: dict[str, str] = {}
    for where, cells in read_cells(path):
        if source.only is not None and _cell(cells, source.only[0], where) != source.only[1]:
            continue
        times = [number(cells, column, where, source.failed) for column in source.columns]
        if source.failed in times:
            continue
        name, network = FAMILIES[source.family](cells, where)
        if name in known:
            raise InputError(f"{where}: network {name!r} stands in {known[name]} already; keep one of them")
        known[name] = where.rpartition("/")[2]
        rows.append(Row(where, name, network, sum(times) / len(times), cells))
    return rows


def read_cells(path: Path) -> Iterator[tuple[str, _Cells]]:
    """The lines of a CSV file with a header, each with `file, line n` and its cells by column.

    Raises:
        InputError: no such file, empty, too large, not text, or lines that do not fit the header.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path}: has {path.stat().st_size} bytes; allowed: {MOST_BYTES}")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8 text; save it as UTF-8") from error
    for number_, line in enumerate(lines, start=1):
        if len(line) > LONGEST_LINE:
            raise InputError(f"{path}, line {number_}: has {len(line)} characters; allowed: {LONGEST_LINE}")
    table = [(place, cells) for place, cells in enumerate(csv.reader(lines), start=1) if cells]
    if len(table) < 2:
        raise InputError(f"{path}: holds no rows; allowed: a header and at least one row")
    header = [name.strip() for name in table[0][1]]
    double = next((name for name in header if header.count(name) > 1), None)
    if double is not None:
        raise InputError(f"{path}, line 1: column {double!r} stands twice; name every column once")
    for place, values in table[1:]:
        where = f"{path}, line {place}"
        if len(values) != len(header):
            raise InputError(f"{where}: has {len(values)} fields; the header has {len(header)}")
        yield where, dict(zip(header, values, strict=True))


def _cell(cells: _Cells, column: str, where: str) -> str:
    if column not in cells:
        raise InputError(f"{where}: there is no column {column!r}; {nearest(column, cells)}")
    return cells[column].strip()


def number(cells: _Cells, column: str, where: str, failed: float | None = None) -> float:
    """A positive finite number out of a column, or what stands for a failure.

    Raises:
        InputError: anything else, with file and line.
    """
    text = _cell(cells, column, where)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if value == failed:
        return value
    if not math.isfinite(value) or value <= 0.0:
        raise InputError(f"{where}: {column} is {text!r}; allowed: a positive number of milliseconds")
    return value


def _whole_number(cells: _Cells, column: str, where: str) -> int:
    text = _cell(cells, column, where)
    if not text.isdecimal() or not 0 < int(text) < 100_000:
        raise InputError(f"{where}: {column} is {text!r}; allowed: a positive whole number")
    return int(text)


def _convnet(cells: _Cells, where: str) -> tuple[str, Network]:
    kind, kinds = _cell(cells, "kind", where), ("plain", "dws", "mixed")
    if kind not in kinds:
        raise InputError(f"{where}: kind is {kind!r}; {nearest(kind, kinds)}")
    depth, width, k1, k2, side = (_whole_number(cells, column, where) for column in ("L", "F", "K1", "K2", "W"))
    if depth > 1000:
        raise InputError(f"{where}: L is {depth}; allowed: up to 1000 layers")
    return _cell(cells, "name", where), convnet(kind, depth, width, k1, k2, side)


def _cell_net(classes: int) -> Callable[[_Cells, str], tuple[str, Network]]:
    def expand(cells: _Cells, where: str) -> tuple[str, Network]:
        try:
            return _cell(cells, "arch_idx", where), _cached_cell(_cell(cells, "arch_str", where), classes)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error

    return expand


@lru_cache(maxsize=2048)
def _cached_cell(text: str, classes: int) -> Network:
    return nas_bench_201(text, classes)


def _whole(cells: _Cells, where: str) -> tuple[str, Network]:
    name = _cell(cells, "model", where)
    shape = _cell(cells, "input", where)
    side = shape.rpartition("x")[2]
    key = name.lower().replace("-", "_")
    key = {"mobilenet": "mobilenet_v2", "mobilenetv2": "mobilenet_v2"}.get(key, key)
    if key not in WHOLE:
        raise InputError(f"{where}: model {name!r} is unknown; {nearest(key, WHOLE)}")
    if not side.isdecimal() or not 32 <= int(side) <= 4096:
        raise InputError(f"{where}: input is {shape!r}; allowed: e.g. '1x3x224x224' or '300x300', sides of 32 to 4096")
    return f"{key} at {side}", WHOLE[key](side=int(side))


FAMILIES: Mapping[str, Callable[[_Cells, str], tuple[str, Network]]] = {
    "convnet": _convnet,
    "cell": _cell_net(10),
    "cell of 100 classes": _cell_net(100),
    "whole": _whole,
}
