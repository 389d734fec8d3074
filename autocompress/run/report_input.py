"""What the report shows, gathered from a run that has just ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

import onnxruntime
from scipy.stats import spearmanr

from autocompress.core.explanation import Explanation
from autocompress.core.metric import Metric
from autocompress.core.plan import Student
from autocompress.core.target import Profile
from autocompress.emit.report_data import PointRow, ReportData, TaskInfo, TrialRow, WorkInfo
from autocompress.proxy.context import Context
from autocompress.proxy.sensitivity import Effects
from autocompress.run.finish import Point
from autocompress.run.folder import SENSITIVITY
from autocompress.search.record import WAIT, Record, front_of, seconds_by_phase

if TYPE_CHECKING:
    from autocompress.run.drive import Driver

_CORRELATED = 4


@dataclass(frozen=True)
class Times:
    """When a run happened.

    Attributes:
        began: By the clock on the wall, which somebody may set.
        resumed: When this stretch did, if it is not the first.
        seconds: That this stretch took, by a clock that only goes on.
        workers: That worked side by side.
        busy_share: What of their time they spent on trials; None without any.
    """

    began: datetime
    resumed: datetime | None
    seconds: float
    workers: int
    busy_share: float | None


def report_input(
    driver: Driver,
    records: Sequence[Record],
    baseline: Point,
    front: Sequence[Point],
    points: Sequence[Point],
    times: Times,
    why: Mapping[str, Explanation],
) -> ReportData:
    """The report of a run.

    Args:
        driver: Of the run.
        records: Every trial.
        baseline: The dense artifact.
        front: The final front.
        points: Every artifact that was made, the failed ones too.
        times: Of the run.
        why: Explanations of points by their names, as far as there are any.
    """
    context, settings = driver.context, driver.settings
    task = context.task
    on_front = {record.number for record in front_of(records, driver.objectives, "short")}
    named = {name for name, _ in driver.space.uniform_plans()}
    uniform = [record for record in records if record.state == "complete" and record.label in named]
    return ReportData(
        title=f"{task.name} on {context.target.profile.title}",
        command=settings.command,
        task=TaskInfo(task.name, task.metric_name, task.metric_unit, task.higher_is_better, _splits(driver)),
        target=_profile(context),
        precision=context.precision,
        seed=settings.seed,
        versions=dict(settings.versions),
        started=times.began.isoformat(timespec="seconds"),
        resumed=None if times.resumed is None else times.resumed.isoformat(timespec="seconds"),
        wall_seconds=times.seconds,
        objectives=tuple(objective.name for objective in driver.objectives),
        constraints=tuple(constraint.text for constraint in driver.constraints),
        space=driver.space.name,
        decisions=len(driver.space.decisions),
        plans=driver.space.size,
        baselines=(_point_row(baseline), *(_uniform_row(record, baseline) for record in uniform)),
        points=tuple(_point_row(point, why.get(point.id)) for point in front),
        failed=tuple(_point_row(point) for point in points if point.reason is not None),
        trials=tuple(_trial_row(record, record.number in on_front) for record in records),
        untouched=_untouched(driver),
        latency={point.id: point.latency for point in (baseline, *front)},
        fidelity_correlations=_correlations(driver, records, points),
        work=WorkInfo(times.workers, times.busy_share, seconds_by_phase(record.seconds for record in records)),
    )


def work_seconds(record: Record) -> float:
    """What a trial worked, without what it waited."""
    return sum(taken for phase, taken in record.seconds.items() if phase != WAIT)


def busy_share(records: Sequence[Record], available_s: float) -> float | None:
    """What part of the time of all workers some trials took; None without any."""
    worked = sum(map(work_seconds, records))
    return min(1.0, worked / available_s) if worked else None


def _splits(driver: Driver) -> tuple[str, ...]:
    task = driver.context.task
    sizes = (
        f"Training and calibration: {len(task.train):,} samples; the search looked at {len(task.validation):,} "
        f"validation samples; the final table is measured on {len(task.test):,} test samples, once, on the files."
    )
    return (sizes, *task.notes, *driver.settings.notes)


def _point_row(point: Point, why: Explanation | None = None) -> PointRow:
    return PointRow(
        id=point.id,
        trial=point.trial,
        label=point.label,
        fidelity=point.fidelity,
        metrics=dict(point.metrics),
        layers=point.layers,
        student=student_words(point.plan.student),
        files=dict(point.files),
        agreement=dict(point.agreement),
        reason=point.reason,
        why=why,
    )


def _uniform_row(record: Record, baseline: Point) -> PointRow:
    """A trial beside files: as far from the dense model's metric on the test split as it was on validation."""
    metrics, found = dict(record.metrics), record.metrics["accuracy"]
    value = baseline.metrics["accuracy"].value + found.value - baseline.validation
    metrics["accuracy"] = Metric.exact(value, found.unit, "surrogate")
    return PointRow(f"trial-{record.number}", record.number, record.label, record.fidelity, metrics)


