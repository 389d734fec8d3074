"""The report: one self-contained HTML file that needs no network, drawn from `ReportData` alone."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from autocompress.core.metric import Metric
from autocompress.core.target import LatencyEstimate
from autocompress.emit.charts import Axis, Mark, format_number, format_value, front_svg, metric_title
from autocompress.emit.report_data import TRIAL_STATES, PointRow, ReportData, TrialRow, WorkInfo


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


def render_report(data: ReportData) -> str:
    """Draws the report.

    Args:
        data: What to show; `load_report_data` reads it back from a run folder.

    Returns:
        One HTML document with its styles, script and data inside.
    """
    env = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    env.policies["json.dumps_kwargs"] = {"sort_keys": False}
    names = _metric_names(data)
    rows = [(kind, row, [_cell(data, row, name) for name in names]) for kind, row in _compared(data)]
    drawn = [row for _, row in _drawn(data)]
    return env.from_string(_asset("report.html.j2")).render(
        data=data,
        css=Markup(_asset("report.css")),
        js=Markup(_asset("report.js")),
        payload=_payload(data, names),
        findings=findings(data),
        columns=[_title(data, name) for name in names],
        rows=[each for each in rows if each[0] != "uniform"],
        uniform=[each for each in rows if each[0] == "uniform"],
        far=[row.label for _, row in _compared(data) if row not in drawn],
        failed=[(row, [_cell(data, row, name) for name in names]) for row in data.failed],
        static_front=Markup(_static_front(data, names)),
        counts=_trial_counts(data.trials),
        unfinished=[trial for trial in data.trials if trial.state != "complete"],
        coverage=[_coverage(data, row) for row in data.points],
        flags=_flags(data.latency),
        precision_notes=_precision_notes(data),
        untouched=_by_reason(data.untouched),
        plans=_huge(data.plans),
        wall=_duration(data.wall_seconds),
        work=_work(data.work),
        commands=_commands(data),
        value=format_value,
        number=format_number,
    )


def findings(data: ReportData) -> tuple[Finding, ...]:
    """The best points in words: smallest and fastest near the dense quality, and the most accurate one."""
    dense, quality = data.dense, data.quality
    points = [row for row in data.points if quality in row.metrics]
    if not points or dense is None or quality not in dense.metrics:
        return ()
    sign = 1 if data.higher_is_better(quality) else -1
    room = _tolerance(data, dense.metrics[quality])
    floor = sign * dense.metrics[quality].value - room - 1e-9
    near = [row for row in points if sign * row.metrics[quality].value >= floor]
    found = [_best_near(data, near, floor, *saving) for saving in _SAVINGS if saving[0] in dense.metrics]
    best = max(points, key=lambda row: sign * row.metrics[quality].value)
    lines = (_point_line(data, best), *(_saving_line(data, best, name, less, more) for name, _, less, more in _SAVINGS))
    title = f"Best {data.task.metric}"
    found.append(Finding(title, _quality_text(data, best), tuple(line for line in lines if line), best.id))
    return tuple(found)


_WIDE = 8.0
_SAVINGS = (("size_bytes", "Smallest", "smaller", "larger"), ("latency_ms", "Fastest", "faster", "slower"))


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
    if now.high >= was.low:
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
    return Finding(title, _change(was, now, less, more).capitalize(), tuple(lines), best.id)


def _tolerance(data: ReportData, dense: Metric) -> float:
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
    text = format_value(metric.value, metric.unit)
    interval = _interval(metric)
    return f"{text} {interval}".rstrip()


def _interval(metric: Metric) -> str:
    if metric.low == metric.high:
        return ""
    low, high = (format_value(end, metric.unit).split(" ")[0] for end in (metric.low, metric.high))
    return f"[{low}, {high}]"


def _quality_text(data: ReportData, row: PointRow) -> str:
    return format_value(row.metrics[data.quality].value, data.task.unit)


def _point_line(data: ReportData, row: PointRow) -> str:
    cell = _cell(data, row, data.quality)
    return f"{row.id}: {data.task.metric} {' '.join(part for part in (cell.value, cell.interval) if part)}" + (
        f", {cell.delta} to dense" if cell.delta else ""
    )


def _saving_line(data: ReportData, row: PointRow, name: str, less: str, more: str) -> str:
    dense = data.dense
    if dense is None or name not in dense.metrics or name not in row.metrics:
        return ""
    return f"{_change(dense.metrics[name], row.metrics[name], less, more)}, {_range_text(row.metrics[name])}"


def _metric_names(data: ReportData) -> tuple[str, ...]:
    """Every metric that is shown: quality, the objectives, then the rest in the order they are met."""
    rows = (*data.baselines, *data.points, *data.failed)
    seen = {name: None for row in rows for name in row.metrics} or {
        name: None for trial in data.trials for name in trial.metrics
    }
    first = [data.quality, *(name for name in data.objectives if name != data.quality)]
    return tuple(dict.fromkeys([*(name for name in first if name in seen), *seen]))


def _title(data: ReportData, name: str) -> str:
    return data.task.metric if name == data.quality else metric_title(name)


def _compared(data: ReportData) -> list[tuple[str, PointRow]]:
    """Baselines, then points, each with its kind of mark."""
    rows = [("dense" if row is data.dense else "uniform", row) for row in data.baselines]
    return rows + [("point", row) for row in data.points]


def _drawn(data: ReportData) -> list[tuple[str, PointRow]]:
    """What the front shows: not the uniform plans that lose over twice as much as the worst point."""
    dense, quality = data.dense, data.quality
    if dense is None or quality not in dense.metrics or not data.points:
        return _compared(data)
    sign = 1 if data.higher_is_better(quality) else -1

    def loss(row: PointRow) -> float:
        return sign * (dense.metrics[quality].value - row.metrics[quality].value) if quality in row.metrics else 0.0

    limit = 2 * max(_tolerance(data, dense.metrics[quality]), *(loss(row) for row in data.points))
    return [(kind, row) for kind, row in _compared(data) if kind != "uniform" or loss(row) <= limit]


def _wide(rows: Sequence[tuple[str, PointRow]], name: str) -> bool:
    """Whether a metric spreads so far that a linear axis would show its small values in a heap."""
    values = [row.metrics[name].low for _, row in rows if name in row.metrics]
    return bool(values) and min(values) > 0 and max(values) > _WIDE * min(values)


def _cell(data: ReportData, row: PointRow, name: str) -> Cell:
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
    return Cell(format_value(metric.value, metric.unit), _interval(metric), metric.origin, delta)


def _static_front(data: ReportData, names: Sequence[str]) -> str:
    """The front for readers without JavaScript."""
    x, y = _axes(data, names)
    drawn = _drawn(data)
    marks = [
        Mark(row.metrics[x], row.metrics[y], row.label, kind)
        for kind, row in drawn
        if x in row.metrics and y in row.metrics
    ]
    if not marks:
        return ""
    x_axis = Axis(_title(data, x), marks[0].x.unit, data.higher_is_better(x), _wide(drawn, x))
    y_axis = Axis(_title(data, y), marks[0].y.unit, data.higher_is_better(y))
    return front_svg(marks, x_axis, y_axis)


def _axes(data: ReportData, names: Sequence[str]) -> tuple[str, str]:
    others = [name for name in names if name != data.quality]
    wanted = [name for name in data.objectives if name in others]
    return (wanted or others or [data.quality])[0], data.quality


def _payload(data: ReportData, names: Sequence[str]) -> dict[str, Any]:
    """What the script draws: plain data only, every text shown as text."""
    x, y = _axes(data, names)
    drawn = _drawn(data)
    units = {name: metric.unit for row in data.trials for name, metric in row.metrics.items()}
    units |= {name: metric.unit for _, row in _compared(data) for name, metric in row.metrics.items()}
    return {
        "metrics": [
            {"name": n, "title": _title(data, n), "unit": units.get(n, ""), "higher": data.higher_is_better(n)}
            for n in dict.fromkeys([*names, *units])
        ],
        "x": x,
        "y": y,
        "wide": [name for name in names if name != data.quality and _wide(drawn, name)],
        "rows": [_payload_row(data, kind, row) for kind, row in drawn],
        "trials": [_payload_trial(trial) for trial in data.trials],
        "run": data.target.how_to_run,
    }


def _onnx(row: PointRow) -> str:
    return f"artifacts/{row.id}/" + next((name for name in row.files if name.endswith(".onnx")), "model.onnx")


def _commands(data: ReportData) -> tuple[str, ...]:
    file = _onnx(data.points[0]) if data.points else "model.onnx"
    return tuple(line.replace("{onnx}", file) for line in data.target.how_to_run)


def _payload_row(data: ReportData, kind: str, row: PointRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "label": row.label,
        "kind": kind,
        "fidelity": row.fidelity,
        "student": row.student,
        "onnx": _onnx(row),
        "metrics": {n: [m.value, m.low, m.high] for n, m in row.metrics.items()},
        "cells": {n: vars(_cell(data, row, n)) for n in row.metrics},
        "layers": [dict(vars(layer)) for layer in row.layers],
    }


def _payload_trial(trial: TrialRow) -> dict[str, Any]:
    return {
        "number": trial.number,
        "label": trial.label,
        "state": trial.state,
        "fidelity": trial.fidelity,
        "error": trial.error or "",
        "front": trial.on_front,
        "metrics": {name: metric.value for name, metric in trial.metrics.items()},
    }


def _trial_counts(trials: Sequence[TrialRow]) -> str:
    states = [trial.state for trial in trials]
    parts = [f"{states.count(state)} {state}" for state in TRIAL_STATES if state in states]
    return ", ".join(parts)


@dataclass(frozen=True)
class Coverage:
    """Where one point's latency comes from."""

    id: str
    latency: str
    interval: str
    note: str
    shares: tuple[tuple[str, float], ...] = ()


