"""ONNX models of one layer that is repeated, whose kernels are known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from autocompress.core.kernel import Kernel
from autocompress.targets.micro import chain

OPSET = 17
# Kernels in a row in one model; more of them drown the cost of a session's call.
CHAIN = 4


@dataclass(frozen=True)
class Link:
    """One layer that is repeated `CHAIN` times: what it is, its channels and the side of its map."""

    op: str
    channels: int
    side: int = 1
    window: int = 1
    stride: int = 1
    dtype: str = "fp32"


@dataclass(frozen=True)
class Built:
    """A layer as a model: its bytes, the kernels it consists of and an input."""

    model: bytes
    kernels: tuple[Kernel, ...]
    feeds: dict[str, NDArray[Any]]


def build(link: Link) -> Built:
    """The model of one layer: `CHAIN` kernels, each reading what the one before it wrote."""
    kernels: list[Kernel] = []
    shape: tuple[int, ...] = (link.channels,) if link.op == "linear" else (link.channels, link.side, link.side)
    for _ in range(CHAIN):
        kernels.append(_kernel(link, shape))
        shape = kernels[-1].out_shape
    network = chain(kernels, OPSET)
    return Built(network.model, tuple(kernels), {feed.name: feed.values() for feed in network.feeds})


def _kernel(link: Link, shape: tuple[int, ...]) -> Kernel:
    channels, window = link.channels, (link.window, link.window)
    if link.op == "linear":
        weight: tuple[int, ...] = (channels, channels)
        return Kernel("linear", "", link.dtype, (shape,), shape, weight, macs=channels * channels)
    if link.op in ("conv", "depthwise"):
        side = -(-shape[1] // link.stride)
        groups = channels if link.op == "depthwise" else 1
        weight = (channels, channels // groups, *window)
        macs = math.prod(weight) * side * side
        stride, out = (link.stride, link.stride), (channels, side, side)
        return Kernel("conv2d", "", link.dtype, (shape,), out, weight, stride, (1, 1), groups, (), macs)
    if link.op == "pool":
        return Kernel("pool", "", link.dtype, (shape,), shape, stride=(1, 1), aten="max_pool2d", window=window)
    return Kernel("elementwise", "", link.dtype, (shape,) * (2 if link.op == "add" else 1), shape, aten=link.op)
