"""Who reads whom in a traced model, without torch: so that blocks can be dropped in a moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import fx, nn

from autocompress.compress.quantize import CLOSED, FUSED_ACTIVATIONS, MOVES
from autocompress.graph.couple import NORM_MODULES
from autocompress.graph.kernels import Operators, base_name
from autocompress.graph.layers import is_layer

PADS = ("pad", "constant_pad_nd")
_KEEP_SIGN = ("slice", *PADS)


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a lifted graph; nodes are known by their places.

    Attributes:
        sources: The nodes it reads, each once, in the order of its arguments.
        op: As in fx: `placeholder`, `get_attr`, `call_module`, `call_function`, `call_method` or `output`.
        base: The name of its operator.
        path: The module, parameter or constant it uses, or empty.
        is_tensor: It writes one tensor.
        runs: It is an operator, neither a view nor a weight; a slice of a slice is one with it.
        keeps_rounding: What is rounded before it is rounded after it.
        is_real: It writes a floating-point tensor.
        is_taken: The kernel before it takes it along before it stores anything.
        pad: The number it puts beside what it reads, if it does.
    """

    name: str
    sources: tuple[int, ...]
    op: str
    base: str
    path: str
    is_layer: bool
    is_tensor: bool
    runs: bool
    keeps_rounding: bool
    is_real: bool
    is_taken: bool
    pad: float


def nodes_of(module: fx.GraphModule) -> tuple[Node, ...]:
    """The nodes of a lifted graph with recorded shapes, in order."""
    operators = Operators(module)
    places = {node: place for place, node in enumerate(module.graph.nodes)}
    return tuple(_node(module, node, operators, places) for node in module.graph.nodes)


def _node(module: fx.GraphModule, node: fx.Node, operators: Operators, places: Mapping[fx.Node, int]) -> Node:
    calls = node.op in ("call_module", "call_function", "call_method")
    base = base_name(node) if node.op == "call_function" else ""
    dtype, pad = node.meta.get("dtype"), node.args[3] if len(node.args) > 3 else node.kwargs.get("value")
    owner = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return Node(
        name=node.name,
        sources=tuple(places[source] for source in node.all_input_nodes),
        op=node.op,
        base=base,
        path=str(node.target) if node.op in ("call_module", "get_attr") else "",
        is_layer=is_layer(module, node),
        is_tensor="shape" in node.meta,
        runs=calls and not operators.is_free(node),
        keeps_rounding=calls and bool(node.all_input_nodes) and operators.keeps_rounding(node),
        is_real=isinstance(dtype, torch.dtype) and dtype.is_floating_point,
        is_taken=base in FUSED_ACTIVATIONS or isinstance(owner, (*NORM_MODULES, nn.Dropout, nn.Dropout2d)),
        pad=float(pad) if base in PADS and isinstance(pad, int | float) else 0.0,
    )


class Reader(NamedTuple):
    """An operator that is left, and what it reads.

    Attributes:
        stored: The tensors that hold what it reads.
        sources: The nodes through which it reads them.
    """

    place: int
    stored: tuple[str, ...]
    sources: tuple[int, ...]


class Kept(NamedTuple):
    """A node whose result may be kept rounded.

    Attributes:
        stores: The node whose result its fused kernel stores; None if that is returned, or no real number.
        moves: It only moves values: they are rounded if they were before.
    """

    place: int
    sources: tuple[int, ...]
    stores: int | None
    moves: bool


class Flow(NamedTuple):
    """Where values may be rounded, and how far that reaches.

    Attributes:
        layers: Every call of a layer.
        movers: Operators that move values, or that integer runtimes have as well.
        trails: For every node that is left the nodes, itself first, at which its values may have been rounded.
    """

    layers: tuple[Kept, ...]
    movers: tuple[Kept, ...]
    trails: Mapping[int, tuple[int, ...]]


@dataclass(frozen=True)
class Wiring:
    """A graph after some nodes were replaced by others, without what nothing returned depends on.

    Attributes:
        places: The nodes that are left.
        paths: The modules, parameters and constants that are left.
        operators: In order.
        outputs: The stored tensors that are returned.
        find_flow: Finds `flow`.
    """

    places: tuple[int, ...]
    paths: frozenset[str]
    operators: tuple[Reader, ...]
    outputs: tuple[str, ...]
    find_flow: Callable[[], Flow]

    @cached_property
    def flow(self) -> Flow:
        """What only plans that round activations ask for."""
        return self.find_flow()


