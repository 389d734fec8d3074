"""Compares what a target predicts with what networks really took on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from autocompress.core.fusion import fuse
from autocompress.core.kernel import DTYPES
from autocompress.core.network import Network
from autocompress.errors import InputError, nearest
from autocompress.graph.kernels import network_of
from autocompress.graph.trace import trace
from autocompress.targets.importers.content import read_text
from autocompress.targets.importers.ncnn import INT8, NETWORKS, looks_like_ncnn, read_ncnn
from autocompress.targets.profile import Target
from autocompress.targets.published.cells import nas_bench_201
from autocompress.targets.published.rows import number, read_cells, read_source, sources_of
from autocompress.targets.published.whole import WHOLE
from autocompress.tasks.loading import call_user_function

# Columns of times that are refused rather than misread.
_OTHER_UNITS = ("us", "s", "seconds", "latency_us", "latency_s", "latency", "time", "time_s", "time_us", "fps")
_TIME_COLUMNS = ("ms", "latency_ms")
# A line of benchncnn stands within so many bytes.
_START = 4096
_COLUMNS = ("model", "input", "precision", *_TIME_COLUMNS)


@dataclass(frozen=True)
class Point:
    """One network: what was predicted, with its interval, and what was measured."""

    name: str
    ms: float
    low_ms: float
    high_ms: float
    measured_ms: float


@dataclass(frozen=True)
class Agreement:
    """How predictions agree with measurements of one source; shares are between 0 and 1.

    Attributes:
        spearman: Rank correlation; None for fewer than three networks.
        mean_error: Of |predicted / measured - 1|.
        interval_coverage: Share of measurements inside the 80 % interval.
    """

    source: str
    target: str
    precision: str
    points: tuple[Point, ...]
    spearman: float | None
    within_5_percent: float
    within_10_percent: float
    within_20_percent: float
    mean_error: float
    interval_coverage: float


def validate(target: Target, data: Path) -> list[Agreement]:
    """Predicts every network of a file or folder and compares.

    Args:
        target: As loaded; of a folder, each file is compared with the setup that it was measured in.
        data: A CSV file with the columns `model`, `input`, `ms` and perhaps `precision`, what ncnn's benchncnn
            printed, or a folder of the published files that `published.rows.SOURCES` lists.

    Raises:
        InputError: nothing there was measured on this target, or a row is not valid, with file and line.
    """
    if data.is_dir():
        return _folder(target, data)
    if _is_benchncnn(data):
        return _benchncnn(target, data)
    return [_agreement(data.name, target, name, rows) for name, rows in _file(target, data).items()]


def _is_benchncnn(path: Path) -> bool:
    """What cannot be read is told by whatever reads it next."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return looks_like_ncnn(file.read(_START).decode("utf-8", "replace"))
    except OSError:
        return False


def _benchncnn(target: Target, path: Path) -> list[Agreement]:
    models = read_ncnn(path, read_text(path)).models
    found: dict[str, list[_Measured]] = {}
    for model in models:
        name, quantized = model.name.removesuffix(INT8), model.name.endswith(INT8)
        if name in NETWORKS:
            whole, side = NETWORKS[name]
            precision = "int8" if quantized else target.profile.default_precision
            found.setdefault(precision, []).append((model.name, WHOLE[whole](side=side), model.mean_ms))
    if not found:
        raise InputError(f"{path} holds none of the models that are known: {', '.join(NETWORKS)}")
    count = sum(map(len, found.values()))
    source = f"{path.name}, {count} of {len(models)} models known"
    return [_agreement(source, target, precision, rows) for precision, rows in found.items()]


def _folder(target: Target, folder: Path) -> list[Agreement]:
    name, _, setup = target.profile.name.partition(":")
    found = []
    for source in sources_of(name):
        if (folder / source.file).is_file() and (not setup or source.setup == setup):
            rows = [(row.name, row.network, row.ms) for row in read_source(folder, source)]
            at = target.at(source.setup) if source.setup and not setup else target
            if rows:
                found.append(_agreement(source.name, at, source.precision, rows))
    if not found:
        files = sorted({source.file for source in sources_of(name)})
        raise InputError(f"{folder} holds nothing measured on {target.profile.name!r}; known files: {', '.join(files)}")
    return found


_Measured = tuple[str, Network, float]


def _agreement(source: str, target: Target, precision: str, rows: Sequence[_Measured]) -> Agreement:
    points = []
    for name, network, measured_ms in rows:
        estimate = target.estimate_steps(fuse(network, target.fusion), precision)
        points.append(Point(name, estimate.ms, estimate.low_ms, estimate.high_ms, measured_ms))
    ms, measured = (np.array([getattr(point, name) for point in points]) for name in ("ms", "measured_ms"))
    error = np.abs(ms / measured - 1.0)
    inside = [point.low_ms <= point.measured_ms <= point.high_ms for point in points]
    return Agreement(
        source=source,
        target=target.profile.name,
        precision=precision,
        points=tuple(points),
        spearman=float(spearmanr(ms, measured).statistic) if len(points) > 2 else None,
        within_5_percent=float(np.mean(error < 0.05)),
        within_10_percent=float(np.mean(error < 0.1)),
        within_20_percent=float(np.mean(error < 0.2)),
        mean_error=float(np.mean(error)),
        interval_coverage=float(np.mean(inside)),
    )


