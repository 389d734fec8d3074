"""A small ONNX graph under construction: floats, or 8-bit codes behind QuantizeLinear / DequantizeLinear pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from autocompress.core.kernel import Kernel
from autocompress.errors import UnsupportedError

# One step of the codes; 255 of them stay below 6, so that a runtime has nothing left to clip.
STEP = 0.02
# The code of 0.0: values that are never negative use all codes above it.
MIDDLE, LOWEST = 128, 0
# Weights repeat after this many values: no time depends on them, and a pattern compresses on its way to a device.
_PATTERN = 4093
_ELEMENTS = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "int64": TensorProto.INT64}


@dataclass(frozen=True)
class Feed:
    """An input of a network: its shape with the batch, its element type, and the bound that integers stay below."""

    name: str
    shape: tuple[int, ...]
    element: str
    below: int = 256

    def values(self) -> NDArray[Any]:
        """The same input every time: floats around 1, or integers from 0 to `below` - 1."""
        random = np.random.default_rng(0)
        if self.element == "float32":
            return random.random(self.shape, np.float32) + np.float32(0.5)
        return random.integers(0, self.below, self.shape).astype(self.element)


class Draft:
    """Collects nodes, constants and inputs; where it is quantized, `rounded` puts a pair behind a value."""

    def __init__(self, opset: int, quantized: bool) -> None:
        self.opset = opset
        self.quantized = quantized
        self.feeds: list[Feed] = []
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], onnx.TensorProto] = {}
        self._weights: list[onnx.TensorProto] = []
        self._codes: dict[str, tuple[str, tuple[str, str]]] = {}
        self._random = np.random.default_rng(0)

    def constant(self, value: NDArray[Any]) -> str:
        """The name of an initializer; equal ones are stored once."""
        key = (str(value.dtype), value.shape, value.tobytes())
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(value, f"c{len(self._constants)}")
        return str(self._constants[key].name)

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Appends a node and returns the name of its first output."""
        output = f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def feed(self, shape: tuple[int, ...], below: int | None = None) -> str:
        """Adds an input and returns its value: floats, floats behind codes, or with `below` indices."""
        element = "int64" if below is not None else "uint8" if self.quantized else "float32"
        self.feeds.append(Feed(f"x{len(self.feeds)}", shape, element, below or 256))
        name = self.feeds[-1].name
        return self._dequantized(name, self._grid(MIDDLE)) if element == "uint8" else name

    def rounded(self, value: str, zero: int = MIDDLE) -> str:
        """The value behind a quantize / dequantize pair, as every value of a quantized graph is stored.

        Args:
            value: Floats.
            zero: The code of 0.0, `MIDDLE` or `LOWEST`.
        """
        if not self.quantized:
            return value
        grid = self._grid(zero)
        return self._dequantized(self.node("QuantizeLinear", value, *grid), grid)

    def codes(self, value: str) -> str:
        """The codes of a rounded value."""
        return self._codes[value][0]

    def from_codes(self, codes: str, like: str) -> str:
        """The value of codes that were moved from those of another value."""
        return self._dequantized(codes, self._codes[like][1])

    def weight(self, shape: tuple[int, ...], axis: int = 0) -> str:
        """A weight of its own for each call; in a quantized graph int8 with a scale for every index along `axis`."""
        values = np.resize(self._random.standard_normal(_PATTERN), shape)
        if not self.quantized:
            return self._stored(values / (math.prod(shape) / shape[axis]), np.float32)
        codes = self._stored(np.clip(values * 40, -127, 127), np.int8)
        scales = self.constant(np.full(shape[axis], STEP / math.prod(shape), np.float32))
        return self.node("DequantizeLinear", codes, scales, self.constant(np.zeros(shape[axis], np.int8)), axis=axis)

    def bias(self, count: int, as_integers: bool = False) -> str:
        """A bias, `[count]`; as int32 codes where a quantized graph needs it for an integer kernel."""
        if not (self.quantized and as_integers):
            # Around 1, so that no product becomes so small that processors take longer for it.
            return self._stored(self._random.standard_normal(count) * 0.1 + 1.0, np.float32)
        codes = self._stored(self._random.integers(-99, 100, count), np.int32)
        scales = self.constant(np.full(count, STEP, np.float32))
        return self.node("DequantizeLinear", codes, scales, self.constant(np.zeros(count, np.int32)), axis=0)

    def model(self, value: str, shape: tuple[int, ...]) -> bytes:
        """The network that ends in `value`, of this shape with the batch; codes stay codes."""
        output = self._codes[value][0] if self.quantized else value
        element = TensorProto.UINT8 if self.quantized else TensorProto.FLOAT
        inputs = [helper.make_tensor_value_info(f.name, _ELEMENTS[f.element], f.shape) for f in self.feeds]
        outputs = [helper.make_tensor_value_info(output, element, shape)]
        tensors = [*self._constants.values(), *self._weights]
        graph = helper.make_graph(self._nodes, "micro", inputs, outputs, tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())

    def _stored(self, values: NDArray[Any], kind: type[np.generic]) -> str:
        self._weights.append(numpy_helper.from_array(values.astype(kind), f"w{len(self._weights)}"))
        return str(self._weights[-1].name)

    def _grid(self, zero: int) -> tuple[str, str]:
        return self.constant(np.array(STEP, np.float32)), self.constant(np.array(zero, np.uint8))

    def _dequantized(self, codes: str, grid: tuple[str, str]) -> str:
        value = self.node("DequantizeLinear", codes, *grid)
        self._codes[value] = (codes, grid)
        return value


def unsupported(kernel: Kernel, reason: str) -> UnsupportedError:
    """The error for a kernel that cannot be built."""
    shapes = " + ".join("x".join(map(str, shape)) for shape in kernel.in_shapes) or "nothing"
    what = f"{kernel.op} ({kernel.aten})" if kernel.aten not in ("", kernel.op) else kernel.op
    output = "x".join(map(str, kernel.out_shape))
    return UnsupportedError(f"{what} from {shapes} to {output} cannot be measured by itself: {reason}")
