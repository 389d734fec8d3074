"""What a report says of points in words: the headline, and every metric beside that of the dense model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autocompress.core.metric import Metric
from autocompress.emit.charts import format_number, format_value, metric_title
from autocompress.emit.report_data import PointRow, ReportData

_SAVINGS = (("size_bytes", "Smallest", "smaller", "larger"), ("latency_ms", "Fastest", "faster", "slower"))


@dataclass(frozen=True)
class Finding:
    """One card of the headline."""

    title: str
    big: str
    lines: tuple[str, ...]
    point: str = ""


@dataclass(frozen=True)
class Cell:
    """One metric of one point, in words."""

    value: str
    interval: str = ""
    origin: str = ""
    delta: str = ""


def findings(data: ReportData) -> tuple[Finding, ...]:
    """The best points in words: smallest and fastest near the dense quality, and the most accurate one."""
    dense, quality = data.dense, data.quality
    points = [row for row in data.points if quality in row.metrics]
    if not points or dense is None or quality not in dense.metrics:
        return ()
    sign = 1 if data.higher_is_better(quality) else -1
    room = tolerance_of(data, dense.metrics[quality])
    floor = sign * dense.metrics[quality].value - room - 1e-9
    near = [row for row in points if sign * row.metrics[quality].value >= floor]
    found = [_best_near(data, near, floor, *saving) for saving in _SAVINGS if saving[0] in dense.metrics]
    best = max(points, key=lambda row: sign * row.metrics[quality].value)
    lines = (_point_line(data, best), *(_saving_line(data, best, name, less, more) for name, _, less, more in _SAVINGS))
    title = f"Best {data.task.metric}"
    found.append(Finding(title, _quality_text(data, best), tuple(line for line in lines if line), best.id))
    return tuple(found)


def _best_near(
    data: ReportData, near: Sequence[PointRow], floor: float, name: str, superlative: str, less: str, more: str
) -> Finding:
    title = f"{superlative} {_within(data)}"
    rows = [row for row in near if name in row.metrics]
    if not rows:
        return Finding(title, "none", (f"No verified point is {_within(data)} and has a {metric_title(name)}.",))
    assert data.dense is not None
    best = min(rows, key=lambda row: row.metrics[name].value)
    now, was = best.metrics[name], data.dense.metrics[name]
    lines = [f"{_range_text(now)} against {_range_text(was)} dense", _point_line(data, best)]
    change = _change(was, now, less, more)
    is_worse = change.endswith(more)
    if is_worse:
        lines.insert(0, f"The one that comes closest is {change}.")
    elif now.high >= was.low:
        lines.append(f"Not clearly {less}: the two intervals overlap.")
    sign = 1 if data.higher_is_better(data.quality) else -1
    rivals = [
        row
        for row in data.baselines
        if row is not data.dense and name in row.metrics and data.quality in row.metrics
        if sign * row.metrics[data.quality].value >= floor
    ]
    if rivals:
        rival = min(rivals, key=lambda row: row.metrics[name].value)
        verdict = " It does better than the search." if rival.metrics[name].value < now.value else ""
        lines.append(
            f"Best uniform baseline there: {rival.label}, {_change(was, rival.metrics[name], less, more)}.{verdict}"
        )
    big = f"None {less}" if is_worse else change.capitalize()
    return Finding(title, big, tuple(lines), best.id)


def tolerance_of(data: ReportData, dense: Metric) -> float:
    """How much less than the dense model's quality still counts as near it."""
    return 1.0 if data.task.unit == "percent" else 0.01 * abs(dense.value)


def _within(data: ReportData) -> str:
    return "within 1 point of dense" if data.task.unit == "percent" else f"within 1 % of the dense {data.task.metric}"


def _change(before: Metric, after: Metric, less: str, more: str) -> str:
    """How much `after` is below or above `before`: `7.0× smaller`, `1.2× larger`, `no smaller`."""
    if after.value <= 0 or before.value <= 0:
        return f"no {less}" if after.value >= before.value else f"{less}, to 0"
    ratio = before.value / after.value
    if 0.995 <= ratio <= 1.005:
        return f"no {less}"
    times = max(ratio, 1 / ratio)
    digits = 2 if 1.05 <= times < 10 else 3
    return f"{format_number(times, digits)}× {less if ratio > 1 else more}"


def _range_text(metric: Metric) -> str:
    return f"{format_value(metric.value, metric.unit)} {interval_text(metric)}".rstrip()


def interval_text(metric: Metric) -> str:
    """The two ends of a metric without their unit; empty where they are the same."""
    if metric.low == metric.high:
        return ""
    low, high = (format_value(end, metric.unit).split(" ")[0] for end in (metric.low, metric.high))
    return f"[{low}, {high}]"


def _quality_text(data: ReportData, row: PointRow) -> str:
    return format_value(row.metrics[data.quality].value, data.task.unit)


def _point_line(data: ReportData, row: PointRow) -> str:
    cell = cell_of(data, row, data.quality)
    return f"{row.id}: {data.task.metric} {' '.join(part for part in (cell.value, cell.interval) if part)}" + (
        f", {cell.delta} to dense" if cell.delta else ""
    )


def _saving_line(data: ReportData, row: PointRow, name: str, less: str, more: str) -> str:
    dense = data.dense
    if dense is None or name not in dense.metrics or name not in row.metrics:
        return ""
    return f"{_change(dense.metrics[name], row.metrics[name], less, more)}, {_range_text(row.metrics[name])}"


def cell_of(data: ReportData, row: PointRow, name: str) -> Cell:
    """A metric of a point, and how it differs from the dense model's."""
    metric, dense = row.metrics.get(name), data.dense
    if metric is None:
        return Cell("n/a")
    delta = ""
    if dense is not None and row is not dense and name in dense.metrics:
        was = dense.metrics[name]
        if name == data.quality:
            gap = metric.value - was.value
            delta = (f"{gap:+.2f} points" if metric.unit == "percent" else f"{gap:+.3g}").replace("-", "\u2212")
        elif not data.higher_is_better(name):
            delta = _change(was, metric, "less", "more")
    return Cell(format_value(metric.value, metric.unit), interval_text(metric), metric.origin, delta)
