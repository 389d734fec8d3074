"""What the rules of operators share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from autocompress.graph.labels import Block, Coupler, Labels
from autocompress.graph.layers import aten_name

Shape = tuple[int, ...]


class Context:
    """What a rule may see: the coupler and the labels and shapes of the nodes before."""

    def __init__(self, coupler: Coupler) -> None:
        self.coupler = coupler
        self.labels: dict[fx.Node, Any] = {}

    def of(self, node: Any) -> Labels:
        """Labels of a tensor argument; numbers carry none."""
        return self.labels.get(node, ()) if isinstance(node, fx.Node) else ()

    @staticmethod
    def shape(node: fx.Node) -> Shape:
        """Shape with the example batch."""
        return tuple(node.meta["shape"])


Rule = Callable[[Context, fx.Node], Any]


def where(node: fx.Node) -> str:
    """How an operator is named in messages: its kind and its place in the graph."""
    return f"{aten_name(node)} ({node.name})"


def dimension(value: int, rank: int) -> int:
    """A dimension counted from the front."""
    return value + rank if value < 0 else value


def elementwise(ctx: Context, node: fx.Node) -> Labels:
    """Tensors that meet index by index, with broadcasting."""
    tensors = [arg for arg in node.all_input_nodes if "shape" in arg.meta]
    inputs = [(ctx.shape(arg), ctx.of(arg)) for arg in tensors]
    return ctx.coupler.elementwise(inputs, ctx.shape(node), where(node))


def unknown(ctx: Context, node: fx.Node) -> Any:
    """Nothing is known: what the operator reads may not be cut, and what it gives has no labels."""
    for arg in node.all_input_nodes:
        value = ctx.labels.get(arg, ())
        for labels in value if value and not isinstance(value[0], Block) else (value,):
            ctx.coupler.block_all(labels, where(node))
    return () if "shapes" not in node.meta else tuple(() for _ in node.meta["shapes"])
