from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import prod

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from autocompress.emit.fold import StoredWeight
from autocompress.emit.onnx_pack import GraphParts, add_weights, sparse_weights, without_zeros


def stored(
    seed: int,
    bits: int,
    shape: tuple[int, ...] = (4, 6),
    *,
    axis: int = 0,
    zeros: float = 0.0,
    is_even: bool = True,
    is_scalar: bool = False,
    input_scale: float | None = None,
) -> StoredWeight:
    """A random weight: codes around one zero point or one for each channel, of which a share is zero."""
    generator = torch.Generator().manual_seed(seed)
    gone = torch.rand(shape, generator=generator) < zeros
    if bits > 8:
        values = torch.randn(shape, generator=generator).masked_fill(gone, 0.0)
        nothing = torch.zeros(0)
        return StoredWeight(values.half() if bits == 16 else values, bits, nothing, nothing.to(torch.uint8), axis)
    count = 1 if is_scalar else shape[axis]
    middle = torch.full((count,), 2 ** (bits - 1), dtype=torch.uint8)
    zero = middle if is_even else torch.randint(0, 2**bits, (count,), generator=generator).to(torch.uint8)
    if input_scale is not None and bits == 8:
        zero = middle
    scale = torch.randn(count, generator=generator)
    codes = torch.randint(0 if input_scale is None or bits < 8 else 1, 2**bits, shape, generator=generator)
    found = StoredWeight(codes.to(torch.uint8), bits, scale, zero, axis, input_scale)
    return replace(found, values=torch.where(gone, found.along_axis(zero).expand(shape), found.values))


def computed(weights: dict[str, StoredWeight]) -> tuple[list[np.ndarray], GraphParts, int]:
    """What ONNX Runtime makes of the weights, how they are stored, and in how many bytes."""
    parts = GraphParts()
    add_weights(parts, weights)
    outputs = []
    nodes = list(parts.nodes)
    for name in weights:
        nodes.append(helper.make_node("Identity", [name], [name + "/out"]))
        outputs.append(helper.make_tensor_value_info(name + "/out", TensorProto.FLOAT, None))
    graph = helper.make_graph(nodes, "weights", [], outputs, parts.tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    size = sum(node.ByteSize() for node in parts.nodes) + sum(tensor.ByteSize() for tensor in parts.tensors)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {}), parts, size


shapes = st.sampled_from([(4, 6), (1, 5), (3, 2, 3, 3), (7, 1), (40, 40), (6, 4, 3)])
weights = st.builds(
    stored,
    st.integers(0, 10**6),
    st.sampled_from([2, 3, 4, 5, 8, 16, 32]),
    shapes,
    axis=st.integers(0, 1),
    zeros=st.sampled_from([0.0, 0.9]),
    is_even=st.booleans(),
    is_scalar=st.booleans(),
    input_scale=st.sampled_from([None, None, 0.1]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(weights, min_size=1, max_size=12))
def test_whatever_is_stored_beside_a_weight_it_is_unpacked_exactly(found: list[StoredWeight]) -> None:
    named = {f"weight{place}": one for place, one in enumerate(found)}
    results, _, _ = computed(named)
    for result, one in zip(results, found, strict=True):
        assert np.array_equal(result, one.dequantized().numpy())


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("is_even", [True, False])
@pytest.mark.parametrize("input_scale", [None, 0.1])
@pytest.mark.parametrize("zeros", [0.0, 0.9])
def test_many_weights_are_unpacked_as_one(axis: int, is_even: bool, input_scale: float | None, zeros: float) -> None:
    same = {
        f"weight{place}": stored(
            place, 4, (8 + place, 20, 3, 3), axis=axis, is_even=is_even, zeros=zeros, input_scale=input_scale
        )
        for place in range(6)
    }
    results, parts, size = computed(same)
    for result, one in zip(results, same.values(), strict=True):
        assert np.array_equal(result, one.dequantized().numpy())
    kinds = Counter(node.op_type for node in parts.nodes)
    assert kinds["Div"] == (2 if zeros else 1)
    assert kinds["CumSum"] == (1 if zeros else 0)
    alone = sum(computed({name: one})[2] for name, one in same.items())
    assert size < alone - 500


def test_masks_pay_together_where_none_of_them_pays_alone() -> None:
    small = {f"weight{place}": stored(place, 4, (8, 8, 3, 3), zeros=0.9) for place in range(12)}
    assert sparse_weights(small) == set(small)
    first = {"weight0": small["weight0"]}
    assert not sparse_weights(first)
    filled = {name: without_zeros(one) for name, one in small.items()}
    assert computed(small)[2] < 0.75 * computed(filled)[2]
    assert not sparse_weights(filled)


def test_a_large_weight_is_unpacked_alone() -> None:
    large = {f"weight{place}": stored(place, 2, (300, 300)) for place in range(2)}
    assert all(prod(one.values.shape) > 2**16 for one in large.values())
    _, parts, _ = computed(large)
    assert Counter(node.op_type for node in parts.nodes)["Mod"] == 2
