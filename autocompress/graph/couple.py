"""Coupled channels: runs the label rules over a lifted graph and gathers what can be cut together.

Source: the idea of dependency groups is Fang et al. 2023, "DepGraph: Towards Any Structural Pruning"; here indices are
followed instead of layers, so that padded, sliced, concatenated and reshaped channels need no special case.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx, nn

from autocompress.graph.labels import Block, Coupler, Ids, Labels, block_on
from autocompress.graph.rule_context import Context
from autocompress.graph.rules import propagate

NORM_MODULES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CONV_MODULES = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)


@dataclass(frozen=True)
class LayerLabels:
    """Labels of one layer: its output channels and the input channels it reads (None where their number is fixed)."""

    out: Ids
    read: Ids | None


@dataclass(frozen=True)
class Channels:
    """One group of classes with the same members.

    Attributes:
        roots: One representative label per class, in the order of the first member's channels.
        layers: Layers whose outputs are cut; readers: layers whose inputs are cut.
        blocked_by: Why not, or None.
    """

    name: str
    roots: tuple[int, ...]
    layers: tuple[str, ...]
    readers: tuple[str, ...]
    blocked_by: str | None


@dataclass(frozen=True)
class Coupling:
    """Every label of a graph.

    Attributes:
        nodes: Labels of every tensor node by name (a tuple of labels where the node returns several tensors).
        layers: Labels of every layer module by path.
        tensors: Labels of every bare parameter, buffer or constant by path.
        groups: What can be decided, in graph order, blocked ones too.
    """

    coupler: Coupler
    nodes: Mapping[str, Any]
    layers: Mapping[str, LayerLabels]
    tensors: Mapping[str, Labels]
    groups: tuple[Channels, ...]


def couple(module: fx.GraphModule) -> Coupling:
    """Finds which channels of a lifted graph (with recorded shapes) stand or fall together."""
    coupler = Coupler()
    context = Context(coupler)
    layers: dict[str, LayerLabels] = {}
    tensors: dict[str, Labels] = {}
    for node in module.graph.nodes:
        context.labels[node] = _visit(module, node, context, layers, tensors)
    coupler.settle_boxes()
    labels = {node.name: value for node, value in context.labels.items()}
    return Coupling(coupler, labels, layers, tensors, _groups(coupler, layers))


def _visit(
    module: fx.GraphModule,
    node: fx.Node,
    context: Context,
    layers: dict[str, LayerLabels],
    tensors: dict[str, Labels],
) -> Any:
    if node.op == "call_module":
        return _call_module(module.get_submodule(str(node.target)), node, context, layers)
    if node.op == "get_attr":
        path = str(node.target)
        if path not in tensors:
            shape = node.meta["shape"]
            tensors[path] = tuple(Block((d,), context.coupler.fresh(size)) for d, size in enumerate(shape) if size > 1)
        return tensors[path]
    if node.op == "output":
        for arg in node.all_input_nodes:
            context.coupler.block_all(context.of(arg), "model output")
        return ()
    if node.op == "call_function" and "getitem" in str(node.target):
        labels = context.labels[node.args[0]]  # type: ignore[index]
        return labels[node.args[1]] if labels else ()
    if node.op == "call_function":
        return propagate(context, node)
    return ()


def _call_module(layer: nn.Module, node: fx.Node, context: Context, layers: dict[str, LayerLabels]) -> Labels:
    source: Any = node.args[0]
    labels = context.of(source)
    path = str(node.target)
    if isinstance(layer, nn.Dropout | nn.Dropout2d):
        return labels
    if isinstance(layer, NORM_MODULES):
        return _norm(layer, labels, path, context, layers)
    if isinstance(layer, nn.Embedding):
        if path not in layers:
            layers[path] = LayerLabels(context.coupler.fresh(layer.embedding_dim), None)
        return (Block((len(node.meta["shape"]) - 1,), layers[path].out),)
    channel_dim = 1 if isinstance(layer, CONV_MODULES) else len(node.meta["shape"]) - 1
    read = _read(labels, channel_dim, context)
    if isinstance(layer, CONV_MODULES):
        for block in labels:
            if channel_dim not in block.dims and max(block.dims) > channel_dim:
                context.coupler.block(block.ids, f"layer {path} slides over it")
    if path not in layers:
        out = context.coupler.fresh(node.meta["shape"][channel_dim])
        layers[path] = LayerLabels(out, read)
        if isinstance(layer, CONV_MODULES) and layer.groups > 1:
            _couple_groups(layer.groups, out, read, context)
    else:
        _call_again(layers[path], read, path, context)
    batch = tuple(block for block in labels if isinstance(layer, nn.Linear) and channel_dim not in block.dims)
    return (*batch, Block((channel_dim,), layers[path].out))


def _norm(layer: nn.Module, labels: Labels, path: str, context: Context, layers: dict[str, LayerLabels]) -> Labels:
    count = int(layer.num_features)  # type: ignore[arg-type]
    read = _read(labels, 1, context)
    if path not in layers:
        layers[path] = LayerLabels(context.coupler.fresh(count), None)
    if read is None:
        context.coupler.block(layers[path].out, f"batch_norm ({path}) reads a fixed number of channels")
    else:
        context.coupler.unify(layers[path].out, read)
    return labels


def _read(labels: Labels, dim: int, context: Context) -> Ids | None:
    """The labels that a layer reads along one dimension; what they share with other dimensions is tied over those."""
    block = block_on(labels, dim)
    narrowed = context.coupler.along(block, [dim]) if block is not None else ()
    return narrowed[0].ids if narrowed else None


def _couple_groups(groups: int, out: Ids, read: Ids | None, context: Context) -> None:
    """Grouped convolutions: depthwise channels go with their outputs, others are cut alike in every group."""
    coupler = context.coupler
    outputs = out.reshape(groups, -1)
    if read is None:
        for row in outputs[1:]:
            coupler.unify(row, outputs[0])
        return
    inputs = read.reshape(groups, -1)
    if inputs.shape[1] == 1:
        for row, single in zip(outputs, inputs, strict=True):
            coupler.tie(np.concatenate([row, single]))
        return
    for table in (inputs, outputs):
        for row in table[1:]:
            coupler.unify(row, table[0])


def _call_again(labels: LayerLabels, read: Ids | None, path: str, context: Context) -> None:
    if (labels.read is None) != (read is None):
        for ids in (labels.read, read):
            if ids is not None:
                context.coupler.block(ids, f"layer {path} is also called on an input of fixed size")
    elif labels.read is not None and read is not None:
        context.coupler.unify(labels.read, read)


def _groups(coupler: Coupler, layers: Mapping[str, LayerLabels]) -> tuple[Channels, ...]:
    """Classes that are cut from the same layers form one group: one decision."""
    outputs: dict[int, dict[str, None]] = defaultdict(dict)
    readers: dict[int, dict[str, None]] = defaultdict(dict)
    for path, labels in layers.items():
        for root in coupler.find(labels.out).tolist():
            outputs[root][path] = None
        if labels.read is not None:
            for root in coupler.find(labels.read).tolist():
                readers[root][path] = None
    gathered: dict[tuple[tuple[str, ...], tuple[str, ...], str | None], list[int]] = defaultdict(list)
    for root, members in outputs.items():
        key = (tuple(members), tuple(readers.get(root, ())), coupler.reason(root))
        gathered[key].append(root)
    result: list[Channels] = []
    taken: dict[str, int] = {}
    for (cut_layers, reading, reason), roots in gathered.items():
        first = cut_layers[0]
        taken[first] = taken.get(first, 0) + 1
        name = first if taken[first] == 1 else f"{first}#{taken[first]}"
        if reason is None and len(roots) == 1:
            reason = f"the channels of layer {first} stand or fall together"
        result.append(Channels(name, tuple(roots), cut_layers, reading, reason))
    return tuple(result)
