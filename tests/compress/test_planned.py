"""The network of a plan is that of the compressed model, operator by operator."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.compress.apply import compress
from autocompress.compress.planned import PlannedNetworks
from autocompress.core.network import Network
from autocompress.core.plan import FACTORISATIONS, LayerOp, LowRank, Plan, Prune, Quantize, Sparsify, Student
from autocompress.core.rules import build_space, load_rules
from autocompress.graph.info import Traced, trace_model
from autocompress.graph.kernels import network_of
from tests.graph.published import ALL
from tests.graph.traced import traced

FACTORISED = ("conv1d", "conv2d", "linear")


@cache
def planned(name: str) -> PlannedNetworks:
    return PlannedNetworks(traced(name))


def slow(model: Traced, plan: Plan) -> Network:
    return network_of(compress(model, plan, weights=False).module)


def renamed(network: Network, like: Network) -> Network:
    """The same with the operators' names of another."""
    names = {ours.name: theirs.name for ours, theirs in zip(network.operators, like.operators, strict=True)}
    operators = tuple(
        replace(one, name=names[one.name], reads=tuple(names.get(read, read) for read in one.reads)) for one in network
    )
    return replace(network, operators=operators, outputs=tuple(names.get(one, one) for one in network.outputs))


def assert_same(name: str, plan: Plan) -> None:
    fast, expected = planned(name).network(plan), slow(traced(name), plan)
    assert fast is not None
    assert renamed(fast, expected) == expected


def any_plan(model: Traced, seed: int) -> Plan:
    """A plan of everything there is: any share and rank, any bits, any blocks."""
    rng = np.random.default_rng(seed)
    share, often = rng.uniform(0.05, 0.95), rng.uniform(0.1, 1.0)
    groups = [g.name for g in model.info.groups if g.blocked_by is None and rng.random() < often]
    layers: dict[str, tuple[LayerOp, ...]] = {}
    for layer in model.info.layers:
        if layer.frozen_reason is None and rng.random() < often:
            ops: list[LayerOp] = []
            if rng.random() < 0.4 and layer.op in FACTORISED:
                methods = [None, *FACTORISATIONS]
                ops.append(LowRank(float(rng.uniform(0.1, 0.9)), methods[rng.integers(len(methods))]))
            elif rng.random() < 0.3:
                ops.append(Sparsify(0.5))
            if rng.random() < 0.7:
                bits = int(rng.choice([2, 4, 8, 16]))
                ops.append(Quantize(bits, None if bits == 16 else [None, 8, 8, 16][rng.integers(4)]))
            layers[layer.name] = tuple(ops)
    drop = tuple(block.name for block in model.blocks if rng.random() < rng.choice([0.0, 0.5, 1.0]))
    pruned = tuple((name, Prune(float(rng.uniform(0.02, share)))) for name in groups)
    return Plan(Student(drop), pruned, tuple(layers.items()))


@pytest.mark.parametrize("name", ALL)
def test_any_plan_gives_the_network_of_its_model(name: str) -> None:
    for seed in range(4):
        assert_same(name, any_plan(traced(name), seed))


@settings(max_examples=40)
@given(name=st.sampled_from(ALL), seed=st.integers(4, 10_000))
def test_more_plans_give_the_network_of_their_models(name: str, seed: int) -> None:
    assert_same(name, any_plan(traced(name), seed))


@pytest.mark.parametrize("name", ["resnet20", "mobilenet", "vision_transformer"])
def test_plans_of_the_joint_space_give_the_networks_of_their_models(name: str) -> None:
    space = build_space(load_rules("joint"), traced(name).info)
    rng = np.random.default_rng(0)
    for vector in (space.dense_vector, space.centre_vector, space.extreme_vector, *(space.random(rng) for _ in "12")):
        assert_same(name, space.decode(vector))


class Padded(nn.Module):
    """A shortcut that is padded to more channels, which only the block beside it and perhaps a norm compute."""

    def __init__(self, norm: bool, shift: float) -> None:
        super().__init__()
        self.first, self.block, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 10, 3, padding=1), nn.Conv2d(10, 6, 1)
        self.norm = nn.BatchNorm2d(10) if norm else nn.Identity()
        if norm:
            nn.init.constant_(self.norm.bias, shift)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return self.last(self.norm(F.pad(x, (0, 0, 0, 0, 3, 3)) + self.block(x)))


@pytest.mark.parametrize(("norm", "shift", "channels"), [(False, 0.0, 4), (True, 0.0, 4), (True, 1.0, 10)])
def test_channels_that_only_a_dropped_block_computed_go_where_they_are_zeros(
    norm: bool, shift: float, channels: int
) -> None:
    torch.manual_seed(0)
    model = trace_model(Padded(norm, shift).eval(), (torch.randn(1, 3, 8, 8),))
    plan = Plan(Student(drop=("block",)))
    fast = PlannedNetworks(model).network(plan)
    assert fast == slow(model, plan)
    assert fast is not None
    assert fast.operators[-1].in_shapes == ((channels, 6, 6),)
    for share in (0.3, 0.6):
        pruned = Plan(plan.student, tuple((g.name, Prune(share)) for g in model.info.groups if g.blocked_by is None))
        assert PlannedNetworks(model).network(pruned) == slow(model, pruned)


def test_a_factorised_layer_by_hand() -> None:
    model = trace_model(nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()), (torch.randn(1, 8, 10, 10),))
    plan = Plan(layers=(("0", (LowRank(0.5), Quantize(4, 8))),))
    network = PlannedNetworks(model).network(plan)
    assert network is not None
    reduce, core, expand, relu = network.operators
    assert [one.weight_shape for one in (reduce, core, expand)] == [(4, 8, 1, 1), (8, 4, 3, 3), (16, 8, 1, 1)]
    assert [one.out_shape for one in network] == [(4, 10, 10), (8, 5, 5), (16, 5, 5), (16, 5, 5)]
    assert [one.macs for one in network] == [32 * 100, 288 * 25, 128 * 25, 0]
    assert core.reads == (reduce.name,)
    assert (core.rounded_reads, core.is_rounded, core.weight_dtype) == ((True,), True, "int8")
    assert (relu.reads, relu.rounded_reads) == ((expand.name,), (False,))
    assert network.rounded_inputs == tuple(network.inputs)


@pytest.mark.parametrize(
    "plan",
    [
        Plan(Student(drop=("nothing",))),
        Plan(groups=(("nothing", Prune(0.5)),)),
        Plan(layers=(("nothing", (Quantize(8),)),)),
    ],
    ids=["block", "group", "layer"],
)
def test_what_the_model_does_not_have_is_left_to_the_compressor(plan: Plan) -> None:
    assert planned("resnet20").network(plan) is None
