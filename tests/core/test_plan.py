from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.plan import CRITERIA, LowRank, Op, Plan, Prune, Quantize, Sparsify, Student
from autocompress.errors import InputError, PlanError

EXAMPLE = Plan(
    Student(("b", "a"), 0.75, (("width", 8), ("act", "relu"))),
    (("g2", Prune(0.5)), ("g1", Prune(0.25, "l1", 8))),
    (("fc", (Quantize(4, 8), LowRank(0.5))), ("conv", (Sparsify(0.5, "2:4"),)), ("untouched", ())),
)


def test_a_plan_sorts_itself() -> None:
    assert EXAMPLE.student.drop == ("a", "b")
    assert [name for name, _ in EXAMPLE.groups] == ["g1", "g2"]
    assert [name for name, _ in EXAMPLE.layers] == ["conv", "fc"]
    assert EXAMPLE.layer_ops("fc") == (LowRank(0.5), Quantize(4, 8))
    assert EXAMPLE.layer_ops("untouched") == ()
    assert EXAMPLE.quantize_of("fc") == Quantize(4, 8)
    assert EXAMPLE.quantize_of("conv") is None
    assert EXAMPLE.group_op("g1") == Prune(0.25, "l1", 8)
    assert EXAMPLE.group_op("fc") is None


def test_a_plan_survives_plain_data() -> None:
    assert Plan.from_dict(EXAMPLE.to_dict()) == EXAMPLE
    assert Plan.from_dict({}) == Plan()
    assert Plan().is_dense
    assert not EXAMPLE.is_dense


def test_the_structure_is_all_but_zeros_and_bits() -> None:
    assert EXAMPLE.structure == Plan(EXAMPLE.student, EXAMPLE.groups, (("fc", (LowRank(0.5),)),))
    assert EXAMPLE.structure.changes_shapes
    bits = Plan(layers=(("fc", (Sparsify(0.5), Quantize(4))),))
    assert bits.structure.is_dense
    assert not bits.changes_shapes


def test_the_digest_names_the_content_and_is_stable() -> None:
    same = Plan(EXAMPLE.student, EXAMPLE.groups[::-1], EXAMPLE.layers[::-1])
    assert same.digest == EXAMPLE.digest
    assert Plan().digest != EXAMPLE.digest
    # Runs on disk name plans by it: it must not change by accident.
    assert Plan().digest == "04c4dfeead4f"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Prune(0.0), "Prune.sparsity is 0.0"),
        (lambda: Prune(1.0), "0 < sparsity < 1"),
        (lambda: Prune(0.5, "l3"), "allowed: l1, l2, taylor, random"),
        (lambda: Prune(0.5, round_to=0), "Prune.round_to is 0"),
        (lambda: LowRank(1.0), "LowRank.rank_ratio"),
        (lambda: LowRank(0.5, "qr"), "svd, tucker, spatial, cp"),
        (lambda: Sparsify(0.7, "2:4"), "with pattern 2:4 is 0.7"),
        (lambda: Sparsify(0.5, "1:2"), "Sparsify.pattern"),
        (lambda: Quantize(9), "Quantize.w_bits is 9"),
        (lambda: Quantize(8, 4), "8, 16 or null"),
        (lambda: Quantize(16, 8), "a_bits with w_bits 16"),
        (lambda: Quantize(8, granularity="row"), "channel, tensor"),
        (lambda: Quantize(8, scheme="odd"), "symmetric, affine"),
        (lambda: Quantize(8, range="max"), "minmax, percentile, mse"),
        (lambda: Student(resolution=0.0), "Student.resolution"),
        (
            lambda: Plan(layers=(("fc", (LowRank(0.5), Sparsify(0.5))),)),
            "'fc': lowrank and sparsify cannot be combined",
        ),
        (lambda: Plan(layers=(("fc", (Quantize(8), Quantize(4))),)), "'quantize' stands twice"),
        (lambda: Plan(layers=(("fc", (Quantize(8),)), ("fc", (LowRank(0.5),)))), "layer 'fc' stands twice"),
        (lambda: Plan(groups=(("g", Prune(0.5)), ("g", Prune(0.5)))), "group 'g' stands twice"),
        (lambda: Plan(layers=(("fc", (Prune(0.5),)),)), "put it under groups"),  # type: ignore[arg-type]
    ],
)
def test_illegal_plans_are_refused_when_built(make: Any, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        make()
    assert message in str(caught.value)
    assert isinstance(caught.value, InputError)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"layer": {}}, "unknown key 'layer'"),
        ({"student": {"width": 3}}, "plan.student has the unknown key 'width'"),
        ({"groups": {"g": {"op": "quantize", "w_bits": 8}}}, "plan.groups.g holds 'quantize'"),
        ({"layers": {"fc": [{"op": "quantise"}]}}, "did you mean 'quantize'"),
        ({"layers": {"fc": [{"op": "quantize", "wbits": 8}]}}, "no term 'wbits'; did you mean 'w_bits'"),
        ({"layers": {"fc": ["quantize"]}}, "'quantize' is not an op"),
        ({"groups": {"g": {"op": "prune"}}}, "plan.groups.g: prune: "),
        ({"layers": {"fc": [{"op": "prune", "sparsity": 0.5}]}}, "put it under groups"),
    ],
)
def test_bad_plain_data_says_where(data: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError) as caught:
        Plan.from_dict(data)
    assert message in str(caught.value)


@given(st.integers(1, 512), st.floats(0.01, 0.99), st.sampled_from([1, 4, 8, 16]))
def test_kept_channels_are_a_multiple_or_all_of_them(channels: int, sparsity: float, multiple: int) -> None:
    kept = Prune(sparsity, round_to=multiple).kept(channels)
    assert 1 <= kept <= channels
    assert kept % multiple == 0 or kept == channels
    assert kept >= min(channels, round(channels * (1 - sparsity)))


OPS: st.SearchStrategy[Op] = st.one_of(
    st.builds(LowRank, st.sampled_from([0.5, 0.25]), st.sampled_from([None, "svd", "spatial", "cp"])),
    st.builds(Quantize, st.sampled_from([2, 4, 8]), st.sampled_from([None, 8, 16])),
)


@given(
    st.dictionaries(st.text(min_size=1), st.builds(Prune, st.floats(0.1, 0.9), st.sampled_from(CRITERIA))),
    st.dictionaries(st.text(min_size=1), st.lists(OPS, unique_by=type)),
)
def test_any_plan_survives_plain_data(groups: dict[str, Prune], layers: dict[str, list[Any]]) -> None:
    plan = Plan(groups=tuple(groups.items()), layers=tuple((name, tuple(ops)) for name, ops in layers.items()))
    again = Plan.from_dict(plan.to_dict())
    assert again == plan
    assert again.digest == plan.digest
