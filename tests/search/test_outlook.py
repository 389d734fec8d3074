from __future__ import annotations

import pytest

from autocompress.core.decision import Decision
from autocompress.core.plan import Prune
from autocompress.core.space import Space
from autocompress.search.outlook import WORST_LOST, Outlook, Tried
from autocompress.search.parts import Part, vector_of

PLACES = 40
SIZE = PLACES
SPACE = Space(
    "cuts and a size",
    (
        *(Decision("prune", f"group{place}", (None, Prune(0.5))) for place in range(PLACES)),
        Decision("resolution", "", (1.0, 0.5)),
    ),
)
COSTS = ("size_bytes",)


def part(*places: int, loss: float = 0.1, size: float = 0.5, shrinking: float = 0.0) -> Part:
    return Part(dict.fromkeys(places, 1), loss, {"size_bytes": size, "params": size}, shrinking=shrinking)


def outlook(*tried: Tried, samples: int = 5_000, most: float | None = None) -> Outlook:
    return Outlook(SPACE, tried, 1.0, COSTS, samples, None if most is None else {"size_bytes": most})


def test_a_plan_next_to_one_that_was_tried_shares_its_luck() -> None:
    far, near = part(*range(30, 40)), part(0, 1, 2, 3)
    rest = [Tried(part(*range(20, 20 + n), loss=0.02 * n), 0.04) for n in range(1, 9)]
    lucky = outlook(*rest, Tried(part(0, 1, 2), 0.0))
    poor = outlook(*rest, Tried(part(0, 1, 2), 0.2))
    assert lucky.lost([near])[0] < 0.5 * poor.lost([near])[0]
    # What is left at a distance is what one trial of nine changes of the law.
    assert lucky.lost([far])[0] == pytest.approx(poor.lost([far])[0], rel=0.5)


def test_what_a_smaller_input_lost_is_expected_of_smaller_inputs() -> None:
    rest = [Tried(part(n, loss=0.02 * n), 0.02) for n in range(1, 9)]
    shrunk = [part(SIZE, place, loss=loss, shrinking=loss) for place, loss in ((10, 2.0), (11, 1.0), (12, 3.0))]
    easy, hard = (outlook(*rest, *(Tried(one, lost) for one in shrunk)) for lost in (0.01, 0.1))
    full, smaller = part(39), part(SIZE, *range(20, 30), loss=1.5, shrinking=1.5)
    assert easy.lost([smaller])[0] < 0.4 * hard.lost([smaller])[0]
    assert easy.lost([full])[0] == pytest.approx(hard.lost([full])[0], rel=0.3)


def test_what_a_smaller_input_loses_counts_for_more() -> None:
    rest = [Tried(part(n, loss=0.05), 0.03) for n in range(1, 9)]
    full, shrunk = part(20, loss=0.05), part(SIZE, loss=0.05)
    found = outlook(*rest)
    assert found.lost([full])[0] == pytest.approx(found.lost([shrunk])[0], rel=0.2)
    dear = part(SIZE, loss=0.05, size=0.45)
    assert found.best([dear], 1) == [dear]
    assert outlook(Tried(part(20, loss=0.05), 0.05)).best([part(20, 21, loss=0.05, size=0.3)], 1) != []
    # At the full size 5 % are worth something; at a smaller one nearly twice as much stays lost.
    assert outlook(Tried(part(SIZE, loss=0.05), 0.05)).best([part(SIZE, 21, loss=0.05, size=0.3)], 1) == []


def test_the_best_parts_add_to_what_was_tried() -> None:
    tried = Tried(part(0, loss=0.001, size=0.3), 0.001)
    larger, smaller, hopeless = (
        part(1, loss=0.1, size=0.9),
        part(2, loss=0.01, size=0.2),
        part(3, loss=50.0, size=0.16),
    )
    found = outlook(tried)
    assert found.lost([hopeless])[0] > WORST_LOST
    assert found.best([larger, smaller, hopeless], 3) == [smaller]
    assert found.reached(3) == [tried.part]


def test_no_plan_leaves_far_less_than_one_that_kept_its_accuracy() -> None:
    lost, kept = Tried(part(0, loss=0.5, size=0.05), 0.6), Tried(part(1, loss=0.001, size=0.4), 0.001)
    far, near = part(2, loss=0.001, size=0.19), part(3, loss=0.001, size=0.21)
    assert outlook(lost, kept).best([far, near], 2) == [near]
    assert outlook(lost).best([far], 1) == outlook().best([far], 1) == [far]


