from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autocompress.core.constraint import parse_constraint
from autocompress.core.metric import Metric
from autocompress.core.plan import Plan
from autocompress.run.executors import Done, Shown
from autocompress.run.finals import Finals, make_points, step_seconds, steps_in_time
from autocompress.run.finish import Point
from autocompress.run.jobs import PointJob, refused_by
from autocompress.run.progress import Silent
from autocompress.search.record import Objective, Record

OBJECTIVES = (Objective("accuracy", True), Objective("size_bytes", False))


def metrics(accuracy: float, size: float) -> dict[str, Metric]:
    return {"accuracy": Metric.exact(accuracy, "percent"), "size_bytes": Metric.exact(size, "bytes")}


# The smallest loses most, is chosen first and trained longest.
RECORDS = [
    Record(number, "search", (number,), "complete", "short", metrics(100.0 - lost, size), {})
    for number, (lost, size) in enumerate(
        [(0.1, 900), (0.2, 800), (0.3, 700), (0.4, 600), (0.5, 500), (0.6, 400), (0.7, 300), (6.0, 2)]
    )
]


class InOrder:
    """An executor whose jobs end in an order of the test's choice, each with half of its loss left."""

    workers = 2

    def __init__(self, first: Callable[[list[PointJob]], int]) -> None:
        self._first = first
        self._running: list[tuple[str, PointJob]] = []
        self.started: list[tuple[int, int]] = []

    @property
    def busy(self) -> int:
        return len(self._running)

    def start(self, key: str, job: Any) -> None:
        assert len(self._running) < self.workers
        self._running.append((key, job))
        self.started.append((job.record.number, job.steps))

    def next(self, shown: Shown | None = None) -> Done:
        key, job = self._running.pop(self._first([job for _, job in self._running]))
        record = job.record
        accuracy = 50.0 + record.metrics["accuracy"].value / 2
        made = {**record.metrics, **metrics(accuracy, record.metrics["size_bytes"].value)}
        name = f"t{record.number}"
        return Done(key, Point(name, record.number, "", "full", Plan(), made, accuracy, (), {}, {}, None, None, ()))

    def stop(self) -> None:
        self._running.clear()


def started(first: Callable[[list[PointJob]], int]) -> list[tuple[int, int]]:
    executor = InOrder(first)
    points = make_points(finals_of(executor), RECORDS)
    assert len(points) == len(executor.started) >= 5
    return executor.started


def finals_of(executor: InOrder, **costs: float) -> Finals:
    dense = {**metrics(100.0, 1000.0), **{name: Metric.exact(value, name) for name, value in costs.items()}}
    baseline = Point("dense", 0, "", "full", Plan(), dense, 100.0, (), {}, {}, None, None, ())
    places = Path(), Path()
    return Finals(executor, OBJECTIVES, dense, lambda record: False, baseline, 100, 500, 1, 5, 2, *places, Silent())


@pytest.mark.parametrize("order", ["first started", "last started", "longest"])
def test_what_is_chosen_does_not_depend_on_which_point_ends_first(order: str) -> None:
    shortest_first = started(lambda jobs: min(range(len(jobs)), key=lambda at: jobs[at].steps))
    ends: dict[str, Callable[[list[PointJob]], int]] = {
        "first started": lambda jobs: 0,
        "last started": lambda jobs: len(jobs) - 1,
        "longest": lambda jobs: max(range(len(jobs)), key=lambda at: jobs[at].steps),
    }
    assert started(ends[order]) == shortest_first


def test_no_worker_waits_for_a_long_point() -> None:
    waited: list[int] = []

    def shortest(jobs: list[PointJob]) -> int:
        waited.append(len(jobs))
        return min(range(len(jobs)), key=lambda at: jobs[at].steps)

    chosen = started(shortest)
    # Only the last of all points runs alone.
    assert waited == [2] * (len(chosen) - 1) + [1]


def test_a_trial_that_others_beat_in_every_objective_is_not_chosen_for_less_work() -> None:
    beaten = replace(RECORDS[6], number=8, metrics=metrics(RECORDS[6].metrics["accuracy"].value, 310))
    work = {record.number: 1e6 for record in RECORDS} | {8: 1e5}
    records = [
        replace(one, metrics={**one.metrics, "macs": Metric.exact(work[one.number], "MACs")})
        for one in (*RECORDS, beaten)
    ]
    points = make_points(finals_of(InOrder(lambda jobs: 0), macs=1e6), records)
    assert 8 not in {point.trial for point in points}


