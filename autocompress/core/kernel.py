"""One kernel as a runtime would launch it: the key that latency tables are read by."""

from __future__ import annotations

from dataclasses import dataclass

DTYPES = ("fp32", "fp16", "int8")
OPS = (
    "conv1d",
    "conv2d",
    "conv_transpose2d",
    "linear",
    "matmul",
    "pool",
    "global_pool",
    "norm",
    "softmax",
    "elementwise",
    "resize",
    "copy",
    "embedding",
    "other",
)
BYTES_PER_ELEMENT = {"fp32": 4, "fp16": 2, "int8": 1}


@dataclass(frozen=True)
class Kernel:
    """A fused kernel for one sample (batch 1).

    Attributes:
        op: `conv1d`, `conv2d`, `conv_transpose2d`, `linear`, `matmul`, `pool`, `global_pool`, `norm`, `softmax`,
            `elementwise`, `resize`, `copy` (pad, slice, concat, transpose), `embedding`, or `other` for an operator
            that nothing is known of.
        layer: Module path, or the operator's name where no module owns it.
        dtype: What it computes in: `fp32`, `fp16` or `int8`.
        in_shapes: Every activation that is read, without the batch, e.g. `((16, 32, 32),)`.
        out_shape: The activation that is written, without the batch.
        weight_shape: `[out, in / groups, kh, kw]`, `[out, in]`, or None.
        fused: What was folded into it, in order, e.g. `("batch_norm", "relu", "add")`.
        macs: Multiply-accumulates.
        aten: The operator it stands for, e.g. `gelu` of an `elementwise`, `batch_norm` of a `norm`.
        window: What one output of a pool looks at, e.g. `(3, 3)`; `stride` holds its steps.
        branch_reads: How many of its inputs lie inside a branch: another path to the output passes them by.
        mixed_reads: 1 for a convolution that reads what one of another window reads before it, 0 for others.
        sources: What wrote its inputs, each once: the op of a kernel, with `int8` if it computes in that, e.g.
            `conv2d int8`, or `input`.
    """

    op: str
    layer: str
    dtype: str
    in_shapes: tuple[tuple[int, ...], ...]
    out_shape: tuple[int, ...]
    weight_shape: tuple[int, ...] | None = None
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    fused: tuple[str, ...] = ()
    macs: int = 0
    aten: str = ""
    window: tuple[int, ...] = ()
    branch_reads: int = 0
    mixed_reads: int = 0
    sources: tuple[str, ...] = ()

    @property
    def in_elements(self) -> int:
        """Activations read."""
        return sum(_product(shape) for shape in self.in_shapes)

    @property
    def out_elements(self) -> int:
        """Activations written."""
        return _product(self.out_shape)

    @property
    def weight_elements(self) -> int:
        """Weights read, without biases."""
        return _product(self.weight_shape) if self.weight_shape is not None else 0

    @property
    def is_depthwise(self) -> bool:
        """True for a convolution with one input channel per group and more than one group."""
        return self.op.startswith("conv") and self.groups > 1 and (self.weight_shape or (0, 0))[1] == 1


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result
