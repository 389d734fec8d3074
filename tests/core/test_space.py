from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.decision import describe, ordered
from autocompress.core.plan import LowRank, Op, Plan, Prune, Quantize, Sparsify, Student
from autocompress.core.space import Decision, Option, Space, Vector
from autocompress.errors import PlanError

W8, W4, W2 = (Quantize(bits, 8) for bits in (8, 4, 2))


def small_space() -> Space:
    return Space(
        "small",
        (
            Decision("resolution", "", (1.0, 0.75)),
            Decision("student", "width", (16, 8, 4)),
            Decision("drop", "block", (False, True)),
            Decision("prune", "a", (None, Prune(0.25), Prune(0.5))),
            Decision("shape", "a", (None, LowRank(0.5), Sparsify(0.7))),
            Decision("quantize", "a", (None, W8, W4, W2)),
            Decision("quantize", "b", (W8, W4)),
            Decision("quantize", "c", (None, W8, W2)),
        ),
    )


def tables(kind: str) -> st.SearchStrategy[tuple[Option, ...]]:
    pools: dict[str, list[Option]] = {
        "resolution": [1.0, 0.75, 0.5],
        "student": ["wide", 16, 8.5, False],
        "drop": [False, True],
        "prune": [None, Prune(0.25), Prune(0.5), Prune(0.5, "l1")],
        "shape": [None, LowRank(0.5), Sparsify(0.5), Sparsify(0.5, "2:4")],
        "quantize": [None, Quantize(16), W8, Quantize(8), W4],
    }
    return st.lists(st.sampled_from(pools[kind]), min_size=1, unique=True).map(tuple)


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    kinds = draw(st.lists(st.sampled_from(["student", "drop", "prune", "shape", "quantize"]), max_size=8))
    decisions = [
        Decision(kind, f"t{i // 2}.{kind}{i}", draw(tables(kind)), draw(st.integers(1, 3)) if kind == "prune" else 1)
        for i, kind in enumerate(kinds)
    ]
    if draw(st.booleans()):
        decisions.insert(0, Decision("resolution", "", draw(tables("resolution"))))
    return Space("any", tuple(decisions))


@given(spaces(), st.integers(0, 2**32))
def test_vectors_and_plans_are_the_same_thing(space: Space, seed: int) -> None:
    vector = space.random(np.random.default_rng(seed))
    plan = space.decode(vector)
    assert space.encode(plan) == vector
    assert space.decode(space.encode(plan)) == plan
    assert Plan.from_dict(plan.to_dict()) == plan


@given(spaces())
def test_every_corner_is_a_plan(space: Space) -> None:
    for vector in (space.dense_vector, space.centre_vector, space.extreme_vector):
        assert space.encode(space.decode(vector)) == vector


@given(spaces())
def test_the_ladder_has_at_most_20_distinct_rungs_and_ends_at_the_extreme(space: Space) -> None:
    rungs = space.uniform_plans()
    vectors = [space.encode(plan) for _, plan in rungs]
    assert len(vectors) == len(set(vectors)) == len(dict(rungs)) <= 20
    if space.extreme_vector != space.dense_vector:
        assert vectors[-1] == space.extreme_vector


def test_decode_by_hand() -> None:
    space = small_space()
    assert space.size == 2 * 3 * 2 * 3 * 3 * 4 * 2 * 3
    assert space.decode((1, 2, 1, 2, 1, 2, 0, 0)) == Plan(
        Student(("block",), 0.75, (("width", 4),)),
        (("a", Prune(0.5)),),
        (("a", (LowRank(0.5), W4)), ("b", (W8,))),
    )
    assert space.centre_vector == (0, 1, 0, 1, 1, 1, 0, 1)
    assert space.extreme_vector == (1, 2, 1, 2, 2, 3, 1, 2)


def test_size_is_exact_beyond_floats() -> None:
    space = Space("big", tuple(Decision("quantize", f"l{i}", (None, W8, W4)) for i in range(200)))
    assert space.size == 3**200


def test_random_draws_every_option_and_is_seeded() -> None:
    space = small_space()
    drawn = [space.random(np.random.default_rng(seed)) for seed in range(100)]
    assert drawn[0] == space.random(np.random.default_rng(0))
    for place, decision in enumerate(space.decisions):
        assert {vector[place] for vector in drawn} == set(range(len(decision.options)))