def _coverage(data: ReportData, row: PointRow) -> Coverage:
    estimate, metric = data.latency.get(row.id), row.metrics.get("latency_ms")
    if estimate is not None:
        whole = Metric(estimate.ms, estimate.low_ms, estimate.high_ms, estimate.origin, "ms")
        shares = tuple((origin, share) for origin, share in estimate.coverage.items() if share > 0)
        kernels = f"{len(estimate.layers)} kernels, {estimate.precision}"
        return Coverage(row.id, format_value(whole.value, "ms"), _interval(whole), kernels, shares)
    if metric is None:
        return Coverage(row.id, "n/a", "", "no latency for this point")
    shares = ((metric.origin, 1.0),)
    return Coverage(row.id, format_value(metric.value, metric.unit), _interval(metric), "whole model", shares)


def _flags(latency: Mapping[str, LatencyEstimate | None]) -> list[tuple[str, int, str]]:
    """Every flag once: `(flag, how many kernels over all points, the layers)`."""
    layers: dict[str, list[str]] = defaultdict(list)
    for estimate in latency.values():
        for kernel in estimate.layers if estimate is not None else ():
            if kernel.flag:
                layers[kernel.flag].append(kernel.kernel.layer)
    return [(flag, len(names), _some(names)) for flag, names in sorted(layers.items(), key=lambda item: -len(item[1]))]


