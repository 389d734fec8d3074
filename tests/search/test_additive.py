from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.search.additive import additive_front

GROUPS = st.lists(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 40)), min_size=1, max_size=4), min_size=1, max_size=5
).filter(lambda groups: any(saving for group in groups for _, saving in group))


def parts(groups: list[list[tuple[int, int]]]) -> tuple[list[list[float]], list[list[float]]]:
    return [[float(loss) for loss, _ in g] for g in groups], [[float(saving) for _, saving in g] for g in groups]


@given(GROUPS, st.floats(0.0, 1.0))
def test_the_least_loss_for_a_saving_is_that_of_all_choices_tried(
    groups: list[list[tuple[int, int]]], share: float
) -> None:
    losses, savings = parts(groups)
    total = int(sum(max(saving) for saving in savings))
    # One bucket per unit, so that nothing is rounded.
    front = additive_front(losses, savings, buckets=total)
    wanted = np.floor(share * front.most_within(np.inf))
    every = [
        (sum(loss for loss, _ in choice), sum(saving for _, saving in choice)) for choice in itertools.product(*groups)
    ]
    best = min(loss for loss, saving in every if saving >= wanted)
    options = front.at_least(wanted)
    assert options is not None
    assert sum(group[option][0] for group, option in zip(groups, options, strict=True)) == best
    assert sum(group[option][1] for group, option in zip(groups, options, strict=True)) >= wanted
    assert front.most_within(np.inf) == max(saving for _, saving in every)
    assert front.most_within(best) == max(saving for loss, saving in every if loss <= best)
    assert front.at_least(front.most_within(np.inf) * 1.001 + 1e-6) is None


@given(GROUPS, st.floats(0.0, 1.0))
def test_what_is_found_saves_at_least_as_much_as_asked_in_any_buckets(
    groups: list[list[tuple[int, int]]], share: float
) -> None:
    losses, savings = parts(groups)
    front = additive_front(losses, savings, buckets=37)
    options = front.at_least(share * front.most_within(np.inf))
    assert options is not None
    saved = sum(saving[option] for saving, option in zip(savings, options, strict=True))
    assert saved >= share * front.most_within(np.inf) - 1e-6


def test_150_groups_of_150_options_are_solved() -> None:
    generator = np.random.default_rng(0)
    savings = np.sort(generator.random((150, 150)), axis=1)
    losses = savings**3 * generator.random((150, 1))
    front = additive_front(losses.tolist(), savings.tolist())
    half = front.most_within(np.inf) / 2
    options = front.at_least(half)
    assert options is not None
    chosen = (np.arange(150), np.array(options))
    assert savings[chosen].sum() >= half
    # The same share everywhere is what an engineer would try.
    uniform = int(np.argmax(savings.sum(axis=0) >= half))
    assert losses[chosen].sum() < 0.8 * losses[:, uniform].sum()


def test_options_that_cost_more_count_as_saving_nothing() -> None:
    front = additive_front([[0.0, 1.0], [0.0, 2.0]], [[0.0, -3.0], [0.0, 5.0]])
    assert front.at_least(5.0) == (0, 1)
    assert front.at_least(0.0) == (0, 0)


def test_nothing_to_save_is_refused() -> None:
    with pytest.raises(ValueError, match="no option saves anything"):
        additive_front([[0.0, 1.0]], [[0.0, -1.0]])