BASE = Plan(Student(choices=(("width", 16),)), layers=(("b", (W8,)),))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(BASE.student), r"'quantize:b' = None, which space 'small' does not offer; allowed: Quantize\(w_bits=8"),
        (Plan(layers=BASE.layers), "'student:width' = None, which space 'small' does not offer; allowed: 16, 8, 4"),
        (Plan(BASE.student, (("aa", Prune(0.5)),), BASE.layers), "'prune:aa' .* does not decide; did you mean"),
        (Plan(BASE.student, (("a", Prune(0.3)),), BASE.layers), r"'prune:a' = Prune\(sparsity=0.3.* does not offer"),
        (Plan(Student(("other",), 1.0, BASE.student.choices), (), BASE.layers), "'drop:other' = True"),
        (Plan(Student((), 0.5, BASE.student.choices), (), BASE.layers), "'resolution' = 0.5.*allowed: 1.0, 0.75"),
        (Plan(BASE.student, (), (("b", (W8, Sparsify(0.5))),)), "'shape:b' = Sparsify"),
    ],
)
def test_encode_names_what_is_not_in_the_space(plan: Plan, message: str) -> None:
    assert small_space().encode(BASE) == small_space().dense_vector
    with pytest.raises(PlanError, match=message):
        small_space().encode(plan)


def test_a_resolution_that_is_not_decided_stays_full() -> None:
    space = Space("s", (Decision("drop", "b", (False, True)),))
    assert space.encode(Plan()) == (0,)
    with pytest.raises(PlanError, match=r"'resolution' = 0\.5, which space 's' does not decide"):
        space.encode(Plan(Student(resolution=0.5)))


@pytest.mark.parametrize("vector", [(0,), (0,) * 9, (2, 0, 0, 0, 0, 0, 0, 0), (0, 0, -1, 0, 0, 0, 0, 0)])
def test_decode_refuses_vectors_of_another_space(vector: Vector) -> None:
    with pytest.raises(PlanError, match=r"decisions|allowed: 0 to"):
        small_space().decode(vector)


def test_decisions_refuse_what_makes_no_sense() -> None:
    with pytest.raises(PlanError, match="did you mean 'quantize'"):
        Decision("quantise", "a", (None,))
    with pytest.raises(PlanError, match=r"'prune:a' has the option Quantize.*allowed: Prune"):
        Decision("prune", "a", (W8,))
    with pytest.raises(PlanError, match="no options"):
        Decision("drop", "a", ())
    with pytest.raises(PlanError, match="option True twice"):
        Decision("student", "a", (1, True))
    with pytest.raises(PlanError, match="'drop:a' twice"):
        Space("s", (Decision("drop", "a", (False, True)),) * 2)


def test_options_are_ordered_by_what_they_remove() -> None:
    assert ordered([W2, Quantize(8), W8, Quantize(16), W2]) == (Quantize(16), Quantize(8), W8, W2)
    assert ordered([LowRank(0.25), Sparsify(0.5), LowRank(0.75)]) == (LowRank(0.75), Sparsify(0.5), LowRank(0.25))


@pytest.mark.parametrize(
    ("op", "name"),
    [
        (Quantize(4, 8), "w4a8"),
        (Quantize(3), "w3"),
        (Quantize(8, 8, "tensor", "affine", "minmax"), "w8a8 tensor affine minmax"),
        (Prune(0.125), "prune 0.125"),
        (Prune(0.5, "l1", 8), "prune 0.5 l1 to 8"),
        (LowRank(1 / 3), "rank 0.333"),
        (LowRank(0.5, "cp"), "rank 0.5 cp"),
        (Sparsify(0.7), "sparse 0.7"),
        (Sparsify(0.5, "2:4"), "sparse 2:4"),
    ],
)
def test_names_of_ops(op: Op, name: str) -> None:
    assert describe(op) == name


def quantized(**bits: int | None) -> tuple[tuple[str, tuple[Quantize]], ...]:
    return tuple((name, (Quantize(w, 8),)) for name, w in bits.items() if w is not None)


def test_ladder_by_hand() -> None:
    layers = ("a", "b", "c")
    space = Space(
        "s",
        tuple(
            decision
            for name in layers
            for decision in (
                Decision("prune", name, (None, Prune(0.25), Prune(0.5)) if name != "b" else (None, Prune(0.25))),
                Decision("quantize", name, (None, W8, W4, W2)),
            )
        ),
    )
    plans = dict(space.uniform_plans())
    assert list(plans) == [
        "uniform w8a8",
        "w4a8, ends w8a8",
        "w2a8, ends w8a8",
        "uniform w4a8",
        "uniform w2a8",
        "prune 0.25, w4a8",
        "prune 0.5, w4a8",
        "100% of every choice",
    ]
    assert plans["w2a8, ends w8a8"] == Plan(layers=quantized(a=8, b=2, c=8))
    # b has no 0.5 and takes the strongest option below it.
    pruned = (("a", Prune(0.5)), ("b", Prune(0.25)), ("c", Prune(0.5)))
    assert plans["prune 0.5, w4a8"] == Plan(groups=pruned, layers=quantized(a=4, b=4, c=4))
    assert plans["100% of every choice"] == Plan(groups=pruned, layers=quantized(a=2, b=2, c=2))


