"""The report: one self-contained HTML file that needs no network, drawn from `ReportData` alone."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from autocompress.core.metric import Metric
from autocompress.core.target import LatencyEstimate
from autocompress.emit.charts import Axis, Mark, format_number, format_value, front_svg, metric_title
from autocompress.emit.findings import cell_of, findings, interval_text, tolerance_of
from autocompress.emit.report_data import TRIAL_STATES, PointRow, ReportData, TrialRow, WorkInfo

# A metric whose values differ by more is drawn on a logarithmic axis.
_WIDE = 8.0


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
    rows = [(kind, row, [cell_of(data, row, name) for name in names]) for kind, row in _compared(data)]
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
        failed=[(row, [cell_of(data, row, name) for name in names]) for row in data.failed],
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

    limit = 2 * max(tolerance_of(data, dense.metrics[quality]), *(loss(row) for row in data.points))
    return [(kind, row) for kind, row in _compared(data) if kind != "uniform" or loss(row) <= limit]


def _wide(rows: Sequence[tuple[str, PointRow]], name: str) -> bool:
    """Whether a metric spreads so far that a linear axis would show its small values in a heap."""
    values = [row.metrics[name].low for _, row in rows if name in row.metrics]
    return bool(values) and min(values) > 0 and max(values) > _WIDE * min(values)


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
        "cells": {n: vars(cell_of(data, row, n)) for n in row.metrics},
        "layers": [dict(vars(layer)) for layer in row.layers],
        "why": None if row.why is None else asdict(row.why),
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
        return Coverage(row.id, format_value(whole.value, "ms"), interval_text(whole), kernels, shares)
    if metric is None:
        return Coverage(row.id, "n/a", "", "no latency for this point")
    shares = ((metric.origin, 1.0),)
    return Coverage(row.id, format_value(metric.value, metric.unit), interval_text(metric), "whole model", shares)


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
