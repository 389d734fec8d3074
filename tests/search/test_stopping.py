"""A trial is stopped only where it could not have reached the front, as far as others tell."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.metric import Metric
from autocompress.search.record import Objective, Record
from autocompress.search.stopping import CONTINUE, STOP, at_best, decide, telling_of

TWO = (Objective("accuracy", True), Objective("size_bytes", False))


def record(number: int, halfway: float | None, accuracy: float, size: float, state: str = "complete") -> Record:
    metrics = {"accuracy": Metric.exact(accuracy, "percent"), "size_bytes": Metric.exact(size, "bytes")}
    return Record(number, "search", (number,), state, "short", metrics, {}, halfway=halfway)


# Trials lost 20 points half way and 10 at the end, the best of them 8.
DENSE = record(0, 90.0, 92.0, 100.0)
OTHERS = [record(number, 70.0, 82.0 + 2.0 * (number == 5), 40.0 + number) for number in range(1, 9)]
KNOWN = [DENSE, *OTHERS]


def under_way(accuracy: float, size: float, spread: float = 0.0) -> Record:
    metrics = {
        "accuracy": Metric.exact(accuracy, "percent"),
        "size_bytes": Metric(size, size - spread, size + spread, "analytic", "bytes"),
    }
    return replace(record(99, accuracy, 0.0, 0.0, "running"), metrics=metrics)


def test_what_others_beat_at_best_is_stopped() -> None:
    # 40 points lost half way are 16 at best, 76 %: worse than 82 % with 41 bytes.
    hopeless = under_way(50.0, 60.0)
    best = at_best(KNOWN, hopeless, TWO)
    assert best is not None
    assert best["accuracy"].value == pytest.approx(92.0 - 40.0 * 8.0 / 20.0)
    assert best["accuracy"].origin == "surrogate"
    assert decide(KNOWN, hopeless, TWO) == STOP


@pytest.mark.parametrize(
    "trial",
    [
        under_way(50.0, 30.0),
        under_way(50.0, 45.0, spread=10.0),
        under_way(75.0, 60.0),
        under_way(95.0, 99.0),
    ],
    ids=["cheapest", "maybe cheapest", "may come back", "better than the dense model"],
)
def test_what_may_be_on_the_front_goes_on(trial: Record) -> None:
    assert decide(KNOWN, trial, TWO) == CONTINUE


def test_without_enough_to_compare_with_nothing_is_stopped() -> None:
    hopeless = under_way(50.0, 60.0)
    assert decide(KNOWN[1:], hopeless, TWO) == CONTINUE
    assert decide(KNOWN[:-1], hopeless, TWO) == CONTINUE
    # Others that stood far better half way tell nothing of one that stands so badly.
    assert decide([DENSE, *(replace(one, halfway=80.0) for one in OTHERS)], hopeless, TWO) == CONTINUE
    assert decide([DENSE, *(replace(one, halfway=None) for one in OTHERS)], hopeless, TWO) == CONTINUE
    assert decide(KNOWN, hopeless, (TWO[1],)) == CONTINUE


def test_what_breaks_a_constraint_or_failed_beats_nothing() -> None:
    hopeless = under_way(50.0, 60.0)
    assert decide([DENSE, *(replace(one, error="too slow") for one in OTHERS)], hopeless, TWO) == CONTINUE
    stopped = [replace(one, state="stopped") for one in OTHERS]
    assert decide([DENSE, *stopped], hopeless, TWO) == CONTINUE


def test_a_metric_that_is_minimised() -> None:
    error = (Objective("accuracy", False), Objective("size_bytes", False))
    turned = [
        replace(
            one,
            halfway=-(one.halfway or 0.0),
            metrics={**one.metrics, "accuracy": Metric.exact(-one.metrics["accuracy"].value, "nats")},
        )
        for one in [*KNOWN, under_way(50.0, 60.0), under_way(75.0, 60.0)]
    ]
    assert [decide(turned[:9], one, error) for one in turned[9:]] == [STOP, CONTINUE]


@given(
    st.lists(st.tuples(st.floats(0, 90), st.floats(0, 92), st.floats(1, 100)), min_size=8, max_size=40),
    st.tuples(st.floats(0, 90), st.floats(1, 100)),
)
def test_what_is_sent_along_decides_as_all_records_do_at_most_as_strictly(
    others: list[tuple[float, float, float]], trial: tuple[float, float]
) -> None:
    known = [DENSE, *(record(number, *one) for number, one in enumerate(others, start=1))]
    told = telling_of(known, TWO)
    assert [one.number for one in told] == sorted(one.number for one in told)
    assert decide(told, under_way(*trial), TWO) == decide(known, under_way(*trial), TWO)


def test_of_many_records_the_dense_one_the_front_and_the_latest_are_sent() -> None:
    # Ever larger and worse: only the first one after the dense model is on the front.
    many = [DENSE, *(record(number, 70.0, 80.0 - number / 100.0, 10.0 + number / 100.0) for number in range(1, 300))]
    told = telling_of([*many, record(300, None, 0.0, 0.0, "running")], TWO)
    assert [one.number for one in told] == [0, 1, *range(236, 300)]


@given(
    st.lists(st.tuples(st.floats(0, 90), st.floats(0, 92), st.floats(1, 100)), min_size=2, max_size=160),
    st.integers(0, 160),
)
def test_of_a_history_that_goes_on_what_was_sent_and_what_is_new_are_enough(
    others: list[tuple[float, float, float]], before: int
) -> None:
    known = [DENSE, *(record(number, *one) for number, one in enumerate(others, start=1))]
    assert telling_of([*telling_of(known[:before], TWO), *known[before:]], TWO) == telling_of(known, TWO)
