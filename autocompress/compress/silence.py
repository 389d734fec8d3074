"""Channels that only dropped blocks computed, found from what is left of a graph."""

from __future__ import annotations

from collections.abc import Sequence

from autocompress.compress.axes import Axes
from autocompress.compress.wiring import Node, Wiring
from autocompress.graph.couple import NORM_MODULES, Coupling
from autocompress.graph.info import Traced
from autocompress.graph.labels import Block

# Operators that make zeros of zeros.
_KEEPS_ZEROS = (
    *("relu", "relu6", "gelu", "silu", "hardswish", "tanh", "leaky_relu", "elu", "mish", "pad", "constant_pad_nd"),
    *("slice", "split", "split_with_sizes", "chunk", "getitem", "reshape", "flatten", "permute", "transpose"),
    *("clone", "contiguous", "max_pool2d", "max_pool1d", "avg_pool2d", "avg_pool1d", "adaptive_avg_pool2d", "mean"),
    *("upsample_nearest2d", "upsample_bilinear2d", "zeros", "new_zeros"),
)


class Silence:
    """Which groups of channels hold nothing but zeros in a wiring; see `apply.silent_channels`."""

    def __init__(self, traced: Traced, nodes: Sequence[Node], axes: Axes) -> None:
        coupling = traced.coupling
        self._carriers: list[set[str]] = [set() for _ in axes.groups]
        self._partly: list[set[str]] = [set() for _ in axes.groups]
        for path, labels in coupling.layers.items():
            if not isinstance(traced.module.get_submodule(path), NORM_MODULES):
                for group in axes.groups_in((Block((0,), labels.out),)):
                    self._carriers[group].add(path)
        for path, blocks in coupling.tensors.items():
            for group in axes.groups_in(blocks):
                self._carriers[group].add(path)
                if axes.classes_in(blocks, group) < axes.groups[group][1]:
                    self._partly[group].add(path)
        carried = [_carried(coupling, node, axes) for node in nodes]
        # For every node the groups in which it may write something else than zeros, though it reads zeros.
        self._loud = [_loud(node, place, carried) for place, node in enumerate(nodes)]

    def candidates(self, wiring: Wiring) -> tuple[int, ...] | None:
        """The groups that no layer, parameter or constant carries; None where one is carried in part."""
        paths = wiring.paths
        left = [(group, carriers & paths) for group, carriers in enumerate(self._carriers)]
        if any(used and used <= self._partly[group] for group, used in left):
            return None
        return tuple(group for group, used in left if not used)

    def is_certain(self, wiring: Wiring, groups: Sequence[int]) -> bool:
        """True if these groups, carried by nothing, are zeros wherever they are read."""
        return not groups or not any(self._loud[place].intersection(groups) for place in wiring.places)


def _carried(coupling: Coupling, node: Node, axes: Axes) -> frozenset[int]:
    found = coupling.nodes.get(node.name, ())
    parts = (found,) if not found or isinstance(found[0], Block) else found
    return frozenset().union(*(axes.groups_in(labels) for labels in parts))


def _loud(node: Node, place: int, carried: Sequence[frozenset[int]]) -> frozenset[int]:
    if (node.base in _KEEPS_ZEROS and node.pad == 0.0) or (node.op == "call_module" and not node.runs):
        return frozenset()
    sources = [carried[source] for source in node.sources]
    if node.base == "mul":
        return carried[place].difference(*sources)
    if node.base == "add" and len(sources) == 2:
        return carried[place] - (sources[0] & sources[1])
    return carried[place]
