"""The operators of a traced model with dimensions that channels leave instead of fixed sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from autocompress.compress.axes import Axes
from autocompress.core.network import Operator
from autocompress.graph.couple import Coupling
from autocompress.graph.kernels import Operators


@dataclass(frozen=True, slots=True)
class Sized:
    """One operator with the numbers that `Axes` gave its dimensions and shapes.

    Attributes:
        dense: The operator in the model that nothing was done to.
        out: The shape it writes first; more: the others.
        weight: The dimensions of a layer's weight, as `cut.py` cuts it; groups: the dimension that holds their number.
        inner: Of a product of activations the dimension that is summed over.
    """

    dense: Operator
    out: int
    more: tuple[int, ...]
    weight: tuple[int, ...]
    groups: int
    inner: int | None


def shape_of(node: fx.Node, coupling: Coupling, axes: Axes) -> int:
    """The shape of a node that writes one tensor."""
    return axes.shape(node.meta["shape"], coupling.nodes.get(node.name, ()))


def sized(node: fx.Node, operators: Operators, coupling: Coupling, axes: Axes) -> Sized:
    """One node that is an operator."""
    dense = operators.operator(node)
    if "shape" in node.meta:
        out, more = shape_of(node, coupling, axes), tuple[int, ...]()
    else:
        labels = coupling.nodes.get(node.name, ()) or ((),) * len(node.meta["shapes"])
        out, *rest = [axes.shape(*pair) for pair in zip(node.meta["shapes"], labels, strict=True)]
        more = tuple(rest)
    weight = _weight(dense, coupling, axes) if dense.weight_shape is not None else ()
    left: Any = node.args[0] if dense.op == "matmul" else None
    inner = None if left is None else axes.axes_of(shape_of(left, coupling, axes))[-1]
    return Sized(dense, out, more, weight, _groups(dense, coupling, axes), inner)


def _weight(dense: Operator, coupling: Coupling, axes: Axes) -> tuple[int, ...]:
    assert dense.weight_shape is not None
    labels, axis, groups = coupling.layers[dense.layer], axes.axis, dense.groups
    out, read = labels.out, labels.read
    first, second, *window = dense.weight_shape
    fixed = [axis(size) for size in window]
    if dense.op == "embedding":
        return axis(first), axis(second, out)
    # Groups are cut alike, so the first tells of all; of depthwise layers whole groups go.
    depthwise = groups > 1 and read is not None and len(read) == groups
    if dense.op == "conv_transpose2d":
        per_group = axis(second) if depthwise else axis(second, out.reshape(groups, -1)[0])
        return axis(first, read), per_group, *fixed
    per_group = axis(second) if depthwise or read is None else axis(second, read.reshape(groups, -1)[0])
    return axis(first, out), per_group, *fixed


def _groups(dense: Operator, coupling: Coupling, axes: Axes) -> int:
    read = coupling.layers[dense.layer].read if dense.groups > 1 else None
    return axes.axis(dense.groups, read if read is not None and len(read) == dense.groups else None)
