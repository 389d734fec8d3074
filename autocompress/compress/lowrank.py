"""Low-rank factors: truncated SVD for linear and 1 x 1 layers; Tucker-2, spatial or CP for convolutions.

Source: Denton et al. 2014, "Exploiting Linear Structure Within Convolutional Networks" (SVD); Kim et al. 2016,
"Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications", section 3.1 (Tucker-2);
Tai et al. 2016, "Convolutional Neural Networks with Low-rank Regularization", theorem 1 (spatial);
Lebedev et al. 2015, "Speeding-up Convolutional Neural Networks Using Fine-tuned CP-Decomposition", section 3.2.
"""

from __future__ import annotations

import warnings
from typing import Any

import tensorly
import torch
from tensorly.decomposition import parafac, partial_tucker
from torch import Tensor, fx, nn

from autocompress.core.plan import LowRank
from autocompress.core.ranks import factor_ranks, factor_weights, method_for
from autocompress.graph.layers import layer_op
from autocompress.graph.lift import attach

FACTORISED_OPS = ("linear", "conv1d", "conv2d")


def factorise(module: fx.GraphModule, path: str, op: LowRank, weights: bool = True) -> tuple[str, ...]:
    """Replaces one layer by its factors, in place.

    Args:
        module: A lifted graph; the caller recompiles it.
        path: The layer.
        op: Ratio and method.
        weights: False leaves the factors at their initial values: enough to count costs.

    Returns:
        Paths of the factors in order; empty if factors would not be smaller than the layer.
    """
    layer: Any = module.get_submodule(path)
    kind = str(layer_op(layer))
    shape = tuple(layer.weight.shape)
    method = method_for(kind, shape, op.method)
    ranks = factor_ranks(shape, op.rank_ratio, method)
    if getattr(layer, "groups", 1) != 1 or factor_weights(shape, ranks, method) >= layer.weight.numel():
        return ()
    builders = {"svd": _svd, "tucker": _tucker, "spatial": _spatial, "cp": _cp}
    factors = builders[method](layer, ranks, weights)
    paths = tuple(f"{path}.{name}" for name, _ in factors)
    _replace(module, path, factors)
    return paths


def _replace(module: fx.GraphModule, path: str, factors: list[tuple[str, nn.Module]]) -> None:
    holder = nn.Module()
    attach(module, path, holder)
    for name, factor in factors:
        holder.add_module(name, factor)
    for node in [n for n in module.graph.nodes if n.op == "call_module" and n.target == path]:
        value: Any = node.args[0]
        with module.graph.inserting_before(node):
            for name, _ in factors:
                value = module.graph.call_module(f"{path}.{name}", (value,))
        node.replace_all_uses_with(value)
        module.graph.erase_node(node)


def _conv(
    layer: Any, inputs: int, outputs: int, kernel: tuple[int, ...], bias: bool, groups: int = 1, **place: Any
) -> Any:
    make: Any = type(layer)
    return make(inputs, outputs, kernel, bias=bias, groups=groups, **place)


def _placement(layer: Any) -> dict[str, Any]:
    names = ("stride", "padding", "dilation", "padding_mode")
    return {name: getattr(layer, name) for name in names}


def _copy(target: Any, weight: Tensor, bias: Tensor | None = None) -> None:
    with torch.no_grad():
        target.weight.copy_(weight.reshape(target.weight.shape))
        if bias is not None:
            target.bias.copy_(bias)


def _svd(layer: Any, ranks: tuple[int, ...], weights: bool) -> list[tuple[str, nn.Module]]:
    rank = ranks[0]
    bias = layer.bias is not None
    outputs, inputs = layer.weight.shape[:2]
    if isinstance(layer, nn.Linear):
        first: Any = nn.Linear(inputs, rank, bias=False)
        second: Any = nn.Linear(rank, outputs, bias=bias)
    else:
        first = _conv(layer, inputs, rank, (1,) * (layer.weight.dim() - 2), False, **_placement(layer))
        second = _conv(layer, rank, outputs, (1,) * (layer.weight.dim() - 2), bias)
    if weights:
        left, right = _truncated(layer.weight.detach().float().flatten(1), rank)
        _copy(first, right)
        _copy(second, left, layer.bias)
    return [("first", first), ("second", second)]


