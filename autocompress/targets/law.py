"""The law of kernel times: an additive, non-negative sum of terms that each mean something physical.

    t(network) = network + sum over kernels of
        (launch + MACs / rate(kind, width) + activation bytes / bandwidth + weight bytes / bandwidth)

Of a device that is at hand, what such a sum leaves is learnt as well (`correction`).

Every coefficient is milliseconds per unit (`TERMS`): per kernel, per million MACs, or per million bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from autocompress.core.kernel import BYTES_PER_ELEMENT, Kernel

# What one unit of each term is; a law holds one coefficient per term and dtype.
TERMS: dict[str, str] = {
    "network": "network",
    "launch": "kernel",
    "window_launch": "kernel",
    "conv3x3": "million MACs",
    "conv1x1": "million MACs",
    "conv": "million MACs",
    "conv_strided": "million MACs",
    "depthwise3x3": "million MACs",
    "depthwise": "million MACs",
    "matmul": "million MACs",
    "gather": "million window inputs",
    "unaligned": "million output pixels",
    "pool": "million outputs",
    "bytes": "million bytes",
    "conv_bytes": "million bytes",
    "conv3x3_bytes": "million bytes",
    "weights": "million bytes",
    "linear_weights": "million bytes",
    "branch_reads": "tensor",
    "mixed_reads": "tensor",
}
KINDS = (
    "conv3x3",
    "conv1x1",
    "conv",
    "conv_strided",
    "depthwise3x3",
    "depthwise",
    "linear",
    "matmul",
    "pool",
    "elementwise",
    "memory",
    "other",
)
_KIND_OF_OP = {
    "linear": "linear",
    "matmul": "matmul",
    "pool": "pool",
    "global_pool": "pool",
    "elementwise": "elementwise",
    "norm": "memory",
    "softmax": "memory",
    "resize": "memory",
    "copy": "memory",
    "embedding": "memory",
}
# Kernels below this many MACs and weights take as long as their launch; they share a spread.
SMALL_MACS = 5_000_000
FAMILIES = ("small", "depthwise", "conv3x3", "conv1x1", "large")
# How often the activations of a kernel pass through memory: a norm that takes means first reads them twice, a batch
# norm knows them. An unknown operator is assumed to be clumsy.
_PASSES = {"norm": 2.0, "softmax": 2.0, "other": 3.0}


@dataclass(frozen=True)
class Tiling:
    """The block sizes a runtime computes in: sizes are rounded up to them, so an odd width costs a whole block.

    Attributes:
        channels: Output channels of a convolution, above `narrow_channels`.
        narrow_channels: Output channels of a convolution up to this many.
        pixels: Output pixels of an implicit matrix product.
        winograd: Output rows and columns of a 3 x 3 convolution with stride 1.
        aligned: What the channels that a convolution reads and writes must be multiples of for the fast path; without
            it, each output pixel is paid for.
        least_channels: How many it must write for the fast path.
        blocked: What channels must be multiples of so that a convolution computes where its inputs lie, in blocks, and
            gathers none of them; 1 where all gather, but those of one channel each.
        converted: Of `KINDS` those that compute in fp32 where fp16 is asked for, so that what they read and write is
            converted.
    """

    channels: int = 1
    narrow_channels: int = 1
    pixels: int = 1
    winograd: tuple[int, int] = (1, 1)
    aligned: int = 1
    least_channels: int = 1
    blocked: int = 1
    converted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Range:
    """The shapes a kind was fitted on, as `(lowest, highest)` of each."""

    in_channels: tuple[int, int]
    out_channels: tuple[int, int]
    pixels: tuple[int, int]

    def outside(self, sizes: tuple[int, int, int]) -> str | None:
        """The first of `(input channels, output channels, output pixels)` that was never fitted, in words, or None."""
        names = ("input channels", "output channels", "output pixels")
        spans = (self.in_channels, self.out_channels, self.pixels)
        for what, size, (low, high) in zip(names, sizes, spans, strict=True):
            if not low <= size <= high:
                return f"{size} {what}, fitted on {low}-{high}"
        return None


@dataclass(frozen=True)
class Spread:
    """The 80 % interval of measured / predicted time: `low <= 1 <= high`."""

    low: float
    high: float

    def widened(self, factor: float) -> Spread:
        """The same interval with its logarithms stretched by `factor`."""
        return Spread(round(self.low**factor, 4), round(self.high**factor, 4))


class Factor(Protocol):
    """What times by the terms are multiplied by."""

    def factor(self, kernel: Kernel, dtype: str) -> float:
        """That of one kernel that computes in `dtype`; positive."""


@dataclass(frozen=True)
class Law:
    """One dtype's coefficients with the ranges and spreads they were fitted with.

    Attributes:
        coefficients: Milliseconds per unit of each of `TERMS`.
        ranges: By kind; a kind without a range was never measured and its estimate is analytic.
        spreads: By family (`family_of`), from residuals of rows that were held out.
        correction: What was learnt beside the terms, or None.
    """

    coefficients: Mapping[str, float]
    tiling: Tiling
    ranges: Mapping[str, Range]
    spreads: Mapping[str, Spread]
    correction: Factor | None = None

    def kernel_ms(self, kernel: Kernel, dtype: str) -> float:
        """The time of one kernel that computes in `dtype`; never zero."""
        amounts = terms_of(kernel, dtype, self.tiling)
        ms = sum(self.coefficients[term] * amount for term, amount in amounts.items())
        return ms if self.correction is None else ms * self.correction.factor(kernel, dtype)


def kind_of(kernel: Kernel) -> str:
    """Which of `KINDS` a kernel is."""
    if not kernel.op.startswith("conv") or kernel.weight_shape is None:
        return _KIND_OF_OP.get(kernel.op, "other")
    window = kernel.weight_shape[2:]
    strided = any(step > 1 for step in kernel.stride)
    if kernel.is_depthwise:
        return "depthwise3x3" if window == (3, 3) else "depthwise"
    if math.prod(window) == 1:
        return "conv1x1"
    if strided or kernel.op == "conv_transpose2d":
        return "conv_strided"
    return "conv3x3" if window == (3, 3) and set(kernel.dilation) <= {1} and kernel.groups == 1 else "conv"


def terms_of(kernel: Kernel, dtype: str, tiling: Tiling) -> dict[str, float]:
    """How many units of each term one kernel takes: the row of the linear system that a law is fitted with."""
    terms = (_converted if is_converted(kernel, dtype, tiling) else _terms_of)(kernel, dtype, tiling)
    counts = {"branch_reads": float(kernel.branch_reads), "mixed_reads": float(kernel.mixed_reads)}
    return {**terms, **{term: count for term, count in counts.items() if count}}


def is_converted(kernel: Kernel, dtype: str, tiling: Tiling) -> bool:
    """True for a kernel that computes in fp32 between conversions although `dtype` is asked for."""
    return dtype == "fp16" and kind_of(kernel) in tiling.converted


def _converted(kernel: Kernel, dtype: str, tiling: Tiling) -> dict[str, float]:
    """The terms of a kernel in fp32, and of a kernel for each tensor it reads and writes that converts it."""
    terms = _terms_of(kernel, "fp32", tiling)
    both = (BYTES_PER_ELEMENT[dtype] + BYTES_PER_ELEMENT["fp32"]) * 1e-6
    passes = {"launch": 1.0 + len(kernel.in_shapes), "bytes": (kernel.in_elements + kernel.out_elements) * both}
    return {**terms, **{term: terms.get(term, 0.0) + amount for term, amount in passes.items()}}


def _terms_of(kernel: Kernel, dtype: str, tiling: Tiling) -> dict[str, float]:
    kind = kind_of(kernel)
    size = BYTES_PER_ELEMENT[dtype] * 1e-6
    moved = (kernel.in_elements + kernel.out_elements) * size
    weights = kernel.weight_elements * size
    macs = kernel.macs * 1e-6
    if kind == "linear":
        outputs = (kernel.weight_shape or kernel.out_shape)[0]
        rows = max(1, kernel.out_elements // outputs)
        streamed = weights * _round_up(outputs, tiling.narrow_channels) / outputs
        terms = {"launch": 1.0, "bytes": moved, "linear_weights": streamed}
        return terms if rows == 1 else {**terms, "matmul": macs}
    if kind == "matmul":
        return {"launch": 1.0, "bytes": moved, "matmul": macs}
    if kind.startswith("depthwise"):
        terms = {"launch": 1.0, "window_launch": 1.0, "bytes": moved, "weights": weights, kind: macs}
        return terms if is_blocked(kernel, tiling) else {**terms, "gather": macs}
    if kind.startswith("conv"):
        traffic = "conv3x3_bytes" if kind == "conv3x3" else "conv_bytes"
        terms = {"launch": 1.0, "window_launch": 1.0, traffic: moved, "weights": weights}
        if kind != "conv1x1" and not (tiling.blocked > 1 and is_blocked(kernel, tiling)):
            terms["gather"] = macs * kernel.groups / sizes_of(kernel)[1]
        if not is_aligned(kernel, tiling):
            terms["unaligned"] = sizes_of(kernel)[2] * kernel.groups * 1e-6
        return {**terms, kind: macs * padding(kernel, tiling)}
    if kind == "pool":
        return {"launch": 1.0, "window_launch": 1.0, "bytes": moved, "pool": kernel.out_elements * 1e-6}
    passes = 1.0 if kernel.aten == "batch_norm" else _PASSES.get(kernel.op if kind != "other" else "other", 1.0)
    return {"launch": 1.0, "bytes": (moved + weights) * passes}


def padding(kernel: Kernel, tiling: Tiling) -> float:
    """How much a convolution grows when its sizes are rounded up to the runtime's blocks; at least 1."""
    outputs = max(1, sizes_of(kernel)[1] // kernel.groups)
    channels = tiling.narrow_channels if outputs <= tiling.narrow_channels else tiling.channels
    wide = _round_up(outputs, channels) / outputs
    spatial = kernel.out_shape[1:]
    pixels = max(1, math.prod(spatial))
    if kind_of(kernel) == "conv3x3":
        rows, columns = (_round_up(side, block) for side, block in zip(spatial, tiling.winograd, strict=True))
        return wide * rows * columns / pixels
    return wide * _round_up(pixels, tiling.pixels) / pixels


def is_aligned(kernel: Kernel, tiling: Tiling) -> bool:
    """True for a convolution that a runtime's fast path takes: enough channels, in multiples of its vectors."""
    inputs, outputs, _ = sizes_of(kernel)
    whole = all(size // kernel.groups % tiling.aligned == 0 for size in (inputs, outputs))
    return whole and outputs // kernel.groups >= tiling.least_channels


def is_blocked(kernel: Kernel, tiling: Tiling) -> bool:
    """True for a convolution that computes on blocks of channels where they lie.

    Source: the conditions of ONNX Runtime's `NchwcTransformer`; few channels are read as they are.
    """
    inputs, outputs, _ = sizes_of(kernel)
    if kernel.is_depthwise:
        return outputs % tiling.blocked == 0
    if kernel.groups > 1:
        return inputs % tiling.channels == 0 and outputs // kernel.groups % tiling.channels == 0
    return inputs < tiling.narrow_channels or inputs % tiling.blocked == 0


def family_of(kernel: Kernel) -> str:
    """Which spread belongs to a kernel: `small` is dominated by its launch, the others by what they compute."""
    kind = kind_of(kernel)
    if kernel.macs < SMALL_MACS and kernel.weight_elements < SMALL_MACS:
        return "small"
    if kind.startswith("depthwise"):
        return "depthwise"
    return kind if kind in ("conv3x3", "conv1x1") else "large"


def sizes_of(kernel: Kernel) -> tuple[int, int, int]:
    """`(input channels, output channels, output pixels)`: what a law's ranges are stated in."""
    if kernel.weight_shape is not None and not kernel.is_depthwise:
        outputs, inputs = kernel.weight_shape[0], kernel.weight_shape[1] * kernel.groups
        if kernel.op == "conv_transpose2d":
            inputs, outputs = kernel.weight_shape[0], kernel.weight_shape[1] * kernel.groups
    else:
        inputs = kernel.in_shapes[0][0] if kernel.in_shapes and kernel.in_shapes[0] else 1
        outputs = kernel.out_shape[0] if kernel.out_shape else 1
    return inputs, outputs, max(1, kernel.out_elements // max(1, outputs))


def _round_up(size: int, block: int) -> int:
    return -(-size // block) * block
