"""The shapes of low-rank factors, without making them."""

from __future__ import annotations

import math
from typing import NamedTuple

from autocompress.core.plan import LowRank
from autocompress.core.ranks import factor_ranks, factor_weights, method_for

_Shape = tuple[int, ...]


class LayerShape(NamedTuple):
    """The sizes of one layer, or of one factor that `lowrank.factorise` would make.

    Attributes:
        op: As `Kernel.op`.
        in_shape: What it reads, with the batch; out_shape: what it writes.
        factor: The name of a factor, empty for a whole layer.
    """

    op: str
    weight_shape: _Shape
    stride: _Shape
    dilation: _Shape
    groups: int
    in_shape: _Shape
    out_shape: _Shape
    factor: str = ""

    def macs(self, batch: int) -> int:
        """Multiply-accumulates of one sample when shapes are those of `batch` samples; see `layers.layer_macs`."""
        if self.op == "linear":
            return math.prod(self.out_shape) // batch * self.weight_shape[1]
        if self.op == "embedding":
            return 0
        # A transposed convolution spreads every input, the others gather for every output.
        pixels = self.in_shape if self.op == "conv_transpose2d" else self.out_shape
        return math.prod(pixels) // batch * math.prod(self.weight_shape[1:])


def factor_shapes(layer: LayerShape, op: LowRank) -> tuple[LayerShape, ...]:
    """The factors in order; none if they would not be smaller than the layer."""
    weight = layer.weight_shape
    method = method_for(layer.op, weight, op.method)
    ranks = factor_ranks(weight, op.rank_ratio, method)
    if layer.groups != 1 or factor_weights(weight, ranks, method) >= math.prod(weight):
        return ()
    return {"svd": _svd, "tucker": _tucker, "spatial": _spatial, "cp": _cp}[method](layer, ranks)


def _svd(layer: LayerShape, ranks: _Shape) -> tuple[LayerShape, ...]:
    (rank,) = ranks
    op, (outputs, inputs) = layer.op, layer.weight_shape[:2]
    ones = (1,) * (len(layer.weight_shape) - 2)
    middle = (*layer.out_shape[:-1], rank) if op == "linear" else _with_channels(layer.out_shape, rank)
    return (
        LayerShape(op, (rank, inputs, *ones), layer.stride, layer.dilation, 1, layer.in_shape, middle, "first"),
        LayerShape(op, (outputs, rank, *ones), ones, ones, 1, middle, layer.out_shape, "second"),
    )


def _tucker(layer: LayerShape, ranks: _Shape) -> tuple[LayerShape, ...]:
    rank_in, rank_out = ranks
    op, (outputs, inputs, *window) = layer.op, layer.weight_shape
    ones = (1,) * len(window)
    before, after = _with_channels(layer.in_shape, rank_in), _with_channels(layer.out_shape, rank_out)
    return (
        LayerShape(op, (rank_in, inputs, *ones), ones, ones, 1, layer.in_shape, before, "reduce"),
        LayerShape(op, (rank_out, rank_in, *window), layer.stride, layer.dilation, 1, before, after, "core"),
        LayerShape(op, (outputs, rank_out, *ones), ones, ones, 1, after, layer.out_shape, "expand"),
    )


def _spatial(layer: LayerShape, ranks: _Shape) -> tuple[LayerShape, ...]:
    (rank,) = ranks
    op, (outputs, inputs, height, width) = layer.op, layer.weight_shape
    (sh, sw), (dh, dw) = layer.stride, layer.dilation
    between = (layer.out_shape[0], rank, layer.out_shape[2], layer.in_shape[3])
    return (
        LayerShape(op, (rank, inputs, height, 1), (sh, 1), (dh, 1), 1, layer.in_shape, between, "rows"),
        LayerShape(op, (outputs, rank, 1, width), (1, sw), (1, dw), 1, between, layer.out_shape, "columns"),
    )


def _cp(layer: LayerShape, ranks: _Shape) -> tuple[LayerShape, ...]:
    (rank,) = ranks
    op, (outputs, inputs, height, width) = layer.op, layer.weight_shape
    (sh, sw), (dh, dw) = layer.stride, layer.dilation
    before, after = _with_channels(layer.in_shape, rank), _with_channels(layer.out_shape, rank)
    between = (*after[:3], before[3])
    return (
        LayerShape(op, (rank, inputs, 1, 1), (1, 1), (1, 1), 1, layer.in_shape, before, "reduce"),
        LayerShape(op, (rank, 1, height, 1), (sh, 1), (dh, 1), rank, before, between, "rows"),
        LayerShape(op, (rank, 1, 1, width), (1, sw), (1, dw), rank, between, after, "columns"),
        LayerShape(op, (outputs, rank, 1, 1), (1, 1), (1, 1), 1, after, layer.out_shape, "expand"),
    )


def _with_channels(shape: _Shape, channels: int) -> _Shape:
    return (shape[0], channels, *shape[2:])
