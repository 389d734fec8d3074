"""Peak activation memory by a schedule of buffers: a tensor lives from its kernel to its last reader."""

from __future__ import annotations

import math

from torch import fx

from autocompress.core.kernel import BYTES_PER_ELEMENT
from autocompress.graph.kernels import Step, is_quantizer, rounded_bits, steps
from autocompress.graph.layers import batch_of


def peak_activation_bytes(module: fx.GraphModule, precision: str) -> int:
    """The largest sum of live activations over the kernels of one sample, in bytes.

    Args:
        module: A lifted graph with recorded shapes.
        precision: What tensors that are not rounded to 8 bits are held in.
    """
    order = steps(module)
    last = _last_reads(module, order)
    batch = batch_of(module)
    live: dict[fx.Node, int] = {
        node: _bytes(module, node, precision, batch) for node in module.graph.find_nodes(op="placeholder")
    }
    peak = sum(live.values())
    for index, step in enumerate(order):
        live[step.out] = _bytes(module, step.out, precision, batch)
        peak = max(peak, sum(live.values()))
        live = {node: size for node, size in live.items() if last.get(node, -1) > index}
    return peak


def _last_reads(module: fx.GraphModule, order: tuple[Step, ...]) -> dict[fx.Node, int]:
    """For every stored tensor the index of the last kernel that reads it, views followed back to their source."""
    stored = {step.out for step in order} | set(module.graph.find_nodes(op="placeholder"))
    last: dict[fx.Node, int] = {}
    for index, step in enumerate(order):
        for read in step.reads:
            last[_source(read, stored)] = index
    for node in module.graph.nodes:
        if node.op == "output":
            for arg in node.all_input_nodes:
                last[_source(arg, stored)] = len(order)
    return last


def _source(node: fx.Node, stored: set[fx.Node]) -> fx.Node:
    while node not in stored and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


def _bytes(module: fx.GraphModule, node: fx.Node, precision: str, batch: int) -> int:
    if "shape" not in node.meta:
        total: int = sum(math.prod(shape) for shape in node.meta.get("shapes", ()))
        return total // batch * BYTES_PER_ELEMENT[precision]
    rounded = [user for user in node.users if is_quantizer(module, user)]
    everywhere = bool(rounded) and len(node.users) == len(rounded)
    size = 1 if rounded_bits(module, rounded[0] if everywhere else node) == 8 else BYTES_PER_ELEMENT[precision]
    elements: int = math.prod(node.meta["shape"])
    return elements // batch * size
