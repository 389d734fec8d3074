from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.search.recovery import Recovery, Trained, expected_rest, recoveries_of, rest_kind

LAW = Recovery(0.05, 0.4, 0.6, 0.3, 0.2)
PLANS = [(loss, params) for loss in (0.001, 0.01, 0.1, 0.5) for params in (1.0, 0.3, 0.05)]


def law_of(tried: Sequence[Trained]) -> Recovery:
    return recoveries_of(tried, 0)[0]


def trained(law: Recovery) -> list[Trained]:
    shares = [(1.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.0, 1.0, 0.0), (0.2, 0.2, 0.6), (0.0, 0.0, 1.0)]
    parts = [(loss * a, loss * b, loss * c, params) for loss, params in PLANS for a, b, c in shares]
    return [Trained(*part, law.lost(*part)) for part in parts]


def test_a_law_is_found_again_and_tells_plans_beyond_the_tried_ones() -> None:
    found = law_of(trained(LAW))
    assert found.lost(1.0, 0.0, 0.0, 0.02) == pytest.approx(LAW.lost(1.0, 0.0, 0.0, 0.02), rel=0.25)
    assert found.need == pytest.approx(LAW.need, abs=0.1)
    assert found.ease == pytest.approx(LAW.ease, rel=0.25)
    assert found.size_ease == pytest.approx(LAW.size_ease, rel=0.25)


def test_without_trials_losses_and_missing_weights_both_count() -> None:
    law = law_of([])
    assert law.lost(0.01, 0.0, 0.0, 1.0) < law.lost(0.1, 0.0, 0.0, 1.0) < law.lost(0.1, 0.0, 0.0, 0.1) < 1.0
    for rounding, shrinking in ((0.09, 0.0), (0.0, 0.09)):
        told = law.lost(0.01, rounding, shrinking, 1.0)
        assert law.lost(0.01, 0.0, 0.0, 1.0) < told < law.lost(0.1, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(("kind", "ease"), [((1.0, 0.0), "ease"), ((0.0, 1.0), "size_ease")])
def test_rounding_and_smaller_inputs_count_for_what_they_did_in_trials(kind: tuple[float, float], ease: str) -> None:
    losses = (0.01, 0.05, 0.2)
    cuts = [Trained(loss, 0.0, 0.0, 1.0, 0.1 * loss**0.5) for loss in losses]

    def taught(share: float) -> Recovery:
        others = (Trained(0.0, loss * kind[0], loss * kind[1], 1.0, 0.1 * (share * loss) ** 0.5) for loss in losses)
        return law_of([*cuts, *others])

    easy, hard = taught(0.1), taught(1.0)
    assert getattr(easy, ease) < getattr(law_of([]), ease) < getattr(hard, ease)
    assert easy.lost(0.0, 0.1 * kind[0], 0.1 * kind[1], 1.0) < easy.lost(0.1, 0.0, 0.0, 1.0)


def test_a_single_exception_changes_little() -> None:
    spoiled = law_of([*trained(LAW), Trained(0.02, 0.0, 0.0, 0.4, 0.8)])
    assert spoiled.lost(0.02, 0.0, 0.0, 0.4) < 2.0 * LAW.lost(0.02, 0.0, 0.0, 0.4)


def test_a_few_trials_move_the_law_towards_what_they_lost() -> None:
    easy, hard = (law_of([Trained(0.1, 0.0, 0.0, 0.5, lost)] * 3) for lost in (0.005, 0.2))
    assert easy.lost(0.1, 0.0, 0.0, 0.5) < law_of([]).lost(0.1, 0.0, 0.0, 0.5) < hard.lost(0.1, 0.0, 0.0, 0.5)


@given(
    st.lists(
        st.builds(Trained, *[st.floats(0.0, 5.0)] * 3, st.floats(1e-4, 1.0), st.floats(-0.05, 1.0)),
        max_size=30,
    )
)
def test_whatever_was_tried_more_loss_and_fewer_weights_are_never_better(tried: list[Trained]) -> None:
    law = law_of(tried)
    least = law.lost(0.01, 0.0, 0.0, 1.0)
    assert 0.0 < least <= law.lost(0.1, 0.0, 0.0, 1.0) <= law.lost(0.1, 0.0, 0.0, 0.1) <= 1.0
    assert least <= min(law.lost(0.01, 0.1, 0.0, 1.0), law.lost(0.01, 0.0, 0.1, 1.0))


def test_other_laws_are_as_far_apart_as_trials_leave_them() -> None:
    plan = (0.1, 0.1, 0.0, 0.5)

    def apart(tried: list[Trained]) -> float:
        first, *others = [float(law.lost(*plan)) for law in recoveries_of(tried, 8)]
        assert len(others) == 8
        assert min(others) < first < max(others)
        return max(others) / min(others)

    assert apart([]) > 2.0
    assert apart(trained(LAW)) < 1.4
    assert recoveries_of(trained(LAW), 8) == recoveries_of(trained(LAW), 8)


def test_no_other_law_contradicts_the_trials_where_one_number_has_come_to_its_bound() -> None:
    # The more is cut the less is lost: the power goes as low as it may.
    tried = [Trained(loss, 0.0, 0.0, 1.0, 0.04 - 0.02 * loss) for loss in np.linspace(0.01, 1.0, 30).tolist()]
    first, *others = recoveries_of(tried, 8)
    assert first.power == pytest.approx(0.05, abs=1e-3)
    for law in others:
        assert law.power == pytest.approx(first.power, abs=1e-3)
        for one in tried:
            assert law.lost(one.cuts, 0.0, 0.0, 1.0) == pytest.approx(first.lost(one.cuts, 0.0, 0.0, 1.0), rel=0.4)


def test_what_was_changed_tells_what_training_leaves() -> None:
    smaller, dropped, cut = (
        expected_rest(rest_kind(kinds)) for kinds in ({"drop", "resolution"}, {"drop", "prune"}, {"prune", "quantize"})
    )
    assert dropped == cut < smaller
    assert rest_kind(set()) == ""
    assert expected_rest(rest_kind({"quantize"})) < cut


@pytest.mark.parametrize("kind", ["", "bits", "resolution"])
def test_the_longer_a_final_training_the_less_stays_lost_down_to_a_limit(kind: str) -> None:
    rests = [expected_rest(kind, length) for length in (0.0, 0.2, 0.5, 1.0, 2.0, 20.0, 200.0)]
    assert rests[0] == 1.0
    assert rests == sorted(rests, reverse=True)
    assert rests[0] > rests[1] > rests[2]
    assert rests[-2] == rests[-1] > 0.1