def student_words(student: Student) -> str:
    """The architecture choices in words; empty where there are none."""
    words = []
    if student.drop:
        words.append("without " + ", ".join(student.drop))
    if student.resolution < 1.0:
        words.append(f"input side at {student.resolution:.0%}")
    words += [f"{name} = {value}" for name, value in student.choices]
    return "; ".join(words)


def _trial_row(record: Record, on_front: bool) -> TrialRow:
    return TrialRow(
        number=record.number,
        label=record.label,
        state=record.state if record.state != "running" else "failed",
        fidelity=record.fidelity,
        metrics=dict(record.metrics),
        seconds=sum(record.seconds.values()),
        error=record.error if record.state != "running" else "interrupted",
        on_front=on_front,
    )


def _untouched(driver: Driver) -> tuple[tuple[str, str], ...]:
    """Layers and groups that no decision of the space concerns, with the reason."""
    info = driver.context.dense.info
    decided = {decision.target for decision in driver.space.decisions}
    rows = [(layer.name, layer.frozen_reason) for layer in info.layers if layer.frozen_reason is not None]
    rows += [(f"channels of {group.name}", group.blocked_by) for group in info.groups if group.blocked_by is not None]
    rows += [
        (layer.name, "no rule of the space names it")
        for layer in info.layers
        if layer.frozen_reason is None and layer.name not in decided
    ]
    return tuple((name, str(why)) for name, why in rows)


def _correlations(driver: Driver, records: Sequence[Record], points: Sequence[Point]) -> dict[str, float] | None:
    """Rank correlation between each fidelity and the next, over what reached both; all on the validation split."""
    done = [record for record in records if record.state == "complete" and "accuracy" in record.metrics]
    sign = 1.0 if driver.context.task.higher_is_better else -1.0
    reached = {record.number: sign * record.metrics["accuracy"].value for record in done}
    halfway = [(sign * record.halfway, reached[record.number]) for record in done if record.halfway is not None]
    trained = [one for one in points if one.fidelity == "full" and one.reason is None and one.trial in reached]
    full = [(reached[point.trial], sign * point.validation) for point in trained]
    untrained = []
    if (driver.folder / SENSITIVITY).is_file():
        effects = Effects(driver.shared.meter, driver.folder / SENSITIVITY)
        told = ((effects.known(record.vector), reached[record.number]) for record in done)
        untrained = [(-effect.loss, accuracy) for effect, accuracy in told if effect is not None]
    named = {"untrained to short": untrained, "halfway to short": halfway, "short to full": full}
    found = {name: _rank_correlation(pairs) for name, pairs in named.items()}
    return {name: value for name, value in found.items() if value is not None} or None


def _rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's; None for too few pairs, or where one side is all the same."""
    if len(pairs) < _CORRELATED or any(len(set(side)) < 2 for side in zip(*pairs, strict=True)):
        return None
    return float(spearmanr([a for a, _ in pairs], [b for _, b in pairs]).statistic)


def _profile(context: Context) -> Profile:
    """The target's; on this machine with the version of the runtime that files were timed in."""
    profile = context.target.profile
    return replace(profile, runtime_version=onnxruntime.__version__) if profile.measured else profile
