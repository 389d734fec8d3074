"""What decides the time of a kernel: the key that tables of measured kernels are read by."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autocompress.core.kernel import Kernel

# What such a kernel computes is said by its op; of the others the operator decides as well.
_OP_SAYS_ALL = ("conv1d", "conv2d", "conv_transpose2d", "linear", "embedding")
# Operators that run as the same kernel; tools of other origin know only the word on the right.
_SAME = {
    "relu6": "clamp",
    "hardtanh": "clamp",
    "bmm": "matmul",
    "mm": "matmul",
    "_softmax": "softmax",
    "max_pool2d_with_indices": "max_pool2d",
    "adaptive_avg_pool2d": "mean",
    "adaptive_max_pool2d": "amax",
    "concat": "cat",
    "transpose": "permute",
    "t": "permute",
}


@dataclass(frozen=True)
class KernelKey:
    """A fused kernel without what does not change its time: where it stands, and what was folded into its weights.

    Attributes:
        op: One of `core.kernel.OPS`.
        aten: The operator, where the op alone does not say what is computed; otherwise empty.
        dtype: What it runs in.
        in_shapes: Every activation that is read, without the batch.
        out_shape: The activation that is written, without the batch.
        weight_shape: `[out, in / groups, kh, kw]`, `[out, in]`, or None.
        fused: What runs in the same kernel, in order, e.g. `("add", "relu")`.
        batch: Samples in one call.
        window: What one output of a pool looks at.
    """

    op: str
    aten: str
    dtype: str
    in_shapes: tuple[tuple[int, ...], ...]
    out_shape: tuple[int, ...]
    weight_shape: tuple[int, ...] | None = None
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    fused: tuple[str, ...] = ()
    batch: int = 1
    window: tuple[int, ...] = ()

    @staticmethod
    def of(kernel: Kernel, dtype: str, batch: int = 1) -> KernelKey:
        """The key of a kernel that runs in `dtype`, whatever the plan asked for."""
        return KernelKey(
            op=kernel.op,
            aten="" if kernel.op in _OP_SAYS_ALL else common_name(kernel.aten),
            dtype=dtype,
            in_shapes=kernel.in_shapes,
            out_shape=kernel.out_shape,
            weight_shape=kernel.weight_shape,
            window=kernel.window,
            stride=kernel.stride,
            dilation=kernel.dilation,
            groups=kernel.groups,
            fused=_unfolded(kernel.fused),
            batch=batch,
        )

    def kernel(self) -> Kernel:
        """A kernel of this key, for one sample; its layer has no name."""
        return Kernel(
            op=self.op,
            layer="",
            dtype=self.dtype,
            in_shapes=self.in_shapes,
            out_shape=self.out_shape,
            weight_shape=self.weight_shape,
            window=self.window,
            stride=self.stride,
            dilation=self.dilation,
            groups=self.groups,
            fused=self.fused,
            macs=_macs(self),
            aten=self.aten or self.op,
        )


def common_name(aten: str) -> str:
    """One name for the operators that run as the same kernel."""
    return _SAME.get(aten, aten)


def _unfolded(fused: tuple[str, ...]) -> tuple[str, ...]:
    """Without the norms that every runtime folds into the weights: those that stand right behind the layer."""
    first = next((index for index, name in enumerate(fused) if name != "batch_norm"), len(fused))
    return tuple(common_name(name) for name in fused[first:])


def _macs(key: KernelKey) -> int:
    """Multiply-accumulates of one sample; biases are not counted."""
    if key.op == "matmul":
        return math.prod(key.out_shape) * key.in_shapes[0][-1]
    if key.weight_shape is None or key.op == "embedding":
        return 0
    # A transposed convolution spreads every input, the others gather for every output.
    pixels = key.in_shapes[0] if key.op == "conv_transpose2d" else key.out_shape
    return math.prod(pixels) * math.prod(key.weight_shape[1:])
