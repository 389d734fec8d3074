"""Small ONNX models whose kernels are known, to calibrate the law of a machine with ONNX Runtime."""

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
class Probe:
    """One layer that is repeated `CHAIN` times: what it is, its channels and the side of its map."""

    op: str
    channels: int
    side: int = 1
    window: int = 1
    stride: int = 1
    dtype: str = "fp32"


@dataclass(frozen=True)
class Built:
    """A probe as a model: its bytes, the kernels it consists of and an input."""

    model: bytes
    kernels: tuple[Kernel, ...]
    feeds: dict[str, NDArray[Any]]


def probes(dtype: str) -> list[Probe]:
    """About 25 probes of one dtype that span the shapes of small networks."""
    shapes = [
        *(("conv", channels, side, 3, 1) for channels in (8, 16, 32, 64, 128) for side in (8, 32)),
        *(("conv", channels, 16, 3, 1) for channels in (4, 12, 14, 20, 24, 30, 48)),
        *(("conv", channels, 16, 1, 1) for channels in (16, 22, 64, 128, 256)),
        *(("conv", channels, 16, 5, 1) for channels in (16, 64)),
        *(("conv", channels, 64, 3, 2) for channels in (16, 64)),
        *(("depthwise", channels, side, 3, 1) for channels, side in ((16, 32), (64, 16), (128, 32))),
        ("depthwise", 64, 16, 5, 1),
        *(("linear", channels, 1, 1, 1) for channels in (64, 512, 1024)),
        *(("add", channels, 32, 1, 1) for channels in (4, 64, 256)),
        *(("pool", channels, 32, 3, 1) for channels in (16, 64)),
    ]
    if dtype == "fp32":
        shapes += [("relu", channels, 32, 1, 1) for channels in (1, 64, 256)]
    return [Probe(*shape, dtype=dtype) for shape in shapes]


def build(probe: Probe) -> Built:
    """The model of one probe: `CHAIN` kernels, each reading what the one before it wrote."""
    kernels: list[Kernel] = []
    shape: tuple[int, ...] = (probe.channels,) if probe.op == "linear" else (probe.channels, probe.side, probe.side)
    for _ in range(CHAIN):
        kernels.append(_kernel(probe, shape))
        shape = kernels[-1].out_shape
    network = chain(kernels, OPSET)
    return Built(network.model, tuple(kernels), {feed.name: feed.values() for feed in network.feeds})


def _kernel(probe: Probe, shape: tuple[int, ...]) -> Kernel:
    channels, window = probe.channels, (probe.window, probe.window)
    if probe.op == "linear":
        weight: tuple[int, ...] = (channels, channels)
        return Kernel("linear", "", probe.dtype, (shape,), shape, weight, macs=channels * channels)
    if probe.op in ("conv", "depthwise"):
        side = -(-shape[1] // probe.stride)
        groups = channels if probe.op == "depthwise" else 1
        weight = (channels, channels // groups, *window)
        macs = math.prod(weight) * side * side
        stride, out = (probe.stride, probe.stride), (channels, side, side)
        return Kernel("conv2d", "", probe.dtype, (shape,), out, weight, stride, (1, 1), groups, (), macs)
    if probe.op == "pool":
        return Kernel("pool", "", probe.dtype, (shape,), shape, stride=(1, 1), aten="max_pool2d", window=window)
    return Kernel("elementwise", "", probe.dtype, (shape,) * (2 if probe.op == "add" else 1), shape, aten=probe.op)