def _tucker(layer: Any, ranks: tuple[int, ...], weights: bool) -> list[tuple[str, nn.Module]]:
    rank_in, rank_out = ranks
    outputs, inputs = layer.weight.shape[:2]
    ones = (1,) * (layer.weight.dim() - 2)
    reduce = _conv(layer, inputs, rank_in, ones, False)
    core = _conv(layer, rank_in, rank_out, tuple(layer.kernel_size), False, **_placement(layer))
    expand = _conv(layer, rank_out, outputs, ones, layer.bias is not None)
    if weights:
        with tensorly.backend_context("pytorch"), warnings.catch_warnings():
            # More channels than the others times the kernel have no more directions; the library says so each time.
            warnings.filterwarnings("ignore", "Trying to compute SVD", UserWarning)
            (middle, (left, right)), _ = partial_tucker(
                layer.weight.detach().double(), rank=[rank_out, rank_in], modes=[0, 1], init="svd", n_iter_max=20
            )
        _copy(reduce, right.t().float())
        _copy(core, middle.float())
        _copy(expand, left.float(), layer.bias)
    return [("reduce", reduce), ("core", core), ("expand", expand)]


def _spatial(layer: Any, ranks: tuple[int, ...], weights: bool) -> list[tuple[str, nn.Module]]:
    """A kernel of one column, then one of one row."""
    (rank,) = ranks
    outputs, inputs, height, width = layer.weight.shape
    along_rows, along_columns = _sides(layer)
    rows = _conv(layer, inputs, rank, (height, 1), False, **along_rows)
    columns = _conv(layer, rank, outputs, (1, width), layer.bias is not None, **along_columns)
    if weights:
        unfolded = layer.weight.detach().float().permute(1, 2, 3, 0).reshape(inputs * height, width * outputs)
        left, right = _truncated(unfolded, rank)
        _copy(rows, left.t())
        _copy(columns, right.reshape(rank, width, outputs).permute(2, 0, 1), layer.bias)
    return [("rows", rows), ("columns", columns)]


def _cp(layer: Any, ranks: tuple[int, ...], weights: bool) -> list[tuple[str, nn.Module]]:
    rank = ranks[0]
    outputs, inputs, height, width = layer.weight.shape
    along_rows, along_columns = _sides(layer)
    reduce = _conv(layer, inputs, rank, (1, 1), False)
    rows = _conv(layer, rank, rank, (height, 1), False, rank, **along_rows)
    columns = _conv(layer, rank, rank, (1, width), False, rank, **along_columns)
    expand = _conv(layer, rank, outputs, (1, 1), layer.bias is not None)
    if weights:
        with tensorly.backend_context("pytorch"):
            scales, (out, into, tall, wide) = parafac(
                layer.weight.detach().double(), rank=rank, init="random", random_state=0, n_iter_max=100, tol=1e-6
            )
        _copy(reduce, into.t().float())
        _copy(rows, tall.t().float())
        _copy(columns, wide.t().float())
        _copy(expand, (out * scales).float(), layer.bias)
    return [("reduce", reduce), ("rows", rows), ("columns", columns), ("expand", expand)]


def _truncated(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The two factors closest to a matrix, `[rows, rank]` and `[rank, columns]`, singular values split evenly."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * v[:rank]


def _sides(layer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """How a 2-d layer is placed along its rows, and along its columns."""
    (sh, sw), (dh, dw) = layer.stride, layer.dilation
    ph, pw = (layer.padding, layer.padding) if isinstance(layer.padding, str) else layer.padding
    mode = layer.padding_mode
    return (
        {"stride": (sh, 1), "padding": _side(ph, 0), "dilation": (dh, 1), "padding_mode": mode},
        {"stride": (1, sw), "padding": _side(0, pw), "dilation": (1, dw), "padding_mode": mode},
    )


def _side(height: Any, width: Any) -> Any:
    return "same" if "same" in (height, width) else "valid" if "valid" in (height, width) else (height, width)
