"""Fused attention written out as the products it stands for, so that MACs, kernels and heads are seen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from autocompress.errors import UnsupportedError
from autocompress.graph.lift import attach
from autocompress.graph.rule_context import where

_ATEN: Any = torch.ops.aten


def decompose_attention(module: fx.GraphModule) -> bool:
    """Replaces every `scaled_dot_product_attention` by its products, in place; True if there was any."""
    targets = [node for node in module.graph.nodes if "scaled_dot_product_attention" in str(node.target)]
    for node in targets:
        _decompose(module, node)
    if targets:
        module.graph.eliminate_dead_code()
        module.recompile()
    return bool(targets)


def _decompose(module: fx.GraphModule, node: fx.Node) -> None:
    graph = module.graph
    query, key, value = node.args[:3]
    mask = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
    causal = node.args[5] if len(node.args) > 5 else node.kwargs.get("is_causal", False)
    scale = node.kwargs.get("scale")
    if node.kwargs.get("enable_gqa"):
        raise UnsupportedError(f"{where(node)}: heads that share keys and values (enable_gqa) are not supported")
    with graph.inserting_before(node):
        turned = graph.call_function(_ATEN.transpose.int, (key, -2, -1))
        scores = graph.call_function(_ATEN.matmul.default, (query, turned))
        scores = graph.call_function(_ATEN.mul.Scalar, (scores, _scale(node, scale)))
        if causal:
            length, width = _lengths(node)
            band = torch.full((length, width), float("-inf")).triu(1)
            attach(module, f"constants.{node.name}_mask", band)
            scores = graph.call_function(_ATEN.add.Tensor, (scores, graph.get_attr(f"constants.{node.name}_mask")))
        if isinstance(mask, fx.Node):
            scores = _masked(module, graph, node, scores, mask)
        weights = graph.call_function(_ATEN.softmax.int, (scores, -1))
        result = graph.call_function(_ATEN.matmul.default, (weights, value))
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _scale(node: fx.Node, scale: Any) -> float:
    return float(scale) if scale is not None else float(_shape(node.args[0])[-1]) ** -0.5


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(node.meta["shape"])


def _lengths(node: fx.Node) -> tuple[int, int]:
    return _shape(node.args[0])[-2], _shape(node.args[1])[-2]


def _masked(module: fx.GraphModule, graph: fx.Graph, node: fx.Node, scores: fx.Node, mask: fx.Node) -> fx.Node:
    if mask.meta.get("dtype") is torch.bool:
        path = f"constants.{node.name}_floor"
        floor: Tensor = torch.tensor(float("-inf"))
        attach(module, path, floor)
        return graph.call_function(_ATEN.where.self, (mask, scores, graph.get_attr(path)))
    return graph.call_function(_ATEN.add.Tensor, (scores, mask))
