"""Small ONNX models whose kernels are known, to calibrate the law of a machine with ONNX Runtime."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from autocompress.core.kernel import Kernel

OPSET = 17
SCALE, ZERO = 0.05, 128
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
    """The model of one probe; int8 ones read and write uint8, with a QDQ pair around each op."""
    shapes = [_input_shape(probe)]
    kernels: list[Kernel] = []
    graph = _Graph(probe.dtype == "int8")
    value = graph.enter("x")
    for index in range(CHAIN):
        kernel = _kernel(probe, shapes[-1])
        value = graph.leave(_node(graph, probe, kernel, value, f"v{index}"), last=index == CHAIN - 1)
        kernels.append(kernel)
        shapes.append(kernel.out_shape)
    element = TensorProto.UINT8 if graph.quantized else TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info("x", element, (1, *shapes[0]))]
    outputs = [helper.make_tensor_value_info(value, element, (1, *shapes[-1]))]
    proto = helper.make_graph(graph.nodes, "probe", inputs, outputs, graph.constants)
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    noise = np.random.default_rng(0).random((1, *shapes[0]), dtype=np.float32)
    feed = (noise * 255).astype(np.uint8) if graph.quantized else noise
    return Built(model.SerializeToString(), tuple(kernels), {"x": feed})


class _Graph:
    """Collects nodes and constants, and wraps activations and weights in QDQ pairs when quantized."""

    def __init__(self, quantized: bool) -> None:
        self.quantized = quantized
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        if quantized:
            self.constant("scale", np.array(SCALE, np.float32))
            self.constant("zero", np.array(ZERO, np.uint8))
            self.constant("weight_zero", np.array(0, np.int8))

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def enter(self, name: str) -> str:
        return self.node("DequantizeLinear", [name, "scale", "zero"], f"{name}_f") if self.quantized else name

    def leave(self, name: str, last: bool) -> str:
        if not self.quantized:
            return name
        quantized = self.node("QuantizeLinear", [name, "scale", "zero"], f"{name}_q")
        return quantized if last else self.enter(quantized)

    def weight(self, name: str, shape: tuple[int, ...]) -> str:
        rng = np.random.default_rng(0)
        if not self.quantized:
            return self.constant(name, (rng.standard_normal(shape) / math.prod(shape[1:])).astype(np.float32))
        stored = self.constant(f"{name}_q", rng.integers(-127, 128, shape, dtype=np.int8))
        return self.node("DequantizeLinear", [stored, "scale", "weight_zero"], name)


def _input_shape(probe: Probe) -> tuple[int, ...]:
    return (probe.channels,) if probe.op == "linear" else (probe.channels, probe.side, probe.side)


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
    op = "pool" if probe.op == "pool" else "elementwise"
    return Kernel(op, "", probe.dtype, (shape,) * (2 if probe.op == "add" else 1), shape)


def _node(graph: _Graph, probe: Probe, kernel: Kernel, value: str, output: str) -> str:
    if kernel.weight_shape is not None:
        weight = graph.weight(f"{output}_w", kernel.weight_shape)
        if probe.op == "linear":
            return graph.node("Gemm", [value, weight], output, transB=1)
        pads, strides = [probe.window // 2] * 4, [probe.stride] * 2
        return graph.node("Conv", [value, weight], output, pads=pads, strides=strides, group=kernel.groups)
    if probe.op == "pool":
        return graph.node("MaxPool", [value], output, kernel_shape=[3, 3], pads=[1] * 4)
    return graph.node("Add", [value, value], output) if probe.op == "add" else graph.node("Relu", [value], output)
