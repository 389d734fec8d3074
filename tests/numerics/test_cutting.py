"""Pruned equals masked."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.graph.blocks import drop_blocks
from autocompress.graph.cut import cut
from autocompress.graph.trace import tidy
from tests.graph.masking import choose, masked
from tests.graph.published import ALL, batch_like
from tests.graph.traced import traced

# Nothing in conv_mixer can be cut: its convolutions take tokens for channels.
CUTTABLE = tuple(name for name in ALL if name != "conv_mixer")


@pytest.mark.parametrize("name", CUTTABLE)
@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_pruned_is_masked(name: str, share: float) -> None:
    result = traced(name)
    seed = ALL.index(name) + int(share * 100)
    removed = choose(result, share, seed)
    assert removed
    pruned = copy.deepcopy(result.module)
    cut(pruned, result.coupling, removed, result.inputs)
    oracle = masked(result, removed)
    for count in (1, 3):
        inputs = batch_like(result.inputs, count, seed)
        with torch.no_grad():
            ours, theirs = pruned(*inputs), oracle(*inputs)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))
    small, full = (sum(p.numel() for p in module.parameters()) for module in (pruned, result.module))
    assert small < full


@settings(max_examples=25)
@given(name=st.sampled_from(CUTTABLE), share=st.floats(0.05, 0.95), seed=st.integers(0, 1000))
def test_any_removal_is_masked(name: str, share: float, seed: int) -> None:
    result = traced(name)
    removed = choose(result, share, seed)
    pruned = copy.deepcopy(result.module)
    cut(pruned, result.coupling, removed, result.inputs)
    inputs = batch_like(result.inputs, 2, seed)
    with torch.no_grad():
        ours, theirs = pruned(*inputs), masked(result, removed)(*inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("name", ["resnet20", "mobilenet", "bottleneck_resnet", "vision_transformer", "sequence_first"])
def test_pruned_is_masked_with_a_block_dropped(name: str) -> None:
    result = traced(name)
    for block in result.blocks:
        removed = choose(result, 0.4, 7)
        oracle = masked(result, removed)
        pruned = copy.deepcopy(result.module)
        for module in (oracle, pruned):
            drop_blocks(module, [block])
            tidy(module)
        cut(pruned, result.coupling, removed, result.inputs)
        inputs = batch_like(result.inputs, 2)
        with torch.no_grad():
            ours, theirs = pruned(*inputs), oracle(*inputs)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


def test_cutting_nothing_changes_nothing() -> None:
    result = traced("mobilenet")
    module = copy.deepcopy(result.module)
    cut(module, result.coupling, set(), result.inputs)
    with torch.no_grad():
        assert torch.equal(module(*result.inputs), result.module(*result.inputs))