def _some(names: Sequence[str], count: int = 4) -> str:
    distinct = list(dict.fromkeys(names))
    return ", ".join(distinct[:count]) + (f" and {len(distinct) - count} more" if len(distinct) > count else "")


def _precision_notes(data: ReportData) -> list[tuple[str, str]]:
    """What the device does with every precision that it does not have."""
    return [
        (
            f"{each.dtype} runs as {data.target.runs_in(each.dtype, data.precision)} here: smaller, not faster.",
            each.source,
        )
        for each in data.target.precisions
        if not each.native and each.runs_as != each.dtype
    ]


def _by_reason(untouched: Sequence[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    names: dict[str, list[str]] = defaultdict(list)
    for name, reason in untouched:
        names[reason].append(name)
    return list(names.items())


def _huge(count: int) -> tuple[str, int]:
    """A count as `(digits, power of ten)`; the power is 0 where the digits say it all."""
    if count < 10**6:
        return f"{count:,}", 0
    power = math.floor(math.log10(count))
    return f"{10 ** (math.log10(count) - power):.1f}", power


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _work(work: WorkInfo | None) -> str:
    """Where the time of the trials went, in a sentence or two; empty where nothing tells."""
    if work is None or not work.seconds:
        return ""
    phases = ", ".join(f"{name} {_duration(seconds)}" for name, seconds in work.seconds.items())
    told = f"All trials together took: {phases}."
    if work.busy_share is None:
        return told
    who = "The worker was" if work.workers == 1 else f"The {work.workers} workers were"
    return f"{told} {who} at work on trials for {work.busy_share:.0%} of the search; the rest was planning and waiting."


def _asset(name: str) -> str:
    return resources.files("autocompress.emit").joinpath(name).read_text(encoding="utf-8")
