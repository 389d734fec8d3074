"""Cuts labelled channels out of a lifted graph: weights shrink, and every size written in the graph follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from autocompress.errors import UnsupportedError
from autocompress.graph.couple import CONV_MODULES, NORM_MODULES, Coupling, LayerLabels
from autocompress.graph.labels import Block, Ids, Labels, block_on
from autocompress.graph.layers import aten_name
from autocompress.graph.rule_context import where
from autocompress.graph.rules import FACTORY_SHAPE_ARGUMENT
from autocompress.graph.trace import record_shapes, tidy

Mask = NDArray[np.bool_]


def cut(module: fx.GraphModule, coupling: Coupling, removed: set[int], inputs: tuple[Tensor, ...]) -> None:
    """Removes whole classes of channels from the very graph that `coupling` was computed on, or a copy of it.

    Args:
        module: Changed in place.
        coupling: Labels of this graph.
        removed: Representatives of the classes to remove; layers that a dropped block took along are passed over.
        inputs: Example inputs; the cut graph is run on them once and its new shapes recorded.

    Raises:
        UnsupportedError: the graph does not run after the cut; names the operator.
    """
    if not removed:
        return
    cutter = _Cutter(module, coupling, removed)
    used = {str(node.target) for node in module.graph.nodes if node.op in ("call_module", "get_attr")}
    for path, labels in coupling.layers.items():
        if path in used:
            cutter.cut_layer(path, labels)
    for path, blocks in coupling.tensors.items():
        if path in used:
            cutter.cut_tensor(path, blocks)
    for node in module.graph.nodes:
        if node.op == "call_function":
            cutter.rewrite(node)
    tidy(module)
    try:
        record_shapes(module, inputs)
    except (RuntimeError, ValueError, IndexError) as error:
        raise UnsupportedError(
            f"the model does not run after channels were cut: {str(error).splitlines()[0]}"
        ) from error


class _Cutter:
    def __init__(self, module: fx.GraphModule, coupling: Coupling, removed: set[int]) -> None:
        self.module = module
        self.coupling = coupling
        self.removed = np.array(sorted(removed), dtype=np.int64)

    def keep(self, ids: Ids) -> Mask:
        """True where a label stays."""
        return ~np.isin(self.coupling.coupler.find(ids), self.removed)

    def count(self, block: Block, dim: int) -> int:
        """The size of one dimension of a block after the cut."""
        mask = np.moveaxis(self.keep(block.ids), block.dims.index(dim), 0)
        return int(mask.reshape(mask.shape[0], -1).any(axis=1).sum())

    def labels(self, node: Any) -> Labels:
        found: Labels = self.coupling.nodes.get(node.name, ()) if isinstance(node, fx.Node) else ()
        return found

    # --- weights ---------------------------------------------------------------------------------------------------

    def cut_layer(self, path: str, labels: LayerLabels) -> None:
        layer = self.module.get_submodule(path)
        out = _index(self.keep(labels.out))
        read = self.keep(labels.read) if labels.read is not None else None
        if isinstance(layer, NORM_MODULES):
            for name in ("weight", "bias", "running_mean", "running_var"):
                _select(layer, name, 0, out)
            layer.num_features = len(out)
        elif isinstance(layer, nn.Embedding):
            _select(layer, "weight", 1, out)
            layer.embedding_dim = len(out)
        elif isinstance(layer, nn.Linear):
            _select(layer, "weight", 0, out)
            _select(layer, "bias", 0, out)
            layer.out_features = len(out)
            if read is not None:
                _select(layer, "weight", 1, _index(read))
                layer.in_features = int(read.sum())
        elif isinstance(layer, CONV_MODULES):
            self._cut_conv(layer, self.keep(labels.out), read)

    def _cut_conv(self, layer: Any, out: Mask, read: Mask | None) -> None:
        groups, in_channels = layer.groups, layer.in_channels
        per_group_in = in_channels // groups
        if read is not None:
            layer.in_channels = int(read.sum())
            if groups > 1 and per_group_in == 1:
                layer.groups = layer.in_channels
        transposed = isinstance(layer, nn.ConvTranspose2d)
        out_axis, in_axis = (1, 0) if transposed else (0, 1)
        # A transposed convolution stores its inputs in full and its outputs per group; an ordinary one the other way.
        if transposed:
            kept: Mask = np.logical_or.reduce(out.reshape(groups, -1), axis=0)
            _select(layer, "weight", out_axis, _index(kept))
            if read is not None:
                _select(layer, "weight", in_axis, _index(read))
        else:
            _select(layer, "weight", out_axis, _index(out))
            if read is not None and not (groups > 1 and per_group_in == 1):
                _select(layer, "weight", in_axis, _index(read.reshape(groups, -1)[0]))
        _select(layer, "bias", 0, _index(out))
        layer.out_channels = int(out.sum())

    def cut_tensor(self, path: str, labels: Labels) -> None:
        owner_path, _, name = path.rpartition(".")
        owner = self.module.get_submodule(owner_path)
        for block in labels:
            mask = self.keep(block.ids)
            if not mask.all():
                _select(owner, name, block.dims[0], _index(mask))

    # --- sizes written in the graph --------------------------------------------------------------------------------

    def rewrite(self, node: fx.Node) -> None:
        """Follows the cut in the constants of one operator call."""
        base = aten_name(node)
        rewriter = _REWRITERS.get(base)
        if rewriter is not None:
            rewriter(self, node)
        elif base in FACTORY_SHAPE_ARGUMENT:
            position = FACTORY_SHAPE_ARGUMENT[base]
            node.update_arg(position, self._new_sizes(node, node.args[position], 0))

    def _new_sizes(self, node: fx.Node, sizes: Any, first_dim: int) -> list[Any]:
        labels = self.labels(node)
        result = list(sizes)
        for i, size in enumerate(result):
            block = block_on(labels, first_dim + i)
            if block is not None and size != -1 and not self.keep(block.ids).all():
                if isinstance(size, fx.Node) and -1 in result:
                    raise UnsupportedError(f"{where(node)} computes a cut size at run time; exclude its layers")
                result[i] = -1 if isinstance(size, fx.Node) else self.count(block, first_dim + i)
        return result

    def reshape(self, node: fx.Node) -> None:
        node.update_arg(1, self._new_sizes(node, node.args[1], 0))

    def unflatten(self, node: fx.Node) -> None:
        source: Any = node.args[0]
        dim: Any = node.args[1]
        first = dim + len(source.meta["shape"]) if dim < 0 else dim
        node.update_arg(2, self._new_sizes(node, node.args[2], first))

    def pad(self, node: fx.Node) -> None:
        source: Any = node.args[0]
        amounts: Any = list(node.args[1])  # type: ignore[arg-type]
        rank = len(source.meta["shape"])
        for pair in range(len(amounts) // 2):
            block = block_on(self.labels(node), rank - 1 - pair)
            before, after = amounts[2 * pair], amounts[2 * pair + 1]
            if block is None or (before == 0 and after == 0):
                continue
            mask = self.keep(block.ids)
            amounts[2 * pair] = int(mask[:before].sum())
            amounts[2 * pair + 1] = int(mask[len(mask) - after :].sum()) if after else 0
        node.update_arg(1, amounts)
        if not any(amounts):
            node.replace_all_uses_with(node.all_input_nodes[0])

    def slice(self, node: fx.Node) -> None:
        source: Any = node.args[0]
        args = [*node.args[1:], *[0, None, None, 1][len(node.args) - 1 :]]
        dim: Any = args[0]
        dim = dim + len(source.meta["shape"]) if dim < 0 else dim
        block = block_on(self.labels(source), dim)
        if block is None or len(block.dims) > 1:
            return
        mask = self.keep(block.ids)
        start, stop, _ = slice(args[1], args[2]).indices(len(mask))
        if not mask.all():
            node.args = (source, dim, int(mask[:start].sum()), int(mask[:stop].sum()), 1)

    def split(self, node: fx.Node) -> None:
        source: Any = node.args[0]
        rank = len(source.meta["shape"])
        dim: Any = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
        dim = dim + rank if dim < 0 else dim
        parts = self.coupling.nodes.get(node.name, ())
        old = [shape[dim] for shape in node.meta["shapes"]]
        sizes = [
            self.count(block, dim) if (block := block_on(labels, dim)) is not None else size
            for labels, size in zip(parts, old, strict=True)
        ]
        node.target = torch.ops.aten.split_with_sizes.default
        node.args, node.kwargs = (source, sizes, dim), {}

    def group_norm(self, node: fx.Node) -> None:
        block = block_on(self.labels(node.args[0]), 1)
        if block is not None and len(block.dims) == 1:
            groups: Any = node.args[1]
            node.update_arg(1, int(self.keep(block.ids).reshape(groups, -1).any(axis=1).sum()))


_REWRITERS: dict[str, Callable[[_Cutter, fx.Node], None]] = {
    **dict.fromkeys(("reshape", "expand"), _Cutter.reshape),
    **dict.fromkeys(("pad", "constant_pad_nd"), _Cutter.pad),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _Cutter.split),
    "unflatten": _Cutter.unflatten,
    "slice": _Cutter.slice,
    "group_norm": _Cutter.group_norm,
}


def _index(mask: Mask) -> Tensor:
    return torch.from_numpy(np.flatnonzero(mask))


def _select(owner: nn.Module, name: str, axis: int, index: Tensor) -> None:
    """Keeps `index` of one axis of a parameter or buffer; does nothing where there is none."""
    value = getattr(owner, name, None)
    if value is None:
        return
    kept = value.detach().index_select(axis, index.to(value.device)).clone()
    if isinstance(value, nn.Parameter):
        setattr(owner, name, nn.Parameter(kept, requires_grad=value.requires_grad))
    else:
        setattr(owner, name, kept)