def _file(target: Target, path: Path) -> dict[str, list[_Measured]]:
    """The rows of a user's file by precision."""
    found: dict[str, list[_Measured]] = {}
    seen: dict[tuple[str, str, str], str] = {}
    for where, cells in read_cells(path):
        _check_columns(cells, where)
        precision = cells.get("precision", "").strip() or target.profile.default_precision
        if precision not in DTYPES:
            raise InputError(f"{where}: precision is {precision!r}; {nearest(precision, DTYPES)}")
        name, shape = cells["model"].strip(), cells["input"].strip()
        key = (name, shape, precision)
        if key in seen:
            raise InputError(f"{where}: {name!r} at {shape} in {precision} stands in {seen[key]} already; keep one")
        seen[key] = where.rpartition(", ")[2]
        column = next(column for column in _TIME_COLUMNS if column in cells)
        network = _network(name, shape, where)
        found.setdefault(precision, []).append((name, network, number(cells, column, where)))
    return found


def _check_columns(cells: Mapping[str, str], where: str) -> None:
    for column in cells:
        if column in _OTHER_UNITS:
            raise InputError(f"{where}: column {column!r} has an unknown unit; allowed: {' or '.join(_TIME_COLUMNS)}")
    for column in ("model", "input"):
        if column not in cells:
            raise InputError(f"{where}: there is no column {column!r}; {nearest(column, cells)}")
    if sum(column in cells for column in _TIME_COLUMNS) != 1:
        raise InputError(f"{where}: columns are {', '.join(cells)}; allowed: {', '.join(_COLUMNS)}, one of times")


def _network(name: str, shape: str, where: str) -> Network:
    """A network by its name, by its NAS-Bench-201 cell, or by a function of the user's that returns a module."""
    sizes = shape.split("x")
    if not all(size.isdecimal() and 0 < int(size) < 100_000 for size in sizes) or not 1 < len(sizes) < 6:
        raise InputError(f"{where}: input is {shape!r}; allowed: a shape with the batch, e.g. 1x3x224x224")
    if sizes[0] != "1":
        raise InputError(f"{where}: input is {shape!r}; allowed: a batch of 1; latencies are predicted for it")
    if name in WHOLE:
        if len(sizes) != 4 or sizes[1] != "3" or sizes[2] != sizes[3]:
            raise InputError(f"{where}: input is {shape!r}; {name} takes square images, e.g. 1x3x224x224")
        return WHOLE[name](side=int(sizes[-1]))
    try:
        if "~" in name:
            return nas_bench_201(name)
        if ":" not in name:
            raise InputError(f"model {name!r} is unknown; {nearest(name, WHOLE)} (or file.py:function)")
        model = call_user_function(name, "model")
        if not isinstance(model, nn.Module):
            raise InputError(f"{name} returns a {type(model).__name__}; it must return a torch.nn.Module")
        return network_of(trace(model, (torch.zeros(1, *map(int, sizes[1:])),)))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def told(one: Agreement) -> str:
    """Two lines for people."""
    count = len(one.points)
    rank = "" if one.spearman is None else f", Spearman {one.spearman:.3f}"
    shares = " / ".join(f"{100 * s:.1f}" for s in (one.within_5_percent, one.within_10_percent, one.within_20_percent))
    return (
        f"{one.source} ({one.target}, {one.precision}, {count} {'network' if count == 1 else 'networks'})\n"
        f"    within 5 / 10 / 20 %: {shares} %; mean error {one.mean_error:.1%}{rank}; "
        f"inside the 80 % interval: {one.interval_coverage:.1%}"
    )


def shortfalls(
    found: Sequence[Agreement],
    least_spearman: float | None,
    least_within_10: float | None,
    most_error: float | None,
    least_coverage: float | None,
) -> list[str]:
    """What misses the thresholds, one line each; shares are in percent.

    Raises:
        InputError: a threshold is not within its range.
    """
    limits = (
        ("spearman", least_spearman, 1.0, 1.0),
        ("within_10_percent", least_within_10, 100.0, 1.0),
        ("mean_error", most_error, 100.0, -1.0),
        ("interval_coverage", least_coverage, 100.0, 1.0),
    )
    missed = []
    for name, limit, scale, sign in limits:
        if limit is None:
            continue
        if not 0.0 <= limit <= scale:
            raise InputError(f"the threshold for {name} is {limit:g}; allowed: 0 to {scale:g}")
        for one in found:
            value = getattr(one, name)
            if value is None or sign * value * scale < sign * limit:
                got = "unknown" if value is None else f"{value * scale:.4g}"
                missed.append(
                    f"{one.source}: {name} is {got}, {'at least' if sign > 0 else 'at most'} {limit:g} wanted"
                )
    return missed
