"""Times of kernels inside of networks, of networks that are run for it.

The files are timed as wholes, by which nothing is disturbed, and their nodes under ONNX Runtime's profiler, which tells
how the time is shared among them. So what slows the machine down while it profiles changes shares, and not the sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from autocompress.core.kernel import Kernel
from autocompress.targets.measure import time_sessions, undisturbed
from autocompress.targets.probes import Probe, filled
from autocompress.targets.profiled import RunNode, attributed, optimised, profiled
from autocompress.targets.session import feeds_of, open_session

# Sessions keep memory, and others on the machine slow it down for seconds or minutes at a time. So some networks at a
# time are run, and all of them come up in several rounds, of which the fastest counts: with five instead of two 67 % of
# 120 plans at random of 30 networks that were not among them were told within 10 %, not 49 %.
ROUNDS, TOGETHER = 4, 100
# How often a network is timed as a whole in a round, and run under the profiler: in passes over those that are open.
REPEATS, PASSES, RUNS = 10, 2, 4
# What the profiler adds to a node is told by chains of so many that compute next to nothing, and read so many inputs.
_CHAIN, _READS = 200, (1, 9)
# No node takes less than this share of what the profiler says.
_LEAST_SHARE = 0.1


@dataclass(frozen=True)
class Network:
    """A network with the time of each of its kernels inside of it.

    Attributes:
        family: Networks of one family are left out together.
        kernels: Of the network.
        kernels_ms: Their times, zero where a runtime fused one away; with a call they add up to the whole.
        whole_ms: The time of its file.
    """

    family: int
    kernels: tuple[Kernel, ...]
    kernels_ms: tuple[float, ...]
    whole_ms: float


@dataclass(frozen=True)
class Measurements:
    """Networks as they were measured, and what a call costs beside its kernels."""

    networks: tuple[Network, ...]
    call_ms: float


class Added(NamedTuple):
    """What the profiler adds to each node, and to a node for each tensor that it reads; and what a call costs."""

    node_ms: float
    read_ms: float
    call_ms: float

    def without(self, node: RunNode) -> float:
        """The time of a node without what the profiler adds."""
        added = self.node_ms + self.read_ms * (len(node.inputs) + node.stored)
        return max(_LEAST_SHARE * node.ms, node.ms - added)


def measured(probes: Sequence[Probe], rounds: int | None = None) -> Measurements:
    """The networks as they were measured.

    Args:
        probes: The networks.
        rounds: How often all of them come up, of which the fastest counts; by default as where there are hundreds.
    """
    added = added_by_profiler()
    models = {probe.name: filled(probe.model) for probe in probes}
    whole_ms: dict[str, float] = {}
    nodes: dict[str, list[RunNode]] = {}
    made = {name: optimised(model) for name, model in models.items()}
    names = tuple(models)
    for _ in range(rounds or ROUNDS):
        for first in range(0, len(names), TOGETHER):
            some = names[first : first + TOGETHER]
            for name, ms in zip(some, wholes_ms([models[name] for name in some]), strict=True):
                whole_ms[name] = min(whole_ms.get(name, ms), ms)
            for name, ran in zip(some, profiled([made[name] for name in some], PASSES, RUNS), strict=True):
                nodes[name] = _faster(nodes.get(name, ran), ran)
    networks = [shared(probe, nodes[probe.name], whole_ms[probe.name], added) for probe in probes]
    return Measurements(tuple(networks), added.call_ms)


def shared(probe: Probe, nodes: Sequence[RunNode], whole_ms: float, added: Added) -> Network:
    """What each kernel takes of the time of the whole."""
    counted = attributed(probe.kernels, nodes)
    own = np.array([sum(added.without(node) for node in one) for one in counted])
    kernels_ms = own * (max(0.0, whole_ms - added.call_ms) / own.sum())
    return Network(int(probe.name.split("-")[1]), probe.kernels, tuple(map(float, kernels_ms)), whole_ms)


def added_by_profiler() -> Added:
    """By chains of nodes that compute next to nothing, with and without the profiler."""
    chains = [_chain(reads, _CHAIN) for reads in _READS]
    single_ms, *whole_ms = wholes_ms([_chain(_READS[0], 1), *chains])
    ran = profiled([optimised(chain) for chain in chains], PASSES, 8 * RUNS)
    each_ms = [ms / _CHAIN for ms in whole_ms]
    more_ms = [
        max(0.0, float(np.mean([node.ms for node in nodes])) - ms) for nodes, ms in zip(ran, each_ms, strict=True)
    ]
    read_ms = max(0.0, (more_ms[1] - more_ms[0]) / (_READS[1] - _READS[0]))
    return Added(max(0.0, more_ms[0] - read_ms), read_ms, max(0.0, single_ms - each_ms[0]))


def wholes_ms(models: Sequence[bytes]) -> list[float]:
    """How long files take as wholes."""
    sessions = [open_session(model) for model in models]
    taken = time_sessions(sessions, [feeds_of(session) for session in sessions], REPEATS)
    return [float(np.median(undisturbed(ms))) for ms in taken]


def _faster(nodes: Sequence[RunNode], others: Sequence[RunNode]) -> list[RunNode]:
    """Each node with the less of both times."""
    ms: Mapping[str, float] = {node.name: node.ms for node in others}
    return [node._replace(ms=min(node.ms, ms[node.name])) for node in nodes]


def _chain(reads: int, count: int) -> bytes:
    """A network of so many nodes in a row, each the maximum of so many copies of one number."""
    nodes = [helper.make_node("Max", [f"x{n}"] * reads, [f"x{n + 1}"]) for n in range(count)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x0", f"x{count}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 13)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())
