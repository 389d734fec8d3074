from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.pareto import dominates, hypervolume, non_dominated


def point_lists(dims: int, low: int = 0) -> st.SearchStrategy[list[tuple[int, ...]]]:
    return st.lists(st.tuples(*[st.integers(low, 5)] * dims), max_size=12)


ANY_POINTS = st.integers(1, 4).flatmap(point_lists)


def brute_front(points: list[tuple[int, ...]]) -> list[int]:
    return [
        i
        for i, p in enumerate(points)
        if not any(all(a <= b for a, b in zip(q, p, strict=True)) and q != p for q in points) and p not in points[:i]
    ]


def test_dominates() -> None:
    assert dominates((1, 2), (1, 3))
    assert not dominates((1, 2), (1, 2))
    assert not dominates((0, 3), (1, 2))
    with pytest.raises(ValueError, match="shorter"):
        dominates((1, 2), (1,))


@given(ANY_POINTS)
def test_front_equals_brute_force(points: list[tuple[int, ...]]) -> None:
    assert non_dominated(points) == brute_front(points)


def test_front_takes_infinity_and_refuses_nan() -> None:
    inf = math.inf
    assert non_dominated([(inf, 1.0), (2.0, inf), (1.0, 1.0)]) == [2]
    assert non_dominated([(inf, inf, 1.0), (inf, 1.0, 2.0)]) == [0, 1]
    assert non_dominated([(inf, inf, 2.0, 1.0), (inf, inf, 0.0, 1.0)]) == [1]
    assert non_dominated([(0.0, -inf, 2.0), (1.0, -inf, 0.0)]) == [0, 1]
    with pytest.raises(ValueError, match="NaN"):
        non_dominated([(math.nan, 1.0)])


@given(st.integers(1, 3).flatmap(lambda dims: point_lists(dims, low=-1)))
def test_hypervolume_equals_counted_cells(points: list[tuple[int, ...]]) -> None:
    if not points:
        assert hypervolume(points, (4,)) == 0.0
        return
    dims = len(points[0])
    # Points are integers, so the volume is the number of unit cells below the reference that some point reaches.
    cells = sum(
        any(all(p <= c for p, c in zip(point, cell, strict=True)) for point in points)
        for cell in itertools.product(range(-1, 4), repeat=dims)
    )
    assert hypervolume(points, (4,) * dims) == pytest.approx(cells)


def test_hypervolume_refuses_a_reference_that_does_not_match() -> None:
    with pytest.raises(ValueError, match="do not match"):
        hypervolume([(1.0, 2.0)], (3.0,))
    with pytest.raises(ValueError, match="NaN"):
        hypervolume([(1.0, math.nan)], (3.0, 3.0))