def test_only_plans_within_a_limit_count_however_much_they_lose() -> None:
    kept = Tried(part(1, loss=0.001, size=0.4), 0.001)
    mild, strong, hopeless = (
        part(2, 3, loss=0.001, size=0.3),
        part(4, loss=2.0, size=0.05),
        part(5, loss=90.0, size=0.05),
    )
    free, bound = outlook(kept), outlook(kept, most=0.06)
    assert free.lost([strong])[0] > WORST_LOST
    assert free.best([mild, strong, hopeless], 3) == [mild]
    # Nothing else keeps to the limit, and what loses least beyond reason comes first.
    assert bound.best([mild, strong, hopeless], 1) == [strong]
    within = Tried(strong, 0.2)
    assert outlook(kept, within, most=0.06).reached(3) == [strong]
    assert outlook(kept, within).reached(3) == [kept.part]


def test_where_only_accuracy_counts_the_parts_that_lose_least_come_first() -> None:
    kept, worse = Tried(part(1, loss=0.02, size=0.4), 0.01), Tried(part(4, loss=0.2, size=0.2), 0.04)
    mild, strong, large = (part(2, loss=0.01, size=0.5), part(3, loss=0.3, size=0.1), part(5, loss=0.001, size=0.9))
    found = Outlook(SPACE, [worse, kept], 1.0, (), 5_000, {"size_bytes": 0.5})
    assert found.best([strong, large, mild], 3) == [mild, strong]
    assert found.best([strong, large, mild], 1, coming=[kept.part]) == [mild]
    assert found.reached(2) == [kept.part, worse.part]


def test_a_loss_of_few_images_counts_less_where_there_are_few() -> None:
    # Far smaller beside a trial that lost 1.4 %, or a loss of nothing beside it at half of the size.
    tried = [Tried(part(*range(10), loss=0.02, size=0.3), 0.014), Tried(part(30, loss=0.0, size=0.9), 0.0)]
    exact, smaller = part(30, 31, loss=0.0, size=0.45), part(*range(11), loss=0.02, size=0.22)
    assert outlook(*tried, samples=5_000).best([exact, smaller], 1) == [exact]
    assert outlook(*tried, samples=357).best([exact, smaller], 1) == [smaller]


def test_without_trials_the_law_alone_counts() -> None:
    found = outlook()
    assert found.reached(3) == []
    assert found.lost([]) == []
    mild, strong = found.lost([part(0, loss=0.01), part(0, 1, loss=0.2)])
    assert 0.0 < mild < strong


def test_what_was_measured_corrects_the_guesses_beside_it() -> None:
    near, far, guess = part(0, 1, 2, loss=0.1), part(*range(20, 40), loss=0.1), part(0, 1, loss=0.1)
    parts = {vector_of(SPACE, one.chosen): one for one in (near, far)}

    def losses(measured: float) -> list[float]:
        return [one.loss for one in outlook().corrected(parts, [guess], [part(0, 1, loss=measured)]).values()]

    worse, better = losses(0.4), losses(0.05)
    assert 0.3 < worse[0] < 0.4
    assert worse[1] == pytest.approx(0.1, rel=0.15)
    assert 0.05 < better[0] < 0.06
    assert outlook().corrected(parts, [guess], [None]) == parts


def test_no_plan_is_tried_for_what_was_not_asked_for() -> None:
    def working(place: int, loss: float, size: float, macs: float) -> Part:
        return Part({place: 1}, loss, {"size_bytes": size, "params": 1.0, "macs": macs})

    small, idle, smaller = working(1, 0.01, 0.5, 0.9), working(2, 0.02, 0.6, 0.2), working(3, 0.02, 0.4, 0.9)
    for costs, found in ((COSTS, [small, smaller]), ((*COSTS, "macs"), [small, idle, smaller])):
        best = Outlook(SPACE, [], 1.0, costs, 5_000).best([small, idle, smaller], 3)
        assert sorted(part.loss for part in best) == [part.loss for part in found]
        assert (idle in best) == (idle in found)
    # What was tried beats as well.
    tried = Tried(working(6, 0.001, 0.3, 0.9), 0.0)
    assert Outlook(SPACE, [tried], 1.0, COSTS, 5_000).best([idle], 1) == []


def test_what_is_worth_it_by_another_likely_law_counts_until_trials_have_told() -> None:
    mild, strong = part(1, loss=0.01, size=0.5), part(2, loss=0.5, size=0.3)
    assert outlook().lost([strong])[0] > WORST_LOST
    assert outlook().best([mild, strong], 2) == [mild, strong]
    told = [Tried(part(*range(10, 10 + n), loss=0.1 * n, size=0.5), 0.1 * (0.1 * n) ** 0.5) for n in range(1, 25)]
    assert outlook(*told).lost([strong])[0] > WORST_LOST
    assert strong not in outlook(*told).best([mild, strong], 2)
