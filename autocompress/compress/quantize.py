"""Quantizers put into a lifted graph: weights as parametrizations, activations as modules on the tensors they round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from autocompress.compress.quantizer import ActivationQuantizer, HalfWeight, WeightQuantizer
from autocompress.core.plan import Quantize
from autocompress.graph.couple import NORM_MODULES
from autocompress.graph.layers import aten_name, is_layer

# What a runtime folds into the kernel before it; the tensor behind it is the one that is stored.
FUSED_ACTIVATIONS = ("relu", "relu6", "hardtanh", "clamp", "clamp_min")
# Operators that only move values (or put zeros beside them): what is rounded before them is rounded after them.
# Operators that integer runtimes also have: rounded inputs and a rounded output keep the whole chain in integers.
CLOSED = ("add", "avg_pool2d", "adaptive_avg_pool2d", "mean", "cat")
MOVES = ("pad", "constant_pad_nd", "slice", "max_pool2d", "max_pool1d", "reshape", "flatten", "permute")


def quantize_weight(module: fx.GraphModule, path: str, op: Quantize) -> None:
    """Rounds the weight of one layer, in place; zeros of a mask before it stay zero."""
    layer: Any = module.get_submodule(path)
    if op.w_bits == 16:
        parametrize.register_parametrization(layer, "weight", HalfWeight())
        return
    axis = 1 if isinstance(layer, nn.ConvTranspose2d | nn.Embedding) else 0
    if isinstance(layer, nn.ConvTranspose2d) and layer.groups > 1:
        # Each group stores its own outputs: one scale along them would mix groups.
        op = Quantize(op.w_bits, op.a_bits, "tensor", op.scheme, op.range)
    quantizer = WeightQuantizer(layer.weight.detach(), op, axis)
    parametrize.register_parametrization(layer, "weight", quantizer)


def insert_activation_quantizers(module: fx.GraphModule, layers: Mapping[str, Quantize]) -> tuple[str, ...]:
    """Rounds the tensors that enter and leave the fused kernels of the given layers, in place.

    Args:
        module: A lifted graph with recorded shapes; the caller recompiles it.
        layers: Quantization of each layer by path; those without `a_bits` are skipped.

    Returns:
        Paths of the new quantizers.
    """
    marked: dict[fx.Node, Quantize] = {}
    for node in module.graph.nodes:
        op = layers.get(str(node.target)) if is_layer(module, node) else None
        if op is None or op.a_bits is None:
            continue
        source: Any = node.args[0]
        for tensor in (source, fused_output(module, node)):
            if tensor is not None and _is_real(tensor):
                known = marked.get(tensor)
                if known is None or (known.a_bits or 0) > op.a_bits:
                    marked[tensor] = op
    _close(module, marked)
    paths = []
    for node, op in marked.items():
        assert op.a_bits is not None
        path = f"quantizers.{node.name}"
        module.add_submodule(path, ActivationQuantizer(op.a_bits, op.range))
        _insert(module, node, path)
        paths.append(path)
    return tuple(paths)


def _close(module: fx.GraphModule, marked: dict[fx.Node, Quantize]) -> None:
    """Marks the results of additions, averages and joins whose inputs are all rounded."""
    moved: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        if node.op != "call_function" or not node.all_input_nodes:
            continue
        base = aten_name(node)
        origins = [moved.get(source, source) for source in node.all_input_nodes]
        if not all(origin in marked for origin in origins):
            continue
        if base in MOVES:
            moved[node] = origins[0]
        elif base in CLOSED:
            tensor = fused_output(module, node)
            if tensor is not None and _is_real(tensor):
                marked.setdefault(tensor, marked[origins[0]])


def _insert(module: fx.GraphModule, node: fx.Node, path: str) -> None:
    with module.graph.inserting_after(node):
        rounded = module.graph.call_module(path, (node,))
    rounded.meta = {key: node.meta[key] for key in ("shape", "dtype") if key in node.meta}
    node.replace_all_uses_with(rounded, delete_user_cb=lambda user: user is not rounded)


def _is_real(node: fx.Node) -> bool:
    dtype = node.meta.get("dtype")
    return isinstance(dtype, torch.dtype) and dtype.is_floating_point


def fused_output(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The tensor that the fused kernel of a layer stores; None if it is an output of the model."""
    current = node
    while True:
        if any(user.op == "output" for user in current.users):
            return None
        if len(current.users) != 1:
            return current
        user = next(iter(current.users))
        if not _fuses(module, user):
            return current
        current = user


def _fuses(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), (*NORM_MODULES, nn.Dropout, nn.Dropout2d))
    base = aten_name(node)
    return node.op == "call_function" and base in FUSED_ACTIVATIONS


def activation_quantizers(module: nn.Module) -> list[ActivationQuantizer]:
    """Every activation quantizer of a model."""
    return [child for child in module.modules() if isinstance(child, ActivationQuantizer)]


def weight_parametrizations(layer: nn.Module) -> list[nn.Module]:
    """What was registered on the weight of a layer, in order; empty for an ordinary one."""
    found: Any = getattr(layer, "parametrizations", None)
    if found is None or "weight" not in found:
        return []
    return list(found["weight"])


def weight_quantizer(layer: nn.Module) -> WeightQuantizer | None:
    """The weight quantizer of a layer, or None."""
    return next((p for p in weight_parametrizations(layer) if isinstance(p, WeightQuantizer)), None)


def raw_weight(layer: Any) -> Tensor:
    """The trained weight before masks and rounding, detached."""
    found: Any = getattr(layer, "parametrizations", None)
    value: Tensor = found["weight"].original if found is not None and "weight" in found else layer.weight
    return value.detach()