@pytest.mark.parametrize("workers", [1, 2, 3, 20])
def test_no_point_ends_later_than_all_would_side_by_side(workers: int) -> None:
    executor = InOrder(lambda jobs: 0)
    executor.workers = workers
    finals = finals_of(executor)
    assert make_points(finals, RECORDS)
    most = finals.all_steps / min(workers, finals.points)
    free = [0] * workers
    for _, steps in executor.started:
        heapq.heapreplace(free, free[0] + steps)
        assert max(free) <= most + finals.least_steps * len(executor.started)


def test_trials_that_break_a_constraint_do_not_stand_in_the_way_of_those_that_meet_it() -> None:
    broken = [replace(RECORDS[number], number=10 + number, error="too bad") for number in (0, 7)]
    better = [replace(one, metrics=metrics(100.0, 1.0)) for one in broken]
    executor = InOrder(lambda jobs: 0)
    points = make_points(finals_of(executor), [*better, *RECORDS])
    assert {point.trial for point in points} <= {record.number for record in RECORDS}
    assert len(points) >= 5


# What a limit of one point leaves of these: the first keeps to it as it is, the second after its final training.
LIMITED = [
    Record(number, "search", (number,), "complete", "short", metrics(100.0 - lost, size), {}, error)
    for number, lost, size, error in [(0, 0.4, 800, None), (1, 1.4, 300, "accuracy"), (2, 40.0, 2, "accuracy")]
]


@pytest.mark.parametrize("objectives", [OBJECTIVES, OBJECTIVES[1:]], ids=["accuracy, size", "size alone"])
def test_a_limit_on_accuracy_is_one_on_what_is_trained_to_the_end(objectives: tuple[Objective, ...]) -> None:
    limit = (parse_constraint("accuracy>=-1.0"),)
    finals = replace(finals_of(InOrder(lambda jobs: 0)), objectives=objectives, constraints=limit)
    points = make_points(finals, LIMITED)
    assert {point.trial for point in points} == {0, 1}
    assert all(refused_by(point.metrics, limit, finals.dense) is None for point in points)


def test_where_none_is_expected_to_keep_to_a_limit_on_accuracy_the_best_is_made() -> None:
    finals = replace(finals_of(InOrder(lambda jobs: 0)), constraints=(parse_constraint("accuracy>=-0.01"),))
    assert 1 in {point.trial for point in make_points(finals, LIMITED[1:])}


def test_other_limits_hold_beside_one_on_accuracy() -> None:
    limits = tuple(map(parse_constraint, ("accuracy>=-1.0", "size<=50%")))
    finals = replace(finals_of(InOrder(lambda jobs: 0)), constraints=limits)
    assert {point.trial for point in make_points(finals, [replace(LIMITED[0], error="size"), *LIMITED[1:]])} == {1}


def test_all_points_together_are_trained_no_longer_than_was_asked_for() -> None:
    executor = InOrder(lambda jobs: 0)
    hard = [replace(one, metrics=metrics(100.0 - 6.0 - one.number, 2.0 ** (7 - one.number))) for one in RECORDS]
    make_points(finals_of(executor), hard)
    assert len(executor.started) >= 5
    assert sum(steps for _, steps in executor.started) <= 5 * 100 + len(executor.started)


def test_final_trainings_are_as_long_as_there_is_time_for() -> None:
    assert steps_in_time(asked=1_000, least=120, seconds=300.0, per_step=0.5) == 600
    assert steps_in_time(asked=500, least=120, seconds=300.0, per_step=0.5) == 500
    assert steps_in_time(asked=1_000, least=120, seconds=300.0, per_step=10.0) == 120
    assert steps_in_time(asked=50, least=120, seconds=300.0, per_step=10.0) == 50
    assert steps_in_time(asked=1_000, least=120, seconds=300.0, per_step=None) == 1_000
    assert steps_in_time(asked=1_000, least=120, seconds=0.0, per_step=10.0) == 1_000


def test_trials_tell_how_long_a_step_takes() -> None:
    trained = [replace(RECORDS[0], seconds={"train": seconds, "evaluate": 9.0}) for seconds in (20.0, 8.0, 12.0)]
    assert step_seconds([RECORDS[0], *trained], short_steps=40) == pytest.approx(0.3)
    assert step_seconds([RECORDS[0]], short_steps=40) is None
    assert step_seconds(trained, short_steps=0) is None