def wire(nodes: Sequence[Node], dropped: Mapping[int, int], vanished: frozenset[int] = frozenset()) -> Wiring:
    """The wiring after blocks were dropped as `drop_blocks` does, and after what `cut` leaves nothing of is gone.

    Args:
        nodes: The traced model.
        dropped: Additions and the shortcuts that stand for them.
        vanished: Nodes of one source that hand it on unchanged.
    """
    sources = _sources(nodes, dropped, vanished)
    wanted = set(sources[-1])
    for place in range(len(nodes) - 1, -1, -1):
        if place in wanted:
            wanted.update(sources[place])
    left = [place for place in range(len(nodes)) if place in wanted or nodes[place].op == "placeholder"]
    users: dict[int, list[int]] = {place: [] for place in left}
    for place in (*left, len(nodes) - 1):
        for source in sources[place]:
            users[source].append(place)
    return _Wirer(nodes, sources, users).wiring()


def _sources(nodes: Sequence[Node], dropped: Mapping[int, int], vanished: frozenset[int]) -> list[tuple[int, ...]]:
    """What every node reads once others stand for those that were replaced."""
    stands = list(range(len(nodes)))
    positive: set[int] = set()
    replaced = dropped.keys() | vanished
    result = []
    for place, node in enumerate(nodes):
        sources = node.sources
        if replaced:
            sources = tuple([stands[source] for source in sources])
            if len(sources) > 1:
                sources = tuple(dict.fromkeys(sources))
        result.append(sources)
        if place in dropped:
            stands[place] = stands[dropped[place]]
        elif node.base == "relu":
            positive.add(place)
            if dropped and sources[0] in positive:
                # What was a ReLU after the sum is now a ReLU after a ReLU.
                stands[place] = sources[0]
        elif node.base in _KEEP_SIGN and sources[0] in positive and node.pad >= 0:
            positive.add(place)
        if place in vanished:
            stands[place] = sources[0]
    return result


class _Wirer:
    """Looks at what is left from all sides."""

    def __init__(
        self, nodes: Sequence[Node], sources: Sequence[tuple[int, ...]], users: Mapping[int, Sequence[int]]
    ) -> None:
        self.nodes, self.sources, self.users = nodes, sources, users
        self.returned = frozenset(sources[-1])

    def wiring(self) -> Wiring:
        nodes, operators = self.nodes, []
        # Where the value of a node is stored; empty for weights and constants.
        stored: dict[int, str] = {}
        for place in self.users:
            node, sources = nodes[place], self.sources[place]
            is_slice = node.base == "slice"
            runs = node.runs and not (is_slice and self._is_sliced_again(place))
            if runs or node.op == "placeholder":
                stored[place] = node.name
            else:
                stored[place] = stored[sources[0]] if sources else ""
            if runs:
                read = self._read(place) if is_slice else sources
                read = tuple([source for source in read if stored[source] and nodes[source].is_tensor])
                operators.append(Reader(place, tuple([stored[source] for source in read]), read))
        return Wiring(
            places=tuple(self.users),
            paths=frozenset([nodes[place].path for place in self.users]),
            operators=tuple(operators),
            outputs=tuple(dict.fromkeys([stored[place] for place in self.sources[-1] if stored[place]])),
            find_flow=self.flow,
        )

    def flow(self) -> Flow:
        layers, movers = [], []
        trails: dict[int, tuple[int, ...]] = {}
        for place in self.users:
            node, sources = self.nodes[place], self.sources[place]
            trails[place] = (place, *trails[sources[0]]) if node.keeps_rounding else (place,)
            if node.is_layer:
                layers.append(Kept(place, sources, self._stores(place), moves=False))
            elif node.base in MOVES and sources:
                movers.append(Kept(place, sources, None, moves=True))
            elif node.base in CLOSED and sources:
                movers.append(Kept(place, sources, self._stores(place), moves=False))
        return Flow(tuple(layers), tuple(movers), trails)

    def _is_sliced_again(self, place: int) -> bool:
        users = self.users[place]
        return self.nodes[place].base == "slice" and len(users) == 1 and self.nodes[users[0]].base == "slice"

    def _read(self, place: int) -> tuple[int, ...]:
        """What an operator reads; of slices along several dimensions the last one stands for all."""
        while self._is_sliced_again(self.sources[place][0]):
            place = self.sources[place][0]
        return self.sources[place]

    def _stores(self, place: int) -> int | None:
        """What `fused_output` gives, where it holds real numbers."""
        while place not in self.returned and len(self.users[place]) == 1:
            (user,) = self.users[place]
            if not self.nodes[user].is_taken:
                break
            place = user
        return None if place in self.returned or not self.nodes[place].is_real else place
