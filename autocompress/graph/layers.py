"""Layers of a lifted graph: which nodes they are, what they compute, what they cost."""

from __future__ import annotations

import math
from typing import Any

from torch import fx, nn
from torch._ops import OpOverload

OP_OF_MODULE: dict[type[nn.Module], str] = {
    nn.Conv1d: "conv1d",
    nn.Conv2d: "conv2d",
    nn.ConvTranspose2d: "conv_transpose2d",
    nn.Linear: "linear",
    nn.Embedding: "embedding",
}
CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
# By operator, which argument holds the rows of the product.
_PRODUCTS = {"linear": 0, "addmm": 1, "baddbmm": 1}


def layer_op(module: nn.Module) -> str | None:
    """The word for a layer with weights (`conv2d`, `linear`, ...), or None for anything else."""
    # A layer with parametrizations is of a class made from its own; its base says what it is.
    return next((op for cls, op in OP_OF_MODULE.items() if isinstance(module, cls)), None)


def is_layer(module: fx.GraphModule, node: fx.Node) -> bool:
    """True if a node calls a layer with weights."""
    return node.op == "call_module" and layer_op(module.get_submodule(str(node.target))) is not None


def layer_macs(module: fx.GraphModule, node: fx.Node) -> int:
    """Multiply-accumulates of one layer call for one sample (biases not counted)."""
    layer: Any = module.get_submodule(str(node.target))
    # The first dimension may not be the batch (sequence first, frames beside samples): count per sample of the batch.
    batch = batch_of(module)
    out: int = math.prod(node.meta["shape"]) // batch
    if isinstance(layer, nn.ConvTranspose2d):
        source: Any = node.args[0]
        inputs: int = math.prod(source.meta["shape"]) // batch
        return inputs * int(layer.out_channels // layer.groups) * int(math.prod(layer.kernel_size))
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return out * int(layer.in_channels // layer.groups) * int(math.prod(layer.kernel_size))
    return out * int(layer.in_features) if isinstance(layer, nn.Linear) else 0


def call_macs(node: fx.Node, batch: int) -> int:
    """Multiply-accumulates for one sample of a product of activations, or of a layer that could not be lifted."""
    name = aten_name(node)
    if node.op != "call_function" or "shape" not in node.meta:
        return 0
    out: int = math.prod(node.meta["shape"]) // batch
    if is_matmul(node) or name in _PRODUCTS:
        left: Any = node.args[_PRODUCTS.get(name, 0)]
        return out * int(left.meta["shape"][-1])
    if name in CONVOLUTIONS:
        source, weight = (_shape_of(arg) for arg in node.args[:2])
        swept = math.prod(source) // batch if "transpose" in name else out
        return swept * math.prod(weight[1:])
    return 0


def _shape_of(arg: Any) -> tuple[int, ...]:
    return tuple(arg.meta["shape"])


def batch_of(module: fx.GraphModule) -> int:
    """The batch that shapes were recorded with."""
    return int(module.graph.find_nodes(op="placeholder")[0].meta["shape"][0])


def is_matmul(node: fx.Node) -> bool:
    """True for a product of two activations."""
    return str(node.target).split(".")[:2] in (["aten", "matmul"], ["aten", "bmm"], ["aten", "mm"])


def aten_name(node: fx.Node) -> str:
    """The name of an operator without its overload: `conv2d` of `aten.conv2d.default`, `my::op` of `my.op.default`."""
    namespace, *rest = str(node.target).split(".")
    if namespace == "aten":
        return rest[0]
    return f"{namespace}::{rest[0]}" if isinstance(node.target, OpOverload) else namespace
