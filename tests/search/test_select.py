from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.metric import Metric
from autocompress.search.record import Objective, Record
from autocompress.search.recovery import expected_rest
from autocompress.search.select import Made, next_point, training_share

ACCURACY = (Objective("accuracy", True), Objective("size_bytes", False))
ERROR = (Objective("accuracy", False), Objective("size_bytes", False))


def metrics(accuracy: float, size: float) -> dict[str, Metric]:
    return {"accuracy": Metric.exact(accuracy, "percent"), "size_bytes": Metric.exact(size, "bytes")}


DENSE = metrics(100.0, 1000.0)


def record(number: int, accuracy: float, size: float) -> Record:
    return Record(number, "search", (number,), "complete", "short", metrics(accuracy, size), {})


def order(candidates: Sequence[Record], objectives: Sequence[Objective] = ACCURACY) -> list[int]:
    """Numbers of the points in the order in which they are asked for if the final training brings nothing back."""
    left, made = list(candidates), list[Made]()
    while (found := next_point(left, objectives, DENSE, made)) is not None:
        left.remove(found)
        made.append(Made(found, found.metrics))
    return [point.record.number for point in made]


def test_points_come_in_the_order_of_what_they_add() -> None:
    # Nearly dense; half as large without loss; nearly as that; a tenth as large; as large as that, and useless.
    front = [record(0, 100, 990), record(1, 100, 500), record(2, 99.9, 495), record(3, 98.7, 100), record(4, 60, 90)]
    # 0 is covered by 1; and once 3 has shown that losses stay, nothing is expected of 4.
    assert order(front) == [3, 1, 2]
    assert order(front[::-1]) == [3, 1, 2]


def test_a_point_that_is_expected_to_add_nothing_is_not_asked_for() -> None:
    assert next_point([], ACCURACY, DENSE, []) is None
    ready = record(3, 99, 400)
    made = [Made(ready, ready.metrics)]
    # As the dense model; larger; half of its accuracy, of which half is expected to stay lost.
    for useless in (record(0, 100, 1000), record(1, 99, 1200), record(2, 50, 10)):
        assert next_point([useless], ACCURACY, DENSE, made) is None
    assert next_point([record(4, 99, 400)], ACCURACY, DENSE, made) is not None  # half of its loss may come back
    assert next_point([record(5, 100, 450)], ACCURACY, DENSE, [Made(ready, metrics(100, 400))]) is None


def test_where_all_lose_much_the_best_are_still_made() -> None:
    assert order([record(1, 50, 100), record(2, 80, 900), record(3, 70, 300)])[0] == 3
    assert order([record(1, 50, 100), record(2, 80, 900), record(3, 99, 300)]) == [3]


@pytest.mark.parametrize(
    ("lost", "share"), [(-1.0, 0.2), (0.0, 0.2), (1.5, 0.5), (3.0, 1.0), (4.5, 1.5), (9.0, 2.0), (60.0, 2.0)]
)
def test_what_lost_more_is_trained_longer(lost: float, share: float) -> None:
    assert training_share(record(1, 100 - lost, 10), ACCURACY, DENSE) == pytest.approx(share)
    assert training_share(record(1, 100 + lost, 10), ERROR, DENSE) == pytest.approx(share)
    assert training_share(record(1, 100 - lost, 10), ACCURACY[1:], DENSE) == 1.0


def test_of_points_that_add_the_same_the_first_is_taken() -> None:
    found = next_point([record(number, 99, 400) for number in (7, 3)], ACCURACY, DENSE, [])
    assert found is not None
    assert found.number == 7


def test_sizes_count_by_their_ratio() -> None:
    # In bytes the second adds most: 250 without loss, where the first adds 440 at less than half of their worth.
    ready = [Made(record(0, 100, 500), metrics(100, 500))]
    found = next_point([record(1, 98.4, 60), record(2, 100, 250)], ACCURACY, DENSE, ready)
    assert found is not None
    assert found.number == 1


def test_a_loss_counts_most_where_little_is_lost() -> None:
    ready = [Made(point, point.metrics) for point in (record(0, 98, 500), record(1, 80, 100))]
    # 1.8 points nearer to the dense model in front of the first, or 1 point in front of the smaller second.
    found = next_point([record(2, 99.8, 500), record(3, 81, 100)], ACCURACY, DENSE, ready)
    assert found is not None
    assert found.number == 2


@given(st.lists(st.tuples(st.integers(-5, 40), st.integers(1, 1200)), max_size=8))
def test_an_error_counts_as_an_accuracy_does(points: list[tuple[int, int]]) -> None:
    right = [record(number, 100 - lost, size) for number, (lost, size) in enumerate(points)]
    wrong = [record(number, 100 + lost, size) for number, (lost, size) in enumerate(points)]
    assert order(wrong, ERROR) == order(right)