def test_ladder_lets_a_layer_with_other_terms_follow_along() -> None:
    embedding = Decision("quantize", "embedding", (None, Quantize(8), Quantize(4)))
    layers = tuple(Decision("quantize", name, (None, W8, W4)) for name in ("a", "b"))
    plans = dict(Space("s", (embedding, *layers)).uniform_plans())
    assert list(plans) == ["uniform w8a8", "w4a8, ends w8", "uniform w4a8"]
    assert plans["uniform w4a8"] == Plan(layers=(("embedding", (Quantize(4),)), ("a", (W4,)), ("b", (W4,))))


def test_ladder_without_ops_tries_the_architectures() -> None:
    space = Space(
        "s",
        (
            Decision("resolution", "", (1.0, 0.5)),
            Decision("student", "width", (16, 8)),
            *(Decision("drop", f"b{i}", (False, True)) for i in range(3)),
        ),
    )
    assert {name: space.encode(plan) for name, plan in space.uniform_plans()} == {
        "width 8": (0, 1, 0, 0, 0),
        "resolution 0.5": (1, 0, 0, 0, 0),
        "every second block dropped": (0, 0, 0, 1, 0),
        "every second block dropped at resolution 0.5": (1, 0, 0, 1, 0),
        "one block left at resolution 0.5": (1, 0, 1, 1, 0),
        # Of the choices with two options every fourth is left; half of them is every second block.
        "75% of every choice": (0, 0, 0, 1, 1),
        "100% of every choice": (1, 1, 1, 1, 1),
    }


def pruned_stream(*shares: float) -> tuple[Decision, ...]:
    """Channels `s` of a stream that three layers write, and channels `a` and `b` inside its blocks."""
    options = (None, *map(Prune, shares))
    return tuple(Decision("prune", name, options, layers=3 if name == "s" else 1) for name in "sab")


def test_ladder_prunes_inside_blocks_alone_where_channels_are_shared() -> None:
    space = Space("s", pruned_stream(0.25, 0.5))
    assert [(name, space.encode(plan)) for name, plan in space.uniform_plans()] == [
        ("prune 0.25 inside blocks", (0, 1, 1)),
        ("prune 0.25", (1, 1, 1)),
        ("prune 0.5 inside blocks", (0, 2, 2)),
        ("prune 0.5", (2, 2, 2)),
    ]


def test_ladder_ends_with_all_of_every_choice() -> None:
    space = Space("s", (Decision("resolution", "", (1.0, 0.75, 0.5)), *pruned_stream(0.25, 0.5, 0.75)))
    vectors = {name: space.encode(plan) for name, plan in space.uniform_plans()}
    assert vectors["prune 0.5 inside blocks"] == (0, 0, 2, 2)
    assert vectors["prune 0.5 inside blocks at resolution 0.75"] == (1, 0, 2, 2)
    assert vectors["50% of every choice"] == (1, 2, 2, 2)
    assert vectors["75% of every choice"] == (2, 2, 2, 2)
    assert vectors["100% of every choice"] == space.extreme_vector == (2, 3, 3, 3)
    assert list(vectors)[-1] == "100% of every choice"


def test_ladder_that_is_too_long_keeps_some_of_every_family() -> None:
    tenths = [step / 10 for step in range(1, 10)]
    layers = (
        decision
        for name in "cde"
        for decision in (
            Decision("shape", name, (None, *(LowRank(1 - share) for share in tenths))),
            Decision("quantize", name, (None, *(Quantize(bits, 8) for bits in range(8, 1, -1)))),
        )
    )
    space = Space("s", (Decision("resolution", "", (1.0, 0.75, 0.5)), *pruned_stream(*tenths), *layers))
    names = [name for name, _ in space.uniform_plans()]
    assert len(names) == 20
    for part in (
        "uniform w",
        ", ends w8a8",
        "prune 0.9, w4a8",
        "rank 0.1, w4a8",
        " inside blocks, ",
        "resolution 0.75",
    ):
        assert any(part in name for name in names), part
    assert {"uniform w8a8", "uniform w2a8", "prune 0.1, w4a8", "100% of every choice"} <= set(names)


def test_ladder_at_one_smaller_resolution_alone() -> None:
    space = Space("s", (Decision("resolution", "", (0.5,)), Decision("prune", "a", (None, Prune(0.5)))))
    assert dict(space.uniform_plans())["prune 0.5"] == Plan(Student(resolution=0.5), (("a", Prune(0.5)),))
