from __future__ import annotations

from collections.abc import Mapping

import pytest

from autocompress.search.additive import additive_front
from autocompress.search.descent import Descent
from autocompress.search.parts import Part, Prices


class Meeting(Prices):
    """What two options leave of the latency, alone and together; nothing else is priced."""

    def __init__(self, together: float) -> None:
        self._shares = {(): 1.0, (0,): 0.8, (1,): 0.9, (0, 1): together}

    def share(self, chosen: Mapping[int, int], cost: str) -> float | None:
        return self._shares[tuple(sorted(chosen))] if cost == "latency_ms" else None


def descent(together: float, cost: str = "latency_ms") -> Descent:
    nothing = Part({}, 0.0, {cost: 1.0})
    items = [[nothing, Part({place: 1}, 0.1, {cost: 1.0 - saved})] for place, saved in ((0, 0.2), (1, 0.1))]
    front = additive_front([[part.loss for part in item] for item in items], [[0.0, 0.2], [0.0, 0.1]])
    return Descent(items, front, 0.75, cost, Meeting(together))


@pytest.mark.parametrize("together", [0.8, 0.85, 0.95])
def test_what_saves_nothing_beside_the_rest_is_left_out(together: float) -> None:
    assert descent(together).steps(1) == [(0.75, {0: 1})]


def test_what_saves_a_little_beside_the_rest_stays() -> None:
    assert descent(0.79).steps(1) == [(0.75, {0: 1, 1: 1})]


def test_costs_that_structures_do_not_tell_are_added_up() -> None:
    assert descent(0.95, "size_bytes").steps(1) == [(0.75, {0: 1, 1: 1})]
