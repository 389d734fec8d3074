"""Residual blocks that may be left out: at an addition, the branch goes and the shortcut stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from autocompress.graph.kernels import ancestors, base_name
from autocompress.graph.layers import is_layer, layer_macs
from autocompress.graph.trace import tidy


@dataclass(frozen=True)
class Residual:
    """An addition whose heavier input can be removed.

    Attributes:
        name: The module path that its layers share.
        addition: Name of the addition node; shortcut: name of the node that stays.
        layers: The layers that go.
    """

    name: str
    addition: str
    shortcut: str
    layers: tuple[str, ...]


def residual_blocks(module: fx.GraphModule) -> tuple[Residual, ...]:
    """Finds every addition with an input computed, by layers used nowhere else, from what the other one also reads."""
    found: list[Residual] = []
    taken: dict[str, int] = {}
    for node in module.graph.nodes:
        if str(node.target) != "aten.add.Tensor" or len(node.all_input_nodes) != 2:
            continue
        left, right = node.all_input_nodes
        if left.meta.get("shape") != right.meta.get("shape"):
            continue
        sides = [(_private(left, right, node), right), (_private(right, left, node), left)]
        weighed = [(_macs(module, nodes), i) for i, (nodes, _) in enumerate(sides) if nodes]
        if not weighed:
            continue
        macs, index = max(weighed)
        nodes, shortcut = sides[index]
        inside = set(nodes)
        layers = tuple(dict.fromkeys(str(n.target) for n in module.graph.nodes if n in inside and is_layer(module, n)))
        called_elsewhere = any(str(n.target) in layers for n in module.graph.nodes if n not in inside)
        if macs == 0 or not layers or called_elsewhere:
            continue
        name = _common_path(layers)
        taken[name] = taken.get(name, 0) + 1
        name = name if taken[name] == 1 else f"{name}#{taken[name]}"
        found.append(Residual(name, node.name, shortcut.name, layers))
    return tuple(found)


def drop_blocks(module: fx.GraphModule, blocks: Sequence[Residual]) -> None:
    """Replaces the additions of blocks by their shortcuts, in place, and tidies the graph."""
    nodes = {node.name: node for node in module.graph.nodes}
    places = {name: place for place, name in enumerate(nodes)}
    # The last one first: the shortcut of a block may be the sum of another that goes as well.
    for block in sorted(blocks, key=lambda block: places[block.addition], reverse=True):
        nodes[block.addition].replace_all_uses_with(nodes[block.shortcut])
    for node in module.graph.nodes:
        # What was a ReLU after the sum is now a ReLU after a ReLU.
        source = node.all_input_nodes[0] if node.all_input_nodes else None
        if source is not None and base_name(node) == "relu" and _never_negative(source):
            node.replace_all_uses_with(source)
    tidy(module)


def _never_negative(node: fx.Node) -> bool:
    """True for a ReLU, and for what only moves its values or puts zeros beside them."""
    while base_name(node) in ("slice", "pad", "constant_pad_nd"):
        value = node.args[3] if len(node.args) > 3 else node.kwargs.get("value")
        if base_name(node) != "slice" and isinstance(value, int | float) and value < 0:
            return False
        node = node.all_input_nodes[0]
    return base_name(node) == "relu"


def _private(branch: fx.Node, shortcut: fx.Node, addition: fx.Node) -> list[fx.Node]:
    """Nodes that only the branch needs, in reverse order; empty unless the branch starts from the shortcut's past."""
    past = ancestors(shortcut)
    nodes: list[fx.Node] = []
    inside = {addition}
    stack = [branch]
    while stack:
        node = stack.pop()
        if node in inside or node in past or node.op in ("placeholder", "get_attr"):
            continue
        if any(user not in inside for user in node.users):
            # Read by something outside: it is either seen again once its other users are inside, or it is shared.
            continue
        inside.add(node)
        nodes.append(node)
        stack.extend(node.all_input_nodes)
        stack.extend(n for seen in nodes for n in seen.all_input_nodes if n not in inside)
    starts = [i for n in nodes for i in n.all_input_nodes if i not in inside and i.op != "get_attr"]
    return nodes if nodes and all(start in past for start in starts) else []


def _macs(module: fx.GraphModule, nodes: list[fx.Node]) -> int:
    return sum(layer_macs(module, node) for node in nodes if is_layer(module, node))


def _common_path(layers: tuple[str, ...]) -> str:
    if len(layers) == 1:
        return layers[0]
    shared: list[str] = []
    for parts in zip(*(layer.split(".") for layer in layers), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared) or layers[0]