@given(st.lists(st.tuples(st.integers(0, 24), st.integers(1, 999)), min_size=1, max_size=8))
def test_what_loses_and_weighs_less_than_all_others_comes_first(points: list[tuple[int, int]]) -> None:
    candidates = [record(number, 99 - lost, size + 1) for number, (lost, size) in enumerate(points)]
    best = record(len(points), 100, min(size for _, size in points))
    assert order([*candidates, best])[0] == best.number


SMALL, MILD = record(1, 97, 20), record(2, 99, 300)


@pytest.mark.parametrize("finished", [[], [100], [98, 100], [100, 98, 100], [103]], ids=str)
def test_a_small_point_is_tried_where_training_brought_earlier_ones_back(finished: list[float]) -> None:
    """Earlier points lost 4 of 100 in the short training; SMALL lost 3, MILD 1. Together they count."""
    made = [Made(record(9, 96, 800), metrics(accuracy, 800)) for accuracy in finished]
    assert next_point([SMALL, MILD], ACCURACY, DENSE, made) is SMALL


@pytest.mark.parametrize("finished", [[96, 96], [96, 96, 96, 96, 96, 100], [90]], ids=str)
def test_a_small_point_waits_where_earlier_ones_stayed_as_they_were(finished: list[float]) -> None:
    made = [Made(record(9, 96, 800), metrics(accuracy, 800)) for accuracy in finished]
    assert next_point([SMALL, MILD], ACCURACY, DENSE, made) is MILD


def test_training_is_expected_to_bring_back_no_more_than_all_and_no_less_than_nothing() -> None:
    lossless, lossy, earlier = record(3, 100, 40), record(4, 95, 20), record(9, 96, 800)
    assert next_point([SMALL, lossless], ACCURACY, DENSE, [Made(earlier, metrics(110, 800))]) is lossless
    assert next_point([lossy], ACCURACY, DENSE, [Made(earlier, metrics(80, 800))]) is lossy


@pytest.mark.parametrize("finished", [99.9, 99.0])
def test_losses_within_the_noise_teach_little(finished: float) -> None:
    made = [Made(record(9, 99.9, 800), metrics(finished, 800))] * 3
    assert next_point([SMALL, MILD], ACCURACY, DENSE, made) is SMALL


def test_only_points_with_inputs_of_their_size_teach_what_comes_back() -> None:
    made = [Made(record(9, 96, 800), metrics(96, 800))] * 3
    assert next_point([SMALL, MILD], ACCURACY, DENSE, made) is MILD
    apart = next_point([SMALL, MILD], ACCURACY, DENSE, made, kind=lambda record: "resolution" * (record.number == 9))
    assert apart is SMALL


def test_less_is_expected_back_of_smaller_inputs() -> None:
    worse = record(3, 96.5, 20)
    assert next_point([worse, MILD], ACCURACY, DENSE, []) is worse
    assert next_point([worse, MILD], ACCURACY, DENSE, [], kind=lambda record: "resolution" * (record is worse)) is MILD


def test_where_there_is_no_time_to_train_less_is_expected_back() -> None:
    assert next_point([SMALL, MILD], ACCURACY, DENSE, []) is SMALL
    assert next_point([SMALL, MILD], ACCURACY, DENSE, [], pace=0.3) is MILD


def test_what_a_point_of_another_length_taught_is_scaled_to_its_own() -> None:
    """A short training that left three quarters of a small loss says nothing against a long one."""
    made = [Made(record(9, 99.2, 800), metrics(99.4, 800))] * 3
    assert next_point([SMALL, MILD], ACCURACY, DENSE, made) is SMALL


def test_one_objective_is_enough() -> None:
    size = ACCURACY[1:]
    found = next_point([record(1, 50, 400), record(2, 0, 300)], size, DENSE, [Made(SMALL, metrics(70, 350))])
    assert found is not None
    assert found.number == 2
    assert next_point([record(1, 50, 400)], size, DENSE, [Made(SMALL, metrics(70, 350))]) is None


@pytest.mark.parametrize("kind", ["", "bits", "resolution"])
def test_a_limit_on_accuracy_makes_a_training_as_long_as_it_needs(kind: str) -> None:
    mild, strong = record(1, 99.0, 400), record(2, 97.0, 300)
    plain = [training_share(one, ACCURACY, DENSE) for one in (mild, strong)]
    assert [training_share(one, ACCURACY, DENSE, 1.0, kind) for one in (mild, strong)] == plain
    for one, lost in ((mild, 0.01), (strong, 0.03)):
        share = training_share(one, ACCURACY, DENSE, 0.01, kind)
        assert share >= training_share(one, ACCURACY, DENSE)
        rest = expected_rest(kind, share)
        assert lost * rest <= 0.01 or rest == pytest.approx(expected_rest(kind, 100.0))
    assert training_share(strong, ACCURACY, DENSE, 0.0, kind) <= 2.0
