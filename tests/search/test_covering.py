from __future__ import annotations

import numpy as np

from autocompress.search.covering import Place, Scale, covering

SCALE = Scale(("size_bytes", "latency_ms"), worst_lost=0.07, blur=0.005)


def place(lost: float, size: float, latency: float = 1.0) -> Place:
    return Place(lost, {"size_bytes": size, "latency_ms": latency})


def chosen_of(candidates: list[Place], tried: list[Place], count: int) -> list[int]:
    return covering(SCALE.points_of(candidates), SCALE.points_of(tried), SCALE, count)


def test_what_adds_most_comes_first() -> None:
    candidates = [place(0.01, 0.9), place(0.01, 0.2), place(0.06, 0.15)]
    assert chosen_of(candidates, [], 3) == [1, 2]
    assert chosen_of(candidates, [], 1) == [1]


def test_beside_what_was_tried_only_what_is_new_counts() -> None:
    candidates = [place(0.01, 0.2), place(0.02, 0.1)]
    assert chosen_of(candidates, [place(0.005, 0.19)], 2) == [1]
    assert chosen_of(candidates, [place(0.005, 0.05)], 2) == []


def test_what_loses_too_much_or_saves_nothing_covers_nothing() -> None:
    assert chosen_of([place(SCALE.worst_lost, 0.01), place(0.5, 0.001)], [], 2) == []
    assert chosen_of([place(0.02, 1.0, 1.0)], [], 1) == []


def test_a_plan_that_is_only_smaller_is_worth_something() -> None:
    assert chosen_of([place(0.02, 0.1, 1.2)], [], 1) == [0]


def test_nothing_is_chosen_from_nothing() -> None:
    assert chosen_of([], [], 3) == []


def test_what_a_candidate_adds_is_the_mean_over_expectations() -> None:
    ratios = [{"size_bytes": 0.2}, {"size_bytes": 0.05}]
    sure, daring = 0, 1

    def chosen(*lost: tuple[float, float]) -> list[int]:
        points = SCALE.points(np.array(lost), ratios)
        return covering(points, np.empty((len(lost), 0, 3)), SCALE, 1)

    assert chosen((0.005, 0.005)) == [daring]
    assert chosen((0.005, 0.09)) == [sure]
    assert chosen((0.005, 0.005), (0.005, 0.01)) == [daring]
    assert chosen((0.005, 0.005), (0.005, 0.09), (0.005, 0.09)) == [sure]


def test_what_another_beats_in_every_expectation_is_no_candidate_only_if_it_is_one_and_the_same() -> None:
    points = SCALE.points(np.array([[0.01, 0.012, 0.06], [0.06, 0.012, 0.01]]), [{"size_bytes": 0.2}] * 3)
    assert covering(points, np.empty((2, 0, 3)), SCALE, 1) == [1]
